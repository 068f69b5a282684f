"""What the DT targets say along a run: when each picture is decided, and when the seeds part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from workbench import metrics
from workbench.errors import WorkbenchError
from workbench.paths import Path
from workbench.samplers.run import Trajectory
from workbench.views import style
from workbench.views.against import TITLES, Places, check, dress, finite, places, when


def target_distance(
    trajectories: Mapping[str, Trajectory],
    j: int | None = None,
    name: str | None = None,
    against: str = "step",
    paths: Mapping[str, str | Path] | None = None,
) -> go.Figure:
    """Figure of the RMS distance of each DT target from the final sample: when is the picture decided?

    A ring marks where half of it is decided (`metrics.decided`), and the legend says it in words.

    Args:
        trajectories: label -> trajectory. j: one sample, or None for the mean over all. name: of that sample in the title.
        against: "step", "t" or "log_snr". paths: label -> path, needed for "log_snr".

    Raises:
        WorkbenchError: if there is nothing to draw, j does not exist, `against` is unknown, or a path is missing.
    """
    check(trajectories)
    for label, trajectory in trajectories.items():
        if j is not None and not 0 <= j < trajectory.x.shape[1]:
            raise WorkbenchError(f"sample {j} does not exist: {label} has samples 0 to {trajectory.x.shape[1] - 1}.")
    whose = name or ("all samples" if j is None else f"sample {j}")
    shown = {label: each if j is None else each.sample(j) for label, each in trajectories.items()}
    where, palette = places(shown, against, paths), style.colors(shown)
    title, y = f"When is the result decided? ({whose})", "RMS, target to end (data units)"
    figure = style.figure(title, TITLES[against], y, height=380)
    for label, trajectory in shown.items():
        away, first, color = finite(metrics.target_error(trajectory).tolist()), _half(trajectory), palette[label]
        how = "half decided" if first else "decided"
        text = label if first is None else f"{label}: {how} at {when(trajectory, first)}"
        figure.add_trace(_curve(where[label], away, text, color))
        if first is not None:
            ring = {"symbol": "circle-open", "size": 14, "color": color, "line": {"width": 2, "color": color}}
            at = {"x": [where[label].x[first]], "y": [away[first]], "cliponaxis": False}
            figure.add_trace(go.Scatter(**at, mode="markers", marker=ring, showlegend=False, hoverinfo="skip"))
    dress(figure, against, max(map(len, shown.values())) - 1)
    return figure.update_yaxes(rangemode="tozero")


def target_diversity(
    trajectories: Mapping[str, Trajectory],
    against: str = "step",
    paths: Mapping[str, str | Path] | None = None,
    reference: float | None = None,
    reference_name: str = "data",
    labels: Any = None,
) -> go.Figure:
    """Figure of how different the DT targets of different seeds are at each step: when do they part, and what is lost?

    Args:
        trajectories: label -> trajectory of at least two samples. against, paths: as for `target_distance`.
        reference: the same figure (`metrics.pairwise_diversity`) of data, or of another model's samples, drawn as a line.
        reference_name: what the line is. labels: classes (n,) of the samples, to compare within classes only.

    Raises:
        WorkbenchError: if there is nothing to draw, a run has one sample, `against` is unknown, or a path is missing.
    """
    where, palette = places(trajectories, against, paths), style.colors(trajectories)
    counts = sorted({trajectory.x.shape[1] for trajectory in trajectories.values()})
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    within = " of one class" if labels is not None else ""
    title = f"Where do the seeds{within} part, and what is lost? ({seeds})"
    figure = style.figure(title, TITLES[against], "RMS between targets (data units)", height=380)
    for label, trajectory in trajectories.items():
        values = finite(metrics.target_diversity(trajectory, labels).tolist())
        text = f"{label}: ends at {values[-1]:.3g}"
        figure.add_trace(_curve(where[label], values, text, palette[label]))
    if reference is not None:
        line = {"color": style.INK, "dash": "dot", "width": 1.5}
        figure.add_hline(y=reference, line=line, annotation_text=f"{reference_name} {reference:.3g}")
    dress(figure, against, max(map(len, trajectories.values())) - 1)
    return figure.update_yaxes(rangemode="tozero")


def _half(trajectory: Trajectory) -> int | None:
    """Where half is decided; None for a run that was stopped before anything was."""
    try:
        return metrics.decided(trajectory)
    except WorkbenchError:
        return None


def _curve(where: Places, values: list, name: str, color: str) -> go.Scatter:
    return go.Scatter(
        x=where.x, y=values, mode="lines+markers", name=name, text=where.text, line={"color": color, "width": 2},
        marker={"size": 6}, cliponaxis=False, hovertemplate="%{text}: %{y:.3g}<extra></extra>",
    )  # fmt: skip
