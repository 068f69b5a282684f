"""What the Compare tab asks for, checked at the edge, and the run that answers it."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from workbench import compare, schedules, zoo
from workbench.compare import Column
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.samplers import SAMPLERS, Trajectory, record, run
from workbench.samplers.run import Frame
from workbench.samplers.sample import Sampling, labels, noise_for, prepare
from workbench.views.points import EXTENT, Density

MOST_STEPS, MOST_IMAGES, MOST_POINTS, MOST_SEED = 200, 256, 2000, 2**31 - 1
GUIDANCE = (0.0, 20.0)
OWN, ANY, NONE = "the model's own", "any (all in turn)", "none"
MOST_WORK = 50_000  # images times steps, over all columns, that one click may start
PATHS = 80
FRESH = 5.0  # seconds for which the list of models is not read again


class Setting(NamedTuple):
    """One column as the page holds it."""

    model: str
    sampler: str
    schedule: str
    steps: int
    guidance: float


@dataclass(frozen=True)
class Setup:
    """A whole comparison as asked for: small and hashable, so that a page can keep it and any sample can be run again."""

    space: str
    columns: tuple[Setting, ...]
    count: int
    seed: int
    label: str


def spaces() -> dict[str, list[zoo.Entry]]:
    """Space -> entries that can be drawn (points in the plane or images), images first, teachers first."""
    return _spaces(int(time.monotonic() // FRESH))


@functools.lru_cache(maxsize=2)
def _spaces(_: int) -> dict[str, list[zoo.Entry]]:
    found: dict[str, list[zoo.Entry]] = {}
    for entry in zoo.catalog():
        if len(shape_of(entry)) == 3 or shape_of(entry) == (2,):
            found.setdefault(entry.space, []).append(entry)
    rank = {"fashion": 0, "digits": 1, **{name: 10 + place for place, name in enumerate(zoo.ANALYTIC)}}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], 5), item[0])))


def shape_of(entry: zoo.Entry) -> tuple[int, ...]:
    """Shape of one sample, read from the card."""
    if entry.source == "analytic":
        return tuple(load(entry.name).shape)
    return tuple((entry.card or {}).get("shape", ()))


def entry_of(space: str, name: str) -> zoo.Entry:
    """The catalog's entry of a model, which must belong to the space."""
    known = spaces()
    if space not in known:
        raise unknown("space", space, known)
    for entry in known[space]:
        if entry.name == name:
            return entry
    raise unknown(f"model of {space}", name, [entry.name for entry in known[space]])


@functools.lru_cache(maxsize=32)
def load(name: str) -> Any:
    """A model, loaded once and shared by every page; it is only read."""
    return zoo.load(name)


def sampling_of(entry: zoo.Entry) -> Sampling:
    """The model's own settings, from its card, without loading it."""
    return Sampling(**(entry.card or {})["sampling"]) if entry.card else Sampling()


def own_setting(entry: zoo.Entry) -> Setting:
    """What the controls show for a model left alone."""
    own = sampling_of(entry)
    return Setting(entry.name, own.sampler, OWN, own.steps, own.guidance)


def defaults(space: str, count: int = 3) -> list[Setting]:
    """Teacher, best one-step student, best student of few steps; then other students, and with too few other plans of the teacher."""
    entries = spaces()[space]
    teacher = next((entry for entry in entries if entry.role == "teacher"), entries[0])
    ranked = sorted(
        (pair for entry in entries if entry.role == "student" for pair in _measured(entry)), key=lambda pair: pair[0]
    )
    settings = [setting for _, setting in ranked]
    one = [setting for setting in settings if setting.steps == 1]
    few = [setting for setting in settings if 1 < setting.steps <= 8]
    few.sort(key=lambda setting: bool(one) and setting.model == one[0].model)  # stable: another model first, then by merit
    rest = [setting for setting in settings if setting.model not in {pick.model for pick in (*one[:1], *few[:1])}]
    others = list({setting.model: setting for setting in reversed(rest)}.values())[::-1]
    again = [own_setting(teacher)._replace(steps=steps) for steps in (4, 1, 8)]
    return [own_setting(teacher), *one[:1], *few[:1], *others, *again][:count]


def _measured(entry: zoo.Entry) -> list[tuple[float, Setting]]:
    """A student's own plan, and the other step counts that its card has figures for, each with its distance to the data."""
    own, told = own_setting(entry), (entry.card or {}).get("figures")
    figures = {key: value for key, value in told.items() if isinstance(value, dict)} if isinstance(told, dict) else {}
    steps = {own.steps, *(int(key) for key in figures if str(key).isdigit() and 1 <= int(key) <= MOST_STEPS)}
    found = []
    for number in sorted(steps):
        at = figures.get(str(number), {})
        found.append((float(at.get("frechet", at.get("sw2", math.inf))), own._replace(steps=number)))
    return found


def class_names(space: str) -> list[str]:
    """What the class menu offers besides all and none."""
    entry = spaces()[space][0]
    named = list((entry.card or {}).get("class_names", ()))
    count = int((entry.card or {}).get("classes", 0)) if entry.card else load(entry.name).classes
    return named if len(named) == count else [f"class {k}" for k in range(count)]


def is_image(space: str) -> bool:
    """Whether the samples of a space are images (else points)."""
    return len(shape_of(spaces()[space][0])) == 3


def check(space: Any, columns: Sequence[Sequence[Any]], count: Any, seed: Any, label: Any) -> Setup:
    """Check everything that came from a page.

    Raises:
        WorkbenchError: for the first thing that is unknown or impossible, in one sentence.
    """
    known = spaces()
    if space not in known:
        raise unknown("space", _short(space), known)
    if not 1 <= len(columns) <= 4:
        raise WorkbenchError(f"there are {len(columns)} columns: compare one to four.")
    most = MOST_IMAGES if is_image(space) else MOST_POINTS
    count = check_count("the number of samples", count, 1, most)
    seed = check_count("the seed", seed, 0, MOST_SEED)
    if label not in (names := [ANY, NONE, *class_names(space)]):
        raise unknown("class", _short(label), names)
    settings = tuple(_setting(space, column) for column in columns)
    work = sum(setting.steps for setting in settings) * count
    if is_image(space) and work > MOST_WORK:
        raise WorkbenchError(
            f"{count} images with {work // count} steps in all is too much for one click: ask for fewer of either."
        )
    return Setup(space, settings, count, seed, label)


def _setting(space: str, column: Sequence[Any]) -> Setting:
    model, sampler, schedule, steps, guidance = column
    entry_of(space, _short(model))
    if sampler not in SAMPLERS:
        raise unknown("sampler", _short(sampler), SAMPLERS)
    if schedule != OWN and schedule not in schedules.NAMES:
        raise unknown("schedule", _short(schedule), [OWN, *schedules.NAMES])
    steps = check_count("steps", steps, 1, MOST_STEPS)
    number = guidance if isinstance(guidance, int | float) and not isinstance(guidance, bool) else math.nan
    if not GUIDANCE[0] <= number <= GUIDANCE[1]:
        raise WorkbenchError(
            f"guidance is {_short(guidance)}, but must be a number from {GUIDANCE[0]:g} to {GUIDANCE[1]:g}; 1 is none."
        )
    return Setting(model, sampler, schedule, steps, float(number))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def column_of(setting: Setting, label: str | None = None) -> Column:
    """A page's column as `compare` takes it."""
    schedule = None if setting.schedule == OWN else setting.schedule
    return Column(setting.model, label, setting.sampler, schedule, setting.steps, setting.guidance)


@functools.lru_cache(maxsize=16)
def columns_of(setup: Setup) -> tuple[Column, ...]:
    """The columns with their models loaded and labels made unique; every plan is worked out once, so that a bad one is told here."""
    twice = [setting.model for setting in setup.columns]
    chosen = []
    for setting in setup.columns:
        name = f"{setting.model} · {setting.sampler} {setting.steps}" if twice.count(setting.model) > 1 else None
        chosen.append(replace(column_of(setting, name or setting.model), model=load(setting.model)))
    columns = compare.columns_of(chosen)
    for column in columns:
        column.plan()
    return columns


def describe(space: Any, setting: Sequence[Any]) -> str:
    """In words what a column will run, and whether that is the model's own plan; from the card alone."""
    checked = _setting(space, setting)
    entry = entry_of(space, checked.model)
    own = own_setting(entry)
    path = (entry.card or {}).get("path", "linear")
    schedule = None if checked.schedule == OWN else checked.schedule
    plan = sampling_of(entry).plan(path, checked.steps, checked.sampler, schedule)
    scale = f", guidance {checked.guidance:g}" if checked.guidance != 1 else ""
    known = any(checked == setting for _, setting in _measured(entry))
    begin = "Its own plan" if checked == own else "Its own plan for this step count" if known else "Changed from its own plan"
    return f"{begin}: {plan}{scale}."


def condition(setup: Setup) -> Any:
    """The label, the mixed labels in turn, or None."""
    names = class_names(setup.space)
    if setup.label in names:
        return names.index(setup.label)
    counts = [int(getattr(column.model, "classes", 0) or 0) for column in columns_of(setup)]
    if setup.label == NONE or not min(counts):
        return None
    return torch.arange(setup.count) % min(counts)


def frames(setup: Setup) -> Iterator[tuple[int, Frame]]:
    """Every step of every column, one column after the other."""
    columns = columns_of(setup)
    yield from compare.stream(columns, setup.count, condition(setup), setup.seed)


def reference(setup: Setup) -> Iterator[tuple[int, Tensor | None]]:
    """The teacher's fine solution from the same noise, step by step so that it can be stopped: (step, solution or None)."""
    columns = columns_of(setup)
    teacher = compare.teacher_of(columns)
    if teacher is None:
        return
    key = (
        getattr(teacher, "name", ""),
        columns[0].model.shape,
        str(noise_for(columns[0].model, 1).dtype),
        setup.count,
        setup.seed,
        setup.label,
    )
    if key not in _fine:
        sampler = "heun" if hasattr(teacher, "log_density") else "dpmpp_2m"
        plan = Column(teacher, "fine", sampler, "uniform", compare.FINE_STEPS).plan()
        cond = labels(teacher, condition(setup), setup.count) if condition(setup) is not None else None
        noise = noise_for(columns[0].model, setup.count, setup.seed)
        for frame in run(plan, prepare(teacher), noise, cond, setup.seed):
            yield frame.i, None
        while len(_fine) >= 4:
            _fine.pop(next(iter(_fine)), None)
        _fine[key] = frame.x
    yield compare.FINE_STEPS, _fine[key]


_fine: dict[tuple, Tensor] = {}


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


def final_points(target: Tensor) -> np.ndarray:
    """Points as float32, small enough to be kept by a page."""
    return target.detach().cpu().float().numpy()
