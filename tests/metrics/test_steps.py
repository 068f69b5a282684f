"""Motion, targets and their decision along a trajectory, and principal components, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

import workbench as wb
from workbench import metrics, paths
from workbench.errors import WorkbenchError
from workbench.samplers import Trajectory


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(x: torch.Tensor, target: torch.Tensor | None = None, times: torch.Tensor | None = None) -> Trajectory:
    k = len(x)
    times = torch.linspace(1, 0, k, dtype=torch.float64) if times is None else times
    return Trajectory(times, x, x if target is None else target, tuple(range(k)), (0.0,) * k)


def line(times: torch.Tensor, path: str = "linear", n: int = 5) -> tuple[Trajectory, torch.Tensor, torch.Tensor]:
    x0, eps = normal(n, 1, 2, 2), normal(n, 1, 2, 2, seed=1)
    return made(torch.stack([paths.get(path).mix(x0, eps, float(t)) for t in times]), times=times), x0, eps


def test_a_straight_line_moves_by_its_share_of_the_chord_and_does_not_turn():
    times = torch.tensor([1.0, 0.9, 0.4, 0.0], dtype=torch.float64)
    run, x0, eps = line(times)
    chord = float((eps - x0).square().mean().sqrt())
    assert metrics.displacement(run).tolist() == pytest.approx([0.1 * chord, 0.5 * chord, 0.4 * chord], rel=1e-12)
    assert metrics.curvature(run).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_every_step_on_a_circle_turns_by_the_same_angle():
    angle = torch.linspace(0, math.pi / 2, 7, dtype=torch.float64)
    arc = torch.stack([angle.cos(), angle.sin()], 1)
    run = made(torch.stack([2 * arc, 5 * arc], 1))  # (7, 2 samples, 2): the radius does not matter
    assert metrics.curvature(run).tolist() == pytest.approx([15.0] * 5, rel=1e-9)
    chords = [2 * radius * math.sin(math.radians(7.5)) for radius in (2, 5)]
    expected = math.sqrt((chords[0] ** 2 + chords[1] ** 2) / 4)  # over two samples and two coordinates
    assert metrics.displacement(run).tolist() == pytest.approx([expected] * 6, rel=1e-9)


def test_turning_back_is_180_degrees_and_standing_still_is_left_out():
    back = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    still = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert metrics.curvature(made(torch.stack([back, still], 1))).tolist() == [180.0]
    assert metrics.curvature(made(still[:, None])).isnan().all()
    assert metrics.curvature(made(back[:2, None])).shape == (0,)


@pytest.mark.parametrize("name", ["linear", "cosine", "vp", "trig", "edm"])
def test_a_path_with_fixed_ends_is_straight_in_flow_coordinates(name):
    times = torch.linspace(0.9, 0.1, 9, dtype=torch.float64)
    run, x0, eps = line(times, name)
    path = paths.get(name)
    assert float(metrics.curvature(run, path).max()) < 1e-4
    share = path.sigma(times) / (path.alpha(times) + path.sigma(times))
    chord = float((eps - x0).square().mean().sqrt())
    assert metrics.displacement(run, path).tolist() == pytest.approx((share.diff().abs() * chord).tolist(), rel=1e-9)
    if name in ("cosine", "vp", "trig"):
        assert float(metrics.curvature(run).min()) > 0.5


def test_target_error_is_the_mean_over_samples_of_their_rms():
    x = torch.zeros(3, 2, 4, dtype=torch.float64)
    target = torch.zeros(3, 2, 4, dtype=torch.float64)
    target[0, 0], target[0, 1], target[1, 1, 0] = 3.0, -1.0, 2.0
    assert metrics.target_error(made(x, target)).tolist() == pytest.approx([2.0, 0.5, 0.0], abs=1e-12)


def test_target_diversity_is_pairwise_diversity_at_every_point():
    target = normal(4, 6, 1, 3, 3)
    run = made(normal(4, 6, 1, 3, 3, seed=2), target)
    assert metrics.target_diversity(run).tolist() == pytest.approx([metrics.pairwise_diversity(t) for t in target], rel=1e-12)
    classes = [0, 0, 0, 1, 1, 1]
    within = [metrics.pairwise_diversity(t, classes) for t in target]
    assert metrics.target_diversity(run, classes).tolist() == pytest.approx(within, rel=1e-12)
    with pytest.raises(WorkbenchError, match="at least 2"):
        metrics.target_diversity(made(x=normal(3, 1, 2)))


def test_an_exact_teachers_seeds_see_one_mean_and_then_part():
    """At t = 1 every target is the mean of the data; at t = 0 it is the sample."""
    teacher = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2])
    run = wb.record(wb.run(wb.plan("heun", "linear", 12), teacher, normal(40, 2)))
    diversity = metrics.target_diversity(run)
    assert float(diversity[0]) == pytest.approx(0.0, abs=1e-12)
    assert float(diversity[-1]) == pytest.approx(metrics.pairwise_diversity(run.final), rel=1e-12)


def test_decided_is_the_last_crossing():
    target = torch.tensor([8.0, 3.0, 5.0, 4.0, 0.0]).reshape(5, 1, 1)
    run = made(torch.zeros(5, 1, 1), target)
    assert metrics.decided(run) == 3  # 3.0 at point 1 does not last; 4.0 is half of 8.0 and counts
    assert metrics.decided(run, 0.7) == 1
    assert metrics.decided(run, 1.0) == 0
    assert metrics.decided(run, 0.0) == 4


def test_a_one_step_model_decides_at_once():
    teacher = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2])
    assert metrics.decided(wb.record(wb.run(wb.plan("consistency", "linear", 1), teacher, normal(4, 2)))) == 0


def test_decided_says_what_it_cannot_say():
    run = made(torch.zeros(2, 1, 1), torch.ones(2, 1, 1))
    with pytest.raises(WorkbenchError, match="nothing is decided"):
        metrics.decided(run)
    for share in (-0.1, 1.5, float("nan"), "half"):
        with pytest.raises(WorkbenchError, match="from 0 to 1"):
            metrics.decided(run, share)
    with pytest.raises(WorkbenchError, match="at least 2 points"):
        metrics.displacement(made(torch.zeros(1, 3, 2)))


@pytest.mark.parametrize("n", [40, 6])
def test_principal_components_of_a_known_spectrum(n):
    """Rows of a scaled orthonormal frame: variances 9, 4, 1 along known axes, from many samples and from few."""
    basis = torch.linalg.qr(normal(10, 3)).Q  # (10, 3): three axes in ten dimensions
    frame = torch.linalg.qr(torch.cat([torch.ones(n, 1, dtype=torch.float64), normal(n, 3)], 1)).Q[:, 1:]  # columns sum to 0
    x = frame @ torch.diag(torch.tensor([3.0, 2.0, 1.0]).double()) @ basis.T + 7
    found = metrics.principal_components(x)
    assert found.share.tolist() == pytest.approx([9 / 14, 4 / 14], rel=1e-9)
    assert (found.axes @ basis[:, :2]).abs().tolist() == [pytest.approx([1, 0], abs=1e-8), pytest.approx([0, 1], abs=1e-8)]
    assert (found.axes.gather(1, found.axes.abs().argmax(1, keepdim=True)) > 0).all()
    assert torch.allclose(found.project(x).abs(), (frame[:, :2] * torch.tensor([3.0, 2.0])).abs(), atol=1e-8)


def test_principal_components_weigh_samples():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    assert metrics.principal_components(x).axes[0].tolist() == [0.0, 1.0]
    assert metrics.principal_components(x, weights=torch.tensor([9.0, 9.0, 1.0, 1.0])).axes[0].tolist() == [1.0, 0.0]
    assert metrics.principal_components(x[:2]).share.tolist() == pytest.approx([1.0, 0.0])


def test_principal_components_refuse_what_has_none():
    with pytest.raises(WorkbenchError, match="all the same"):
        metrics.principal_components(torch.ones(4, 3))
    with pytest.raises(WorkbenchError, match="1 coordinates"):
        metrics.principal_components(normal(4, 1))
