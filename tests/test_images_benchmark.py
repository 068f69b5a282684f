"""The script that runs every recipe on an image set."""

from __future__ import annotations

import json
import sys

import pytest
import torch


@pytest.fixture(scope="module")
def images(benchmark):
    return benchmark("images")


@pytest.mark.parametrize("recipe", ["sfd", "echo"])
def test_a_recipe_that_must_be_told_something_is_told_it(images, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(images, "measure", lambda student, steps: {str(count): {"classes": student.classes} for count in steps})
    row = images.cell(recipe, "digits", 0.1, 0, tmp_path)
    assert row["steps"] >= 1 and row.get("init") == {"echo": "digits/dmd2"}.get(recipe)
    assert row["figures"]["1"]["classes"] == {"echo": 11}.get(recipe, 10)
    assert images.concept("digits").shape == (images.CONCEPT, 1, 8, 8)


def test_rows_of_other_recipes_stay_in_the_file(images, tmp_path, monkeypatch):
    out = tmp_path / "images.json"
    monkeypatch.setattr(images, "cell", lambda recipe, *rest: {"recipe": recipe, "failed": "not today."})

    def ran(*words):
        before = torch.get_num_threads()
        monkeypatch.setattr(
            sys, "argv", ["images.py", "--threads", str(before), "--cells", str(tmp_path / "c"), "--out", str(out), *words]
        )
        images.main()
        return [row["recipe"] for row in json.loads(out.read_text())["rows"]]

    assert ran("--only", "kd,cd") == ["cd", "kd"]
    assert ran("--only", "lcm,kd") == ["cd", "kd", "lcm"]
    assert ran("--only", "lcm", "--seconds", "7") == ["lcm"]


def test_options_of_the_live_script_are_checked(benchmark, capsys):
    script = benchmark("recognisable")
    assert script.options_of("dmd2", ["turns=2", "lr=3e-4"]) == {"turns": 2, "lr": 3e-4}
    for word, said in (("turns", "write NAME=VALUE"), ("trns=2", "did you mean 'turns'?"), ("turns=x", "must be a number")):
        assert script.main(["--threads", str(torch.get_num_threads()), word]) == 2 and said in capsys.readouterr().err
