"""Numbers against steps: losses that fall, errors whose slope is an order, bars with their floor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from workbench.errors import WorkbenchError, unknown
from workbench.views import style

if TYPE_CHECKING:
    import pandas


def loss_curves(rows: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None, smooth: float = 0.9) -> go.Figure:
    """Figure of losses against step from the rows of metrics.jsonl: faint as logged, bold smoothed.

    Args:
        names: which columns; by default every number but step and seconds. smooth: weight of the past in the bold line.
    """
    if not rows:
        raise WorkbenchError("there are no rows to draw: the run has not reported yet.")
    skip = ("step", "seconds")
    found = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in skip and _number(rows, key)]
    for name in names or ():
        if name not in found:
            raise unknown("loss", name, found)
    figure = style.figure("Is the loss still falling?", "training step", "loss", height=360)
    chosen = list(names or found)
    palette = style.colors(chosen)
    for name in chosen:
        pairs = [(row["step"], float(row[name])) for row in rows if name in row and math.isfinite(float(row[name]))]
        steps, values = [step for step, _ in pairs], [value for _, value in pairs]
        bold, mean = [], None
        for value in values:
            mean = value if mean is None else smooth * mean + (1 - smooth) * value
            bold.append(mean)
        faint = {"color": style.faded(palette[name], 0.3), "width": 1}
        figure.add_trace(go.Scatter(x=steps, y=values, mode="lines", line=faint, showlegend=False, hoverinfo="skip"))
        figure.add_trace(go.Scatter(x=steps, y=bold, mode="lines", name=name, line={"color": palette[name], "width": 2}))
    return figure


def slope(pairs: Sequence[tuple[float, float]]) -> float:
    """Slope of log error against log steps, by least squares.

    >>> round(slope([(4, 1.0), (8, 0.25), (16, 0.0625)]), 6)
    -2.0
    """
    points = [(math.log(steps), math.log(error)) for steps, error in pairs if steps > 0 and error > 0]
    if len(points) < 2:
        return math.nan
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((a - x) ** 2 for a, _ in points)
    return sum((a - x) * (b - y) for a, b in points) / spread if spread else math.nan


def error_curve(
    errors: Mapping[str, Sequence[tuple[float, float]]],
    title: str = "How fast does the error fall with steps?",
    x: str = "steps",
    y: str = "RMS distance to the exact solution",
    floor: float | None = None,
) -> go.Figure:
    """Log-log figure of label -> [(steps, error), ...], with the slope of each in the legend.

    Args:
        floor: the error that two draws of the data have, drawn as a line, or None; points below twice that are not fitted.
    """
    figure = style.figure(title, x, y, height=400)
    palette = style.colors(errors)
    for label, pairs in errors.items():
        order = slope([pair for pair in pairs if floor is None or pair[1] > 2 * floor])
        name = f"{label} (slope {order:.2f})".replace("-", "−") if math.isfinite(order) else label
        figure.add_trace(_curve([p[0] for p in pairs], [p[1] for p in pairs], name, palette[label]))
    every = sorted({steps for pairs in errors.values() for steps, _ in pairs})
    figure.update_xaxes(type="log", tickvals=every if len(every) <= 14 else None, ticktext=[f"{s:g}" for s in every])
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    if floor is not None:  # a trace, since plotly places a note on a logarithmic axis elsewhere than its line
        line = {"color": style.INK, "dash": "dot", "width": 1.5}
        ends = {"x": [every[0], every[-1]], "y": [floor, floor]}
        figure.add_trace(go.Scatter(**ends, mode="lines", line=line, name=f"noise floor {floor:.3g}"))
    return figure


def bars(table: pandas.DataFrame, column: str, title: str | None = None, floor: float | None = None) -> go.Figure:
    """Bar chart of one column of a comparison's table, a bar a model in the model's colour.

    Args:
        floor: the same figure between two draws of real data, drawn as a line, or None.
    """
    if column not in table.columns:
        raise unknown("column of the table", column, table.columns)
    values = table[column].dropna()
    labels = [str(label) for label in values.index]
    palette = style.colors([str(label) for label in table.index])
    figure = style.figure(title or f"Which model does best by {column}?", column, "", height=110 + 40 * len(values))
    figure.add_trace(
        go.Bar(
            x=[float(value) for value in values], y=labels, orientation="h", marker_color=[palette[label] for label in labels],
            text=[f"{float(value):.3g}" for value in values], textposition="auto", showlegend=False,
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False, title={"text": "model"})
    if floor is not None:  # told under the axis: a note at the line would cover the first bar
        figure.add_vline(x=floor, line={"color": style.INK, "dash": "dot", "width": 1.5})
        figure.update_xaxes(title={"text": f"{column} (dotted: noise floor {floor:.3g})"})
    return figure


def _curve(x: list, y: list, name: str, color: str) -> go.Scatter:
    return go.Scatter(x=x, y=y, mode="lines+markers", name=name, line={"color": color, "width": 2}, marker={"size": 7})


def _number(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(isinstance(row.get(key), int | float) and not isinstance(row.get(key), bool) for row in rows)
