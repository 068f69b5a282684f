"""The higher-order and stochastic solvers give the numbers of diffusers' schedulers: same timesteps, same noise, an exact mixture.

Tolerances: 1e-5 relative where diffusers computes in float32 (DPM-Solver, DDPM, Euler ancestral, PNDM), 1e-10 where it lets float64
through apart from a float32 table (UniPC, DEIS, LMS), on its own sigmas. Deliberate differences, each with its reason:

- PNDM and iPNDM end with a full step on clean data; ours end on the x0 estimate unless `final="full"`. iPNDM's first step from
  pure noise divides by alpha = 1e-8 and loses the x0 estimate; ours takes the x0 step there. So both start at their second timestep.
- DPM-Solver++ of order 3: diffusers gives the second difference half its weight (ours: second_diff="half"); its SDE form has that
  half with the wrong sign besides, which is not offered (`test_the_third_order_sde_of_diffusers_is_not_of_third_order`).
- PNDM on v: theirs mixes v outputs of several times and converts the mixture as if it were of one; ours mixes eps.
- DDPM with the large variance: theirs adds noise to the last image unless its timestep is 0; ours never does.
- UniPC with bh1 that ends at sigma = 0 is NaN in theirs.
- Singlestep: diffusers' helper points are points of its grid, ours lie between; they agree on every second point of a grid that is uniform in log-SNR.
- DEIS works out its weights in float32 from differences of logarithms: 1e-4 there.
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
KIND = pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow_prediction"])


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


def theirs(scheduler: Any, path: wb.paths.Path, times: Tensor, scaled: bool = False, **extra: list[Any]) -> Tensor:
    """Their loop; the network answers in the kind that the scheduler expects. `scaled`: it runs on x / alpha."""
    kind = KINDS[scheduler.config.prediction_type]
    x = NOISE * path.sigma(float(times[0])) / (path.alpha(float(times[0])) if scaled else 1)
    for i, timestep in enumerate(scheduler.timesteps):
        t = float(times[i])
        at = x * path.alpha(t) if scaled else x
        prediction = path.convert(teacher(path)(at, t), at, t, "x0", kind)
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

MULTISTEP = [
    ({"solver_order": 1}, "ddim", {}),
    ({"solver_order": 2, "solver_type": "midpoint"}, "dpmpp_2m", {}),
    ({"solver_order": 2, "solver_type": "heun"}, "dpmpp_2m", {"solver_type": "heun"}),
    ({"solver_order": 3}, "dpmpp_3m", {"second_diff": "half"}),
]
ON_EPS = [
    ({"solver_order": 2, "solver_type": "midpoint"}, "unipc", {"order": 2, "corrector": False, "kind": "eps"}),
    ({"solver_order": 2, "solver_type": "heun"}, "deis", {"order": 2, "variable": "log_snr"}),
]


@STEPS
@KIND
@pytest.mark.parametrize(("config", "sampler", "options"), MULTISTEP, ids=["1", "2 midpoint", "2 heun", "3"])
def test_dpm_solver_multistep(config: dict, sampler: str, options: dict, kind: str, steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **config, **settings(kind), final_sigmas_type="sigma_min", lower_order_final=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    path, times = grid_of(scheduler)
    assert_equal(ours(path, times, sampler, **options), theirs(scheduler, path, times), 1e-5)


@STEPS
@pytest.mark.parametrize(("config", "sampler", "options"), ON_EPS, ids=["midpoint", "heun"])
def test_dpm_solver_multistep_on_eps(config: dict, sampler: str, options: dict, steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **config,
        algorithm_type="dpmsolver",
        final_sigmas_type="sigma_min",
        lower_order_final=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    path, times = grid_of(scheduler)
    assert_equal(ours(path, times, sampler, **options), theirs(scheduler, path, times), 1e-5)


@STEPS
@KIND
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("final", ["sigma_min", "zero"])
def test_unipc(final: str, variant: str, order: int, kind: str, steps: int) -> None:
    if (final, variant) == ("zero", "bh1") or (final, kind) == ("sigma_min", "flow_prediction"):
        return  # theirs is NaN: B(h) is infinite there; theirs repeats its last sigma
    scheduler = diffusers.UniPCMultistepScheduler(
        **settings(kind), solver_order=order, solver_type=variant, final_sigmas_type=final, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(steps)
    path, times = grid_of(scheduler)
    found = ours(path, times, "unipc", order=order, variant=variant, lower_order_final=True)
    assert_equal(found, theirs(scheduler, path, times), 1e-6)


@STEPS
@pytest.mark.parametrize("order", [2, 3])
def test_unip_without_the_corrector_and_on_eps(order: int, steps: int) -> None:
    for predict_x0, disabled in ((True, True), (False, True), (False, False)):
        scheduler = diffusers.UniPCMultistepScheduler(
            solver_order=order,
            predict_x0=predict_x0,
            disable_corrector=list(range(steps)) if disabled else [],
            final_sigmas_type="sigma_min",
            timestep_spacing="trailing",
        )
        scheduler.set_timesteps(steps)
        path, times = grid_of(scheduler)
        options = {"corrector": not disabled, "kind": "x0" if predict_x0 else "eps", "lower_order_final": True}
        assert_equal(ours(path, times, "unipc", order=order, **options), theirs(scheduler, path, times), 1e-5)


@STEPS
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order: int, kind: str, steps: int) -> None:
    scheduler = diffusers.DEISMultistepScheduler(
        prediction_type=kind, solver_order=order, lower_order_final=False, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(steps)
    path, times = grid_of(scheduler)
    assert_equal(ours(path, times, "deis", order=order, variable="log_snr"), theirs(scheduler, path, times), 1e-4)


@STEPS
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms(order: int, steps: int) -> None:
    scheduler = diffusers.LMSDiscreteScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, timestep_spacing="linspace"
    )
    scheduler.set_timesteps(steps)
    path, times = grid_of(scheduler)
    their = theirs(scheduler, path, times, scaled=True, order=[order] * steps)
    assert_equal(ours(path, times, "ab", order=order, final="full"), their, 1e-6)


@STEPS
@pytest.mark.parametrize("start", ["plms", "prk"])
def test_pndm(start: str, steps: int) -> None:
    """Leading timesteps with an offset of 1, T divisible by the steps: the spacing that PNDM is made for."""
    scheduler = diffusers.PNDMScheduler(
        skip_prk_steps=start == "plms", set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading"
    )
    scheduler.set_timesteps(steps)
    path = wb.paths.from_scheduler(scheduler)
    own = torch.arange(steps - 1, -1, -1) * (1000 // steps) + 2
    times = torch.cat([own, torch.ones(1)]).double() / 1000
    their = theirs(scheduler, path, (torch.as_tensor(scheduler.timesteps) + 1).double() / 1000)
    assert_equal(ours(path, times, "pndm", start=start), their, 1e-5)


@STEPS
@pytest.mark.parametrize("order", [4])
def test_ipndm(order: int, steps: int) -> None:
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
    assert_equal(ours(path, times, "ipndm", order=order, final="full"), x, 1e-5)


# -- singlestep


@pytest.mark.parametrize("steps", [10, 24])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("algorithm", "sampler"), [("dpmsolver++", "dpmpp_2s"), ("dpmsolver", "dpm_2")])
def test_dpm_solver_singlestep(algorithm: str, sampler: str, kind: str, steps: int) -> None:
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        prediction_type=kind,
        algorithm_type=algorithm,
        solver_order=2,
        final_sigmas_type="sigma_min",
        use_exponential_sigmas=True,
    )
    scheduler.set_timesteps(steps)
    rho = their_sigmas(scheduler)
    path = wb.paths.from_scheduler(scheduler)
    rho = torch.cat([rho[:steps], rho[-1:]]) if len(rho) > steps else rho
    log_snr = -torch.log(rho)
    used = (steps - 1) // 2 * 2 + 1  # the last point repeats the one before it
    even = log_snr[:used]
    assert float((even.diff() - even.diff()[0]).abs().max()) < 1e-4  # uniform in log-SNR up to float32
    times = path.time(log_snr)
    x, states = NOISE * path.sigma(float(times[0])), []
    for i, timestep in enumerate(scheduler.timesteps[: used - 1]):
        t = float(times[i])
        prediction = path.convert(teacher(path)(x, t), x, t, "x0", KINDS[kind])
        x = scheduler.step(prediction, timestep, x).prev_sample.double()
        states.append(x)
    assert_equal(ours(path, path.time(even[::2]), sampler), states[used - 2], 1e-4)


# -- stochastic: the same noise on both sides


@STEPS
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("variance", "name"), [("small", "fixed_small"), ("large", "fixed_large")])
def test_ddpm(variance: str, name: str, kind: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.DDPMScheduler(
        prediction_type=kind, variance_type=name, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(steps)
    drawn = iter([*noises(steps)[:-1], torch.zeros_like(NOISE)])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(drawn))
    path = wb.paths.from_scheduler(scheduler)
    times = torch.cat([(scheduler.timesteps + 1).double() / 1000, torch.zeros(1)])
    assert_equal(ours(path, times, "ddpm", variance=variance), theirs(scheduler, path, times), 1e-5)


@STEPS
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_euler_ancestral(kind: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(prediction_type=kind, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    path, times = grid_of(scheduler)
    drawn = iter(noises(steps))
    monkeypatch.setattr("diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor", lambda *_, **__: next(drawn))

    x = NOISE * path.sigma(float(times[0])) / path.alpha(float(times[0]))
    for i, timestep in enumerate(scheduler.timesteps):
        t = float(times[i])
        at = scheduler.scale_model_input(x, timestep).double()
        prediction = path.convert(teacher(path)(at, t), at, t, "x0", KINDS[kind])
        x = scheduler.step(prediction, timestep, x).prev_sample.double()
    assert_equal(ours(path, times, "euler_ancestral"), x, 1e-5)


@STEPS
@KIND
@pytest.mark.parametrize(
    ("config", "sampler", "options"),
    [
        ({"solver_order": 1}, "ddpm", {}),
        ({"solver_order": 2, "solver_type": "midpoint"}, "dpmpp_2m_sde", {}),
        ({"solver_order": 2, "solver_type": "heun"}, "dpmpp_2m_sde", {"solver_type": "heun"}),
    ],
    ids=["1", "2 midpoint", "2 heun"],
)
def test_sde_dpm_solver(config: dict, sampler: str, options: dict, kind: str, steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **config, **settings(kind), algorithm_type="sde-dpmsolver++", lower_order_final=False, timestep_spacing="trailing"
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
    assert_equal(ours(path, times, "heun"), x, 1e-5)


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
    assert_equal(ours(path, times, "lcm", timestep_scaling=0.01), their, 1e-5)
