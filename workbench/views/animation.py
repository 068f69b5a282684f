"""Particles on their way from noise to data, as plotly frames with a play button: nothing runs behind the figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from workbench.errors import WorkbenchError
from workbench.samplers.field import Field
from workbench.samplers.run import Trajectory
from workbench.views import grid, style
from workbench.views.points import EXTENT, Density, check_points, density_image

TAIL, ARROWS, MILLISECONDS = 3, 11, 140

__all__ = ["Field", "particles_animated"]


def particles_animated(
    trajectory: Trajectory,
    label: str,
    density: Density | None = None,
    fields: Sequence[Field | None] | None = None,
    paths: int = 200,
    extent: float = EXTENT,
    color: str | None = None,
    title: str | None = None,
    tail: int = TAIL,
    shown: int | None = None,
) -> go.Figure:
    """Figure of 2-D samples that move step by step with a tail behind them: play, pause, or pull the slider.

    200 particles over 33 steps with arrows are about half a megabyte.

    Args:
        trajectory: of points (n, 2). label: of the model, for title and colour. density: exact density, or None.
        fields: for every point of the trajectory the velocity field at its time, or None where there is none, as
            `samplers.field.velocity_fields(model, trajectory.t)` gives them. The arrows point where samplers go, from noise
            to data, against dx/dt. Their lengths compare within a step: the slower half are in scale, the faster are cut to a cell.
        paths: at most so many particles. tail: how many past steps stay visible.
        shown: the step that is visible before the first press of a button; the last by default.

    Raises:
        WorkbenchError: if the samples are not points in two dimensions, or the fields are not one for each point.
    """
    check_points(trajectory)
    count = len(trajectory)
    if fields is not None and len(fields) != count:
        raise WorkbenchError(
            f"there are {len(fields)} velocity fields for {count} points of the run: give one a point, or None."
        )
    shown = count - 1 if shown is None else range(count)[shown]
    color = color or style.colors([label])[label]
    x = np.round(trajectory.x[:, :paths].detach().cpu().double().numpy(), 2) + 0.0
    margin = {"l": 48, "r": 12, "t": 62, "b": 128}
    asked = title or f"<b>{label}</b><br>Which way does the noise go?"
    figure = style.figure(asked, "x₁ (data units)", "x₂ (data units)", height=620, margin=margin)
    if density is not None:
        # not a heat map: plotly paints one anew for every frame, and it flickers
        corner = {"xref": "x", "yref": "y", "x": -extent, "y": extent, "sizex": 2 * extent, "sizey": 2 * extent}
        source = grid.data_uri(density_image(density, 240, extent))
        figure.add_layout_image(source=source, **corner, sizing="stretch", layer="below")
    still = len(figure.data)
    if fields is not None:
        figure.add_trace(_arrow_trace(field_arrows(fields[shown], extent)))
    figure.add_trace(_particle_trace(_tails(x, shown, tail), x.shape[1], tail, color))
    said = [f"step {k} of {count - 1}, t = {t:.2f}" for k, t in enumerate(trajectory.t.tolist())]
    figure.add_trace(_clock(said[shown], extent))
    moving, frames = list(range(still, len(figure.data))), []
    for k in range(count):
        arrows = [_coordinates(field_arrows(fields[k], extent))] if fields is not None else []
        data = [go.Scatter(**content) for content in (*arrows, _coordinates(_tails(x, k, tail)), {"text": [said[k]]})]
        frames.append(go.Frame(name=str(k), data=data, traces=moving))
    figure.frames = frames
    figure.update_xaxes(range=[-extent, extent], constrain="domain", ticks="")
    figure.update_yaxes(range=[-extent, extent], scaleanchor="x", constrain="domain", ticks="")
    return figure.update_layout(**_controls(said, shown), showlegend=False)


def _tails(x: np.ndarray, k: int, tail: int) -> np.ndarray:
    """For each particle its last `tail` + 1 places and a gap, (n, tail + 2, 2); before the start it waits where it begins."""
    steps = [max(0, k - back) for back in range(tail, -1, -1)]
    gap = np.full((1, *x.shape[1:]), np.nan)
    return np.concatenate([x[steps], gap]).transpose(1, 0, 2)


def field_arrows(field: Field | None, extent: float) -> np.ndarray:
    """For each arrow its two ends and a gap, (m, 3, 2), thinned to at most ARROWS a side."""
    if field is None:
        return np.full((1, 3, 2), np.nan)
    x, y, u, v = (np.asarray(values, dtype=float) for values in field)
    across, up = (np.unique(np.linspace(0, len(axis) - 1, min(len(axis), ARROWS)).round().astype(int)) for axis in (x, y))
    place = np.stack(np.meshgrid(x[across], y[up]), -1).reshape(-1, 2)
    to = -np.stack([u[np.ix_(up, across)], v[np.ix_(up, across)]], -1).reshape(-1, 2)  # time runs from 1 to 0
    speed = np.linalg.norm(to, axis=1)
    cell = 0.8 * 2 * extent / max(2, len(across))
    to *= cell / np.maximum(speed, np.median(speed) or 1.0)[:, None]
    ends = np.stack([place - to / 2, place + to / 2, np.full_like(place, np.nan)], 1)
    ends[np.linalg.norm(to, axis=1) < 0.15 * cell] = np.nan  # shorter than its own head
    return np.round(ends, 2) + 0.0


def _coordinates(parts: np.ndarray) -> dict[str, list]:
    x, y = ([None if np.isnan(value) else float(value) for value in axis] for axis in parts.reshape(-1, 2).T)
    return {"x": x, "y": y}


def _particle_trace(parts: np.ndarray, n: int, tail: int, color: str) -> go.Scatter:
    sizes = [*[0] * tail, 6, 0] * n  # a dot at the newest place alone
    return go.Scatter(
        **_coordinates(parts), mode="lines+markers", line={"color": style.faded(color, 0.35), "width": 1.2},
        marker={"color": color, "size": sizes, "opacity": 0.9, "line": {"width": 0}}, hoverinfo="skip", name="particles",
    )  # fmt: skip


def _arrow_trace(parts: np.ndarray) -> go.Scatter:
    marker = {
        "symbol": "arrow",
        "angleref": "previous",
        "size": [0, 6, 0] * ARROWS**2,
        "color": style.INK,
        "line": {"width": 0},
    }
    return go.Scatter(
        **_coordinates(parts), mode="lines+markers", line={"color": style.FAINT, "width": 1}, marker=marker,
        hoverinfo="skip", name="velocity",
    )  # fmt: skip


def _clock(text: str, extent: float) -> go.Scatter:
    """Step and time above the corner, as a trace, so that a still of the film says when it was."""
    return go.Scatter(
        x=[extent], y=[extent], mode="text", text=[text], textposition="top left", cliponaxis=False,
        textfont={"color": style.INK, "size": 12}, hoverinfo="skip", name="time",
    )  # fmt: skip


def _controls(said: list[str], shown: int) -> dict:
    go_on = {"frame": {"duration": MILLISECONDS, "redraw": False}, "transition": {"duration": 0}, "fromcurrent": True}
    jump = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}, "transition": {"duration": 0}}
    steps = [{"method": "animate", "args": [[str(k)], jump], "label": text, "value": str(k)} for k, text in enumerate(said)]
    buttons = [
        {"label": "Play", "method": "animate", "args": [None, go_on]},
        {"label": "Pause", "method": "animate", "args": [[None], jump]},
    ]
    quiet = {"bgcolor": "rgba(125,135,148,0.14)", "bordercolor": style.GRID}
    slider = {
        "active": shown, "steps": steps, "x": 0, "len": 1, "y": 0, "yanchor": "top", "pad": {"t": 88, "l": 4, "r": 4},
        "currentvalue": {"visible": False},
        "font": {"color": "rgba(0,0,0,0)", "size": 1}, "ticklen": 3, "tickcolor": style.FAINT, "minorticklen": 3, **quiet,
    }  # fmt: skip
    menu = {
        "type": "buttons", "direction": "right", "showactive": False, "buttons": buttons, "x": 0, "xanchor": "left", "y": 0,
        "yanchor": "top", "pad": {"t": 44, "l": 0}, "font": {"color": style.INK, "size": 12}, **quiet,
    }  # fmt: skip
    return {"sliders": [slider], "updatemenus": [menu]}
