"""How a plan learns: its error on noise that it is not trained on, against the iterations of the optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from workbench.errors import WorkbenchError
from workbench.views import style


def fit_curve(
    reports: Sequence[tuple[int, float]], marks: Mapping[str, float] | None = None, color: str | None = None
) -> go.Figure:
    """Figure of the error at each report of a fit, with errors to beat as dotted lines.

    Args:
        reports: (iteration, RMS distance to the fine solution on held-out noise), in order. marks: name -> error to compare with. color: "#rrggbb" of the curve.

    Raises:
        WorkbenchError: if there is no report with a finite error above 0.

    >>> fit_curve([(0, 0.5), (10, 0.1)], {"karras": 0.3}).layout.title.text
    'Does it learn? Error 0.5 at the start, 0.1 at best'
    """
    kept = [(step, error) for step, error in reports if math.isfinite(error) and error > 0]
    if not kept:
        raise WorkbenchError("there is no error to draw: the fit has not reported one yet.")
    title = f"Does it learn? Error {kept[0][1]:.3g} at the start, {min(error for _, error in kept):.3g} at best"
    made = style.figure(title, "iteration of the optimiser", "RMS error on held-out noise", height=300)
    palette = style.colors(["fitted", *(marks or {})])
    steps, errors = (list(values) for values in zip(*kept, strict=True))
    line, marker = {"color": color or palette["fitted"], "width": 2}, {"size": 6}
    made.add_trace(
        go.Scatter(x=steps, y=errors, mode="lines+markers", name="fitted", line=line, marker=marker, showlegend=True)
    )
    for name, error in (marks or {}).items():
        dotted = {"color": palette[name], "width": 1.5, "dash": "dot"}
        made.add_trace(
            go.Scatter(x=[0, max(steps[-1], 1)], y=[error] * 2, mode="lines", name=f"{name}: {error:.3g}", line=dotted)
        )
    return made.update_yaxes(type="log", exponentformat="power", nticks=6)
