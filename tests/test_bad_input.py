"""Bad input: one clear sentence each, and whatever was there before is intact."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import workbench as wb
import workbench.distill.distill
from workbench import student
from workbench.data import image_folder
from workbench.data.images import read_idx
from workbench.distill.checkpoint import RunFolder
from workbench.errors import Diverged, MissingSource, UnknownName, WorkbenchError
from workbench.networks.mlp import MLP
from workbench.samplers.sample import Sampling

TWO = wb.mixture([[0.0, 1.0], [0.0, -1.0]], [0.1, 0.1], labels=None)
NOISE = torch.zeros(4, 2)


def sentence(raised: pytest.ExceptionInfo) -> str:
    """The message: one paragraph, no repr of an exception, ending as a sentence does."""
    text = str(raised.value)
    assert isinstance(raised.value, WorkbenchError) and "\n" not in text and re.search(r"[.)]$", text), text
    return text


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def trained(tmp_path) -> Path:
    """A small student folder."""
    net = MLP(dim=2, width=16, depth=1, classes=0, kind="flow", path="linear")
    card = student.make_card(
        net, name="moons/small", role="student", shape=(2,), sampling=Sampling("euler", 1), recipe="reflow", teacher="moons"
    )
    student.save(net, card, tmp_path / "student")
    return tmp_path / "student"


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: wb.load("eight_gausians"), "eight_gaussians"),
        (lambda: wb.plan("dpmp_2m", "linear", 4), "dpmpp_2m"),
        (lambda: wb.plan("euler", "liner", 4), "linear"),
        (lambda: wb.plan("euler", "linear", 4, schedule="karas"), "karras"),
        (lambda: wb.plan("ddim", "linear", 4, eat=1.0), "eta"),
        (lambda: wb.plan("heun", "linear", 4, variable="s"), None),
        (lambda: wb.sample(TWO, 4, sampler="hune"), "heun"),
        (lambda: wb.sample(TWO, 4, thresholding="clipp"), "clip"),
        (lambda: list(wb.distill(TWO, "reflo", steps=1)), "reflow"),
        (lambda: list(wb.distill(TWO, "reflow", steps=1, bach=3)), "batch"),
        (lambda: wb.Network(nn.Identity(), "linear", "flwo", (2,)), "flow"),
        (lambda: wb.data.toy("moon", 4), "moons"),
        (lambda: wb.data.load("digit"), "digits"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(call, near):
    with pytest.raises(UnknownName) as raised:
        call()
    assert near is None or f"did you mean {near!r}?" in sentence(raised)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wb.plan("euler", "linear", 0), "steps is 0"),
        (lambda: wb.plan("euler", "linear", 2.5), "steps is 2.5"),
        (lambda: wb.plan("euler", "linear", 10**6), "from 1 to 10000"),
        (lambda: wb.plan("euler", "linear", None), "steps is None"),
        (lambda: wb.plan("euler", "linear", schedule=[1.0, 1.2, 0.0]), "between 0 (data) and 1 (noise)"),
        (lambda: wb.plan("euler", "linear", schedule=[0.0, 1.0]), "fall strictly"),
        (lambda: wb.plan("euler", "linear", schedule=[1.0, 0.5, 0.7, 0.0]), "but 0.7 follows 0.5: give them in falling order"),
        (lambda: wb.plan("euler", "linear", schedule=[1.0, math.nan, 0.0]), "at least two numbers"),
        (lambda: wb.plan("euler", "linear", 3, schedule=[1.0, 0.0]), "not 3"),
        (lambda: wb.plan("euler", "linear", 4, t_start=0.2, t_end=0.5), "t_end < t_start"),
        (lambda: wb.plan("ddim", "linear", 4, eta=2.0), "between 0"),
        (lambda: wb.plan("flow_map", "linear", 4, gamma=-1), "between 0"),
        (lambda: wb.sample(TWO, 0), "from 1 to"),
        (lambda: wb.sample(TWO, 10**9), "from 1 to"),
        (lambda: wb.sample(TWO, 4, guidance=math.inf), "guidance is inf"),
        (lambda: wb.compare(["moons"], 0), "from 1 to"),
        (lambda: wb.compare([], 4), "at least one model"),
        (lambda: wb.compare(["moons", "mixture64"], 4), "different shapes"),
        (lambda: list(wb.distill(TWO, "reflow", steps=0)), "steps is 0"),
        (lambda: list(wb.distill(TWO, "reflow", seconds=-1.0)), "positive number"),
        (lambda: list(wb.distill(TWO, "reflow", seconds=math.nan)), "positive number"),
        (lambda: list(wb.distill(TWO, "reflow", steps=2, batch=0)), "batch is 0"),
    ],
)
def test_an_impossible_number_names_what_is_accepted(call, words):
    with pytest.raises(WorkbenchError) as raised:
        call()
    assert words in sentence(raised)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wb.run(wb.plan("euler", "linear", 2), TWO, torch.zeros(4, 2, dtype=torch.long)), "floating-point"),
        (lambda: list(wb.run(wb.plan("euler", "linear", 2), TWO, torch.zeros(4, 3))), "lives in (n, 2)"),
        (lambda: wb.run(wb.plan("euler", "vp", 2), TWO, NOISE), "on the model's path"),
        (lambda: wb.run(wb.plan("euler", "linear", 2), lambda x, t, cond: x, NOISE), "no .path"),
        (lambda: wb.run(wb.hybrid(wb.plan("euler", "linear", 2), 1), TWO, NOISE), "pass a list of 2"),
        (lambda: wb.sample(TWO, 4, cond=0), "has no classes"),
        (lambda: wb.sample(wb.load("moons"), 4, cond=2), "class 2 does not exist"),
        (lambda: wb.sample(wb.load("moons"), 4, cond=[0, 1]), "4 labels"),
        (lambda: wb.sample(wb.load("moons"), 4, cond=0.5), "whole numbers"),
        (lambda: wb.sample(wb.load("moons"), 4, cond="Dress"), "must be a label"),
        (lambda: wb.mixture([[0.0, 1.0]], [0.1, 0.2]), "scales have shape"),
        (lambda: wb.mixture([[0.0, 1.0]], [-0.1]), "positive"),
        (lambda: wb.mixture([[math.nan, 1.0]], [0.1]), "finite"),
        (lambda: list(wb.distill(TWO, "consistency", data=torch.full((8, 2), math.nan), steps=2)), "NaN"),
        (lambda: list(wb.distill(TWO, "consistency", data=3, steps=2)), "ImageSet"),
    ],
)
def test_a_wrong_shape_class_or_type_is_named(call, words):
    with pytest.raises(WorkbenchError) as raised:
        call()
    assert words in sentence(raised)


def test_noise_that_is_not_finite_never_runs():
    calls = []
    model = lambda_with_path(lambda x, t, cond=None: calls.append(t))
    with pytest.raises(WorkbenchError) as raised:
        wb.run(wb.plan("euler", "linear", 2), model, torch.tensor([[0.0, math.nan]]))
    assert "NaN" in sentence(raised) and not calls


def test_noise_so_large_that_its_sum_overflows_is_not_taken_for_nan():
    model = wb.mixture([[0.0, 0.0]], [1.0])
    large = torch.full((3, 2), 3e38)
    frames = wb.run(wb.plan("euler", "linear", 1), lambda_with_path(lambda x, t, cond: 0 * x), large)
    assert bool((list(frames)[-1].x == 0).all()) and model.shape == (2,)


def lambda_with_path(function):
    function.path = wb.paths.linear
    return function


def test_a_model_that_returns_nan_is_reported_with_the_number_of_samples():
    def model(x, t, cond=None):
        return torch.where(torch.arange(len(x))[:, None] < 3, math.nan, x)

    with pytest.raises(Diverged) as raised:
        list(wb.run(wb.plan("euler", "linear", 2), lambda_with_path(model), torch.ones(8, 2)))
    assert sentence(raised).startswith("3 of 8 samples are not finite")


def test_nan_weights_are_neither_saved_nor_loaded(trained):
    model, before = student.load(trained), contents(trained)
    with torch.no_grad():
        next(model.net.parameters()).fill_(math.nan)
    with pytest.raises(WorkbenchError) as raised:
        student.save(model.net, model.card, trained)
    assert "nothing was written" in sentence(raised) and contents(trained) == before
    from safetensors.torch import load_file, save_file

    weights = {name: torch.full_like(value, math.nan) for name, value in load_file(trained / student.WEIGHTS).items()}
    save_file(weights, trained / student.WEIGHTS)
    edit_card(trained, sha256=student.digest(trained / student.WEIGHTS))
    with pytest.raises(WorkbenchError) as raised:
        wb.load(trained)
    assert "NaN" in sentence(raised)


def edit_card(folder: Path, **changes) -> None:
    card = json.loads((folder / student.CARD).read_text())
    (folder / student.CARD).write_text(json.dumps({**card, **changes}))


def truncate(folder: Path) -> None:
    weights = (folder / student.WEIGHTS).read_bytes()
    (folder / student.WEIGHTS).write_bytes(weights[: len(weights) // 2])


def flip_a_bit(folder: Path) -> None:
    weights = bytearray((folder / student.WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (folder / student.WEIGHTS).write_bytes(weights)


def only_a_pickle(folder: Path) -> None:
    (folder / student.WEIGHTS).unlink()
    torch.save({}, folder / "model.pt")


def pickle_in_disguise(folder: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, folder / student.WEIGHTS)
    edit_card(folder, sha256=student.digest(folder / student.WEIGHTS))


def card_without_hash(folder: Path) -> None:
    card = json.loads((folder / student.CARD).read_text())
    del card["sha256"]
    (folder / student.CARD).write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "does not match the SHA-256"),
        (flip_a_bit, "does not match the SHA-256"),
        (only_a_pickle, "model.pt is a pickle and is not read"),
        (pickle_in_disguise, "do not fit"),
        (card_without_hash, "lacks sha256"),
        (lambda folder: (folder / student.CARD).write_text("{"), "not valid JSON"),
        (lambda folder: (folder / student.CARD).unlink(), "has no card.json"),
        (lambda folder: (folder / student.WEIGHTS).unlink(), f"has no {student.WEIGHTS}"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: edit_card(folder, network="DIT"), "did you mean 'DiT'?"),
        (lambda folder: edit_card(folder, path="liner"), "differ in path"),
        (lambda folder: edit_card(folder, sampling={"smapler": "euler"}), "is damaged"),
        (lambda folder: edit_card(folder, shape="wide"), "differ in shape"),
        (lambda folder: edit_card(folder, sampling=3), "is damaged"),
        (lambda folder: edit_card(folder, sampling={"steps": "many"}), "steps is 'many', but must be a whole number"),
        (lambda folder: edit_card(folder, sampling={"options": [1]}), "options is [1], but must be a mapping"),
        (lambda folder: edit_card(folder, class_names=5), "is damaged"),
        (lambda folder: (folder / "config.json").write_text('{"_class_name": null}'), "do not fit"),
    ],
)
def test_a_damaged_student_folder_says_what_is_wrong_and_stays_as_it_is(trained, damage, words):
    damage(trained)
    before = contents(trained)
    with pytest.raises(WorkbenchError) as raised:
        wb.sample(wb.load(trained), 2)
    assert words in sentence(raised) and contents(trained) == before


def test_a_folder_of_pickles_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04cposix\nsystem\n")
    with pytest.raises(WorkbenchError) as raised:
        wb.load(tmp_path)
    assert "model.ckpt, a pickle, which could run code" in sentence(raised)


def test_a_missing_folder_is_a_missing_source():
    with pytest.raises(MissingSource) as raised:
        wb.load("./nowhere/at/all")
    assert "no model folder" in sentence(raised)


@pytest.fixture
def unmeasured(monkeypatch):
    """Leave out what `distill` measures now and then: these tests are about files."""
    monkeypatch.setattr(sys.modules["workbench.distill.measuring"].Measure, "__call__", lambda *_, **__: {})


def run_to(folder: Path, steps: int, data: torch.Tensor | None = None, **options) -> None:
    for _ in wb.distill(
        TWO, "consistency", torch.zeros(8, 2) if data is None else data, run=folder, steps=steps, **{"batch": 8} | options
    ):
        pass


@pytest.mark.parametrize("where", ["save_file", "replace", "fsync"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, where):
    folder = RunFolder(tmp_path / "run", {"recipe": "x"})
    folder.save({"w": torch.zeros(3)}, {"step": 1, "seconds": 0.0})
    before = contents(tmp_path)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"save_file": "workbench.distill.checkpoint.save_file", "replace": "os.replace", "fsync": "os.fsync"}[where]
    with monkeypatch.context() as patch:
        patch.setattr(target, full)
        with pytest.raises(WorkbenchError) as raised:
            folder.save({"w": torch.ones(3)}, {"step": 2, "seconds": 0.0})
    assert "No space left on device" in sentence(raised) and "previous version is intact" in sentence(raised)
    assert contents(tmp_path) == before and folder.load()[1]["step"] == 1
    folder.save({"w": torch.ones(3)}, {"step": 2, "seconds": 0.0})  # and with space again it goes on
    assert folder.load()[1]["step"] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_is_really_full_while_the_history_is_written(tmp_path):
    folder = RunFolder(tmp_path / "run", {})
    (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(WorkbenchError) as raised:
        folder.log({"step": 1})
    assert "No space left" in sentence(raised)


def test_a_damaged_checkpoint_is_named_and_kept(tmp_path, unmeasured):
    run_to(tmp_path / "run", 2)
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    before = checkpoint.read_bytes()
    with pytest.raises(WorkbenchError) as raised:
        run_to(tmp_path / "run", 2)
    assert "is damaged" in sentence(raised) and checkpoint.read_bytes() == before


def test_a_run_folder_of_another_run_is_left_alone(tmp_path, unmeasured):
    run_to(tmp_path / "run", 2)
    before = contents(tmp_path)
    with pytest.raises(WorkbenchError) as raised:
        run_to(tmp_path / "run", 2, lr=0.5)
    assert "choose another run folder" in sentence(raised) and contents(tmp_path) == before
    (tmp_path / "file").touch()
    with pytest.raises(WorkbenchError) as raised:
        run_to(tmp_path / "file", 2)
    assert "is a file" in sentence(raised)


def test_diverging_training_stops_and_keeps_the_last_good_state(tmp_path, monkeypatch, unmeasured):
    """A run is interrupted after a checkpoint; when it goes on, the teacher has gone mad."""
    stopping = wb.distill(TWO, "consistency", torch.zeros(8, 2), run=tmp_path / "run", steps=50, batch=8)
    monkeypatch.setattr("workbench.distill.loop.time.monotonic", iter(range(0, 10**9, 61)).__next__)  # a checkpoint every step
    for progress in stopping:
        if progress.step >= 20:
            break
    stopping.close()
    before = contents(tmp_path)["run/checkpoint.safetensors"]
    mad = wb.mixture([[0.0, 1.0], [0.0, -1.0]], [0.1, 0.1])
    monkeypatch.setattr(type(mad), "__call__", lambda self, x, t, cond=None: x * math.nan)
    with pytest.raises(Diverged) as raised:
        list(wb.distill(mad, "consistency", torch.zeros(8, 2), run=tmp_path / "run", steps=50, batch=8))
    assert "diverged at step" in sentence(raised) and "last good state" in sentence(raised)
    assert contents(tmp_path)["run/checkpoint.safetensors"] == before


def test_a_rate_far_too_high_never_ends_in_a_student_of_nan(tmp_path):
    try:
        run_to(tmp_path / "run", 60, data=torch.randn(64, 2), lr=1e30)
    except WorkbenchError as error:
        assert "diverged" in str(error) or "NaN" in str(error)
        assert not (tmp_path / "run" / "student" / "card.json").exists()
    else:
        assert bool(torch.isfinite(wb.sample(wb.load(tmp_path / "run" / "student"), 4)).all())


def test_an_unreadable_image_folder_names_the_file(tmp_path):
    from PIL import Image

    with pytest.raises(MissingSource, match="does not exist"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(WorkbenchError, match="no image"):
        image_folder(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    with pytest.raises(WorkbenchError) as raised:
        image_folder(tmp_path, size=8)
    assert "bad.png is not a readable image" in sentence(raised)
    (tmp_path / "bad.png").unlink()
    assert len(image_folder(tmp_path, size=8)) == 1


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="permissions do not bind the superuser")
def test_an_image_that_may_not_be_read_is_named(tmp_path):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "secret.png").chmod(0)
    with pytest.raises(WorkbenchError, match=r"secret\.png is not a readable image"):
        image_folder(tmp_path)


def test_a_cut_off_idx_file_is_named(tmp_path):
    header = bytes([0, 0, 8, 1]) + (10).to_bytes(4, "big")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(header + bytes(5))
    with pytest.raises(WorkbenchError) as raised:
        read_idx(tmp_path / "train-labels-idx1-ubyte")
    assert "not a whole IDX file" in sentence(raised)


def test_fashion_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_FASHION", str(tmp_path))
    with pytest.raises(MissingSource) as raised:
        wb.data.fashion()
    assert "apt-get install dataset-fashion-mnist" in sentence(raised) and str(tmp_path) in sentence(raised)


def test_the_catalog_leaves_a_damaged_model_out_and_load_says_why(home, trained):
    shutil.copytree(trained, home / "zoo" / "moons" / "broken")
    assert "moons/broken" in [entry.name for entry in wb.catalog()]
    (home / "zoo" / "moons" / "broken" / student.CARD).write_text("{}")
    assert "moons/broken" not in [entry.name for entry in wb.catalog()]
    with pytest.raises(WorkbenchError) as raised:
        wb.load("moons/broken")
    assert "lacks" in sentence(raised)
