"""Local errors of steps: their order is p + 1 from the exact solution with exact history, and on Gaussian data a closed form."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench import paths
from workbench.errors import WorkbenchError
from workbench.samplers.local import errors_from, exact_states, local_errors

VP = paths.vp
TEACHER = wb.mixture([[1.5, 0.0], [-1.0, 1.2], [0.3, -1.4]], [0.45, 0.45, 0.45]).on(VP)
NOISE = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def grid(steps: int) -> Tensor:
    return VP.time(torch.linspace(-2, 2, steps + 1, dtype=torch.float64))


@cache
def states(steps: int) -> Tensor:
    return exact_states(VP, grid(steps).tolist(), TEACHER, NOISE, substeps=8)


@pytest.mark.parametrize(
    ("sampler", "order", "options"),
    [
        ("ddim", 1, {}),
        ("heun", 2, {}),
        ("dpm_2", 2, {}),
        ("dpmpp_2m", 2, {}),
        ("ab", 3, {"order": 3}),
        ("dpmpp_3m", 3, {}),
        ("unipc", 1, {"order": 1}),  # the next step corrects it; what is looked at is UniP
        ("unipc", 2, {"order": 2}),
        ("unipc", 2, {"order": 2, "kind": "eps"}),
        ("hb", 1, {}),
        ("ghvb", 2, {}),
        ("pndm", 2, {}),
    ],
    ids=str,
)
def test_a_local_error_is_one_order_above_the_solver(sampler: str, order: int, options: dict) -> None:
    coarse, fine = 48, 96
    size = {}
    for steps in (coarse, fine):
        errors = errors_from(wb.plan(sampler, VP, schedule=grid(steps), **options), TEACHER, states(steps))
        size[steps] = float(errors[steps // 3 :].square().mean().sqrt())  # behind every start
    assert math.log2(size[coarse] / size[fine]) == pytest.approx(order + 1, abs=0.2 if sampler != "pndm" else 0.7)


def test_the_correctors_state_is_exact_as_well() -> None:
    """UniPC's step from exact data is the same whatever came before: a plan that begins at its step 5 errs alike from its third step."""
    whole, late = (wb.plan("unipc", VP, schedule=grid(48)[first:]) for first in (0, 5))
    a, b = errors_from(whole, TEACHER, states(48)), errors_from(late, TEACHER, states(48)[5:])
    assert torch.allclose(a[8:], b[3:], rtol=1e-9) and not torch.allclose(a[5], b[0], rtol=1e-2)


@pytest.mark.parametrize("path", ["linear", "vp", "edm"])
def test_ddim_on_gaussian_data_errs_as_calculated(path: str) -> None:
    """x0 ~ N(0, S^2): the exact flow multiplies by sqrt(V_t / V_s), DDIM by sigma_t / sigma_s + its weight times alpha_s S^2 / V_s."""
    std, model = 0.5, wb.mixture([[0.0, 0.0]], [0.5]).on(paths.get(path))
    plan = wb.plan("ddim", path, 6)
    found = local_errors(plan, model, NOISE)
    spread = (NOISE - NOISE.mean(0)).square().mean().sqrt()
    for k, (s, t) in enumerate(zip(plan.times[:-1], plan.times[1:], strict=True)):
        v = [(std * model.path.alpha(u)) ** 2 + model.path.sigma(u) ** 2 for u in (s, t)]
        kept = model.path.sigma(t) / model.path.sigma(s)
        factor = kept + (model.path.alpha(t) - kept * model.path.alpha(s)) * model.path.alpha(s) * std**2 / v[0]
        exact = math.sqrt(v[1] / v[0])
        theory = abs(factor / exact - 1) * float(NOISE.square().mean().sqrt() / spread)
        assert float(found[k]) == pytest.approx(theory, rel=2e-3, abs=1e-7)


@pytest.mark.parametrize("path", ["linear", "cosine", "edm"])
def test_the_reference_is_a_thousand_times_finer_than_what_it_judges(path: str) -> None:
    model = TEACHER.on(paths.get(path))
    plan = wb.plan("dpmpp_2m", path, 6)
    once, twice = (local_errors(plan, model, NOISE, substeps=n) for n in (16, 32))
    assert torch.allclose(once, twice, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: local_errors(wb.plan("ddpm", VP, 4), TEACHER, NOISE), "adds noise"),
        (lambda: local_errors(wb.plan("ddim", VP, 4), TEACHER, NOISE[:1]), "2 or more"),
        (lambda: local_errors(wb.plan("ddim", VP, 4), TEACHER, NOISE, substeps=0), "substeps"),
        (lambda: local_errors(wb.samplers.hybrid(wb.plan("ddim", VP, 4), 2), TEACHER, NOISE), "cannot be told apart"),
    ],
)
def test_what_has_no_local_error_is_said_in_a_sentence(call, says: str) -> None:
    with pytest.raises(WorkbenchError, match=says):
        call()
