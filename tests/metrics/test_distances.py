"""Closed forms, brute force and parity for the distances, and the honesty of a reported figure."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from workbench import metrics
from workbench.errors import WorkbenchError
from workbench.metrics import samples


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[7, 1024])
def block(request, monkeypatch):
    """Run with several blocks of rows and with one."""
    monkeypatch.setattr(samples, "BLOCK", request.param)


PAIRWISE = [metrics.energy_distance, metrics.mmd, metrics.kid, metrics.sliced_wasserstein, metrics.wasserstein2]


# sliced Wasserstein


def test_sliced_wasserstein_of_a_shift_is_its_length_over_root_d():
    x, delta = normal(50, 8), torch.arange(8.0, dtype=torch.float64)
    value = metrics.sliced_wasserstein(x, x + delta, projections=4096)
    # theta.delta^2 has relative deviation sqrt(2 (d - 1) / (d + 2)) = 1.18: 4 standard errors of the mean are 0.074
    assert value**2 == pytest.approx(float(delta.square().sum()) / 8, rel=0.074)


def test_sliced_wasserstein_in_one_dimension_is_exact():
    x = normal(100, 1)
    assert metrics.sliced_wasserstein(x, 2 * x + 1) == pytest.approx(float((x + 1).square().mean().sqrt()), rel=1e-12)


def test_sliced_wasserstein_agrees_with_pot_on_the_same_directions():
    import ot

    x, y = normal(64, 5), 1.5 * normal(64, 5, seed=1) + 0.3
    theta = torch.randn(16, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    theta = (theta / theta.norm(dim=1, keepdim=True)).T.numpy()
    for p in (1.0, 2.0):
        expected = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), p=p, projections=theta)
        assert metrics.sliced_wasserstein(x, y, projections=16, p=p, seed=3) == pytest.approx(expected, rel=1e-9)


def test_sliced_wasserstein_with_unequal_sizes_sees_measures_not_lists():
    x, y = normal(40, 3), normal(40, 3, seed=1) + 1
    value = metrics.sliced_wasserstein(x, y)
    assert metrics.sliced_wasserstein(x.repeat(3, 1), y) == pytest.approx(value, rel=1e-6)  # cumulated weights round
    assert value == pytest.approx(metrics.sliced_wasserstein(y, x), rel=1e-12)


def test_sliced_wasserstein_takes_images_and_repeats():
    x, y = normal(10, 1, 4, 4), normal(10, 1, 4, 4, seed=1)
    assert metrics.sliced_wasserstein(x, y) == metrics.sliced_wasserstein(x.flatten(1), y.flatten(1))
    assert metrics.sliced_wasserstein(x, y) != metrics.sliced_wasserstein(x, y, seed=1)


# exact W2


def test_wasserstein2_of_a_shift_and_of_a_permutation():
    x, delta = normal(60, 3), torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    assert metrics.wasserstein2(x + delta, x.flip(0)) == pytest.approx(5.0, rel=1e-9)
    assert metrics.wasserstein2(x, x.flip(0)) == pytest.approx(0.0, abs=1e-9)


def test_wasserstein2_is_the_best_assignment_in_high_dimension_too():
    from scipy.optimize import linear_sum_assignment

    x, y = normal(50, 100), normal(50, 100, seed=1) + 1
    cost = (x[:, None] - y[None]).square().sum(2).numpy()
    assert metrics.wasserstein2(x, y) == pytest.approx(np.sqrt(cost[linear_sum_assignment(cost)].mean()), rel=1e-9)


def test_wasserstein2_refuses_what_would_take_hours():
    with pytest.raises(WorkbenchError, match="at most 5000"):
        metrics.wasserstein2(torch.zeros(5001, 1), torch.zeros(2, 1))


# energy distance and MMD


def brute_mmd(x: torch.Tensor, y: torch.Tensor, kernel) -> float:
    def mean(a, b, same):
        values = [float(kernel(u, v)) for i, u in enumerate(a) for j, v in enumerate(b) if not (same and i == j)]
        return sum(values) / len(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


@pytest.mark.parametrize("dim", [3, 100])
def test_energy_distance_and_mmd_equal_brute_force(block, dim):
    x, y = normal(17, dim), 2 * normal(23, dim, seed=1) + 0.5
    assert metrics.energy_distance(x, y) == pytest.approx(brute_mmd(x, y, lambda u, v: -(u - v).norm()), rel=1e-9)
    width = metrics.median_distance(y)
    assert width == pytest.approx(float(torch.nn.functional.pdist(y).median()), rel=1e-12)
    expected = brute_mmd(x, y, lambda u, v: torch.exp(-(u - v).square().sum() / (2 * width**2)))
    assert metrics.mmd(x, y) == pytest.approx(expected, rel=1e-9)


def test_energy_distance_of_two_normals_matches_its_closed_form():
    # E|a - b| of N(m, 1) and N(0, 1) with m = 2: z = a - b is N(2, 2), folded normal mean; E|a - a'| = 2 / sqrt(pi)
    m, s = 2.0, 2**0.5
    folded = s * (2 / np.pi) ** 0.5 * np.exp(-(m**2) / (2 * s**2)) + m * (
        1 - 2 * float(torch.special.ndtr(torch.tensor(-m / s)))
    )
    expected = 2 * folded - 4 / np.pi**0.5
    values = [metrics.energy_distance(normal(500, 1, seed=s) + m, normal(500, 1, seed=100 + s)) for s in range(20)]
    assert abs(np.mean(values) - expected) < 4 * np.std(values, ddof=1) / 20**0.5


@pytest.mark.parametrize("metric", [metrics.energy_distance, metrics.mmd, lambda x, y: metrics.kid(x, y, subsets=1)])
def test_unbiased_distances_are_zero_on_average_for_equal_laws(metric):
    values = np.array([metric(normal(100, 16, seed=s), normal(100, 16, seed=1000 + s)) for s in range(40)])
    assert abs(values.mean()) < 4 * values.std(ddof=1) / 40**0.5
    assert metric(normal(100, 16), normal(100, 16, seed=1) + 1) > 10 * values.std()


def test_mmd_bandwidth_comes_from_the_reference_alone():
    x, y = normal(50, 2), normal(50, 2, seed=1)
    assert metrics.mmd(100 * x, y) == metrics.mmd(100 * x, y, bandwidth=metrics.median_distance(y))
    with pytest.raises(WorkbenchError, match="bandwidth"):
        metrics.mmd(x, torch.zeros(5, 2))


# KID


def test_kid_equals_brute_force_on_the_whole_sets():
    x, y = normal(12, 4), normal(12, 4, seed=1) + 0.5
    expected = brute_mmd(x, y, lambda u, v: (u @ v / 4 + 1) ** 3)
    assert metrics.kid(x, y, subsets=3) == pytest.approx(expected, rel=1e-9)


def test_kid_subsets_follow_the_seed_and_their_size():
    x, y = normal(60, 4), normal(80, 4, seed=1)
    first = metrics.kid_subsets(x, y, subsets=5, subset_size=20)
    assert first.shape == (5,) and len(first.unique()) == 5
    assert torch.equal(first, metrics.kid_subsets(x, y, subsets=5, subset_size=20))
    assert not torch.equal(first, metrics.kid_subsets(x, y, subsets=5, subset_size=20, seed=1))
    with pytest.raises(WorkbenchError, match="from 2 to 60"):
        metrics.kid_subsets(x, y, subset_size=61)


# Frechet distance


def spd(dim: int, seed: int) -> torch.Tensor:
    a = normal(dim, dim, seed=seed)
    return a @ a.T / dim + 0.1 * torch.eye(dim, dtype=torch.float64)


def with_moments(n: int, mean: torch.Tensor, covariance: torch.Tensor, seed: int) -> torch.Tensor:
    """Samples whose empirical mean and unbiased covariance are exactly these."""
    z = normal(n, len(mean), seed=seed)
    z = z - z.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / (n - 1)), z.T, upper=False)
    return mean + (torch.linalg.cholesky(covariance) @ white).T


def test_frechet_distance_is_exact_for_known_gaussians():
    from scipy.linalg import sqrtm

    m1, m2, c1, c2 = normal(6), normal(6, seed=1), spd(6, 2), spd(6, 3)
    x, y = with_moments(100, m1, c1, 4), with_moments(80, m2, c2, 5)
    expected = float((m1 - m2).square().sum() + c1.trace() + c2.trace()) - 2 * np.trace(sqrtm((c1 @ c2).numpy())).real
    assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    diagonal = [torch.tensor(values, dtype=torch.float64) for values in ([1.0, 4.0], [9.0, 25.0])]
    zero = torch.zeros(2, dtype=torch.float64)
    first, second = (metrics.Moments(zero, torch.diag(values)) for values in diagonal)
    assert metrics.frechet_from_moments(first, second) == pytest.approx(2**2 + 3**2, rel=1e-12)


def test_frechet_distance_ignores_rotation_and_survives_fewer_samples_than_dimensions():
    x, y = normal(30, 6), 1.3 * normal(40, 6, seed=1) + 0.2
    q, _ = torch.linalg.qr(normal(6, 6, seed=2))
    assert metrics.frechet_distance(x @ q, y @ q) == pytest.approx(metrics.frechet_distance(x, y), rel=1e-9)
    few = normal(4, 6, seed=3)
    assert metrics.frechet_distance(few, few + 1) == pytest.approx(6.0, rel=1e-6)


def test_frechet_distance_has_the_known_bias():
    d, n = 32, 1000
    values = [metrics.frechet_distance(normal(n, d, seed=s), normal(n, d, seed=50 + s)) for s in range(5)]
    assert np.mean(values) == pytest.approx(d**2 / (2 * n) + 2 * d / n, rel=0.1)  # second order adds 5 %


# input


@pytest.mark.parametrize("metric", [*PAIRWISE, metrics.frechet_distance])
def test_bad_samples_are_refused_in_one_sentence(metric):
    good = normal(6, 2)
    broken = good.clone()
    broken[1, 0] = torch.nan
    with pytest.raises(WorkbenchError, match="at least 2"):
        metric(good[:1], good)
    with pytest.raises(WorkbenchError, match="all but the first size"):
        metric(good, normal(6, 3))
    with pytest.raises(WorkbenchError, match="second sample set holds NaN or infinite values in 1 of 6"):
        metric(good, broken)


@pytest.mark.parametrize("metric", [*PAIRWISE, metrics.frechet_distance])
def test_half_precision_input_is_measured_in_double(metric):
    x, y = normal(20, 3).half(), normal(20, 3, seed=1).half()
    assert metric(x, y) == metric(x.double(), y.double())


# figures


def shift(x: torch.Tensor, y: torch.Tensor) -> float:
    return abs(float(x.mean() - y.mean()))


def test_figure_says_everything():
    figure = metrics.Figure("sw2", 0.0791, n=8192, seed=0, floor=0.0364, nfe=1)
    assert str(figure) == "sw2 = 0.0791 (floor 0.0364, n = 8192, nfe = 1, seed 0)"
    assert str(metrics.Figure("fd", 12345.6, n=10, seed=2)) == "fd = 12346 (n = 10, seed 2)"


def test_noise_floor_compares_disjoint_halves_and_says_how_many():
    real = torch.arange(100)
    seen = []
    figure = metrics.noise_floor(lambda x, y: float(seen.append((x, y)) or 1.0), real, n=30, seed=1)
    left, right = seen[0]
    assert figure.n == len(left) == len(right) == 30 and figure.seed == 1
    assert len(torch.cat([left, right]).unique()) == 60
    assert metrics.noise_floor(shift, real.double(), n=80).n == 50
    assert metrics.noise_floor(shift, real.double(), n=30) == metrics.noise_floor(shift, real.double(), n=30)
    with pytest.raises(WorkbenchError, match="at least 4"):
        metrics.noise_floor(shift, real[:3], n=2)


def test_measure_uses_one_count_for_value_and_floor():
    real = normal(100, 2)
    figure = metrics.measure(metrics.energy_distance, normal(80, 2, seed=1) + 3, real, nfe=4)
    assert (figure.name, figure.n, figure.nfe) == ("energy_distance", 50, 4)
    assert figure.value > 20 * abs(figure.floor)
    assert metrics.measure(shift, real[:20] + 1, real).n == 20
    with pytest.raises(WorkbenchError, match="not one number"):
        metrics.measure(metrics.precision_recall, real, real)


def test_importing_the_metrics_stays_light():
    heavy = ("ot", "scipy", "sklearn", "torchmetrics", "diffusers", "datasets")
    code = f"import sys, workbench.metrics; print(*[name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
