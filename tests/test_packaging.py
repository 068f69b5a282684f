"""The files that say what to install agree with one another, and with what the README promises."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def ranges(lines: list[str]) -> dict[str, SpecifierSet]:
    parsed = map(Requirement, lines)
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in parsed}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads(read("pyproject.toml"))["project"]


@pytest.fixture(scope="module")
def wanted(project) -> dict[str, SpecifierSet]:
    """Every range of pyproject.toml, extras included."""
    return ranges([*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)])


@pytest.fixture(scope="module")
def pinned() -> dict[str, SpecifierSet]:
    return ranges([line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")])


@pytest.fixture(scope="module")
def conda() -> dict:
    return yaml.safe_load(read("environment.yml"))


def test_conda_ranges_are_those_of_pyproject(conda, project, wanted):
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    options = [line for line in pip if line.startswith("-")]
    assert options == ["-c constraints.txt", "-e .[test,lab]"]
    named = ranges([line for line in pip if line not in options])
    assert named == {name: wanted[name] for name in named}, "environment.yml and pyproject.toml give different ranges"
    assert set(ranges(project["dependencies"])) <= set(named), "environment.yml misses a dependency of pyproject.toml"
    assert f"python{project['requires-python']}" in conda["dependencies"]
    assert conda["channels"][0] == "conda-forge"


def test_an_extra_agrees_with_the_others(project):
    lines = [line for extra in project["optional-dependencies"].values() for line in extra]
    assert len(ranges(lines)) == len({str(Requirement(line)) for line in lines}), "one package, two ranges"


def test_constraints_are_exact_and_satisfy_the_ranges(pinned, wanted):
    versions = {}
    for name, specifier in pinned.items():
        (pin,) = specifier
        assert pin.operator == "==" and not set("+*") & set(pin.version), f"{name}{specifier} is no plain exact version"
        versions[name] = pin.version
    for name, specifier in wanted.items():
        assert name in versions, f"constraints.txt does not pin {name}"
        assert versions[name] in specifier, f"{name}=={versions[name]} is outside pyproject.toml's {specifier}"
    assert wanted["torch"] != pinned["torch"], "pyproject.toml takes a range of torch, constraints.txt pins one"


def test_licence_and_citation(project):
    import workbench

    licence = read("LICENSE")
    assert project["license"] == "Apache-2.0" and "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
    citation = yaml.safe_load(read("CITATION.cff"))
    assert str(citation["version"]) == project["version"] == workbench.__version__
    assert citation["license"] == project["license"]


@pytest.mark.parametrize("command", ["make app", "make test", "conda env create -f environment.yml"])
def test_the_readme_names_the_commands(command):
    assert command in read("README.md")


def test_ci_runs_the_readmes_test_command():
    script = ROOT / ".ci" / "run"
    assert "make test" in read(".ci/run") and script.stat().st_mode & 0o100
    assert ".ci/run" in read(".github/workflows/ci.yml")


def test_make_says_what_is_missing_when_there_is_no_python(tmp_path):
    """On a machine without a fitting Python, one sentence and no half-made environment."""
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), ".venv/bin/python", "PYTHON="]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()
