"""The commands that made the bundled models: `workbench zoo build NAME`, the same on CPU and GPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from workbench import data
from workbench.data.batches import sampler
from workbench.distill.distill import distill
from workbench.distill.loop import Batch, Optim, Progress, train
from workbench.distill.objectives.flow_matching import FlowMatching
from workbench.errors import unknown
from workbench.files import check_folder, read_json, write_json
from workbench.routed import Routed, save_routed
from workbench.samplers.sample import Sampling
from workbench.student import Trained, make_card, save
from workbench.zoo import home, load
from workbench.zoo.calm import calmed


@dataclass(frozen=True)
class TeacherBuild:
    """A flow-matching teacher on a data set."""

    data: str
    net: dict[str, Any]
    batch: int
    steps: int
    sampling: Sampling = field(default_factory=lambda: Sampling("dpmpp_2m", 25, guidance=3.0))
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-3, weight_decay=0.01, warmup=300, decay=0.9))
    ema: float = 0.9995


@dataclass(frozen=True)
class StudentBuild:
    """A recipe on a bundled teacher, with the options that differ from the recipe's own.

    Attributes:
        init: a bundled model to start from, in place of the teacher. frequency: the time embedding is first made this slow, see
            `workbench.zoo.calm`. looks: at how many times of the training the card holds the Frechet distance; 0 for none.
    """

    teacher: str
    recipe: str
    steps: int
    options: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    frequency: float | None = None
    looks: int = 8


DIGITS_NET = {"image_size": 8, "patch": 2, "width": 64, "depth": 4, "heads": 4}
SLIM_NET = {"width": 64, "depth": 6}

BUILDS: dict[str, TeacherBuild | StudentBuild] = {
    "digits/teacher": TeacherBuild("digits", DIGITS_NET, batch=64, steps=8000, sampling=Sampling("dpmpp_2m", 25, guidance=1.5)),
    "fashion/teacher": TeacherBuild("fashion", {}, batch=96, steps=6250),
    "digits/reflow": StudentBuild("digits/teacher", "reflow", 2000, {"count": 4096}),
    "digits/consistency": StudentBuild("digits/teacher", "consistency", 1500),
    "digits/dmd2": StudentBuild("digits/teacher", "dmd2", 2400, {"turns": 3, "lr": 1.5e-4, "ema": 0.99}),
    "fashion/reflow": StudentBuild("fashion/teacher", "reflow", 1200, {"count": 4096, "sampling": Sampling("dpmpp_2m", 16)}),
    "fashion/consistency": StudentBuild("fashion/teacher", "consistency", 900),
    # At guidance 2, GAN weight 1e-2 and 1500 steps the one-step Frechet distance was lowest, 3.41, after 600 to 900 and 3.47 at the end,
    # with recall 0.493: a longer run seeks modes.
    "fashion/dmd2": StudentBuild(
        "fashion/teacher", "dmd2", 600,
        {"guidance": 1.5, "turns": 3, "warmup": 60, "gan": 3e-2, "judged": 0.25, "lr": 5e-5, "ema": 0.99},
        init="fashion/scm",
    ),
    "fashion/f-distill": StudentBuild(
        "fashion/teacher", "f-distill", 400,
        {"guidance": 1.5, "turns": 3, "warmup": 40, "divergence": "js", "gan": 1e-2, "judged": 0.25, "lr": 5e-5, "ema": 0.99},
        init="fashion/scm", looks=4,
    ),
    "fashion/sid": StudentBuild(
        "fashion/teacher", "sid", 200, {"guidance": 1.5, "warmup": 40, "lr": 3e-5, "critic_lr": 1e-4, "ema": 0.98},
        init="fashion/scm", looks=4,
    ),
    "fashion/msd": StudentBuild(
        "fashion/teacher", "msd", 130,
        {"students": 2, "guidance": 1.5, "turns": 3, "warmup": 30, "gan": 3e-2, "judged": 0.25, "lr": 5e-5, "ema": 0.98},
        init="fashion/scm", looks=0,  # a student alone does not know every class
    ),
    "fashion/slimflow": StudentBuild(
        "fashion/teacher", "slimflow", 6000, {"network": SLIM_NET, "count": 6144, "sampling": Sampling("dpmpp_2m", 16)}
    ),
    # Guidance 2 is where the teacher's Frechet distance is lowest (2.1 in 12 steps, 3.2 at 3 and 3.8 unguided). scm and
    # meanflow learn by derivatives in time, so the clock is made slow first. They start from the reflow student, which knows one
    # step already (4.8); starting from the teacher was not tried.
    "fashion/scm": StudentBuild(
        "fashion/teacher", "scm", 300, {"guidance": 2.0, "ema": 0.99}, init="fashion/reflow", frequency=16.0, looks=4
    ),
    "fashion/meanflow": StudentBuild(
        "fashion/teacher", "meanflow", 300,
        {"source": "teacher", "guidance": 2.0, "mean": 0.4, "std": 1.4, "equal": 0.25, "ema": 0.99},  # often near t = 1, where it starts
        init="fashion/reflow", frequency=16.0, looks=4,
    ),
    # From the calmed reflow student (220 steps, lr 3e-4) freeflow ended at 9.1 in one step, worse than it began; from the flow map, with
    # a third of the rate and 100 steps, at 5.78. Its curve still jumps.
    "fashion/freeflow": StudentBuild(
        "fashion/teacher", "freeflow", 100, {"guidance": 2.0, "ema": 0.98, "lr": 1e-4}, init="fashion/meanflow", looks=4
    ),
}  # fmt: skip


def build(name: str, run: str | os.PathLike | None = None, into: str | os.PathLike | None = None,
          device: str | None = None, seed: int = 0) -> Iterator[Progress]:  # fmt: skip
    """Train one of the bundled models again, yielding progress; the last report has `.student` with its figures.

    Args:
        run: folder of checkpoints; continues what it finds. Below the user's folder by default.
        into: where the model goes; by default the user's zoo, where `load(name)` finds it first.

    Raises:
        UnknownName: if no such model is bundled. MissingSource: if its data is not on this machine.
        WorkbenchError: before anything is trained, if nothing can be written in `into`.
    """
    if name not in BUILDS:
        raise unknown("bundled model", name, BUILDS)
    made = BUILDS[name]
    run = Path(run) if run else home() / "runs" / name.replace("/", "-")
    target = Path(into) if into else home() / "zoo" / name
    check_folder(target)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    steps = (
        _teacher(name, made, run, device, seed) if isinstance(made, TeacherBuild) else _student(name, made, run, device, seed)
    )
    for progress in steps:
        if progress.student is not None:
            progress.student = finish(progress.student, target)
        yield progress


def finish(model: Trained, target: Path) -> Trained:
    """Measure a model, write its figures on its card, and store it in bfloat16."""
    from workbench.zoo.measure import measure

    if isinstance(model, Routed):
        return _finish_several(model, target)
    stored = save(model.net, model.card, target, torch.bfloat16)
    return save(stored.net, {**model.card, "figures": measure(stored)}, target, torch.bfloat16)


def _finish_several(model: Routed, target: Path) -> Routed:
    """The same for a model of several students."""
    from workbench.zoo.measure import measure

    own = {
        key: value for key, value in model.card.items() if key not in ("students", "parameters", "sha256", "figures", "dtype")
    }
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / f"part-{k}" for k in range(len(model.classes_of))]
        for net, place in zip(model.net.nets, places, strict=True):
            save(net, {**own, "parameters": sum(p.numel() for p in net.parameters())}, place, torch.bfloat16)
        return save_routed(places, model.classes_of, target, measure, **own)


def _teacher(name: str, made: TeacherBuild, run: Path, device: str, seed: int) -> Iterator[Progress]:
    from workbench.networks.dit import DiT

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DiT(**made.net)
    images = data.load(made.data)
    draw = sampler(images, made.batch, device)
    config = {"build": name, "data": made.data, "net": made.net, "batch": made.batch}
    for progress in train(
        FlowMatching(net), lambda rng: Batch(*draw(rng), made.batch), config,
        run=run, optim={"teacher": made.optim}, steps=made.steps, seed=seed, ema=made.ema, device=device,
    ):  # fmt: skip
        if progress.stage == "done":
            card = make_card(
                net, name=name, role="teacher", shape=tuple(images.images.shape[1:]), sampling=made.sampling,
                class_names=list(images.classes), data=made.data, source=images.source, seed=seed,
                trained={"steps": progress.step, "seconds": round(progress.seconds, 1), "batch": made.batch, "optim": asdict(made.optim),
                         "ema": made.ema, "command": f"workbench zoo build {name}"},
            )  # fmt: skip
            progress.student = save(net, card, run / "teacher")
        yield progress


def _student(name: str, made: StudentBuild, run: Path, device: str, seed: int) -> Iterator[Progress]:
    teacher = load(made.teacher)
    init = load(made.init) if made.init else teacher if made.frequency else None
    if made.frequency:
        init = calmed(init, made.frequency)
    curve = _Curve(run / "curve.json", name, made)
    for progress in distill(
        teacher, made.recipe, run=run, steps=made.steps, seed=seed, init=init, device=device, name=name, **made.options
    ):
        if progress.average is not None:
            curve.look(progress)
        if progress.student is not None:
            progress.student.card["trained"] |= {"init": made.init or made.teacher, "frequency": made.frequency}
            progress.student.card["trained"]["command"] = f"workbench zoo build {name}"
            if made.looks:
                progress.student.card["curve"] = curve.points()
        yield progress


class _Curve:
    """Frechet distance of the averaged student in one and two steps, now and then in a run, kept in a file of the run folder."""

    def __init__(self, file: Path, name: str, made: StudentBuild):
        self.file, self.space, self.steps, self.looks = file, name.split("/")[0], made.steps, made.looks
        self.found: dict[str, dict[str, float]] = read_json(file) if file.exists() else {}

    def look(self, progress: Progress) -> None:
        """Measure, unless this part of the run has been looked at."""
        from workbench.zoo.measure import frechet

        part = str(progress.step * self.looks // self.steps)
        if part == "0" or part in self.found:
            return
        found = {str(count): frechet(self.space, partial(progress.samples, steps=count)) for count in (1, 2)}
        self.found[part] = {"step": progress.step, "seconds": round(progress.seconds, 1), **found}
        write_json(self.file, self.found)

    def points(self) -> list[dict[str, float]]:
        """What was found, in the order of training."""
        return [self.found[part] for part in sorted(self.found, key=int)]
