"""Where a plan stops, and the numbers it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import WorkbenchError
from workbench.samplers.plan import Plan
from workbench.views import style
from workbench.views.against import LIMIT, LOG_SNR, TICKS, clipped, spread


def log_snr(plans: Mapping[str, Plan]) -> go.Figure:
    """Figure of the half log-SNR at every time of each plan: pure noise (-inf) and clean data (+inf) lie on the edges.

    Raises:
        WorkbenchError: if there is no plan.
    """
    if not plans:
        raise WorkbenchError("there is no plan to draw: give at least one.")
    figure = style.figure("Where does each plan spend its steps?", "step", LOG_SNR, height=340)
    palette = style.colors(plans)
    for label, plan in plans.items():
        exact = [plan.path.log_snr(t) for t in plan.times]
        symbols = ["circle" if math.isfinite(value) else "circle-open" for value in exact]
        figure.add_trace(
            go.Scatter(
                x=list(range(len(exact))),
                y=[clipped(value) for value in exact],
                mode="lines+markers",
                name=f"{label}: {plan.steps} {plan.schedule} step{'s' * (plan.steps != 1)}",
                line={"color": palette[label], "width": 2},
                marker={"size": 7, "symbol": symbols, "color": palette[label]},
                customdata=[
                    [t, "−∞" if v == -math.inf else "∞" if v == math.inf else f"{v:.2f}"]
                    for t, v in zip(plan.times, exact, strict=True)
                ],
                hovertemplate="step %{x}: t = %{customdata[0]:.3f}, log-SNR %{customdata[1]}<extra></extra>",
            )
        )
    figure.update_yaxes(range=[-LIMIT - 0.8, LIMIT + 0.8], **TICKS)
    most = max(plan.steps for plan in plans.values())
    return figure.update_xaxes(dtick=1 if most <= 10 else None, rangemode="tozero")


def schedules(plans: Mapping[str, Plan]) -> go.Figure:
    """Figure of where plans stop, in three panels against the step: time t, half log-SNR, and the size of each step in t.

    Raises:
        WorkbenchError: if there is no plan.
    """
    if not plans:
        raise WorkbenchError("there is no plan to draw: give at least one.")
    made = make_subplots(3, 1, shared_xaxes=True, vertical_spacing=0.06)
    palette = style.colors(plans)
    for label, plan in plans.items():
        times, name = list(plan.times), f"{label}: {plan.steps} {plan.schedule} step{'s' * (plan.steps != 1)}"
        exact = [plan.path.log_snr(t) for t in times]
        open_ends = ["circle" if math.isfinite(value) else "circle-open" for value in exact]
        sizes = [round(before - after, 6) for before, after in pairwise(times)]
        said = ["−∞" if value == -math.inf else "∞" if value == math.inf else f"{value:.2f}" for value in exact]
        panels = (
            (range(len(times)), [round(t, 6) for t in times], "circle", "step %{x}: t = %{y:.4f}", times),
            (range(len(times)), [clipped(value) for value in exact], open_ends, "step %{x}: log-SNR %{text}", said),
            (range(1, len(times)), sizes, "circle", "step %{x}: from t = %{text:.4f} by %{y:.4f}", times),
        )
        for row, (x, y, symbol, hover, text) in enumerate(panels, start=1):
            trace = go.Scatter(
                x=list(x), y=y, text=text, mode="lines+markers", name=name, legendgroup=label, showlegend=row == 1,
                line={"color": palette[label], "width": 2}, hovertemplate=f"{hover}<extra></extra>",
                marker={"size": 6, "symbol": symbol, "color": palette[label]},
            )  # fmt: skip
            made.add_trace(trace, row=row, col=1)
    style.dress(made, style.figure("Where does each plan stop, and how large are its steps?", height=640))
    made.update_yaxes(title={"text": "time t"}, range=[-0.05, 1.05], row=1, col=1)
    made.update_yaxes(title={"text": "half log-SNR (nats)"}, range=[-LIMIT - 0.8, LIMIT + 0.8], **TICKS, row=2, col=1)
    made.update_yaxes(title={"text": "step size in t"}, row=3, col=1)
    spread(made, 3, [before - after for plan in plans.values() for before, after in pairwise(plan.times)])
    most = max(plan.steps for plan in plans.values())
    made.update_xaxes(dtick=1 if most <= 10 else None, range=[-0.03 * most, 1.03 * most])
    return made.update_xaxes(title={"text": "step"}, row=3, col=1)


def plan_table(plan: Plan) -> go.Figure:
    """Heat map of a plan's coefficients: a row for every model evaluation, a column for everything the update reads."""
    newest = ["newest output", *[f"output {k} back" for k in range(1, plan.history)]][: plan.history]
    names = ["state x", "base", *newest, "fresh noise"]
    rows, ticks = [], []
    for index, stage in enumerate(plan.stages):
        outputs = list(stage.x.outputs) + [0.0] * (plan.history - len(stage.x.outputs))
        rows.append([stage.x.x, stage.x.base, *outputs, stage.x.noise])
        ticks.append(f"{index}: t = {stage.t:.3g} → {stage.to:.3g}, {stage.kind}{', helper' if stage.inner else ''}")
    largest = max(max(abs(value) for value in row) for row in rows) or 1.0
    figure = style.figure(
        f"What does one update read? {plan}",
        "term of the update (coefficient)",
        "evaluation" if len(rows) > 2 else "",
        90 + 24 * min(len(rows), 30),
    )
    figure.add_trace(
        go.Heatmap(
            z=rows, x=names, y=ticks, zmin=-largest, zmax=largest, colorscale=style.DIVERGING,
            showscale=False, hovertemplate="%{y}<br>%{x}: %{z:.5g}<extra></extra>",
        )
    )  # fmt: skip
    if len(rows) <= 40:  # words of their own colour: a heat map's texts have one for light and dark, strong and faint alike
        cells = [
            (name, tick, value) for tick, row in zip(ticks, rows, strict=True) for name, value in zip(names, row, strict=True)
        ]
        x, y, values = zip(*cells, strict=True)
        figure.add_trace(
            go.Scatter(
                x=x, y=y, mode="text", text=[f"{value:.3g}".replace("-", "−") if value else "·" for value in values],
                textfont={"color": ["#ffffff" if abs(value) > 0.5 * largest else style.INK for value in values]},
                hoverinfo="skip", showlegend=False,
            )
        )  # fmt: skip
    return figure.update_yaxes(autorange="reversed", ticks="").update_xaxes(ticks="").update_layout(margin={"b": 56})
