"""What the Compare tab answers: Generate streams every step, a changed control redraws what is quick, then all is measured."""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from apps import links, pages, session, stream, work
from apps.session import Setup
from workbench import compare, views
from workbench.denoiser import picture_shape
from workbench.errors import WorkbenchError
from workbench.samplers import record
from workbench.samplers.run import Frame

QUICK = 0.3  # seconds: a model that answers faster follows its controls
QUICK_REFERENCE = 1.0  # seconds that the teacher's fine solution may take after a change
TOGETHER = 0.06  # seconds of drawing that go into one message: each costs the page some 20 ms
REST = 0.25  # seconds without another change before it is worth measuring
MOST_COLUMNS = 4
log = logging.getLogger("workbench.app")


_runs = itertools.count(1)


@dataclass(frozen=True)
class Shown:
    """What a page keeps of what it shows.

    Attributes:
        setup: the question. ends: the last frame of every column that answers it, else None.
        newest: number of the page's newest question, shared by all that it has asked, so that older work can give way.
        number: of this question.
    """

    setup: Setup
    ends: tuple[Frame | None, ...]
    newest: list[int] = field(default_factory=lambda: [0], compare=False)
    number: int = 0

    @property
    def outdated(self) -> bool:
        """Whether the page has asked something else since."""
        return self.newest[0] != self.number


@dataclass(frozen=True)
class Parts:
    """The components that a run writes to."""

    pictures: Sequence[Any]
    message: Any
    table: Any
    shown: Any
    start: Any
    stop: Any
    link: Any

    @property
    def all(self) -> list[Any]:
        """As an event's outputs."""
        return [*self.pictures, self.message, self.table, self.shown, self.start, self.stop, self.link]

    @property
    def idle(self) -> dict[Any, Any]:
        """Ready for a click."""
        return {self.start: gr.update(interactive=True), self.stop: gr.update(interactive=False)}

    @property
    def busy(self) -> dict[Any, Any]:
        """Running."""
        return {self.start: gr.update(interactive=False), self.stop: gr.update(interactive=True)}


def asked(values: Sequence[Any]) -> Setup:
    """Space, class, count, seed, number of columns and five values a column, checked."""
    space, label, count, seed, number, *controls = values
    number = session.check_count("the number of columns", number, 1, MOST_COLUMNS)
    return session.check(space, [controls[5 * k : 5 * k + 5] for k in range(number)], count, seed, label)


def guarded(handler: Any) -> Any:
    """A generator whose errors become one sentence on the page: the first argument is the page's `Parts`."""

    @functools.wraps(handler)
    def safe(parts: Parts, *values: Any) -> Iterator[dict]:
        try:
            yield from handler(parts, *values)
        except WorkbenchError as error:
            yield {**parts.idle, parts.message: pages.error(str(error))}
        except Exception as error:
            log.exception("a comparison failed")
            yield {**parts.idle, parts.message: pages.failed(error)}

    return safe


def _asking(shown: Shown | None, setup: Setup, ends: Sequence[Frame | None] = ()) -> Shown:
    """A new question of a page: whatever still answers an older one sees that it is outdated and ends."""
    newest = [0] if shown is None else shown.newest
    newest[0] = number = next(_runs)
    return Shown(setup, tuple(ends) or (None,) * len(setup.columns), newest, number)


@guarded
def generate(parts: Parts, shown: Shown | None, *values: Any) -> Iterator[dict]:
    """Run every column, cheapest first, streaming every step; then measure."""
    setup = asked(values)
    asking = _asking(shown, setup)
    waiting = {picture: {"stale": True, "blank": "waiting for its turn"} for picture in parts.pictures}
    told = {parts.message: pages.say("Loading the models."), parts.link: links.to_query(setup), parts.shown: asking}
    yield {**waiting, **parts.busy, **told}
    yield from _run(parts, asking)


def _run(parts: Parts, shown: Shown) -> Iterator[dict]:
    began, setup = time.monotonic(), shown.setup
    columns = work.columns_of(setup)
    for k in sorted(range(len(columns)), key=lambda k: work.seconds_for(setup, k)):
        if shown.outdated:
            return
        yield {parts.message: pages.say(f"Running {columns[k].describe()} on {setup.count} samples.")}
        for message, end in messages(setup, k):
            if shown.outdated:
                return
            yield {parts.pictures[k]: message}
            last = end
        shown = replace(shown, ends=(*shown.ends[:k], last, *shown.ends[k + 1 :]))
        yield {parts.shown: shown}
    yield {parts.message: pages.say("Measuring.")}
    for solving in _solve(parts, setup):
        if shown.outdated:
            return
        yield solving
    done = f"Done in {time.monotonic() - began:.1f} s. Click a sample in any picture to follow it from noise to data."
    yield {**parts.idle, parts.table: _table(shown), parts.message: pages.say(done, done=True)}


def _solve(parts: Parts, setup: Setup) -> Iterator[dict]:
    for step, solution in work.reference(setup):
        if solution is None:  # a yield a step, so that Stop works here too
            told = f"Solving the teacher's flow finely from the same noise: step {step} of {compare.FINE_STEPS}."
            yield {parts.message: pages.say(told)}


def messages(setup: Setup, k: int) -> Iterator[tuple[dict, Frame]]:
    """The messages that draw column k, one a step (fewer of a long run), with the frame that each ends on.

    A page that is slower than the run sees the last of several updates only: Gradio's HTML component has one value. So the
    last message holds the whole run, and the page adds what it lacks, by the number of the run and of the frame.
    """
    column = work.columns_of(setup)[k]
    plan, palette = column.plan(), palette_of(setup)
    density = None if session.is_image(setup.space) else work.density(setup.space, setup.label)
    run, begin = next(_runs), {"begin": stream.begin(column, setup, plan, palette[column.label], density)}
    opening = begin
    every, pace, point, sent = stream.stride(plan, setup, picture_shape(column.model)), work.Pace(), 0, []
    for frame in work.frames(setup, k):
        if frame.inner:
            continue
        last = frame.i == len(plan.stages)
        if last or (point % every == 0 and pace.due(point, plan.steps)):
            sent.append(stream.frame(point, frame, plan.path, column.model, work.field(setup, k, frame.t)))
            yield {"run": run, **opening, "frames": sent[-1:]}, frame
            opening = {}
        point += 1
    yield {"run": run, **begin, "frames": sent, "again": True}, frame


def palette_of(setup: Setup) -> dict[str, str]:
    """The colour of each column's label."""
    return views.colors(column.label for column in work.columns_of(setup))


def whole(setup: Setup, k: int) -> tuple[dict, Frame]:
    """Column k drawn in one message."""
    *_, (last, end) = messages(setup, k)
    return {key: last[key] for key in ("run", "begin", "frames")}, end


@guarded
def live(parts: Parts, shown: Shown | None, *values: Any) -> Iterator[dict]:
    """After a changed control: redraw the columns that it concerns and that are quick, mark the others."""
    setup = asked(values)
    work.columns_of(setup)
    asking = _asking(shown, setup)
    ends = [end if shown is not None and _answers(shown, setup, k) else None for k, end in _ends(shown, setup)]
    slow = [k for k, end in enumerate(ends) if end is None and work.seconds_for(setup, k) > QUICK]
    late = {
        parts.pictures[k]: {"stale": True, "note": "Not drawn yet: press Generate.", "blank": "press Generate"} for k in slow
    }
    if late:
        yield late
    drawn, sent, began = {}, {}, time.monotonic()
    for k in range(len(ends)):
        if ends[k] is None and k not in slow:
            message, ends[k] = whole(setup, k)
            if asking.outdated:
                return
            drawn[parts.pictures[k]] = message
            if time.monotonic() - began > TOGETHER and k + 1 < len(ends):
                yield drawn
                sent |= {picture: {**message, "again": True} for picture, message in drawn.items()}
                drawn, began = {}, time.monotonic()
    told = {**parts.idle, parts.link: links.to_query(setup), parts.message: _told(setup, slow)}
    # what was sent before comes again, since the page now and then misses one of two close updates
    yield {**late, **sent, **drawn, **told, parts.shown: replace(asking, ends=tuple(ends))}


def _ends(shown: Shown | None, setup: Setup) -> list[tuple[int, Frame | None]]:
    known = () if shown is None else shown.ends
    return [(k, known[k] if k < len(known) else None) for k in range(len(setup.columns))]


def _answers(shown: Shown, setup: Setup, k: int) -> bool:
    """Whether what column k shows is still what the controls ask for, under the same name."""
    old, new = shown.setup, setup
    same = k < len(old.columns) and old.columns[k] == new.columns[k]
    common = (old.space, old.count, old.seed, old.label) == (new.space, new.count, new.seed, new.label)
    if not (same and common):
        return False
    before, now = work.columns_of(old)[k].label, work.columns_of(new)[k].label
    return before == now and palette_of(old)[before] == palette_of(new)[now]


def _told(setup: Setup, slow: Sequence[int]) -> str:
    if not slow:
        return pages.say("Up to date: what is shown follows the controls.", done=True)
    names = " and ".join(work.columns_of(setup)[k].label for k in slow)
    return pages.say(f"{names} take{'s' * (len(slow) == 1)} longer than {1000 * QUICK:.0f} ms: press Generate to draw.")


@guarded
def measure(parts: Parts, shown: Shown | None) -> Iterator[dict]:
    """The table of what is shown, once the controls rest; with the distance to the teacher's fine solution where that is quick."""
    if shown is None or not any(shown.ends):
        return
    time.sleep(REST)
    if shown.outdated:
        return
    if work.reference_seconds(shown.setup) < QUICK_REFERENCE:
        for _ in work.reference(shown.setup):
            if shown.outdated:
                return
    yield {parts.table: _table(shown)}


def _table(shown: Shown) -> str:
    setup = shown.setup
    columns = [column for column, end in zip(work.columns_of(setup), shown.ends, strict=True) if end is not None]
    ends = {column.label: record([end]) for column, end in zip(columns, [end for end in shown.ends if end], strict=True)}
    rows, notes = compare.tabulate(columns, ends, work.solution(setup), work.condition(setup), setup.seed)
    return pages.table(rows, notes, palette_of(setup))


_opened: OrderedDict[Setup, tuple[list[dict], tuple[Frame, ...], str]] = OrderedDict()


def stopped(parts: Parts, shown: Shown | None) -> dict:
    """End what runs within one step; what is unfinished is marked so."""
    marked = {}
    if shown is not None:
        shown.newest[0] = next(_runs)
        unfinished = [k for k, end in enumerate(shown.ends) if end is None]
        marked = {
            parts.pictures[k]: {"stale": True, "note": "Stopped: press Generate.", "blank": "stopped"} for k in unfinished
        }
    return {**parts.idle, **marked, parts.message: pages.say("Stopped. What was drawn stays; Generate starts again.")}


@guarded
def opening(parts: Parts, shown: Shown | None, setup: Setup, complaint: str = "") -> Iterator[dict]:
    """Draw what a space opens with: from memory if somebody has opened it before, else as `generate` does."""
    asking = _asking(shown, setup)
    yield {parts.link: links.to_query(setup), parts.shown: asking, **parts.busy}
    if setup in _opened:
        drawn, ends, table = _opened[setup]
        yield {parts.pictures[k]: {**message, "run": next(_runs)} for k, message in enumerate(drawn)}
    else:
        gathered: dict[int, dict] = {}
        table = None
        for update in _run(parts, asking):
            for k, picture in enumerate(parts.pictures):
                if picture in update:
                    gathered[k] = update[picture]  # the last one holds them all
            if parts.shown in update:
                ends = update[parts.shown].ends
            table = update.get(parts.table, table)
            yield update
        if asking.outdated or table is None:
            return
        _opened[setup] = ([gathered[k] for k in sorted(gathered)], ends, table)
        while len(_opened) > 4:
            _opened.popitem(last=False)
    ready = "Ready. Move a slider: quick models follow it. Click a sample to follow it from noise to data."
    told = pages.error(complaint) if complaint else pages.say(ready, done=True)
    yield {**parts.idle, parts.shown: replace(asking, ends=ends), parts.table: table, parts.message: told}
