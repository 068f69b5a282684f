"""The recipe benchmark: every recipe on exact teachers, with the same network and the same processor time, one process a cell.

A cell is a recipe on a space; its row is a JSON file in a folder, so a sweep that was stopped goes on where it was. The folder
holds cells of one budget and seed: another is refused. A cell whose recipe has changed since, or that failed, is done again.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from workbench.bench.cell import COUNTS, DRAWS, N, signature
from workbench.distill.recipes import RECIPES, get
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.files import read_json, write_json
from workbench.teachers.mixture import ANALYTIC

STORED = Path(__file__).with_name("recipes.json")  # comes with the package
CELLS = Path("runs") / "bench-recipes"
SETTINGS = "settings.json"
CHILD = ("-m", "workbench.bench.cell")  # what measures one cell, given a request
SPACES = ("eight_gaussians", "checkerboard", "mixture64")
SECONDS = 60.0
GOOD = 1.25  # times the floor: as near to the law as two exact draws are, but for luck
POLL = 0.2
NOTHING = "The recipes have not been measured yet: `workbench bench recipes --out {place}` does it, about a minute of processor time a cell."


class Entry(NamedTuple):
    """What a student reaches with a number of evaluations; a figure that there is not is None.

    Attributes:
        recipe, space, evaluations: what was run. quality: distance to the law over its noise floor, 1 is the best there is.
        error: standard error of `quality`. off_mode: share of samples at no mode. modes: share of modes that are reached (for
            images: recall; for a student of one's own of points: coverage, the share of exact samples with one of its own near). paired: RMS distance to the exact flow map from the same noise. per_second: training steps.
        peak_mb: peak memory of the process. steps: of training. seconds: of training. preparing: seconds before it.
        curve: (seconds with preparing, quality) during training. source: "benchmark", or whose run it is.
        model: name of the student in the catalog, if it is there. failed: why there are no figures.
    """

    recipe: str
    space: str
    evaluations: int
    quality: float | None = None
    error: float | None = None
    off_mode: float | None = None
    modes: float | None = None
    paired: float | None = None
    per_second: float | None = None
    peak_mb: float | None = None
    steps: int | None = None
    seconds: float | None = None
    preparing: float = 0.0
    curve: tuple[tuple[float, float], ...] = ()
    source: str = "benchmark"
    model: str | None = None
    failed: str | None = None

    @property
    def cost(self) -> float | None:
        """Seconds of training and of what was prepared before it."""
        return None if self.seconds is None else self.seconds + self.preparing


@dataclass
class Doing:
    """Where a sweep is.

    Attributes:
        done, total: cells. running: (space, recipe) -> seconds so far, by the clock. row: of the cell that has just been
            finished or found, else None. again: why a cell that was there is done again, or "".
    """

    done: int
    total: int
    running: dict[tuple[str, str], float] = field(default_factory=dict)
    row: dict[str, Any] | None = None
    again: str = ""


@dataclass
class Child:
    """One cell at work."""

    space: str
    recipe: str
    process: subprocess.Popen
    log: Path
    began: float


def sweep(
    only: Sequence[str] | None = None,
    spaces: Sequence[str] | None = None,
    seconds: float = SECONDS,
    seed: int = 0,
    jobs: int = 1,
    cells: str | os.PathLike = CELLS,
    known: dict[str, Any] | None = None,
) -> Iterator[Doing]:
    """Measure every cell that the folder does not hold yet, each in a process of one thread; closing it ends those at work.

    Args:
        only: recipes; all of them by default. spaces: names of analytic teachers. seconds: of processor time, training a cell.
        jobs: processes at once. cells: folder of the rows. known: what `collect` made earlier, whose rows are not done again
            either.

    Raises:
        UnknownName: for a recipe or space that is not known. WorkbenchError: for impossible numbers, or a folder that holds
            cells of another budget or seed.
    """
    names, places = list(only or sorted(RECIPES)), list(spaces or SPACES)
    for name in names:
        if name not in RECIPES:
            raise unknown("recipe", name, RECIPES)
    for space in places:
        if space not in ANALYTIC:
            raise unknown("space", space, ANALYTIC)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= 86_400:
        raise WorkbenchError(f"seconds is {seconds!r}, but must be a positive number, at most a day.")
    jobs = check_count("jobs", jobs, 1, 256)
    settings = {"seconds": float(seconds), "seed": check_count("seed", seed, 0, 2**31 - 1), "n": N, "draws": DRAWS}
    wanted, earlier = [(space, name) for space in places for name in names], {}
    if known is not None:
        _same(settings, known["settings"], "the file of earlier rows")
        earlier = {(row["space"], row["recipe"]): {**row, "settings": settings} for row in known["rows"]}
    return _sweep(wanted, settings, jobs, _folder(Path(cells), settings), earlier)


def _same(settings: dict[str, Any], held: dict[str, Any], what: str) -> None:
    differing = [key for key in settings if held.get(key) != settings[key]]
    if differing:
        told = ", ".join(f"{key} = {held.get(key)!r} and not {settings[key]!r}" for key in differing)
        raise WorkbenchError(f"{what} holds cells with {told}: choose another place, or the same settings to go on.")


def _folder(place: Path, settings: dict[str, Any]) -> Path:
    if (place / SETTINGS).exists():
        _same(settings, read_json(place / SETTINGS), str(place))
    else:
        write_json(place / SETTINGS, settings)
    return place


def _sweep(
    wanted: list[tuple[str, str]], settings: dict[str, Any], jobs: int, cells: Path, earlier: dict[tuple, dict] | None = None
) -> Iterator[Doing]:
    total, done, left, running = len(wanted), 0, [], []
    for space, recipe in wanted:
        row = _held(cells, space, recipe) or (earlier or {}).get((space, recipe))
        why = _outdated(row, recipe) if row else ""
        if row and not why:
            done += 1
            yield Doing(done, total, row=row)
        else:
            left.append((space, recipe, why))
    with tempfile.TemporaryDirectory(prefix="workbench-bench-", ignore_cleanup_errors=True) as scratch:
        try:
            while left or running:
                while left and len(running) < jobs:
                    space, recipe, why = left.pop(0)
                    running.append(_start(space, recipe, settings, cells, Path(scratch)))
                    yield Doing(done, total, _times(running), again=why and f"{recipe} on {space} is done again: {why}")
                time.sleep(POLL)
                for child in [one for one in running if _ended(one, settings["seconds"])]:
                    running.remove(child)
                    done += 1
                    yield Doing(done, total, _times(running), _finish(child, settings, cells))
                yield Doing(done, total, _times(running))
        finally:
            for child in running:
                child.process.kill()
                child.process.wait()


def file_of(cells: Path, space: str, recipe: str) -> Path:
    """Where the row of a cell is kept."""
    return cells / f"{space}--{recipe}.json"


def _held(cells: Path, space: str, recipe: str) -> dict[str, Any] | None:
    file = file_of(cells, space, recipe)
    return read_json(file) if file.exists() else None


def _outdated(row: dict[str, Any], recipe: str) -> str:
    if row.get("signature") != signature(recipe):
        return "the recipe has changed."
    return "it failed." if "failed" in row else ""


def _times(running: list[Child]) -> dict[tuple[str, str], float]:
    return {(child.space, child.recipe): time.monotonic() - child.began for child in running}


def _start(space: str, recipe: str, settings: dict[str, Any], cells: Path, scratch: Path) -> Child:
    folder = scratch / f"{space}--{recipe}"
    out = file_of(cells, space, recipe).resolve()
    out.unlink(missing_ok=True)
    request = {"space": space, "recipe": recipe, "settings": settings, "signature": signature(recipe), "out": str(out)}
    write_json(folder / "request.json", request)
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")}
    source = str(Path(__file__).resolve().parents[2])  # the child finds this package, installed or not
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [source, environment.get("PYTHONPATH")]))
    command = [sys.executable, *CHILD, str(folder / "request.json")]
    with open(folder / "log.txt", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    return Child(space, recipe, process, folder / "log.txt", time.monotonic())


def _ended(child: Child, seconds: float) -> bool:
    """Whether a cell is over; one that takes ten times its budget and five minutes is ended."""
    if child.process.poll() is None and time.monotonic() - child.began > 10 * seconds + 300:
        child.process.kill()
        child.process.wait()
    return child.process.poll() is not None


def _finish(child: Child, settings: dict[str, Any], cells: Path) -> dict[str, Any]:
    file = file_of(cells, child.space, child.recipe)
    if not file.exists():  # killed, or out of memory
        said = child.log.read_text(errors="replace").strip().splitlines()
        told = f"; its last line: {said[-1]}" if said else ""
        row = {
            "space": child.space, "recipe": child.recipe, "settings": settings, "signature": signature(child.recipe),
            "failed": f"its process ended without a row (status {child.process.returncode}){told}",
        }  # fmt: skip
        write_json(file, row)
    return read_json(file)


def collect(rows: Sequence[dict[str, Any]], jobs: int = 1, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """Rows with what they were measured on: settings, versions, hardware; those of `known` that are not among them stay."""
    import torch

    settings = rows[0]["settings"] if rows else (known or {}).get("settings", {})
    settings = {key: value for key, value in settings.items() if key != "evaluations"}
    new = {(row["space"], row["recipe"]) for row in rows}
    rows = [*rows, *(row for row in (known or {"rows": ()})["rows"] if (row["space"], row["recipe"]) not in new)]
    hardware = f"{os.cpu_count()} CPU cores, {platform.machine()}; one thread a cell, {jobs} at once"
    before = (known or {}).get("hardware", hardware)
    head = ("space", "recipe", "signature", "failed", "steps", "seconds", "preparing", "per_second", "peak_mb", "base_mb", "parameters",
            "floor", "off_mode_floor", "figures", "curve")  # fmt: skip
    plain = [{key: row[key] for key in head if key in row} for row in rows]
    for row in plain:
        row["paper"] = get(row["recipe"]).paper
    return {
        "settings": {**settings, "evaluations": list(COUNTS)},
        "versions": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0], "workbench": sys.modules["workbench"].__version__},
        "hardware": before if hardware in before else f"{before}; and {hardware}",
        "rows": sorted(plain, key=lambda row: (row["space"], row["recipe"])),
    }  # fmt: skip


def load(place: str | os.PathLike | None = None) -> dict[str, Any]:
    """What `collect` made, as it is stored; by default what is committed.

    Raises:
        WorkbenchError: if there is nothing yet, or the file is damaged.
    """
    given, place = place, Path(STORED if place is None else place)
    if not place.exists():
        raise WorkbenchError(NOTHING.format(place="workbench/bench/recipes.json" if given is None else place))
    content = read_json(place)
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise WorkbenchError(f"{place} is not a result of `workbench bench recipes`: run it again with --out {place}.")
    return content


def entries(content: dict[str, Any]) -> list[Entry]:
    """One entry for each row and number of evaluations; a row that failed is one entry a number too."""
    found = []
    for row in content["rows"]:
        shared = {key: row.get(key) for key in ("per_second", "peak_mb", "steps", "seconds", "failed")}
        shared["preparing"] = row.get("preparing", 0.0)
        for count in COUNTS:
            figures = (row.get("figures") or {}).get(str(count))
            if figures is None and "failed" not in row:
                continue
            figures = figures or {}
            curve = tuple((at + shared["preparing"], ratios[str(count)]) for at, _, ratios in row.get("curve", ()))
            found.append(
                Entry(
                    row["recipe"], row["space"], count, figures.get("ratio"), figures.get("ratio_error"),
                    *(figures.get(key) for key in ("off_mode", "modes", "paired")), **shared, curve=curve,
                )
            )  # fmt: skip
    return found


def own_entries() -> list[Entry]:
    """Students in the zoo with a recipe and figures on their card, bundled or the user's own, and the curves of the user's runs."""
    from workbench import training, zoo

    runs = {}
    for run in training.runs():
        with contextlib.suppress(WorkbenchError, KeyError, OSError):
            state = run.state()
            if state.name == "done" and state.model:
                runs[state.model] = state
    found = []
    for entry in zoo.catalog():
        card = entry.card or {}
        if entry.role == "student" and card.get("recipe"):
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
                found += _of_card(entry, card, runs.get(entry.name))
    return found


def _of_card(entry: Any, card: dict[str, Any], state: Any) -> list[Entry]:
    """Entries of one student: for points a distance at its own number of steps, for images one at each that was measured."""
    told, trained = card.get("figures") or {}, card.get("trained") or {}
    seconds, steps = trained.get("seconds"), trained.get("steps")
    rate = steps / seconds if steps and seconds else None
    who = "bundled" if entry.source == "bundled" else "your own"
    shared = {"per_second": rate, "steps": steps, "seconds": seconds, "source": who, "model": entry.name}
    own = int(card["sampling"]["steps"])
    if "sw2" in told:
        quality = told["sw2"] / told["sw2_floor"]
        rows = state.metrics if state else ()
        curve = tuple((row["seconds"], row["sw2"] / row["sw2_floor"]) for row in rows if "sw2" in row)
        return [
            Entry(
                card["recipe"],
                entry.space,
                own,
                quality,
                modes=told.get("coverage"),
                paired=told.get("paired_rms"),
                curve=curve,
                **shared,
            )
        ]
    measured = {int(key): one for key, one in told.items() if str(key).isdigit() and "frechet" in one}
    if measured:
        floor = told["frechet_floor"]
        return [
            Entry(card["recipe"], entry.space, count, one["frechet"] / floor, modes=one.get("recall"), **shared)
            for count, one in measured.items()
        ]
    return [Entry(card["recipe"], entry.space, own, modes=told.get("coverage"), paired=told.get("paired_rms"), **shared)]


def answer(entries: Sequence[Entry], best: int = 3) -> list[str]:
    """For each space and number of evaluations the best recipes, and how many come within 1.25 times the floor.

    >>> answer([Entry("cd", "moons", 1, 1.2, 0.05), Entry("kd", "moons", 1, 2.0, 0.05), Entry("kd", "moons", 2, failed="no.")])
    ['moons, 1 evaluation: cd 1.20 +- 0.05, kd 2.00 +- 0.05; 1 of 2 within 1.25 x floor']
    """
    if not entries:
        return ["No recipe has been measured yet."]
    told = []
    for space, count in dict.fromkeys((one.space, one.evaluations) for one in entries):
        mine = sorted(
            (one for one in entries if (one.space, one.evaluations) == (space, count) and one.quality is not None),
            key=lambda one: one.quality,
        )
        if mine:
            first = ", ".join(f"{one.recipe} {one.quality:.2f} +- {one.error or 0:.2f}" for one in mine[:best])
            good = sum(one.quality <= GOOD for one in mine)
            plural = "s" * (count != 1)
            told.append(f"{space}, {count} evaluation{plural}: {first}; {good} of {len(mine)} within {GOOD} x floor")
    return sorted(told)


def text(row: dict[str, Any]) -> str:
    """One line of a cell for a terminal.

    >>> text({"recipe": "kd", "space": "moons", "failed": "no pairs."})
    'kd on moons: no pairs.'
    """
    name = f"{row['recipe']} on {row['space']}"
    if "failed" in row:
        return f"{name}: {row['failed']}"
    told = []
    for count, one in row["figures"].items():
        told.append(f"{count}: -" if one is None else f"{count}: {one['ratio']:.2f} x floor, off-mode {one['off_mode']:.1%}")
    return f"{name}: {row['steps']} steps, {row['per_second']:g} a second, {row['peak_mb']} MB; {'; '.join(told)}"


def to_json(content: dict[str, Any]) -> str:
    """JSON with a row on one line, so that a change of one cell is a change of one line."""
    head = json.dumps({key: value for key, value in content.items() if key != "rows"}, indent=1)[:-2]
    rows = ",\n".join(json.dumps(row) for row in content["rows"])
    return f'{head},\n "rows": [\n{rows}\n]\n}}\n'
