"""A new condition for a one-step student, learned by consistency in the space of its noise; conditions read from samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.parts import PseudoHuber, drop_labels, normal
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.paths import per_sample
from workbench.samplers.sample import Sampling


def half_plane(x: Tensor) -> Tensor:
    """CONDITION for points (n, d): on which side of 0 the first number is, 1 or -1, (n, 1)."""
    if x.dim() != 2:
        raise WorkbenchError(
            f"the condition half-plane is read from points (n, d), not from samples {tuple(x.shape)}: use edges."
        )
    return torch.where(x[:, :1] > 0, 1.0, -1.0).to(x)


def edges(x: Tensor) -> Tensor:
    """CONDITION for images (n, c, h, w): how far a pixel is from the next to the right and below, the root mean square, (n, 1, h, w)."""
    _images("edges", x)
    right = F.pad(x.diff(dim=3), (0, 1)).square()
    below = F.pad(x.diff(dim=2), (0, 0, 0, 1)).square()
    return (right + below).mean(1, keepdim=True).sqrt()


def low_resolution(x: Tensor, factor: int = 2) -> Tensor:
    """CONDITION for images (n, c, h, w): the means of blocks of factor x factor pixels, (n, c, h / factor, w / factor)."""
    _images("low-resolution", x)
    if x.shape[2] % factor or x.shape[3] % factor:
        raise WorkbenchError(f"images of {x.shape[2]} x {x.shape[3]} pixels have no blocks of {factor}: take a divisor.")
    return F.avg_pool2d(x, factor)


def _images(name: str, x: Tensor) -> None:
    if x.dim() != 4:
        raise WorkbenchError(
            f"the condition {name} is read from images (n, c, h, w), not from samples {tuple(x.shape)}: use half-plane."
        )


CONDITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "half-plane": half_plane, "edges": edges, "low-resolution": low_resolution,
}  # fmt: skip


def read(condition: Any, x: Tensor) -> Tensor:
    """The conditions (n, ...) of samples (n, ...), by name or by a function; None is half-plane for points and edges for images.

    Raises:
        WorkbenchError: for an unknown name, or a function that returns no tensor of n finite conditions; it is named.
    """
    if condition is None:
        condition = "half-plane" if x.dim() == 2 else "edges"
    if isinstance(condition, str) and condition not in CONDITIONS:
        raise unknown("condition", condition, CONDITIONS)
    if not callable(condition := CONDITIONS.get(condition, condition) if isinstance(condition, str) else condition):
        raise WorkbenchError(
            f"condition is {condition!r}, but must be a function of samples (n, ...) that returns (n, ...), or one of {', '.join(CONDITIONS)}."
        )
    name = getattr(condition, "__name__", type(condition).__name__)
    with torch.no_grad():
        made = condition(x)
    if not isinstance(made, Tensor) or made.dim() < 2 or len(made) != len(x):
        given = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
        raise WorkbenchError(f"the condition {name} gave {given} for {len(x)} samples, but must give ({len(x)}, ...).")
    if not bool(torch.isfinite(made).all()):
        raise WorkbenchError(f"the condition {name} gave NaN or infinite values: it must be finite for every sample.")
    return made


@dataclass(frozen=True)
class NoiseConsistency:
    """Noise consistency training (NCT, arXiv 2506.19741): an adapter beside a frozen one-step student G learns to obey a condition.

    z ~ N(0, I), x = G(z), c read from x; z_k = sqrt(1 - s_k^2) z + s_k e, s_k = k / levels, is again normal, and less and less
    bound to c. With the adapter

        min  L_con = d(G(z_k, c), sg G(z_{k-1}, c))  subject to  L_bound = d(G(z, c), x) <= tolerance,

    by primal and dual steps: the adapter descends L_con + lam L_bound, and lam <- max(0, lam + rate (L_bound - tolerance)). Where
    both hold, independent (z, c) are mapped to p(x) p(c | x). Neither data nor the teacher is asked. Without a hint the student
    remains G. Distance, tolerance, rate and the number of levels are not published; those here are ours.

    Attributes:
        condition: "half-plane", "edges", "low-resolution", or a function of samples (n, ...) that returns (n, ...); by default the
            first for points and the second for images. levels: of the noise, at least 2. start: of lam.
    """

    condition: Any = None
    levels: int = 8
    tolerance: float = 0.05
    rate: float = 0.1
    start: float = 1.0
    metric: Any = field(default_factory=PseudoHuber)
    guidance: float | None = None
    dropout: float = 0.1

    needs_data = False
    adapts = True
    hint_only = True  # of the student's parameters, those that read the hint alone are trained
    sampling = Sampling("consistency", 1)

    def __post_init__(self):
        check_count("levels", self.levels, 2, 1000)
        for name in ("tolerance", "rate", "start"):
            if not getattr(self, name) >= 0:
                raise WorkbenchError(f"{name} is {getattr(self, name)!r}, but must be a number from 0.")

    def hint(self, x: Tensor) -> Tensor:
        """The condition of samples."""
        return read(self.condition, x)

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why it cannot be trained."""
        try:
            self.hint(torch.zeros(1, *teacher.shape))
        except WorkbenchError as error:
            return [str(error).rstrip(".")]
        return []

    def bind(self, teacher: Denoiser, student: Network) -> BoundNoiseConsistency:
        """The objective for this student."""
        return BoundNoiseConsistency(self, student)


class Multiplier(nn.Module):
    """lam of the constrained problem, kept with the networks."""

    def __init__(self, start: float):
        super().__init__()
        self.register_buffer("value", torch.tensor(float(start)))

    @torch.no_grad()
    def step(self, excess: Tensor, rate: float) -> None:
        """Towards where the constraint holds."""
        self.value.copy_((self.value + rate * excess).clamp_min(0))


class BoundNoiseConsistency:
    """A `NoiseConsistency` with its student: what the loop trains."""

    product = "student"

    def __init__(self, switches: NoiseConsistency, student: Network):
        self.switches, self.student = switches, student
        self.players: dict[str, nn.Module] = {"student": student.net}
        self.multiplier = Multiplier(switches.start)
        self.frozen = {"multiplier": self.multiplier}
        self.excess: Tensor | None = None

    def turn(self, step: int) -> Sequence[str]:
        """The adapter, always."""
        return ("student",)

    def answer(self, z: Tensor, cond: Tensor | None, hint: Tensor | None = None) -> Tensor:
        """G(z), or with the adapter G(z, hint)."""
        return self.student(self.student.path.sigma(1.0) * z, 1.0, cond, hint=hint)

    def noised(self, z: Tensor, e: Tensor, k: Tensor) -> Tensor:
        """z_k for levels k (n,); level 0 is z itself."""
        s = (k.double() / self.switches.levels).clamp(0, 1)
        return per_sample((1 - s**2).sqrt(), z) * z + per_sample(s, z) * e

    def consistency(self, z: Tensor, e: Tensor, cond: Tensor | None, hint: Tensor, k: Tensor) -> Tensor:
        """d(G(z_k, c), sg G(z_{k-1}, c)) of each sample; 0 at level 0, where both are G(z, c)."""
        with torch.no_grad():
            nearer = self.answer(self.noised(z, e, (k - 1).clamp_min(0)), cond, hint)
        return self.switches.metric(self.answer(self.noised(z, e, k), cond, hint), nearer)

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """L_con + lam L_bound."""
        n, student = batch.size, self.student
        cond = None
        if student.classes:
            cond = torch.randint(student.classes, (n,), generator=rng, device=rng.device)
            cond = drop_labels(cond, self.switches.dropout, rng)
        z, e = normal((n, *student.shape), rng), normal((n, *student.shape), rng)
        with torch.no_grad():
            x = self.answer(z, cond)
        hint = self.switches.hint(x)
        k = torch.randint(1, self.switches.levels + 1, (n,), generator=rng, device=rng.device)
        consistency = self.consistency(z, e, cond, hint, k).mean()
        bound = self.switches.metric(self.answer(z, cond, hint), x).mean()
        self.excess = bound.detach() - self.switches.tolerance
        lam = self.multiplier.value.detach().clone()
        return consistency + lam * bound, {"consistency": consistency.detach(), "boundary": bound.detach(), "lam": lam}

    def after(self, progress: float) -> None:
        """The dual step."""
        if self.excess is not None:
            self.multiplier.step(self.excess, self.switches.rate)
