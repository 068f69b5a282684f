"""Marginal-data transport (MDT-dist, arXiv 2509.04406): an average velocity to the data, fitted by an identity and sharpened on its own samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.divergences import gaps
from workbench.distill.objectives.extras import Extra
from workbench.distill.objectives.flow_matching import logit_normal
from workbench.distill.objectives.maps import average_velocity, from_average, tau_of, velocity
from workbench.distill.objectives.parts import normal
from workbench.distill.objectives.starts import uniform_labels
from workbench.distill.objectives.targets import Point, along
from workbench.distill.objectives.times import T_MIN, Times, check_share
from workbench.errors import WorkbenchError
from workbench.paths import Path, per_sample


def _check_law(part: Any) -> None:
    if not (math.isfinite(part.mean) and 0 < part.std < math.inf):
        raise WorkbenchError(
            f"mean is {part.mean} and std {part.std}, but a logit-normal law needs a finite mean and a positive std, such as 1 and 1."
        )


@dataclass(frozen=True)
class LogitNormal:
    """t logit-normal, s = 0 (MDT-dist: mean 1, std 1)."""

    mean: float = 1.0
    std: float = 1.0

    def __post_init__(self):
        _check_law(self)

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path | None = None) -> Times:
        t = logit_normal(n, rng, self.mean, self.std).double().clamp(T_MIN, 1.0)
        return Times(t, torch.zeros_like(t), torch.zeros_like(t))


@dataclass(frozen=True)
class VelocityMatching:
    """TARGET u = v - t N(du/dt), du/dt along the teacher's flow: the average velocity from t to the data (MDT-dist, VM).

    Attributes:
        normalise: N(y) = y / (|y| + c), which moves the fixed point; else N(y) = y. c: see there.
        warmup: share of the run over which the derivative's weight rises from 0 to 1.
        exact: forward-mode derivative, or central differences.
    """

    normalise: bool = False
    c: float = 0.1
    warmup: float = 0.0
    exact: bool = True

    def velocities(self, teacher: Denoiser, student: Network, point: Point) -> tuple[Tensor, Tensor]:
        """(u, v - t N(du/dt)) at a point, on the linear path, without gradient."""
        v = velocity(teacher, point.x, point.t, point.cond)
        u, slope = along(student, point, v, self.exact)
        if self.normalise:
            slope = slope / (per_sample(slope.flatten(1).norm(dim=1), slope) + self.c)
        grown = 1.0 if self.warmup <= 0 else min(1.0, point.progress / self.warmup)
        return u, v - per_sample(tau_of(student.path, point.t), u) * grown * slope

    def __call__(self, teacher: Denoiser, student: Network, point: Point, rng: torch.Generator | None = None) -> Tensor:
        return from_average(student.path, point.x, point.t, self.velocities(teacher, student, point)[1])


@dataclass(frozen=True)
class VelocityDistillation:
    """EXTRA: the velocity that u implies on the student's own samples, less the teacher's, moves them; there is no critic (MDT-dist, VD).

    R = u + t du/dt - v at noised one-step samples; the gradient in u(z, 1) is 2 R.

    Attributes:
        weight: of the term. share: of the batch that is made. begins: share of the run before it starts, while u is no transport yet.
        mean, std: of the logit-normal noise levels.
    """

    weight: float = 1.0
    share: float = 0.5
    begins: float = 0.0
    mean: float = 1.0
    std: float = 1.0

    def __post_init__(self):
        for name in ("share", "begins"):
            check_share(name, getattr(self, name))
        _check_law(self)

    def bind(self, bound) -> Extra:
        """This term for an objective.

        Raises:
            WorkbenchError: for a target that implies no velocity.
        """
        if not isinstance(bound.switches.target, VelocityMatching):
            raise WorkbenchError(
                "velocity distillation reads the velocity that VelocityMatching implies: use it as the target."
            )
        return _BoundVelocityDistillation(self, bound)


class _BoundVelocityDistillation(Extra):
    def term(self, point: Point, prediction: Tensor, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        part, student = self.switches, self.bound.student
        if batch.progress < part.begins:
            return prediction.new_zeros(()), {}
        n = max(2, round(part.share * len(point.x)))
        cond = point.cond[:n] if point.cond is not None else uniform_labels(batch._replace(size=n), student, rng)
        one = torch.ones(n, dtype=torch.float64, device=rng.device)
        noise = student.path.sigma(1.0) * normal((n, *student.shape), rng)
        u = average_velocity(student, noise, one, torch.zeros_like(one), cond)
        made = from_average(student.path, noise, one, u).detach()
        apart, t = self.apart(made, cond, batch.progress, rng)
        value = part.weight * (apart + u - u.detach()).square().mean()
        return value, gaps(apart, t)

    @torch.no_grad()
    def apart(self, made: Tensor, cond: Tensor | None, progress: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """R, without gradient, and the fresh noise levels (n,) that it is taken at."""
        student = self.bound.student
        t = logit_normal(len(made), rng, self.switches.mean, self.switches.std).double().clamp(T_MIN, 1 - T_MIN)
        x_t = student.path.mix(made, normal(made.shape, rng), t)
        point = Point(x_t, t, torch.zeros_like(t), cond, progress=progress)
        u, wanted = self.bound.switches.target.velocities(self.bound.teacher, student, point)
        return u - wanted, t
