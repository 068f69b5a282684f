"""Paired errors, straightness and diversity against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from workbench import metrics, paths
from workbench.errors import WorkbenchError
from workbench.metrics import samples


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_trajectory_error_is_root_mean_square_over_everything():
    x = normal(5, 1, 3, 3)
    error = torch.zeros(5, 1, 3, 3, dtype=torch.float64)
    error[0] = 2.0
    assert metrics.paired_errors(x + error, x).tolist() == pytest.approx([2.0, 0.0, 0.0, 0.0, 0.0], abs=1e-12)
    assert metrics.trajectory_error(x + error, x) == pytest.approx(math.sqrt(4 / 5), rel=1e-12)
    assert metrics.trajectory_error(x, x) == 0.0


def test_trajectory_error_is_measured_in_double():
    x = torch.full((2, 3), 1.0)
    assert metrics.trajectory_error(x, x.double() + 1e-12) == pytest.approx(1e-12, rel=1e-3)


def test_trajectory_error_refuses_unpaired_or_broken_samples():
    with pytest.raises(WorkbenchError, match="item i is compared"):
        metrics.trajectory_error(normal(3, 2), normal(4, 2))
    with pytest.raises(WorkbenchError, match="all but the first size"):
        metrics.trajectory_error(normal(3, 2), normal(3, 1))
    with pytest.raises(WorkbenchError, match="NaN"):
        metrics.trajectory_error(normal(3, 2) / 0, normal(3, 2))


def test_a_straight_line_at_constant_speed_is_straight_on_any_grid():
    start, end = normal(6, 2), normal(6, 2, seed=1)
    times = torch.tensor([1.0, 0.9, 0.4, 0.35, 0.0], dtype=torch.float64)
    states = [(1 - t) * start + t * end for t in times]
    assert metrics.straightness(states, times) == pytest.approx(0.0, abs=1e-12)
    assert metrics.straightness(states[::-1], times.flip(0).tolist()) == pytest.approx(0.0, abs=1e-12)
    assert metrics.straightness([start, end], [0, 1]) == 0.0


def test_straightness_of_an_accelerating_line_and_of_a_half_circle():
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    # z = u^2: int (2u - 1)^2 du = 1/3; the polygon misses O(h^2)
    assert metrics.straightness([t.square().reshape(1, 1) for t in u], u) == pytest.approx(1 / 3, rel=1e-5)
    # half a circle of radius 1: speed pi, chord 2, so S = pi^2 / 4 - 1
    circle = [torch.stack([(math.pi * t).cos(), (math.pi * t).sin()])[None] for t in u]
    assert metrics.straightness(circle, u) == pytest.approx(math.pi**2 / 4 - 1, rel=1e-5)


def test_straightness_does_not_depend_on_units_or_on_the_direction_of_time():
    states, times = [normal(4, 3, seed=s) for s in range(5)], torch.linspace(0, 1, 5)
    value = metrics.straightness(states, times)
    assert value > 0.1
    assert metrics.straightness([10 * state for state in states], 3 * times + 2) == pytest.approx(value, rel=1e-9)
    assert metrics.straightness(states[::-1], 1 - times) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine", "vp", "trig"])
def test_straightness_in_flow_coordinates_is_the_same_for_every_path(name):
    """x_t = alpha x0 + sigma eps with fixed ends is the straight line of flow matching, whatever the path."""
    path, x0, eps = paths.get(name), normal(3, 2), normal(3, 2, seed=1)
    times = torch.linspace(1, 0, 20, dtype=torch.float64)
    states = [path.mix(x0, eps, float(t)) for t in times]
    assert metrics.straightness(states, times, path) == pytest.approx(0.0, abs=1e-10)
    if name != "linear":
        assert metrics.straightness(states, times) > 1e-3


def test_straightness_refuses_times_that_do_not_fit():
    states = [normal(2, 2, seed=s) for s in range(3)]
    with pytest.raises(WorkbenchError, match="3 states and 2 times"):
        metrics.straightness(states, [0, 1])
    for times in ([0, 0.5, 0.5], [0, 1, 0.5], [0, 1, 0], [0, float("nan"), 1]):
        with pytest.raises(WorkbenchError, match="times must rise"):
            metrics.straightness(states, times)
    with pytest.raises(WorkbenchError, match="end where they began"):
        metrics.straightness([states[0], states[1], states[0]], [0, 0.5, 1])


@pytest.mark.parametrize("block", [3, 1024])
def test_diversity_equals_brute_force_and_keeps_to_classes(monkeypatch, block):
    monkeypatch.setattr(samples, "BLOCK", block)
    x, labels = normal(8, 1, 2, 2), torch.tensor([0, 1, 1, 0, 2, 1, 0, 1])

    def mean(pairs):
        return sum(float((x[i] - x[j]).square().mean().sqrt()) for i, j in pairs) / len(pairs)

    pairs = [(i, j) for i in range(8) for j in range(i)]
    assert metrics.pairwise_diversity(x) == pytest.approx(mean(pairs), rel=1e-9)
    within = [(i, j) for i, j in pairs if labels[i] == labels[j]]
    assert metrics.pairwise_diversity(x, labels) == pytest.approx(mean(within), rel=1e-9)


def test_diversity_of_white_noise_and_of_copies():
    # the difference of two standard normals has root mean square sqrt(2) (1 - O(1 / d))
    assert metrics.pairwise_diversity(normal(50, 2000)) == pytest.approx(2**0.5, rel=0.005)
    assert metrics.pairwise_diversity(torch.ones(5, 100)) == 0.0


def test_diversity_refuses_what_has_no_pairs():
    with pytest.raises(WorkbenchError, match="at least 2"):
        metrics.pairwise_diversity(normal(1, 2))
    with pytest.raises(WorkbenchError, match="share a class"):
        metrics.pairwise_diversity(normal(2, 2), [0, 1])
    with pytest.raises(WorkbenchError, match="2 samples but 3 labels"):
        metrics.pairwise_diversity(normal(2, 2), [0, 1, 1])
