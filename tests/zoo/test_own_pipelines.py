"""Pipelines that the user has put in the zoo folder: listed without being loaded, loaded by name, at home in the app."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import workbench as wb
from workbench import zoo
from workbench.errors import MissingSource, UnknownName, WorkbenchError

diffusers = pytest.importorskip("diffusers")


@pytest.fixture
def put(home: Path):
    """Save a small pipeline as zoo/space/name."""

    def save(name: str = "cats/ddpm", **config) -> Path:
        torch.manual_seed(0)
        net = diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **config,
        )  # fmt: skip
        folder = home / "zoo" / name
        diffusers.DDPMPipeline(net, diffusers.DDPMScheduler()).save_pretrained(folder)
        return folder

    return save


def test_a_dropped_pipeline_is_in_the_catalog(put, monkeypatch):
    folder = put(num_class_embeds=3)
    with monkeypatch.context() as patched:  # listing reads no weights
        patched.setattr(diffusers.UNet2DModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
        (entry,) = [entry for entry in wb.catalog() if entry.name == "cats/ddpm"]
    assert (entry.role, entry.space, entry.source, entry.folder) == ("teacher", "cats", "user", folder)
    assert "DDPMPipeline of diffusers" in entry.summary and "images 1 x 8 x 8" in entry.summary and "3 classes" in entry.summary
    assert "dpmpp_2m at 25 steps" in zoo.summary(entry)
    model = wb.load("cats/ddpm")
    assert model.name == "cats/ddpm" and model.card == entry.card and model.shape == tuple(entry.card["shape"])
    assert wb.load(folder).card == entry.card  # from its folder it is the same model
    assert wb.sample(model, 2, 1, steps=2).shape == (2, 1, 8, 8)


def test_a_damaged_pipeline_is_left_out_and_says_why(put):
    folder = put()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99)
    put("cats/other")
    names = [entry.name for entry in wb.catalog()]
    assert "cats/ddpm" not in names and "cats/other" in names
    with pytest.raises(WorkbenchError, match="is damaged"):
        wb.load("cats/ddpm")
    with pytest.raises(WorkbenchError, match="is damaged"):
        zoo.check(folder)
    assert zoo.folders(folder.parent.parent) == [folder, folder.parent / "other"]


def test_a_pipeline_beside_a_bundled_student_compares_with_it(put):
    put("digits/mine")
    found = wb.compare(["digits/mine", "digits/dmd2"], n=2, cond=None)
    assert set(found.images) == {"digits/mine", "digits/dmd2"} and found.images["digits/mine"].shape == (2, 1, 8, 8)


def test_the_app_offers_it(put):
    session = pytest.importorskip("apps.session")
    put()
    session._spaces.cache_clear()
    try:
        assert [entry.name for entry in session.spaces()["cats"]] == ["cats/ddpm"] and session.is_image("cats")
        first = session.defaults("cats")[0]
        assert (first.model, first.sampler, first.steps, first.guidance) == ("cats/ddpm", "dpmpp_2m", 25, 1.0)
        assert session.class_names("cats") == []
        assert session.describe("cats", first).startswith("Its own plan")
        assert session.describe("cats", first._replace(steps=4)) != session.describe("cats", first)
        assert session.check("cats", [first._replace(steps=2)], 2, 0, session.ANY).columns[0].model == "cats/ddpm"
    finally:
        session._spaces.cache_clear()


def test_a_path_that_is_not_there_is_a_missing_folder(home):
    for text in ("runs/x/student", "a/b/c/d"):
        with pytest.raises(MissingSource, match=f"no model folder '{text}'"):
            wb.load(text)


def test_the_hub_is_offered_to_what_looks_like_an_id_but_not_to_a_slip(home):
    with pytest.raises(UnknownName, match=r"Known: .* A model of the Hub is written 'hf:google/ddpm-cifar10-32'\."):
        wb.load("google/ddpm-cifar10-32")
    with pytest.raises(UnknownName, match="did you mean 'digits/dmd2'") as caught:
        wb.load("digits/dmd3")
    assert "Hub" not in str(caught.value)
