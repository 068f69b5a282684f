"""Heat map of a sweep: which sampler one student should be run with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from workbench.errors import WorkbenchError, unknown
from workbench.views import style
from workbench.views.findings import all_same, best_of, finding, in_words, panels_of, rows_of, short, verdict

if TYPE_CHECKING:
    import pandas

# Opaque, so that a cell's number is as easy to read on a dark page as on a light one: the best is dark blue, the worst orange.
SHADES = [[0.0, "#1f5f99"], [0.3, "#7fb0d9"], [0.6, "#dbe0e5"], [0.8, "#ecb98d"], [1.0, "#d55e00"]]
SPAN = 30.0  # cells this many times worse than the best are all of the worst shade
BRIGHT, DARK = "#ffffff", "#14181d"
CELL, BETWEEN = 30, 56  # pixels: the height of a cell, the space between rows of panels


def sampler_map(
    rows: Iterable[Any] | pandas.DataFrame, model: str | None = None, steps: int | Sequence[int] | None = None, columns: int = 2
) -> go.Figure:
    """Heat map sampler x schedule of one student, a panel for each number of steps: which sampler should it be run with?

    The student's own plan is outlined, the best marked with a dot; a combination that cannot run is hatched, with the
    reason on hover. The finding calls a plan better only if it is so by more than the noise floor.

    Args:
        rows: of `workbench.sweep`, or their table. model: a label among the rows, by default the first.
        steps: one count or several; by default all that were tried with more than one plan.
        columns: panels side by side.

    Raises:
        UnknownName: for a model or count that the rows do not have. WorkbenchError: if nothing was measured.
    """
    every = rows_of(rows)
    if not every:
        raise WorkbenchError("there are no rows to draw: the sweep has not reported yet.")
    labels = list(dict.fromkeys(row.label for row in every))
    label = labels[0] if model is None else model
    if label not in labels:
        raise unknown("model of the sweep", label, labels)
    mine = [row for row in every if row.label == label]
    panels = panels_of(mine, steps)
    columns = min(max(1, columns), len(panels))
    names = [
        list(dict.fromkeys(getattr(row, key) for rows in panels.values() for row in rows)) for key in ("sampler", "schedule")
    ]
    lines = math.ceil(len(panels) / columns)
    rows_high = CELL * len(names[0])
    inner = lines * rows_high + (lines - 1) * BETWEEN
    top, bottom = (48 if len(panels) == 1 else 72), 84
    figure = style.figure(
        _map_title(label, panels), height=inner + top + bottom, margin={"l": 92, "r": 16, "t": top, "b": bottom},
        legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    spans = [(1 - (k * (rows_high + BETWEEN) + rows_high) / inner, 1 - k * (rows_high + BETWEEN) / inner) for k in range(lines)]
    values = [row.value for rows in panels.values() for row in rows if math.isfinite(row.value) and row.value > 0]
    if not values:
        raise WorkbenchError(f"no plan of {label} could be run: {mine[0].note}")
    low, high = math.log10(min(values)), math.log10(min(max(values), SPAN * min(values)))
    high = high if high > low + 0.05 else low + 0.05
    for place, (count, cells) in enumerate(panels.items()):
        _panel(figure, place, columns, spans, count, cells, names, (low, high))
    _legend(figure, panels)
    first = next(row for rows in panels.values() for row in rows)
    caption = f"schedule ({first.metric}, noise floor {short(first.floor)}, n = {first.n}, seed {first.seed})"
    last = (lines - 1) * columns
    return figure.update_layout(
        {f"xaxis{last + 1 if last else ''}": {"title": {"text": caption, "font": {"size": 12}, "standoff": 8}}}
    )


def _panel(
    figure: go.Figure, place: int, columns: int, spans: list[tuple[float, float]], count: int, cells: list[SimpleNamespace],
    names: list[list[str]], scale: tuple[float, float],
) -> None:  # fmt: skip
    samplers, schedules = names
    at = {(row.sampler, row.schedule): row for row in cells}
    grid = [[at.get((sampler, schedule)) for schedule in schedules] for sampler in samplers]
    suffix = str(place + 1) if place else ""
    axes = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
    z = [[math.log10(max(row.value, 1e-12)) if row and math.isfinite(row.value) else None for row in line] for line in grid]
    text = [[short(row.value) if row and math.isfinite(row.value) else "" for row in line] for line in grid]
    hover = [[in_words(row) if row else "not tried" for row in line] for line in grid]
    figure.add_trace(
        go.Heatmap(
            z=z, x=list(range(len(schedules))), y=list(range(len(samplers))), zmin=scale[0], zmax=scale[1], colorscale=SHADES,
            text=text, texttemplate="%{text}", customdata=hover, hovertemplate="%{customdata}<extra></extra>", xgap=2, ygap=2,
            showscale=False, **axes,
        )
    )  # fmt: skip
    for y, line in enumerate(grid):
        for x, row in enumerate(line):
            if row is None or not math.isfinite(row.value):
                figure.add_trace(_hatch(x, y, row is not None).update(axes))
    runs = [row for row in cells if math.isfinite(row.value)]
    own = next((row for row in runs if row.own), None)
    if own:
        x, y = schedules.index(own.schedule), samplers.index(own.sampler)
        for color, width in ((BRIGHT, 5), (DARK, 2)):  # two lines: one of them can be seen on any shade
            figure.add_trace(_outline(x, y, color, width).update(axes))
    if runs and not all_same(runs):
        best = best_of(runs)
        x, y = schedules.index(best.schedule) + 0.37, samplers.index(best.sampler) - 0.28
        dot = {"size": 9, "color": BRIGHT, "line": {"color": DARK, "width": 2}}
        figure.add_trace(go.Scatter(x=[x], y=[y], mode="markers", marker=dot, showlegend=False, hoverinfo="skip", **axes))
    column, gap = place % columns, 0.03 if columns > 1 else 0.0
    span = spans[place // columns]
    wide = ((column + (gap if column else 0)) / columns, (column + 1 - (gap if column < columns - 1 else 0)) / columns)
    if columns > 1 or len(spans) > 1:
        where = {"x": wide[0], "y": span[1], "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        figure.add_annotation(text=finding(count, runs), showarrow=False, font={"size": 12}, **where)
    plain = {"showgrid": False, "zeroline": False, "fixedrange": True, "ticks": "", "showline": False, "automargin": True}
    x = {**plain, "domain": wide, "anchor": axes["yaxis"], "range": [-0.5, len(schedules) - 0.5]}
    y = {**plain, "domain": span, "anchor": axes["xaxis"], "range": [len(samplers) - 0.5, -0.5]}
    x |= {"tickvals": list(range(len(schedules))), "ticktext": schedules}
    y |= {"tickvals": list(range(len(samplers))), "ticktext": [""] * len(samplers) if column else samplers}
    if not column:  # named once a row of panels
        y["title"] = {"text": "sampler", "font": {"size": 12}, "standoff": 6}
    figure.update_layout({f"xaxis{suffix}": x, f"yaxis{suffix}": y})


def _outline(x: float, y: float, color: str, width: float) -> go.Scatter:
    a, b = 0.46, 0.43
    corners = ((-a, -b), (a, -b), (a, b), (-a, b), (-a, -b))
    return go.Scatter(
        x=[x + i for i, _ in corners], y=[y + j for _, j in corners], mode="lines", line={"color": color, "width": width},
        showlegend=False, hoverinfo="skip",
    )  # fmt: skip


def _hatch(x: float, y: float, refused: bool) -> go.Scatter:
    """Diagonals over a cell that could not run; one dash over one that was not asked for."""
    if not refused:
        return _strokes([(x - 0.1, y, x + 0.1, y)])
    return _strokes([(x + k / 6 - 0.42, y + 0.4, x + k / 6 - 0.22, y - 0.4) for k in range(5)])


def _strokes(ends: list[tuple[float, float, float, float]]) -> go.Scatter:
    xs, ys = [], []
    for a, b, c, d in ends:
        xs += [a, c, None]
        ys += [b, d, None]
    line = {"color": style.FAINT, "width": 1.5}
    return go.Scatter(x=xs, y=ys, mode="lines", line=line, showlegend=False, hoverinfo="skip")


def _legend(figure: go.Figure, panels: Mapping[int, list[SimpleNamespace]]) -> None:
    rows = [row for cells in panels.values() for row in cells]
    entries = []
    if any(row.own for row in rows):
        entries.append(("its own plan", {"mode": "lines", "line": {"color": style.INK, "width": 3}}))
    if any(not all_same(runs) for cells in panels.values() if (runs := [r for r in cells if math.isfinite(r.value)])):
        entries.append(
            (
                "best",
                {"mode": "markers", "marker": {"size": 9, "symbol": "circle-open", "color": style.INK, "line": {"width": 2}}},
            )
        )
    if any(not math.isfinite(row.value) for row in rows):
        entries.append(("cannot run (hover for the reason)", {"mode": "lines", "line": {"color": style.FAINT, "width": 1.5}}))
    for name, look in entries:
        figure.add_trace(go.Scatter(x=[None], y=[None], name=name, showlegend=True, hoverinfo="skip", **look))
    figure.update_layout(showlegend=bool(entries))


def _map_title(label: str, panels: Mapping[int, list[SimpleNamespace]]) -> str:
    runs = [row for cells in panels.values() for row in cells if math.isfinite(row.value)]
    if len(panels) == 1 and runs:
        count = runs[0].steps
        return f"{label} at {count} step{'s' * (count != 1)}: {verdict(runs)}, floor {short(runs[0].floor)}"
    if not runs:
        return f"Which sampler for {label}?"
    best = best_of(runs)
    return f"Which sampler for {label}? Best: {best.sampler}, {best.schedule} at {best.steps} step{'s' * (best.steps != 1)}"
