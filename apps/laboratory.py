"""What the Schedules tab asks for, checked at the edge, and the runs that answer it: plans, their errors, a fit in the making."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from apps import session, work
from apps.session import ANY, NONE, Setup
from workbench import metrics, plans, schedules, views
from workbench.compare import FINE_STEPS, Column
from workbench.denoiser import decode
from workbench.errors import WorkbenchError, check_count
from workbench.samplers import SAMPLERS, run
from workbench.samplers.fine import is_exact
from workbench.samplers.plan import Plan
from workbench.samplers.sample import labels, noise_for, prepare
from workbench.views.against import LIMIT, clipped
from workbench.views.grid import data_uri

HAND, FITTED = "by hand", "fitted"
MOST_STEPS, POINTS, IMAGES = 20, 500, 32
MOST_KEPT = 96  # results in memory, over all pages
LIMITS = {"15 seconds": 15.0, "1 minute": 60.0, "3 minutes": 180.0}
SMALL = {"n": 48, "fine": 32, "every": 1}  # of a fit to a network, so that it begins soon; exact teachers take `fitting`'s own


@dataclass
class Page:
    """What the server keeps of one page: numbers of its newest question and its newest fit, and the plan that it has fitted."""

    asked: int = 0
    fit: int = 0
    fitted: Plan | None = None
    of: tuple = ()

    def __deepcopy__(self, memo: dict) -> Page:
        return Page()  # every page starts with its own


@dataclass(frozen=True)
class Asked:
    """One question of the tab."""

    setup: Setup
    sampler: str
    steps: int
    names: tuple[str, ...]
    hand: tuple[float, ...]
    chosen: str

    @property
    def key(self) -> tuple:
        """What a fitted plan belongs to."""
        return self.setup.space, self.setup.columns[0].model

    @property
    def teacher(self) -> Any:
        """The model, loaded."""
        return work.columns_of(self.setup)[0].model


@dataclass(frozen=True)
class Result:
    """Where a plan ends: samples, RMS distance to the fine solution, evaluations."""

    x: Tensor = field(repr=False)
    error: float
    nfe: int


def teachers(space: str) -> list[str]:
    """Teachers of a space, or whatever it has where it has none."""
    entries = session.spaces()[space]
    return [entry.name for entry in entries if entry.role == "teacher"] or [entry.name for entry in entries]


def offered(space: str, teacher: str) -> list[str]:
    """Schedules that can be overlaid: by hand, the named ones, the saved ones on this teacher's path."""
    return [HAND, *schedules.NAMES, *session.saved(space, teacher)]


def check(
    space: Any, teacher: Any, sampler: Any, steps: Any, seed: Any, overlaid: Any, hand: Any, chosen: Any, page: Page
) -> Asked:
    """Check everything that came from a page.

    Raises:
        WorkbenchError: for the first thing that is unknown or impossible, in one sentence.
    """
    if not isinstance(space, str) or space not in session.spaces():
        raise session.unknown("space", str(space)[:60], session.spaces())
    if not isinstance(teacher, str) or teacher not in teachers(space):
        raise session.unknown(f"teacher of {space}", str(teacher)[:60], teachers(space))
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise session.unknown("sampler", str(sampler)[:60], SAMPLERS)
    steps = check_count("steps", steps, 1, MOST_STEPS)
    own = session.own_setting(session.entry_of(space, teacher))
    image = session.is_image(space)
    count = min(IMAGES if image else POINTS, session.most_count(space))
    setup = session.check(space, [own], count, seed, ANY if image and session.class_names(space) else NONE)
    known = offered(space, teacher)
    given = overlaid if isinstance(overlaid, (list, tuple)) else [overlaid]
    for name in given:
        if not isinstance(name, str) or name not in known:
            raise session.unknown("schedule", str(name)[:60], known)
    if not given:
        raise WorkbenchError("no schedule is ticked: tick at least one to draw.")
    names = [name for name in known if name in given]
    if page.fitted is not None and page.of == (space, teacher):
        names.append(FITTED)
    times = parse(hand) if HAND in names else ()
    if times and len(times) != steps + 1:
        raise WorkbenchError(f"the {len(times)} times by hand are {len(times) - 1} steps, not {steps}: give {steps + 1} times.")
    return Asked(setup, sampler, steps, tuple(names), times, chosen if chosen in names else names[0])


def parse(text: Any) -> tuple[float, ...]:
    """Times from a list with commas or spaces between.

    Raises:
        WorkbenchError: if they are not 2 to 21 numbers that fall within [0, 1].

    >>> parse("1, .5, 0")
    (1.0, 0.5, 0.0)
    """
    words = str("" if text is None else text)[:2000].replace(",", " ").replace(";", " ").strip("[]() \n").split()
    times = []
    for word in words:
        with contextlib.suppress(ValueError):
            times.append(float(word))
            if math.isfinite(times[-1]) and 0 <= times[-1] <= 1:
                continue
        raise WorkbenchError(
            f"the times hold {word[:20]!r}, but must be numbers from 1 (noise) to 0 (data), with commas between."
        )
    if not 2 <= len(times) <= MOST_STEPS + 1:
        raise WorkbenchError(f"there are {len(times)} times by hand, but 2 to {MOST_STEPS + 1} make 1 to {MOST_STEPS} steps.")
    for before, after in pairwise(times):
        if after >= before:
            raise WorkbenchError(f"the times must fall, but {after:g} follows {before:g}: begin near 1 and end near 0.")
    return tuple(times)


def spell(times: Sequence[float]) -> str:
    """Times as they are typed.

    >>> spell((1.0, 0.25, 0.0))
    '1, 0.25, 0'
    """
    return ", ".join(f"{t:.4f}".rstrip("0").rstrip(".") for t in times)


def stretched(times: Sequence[float], steps: int) -> tuple[float, ...]:
    """The same curve with another number of steps."""
    at = torch.linspace(0, len(times) - 1, steps + 1, dtype=torch.float64)
    left = at.floor().long().clamp(max=len(times) - 2)
    values = torch.tensor(times, dtype=torch.float64)
    return tuple(round(t, 4) for t in torch.lerp(values[left], values[left + 1], at - left).tolist())


def plan_of(asked: Asked, name: str, page: Page) -> Plan:
    """The plan behind a name of the overlay.

    Raises:
        WorkbenchError: if this sampler cannot run so.
    """
    if name == FITTED:
        return page.fitted
    schedule = list(asked.hand) if name == HAND else name
    return Column(asked.teacher, name, asked.sampler, schedule, asked.steps).plan()


def noisy(plan: Plan) -> bool:
    """Whether a plan adds noise on its way."""
    return any(row.noise for stage in plan.stages for row in (stage.x, stage.base) if row)


_results: OrderedDict[tuple, Result] = OrderedDict()


def solving(asked: Asked, plan: Plan, reference: Tensor) -> Iterator[Result | None]:
    """Run a plan from the question's noise: None after every evaluation, the `Result` last; known ones come at once."""
    key = (asked.setup, plan.path.name, plan.stages)
    if key not in _results:
        teacher, setup = asked.teacher, asked.setup
        cond = work.condition(setup)
        given = labels(teacher, cond, setup.count) if cond is not None else None
        for frame in run(plan, prepare(teacher), noise_for(teacher, setup.count, setup.seed), given, setup.seed):
            last = frame
            yield None
        _results[key] = Result(last.x, float(metrics.trajectory_error(last.x, reference)), last.nfe)
        while len(_results) > MOST_KEPT:
            _results.popitem(last=False)
    yield _results[key]


def reference(asked: Asked) -> Iterator[tuple[int, Tensor | None]]:
    """The teacher's fine solution, step by step."""
    return work.reference(asked.setup)


def palette(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a dash for every name; a colour's second line is dashed."""
    rank = [HAND, FITTED, *schedules.NAMES]
    ordered = sorted(names, key=lambda name: rank.index(name) if name in rank else len(rank))
    colors = views.style.PALETTE
    fixed = {HAND: 1, FITTED: 2}
    others = [k for k in range(len(colors)) if k not in fixed.values()]
    made, place = {}, 0
    for name in ordered:
        if name in fixed:
            made[name] = (colors[fixed[name]], "")
        else:
            at = rank.index(name) - 2 if name in rank else len(schedules.NAMES) + place
            place += name not in rank
            made[name] = (colors[others[at % len(others)]], ("", "7 4", "2 3")[min(at // len(others), 2)])
    return made


def board(asked: Asked, made: dict[str, Plan], more: Plan | None = None) -> dict[str, Any]:
    """What the axis in the browser is sent; `more` is a fit as it is now."""
    shown = {**made, **({FITTED: more} if more is not None else {})}
    look, path = palette(list(shown)), asked.teacher.path
    grid = [0.5 - 0.5 * math.cos(math.pi * k / 160) for k in range(161)]
    lines = [
        {"name": name, "t": [round(t, 6) for t in plan.times], "color": look[name][0], "dash": look[name][1],
         "hand": name == HAND, "chosen": name == asked.chosen}
        for name, plan in shown.items()
    ]  # fmt: skip
    snr = [round(clipped(float(path.log_snr(t))), 4) for t in grid]
    return {"lines": lines, "grid": {"t": grid, "snr": snr}, "limit": LIMIT}


def picture(asked: Asked, x: Tensor, color: str, size: int = 400) -> str:
    """Samples as a picture in a data address: points on the exact density, images as a grid."""
    if session.is_image(asked.setup.space):
        return data_uri(views.image_grid(decode(asked.teacher, x), columns=8, size=size))
    return data_uri(views.points_image(None, x, work.density(asked.setup.space, NONE), color, size=size))


# ---- a fit --------------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Somebody has pressed Stop."""


class Watched:
    """A teacher that counts its evaluations and ends the run that asks it once it is told to: a fit stops within one evaluation."""

    def __init__(self, model: Any):
        self.model, self.calls, self.stop = model, 0, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, x: Tensor, t: Any, cond: Any = None) -> Tensor:
        if self.stop:
            raise Stopped
        self.calls += 1
        return self.model(x, t, cond)


def fitting(asked: Asked, start: Plan, learn: Sequence[str], seconds: float, outdated: Callable[[], bool]) -> Iterator[Any]:
    """Fit in a thread of its own: reports as they come, and now and then the number of evaluations so far, so that a page stays alive.

    The noise is that of the next seed: what the tab measures on has not been trained on.
    """
    from workbench.fitting import fitting as reports

    teacher, sent = Watched(asked.teacher), queue.Queue()
    more = {} if is_exact(asked.teacher) else SMALL
    cond = work.condition(asked.setup)
    seed = (asked.setup.seed + 1) % (session.MOST_SEED + 1)

    def learning() -> None:
        try:
            for report in reports(teacher, None, learn=list(learn), cond=cond, seed=seed, start=start, seconds=seconds, **more):
                sent.put(report)
                if teacher.stop:
                    break
            sent.put(None)
        except Stopped:
            sent.put(None)
        except Exception as error:
            sent.put(error)

    worker, began = threading.Thread(target=learning, daemon=True), None
    worker.start()
    try:
        while True:
            try:
                report = sent.get(timeout=0.25)
            except queue.Empty:
                report = teacher.calls
            teacher.stop = teacher.stop or outdated() or (began is not None and time.monotonic() > began + seconds)
            if report is None:
                return
            if isinstance(report, Exception):
                raise report
            began = began or (None if isinstance(report, int) else time.monotonic())
            yield report
    finally:
        teacher.stop = True


def describe_fine() -> str:
    """What errors are measured against."""
    return f"the teacher's {FINE_STEPS}-step solution"


def keep(asked: Asked, name: str, page: Page, chosen: str, replace: bool) -> str:
    """Save the chosen schedule or the fitted plan; returns the sentence that says so."""
    if not name:
        raise WorkbenchError("the plan needs a name: type one beside Save.")
    plan = plan_of(asked, chosen, page)
    plans.save(plan, name, replace)
    work.forget()
    kind = f"the fitted plan {plan.sampler}" if plans.is_learned(plan) else f"the times of {chosen}"
    return f"Saved {kind} as {name}: Compare offers it as the schedule {plans.SAVED}{name}, at {plan.steps} step{'s' * (plan.steps != 1)}."
