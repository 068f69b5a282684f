"""Everything in the catalog loads; the user's own comes first; names cannot reach where they should not."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors import safe_open

import workbench as wb
from workbench import zoo
from workbench.errors import MissingSource, UnknownName, WorkbenchError
from workbench.networks.dit import DiT
from workbench.samplers.sample import Sampling
from workbench.student import CARD, WEIGHTS, digest, make_card, save
from workbench.zoo import ANALYTIC, BUNDLED
from workbench.zoo.build import BUILDS

RECIPES = ("reflow", "consistency", "dmd2")
FASHION = ("slimflow", "scm", "meanflow", "freeflow", "f-distill", "sid", "msd")
CLASSIFIERS = ("digits-classifier", "fashion-classifier")
LIMIT = 6 * 2**20


def put(folder, name: str = "digits/teacher", role: str = "teacher", **more):
    """A small untrained model of digits in `folder`."""
    net = DiT(image_size=8, patch=4, width=8, depth=1, heads=2)
    about = {"data": "digits"} if role == "teacher" else {"recipe": "dmd2", "teacher": "digits/teacher"}
    card = make_card(net, name=name, role=role, shape=(1, 8, 8), sampling=Sampling("euler", 2), **about, **more)
    return save(net, card, folder)


def test_everything_in_the_catalog_loads(home):
    names = [entry.name for entry in wb.catalog()]
    assert len(set(names)) == len(names) and set(ANALYTIC) <= set(names)
    for entry in wb.catalog():
        model = wb.load(entry.name)
        assert getattr(model, "role", "teacher") == entry.role and model.name == entry.name
        assert wb.sample(model, 2, steps=1).shape == (2, *model.shape)
        assert entry.name in zoo.summary(entry) and len(entry.summary) > 20 and "\n" not in zoo.summary(entry)


def test_everything_promised_is_bundled(home):
    bundled = {entry.name: entry for entry in wb.catalog() if entry.source == "bundled"}
    assert set(bundled) == set(BUILDS)  # each with the command that made it
    assert {f"{space}/{model}" for space in ("digits", "fashion") for model in ("teacher", *RECIPES)} <= set(bundled)
    assert {f"fashion/{model}" for model in FASHION} <= set(bundled)
    for name, entry in bundled.items():
        assert entry.role == ("teacher" if name.endswith("/teacher") else "student") and entry.space == name.split("/")[0]
        assert entry.role == "teacher" or entry.card["teacher"] == f"{entry.space}/teacher"


def test_teachers_come_first_within_a_space(home):
    put(home / "zoo" / "digits" / "aaa", "digits/aaa", "student")
    order = [(entry.space, entry.role == "student") for entry in wb.catalog()]
    assert order == sorted(order) and ("digits", True) in order


def bundled_folders():
    """Those with weights: a set of students has a card above the folders of its parts."""
    return sorted(path.parent for path in BUNDLED.rglob(WEIGHTS))


def test_a_set_of_students_is_small_and_holds_the_parts_that_its_card_names():
    folder = BUNDLED / "fashion" / "msd"
    parts = json.loads((folder / CARD).read_text())["students"]
    assert sorted(path.name for path in folder.iterdir()) == [CARD, *(part["folder"] for part in parts)]
    assert [part["sha256"] for part in parts] == [digest(folder / part["folder"] / WEIGHTS) for part in parts]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < LIMIT


@pytest.mark.parametrize("folder", bundled_folders(), ids=lambda folder: folder.relative_to(BUNDLED).as_posix())
def test_bundled_folders_are_small_and_bfloat16(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < LIMIT
    assert all(path.suffix in (".json", ".safetensors") for path in folder.iterdir())
    with safe_open(folder / WEIGHTS, "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds - {"I64"} == {"BF16"}  # batch counters of a classifier are whole numbers
    assert json.loads((folder / CARD).read_text())["sha256"] == digest(folder / WEIGHTS)


@pytest.mark.parametrize("name", sorted(BUILDS))
def test_bundled_cards_say_how_good_and_how_made(name):
    card = json.loads((BUNDLED / name / CARD).read_text())
    figures = card["figures"]
    assert figures["n"] >= 800 and isinstance(figures["seed"], int) and 0 < figures["frechet_floor"] < 20
    assert str(figures["n"]) in figures["reference"]
    counts = [str(card["sampling"]["steps"])] if card["role"] == "teacher" else ["1", "2", "4"]
    guided = 2 if card["sampling"]["guidance"] != 1 else 1
    for count in counts:
        row = figures[count]
        assert row["nfe"] == int(count) * guided and row["frechet"] > 0
        assert all(0 <= row[key] <= 1 for key in ("agreement", "precision", "recall")) and row["diversity"] > 0
    assert card["name"] == name and card["dtype"] == "bfloat16" and re.fullmatch("[0-9a-f]{64}", card["sha256"])
    assert card["trained"]["command"] == f"workbench zoo build {name}" and card["trained"]["steps"] > 0
    assert len(card["hardware"]) > 3 and isinstance(card["seed"], int) and len(card["class_names"]) == card["classes"] == 10
    assert "/root" not in json.dumps(card) and "/home/" not in json.dumps(card)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_bundled_classifiers_say_how_good_they_are(name):
    card = json.loads((BUNDLED / name / CARD).read_text())
    assert card["test_accuracy"] >= 0.91 and card["n_test"] >= 297 and card["command"].startswith("workbench zoo build")
    assert {"seed", "hardware", "sha256"} <= set(card)


def test_a_set_of_students_is_finished_as_a_model_is(tmp_path, monkeypatch):
    from workbench.zoo import build, measure

    monkeypatch.setattr(measure, "measure", lambda model: {"n": 1000})
    made = build.finish(wb.load(BUNDLED / "fashion" / "msd"), tmp_path)
    assert made.classes_of == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]] and made.card["figures"] == {"n": 1000}
    again, noise = wb.load(tmp_path), torch.randn(2, 1, 28, 28)
    assert again.card["name"] == "fashion/msd" and again.card["trained"] == made.card["trained"]
    assert torch.equal(again(noise, 1.0, torch.tensor([0, 9])), made(noise, 1.0, torch.tensor([0, 9])))


def test_the_users_zoo_comes_first(home):
    mine = put(home / "zoo" / "digits" / "teacher")
    other = put(home / "zoo" / "shapes" / "teacher", "shapes/teacher")
    found = {entry.name: entry for entry in wb.catalog()}
    assert found["digits/teacher"].source == "user" and found["digits/teacher"].folder == home / "zoo" / "digits" / "teacher"
    assert found["shapes/teacher"].space == "shapes" and found["digits/teacher"].card["parameters"] < 10_000
    loaded = wb.load("digits/teacher")
    assert torch.equal(loaded.net.head.weight, mine.net.head.weight) and loaded.card["sha256"] == mine.card["sha256"]
    assert wb.load("shapes/teacher").card == other.card == wb.load(home / "zoo" / "shapes" / "teacher").card


def test_homes(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "mine"))
    assert zoo.home() == tmp_path / "mine"
    monkeypatch.delenv("WORKBENCH_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert zoo.home() == tmp_path / "workbench"
    assert {entry.source for entry in wb.catalog()} <= {"analytic", "bundled"}  # a home that does not exist is an empty one


@pytest.mark.parametrize("name", ["../../etc", "..", ".", "/etc", "/", "a/../..", "../x", "/proc/self/mem", "digits/..", "./digits",
                                  "~", "~nosuchuser/x", "", " ", "/nope", "digits/", "/digits/teacher", "digits//teacher",
                                  "digits\\teacher", "x\0y", "digits/\0", "\0", "x" * 5000, "a/" + "b" * 5000, "/" + "a/" * 3000,
                                  "digits/teacher\n", None, 5, b"moons"])  # fmt: skip
def test_names_that_are_paths_or_nonsense_get_one_sentence(home, name):
    with pytest.raises(WorkbenchError) as caught:
        wb.load(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_names_cannot_climb_out_of_the_zoo(home, monkeypatch):
    put(home / "secret")
    monkeypatch.chdir(home.parent)
    for name in ("../secret", "digits/../../secret", "..\\secret"):
        with pytest.raises(WorkbenchError):
            wb.load(name)


def test_unknown_names_offer_the_nearest(home):
    with pytest.raises(UnknownName, match=r"did you mean 'eight_gaussians'\?"):
        wb.load("eight_gausians")
    with pytest.raises(MissingSource, match="give an existing folder"):
        wb.load("./nothing/here")


@pytest.mark.parametrize(
    ("damage", "said", "listed"),
    [
        (lambda folder: (folder / CARD).write_text("{"), "not valid JSON", False),
        (lambda folder: (folder / CARD).write_text("[1]"), "is damaged", False),
        (lambda folder: edit(folder, sampling=3), "is damaged", False),
        (lambda folder: edit(folder, drop="role"), "lacks role", False),
        (
            lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100]),
            "does not match the SHA-256",
            True,
        ),
    ],
)
def test_a_damaged_folder_says_why_and_spoils_nothing(home, damage, said, listed):
    folder = home / "zoo" / "shapes" / "broken"
    put(folder, "shapes/broken")
    put(home / "zoo" / "shapes" / "whole", "shapes/whole")
    damage(folder)
    names = [entry.name for entry in wb.catalog()]
    assert ("shapes/broken" in names) == listed and "shapes/whole" in names and "moons" in names
    with pytest.raises(WorkbenchError, match=said):
        wb.load("shapes/broken")


def edit(folder, drop: str | None = None, **values) -> None:
    card = json.loads((folder / CARD).read_text()) | values
    card.pop(drop, None)
    (folder / CARD).write_text(json.dumps(card))


def test_an_unfinished_folder_is_not_a_model(home):
    put(home / "zoo" / "shapes" / "half", "shapes/half")
    (home / "zoo" / "shapes" / "half" / CARD).unlink()
    assert "shapes/half" not in [entry.name for entry in wb.catalog()]
    with pytest.raises(UnknownName, match="unknown model 'shapes/half'"):
        wb.load("shapes/half")
