"""Several training runs in one figure: a number that they log, against steps or seconds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.errors import unknown
from workbench.views import style

AXES = {"step": "training step", "seconds": "training time, seconds"}
RISING = {"variance", "coverage", "accuracy", "fooled", "reward", "ratio_ess"}  # what is not to fall
TENTH = re.compile(r".*/\d")  # of a number by noise level or probability: `views.health` draws those


def check_axis(axis: str) -> None:
    """Raise `UnknownName` for what is not an axis of a run."""
    if axis not in AXES:
        raise unknown("axis", axis, AXES)


def numbers_of(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What the rows of any run hold, but step, seconds, noise floors and numbers by noise level, in the order of logging.

    >>> numbers_of({"a": [{"step": 1, "seconds": 0.1, "sw2": 0.3, "sw2_floor": 0.1}]})
    ['sw2']
    """
    names = dict.fromkeys(key for rows in runs.values() for row in rows for key in row)
    return [name for name in names if name not in AXES and not name.endswith("_floor") and not TENTH.fullmatch(name)]


def training_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    number: str,
    axis: str = "step",
    smooth: float = 0.9,
    palette: Mapping[str, str] | None = None,
) -> go.Figure:
    """Figure of one logged number for several runs: faint as logged, bold smoothed; a dotted line is its noise floor.

    Args:
        runs: label -> rows with "step", "seconds" and numbers. number: which; runs without it are left out.
        axis: "step" or "seconds". smooth: weight of the past in the bold line; 0 draws one line with points.

    Raises:
        UnknownName: for another axis, or a number that no run has.
    """
    check_axis(axis)
    if number not in (known := numbers_of(runs)):
        raise unknown("number", number, known)
    verb = "rise" if number.rsplit("/", 1)[-1] in RISING else "fall"
    figure = style.figure(f"Does {number} still {verb}?", AXES[axis], number, height=330)
    palette, seen, floors = palette or style.colors(runs), [], []
    for label, rows in runs.items():
        kept = [row for row in rows if number in row and math.isfinite(row[number])]
        if not kept:
            continue
        x, y = [row[axis] for row in kept], [float(row[number]) for row in kept]
        floors += [float(row[f"{number}_floor"]) for row in kept if f"{number}_floor" in row]
        seen += y
        bold = list(y)
        for k in range(1, len(y)):
            bold[k] = smooth * bold[k - 1] + (1 - smooth) * y[k]
        if smooth:
            faint = {"color": style.faded(palette[label], 0.3), "width": 1}
            figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=faint, showlegend=False, hoverinfo="skip"))
        mode = "lines" if smooth and len(x) > 1 else "lines+markers"
        figure.add_trace(go.Scatter(x=x, y=bold, mode=mode, name=label, line={"color": palette[label], "width": 2}))
    if floors:  # a trace, since plotly places a note on a logarithmic axis elsewhere than its line
        floor, ends = sum(floors) / len(floors), [row[axis] for rows in runs.values() for row in rows]
        line = {"color": style.INK, "dash": "dot", "width": 1.5}
        figure.add_trace(
            go.Scatter(
                x=[min(ends), max(ends)], y=[floor, floor], mode="lines", line=line, name=f"noise floor {floor:.3g}"
            )
        )  # fmt: skip
    seen += floors
    if seen and min(seen) > 0:
        figure.update_yaxes(type="log", exponentformat="power", nticks=6)
        if max(seen) > 4 * min(seen):  # else plotly's own ticks, which are evenly spaced, say more
            marks = style.log_ticks(min(seen), max(seen))
            figure.update_yaxes(tickvals=marks, ticktext=[f"{mark:g}" for mark in marks])
    return figure.update_layout(showlegend=True)
