"""Pipelines that the test makes, saved by diffusers and loaded by us: the same numbers.

Tolerance 1e-4 of the largest value, for float32 tables and networks; the pipelines' own calls are run, and their last
state is read before it is clipped to an image.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench import paths, schedules
from workbench.errors import MissingSource, WorkbenchError
from workbench.samplers.sample import labels, prepare
from workbench.teachers import pipeline_folder
from workbench.zoo import pipelines

diffusers = pytest.importorskip("diffusers")
BETAS = {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.1}
PLAIN = {**BETAS, "timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
STEPS = 10
WEIGHTS = "diffusion_pytorch_model.safetensors"


def unet(channels: int = 1, size: Any = 8, **more: Any) -> Any:
    torch.manual_seed(0)
    made = diffusers.UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=more.pop("out_channels", channels), block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4, attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), **more,
    )  # fmt: skip
    return louder(made)


def louder(net: Any) -> Any:
    """Weights that make the output depend on the state, the time and the class."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.dim() > 1 and "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape) * parameter[0].numel() ** -0.5)
    return net.eval()


def dit(path: Path, **config: Any) -> Any:
    """A DiTPipeline with 1000 classes, since the pipeline knows no other number."""
    torch.manual_seed(1)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=4, patch_size=2,
        norm_num_groups=2, **config,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                                  up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4)  # fmt: skip
    scheduler = diffusers.DDIMScheduler(**PLAIN)
    pipe = diffusers.DiTPipeline(louder(net), vae.eval(), scheduler)
    return saved(pipe, path)


def saved(pipe: Any, path: Path) -> Any:
    pipe.save_pretrained(path, safe_serialization=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ddim(path: Path, scheduler: Any = None, **config: Any) -> Any:
    return saved(diffusers.DDIMPipeline(unet(**config), scheduler or diffusers.DDIMScheduler(**PLAIN)), path)


def watched(pipe: Any) -> list[Tensor]:
    """Every state that the pipeline's scheduler makes."""
    states, step = [], pipe.scheduler.step

    def watch(*args: Any, **kwargs: Any) -> Any:
        made = step(*args, **kwargs)
        states.append(made[0])
        return made

    pipe.scheduler.step = watch
    return states


def ours(model: Any, scheduler: Any, noise: Tensor, sampler: str = "ddim", cond: Any = None, guidance: float = 1.0) -> Tensor:
    """Our plan at the scheduler's own timesteps; diffusers starts at `noise`, we at sigma(t_0) times it."""
    times = schedules.from_scheduler(scheduler)
    plan = wb.plan(sampler, model.path, schedule=times)
    given = labels(model, cond, len(noise))
    *_, last = wb.run(plan, prepare(model, guidance), noise / model.path.sigma(float(times[0])), given)
    return last.x


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return float((a - b).abs().max() / b.abs().max()) < tolerance


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- the same numbers


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_ddim_pipeline(tmp_path: Path, kind: str, spacing: str) -> None:
    pipe = ddim(tmp_path, diffusers.DDIMScheduler(**{**PLAIN, "prediction_type": kind, "timestep_spacing": spacing}))
    states = watched(pipe)
    pipe(batch_size=3, generator=torch.Generator().manual_seed(5), num_inference_steps=STEPS, output_type="np")
    model = wb.load(tmp_path)
    found = ours(model, pipe.scheduler, draw(5, 3, 1, 8, 8))
    assert len(states) == STEPS and close(found, states[-1])
    assert not close(found, ours(model, pipe.scheduler, draw(6, 3, 1, 8, 8)), 0.1)  # the comparison can tell


def test_a_state_at_whole_and_half_timesteps(tmp_path: Path) -> None:
    """Time t is timestep t T - 1; between two entries the network is asked at the fraction."""
    pipe, x = ddim(tmp_path), draw(0, 2, 1, 8, 8)
    model = wb.load(tmp_path)
    for timestep, t in [(0.0, 0.01), (41.0, 0.42), (41.5, 0.425), (99.0, 1.0), (0.0, 0.003)]:
        with torch.no_grad():
            eps = pipe.unet(x, torch.tensor([timestep])).sample
        assert torch.allclose(model.predict(x, t), eps, atol=1e-4)
    with torch.no_grad():
        eps = pipe.unet(x, torch.tensor(41)).sample
    alpha, sigma = float(pipe.scheduler.alphas_cumprod[41]) ** 0.5, float(1 - pipe.scheduler.alphas_cumprod[41]) ** 0.5
    assert close(model(x, 0.42), (x - sigma * eps) / alpha, 1e-5)


def test_a_learned_embedding_takes_the_nearest_entry(tmp_path: Path) -> None:
    pipe = ddim(tmp_path, time_embedding_type="learned", num_train_timesteps=100)
    model, x = wb.load(tmp_path), draw(0, 2, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(model.predict(x, 0.424), pipe.unet(x, torch.tensor(41)).sample, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_network_with_classes(tmp_path: Path, kind: str) -> None:
    """Diffusers has no DDIM pipeline with classes: its scheduler's loop, written out."""
    scheduler = diffusers.DDIMScheduler(**PLAIN, prediction_type=kind)
    pipe = ddim(tmp_path, scheduler, num_class_embeds=4)
    scheduler.set_timesteps(STEPS)
    given = torch.tensor([0, 3, 1])
    x = noise = draw(3, 3, 1, 8, 8)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            x = scheduler.step(pipe.unet(x, timestep, class_labels=given).sample, timestep, x).prev_sample
    model = wb.load(tmp_path)
    assert model.classes == 4 and model.card["null_class"] is False
    assert close(ours(model, scheduler, noise, cond=[0, 3, 1]), x)
    assert not close(ours(model, scheduler, noise, cond=[1, 3, 0]), x, 0.01)
    for call in (lambda: wb.sample(model, 2, steps=2), lambda: wb.sample(model, 2, 1, steps=2, guidance=2.0)):
        with pytest.raises(WorkbenchError, match="without a null class: give a class from 0 to 3, and leave guidance at 1"):
            call()


def test_the_last_class_can_be_none_at_all(tmp_path: Path) -> None:
    pipe, x = ddim(tmp_path, num_class_embeds=4), draw(0, 2, 1, 8, 8)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"id2label": {"0": "cat", "1": "dog, hound", "2": "cat"}}))
    with torch.no_grad():
        null, one = (pipe.unet(x, torch.tensor(49), class_labels=torch.tensor([k, k])).sample for k in (3, 1))
    model = wb.load(tmp_path)
    assert model.classes == 3 and model.class_names == ("cat (0)", "dog, hound", "cat (2)")
    assert torch.allclose(model.predict(x, 0.5), null, atol=1e-5) and torch.allclose(model.predict(x, 0.5, 1), one, atol=1e-5)
    halves = prepare(model, 3.0)(x, 0.5, torch.tensor([1, 1])), model(x, 0.5) + 3 * (model(x, 0.5, 1) - model(x, 0.5))
    assert close(*halves)
    ddim(tmp_path / "told", num_class_embeds=4)
    assert pipelines.load(tmp_path / "told", null_class=True).classes == 3


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_dit_pipeline(tmp_path: Path, guidance: float) -> None:
    """Guidance on all latent channels, null + scale (cond - null), null class 1000, learned variance left out: as theirs."""
    pipe = dit(tmp_path)
    states = watched(pipe)
    images = pipe([7, 999], guidance, torch.Generator().manual_seed(2), num_inference_steps=STEPS, output_type="pt").images
    model = wb.load(tmp_path)
    assert model.shape == (4, 4, 4) and model.classes == 1000 and model.latent and model.sampling.guidance == 4
    found = ours(model, pipe.scheduler, draw(2, 2, 4, 4, 4), cond=[7, 999], guidance=guidance)
    assert close(found, states[-1][:2])
    assert close((model.decode(found) / 2 + 0.5).clamp(0, 1), images) and images.shape == (2, 3, 8, 8)
    drawn = wb.sample(model, 9, 3, steps=2)
    assert drawn.shape == (9, 4, 4, 4) and model.decode(drawn).shape == (9, 3, 8, 8)  # samples are latents
    assert torch.equal(model.decode(drawn)[8:], model.decode(drawn[8:]))


def test_images_decode_to_themselves_and_latents_need_an_autoencoder(tmp_path: Path) -> None:
    ddim(tmp_path / "unet")
    model, x = wb.load(tmp_path / "unet"), draw(0, 2, 1, 8, 8)
    assert not model.latent and model.decode(x) is x
    dit(tmp_path / "dit")
    shutil.rmtree(tmp_path / "dit" / "vae")
    with pytest.raises(MissingSource, match=r"has no vae/config\.json"):
        wb.load(tmp_path / "dit")
    index = json.loads((tmp_path / "dit" / "model_index.json").read_text())
    (tmp_path / "dit" / "model_index.json").write_text(json.dumps(index | {"vae": [None, None]}))
    model = wb.load(tmp_path / "dit")
    with pytest.raises(WorkbenchError, match="holds no autoencoder"):
        model.decode(wb.sample(model, 1, 0, steps=1))
    dit(tmp_path / "whole")
    with pytest.raises(WorkbenchError, match=r"cannot decode \(1, 3, 4, 4\)"):
        wb.load(tmp_path / "whole").decode(draw(0, 1, 3, 4, 4))


def test_the_name_that_dit_was_first_published_under(tmp_path: Path) -> None:
    pipe = dit(tmp_path)
    for file, change in (("model_index.json", {"transformer": ["diffusers", "Transformer2DModel"]}),
                         ("transformer/config.json", {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero"})):  # fmt: skip
        content = json.loads((tmp_path / file).read_text())
        (tmp_path / file).write_text(json.dumps(content | change))
    model, x = wb.load(tmp_path), draw(0, 1, 4, 4, 4)
    with torch.no_grad():
        eps = pipe.transformer(x, torch.tensor([9]), torch.tensor([1000])).sample[:, :4]
    assert model.card["network"] == "DiTTransformer2DModel" and torch.allclose(model.predict(x, 0.1), eps, atol=1e-5)


@pytest.mark.parametrize(("steps", "classes"), [(1, None), (1, 5), (3, None)])
def test_a_consistency_pipeline(tmp_path: Path, steps: int, classes: int | None) -> None:
    """Its noise between steps is sqrt(sigma^2 - sigma_min^2), ours sigma at the time of that; without its clipping."""
    scheduler = diffusers.CMStochasticIterativeScheduler(clip_denoised=False)
    pipe = saved(diffusers.ConsistencyModelPipeline(unet(3, num_class_embeds=classes), scheduler), tmp_path)
    states, rng = watched(pipe), torch.Generator().manual_seed(4)
    given = [4, 0] if classes else None
    pipe(2, class_labels=given, num_inference_steps=steps, generator=rng, output_type="np")
    noises = [draw(4, 1 + steps, 2, 3, 8, 8)[k] for k in range(1 + steps)]
    model = wb.load(tmp_path)
    assert model.role == "student" and model.sampling.sampler == "consistency" and model.sampling.steps == 1
    x, path = 80 * noises[0], model.path
    for k, sigma in enumerate(scheduler.sigmas[:steps].double()):
        target = model(x, path.time(-float(sigma.log())), labels(model, given, 2))
        after = float(scheduler.sigmas[k + 1])
        x = target + max(0.0, after**2 - 0.002**2) ** 0.5 * noises[k + 1]
    assert close(x, states[-1])
    if steps == 1:
        *_, last = wb.run(model.plan(), model, noises[0], labels(model, given, 2))
        assert close(last.x, states[-1])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_edm_preconditioning(tmp_path: Path, kind: str) -> None:
    scheduler = diffusers.EDMEulerScheduler(prediction_type=kind)
    net = unet()
    saved(diffusers.DDPMPipeline(net, scheduler), tmp_path)
    scheduler.set_timesteps(STEPS)
    noise = draw(0, 2, 1, 8, 8)
    x = 80 * noise
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            x = scheduler.step(net(scheduler.scale_model_input(x, timestep), timestep).sample, timestep, x).prev_sample
    model = wb.load(tmp_path)
    times = [*(float(model.path.time(-float(s.log()))) for s in scheduler.sigmas[:-1].double()), 0.0]
    *_, last = wb.run(wb.plan("euler", "edm", schedule=times), model, noise)
    assert model.path is paths.edm and model.sampling.schedule == "karras" and close(last.x, x)


@pytest.mark.parametrize(
    "name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler"]
)
def test_schedulers_that_share_the_table(tmp_path: Path, name: str) -> None:
    """A pipeline's scheduler only says which table it was trained on: the network is the same denoiser under each."""
    ddim(tmp_path)
    plain, x = wb.load(tmp_path), draw(0, 2, 1, 8, 8)
    index = json.loads((tmp_path / "model_index.json").read_text())
    getattr(diffusers, name)(**BETAS, beta_schedule="linear").save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", name]}))
    assert torch.allclose(wb.load(tmp_path)(x, 0.3), plain(x, 0.3), atol=1e-6)


def test_flow_matching(tmp_path: Path) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    pipe = saved(diffusers.DDPMPipeline(unet(), scheduler), tmp_path)
    states = watched(pipe)
    pipe(2, torch.Generator().manual_seed(1), num_inference_steps=STEPS, output_type="pt")
    model = wb.load(tmp_path)
    assert model.path is paths.linear and model.kind == "flow"
    assert close(ours(model, pipe.scheduler, draw(1, 2, 1, 8, 8), "euler"), states[-1])


def test_a_bare_network_and_other_shapes(tmp_path: Path) -> None:
    pipe = ddim(tmp_path, size=(8, 16), channels=3, out_channels=6)
    whole, bare = wb.load(tmp_path), wb.load(tmp_path / "unet")
    assert whole.shape == bare.shape == (3, 8, 16)
    x = draw(0, 2, 3, 8, 16)
    with torch.no_grad():
        assert torch.allclose(whole.predict(x, 0.5), pipe.unet(x, torch.tensor(49)).sample[:, :3], atol=1e-5)
    assert torch.equal(whole(x, 0.5), bare(x, 0.5)) and bare.card["pipeline"] == "bare network"
    shutil.move(tmp_path / "scheduler", tmp_path / "elsewhere")
    with pytest.raises(WorkbenchError, match=r"no scheduler_config\.json .* copy it there"):
        wb.load(tmp_path / "unet")


def test_clipping_schedulers_are_thresholding(tmp_path: Path) -> None:
    """clip_sample with use_clipped_model_output is our thresholding; without it diffusers mixes a clipped x0 with an unclipped eps."""
    pipe = ddim(tmp_path, diffusers.DDIMScheduler(**{**PLAIN, "clip_sample": True}))
    states = watched(pipe)
    pipe(2, torch.Generator().manual_seed(0), num_inference_steps=STEPS, use_clipped_model_output=True, output_type="np")
    model, noise = wb.load(tmp_path), draw(0, 2, 1, 8, 8)
    times = schedules.from_scheduler(pipe.scheduler)
    plan = wb.plan("ddim", model.path, schedule=times)
    *_, last = wb.run(plan, prepare(model, thresholding="clip"), noise / model.path.sigma(1.0))
    assert close(last.x, states[-1])


# -- the card


def test_the_card_says_what_loading_says(tmp_path: Path) -> None:
    pipe = ddim(tmp_path / "mine", num_class_embeds=3)
    card = pipelines.card_of(tmp_path / "mine", "mine")
    model = wb.load(tmp_path / "mine")
    assert model.card == card == json.loads(json.dumps(card))
    assert card["parameters"] == pipe.unet.num_parameters() and card["shape"] == [1, 8, 8] and card["kind"] == "eps"
    assert (model.name, model.role, model.dtype) == ("mine", "teacher", torch.float32) and "DPM" not in repr(model)
    assert not model.net.training and not any(p.requires_grad for p in model.net.parameters())
    assert torch.isfinite(wb.sample(model, 2, 1)).all() and model.sampling.steps == 25
    again = paths.get(card["path"])  # by name, as a student's card holds it
    assert card["path"] == "betas linear 100 0.001 0.1" and again.sigma(0.37) == model.path.sigma(0.37)


def test_half_precision_weights_are_read_in_full(tmp_path: Path) -> None:
    pipe = ddim(tmp_path)
    (tmp_path / "unet" / WEIGHTS).unlink()
    pipe.unet.to(torch.float16).save_pretrained(tmp_path / "unet", variant="fp16")
    assert [file.name for file in pipeline_folder.weights(tmp_path / "unet")] == ["diffusion_pytorch_model.fp16.safetensors"]
    model, x = wb.load(tmp_path), draw(0, 1, 1, 8, 8)
    with torch.no_grad():
        eps = pipe.unet.float()(x, torch.tensor(9)).sample
    assert model.dtype == torch.float32 and torch.allclose(model.predict(x, 0.1), eps, atol=1e-5)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("schedule", paths.BETAS)
def test_paths_of_betas_are_those_of_the_schedulers(schedule: str, zero_snr: bool) -> None:
    scheduler = diffusers.DDIMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=zero_snr)
    numbers = () if schedule == "squaredcos_cap_v2" else (1e-4, 0.02)
    name = " ".join(map(str, ["betas", schedule, 1000, *numbers, *["zero_snr"] * zero_snr]))
    theirs, times = paths.from_scheduler(scheduler), torch.arange(1, 1001).double() / 1000
    assert paths.get(name).name == name and paths.get(name).timesteps == 1000
    assert torch.allclose(paths.get(name).alpha(times), theirs.alpha(times), rtol=1e-5, atol=1e-9)
    assert paths.get("edm to 500").sigma(1.0) == 500


@pytest.mark.parametrize("name", ["betas", "betas linear", "betas linear x", "betas linear 1000 0.1", "betas nope 1000", "edm to x",
                                  "betas linear 1 0.1 0.2", "betas linear 9999999999 0.1 0.2", "betas linear 10 0.1 nan", "edm to nan"])  # fmt: skip
def test_names_that_make_no_path(name: str) -> None:
    with pytest.raises(WorkbenchError):
        paths.get(name)


def test_a_rare_table_has_a_path_though_no_name(tmp_path: Path) -> None:
    scheduler = diffusers.DDPMScheduler(beta_schedule="sigmoid", num_train_timesteps=100, beta_end=0.1)
    saved(diffusers.DDPMPipeline(unet(), scheduler), tmp_path)
    model = wb.load(tmp_path)
    assert model.path.name == "table of DDPMScheduler" and torch.isfinite(wb.sample(model, 1, steps=2)).all()
    with pytest.raises(WorkbenchError, match="no name"):
        list(wb.distill(model, "reflow", steps=1, count=64, run=tmp_path / "run"))


def test_a_pipeline_can_be_distilled(tmp_path: Path) -> None:
    """Into a fresh network of ours, whose card names the teacher's path so that it can be loaded anywhere."""
    ddim(tmp_path / "mine")
    teacher = wb.load(tmp_path / "mine")
    *_, last = wb.distill(teacher, "reflow", steps=2, batch=4, count=8, run=tmp_path / "run", device="cpu")
    student = wb.load(tmp_path / "run" / "student")
    assert student.path.name == teacher.path.name and student.card["teacher"] == "mine" and last.student.shape == (1, 8, 8)
    assert torch.equal(wb.sample(student, 2), wb.sample(last.student, 2))
