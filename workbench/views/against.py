"""The horizontal axis of a curve along a run: by step, by time, or by half log-SNR, which aligns models on any path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import plotly.graph_objects as go

from workbench import paths as known_paths
from workbench.errors import WorkbenchError, unknown
from workbench.paths import Path
from workbench.samplers.run import Trajectory

LIMIT = 9.0  # a half log-SNR beyond is drawn on the edge: pure noise and clean data lie at infinity
TICKS = {"tickvals": [-LIMIT, -6, -3, 0, 3, 6, LIMIT], "ticktext": ["noise −∞", "−6", "−3", "0", "3", "6", "data ∞"]}
LOG_SNR = "half log-SNR, log(α/σ) (nats)"
TITLES = {"step": "step", "t": "time t, from noise (left) to data (right)", "log_snr": LOG_SNR}


class Places(NamedTuple):
    """Where each point of a run lies on the axis, and what a hover says of it."""

    x: list[float]
    text: list[str]


def places(
    trajectories: Mapping[str, Trajectory], against: str = "step", paths: Mapping[str, str | Path] | None = None
) -> dict[str, Places]:
    """Lay the points of every run on one axis.

    Args:
        against: "step", "t" or "log_snr". paths: label -> path (or its name), needed for "log_snr".

    Raises:
        WorkbenchError: if there is nothing to draw, `against` is unknown, or a path is missing.
    """
    check(trajectories)
    if against not in TITLES:
        raise unknown("axis", against, TITLES)
    found = {}
    for label, trajectory in trajectories.items():
        times = trajectory.t.tolist()
        text = [f"step {k} of {len(times) - 1}, t = {t:.3f}" for k, t in enumerate(times)]
        if against == "log_snr":
            x = [clipped(path_of(paths, label).log_snr(t)) for t in times]
        else:
            x = list(range(len(times))) if against == "step" else [round(t, 4) for t in times]
        found[label] = Places(x, text)
    return found


def dress(figure: go.Figure, against: str, most: int) -> go.Figure:
    """Ticks and direction of the axis; `most` is the largest number of steps."""
    if against == "log_snr":
        return figure.update_xaxes(range=[-LIMIT - 0.6, LIMIT + 0.6], **TICKS)
    if against == "t":
        return figure.update_xaxes(range=[1.03, -0.03])
    return figure.update_xaxes(dtick=1 if most <= 10 else None, range=[-0.03 * most, 1.03 * most])


def clipped(log_snr: float) -> float:
    """A half log-SNR within the axis."""
    return max(-LIMIT, min(LIMIT, log_snr))


def check(trajectories: Mapping[str, Trajectory]) -> None:
    """Raise where there is nothing to draw."""
    if not trajectories:
        raise WorkbenchError("there is no trajectory to draw: generate samples first.")


def path_of(paths: Mapping[str, str | Path] | None, label: str) -> Path:
    """The path of a label, or one sentence that says it is missing."""
    if paths is None or label not in paths:
        raise WorkbenchError(
            f"the path of {label} is not known: give paths={{{label!r}: model.path, ...}}, one for every label."
        )
    return known_paths.get(paths[label])


def when(trajectory: Trajectory, step: int) -> str:
    """Where in its run a point lies, in words.

    >>> from types import SimpleNamespace
    >>> import torch
    >>> class Run(SimpleNamespace):
    ...     def __len__(self): return len(self.t)
    >>> when(Run(t=torch.tensor([1.0, 0.62, 0.0])), 1)
    'step 1 of 2 (t = 0.62)'
    """
    return f"step {step} of {len(trajectory) - 1} (t = {float(trajectory.t[step]):.2f})"


def finite(values: list[float]) -> list[float | None]:
    """Numbers for JSON: rounded, and a gap where there is none."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values]


def spread(figure: go.Figure, row: int, values: list[float]) -> go.Figure:
    """Give a panel of lengths a logarithmic axis where they differ by more than a factor of 8, else one that begins at 0."""
    positive = [value for value in values if value > 0]
    if not positive or max(positive) <= 8 * min(positive):
        return figure.update_yaxes(rangemode="tozero", row=row, col=1)
    low, high = math.log10(min(positive)), math.log10(max(positive))
    powers, steps = range(math.floor(low), math.ceil(high) + 1), (1, 2, 5) if high - low < 2.5 else (1,)
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    return figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks], row=row, col=1)
