"""TwinFlow: one any-step network holds the data's velocity and, asked with the sign of the end time turned, that of its own samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Guided, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.divergences import gaps
from workbench.distill.objectives.extras import Extra
from workbench.distill.objectives.maps import average_velocity, from_average, size_of, tau_of, velocity
from workbench.distill.objectives.parts import normal
from workbench.distill.objectives.starts import uniform_labels
from workbench.distill.objectives.targets import SMALL, Point
from workbench.distill.objectives.times import T_MIN, Times, check_share, uniform
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.paths import Path, per_sample


@dataclass(frozen=True)
class AnyStep:
    """t ~ U(0, 1), s ~ U(0, t); a share `equal` has s = t (the velocity), a share `top` t = 1 and s = 0 (end to end)."""

    equal: float = 1 / 3
    top: float = 1 / 3

    def __post_init__(self):
        for name in ("equal", "top"):
            check_share(name, getattr(self, name))
        if self.equal + self.top > 1:
            raise WorkbenchError(f"the shares equal = {self.equal:g} and top = {self.top:g} add up to more than 1.")

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path | None = None) -> Times:
        t, which = uniform(n, rng).clamp_min(T_MIN), uniform(n, rng)
        s = torch.where(which < self.equal, t, uniform(n, rng) * t)
        top = which >= 1 - self.top
        t, s = torch.where(top, torch.ones_like(t), t), torch.where(top, torch.zeros_like(s), s)
        return Times(t, s, s)


@dataclass(frozen=True)
class Recursive:
    """TARGET u - clip(((t - s) u - I) / gap - v): a short step along v, then the net's own integral I to s (TwinFlow, arXiv 2512.05150).

    Its fixed point is (t - s) u(x, t, s) = gap v + I; where t - s is below the gap, u = v. Guidance adds what it changes in
    the teacher's velocity.

    Attributes:
        gap: length of the step along v, in the linear path's time. hops: Euler hops of the target net that make I.
        clip: bound of each component of the residual; None for none. source: v of the "data", eps - x0, or of the "teacher".
    """

    gap: float = 0.01
    hops: int = 2
    clip: float | None = 1.0
    source: str = "data"
    exact: ClassVar[bool] = False  # differences in time: a fresh network is to be calm in it

    def __post_init__(self):
        check_count("hops", self.hops)
        if not 0 < self.gap < 1:
            raise WorkbenchError(f"gap is {self.gap}, but is a time between 0 and 1.")
        if self.clip is not None and not self.clip > 0:
            raise WorkbenchError(f"clip is {self.clip}, but must be a positive number, or None for no bound.")
        if self.source not in ("data", "teacher"):
            raise unknown("source", self.source, ("data", "teacher"))

    def __call__(self, teacher: Denoiser, student: Network, point: Point, rng: torch.Generator | None = None) -> Tensor:
        x, t, s, cond, path = point.x, point.t, point.s, point.cond, student.path
        tau, end, v = tau_of(path, t), tau_of(path, s), self._velocity(teacher, point)
        u = average_velocity(student, x, t, s, cond)
        step = (tau - end).clamp(SMALL, self.gap)
        now = (tau - step).clamp_min(SMALL)
        y = x / size_of(path, t, x) - per_sample(step, x) * v
        start = y
        length = (now - end).clamp_min(0) / self.hops
        for _ in range(self.hops):
            time, later = _time(path, now), _time(path, (now - length).clamp_min(0))
            y = y - per_sample(length, x) * average_velocity(student, y * size_of(path, time, y), time, later, cond)
            now = (now - length).clamp_min(SMALL)
        residual = (per_sample(tau - end, x) * u - (start - y)) / per_sample(step, x) - v
        residual = residual if self.clip is None else residual.clamp(-self.clip, self.clip)
        short = per_sample(tau - end, x) <= self.gap
        return from_average(path, x, t, torch.where(short, v, u - residual))

    def _velocity(self, teacher: Denoiser, point: Point) -> Tensor:
        x, t, cond = point.x, point.t, point.cond
        if self.source == "teacher":
            return velocity(teacher, x, t, cond)
        v = point.eps - point.x0
        return v + velocity(teacher, x, t, cond) - velocity(teacher.model, x, t, cond) if isinstance(teacher, Guided) else v


def _time(path: Path, tau: Tensor) -> Tensor:
    """The path's own time of a time of the linear path."""
    return tau if path.name == "linear" else path.time(torch.log1p(-tau) - tau.clamp_min(1e-12).log())


@dataclass(frozen=True)
class Twin:
    """EXTRA: the twin branch learns the velocity of the student's samples, and its difference to the true one moves them (TwinFlow).

    s_real - s_fake = (1 - t) / t (v_fake - v_real), so lowering the one-step velocity by dF = v_fake - v_real raises the sample along the
    score gap. The paper turns the sign of both times; here that of the end alone, so that the twin starts as the branch of the data.

    Attributes:
        weight: of the twin's own regression. rectify: of the term that moves the samples. clip: bound of each component of dF, or None.
        share: of the batch that is made and judged.
    """

    weight: float = 1.0
    rectify: float = 0.5
    clip: float | None = 1.0
    share: float = 0.5

    def __post_init__(self):
        check_share("share", self.share)
        for name in ("weight", "rectify"):
            if not 0 <= getattr(self, name) < math.inf:
                raise WorkbenchError(f"{name} is {getattr(self, name)}, but is the weight of a term, a number from 0.")
        if self.clip is not None and not self.clip > 0:
            raise WorkbenchError(f"clip is {self.clip}, but must be a positive number, or None for no bound.")

    def bind(self, bound) -> Extra:
        """This term for an objective.

        Raises:
            WorkbenchError: for a student of one time.
        """
        if not bound.student.two_times:
            raise WorkbenchError("the twin branch is told by the sign of the end time: set two_times=True.")
        return _BoundTwin(self, bound)


class _BoundTwin(Extra):
    def term(self, point: Point, prediction: Tensor, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        part, student = self.switches, self.bound.student
        n = max(2, round(part.share * len(point.x)))
        cond = point.cond[:n] if point.cond is not None else uniform_labels(batch._replace(size=n), student, rng)
        one = torch.ones(n, dtype=torch.float64, device=rng.device)
        noise = student.path.sigma(1.0) * normal((n, *student.shape), rng)
        u = average_velocity(student, noise, one, torch.zeros_like(one), cond)
        made = from_average(student.path, noise, one, u).detach()
        fitted = self.fit(made, cond, rng)
        gap, t = self.difference(made, cond, rng)
        apart = gap if part.clip is None else gap.clamp(-part.clip, part.clip)
        rectified = (u - (u - apart).detach()).square().mean()
        parts = {"twin": fitted.detach(), **gaps(gap, t)}
        return part.weight * fitted + part.rectify * rectified, parts

    def fit(self, made: Tensor, cond: Tensor | None, rng: torch.Generator) -> Tensor:
        """Flow matching of the twin branch on the student's samples (n, ...)."""
        x_t, t, eps = self._noised(made, rng)
        return (average_velocity(self.bound.student, x_t, t, -t, cond) - (eps - made)).square().mean()

    @torch.no_grad()
    def difference(self, made: Tensor, cond: Tensor | None, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """dF = v_fake - v_real, not clipped and without gradient, and the fresh noise levels (n,) that it is taken at."""
        x_t, t, _ = self._noised(made, rng)
        student = self.bound.student
        return average_velocity(student, x_t, t, -t, cond) - average_velocity(student, x_t, t, t, cond), t

    def _noised(self, made: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        t, eps = uniform(len(made), rng).clamp(T_MIN, 1 - T_MIN), normal(made.shape, rng)
        return self.bound.student.path.mix(made, eps, t), t, eps
