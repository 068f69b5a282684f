"""The Compare tab: its layout, and which control calls what. The answers are in `live.py` and `details.py`."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import gradio as gr

from apps import details, links, live, pages, session, viewer
from apps.live import MOST_COLUMNS
from apps.session import ANY, MOST_STEPS, NONE, Setup
from workbench.errors import WorkbenchError
from workbench.samplers import SAMPLERS

HEAVY, LIGHT = "run", "redraw"


@dataclass
class Contender:
    """The components of one column."""

    box: gr.Column
    model: gr.Dropdown
    sampler: gr.Dropdown
    schedule: gr.Dropdown
    steps: gr.Slider
    guidance: gr.Slider
    note: gr.HTML
    picture: gr.HTML

    @property
    def controls(self) -> list[Any]:
        """The five that make a `Setting`, in its order."""
        return [self.model, self.sampler, self.schedule, self.steps, self.guidance]


@dataclass
class Door:
    """How another tab opens a comparison: values of `controls` from `_opened`, then `draw` from `inputs` to `outputs`."""

    controls: list[Any]
    draw: Any
    inputs: list[Any]
    outputs: list[Any]


def build(demo: gr.Blocks, idle_seconds: float, tab: gr.Tab) -> Door:
    """Lay `tab` out and connect it; to be called inside it."""
    setup = links.opening(next(iter(session.spaces())))
    shown = gr.State(None, time_to_live=idle_seconds)
    with gr.Row(elem_id="asked"):
        where = _own_check(
            gr.Dropdown(list(session.spaces()), value=setup.space, label="Space", filterable=False, min_width=110)
        )
        preset = _own_check(
            gr.Dropdown(
                list(links.presets(setup.space)), value=links.preset_of(setup), label="Preset", filterable=False, min_width=150
            )
        )
        label = _own_check(
            gr.Dropdown(_classes(setup.space), value=setup.label, label="Class", filterable=False, min_width=110)
        )
        count = _own_check(gr.Number(setup.count, label=_count_label(setup.space), precision=None, min_width=80))
        with gr.Row(elem_id="seeds"):
            before = gr.Button("Seed before", elem_id="previous-seed", min_width=20, size="sm")
            seed = _own_check(gr.Number(setup.seed, label="Seed", min_width=60, elem_id="seed"))
            after = gr.Button("Next seed", elem_id="next-seed", min_width=20, size="sm")
        number = _own_check(gr.Radio([1, 2, 3, 4], value=3, label="Columns", min_width=190, elem_id="number"))
        with gr.Row(elem_id="go"):
            start = gr.Button("Generate", variant="primary", elem_id="generate", min_width=80)
            stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=60)
    message = gr.HTML(pages.hint(), elem_id="message", container=False, padding=False)
    viewer.tool()
    with gr.Row(elem_id="contenders"):
        picked = session.defaults(setup.space, MOST_COLUMNS)
        contenders = [_contender(setup.space, place, setting) for place, setting in enumerate(picked)]
    link = gr.Textbox("", visible="hidden", elem_id="link", label="Link")
    viewer.pins()

    asked = [where, label, count, seed, number, *(control for c in contenders for control in c.controls)]
    with gr.Tabs(elem_id="below"):
        with gr.Tab("Figures", id="figures"):
            table = gr.HTML(pages.no_table(), elem_id="table", container=False, padding=False)
        parts = live.Parts([c.picture for c in contenders], message, table, shown, start, stop, link)
        texts = details.build(parts)

    running = start.click(functools.partial(live.generate, parts), [shown, *asked], parts.all, api_name="generate", **_heavy())
    followed = [label, count, seed, *(control for c in contenders for control in c.controls[1:] if control is not c.schedule)]
    follow = functools.partial(live.live, parts)
    common: dict[str, Any] = {"concurrency_id": LIGHT, "concurrency_limit": 8, "show_progress": "hidden"}

    def redraw(event: Any, name: str | None = None) -> None:
        """Redraw what is quick, then measure it; a run in progress sees that it is outdated and ends."""
        shows = {"api_name": name} if name else {"api_visibility": "private"}
        redrawn = event(follow, [shown, *asked], parts.all, trigger_mode="always_last", **common, **shows)
        redrawn.then(
            functools.partial(live.measure, parts), shown, [table, message, start, stop], trigger_mode="always_last",
            api_visibility="private", **common,
        )  # fmt: skip

    redraw(functools.partial(gr.on, [control.input for control in followed]), "live")
    for button, by in ((before, -1), (after, 1)):
        redraw(button.click(functools.partial(_other_seed, by), seed, seed, **_light()).then)
    settings = [control for c in contenders for control in (*c.controls, c.note, c.box)]
    redraw(number.input(_columns, number, [c.box for c in contenders], **_light()).then)
    redraw(preset.input(_preset, [where, preset], [number, *settings], **_light()).then)
    for c in contenders:
        redraw(c.model.input(_own, [where, c.model], [*c.controls[1:], c.note], **_light()).then)
        redraw(c.schedule.input(_saved_steps, [where, *c.controls], [c.steps, c.note], **_light()).then)
        for control in (c.sampler, c.steps, c.guidance):
            control.input(_describe, [where, *c.controls], c.note, trigger_mode="always_last", **_light())

    offered = [part for c in contenders for part in (c.model, c.schedule)]
    tab.select(_offer, [where, *offered], [c.schedule for c in contenders], **_light())

    opened = gr.State(None)
    controls = [opened, message, where, preset, label, count, seed, number, *settings]
    drawings = []
    for event in (where.input(_move, where, controls, **_light("space")), demo.load(_arrive, None, controls, **_light("open"))):
        draw = functools.partial(_draw, parts)
        drawings.append(event.then(draw, [shown, opened], parts.all, api_visibility="private", **_heavy()))
    stop.click(functools.partial(live.stopped, parts), shown, parts.all, cancels=[running, *drawings], **_light("stop"))
    link.change(None, link, None, js="(query) => window.workbench.link(query)", **_light())
    link.change(details.texts, shown, texts, trigger_mode="always_last", **_light())
    return Door(controls, functools.partial(_draw, parts), [shown, opened], parts.all)


def _light(name: str | None = None) -> dict[str, Any]:
    where = {"api_name": name} if name else {"api_visibility": "private"}
    return {"concurrency_id": LIGHT, "concurrency_limit": 8, "show_progress": "hidden", **where}


def _heavy() -> dict[str, Any]:
    return {"concurrency_id": HEAVY, "concurrency_limit": 2, "show_progress": "hidden"}


def _own_check(component: Any) -> Any:
    """Take what comes as it is: `session.check` says what is wrong with it, in its own words."""
    component.preprocess = lambda payload: payload
    return component


def _contender(space: str, place: int, setting: session.Setting) -> Contender:
    names = [entry.name for entry in session.spaces()[space]]
    with gr.Column(visible=place < 3, min_width=160, elem_classes="contender", elem_id=f"contender-{place}") as box:
        model = gr.Dropdown(names, value=setting.model, label=f"Model {place + 1}", filterable=False)
        with gr.Row(elem_classes="sliders"):
            steps = gr.Slider(1, MOST_STEPS, setting.steps, step=1, label="Steps", min_width=100, buttons=[])
            guidance = gr.Slider(*session.GUIDANCE, setting.guidance, step=0.25, label="Guidance", min_width=100, buttons=[])
        with gr.Accordion("Sampler and schedule", open=False, elem_classes="how"), gr.Row():
            sampler = gr.Dropdown(list(SAMPLERS), value=setting.sampler, label="Sampler", filterable=False, min_width=100)
            schedule = gr.Dropdown(
                session.schedules_of(space, setting.model),
                value=setting.schedule,
                label="Schedule",
                filterable=False,
                min_width=100,
            )
        note = gr.HTML(_describe(space, *setting), elem_classes="note", container=False, padding=False)
        picture = viewer.picture(place)
    for component in (model, sampler, schedule, steps, guidance):
        _own_check(component)
    return Contender(box, model, sampler, schedule, steps, guidance, note, picture)


def _classes(space: str) -> list[str]:
    return [ANY, NONE, *session.class_names(space)]


def _count_label(space: str) -> str:
    return f"{'Images' if session.is_image(space) else 'Points'} ≤ {session.most_count(space)}"


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
    return [*_values(space, setting), _describe(space, *setting)]


def _values(space: str, setting: session.Setting) -> list[Any]:
    """A setting as values of the four controls below its model."""
    offered = gr.update(choices=session.schedules_of(space, setting.model), value=setting.schedule)
    return [setting.sampler, offered, setting.steps, setting.guidance]


def _offer(space: str, *pairs: Any) -> list[Any]:
    """The schedules of each column again: a plan may have been saved since."""
    return [
        gr.update(choices=session.schedules_of(space, model), value=schedule)
        for model, schedule in zip(pairs[::2], pairs[1::2], strict=True)
    ]


def _saved_steps(space: str, model: Any, sampler: Any, schedule: Any, steps: Any, guidance: Any) -> list[Any]:
    """A saved plan brings its number of steps."""
    steps = session.steps_of(schedule, steps)
    return [steps, _describe(space, model, sampler, schedule, steps, guidance)]


def _other_seed(by: int, seed: Any) -> Any:
    """The next seed, or the one before."""
    whole = isinstance(seed, int | float) and math.isfinite(seed) and seed == int(seed)
    return (int(seed) + by) % (session.MOST_SEED + 1) if whole else 0


def _columns(number: Any) -> list[Any]:
    return [gr.update(visible=isinstance(number, int) and place < number) for place in range(MOST_COLUMNS)]


def _preset(space: str, name: str) -> list[Any]:
    """A ready-made set of columns, as values of all controls."""
    try:
        known = links.presets(links.opening(space).space)
        if not isinstance(name, str) or name not in known:
            raise session.unknown("preset", str(name)[:60], known)
        return [len(known[name]), *_settings(space, known[name])]
    except WorkbenchError as error:
        gr.Warning(str(error))
        return [gr.skip()] * (1 + 7 * MOST_COLUMNS)


def _settings(space: str, columns: tuple[session.Setting, ...]) -> list[Any]:
    """Values of every column's controls, note and box; those beyond are hidden and as the space opens with."""
    names = [entry.name for entry in session.spaces()[space]]
    four = [*columns, *session.defaults(space, MOST_COLUMNS)[len(columns) :]][:MOST_COLUMNS]
    made = []
    for place, setting in enumerate(four):
        shown = gr.update(visible=place < len(columns))
        made += [gr.update(choices=names, value=setting.model), *_values(space, setting), _describe(space, *setting), shown]
    return made


def _opened(setup: Setup, told: str, complaint: str = "") -> list[Any]:
    """The page as a link, or a change of space, asks for it; a complaint stays when all is drawn."""
    space = setup.space
    return [
        (setup, complaint), told, gr.update(choices=list(session.spaces()), value=space),
        gr.update(choices=list(links.presets(space)), value=links.preset_of(setup)), gr.update(choices=_classes(space), value=setup.label),
        gr.update(value=setup.count, label=_count_label(space)), setup.seed, len(setup.columns), *_settings(space, setup.columns),
    ]  # fmt: skip


def _move(space: str) -> list[Any]:
    """Another space: its models, its classes, its opening picture."""
    try:
        return _opened(links.opening(space), pages.say("Drawing what this space opens with."))
    except WorkbenchError as error:
        return [None, pages.error(str(error)), *[gr.skip()] * (6 + 7 * MOST_COLUMNS)]


def _arrive(request: gr.Request) -> list[Any]:
    """The page as its link asks; a bad link is told in a sentence, and the usual page opens."""
    first = links.opening(next(iter(session.spaces())))
    try:
        query = dict(getattr(request, "query_params", None) or {})
        return _opened(links.from_query(query) if query else first, pages.say("Drawing the first pictures."))
    except WorkbenchError as error:
        complaint = f"This link cannot be opened: {error}"
        return _opened(first, pages.error(complaint), complaint)


def _draw(parts: live.Parts, shown: live.Shown | None, opened: tuple[Setup, str] | None) -> Any:
    """Draw what a link or a space opens with."""
    if opened is None:
        yield parts.idle
        return
    yield from live.opening(parts, shown, *opened)
