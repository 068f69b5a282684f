"""How samples move: the length and the turn of every step, and their paths in the plane where they differ most."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from workbench import metrics
from workbench.errors import WorkbenchError, unknown
from workbench.metrics.trajectory import in_flow_coordinates
from workbench.paths import Path
from workbench.samplers.run import Trajectory
from workbench.views import style
from workbench.views.against import check, finite, path_of, spread

FIT_ROWS = 1024  # states that the plane is fitted to, at most
FIT_LEAST = 8  # final samples that span a plane worth looking at


def motion(trajectories: Mapping[str, Trajectory], paths: Mapping[str, str | Path] | None = None) -> go.Figure:
    """Figure of how far each step moves the samples (above) and by what angle they turn after it (below).

    The legend gives the straightness of each run, 0 for a straight, steady line. Straight paths can be taken in few steps;
    a large angle late in the run is what one step cannot follow.

    Args:
        trajectories: label -> trajectory. paths: label -> path, to measure in the coordinates of flow matching,
            x / (α + σ), where every path with fixed ends is straight; None takes the states as they are.

    Raises:
        WorkbenchError: if there is nothing to draw, or a path is missing.
    """
    check(trajectories)
    found = {label: None if paths is None else path_of(paths, label) for label in trajectories}
    made = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.1)
    palette, moves = style.colors(trajectories), []
    for label, trajectory in trajectories.items():
        path, steps, times = found[label], len(trajectory) - 1, trajectory.t.tolist()
        straight = metrics.straightness(list(trajectory.x), trajectory.t, path)
        length, turn = metrics.displacement(trajectory, path), metrics.curvature(trajectory, path)
        moves += length.tolist()
        spans = [f"step {k + 1} of {steps}, t = {times[k]:.3f} → {times[k + 1]:.3f}" for k in range(steps)]
        look = {"mode": "lines+markers", "line": {"color": palette[label], "width": 2}, "marker": {"size": 6}}
        name = f"{label}: straightness {straight:.2g}"
        for row, values, unit in ((1, length.tolist(), ".3g"), (2, turn.tolist(), ".1f")):
            hover = f"%{{text}}: %{{y:{unit}}}{'°' if row == 2 else ''}<extra></extra>"
            trace = go.Scatter(
                x=list(range(1, len(values) + 1)), y=finite(values), text=spans, hovertemplate=hover, name=name,
                legendgroup=label, showlegend=row == 1, **look,
            )  # fmt: skip
            made.add_trace(trace, row=row, col=1)
    style.dress(made, style.figure("Do the samples go straight (straightness 0) and at a steady pace?", height=480))
    unit = "data units" if paths is None else "x / (α + σ)"
    made.update_yaxes(title={"text": f"RMS move ({unit})"}, row=1, col=1)
    spread(made, 1, moves)
    made.update_yaxes(title={"text": "turn after it (degrees)"}, rangemode="tozero", row=2, col=1)
    most = max(map(len, trajectories.values())) - 1
    made.update_xaxes(dtick=1 if most <= 10 else None, range=[0.5, most + 0.5])
    return made.update_xaxes(title={"text": "step"}, row=2, col=1)


def principal(
    trajectories: Mapping[str, Trajectory],
    j: int | None = None,
    paths: Mapping[str, str | Path] | None = None,
    most: int = 40,
    fit: str | None = None,
    name: str | None = None,
) -> go.Figure:
    """Figure of trajectories of any dimension in the plane of their two principal components.

    The plane is fitted to the final samples of all runs together, where the samples part most, or to all states, noise and
    final samples included, which shows the way from noise to data. Every run weighs the same. The axes say which it was
    and what share of that variance they show.

    Args:
        trajectories: label -> trajectory. j: the sample to show in full, with its DT targets, or None.
        paths: label -> path, to draw x / (α + σ) instead of x, as an exploding path needs. most: at most so many samples.
        fit: "samples" or "states"; by default samples where there are at least 8, else states. name: of sample j in the legend.

    Raises:
        WorkbenchError: if there is nothing to draw, j does not exist, a path is missing, or nothing differs to fit to.
    """
    check(trajectories)
    if fit not in (None, "states", "samples"):
        raise unknown("set to fit the plane to", fit, ("states", "samples"))
    states, targets = {}, {}
    for label, trajectory in trajectories.items():
        n = trajectory.x.shape[1]
        if j is not None and not 0 <= j < n:
            raise WorkbenchError(f"sample {j} does not exist: {label} has samples 0 to {n - 1}.")
        shown = [*range(min(n, most))] if j is None or j < most else [*range(most - 1), j]
        x, target = (values[:, shown].detach().cpu().double().flatten(2) for values in (trajectory.x, trajectory.target))
        states[label] = x if paths is None else in_flow_coordinates(x, trajectory.t, path_of(paths, label))
        targets[label] = target[:-1]
    if len({x.shape[2] for x in states.values()}) > 1:
        raise WorkbenchError("these runs draw samples of different shapes: compare within one space.")
    fit = fit or ("samples" if sum(x.shape[1] for x in states.values()) >= FIT_LEAST else "states")
    plane = _plane(states, fit)
    axes = [f"component {k + 1} ({100 * share:.0f} % of the variance of the {fit})" for k, share in enumerate(plane.share)]
    own = name or f"sample {j}"
    asked = "Which way do the samples go?" if j is None else f"Which way does {own} go?"
    figure = style.figure(f"{asked} Runs in their two principal components", *axes, height=480)
    palette = style.colors(trajectories)
    place = None if j is None else j if j < most else most - 1
    faint, dim = (0.4, 0.9) if j is None else (0.16, 0.35)
    start = np.concatenate([plane.project(x[0]).numpy() for x in states.values()])
    ring = {"mode": "markers", "marker": {"color": style.FAINT, "symbol": "circle-open", "size": 6}, "hoverinfo": "skip"}
    start = np.unique(start.round(3), axis=0)  # models that are compared start from the same noise
    figure.add_trace(go.Scatter(x=start[:, 0].tolist(), y=start[:, 1].tolist(), name="noise", **ring))
    for label, x in states.items():
        xy = plane.project(x).numpy().round(3)
        gap = np.full((1, xy.shape[1], 2), np.nan)
        lines = np.concatenate([xy, gap]).transpose(1, 0, 2).reshape(-1, 2)
        color = style.faded(palette[label], faint)
        figure.add_trace(_path(lines, label, mode="lines", line={"color": color, "width": 1}, showlegend=False))
        color = style.faded(palette[label], dim)
        figure.add_trace(_path(xy[-1], label, mode="markers", marker={"color": color, "size": 6}, showlegend=j is None))
    for label, x in states.items() if place is not None else ():
        xy, seen = plane.project(x[:, place]).numpy().round(3), plane.project(targets[label][:, place]).numpy().round(3)
        bold = {"mode": "lines+markers", "line": {"color": palette[label], "width": 2.5}, "marker": {"size": 4}}
        figure.add_trace(_path(xy, f"{label}: {own}", **bold))
        cross = {"color": palette[label], "symbol": "x", "size": 6}
        figure.add_trace(_path(seen, f"{label}: DT targets", mode="markers", marker=cross))
    return figure.update_yaxes(scaleanchor="x")


def _plane(states: Mapping[str, Tensor], fit: str) -> metrics.Principal:
    rows, weights = [], []
    for x in states.values():
        pool = (x[-1:] if fit == "samples" else x).flatten(0, 1)
        kept = pool[torch.linspace(0, len(pool) - 1, min(len(pool), FIT_ROWS // len(states))).round().long()]
        rows.append(kept)
        weights.append(torch.full((len(kept),), 1 / len(kept), dtype=torch.float64))
    return metrics.principal_components(torch.cat(rows), 2, torch.cat(weights))


def _path(points: np.ndarray, name: str, **look) -> go.Scatter:
    x, y = ([None if np.isnan(value) else float(value) for value in axis] for axis in points.T)
    return go.Scatter(x=x, y=y, name=name, **look)
