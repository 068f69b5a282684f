"""The Leaderboard tab: every recipe on every space, what it reaches and what it costs; a row leads to its student, or to Distill."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import gradio as gr

from apps import compare_tab, distill_tab, laboratory, links, pages, session
from workbench import views, zoo
from workbench.bench import images
from workbench.bench import recipes as bench
from workbench.errors import WorkbenchError, unknown
from workbench.views.leaderboard import COLUMNS, cells

log = logging.getLogger("workbench.app")
ALL = "all"
KINDS = (ALL, "benchmark", "bundled", "your own")
CLICK = "a click"  # heading of the column that says where a click on the row leads
SEE, TRAIN, TELL = "opens Compare", "opens Distill", "not drawn"
HEADINGS = [*list(COLUMNS)[:2], CLICK, *list(COLUMNS)[2:]]
HINT = f"The column “{CLICK}” says where a click on a row leads; the three dots of a heading sort the table."
UNDRAWN = "Samples of {spaces} cannot be drawn: the app draws points of two numbers and images. A click on such a row tells the command that trains one."
MEANING = (
    "Distance / floor is the sliced Wasserstein distance to exact draws (for images: the Fréchet distance) over the same distance of two "
    "sets of real samples: 1 is the best there is. Modes is recall for images, and for your own students of points the share of exact samples with one of theirs near. Training seconds are of one processor thread in the benchmark."
)


def build(tab: gr.Tab, tabs: gr.Tabs, compare: compare_tab.Door, distill: distill_tab.Door) -> None:
    """Lay `tab` out and connect it; nothing is read until it is opened."""
    with gr.Row(elem_id="board-asked", elem_classes="asked-row"):
        space = _plain(gr.Dropdown([ALL], value=ALL, label="Space", filterable=False, min_width=130, elem_id="board-space"))
        count = _plain(gr.Dropdown([ALL, "1", "2", "4"], value="1", label="Evaluations", filterable=False, min_width=110))
        kind = _plain(gr.Dropdown(list(KINDS), value=ALL, label="Measured on", filterable=False, min_width=130))
        word = _plain(gr.Textbox("", label="Recipe contains", max_lines=1, min_width=130, elem_id="board-word"))
    said = gr.HTML(pages.say(HINT), elem_id="board-said", container=False, padding=False)
    with gr.Row(elem_id="board-offer", visible=False) as offer:
        train = gr.Button("Train it in Distill", variant="primary", elem_id="board-train", scale=0)
    table = gr.DataFrame(
        None, headers=HEADINGS, interactive=False, show_label=False, elem_id="board-table", max_height=430,
        show_search="none", type="array", buttons=[], datatype=["str" if name == CLICK or COLUMNS[name][1] is None else "number" for name in HEADINGS],
        column_widths=WIDTHS,
    )  # fmt: skip
    gr.HTML(pages.note(MEANING), elem_id="board-meaning", container=False, padding=False)
    figure = gr.Plot(visible=False, show_label=False, container=False, elem_id="board-figure")
    chosen, wanted = gr.State(None), gr.State(None)  # what to train, (space, recipe); to open, (model, evaluations, click)

    asked = [space, count, kind, word]
    events = [tab.select, *(one.input for one in asked)]
    outputs = [space, table, figure, said, offer]
    gr.on(events, _shown, asked, outputs, trigger_mode="always_last", **_light("leaderboard"))
    table.select(_picked, wanted, [said, offer, train, chosen, wanted], **_light())
    opened = wanted.change(_opened, wanted, [tabs, said, *compare.controls], **_light())
    opened.success(compare.draw, compare.inputs, compare.outputs, api_visibility="private", **compare_tab._heavy())
    train.click(_to_distill, chosen, [tabs, said, *distill.controls], **_light())


WIDTHS = [f"{width}px" for width in (140, 124, 130, 52, 134, 78, 92, 72, 114, 82, 80, 86, 92, 120)]


def _light(name: str | None = None) -> dict[str, Any]:
    where = {"api_name": name} if name else {"api_visibility": "private"}
    return {"concurrency_id": "leaderboard", "concurrency_limit": 4, "show_progress": "hidden", **where}


def _plain(component: Any) -> Any:
    """Take what comes as it is: what is wrong with it is said in one sentence."""
    component.preprocess = lambda payload: payload
    return component


def _told(error: Exception) -> str:
    if isinstance(error, WorkbenchError):
        return pages.error(str(error))
    log.exception("the Leaderboard tab could not answer", exc_info=error)
    return pages.failed(error)


def entries() -> tuple[list[bench.Entry], str]:
    """What comes measured with the package, points and images, and every measured student of the zoo; and what of it is missing, in a sentence."""
    found: list[bench.Entry] = []
    missing = []
    for stored in (lambda: bench.entries(bench.load()), images.stored):
        try:
            found += stored()
        except WorkbenchError as error:
            missing.append(str(error))
    return [*found, *bench.own_entries()], " ".join(missing)


def chosen(found: Sequence[bench.Entry], space: Any, count: Any, kind: Any, word: Any) -> list[bench.Entry]:
    """The entries that the filters leave, the best first.

    Raises:
        UnknownName: for a space, a number of evaluations or a kind that is not offered.
    """
    spaces, counts = [ALL, *dict.fromkeys(one.space for one in found)], (ALL, "1", "2", "4")
    for what, name, known in (("space", space, spaces), ("number of evaluations", count, counts), ("kind of row", kind, KINDS)):
        if not isinstance(name, str) or name not in known:
            raise unknown(what, str(name)[:60], known)
    kept = [
        one
        for one in found
        if space in (ALL, one.space) and count in (ALL, str(one.evaluations)) and kind in (ALL, one.source)
        and str(word or "").strip().lower() in one.recipe.lower()
    ]  # fmt: skip
    return sorted(kept, key=lambda one: (one.quality is None, one.quality or 0.0, one.recipe, one.space))


def _shown(space: Any, count: Any, kind: Any, word: Any) -> list[Any]:
    """The table and the figure for the filters."""
    try:
        found, why = entries()
        spaces = [ALL, *dict.fromkeys(one.space for one in found)]
        kept = chosen(found, space, count, kind, word)
        undrawn = [name for name in dict.fromkeys(one.space for one in kept) if name not in session.spaces()]
        hint = f"{HINT} {UNDRAWN.format(spaces=' and '.join(undrawn))}" if undrawn else HINT
        said = pages.say(" ".join(filter(None, [why, hint if kept else "No row is left: change the filters."])))
        students = _students()
        drawn = _figure(kept, 1 if count == ALL else int(count))
        return [
            gr.update(choices=spaces), [_row(one, students) for one in kept], gr.update(value=drawn, visible=drawn is not None),
            said, gr.update(visible=False),
        ]  # fmt: skip
    except Exception as error:
        return [gr.skip()] * 3 + [_told(error), gr.skip()]


def _row(entry: bench.Entry, students: dict[tuple[str, str], str]) -> list[Any]:
    made = cells(entry)
    made[-1] = entry.failed or entry.model or ""
    drawn = entry.space in session.spaces()
    there = (entry.source in KINDS[2:] and entry.model) or (entry.space, entry.recipe) in students
    return [*made[:2], TELL if not drawn else SEE if there else TRAIN, *made[2:]]


def _figure(kept: Sequence[bench.Entry], count: int) -> Any:
    try:
        return views.leaderboard(kept, count)
    except WorkbenchError:  # nothing was measured with so many evaluations: the table says so
        return None


def student_of(space: str, recipe: str) -> str | None:
    """Name of a student of this recipe in the zoo: the user's own before a bundled one; None if there is none."""
    return _students().get((space, recipe))


def _students() -> dict[tuple[str, str], str]:
    """(space, recipe) -> the student that a row of it opens."""
    known = [entry for entry in zoo.catalog() if entry.role == "student" and (entry.card or {}).get("recipe")]
    order = sorted(known, key=lambda entry: (entry.source != "user", entry.name), reverse=True)  # the first is set last
    return {(entry.space, entry.card["recipe"]): entry.name for entry in order}


def _picked(wanted: Any, event: gr.SelectData) -> list[Any]:
    """A click on a row: its student if there is one, else the offer to train it."""
    try:
        row = dict(zip(HEADINGS, event.row_value, strict=True))
        space, recipe = str(row["space"]), str(row["recipe"])
        model = row["note"] if row["from"] in KINDS[2:] and row["note"] else student_of(space, recipe)
        if space not in session.spaces():
            text = f"{UNDRAWN.format(spaces=space).partition(' A click')[0]} In a terminal, workbench distill {space} {recipe} trains such a student."
            return [pages.say(text), gr.update(visible=False), gr.skip(), None, gr.skip()]
        if model is not None:
            number = wanted[2] + 1 if wanted else 0
            asked = (model, int(row["NFE"]), number)
            return [pages.say(f"Opening {model} in Compare."), gr.update(visible=False), gr.skip(), None, asked]
        text = f"There is no student of {recipe} on {space} yet."
        label = gr.update(value=f"Train {recipe} on {space} in Distill")
        return [pages.say(text), gr.update(visible=True), label, (space, recipe), gr.skip()]
    except Exception as error:
        return [_told(error), *[gr.skip()] * 4]


def setup_of(model: str, evaluations: int) -> session.Setup:
    """Teacher and student beside one another, the student at this number of evaluations.

    Raises:
        WorkbenchError: if the student is not in the catalog any more.
    """
    session.refresh()
    space = next((entry.space for entry in zoo.catalog() if entry.name == model), model.split("/")[0])
    first = links.opening(space)
    student = session.own_setting(session.entry_of(space, model))._replace(steps=evaluations)
    return session.check(space, [first.columns[0], student], first.count, first.seed, first.label)


def _opened(wanted: Any) -> list[Any]:
    model, evaluations, _ = wanted
    try:
        told = pages.say(f"Drawing {model} beside its teacher.")
        return [gr.Tabs(selected="compare"), pages.say(HINT), *compare_tab._opened(setup_of(model, evaluations), told)]
    except WorkbenchError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _to_distill(chosen: Any) -> list[Any]:
    space, recipe = chosen
    names = laboratory.teachers(space)
    controls = [gr.update(value=space), gr.update(choices=names, value=names[0]), gr.update(value=recipe)]
    return [gr.Tabs(selected="distill"), pages.say(HINT), *controls, *distill_tab._formed(space, names[0], recipe)]
