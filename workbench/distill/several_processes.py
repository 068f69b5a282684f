"""Students of `several` in processes of this machine, and how processes of a launcher wait for one another."""

from __future__ import annotations

import copyreg
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import torch

from workbench import paths
from workbench.distill.checkpoint import HISTORY
from workbench.distill.loop import Progress
from workbench.distill.several import POLL, WARNING, Task, fail, finished, train_one
from workbench.distill.start import FOLDER as START
from workbench.errors import WorkbenchError
from workbench.files import read_json, write_json

REPORT = 1.0  # seconds between two reports
LEAVING = 60.0  # seconds that a process has to keep what it has done
TAIL = 65536  # bytes that hold the last row of a history
CHILD = """
from workbench.process import end_with_parent
end_with_parent()  # before anything that takes long is imported
from workbench.distill.several_processes import main
main()
"""

_met: list[Any] = []  # the launcher's store, which is kept, since it may be served from here; then the name of each call


def in_processes(tasks: Sequence[Task], jobs: int) -> Iterator[Progress]:
    """Train students in `jobs` processes at a time, with a report now and then; left early, they keep what they have done."""
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
                        fail(task, WorkbenchError(f"it cannot be handed to another process ({error}): set jobs=1"))
                        continue
                    request.seek(0)
                    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=request, stdout=log, stderr=log)
                    running[task.folder] = (task, child)
            ended = [folder for folder, (_, process) in running.items() if process.poll() is not None]
            for folder in ended:
                task, process = running.pop(folder)
                if not finished(folder):
                    fail(task, WorkbenchError(f"its process ended with {process.returncode}; see {folder / 'log.txt'}"))
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
    numbers = [task.folder.name.removeprefix("student-") for task in tasks]  # among all, whoever trains them
    warned = [
        (k, read_json(task.folder / WARNING)["warning"])
        for k, task in zip(numbers, tasks, strict=True)
        if (task.folder / WARNING).exists()
    ]
    losses = {
        f"{k}/{name}": value
        for k, row in zip(numbers, rows, strict=True)
        for name, value in row.items()
        if name not in ("step", "seconds")
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


def together() -> None:
    """Wait for every process of the launcher, so that none takes what an earlier launch left for news; only where it says its address.

    They count one another in the launcher's store, under a name for each call: a process group of our own would be in the way of the caller's.
    """
    if "MASTER_ADDR" not in os.environ or not torch.distributed.is_available():
        return
    from torch.distributed.rendezvous import rendezvous

    if not _met:
        _met.append(next(iter(rendezvous("env://")))[0])
    key = f"workbench-msd-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}-{len(_met)}"
    _met.append(key)
    _met[0].add(key, 1)
    while _met[0].add(key, 0) < int(os.environ["WORLD_SIZE"]):
        time.sleep(POLL)


def main() -> None:
    """Train the student of the request that `in_processes` hands over as the standard input; asked to end, keep what is done."""
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
        fail(task, error)
        raise
