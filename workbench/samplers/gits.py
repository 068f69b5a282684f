"""GITS: the cheapest way through a fine grid, a jump costing what one Euler step errs on the teacher's trajectories."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from workbench import schedules
from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.paths import per_sample
from workbench.samplers.fine import MOST_STEPS, Fine, Progress, batch_of, following, is_exact, shortest, times_of

COSTS = ("dev", "l2", "l1")


def jump_costs(fine: Fine, cost: str = "l2") -> Tensor:
    """What a single Euler (DDIM) jump from each time of a trajectory to each later one costs: float64 (m, m).

    Measured in units of the data, on x / alpha (the state as EDM sees it), as a mean over samples:

        l2   the root mean square over coordinates of the jump's end less the teacher's state
        l1   the mean of its absolute value
        dev  how much farther from the chord, from the first state to the last, the jump ends than the teacher does,
             a root mean square over coordinates; trajectories bend alike, so a jump that strays from their plane costs

    Args:
        fine: the teacher's trajectories. cost: l2, l1 or dev.
    """
    if cost not in COSTS:
        raise unknown("cost", cost, COSTS)
    x, target = fine.x.flatten(2), fine.target.flatten(2)
    m, _, d = x.shape
    alpha, sigma = (per_sample(values, x) for values in (fine.path.alpha(fine.t), fine.path.sigma(fine.t)))
    end = x[-1] / alpha[-1]
    along = x[0] - alpha[0] * end  # of the chord; x[0] / alpha[0] itself is infinite at pure noise
    along = along / along.norm(dim=1, keepdim=True)

    def stray(y: Tensor) -> Tensor:
        gap = y - end
        return (gap - (gap * along).sum(2, keepdim=True) * along).norm(dim=2)

    costs = torch.zeros(m, m, dtype=torch.float64)
    for i in range(m - 1):
        later = slice(i + 1, m)
        kept = sigma[later] / sigma[i]
        made = (kept * x[i] + (alpha[later] - kept * alpha[i]) * target[i]) / alpha[later]
        teacher = x[later] / alpha[later]
        if cost == "dev":
            costs[i, later] = (stray(made) - stray(teacher)).mean(1) / math.sqrt(d)
        elif cost == "l2":
            costs[i, later] = (made - teacher).norm(dim=2).mean(1) / math.sqrt(d)
        else:
            costs[i, later] = (made - teacher).abs().mean((1, 2))
    return costs


def gitting(
    teacher: Denoiser,
    steps: int,
    cost: str = "l2",
    gamma: float = 1.0,
    points: int = 60,
    grid: str = "karras",
    n: int | None = None,
    seed: int = 0,
    t_start: float = 1.0,
    t_end: float = 0.0,
    cond: Any = None,
    guidance: float | None = None,
) -> Iterator[Progress]:
    """As `gits`, but one `Progress` after every evaluation."""
    points = check_count("points", points, 2, 1000)
    steps, n = check_count("steps", steps, 1, min(points, MOST_STEPS)), batch_of(teacher, n)
    if not 0 < gamma < math.inf:
        raise WorkbenchError(f"gamma is {gamma}, but must be positive: 1 is a plain sum, more counts later jumps more.")
    if cost not in COSTS:
        raise unknown("cost", cost, COSTS)
    times = schedules.get(grid, teacher.path, points, t_start=t_start, t_end=t_end)
    total = points * (2 if is_exact(teacher) else 1)
    for made in following(teacher, times, n, seed, cond, guidance):
        if isinstance(made, Progress):
            yield made
    nodes = shortest(jump_costs(made, cost), steps, gamma)
    yield Progress(f"the cheapest of {math.comb(points - 1, steps - 1):.3g} ways", total, total, made.t[nodes])


def gits(teacher: Denoiser, steps: int, **options: Any) -> Tensor:
    """Times chosen from a fine grid so that Euler jumps along the teacher's own trajectories cost least (`jump_costs`).

    All trajectories of a model bend at the same times, so a few hundred of them show where steps are needed. The released code
    takes cost="dev" and gamma=1.15, chosen for pictures in many dimensions; in few, a chord says little about a trajectory.

    Args:
        teacher: a denoiser with a `.path`. steps: 1 to `points`, at most 100.
        cost: l2, l1 or dev. gamma: how much more a jump counts than the one before it; 1 is a plain sum.
        points: steps of the fine grid. grid: its schedule. n: trajectories, by default 256 of an exact teacher in the plane
            and 64 of any other. seed: of their noise. t_start, t_end: of the schedule.
        cond, guidance: what the teacher is asked for, by default nothing.

    Raises:
        WorkbenchError: for more steps than points, an unknown cost, or a flow map. Source: Chen et al. 2024, arXiv 2405.11326.

    >>> import workbench as wb
    >>> times = gits(wb.load("eight_gaussians"), 4, n=32, points=20)
    >>> len(times), float(times[0]), float(times[-1])
    (5, 1.0, 0.0)
    """
    return times_of(gitting(teacher, steps, **options))
