"""Bottleneck sampling on a Gaussian field that is known at both resolutions: what a switch loses, and what delta gives back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.inference.bottleneck import bottleneck_parts, bottleneck_run, shifted
from workbench.inference.resolution import final, resize
from workbench.teachers.gaussian import block_mean, gaussian_field

FIELD = gaussian_field(8)
MODELS = {8: FIELD, 4: FIELD.down(4)}
FINE = FIELD.frequency > 2  # what 4 pixels a side cannot hold
NOISE = torch.randn(600, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def kept(x: Tensor) -> float:
    """Power in the fine frequencies over the truth; relative standard error 0.01 at n = 600."""
    return float(FIELD.power(x)[FINE].sum() / FIELD.spectrum[FINE].sum())


def test_the_field_is_exact_at_every_resolution() -> None:
    mean = block_mean(8, 4)
    assert torch.allclose(mean @ FIELD.covariance @ mean.T, MODELS[4].covariance, atol=1e-12)
    known = FIELD.given(4)
    assert float((mean @ known.covariance @ mean.T).abs().max()) < 1e-12
    rebuilt = known.covariance + known.regress @ MODELS[4].covariance @ known.regress.T
    assert torch.allclose(rebuilt, FIELD.covariance, atol=1e-12)
    teacher, x = wb.mixture(torch.zeros(1, 16), MODELS[4].covariance[None]), NOISE[:, :, :4, :4]
    times = torch.linspace(0.1, 0.9, 600, dtype=torch.float64)
    assert torch.allclose(MODELS[4](x, times).flatten(1), teacher(x.flatten(1), times), atol=1e-12)
    y = FIELD.sample(4, seed=1)
    picture = torch.nn.functional.avg_pool2d(y, 2)
    drawn = known.sample(4, seed=2, cond=picture)
    assert torch.allclose(torch.nn.functional.avg_pool2d(drawn, 2), picture, atol=1e-7)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "consistency"])
def test_one_part_is_the_base_run(sampler: str) -> None:
    parts = bottleneck_parts("linear", (8,), (6,), (), sampler=sampler)
    *_, whole = wb.run(wb.plan(sampler, "linear", 6), FIELD, NOISE[:4], seed=1)
    frames = list(bottleneck_run(parts, FIELD, NOISE[:4], seed=1))
    assert torch.equal(frames[-1].x, whole.x) and frames[-1].nfe == whole.nfe == frames[-1].cost


def test_without_delta_the_fine_frequencies_stay_empty() -> None:
    """After the switch they hold noise and what enlarging leaks; the exact flow from t then fixes how much power is left."""
    t, power = 0.1, {}
    for delta in (0.0, 1.0, 2.0, 3.0):
        parts = bottleneck_parts("linear", (8, 4, 8), (10, 30, 30), (0.9, t), delta, "dpmpp_2m")
        power[delta] = kept(final(bottleneck_run(parts, MODELS, NOISE)).x)
    small, alpha, fine = MODELS[4], 1 - t, FIELD.spectrum[FINE]
    estimates = alpha**2 * small.spectrum**2 / (alpha**2 * small.spectrum + t**2)  # variances of the x0 estimate
    enlarge = resize(small.basis.T.view(16, 1, 4, 4), 8).flatten(1)  # the small basis, enlarged
    leak = (enlarge @ FIELD.basis[:, FINE]).square().T @ estimates
    expected = float((fine * (alpha**2 * leak + t**2) / (alpha**2 * fine + t**2)).sum() / fine.sum())
    assert power[0.0] == pytest.approx(expected, rel=0.05) and expected < 0.25
    assert power[0.0] + 0.15 < power[1.0] and power[1.0] + 0.2 < power[2.0] and power[2.0] + 0.05 < power[3.0]
    base = kept(final(wb.run(wb.plan("dpmpp_2m", "linear", 20), FIELD, NOISE)).x)
    assert abs(power[3.0] - base) < 0.1 < base - power[0.0]


def test_frames_know_size_cost_and_noise() -> None:
    parts = bottleneck_parts("linear", (8, 4, 8), (2, 4, 3), (0.8, 0.4), sampler="consistency")
    frames = list(bottleneck_run(parts, MODELS, NOISE[:5], seed=7))
    assert [frame.size for frame in frames] == [8] * 3 + [4] * 5 + [8] * 4
    assert [frame.i for frame in frames] == list(range(12)) and frames[-1].nfe == 11
    assert frames[-1].cost == 2 + 1 + (4 + 1) / 4 + 3
    assert all(frame.x.shape[-1] == frame.target.shape[-1] == frame.size for frame in frames)
    alone = list(bottleneck_run(parts, lambda size: MODELS[size], NOISE[3:5], seed=7, index=[3, 4]))
    assert torch.allclose(alone[-1].x, frames[-1].x[3:], atol=1e-12)
    assert not torch.allclose(final(bottleneck_run(parts, MODELS, NOISE[:5], seed=8)).x, frames[-1].x)


def test_times_of_the_parts() -> None:
    path = wb.paths.linear
    first, second, third = (part.plan for part in bottleneck_parts("linear", switches=(0.9, 0.5), delta=1.0))
    assert (first.times[0], first.times[-1], second.times[0], second.times[-1]) == (1.0, 0.9, 0.9, 0.5)
    assert path.log_snr(third.times[0]) == pytest.approx(path.log_snr(0.5) - 1.0) and third.times[-1] == 0
    assert torch.allclose(shifted(path, 4, 1.0, 0.0, 1.0), wb.schedules.get("uniform", path, 4))
    assert torch.allclose(shifted(path, 4, 1.0, 0.0, 3.0), wb.schedules.get("shift", path, 4, shift=3.0))
    moved = shifted(path, 6, 0.9, 0.4, 0.5)
    again = path.time(path.log_snr(moved) + torch.log(torch.tensor(0.5, dtype=torch.float64)))
    assert float(moved[0]) == 0.9 and float(moved[-1]) == 0.4 and torch.allclose(again.diff(), again.diff()[0].expand(6))


def test_resizing() -> None:
    x = FIELD.sample(2)
    assert resize(x, 8) is x and torch.equal(resize(x, 4), torch.nn.functional.avg_pool2d(x, 2))
    assert torch.allclose(resize(torch.full((1, 1, 4, 4), 0.3), 8), torch.full((1, 1, 8, 8), 0.3))


def test_bad_input() -> None:
    for options, message in [
        ({"steps": (4, 8)}, "as many steps"),
        ({"switches": (0.5, 0.9)}, "falling times"),
        ({"delta": -1.0}, "delta is -1"),
        ({"sampler": "dimm"}, "did you mean 'ddim'"),
    ]:
        with pytest.raises(WorkbenchError, match=message):
            bottleneck_parts("linear", **options)
    parts = bottleneck_parts("linear", (8, 4, 8))
    with pytest.raises(WorkbenchError, match="no model for 4"):
        bottleneck_run(parts, {8: FIELD}, NOISE)
    with pytest.raises(WorkbenchError, match="8 pixels a side"):
        bottleneck_run(parts, MODELS, NOISE[:, :, :4, :4])
    with pytest.raises(WorkbenchError, match="take a divisor"):
        FIELD.down(5)
    with pytest.raises(WorkbenchError, match="give cond"):
        FIELD.given(4)(NOISE, 0.5)
