"""The pointwise objective: the student's prediction at (x_t, t) is pulled to a target, sample by sample.

One skeleton, whose switches are fields: START where x_t comes from, TIMES which (t, s), TARGET the rule, METRIC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.pairs import Pairs
from workbench.distill.objectives.parts import L2, drop_labels, guided, normal, transfer
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path


class Point(NamedTuple):
    """Where the student is asked: x_t at times t (n,), and what is known there: s (n,), and the pair's x0 if there is one."""

    x: Tensor
    t: Tensor
    s: Tensor
    cond: Tensor | None
    x0: Tensor | None = None


@dataclass(frozen=True)
class Grid:
    """TIMES: neighbours (t, s) of a uniform grid of N cells, N doubling from `first` to `last` over the run.

    The doubling curriculum is that of iCT (arXiv 2310.14189, eq. 10).
    """

    first: int = 8
    last: int = 64

    def __post_init__(self):
        check_count("first", self.first)
        check_count("last", self.last, self.first)

    def cells(self, progress: float) -> int:
        """N at this fraction of the run."""
        stages = max(0, (self.last // self.first).bit_length() - 1)
        return min(self.last, self.first * 2 ** int(progress * (stages + 1)))

    def __call__(self, n: int, progress: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        cells = self.cells(progress)
        k = torch.randint(1, cells + 1, (n,), generator=rng, device=rng.device).double()
        return k / cells, (k - 1) / cells


@dataclass(frozen=True)
class Straighten:
    """TIMES: any t for the first `share` of the run (reflow), then t = 1 alone (one-step distillation); s = 0."""

    share: float = 0.4

    def __call__(self, n: int, progress: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        zero = torch.zeros(n, dtype=torch.float64, device=rng.device)
        if progress >= self.share:
            return torch.ones_like(zero), zero
        return torch.rand(n, generator=rng, device=rng.device).double().clamp_min(1e-3), zero


class Target(Protocol):
    """TARGET: what the student's x0 estimate at the point should be, without gradient."""

    def __call__(self, teacher: Denoiser, student: Network, point: Point) -> Tensor: ...


@dataclass(frozen=True)
class StoredEndpoint:
    """The pair's own x0 (rule T1)."""

    def __call__(self, teacher: Denoiser, student: Network, point: Point) -> Tensor:
        return point.x0


@dataclass(frozen=True)
class DiscreteConsistency:
    """The student's own answer one teacher step nearer the data (rule T3; arXiv 2303.01469, eq. 7), exact at s = 0.

    Args:
        substeps: DDIM steps of the teacher between t and s.
    """

    substeps: int = 1

    def __post_init__(self):
        check_count("substeps", self.substeps)

    def __call__(self, teacher: Denoiser, student: Network, point: Point) -> Tensor:
        x, t = point.x, point.t
        for k in range(self.substeps):
            s = point.t + (point.s - point.t) * (k + 1) / self.substeps
            x0 = teacher(x, t, point.cond)
            x, t = transfer(student.path, x, x0, t, s), s
        inside = t > 0  # at s = 0 the boundary f(x, 0) = x holds by construction: never evaluate there
        answer = student(x, t.clamp_min(1e-4), point.cond)
        return torch.where(inside.reshape(-1, *[1] * (x.dim() - 1)), answer, x)


@dataclass(frozen=True)
class FromData:
    """START: a real sample, noised to t."""

    pairs: None = None

    def __call__(self, batch: Batch, t: Tensor, rng: torch.Generator, path: Path) -> tuple[Tensor, Tensor, Tensor | None]:
        return path.mix(batch.x0, normal(batch.x0.shape, rng, batch.x0), t), batch.x0, batch.cond


@dataclass(frozen=True)
class FromPairs:
    """START: the straight line between a stored noise and the teacher's solution from it."""

    pairs: Pairs = field(default_factory=Pairs)

    def __call__(self, batch: Batch, t: Tensor, rng: torch.Generator, path: Path) -> tuple[Tensor, Tensor, Tensor | None]:
        return path.mix(batch.x0, batch.eps, t), batch.x0, batch.cond


@dataclass(frozen=True)
class Pointwise:
    """What a pointwise recipe is: parts, one for each switch.

    Attributes:
        start: FromData or FromPairs. times: Grid or Straighten. target: StoredEndpoint or DiscreteConsistency.
        metric: distance of each sample. velocity: compare velocities, (x - x0) / t on the linear path, not x0.
        guidance: classifier-free scale of the teacher, baked into the student; None for its own setting. dropout: share of null labels.
    """

    start: FromData | FromPairs = field(default_factory=FromData)
    times: Any = field(default_factory=Grid)
    target: Target = field(default_factory=DiscreteConsistency)
    metric: Any = field(default_factory=L2)
    velocity: bool = False
    guidance: float | None = None
    dropout: float = 0.1

    @property
    def needs_data(self) -> bool:
        """Whether training looks at real samples."""
        return isinstance(self.start, FromData)

    def bind(self, teacher: Denoiser, student: Network) -> BoundPointwise:
        """The objective for this teacher and student."""
        return BoundPointwise(self, guided(teacher, self.guidance), student)


class BoundPointwise:
    """A `Pointwise` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: Pointwise, teacher: Denoiser, student: Network):
        self.switches, self.teacher, self.student = switches, teacher, student
        self.players: dict[str, nn.Module] = {"student": student.net}
        self.store: Any = None
        if switches.start.pairs is not None:
            self.prepare = self._prepare

    def turn(self, step: int) -> Sequence[str]:
        """The student, always."""
        return ("student",)

    def _prepare(self, folder: File, seed: int, device: Any):
        self.store = yield from self.switches.start.pairs.make(self.teacher, folder, seed, device)

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean distance of the student's prediction to its target; parts: the same at low and at high noise."""
        switches, path = self.switches, self.student.path
        if self.store is not None:
            batch = self.store.draw(batch, rng)
        elif batch.x0 is None:
            raise WorkbenchError("this recipe starts from real samples: pass data=...")
        t, s = switches.times(batch.size, batch.progress, rng)
        x, x0, cond = switches.start(batch, t, rng, path)
        cond = drop_labels(cond, switches.dropout, rng) if self.store is None else cond
        with torch.no_grad():
            target = switches.target(self.teacher, self.student, Point(x, t, s, cond, x0))
        prediction = self.student(x, t, cond)
        if switches.velocity:
            scale = (1 / t).to(x).reshape(-1, *[1] * (x.dim() - 1))
            prediction, target = scale * prediction, scale * target
        error = switches.metric(prediction, target)
        return error.mean(), halves(error, t)


def halves(error: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Mean error below and above t = 1/2, so that training can be watched across noise levels."""
    error, low = error.detach(), t < 0.5
    return {name: error[part].mean() for name, part in (("t<0.5", low), ("t>0.5", ~low)) if bool(part.any())}
