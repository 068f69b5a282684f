"""Pipelines that are damaged, unknown or not there, and the Hub, which is not asked here: one sentence for what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench as wb
from workbench.errors import MissingSource, WorkbenchError

diffusers = pytest.importorskip("diffusers")
BETAS = {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.1}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def unet(channels: int = 1) -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip


def edit(file: Path, **change: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def poison(folder: Path) -> None:
    state = load_file(folder / "unet" / WEIGHTS)
    state["conv_out.bias"] = state["conv_out.bias"] * float("nan")
    save_file(state, folder / "unet" / WEIGHTS, metadata={"format": "pt"})


def lose(folder: Path) -> None:
    state = load_file(folder / "unet" / WEIGHTS)
    state.pop("conv_out.bias")
    save_file(state, folder / "unet" / WEIGHTS, metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")


DAMAGE = {
    "pickles only": (pickled, r"holds diffusion_pytorch_model\.bin, a pickle, which could run code"),
    "no weights": (lambda f: (f / "unet" / WEIGHTS).unlink(), "has no diffusion_pytorch_model.safetensors"),
    "cut short": (
        lambda f: (f / "unet" / WEIGHTS).write_bytes((f / "unet" / WEIGHTS).read_bytes()[:999]),
        "damaged|do not fit",
    ),
    "NaN": (poison, "NaN or infinite weights"),
    "a weight missing": (lose, r"do not fit its config\.json \(1 differ, such as conv_out\.bias\)"),
    "of another size": (lambda f: edit(f / "unet/config.json", block_out_channels=[8, 32]), "do not fit"),
    "index is no JSON": (lambda f: (f / "model_index.json").write_text("{"), "not valid JSON"),
    "index is a list": (lambda f: (f / "model_index.json").write_text("[]"), "not a JSON object"),
    "text to image": (
        lambda f: edit(f / "model_index.json", text_encoder=["transformers", "CLIPTextModel"]),
        "a CLIPTextModel",
    ),
    "own code": (lambda f: edit(f / "model_index.json", unet=["my_module", "UNet2DModel"]), "supported are pipelines of"),
    "another network": (lambda f: edit(f / "model_index.json", unet=["diffusers", "UNet3D"]), "supported are pipelines of"),
    "no network": (lambda f: edit(f / "model_index.json", unet=[None, None]), "supported are pipelines of"),
    "network's class": (lambda f: edit(f / "unet/config.json", _class_name="UNet2DConditionModel"), "supported are"),
    "no scheduler's file": (lambda f: shutil.rmtree(f / "scheduler"), "has no scheduler/scheduler_config.json"),
    "no scheduler": (lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="UNet2DModel"), "is of a UNet2DModel"),
    "unknown scheduler": (lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="MyScheduler"), "of a MyScheduler"),
    "score SDE": (
        lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="ScoreSdeVeScheduler"),
        "must have alphas_cumprod",
    ),
    "unknown betas": (lambda f: edit(f / "scheduler/scheduler_config.json", beta_schedule="mine"), "is not implemented"),
    "too long a table": (lambda f: edit(f / "scheduler/scheduler_config.json", num_train_timesteps=10**12), "2 to 100000"),
    "unknown prediction": (
        lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="score"),
        "epsilon, v_prediction",
    ),
    "no size": (lambda f: edit(f / "unet/config.json", sample_size=None), "sample_size None"),
    "three channels of one": (lambda f: edit(f / "unet/config.json", out_channels=3), "makes 3 channels of 1"),
    "fourier": (lambda f: edit(f / "unet/config.json", time_embedding_type="fourier"), "embeds sigma itself"),
    "soft classes": (lambda f: edit(f / "unet/config.json", class_embed_type="identity"), "only labels are supported"),
    "cannot be run": (lambda f: edit(f / "unet/config.json", freq_shift="x"), r"unet cannot be run \(unsupported operand"),
    "does not halve": (lambda f: edit(f / "unet/config.json", sample_size=7), "unet cannot be run"),
    "quantised": (lambda f: edit(f / "unet/config.json", quantization_config={}), "quantised"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "pipe"
    diffusers.DDIMPipeline(unet(), diffusers.DDIMScheduler(**BETAS)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, whole: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    shutil.copytree(whole, tmp_path / "pipe")
    damage(tmp_path / "pipe")
    with pytest.raises(WorkbenchError, match=said) as caught:
        wb.load(tmp_path / "pipe")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_a_damaged_preconditioning_is_one_sentence(tmp_path: Path) -> None:
    diffusers.ConsistencyModelPipeline(unet(3), diffusers.CMStochasticIterativeScheduler()).save_pretrained(tmp_path)
    edit(tmp_path / "scheduler" / "scheduler_config.json", sigma_data="x")
    with pytest.raises(WorkbenchError, match="could not convert string to float"):
        wb.load(tmp_path)


def test_a_pickle_beside_the_weights_is_not_touched(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "pipe")
    (tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not even a pickle")
    assert wb.load(tmp_path / "pipe").shape == (1, 8, 8)


# -- the Hub, which is not asked here


def test_a_hub_id_fetches_the_texts_first_and_then_the_weights(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []
    import huggingface_hub

    def fetch(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(whole)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    model = wb.load("hf:org/tiny@v1")
    assert model.name == "hf:org/tiny@v1" and model.shape == (1, 8, 8)
    texts = ["*.json", "*/*.json"]
    assert asked == [("org/tiny", "v1", texts), ("org/tiny", "v1", [*texts, "unet/diffusion_pytorch_model*.safetensors"])]


@pytest.mark.parametrize(
    "name", ["hf:", "hf:org", "hf:../x", "hf:a/b/c", "hf:org/na me", "hf:/etc/passwd", "hf:org/x@../y z", "hf:a/.."]
)
def test_an_impossible_hub_id_asks_nobody(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(WorkbenchError, match="write hf:org/name"):
        wb.load(name)
    with pytest.raises(WorkbenchError, match=r"unknown model 'org/tiny'.*A model of the Hub is written 'hf:org/tiny'"):
        wb.load("org/tiny")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("GatedRepoError", "is gated: accept its terms on its page, then log in with `hf auth login`"),
        ("RepositoryNotFoundError", "is not on the Hub: check the id, and log in"),
        ("RevisionNotFoundError", "has no revision 'v9'"),
        ("LocalEntryNotFoundError", "hf download org/tiny --local-dir FOLDER"),
        ("OfflineModeIsEnabled", "could not be fetched"),
    ],
)
def test_a_hub_that_says_no(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    kind = getattr(huggingface_hub.errors, name)
    error = kind.__new__(kind)  # their constructors want a response

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(MissingSource, match=said) as caught:
        wb.load("hf:org/tiny@v9")
    assert "\n" not in str(caught.value)
