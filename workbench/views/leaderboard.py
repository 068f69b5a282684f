"""The recipes beside one another: quality against training time, and a table that a click on a heading sorts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from workbench.errors import WorkbenchError
from workbench.views import style

GOOD = 1.25  # times the floor
COLOURED = 8  # recipes with a colour of their own; the others are grey
PANELS = 3
COLUMNS = {  # heading -> (attribute of an entry, digits)
    "recipe": ("recipe", None),
    "space": ("space", None),
    "NFE": ("evaluations", 0),
    "distance / floor": ("quality", 3),
    "±": ("error", 3),
    "off-mode": ("off_mode", 4),
    "modes": ("modes", 3),
    "paired RMS": ("paired", 3),
    "seconds": ("cost", 1),
    "steps/s": ("per_second", 1),
    "peak MB": ("peak_mb", 0),
    "from": ("source", None),
    "note": ("failed", None),
}
RISING = {"distance / floor", "off-mode", "paired RMS", "peak MB"}  # less is better
SORT = (
    "const h=this,t=h.closest('table'),b=t.tBodies[0],k=h.cellIndex,up=h.dataset.up!=='1';"
    "t.querySelectorAll('th').forEach(o=>{o.dataset.up='';o.removeAttribute('aria-sort')});h.dataset.up=up?'1':'0';"
    "h.setAttribute('aria-sort',up?'ascending':'descending');"
    "const v=r=>r.cells[k].dataset.v,n=s=>s===''?NaN:Number(s);"
    "[...b.rows].sort((p,q)=>{const x=v(p),y=v(q);if(x===''||y==='')return(x==='')-(y==='');"
    "const d=isNaN(n(x))||isNaN(n(y))?x.localeCompare(y):n(x)-n(y);return up?d:-d}).forEach(r=>b.append(r))"
)


def label(entry: Any) -> str:
    """How a student is named in the figure: by its recipe, and by its own name where it is somebody's."""
    return entry.recipe if entry.source == "benchmark" else f"{entry.recipe} ({entry.model})"


def leaderboard(entries: Sequence[Any], evaluations: int = 1) -> go.Figure:
    """Figure of quality against training time, a panel for each of at most three spaces, those with the most students.

    Eight recipes have colours, those that are best somewhere and then those that are best over all, of all entries at any
    number of evaluations, so that figures of the same entries agree in their colours; the others are grey.

    A line is a run as it trains, from what was prepared before it on; its end is a dot, a ring where the student is
    bundled or somebody's own. Quality is the distance to the law over its noise floor, so 1 is the best there is.

    Args:
        entries: of `workbench.bench.recipes.entries`, or alike. evaluations: of the network, for a sample.

    Raises:
        WorkbenchError: if nothing was measured at this number of evaluations.
    """
    from plotly.subplots import make_subplots

    found = [one for one in entries if one.evaluations == evaluations and one.quality and one.seconds]
    if not found:
        raise WorkbenchError(f"there is nothing to draw: no student was measured at {evaluations} evaluations.")
    counts = Counter(one.space for one in found)  # in order of appearance where they are equal
    spaces = [space for space, _ in counts.most_common(PANELS)]
    found = [one for one in found if one.space in spaces]
    palette = dict(zip(_first(entries, spaces), style.PALETTE, strict=False))
    look = style.figure(_title(found, spaces, evaluations), height=430)
    made = make_subplots(1, len(spaces), subplot_titles=spaces, horizontal_spacing=0.07, shared_yaxes=True)
    ends = _span([at for one in found for at in _times(one)])
    for column, space in enumerate(spaces, start=1):
        mine = [one for one in found if one.space == space]
        for one in sorted(mine, key=lambda one: label(one) in palette):  # those in colour above the grey ones
            for trace in _traces(one, palette.get(label(one))):
                shown = trace.name in palette and trace.mode != "lines" and _named(found, one)
                made.add_trace(trace.update(showlegend=shown, legendgroup=trace.name), row=1, col=column)
        for level, dash, name in ((1.0, "dot", "noise floor"), (GOOD, "dash", f"{GOOD} x floor")):
            line = {"color": style.INK, "dash": dash, "width": 1.5}
            trace = go.Scatter(x=ends, y=[level, level], mode="lines", line=line, name=name, hoverinfo="skip")
            made.add_trace(trace.update(showlegend=column == 1), row=1, col=column)
    style.dress(made, look)
    made.update_layout(margin={"t": 74}, legend={"y": -0.2}).update_annotations(font={"size": 13})
    marks = _ticks([one.quality for one in found])
    made.update_yaxes(type="log", tickvals=marks, ticktext=[f"{mark:g}" for mark in marks])
    every = (1, 2, 5) if ends[1] < 50 * ends[0] else (1,)
    ticks = [t for k in range(-2, 6) for t in (step * 10.0**k for step in every) if ends[0] <= t <= ends[1]]
    made.update_xaxes(
        type="log", tickangle=0, title={"text": "training time, s"}, tickvals=ticks, ticktext=[f"{t:g}" for t in ticks]
    )
    return made.update_yaxes(title={"text": "distance / noise floor"}, row=1, col=1)


def ranked(entries: Sequence[Any]) -> list[str]:
    """Labels, the best first, by the mean logarithm of quality over spaces and numbers of evaluations.

    Where a recipe has no figure it counts as the worst there.
    """
    worst: dict[tuple, float] = {}
    values: dict[str, dict[tuple, float]] = {}
    for one in entries:
        value, place = math.log(max(one.quality, 1e-3)), (one.space, one.evaluations)
        worst[place] = max(value, worst.get(place, -math.inf))
        values.setdefault(label(one), {})[place] = value
    return sorted(values, key=lambda name: sum(values[name].get(place, worst[place]) for place in worst))


def _traces(one: Any, color: str | None) -> list[go.Scatter]:
    """The run, and where it ended."""
    name, ink = label(one), color or style.FAINT
    curve = [pair for pair in one.curve if pair[1] and pair[0] > 0]
    line = {"color": style.faded(color, 0.55) if color else "rgba(125,135,148,0.28)", "width": 1.5 if color else 1}
    told = f"{name} on {one.space}: {one.quality:.3g} x floor" + "".join(
        f"<br>{words} {value:.3g}" for words, value in (("off-mode", one.off_mode), ("modes", one.modes)) if value is not None
    )
    marker = {"size": 9 if color else 6, "color": ink, "symbol": "circle" if one.source == "benchmark" else "circle-open"}
    end = go.Scatter(
        x=[one.cost], y=[one.quality], mode="markers", marker=marker, name=name, customdata=[told],
        hovertemplate="%{customdata}<br>%{x:.3g} s of training<extra></extra>",
    )  # fmt: skip
    if len(curve) < 2:
        return [end]
    x, y = [pair[0] for pair in curve], [pair[1] for pair in curve]
    return [go.Scatter(x=x, y=y, mode="lines", line=line, name=name, hoverinfo="skip"), end]


def _times(one: Any) -> list[float]:
    return [one.cost, *(at for at, _ in one.curve if at > 0)]


def _first(entries: Sequence[Any], spaces: Sequence[str]) -> list[str]:
    """Labels that get a colour: the best of each space at each number of evaluations, then by rank."""
    measured = [one for one in entries if one.space in spaces and one.quality and one.seconds]
    best: dict[tuple, Any] = {}
    for one in measured:
        key = (one.evaluations, one.space)
        best[key] = min(best.get(key, one), one, key=lambda each: each.quality)
    first = [label(best[key]) for key in sorted(best)]
    return list(dict.fromkeys([*first, *ranked(measured)]))[:COLOURED]


def _named(found: Sequence[Any], one: Any) -> bool:
    """Whether this is the first entry of its label: the one that the legend names."""
    return next(other for other in found if label(other) == label(one)) is one


def _span(values: Sequence[float]) -> list[float]:
    return [0.9 * min(values), 1.1 * max(values)]


def _ticks(values: Sequence[float]) -> list[float]:
    high, steps = max(*values, 2.0), (1, 1.25, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000)
    return [mark for mark in steps if mark <= 1.1 * high]


def _title(found: Sequence[Any], spaces: Sequence[str], evaluations: int) -> str:
    best = min(found, key=lambda one: one.quality)
    good = sum(one.quality <= GOOD for one in found if one.space == best.space)
    mine = sum(one.space == best.space for one in found)
    plural = "s" * (evaluations != 1)
    told = f"{evaluations} evaluation{plural}: {best.recipe} comes nearest, {best.quality:.3g} x floor on {best.space}"
    return f"{told} ({good} of {mine} within {GOOD})"


def cells(entry: Any) -> list[Any]:
    """One row of the table: numbers rounded, None where there is none."""
    row = []
    for name, digits in COLUMNS.values():
        value = getattr(entry, name)
        row.append(value if value is None or digits is None else round(value, digits) if digits else round(value))
    return row


def leaderboard_table(entries: Sequence[Any]) -> str:
    """HTML table of entries, the best first; a click on a heading sorts it, in the page and without a server.

    Columns that hold nothing are left out; the best figure of a column, at one space and number of evaluations, is bold.

    Raises:
        WorkbenchError: if there are no entries.
    """
    if not entries:
        raise WorkbenchError("there are no entries to show: measure some recipes first.")
    order = sorted(entries, key=lambda one: (one.space, one.evaluations, one.quality is None, one.quality or 0.0, one.recipe))
    rows, names = [cells(one) for one in order], list(COLUMNS)
    kept = [k for k in range(len(names)) if any(row[k] is not None for row in rows)]
    best: dict[tuple, float] = {}
    for row in rows:
        for k in kept:
            if names[k] in RISING and row[k] is not None:
                key = (row[1], row[2], k)
                best[key] = min(row[k], best.get(key, math.inf))
    look = "padding:.25rem .7rem;white-space:nowrap;border-top:1px solid rgba(125,135,148,.3);text-align:"
    head = "".join(
        f'<th scope="col" tabindex="0" style="{look}{_side(names[k])};cursor:pointer" title="sort" onclick="{escape(SORT)}" '
        f"onkeydown=\"if(event.key==='Enter')this.click()\">{names[k]}</th>"
        for k in kept
    )
    body = []
    for row in rows:
        made = []
        for k in kept:
            value, shown = row[k], "–" if row[k] is None else escape(str(row[k]))
            if value is not None and best.get((row[1], row[2], k)) == value:
                shown = f"<b>{shown}</b>"
            given = "" if value is None else escape(str(value))
            made.append(f'<td data-v="{given}" style="{look}{_side(names[k])}">{shown}</td>')
        body.append(f"<tr>{''.join(made)}</tr>")
    return (
        '<div style="overflow:auto;max-height:34rem"><table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _side(name: str) -> str:
    return "right" if COLUMNS[name][1] is not None else "left"
