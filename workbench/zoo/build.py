"""The commands that made the bundled models: `workbench zoo build NAME`, the same on CPU and GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from workbench import data
from workbench.data.batches import sampler
from workbench.distill.distill import distill
from workbench.distill.loop import Batch, Optim, Progress, train
from workbench.distill.objectives.flow_matching import FlowMatching
from workbench.errors import unknown
from workbench.samplers.sample import Sampling
from workbench.student import Trained, make_card, save
from workbench.zoo import home, load


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
    """A recipe on a bundled teacher, with the options that differ from the recipe's own."""

    teacher: str
    recipe: str
    steps: int
    options: dict[str, Any] = field(default_factory=dict)


DIGITS_NET = {"image_size": 8, "patch": 2, "width": 64, "depth": 4, "heads": 4}

BUILDS: dict[str, TeacherBuild | StudentBuild] = {
    "digits/teacher": TeacherBuild("digits", DIGITS_NET, batch=64, steps=8000, sampling=Sampling("dpmpp_2m", 25, guidance=1.5)),
    "fashion/teacher": TeacherBuild("fashion", {}, batch=96, steps=6250),
    "digits/reflow": StudentBuild("digits/teacher", "reflow", 2000, {"count": 4096}),
    "digits/consistency": StudentBuild("digits/teacher", "consistency", 1500),
    "digits/dmd2": StudentBuild("digits/teacher", "dmd2", 2400, {"turns": 3, "lr": 1.5e-4, "ema": 0.99}),
    "fashion/reflow": StudentBuild("fashion/teacher", "reflow", 1200, {"count": 4096, "sampling": Sampling("dpmpp_2m", 16)}),
    "fashion/consistency": StudentBuild("fashion/teacher", "consistency", 900),
    "fashion/dmd2": StudentBuild("fashion/teacher", "dmd2", 3300, {"turns": 3, "lr": 1.5e-4, "ema": 0.99}),
}


def build(name: str, run: str | os.PathLike | None = None, into: str | os.PathLike | None = None,
          device: str | None = None, seed: int = 0) -> Iterator[Progress]:  # fmt: skip
    """Train one of the bundled models again, yielding progress; the last report has `.student` with its figures.

    Args:
        run: folder of checkpoints; continues what it finds. Below the user's folder by default.
        into: where the model goes; by default the user's zoo, where `load(name)` finds it first.

    Raises:
        UnknownName: if no such model is bundled. MissingSource: if its data is not on this machine.
    """
    if name not in BUILDS:
        raise unknown("bundled model", name, BUILDS)
    made = BUILDS[name]
    run = Path(run) if run else home() / "runs" / name.replace("/", "-")
    target = Path(into) if into else home() / "zoo" / name
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

    stored = save(model.net, model.card, target, torch.bfloat16)
    return save(stored.net, {**model.card, "figures": measure(stored)}, target, torch.bfloat16)


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
    for progress in distill(
        teacher, made.recipe, run=run, steps=made.steps, seed=seed, device=device, name=name, **made.options
    ):
        if progress.student is not None:
            progress.student.card["trained"]["command"] = f"workbench zoo build {name}"
        yield progress
