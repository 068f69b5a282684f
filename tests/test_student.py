"""A student folder holds everything that running it needs, and a damaged one says what is wrong."""

from __future__ import annotations

import errno
import json
import os
import pickle

import pytest
import torch
from safetensors import safe_open

import workbench as wb
from workbench import files, student
from workbench.denoiser import Network
from workbench.errors import MissingSource, WorkbenchError
from workbench.networks.dit import DiT
from workbench.networks.mlp import MLP
from workbench.samplers.sample import Sampling
from workbench.student import CARD, WEIGHTS, Trained, digest, load, make_card, save

SAMPLING = Sampling("consistency", 2, times={"2": [1.0, 0.4, 0.0]})


def network(seed: int = 0, path: str = "linear", kind: str = "flow", **options) -> MLP:
    rng = torch.Generator().manual_seed(seed)
    net = MLP(dim=2, width=16, depth=1, classes=3, path=path, kind=kind, **options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    return net


def card_of(net, sampling: Sampling = SAMPLING, **more):
    return make_card(net, name="points/student", role="student", shape=(2,), sampling=sampling, **more)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    net = network()
    save(net, card_of(net, recipe="dmd2", teacher="eight_gaussians"), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(("dtype", "stored", "tolerance"), [(torch.float32, "F32", 0.0), (torch.bfloat16, "BF16", 2**-8)])
def test_round_trip(tmp_path, dtype, stored, tolerance):
    net = network()
    saved = save(net, card_of(net), tmp_path, dtype)
    again = wb.load(tmp_path)
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {stored}  # noqa: SIM118
    for name, value in net.state_dict().items():
        held = again.net.state_dict()[name]
        assert held.dtype == torch.float32 and torch.equal(held, saved.net.state_dict()[name])
        assert bool(((held - value).abs() <= tolerance * value.abs()).all())
    x = torch.randn(4, 2)
    assert torch.equal(again(x, 0.5, 1), saved(x, 0.5, 1))
    assert not any(parameter.requires_grad for parameter in again.net.parameters()) and not again.net.training
    assert {path.name for path in tmp_path.iterdir()} == {CARD, WEIGHTS, "config.json"}


def test_saving_what_was_loaded_changes_nothing(tmp_path):
    net = network()
    first = save(net, card_of(net), tmp_path / "one", torch.bfloat16)
    save(first.net, first.card, tmp_path / "two", torch.bfloat16)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_image_student_round_trips(tmp_path):
    net = DiT(image_size=8, patch=4, width=8, depth=1, heads=2, two_times=True)
    made = make_card(net, name="digits/x", role="student", shape=(1, 8, 8), sampling=Sampling("flow_map", 1))
    model = save(net, made, tmp_path)
    assert model.two_times and model.card["network"] == "DiT" and wb.sample(model, 2, 3).shape == (2, 1, 8, 8)


def test_card(folder):
    net, model = network(), load(folder)
    card = json.loads((folder / CARD).read_text())
    expected = {"name": "points/student", "role": "student", "network": "MLP", "path": "linear", "kind": "flow", "shape": [2],
                "classes": 3, "two_times": False, "recipe": "dmd2", "teacher": "eight_gaussians", "dtype": "float32",
                "parameters": sum(parameter.numel() for parameter in net.parameters())}  # fmt: skip
    assert {key: card[key] for key in expected} == expected and model.card == card
    assert card["sha256"] == digest(folder / WEIGHTS) and len(card["sha256"]) == 64
    assert card["torch"] == torch.__version__.split("+")[0] and (
        "cores" in card["hardware"] or "cpu" not in card["hardware"].lower()
    )
    assert (model.name, model.role, model.shape, model.classes, model.path.name) == (
        "points/student",
        "student",
        (2,),
        3,
        "linear",
    )
    assert "student points/student: MLP" in repr(model) and "consistency" in repr(model)


def test_the_plan_comes_from_the_card(folder):
    model = load(folder)
    assert model.sampling == SAMPLING
    assert (model.plan().sampler, model.plan().times) == ("consistency", (1.0, 0.4, 0.0))  # its own times at its own count
    assert model.plan(1).times == (1.0, 0.0) and model.plan(4).times == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert model.plan(2, schedule="uniform").times == (1.0, 0.5, 0.0) and model.plan(sampler="euler").sampler == "euler"
    frames = list(wb.run(model.plan(), model, torch.randn(3, 2), 1))
    assert [frame.t for frame in frames] == [1.0, 0.4, 0.0] and frames[-1].nfe == 2
    noise = wb.run(model.plan(), model, student_noise(model), torch.tensor([0, 1, 2]), seed=0)
    assert torch.equal(list(noise)[-1].x, wb.sample(model, 3, [0, 1, 2]))  # sample() runs that plan


def student_noise(model: Trained) -> torch.Tensor:
    from workbench.samplers.sample import noise_for

    return noise_for(model, 3, 0)


def test_options_and_guidance_of_the_card_are_used(tmp_path):
    net = network()
    model = save(net, card_of(net, Sampling("ddim", 4, guidance=2.0, options={"eta": 0.5})), tmp_path)
    assert model.plan().options["eta"] == 0.5 and wb.plan("ddim", "linear", 4, eta=0.5).stages == model.plan().stages
    own, plain = wb.sample(model, 4, 1), wb.sample(model, 4, 1, guidance=1)
    assert not torch.allclose(own, plain) and torch.equal(own, wb.sample(model, 4, 1, guidance=2.0))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-10]), "does not match the SHA-256"),
        (lambda folder: flip(folder / WEIGHTS), "does not match the SHA-256"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), "does not match the SHA-256"),
        (lambda folder: (folder / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
        (lambda folder: (folder / CARD).unlink(), f"has no {CARD}"),
        (lambda folder: (folder / CARD).write_text((folder / CARD).read_text()[:-20]), "not valid JSON"),
        (lambda folder: (folder / CARD).write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
        (lambda folder: (folder / CARD).write_text("null"), "not a JSON object"),
        (lambda folder: change(folder, sha256=None), "does not match the SHA-256"),
        (lambda folder: change(folder, drop="kind"), "lacks kind"),
        (lambda folder: change(folder, network="Unet"), "unknown network 'Unet'"),
        (lambda folder: change(folder, network=["MLP"]), "unknown network"),
        (lambda folder: change(folder, path="cosine"), r"card\.json and config\.json differ in path"),
        (lambda folder: change(folder, kind="eps", classes=7), "differ in kind, classes"),
        (lambda folder: change(folder, shape=5), "differ in shape"),
        (lambda folder: change(folder, sampling={"sampler": "ddim", "speed": 3}), "is damaged"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
        (lambda folder: (folder / "config.json").write_text('"owner/name"'), r"config\.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("{}"), "do not fit its config"),
        (lambda folder: widen(folder), "do not fit its config"),
    ],
)
def test_damage_is_named_in_one_sentence(folder, damage, said):
    damage(folder)
    with pytest.raises(WorkbenchError, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def change(folder, drop: str | None = None, **values) -> None:
    card = json.loads((folder / CARD).read_text()) | values
    card.pop(drop, None)
    (folder / CARD).write_text(json.dumps(card))


def flip(file) -> None:
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)


def widen(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"width": 32}))


def test_pickles_are_not_opened(tmp_path, folder):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    for place, said in ((tmp_path / "alone", "a pickle, which could run code"), (folder, "is a pickle and is not read")):
        place.mkdir(exist_ok=True)
        (place / WEIGHTS).unlink(missing_ok=True)
        (place / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(WorkbenchError, match=said):
            load(place)
    # and one under the name of the weights, with a card that vouches for it
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    change(folder, sha256=digest(folder / WEIGHTS))
    with pytest.raises(WorkbenchError, match="do not fit its config"):
        load(folder)
    assert not (tmp_path / "exploded").exists()


def test_a_missing_folder(tmp_path):
    with pytest.raises(MissingSource, match="there is no model folder"):
        load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("value", "dtype"), [(float("nan"), torch.float32), (float("inf"), torch.bfloat16), (1e6, torch.float16)]
)
def test_weights_that_are_not_finite_are_not_written(folder, value, dtype):
    before, net = contents(folder), network(seed=1)
    with torch.no_grad():
        net.head.bias[0] = value
    with pytest.raises(WorkbenchError, match="hold NaN or infinite values: nothing was written"):
        save(net, card_of(net), folder, dtype)
    assert contents(folder) == before


def test_weights_that_are_not_finite_are_not_loaded(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / WEIGHTS)
    state["head.bias"][0] = float("nan")
    save_file(state, folder / WEIGHTS)
    change(folder, sha256=digest(folder / WEIGHTS))
    with pytest.raises(WorkbenchError, match="holds NaN or infinite weights"):
        load(folder)


@pytest.mark.parametrize("file", [1, 2, 3])
def test_a_full_disk_leaves_the_earlier_model_whole(folder, monkeypatch, file):
    """The disk fills up while the first, second or third file is written."""
    before, synced = contents(folder), []

    def full(handle):
        synced.append(handle)
        if len(synced) == file:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    other = network(seed=1)
    with pytest.raises(WorkbenchError, match=r"No space left on device.*the previous version is intact"):
        save(other, card_of(other), folder)
    assert contents(folder) == before and load(folder).card["teacher"] == "eight_gaussians"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    net = network()
    with pytest.raises(WorkbenchError, match="could not write"):
        save(net, card_of(net), tmp_path / "file" / "model")


def test_float64_noise_is_computed_in_float64(folder):
    model = load(folder)
    noise = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    frames = list(wb.run(wb.plan("heun", "linear", 3), model, noise, 1))
    assert all(frame.x.dtype == frame.target.dtype == torch.float64 for frame in frames)
    single = list(wb.run(wb.plan("heun", "linear", 3), model, noise.float(), 1))[-1].x
    assert single.dtype == torch.float32 and torch.allclose(frames[-1].x.float(), single, atol=1e-5)
    # the network is float32, but what surrounds it is exact: one Euler step of the flow is x - prediction
    step = list(wb.run(wb.plan("euler", "linear", 1), model, noise, 1))[-1].x
    assert torch.allclose(step, noise - model.net(noise.float(), 1.0, 1).double(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", ["x0", "v"])
def test_a_variance_exploding_network_sees_and_predicts_in_its_own_units(kind):
    """On the EDM path (sigma up to 80) the network gets x / r and its prediction is multiplied by r = sqrt(1 + sigma^2)."""
    seen = []

    def net(x, t, cond):
        seen.append(x)
        return torch.full_like(x, 0.5)

    model, t = Network(net, "edm", kind, (2,)), 0.7
    x = 80 * torch.randn(6, 2, dtype=torch.float64)
    r = (1 + model.path.sigma(t) ** 2) ** 0.5
    target = model(x, t)
    assert torch.allclose(seen[0], x / r)
    assert torch.allclose(target, model.path.convert(torch.full_like(x, 0.5 * r), x, t, kind, "x0"))
    assert torch.allclose(model(x, torch.full((6,), t, dtype=torch.float64)), target)
    linear = Network(net, "linear", kind, (2,))
    linear(x, t)
    assert torch.equal(seen[-1], x)


def test_a_student_on_the_edm_path_round_trips(tmp_path):
    net = network(path="edm", kind="v")
    model = save(net, card_of(net, Sampling("consistency", 1)), tmp_path)
    drawn = wb.sample(model, 8, 1)
    assert model.rescale and bool(torch.isfinite(drawn).all()) and torch.equal(drawn, wb.sample(load(tmp_path), 8, 1))
    assert student.hardware() == model.card["hardware"]
