"""The Distill tab: choose a teacher, a recipe and its switches; watch students learn, in processes that outlive the page."""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from apps import laboratory, pages, session, work
from workbench import training, views
from workbench.distill.fit import misfits
from workbench.distill.recipes import get, recipes
from workbench.errors import WorkbenchError, unknown
from workbench.views.grid import data_uri
from workbench.views.training import AXES, numbers_of, training_curves

log = logging.getLogger("workbench.app")
EVERY, HEALTH = 0.8, 4.0  # seconds between looks into the run folders, and between two drawings of the players' health
PANELS = ("gradients", "gap", "critic", "calibration", "weights", "ratio")  # what `views.health` may draw
NUMBERS, FLAGS = 24, 8  # fields that the form can show
MOST_SHOWN, MOST_LISTED = 8, 40
MOST_SECONDS = 24 * 3600
FIRST = "dmd2"  # the recipe that the form opens with; it fits every teacher
LOSS, METRIC = ("student", "loss"), ("sw2", "paired_rms")  # shown first, where a run has them
NO_HEALTH = "Gradient norms of every player, the score gap and the critic's loss by noise level, the discriminator's calibration and the weights of a density ratio appear here, where a recipe has them."
HINT = "Start trains a student in a process of its own: closing the page does not end it."


@dataclass
class Page:
    """What the page shows already, so that nothing is drawn twice."""

    drawn: tuple = ()
    healthy: float = 0.0  # when the players' health was drawn

    def __deepcopy__(self, memo: dict) -> Page:
        return Page()  # every page starts with its own


@dataclass
class Door:
    """How another tab asks for a run: values of space, teacher and recipe, then what `_formed` returns."""

    controls: list[Any]


def build(tab: gr.Tab, idle_seconds: float) -> Door:
    """Lay `tab` out and connect it; nothing is read from the run folders until it is opened."""
    space = "eight_gaussians" if "eight_gaussians" in session.spaces() else next(iter(session.spaces()))
    names, known = _models(space), [recipe.name for recipe in recipes()]
    page = gr.State(Page(), time_to_live=idle_seconds)
    with gr.Row(elem_id="train-asked", elem_classes="asked-row"):
        where = _plain(gr.Dropdown(list(session.spaces()), value=space, label="Space", filterable=False, min_width=130))
        teacher = _plain(gr.Dropdown(names, value=names[0], label="Teacher", filterable=False, min_width=130))
        recipe = _plain(gr.Dropdown(known, value=FIRST, label="Recipe", filterable=False, min_width=130, elem_id="recipe"))
        seconds = _plain(gr.Number(60, label="Seconds of training", min_width=90, elem_id="train-seconds"))
        seed = _plain(gr.Number(0, label="Seed", min_width=70))
        name = _plain(gr.Textbox("", label="Name", placeholder="recipe and number", max_lines=1, min_width=130))
        begin = gr.Button("Start", variant="primary", elem_id="start-run", min_width=80, scale=0)
    with gr.Accordion("Switches of the recipe", open=False, elem_id="switches"):
        about = gr.HTML(_about(space, names[0], FIRST), container=False, padding=False)
        shown = _form(space, names[0], FIRST)
        with gr.Row(elem_classes="switch-row"):
            numbers = [_plain(gr.Textbox(**field, max_lines=1, min_width=120)) for field in shown[:NUMBERS]]
        with gr.Row(elem_classes="switch-row"):
            flags = [_plain(gr.Checkbox(**field, min_width=120)) for field in shown[NUMBERS:]]
    said = gr.HTML(pages.say(HINT), elem_id="train-said", container=False, padding=False)
    with gr.Row(elem_id="run-row", elem_classes="asked-row"):
        chosen = _plain(gr.Dropdown([], value=None, label="Run", filterable=False, min_width=150, elem_id="run"))
        pause = gr.Button("Pause", elem_id="pause-run", interactive=False, min_width=80, scale=0)
        resume = gr.Button("Resume", elem_id="resume-run", interactive=False, min_width=80, scale=0)
        stop = gr.Button("Stop", elem_id="stop-run", interactive=False, min_width=80, scale=0)
        loss = _plain(gr.Dropdown([], value=None, label="Loss", filterable=False, min_width=110))
        metric = _plain(gr.Dropdown([], value=None, label="Metric", filterable=False, min_width=110))
        axis = _plain(gr.Dropdown(list(AXES), value="step", label="Against", filterable=False, min_width=100))
    overlaid = _plain(gr.CheckboxGroup([], value=[], label="Runs overlaid", elem_id="runs-overlaid", visible=False))
    status = gr.HTML(_nothing(), elem_id="run-status", container=False, padding=False)
    with gr.Row(elem_id="run-curves", elem_classes="plots"):
        losses = gr.Plot(visible=False, show_label=False, container=False, elem_id="run-losses")
        metrics = gr.Plot(visible=False, show_label=False, container=False, elem_id="run-metrics")
    samples = gr.HTML("", elem_id="run-samples", container=False, padding=False)
    opened = gr.State(False)
    with gr.Accordion("Health of critic and discriminator", open=False, elem_id="run-health") as health:
        ailing = gr.HTML(pages.note(NO_HEALTH), container=False, padding=False)
        with gr.Row(elem_classes="plots"):
            panels = {
                panel: gr.Plot(visible=False, show_label=False, container=False, elem_id=f"health-{panel}") for panel in PANELS
            }
    timer = gr.Timer(EVERY, active=False)

    watched = [page, chosen, overlaid, loss, metric, axis, opened]
    parts = {
        "chosen": chosen, "overlaid": overlaid, "loss": loss, "metric": metric, "status": status, "losses": losses, "metrics": metrics,
        "samples": samples, "pause": pause, "resume": resume, "stop": stop, "timer": timer, "ailing": ailing, **panels,
    }  # fmt: skip
    outputs = list(parts.values())
    look = functools.partial(_look, parts)
    gr.on([tab.select, chosen.input, overlaid.input, loss.input, metric.input, axis.input],
          functools.partial(look, anew=True), watched, outputs, **_light("runs"))  # fmt: skip
    timer.tick(look, watched, outputs, **_light())
    for event, state in ((health.expand, True), (health.collapse, False)):
        event(lambda state=state: state, None, opened, **_light()).then(
            functools.partial(look, anew=True), watched, outputs, **_light()
        )
    form = [about, *numbers, *flags]
    moved = where.input(_moved, where, teacher, **_light())
    for event in (moved.then, teacher.input, recipe.input):
        event(_formed, [where, teacher, recipe], form, **_light())
    asked = [where, teacher, recipe, seconds, seed, name, *numbers, *flags]
    started = begin.click(functools.partial(_start, chosen, overlaid, said), [*asked, overlaid], [said, chosen, overlaid],
                          **_light("start_run"))  # fmt: skip
    told = [
        button.click(functools.partial(_tell, word), chosen, said, **_light(f"{word}_run"))
        for word, button in (("pause", pause), ("resume", resume), ("stop", stop))
    ]
    for event in (started, *told):
        event.then(functools.partial(look, anew=True), watched, outputs, **_light())
    return Door([where, teacher, recipe, *form])


def _light(name: str | None = None) -> dict[str, Any]:
    where = {"api_name": name} if name else {"api_visibility": "private"}
    return {"concurrency_id": "training", "concurrency_limit": 8, "show_progress": "hidden", **where}


def _plain(component: Any) -> Any:
    """Take what comes as it is: what is wrong with it is said in one sentence."""
    component.preprocess = lambda payload: payload
    return component


def _told(error: Exception) -> str:
    if isinstance(error, WorkbenchError):
        return pages.error(str(error))
    log.exception("the Distill tab could not answer", exc_info=error)
    return pages.failed(error)


# ---- what is asked ------------------------------------------------------------------------------------------------------


def _switches(space: str, teacher: str, recipe: str) -> dict[str, tuple[type, Any]]:
    """Switches of the form in its order: numbers and words, then yes or no; `steps` is the budget's."""
    entry = session.entry_of(space, teacher)
    found = training.switches(recipe, session.shape_of(entry) or None, fresh=entry.source == "analytic")
    found.pop("steps", None)
    numbers = [(key, one) for key, one in found.items() if one[0] is not bool][:NUMBERS]
    return dict([*numbers, *[(key, one) for key, one in found.items() if one[0] is bool][:FLAGS]])


def _form(space: str, teacher: str, recipe: str) -> list[dict[str, Any]]:
    """Label, value and visibility of every field; an empty number is the default, or left open where there is none."""
    known = _switches(space, teacher, recipe)
    halves = []
    for flag, most in ((False, NUMBERS), (True, FLAGS)):
        found = [(key.replace("_", " "), value) for key, (kind, value) in known.items() if (kind is bool) == flag]
        if flag:
            made = [{"label": name, "value": value, "visible": True} for name, value in found]
        else:
            texts = [(name, "" if value is None else str(value)) for name, value in found]
            made = [{"label": name, "value": text, "placeholder": text or "open", "visible": True} for name, text in texts]
        halves += made + [{"label": "", "value": None if flag else "", "visible": False}] * (most - len(made))
    return halves


def _about(space: str, teacher: str, recipe: str) -> str:
    chosen = get(recipe)
    wrong = misfits(chosen, session.load(session.entry_of(space, teacher).name))
    told = pages.note(f"It does not fit this teacher: {'; '.join(wrong)}.", wrong=True) if wrong else ""
    return pages.note(f"{chosen.summary} ({chosen.paper})") + told


def _models(space: str) -> list[str]:
    """What can be distilled or adapted: the teachers of a space, then its students, which some recipes start from."""
    found = laboratory.teachers(space)
    return [*found, *(entry.name for entry in session.spaces()[space] if entry.name not in found)]


def _moved(space: Any) -> dict:
    names = _models(space) if space in session.spaces() else []
    return gr.update(choices=names, value=names[0] if names else None)


def _formed(space: Any, teacher: Any, recipe: Any) -> list:
    try:
        return [_about(space, teacher, recipe), *(gr.update(**field) for field in _form(space, teacher, recipe))]
    except Exception as error:
        return [_told(error), *[gr.skip()] * (NUMBERS + FLAGS)]


def wanted(space: Any, teacher: Any, recipe: Any, values: Any) -> dict[str, Any]:
    """The switches that differ from what the recipe would take anyway.

    Raises:
        WorkbenchError: for what is no number where one is wanted, or an unknown space, teacher or recipe.
    """
    if not isinstance(recipe, str):
        raise unknown("recipe", str(recipe)[:60], [one.name for one in recipes()])
    known = _switches(str(space), str(teacher), recipe)
    numbers = [key for key, (kind, _) in known.items() if kind is not bool]
    flags = [key for key, (kind, _) in known.items() if kind is bool]
    given = dict(zip(numbers, values[:NUMBERS], strict=False)) | dict(zip(flags, values[NUMBERS:], strict=False))
    return training.changed(known, given)


def _start(chosen: Any, overlaid: Any, said: Any, space: Any, teacher: Any, recipe: Any, seconds: Any, seed: Any, name: Any, *rest: Any) -> dict:  # fmt: skip
    try:
        *values, shown = rest
        options = wanted(space, teacher, recipe, values)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= MOST_SECONDS:
            raise WorkbenchError(f"the seconds of training are {str(seconds)[:40]!r}, but must be from 1 to {MOST_SECONDS}.")
        run = training.start(teacher, recipe, seconds=seconds, seed=seed, name=str(name or "").strip() or None, options=options)
        names = [one.name for one in training.runs()][:MOST_LISTED]
        again = [one for one in shown or [] if one in names][: MOST_SHOWN - 1]
        return {
            said: pages.say(f"Started {run.name}."),
            chosen: gr.update(choices=names, value=run.name),
            overlaid: gr.update(choices=names, value=[run.name, *again], visible=True),
        }
    except Exception as error:
        return {said: _told(error)}


def _tell(word: str, name: Any) -> str:
    try:
        getattr(training.open_run(str(name or "")), word)()
        return pages.say({"pause": "Pausing", "resume": "Resuming", "stop": "Stopping"}[word] + f" {name}.")
    except Exception as error:
        return _told(error)


# ---- what is shown ------------------------------------------------------------------------------------------------------


def _look(
    parts: dict[str, Any], page: Page, name: Any, shown: Any, loss: Any, metric: Any, axis: Any, opened: Any, anew: bool = False
) -> dict[Any, Any]:
    """Read the run folders and draw what has changed."""
    try:
        return _seen(parts, page, name, shown or [], loss, metric, axis if axis in AXES else "step", bool(opened), anew)
    except Exception as error:
        return {parts["status"]: _told(error), parts["timer"]: gr.Timer(active=False)}


def _seen(parts: dict, page: Page, name: Any, shown: list, loss: Any, metric: Any, axis: str, opened: bool, anew: bool) -> dict:
    found = {run.name: run for run in training.runs()[:MOST_LISTED]}
    if not found:
        return {parts["timer"]: gr.Timer(active=False), parts["status"]: _nothing()}
    name = name if name in found else next(iter(found))
    shown = [one for one in found if one in shown or one == name][:MOST_SHOWN]
    states = {one: found[one].state(history=False) for one in shown}
    live = any(state.name in ("preparing", "running") for state in states.values())
    key = (name, *((one, state.name, state.sentence, state.step) for one, state in states.items()))
    if key == page.drawn and not anew:
        return {parts["timer"]: gr.Timer(active=live)}
    if any(state.model for state in states.values()):
        session.refresh()
    page.drawn, state = key, states[name]
    palette = views.colors(shown)
    update = {
        parts["chosen"]: gr.update(choices=list(found), value=name),
        parts["overlaid"]: gr.update(choices=list(found), value=shown, visible=len(found) > 1),
        parts["status"]: _status(states, palette, found),
        parts["samples"]: _pictures(found[name], state, palette[name]),
        parts["pause"]: gr.update(interactive=state.name in ("preparing", "running")),
        parts["resume"]: gr.update(interactive=state.name in ("paused", "stopped", "failed")),
        parts["stop"]: gr.update(interactive=state.name in ("preparing", "running", "paused")),
        parts["timer"]: gr.Timer(active=live),
    }
    full = {one: found[one].state() for one in shown}
    for what, plot, given, first, rows, smooth in (
        ("loss", "losses", loss, LOSS, {one: state.losses for one, state in full.items()}, 0.9),
        ("metric", "metrics", metric, METRIC, {one: state.metrics for one, state in full.items()}, 0.0),
    ):
        known = numbers_of(rows)
        number = given if given in known else next((one for one in (*first, *known) if one in known), None)
        update[parts[what]] = gr.update(choices=known, value=number)
        figure = None if number is None else training_curves(rows, number, axis, smooth, palette)
        update[parts[plot]] = gr.update(value=figure, visible=figure is not None)
    if opened and (anew or not live or time.monotonic() - page.healthy > HEALTH):
        page.healthy = time.monotonic()
        drawn = views.health(full[name].losses, axis)
        update |= {parts[panel]: gr.update(value=drawn.get(panel), visible=panel in drawn) for panel in PANELS}
        update[parts["ailing"]] = pages.note(NO_HEALTH) if not drawn else ""
    return update


def _nothing() -> str:
    return '<div class="empty wide">Losses, metrics and samples of your runs appear here.</div>'


def _status(states: dict, palette: dict, found: dict) -> str:
    """One line a run: what it is, where it is."""
    lines = []
    for name, state in states.items():
        asked = found[name].request
        wrong = " wrong" if state.name == "failed" else ""
        lines.append(
            f'<tr><th>{pages.chip(palette[name])}{escape(name)}</th><td class="told">{escape(asked["recipe"])} of {escape(asked["teacher"])}</td>'
            f'<td class="state" data-state="{state.name}">{state.name}</td>'
            f'<td class="told"><span class="ran{wrong}">{escape(state.sentence)}</span>{_warned(state)}</td></tr>'
        )
    return f'<div class="scroll"><table class="figures runs"><tbody>{"".join(lines)}</tbody></table></div>'


def _warned(state: training.State) -> str:
    return f'<div class="ran wrong" role="alert">{escape(state.warning)}</div>' if state.warning else ""


def _pictures(run: training.Run, state: training.State, color: str) -> str:
    student, teacher, step = run.samples()
    teacher = teacher if student is None or teacher is None else teacher[: len(student)]
    told = [
        (f"{run.name}, step {step}", student, color),
        (f"{run.request['teacher']}, same noise", teacher, views.style.PALETTE[0]),
    ]
    made = ""
    for text, x, ink in told:
        if x is None:
            continue
        crisp = " crisp" if x.ndim == 4 else ""
        picture = views.image_grid(x, columns=4, size=400) if x.ndim == 4 else _points(run, x, ink)
        if picture is not None:
            made += (
                f'<figure><img class="{crisp}" alt="{escape(text)}" src="{data_uri(picture)}">'
                f"<figcaption>{pages.chip(ink)}{escape(text)}, n = {len(x)}</figcaption></figure>"
            )
    return f'<div class="seen">{made}</div>' if made else ""


def _points(run: training.Run, x: Any, color: str) -> Any:
    if tuple(x.shape[1:]) != (2,):
        return None  # nothing shows a point of 64 numbers
    space = run.request["space"]
    density = work.density(space, session.NONE) if space in session.spaces() else None
    return views.points_image(None, x, density, color, size=400)
