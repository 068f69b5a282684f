"""The Compare tab: same noise through two to four models, streamed step by step, then measured."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
import torch

from apps import pages, session
from apps.session import ANY, MOST_STEPS, NONE, OWN, Setup
from workbench import schedules, views
from workbench.compare import tabulate
from workbench.errors import WorkbenchError
from workbench.samplers import SAMPLERS, record
from workbench.samplers.run import Frame

MOST_COLUMNS = 4
HEAVY, LIGHT = "run", "redraw"
log = logging.getLogger("workbench.app")


@dataclass(frozen=True)
class Shown:
    """What a page keeps of its last comparison: the question, and for points where each one landed."""

    setup: Setup
    finals: tuple[np.ndarray | None, ...]


@dataclass
class Contender:
    """The components of one column."""

    box: gr.Column
    model: gr.Dropdown
    sampler: gr.Dropdown
    schedule: gr.Dropdown
    steps: gr.Number
    guidance: gr.Number
    note: gr.HTML
    picture: gr.Image
    status: gr.HTML

    @property
    def controls(self) -> list[Any]:
        """The five that make a `Setting`, in its order."""
        return [self.model, self.sampler, self.schedule, self.steps, self.guidance]


def build(idle_seconds: float) -> None:
    """Lay the tab out and connect it; to be called inside `gr.Blocks`."""
    spaces = session.spaces()
    space = next(iter(spaces))
    shown = gr.State(None, time_to_live=idle_seconds)
    with gr.Row(elem_id="asked"):
        where = _own_check(gr.Dropdown(list(spaces), value=space, label="Space", filterable=False, min_width=130))
        label = _own_check(
            gr.Dropdown(_classes(space), value=_first_class(space), label="Class", filterable=False, min_width=130)
        )
        count = _own_check(gr.Number(_count(space), label=_count_label(space), precision=None, min_width=90))
        seed = _own_check(gr.Number(0, label="Seed", min_width=70))
        number = gr.Radio([2, 3, 4], value=3, label="Columns", min_width=130)
        with gr.Row(elem_id="go"):
            start = gr.Button("Generate", variant="primary", elem_id="generate", min_width=80)
            stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=60)
    message = gr.HTML(pages.hint(), elem_id="message", container=False, padding=False)
    with gr.Row(elem_id="contenders"):
        picked = session.defaults(space, MOST_COLUMNS)
        contenders = [_contender(space, place, setting) for place, setting in enumerate(picked)]
    table = gr.HTML(pages.no_table(), elem_id="table", container=False, padding=False)
    detail = gr.HTML(pages.no_detail(), elem_id="detail", container=False, padding=False)
    strip = gr.HTML(visible=False, elem_id="strip", container=False, padding=False)
    with gr.Row(elem_id="clouds"):
        clouds = [gr.Plot(visible=False, show_label=False, container=False, min_width=300) for _ in range(MOST_COLUMNS)]
    with gr.Row(elem_id="curves"):
        curves = [gr.Plot(visible=False, show_label=False, container=False, min_width=320) for _ in range(2)]

    pictures, statuses = [c.picture for c in contenders], [c.status for c in contenders]
    drawn = [strip, *clouds, *curves]
    asked = [where, label, count, seed, number, *(control for c in contenders for control in c.controls)]
    generate = functools.partial(_generate, pictures, statuses, message, table, shown, start, stop, detail, drawn)
    running = start.click(
        generate, asked, [*pictures, *statuses, message, table, shown, start, stop, detail, *drawn], api_name="generate",
        concurrency_id=HEAVY, concurrency_limit=1, show_progress="hidden",
    )  # fmt: skip
    stop.click(_stopped, None, [message, start, stop], cancels=[running], **_light("stop"))
    settings = [control for c in contenders for control in (*c.controls, c.note)]
    where.input(
        _move, where, [label, count, start, stop, message, *settings, *pictures, *statuses, table, shown, detail, *drawn],
        cancels=[running], **_light("space"),
    )  # fmt: skip
    number.input(
        lambda n: [gr.update(visible=place < n) for place in range(MOST_COLUMNS)],
        number,
        [c.box for c in contenders],
        **_light(),
    )
    for place, c in enumerate(contenders):
        c.model.input(_own, [where, c.model], [*c.controls[1:], c.note], **_light())
        for control in c.controls[1:]:
            control.input(_describe, [where, *c.controls], c.note, trigger_mode="always_last", **_light())
        c.picture.select(
            _opener(place), shown, [detail, *drawn], concurrency_id="open", concurrency_limit=2,
            show_progress="minimal", show_progress_on=detail, api_visibility="private", trigger_mode="always_last",
        )  # fmt: skip


def _light(name: str | None = None) -> dict[str, Any]:
    where = {"api_name": name} if name else {"api_visibility": "private"}
    return {"concurrency_id": LIGHT, "concurrency_limit": 8, "show_progress": "hidden", **where}


def _own_check(component: Any) -> Any:
    """Take what comes as it is: `session.check` says what is wrong with it, in its own words."""
    component.preprocess = lambda payload: payload
    return component


def _contender(space: str, place: int, setting: session.Setting) -> Contender:
    names = [entry.name for entry in session.spaces()[space]]
    with gr.Column(visible=place < 3, min_width=160, elem_classes="contender", elem_id=f"contender-{place}") as box:
        model = gr.Dropdown(names, value=setting.model, label=f"Model {place + 1}", filterable=False)
        note = gr.HTML(_describe(space, *setting), elem_classes="note", container=False, padding=False)
        with gr.Accordion("Change how it runs", open=False, elem_classes="how"):
            with gr.Row():
                sampler = gr.Dropdown(list(SAMPLERS), value=setting.sampler, label="Sampler", filterable=False, min_width=110)
                schedule = gr.Dropdown(
                    [OWN, *schedules.NAMES], value=setting.schedule, label="Schedule", filterable=False, min_width=110
                )
            with gr.Row():
                steps = gr.Number(setting.steps, label=f"Steps ≤ {MOST_STEPS}", min_width=80)
                guidance = gr.Number(setting.guidance, label="Guidance", step=0.5, min_width=80)
        picture = gr.Image(
            show_label=False, format="png", image_mode="RGBA", interactive=False, visible=False, buttons=[], container=False,
            elem_classes="picture", elem_id=f"picture-{place}",
        )  # fmt: skip
        status = gr.HTML(pages.empty(), elem_classes="status", elem_id=f"status-{place}", container=False, padding=False)
    for component in (model, sampler, schedule, steps, guidance):
        _own_check(component)
    return Contender(box, model, sampler, schedule, steps, guidance, note, picture, status)


def _classes(space: str) -> list[str]:
    return [ANY, NONE, *session.class_names(space)]


def _first_class(space: str) -> str:
    return ANY if session.is_image(space) else NONE


def _count(space: str) -> int:
    return 16 if session.is_image(space) else 500


def _count_label(space: str) -> str:
    return f"Images ≤ {session.MOST_IMAGES}" if session.is_image(space) else f"Points ≤ {session.MOST_POINTS}"


def _describe(space: str, *setting: Any) -> str:
    try:
        return pages.note(session.describe(space, setting))
    except WorkbenchError as error:
        return pages.note(str(error), wrong=True)


def _own(space: str, model: str) -> list[Any]:
    """A model's own settings, as values of the four controls, and the sentence that says so."""
    try:
        setting = session.own_setting(session.entry_of(space, model))
    except WorkbenchError as error:
        return [gr.skip()] * 4 + [pages.note(str(error), wrong=True)]
    return [*setting[1:], _describe(space, *setting)]


def _move(space: str) -> list[Any]:
    """Another space: its models, its classes, an empty page."""
    cleared = [gr.update(value=None, visible=False)] * MOST_COLUMNS + [pages.empty()] * MOST_COLUMNS
    closed = [pages.no_table(), None, pages.no_detail(), *[gr.update(value=None, visible=False)] * (3 + MOST_COLUMNS)]
    ready = [gr.update(interactive=True), gr.update(interactive=False)]
    try:
        picked, names = session.defaults(space, MOST_COLUMNS), [entry.name for entry in session.spaces()[space]]
    except (WorkbenchError, KeyError):
        return [gr.skip()] * 2 + [
            *ready,
            pages.error(f"unknown space {str(space)[:60]!r}."),
            *[gr.skip()] * 24,
            *cleared,
            *closed,
        ]
    asked = [
        gr.update(choices=_classes(space), value=_first_class(space)),
        gr.update(value=_count(space), label=_count_label(space)),
    ]
    settings = [
        update
        for setting in picked
        for update in (gr.update(choices=names, value=setting.model), *setting[1:], _describe(space, *setting))
    ]
    return [*asked, *ready, pages.hint(), *settings, *cleared, *closed]


def _stopped() -> list[Any]:
    return [
        pages.say("Stopped. What was drawn stays; Generate starts again."),
        gr.update(interactive=True),
        gr.update(interactive=False),
    ]


def _generate(
    pictures: list, statuses: list, message: Any, table: Any, shown: Any, start: Any, stop: Any, detail: Any, drawn: list,
    space: str, label: str, count: float, seed: float, number: int, *controls: Any,
) -> Iterator[dict]:  # fmt: skip
    """Stream a comparison into the page; whatever is wrong becomes one sentence there."""
    idle = {start: gr.update(interactive=True), stop: gr.update(interactive=False)}
    try:
        chosen = [controls[5 * place : 5 * place + 5] for place in range(number)]
        setup = session.check(space, chosen, count, seed, label)
        fresh = {picture: gr.update(value=None, visible=False) for picture in pictures}
        fresh |= {status: pages.empty("waiting for its turn") for status in statuses}
        fresh |= {plot: gr.update(value=None, visible=False) for plot in drawn}
        busy = {start: gr.update(interactive=False), stop: gr.update(interactive=True)}
        yield {
            **fresh,
            **busy,
            message: pages.say("Loading the models."),
            table: pages.no_table(),
            shown: None,
            detail: pages.no_detail(),
        }
        yield from _run(setup, pictures, statuses, message, table, shown, idle)
    except WorkbenchError as error:
        yield {**idle, message: pages.error(str(error))}
    except Exception as error:
        log.exception("a comparison failed")
        yield {**idle, message: pages.error(f"This did not work ({type(error).__name__}); the program's log says more.")}


def _run(setup: Setup, pictures: list, statuses: list, message: Any, table: Any, shown: Any, idle: dict) -> Iterator[dict]:
    began = time.monotonic()
    columns = session.columns_of(setup)
    names = [column.label for column in columns]
    palette = views.colors(names)
    plans = [column.plan() for column in columns]
    draw = functools.partial(_picture, setup)
    last: dict[int, Frame] = {}
    pace = session.Pace()
    for k, frame in session.frames(setup):
        done, total = frame.i == len(plans[k].stages), len(plans[k].stages)
        first = k not in last
        last[k] = frame
        if frame.inner or not pace.due(frame.i, total):
            continue
        update = {statuses[k]: pages.progress(columns[k], palette[names[k]], frame, total, setup.count)}
        update[pictures[k]] = gr.update(value=draw(frame, palette[names[k]], done), visible=True)
        if first:
            update[message] = pages.say(f"Running {columns[k].describe()} on {setup.count} samples.")
        yield update
    finals = tuple(None if session.is_image(setup.space) else session.final_points(last[k].x) for k in range(len(columns)))
    yield {shown: Shown(setup, finals), message: pages.say("Measuring.")}
    ends = {name: record([last[k]]) for k, name in enumerate(names)}
    cond = session.condition(setup)
    rows, notes = tabulate(columns, ends, None, cond, setup.seed)
    yield {
        table: pages.table(rows, notes, palette),
        message: pages.say("Solving the teacher's flow finely from the same noise."),
    }
    solution = None
    for step, solution in session.reference(setup):
        if solution is None:  # a yield a step, so that Stop works here too
            yield {
                message: pages.say(
                    f"Solving the teacher's flow finely from the same noise: step {step} of {session.compare.FINE_STEPS}."
                )
            }
    if solution is not None:
        rows, notes = tabulate(columns, ends, solution, cond, setup.seed)
    done = f"Done in {time.monotonic() - began:.1f} s. Click a sample in any picture to follow it from noise to data."
    yield {**idle, table: pages.table(rows, notes, palette), message: pages.say(done, done=True)}


def _picture(setup: Setup, frame: Frame, color: str, done: bool) -> np.ndarray:
    if session.is_image(setup.space):
        return views.image_grid(frame.target)
    return views.points_image(None if done else frame.x, frame.target, session.density(setup.space, setup.label), color)


def _opener(place: int) -> Any:
    def opened(shown: Shown | None, event: gr.SelectData) -> list[Any]:  # a partial would hide the event from Gradio
        return _open(place, shown, event)

    return opened


def _open(place: int, shown: Shown | None, event: gr.SelectData) -> list[Any]:
    """The trajectory of the sample that was clicked in column `place`, for every column."""
    hidden = gr.update(value=None, visible=False)
    nothing = [hidden] * (3 + MOST_COLUMNS)
    try:
        if shown is None:
            return [pages.error("There is no finished comparison here: press Generate, then click a sample."), *nothing]
        setup, (x, y) = shown.setup, event.index
        if session.is_image(setup.space):
            shape = session.columns_of(setup)[0].model.shape
            j = views.cell_at(x, y, setup.count, shape)
        else:
            j = views.nearest(x, y, torch.from_numpy(shown.finals[min(place, len(shown.finals) - 1)]))
        if j is None:
            return [pages.say("Click on a sample, not beside it."), *[gr.skip()] * (3 + MOST_COLUMNS)]
        return [pages.opened(j, setup), *_figures(setup, j)]
    except WorkbenchError as error:
        return [pages.error(str(error)), *nothing]
    except Exception as error:
        log.exception("a trajectory could not be shown")
        return [pages.error(f"This did not work ({type(error).__name__}); the program's log says more."), *nothing]


def _figures(setup: Setup, j: int) -> list[Any]:
    """Strip, clouds, schedule and distances: updates for all plots, in the page's order."""
    hidden = gr.update(value=None, visible=False)
    trajectories, batch = session.one_sample(setup, j)
    columns = session.columns_of(setup)
    palette = views.colors(trajectories)
    clouds = [hidden] * MOST_COLUMNS
    strip = hidden
    if session.is_image(setup.space):
        strip = _show(pages.strip(trajectories, batch, palette))
    else:
        density = session.density(setup.space, setup.label)
        for k, (name, trajectory) in enumerate(trajectories.items()):
            clouds[k] = _show(views.particles(trajectory, name, density, batch, color=palette[name], name=f"sample {j}"))
    schedule = views.log_snr({column.label: column.plan() for column in columns})
    return [strip, *clouds, _show(schedule), _show(views.target_distance(trajectories, batch, f"sample {j}"))]


def _show(figure: Any) -> Any:
    return gr.update(value=figure, visible=True)
