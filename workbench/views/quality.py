"""What a sweep says: quality against evaluations, and which sampler one student should be run with."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from workbench.errors import WorkbenchError, unknown
from workbench.views import style

if TYPE_CHECKING:
    import pandas

# Opaque, so that a cell's number is as easy to read on a dark page as on a light one: the best is dark blue, the worst orange.
SHADES = [[0.0, "#1f5f99"], [0.3, "#7fb0d9"], [0.6, "#dbe0e5"], [0.8, "#ecb98d"], [1.0, "#d55e00"]]
SPAN = 30.0  # cells this many times worse than the best are all of the worst shade
SAME = 2e-3  # relative difference below which two plans are the same but for rounding
BRIGHT, DARK = "#ffffff", "#14181d"
CELL, BETWEEN = 30, 56  # pixels: the height of a cell, the space between rows of panels


def quality(rows: Iterable[Any] | pandas.DataFrame, by: str | None = None) -> go.Figure:
    """Figure of a sweep's figure against network evaluations a sample (log scale), with its noise floor.

    A model's line is its own plan at each number of steps; where other plans were tried, a dotted line is the best that
    any of them reaches with at most so many evaluations. A sampler's line is its best schedule at each number.

    Args:
        rows: of `workbench.sweep`, or their table. by: "model" or "sampler"; by default "sampler" for one model with several.

    Raises:
        WorkbenchError: if nothing was measured, or the rows hold several metrics.
    """
    found = _measured(rows)
    labels = list(dict.fromkeys(row.label for row in found))
    by = by or ("sampler" if len(labels) == 1 and len({row.sampler for row in found}) > 1 else "model")
    if by not in ("model", "sampler"):
        raise unknown("grouping", by, ("model", "sampler"))
    figure = style.figure(_quality_title(found, labels), "network evaluations a sample", _axis(found[0]), height=400)
    if by == "model":
        _model_lines(figure, found, labels)
    else:
        _sampler_lines(figure, found, labels)
    _floors(figure, found, labels)
    counts = sorted({row.nfe for row in found})
    ticks = counts if len(counts) <= 10 else [n for n in counts if n & (n - 1) == 0]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[str(n) for n in ticks])
    values = [row.value for row in found] + [row.floor for row in found if math.isfinite(row.floor)]
    if min(values) > 0 and max(values) > 12 * min(values):
        marks = _log_ticks(min(values), max(values))
        figure.update_yaxes(type="log", tickvals=marks, ticktext=[f"{mark:g}" for mark in marks])
    else:
        figure.update_yaxes(rangemode="tozero")
    return figure


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
    every = _read(rows)
    if not every:
        raise WorkbenchError("there are no rows to draw: the sweep has not reported yet.")
    labels = list(dict.fromkeys(row.label for row in every))
    label = labels[0] if model is None else model
    if label not in labels:
        raise unknown("model of the sweep", label, labels)
    mine = [row for row in every if row.label == label]
    panels = _panels(mine, steps)
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
    caption = f"schedule ({first.metric}, noise floor {_short(first.floor)}, n = {first.n}, seed {first.seed})"
    last = (lines - 1) * columns
    return figure.update_layout(
        {f"xaxis{last + 1 if last else ''}": {"title": {"text": caption, "font": {"size": 12}, "standoff": 8}}}
    )


def _read(rows: Iterable[Any] | pandas.DataFrame) -> list[SimpleNamespace]:
    """Rows of a sweep or of its table, alike."""
    records = rows.to_dict("records") if hasattr(rows, "to_dict") else [row._asdict() for row in rows]
    read = []
    for record in records:
        row = SimpleNamespace(**record)
        row.value, row.floor = (math.nan if number is None else float(number) for number in (row.value, row.floor))
        row.nfe = int(row.nfe) if math.isfinite(row.value) else None
        read.append(row)
    return read


def _measured(rows: Iterable[Any] | pandas.DataFrame) -> list[SimpleNamespace]:
    found = [row for row in _read(rows) if math.isfinite(row.value)]
    if not found:
        raise WorkbenchError("there are no figures to draw: no plan of this sweep has run yet, or none could.")
    metrics = list(dict.fromkeys(row.metric for row in found))
    if len(metrics) > 1:
        raise WorkbenchError(f"these rows hold {' and '.join(metrics)}, which have no common axis: draw one space at a time.")
    return found


def _best(rows: Sequence[SimpleNamespace]) -> SimpleNamespace:
    """The row with the least value; among equals the model's own plan, then the cheapest."""
    least = min(row.value for row in rows)
    return min((row for row in rows if row.value <= least * (1 + SAME)), key=lambda row: (not row.own, row.nfe))


def _at_each(rows: Sequence[SimpleNamespace]) -> list[SimpleNamespace]:
    """The best row at each number of evaluations."""
    return [_best([row for row in rows if row.nfe == nfe]) for nfe in sorted({row.nfe for row in rows})]


def _frontier(rows: Sequence[SimpleNamespace]) -> list[SimpleNamespace]:
    """The rows that nothing with as few evaluations beats."""
    kept: list[SimpleNamespace] = []
    for row in _at_each(rows):
        if not kept or row.value < kept[-1].value * (1 - SAME):
            kept.append(row)
    return kept


def _model_lines(figure: go.Figure, found: list[SimpleNamespace], labels: list[str]) -> None:
    palette = style.colors(labels)
    for label in labels:
        mine = [row for row in found if row.label == label]
        own = _at_each([row for row in mine if row.own])
        line = own or _at_each(mine)
        figure.add_trace(_line(line, f"{label}, its own plan" if own and len(own) < len(mine) else label, palette[label]))
        best = _frontier(mine)
        if own and any(
            row.value < (1 - SAME) * min(o.value for o in own if o.nfe <= row.nfe) for row in best if row.nfe >= own[0].nfe
        ):
            dotted = _line(best, f"{label}, best tried", palette[label])
            figure.add_trace(dotted.update(line={"dash": "dot", "width": 1.5}, marker={"symbol": "circle-open", "size": 8}))


def _sampler_lines(figure: go.Figure, found: list[SimpleNamespace], labels: list[str]) -> None:
    """A colour for each sampler, a dash for each model; the models' own plans in grey rings."""
    palette = style.colors(row.sampler for row in found)
    for place, label in enumerate(labels):
        dash = ("solid", "dash", "dot")[place % 3]
        mine = [row for row in found if row.label == label]
        drawn: list[go.Scatter] = []
        for sampler in dict.fromkeys(row.sampler for row in mine):
            rows = _at_each([row for row in mine if row.sampler == sampler])
            line = _line(rows, sampler if len(labels) == 1 else f"{label}, {sampler}", palette[sampler]).update(
                line={"dash": dash}
            )
            twin = next((other for other in drawn if _alike(other, line)), None)
            if twin is None:
                drawn.append(line)
            else:  # a line below another cannot be seen: say that they are one
                twin.name = f"{twin.name} = {sampler}"
        figure.add_traces(drawn)
        own = _at_each([row for row in mine if row.own])
        if own:
            ring = {"symbol": "circle-open", "size": 13, "color": style.INK, "line": {"width": 2}}
            name = "its own plan" if len(labels) == 1 else f"{label}, its own plan"
            line = _line(own, name, style.INK).update(line={"width": 1, "dash": dash}, marker=ring, hoverinfo="skip")
            figure.add_trace(line.update(hovertemplate=None))


def _alike(one: go.Scatter, two: go.Scatter) -> bool:
    pairs = list(zip(one.y, two.y, strict=False))
    return list(one.x) == list(two.x) and all(abs(a - b) <= SAME * min(a, b) for a, b in pairs)


def _line(rows: Sequence[SimpleNamespace], name: str, color: str) -> go.Scatter:
    return go.Scatter(
        x=[row.nfe for row in rows], y=[row.value for row in rows], mode="lines+markers", name=name,
        line={"color": color, "width": 2}, marker={"size": 7, "color": color}, customdata=[_told(row) for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip


def _floors(figure: go.Figure, found: list[SimpleNamespace], labels: list[str]) -> None:
    """A dotted line for each floor, as a trace: notes on a logarithmic axis are placed by exponent, and only in plotly."""
    floors = {label: next(row.floor for row in found if row.label == label) for label in labels}
    distinct = list(dict.fromkeys(floor for floor in floors.values() if math.isfinite(floor)))
    ends = [min(row.nfe for row in found) / 1.08, max(row.nfe for row in found) * 1.08]
    for floor in distinct:
        whose = "" if len(distinct) == 1 else f" of {next(name for name in labels if floors[name] == floor)}"
        line, name = {"color": style.INK, "dash": "dot", "width": 1.5}, f"noise floor{whose} {_short(floor)}"
        figure.add_trace(go.Scatter(x=ends, y=[floor, floor], mode="lines", name=name, line=line, hoverinfo="name"))


def _quality_title(found: list[SimpleNamespace], labels: list[str]) -> str:
    """The fewest evaluations at which the floor is reached, or else where the figure is best."""
    reached = [row for row in found if row.value <= row.floor]
    best = _best([row for row in reached if row.nfe == min(r.nfe for r in reached)] or found)
    told = f"({best.sampler}, {best.schedule}): {_short(best.value)}, floor {_short(best.floor)}"
    evaluations = f"{best.nfe} evaluation{'s' * (best.nfe != 1)}"
    if reached:
        return f"{best.label} reaches the noise floor at {evaluations} {told}"
    return f"{best.label} is best{' of all' * (len(labels) > 1)} at {evaluations} {told}"


def _panels(rows: list[SimpleNamespace], steps: int | Sequence[int] | None) -> dict[int, list[SimpleNamespace]]:
    """Step count -> its rows, in rising order."""
    panels = {count: [row for row in rows if row.steps == count] for count in sorted({row.steps for row in rows})}
    if steps is None:  # a count at which only the model's own plan ran is no map
        return {count: cells for count, cells in panels.items() if len(cells) > 1} or panels
    wanted = [steps] if isinstance(steps, int) else list(steps)
    for count in wanted:
        if count not in panels:
            raise unknown("number of steps of the sweep", count, panels)
    return {count: panels[count] for count in wanted}


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
    text = [[_short(row.value) if row and math.isfinite(row.value) else "" for row in line] for line in grid]
    hover = [[_told(row) if row else "not tried" for row in line] for line in grid]
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
    if runs and not _all_same(runs):
        best = _best(runs)
        x, y = schedules.index(best.schedule) + 0.37, samplers.index(best.sampler) - 0.28
        dot = {"size": 9, "color": BRIGHT, "line": {"color": DARK, "width": 2}}
        figure.add_trace(go.Scatter(x=[x], y=[y], mode="markers", marker=dot, showlegend=False, hoverinfo="skip", **axes))
    column, gap = place % columns, 0.03 if columns > 1 else 0.0
    span = spans[place // columns]
    wide = ((column + (gap if column else 0)) / columns, (column + 1 - (gap if column < columns - 1 else 0)) / columns)
    if columns > 1 or len(spans) > 1:
        where = {"x": wide[0], "y": span[1], "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        figure.add_annotation(text=_finding(count, runs), showarrow=False, font={"size": 12}, **where)
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
    if any(not _all_same(runs) for cells in panels.values() if (runs := [r for r in cells if math.isfinite(r.value)])):
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


def _all_same(runs: Sequence[SimpleNamespace]) -> bool:
    values = [row.value for row in runs]
    return max(values) - min(values) <= SAME * min(values)


def findings(rows: Iterable[Any] | pandas.DataFrame) -> list[str]:
    """What a sweep of one model says, a sentence for each number of steps that is worth a map."""
    told = []
    for count, cells in _panels(_read(rows), None).items():
        told.append(_finding(count, [row for row in cells if math.isfinite(row.value)]))
    return told


def _finding(count: int, runs: Sequence[SimpleNamespace]) -> str:
    """What one panel says."""
    steps = f"{count} step{'s' * (count != 1)}"
    return f"{steps}: {_verdict(runs, brief=True)}" if runs else f"{steps}: nothing can run"


def _verdict(runs: Sequence[SimpleNamespace], brief: bool = False) -> str:
    """The best plan against the model's own; a difference within the noise floor is none."""
    best, own = _best(runs), next((row for row in runs if row.own), None)
    how, value = f"{best.sampler}, {best.schedule}", _short(best.value)
    if _all_same(runs):
        return f"every plan is the same, {value}"
    if own is None:
        return f"{how} is best, {value}"
    if best is own:
        return f"its own plan{'' if brief else f' ({how})'} is best, {value}"
    if own.value - best.value <= own.floor:
        return f"its own plan is as good as any, {_short(own.value)} (best {value})"
    cost = f", at {best.nfe} evaluations for {own.nfe}" if best.nfe != own.nfe and not brief else ""
    return f"{how} beats its own{'' if brief else ' plan'}, {value} for {_short(own.value)}{cost}"


def _map_title(label: str, panels: Mapping[int, list[SimpleNamespace]]) -> str:
    runs = [row for cells in panels.values() for row in cells if math.isfinite(row.value)]
    if len(panels) == 1 and runs:
        count = runs[0].steps
        return f"{label} at {count} step{'s' * (count != 1)}: {_verdict(runs)}, floor {_short(runs[0].floor)}"
    if not runs:
        return f"Which sampler for {label}?"
    best = _best(runs)
    return f"Which sampler for {label}? Best: {best.sampler}, {best.schedule} at {best.steps} step{'s' * (best.steps != 1)}"


def _told(row: SimpleNamespace) -> str:
    """A row in words, for hovering."""
    head = (
        f"<b>{row.sampler}, {row.schedule}</b>, {row.steps} step{'s' * (row.steps != 1)}{', its own plan' if row.own else ''}"
    )
    note = "<br>".join(escape(line) for line in textwrap.wrap(str(row.note), 60))
    if not math.isfinite(row.value):
        return f"{head}<br>cannot run: {note}"
    cost = f"{row.nfe} evaluation{'s' * (row.nfe != 1)}, {row.ms_per_image:.3g} ms an image"
    return f"{head}<br>{row.metric} {_short(row.value)} (floor {_short(row.floor)})<br>{cost}" + (f"<br>{note}" if note else "")


def _axis(row: SimpleNamespace) -> str:
    names = {"Frechet": "Frechet distance to real images", "sw2": "sliced 2-Wasserstein distance to the law"}
    return names.get(row.metric, row.metric)


def _short(value: float) -> str:
    """Three digits, never as a power of ten for what a person would write out."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    shown = [tick for tick in ticks if low / 2 <= tick <= 2 * high]
    return shown if len(shown) <= 9 else [tick for tick in shown if math.log10(tick).is_integer()]
