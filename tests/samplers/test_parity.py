"""The same numbers as the diffusers schedulers of the same name: same timesteps, same noise, an exact mixture as the network.

Tolerances: diffusers keeps its tables in float32, so agreement ends at about 1e-6; the bound here is 1e-5 relative. A single
step divides an eps prediction by alpha(1) = 0.006, which makes 160 times as much of the same rounding: 1e-4 there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench.samplers import stage_noise
from workbench.teachers.mixture import Mixture

diffusers = pytest.importorskip("diffusers")
KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
BETAS = {"linear": {}, "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}}
NOISE = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def teacher(path: wb.paths.Path) -> Mixture:
    return Mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5], path=path)


def theirs(scheduler: Any, noises: list[Tensor] | None = None) -> Tensor:
    """Their loop; the network answers in the kind that the scheduler expects, at the time that the timestep means."""
    path = wb.paths.from_scheduler(scheduler)
    kind = KINDS[scheduler.config.prediction_type]
    grid = wb.schedules.from_scheduler(scheduler)
    x = NOISE * path.sigma(float(grid[0]))
    for i, timestep in enumerate(scheduler.timesteps):
        t = float(grid[i]) if path.timesteps is None else (float(timestep) + 1) / path.timesteps
        prediction = path.convert(teacher(path)(x, t), x, t, "x0", kind)
        extra = {"eta": 1.0, "variance_noise": noises[i]} if noises else {}
        x = scheduler.step(prediction, timestep, x, **extra).prev_sample
    return x


def ours(scheduler: Any, sampler: str, **options: Any) -> Tensor:
    path = wb.paths.from_scheduler(scheduler)
    plan = wb.plan(sampler, path, schedule=wb.schedules.from_scheduler(scheduler), **options)
    *_, last = wb.run(plan, teacher(path), NOISE, seed=5)
    return last.x


def assert_equal(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    assert float((a - b).abs().max() / b.abs().max()) < tolerance


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 4, 20, 50])
def test_ddim(steps: int, eta: float, kind: str, betas: str) -> None:
    scheduler = diffusers.DDIMScheduler(
        **BETAS[betas], prediction_type=kind, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    scheduler.set_timesteps(steps)
    noises = [stage_noise(NOISE, 5, i) for i in range(steps)] if eta else None
    assert_equal(ours(scheduler, "ddim", eta=eta), theirs(scheduler, noises), 1e-4 if steps == 1 else 1e-5)


def test_ddim_at_zero_terminal_snr() -> None:
    scheduler = diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(20)
    assert_equal(ours(scheduler, "ddim"), theirs(scheduler))


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
def test_dpmpp_2m(steps: int, spacing: str, kind: str, betas: str) -> None:
    """Midpoint, order 2, to sigma = 0: their last step is then of order 1 whatever lower_order_final says, as ours is."""
    tolerance = 1e-4 if steps == 1 else 1e-5
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **BETAS[betas], prediction_type=kind, timestep_spacing=spacing, solver_order=2, solver_type="midpoint"
    )
    scheduler.set_timesteps(steps)
    assert_equal(ours(scheduler, "dpmpp_2m"), theirs(scheduler), tolerance)


def test_dpmpp_2m_that_stops_before_clean_data() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        timestep_spacing="trailing", final_sigmas_type="sigma_min", lower_order_final=False
    )
    scheduler.set_timesteps(20)
    assert wb.schedules.from_scheduler(scheduler)[-1] == pytest.approx(0.001)
    assert_equal(ours(scheduler, "dpmpp_2m"), theirs(scheduler))


@pytest.mark.parametrize("steps", [2, 10, 30])
def test_dpmpp_2m_on_flow_matching(steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    scheduler.set_timesteps(steps)
    assert_equal(ours(scheduler, "dpmpp_2m"), theirs(scheduler))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_euler(shift: float) -> None:
    """Euler in t on the linear path; DDIM there is the same."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 12, 12))
    path, x = wb.paths.linear, NOISE
    for t, timestep in zip(scheduler.sigmas.tolist(), scheduler.timesteps, strict=False):
        x = scheduler.step(path.convert(teacher(path)(x, t), x, t, "x0", "flow"), timestep, x).prev_sample.double()
    assert_equal(ours(scheduler, "euler"), x)
    assert_equal(ours(scheduler, "ddim"), x)


@pytest.mark.parametrize(("name", "sampler"), [("HeunDiscreteScheduler", "heun"), ("EulerDiscreteScheduler", "euler")])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_heun_and_euler_in_rho(name: str, sampler: str, spacing: str) -> None:
    """Theirs run on x / alpha; ours on x."""
    scheduler = getattr(diffusers, name)(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, timestep_spacing=spacing)
    scheduler.set_timesteps(15)
    path = wb.paths.from_scheduler(scheduler)
    x = NOISE * float(scheduler.sigmas[0])
    for i, timestep in enumerate(scheduler.timesteps):
        rho = float(scheduler.sigmas[i])
        t = path.time(-np.log(rho))
        scaled = x / (1 + rho**2) ** 0.5  # their scale_model_input
        x = scheduler.step(path.convert(teacher(path)(scaled, t), scaled, t, "x0", "eps"), timestep, x).prev_sample.double()
    assert_equal(ours(scheduler, sampler, variable="rho"), x)
