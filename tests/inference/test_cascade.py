"""The cascade on a Gaussian field, whose conditional law is exact: consistency, the limit of many steps, equal compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.inference.cascade import Given, cascade_run, mismatch
from workbench.inference.resolution import final, identity_noise
from workbench.metrics.distances import Moments, frechet_from_moments
from workbench.samplers.sample import noise_for
from workbench.teachers.gaussian import GaussianField, gaussian_field

FIELD = gaussian_field(8)
SMALL, LARGE = FIELD.down(4), FIELD.given(4)
UNITS = [identity_noise(SMALL.shape, 80), identity_noise(FIELD.shape, 80, 16)]


def w2(rows: Tensor, field: GaussianField = FIELD) -> float:
    """Exact W2 to the field of a linear sampler, read off from unit vectors."""
    rows = rows.flatten(1)
    zero = torch.zeros(rows.shape[1], dtype=torch.float64)
    return frechet_from_moments(Moments(zero, rows.T @ rows), Moments(zero, field.covariance)) ** 0.5


def plans(low: int, high: int, sampler: str = "ddim") -> list:
    return [wb.plan(sampler, "linear", low), wb.plan(sampler, "linear", high)]


def test_the_result_averages_to_what_it_was_given() -> None:
    frames = list(cascade_run([SMALL, LARGE], plans(6, 2), 5, seed=1))
    low = [frame.x for frame in frames if frame.part == 0][-1]
    assert mismatch(frames[-1].x, low) < 1e-12 < 0.3 < mismatch(frames[-1].x.flip(0), low)
    assert [frame.size for frame in frames] == [4] * 7 + [8] * 3 and frames[-1].cost == 6 / 4 + 2 and frames[-1].nfe == 8


def test_augmentation_loosens_the_tie_by_as_much() -> None:
    frames = list(cascade_run([SMALL, LARGE], plans(6, 2), 400, seed=1, augment=0.2))
    low = [frame.x for frame in frames if frame.part == 0][-1]
    assert mismatch(frames[-1].x, low) == pytest.approx(0.2, abs=0.01)  # 6400 numbers: standard error 0.002


def test_many_steps_reach_the_exact_law_and_halve_the_error() -> None:
    errors = [w2(final(cascade_run([SMALL, LARGE], plans(n, n), noise=UNITS)).x) for n in (25, 50, 100)]
    assert errors[2] < 0.12 and errors[0] / errors[1] == pytest.approx(2, abs=0.1) == errors[1] / errors[2]


def test_at_equal_compute_the_cascade_is_closer() -> None:
    field = gaussian_field(16)
    units = [identity_noise((1, 8, 8), 320), identity_noise((1, 16, 16), 320, 64)]
    one = final(wb.run(wb.plan("ddim", "linear", 8), field, identity_noise(field.shape)))
    last = final(cascade_run([field.down(8), field.given(8)], plans(16, 4), noise=units))
    assert last.cost == one.nfe == 8 and w2(last.x, field) < 0.7 * w2(one.x, field)


def test_one_stage_is_the_base_run_and_batches_do_not_matter() -> None:
    *_, whole = wb.run(wb.plan("ddim", "linear", 5), FIELD, noise_for(FIELD, 3, 4), seed=4)
    assert torch.equal(final(cascade_run([FIELD], plans(5, 5)[:1], 3, seed=4)).x, whole.x)
    options = {"seed": 2, "augment": 0.1}
    together = final(cascade_run([SMALL, LARGE], plans(4, 4, "consistency"), 5, **options)).x
    alone = final(cascade_run([SMALL, LARGE], plans(4, 4, "consistency"), 2, index=[3, 4], **options)).x
    assert torch.allclose(alone, together[3:], atol=1e-12)


def test_a_label_reaches_every_stage() -> None:
    seen = []

    def stage(side: int):
        def call(x: Tensor, t: float, cond=None) -> Tensor:
            seen.append(cond)
            return x * 0

        call.path, call.shape = wb.paths.linear, (1, side, side)
        return call

    label = torch.tensor([1, 2])
    final(cascade_run([stage(2), stage(4)], plans(1, 1), 2, cond=label))
    assert seen[0] is label and isinstance(seen[1], Given) and seen[1].label is label and seen[1].image.shape == (2, 1, 4, 4)


def test_bad_input() -> None:
    with pytest.raises(WorkbenchError, match="one plan a model"):
        cascade_run([SMALL, LARGE], plans(2, 2)[:1], 3)
    with pytest.raises(WorkbenchError, match="are no cascade"):
        cascade_run([LARGE, SMALL], plans(2, 2), 3)
    with pytest.raises(WorkbenchError, match="n is None"):
        cascade_run([SMALL, LARGE], plans(2, 2))
    with pytest.raises(WorkbenchError, match="augment is -1"):
        cascade_run([SMALL, LARGE], plans(2, 2), 3, augment=-1)
    with pytest.raises(WorkbenchError, match="one tensor a stage"):
        cascade_run([SMALL, LARGE], plans(2, 2), noise=UNITS[::-1])
