"""Align Your Steps on any teacher: the times that make the bound on its sampling error least.

The bound (KLUB, arXiv 2404.14507) on the divergence between the true reverse SDE and the one that keeps its x0 estimate D
over each step is, with u = alpha / sigma,

    sum_i int_(u_i)^(u_(i+1)) u E|D(x_u) - D(x_(u_i))|^2 du

over the forward process through one data point. There x_u tells more of x0 than x_(u_i) does, so that D(x_(u_i)) is the mean of
D(x_u) given x_(u_i), and the expectation is mmse(u_i) - mmse(u), the loss of mean squared error E|x0 - D|^2 (for a teacher
that is the posterior mean). One curve of a single variable says everything, and the times matter through

    1/2 sum_i mmse(u_i) (u_(i+1)^2 - u_i^2),

an upper sum of the integral of mmse over u^2. For Gaussian data of standard deviation S it is least where 1/S^2 + u^2 grows by
the same factor at every step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path
from workbench.samplers.fine import MOST_STEPS, RHO_MAX, Progress, batch_of, interpolate, shortest, times_of
from workbench.samplers.run import initial_noise, run
from workbench.samplers.sample import default_sampling, labels, noise_for, prepare

ROUNDS, WAYS = 200, 33
LEAST = 0.03  # rho of Stable Diffusion's cleanest level, where the bound of the published tables ends


class Curve(NamedTuple):
    """Mean squared error of the x0 estimate against log-SNR: log_snr (m,), rising, and mmse (m,), both float64."""

    log_snr: Tensor
    mmse: Tensor

    def at(self, log_snr: Tensor) -> Tensor:
        """The error at any log-SNR, its logarithm interpolated."""
        return interpolate(log_snr, self.log_snr, self.mmse.log()).exp()


def klub(curve: Curve, log_snr: Tensor) -> float:
    """The bound for steps at these log-SNRs, summed over coordinates, in nats.

    >>> at = torch.linspace(-3.0, 3.0, 501, dtype=torch.float64)
    >>> unit = Curve(at, 1 / (1 + (2 * at).exp()))  # Gaussian data of standard deviation 1
    >>> round(klub(unit, at[[0, -1]]) - klub(unit, at[[0, 250, -1]]), 1)
    100.1
    """
    grid = torch.cat([curve.log_snr, log_snr]).unique()
    grid = grid[(grid >= log_snr.min()) & (grid <= log_snr.max())]
    snr = (2 * grid).exp()
    area = float(((curve.at(grid)[1:] + curve.at(grid)[:-1]) / 4 * snr.diff()).sum())
    return upper_sum(curve, log_snr) - area


def upper_sum(curve: Curve, log_snr: Tensor) -> float:
    """The part of the bound that depends on where the steps are: 1/2 sum mmse(u_i) (u_(i+1)^2 - u_i^2)."""
    return float((curve.at(log_snr[:-1]) * (2 * log_snr).exp().diff()).sum() / 2)


def least(curve: Curve, steps: int, low: float, high: float) -> Tensor:
    """The log-SNRs (steps + 1,), rising from low to high, that make the bound least.

    Two starts, the best of a grid by dynamic programming and the limit of many steps (equal shares of the square root of
    d mmse d(u^2), what a step adds to the sum); from the better, one node at a time between its neighbours until nothing is won.
    """
    nodes = torch.linspace(low, high, max(200, 4 * steps) + 1, dtype=torch.float64)
    snr, error = (2 * nodes).exp(), curve.at(nodes)
    share = torch.cat([torch.zeros(1, dtype=torch.float64), (-error.diff() * snr.diff()).clamp_min(0).sqrt().cumsum(0)])
    share = share + 1e-9 * share[-1] * torch.linspace(
        0, 1, len(share), dtype=torch.float64
    )  # rises even where nothing is learnt
    many = interpolate(torch.linspace(0, float(share[-1]), steps + 1, dtype=torch.float64), share, nodes)
    many[0], many[-1] = low, high
    few = nodes[shortest(error[:, None] * (snr[None] - snr[:, None]), steps)]
    chosen = min(few, many, key=lambda start: upper_sum(curve, start))
    for _ in range(ROUNDS):
        before = upper_sum(curve, chosen)
        for half in (1, 2):  # every second node: none of them has a neighbour among them
            left, here, right = chosen[half - 1 : -2 : 2], chosen[half:-1:2], chosen[half + 1 :: 2]
            count = len(here)
            left, right = left[:count], right[:count]
            low_side, high_side = left, right
            for _ in range(4):
                fractions = torch.linspace(0, 1, WAYS, dtype=torch.float64)[:, None]
                way = low_side + fractions * (high_side - low_side)
                inner, outer = (2 * way).exp(), (2 * right).exp()
                value = curve.at(left) * (inner - (2 * left).exp()) + curve.at(way) * (outer - inner)
                best = value.argmin(0).clamp(1, WAYS - 2)
                column = torch.arange(count)
                low_side, high_side = way[best - 1, column], way[best + 1, column]
            chosen[half:-1:2] = (low_side + high_side) / 2
        if upper_sum(curve, chosen) > before * (1 - 1e-9):
            break
    return chosen


def measuring(
    teacher: Denoiser,
    n: int,
    seed: int,
    points: int,
    low: float,
    high: float,
    cond: Any = None,
    guidance: float | None = None,
) -> Iterator[Progress | Curve]:
    """Measure E|x0 - D|^2 at `points` log-SNRs from low to high on n samples; yields progress, and the `Curve` last.

    Data: exact draws of an analytic teacher (`.sample`), else the teacher's own samples. One noise serves all levels, so
    that the curve is smooth.
    """
    model, given = prepare(teacher, guidance), labels(teacher, cond, n)
    noise, done, total = noise_for(teacher, n, seed), 0, points
    if hasattr(teacher, "log_density"):
        data = teacher.sample(n, seed, given)
    else:
        plan = default_sampling(teacher).plan(teacher.path)
        total = points + plan.evaluations
        for frame in run(plan, model, noise, given, seed):
            done = frame.i
            yield Progress("drawing samples", done, total)
        data = frame.x
    fresh = initial_noise(n, teacher.shape, seed + 1, data.dtype).to(data)
    nodes, errors = torch.linspace(low, high, points, dtype=torch.float64), []
    for t in teacher.path.time(nodes).tolist():
        with torch.no_grad():
            estimate = model(teacher.path.mix(data, fresh, t), t, given)
        errors.append(float((estimate - data).double().flatten(1).square().sum(1).mean()))
        yield Progress("measuring x0 estimates", done := done + 1, total)
    mmse = torch.tensor(errors, dtype=torch.float64)
    if not bool((mmse > 0).all()):
        raise WorkbenchError("the teacher reproduces its data exactly at some noise: its steps cannot be told apart there.")
    yield Curve(nodes, mmse.cummin(0).values)  # more signal cannot mean more error; what says so is chance


def aligning(
    teacher: Denoiser,
    steps: int,
    n: int | None = None,
    seed: int = 0,
    points: int = 64,
    rho_min: float = LEAST,
    rho_max: float = RHO_MAX,
    t_start: float = 1.0,
    t_end: float = 0.0,
    cond: Any = None,
    guidance: float | None = None,
) -> Iterator[Progress]:
    """As `align_your_steps`, but one `Progress` after every evaluation."""
    steps, n = check_count("steps", steps, 1, MOST_STEPS), 4 * batch_of(teacher, n) if n is None else batch_of(teacher, n)
    points = check_count("points", points, 8, 2000)
    low, high = ends(teacher.path, t_start, t_end, rho_min, rho_max)
    for made in measuring(teacher, n, seed, points, low, high, cond, guidance):
        if isinstance(made, Progress):
            yield (last := made)
    times = teacher.path.time(least(made, steps, low, high))
    times[0], times[-1] = t_start, t_end
    yield Progress("done", last.total, last.total, times)


def ends(path: Path, t_start: float, t_end: float, rho_min: float = LEAST, rho_max: float = RHO_MAX) -> tuple[float, float]:
    """Log-SNR between which the bound is taken: it has no bound of its own at clean data, and none at pure noise on some paths."""
    if not 0 <= t_end < t_start <= 1:
        raise WorkbenchError(f"t_start = {t_start} and t_end = {t_end} must satisfy 0 <= t_end < t_start <= 1.")
    if not 0 < rho_min < rho_max:
        raise WorkbenchError(f"rho_min = {rho_min:g} must lie between 0 and rho_max = {rho_max:g}.")
    high, low = min(path.rho(t_start), rho_max), max(path.rho(t_end), rho_min)
    if not low < high:
        raise WorkbenchError(
            f"rho from {low:g} to {high:g} leaves no room for steps: lower rho_min, or raise rho_max or t_start."
        )
    return -math.log(high), -math.log(low)


def align_your_steps(teacher: Denoiser, steps: int, **options: Any) -> Tensor:
    """Times that make the KLUB of a teacher least: Align Your Steps' objective, optimised for this very model.

    The bound is that of a stochastic sampler of order 1; the times serve others too, as the paper finds. The step to clean
    data starts where the last of the bound does, which ends at `rho_min`, as in the published tables. A bound on a divergence
    cares for noise too weak to be seen: the lower `rho_min`, the more steps go there.

    Args:
        teacher: a denoiser with a `.path`. steps: 1 to 100.
        n: data points, by default 1024 of an exact teacher in the plane and 256 of any other. seed: of data and noise.
        points: noise levels at which the x0 estimate is measured. rho_min, rho_max: ends of the bound, as sigma / alpha.
        t_start, t_end: of the schedule. cond, guidance: what the teacher is asked for, by default nothing.

    Raises:
        WorkbenchError: for impossible numbers. Source: Sabour et al. 2024, arXiv 2404.14507; the identity is Guo et al. 2005,
            arXiv cs/0412108 (more signal means less error).

    >>> import workbench as wb
    >>> times = align_your_steps(wb.load("eight_gaussians"), 4, n=64)
    >>> len(times), bool((times.diff() < 0).all())
    (5, True)
    """
    return times_of(aligning(teacher, steps, **options))
