"""A run is a folder: a request, what is wanted of it, and what its process tells. Closing a page or a notebook loses nothing.

request.json     what to train, written once               control.json    "run", "pause" or "stop", written by a face
process.json     the process that owns the folder          state.json      where it is, written by the process
metrics.jsonl    losses; measures.jsonl: metrics            samples.safetensors, teacher.safetensors: the same noise, drawn
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench import zoo
from workbench.distill.checkpoint import CHECKPOINT, HISTORY
from workbench.distill.recipes import Recipe, get
from workbench.distill.start import FOLDER as START
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.files import read_json, write_json

REQUEST, CONTROL, PROCESS, STATE = "request.json", "control.json", "process.json", "state.json"
MEASURES, SAMPLES, TEACHER, HEARTBEAT, LOG = (
    "measures.jsonl",
    "samples.safetensors",
    "teacher.safetensors",
    "heartbeat",
    "log.txt",
)
LIVE = ("preparing", "running")
SILENT = 60.0  # seconds without a heartbeat after which a process counts as dead
STARTING = 120.0  # the same before the first one: importing takes long on a busy machine
MOST_ROWS = 400  # of a history, which a figure can show
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
_children: dict[int, subprocess.Popen] = {}  # ours, so that one that has ended is seen at once


@dataclass(frozen=True)
class State:
    """What a run says of itself.

    Attributes:
        name: "preparing", "running", "paused", "stopped", "done" or "failed". sentence: the same for a person.
        step, seconds: trained so far. live_seconds: what reporting has cost, beside `seconds`.
        losses, metrics: rows with "step" and "seconds", thinned to 400; losses begin with those of the start, where the student has one.
        model: name of the finished student in the zoo.
        warning: what is going wrong with the student, in a sentence; "" if nothing is.
    """

    name: str
    sentence: str
    step: int = 0
    seconds: float = 0.0
    live_seconds: float = 0.0
    model: str | None = None
    losses: list[dict[str, float]] = field(default_factory=list, repr=False)
    metrics: list[dict[str, float]] = field(default_factory=list, repr=False)
    warning: str = ""


@dataclass(frozen=True)
class Run:
    """One training run, by its folder."""

    folder: Path

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.folder.name

    @property
    def request(self) -> dict[str, Any]:
        """What was asked: teacher, recipe, options, seconds, steps, seed, name, space, created."""
        return read_json(self.folder / REQUEST)

    def state(self, history: bool = True) -> State:
        """Where it is now; a process that died without a word is found out here. `history=False` leaves the rows out."""
        told = _read(self.folder / STATE)
        name, sentence = told.get("state", "preparing"), told.get("sentence", "Starting the training process.")
        if name in LIVE and not self._alive():
            kept = (
                "Resume continues from its last checkpoint" if (self.folder / CHECKPOINT).exists() else "Resume starts it again"
            )
            where = f" at step {told['step']}" if told.get("step") else ""
            name, sentence = "failed", f"The training process ended without a word{where} (killed, or out of memory). {kept}."
        elif name in LIVE and (want := self._wanted()) != "run":
            sentence = f"{'Pausing' if want == 'pause' else 'Stopping'} after the step at hand."
        rows = (self._losses(), history_of(self.folder / MEASURES)) if history else ([], [])
        return State(
            name, sentence, told.get("step", 0), told.get("seconds", 0.0), told.get("live_seconds", 0.0), told.get("model"), *rows,
            told.get("warning", ""),
        )  # fmt: skip

    def _losses(self) -> list[dict[str, float]]:
        """Rows of losses; of a run of several students, those of all, with the student's number before each name."""
        rows = losses_of(self.folder)
        for folder in sorted(self.folder.glob("student-*")):
            k = folder.name.removeprefix("student-")
            rows += [
                {key if key in ("step", "seconds") else f"{k}/{key}": value for key, value in row.items()}
                for row in losses_of(folder)
            ]
        return rows

    def samples(self) -> tuple[Tensor | None, Tensor | None, int]:
        """The newest samples of the student, the teacher's from the same noise, and the step of the former."""
        student, step = _tensor(self.folder / SAMPLES)
        return student, _tensor(self.folder / TEACHER)[0], step

    def pause(self) -> None:
        """Ask the process to write a checkpoint and end; `resume` continues."""
        self._ask("pause")

    def stop(self) -> None:
        """Ask the process to write a checkpoint and end; a paused run is marked as stopped."""
        if self.state(history=False).name == "paused":
            told = _read(self.folder / STATE)
            write_json(self.folder / STATE, {**told, "state": "stopped", "sentence": _halted("Stopped", told.get("step", 0))})
        else:
            self._ask("stop")

    def resume(self) -> None:
        """Start a process that continues from the last checkpoint.

        Raises:
            WorkbenchError: if the run is at work already, or done.
        """
        state = self.state(history=False)
        if state.name in LIVE:
            raise WorkbenchError(f"{self.name} is {state.name} already: pause it, or wait until it ends.")
        if state.name == "done":
            raise WorkbenchError(f"{self.name} is done: start a new run to train longer.")
        self._spawn()

    def wait(self, seconds: float = 60.0) -> State:
        """Wait until no process works on it, at most this long; returns the state."""
        end = time.monotonic() + seconds
        while (state := self.state(history=False)).name in LIVE and time.monotonic() < end:
            time.sleep(0.05)
        return self.state() if state.name not in LIVE else state

    def _ask(self, want: str) -> None:
        state = self.state(history=False)
        if state.name not in LIVE:
            raise WorkbenchError(f"{self.name} is {state.name}, so there is nothing to {want}.")
        write_json(self.folder / CONTROL, {"want": want})

    def _wanted(self) -> str:
        return _read(self.folder / CONTROL).get("want", "run")

    def _spawn(self) -> None:
        told = _read(self.folder / STATE)
        write_json(self.folder / CONTROL, {"want": "run"})
        (self.folder / PROCESS).unlink(missing_ok=True)  # the new process waits until it is named there
        environment = {**os.environ, "WORKBENCH_HOME": str(self.folder.parent.parent)}
        environment.setdefault(
            "OMP_WAIT_POLICY", "PASSIVE"
        )  # waiting threads sleep: a spinning one takes the core of the face that watches
        source = str(Path(__file__).resolve().parents[2])  # a process elsewhere finds this package, installed or not
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [source, environment.get("PYTHONPATH")]))
        try:
            with open(self.folder / LOG, "ab") as log:
                child = subprocess.Popen(
                    [sys.executable, "-m", "workbench.training.worker", str(self.folder)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise WorkbenchError(f"the training process could not be started ({error.strerror}): try again.") from error
        _children[child.pid] = child
        write_json(self.folder / PROCESS, {"pid": child.pid, "started": time.time()})
        write_json(self.folder / STATE, {**told, "state": "preparing", "sentence": "Starting the training process."})

    def _alive(self) -> bool:
        owner = _read(self.folder / PROCESS)
        pid, started = owner.get("pid"), owner.get("started", 0.0)
        if pid is None:
            return False
        if pid in _children and _children[pid].poll() is not None:
            return False
        if os.name == "posix":  # elsewhere signal 0 would end the process
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return False
            except PermissionError:  # a later process of another user has its number
                return False
        try:
            beat = (self.folder / HEARTBEAT).stat().st_mtime
        except OSError:
            beat = 0.0
        now = time.time()
        return now - beat < SILENT if beat > started else now - started < STARTING


def start(
    teacher: str,
    recipe: str,
    seconds: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    name: str | None = None,
    options: dict[str, Any] | None = None,
    home: str | os.PathLike | None = None,
) -> Run:
    """Train a student in a process of its own, and return at once.

    Args:
        teacher: a name from the catalog. recipe: a name from `workbench.recipes()`. options: of the recipe, by name.
        seconds, steps: how long, whichever ends first; the recipe's own number of steps by default.
        name: of the run and of the student, saved as SPACE/NAME in the user's zoo; recipe and a number by default.
        home: the user's folder; `zoo.home()` by default.

    Raises:
        UnknownName: for an unknown teacher, recipe or option. WorkbenchError: for a budget or a name that cannot be.
    """
    if not isinstance(teacher, str) or teacher not in (known := [entry.name for entry in zoo.catalog()]):
        raise unknown("teacher", str(teacher)[:60], known)
    get(recipe).fitted(tuple(zoo.load(teacher).shape), False).configured(**(options or {}))
    if steps is not None:
        steps = check_count("steps", steps, 1, 10_000_000)
    if seconds is not None and not (isinstance(seconds, (int, float)) and 0 < seconds < 1e7):
        raise WorkbenchError(f"seconds is {seconds!r}, but must be a positive number.")
    seed = check_count("seed", seed, 0, 2**31 - 1)
    root, space = Path(home) if home else zoo.home(), teacher.split("/")[0]
    folder = _new_folder(root, space, recipe, name)
    request = {
        "teacher": teacher, "recipe": recipe, "options": options or {}, "seconds": seconds, "steps": steps, "seed": seed,
        "space": space, "name": folder.name, "created": time.time(),
    }  # fmt: skip
    write_json(folder / REQUEST, request)
    run = Run(folder)
    run._spawn()
    return run


def _new_folder(root: Path, space: str, recipe: str, name: str | None) -> Path:
    if name and not (isinstance(name, str) and NAME.fullmatch(name)):
        raise WorkbenchError(f"a run cannot be named {str(name)[:60]!r}: use 1 to 48 letters, digits, - and _, not first.")
    for number in range(1, 10_000):
        chosen = name or f"{recipe}-{number}"
        taken = (root / "zoo" / space / chosen).exists() or (zoo.BUNDLED / space / chosen).exists()
        try:
            if not taken:
                (root / "runs").mkdir(parents=True, exist_ok=True)
                (root / "runs" / chosen).mkdir()
                return root / "runs" / chosen
        except FileExistsError:
            taken = True
        except OSError as error:
            raise WorkbenchError(f"no run can be kept in {root / 'runs'} ({error.strerror}): set WORKBENCH_HOME.") from error
        if name:
            raise WorkbenchError(f"a run or a model of {space} is named {name!r} already: choose another name.")
    raise WorkbenchError(f"{root / 'runs'} holds too many runs of {recipe}: delete some, or give a name.")


def runs(home: str | os.PathLike | None = None) -> list[Run]:
    """The user's runs, newest first; folders that hold no request are left out."""
    root = (Path(home) if home else zoo.home()) / "runs"
    found = [(_read(file).get("created", 0.0), Run(file.parent)) for file in root.glob(f"*/{REQUEST}")]
    return [run for _, run in sorted(found, key=lambda pair: pair[0], reverse=True)]


def open_run(name: str, home: str | os.PathLike | None = None) -> Run:
    """A run by its name.

    Raises:
        UnknownName: if there is none, with the nearest.
    """
    found = {run.name: run for run in runs(home)}
    if name not in found:
        raise unknown("run", str(name)[:60], found)
    return found[name]


def switches(recipe: str | Recipe, shape: tuple[int, ...] | None = None, fresh: bool = False) -> dict[str, tuple[type, Any]]:
    """The recipe's options that are numbers, words or yes/no: name -> (int, float, str or bool; default or None where it may be left open).

    Args:
        shape: of one sample; with it, the defaults are those that fit. fresh: the student starts from nothing.

    >>> switches("dmd2")["batch"]
    (<class 'int'>, 64)
    """
    chosen = get(recipe)
    if shape is not None:
        chosen = chosen.fitted(tuple(shape), fresh)
    student = chosen.optim["student"]
    own = {
        "lr": student.lr,
        "momentum": student.betas[0],
        **({"critic_lr": chosen.optim["critic"].lr} if "critic" in chosen.optim else {}),
    }
    found = {}
    for name in chosen.options():
        if name in own:
            kind, value = float, own[name]
        elif hasattr(chosen, name) and name != "objective":
            value = getattr(chosen, name)
            kind = type(value)
        else:
            kind, value = _field(chosen.objective, name) or (None, None)
        if kind in (int, float, bool, str):
            found[name] = (kind, value)
    return found


def _field(part: Any, name: str) -> tuple[type | None, Any] | None:
    """Kind and value of the first field of this name, searched in the order in which `Recipe.configured` replaces it."""
    own = {item.name: item for item in fields(part)}
    if name in own:
        value, words = getattr(part, name), re.findall(r"\w+", str(own[name].type))
        if value is None:
            return next((kind for kind in (float, int, str) if words[:1] == [kind.__name__]), None), None
        return type(value), value
    inner = (getattr(part, item) for item in own)
    return next((found for one in inner if is_dataclass(one) and (found := _field(one, name))), None)


def losses_of(folder: Path) -> list[dict[str, float]]:
    """Rows of losses of one student: those of its start, if it had one (`workbench.distill.start`), then its own, counted on from there."""
    first = history_of(folder / START / HISTORY, MOST_ROWS // 2)
    if not first:
        return history_of(folder / HISTORY)
    step, seconds = first[-1]["step"], first[-1]["seconds"]
    rows = history_of(folder / HISTORY, MOST_ROWS // 2)
    return first + [{**row, "step": row["step"] + step, "seconds": round(row["seconds"] + seconds, 3)} for row in rows]


def history_of(path: Path, most: int = MOST_ROWS) -> list[dict[str, float]]:
    """Rows of a history, thinned to `most`; what a resumed run has written again replaces what came before."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    every = max(1, math.ceil(len(lines) / most))
    rows: list[dict[str, float]] = []
    for k, line in enumerate(lines):
        if k % every and k != len(lines) - 1:
            continue
        try:
            row = json.loads(line)
        except ValueError:  # a line in the making, or cut off by a kill
            continue
        while rows and rows[-1]["step"] >= row["step"]:
            rows.pop()
        rows.append(row)
    return rows


def _halted(word: str, step: int) -> str:
    return f"{word} at step {step}; Resume continues from there."


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _tensor(path: Path) -> tuple[Tensor | None, int]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("x"), int((file.metadata() or {}).get("step", 0))
    except (OSError, SafetensorError):
        return None, 0
