"""The script that runs every recipe on an image set."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[1] / "benchmarks" / "images.py"


@pytest.fixture(scope="module")
def images():
    spec = importlib.util.spec_from_file_location("benchmark_images", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
