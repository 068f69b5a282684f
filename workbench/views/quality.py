"""What a sweep says: quality against evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from workbench.errors import unknown
from workbench.views import style
from workbench.views.findings import SAME, at_each, best_of, in_words, measured, short

if TYPE_CHECKING:
    import pandas


def quality(rows: Iterable[Any] | pandas.DataFrame, by: str | None = None) -> go.Figure:
    """Figure of a sweep's figure against network evaluations a sample (log scale), with its noise floor.

    A model's line is its own plan at each number of steps; where other plans were tried, a dotted line is the best that
    any of them reaches with at most so many evaluations. A sampler's line is its best schedule at each number.

    Args:
        rows: of `workbench.sweep`, or their table. by: "model" or "sampler"; by default "sampler" for one model with several.

    Raises:
        WorkbenchError: if nothing was measured, or the rows hold several metrics.
    """
    found = measured(rows)
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
        marks = style.log_ticks(min(values), max(values))
        figure.update_yaxes(type="log", tickvals=marks, ticktext=[f"{mark:g}" for mark in marks])
    else:
        figure.update_yaxes(rangemode="tozero")
    return figure


def _model_lines(figure: go.Figure, found: list[SimpleNamespace], labels: list[str]) -> None:
    palette = style.colors(labels)
    for label in labels:
        mine = [row for row in found if row.label == label]
        own = at_each([row for row in mine if row.own])
        line = own or at_each(mine)
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
            rows = at_each([row for row in mine if row.sampler == sampler])
            line = _line(rows, sampler if len(labels) == 1 else f"{label}, {sampler}", palette[sampler]).update(
                line={"dash": dash}
            )
            twin = next((other for other in drawn if _alike(other, line)), None)
            if twin is None:
                drawn.append(line)
            else:  # a line below another cannot be seen: say that they are one
                twin.name = f"{twin.name} = {sampler}"
        figure.add_traces(drawn)
        own = at_each([row for row in mine if row.own])
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
        line={"color": color, "width": 2}, marker={"size": 7, "color": color}, customdata=[in_words(row) for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip


def _floors(figure: go.Figure, found: list[SimpleNamespace], labels: list[str]) -> None:
    """A dotted line for each floor, as a trace: notes on a logarithmic axis are placed by exponent, and only in plotly."""
    floors = {label: next(row.floor for row in found if row.label == label) for label in labels}
    distinct = list(dict.fromkeys(floor for floor in floors.values() if math.isfinite(floor)))
    ends = [min(row.nfe for row in found) / 1.08, max(row.nfe for row in found) * 1.08]
    for floor in distinct:
        whose = "" if len(distinct) == 1 else f" of {next(name for name in labels if floors[name] == floor)}"
        line, name = {"color": style.INK, "dash": "dot", "width": 1.5}, f"noise floor{whose} {short(floor)}"
        figure.add_trace(go.Scatter(x=ends, y=[floor, floor], mode="lines", name=name, line=line, hoverinfo="name"))


def _quality_title(found: list[SimpleNamespace], labels: list[str]) -> str:
    """The fewest evaluations at which the floor is reached, or else where the figure is best."""
    reached = [row for row in found if row.value <= row.floor]
    best = best_of([row for row in reached if row.nfe == min(r.nfe for r in reached)] or found)
    told = f"({best.sampler}, {best.schedule}): {short(best.value)}, floor {short(best.floor)}"
    evaluations = f"{best.nfe} evaluation{'s' * (best.nfe != 1)}"
    if reached:
        return f"{best.label} reaches the noise floor at {evaluations} {told}"
    return f"{best.label} is best{' of all' * (len(labels) > 1)} at {evaluations} {told}"


def _frontier(rows: Sequence[SimpleNamespace]) -> list[SimpleNamespace]:
    """The rows that nothing with as few evaluations beats."""
    kept: list[SimpleNamespace] = []
    for row in at_each(rows):
        if not kept or row.value < kept[-1].value * (1 - SAME):
            kept.append(row)
    return kept


def _axis(row: SimpleNamespace) -> str:
    names = {"Frechet": "Frechet distance to real images", "sw2": "sliced 2-Wasserstein distance to the law"}
    return names.get(row.metric, row.metric)
