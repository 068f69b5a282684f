"""Toy densities are exact draws: checked against their own geometry, not against stored points."""

from __future__ import annotations

import math

import pytest
import torch

from workbench import data
from workbench.errors import UnknownName, WorkbenchError

N = 20_000


@pytest.mark.parametrize("name", sorted(data.TOYS))
def test_reproducible_and_in_range(name):
    x = data.toy(name, 500, seed=3)
    assert x.shape == (500, 2) and x.dtype == torch.float64 and bool(torch.isfinite(x).all())
    state = torch.get_rng_state()
    assert torch.equal(data.toy(name, 500, seed=3), x) and not torch.equal(data.toy(name, 500, seed=4), x)
    assert torch.equal(torch.get_rng_state(), state)  # no function touches the global generator
    assert float(data.toy(name, N).abs().max()) < 1.75


def test_eight_gaussians_are_eight_equal_gaussians():
    """n = 20000: shares have standard error 0.0023, deviations 0.0005."""
    x = data.toy("eight_gaussians", N)
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = torch.stack([angle.cos(), angle.sin()], 1)
    nearest = torch.cdist(x, means).argmin(1)
    assert torch.allclose(torch.bincount(nearest) / N, torch.full((8,), 0.125), atol=0.012)
    assert float((x - means[nearest]).std()) == pytest.approx(0.1, abs=0.003)


def test_checkerboard_fills_its_dark_squares_evenly():
    x = data.toy("checkerboard", N)
    cell = ((x + 1) * 2).floor().long()
    assert int(cell.min()) == 0 and int(cell.max()) == 3
    counts = torch.bincount(cell[:, 0] * 4 + cell[:, 1], minlength=16) / N
    dark = counts > 0
    assert int(dark.sum()) == 8 and bool((cell.sum(1) % 2 == cell[0].sum() % 2).all())
    assert torch.allclose(counts[dark].double(), torch.full((8,), 0.125, dtype=torch.float64), atol=0.012)


def test_moons_lie_on_two_half_circles():
    x = data.toy("moons", N) + torch.tensor([0.5, 0.25], dtype=torch.float64)
    upper = (x.norm(dim=1) - 1).abs()
    lower = ((x - torch.tensor([1.0, 0.5], dtype=torch.float64)).norm(dim=1) - 1).abs()
    assert float(torch.minimum(upper, lower).max()) < 0.05 * 6
    assert float((upper < lower).double().mean()) == pytest.approx(0.5, abs=0.02)


def test_spirals_lie_on_two_arms():
    x = data.toy("spirals", N)
    turn = torch.linspace(0, 3 * math.pi, 2000, dtype=torch.float64)
    arm = torch.stack([-turn.cos(), turn.sin()], 1) * turn[:, None] / (3 * math.pi)
    assert float(torch.cdist(x[:4000], torch.cat([arm, -arm])).min(1).values.max()) < 0.03 * 6
    assert float(x.mean(0).abs().max()) < 0.02  # the arms are each other's mirror image


def test_bad_requests():
    with pytest.raises(UnknownName, match=r"did you mean 'moons'\?"):
        data.toy("moon", 5)
    with pytest.raises(WorkbenchError, match="n is 0"):
        data.toy("moons", 0)
