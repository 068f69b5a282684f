"""What lies below the pictures: one sample, two columns over one another, how samples move, sweeps, and what to take away."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from apps import live, pages, session, sweeps, viewer, work
from apps.live import MOST_COLUMNS, Parts, Shown
from workbench import views
from workbench.errors import WorkbenchError

log = logging.getLogger("workbench.app")
NOTHING = "There is no finished comparison here yet: press Generate first."
COMMAND, CITED = "The same as a command", "What to cite (BibTeX)"
FORMATS = ("report (HTML)", "pictures (PNG)", "denoising (GIF)", "table (CSV)")


def build(parts: Parts) -> list[Any]:
    """Lay out the tabs beside the table and connect them; returns what `texts` writes to."""
    one_sample(parts)
    with gr.Tab("A over B", id="over"):
        viewer.over()
    motion(parts)
    sweeps.build(parts)
    return take_away(parts)


def calm(**more: Any) -> dict[str, Any]:
    """Options of an event that redraws something small."""
    return {
        "concurrency_id": "details",
        "concurrency_limit": 2,
        "api_visibility": "private",
        "show_progress": "minimal",
        **more,
    }


def told(error: Exception) -> str:
    """One sentence for whatever went wrong."""
    if isinstance(error, WorkbenchError):
        return pages.error(str(error))
    log.exception("a detail could not be shown", exc_info=error)
    return pages.failed(error)


# ---- one sample -------------------------------------------------------------------------------------------------------


def one_sample(parts: Parts) -> None:
    """Film strip, place in the principal plane or on the density, and when this sample is decided."""
    with gr.Tab("One sample", id="sample"):
        detail = gr.HTML(pages.no_detail(), elem_id="detail", container=False, padding=False)
        with gr.Row(elem_id="sample-asked"):
            number = gr.Number(0, label="Sample", minimum=0, precision=None, min_width=90, scale=0)
            number.preprocess = lambda payload: payload
            show = gr.Button("Open", elem_id="open-sample", min_width=80, scale=0)
            pin = gr.Button("Pin it", elem_id="pin-sample", min_width=80, scale=0)
        strip = gr.HTML(visible=False, elem_id="strip", container=False, padding=False)
        with gr.Row(elem_id="clouds", elem_classes="plots"):
            clouds = [_plot() for _ in range(MOST_COLUMNS)]
        with gr.Row(elem_id="curves", elem_classes="plots"):
            curves = [_plot() for _ in range(3)]
    drawn = [detail, number, strip, *clouds, *curves]
    show.click(open_sample, [parts.shown, number], drawn, **calm(show_progress_on=detail))
    number.submit(open_sample, [parts.shown, number], drawn, **calm(show_progress_on=detail))
    pin.click(None, None, None, js="() => window.workbench.pin()", api_visibility="private")
    for picture in parts.pictures:
        picture.select(_clicked, parts.shown, drawn, **calm(show_progress_on=detail, trigger_mode="always_last"))
        picture.select(None, None, None, js=OPEN_TAB, api_visibility="private")


OPEN_TAB = """() => { // on a narrow page the tab may stand in the menu behind the last one
  const named = (selector) => [...document.querySelectorAll(selector)].find((one) => one.textContent.trim() === "One sample" && !one.closest(".visually-hidden"));
  const tab = named("#below [role=tab]");
  if (tab) return void tab.click();
  document.querySelector("#below .overflow-menu > button")?.click();
  requestAnimationFrame(() => named("#below .overflow-dropdown button")?.click());
}"""


def _plot() -> gr.Plot:
    return gr.Plot(visible=False, show_label=False, container=False, min_width=260)


def _clicked(shown: Shown | None, event: gr.EventData) -> list[Any]:
    data = event._data if isinstance(event._data, dict) else {}
    return open_sample(shown, data.get("sample"))


def open_sample(shown: Shown | None, j: Any) -> list[Any]:
    """The trajectory of sample j in every column: heading, number, strip, clouds and curves, in the page's order."""
    hidden = gr.update(value=None, visible=False)
    nothing = [hidden] * (4 + MOST_COLUMNS)
    try:
        if shown is None:
            return [pages.error(NOTHING), gr.skip(), *nothing]
        setup = shown.setup
        j = session.check_count("the sample", j, 0, setup.count - 1)
        return [pages.opened(j, setup), j, *_sample_figures(setup, j)]
    except Exception as error:
        return [told(error), gr.skip(), *nothing]


def _sample_figures(setup: session.Setup, j: int) -> list[Any]:
    hidden = gr.update(value=None, visible=False)
    trajectories, place = work.one_sample(setup, j)
    columns = work.columns_of(setup)
    palette = live.palette_of(setup)
    clouds, strip, plane = [hidden] * MOST_COLUMNS, hidden, hidden
    if session.is_image(setup.space):
        seen = {column.label: trajectories[column.label].decoded(column.model) for column in columns}
        strip = _show(pages.strip(seen, place, palette))
        moving = {label: trajectory for label, trajectory in trajectories.items() if len(trajectory) > 1}
        plane = _show(views.principal(moving, place, name=f"sample {j}"))
    else:
        density = work.density(setup.space, setup.label)
        for k, (name, trajectory) in enumerate(trajectories.items()):
            clouds[k] = _show(views.particles(trajectory, name, density, place, color=palette[name], name=f"sample {j}"))
    schedule = views.log_snr({column.label: column.plan() for column in columns})
    decided = views.target_distance(trajectories, place, f"sample {j}")
    return [strip, *clouds, _show(decided), _show(schedule), plane]


def _show(figure: Any) -> Any:
    return gr.update(value=figure, visible=True)


# ---- all samples ------------------------------------------------------------------------------------------------------


def motion(parts: Parts) -> None:
    """How all samples move: where they are decided, how different they are, how straight they go, what each plan reads."""
    with gr.Tab("How they move", id="motion") as tab:
        with gr.Row(elem_id="motion-asked"):
            against = gr.Radio(
                [("step", "step"), ("time t", "t"), ("half log-SNR", "log_snr")],
                value="step",
                label="Against",
                scale=0,
                min_width=230,
            )
            draw = gr.Button("Draw for what is shown", elem_id="draw-motion", min_width=150, scale=0)
        said = gr.HTML(pages.say("Drawn when this tab opens."), elem_id="motion-said", container=False, padding=False)
        with gr.Row(elem_classes="plots", elem_id="motion-plots"):
            plots = [_plot() for _ in range(5)]
        with gr.Row(elem_classes="plots", elem_id="plan-plots"):
            tables = [_plot() for _ in range(MOST_COLUMNS)]
    outputs = [said, *plots, *tables]
    for event in (tab.select, draw.click, against.input):
        event(_move, [parts.shown, against], outputs, **calm(show_progress_on=said, trigger_mode="always_last"))


def _move(shown: Shown | None, against: str) -> Iterator[list[Any]]:
    still = [gr.skip()] * (5 + MOST_COLUMNS)
    try:
        if shown is None:
            yield [pages.error(NOTHING), *still]
            return
        setup, found = shown.setup, None
        columns = work.columns_of(setup)
        for step in work.recorded(setup):
            if isinstance(step, str):
                yield [pages.say(step), *still]
            else:
                found = step
        n = len(next(iter(found.values())).final)
        yield [
            pages.say(f"{n} of {setup.count} samples, seed {setup.seed}.", done=True),
            *_motion_figures(columns, found, against),
        ]
    except Exception as error:
        yield [told(error), *still]


def _motion_figures(columns: Any, found: dict[str, Any], against: str) -> list[Any]:
    paths = {column.label: column.model.path for column in columns}
    plans = {column.label: column.plan() for column in columns}
    several = len(next(iter(found.values())).final) > 1
    figures = [
        views.target_distance(found, against=against, paths=paths),
        views.target_diversity(found, against=against, paths=paths) if several else None,
        views.motion(found, paths),
        views.principal(found) if several else None,
        views.schedules(plans),
    ]
    tables = [
        views.plan_table(plan).update_layout(title_text=f"What does one update of {label} read?")
        for label, plan in plans.items()
    ]
    tables += [None] * (MOST_COLUMNS - len(tables))
    return [gr.update(value=figure, visible=figure is not None) for figure in (*figures, *tables)]


# ---- to take away -----------------------------------------------------------------------------------------------------


def take_away(parts: Parts) -> list[Any]:
    """Link, command, citations, and files of what is shown."""
    with gr.Tab("Take away", id="share") as tab:
        said = gr.HTML(
            pages.say("A link, a command and files of what is shown."), elem_id="share-said", container=False, padding=False
        )
        with gr.Row():
            copy = gr.Button("Copy the link to this comparison", elem_id="copy-link", scale=0, min_width=240)
            what = gr.Dropdown(list(FORMATS), value=FORMATS[0], label="File", filterable=False, scale=0, min_width=190)
            make = gr.Button("Make the file", variant="primary", elem_id="make-file", scale=0, min_width=130)
        what.preprocess = lambda payload: payload
        file = gr.File(label="Ready to save", visible=False, interactive=False, elem_id="made-file", height=80)
        with gr.Column(elem_id="share"):
            command = gr.HTML(pages.text(COMMAND, "", 3), elem_id="command", container=False, padding=False)
            cited = gr.HTML(pages.text(CITED, "", 10), elem_id="cite", container=False, padding=False)
    copy.click(None, None, said, js=COPY, api_visibility="private")
    tab.select(texts, parts.shown, [said, command, cited], **calm(show_progress="hidden"))
    make.click(_file, [parts.shown, what], [said, file], **calm(show_progress_on=said))
    return [said, command, cited]


COPY = """async () => {
  try { await navigator.clipboard.writeText(location.href); return '<div class="say" role="status">The link is in the clipboard.</div>'; }
  catch { return '<div class="say" role="status">The address line of this page is the link: copy it from there.</div>'; }
}"""


def texts(shown: Shown | None) -> list[Any]:
    from workbench.cite import bibtex
    from workbench.report import command_of

    try:
        if shown is None:
            return [pages.error(NOTHING), gr.skip(), gr.skip()]
        columns = [replace(c, label=None) if c.label == c.source else c for c in work.columns_of(shown.setup)]
        command = command_of(columns, shown.setup.count, work.condition(shown.setup), shown.setup.seed, "report.html")
        written = pages.text(COMMAND, command, 3), pages.text(CITED, bibtex(*columns), 10)
        return [pages.say("A link, a command and files of what is shown."), *written]
    except Exception as error:
        return [told(error), gr.skip(), gr.skip()]


def _file(shown: Shown | None, what: Any) -> Iterator[list[Any]]:
    try:
        if shown is None:
            raise WorkbenchError(NOTHING)
        if not isinstance(what, str) or what not in FORMATS:
            raise session.unknown("file", str(what)[:60], FORMATS)
        yield [pages.say("Running the comparison again for the file."), gr.update(visible=False)]
        setup = shown.setup
        with tempfile.TemporaryDirectory(prefix="workbench-") as folder:  # Gradio takes a copy before it asks for more
            place = Path(folder) / _name(setup, what)
            work.write(setup, place)
            size = place.stat().st_size
            yield [pages.say(f"{place.name}: {size / 1e6:.2f} MB.", done=True), gr.update(value=str(place), visible=True)]
    except Exception as error:
        yield [told(error), gr.skip()]


def _name(setup: session.Setup, what: str) -> str:
    ending = {FORMATS[0]: "html", FORMATS[1]: "png", FORMATS[2]: "gif", FORMATS[3]: "csv"}[what]
    return f"{setup.space}-seed-{setup.seed}.{ending}"
