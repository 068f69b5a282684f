"""A path at the times of a plan, and the rows that every solver is built from.

Notation: a step goes from s to t < s; h = log_snr(t) - log_snr(s) > 0; rho = sigma / alpha.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.errors import WorkbenchError, unknown
from workbench.paths import Path
from workbench.samplers.plan import Row, Stage


class Point(NamedTuple):
    """A path at one time."""

    t: float
    alpha: float
    sigma: float
    log_snr: float

    @property
    def rho(self) -> float:
        """Noise-to-signal ratio, infinite at pure noise."""
        return self.sigma / self.alpha if self.alpha else math.inf


def points(path: Path, times: Sequence[float] | Tensor) -> list[Point]:
    """The path at these times, worked out together: a plan of a thousand steps takes milliseconds."""
    t = torch.as_tensor(times, dtype=torch.float64)
    alpha, sigma, log_snr = path.alpha(t), path.sigma(t), path.log_snr(t)
    return [Point(*values) for values in zip(*(values.tolist() for values in (t, alpha, sigma, log_snr)), strict=True)]


def at_log_snr(path: Path, log_snr: Sequence[float]) -> list[Point]:
    """The path where it has these log-SNRs."""
    return points(path, path.time(torch.tensor(list(log_snr), dtype=torch.float64)))


def steps_of(path: Path, times: Sequence[float]) -> list[tuple[Point, Point]]:
    """(s, t) of every step."""
    return list(itertools.pairwise(points(path, times)))


def jump(s: Point, t: Point, noise: float = 0.0) -> Row:
    """x_t = alpha_t x0 + sqrt(sigma_t^2 - noise^2) eps + noise z, with eps read off x_s; over an x0 output.

    Without noise it is the deterministic DDIM row (arXiv 2010.02502, eq. 12), regular at pure noise and at clean data.
    """
    kept = math.sqrt(max(0.0, t.sigma**2 - noise**2)) / s.sigma
    return Row(x=kept, outputs=(t.alpha - kept * s.alpha,), noise=noise)


def singular(s: Point, t: Point) -> bool:
    """Whether the step has no finite h: from pure noise or to clean data, where only the x0 form of order 1 exists."""
    return t.sigma == 0 or s.alpha == 0


def renoised(stage: Stage, here: Point, up: Point, s_noise: float = 1.0) -> Stage:
    """The stage followed by fresh noise that takes its result from `here` up to `up`, at the same signal."""
    scale = up.alpha / here.alpha
    added = s_noise * math.sqrt(max(0.0, up.sigma**2 - (scale * here.sigma) ** 2))
    row = stage.x
    moved = Row(scale * row.x, scale * row.base, tuple(scale * c for c in row.outputs), math.hypot(scale * row.noise, added))
    return replace(stage, to=up.t, x=moved)


def check_order(sampler: str, order: int | None, most: int, steps: int, usual: int) -> int:
    """The order asked for, or the usual one where the steps allow it.

    Raises:
        WorkbenchError: for an order that does not exist, or that so few steps cannot reach.
    """
    if order is None:
        return min(usual, steps)
    if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= most:
        raise WorkbenchError(f"order is {order!r}, but {sampler} has orders 1 to {most}.")
    if order > steps:
        raise WorkbenchError(
            f"order {order} needs {order} points to look back on, but this plan has {steps} step{'s' * (steps > 1)}: "
            f"take {order} steps or more, or order {steps} at most."
        )
    return order


def check_choice(option: str, value: str, known: Sequence[str]) -> str:
    """One of the names that an option takes, else `UnknownName`."""
    if value not in known:
        raise unknown(option, value, known)
    return value


def check_range(option: str, value: float, low: float, high: float, says: str) -> float:
    """A number from low to high, else a sentence that says what its ends mean."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise WorkbenchError(f"{option} is {value!r}, but must lie between {low:g} and {high:g} ({says}).")
    return float(value)


@functools.cache
def gauss_legendre(n: int = 64) -> tuple[Tensor, Tensor]:
    """Nodes and weights (n,) on [-1, 1] (Golub and Welsch 1969)."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = k / torch.sqrt(4 * k**2 - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return values, 2 * vectors[0] ** 2


def polynomial_weights(
    path: Path, grid: Sequence[Point], i: int | Sequence[int], order: int, variable: str, kind: str, ahead: int = 0
) -> Tensor:
    """Weights of the `order` newest outputs in steps i -> i + 1 that integrate their interpolation polynomial exactly, (len(i), order).

    x0 outputs: x_t = sigma_t / sigma_s x_s + alpha_t int e^(q - log_snr_t) x0(q) dq, q = log_snr;
    eps outputs: x_t = alpha_t / alpha_s x_s + alpha_t int eps d rho.

    Args:
        grid: the plan's points. i: steps, order - 1 or more each, none of them `singular` (with "rho", t may be clean data).
        variable: what the polynomial is in: "log_snr", "rho" or "t". kind: x0 or eps.
        ahead: 1 if the newest output is the one at i + 1.
    """
    index = torch.as_tensor(i).reshape(-1)
    table = torch.tensor(grid, dtype=torch.float64)
    t, alpha, sigma, lam = table[:, 0], table[:, 1], table[:, 2], table[:, 3]
    rho = sigma / alpha
    back = index[:, None] + ahead - torch.arange(order)
    u, w = gauss_legendre()
    if variable == "rho":
        low, high, nodes = rho[index + 1, None], rho[index, None], rho[back]
        q = low + (high - low) * (u + 1) / 2
        measure = -alpha[index + 1, None] * w * (high - low) / 2
    else:
        h = (lam[index + 1] - lam[index])[:, None]
        v = -h * (1 - u) / 2  # log_snr - log_snr_t
        at = lam[index + 1, None] + v
        q, nodes = (at, lam[back]) if variable == "log_snr" else (path.time(at), t[back])
        if kind == "x0":
            measure = alpha[index + 1, None] * torch.exp(v) * w * h / 2
        else:
            measure = -sigma[index + 1, None] * torch.exp(-v) * w * h / 2
    columns = []
    for k in range(order):
        basis = torch.ones_like(q)
        for j in range(order):
            if j != k:
                basis = basis * (q - nodes[:, j, None]) / (nodes[:, k, None] - nodes[:, j, None])
        columns.append((measure * basis).sum(1))
    return torch.stack(columns, 1)
