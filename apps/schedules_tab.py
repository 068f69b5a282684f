"""The Schedules tab: schedules on one axis, times by hand, what each costs in error, a plan that learns, and plans to keep."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from apps import laboratory, pages, plan_pages, session
from apps.laboratory import FITTED, HAND, LIMITS, MOST_STEPS, Asked, Page
from workbench import views
from workbench.errors import WorkbenchError
from workbench.samplers import SAMPLERS
from workbench.views.fit import fit_curve

log = logging.getLogger("workbench.app")
SCRIPT = Path(__file__).with_name("board.js")
FIRST = [HAND, "uniform", "karras", "logsnr"]
LEARN = [("coefficients", "rows"), ("times", "times")]
EVERY = 0.3  # seconds between two words of progress
BOARD = """
<div class="board-top"><div class="segments" role="group" aria-label="What the axis shows">
<button type="button" data-axis="t" aria-pressed="true">time t</button><button type="button" data-axis="snr" aria-pressed="false">log-SNR</button>
<button type="button" data-axis="size" aria-pressed="false">step size</button></div>
<span class="hint">Drag the large points, or Tab to one and use ↑ ↓.</span><output aria-live="off"></output></div>
<svg role="group" aria-label="Schedules on one axis" width="100%"></svg><div class="legend"></div>
"""


def head() -> str:
    """For the page's <head>: the script of the axis."""
    return f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>"


def build(tab: gr.Tab, idle_seconds: float) -> None:
    """Lay `tab` out and connect it; nothing is drawn until it is opened."""
    space = "eight_gaussians" if "eight_gaussians" in session.spaces() else next(iter(session.spaces()))
    page = gr.State(Page(), time_to_live=idle_seconds, delete_callback=_gone)
    with gr.Row(elem_id="plan-asked", elem_classes="asked-row"):
        where = _plain(gr.Dropdown(list(session.spaces()), value=space, label="Space", filterable=False, min_width=130))
        names = laboratory.teachers(space)
        teacher = _plain(gr.Dropdown(names, value=names[0], label="Teacher", filterable=False, min_width=130))
        sampler = _plain(gr.Dropdown(list(SAMPLERS), value="dpmpp_2m", label="Sampler", filterable=False, min_width=120))
        steps = _plain(gr.Slider(1, MOST_STEPS, 6, step=1, label="Steps", min_width=150, elem_id="plan-steps", buttons=[]))
        seed = _plain(gr.Number(0, label="Seed", precision=None, min_width=70))
    offered = laboratory.offered(space, names[0])
    overlaid = _plain(gr.CheckboxGroup(offered, value=FIRST, label="Overlay", elem_id="overlaid"))
    with gr.Row(elem_id="hand-row", elem_classes="asked-row"):
        start = laboratory.spell([1 - k / 6 for k in range(7)])
        hand = _plain(gr.Textbox(start, label="Times by hand, falling from 1 (noise) to 0 (data); Enter draws", max_lines=1, scale=4, min_width=240, elem_id="hand"))  # fmt: skip
        chosen = _plain(
            gr.Dropdown(FIRST, value=HAND, label="Show", filterable=False, scale=1, min_width=130, elem_id="shown-plan")
        )
        copy = gr.Button("Shape it by hand", elem_id="copy-plan", scale=0, min_width=130)
    said = gr.HTML(pages.say("Drawn when this tab opens."), elem_id="plan-said", container=False, padding=False)
    with gr.Row(elem_id="bench"):
        board = gr.HTML(
            None, html_template=BOARD, js_on_load="window.workbenchBoard.mount(element, props, watch, trigger)", elem_id="board",
            apply_default_css=False, container=False, padding=False, min_width=320,
        )  # fmt: skip
        table = gr.HTML("", elem_id="plan-errors", container=False, padding=False, min_width=280)
    with gr.Row(elem_id="plan-seen"):
        samples = gr.HTML("", elem_id="plan-samples", container=False, padding=False, min_width=300)
        rows = gr.Plot(visible=False, show_label=False, container=False, min_width=300, elem_id="plan-rows")
    with gr.Row(elem_id="fit-row", elem_classes="asked-row"):
        learn = _plain(
            gr.CheckboxGroup(LEARN, value=["rows", "times"], label="Learn, from the plan shown", min_width=230, scale=0)
        )
        limit = _plain(gr.Dropdown(list(LIMITS), value="15 seconds", label="At most", filterable=False, min_width=130, scale=0))
        fit = gr.Button("Fit", variant="primary", elem_id="fit", min_width=70, scale=0)
        stop = gr.Button("Stop", interactive=False, elem_id="stop-fit", min_width=70, scale=0)
        name = _plain(
            gr.Textbox(
                "", label="Save the plan shown as", placeholder="my-plan", max_lines=1, min_width=150, elem_id="plan-name"
            )
        )
        replace = _plain(gr.Checkbox(False, label="replace", min_width=90, scale=0, elem_id="plan-replace"))
        save = gr.Button("Save", elem_id="save-plan", min_width=70, scale=0)
    learned = gr.HTML(
        pages.say("Fit learns from the plan shown and draws every report."), elem_id="fit-said", container=False, padding=False
    )
    curve = gr.Plot(visible=False, show_label=False, container=False, elem_id="fit-curve")

    controls = [where, teacher, sampler, steps, seed, overlaid, hand, chosen]
    drawn = [board, said, table, samples, rows, chosen, hand, steps]
    parts = dict(zip(("board", "said", "table", "samples", "rows", "chosen", "hand", "steps"), drawn, strict=True))
    drawing = functools.partial(_drawn, parts)
    gr.on(
        [tab.select, sampler.input, seed.input, overlaid.input, chosen.input],
        drawing,
        [page, *controls],
        drawn,
        **_light("schedules"),
    )
    steps.input(functools.partial(_stepped, parts), [page, *controls], drawn, **_light())
    gr.on([hand.submit, hand.blur], functools.partial(_typed, parts), [page, *controls], drawn, **_light("times"))

    def dragged(
        event: gr.EventData, page: Page, *values: Any
    ) -> Iterator[dict]:  # Gradio finds an event by a plain function's hint
        yield from _dragged(parts, event._data, page, *values)

    board.select(dragged, [page, *controls], drawn, trigger_mode="multiple", **_light())
    copy.click(functools.partial(_copied, parts), [page, *controls], drawn, **_light())
    moved = where.input(_moved, where, [teacher, overlaid], **_light())
    for event in (moved.then, teacher.input):
        event(drawing, [page, *controls], drawn, **_light())
    fitted = {**parts, "learned": learned, "curve": curve, "fit": fit, "stop": stop}
    heavy = {"concurrency_id": "run", "concurrency_limit": 2, "show_progress": "hidden"}
    done = fit.click(
        functools.partial(_fit, fitted), [page, *controls, learn, limit], list(fitted.values()), api_name="fit", **heavy
    )
    done.then(drawing, [page, *controls], drawn, **_light())
    stop.click(_stop, page, None, **_light("stop_fit"))
    save.click(_save, [page, *controls, name, replace], [learned, overlaid], **_light("save_plan"))
    tab.select(_offered, [where, teacher, overlaid], overlaid, **_light())


def _light(name: str | None = None) -> dict[str, Any]:
    where = {"api_name": name} if name else {"api_visibility": "private"}
    return {"concurrency_id": "plans", "concurrency_limit": 8, "show_progress": "hidden", **where}


def _plain(component: Any) -> Any:
    """Take what comes as it is: `laboratory.check` says what is wrong with it."""
    component.preprocess = lambda payload: payload
    return component


def _told(error: Exception) -> str:
    if isinstance(error, WorkbenchError):
        return pages.error(str(error))
    log.exception("the Schedules tab could not answer", exc_info=error)
    return pages.failed(error)


def _gone(page: Page) -> None:
    page.fit += 1
    page.asked += 1


# ---- drawing ------------------------------------------------------------------------------------------------------------


def _drawn(
    parts: dict[str, Any], page: Page, *values: Any, light: bool = False, ack: Any = None, **first: Any
) -> Iterator[dict]:
    """Draw what the controls ask for; `first` goes out with the first update, and `light` leaves out what is slow to draw."""
    page.asked += 1
    number = page.asked
    try:
        asked = laboratory.check(*values, page)
        yield from _answer(parts, page, asked, number, light, ack, {parts[key]: value for key, value in first.items()})
    except Exception as error:
        if page.asked == number:
            yield {parts["said"]: _told(error), **{parts[key]: value for key, value in first.items()}}


def _answer(parts: dict, page: Page, asked: Asked, number: int, light: bool, ack: Any, first: dict) -> Iterator[dict]:
    plans, wrong = {}, {}
    for name in asked.names:
        try:
            plans[name] = laboratory.plan_of(asked, name, page)
        except WorkbenchError as error:
            wrong[name] = str(error)
    shown = gr.update(choices=list(asked.names), value=asked.chosen)
    if ack is None:  # after a drag the page has drawn its points already, and waits for all the rest
        yield {parts["board"]: laboratory.board(asked, plans), parts["chosen"]: shown, **first}
    found, last = {}, time.monotonic()
    for step, solution in laboratory.reference(asked):
        if page.asked != number:
            return
        if solution is None and time.monotonic() > last + EVERY:
            last = time.monotonic()
            yield {parts["said"]: pages.say(f"Solving the teacher's flow finely from the same noise: step {step}.")}
    for name in sorted(plans, key=lambda name: name != asked.chosen):
        for result in laboratory.solving(asked, plans[name], solution):
            if page.asked != number:
                return
            if result is None and time.monotonic() > last + EVERY:
                last = time.monotonic()
                yield {parts["said"]: pages.say(f"Running {name}.")}
        found[name] = result
        if name == asked.chosen:
            yield {parts["samples"]: plan_pages.pictures(asked, result, solution)}
    update = {
        parts["table"]: plan_pages.table(asked, plans, found, wrong),
        parts["said"]: pages.say(plan_pages.summary(found, asked), done=True),
    }
    if not light:
        plan = plans.get(asked.chosen)
        figure = (
            None
            if plan is None
            else views.plan_table(plan).update_layout(
                title_text=f"What does one update read? {escape(asked.chosen)}", height=150 + 26 * plan.evaluations
            )
        )
        update[parts["rows"]] = gr.update(value=figure, visible=figure is not None)
    # once more, since the page may show only the last of several updates that arrive together
    update[parts["board"]] = laboratory.board(asked, plans) | ({} if ack is None else {"ack": ack})
    if ack is not None:
        update |= {parts["chosen"]: shown, **first}
    yield update


def _stepped(parts: dict, page: Page, *values: Any) -> Iterator[dict]:
    """Another number of steps: the curve drawn by hand keeps its shape."""
    page.fit += 1
    try:
        steps = session.check_count("steps", values[3], 1, MOST_STEPS)
        times = laboratory.parse(values[6])
        text = laboratory.spell(laboratory.stretched(times, steps))
    except WorkbenchError as error:
        yield {parts["said"]: _told(error)}
        return
    yield from _drawn(parts, page, *values[:6], text, values[7], hand=text)


def _typed(parts: dict, page: Page, *values: Any) -> Iterator[dict]:
    """A list of times decides the number of steps, and is drawn if it is not yet."""
    try:
        steps = len(laboratory.parse(values[6])) - 1
    except WorkbenchError as error:
        yield {parts["said"]: _told(error)}
        return
    yield from _drawn(parts, page, *values[:3], steps, *values[4:], steps=steps)


def _dragged(parts: dict, data: Any, page: Page, *values: Any) -> Iterator[dict]:
    """A point has moved: what is drawn by hand is shown."""
    data = data if isinstance(data, dict) else {}
    try:
        times = laboratory.parse(", ".join(str(t) for t in data.get("times") or ()))
    except WorkbenchError as error:
        yield {parts["said"]: _told(error)}
        return
    text, done = laboratory.spell(times), bool(data.get("done"))
    yield from _drawn(
        parts, page, *values[:3], len(times) - 1, *values[4:6], text, HAND, light=not done, ack=data.get("n", 0), hand=text
    )


def _copied(parts: dict, page: Page, *values: Any) -> Iterator[dict]:
    """The times of the plan shown become those by hand."""
    try:
        asked = laboratory.check(*values, page)
        plan = laboratory.plan_of(asked, asked.chosen, page)
        if plan.steps > MOST_STEPS:
            raise WorkbenchError(f"this plan has {plan.steps} steps, but at most {MOST_STEPS} are drawn by hand.")
    except Exception as error:
        yield {parts["said"]: _told(error)}
        return
    text, names = laboratory.spell(plan.times), list(dict.fromkeys([*values[5], HAND]))
    yield from _drawn(parts, page, *values[:3], plan.steps, values[4], names, text, HAND, hand=text, steps=plan.steps)


def _moved(space: Any) -> list[Any]:
    """The teachers of another space, and the schedules on their path."""
    if not isinstance(space, str) or space not in session.spaces():
        return [gr.skip(), gr.skip()]
    names = laboratory.teachers(space)
    return [gr.update(choices=names, value=names[0]), gr.update(choices=laboratory.offered(space, names[0]), value=FIRST)]


def _offered(space: str, teacher: str, overlaid: Sequence[str]) -> Any:
    known = laboratory.offered(space, teacher)
    return gr.update(choices=known, value=[name for name in overlaid if name in known])


# ---- fitting and keeping ------------------------------------------------------------------------------------------------


def _fit(parts: dict, page: Page, *values: Any) -> Iterator[dict]:
    """Learn from the plan shown: every report moves its times on the axis and goes on the curve."""
    *controls, learn, limit = values
    idle = {parts["fit"]: gr.update(interactive=True), parts["stop"]: gr.update(interactive=False)}
    page.fit += 1
    number = page.fit
    try:
        asked = laboratory.check(*controls, page)
        if not isinstance(limit, str) or limit not in LIMITS:
            raise session.unknown("limit", str(limit)[:60], LIMITS)
        start = laboratory.plan_of(asked, asked.chosen, page)
        yield {parts["fit"]: gr.update(interactive=False), parts["stop"]: gr.update(interactive=True), parts["learned"]: pages.say("Following the teacher.")}  # fmt: skip
        yield from _learning(parts, page, asked, start, learn or [], LIMITS[limit], lambda: page.fit != number)
        yield idle
    except Exception as error:
        yield {**idle, parts["learned"]: _told(error)}


def _learning(parts: dict, page: Page, asked: Asked, start: Any, learn: list, seconds: float, outdated: Any) -> Iterator[dict]:
    others = {
        name: laboratory.plan_of(asked, name, page) for name in asked.names if name != FITTED and _runs(asked, name, page)
    }
    points, report = [], None
    for one in laboratory.fitting(asked, start, learn, seconds, outdated):
        if isinstance(one, int):
            if report is None:
                yield {parts["learned"]: pages.say(f"Following the teacher: {one} evaluations.")}
            continue
        report = one
        points.append((report.step, report.error))
        told = f"Iteration {report.step} of {report.steps}: error {report.error:.4g} on held-out noise, {report.before:.4g} at the start."
        update = {
            parts["learned"]: pages.say(told),
            parts["curve"]: gr.update(value=fit_curve(points, {"start": report.before}, views.style.PALETTE[2]), visible=True),
        }
        yield {**update, parts["board"]: laboratory.board(asked, others, report.plan)}
    if report is None:
        yield {parts["learned"]: pages.say("Stopped before the first report; nothing was learned.")}
        return
    page.fitted, page.of = report.best, asked.key
    *_, (_, solution) = laboratory.reference(asked)
    scores = {name: _last(laboratory.solving(asked, plan, solution)).error for name, plan in others.items()}
    mine = _last(laboratory.solving(asked, report.best, solution)).error
    best = min(scores, key=scores.get) if scores else None
    than = f", against {scores[best]:.4g} for {best}, the best of the others" if best else ""
    ended = "Stopped" if outdated() else "Fitted"
    text = (
        f"{ended} after {report.step} iterations, {report.seconds:.1f} s: held-out error {report.before:.4g} → {report.after:.4g}; "
        f"on the noise of the table, which it has not seen, {mine:.4g}{than}."
    )
    shown = gr.update(choices=[*others, FITTED], value=FITTED)
    yield {parts["learned"]: pages.say(text, done=True), parts["chosen"]: shown}


def _runs(asked: Asked, name: str, page: Page) -> bool:
    try:
        return bool(laboratory.plan_of(asked, name, page))
    except WorkbenchError:
        return False


def _last(results: Iterator[Any]) -> Any:
    *_, last = results
    return last


def _stop(page: Page) -> None:
    """End the fit within one evaluation of the teacher; what it has learned stays."""
    page.fit += 1


def _save(page: Page, *values: Any) -> list[Any]:
    *controls, name, replace = values
    try:
        asked = laboratory.check(*controls, page)
        text = laboratory.keep(asked, str(name or "").strip(), page, asked.chosen, replace is True)
        return [pages.say(text, done=True), _offered(asked.setup.space, asked.setup.columns[0].model, controls[5])]
    except Exception as error:
        return [_told(error), gr.skip()]
