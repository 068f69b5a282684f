"""A schedule on which every step of a sampler errs alike, measured on a teacher's own trajectories."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from workbench import samplers, schedules
from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count
from workbench.samplers.fine import (
    MOST_STEPS,
    RHO_MAX,
    RHO_MIN,
    Fine,
    Progress,
    batch_of,
    fine_grid,
    following,
    interpolate,
    is_exact,
    times_of,
)
from workbench.samplers.local import gaps_from
from workbench.samplers.plan import Plan
from workbench.samplers.sample import labels, prepare

ROUNDS = 40


def errors_on(fine: Fine, plan: Plan, teacher: Denoiser, cond: Any = None) -> Tensor:
    """Local error of every step of a plan (`local.gaps_from`) on a fine trajectory: float64 (steps,), on x / (alpha + sigma).

    That scale is the same on every path, and ends where the data do; it is no part of the spread, which `local_errors` tells.

    Args:
        fine: the teacher's trajectory (n samples). plan: deterministic. teacher: the model it runs. cond: as for `run`.
    """
    states = fine.at(plan.times)
    if getattr(teacher, "dtype", None) is not None:
        states = states.float()
    times = torch.tensor(plan.times[1:], dtype=torch.float64)
    return gaps_from(plan, teacher, states, cond) / (fine.path.alpha(times) + fine.path.sigma(times))


def equalising(
    teacher: Denoiser,
    steps: int,
    sampler: str = "dpmpp_2m",
    tolerance: float = 0.05,
    n: int | None = None,
    seed: int = 0,
    points: int | None = None,
    t_start: float = 1.0,
    t_end: float = 0.0,
    cond: Any = None,
    guidance: float | None = None,
    **options: Any,
) -> Iterator[Progress]:
    """As `equal_error`, but one `Progress` after every evaluation of the fine trajectory and after every round."""
    steps, n = check_count("steps", steps, 1, MOST_STEPS), batch_of(teacher, n)
    if not 0 < tolerance < 1:
        raise WorkbenchError(
            f"tolerance is {tolerance:g}, but must lie between 0 and 1: how far errors may lie from their mean."
        )
    points = check_count("points", (200 if is_exact(teacher) else 96) if points is None else points, 8, 2000)
    first = cost = points * (2 if is_exact(teacher) else 1)
    total = first + ROUNDS * steps
    for made in following(teacher, fine_grid(teacher.path, points, t_start, t_end), n, seed, cond, guidance):
        if isinstance(made, Progress):
            yield made._replace(total=total)
    path, given, model = made.path, labels(teacher, cond, n), prepare(teacher, guidance)

    times = schedules.get("logsnr", path, steps, t_start=t_start, t_end=t_end, rho_min=0.05, rho_max=10.0)
    best, least, power = times, math.inf, 1 / 3
    for _ in range(ROUNDS):
        plan = samplers.plan(sampler, path, schedule=times, **options)
        errors = errors_on(made, plan, model, given).clamp_min(1e-300)
        cost += plan.evaluations
        uneven = float((errors / errors.mean() - 1).abs().max())
        yield Progress(f"local errors within {uneven:.0%} of their mean", min(cost, total), total)
        if uneven < least:
            best, least = times, uneven
        else:
            power *= 0.8  # the last move went too far
        if least < tolerance or steps == 1:
            break
        times = _moved(made, times, errors, power)
    yield Progress(f"local errors within {least:.0%} of their mean", total, total, best)


def equal_error(teacher: Denoiser, steps: int, **options: Any) -> Tensor:
    """Times on which every step of a sampler has the same local error, measured on the teacher (`errors_on`).

    Where a step errs more than its neighbours, time is spent: steps are made shorter in proportion to error^(1/3), which for
    a sampler of order 2 is right at once, and measured again until all are equal.

    Args:
        teacher: a denoiser with a `.path`. steps: 1 to 100.
        sampler: whose steps; any that is deterministic, with its own options. tolerance: how far from their mean errors may lie;
            the most even times of 40 rounds are kept where it is not reached (2 steps may have too little room).
        n: trajectories, by default 256 of an exact teacher in the plane and 64 of any other. seed: of their noise. points: steps of the
            fine trajectory. t_start, t_end: of the schedule. cond, guidance: what the teacher is asked for, by default nothing.

    Raises:
        WorkbenchError: for a sampler that adds noise, a flow map, or impossible numbers.
        Source: equidistribution, de Boor 1973, Good approximation by splines with variable knots.

    >>> import workbench as wb
    >>> times = equal_error(wb.load("eight_gaussians"), 4, sampler="euler", n=32, points=40)
    >>> len(times), bool((times.diff() < 0).all())
    (5, True)
    """
    return times_of(equalising(teacher, steps, **options))


def _moved(fine: Fine, times: Tensor, errors: Tensor, power: float) -> Tensor:
    """Times between which error^power is shared out equally, if it lies evenly over each step in log(rho)."""

    def place(t: Tensor) -> Tensor:  # rises with log rho, but finite at both ends
        alpha, sigma = fine.path.alpha(t), fine.path.sigma(t)
        return -(sigma / (alpha + sigma / RHO_MAX) + RHO_MIN).log()

    share = torch.cat([torch.zeros(1, dtype=torch.float64), (errors**power).cumsum(0)])
    equal = torch.linspace(0, float(share[-1]), len(times), dtype=torch.float64)
    moved = interpolate(interpolate(equal, share, place(times)), place(fine.t), fine.t)
    moved[0], moved[-1] = times[0], times[-1]
    return moved
