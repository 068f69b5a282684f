"""START: where a pointwise objective's states come from.

Each part is called as part(batch, times, rng, teacher, student) and returns (x_t, x0, eps, cond, times), x0 and eps None
where the state has none. `asks_teacher` says whether the states are the teacher's, and `own_times` that they bring their times,
whatever the recipe's are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.maps import estimate, jump
from workbench.distill.objectives.pairs import KeyPoints, Pairs
from workbench.distill.objectives.parts import normal
from workbench.distill.objectives.times import Times, uniform
from workbench.errors import WorkbenchError, check_count


@dataclass(frozen=True)
class FromData:
    """A real sample, noised to t."""

    pairs: ClassVar[None] = None
    needs_data: ClassVar[bool] = True
    asks_teacher: ClassVar[bool] = False
    own_times: ClassVar[bool] = False

    @staticmethod
    def rows(size: int) -> int:
        """How many states of a batch are independent of one another: all."""
        return size

    def __call__(self, batch: Batch, times: Times, rng: torch.Generator, teacher: Denoiser, student: Network):
        if batch.x0 is None:
            raise WorkbenchError("this recipe starts from real samples: pass data=...")
        eps = normal(batch.x0.shape, rng, batch.x0)
        return student.path.mix(batch.x0, eps, times.t), batch.x0, eps, batch.cond, times


@dataclass(frozen=True)
class FromPairs:
    """The straight line between a stored noise and the teacher's solution from it.

    Attributes:
        anneal: share of the run over which the noise turns from independent of the solution into its own,
            eps_b = sqrt(1 - b^2) eps + b eps', b falling from 1 to 0 (SlimFlow, arXiv 2407.12718, eq. 6); 0 for none.
    """

    pairs: Pairs = field(default_factory=Pairs)
    anneal: float = 0.0
    needs_data: ClassVar[bool] = False
    asks_teacher: ClassVar[bool] = True
    own_times: ClassVar[bool] = False

    @staticmethod
    def rows(size: int) -> int:
        """How many states of a batch are independent of one another: all."""
        return size

    def __call__(self, batch: Batch, times: Times, rng: torch.Generator, teacher: Denoiser, student: Network):
        eps = batch.eps
        if batch.progress < self.anneal:
            b = 1 - batch.progress / self.anneal
            eps = (1 - b**2) ** 0.5 * eps + b * normal(eps.shape, rng, eps)
        return student.path.mix(batch.x0, eps, times.t), batch.x0, eps, batch.cond, times


@dataclass(frozen=True)
class FromKeyPoints:
    """A key point of a stored teacher trajectory; its x0 is that whose jump lands on the next key point (AccVideo, arXiv 2503.19462, eq. 3).

    On the linear path that is the slope of the chord between the two. The student only meets states that the teacher visits.
    The times are the trajectory's own, drawn evenly among the jumps. With DDIM and no step between two key points that x0 is the
    teacher's own answer there: stored trajectories, guided at the scale that is stored beside them, train adapters (AGD, arXiv 2503.07274)
    without a call of the teacher:

        distill(teacher, "agd", start=FromKeyPoints(KeyPoints(keys=16, inner=1, sampling=Sampling("ddim"))), target=StoredEndpoint())
    """

    pairs: KeyPoints = field(default_factory=KeyPoints)
    needs_data: ClassVar[bool] = False
    asks_teacher: ClassVar[bool] = True
    own_times: ClassVar[bool] = True

    @staticmethod
    def rows(size: int) -> int:
        """How many states of a batch are independent of one another: all."""
        return size

    def __call__(self, batch: Batch, times: Times, rng: torch.Generator, teacher: Denoiser, student: Network):
        key = torch.tensor(self.pairs.times, dtype=torch.float64, device=rng.device)
        k = torch.randint(self.pairs.keys, (batch.size,), generator=rng, device=rng.device)
        row = torch.arange(batch.size, device=rng.device)
        x, x_s, t, s = batch.keys[row, k], batch.keys[row, k + 1], key[k], key[k + 1]
        return x, estimate(student.path, x, x_s, t, s), None, batch.cond, Times(t, s, s)


@dataclass(frozen=True)
class FromPrior:
    """Noise at t = 1; no sample is looked at. Labels are those that data bring, or uniform."""

    pairs: ClassVar[None] = None
    needs_data: ClassVar[bool] = False
    asks_teacher: ClassVar[bool] = False
    own_times: ClassVar[bool] = False

    @staticmethod
    def rows(size: int) -> int:
        """How many states of a batch are independent of one another: all."""
        return size

    def __call__(self, batch: Batch, times: Times, rng: torch.Generator, teacher: Denoiser, student: Network):
        eps, cond = normal((batch.size, *student.shape), rng), uniform_labels(batch, student, rng)
        return student.path.sigma(1.0) * eps, None, eps, cond, times


@dataclass(frozen=True)
class FromRollout:
    """Points of the teacher's own trajectories from fresh noise, all of them one batch; no data are touched (TBCM, arXiv 2511.20410).

    Attributes:
        route: DDIM steps of the teacher, from t = 1, the inner times jittered within their cell; the start itself is dropped.
        refine: teacher steps to a point, since a coarse route leaves the true trajectory.
        top: the start itself, t = 1, is kept as well.
    """

    route: int = 8
    refine: int = 1
    top: bool = False
    pairs: ClassVar[None] = None
    needs_data: ClassVar[bool] = False
    asks_teacher: ClassVar[bool] = True
    own_times: ClassVar[bool] = True

    def __post_init__(self):
        check_count("route", self.route, 2)
        check_count("refine", self.refine)

    def rows(self, size: int) -> int:
        """How many trajectories a batch is made of."""
        return max(1, size // (self.route - 1 + self.top))

    def __call__(self, batch: Batch, times: Times, rng: torch.Generator, teacher: Denoiser, student: Network):
        path, n = student.path, self.rows(batch.size)
        labels = uniform_labels(batch._replace(size=n), student, rng)
        edges = torch.linspace(1, 0, self.route + 1, dtype=torch.float64, device=rng.device)[1:-1]
        points = edges[:, None] - (uniform(n * len(edges), rng).view(len(edges), n) - 0.5) / self.route * 0.98
        x = path.sigma(1.0) * normal((n, *student.shape), rng)
        now = torch.ones(n, dtype=torch.float64, device=rng.device)
        states = [x] if self.top else []
        with torch.no_grad():
            for later in points:
                begin = now
                for k in range(self.refine):
                    middle = begin + (later - begin) * (k + 1) / self.refine
                    x, now = jump(path, x, teacher(x, now, labels).to(x), now, middle), middle
                states.append(x)
        t = (torch.cat([torch.ones_like(points[:1]), points]) if self.top else points).reshape(-1)
        cond = labels.repeat(len(states)) if labels is not None else None
        zero = torch.zeros_like(t)
        return torch.cat(states), None, None, cond, Times(t, zero, zero)


def uniform_labels(batch: Batch, student: Network, rng: torch.Generator) -> Tensor | None:
    """Labels of the batch, or uniform ones where it has none and the student knows classes."""
    if batch.cond is not None:
        return batch.cond[: batch.size]
    if not student.classes:
        return None
    return torch.randint(student.classes, (batch.size,), generator=rng, device=rng.device)
