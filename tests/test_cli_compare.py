"""`workbench compare`: columns in one word, files of every kind, and one sentence for what cannot be done."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from workbench import cli
from workbench.cli import comparing
from workbench.compare import Doing


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    """Every test writes into a folder of its own."""
    monkeypatch.chdir(home)
    return home


def call(capsys, *argv: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of one command, run in this process."""
    try:
        status = cli.main(argv)
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_one_comparison_writes_every_kind_of_file(capsys, at_home):
    kinds = ("html", "png", "gif", "csv", "json", "safetensors")
    outs = [word for kind in kinds for word in ("--out", f"a.{kind}")]
    status, out, err = call(capsys, "compare", "moons@4", "moons:sampler=euler,steps=2", "-n", "6", "--cond", "1", *outs)
    assert status == 0 and [line.removeprefix("-> a.") for line in err.split("\n")[:-1]] == list(kinds)
    labels = ["moons@4", "moons@2, euler"]
    assert all(label in out for label in labels)
    with open("a.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == labels and [row["nfe"] for row in rows] == ["7", "2"]
    told = json.loads((at_home / "a.json").read_text())
    assert told["command"].endswith("--out a.json") and [each["label"] for each in told["columns"]] == labels
    assert load_file("a.safetensors")["moons@4"].shape == (6, 2)
    with Image.open("a.gif") as film, Image.open("a.png") as still:
        assert film.n_frames == 5 and film.size == still.size
    assert 'id="command">workbench compare moons@4' in (at_home / "a.html").read_text()


def test_models_may_be_given_as_an_option(capsys):
    one = call(capsys, "compare", "moons@2", "spirals", "-n", "2")
    two = call(capsys, "compare", "--models", "moons@2", "moons@3", "-n", "2", "--out", "b.json")
    assert one[0] == two[0] == 0 and "moons@3" in two[1]
    again = shlex.split(json.loads(Path("b.json").read_text())["command"])
    assert again[1:4] == ["compare", "moons@2", "moons@3"] and call(capsys, *again[1:])[0] == 0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "give at least one model"),
        (("moons", "--out", "a.pdf"), "Known: .csv, .gif, .html, .json, .png, .safetensors"),
        (("moons", "--out", "."), "unknown ending"),
        (("moons:stpes=3",), "did you mean 'steps'"),
        (("moons:sampler=eulre",), "did you mean 'euler'"),
        (("moons:schedule=karas,steps=4",), "did you mean 'karras'"),
        (("moons:sampler=euler,eta=0.5",), "unknown option"),
        (("moons:steps=2,steps=3",), "twice"),
        (("moon:steps=2",), "did you mean 'moons'"),
        (("moons", "--model", "x"), "did you mean '--models'"),
        (("moons", "-n", "0"), "from 1 to 20000"),
    ],
)
def test_what_cannot_be_done_gets_a_sentence(capsys, at_home, argv, says):
    status, out, err = call(capsys, "compare", *argv)
    assert status == 2 and says in err and len(err.strip().splitlines()) == 1 and not out
    assert not list(at_home.iterdir())


def test_ctrl_c_is_one_line_and_writes_nothing(capsys, at_home, monkeypatch):
    def interrupted(*_):
        yield Doing("moons", 1, 9)
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "comparing", interrupted)
    status, out, err = call(capsys, "compare", "moons", "--out", "a.html")
    assert status == 130 and err == "\nworkbench: stopped by Ctrl-C.\n" and not out and not list(at_home.iterdir())


def test_help_shows_how_a_column_is_written(capsys):
    out = call(capsys, "compare", "--help")[1]
    assert "schedule=[1,0.6,0]" in out and "--models" in out and ".gif" in out


def test_progress_counts_every_evaluation():
    steps = list(comparing.comparing(["moons"], 3))
    counts = [doing.done for doing in steps]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == steps[-1].total and steps[-1].result is not None
    assert {doing.what for doing in steps} >= {"moons", "the teacher's fine solution", "the table"}
