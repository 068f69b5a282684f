"""Solvers against diffusers' schedulers on the schedulers' own points, ends included: same timesteps, same noise, an exact mixture.

Their points are float32, so agreement ends at 1e-6 relative (1e-5 where noise adds up); test_parity_exact.py hands both sides the same
float64 points and asks for 1e-12 where the arithmetic allows it. Deliberate differences, each with its reason:

- PNDM and iPNDM end with a full step on clean data; ours end on the x0 estimate unless `final="full"`. iPNDM's first step from
  pure noise divides by alpha = 1e-8 and loses the x0 estimate; ours takes the x0 step there. So both start at their second timestep.
- DPM-Solver++ of order 3: diffusers gives the second difference half its weight (ours: second_diff="half"); its SDE form has that
  half with the wrong sign besides, which is not offered (`test_the_third_order_sde_of_diffusers_is_not_of_third_order`).
- PNDM on v: theirs mixes v outputs of several times and converts the mixture as if it were of one; ours mixes eps.
- DDPM with the large variance: theirs adds noise to the last image unless its timestep is 0; ours never does.
- UniPC with bh1 that ends at sigma = 0 is NaN in theirs.
- Singlestep: diffusers' helper points are points of its grid, ours lie between; they agree on every second point of a grid that is uniform in log-SNR.
- DEIS takes differences of logarithms of its float32 sigmas: 1e-4 on its own points, 1e-12 on float64 ones.
- DEIS, iPNDM, LMS and PNDM on Karras sigmas and churn added after the evaluation (Euler, EDM Euler, FlowMatchHeun) are defects that are not copied.
"""

from __future__ import annotations

import math
from dataclasses import replace
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
NOISE = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STEPS = pytest.mark.parametrize("steps", [10, 25])


def teacher(path: wb.paths.Path) -> Mixture:
    return Mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5], path=path)


def noises(steps: int) -> list[Tensor]:
    return [stage_noise(NOISE, 5, i) for i in range(steps)]


def their_sigmas(scheduler: Any) -> Tensor:
    """rho of every point, in float64, as the scheduler has them."""
    return torch.as_tensor(np.asarray(scheduler.sigmas), dtype=torch.float64)


def grid_of(scheduler: Any) -> tuple[wb.paths.Path, Tensor]:
    path = wb.paths.from_scheduler(scheduler)
    rho = their_sigmas(scheduler)
    return path, rho if path.name == "linear" else path.time(-torch.log(rho))


def theirs(scheduler: Any, path: wb.paths.Path, times: Tensor, **extra: list[Any]) -> Tensor:
    """Their loop; the network answers in the kind that the scheduler expects."""
    kind = KINDS[scheduler.config.prediction_type]
    x = NOISE * path.sigma(float(times[0]))
    for i, timestep in enumerate(scheduler.timesteps):
        t = float(times[i])
        prediction = path.convert(teacher(path)(x, t), x, t, "x0", kind)
        given = {name: values[i] for name, values in extra.items()}
        x = scheduler.step(prediction, timestep, x, **given).prev_sample.double()
    return x


def ours(path: wb.paths.Path, times: Tensor, sampler: str, **options: Any) -> Tensor:
    *_, last = wb.run(wb.plan(sampler, path, schedule=times, **options), teacher(path), NOISE, seed=5)
    return last.x


def assert_equal(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert float((a - b).abs().max() / b.abs().max()) < tolerance


def settings(kind: str) -> dict[str, Any]:
    return {"prediction_type": kind, "use_flow_sigmas": kind == "flow_prediction"}


# -- multistep, deterministic


@STEPS
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("final", "variant", "kind"),  # theirs is NaN for bh1 to sigma = 0, where B(h) is infinite
    [
        ("sigma_min", "bh1", "epsilon"),
        ("sigma_min", "bh2", "epsilon"),
        ("zero", "bh2", "epsilon"),
        ("zero", "bh2", "flow_prediction"),
    ],
)
def test_unipc_falls_to_lower_orders_at_the_end(final: str, variant: str, kind: str, order: int, steps: int) -> None:
    scheduler = diffusers.UniPCMultistepScheduler(
        **settings(kind), solver_order=order, solver_type=variant, final_sigmas_type=final, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(steps)
    path, times = grid_of(scheduler)
    found = ours(path, times, "unipc", order=order, variant=variant, lower_order_final=True)
    assert_equal(found, theirs(scheduler, path, times), 1e-6)


@STEPS
def test_ipndm(steps: int) -> None:
    """Their path is trigonometric, their network predicts v."""
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(steps + 1)
    path = wb.paths.trig
    times = torch.cat([torch.as_tensor(scheduler.timesteps)[1:].double(), torch.zeros(1)])
    x = NOISE * path.sigma(float(times[0]))
    scheduler.set_begin_index(1)
    for i, timestep in enumerate(scheduler.timesteps[1:]):
        t = float(times[i])
        prediction = path.convert(teacher(path)(x, t), x, t, "x0", "v")
        x = scheduler.step(prediction, timestep, x).prev_sample.double()
    assert_equal(ours(path, times, "ipndm", order=4, final="full"), x, 1e-6)


# -- stochastic: the same noise on both sides


@STEPS
@pytest.mark.parametrize(
    ("config", "sampler", "options"),
    [
        ({"solver_order": 1}, "ddpm", {}),
        ({"solver_order": 2, "solver_type": "midpoint"}, "dpmpp_2m_sde", {}),
        ({"solver_order": 2, "solver_type": "heun"}, "dpmpp_2m_sde", {"solver_type": "heun"}),
    ],
    ids=["1", "2 midpoint", "2 heun"],
)
def test_sde_dpm_solver_to_clean_data(config: dict, sampler: str, options: dict, steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **config, algorithm_type="sde-dpmsolver++", lower_order_final=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    path, times = grid_of(scheduler)
    their = theirs(scheduler, path, times, variance_noise=noises(steps))
    assert_equal(ours(path, times, sampler, **options), their, 1e-5)


def test_the_third_order_sde_of_diffusers_is_not_of_third_order() -> None:
    """Without noise, against the drift solved by our own third order: ours falls by 8 where theirs falls by less than 4."""

    def quiet(path: wb.paths.Path, times: Tensor) -> Tensor:
        plan = wb.plan("dpmpp_3m_sde", path, schedule=times)
        without = replace(plan, stages=tuple(replace(stage, x=stage.x._replace(noise=0.0)) for stage in plan.stages))
        *_, last = wb.run(without, teacher(path), NOISE)
        return last.x

    errors = []
    for steps in (50, 100):
        scheduler = diffusers.DPMSolverMultistepScheduler(
            solver_order=3, algorithm_type="sde-dpmsolver++", final_sigmas_type="sigma_min", lower_order_final=False,
            timestep_spacing="trailing",
        )  # fmt: skip
        scheduler.set_timesteps(steps)
        path, times = grid_of(scheduler)
        fine = quiet(path, path.time(torch.linspace(*path.log_snr(times[[0, -1]]).tolist(), 400, dtype=torch.float64)))
        their = theirs(scheduler, path, times, variance_noise=[torch.zeros_like(NOISE)] * steps)
        errors.append((float((quiet(path, times) - fine).norm()), float((their - fine).norm())))
    (ours_50, theirs_50), (ours_100, theirs_100) = errors
    assert math.log2(ours_50 / ours_100) > 2.7 and math.log2(theirs_50 / theirs_100) < 2 and theirs_100 > 1.5 * ours_100, errors


# -- flow matching


@STEPS
def test_flow_match_heun(steps: int) -> None:
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    times = torch.as_tensor(scheduler.sigmas).double().unique_consecutive()
    path, x = wb.paths.linear, NOISE * float(times[0])
    for timestep in scheduler.timesteps:
        t = float(timestep) / 1000
        prediction = path.convert(teacher(path)(x, t), x, t, "x0", "flow")
        x = scheduler.step(prediction, timestep, x).prev_sample.double()
    assert_equal(ours(path, times, "heun"), x, 1e-6)


@STEPS
def test_lcm(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their boundary condition at the timestep, ours at the same one."""
    scheduler = diffusers.LCMScheduler(prediction_type="epsilon", clip_sample=False, timestep_scaling=0.01)
    scheduler.set_timesteps(steps, original_inference_steps=50)
    drawn = iter(noises(steps))
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(drawn))
    path = wb.paths.from_scheduler(scheduler)
    times = torch.cat([(scheduler.timesteps + 1).double() / 1000, torch.zeros(1)])
    their = theirs(scheduler, path, times)
    assert_equal(ours(path, times, "lcm", timestep_scaling=0.01), their, 1e-6)
