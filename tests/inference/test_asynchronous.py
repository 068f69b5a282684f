"""Asynchronous times on a jointly Gaussian sequence: together, one after the other, and everything in between."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.inference.asynchronous import asynchronous_run, fopp_times, lag_rows, path_counts
from workbench.inference.resolution import final, identity_noise
from workbench.metrics.distances import Moments, frechet_from_moments
from workbench.teachers.gaussian import GaussianSequence, rotating_sequence

F64 = torch.float64
SEQUENCE = rotating_sequence()
NOISE = torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(0), dtype=F64)


def w2(rows: Tensor) -> float:
    """Exact W2 to the joint law of a linear sampler, read off from unit vectors."""
    rows, zero = rows.flatten(1), torch.zeros(8, dtype=F64)
    return frechet_from_moments(Moments(zero, rows.T @ rows), Moments(zero, SEQUENCE.covariance)) ** 0.5


def test_the_sequence_is_exact_for_a_time_a_frame() -> None:
    """Against a mixture at one time, and against regression on noisy frames at times of their own."""
    joint = wb.mixture(torch.zeros(1, 8), SEQUENCE.covariance[None])
    assert torch.allclose(SEQUENCE(NOISE, 0.4).flatten(1), joint(NOISE.flatten(1), 0.4), atol=1e-12)
    times = torch.linspace(0.1, 0.9, 24, dtype=F64).view(6, 4)
    for x, t, found in zip(NOISE, times, SEQUENCE(NOISE, times), strict=True):
        t = t.repeat_interleave(2)
        noisy = torch.outer(1 - t, 1 - t) * SEQUENCE.covariance + torch.diag(t**2)
        assert torch.allclose(
            found.flatten(), SEQUENCE.covariance * (1 - t) @ torch.linalg.inv(noisy) @ x.flatten(), atol=1e-10
        )
    for f in range(1, 4):
        weight, rest = SEQUENCE.conditional(f)
        assert torch.allclose(weight[:, : 2 * (f - 1)], torch.zeros(2, 2 * (f - 1), dtype=F64), atol=1e-10)  # Markov
        assert torch.allclose(rest, (1 - 0.9**2) * SEQUENCE.covariance[2 * f : 2 * f + 2, 2 * f : 2 * f + 2], atol=1e-10)


@pytest.mark.parametrize(("sampler", "options"), [("ddim", {}), ("ddim", {"eta": 1.0}), ("heun", {}), ("dpmpp_2m", {})])
def test_no_lag_is_the_joint_run(sampler: str, options: dict) -> None:
    plan = wb.plan(sampler, "linear", 9, **options)
    *_, joint = wb.run(plan, SEQUENCE, NOISE, seed=3)
    last = final(asynchronous_run(plan, SEQUENCE, NOISE, lag=0, seed=3))
    assert torch.allclose(last.x, joint.x, atol=1e-12) and last.nfe == joint.nfe


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m"])
def test_full_lag_samples_each_frame_from_its_conditional(sampler: str) -> None:
    plan = wb.plan(sampler, "linear", 9)
    last = final(asynchronous_run(plan, SEQUENCE, NOISE, lag=plan.evaluations))
    assert last.nfe == 4 * plan.evaluations == last.moved
    drawn = NOISE[:, :0].flatten(1)
    for f in range(4):
        weight, rest = (None, SEQUENCE.covariance[:2, :2]) if f == 0 else SEQUENCE.conditional(f)
        mean = torch.zeros(6, 2, dtype=F64) if weight is None else drawn @ weight.T
        for x, m, z in zip(last.x[:, f], mean, NOISE[:, f], strict=True):
            *_, alone = wb.run(plan, wb.mixture(m[None], rest[None]), z[None])
            assert torch.allclose(alone.x[0], x, atol=1e-9)
        drawn = last.x[:, : f + 1].flatten(1)


def test_rows_and_clock() -> None:
    for lag, rows in ((0, 5), (2, 9), (5, 15)):
        assert len(lag_rows(5, 3, lag)) == rows + 1 == 5 + 2 * lag + 1
    assert lag_rows(3, 3, 2) == [[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 1, 0], [3, 2, 0], [3, 3, 1], [3, 3, 2], [3, 3, 3]]
    frames = list(asynchronous_run(wb.plan("ddim", "linear", 4), SEQUENCE, NOISE, lag=1))
    assert frames[2].clock.tolist() == [0.5, 0.75, 1.0, 1.0] and frames[2].t == 1.0
    assert torch.equal(frames[2].x[:, 3], NOISE[:, 3])  # a frame that waits keeps its state
    assert frames[-1].nfe == 7 and frames[-1].moved == 16
    assert torch.equal(wb.record(iter(frames)).final, frames[-1].x)


def test_error_against_lag() -> None:
    """At equal steps of a frame a small lag helps; at equal evaluations it does not, since rows are spent waiting."""
    units = identity_noise(SEQUENCE.shape)

    def error(steps: int, lag: int) -> float:
        return w2(final(asynchronous_run(wb.plan("dpmpp_2m", "linear", steps), SEQUENCE, units, lag)).x)

    assert error(16, 2) < 0.85 * error(16, 0) and error(16, 16) < error(16, 0)
    equal = [error(steps, lag) for steps, lag in ((32, 0), (26, 2), (20, 4), (14, 6), (8, 8))]
    assert equal == sorted(equal) and equal[-1] > 4 * equal[0]


def test_path_counts_are_binomial() -> None:
    counts = path_counts(7, 5).exp()
    for level in range(7):
        for left in range(5):
            assert float(counts[level, left]) == pytest.approx(math.comb(6 - level + left, left), rel=1e-9)
    assert math.isfinite(float(path_counts(1000, 64)[0, 63]))


def test_fopp_draws_uniformly_given_its_pivot() -> None:
    n = 40_000
    drawn = fopp_times(n, 3, 4, seed=1)
    assert bool((drawn.diff(dim=1) >= 0).all()) and int(drawn.min()) == 0 and int(drawn.max()) == 3
    # exact law: mean over pivots f and levels t of the uniform law on non-decreasing vectors with v_f = t
    every = [(a, b, c) for a in range(4) for b in range(a, 4) for c in range(b, 4)]
    law = dict.fromkeys(every, 0.0)
    for f in range(3):
        for t in range(4):
            through = [v for v in every if v[f] == t]
            for v in through:
                law[v] += 1 / 12 / len(through)
    codes, counts = torch.unique(drawn @ torch.tensor([16, 4, 1]), return_counts=True)
    seen = dict(zip(codes.tolist(), counts.tolist(), strict=True))
    for (a, b, c), p in law.items():
        assert abs(seen.get(16 * a + 4 * b + c, 0) - n * p) < 5 * math.sqrt(n * p * (1 - p))
    assert torch.equal(drawn, fopp_times(n, 3, 4, seed=1)) and fopp_times(2, 1, 1).tolist() == [[0], [0]]


def test_bad_input() -> None:
    plan = wb.plan("ddim", "linear", 4)
    with pytest.raises(WorkbenchError, match="lag is 5"):
        asynchronous_run(plan, SEQUENCE, NOISE, lag=5)
    with pytest.raises(WorkbenchError, match="frames"):
        asynchronous_run(plan, SEQUENCE, NOISE[:, 0, 0])
    with pytest.raises(WorkbenchError, match="do not fit"):
        SEQUENCE(NOISE, torch.zeros(6, 3))
    with pytest.raises(WorkbenchError, match="not positive definite"):
        GaussianSequence(-torch.eye(4), 2)
