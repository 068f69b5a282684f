"""EXTRAS: further losses of a pointwise recipe. Each part has `bind(bound)`; what is bound has `players`, `turn(step)`,
`loss(player, batch, rng)` for them, and `term(point, prediction, batch, rng) -> (loss, parts)` for the student.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.denoiser import Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.divergences import binned, gaps
from workbench.distill.objectives.flow_matching import logit_normal
from workbench.distill.objectives.maps import ask, jump, tau_of, velocity
from workbench.distill.objectives.parts import drop_labels, normal
from workbench.distill.objectives.starts import uniform_labels
from workbench.distill.objectives.targets import Point
from workbench.errors import WorkbenchError
from workbench.paths import per_sample


class Extra:
    """An extra without players of its own; a `balanced` one finds the main loss' pull on the prediction in `pull`."""

    players: tuple[str, ...] = ()
    balanced = False
    pull: Tensor

    def __init__(self, switches: Any, bound: Any):
        self.switches, self.bound = switches, bound

    def turn(self, step: int) -> Sequence[str]:
        """Nobody."""
        return ()


@dataclass(frozen=True)
class Anchor:
    """Denoising score matching of the student's own estimate at s = t: weight mean |(x0 - X(x_t, t, t)) / tau|^2 (CTM, arXiv 2310.02279, eq. 8)."""

    weight: float = 1.0

    def bind(self, bound: Any) -> Extra:
        """This term for an objective."""
        return _BoundAnchor(self, bound)


class _BoundAnchor(Extra):
    def term(self, point: Point, prediction: Tensor, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if point.x0 is None:
            raise WorkbenchError("the denoising anchor compares with the data that were noised: start from data or pairs.")
        student = self.bound.student
        error = (ask(student, point.x, point.t, point.cond, point.t) - point.x0) / per_sample(
            tau_of(student.path, point.t), point.x
        )
        value = self.switches.weight * error.square().mean()
        return value, {"anchor": value.detach()}


@dataclass(frozen=True)
class Dispersive:
    """Spread the network's inner features: weight log mean_{i != j} exp(-|h_i - h_j|^2 / (tau width)) (DM1, arXiv 2510.07865).

    The formula that the paper states; its released code applies another, with all but vanishing gradient. The term has no lower bound
    where a layer norm follows the features: they grow until the clipped gradient is the term's alone.

    Attributes:
        unit: each sample's features are first brought to mean square 1, which bounds the term.
    """

    weight: float = 0.5
    tau: float = 0.5
    unit: bool = False

    def bind(self, bound: Any) -> Extra:
        """This term for an objective."""
        return _BoundDispersive(self, bound)


class _BoundDispersive(Extra):
    def term(self, point: Point, prediction: Tensor, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        student = self.bound.student
        second = (point.s.to(point.x),) if student.two_times else ()
        h, _ = student.net.features(point.x, point.t.to(point.x), point.cond, *second, **student.inputs(point.x))
        h = h.flatten(1)
        if self.switches.unit:
            h = h / h.square().mean(1, keepdim=True).sqrt()
        distance = torch.cdist(h, h).square() / (self.switches.tau * h.shape[1])
        apart = ~torch.eye(len(h), dtype=torch.bool, device=h.device)
        value = torch.logsumexp(-distance[apart], 0) - torch.log(apart.sum().to(h))
        return self.switches.weight * value, {"dispersive": value.detach()}


@dataclass(frozen=True)
class TwoStep:
    """The one-step answer from fresh noise agrees with two steps: the student's to 1 - d, then the straightened flow's to the data
    (SlimFlow, arXiv 2407.12718, section 4.2; the first step is the student's own, as in the released code).

    The straightened flow is the student as it was when one-step distillation began, which `Straighten` says; before, the term is 0.

    Attributes:
        two_step: weight. low, high: d is uniform between them.
    """

    two_step: float = 1.0
    low: float = 0.2
    high: float = 0.8

    def __post_init__(self):
        if not 0 < self.low <= self.high < 1:
            raise WorkbenchError(f"low, high are {self.low}, {self.high}, but must lie between 0 and 1, in this order.")

    def bind(self, bound: Any) -> Extra:
        """This term, with its straightened flow, for an objective."""
        return _BoundTwoStep(self, bound)


class _Begun(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("done", torch.zeros((), dtype=torch.bool))


class _BoundTwoStep(Extra):
    def __init__(self, switches: TwoStep, bound: Any):
        super().__init__(switches, bound)
        self.straight = copy.copy(bound.student)
        self.straight.net = copy.deepcopy(bound.student.net).requires_grad_(False).eval()
        self.begun = _Begun()
        bound.frozen |= {"straight": self.straight.net, "begun": self.begun}
        if bound.steering is not None:
            bound.steering.models.append(self.straight)

    def term(self, point: Point, prediction: Tensor, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        switches, student = self.switches, self.bound.student
        if switches.two_step == 0 or point.progress < getattr(self.bound.switches.times, "share", 0.0):
            return prediction.new_zeros(()), {}
        if not self.begun.done:
            self.straight.net.load_state_dict(student.net.state_dict())
            self.begun.done.fill_(True)
        path, n = student.path, len(point.x)
        top = torch.ones(n, dtype=torch.float64, device=rng.device)
        eps = path.sigma(1.0) * normal(point.x.shape, rng, point.x)
        mine = ask(student, eps, top, point.cond, 0 * top)
        with torch.no_grad():
            tau = 1 - switches.low - (switches.high - switches.low) * torch.rand(n, generator=rng, device=rng.device).double()
            t = path.time(torch.log1p(-tau) - tau.log())
            middle = jump(path, eps, mine, top, t)
            target = ask(self.straight, middle, t, point.cond, 0 * t)
        value = switches.two_step * self.bound.switches.metric(mine, target).mean()
        return value, {"two_step": value.detach()}


@dataclass(frozen=True)
class Correction:
    """The student's one-step samples are moved by the gap of two velocities, the critic's minus the teacher's (FreeFlow, arXiv 2511.19428, section 3.3).

    The critic learns the student's law by flow matching. The gap is scaled to the mean norm of the main loss' own gradient (eq. 14).

    Attributes:
        weight: against the prediction's pull. share: of the batch. mean: of the logit-normal noise level, biased to noise.
    """

    weight: float = 1.0
    share: float = 0.25
    mean: float = 0.8

    def bind(self, bound: Any) -> Extra:
        """This term, with its critic, for an objective."""
        return _BoundCorrection(self, bound)


class _BoundCorrection(Extra):
    players = ("critic",)
    balanced = True

    def __init__(self, switches: Correction, bound: Any):
        super().__init__(switches, bound)
        student = bound.student
        self.critic = Network(copy.deepcopy(student.net), student.path, student.kind, student.shape, student.classes, student.two_times)  # fmt: skip
        self.critic.net.requires_grad_(True)
        if bound.steering is not None:
            bound.steering.models.append(self.critic)
        bound.players["critic"] = self.critic.net
        self.drawn: tuple[Tensor, Tensor | None] | None = None

    def turn(self, step: int) -> Sequence[str]:
        """The critic, after the student, on the student's samples."""
        self.drawn = None
        return ("critic",)

    def _generate(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        student, n = self.bound.student, max(2, int(batch.size * self.switches.share))
        cond = drop_labels(uniform_labels(batch._replace(size=n), student, rng), self.bound.switches.dropout, rng)
        top = torch.ones(n, dtype=torch.float64, device=rng.device)
        x = student.path.sigma(1.0) * normal((n, *student.shape), rng)
        return jump(student.path, x, ask(student, x, top, cond, 0 * top), top, 0 * top), cond

    def term(self, point: Point, prediction: Tensor, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x, cond = self._generate(batch, rng)
        self.drawn = (x.detach(), cond)
        t = logit_normal(len(x), rng, self.switches.mean).double().clamp(0.02, 0.98)
        t = self.bound.student.path.time(torch.log1p(-t) - t.log())
        with torch.no_grad():
            x_t = self.bound.student.path.mix(x, normal(x.shape, rng), t)
            gap = velocity(self.critic, x_t, t, cond) - velocity(self.bound.teacher, x_t, t, cond)
            # x0 = x_t - tau v, so this points from the critic's estimate of x0 to the teacher's
            step = self.switches.weight * self.pull / (gap.flatten(1).norm(dim=1).mean() + 1e-6) * gap
        value = 0.5 * (x - (x + step).detach()).square().flatten(1).sum(1).mean()
        return value, gaps(gap, t)

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's flow-matching error on the student's samples."""
        if self.drawn is None:
            with torch.no_grad():
                self.drawn = self._generate(batch, rng)
        x, cond = self.drawn
        t = logit_normal(len(x), rng).double().clamp(0.01, 0.999)
        eps = normal(x.shape, rng)
        path = self.critic.path
        a, b = path.kind(self.critic.kind, t)
        error = self.critic.predict(path.mix(x, eps, t), t, cond) - per_sample(a, x) * x - per_sample(b, x) * eps
        error = (error / self.critic.unit(x, t)).square().flatten(1).mean(1)
        return error.mean(), binned("loss", error, t)
