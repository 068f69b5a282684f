"""The distance that rounding adds, against the bits that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.errors import WorkbenchError
from workbench.views import style

if TYPE_CHECKING:
    from workbench.precision import PrecisionStudy

FORMATS = {23: "float32", 10: "float16", 7: "bfloat16"}
LIMIT = 1.1


def precision_curve(found: Mapping[str, PrecisionStudy], title: str | None = None) -> go.Figure:
    """Figure of the ratio R against bits of significand, one curve with its 95 % interval a result, and the floor at 1.

    Args:
        found: label -> result of `workbench.precision`, such as one to the nearest and one stochastic.
        title: by default says from how many bits on each is safe.

    Raises:
        WorkbenchError: if there is nothing to draw.

    >>> import workbench as wb
    >>> from workbench.precision import precision
    >>> found = precision(wb.plan("ddim", "linear", 2), wb.load("moons"), bits=(8, 4), n=64)
    >>> len(precision_curve({"nearest": found}).data)
    3
    """
    if not found:
        raise WorkbenchError("there is no result to draw: make one with workbench.precision.")
    told = ", ".join(f"{label} {'none' if one.safe is None else one.safe}" for label, one in found.items())
    title = title or f"How many bits are enough? ({told})"
    figure = style.figure(title, "explicit bits of the significand", "R: distance to exact samples / noise floor", height=400)
    palette, bits = style.colors(found), sorted({row.bits for one in found.values() for row in one.rows})
    for label, one in found.items():
        rows = sorted(one.rows, key=lambda row: row.bits)
        x, color = [row.bits for row in rows], palette[label]
        figure.add_trace(
            go.Scatter(
                x=x, y=[row.ratio for row in rows], mode="lines+markers", name=label, line={"color": color, "width": 2},
                marker={"size": 7},
                error_y={
                    "type": "data", "symmetric": False, "color": style.faded(color, 0.6), "thickness": 1.2, "width": 3,
                    "array": [row.high - row.ratio for row in rows], "arrayminus": [row.ratio - row.low for row in rows],
                },
                customdata=[[row.bias, row.error, row.bound] for row in rows],
                hovertemplate="%{x} bits: R = %{y:.3f}<br>bias %{customdata[0]:.2e}, error %{customdata[1]:.2e}"
                "<br>no mean moves by more than %{customdata[2]:.2e}<extra>" + label + "</extra>",
            )
        )  # fmt: skip
    ends = [bits[0], bits[-1]]
    one = next(iter(found.values()))
    floor = f"floor: two exact runs, W1 = {one.floor:.3g}, n = {one.n}, seed {one.seed}"
    for level, dash, name in ((1.0, "dot", floor), (LIMIT, "dash", f"{LIMIT}: told apart above")):
        line = {"color": style.INK, "dash": dash, "width": 1.5}
        figure.add_trace(go.Scatter(x=ends, y=[level, level], mode="lines", line=line, name=name, hoverinfo="skip"))
    figure.update_yaxes(type="log", tickvals=[0.9, 1, 1.1, 1.5, 2, 3, 5, 10, 20, 50, 100])
    names = [f"{b}<br>{FORMATS[b]}" if b in FORMATS else str(b) for b in bits]
    figure.update_xaxes(type="log", tickvals=bits, ticktext=names)
    return figure
