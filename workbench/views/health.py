"""How the players of a run fare: gradient norms, the score gap and the critic's error by noise level, calibration, ratio weights.

All of it is read from the rows that a run logs (`workbench.distill.loop.Progress`): PLAYER/grad_norm, and PLAYER/PART/0 ... 9 for tenths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.errors import WorkbenchError
from workbench.views import style
from workbench.views.training import AXES, check_axis

Rows = Sequence[Mapping[str, Any]]
TENTHS = 10
COLUMNS = 60  # of a heat map
RECENT = 0.25  # share of the rows that a reliability curve is the mean of
SCALE = [[0.0, "rgba(125,135,148,0.15)"], [0.5, "#2f7fc1"], [1.0, "#d55e00"]]  # told apart on white and on black
LEVELED = {  # part -> title, what is coloured
    "gap": ("Where do teacher and critic still differ?", "score gap, RMS"),
    "loss": ("At which noise does the critic err?", "critic's loss"),
    "ratio": ("Which noise levels get the weight of the ratio?", "mean weight"),
}


def health(rows: Rows, axis: str = "step") -> dict[str, go.Figure]:
    """The figures that a run's rows allow, by name: "gradients", "gap", "critic", "calibration", "weights", "ratio"; {} for none.

    Args:
        rows: of metrics.jsonl, with "step" and "seconds". axis: "step" or "seconds".

    Raises:
        UnknownName: for another axis.

    >>> list(health([{"step": 1, "seconds": 0.1, "student": 0.3, "student/grad_norm": 2.0}]))
    ['gradients']
    """
    check_axis(axis)
    made = {
        "gradients": _lines(rows, "grad_norm", "Is each player's gradient steady?", "gradient norm before clipping", axis, log=True),
        "gap": _by_level(rows, "gap", axis),
        "critic": _by_level(rows, "loss", axis),
        "calibration": _reliability(rows),
        "weights": _lines(rows, "ratio_ess", "How many samples carry the weight of the ratio?", "effective share of the batch", axis),
        "ratio": _by_level(rows, "ratio", axis),
    }  # fmt: skip
    return {name: figure for name, figure in made.items() if figure is not None}


def gradient_norms(rows: Rows, axis: str = "step") -> go.Figure:
    """Figure of every player's gradient norm, before clipping.

    Raises:
        WorkbenchError: if no row has one.
    """
    return _wanted(health(rows, axis), "gradients", "gradient norm")


def by_level(rows: Rows, part: str, axis: str = "step") -> go.Figure:
    """Heat map of "gap", "loss" (of the critic) or "ratio" over training, by noise level.

    Raises:
        WorkbenchError: if no row has it: the recipe has no such player.
    """
    if part not in LEVELED:
        raise WorkbenchError(f"{part!r} is not logged by noise level: choose {', '.join(LEVELED)}.")
    check_axis(axis)
    return _wanted({part: _by_level(rows, part, axis)}, part, LEVELED[part][1])


def reliability_curve(rows: Rows) -> go.Figure:
    """Figure of a discriminator's calibration: share of real samples against the probability that it gave them.

    Raises:
        WorkbenchError: if no row has one: the recipe has no discriminator, or one with a hinge loss, which gives no probabilities.
    """
    return _wanted({"calibration": _reliability(rows)}, "calibration", "calibration of a discriminator with a logistic loss")


def calibration_error(rows: Rows, player: str = "critic") -> float:
    """Expected calibration error: mean distance of the probabilities given from the shares observed, over the newest quarter of the rows.

    The probability of a tenth is taken as its middle, so an error up to 0.05 may be rounding.

    Raises:
        WorkbenchError: if this player logs no calibration.
    """
    points = _observed(rows, f"{player}/")
    if not points:
        raise WorkbenchError(f"{player} logs no calibration: it is no discriminator with a logistic loss.")
    return _error(points)


def _wanted(made: Mapping[str, go.Figure | None], name: str, what: str) -> go.Figure:
    if made.get(name) is None:
        raise WorkbenchError(f"this run logs no {what}: its recipe has no such player, or it has not reported yet.")
    return made[name]


def _prefixes(rows: Rows, pattern: str) -> list[str]:
    """What stands before `pattern` in the names of the rows, in the order of logging."""
    ends = re.compile(rf"(.*/){pattern}$")
    return list(dict.fromkeys(found[1] for row in rows for key in row if (found := ends.match(key))))


def _lines(rows: Rows, part: str, title: str, y: str, axis: str, log: bool = False) -> go.Figure | None:
    players = _prefixes(rows, part)
    if not players:
        return None
    figure = style.figure(title, AXES[axis], y, height=300)
    palette = style.colors(player.rstrip("/") for player in players)
    for player in players:
        kept = [row for row in rows if _finite(row.get(player + part)) and (not log or row[player + part] > 0)]
        x, values = [row[axis] for row in kept], [float(f"{row[player + part]:.4g}") for row in kept]
        name = player.rstrip("/")
        line = {"color": palette[name], "width": 1.8}
        figure.add_trace(go.Scatter(x=x, y=values, mode="lines" if len(x) > 1 else "markers", name=name, line=line))
    if log:
        seen = [value for trace in figure.data for value in trace.y]
        marks = style.log_ticks(min(seen), max(seen)) if seen else []
        figure.update_yaxes(type="log", tickvals=marks, ticktext=[f"{mark:g}" for mark in marks])
    else:
        figure.update_yaxes(range=[0, 1.03])
    return figure.update_layout(showlegend=True)


def _by_level(rows: Rows, part: str, axis: str) -> go.Figure | None:
    """Means over stretches of the run, a row for each tenth of the noise level; colours are logarithms. Where a stretch drew no such level the
    last known value stays."""
    players = _prefixes(rows, rf"{part}/\d")
    if not players:
        return None
    names = [[f"{player}{part}/{k}" for player in players] for k in range(TENTHS)]
    kept = [row for row in rows if any(name in row for each in names for name in each)]
    every = math.ceil(len(kept) / COLUMNS)
    stretches = [kept[k : k + every] for k in range(0, len(kept), every)]
    z = [_held([_mean(stretch, each) for stretch in stretches]) for each in names]
    seen = [math.log10(value) for line in z for value in line if value]
    if not seen:
        return None
    title, what = LEVELED[part]
    figure = style.figure(title, AXES[axis], "noise level t (1 is noise)", height=300)
    low, high = min(seen), max(max(seen), min(seen) + 0.1)
    ticks = style.log_ticks(10**low, 10**high)
    bar = {"title": {"text": what, "side": "right"}, "thickness": 12, "tickvals": [math.log10(tick) for tick in ticks],
           "ticktext": [f"{tick:g}" for tick in ticks]}  # fmt: skip
    figure.add_trace(
        go.Heatmap(
            x=[stretch[-1][axis] for stretch in stretches], y=[(k + 0.5) / TENTHS for k in range(TENTHS)],
            z=[[round(math.log10(value), 3) if value else None for value in line] for line in z],
            customdata=[[float(f"{value:.3g}") if value else None for value in line] for line in z],
            hovertemplate=f"%{{x}}, t %{{y:.2f}}: {what} %{{customdata}}<extra></extra>",
            colorscale=SCALE, zmin=low, zmax=high, colorbar=bar,
        )
    )  # fmt: skip
    return figure.update_yaxes(range=[0, 1], tickvals=[0, 0.25, 0.5, 0.75, 1])


def _reliability(rows: Rows) -> go.Figure | None:
    players = _prefixes(rows, r"calibration/\d")
    if not players:
        return None
    figure = style.figure("", "probability of being real, as the discriminator gives it", "share that is real", height=300)
    diagonal = {"color": style.INK, "dash": "dot", "width": 1.5}
    figure.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line=diagonal, name="calibrated", hoverinfo="skip"))
    palette, errors = style.colors(player.rstrip("/") for player in players), []
    for player in players:
        points = _observed(rows, player)
        name = player.rstrip("/")
        errors.append(_error(points))
        sizes = [5 + 22 * math.sqrt(share) for _, _, share in points]
        marker = {"size": sizes, "color": palette[name], "opacity": 0.75}
        told = [f"{share:.0%} of the samples" for _, _, share in points]
        figure.add_trace(
            go.Scatter(
                x=[p for p, _, _ in points], y=[round(seen, 4) for _, seen, _ in points], mode="lines+markers", name=name,
                line={"color": palette[name], "width": 1.5}, marker=marker, text=told, hovertemplate="%{x:.2f}: %{y:.2f} real, %{text}<extra></extra>",
            )
        )  # fmt: skip
    figure.layout.title.text = f"Are the discriminator's probabilities ones? Calibration error {max(errors):.2g}"
    return figure.update_xaxes(range=[0, 1]).update_yaxes(range=[0, 1.02]).update_layout(showlegend=True)


def _observed(rows: Rows, player: str) -> list[tuple[float, float, float]]:
    """(probability given, share that is real, share of all samples) of each tenth, over the newest quarter of the rows."""
    having = [row for row in rows if f"{player}share/0" in row]
    recent = having[-max(1, math.ceil(RECENT * len(having))) :]
    found = []
    for k in range(TENTHS):
        pairs = [(row.get(f"{player}calibration/{k}"), row.get(f"{player}share/{k}", 0.0)) for row in recent]
        weight = sum(share for real, share in pairs if _finite(real))
        if weight > 0:
            real = sum(real * share for real, share in pairs if _finite(real)) / weight
            found.append(((k + 0.5) / TENTHS, real, weight / len(recent)))
    return found


def _error(points: Sequence[tuple[float, float, float]]) -> float:
    total = sum(share for _, _, share in points)
    return sum(share * abs(given - real) for given, real, share in points) / total if total else math.nan


def _held(values: list[float | None]) -> list[float | None]:
    """Each missing value as the last before it."""
    last = None
    return [last := value if value is not None else last for value in values]


def _mean(rows: Rows, names: Sequence[str]) -> float | None:
    values = [row[name] for row in rows for name in names if _finite(row.get(name)) and row[name] > 0]
    return sum(values) / len(values) if values else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
