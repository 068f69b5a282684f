"""Multi-student distillation (MSD, arXiv 2410.23274): one student for each part of the classes, together one model that routes by label.

Students are trained one after another, in processes of this machine, or in those of a launcher (torchrun, accelerate), whose RANK and
WORLD_SIZE say which students a process trains. A student depends on its index and the run's seed alone.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path as File
from typing import Any, ClassVar

import torch
from torch import Tensor

from workbench.denoiser import Denoiser
from workbench.distill.loop import Progress
from workbench.distill.start import check_matched
from workbench.errors import WorkbenchError, check_count
from workbench.files import read_json, write_json
from workbench.routed import parts_of, save_routed

RESULT, FAILED, WARNING = "result.json", "failed.json", "warning.json"
POLL = 0.2  # seconds between two looks at what other processes have done


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
    shape = tuple(getattr(teacher, "shape", None) or ())
    chosen = recipe.fitted(shape, True).configured(**{key: value for key, value in options.items() if key in own})
    switches = chosen.objective
    check_matched(chosen.matched)
    rest = {key: value for key, value in options.items() if key not in own}
    if switches.guidance is not None:
        rest.setdefault("guidance", switches.guidance)
    if switches.students > 1:
        rest.setdefault("dropout", switches.dropout)
    host = get(switches.host).fitted(shape, False).configured(**rest)
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
    check_fit(host, teacher, data, init, network)
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
    from workbench.distill.several_processes import in_processes, together

    teacher, rank, world = tasks[0].teacher, int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine = tasks[rank::world]
    for task in mine:
        for left in (FAILED, WARNING):
            (task.folder / left).unlink(missing_ok=True)
    if world > 1:
        together()
    yield from in_processes(mine, jobs) if jobs > 1 and len(mine) > 1 else _in_turn(mine)
    while any(not finished(task.folder) for task in tasks):
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
            teacher, model.sampling, seed, _asked(host, teacher, model.sampling),
            labels=[label for part in parts for label in part] if len(parts) > 1 else None,
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
            fail(task, error)


def fail(task: Task, error: Exception) -> None:
    """Leave the reason in the student's folder."""
    said = str(error).rstrip(".") if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
    write_json(task.folder / FAILED, {"reason": said})


def finished(folder: File) -> bool:
    """Whether a student is trained, or has failed."""
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
