"""What every test shares: two threads in all, no network, a home of its own, and the two things a machine may lack."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

_HOME = tempfile.TemporaryDirectory(prefix="workbench-tests-", ignore_cleanup_errors=True)


def pytest_configure() -> None:
    """Set here and not in a fixture, so that doctests, notebook kernels and subprocesses get the same."""
    os.environ["WORKBENCH_HOME"] = _HOME.name
    threads = max(
        1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    )  # two processes of one thread each, under xdist
    for name, value in {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}.items():
        os.environ.setdefault(name, value)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


LONG_FIRST = ("notebooks", "tests/test_docs.py", "tests/apps", "tests/widgets", "tests/test_training.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that both processes end at about the same time."""
    root = Path(__file__).resolve().parent.parent

    def rank(item: pytest.Item) -> int:
        place = item.path.relative_to(root) if item.path.is_relative_to(root) else item.path
        return next((k for k, long in enumerate(LONG_FIRST) if place.is_relative_to(long)), len(LONG_FIRST))

    items.sort(key=rank)


def pytest_unconfigure() -> None:
    _HOME.cleanup()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty WORKBENCH_HOME for one test."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def fashion_folder() -> Path:
    """The folder with Fashion-MNIST's IDX files, or a skip."""
    from workbench.data.images import FASHION_FOLDERS

    given = os.environ.get("WORKBENCH_FASHION")
    for folder in map(Path, [given] if given else FASHION_FOLDERS):
        if any(folder.glob("train-images*")):
            return folder
    pytest.skip("Fashion-MNIST is not on this machine: apt-get install dataset-fashion-mnist, or set WORKBENCH_FASHION")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium for Playwright's `executable_path`, or a skip; a failure if WORKBENCH_REQUIRE_BROWSER is set."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        reason = "no Chromium on this machine (apt-get install chromium): what a person sees in the browser is not tested"
        if os.environ.get("WORKBENCH_REQUIRE_BROWSER"):
            pytest.fail(f"{reason}, and WORKBENCH_REQUIRE_BROWSER asks for it")
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def benchmark():
    """A script of benchmarks/ as a module, by its name."""

    def load(name: str):
        file = Path(__file__).resolve().parents[1] / "benchmarks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
