"""A teacher's own trajectories, so finely resolved that a schedule can be judged against them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench import samplers, schedules
from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path, per_sample
from workbench.samplers.run import record, run
from workbench.samplers.sample import labels, noise_for, prepare

MOST_STEPS = 100
RHO_MIN, RHO_MAX = 0.002, 80.0  # EDM's ends, between which a grid in log-SNR lies


class Progress(NamedTuple):
    """What a schedule in the making is at; the last one carries the times.

    Attributes:
        what: in words. done, total: network evaluations of a batch so far, and at most. times: (steps + 1,), at the end.
    """

    what: str
    done: int
    total: int
    times: Tensor | None = None


class Fine(NamedTuple):
    """Trajectories of the probability flow: times t (m,), falling; states x and x0 estimates (m, n, ...)."""

    path: Path
    t: Tensor
    x: Tensor
    target: Tensor

    def at(self, times: Sequence[float] | Tensor) -> Tensor:
        """States (k, n, ...) at any times between, by cubic Hermite interpolation.

        In flow coordinates, z = x / (alpha + sigma) against s = sigma / (alpha + sigma), where the slope is eps - x0 on
        every path.
        """
        alpha, sigma = self.path.alpha(self.t), self.path.sigma(self.t)
        s, scale = sigma / (alpha + sigma), per_sample(alpha + sigma, self.x)
        z, clean = self.x / scale, bool(sigma[-1] == 0)
        last = len(s) - 1 if clean else len(s)
        eps = (self.x[:last] - per_sample(alpha[:last], self.x) * self.target[:last]) / per_sample(sigma[:last], self.x)
        slope = eps - self.target[:last]
        if clean:  # nothing is known of the slope there but where the last line leads
            slope = torch.cat([slope, ((z[-2] - z[-1]) / (s[-2] - s[-1]))[None]])
        times = torch.as_tensor(times, dtype=torch.float64)
        a, b = self.path.alpha(times), self.path.sigma(times)
        at = b / (a + b)
        left = (torch.searchsorted(-s, -at, right=True) - 1).clamp(0, len(s) - 2)
        h = s[left + 1] - s[left]
        u, h = per_sample((at - s[left]) / h, z), per_sample(h, z)
        made = (
            (1 + 2 * u) * (1 - u) ** 2 * z[left]
            + u * (1 - u) ** 2 * h * slope[left]
            + u**2 * (3 - 2 * u) * z[left + 1]
            + u**2 * (u - 1) * h * slope[left + 1]
        )
        return made * per_sample(a + b, z)


def is_exact(teacher: Denoiser) -> bool:
    """Whether a teacher is analytic: its evaluations cost nothing against a network's."""
    return hasattr(teacher, "log_density")


def batch_of(teacher: Denoiser, n: int | None) -> int:
    """How many trajectories: as asked for, or 256 of an exact teacher in the plane and 64 of any other."""
    few = not is_exact(teacher) or math.prod(teacher.shape) > 8
    return (64 if few else 256) if n is None else check_count("n", n, 2, 20_000)


def following(
    teacher: Denoiser, times: Tensor, n: int, seed: int, cond: Any = None, guidance: float | None = None
) -> Iterator[Progress | Fine]:
    """Follow n trajectories of a teacher through all these times; yields progress, and the `Fine` last.

    Heun for exact teachers, DPM-Solver++(2M) for networks.
    """
    if getattr(teacher, "path", None) is None or getattr(teacher, "two_times", False):
        raise WorkbenchError(
            "a schedule is computed from a denoiser with a .path and one time; a flow map has no trajectory to follow."
        )
    plan = samplers.plan("heun" if is_exact(teacher) else "dpmpp_2m", teacher.path, schedule=times)
    given, kept = labels(teacher, cond, n), []
    for frame in run(plan, prepare(teacher, guidance), noise_for(teacher, n, seed), given, seed):
        kept.append(frame)
        yield Progress("following the teacher", frame.i, plan.evaluations)
    trajectory = record(kept)
    yield Fine(teacher.path, trajectory.t, trajectory.x.double(), trajectory.target.double())


def fine_grid(path: Path, points: int, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """`points` steps for a fine trajectory, even in log-SNR where there is any."""
    return schedules.get("logsnr", path, points, t_start=t_start, t_end=t_end, rho_min=RHO_MIN, rho_max=RHO_MAX)


def interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The polygon through (x, y), x rising, read at `at`; its end lines go on.

    >>> interpolate(torch.tensor([0.5, 3.0]), torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 10.0, 30.0]))
    tensor([ 5., 50.])
    """
    left = (torch.searchsorted(x, at.contiguous(), right=True) - 1).clamp(0, len(x) - 2)
    return y[left] + (at - x[left]) / (x[left + 1] - x[left]) * (y[left + 1] - y[left])


def shortest(costs: Tensor, steps: int, gamma: float = 1.0) -> list[int]:
    """The cheapest way from node 0 to the last in exactly `steps` jumps, by dynamic programming.

    V_1(j) = c[j, end] and V_k(j) = min over i > j of c[j, i] + gamma V_(k-1)(i): a jump counts gamma times as much as the
    one before it.

    Args:
        costs: (m, m), of the jump from row to column; only what lies right of the diagonal is read.
        steps: 1 to m - 1.

    >>> shortest(torch.tensor([[0.0, 1.0, 4.0, 9.0], [0, 0, 1, 4], [0, 0, 0, 1], [0, 0, 0, 0]]), 2)
    [0, 1, 3]
    """
    m = len(costs)
    check_count("steps", steps, 1, m - 1)
    allowed = torch.where(torch.ones_like(costs).triu(1).bool(), costs, math.inf)
    value, choices = allowed[:, -1], []
    for _ in range(steps - 1):
        value, choice = (allowed + gamma * value).min(1)
        choices.append(choice.tolist())
    nodes = [0]
    for choice in reversed(choices):
        nodes.append(choice[nodes[-1]])
    return [*nodes, m - 1]


def times_of(making: Iterator[Progress]) -> Tensor:
    """The times that the last progress carries."""
    for progress in making:
        last = progress
    return last.times
