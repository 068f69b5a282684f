"""The runs that answer a `Setup`: columns, frames, the teacher's fine solution, one sample again, the exact density."""

from __future__ import annotations

import functools
import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.session import NONE, Setup, class_names, column_of, is_image, load, spaces
from workbench import compare
from workbench.compare import Column
from workbench.samplers import Trajectory, record, run
from workbench.samplers.field import Field, velocity_field
from workbench.samplers.plan import Plan
from workbench.samplers.run import Frame
from workbench.samplers.sample import labels, noise_for, prepare
from workbench.views.points import EXTENT, Density

PATHS = 80
MOST_RECORDED, MOST_KEPT = 64, 8_000_000  # samples, and numbers, of recorded trajectories
pace_of: dict[str, tuple[int, float]] = {}  # model -> samples of its last run, seconds an evaluation


@functools.lru_cache(maxsize=16)
def columns_of(setup: Setup) -> tuple[Column, ...]:
    """The columns with their models loaded and labels made unique; every plan is worked out once, so that a bad one is told here."""
    twice = [setting.model for setting in setup.columns]
    chosen = []
    for setting in setup.columns:
        name = f"{setting.model} · {setting.sampler} {setting.steps}" if twice.count(setting.model) > 1 else None
        chosen.append(replace(column_of(setting, name or setting.model), model=load(setting.model), source=setting.model))
    columns = compare.columns_of(chosen)
    for column in columns:
        column.plan()
    return columns


def condition(setup: Setup) -> Any:
    """The label, the mixed labels in turn, or None."""
    names = class_names(setup.space)
    if setup.label in names:
        return names.index(setup.label)
    counts = [int(getattr(column.model, "classes", 0) or 0) for column in columns_of(setup)]
    if setup.label == NONE or not min(counts):
        return None
    return torch.arange(setup.count) % min(counts)


def frames(setup: Setup, k: int) -> Iterator[Frame]:
    """Every step of column k."""
    columns = columns_of(setup)
    cond, column = condition(setup), columns[k]
    given = labels(column.model, cond, setup.count) if cond is not None else None
    noise = noise_for(columns[0].model, setup.count, setup.seed)
    for frame in run(column.plan(), prepare(column.model, column.guidance), noise, given, setup.seed):
        yield frame
    pace_of[setup.columns[k].model] = (setup.count, frame.seconds / max(1, frame.nfe))


def seconds_for(setup: Setup, k: int) -> float:
    """How long column k will take, from the model's last run; a model that has not run yet is asked for one evaluation."""
    column, model = columns_of(setup)[k], setup.columns[k].model
    if model not in pace_of:
        stepping = frames(replace(setup, count=min(setup.count, 16)), k)
        pace_of[model] = (min(setup.count, 16), next(stepping).seconds)
        stepping.close()
    count, seconds = pace_of[model]
    guided = column.scale() != 1 and bool(getattr(column.model, "classes", 0)) and setup.label != NONE
    return seconds * max(0.3, setup.count / count) * len(column.plan().stages) * (1 + guided)


_fine: OrderedDict[tuple, Tensor] = OrderedDict()


def reference(setup: Setup) -> Iterator[tuple[int, Tensor | None]]:
    """The teacher's fine solution from the same noise, step by step so that it can be stopped: (step, solution or None)."""
    columns = columns_of(setup)
    teacher = compare.teacher_of(columns)
    if teacher is None:
        return
    key = _fine_key(setup, teacher)
    if key not in _fine:
        plan = _fine_plan(teacher)
        cond = labels(teacher, condition(setup), setup.count) if condition(setup) is not None else None
        noise = noise_for(columns[0].model, setup.count, setup.seed)
        for frame in run(plan, prepare(teacher), noise, cond, setup.seed):
            yield frame.i, None
        _fine[key] = frame.x
        while len(_fine) > 4:
            _fine.popitem(last=False)
    yield compare.FINE_STEPS, _fine[key]


def solution(setup: Setup) -> Tensor | None:
    """The fine solution if `reference` has found it already."""
    teacher = compare.teacher_of(columns_of(setup))
    return None if teacher is None else _fine.get(_fine_key(setup, teacher))


def reference_seconds(setup: Setup) -> float:
    """How long `reference` will take: 0 if it is known, endless if nothing is known of the teacher's pace."""
    teacher = compare.teacher_of(columns_of(setup))
    if teacher is None or solution(setup) is not None:
        return 0.0
    count, seconds = pace_of.get(getattr(teacher, "name", ""), (1, math.inf))
    return seconds * max(0.3, setup.count / count) * len(_fine_plan(teacher).stages) * 2


def _fine_plan(teacher: Any) -> Plan:
    sampler = "heun" if hasattr(teacher, "log_density") else "dpmpp_2m"
    return Column(teacher, "fine", sampler, "uniform", compare.FINE_STEPS).plan()


def _fine_key(setup: Setup, teacher: Any) -> tuple:
    first = columns_of(setup)[0].model
    return (
        getattr(teacher, "name", ""),
        tuple(first.shape),
        str(noise_for(first, 1).dtype),
        setup.count,
        setup.seed,
        setup.label,
    )


@functools.lru_cache(maxsize=512)
def field(setup: Setup, k: int, t: float) -> Field | None:
    """The velocity that column k follows at time t, for points; None for images and where there is no noise left."""
    column = columns_of(setup)[k]
    if is_image(setup.space) or column.model.path.sigma(t) <= 0:
        return None
    names = class_names(setup.space)
    cond = names.index(setup.label) if setup.label in names else None
    return velocity_field(prepare(column.model, column.guidance), t, cond, EXTENT, 11)


@functools.lru_cache(maxsize=8)
def one_sample(setup: Setup, j: int) -> tuple[dict[str, Trajectory], int]:
    """Trajectories of sample j in every column, run again from its own noise (points: with the first others beside it).

    A seeded sample does not depend on its batch, so this is what the page has shown. Returned with the place of j in the batch.
    """
    columns, cond = columns_of(setup), condition(setup)
    index = [j] if is_image(setup.space) else sorted({j, *range(min(setup.count, PATHS))})
    noise = torch.cat([noise_for(columns[0].model, 1, setup.seed, first) for first in index])
    given = cond[index] if isinstance(cond, Tensor) else cond
    found = {}
    for column in columns:
        known = labels(column.model, given, len(index)) if given is not None else None
        found[column.label] = record(
            run(column.plan(), prepare(column.model, column.guidance), noise, known, setup.seed, index)
        )
    return found, index.index(j)


@functools.lru_cache(maxsize=16)
def density(space: str, label: str, size: int = 120) -> Density | None:
    """The exact density of a space, of one class if one is chosen, or None where it is not known."""
    teacher = load(spaces()[space][0].name)
    if not hasattr(teacher, "log_density"):
        return None
    names = class_names(space)
    axis = torch.linspace(-EXTENT, EXTENT, size, dtype=torch.float64)
    place = torch.cartesian_prod(axis, axis).flip(1)
    z = teacher.log_density(place, 0.0, names.index(label) if label in names else None).exp()
    return Density(axis.numpy(), axis.numpy(), z.reshape(size, size).numpy())


def forget() -> None:
    """Work plans out again: a saved one has changed."""
    for known in (columns_of, field, one_sample, _kept):
        known.cache_clear()


class Pace:
    """Says which frames to draw: all of a short plan; of a long one those that a person can tell apart."""

    def __init__(self, seconds: float = 0.04, short: int = 50):
        self.seconds, self.short, self.last = seconds, short, -math.inf

    def due(self, i: int, steps: int) -> bool:
        """Whether to draw step i of `steps`."""
        now = time.monotonic()
        if steps > self.short and 0 < i < steps and now - self.last < self.seconds:
            return False
        self.last = now
        return True


def one_end(setup: Setup, k: int, j: int) -> Tensor:
    """Where sample j of column k ends, (1, ...), run alone from its own noise."""
    columns = columns_of(setup)
    column, cond = columns[k], condition(setup)
    given = cond[j : j + 1] if isinstance(cond, Tensor) else cond
    known = labels(column.model, given, 1) if given is not None else None
    noise = noise_for(columns[0].model, 1, setup.seed, j)
    for frame in run(column.plan(), prepare(column.model, column.guidance), noise, known, setup.seed, [j]):
        last = frame
    return last.x


@functools.lru_cache(maxsize=4)
def _kept(setup: Setup, n: int) -> dict[str, Trajectory]:
    """Where `recorded` puts what it has found; empty until then."""
    return {}


def recorded(setup: Setup) -> Iterator[str | dict[str, Trajectory]]:
    """Trajectories of the first samples of every column, run again: sentences on the way, at last label -> trajectory."""
    columns = columns_of(setup)
    points = sum(column.plan().steps + 1 for column in columns)
    n = max(1, min(setup.count, MOST_RECORDED, MOST_KEPT // (2 * points * math.prod(columns[0].model.shape))))
    found = _kept(setup, n)
    for k, column in enumerate(columns):
        if column.label in found:
            continue
        kept, total = [], len(column.plan().stages)
        for frame in frames(replace(setup, count=n), k):
            kept.append(frame)
            yield f"Running {column.label} again for its trajectories: evaluation {frame.i} of {total}."
        found[column.label] = record(kept)
    yield {column.label: found[column.label] for column in columns}


def write(setup: Setup, place: Path) -> None:
    """Write a comparison as a file, by its ending: a report (.html), its pictures (.png), its steps (.gif), its table (.csv)."""
    from workbench.report.files import save

    save(compare.compare(columns_of(setup), setup.count, condition(setup), setup.seed), place)
