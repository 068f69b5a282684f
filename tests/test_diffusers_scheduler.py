"""Plans inside unmodified diffusers pipelines, with the samples of `workbench.run`.

Tolerances are relative to the largest value: 1e-5 where the network is float32, or is told a fraction of a timestep in
float32; states of exact teachers at whole timesteps agree to 1e-12.
"""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench import paths, schedules
from workbench.errors import WorkbenchError
from workbench.samplers import SAMPLERS, Plan
from workbench.samplers.sample import prepare

diffusers = pytest.importorskip("diffusers")
from workbench.diffusers_scheduler import PlanScheduler, to_diffusers  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of diffusers' arrays, by the thousand
running = importlib.import_module("workbench.samplers.run")  # wb.samplers.run is the function
TABLE = paths.from_betas("linear")
KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
NOISE = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BETAS = {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.1}


def teacher(path: Any) -> Any:
    return wb.mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5], path=path)


def ours(plan: Plan, model: Any, noise: Tensor, cond: Any = None, **options: Any) -> Tensor:
    *_, last = wb.run(plan, model, noise, cond, **options)
    return last.x


def loop(scheduler: Any, noise: Tensor = NOISE, steps: int | None = None, **extra: Any) -> Tensor:
    """The loop of every pipeline, with an exact network that is told timesteps."""
    path, config = scheduler.plan.path, scheduler.config
    model = teacher(path)
    scheduler.set_timesteps(scheduler.plan.steps if steps is None else steps)
    x = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        told = float(timestep)
        t = (told + 1) / config.num_train_timesteps if config.clock == "table" else told / config.num_train_timesteps
        prediction = path.convert(model(scheduler.scale_model_input(x, timestep), t), x, t, "x0", KINDS[config.prediction_type])
        x = scheduler.step(prediction, timestep, x, **extra).prev_sample
    return x


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def stochastic(plan: Plan) -> bool:
    return any(stage.x.noise or (stage.base and stage.base.noise) for stage in plan.stages)


# -- every sampler


@pytest.mark.parametrize("path", ["linear", TABLE], ids=["linear", "table"])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if not name.endswith("_adaptive") and name != "flow_map"])
def test_a_loop_over_the_scheduler_is_run(sampler: str, path: Any) -> None:
    """Stochastic ones by the seed of the scheduler; from a grid that starts below pure noise, which all samplers accept."""
    plan = wb.plan(sampler, path, 5, t_start=0.9)
    found = loop(to_diffusers(plan, seed=4))
    expected = ours(plan, teacher(path), NOISE, seed=4)
    assert off(found, expected) < 1e-5
    if stochastic(plan):
        assert off(loop(to_diffusers(plan, seed=5)), expected) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", ["heun", "ddim", "dpmpp_2m"])
def test_whole_timesteps_and_every_prediction_are_exact(sampler: str, kind: str) -> None:
    plan = wb.plan(sampler, TABLE, 5)
    scheduler = to_diffusers(plan, prediction_type=kind)
    assert scheduler.timesteps.dtype == torch.int64 and scheduler.timesteps[0] == 999
    assert off(loop(scheduler), ours(plan, teacher(TABLE), NOISE)) < 1e-10  # eps at alpha(1) = 0.006, several times over


def test_the_generator_draws_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """One draw a stage that needs one, in order; the same handed to `run` gives the same samples."""
    plan = wb.plan("ddim", TABLE, 5, eta=1.0)
    rng = torch.Generator().manual_seed(3)
    drawn = [torch.randn(NOISE.shape, generator=rng, dtype=NOISE.dtype) for _ in plan.stages]
    found = loop(to_diffusers(plan), generator=torch.Generator().manual_seed(3), eta=0.0)
    monkeypatch.setattr(running, "stage_noise", lambda x, seed, stage, index: drawn[stage])
    assert off(found, ours(plan, teacher(TABLE), NOISE)) < 1e-10
    same = [torch.ones_like(NOISE)] * 5
    monkeypatch.setattr(running, "stage_noise", lambda x, seed, stage, index: same[stage])
    assert off(loop(to_diffusers(plan), variance_noise=same[0]), ours(plan, teacher(TABLE), NOISE)) < 1e-10


def test_a_step_returns_the_estimate_too() -> None:
    """And leaves out the channels of a learned variance."""
    plan, scheduler = wb.plan("heun", TABLE, 4), copy.deepcopy(to_diffusers(wb.plan("heun", TABLE, 4)))
    x = NOISE * scheduler.init_noise_sigma
    for frame, timestep in zip(wb.run(plan, teacher(TABLE), NOISE), scheduler.timesteps, strict=False):
        assert off(x, frame.x) < 1e-10
        eps = TABLE.convert(frame.target, frame.x, frame.t, "x0", "eps")
        made = scheduler.step(torch.cat([eps, torch.full_like(eps, 9.0)], 1), timestep, x)
        assert off(made.pred_original_sample, frame.target) < 1e-10
        x = made.prev_sample


def test_an_estimate_is_clipped_as_by_sample() -> None:
    plan = wb.plan("dpmpp_2m", TABLE, 5)
    found = loop(to_diffusers(plan, thresholding="clip"))
    assert off(found, ours(plan, prepare(teacher(TABLE), None, "clip"), NOISE)) < 1e-10 and found.abs().max() <= 1
    assert off(found, ours(plan, teacher(TABLE), NOISE)) > 1e-3


def test_half_precision_keeps_its_history_in_float32() -> None:
    plan = wb.plan("dpmpp_2m", "linear", 8)
    scheduler = to_diffusers(plan)
    found = loop(scheduler, NOISE.bfloat16())
    assert found.dtype == torch.bfloat16 and scheduler._outputs[0].dtype == torch.float32
    assert off(found.double(), ours(plan, teacher("linear"), NOISE)) < 0.05


# -- stored, and read again


@pytest.mark.parametrize("path", ["linear", "vp", "edm", TABLE, paths.from_scheduler(diffusers.DDPMScheduler(beta_schedule="sigmoid"))],
                         ids=lambda path: getattr(path, "name", path))  # fmt: skip
def test_a_scheduler_is_saved_with_its_plan(tmp_path: Path, path: Any) -> None:
    plan = wb.plan("heun", path, 4, "karras", power=5.0)
    scheduler = to_diffusers(plan, seed=3)
    scheduler.save_pretrained(tmp_path)
    again = PlanScheduler.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["plan"]["sampler"] == "heun"
    assert again.plan.stages == plan.stages and again.plan.times == plan.times and again.plan.path.name == plan.path.name
    assert again.config.seed == 3 and again.config.clock == scheduler.config.clock
    assert torch.equal(again.timesteps, scheduler.timesteps) and str(plan) in repr(again)
    at = torch.linspace(0, 1, 77, dtype=torch.float64)
    assert torch.allclose(again.plan.path.sigma(at), plan.path.sigma(at), rtol=1e-9)
    assert torch.equal(schedules.from_scheduler(again), torch.tensor(plan.times, dtype=torch.float64))


# -- pipelines


def unet(channels: int = 1, **more: Any) -> Any:
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **more,
    )  # fmt: skip
    return louder(net)


def louder(net: Any) -> Any:
    """Weights that make the output depend on the state, the time and the class."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.dim() > 1 and "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape) * parameter[0].numel() ** -0.5)
    return net.eval()


def saved(pipe: Any, folder: Path) -> Any:
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, *given: Any, **call: Any) -> Tensor:
    """The last state of a pipeline's run, before it is made an image of."""
    states, step = [], pipe.scheduler.step

    def watch(*args: Any, **kwargs: Any) -> Any:
        made = step(*args, **kwargs)
        states.append(made[0])
        return made

    pipe.scheduler.step = watch
    pipe(*given, **call, generator=torch.Generator().manual_seed(5), output_type="np")
    del pipe.scheduler.step
    return states[-1]


def start(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("sampler", "options"), [("heun", {}), ("dpmpp_2m", {"schedule": "karras"}), ("ddim", {"eta": 1.0})])
@pytest.mark.parametrize("kind", ["DDPMPipeline", "DDIMPipeline"])
def test_a_pipeline_of_pixels(tmp_path: Path, kind: str, sampler: str, options: dict) -> None:
    pipe = saved(getattr(diffusers, kind)(unet(), diffusers.DDIMScheduler(**BETAS, clip_sample=False)), tmp_path)
    model = wb.load(tmp_path)
    plan = wb.plan(sampler, model.path, 5, **options)
    pipe.scheduler = to_diffusers(plan, seed=2)
    found = drawn(pipe, batch_size=3, num_inference_steps=5)
    noise = start(3, 1, 8, 8) / model.path.sigma(1.0)  # these pipelines start from the noise itself
    assert off(found, ours(plan, model, noise, seed=2)) < 1e-5


def test_a_pipeline_is_saved_and_loaded_with_its_plan(tmp_path: Path) -> None:
    pipe = diffusers.DDPMPipeline(unet(), diffusers.DDPMScheduler(**BETAS))
    pipe.scheduler = to_diffusers(wb.plan("heun", paths.from_scheduler(pipe.scheduler), 3))
    saved(pipe, tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["workbench.diffusers_scheduler", "PlanScheduler"]
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, PlanScheduler)
    listed = wb.plan("euler", again.scheduler.plan.path, schedule=again.scheduler)
    assert listed.times == pipe.scheduler.plan.times
    call = {"batch_size": 2, "num_inference_steps": 3}
    assert torch.equal(drawn(again, **call), drawn(pipe, **call))
    with pytest.raises(WorkbenchError, match=r"a plan of 3 steps, not 1000: pass num_inference_steps=3"):
        pipe()


@pytest.mark.parametrize("flow", [False, True], ids=["epsilon", "flow matching"])
def test_a_pipeline_of_latents_with_guidance(tmp_path: Path, flow: bool) -> None:
    torch.manual_seed(1)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4 if flow else 8, num_layers=1, sample_size=4,
        patch_size=2, norm_num_groups=2,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), down_block_types=("DownEncoderBlock2D",),
                                  up_block_types=("UpDecoderBlock2D",), latent_channels=4, norm_num_groups=4)  # fmt: skip
    own = (
        diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
        if flow
        else diffusers.DDIMScheduler(**BETAS)
    )
    pipe = saved(diffusers.DiTPipeline(louder(net), vae.eval(), own), tmp_path)
    model = wb.load(tmp_path)
    plan = wb.plan("dpmpp_2m", model.path, 4, "shift")
    pipe.scheduler = to_diffusers(plan)
    found = drawn(pipe, [3, 7], guidance_scale=2.0, num_inference_steps=4).chunk(2)[0]
    assert pipe.scheduler.config.prediction_type == ("flow_prediction" if flow else "epsilon")
    noise = start(2, 4, 4, 4) / model.path.sigma(1.0)
    assert off(found, ours(plan, prepare(model, 2.0), noise, torch.tensor([3, 7]))) < 1e-5


@pytest.mark.parametrize("clock", ["consistency", "edm"])
def test_a_preconditioned_network(tmp_path: Path, clock: str) -> None:
    own = diffusers.CMStochasticIterativeScheduler() if clock == "consistency" else diffusers.EDMEulerScheduler()
    pipe = saved(diffusers.ConsistencyModelPipeline(unet(3), own), tmp_path)
    model = wb.load(tmp_path)
    plan = wb.plan("consistency" if clock == "consistency" else "heun", model.path, 3)
    pipe.scheduler = to_diffusers(plan, clock=clock, seed=1)
    found = drawn(pipe, batch_size=2, num_inference_steps=3)
    assert off(found, ours(plan, model, start(2, 3, 8, 8), seed=1)) < 1e-5


# -- what pipelines ask of a scheduler


def test_noise_is_added_at_the_networks_timesteps() -> None:
    x0, steps = (
        torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        torch.tensor([0, 99, 400, 999]),
    )
    theirs = diffusers.DDPMScheduler(beta_schedule="linear").add_noise(x0, NOISE[:4], steps)
    assert off(to_diffusers(wb.plan("ddim", TABLE, 5)).add_noise(x0, NOISE[:4], steps), theirs) < 1e-5
    flow = to_diffusers(wb.plan("euler", "linear", 4))
    assert torch.allclose(flow.scale_noise(x0, torch.tensor([250.0]), NOISE[:4]), 0.75 * x0 + 0.25 * NOISE[:4])
    edm = to_diffusers(wb.plan("heun", "edm", 4))
    added = edm.add_noise(torch.zeros_like(x0), torch.ones_like(x0), edm.timesteps[1].expand(4))
    assert torch.allclose(added, torch.full_like(x0, paths.edm.sigma(0.75)), rtol=1e-5)


def test_heun_counts_two_evaluations_a_step_as_diffusers_does() -> None:
    scheduler = to_diffusers(wb.plan("heun", TABLE, 5))
    assert (scheduler.order, len(scheduler.timesteps), scheduler.num_inference_steps) == (2, 9, 5)
    assert to_diffusers(wb.plan("dpmpp_2m", TABLE, 5)).order == 1 and len(scheduler) == 1000


@pytest.mark.parametrize("said", [True, False], ids=["told", "found by its timestep"])
def test_it_begins_at_a_later_step(said: bool) -> None:
    """As image-to-image pipelines do: the rest of the plan, from a state at its time."""
    plan = wb.plan("heun", TABLE, 5)
    scheduler, model = to_diffusers(plan), teacher(TABLE)
    first, t = 2 * scheduler.order, plan.times[2]
    if said:
        scheduler.set_begin_index(first)
    x = NOISE * TABLE.sigma(t)
    for timestep in scheduler.timesteps[first:]:
        at = (float(timestep) + 1) / 1000
        x = scheduler.step(TABLE.convert(model(x, at), x, at, "x0", "eps"), timestep, x)[0]
    rest = wb.plan("heun", TABLE, schedule=list(plan.times[2:]))
    assert off(x, ours(rest, model, NOISE)) < 1e-10 and scheduler.step_index == 9
    with pytest.raises(WorkbenchError, match="at its end after 9 evaluations"):
        scheduler.step(x, 0, x)


def test_flow_pipelines_may_pass_what_they_pass_unasked() -> None:
    scheduler = to_diffusers(wb.plan("euler", "linear", 4, "shift"))
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 4, 4), mu=0.7)
    assert torch.allclose(scheduler.timesteps.double(), 1000 * torch.tensor(scheduler.plan.times[:4], dtype=torch.float64))
    assert torch.allclose(scheduler.sigmas.double(), torch.tensor(scheduler.plan.times, dtype=torch.float64))
    assert scheduler.config.use_flow_sigmas and scheduler.timesteps[1] != 750


def late() -> None:
    scheduler = to_diffusers(wb.plan("dpmpp_2m", TABLE, 5))
    scheduler.set_begin_index(2)
    scheduler.step(NOISE, 0, NOISE)


ONES = paths.Path("mine", *[torch.ones_like] * 4, torch.sigmoid)
REFUSED = {
    "two models": (lambda: to_diffusers(wb.hybrid(wb.plan("euler", "linear", 4), 2)), "this plan is for two"),
    "two times": (lambda: to_diffusers(wb.plan("flow_map", "linear", 4)), "jumps to a second time"),
    "own path": (lambda: to_diffusers(Plan("x", ONES, (1.0, 0.0), wb.plan("ddim", "linear", 1).stages)), "neither a name nor a table"),
    "own option": (lambda: to_diffusers(Plan("x", TABLE, (1.0, 0.0), wb.plan("ddim", TABLE, 1).stages, options={"f": print})),
                   "cannot be stored"),
    "prediction": (lambda: to_diffusers(wb.plan("ddim", TABLE, 2), prediction_type="eps"), "unknown prediction type 'eps'"),
    "clock": (lambda: to_diffusers(wb.plan("ddim", TABLE, 2), clock="tabel"), "did you mean 'table'"),
    "thresholding": (lambda: to_diffusers(wb.plan("ddim", TABLE, 2), thresholding="clop"), "did you mean 'clip'"),
    "no plan": (lambda: PlanScheduler.from_config(diffusers.DDIMScheduler().config), "needs a plan"),
    "timesteps": (lambda: to_diffusers(wb.plan("ddim", TABLE, 2)).set_timesteps(timesteps=[999, 0]), "has its own times"),
    "sigmas": (lambda: to_diffusers(wb.plan("ddim", "linear", 3)).set_timesteps(sigmas=[1, 0.8, 0.1]), "has its own times"),
    "even sigmas": (lambda: to_diffusers(wb.plan("ddim", "linear", 3)).set_timesteps(sigmas=[0.5, 0.4, 0.3]), "has its own times"),
    "keyword": (lambda: to_diffusers(wb.plan("ddim", TABLE, 2), sigma_dat=1.0), "did you mean 'sigma_data'"),
    "steps": (lambda: to_diffusers(wb.plan("ddim", TABLE, 2)).set_timesteps(50), "a plan of 2 steps, not 50"),
    "eta": (lambda: loop(to_diffusers(wb.plan("ddim", TABLE, 2)), eta=0.5), "make it with eta=0.5"),
    "no history": (late, "cannot begin at stage 2"),
    "a foreign timestep": (lambda: to_diffusers(wb.plan("ddim", TABLE, 2)).step(NOISE, 123, NOISE), "not one of this plan's"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_one_sentence(name: str) -> None:
    call, said = REFUSED[name]
    with pytest.raises(WorkbenchError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
