"""Precision, recall, density, coverage, modes and classes against brute force and expectations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from workbench import metrics
from workbench.errors import WorkbenchError
from workbench.metrics import samples


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("block, dim", [(7, 3), (1024, 3), (7, 100)])
def test_all_four_equal_brute_force(monkeypatch, block, dim):
    monkeypatch.setattr(samples, "BLOCK", block)
    x, y, k = 0.8 * normal(20, dim) + 0.3, normal(25, dim, seed=1), 3

    def radius(points, i):
        return sorted(float((points[i] - other).norm()) for j, other in enumerate(points) if j != i)[k - 1]

    across = [[float((u - v).norm()) for v in y] for u in x]
    in_x = [[across[i][j] <= radius(x, i) for j in range(25)] for i in range(20)]
    in_y = [[across[i][j] <= radius(y, j) for j in range(25)] for i in range(20)]
    found = metrics.precision_recall(x, y, k)
    assert found.precision == np.mean([any(row) for row in in_y])
    assert found.recall == np.mean([any(in_x[i][j] for i in range(20)) for j in range(25)])
    found = metrics.density_coverage(x, y, k)
    assert found.density == pytest.approx(np.sum(in_y) / (k * 20), rel=1e-12)
    assert found.coverage == np.mean([any(in_y[i][j] for i in range(20)) for j in range(25)])


@pytest.mark.parametrize("dim", [4, 100])
def test_identical_sets_are_fully_precise_and_recalled(dim):
    x = normal(200, dim)
    assert metrics.precision_recall(x, x) == (1.0, 1.0)
    assert metrics.density_coverage(x, x).coverage == 1.0


def test_density_and_coverage_of_equal_laws():
    n, k = 300, 5
    draws = [metrics.density_coverage(normal(n, 8, seed=s), normal(n, 8, seed=100 + s), k) for s in range(12)]
    density, coverage = np.array(draws).T
    # of the n - 1 real and n fake neighbours of a real point, in order of distance, the first k are all real
    missed = math.prod((n - 1 - j) / (2 * n - 1 - j) for j in range(k))
    assert missed == pytest.approx(2**-k, rel=0.04)
    assert abs(density.mean() - 1) < 4 * density.std(ddof=1) / 12**0.5
    assert abs(coverage.mean() - (1 - missed)) < 4 * coverage.std(ddof=1) / 12**0.5


def test_a_dropped_mode_lowers_recall_and_coverage_only():
    real = torch.cat([normal(200, 2), normal(200, 2, seed=1) + 20])
    fake = torch.cat([normal(200, 2, seed=2), normal(200, 2, seed=3) + 20])
    whole, half = metrics.precision_recall(fake, real), metrics.precision_recall(fake[:200], real)
    assert whole.recall > 0.9 and half.recall < 0.5 and abs(half.precision - whole.precision) < 0.05
    whole, half = metrics.density_coverage(fake, real), metrics.density_coverage(fake[:200], real)
    assert whole.coverage > 0.9 and half.coverage <= 0.5 and abs(half.density - whole.density) < 0.2


def test_a_collapsed_student_is_precise_without_recall():
    real = normal(100, 3)
    found = metrics.precision_recall(real[:1].expand(100, 3), real)
    assert found.precision == 1.0 and found.recall == 0.01
    assert metrics.density_coverage(real[:1].expand(100, 3), real).coverage < 0.2


def test_an_outlier_among_the_data_inflates_precision_but_hardly_density():
    real = torch.cat([normal(200, 2), torch.tensor([[50.0, 50.0]], dtype=torch.float64)])
    fake = normal(200, 2, seed=1) + 15
    assert metrics.precision_recall(fake, real).precision == 1.0
    assert metrics.density_coverage(fake, real).density < 0.3


@pytest.mark.parametrize("metric", [metrics.precision_recall, metrics.density_coverage])
def test_bad_input_is_refused(metric):
    with pytest.raises(WorkbenchError, match=r"k \(neighbours\) is 5, but must be a whole number from 1 to 3"):
        metric(normal(4, 2), normal(9, 2), k=5)
    with pytest.raises(WorkbenchError, match="all but the first size"):
        metric(normal(9, 2), normal(9, 3))
    with pytest.raises(WorkbenchError, match="NaN"):
        metric(normal(9, 2), normal(9, 2) * torch.nan)


def ring(modes: int = 8) -> torch.Tensor:
    angle = torch.arange(modes, dtype=torch.float64) * 2 * math.pi / modes
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_mode_coverage_of_the_exact_mixture():
    means = ring()
    x = means.repeat(500, 1) + 0.1 * normal(4000, 2)
    found = metrics.mode_coverage(x, means, 0.1)
    assert found.hit == 1.0
    # each point is off with probability at most exp(-4^2 / 2): 1.3 expected of 4000, 4 standard deviations of room
    assert found.off * 4000 <= 1.35 + 4 * 1.35**0.5
    # every mode was given 500 points, and neighbours are 7.6 scales apart: hardly a point is off or crosses over
    assert float((found.shares - 1 / 8).abs().max()) < 0.002
    assert float(found.shares.sum()) + found.off == pytest.approx(1.0)


def test_mode_coverage_counts_what_is_missed_and_what_is_between():
    means = ring()
    x = torch.cat([means[:6].repeat(10, 1), torch.zeros(20, 2, dtype=torch.float64)])
    found = metrics.mode_coverage(x, means, 0.05)
    assert (found.hit, found.off) == (0.75, 0.25)
    assert torch.equal(found.shares > 0, torch.arange(8) < 6)


def test_mode_coverage_measures_in_units_of_each_scale():
    means = torch.tensor([[0.0], [10.0]])
    x = torch.tensor([[4.5], [9.0]])  # 4.5 is nearer to 0, but 5.5 / 5 < 4.5 / 0.5
    found = metrics.mode_coverage(x, means, torch.tensor([0.5, 5.0]))
    assert found.shares.tolist() == [0.0, 1.0] and found.off == 0.0
    assert metrics.mode_coverage(x, means, [0.5, 0.1]).off == 1.0
    with pytest.raises(WorkbenchError, match="scales"):
        metrics.mode_coverage(x, means, [0.5, -1.0])
    with pytest.raises(WorkbenchError, match="scales"):
        metrics.mode_coverage(x, means, [0.5, 1.0, 1.0])


def test_class_agreement():
    logits = torch.eye(4)
    assert metrics.class_agreement(logits, torch.arange(4)) == 1.0
    assert metrics.class_agreement(logits, [0, 1, 3, 2]) == 0.5
    for labels in (torch.arange(3), torch.arange(4) + 1, torch.arange(4).float()):
        with pytest.raises(WorkbenchError, match="labels"):
            metrics.class_agreement(logits, labels)
    with pytest.raises(WorkbenchError, match="NaN"):
        metrics.class_agreement(logits * torch.nan, torch.arange(4))
