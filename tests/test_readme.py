"""What the README shows is what runs: its code, its commands and its tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

import workbench as wb
from workbench.cli import build_parser, reports
from workbench.distill.recipes import RECIPES
from workbench.samplers import SAMPLERS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def block(word: str) -> str:
    (found,) = (text for text in blocks("python") if word in text)
    return found


@pytest.fixture(autouse=True)
def registries(home):
    """What a block adds to a registry is gone after its test."""
    before = [(registry, dict(registry)) for registry in (SAMPLERS, RECIPES)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


def test_every_block_is_short_and_known():
    assert len(blocks("python")) == 5
    assert all(len(text.strip().splitlines()) < 15 for text in blocks("python"))


@pytest.mark.slow
def test_the_example(capsys):
    code = block("wb.compare(")
    assert "seconds=20" in code and len([line for line in code.splitlines() if line.strip()]) <= 11
    names: dict = {}
    exec(compile(code.replace("seconds=20", "steps=20, count=256"), "README.md", "exec"), names)
    assert list(names["result"].table["nfe"]) == [49, 1] and names["frame"].nfe == 8


def test_the_sampler():
    names: dict = {}
    exec(compile(block("SAMPLERS["), "README.md", "exec"), names)
    teacher = wb.load("eight_gaussians")
    x = wb.sample(teacher, 64, sampler="churn", steps=32, share=0.5)
    assert x.shape == (64, 2) and float((teacher.log_density(x) > -4).double().mean()) > 0.9
    straight, plain = (
        wb.sample(teacher, 8, sampler=name, steps=4, **more) for name, more in (("churn", {"share": 0.0}), ("ddim", {}))
    )
    assert torch.allclose(straight, plain)


def test_the_learned_plan():
    names: dict = {"wb": wb, "teacher": wb.load("eight_gaussians")}
    exec(compile(block("wb.fit_plan(").replace("seconds=20", "n=64, iterations=5"), "README.md", "exec"), names)
    assert names["plan"].sampler == "lsd(dpmpp_2m)" and names["plan"].evaluations == 4 and len(names["times"]) == 9
    assert type(names["scheduler"]).__name__ == "PlanScheduler" and names["x"].shape == (16, 2)


def test_the_recipe():
    exec(compile(block("RECIPES["), "README.md", "exec"), {})
    assert "gentle" in [recipe.name for recipe in wb.recipes()]
    *_, last = wb.distill(wb.load("moons"), "gentle", steps=2, batch=16)
    assert last.student.card["recipe"] == "gentle" and last.student.plan().steps == 4


def test_the_teacher():
    names: dict = {}
    exec(compile(block("wb.Network("), "README.md", "exec"), names)
    x = torch.randn(5, 2, dtype=torch.float64)
    exact = wb.mixture([[0.0, 0.0]], [1.0], path="vp")
    assert names["images"].shape == (16, 2)
    assert torch.allclose(names["teacher"](x, 0.4), exact(x, 0.4), atol=1e-6)


def test_the_tables_are_those_of_the_command():
    assert reports.fill(TEXT, reports.tables()) == TEXT, "run `workbench zoo table --write README.md`"


@pytest.mark.parametrize("line", [line for text in blocks("sh") for line in text.splitlines() if line.startswith("workbench")])
def test_a_command_is_one_that_the_parser_knows(line):
    args, rest = build_parser().parse_known_args(shlex.split(line, comments=True)[1:])
    assert not rest and args.command


@pytest.mark.parametrize("file", re.findall(r"\]\(((?!http)[^)]+)\)", TEXT))
def test_a_linked_file_is_there(file):
    assert (ROOT / file).is_file()


def test_the_places_that_it_names_are_there():
    for place in re.findall(r"`((?:workbench|benchmarks|apps|notebooks)/[\w/.]*)`", TEXT):
        assert (ROOT / place).exists(), place
