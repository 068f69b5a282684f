"""Measured orders of convergence: 1, 2, 1, 2, on every path, in two dimensions and in sixty-four.

In the coordinates x / sigma against alpha / sigma every path follows the same equation, d(x / sigma) / d(alpha / sigma) = D.
So one fine reference, from one noise and between two log-SNRs, judges all of them.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench import paths
from workbench.teachers.mixture import ANALYTIC, Mixture

LOW, HIGH = -2.5, 2.5  # log-SNR where the runs start and stop: rho from 12 to 0.08
COUNTS = (40, 80, 160)
MANY = (80, 160, 320)  # in 64 dimensions modes part within a short stretch of log-SNR: errors fall regularly only from here
ORDERS = {"euler": 1, "heun": 2, "ddim": 1, "dpmpp_2m": 2}


@cache
def teacher(name: str) -> Mixture:
    if name == "64-D":
        return ANALYTIC["mixture64"]()
    return wb.mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5])


def noise(name: str) -> Tensor:
    d = teacher(name).shape[0]
    return torch.randn(8 if d > 2 else 24, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def endpoint(name: str, path: str, sampler: str, steps: int, **options: str) -> Tensor:
    """x / alpha at log-SNR HIGH, after equal steps in log-SNR."""
    path = paths.get(path)
    times = path.time(torch.linspace(LOW, HIGH, steps + 1, dtype=torch.float64))
    plan = wb.plan(sampler, path, schedule=times, **options)
    *_, last = wb.run(plan, teacher(name).on(path), noise(name))
    return last.x / path.alpha(plan.times[-1])


@cache
def reference(name: str) -> Tensor:
    return endpoint(name, "vp", "heun", 2500, variable="rho")


def rms(error: Tensor) -> float:
    return float(error.square().sum(1).mean().sqrt())


def fitted(errors: list[float], counts: tuple[int, ...]) -> float:
    """Least-squares slope of -log(error) against log(steps)."""
    x = torch.tensor(counts, dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).log()
    return -float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


@pytest.mark.parametrize(("name", "path"), [*(("2-D", path) for path in paths.NAMES), ("64-D", "vp"), ("64-D", "linear")])
@pytest.mark.parametrize("sampler", ORDERS)
def test_order(sampler: str, name: str, path: str) -> None:
    """In 64 dimensions on two paths only: that the path's scale does not matter is tested exactly in test_solvers.py."""
    counts = MANY if name == "64-D" else COUNTS
    errors = [rms(endpoint(name, path, sampler, steps) - reference(name)) for steps in counts]
    assert fitted(errors, counts) == pytest.approx(ORDERS[sampler], abs=0.2), errors
    assert errors[-1] < (0.05 if ORDERS[sampler] == 1 else 2e-3) * float(reference(name).norm(dim=1).mean())


def test_reference_is_finer_than_what_it_judges() -> None:
    coarser = endpoint("2-D", "vp", "heun", 1250, variable="rho")
    assert rms(coarser - reference("2-D")) < 2e-5


def whole(sampler: str, steps: int) -> Tensor:
    """The default run: linear path, equal steps in t, from pure noise to clean data."""
    *_, last = wb.run(wb.plan(sampler, "linear", steps), teacher("2-D"), noise("2-D"))
    return last.x


@cache
def whole_reference() -> Tensor:
    return whole("heun", 1500)


@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim"])
def test_order_from_pure_noise_to_clean_data(sampler: str) -> None:
    errors = [rms(whole(sampler, steps) - whole_reference()) for steps in COUNTS]
    assert fitted(errors, COUNTS) == pytest.approx(ORDERS[sampler], abs=0.2), errors


def test_2m_pays_a_logarithm_on_equal_steps_in_t() -> None:
    """Its weights extrapolate in log-SNR, whose steps are log(1 + 1/k) at the k-th point from either end, however many
    there are: local errors of O(1 / (k N^2)) add up to O(log N / N^2). So N^2 error grows by equal amounts when N doubles."""
    scaled = [steps**2 * rms(whole("dpmpp_2m", steps) - whole_reference()) for steps in MANY]
    first, second = scaled[1] - scaled[0], scaled[2] - scaled[1]
    assert first > 0 and second == pytest.approx(first, rel=0.2)
    assert fitted([s / n**2 for s, n in zip(scaled, MANY, strict=True)], MANY) > 1.5
