"""Two sweeps: one sample over classes or seeds for every column, and one student over samplers and schedules."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from apps import details, live, pages, session, work
from apps.live import Parts, Shown
from workbench import views
from workbench.denoiser import decode
from workbench.errors import WorkbenchError
from workbench.views.grid import data_uri, to_uint8

OVER = ("seeds", "classes", "guidance", "steps")
MOST_CELLS = 12
SCALES, STEPS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0), (1, 2, 3, 4, 6, 8, 12, 16, 25)
COUNTS = {"1, 2, 4": (1, 2, 4), "1, 2, 4, 8": (1, 2, 4, 8), "4": (4,), "8, 16": (8, 16)}
SIZES = (200, 500, 1000)


def build(parts: Parts) -> None:
    """Lay out both tabs and connect them."""
    with gr.Tab("Sweep", id="sweep"):
        with gr.Row():
            over = _plain(
                gr.Radio(list(OVER), value="seeds", label="One sample over", scale=0, min_width=330, elem_id="sweep-over")
            )
            number = _plain(gr.Number(0, label="Sample", precision=None, scale=0, min_width=90))
            go = gr.Button("Sweep", variant="primary", elem_id="run-sweep", scale=0, min_width=100)
            stop = gr.Button("Stop", elem_id="stop-sweep", scale=0, min_width=80)
        said = gr.HTML(
            pages.say("Every column draws the same sample, changed in one thing."),
            elem_id="sweep-said",
            container=False,
            padding=False,
        )
        table = gr.HTML("", elem_id="sweep-table", container=False, padding=False)
    running = go.click(_sweep, [parts.shown, over, number], [said, table], **_long("sweep"))
    stop.click(lambda: pages.say("Stopped. What was drawn stays."), None, said, cancels=[running], **details.calm())

    with gr.Tab("Which sampler?", id="which") as tab:
        with gr.Row():
            model = _plain(gr.Dropdown([], label="Model", filterable=False, min_width=160, scale=0))
            counts = _plain(gr.Dropdown(list(COUNTS), value="4", label="Steps", filterable=False, min_width=120, scale=0))
            size = _plain(gr.Dropdown(list(SIZES), value=200, label="Samples", filterable=False, min_width=90, scale=0))
            try_all = gr.Button("Try them all", variant="primary", elem_id="run-which", scale=0, min_width=130)
            end = gr.Button("Stop", elem_id="stop-which", scale=0, min_width=80)
        told = gr.HTML(pages.say(WHICH), elem_id="which-said", container=False, padding=False)
        with gr.Row(elem_classes="plots"):
            found = gr.Plot(visible=False, show_label=False, container=False, min_width=300)
            curve = gr.Plot(visible=False, show_label=False, container=False, min_width=300)
    tab.select(_models, [parts.shown, model], model, **details.calm(show_progress="hidden"))
    trying = try_all.click(_which, [parts.shown, model, counts, size], [told, found, curve], **_long("which"))
    end.click(lambda: pages.say("Stopped. What was measured stays."), None, told, cancels=[trying], **details.calm())


WHICH = "Runs one model with every sampler and schedule that it can take, from the same noise, and measures each."


def _plain(component: Any) -> Any:
    component.preprocess = lambda payload: payload
    return component


def _long(name: str) -> dict[str, Any]:
    return {"concurrency_id": "run", "concurrency_limit": 2, "show_progress": "hidden", "api_name": name}


def _sweep(shown: Shown | None, over: Any, j: Any) -> Iterator[list[Any]]:
    try:
        if shown is None:
            raise WorkbenchError(details.NOTHING)
        if not isinstance(over, str) or over not in OVER:
            raise session.unknown("sweep", str(over)[:60], OVER)
        setup = shown.setup
        j = session.check_count("the sample", j, 0, setup.count - 1)
        heads, setups = _variants(setup, over)
        columns = work.columns_of(setup)
        palette, rows = live.palette_of(setup), [[] for _ in columns]
        for k, column in enumerate(columns):
            for head, changed in zip(heads, setups, strict=True):
                yield [pages.say(f"{column.label}, {over}: {head}."), gr.skip()]
                rows[k].append(_cell(changed, k, j, palette[column.label], f"{column.label}, {head}"))
            yield [gr.skip(), _table(over, heads, [column.label for column in columns], rows, palette)]
        yield [
            pages.say(f"Sample {j}, the same noise {'down each column' if over == 'seeds' else 'in every cell'}.", done=True),
            gr.skip(),
        ]
    except Exception as error:
        yield [details.told(error), gr.skip()]


def _variants(setup: session.Setup, over: str) -> tuple[list[str], list[session.Setup]]:
    if over == "seeds":
        seeds = [(setup.seed + k) % (session.MOST_SEED + 1) for k in range(10)]
        return [f"seed {seed}" for seed in seeds], [replace(setup, seed=seed) for seed in seeds]
    if over == "classes":
        names = session.class_names(setup.space)[:MOST_CELLS]
        if not names:
            raise WorkbenchError(f"the models of {setup.space} know no classes: sweep over seeds instead.")
        return names, [replace(setup, label=name) for name in names]
    if over == "guidance":
        changed = [tuple(column._replace(guidance=scale) for column in setup.columns) for scale in SCALES]
        return [f"{scale:g}" for scale in SCALES], [replace(setup, columns=columns) for columns in changed]
    changed = [tuple(column._replace(steps=steps) for column in setup.columns) for steps in STEPS]
    return [f"{steps} step{'s' * (steps != 1)}" for steps in STEPS], [replace(setup, columns=columns) for columns in changed]


def _cell(setup: session.Setup, k: int, j: int, color: str, told: str) -> str:
    x = decode(work.columns_of(setup)[k].model, work.one_end(setup, k, j))
    if x.dim() == 4:
        picture = to_uint8(x)[0]
    else:
        picture = views.points_image(None, x, work.density(setup.space, setup.label), color, size=148)
    return f'<img alt="{escape(told)}" src="{data_uri(picture)}">'


def _table(over: str, heads: list[str], labels: list[str], rows: list[list[str]], palette: dict[str, str]) -> str:
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    lines = "".join(
        f"<tr><th>{pages.chip(palette[label])}{escape(label)}</th>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for label, row in zip(labels, rows, strict=True)
    )
    return f'<div class="scroll"><table class="sweep"><thead><tr><th>{escape(over)}</th>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _models(shown: Shown | None, before: Any) -> Any:
    """The models on the page, students first."""
    if shown is None:
        return gr.update()
    names = list(dict.fromkeys(setting.model for setting in shown.setup.columns))
    names.sort(key=lambda name: session.entry_of(shown.setup.space, name).role == "teacher")
    return gr.update(choices=names, value=before if before in names else names[0])


def _which(shown: Shown | None, model: Any, counts: Any, size: Any) -> Iterator[list[Any]]:
    from workbench.sweep import sweep

    try:
        if shown is None:
            raise WorkbenchError(details.NOTHING)
        setup = shown.setup
        entry = session.entry_of(setup.space, str(model)[:60])
        if not isinstance(counts, str) or counts not in COUNTS:
            raise session.unknown("set of steps", str(counts)[:60], COUNTS)
        if str(size) not in map(str, SIZES):
            raise session.unknown("number of samples", str(size)[:60], SIZES)
        size = int(size)
        steps, rows = COUNTS[counts], []
        for row in sweep([session.load(entry.name)], None, None, steps, n=size, seed=setup.seed):
            rows.append(row)
            yield [pages.say(f"{len(rows)} tried; {row}."), *_drawn(rows, len(rows) % 6 == 0)]
        yield [pages.say(f"{len(rows)} combinations, n = {size}, seed {setup.seed}.", done=True), *_drawn(rows, True)]
    except Exception as error:
        yield [details.told(error), gr.skip(), gr.skip()]


def _drawn(rows: list[Any], due: bool) -> list[Any]:
    if not due or not any(row.value == row.value for row in rows):
        return [gr.skip(), gr.skip()]
    figures = [views.sampler_map(rows), views.quality(rows)]
    for figure in figures:  # side by side there is room for so many letters
        lines = textwrap.wrap(figure.layout.title.text, 62)
        more = 18 * (len(lines) - 1)
        figure.update_layout(
            title_text="<br>".join(lines), height=figure.layout.height + more, margin_t=figure.layout.margin.t + more
        )
    return [gr.update(value=figure, visible=True) for figure in figures]
