"""Multi-student distillation (MSD, arXiv 2410.23274): one student for each part of the classes, together one model that routes by label.

Students are trained one after another, in processes of this machine, or in those of a launcher (torchrun, accelerate), whose RANK and
WORLD_SIZE say which students a process trains. A student depends on its index and the run's seed alone.
"""

from __future__ import annotations

import copyreg
import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path as File
from typing import Any, ClassVar

import torch
from torch import Tensor

from workbench import paths
from workbench.denoiser import Denoiser
from workbench.distill.checkpoint import HISTORY
from workbench.distill.loop import Progress
from workbench.distill.start import FOLDER as START
from workbench.distill.start import check_matched
from workbench.errors import WorkbenchError, check_count
from workbench.files import read_json, write_json
from workbench.routed import parts_of, save_routed

RESULT, FAILED, WARNING = "result.json", "failed.json", "warning.json"
POLL = 0.2  # seconds between two looks at what other processes have done
REPORT = 1.0  # seconds between two reports on students in other processes
LEAVING = 60.0  # seconds that such a process has to keep what it has done
TAIL = 65536  # bytes that hold the last row of a history
CHILD = """
from workbench.process import end_with_parent
end_with_parent()  # before anything that takes long is imported
from workbench.distill.several import main
main()
"""


@dataclass(frozen=True)
class Several:
    """What the recipe msd is; every other option is one of its host's.

    Attributes:
        students: K; the classes are cut into K runs of consecutive labels, as even as can be. host: the recipe that trains each.
        jobs: processes that train at the same time. devices: devices that the students take turns on; () for the one of `distill`.
        guidance, dropout: the host's. The model is always asked with a label, so that none is dropped by default.
    """

    students: int = 4
    host: str = "dmd2"
    jobs: int = 1
    devices: tuple[str, ...] = ()
    guidance: float | None = None
    dropout: float = 0.0

    needs_data: ClassVar[bool] = True

    def __post_init__(self):
        object.__setattr__(self, "devices", tuple(self.devices))
        check_count("students", self.students)
        check_count("jobs", self.jobs)
        if self.host == "msd":
            raise WorkbenchError("msd cannot be its own host: choose the recipe that is to train each student, such as dmd2.")

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why the classes of a teacher cannot be divided; empty if they can."""
        classes = int(getattr(teacher, "classes", 0) or 0)
        if self.students <= max(classes, 1):
            return []
        return [
            f"it gives each of {self.students} students classes of its own, and this teacher has {classes}: set students to fewer"
        ]


@dataclass(frozen=True)
class Task:
    """All that one student needs to be trained, here or in another process."""

    teacher: Denoiser
    host: str
    data: Any
    folder: File
    steps: int | None
    seconds: float | None
    seed: int
    init: Any
    device: Any
    network: dict[str, int]
    clock: Any
    options: dict[str, Any]
    matched: float
    report_seconds: float | None = None


def distill_several(
    teacher: Denoiser, recipe: Any, data: Any = None, run: Any = None, steps: int | None = None, seconds: float | None = None,
    seed: int = 0, init: Any = None, device: Any = None, name: str | None = None, network: dict[str, int] | None = None,
    clock: Any = time.monotonic, report_seconds: float | None = None, **options: Any,
) -> Iterator[Progress]:  # fmt: skip
    """`distill` for the recipe msd; the last `Progress` has the model of all students in `.student`.

    Each student is trained for `steps`, and for an even share of `seconds`. Continues what it finds in `run`.

    Raises:
        WorkbenchError: for impossible settings, at the call; and at the end, if a student failed: the others are kept.
    """
    from workbench.data import load as load_data
    from workbench.distill.distill import _default_data
    from workbench.distill.fit import check_fit
    from workbench.distill.recipes import get

    own = {field.name for field in fields(Several)} - {"guidance", "dropout"} | {"matched"}
    chosen = recipe.configured(**{key: value for key, value in options.items() if key in own})
    switches = chosen.objective
    check_matched(chosen.matched)
    rest = {key: value for key, value in options.items() if key not in own}
    if switches.guidance is not None:
        rest.setdefault("guidance", switches.guidance)
    if switches.students > 1:
        rest.setdefault("dropout", switches.dropout)
    host = get(switches.host).configured(**rest)
    for what, value in (("steps", steps), ("batch", host.batch)):
        if value is not None:
            check_count(what, value, 1, 10_000_000)
    if seconds is not None and not (isinstance(seconds, (int, float)) and 0 < seconds < 1e7):
        raise WorkbenchError(f"seconds is {seconds!r}, but must be a positive number.")
    if getattr(teacher, "path", None) is None or getattr(teacher, "shape", None) is None:
        raise WorkbenchError(
            "a teacher needs .path and .shape (of one sample): set them, or wrap the network in workbench.Network."
        )
    check_fit(replace(recipe, objective=switches), teacher, data, init, network)
    check_fit(get(switches.host).fitted(tuple(teacher.shape), False).configured(**rest), teacher, data, init, network)
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and run is None:
        raise WorkbenchError(f"{world} processes train the students together: give run=, a folder that all of them see.")
    if steps is None and seconds is None:
        steps = host.steps
    if isinstance(data, str):
        data = load_data(data)
    elif data is None:
        data = _default_data(teacher, seed)
    parts = parts_of(int(getattr(teacher, "classes", 0) or 0), switches.students)
    folder = File(run) if run is not None else File(tempfile.mkdtemp(prefix="workbench-"))
    devices = switches.devices or (device,)
    if world > 1 and not switches.devices and device is None and torch.cuda.is_available():
        devices = tuple(f"cuda:{k % torch.cuda.device_count()}" for k in range(switches.students))
    tasks = [
        Task(
            teacher, switches.host, _of(data, part), folder / f"student-{k}", steps,
            None if seconds is None else seconds / switches.students, seed + k, init, devices[k % len(devices)], network or {},
            clock, rest, chosen.matched, report_seconds,
        )
        for k, part in enumerate(parts)
    ]  # fmt: skip
    jobs = max(switches.jobs, len(switches.devices))
    return _several(tasks, parts, jobs, recipe, host, folder, name, seed)


def _several(tasks, parts, jobs, recipe, host, folder, name, seed) -> Iterator[Progress]:
    from workbench.distill.distill import _asked, _plain, _samples
    from workbench.distill.measuring import Measure

    teacher, rank, world = tasks[0].teacher, int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine = tasks[rank::world]
    for task in mine:
        for left in (FAILED, WARNING):
            (task.folder / left).unlink(missing_ok=True)
    if world > 1:
        _together()
    yield from _in_processes(mine, jobs) if jobs > 1 and len(mine) > 1 else _in_turn(mine)
    while any(not _finished(task.folder) for task in tasks):
        time.sleep(POLL)
    failed = [k for k, task in enumerate(tasks) if (task.folder / FAILED).exists()]
    if failed:
        reasons = "; ".join(
            f"student {k} of classes {parts[k][0]} to {parts[k][-1]}: {read_json(tasks[k].folder / FAILED)['reason']}"
            if parts[k]
            else f"student {k}: {read_json(tasks[k].folder / FAILED)['reason']}"
            for k in failed
        )
        raise WorkbenchError(
            f"{len(failed)} of {len(tasks)} students failed ({reasons}). The others are kept in {folder}: call again with run= that folder, "
            "and only what is missing is trained."
        )
    results = [read_json(task.folder / RESULT) for task in tasks]
    model = save_routed(
        [task.folder / "student" for task in tasks], parts, folder / "student", write=rank == 0,
        name=name or f"{getattr(teacher, 'name', type(teacher).__name__).split('/')[0]}/{recipe.name}",
        recipe=recipe.name, paper=recipe.paper, host=tasks[0].host, seed=seed,
        trained={
            "steps": max(result["steps"] for result in results), "seconds": round(sum(result["seconds"] for result in results), 1),
            "batch": results[0]["batch"], "options": _plain(tasks[0].options), "matched": tasks[0].matched,
        },
        measure=lambda model: Measure(
            teacher, model.sampling, seed, _asked(host, teacher, model.sampling)
        )(model, always=True),
    )  # fmt: skip
    losses = {f"{k}/{key}": value for k, result in enumerate(results) for key, value in result["losses"].items()}
    total, whole = model.card["trained"], sum(result["seconds"] for result in results)
    yield Progress(
        total["steps"], tasks[0].steps, losses, model.card["figures"], whole, stage="done",
        samples=functools.partial(_samples, model), average=model.net, student=model,
    )  # fmt: skip


def train_one(task: Task) -> Iterator[Progress]:
    """Train one student in its folder, the teacher's own estimates first where it starts from nothing."""
    from workbench.distill.distill import distill

    for progress in distill(
        task.teacher, task.host, task.data, task.folder, task.steps, task.seconds, task.seed, task.init, task.device,
        network=task.network or None, clock=task.clock, report_seconds=task.report_seconds, matched=task.matched, **task.options,
    ):  # fmt: skip
        yield progress
    trained = progress.student.card["trained"]
    write_json(
        task.folder / RESULT,
        {
            "steps": progress.step,
            "seconds": progress.seconds,
            "batch": trained["batch"],
            "losses": progress.losses,
        },
    )


def _in_turn(tasks: Sequence[Task]) -> Iterator[Progress]:
    for k, task in enumerate(tasks):
        try:
            for progress in train_one(task):
                yield replace(progress, stage=f"student {k + 1}/{len(tasks)}", student=None)
        except Exception as error:
            _fail(task, error)


def _in_processes(tasks: Sequence[Task], jobs: int) -> Iterator[Progress]:
    copyreg.pickle(paths.Path, lambda path: (paths.get, (path.name,)))
    waiting, running, reported = list(tasks), {}, time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.pop(0)
                task.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile() as request, open(task.folder / "log.txt", "w", encoding="utf-8") as log:
                    try:
                        pickle.dump(task, request)  # a file without a name: nobody else can put another in its place
                    except (pickle.PicklingError, AttributeError, TypeError) as error:
                        _fail(task, WorkbenchError(f"it cannot be handed to another process ({error}): set jobs=1"))
                        continue
                    request.seek(0)
                    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=request, stdout=log, stderr=log)
                    running[task.folder] = (task, child)
            ended = [folder for folder, (_, process) in running.items() if process.poll() is not None]
            for folder in ended:
                task, process = running.pop(folder)
                if not _finished(folder):
                    _fail(task, WorkbenchError(f"its process ended with {process.returncode}; see {folder / 'log.txt'}"))
            if ended or time.monotonic() - reported > REPORT:
                yield _glance(tasks, len(tasks) - len(waiting) - len(running))
                reported = time.monotonic()
            time.sleep(POLL if running else 0)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            try:
                process.wait(LEAVING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _glance(tasks: Sequence[Task], done: int) -> Progress:
    """What students in other processes have told: the mean of their steps, everybody's losses and warnings."""
    rows = [_last_row(task.folder) for task in tasks]
    warned = [
        (k, read_json(task.folder / WARNING)["warning"]) for k, task in enumerate(tasks) if (task.folder / WARNING).exists()
    ]
    losses = {
        f"{k}/{name}": value for k, row in enumerate(rows) for name, value in row.items() if name not in ("step", "seconds")
    }
    steps = sum(row.get("step", 0) for row in rows) // len(tasks)
    return Progress(
        steps, tasks[0].steps, losses, {}, sum(row.get("seconds", 0.0) for row in rows),
        stage=f"students {done}/{len(tasks)}", warning=" ".join(f"Student {k}: {text}" for k, text in warned if text),
    )  # fmt: skip


def _last_row(folder: File) -> dict[str, float]:
    """The last whole row of a run's history, counted on from that of its start; empty before the first."""
    rows = []
    for file in (folder / START / HISTORY, folder / HISTORY):
        if not file.exists():
            continue
        with open(file, "rb") as history:
            history.seek(max(0, file.stat().st_size - TAIL))
            lines = history.read().split(b"\n")[:-1]  # what follows the last line break is not finished
        if lines:
            rows.append(json.loads(lines[-1]))
    if not rows:
        return {}
    return {**rows[-1], **{name: sum(row[name] for row in rows) for name in ("step", "seconds")}}


def _together() -> None:
    """Wait for every process of the launcher, so that none takes what an earlier launch left for news; only where it says its address."""
    if "MASTER_ADDR" not in os.environ or not torch.distributed.is_available():
        return
    from torch import distributed

    mine = not distributed.is_initialized()
    if mine:
        distributed.init_process_group("gloo")
    distributed.barrier()
    if mine:
        distributed.destroy_process_group()


def _fail(task: Task, error: Exception) -> None:
    said = str(error).rstrip(".") if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
    write_json(task.folder / FAILED, {"reason": said})


def _finished(folder: File) -> bool:
    return (folder / RESULT).exists() or (folder / FAILED).exists()


def _of(data: Any, part: Sequence[int]) -> Any:
    """The data (tensor, labels) of some classes; all of them for none."""
    if not part:
        return data
    x, y = (data.images, data.labels) if hasattr(data, "images") else data if isinstance(data, tuple) else (data, None)
    if not isinstance(y, Tensor):
        raise WorkbenchError(
            "msd gives each student the data of its classes, and these have no labels: pass data=(tensor, labels)."
        )
    mine = torch.isin(y, torch.tensor(list(part), device=y.device))
    if not bool(mine.any()):
        raise WorkbenchError(
            f"the data hold none of the classes {list(part)}, which are one student's: give data of every class."
        )
    return x[mine], y[mine]


def main() -> None:
    """Train the student of the request that `_in_processes` hands over as the standard input; asked to end, keep what is done."""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    copyreg.pickle(paths.Path, lambda path: (paths.get, (path.name,)))
    task = pickle.load(sys.stdin.buffer)
    run, warning = train_one(replace(task, report_seconds=task.report_seconds or REPORT)), ""
    try:
        for progress in run:
            if progress.warning != warning:
                warning = progress.warning
                write_json(task.folder / WARNING, {"warning": warning})
            if asked:
                run.close()
                sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        _fail(task, error)
        raise
