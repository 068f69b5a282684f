"""Who may import whom, read from the source; and what `import workbench` costs, measured."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The picture of the architecture, lowest floor first. A file imports from floors below its own and from its own part: at
# the top of the file, inside a function or for a type checker alike. Parts that stand on one line do not know each other.
FLOORS = (
    ("errors",),
    ("files", "callable_module", "references", "fits", "process"),  # helpers that know nothing of diffusion
    ("paths", "networks", "data"),  # ground
    ("metrics",),  # ground too, but its features come from a network
    ("denoiser", "schedules"),  # language
    ("steering",),  # a denoiser from another
    ("samplers", "teachers"),  # engine
    ("student", "diffusers_scheduler", "precision"),  # parts; the loop saves students, so it stands above them
    ("routed",),  # several students as one
    ("distill", "views", "inference", "fitting", "step_policy"),
    ("step_training",),
    ("zoo",),  # compare
    ("plans",),  # a user's own, beside the zoo
    ("compare",),
    ("cite", "sweep", "training"),  # read what was compared; a run in its own process that ends in the zoo
    ("bench",),  # what was measured, and how
    ("report",),  # a page about a comparison, with its citations
    ("workbench",),  # the public face, workbench/__init__.py: names only, each loaded when asked for
    ("widgets", "apps"),  # faces
    ("cli",),
    ("__main__",),
)
LEVEL = {part: level for level, parts in enumerate(FLOORS) for part in parts}

CORE = ("paths.py", "schedules.py", "denoiser.py", "samplers/**/*.py", "distill/objectives/**/*.py")
HEAVY = {"gradio", "jupyter", "jupyterlab", "IPython", "ipywidgets", "anywidget", "datasets", "diffusers", "pandas", "plotly"}


def part_of(module: str) -> str:
    """`workbench.samplers.run` is of the part `samplers`; `apps.compare` of `apps`; `workbench` itself of `workbench`.

    >>> [part_of(name) for name in ("workbench.samplers.run", "apps.compare", "workbench")]
    ['samplers', 'apps', 'workbench']
    """
    first, _, rest = module.partition(".")
    return rest.split(".")[0] if first == "workbench" and rest else first


def name_of(file: Path, root: Path = ROOT) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path, root: Path = ROOT, nested: bool = True) -> Iterator[tuple[int, str]]:
    """Every (line, absolute module) that a file imports; without `nested` only what importing the file runs."""
    package = name_of(file, root).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    for node in ast.walk(tree) if nested else top_level(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # `from workbench import paths` names a module, `from workbench import load` does not
                inner = root.joinpath(*source.split("."), alias.name)
                yield node.lineno, f"{source}.{alias.name}" if inner.is_dir() or inner.with_suffix(".py").is_file() else source


def top_level(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs on import: not the bodies of functions, not `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from (inner for other in child.orelse for inner in (other, *top_level(other)))
            continue
        yield child
        yield from top_level(child)


def upward(root: Path) -> list[str]:
    """One sentence for every import that does not point downward."""
    found = []
    for file in sorted([*root.glob("workbench/**/*.py"), *root.glob("apps/**/*.py")]):
        own, where = part_of(name_of(file, root)), file.relative_to(root).as_posix()
        if own not in LEVEL:
            found.append(f"{where}: {own!r} has no floor yet, give it one in FLOORS")
            continue
        for line, module in imports(file, root):
            other = part_of(module)
            if module.split(".")[0] not in ("workbench", "apps") or other == own:
                continue
            if LEVEL.get(other, len(FLOORS)) >= LEVEL[own]:
                found.append(f"{where}:{line} imports {module}, but {other!r} is not on a floor below {own!r}")
    return list(dict.fromkeys(found))


def test_imports_point_downward():
    assert not (found := upward(ROOT)), "\n".join(["imports that do not point downward:", *found])


@pytest.mark.parametrize(
    ("file", "text", "culprit"),
    [
        ("workbench/paths.py", "from workbench.samplers import run", "workbench.samplers"),
        ("workbench/samplers/run.py", "def f():\n    from workbench import views", "workbench.views"),
        ("workbench/samplers/run.py", "from ..distill import loop", "workbench.distill"),
        ("workbench/views/grid.py", "import workbench.distill.loop", "workbench.distill.loop"),
        ("workbench/distill/loop.py", "import apps.main", "apps.main"),
        ("workbench/views/grid.py", "from workbench import load", "workbench"),
    ],
)
def test_an_upward_import_is_named(tmp_path, file, text, culprit):
    for part in ("samplers", "views", "distill"):
        (tmp_path / "workbench" / part).mkdir(parents=True)
    (tmp_path / file).write_text(text)
    (sentence,) = upward(tmp_path)
    assert sentence.startswith(file) and f"imports {culprit}, but" in sentence


def test_core_imports_torch_and_the_standard_library_only():
    files = [file for pattern in CORE for file in (ROOT / "workbench").glob(pattern)]
    assert len(files) > len(CORE), "the core has moved: mend CORE"
    foreign = {
        f"{file.relative_to(ROOT).as_posix()}:{line} imports {module}"
        for file in files
        for line, module in imports(file, nested=False)
        if (top := module.split(".")[0]) not in ("torch", "workbench") and top not in sys.stdlib_module_names
    }
    assert not foreign, "\n".join(["the core imports more than torch:", *sorted(foreign)])


@pytest.mark.parametrize(
    "code", ["import workbench", "import workbench as wb; wb.paths, wb.schedules, wb.plan, wb.run, wb.mixture"]
)
def test_import_workbench_loads_no_face(code):
    """Read from sys.modules: `-X importtime` leaves out what `importlib.import_module` loads, and lazy names use that."""
    command = [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "workbench" in loaded
    faces = sorted(name for name in loaded if name.split(".")[0] in HEAVY)
    assert not faces, f"{code!r} loads {faces[:8]}"


@pytest.mark.slow
def test_import_workbench_costs_at_most_1_3_times_torch():
    """The best of interleaved runs, since a busy machine only ever adds; a second round where the first was disturbed."""
    best = {"import torch": float("inf"), "import workbench": float("inf")}
    for _ in range(2):
        for _ in range(3):
            for code in best:
                start = time.perf_counter()
                subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
                best[code] = min(best[code], time.perf_counter() - start)
        ratio = best["import workbench"] / best["import torch"]
        if ratio <= 1.3:
            return
    pytest.fail(f"import workbench takes {ratio:.2f} times import torch: {best}")
