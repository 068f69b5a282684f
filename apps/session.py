"""What the Compare tab asks for, checked at the edge; `work.py` answers it."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from workbench import plans, schedules, zoo
from workbench.compare import Column
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.files import home
from workbench.samplers import SAMPLERS
from workbench.samplers.sample import Sampling

MOST_STEPS, MOST_IMAGES, MOST_POINTS, MOST_SEED = 50, 256, 2000, 2**31 - 1
GUIDANCE = (0.0, 10.0)
OWN, ANY, NONE = "the model's own", "any (all in turn)", "none"
MOST_WORK = 50_000  # images times steps, over all columns, that one click may start
MOST_NUMBERS = 4_000_000  # in the samples of one column, which a page keeps: 16 MB
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
    return _spaces(home(), int(time.monotonic() // FRESH))


@functools.lru_cache(maxsize=2)
def _spaces(_: Path, __: int) -> dict[str, list[zoo.Entry]]:
    found: dict[str, list[zoo.Entry]] = {}
    for entry in zoo.catalog():
        if _fits(entry):
            found.setdefault(entry.space, []).append(entry)
    rank = {"fashion": 0, "digits": 1, **{name: 10 + place for place, name in enumerate(zoo.ANALYTIC)}}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], 5), item[0])))


def refresh() -> None:
    """Read the list of models again at the next question: one has just been trained."""
    _spaces.cache_clear()


def shape_of(entry: zoo.Entry) -> tuple[int, ...]:
    """Shape of one sample, read from the card."""
    if entry.source == "analytic":
        return tuple(load(entry.name).shape)
    return tuple((entry.card or {}).get("shape", ()))


def picture_shape_of(entry: zoo.Entry) -> tuple[int, ...]:
    """Shape of one sample as it is shown, read from the card: that of decoded latents; () where nothing decodes them."""
    card = entry.card or {}
    return tuple(card.get("picture_shape") or ()) if card.get("latent") else shape_of(entry)


def _fits(entry: zoo.Entry) -> bool:
    """Whether the page can draw a model: points in the plane, or images in grey or colour, with settings that can be read."""
    try:
        shape = picture_shape_of(entry)
        sampling_of(entry)
    except (TypeError, WorkbenchError):
        return False
    return shape == (2,) or (len(shape) == 3 and shape[0] in (1, 3))


def entry_of(space: str, name: str) -> zoo.Entry:
    """The catalog's entry of a model, which must belong to the space."""
    known = spaces()
    if space not in known:
        raise unknown("space", space, known)
    for entry in known[space]:
        if entry.name == name:
            return entry
    raise unknown(f"model of {space}", name, [entry.name for entry in known[space]])


def load(name: str) -> Any:
    """A model, loaded once and shared by every page; it is only read."""
    return _load(home(), name)


@functools.lru_cache(maxsize=32)
def _load(_: Path, name: str) -> Any:
    return zoo.load(name)


def sampling_of(entry: zoo.Entry) -> Sampling:
    """The model's own settings, from its card, without loading it."""
    return Sampling(**(entry.card or {})["sampling"]) if entry.card else Sampling()


def own_setting(entry: zoo.Entry) -> Setting:
    """What the controls show for a model left alone: its own settings, as far as the controls go."""
    own = sampling_of(entry)
    guidance = min(max(own.guidance, GUIDANCE[0]), GUIDANCE[1])
    return Setting(entry.name, own.sampler, OWN, min(own.steps, MOST_STEPS), guidance)


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


def saved(space: str, model: str) -> list[str]:
    """The user's own plans on this model's path, as schedules: `saved:NAME`."""
    try:
        entry = entry_of(space, model)
        found = (
            plans.names((entry.card or {}).get("path") or load(entry.name).path) if any(plans.folder().glob("*.json")) else []
        )
    except WorkbenchError:  # a path of its own, which no stored plan is on
        return []
    return [plans.SAVED + name for name in found]


def schedules_of(space: str, model: str) -> list[str]:
    """What a column's schedule may be."""
    return [OWN, *schedules.NAMES, *saved(space, model)]


def steps_of(schedule: Any, steps: Any) -> Any:
    """The number of steps that a schedule asks for, if it is a saved one; else the number given."""
    try:
        return plans.load(schedule.removeprefix(plans.SAVED).strip()).steps if plans.is_saved(schedule) else steps
    except WorkbenchError:
        return steps


def is_image(space: str) -> bool:
    """Whether the samples of a space are images (else points)."""
    return len(picture_shape_of(spaces()[space][0])) == 3


def most_count(space: str) -> int:
    """How many samples a column of this space may hold, as latents and as pictures."""
    most = MOST_IMAGES if is_image(space) else MOST_POINTS
    size = max(math.prod(shape) for entry in spaces()[space] for shape in (shape_of(entry), picture_shape_of(entry)))
    return max(1, min(most, MOST_NUMBERS // size))


def check(space: Any, columns: Sequence[Sequence[Any]], count: Any, seed: Any, label: Any) -> Setup:
    """Check everything that came from a page.

    Raises:
        WorkbenchError: for the first thing that is unknown or impossible, in one sentence.
    """
    known = spaces()
    if _not_among(space, known):
        raise unknown("space", _short(space), known)
    if not 1 <= len(columns) <= 4:
        raise WorkbenchError(f"there are {len(columns)} columns: compare one to four.")
    count = check_count("the number of samples", count, 1, most_count(space))
    seed = check_count("the seed", seed, 0, MOST_SEED)
    if _not_among(label, names := [ANY, NONE, *class_names(space)]):
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
    if _not_among(sampler, SAMPLERS):
        raise unknown("sampler", _short(sampler), SAMPLERS)
    steps = check_count("steps", steps, 1, MOST_STEPS)
    if plans.is_saved(schedule):
        name = schedule.removeprefix(plans.SAVED).strip()
        plans.check_steps(name, plans.load(name), steps)
    elif _not_among(schedule, [OWN, *schedules.NAMES]):
        raise unknown("schedule", _short(schedule), [OWN, *schedules.NAMES])
    number = guidance if isinstance(guidance, int | float) and not isinstance(guidance, bool) else math.nan
    if not GUIDANCE[0] <= number <= GUIDANCE[1]:
        raise WorkbenchError(
            f"guidance is {_short(repr(guidance))}, but must be a number from {GUIDANCE[0]:g} to {GUIDANCE[1]:g}; 1 is none."
        )
    return Setting(model, sampler, schedule, steps, float(number))


def _not_among(name: Any, known: Container[str]) -> bool:
    return not isinstance(name, str) or name not in known


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def column_of(setting: Setting, label: str | None = None) -> Column:
    """A page's column as `compare` takes it."""
    schedule = None if setting.schedule == OWN else setting.schedule
    return Column(setting.model, label, setting.sampler, schedule, setting.steps, setting.guidance)


def describe(space: Any, setting: Sequence[Any]) -> str:
    """Whether a column runs the model's own plan, and if not, what that is; from the card alone."""
    checked = _setting(space, setting)
    entry = entry_of(space, checked.model)
    own = sampling_of(entry)
    if checked == (entry.name, own.sampler, OWN, own.steps, own.guidance):
        return "Its own plan"
    whole = own_setting(entry)[3:] == (own.steps, own.guidance)  # else the controls cannot say it
    if whole and any(checked == known for _, known in _measured(entry)):
        return f"Its own plan, {checked.steps} step{'s' * (checked.steps != 1)}"
    if plans.is_saved(checked.schedule) and plans.is_learned(plans.load(checked.schedule.removeprefix(plans.SAVED))):
        return f"Runs the {checked.schedule} plan as it was learned, whatever the sampler"
    scale = f", guidance {own.guidance:g}" if own.guidance != 1 else ""
    return f"Changed; its own: {own.sampler}, {own.steps} step{'s' * (own.steps != 1)}{scale}"
