"""What the site shows is what runs: its code, its commands, its links. `make docs` builds it; a warning is an error there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from workbench.cli import build_parser
from workbench.distill.recipes import RECIPES
from workbench.samplers import SAMPLERS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("**/*.md"))}
PAGES = {name: text for name, text in PAGES.items() if not name.startswith(("_build", "figures/"))}


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """(line, code) of every fenced block of a language; the line is that of its first line of code."""
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def load(file: Path):
    """A script of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WITH_CODE = [name for name, text in PAGES.items() if blocks(text, "python")]
LINES = [line for text in PAGES.values() for _, code in blocks(text, "sh") for line in code.splitlines() if line.strip()]
LINKS = [
    (name, link)
    for name, text in PAGES.items()
    for link in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
]


def test_every_page_that_teaches_code_has_some():
    assert {"start.md", "ideas.md", "extend.md", "metrics.md", "differences.md", "students.md"} <= set(WITH_CODE)


@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """A reader who pastes one block after the other; what that adds to a registry or the environment is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    for registry in (SAMPLERS, RECIPES):
        for name in registry:  # noted now, so that the whole is restored
            monkeypatch.setitem(registry, name, registry[name])
    before = [set(registry) for registry in (SAMPLERS, RECIPES)]
    names: dict = {"__name__": "page"}
    monkeypatch.setitem(sys.modules, "page", type(sys)("page"))  # dataclasses look their module up
    try:
        for line, code in blocks(PAGES[page], "python"):
            exec(compile("\n" * line + code, f"docs/{page}", "exec"), names)
    finally:
        for registry, known in zip((SAMPLERS, RECIPES), before, strict=True):
            for name in set(registry) - known:
                del registry[name]


@pytest.mark.parametrize("page", ["ideas.md", "extend.md"])
def test_an_example_is_short(page):
    assert all(len(code.strip().splitlines()) < 15 for _, code in blocks(PAGES[page], "python"))


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("workbench ")])
def test_a_command_is_one_that_the_parser_knows(line):
    args, rest = build_parser().parse_known_args(shlex.split(line, comments=True)[1:])
    assert not rest and args.command


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith("workbench ")])
def test_another_command_names_a_file_or_a_target_that_exists(line):
    program, word = shlex.split(line, comments=True)[:2]
    assert program in ("make", "python")
    assert (ROOT / word).is_file() if program == "python" else re.search(rf"^{word}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_leads_somewhere(page, link):
    assert (DOCS / page).parent.joinpath(link.partition("#")[0]).resolve().is_file()


@pytest.mark.parametrize("page", PAGES)
def test_a_place_that_a_page_names_is_there(page):
    for place in re.findall(r"`((?:workbench|benchmarks|apps|notebooks|tests|docs)/[\w./]*)`", PAGES[page]):
        assert (ROOT / place).exists(), place


def test_the_figures_are_those_of_the_command():
    figures = load(DOCS / "figures.py")
    assert {f"{name}.svg" for name in figures.FIGURES} == {file.name for file in (DOCS / "figures").glob("*.svg")}
    assert figures.schedules().startswith("<svg")
    table = (DOCS / "figures" / "floors.md").read_text(encoding="utf-8")
    assert all(name in table for name in figures.ROWS)
    for name in ("`sliced_wasserstein`", "precision"):
        assert f"| {figures.floor(name, 100)} |" in table, "run `python docs/figures.py`"


def test_what_is_wrong_with_a_site_is_told(tmp_path):
    """The site itself is built and checked by `make docs`, which `.ci/run` calls."""
    check = load(DOCS / "check.py")
    (tmp_path / "index.html").write_text('<script src="https://elsewhere/x.js"></script>')
    (tmp_path / "site.css").write_text("@import '//elsewhere/x.css'")
    found = list(check.faults(tmp_path))
    assert any("index.html fetches" in fault for fault in found) and any("site.css fetches" in fault for fault in found)
    assert "start.html was not built." in found and any("Stage" in fault for fault in found)
    assert "make docs" in (ROOT / ".ci" / "run").read_text() and "docs/check.py" in (ROOT / "Makefile").read_text()
