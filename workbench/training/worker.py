"""The process that trains one run: `python -m workbench.training.worker FOLDER`. It talks through files alone."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench import zoo
from workbench.denoiser import decode
from workbench.distill import distill
from workbench.distill.loop import Progress
from workbench.errors import WorkbenchError
from workbench.files import read_json, write_json
from workbench.metrics.features import FEATURE_SETS
from workbench.samplers.sample import sample
from workbench.student import CARD
from workbench.training import records

BEAT, WORDS, REPORT, DRAW = 1.0, 0.25, 0.3, 0.65  # seconds between heartbeats, states, reports, samples
SHARE = 0.03  # of the training time that reports may take
POINTS, IMAGES, FEWEST = 400, 16, 4  # samples that are drawn; fewer where a second of training does not pay for all
NOISE = 20_000_003  # seed of the fixed noise, apart from those of training and of metrics


class Reporter:
    """Writes what a run says, and no more often than its share of the time allows."""

    def __init__(self, folder: Path, told: dict[str, Any]):
        self.folder, self.told = folder, told
        self.spent = self.drawing = self.began = 0.0
        self.last_words = self.last_draw = 0.0
        self.measured: dict[str, float] = {}
        self.count: int | None = None  # of samples drawn, once their cost is known

    def say(self, state: str, sentence: str, **more: Any) -> None:
        """Write the state, now."""
        self.told = {**self.told, "state": state, "sentence": sentence, **more}
        place(self.folder / records.STATE, json.dumps(self.told).encode())
        self.last_words = time.monotonic()

    def report(self, progress: Progress, draw: Any) -> None:
        """Pass on what `distill` reports: state, new metrics, samples."""
        began, last = time.monotonic(), progress.stage == "done"
        if progress.metrics and progress.metrics != self.measured:
            self.measured = dict(progress.metrics)
            row = {"step": progress.step, "seconds": round(progress.seconds, 3), **self.measured}
            with open(self.folder / records.MEASURES, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        affordable = self.spent + self.drawing <= SHARE * (progress.seconds - self.began)
        if progress.average is not None and (last or (began - self.last_draw >= DRAW and (affordable or not self.last_draw))):
            if not self.last_draw:  # the first one loads and warms what the others find ready: it says nothing of their cost
                whole = draw(progress.samples, None)
                began = time.monotonic()
                draw(progress.samples, None)
                cost = time.monotonic() - began
                self.count = min(len(whole), max(FEWEST, int(len(whole) * SHARE * DRAW / max(cost, 1e-6)) // 4 * 4))
                began = time.monotonic()
            self.last_draw = began
            count = None if last else self.count
            place_tensor(self.folder / records.SAMPLES, draw(progress.samples, count), progress.step)
            self.drawing = time.monotonic() - began
        if began - self.last_words >= WORDS and not last:
            training = progress.step > 0 and not progress.stage.startswith("pairs")
            part = "" if progress.stage == "train" else f" ({progress.stage})"  # which of several students
            sentence = (
                f"Training: step {progress.step}, {progress.seconds:.0f} s{part}."
                if training
                else f"Preparing: {progress.stage}."
            )
            where = {
                "step": progress.step,
                "seconds": progress.seconds,
                "live_seconds": self.spent,
                "warning": progress.warning,
            }
            self.say("running" if training else "preparing", sentence, **where)
        self.spent += time.monotonic() - began


def place(path: Path, content: bytes) -> None:
    """Replace a small file in one step; it is not forced to the disk, since the next one comes within a second."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def place_tensor(path: Path, x: Tensor, step: int) -> None:
    """The same for samples."""
    temporary = path.with_name(path.name + ".tmp")
    save_file({"x": x.detach().float().cpu().contiguous()}, temporary, metadata={"step": str(step)})
    os.replace(temporary, path)


def work(folder: Path) -> None:
    """Train the run of a folder until it is done, or until it is asked to pause or stop."""
    request = read_json(folder / records.REQUEST)
    reporter = Reporter(folder, {"step": 0, "seconds": 0.0, **records._read(folder / records.STATE)})
    try:
        reporter.say("preparing", "Loading the teacher and drawing its samples.")
        _train(folder, request, reporter)
    except WorkbenchError as error:
        text = str(error)
        reporter.say("failed", text[:1].upper() + text[1:])
    except Exception as error:
        traceback.print_exc()  # to log.txt in the run's folder
        reporter.say("failed", f"The training did not work ({type(error).__name__}); {folder / records.LOG} says more.")


def _train(folder: Path, request: dict[str, Any], reporter: Reporter) -> None:
    teacher = zoo.load(request["teacher"])
    if not hasattr(teacher, "name"):
        teacher.name = request["teacher"]
    n = POINTS if len(teacher.shape) == 1 else IMAGES
    classes = int(getattr(teacher, "classes", 0) or 0)
    cond = torch.arange(n) % classes if classes and len(teacher.shape) > 1 else None
    if not (folder / records.TEACHER).exists():
        place_tensor(folder / records.TEACHER, decode(teacher, sample(teacher, n, cond, seed=NOISE)), 0)

    def draw(samples: Any, count: int | None) -> Tensor:
        first = n if count is None else count
        return decode(teacher, samples(first, None if cond is None else cond[:first], seed=NOISE))

    training = distill(
        teacher, request["recipe"], None, folder, request["steps"], request["seconds"], request["seed"],
        name=f"{request['space']}/{request['name']}", report_seconds=REPORT, **request["options"],
    )  # fmt: skip
    for progress in training:
        reporter.began = reporter.began or progress.seconds
        reporter.report(progress, draw)
        if progress.stage == "done":
            reporter.say("running", "Measuring the student.", step=progress.step, seconds=progress.seconds)
            judge(folder / "student", request["space"])
            model = keep(folder, request["space"], request["name"])
            sentence = (
                f"Done: {progress.step} steps in {progress.seconds:.0f} s. The student is {model}, and Compare offers it."
            )
            reporter.say(
                "done", sentence, step=progress.step, seconds=progress.seconds, live_seconds=reporter.spent, model=model,
                warning=progress.warning,
            )  # fmt: skip
            return
        if not _owns(folder):  # a face has started another process
            return
        want = records.Run(folder)._wanted()
        if want != "run":
            training.close()  # the loop writes its checkpoint
            word, state = ("Paused", "paused") if want == "pause" else ("Stopped", "stopped")
            reporter.say(state, records._halted(word, progress.step), step=progress.step, seconds=progress.seconds)
            return


def judge(student: Path, space: str) -> None:
    """Put Frechet distance, agreement and recall on the card of a student that draws the images of a space with a bundled classifier."""
    from workbench.zoo.measure import measure

    card = read_json(student / CARD)
    if space not in FEATURE_SETS or len(card.get("shape", ())) != 3:
        return
    try:
        model = zoo.load(str(student))
        model.name = f"{space}/{student.parent.name}"
        figures = measure(model, (model.sampling.steps,))
    except WorkbenchError:  # not of this space's classes, or in need of a hint: the card says what training measured
        return
    write_json(student / CARD, {**card, "figures": {**card.get("figures", {}), **figures}})


def keep(folder: Path, space: str, name: str) -> str:
    """Put the finished student into the user's zoo, whole; returns its name there."""
    import shutil

    target, ready = folder.parent.parent / "zoo" / space / name, folder / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    try:
        shutil.copytree(folder / "student", ready)
        target.parent.mkdir(parents=True, exist_ok=True)
        if (target / CARD).exists():  # this run, killed between keeping and saying so
            shutil.rmtree(target)
        os.replace(ready, target)
    except OSError as error:
        raise WorkbenchError(
            f"the student could not be kept in {target} ({error.strerror}); it is in {folder / 'student'}."
        ) from error
    return f"{space}/{name}"


def _owns(folder: Path) -> bool:
    """Whether the face that started this process still means it: of two started at once, the later stays."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if (pid := records._read(folder / records.PROCESS).get("pid")) is not None:
            return pid == os.getpid()
        time.sleep(0.05)
    return False


def main(argument: str) -> None:
    """Beat, work, end."""
    folder = Path(argument)
    if not _owns(folder):
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.is_set():
            (folder / records.HEARTBEAT).touch()
            ended.wait(BEAT)

    threading.Thread(target=beat, daemon=True).start()
    work(folder)
    ended.set()


if __name__ == "__main__":
    main(sys.argv[1])
