"""Where a plan stops, and the numbers it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import plotly.graph_objects as go

from workbench.errors import WorkbenchError
from workbench.samplers.plan import Plan
from workbench.views import style

LIMIT = 9.0


def log_snr(plans: Mapping[str, Plan]) -> go.Figure:
    """Figure of the half log-SNR at every time of each plan: pure noise (-inf) and clean data (+inf) lie on the edges.

    Raises:
        WorkbenchError: if there is no plan.
    """
    if not plans:
        raise WorkbenchError("there is no plan to draw: give at least one.")
    figure = style.figure("Where does each plan spend its steps?", "step", "half log-SNR, log(α/σ) (nats)", height=340)
    palette = style.colors(plans)
    for label, plan in plans.items():
        exact = [plan.path.log_snr(t) for t in plan.times]
        symbols = ["circle" if math.isfinite(value) else "circle-open" for value in exact]
        figure.add_trace(
            go.Scatter(
                x=list(range(len(exact))),
                y=[max(-LIMIT, min(LIMIT, value)) for value in exact],
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
    figure.update_yaxes(
        range=[-LIMIT - 0.8, LIMIT + 0.8],
        tickvals=[-LIMIT, -6, -3, 0, 3, 6, LIMIT],
        ticktext=["noise −∞", "−6", "−3", "0", "3", "6", "data ∞"],
    )
    most = max(plan.steps for plan in plans.values())
    return figure.update_xaxes(dtick=1 if most <= 10 else None, rangemode="tozero")


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
    text = [[f"{value:.3g}" if value else "·" for value in row] for row in rows] if len(rows) <= 40 else None
    figure = style.figure(
        f"What does one update read? {plan}", "term of the update (coefficient)", "evaluation", 90 + 24 * min(len(rows), 30)
    )
    figure.add_trace(
        go.Heatmap(
            z=rows, x=names, y=ticks, zmin=-largest, zmax=largest, colorscale=style.DIVERGING, text=text,
            texttemplate="%{text}" if text else None, showscale=False, hovertemplate="%{y}<br>%{x}: %{z:.5g}<extra></extra>",
        )
    )  # fmt: skip
    return figure.update_yaxes(autorange="reversed").update_layout(margin={"b": 56})
