"""Parity with diffusers to the tolerance of its arithmetic: the same points, handed to both sides in float64.

Left alone, a scheduler rounds its points to float32, and no solver can agree with it better than that (test_parity_solvers.py). Here
its `sigmas` are replaced by our points. What is left is the solver: 1e-6 relative where diffusers runs the state in float32
(DPM-Solver, Euler, ancestral ones), 1e-12 where it lets float64 through (UniPC, DEIS, LMS, Heun, singlestep, and DDIM, DDPM and PNDM on a
float64 table).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench.samplers import stage_noise
from workbench.teachers.mixture import Mixture

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers' numpy, by the thousand
KINDS = {"epsilon": "eps", "v_prediction": "v", "flow_prediction": "flow", "sample": "x0"}
NOISE = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STEPS = pytest.mark.parametrize("steps", [10, 25])
TIGHT, SINGLE = 1e-12, 1e-6


def teacher(path: wb.paths.Path) -> Mixture:
    return Mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5], path=path)


def grid(path: wb.paths.Path, steps: int) -> Tensor:
    """Equal steps in log-SNR, away from both ends."""
    return path.time(torch.linspace(-2.5, 3.0, steps + 1, dtype=torch.float64))


def noises(steps: int) -> list[Tensor]:
    return [stage_noise(NOISE, 5, i) for i in range(steps)]


def theirs(
    scheduler: Any, path: wb.paths.Path, times: Tensor, scaled: bool = False, twice: bool = False, **extra: Any
) -> Tensor:
    """Their loop on our points. scaled: their state is x / alpha. twice: every inner point is two calls (Heun). extra: lists, one a step."""
    steps = len(times) - 1
    scheduler.set_timesteps(steps)
    sigmas = times.clone() if path.name == "linear" else path.sigma(times) / path.alpha(times)
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:].repeat(2)]) if twice else sigmas
    calls = 2 * steps if twice else steps
    scheduler.timesteps = torch.arange(calls, dtype=torch.float64)
    scheduler._step_index, scheduler._begin_index, scheduler.is_scale_input_called = None, 0, True
    kind = KINDS[getattr(scheduler.config, "prediction_type", "flow_prediction")]
    x = NOISE * path.sigma(float(times[0])) / (path.alpha(float(times[0])) if scaled else 1)
    for i in range(calls):
        t = float(times[(i + 1) // 2 if twice else i])
        at = x * path.alpha(t) if scaled else x
        prediction = path.convert(teacher(path)(at, t), at, t, "x0", kind)
        given = {name: values[i] for name, values in extra.items()}
        x = scheduler.step(prediction, scheduler.timesteps[i], x, **given).prev_sample.double()
    return x * path.alpha(float(times[-1])) if scaled else x


def ours(path: wb.paths.Path, times: Tensor, sampler: str, **options: Any) -> Tensor:
    *_, last = wb.run(wb.plan(sampler, path, schedule=times, **options), teacher(path), NOISE, seed=5)
    return last.x


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def settings(kind: str) -> dict[str, Any]:
    return {"prediction_type": kind, "use_flow_sigmas": kind == "flow_prediction"}


def path_of(kind: str) -> wb.paths.Path:
    return wb.paths.linear if kind == "flow_prediction" else wb.paths.vp


END = {"final_sigmas_type": "sigma_min", "lower_order_final": False}
MULTISTEP = [
    ("DPMSolverMultistepScheduler", {"solver_order": 1, **END}, "ddim", {}, SINGLE),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, **END}, "dpmpp_2m", {}, SINGLE),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "heun", **END}, "dpmpp_2m", {"solver_type": "heun"}, SINGLE),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, **END}, "dpmpp_3m", {"second_diff": "half"}, SINGLE),
    *(("UniPCMultistepScheduler", {"solver_order": p, "solver_type": b, **END}, "unipc", {"order": p, "variant": b}, TIGHT)
      for p in (1, 2, 3) for b in ("bh1", "bh2")),
    *(("DEISMultistepScheduler", {"solver_order": p, "lower_order_final": False}, "deis", {"order": p, "variable": "log_snr"}, TIGHT)
      for p in (1, 2, 3)),
]  # fmt: skip


@STEPS
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize(
    ("name", "config", "sampler", "options", "tolerance"), MULTISTEP, ids=[f"{m[2]}{m[3]}" for m in MULTISTEP]
)
def test_multistep(name: str, config: dict, sampler: str, options: dict, tolerance: float, kind: str, steps: int) -> None:
    path = path_of(kind)
    times = grid(path, steps)
    scheduler = getattr(diffusers, name)(**config, **settings(kind))
    assert off(ours(path, times, sampler, **options), theirs(scheduler, path, times)) < tolerance


ON_EPS = [
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, {"order": 2, "corrector": False, "kind": "eps"}, SINGLE),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "solver_type": "heun"}, {"sampler": "deis", "order": 2, "variable": "log_snr"}, SINGLE),
    *(
        ("UniPCMultistepScheduler", {"solver_order": p, "predict_x0": kind == "x0", "disable_corrector": off}, {"order": p, "corrector": not off, "kind": kind}, TIGHT)
        for p in (2, 3) for kind, off in (("x0", list(range(25))), ("eps", list(range(25))), ("eps", []))
    ),
]  # fmt: skip


@STEPS
@pytest.mark.parametrize(("name", "config", "options", "tolerance"), ON_EPS, ids=[f"{m[0][:5]}{m[2]}" for m in ON_EPS])
def test_unip_without_the_corrector_and_on_eps(name: str, config: dict, options: dict, tolerance: float, steps: int) -> None:
    path = wb.paths.vp
    times = grid(path, steps)
    found = ours(path, times, **{"sampler": "unipc", **options})
    assert off(found, theirs(getattr(diffusers, name)(**END, **config), path, times)) < tolerance


@STEPS
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("name", "sampler", "options", "extra", "tolerance"),
    [
        ("EulerDiscreteScheduler", "euler", {"variable": "rho"}, {}, SINGLE),
        ("HeunDiscreteScheduler", "heun", {"variable": "rho"}, {"twice": True}, TIGHT),
        ("LMSDiscreteScheduler", "ab", {"order": 4}, {"order": 4}, TIGHT),
    ],
    ids=["euler", "heun", "lms"],
)
def test_on_x_over_alpha(name: str, sampler: str, options: dict, extra: dict, tolerance: float, kind: str, steps: int) -> None:
    path = wb.paths.vp
    times = grid(path, steps)
    scheduler = getattr(diffusers, name)(prediction_type=kind)
    more = {"order": [extra["order"]] * steps} if "order" in extra else extra
    assert off(ours(path, times, sampler, **options), theirs(scheduler, path, times, scaled=True, **more)) < tolerance


@STEPS
@pytest.mark.parametrize(
    ("name", "sampler", "twice"),
    [("FlowMatchEulerDiscreteScheduler", "euler", False), ("FlowMatchHeunDiscreteScheduler", "heun", True)],
)
def test_flow_matching(name: str, sampler: str, twice: bool, steps: int) -> None:
    path = wb.paths.linear
    times = grid(path, steps)
    found = ours(path, times, sampler, variable="t")
    assert off(found, theirs(getattr(diffusers, name)(), path, times, twice=twice)) < SINGLE


# -- stochastic: the same noise on both sides

SDE = [
    ({"solver_order": 1}, "ddpm", {}),
    ({"solver_order": 2}, "dpmpp_2m_sde", {}),
    ({"solver_order": 2, "solver_type": "heun"}, "dpmpp_2m_sde", {"solver_type": "heun"}),
]


@STEPS
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow_prediction"])
@pytest.mark.parametrize(("config", "sampler", "options"), SDE, ids=["1", "2 midpoint", "2 heun"])
def test_sde(config: dict, sampler: str, options: dict, kind: str, steps: int) -> None:
    path = path_of(kind)
    times = grid(path, steps)
    scheduler = diffusers.DPMSolverMultistepScheduler(**config, **settings(kind), **END, algorithm_type="sde-dpmsolver++")
    their = theirs(scheduler, path, times, variance_noise=noises(steps))
    assert off(ours(path, times, sampler, **options), their) < SINGLE


@STEPS
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_euler_ancestral(kind: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = wb.paths.vp
    times, drawn = grid(path, steps), iter(noises(steps))
    module = "diffusers.schedulers.scheduling_euler_ancestral_discrete"
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: next(drawn))
    scheduler = diffusers.EulerAncestralDiscreteScheduler(prediction_type=kind)
    assert off(ours(path, times, "euler_ancestral"), theirs(scheduler, path, times, scaled=True)) < SINGLE


# -- singlestep: their helper points are points of their grid, so every second point is a step of ours


@pytest.mark.parametrize("steps", [10, 24])
@pytest.mark.parametrize(
    ("algorithm", "sampler", "kind"),
    [
        *(("dpmsolver++", "dpmpp_2s", kind) for kind in ("epsilon", "v_prediction", "flow_prediction")),
        *(("dpmsolver", "dpm_2", kind) for kind in ("epsilon", "v_prediction")),  # theirs knows no flow on eps
    ],
)
def test_singlestep(algorithm: str, sampler: str, kind: str, steps: int) -> None:
    path = path_of(kind)
    times = grid(path, steps)
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        algorithm_type=algorithm, solver_order=2, final_sigmas_type="sigma_min", lower_order_final=False, **settings(kind)
    )
    assert off(ours(path, times[::2], sampler), theirs(scheduler, path, times)) < TIGHT


# -- schedulers that read a table of alphas


def on_table(scheduler: Any, steps: int, **extra: Any) -> tuple[wb.paths.Path, Tensor, Tensor]:
    """(path, times, their samples) of a scheduler whose table is replaced by itself in float64."""
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
    scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(steps)
    path = wb.paths.from_table(scheduler.alphas_cumprod, "table")
    times = torch.cat([(scheduler.timesteps + 1).double() / len(scheduler.betas), torch.zeros(1, dtype=torch.float64)])
    x = NOISE * path.sigma(float(times[0]))
    for i, timestep in enumerate(scheduler.timesteps):
        t = float(times[i])
        prediction = path.convert(teacher(path)(x, t), x, t, "x0", KINDS[scheduler.config.prediction_type])
        x = scheduler.step(prediction, timestep, x, **{name: values[i] for name, values in extra.items()}).prev_sample
    return path, times, x


@STEPS
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim(eta: float, kind: str, steps: int) -> None:
    scheduler = diffusers.DDIMScheduler(prediction_type=kind, timestep_spacing="trailing", clip_sample=False)
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    extra = {"eta": [eta] * steps, "variance_noise": noises(steps)} if eta else {}
    path, times, their = on_table(scheduler, steps, **extra)
    assert off(ours(path, times, "ddim", eta=eta), their) < TIGHT


@STEPS
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("variance", "name"), [("small", "fixed_small"), ("large", "fixed_large")])
def test_ddpm(variance: str, name: str, kind: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([*noises(steps)[:-1], torch.zeros_like(NOISE)])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(drawn))
    scheduler = diffusers.DDPMScheduler(
        prediction_type=kind, variance_type=name, timestep_spacing="trailing", clip_sample=False
    )
    path, times, their = on_table(scheduler, steps)
    assert off(ours(path, times, "ddpm", variance=variance), their) < TIGHT


@STEPS
@pytest.mark.parametrize("start", ["plms", "prk"])
def test_pndm(start: str, steps: int) -> None:
    """Leading timesteps with an offset of 1, T divisible by the steps: the spacing that PNDM is made for."""
    scheduler = diffusers.PNDMScheduler(
        skip_prk_steps=start == "plms", set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading"
    )
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(steps)
    path = wb.paths.from_table(scheduler.alphas_cumprod, "table")
    own = torch.arange(steps - 1, -1, -1) * (1000 // steps) + 2
    times = torch.cat([own, torch.ones(1)]).double() / 1000
    x = NOISE * path.sigma(float(times[0]))
    for timestep in scheduler.timesteps:
        t = (float(timestep) + 1) / 1000
        x = scheduler.step(path.convert(teacher(path)(x, t), x, t, "x0", "eps"), timestep, x).prev_sample
    assert off(ours(path, times, "pndm", start=start), x) < TIGHT
