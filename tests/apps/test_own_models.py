"""A user's own models on the page: a pipeline of latents, one of images, and a student, dropped into the zoo folder."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
import torch

pytest.importorskip("gradio_client")
pytest.importorskip("diffusers")
import diffusers
from gradio_client import Client
from PIL import Image

import workbench as wb
from apps import details, links, live, session, stream, sweeps, work
from workbench import student, views
from workbench.cli import main
from workbench.denoiser import decode, picture_shape
from workbench.errors import WorkbenchError
from workbench.networks import new_network
from workbench.samplers.sample import Sampling
from workbench.views.grid import to_uint8

SCHEDULER = {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.1}
LATENT, PICTURE = (4, 4, 4), (3, 8, 8)


def put(folder: Path, latent: bool = False, vae: bool = True, **scheduler: Any) -> Path:
    """Save a small pipeline of latents (DiT) or of images (UNet)."""
    torch.manual_seed(0)
    noise = diffusers.DDIMScheduler(**{**SCHEDULER, **scheduler})
    if not latent:
        net = diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        )  # fmt: skip
        diffusers.DDIMPipeline(net, noise).save_pretrained(folder)
        return folder
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=4, patch_size=2,
        norm_num_groups=2, num_embeds_ada_norm=5,
    )  # fmt: skip
    if not vae:
        net.save_pretrained(folder / "transformer")
        noise.save_pretrained(folder / "scheduler")
        index = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}
        (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "DDIMScheduler"]}))
        return folder
    autoencoder = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    diffusers.DiTPipeline(net, autoencoder, noise).save_pretrained(folder)
    return folder


def put_student(folder: Path, teacher: str, shape: tuple[int, ...], **more: Any) -> Path:
    """Save a small student of ours, as `workbench distill` does."""
    net = new_network(shape, 0, "flow", "linear", 0)
    card = student.make_card(
        net, name=folder.name, role="student", shape=shape, sampling=Sampling("consistency", 2), recipe="dmd2",
        teacher=teacher, class_names=[], **more,
    )  # fmt: skip
    student.save(net, card, folder)
    return folder


@pytest.fixture
def zoo_folder(home: Path):
    """The zoo of a new WORKBENCH_HOME, which the page then looks into."""
    kept = (session._spaces, session._load, work.columns_of, work.one_sample, work.density)

    def forget() -> None:
        for each in kept:
            each.cache_clear()
        work.pace_of.clear()
        work._fine.clear()

    forget()
    yield home / "zoo"
    forget()


def test_another_home_is_another_list_of_models_at_once(zoo_folder, tmp_path, monkeypatch):
    put_student(zoo_folder / "moons/mine", "moons", (2,))
    assert [entry.name for entry in session.spaces()["moons"]] == ["moons", "moons/mine"]
    assert session.load("moons/mine").shape == (2,)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "other"))
    assert [entry.name for entry in session.spaces()["moons"]] == ["moons"]
    with pytest.raises(WorkbenchError, match="unknown model"):
        session.load("moons/mine")


def ask(space: str, columns: list) -> list:
    """Everything that /generate takes, in its order: three samples of seed 1."""
    four = [*columns, *[columns[0]] * (4 - len(columns))]
    return [space, session.ANY, 3, 1, len(columns), *(value for column in four for value in column)]


def generate(served, tmp_path: Path, space: str, columns: list) -> tuple[list[list[dict]], list[dict], str]:
    """What the page is sent: frames of every column, what began it, and the last line over the pictures."""
    client = Client(served[1], verbose=False, download_files=str(tmp_path))
    job = client.submit(*ask(space, columns), api_name="/generate")
    final = job.result(timeout=120)
    frames, begins = [[] for _ in columns], [{} for _ in columns]
    for output in job.outputs():
        for k in range(len(columns)):
            sent = value_of(output[k])
            if isinstance(sent, dict) and sent.get("frames"):
                begins[k] = sent.get("begin") or begins[k]
                frames[k] += [frame for frame in sent["frames"] if not frames[k] or frame["k"] > frames[k][-1]["k"]]
    return frames, begins, str(value_of(final[4]))


def value_of(output: Any) -> Any:
    return output.get("value") if isinstance(output, dict) and "__type__" in output else output


def pixels(text: str, shape: tuple[int, int, int], n: int = 3) -> np.ndarray:
    channels, height, width = shape
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(n, height, width, channels)


def test_latents_compare_as_latents_and_are_seen_decoded(zoo_folder):
    put(zoo_folder / "rooms/dit", latent=True)
    (entry,) = [entry for entry in wb.catalog() if entry.name == "rooms/dit"]
    assert session.shape_of(entry) == LATENT and session.picture_shape_of(entry) == PICTURE
    found = wb.compare([wb.compare.Column("rooms/dit", steps=2)], 3, 1)
    model, x = found.columns[0].model, found.images["rooms/dit"]
    assert x.shape == (3, *LATENT) and picture_shape(model) == PICTURE == model.decode(x).shape[1:]
    states = found.trajectories["rooms/dit"]
    decoded = states.decoded(model)
    assert decoded.x.shape == (3, 3, *PICTURE) and decoded.t is states.t
    for made, latents in ((decoded.x[-1], x), (decoded.target[0], states.target[0])):
        assert torch.allclose(made, model.decode(latents), atol=1e-5)  # in another batch, so up to rounding
    assert torch.equal(decode(wb.Guided(model, 2.0), states.x), decoded.x)


def test_what_draws_no_latents_is_left_as_it_is():
    model, x = wb.load("moons"), torch.zeros(3, 2)
    assert decode(model, x) is x and picture_shape(model) == (2,)


def test_the_page_draws_decoded_latents(zoo_folder, served, tmp_path):
    put(zoo_folder / "rooms/dit", latent=True)
    (frames,), (begin,), said = generate(served, tmp_path, "rooms", [("rooms/dit", "ddim", session.OWN, 3, 4.0)])
    assert "Done in" in said
    assert begin["shape"] == list(PICTURE) and not begin["points"] and [frame["k"] for frame in frames] == [0, 1, 2, 3]
    setup = session.check("rooms", [("rooms/dit", "ddim", session.OWN, 3, 4.0)], 3, 1, session.ANY)
    model, kept = session.load("rooms/dit"), list(work.frames(setup, 0))
    for sent, frame in zip(frames, kept, strict=True):
        for name in ("x", "target"):
            assert np.array_equal(pixels(sent[name], PICTURE), to_uint8(model.decode(getattr(frame, name))))


def test_the_table_below_latents_measures_latents(zoo_folder):
    put(zoo_folder / "rooms/dit", latent=True)
    parts = live.Parts(["p0", "p1", "p2", "p3"], "message", "table", "shown", "start", "stop", "link")
    updates = list(live.generate(parts, None, *ask("rooms", [("rooms/dit", "ddim", session.OWN, 2, 1.0)])))
    *_, shown = [update["shown"] for update in updates if "shown" in update]
    assert shown.ends[0].x.shape == (3, *LATENT)
    assert "error to fine solution" in [update["table"] for update in updates if "table" in update][-1]


def test_below_the_pictures_latents_are_decoded_too(zoo_folder):
    put(zoo_folder / "rooms/dit", latent=True)
    setup = session.check("rooms", [("rooms/dit", "ddim", session.OWN, 2, 1.0)], 3, 1, session.ANY)
    strip, *_ = details._sample_figures(setup, 2)
    assert strip["value"].count("<img") == 6
    image = sweeps._cell(setup, 0, 2, "#000000", "told").split("base64,")[1].rstrip('">')
    *_, end = work.frames(setup, 0)
    drawn = to_uint8(session.load("rooms/dit").decode(end.x))[2]
    assert np.abs(np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))).astype(int) - drawn).max() <= 1


def test_what_a_page_may_ask_for_counts_decoded_numbers(zoo_folder, monkeypatch):
    put(zoo_folder / "rooms/dit", latent=True)
    monkeypatch.setattr(session, "MOST_NUMBERS", 5 * 3 * 8 * 8 + 1)
    assert session.most_count("rooms") == 5
    plan = SimpleNamespace(steps=10)
    monkeypatch.setattr(stream, "MOST_BYTES", 2 * 3 * 192 * 10 / 4)
    assert stream.stride(plan, SimpleNamespace(count=3), PICTURE) == 4


def test_latents_without_a_decoder_stay_off_the_page_and_say_why(zoo_folder, tmp_path):
    put(zoo_folder / "rooms/bare", latent=True, vae=False)
    assert "rooms/bare" in [entry.name for entry in wb.catalog()] and "rooms" not in session.spaces()
    assert wb.sample(wb.load("rooms/bare"), 2, 1, steps=2).shape == (2, *LATENT)
    with pytest.raises(WorkbenchError, match=r"holds no autoencoder \(vae\): its samples cannot be shown"):
        picture_shape(wb.load("rooms/bare"))
    page = wb.report(["rooms/bare"], tmp_path / "bare.html", n=2, cond=1)  # all but the pictures
    assert "The same 2 samples" not in page.read_text() and "<table" in page.read_text()


def test_files_of_latents_are_pictures_or_the_latents_themselves(zoo_folder, tmp_path, capsys):
    from safetensors.torch import load_file

    put(zoo_folder / "rooms/dit", latent=True)
    common = ["rooms/dit", "--cond", "1", "-n", "4", "--steps", "2", "--out"]
    assert main(["sample", *common, str(tmp_path / "a.png")]) in (0, None)
    assert main(["sample", *common, str(tmp_path / "a.safetensors")]) in (0, None)
    latents = load_file(tmp_path / "a.safetensors")["samples"]
    assert latents.shape == (4, *LATENT)
    drawn = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    scale, gap = 7, 4  # 8 pixels on about 56
    expected = to_uint8(wb.load("rooms/dit").decode(latents))[0]
    assert np.array_equal(drawn[gap + 3 :: scale, gap + 3 :: scale][:8, :8], expected)
    outs = [str(tmp_path / f"b.{ending}") for ending in ("png", "gif", "html", "safetensors")]
    flags = [word for out in outs for word in ("--out", out)]
    assert main(["compare", "rooms/dit:steps=2", "-n", "4", "--cond", "1", *flags]) in (0, None)
    assert load_file(outs[3])["rooms/dit@2"].shape == (4, *LATENT)
    again = np.asarray(Image.open(outs[0]).convert("RGB"))
    assert np.array_equal(again, drawn) and Image.open(outs[1]).n_frames > 1
    page = Path(outs[2]).read_text(encoding="utf-8")
    assert "The same 4 samples from each" in page and "What does each step do to sample 0?" in page


def test_a_pipeline_of_images_and_a_student_of_it_meet_on_the_page(zoo_folder, served, tmp_path):
    put(zoo_folder / "cats/ddim", trained_betas=torch.linspace(1e-3, 0.1, 100).tolist())  # a table without a name
    put_student(zoo_folder / "cats/mine", "cats/ddim", (1, 8, 8))
    assert [entry.name for entry in session.spaces()["cats"]] == ["cats/ddim", "cats/mine"]
    opened = session.defaults("cats", 3)
    assert opened[:2] == [("cats/ddim", "dpmpp_2m", session.OWN, 25, 1.0), ("cats/mine", "consistency", session.OWN, 2, 1.0)]
    for setting in opened[:2]:
        assert session.describe("cats", setting) == "Its own plan"
    assert session.describe("cats", opened[0]._replace(steps=3)) == "Changed; its own: dpmpp_2m, 25 steps"
    frames, _, said = generate(served, tmp_path, "cats", [opened[0]._replace(steps=3), opened[1]])
    assert "Done in" in said and [len(each) for each in frames] == [4, 3]
    assert pixels(frames[1][-1]["x"], (1, 8, 8)).shape == (3, 8, 8, 1)
    setup = session.check("cats", opened[:2], 3, 1, session.ANY)
    said, command, cited = details.texts(live.Shown(setup, ()))
    assert 'role="status"' in said and "compare cats/ddim:" in command and " cats/mine:" in command and "@" in cited
    assert links.from_query(dict(parse_qsl(links.to_query(setup)))) == setup
    assert "table of DDIMScheduler" in wb.report(["cats/ddim"], tmp_path / "cats.html", n=2).read_text(encoding="utf-8")


def test_a_student_of_latents_decodes_as_its_teacher(zoo_folder, tmp_path):
    put(zoo_folder / "rooms/dit", latent=True)
    said = {"latent": True, "picture_shape": list(PICTURE)}
    put_student(zoo_folder / "rooms/mine", "rooms/dit", LATENT, **said)
    made, teacher = wb.load("rooms/mine"), wb.load("rooms/dit")
    x = torch.randn(2, *LATENT, generator=torch.Generator().manual_seed(0))
    assert picture_shape(made) == PICTURE and torch.equal(decode(made, x), teacher.decode(x))
    assert "rooms/mine" in [entry.name for entry in session.spaces()["rooms"]]
    put_student(zoo_folder / "rooms/lost", "hf:org/dit", LATENT, **said)
    with pytest.raises(WorkbenchError, match=r"latents of hf:org/dit, which cannot decode them \(it is of the Hub"):
        decode(wb.load("rooms/lost"), x)


def test_a_widget_shows_decoded_latents(zoo_folder):
    put(zoo_folder / "rooms/dit", latent=True)
    shown = wb.widgets.explore([wb.compare.Column("rooms/dit", steps=2)], n=4, seed=1, cond=1)
    assert shown.error is None
    run, view = shown.trajectories["rooms/dit"], shown._views[0]
    assert run.x.shape == (3, 4, *LATENT)
    shown.controls.step.value = 2
    drawn = np.asarray(Image.open(io.BytesIO(view.pictures["state"].value)))
    assert np.array_equal(drawn, views.image_grid(wb.load("rooms/dit").decode(run.x[2]), size=drawn.shape[1] + 2))
    assert "sample 3" in shown._strips(shown.trajectories, 3)[0].layout.title.text


def test_the_card_of_a_student_of_latents_says_what_they_look_like(zoo_folder):
    from workbench.distill.distill import _latent

    put(zoo_folder / "rooms/dit", latent=True)
    put(zoo_folder / "rooms/bare", latent=True, vae=False)
    assert _latent(wb.load("rooms/dit")) == {"latent": True, "picture_shape": list(PICTURE)}
    assert _latent(wb.load("rooms/bare")) == {"latent": True, "picture_shape": None}
    assert _latent(wb.load("moons")) == {}


def test_a_teacher_of_the_hub_is_not_fetched_to_measure_its_student(zoo_folder, monkeypatch):
    from workbench.zoo import pipelines

    put_student(zoo_folder / "cats/mine", "hf:org/cats", (1, 8, 8))
    monkeypatch.setattr(pipelines, "load_hub", lambda *_: pytest.fail("asked the Hub"))
    found = wb.compare(["cats/mine"], 2)
    assert found.reference is None and "error to fine solution" not in found.table.columns


def test_settings_beyond_the_controls_are_cut_to_them_and_told(zoo_folder):
    folder = put_student(zoo_folder / "cats/mine", "cats/none", (1, 8, 8))
    card = json.loads((folder / "card.json").read_text())
    card["sampling"] |= {"steps": 80, "sampler": "ddim", "guidance": 12.0}
    (folder / "card.json").write_text(json.dumps(card))
    own = session.own_setting(session.entry_of("cats", "cats/mine"))
    assert (own.steps, own.guidance) == (session.MOST_STEPS, session.GUIDANCE[1])
    assert session.describe("cats", own) == "Changed; its own: ddim, 80 steps, guidance 12"
    card["sampling"] = {"sampler": "ddim", "stepz": 3, "steps": 3}
    (folder / "card.json").write_text(json.dumps(card))
    session._spaces.cache_clear()
    assert "cats" not in session.spaces()
