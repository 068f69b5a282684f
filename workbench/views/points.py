"""Two-dimensional samples on the density they should follow: a fast picture for streaming, and a figure to explore."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.samplers.run import Trajectory
from workbench.views import style

SIZE, EXTENT = 440, 2.1


class Density(NamedTuple):
    """A density on a grid: x (w,), y (h,) rising, z (h, w) with z[i, j] at (x[j], y[i])."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray


def points_image(
    x: Tensor | None, target: Tensor, density: Density | None, color: str, extent: float = EXTENT, size: int = SIZE
) -> np.ndarray:
    """Draw states (n, 2) as grey dots and DT targets (n, 2) as coloured ones on the density, as an RGBA picture.

    Args:
        x: states, or None to leave them out. color: "#rrggbb" of the targets. extent: the picture shows [-extent, extent]^2.
    """
    ink = np.array(style.rgb(style.INK), np.float32)
    shade = np.zeros((size, size), np.float32)
    if density is not None:
        shade = 0.7 * np.sqrt(_resample(density, extent, size))
    picture, alpha = np.broadcast_to(ink, (size, size, 3)), shade
    small = 1.6 if len(target) > 800 else 2.2 if len(target) > 1 else 4.5  # one alone is to be found at a glance
    layers = [] if x is None else [(x, ink, 0.75, small - 0.4)]
    for points, rgb, opacity, radius in [*layers, (target, np.array(style.rgb(color), np.float32), 0.9, small + 0.4)]:
        cover = opacity * _dots(points, extent, size, radius)
        total = cover + alpha * (1 - cover)
        mixed = cover[..., None] * rgb + ((1 - cover) * alpha)[..., None] * picture
        picture, alpha = mixed / np.maximum(total, 1e-6)[..., None], total
    return np.concatenate([picture, 255 * alpha[..., None]], axis=2).round().clip(0, 255).astype(np.uint8)


def density_image(density: Density, size: int = SIZE, extent: float = EXTENT) -> np.ndarray:
    """The density alone as an RGBA picture (size, size, 4) of [-extent, extent]^2: grey, the denser the less transparent."""
    picture = np.empty((size, size, 4), np.uint8)
    picture[..., :3] = style.rgb(style.INK)
    picture[..., 3] = (255 * 0.7 * np.sqrt(_resample(density, extent, size))).round()
    return picture


def nearest(px: float, py: float, points: Tensor, extent: float = EXTENT, size: int = SIZE) -> int:
    """Which of the points (n, 2) lies nearest to pixel (px, py) of `points_image`."""
    place = np.array([px / size * 2 * extent - extent, extent - py / size * 2 * extent])
    return int(((points.detach().cpu().double().numpy() - place) ** 2).sum(1).argmin())


def particles(
    trajectory: Trajectory,
    label: str,
    density: Density | None = None,
    j: int | None = None,
    paths: int = 80,
    color: str | None = None,
    extent: float = EXTENT,
    title: str | None = None,
    name: str | None = None,
) -> go.Figure:
    """Figure of 2-D paths on the density: states as they move, DT targets as a second set of markers.

    Args:
        trajectory: of points (n, 2). label: of the model, for title and colour. density: exact density, or None.
        j: the sample to show in full, with the target of every step; None for the cloud alone. paths: at most so many paths.
        name: of sample j in the legend, where j is only its place in this batch.

    Raises:
        WorkbenchError: if the samples are not points in two dimensions.
    """
    check_points(trajectory)
    color = color or style.colors([label])[label]
    steps = len(trajectory) - 1
    carry = f"How do {steps} steps carry noise to data?" if steps != 1 else "How does one step carry noise to data?"
    asked = title or f"<b>{label}</b><br>{carry}"
    figure = style.figure(asked, "x₁ (data units)", "x₂ (data units)", height=470, margin={"l": 48, "r": 12, "t": 62, "b": 40})
    name = name or f"sample {j}"
    if density is not None:
        figure.add_trace(density_trace(density))
    x, target = (values.detach().cpu().double().numpy().round(3) for values in (trajectory.x, trajectory.target))
    shown = range(min(x.shape[1], paths))
    lines = np.concatenate([np.concatenate([x[:, k], [[np.nan, np.nan]]]) for k in shown])
    figure.add_trace(_line(lines, style.faded(color, 0.28), "paths", 1))
    figure.add_trace(_markers(x[0, : len(shown)], style.FAINT, "noise", "circle-open", 5))
    if steps > 1 and j is None:
        middle = target[steps // 2, : len(shown)]
        figure.add_trace(_markers(middle, style.faded(color, 0.7), f"DT targets at step {steps // 2}", "x-thin-open", 6))
    figure.add_trace(_markers(x[-1, : len(shown)], color, "samples", "circle", 6))
    if j is not None:
        for k in range(steps):
            figure.add_trace(_line(np.stack([x[k, j], target[k, j]]), style.FAINT, "", 1, dash="dot", showlegend=False))
        figure.add_trace(_line(x[:, j], color, f"{name}: state", 2.5, mode="lines+markers"))
        if steps:
            figure.add_trace(_markers(target[:-1, j], style.INK, f"{name}: DT targets", "x", 7))
        extent = max(extent, min(1.05 * float(np.abs(x[:, j]).max()), 4.0))
    figure.update_xaxes(range=[-extent, extent], constrain="domain")
    return figure.update_yaxes(range=[-extent, extent], scaleanchor="x", constrain="domain")


def check_points(trajectory: Trajectory) -> None:
    """Raise unless the samples are points in two dimensions."""
    if trajectory.x.dim() != 3 or trajectory.x.shape[-1] != 2:
        raise WorkbenchError(
            f"particles are drawn in two dimensions, not for samples of shape {tuple(trajectory.x.shape[2:])}."
        )


def density_trace(density: Density) -> go.Heatmap:
    """A density as a grey shade, its peak at 1."""
    z = np.round(density.z / max(float(density.z.max()), 1e-12), 3)
    return go.Heatmap(
        x=density.x.round(3), y=density.y.round(3), z=z, colorscale=style.DENSITY, showscale=False, hoverinfo="skip",
        zsmooth="best",
    )  # fmt: skip


def _line(
    points: np.ndarray, color: str, name: str, width: float, mode: str = "lines", dash: str = "solid", **more
) -> go.Scatter:
    rows = [[None if np.isnan(value) else float(value) for value in axis] for axis in points.T]
    return go.Scatter(
        x=rows[0], y=rows[1], mode=mode, name=name, line={"color": color, "width": width, "dash": dash}, marker_size=6, **more
    )


def _markers(points: np.ndarray, color: str, name: str, symbol: str, size: float) -> go.Scatter:
    marker = {"color": color, "symbol": symbol, "size": size}
    return go.Scatter(x=points[:, 0].tolist(), y=points[:, 1].tolist(), mode="markers", name=name, marker=marker)


def _dots(points: Tensor, extent: float, size: int, radius: float) -> np.ndarray:
    """Coverage (size, size) in [0, 1] of soft discs at the points."""
    reach = int(radius) + 1
    values = points.detach().cpu().double().numpy()
    centre = np.stack([(values[:, 0] + extent), (extent - values[:, 1])], 1) * size / (2 * extent)
    centre = centre[np.isfinite(centre).all(1) & (centre > -reach).all(1) & (centre < size + reach).all(1)]
    corner = np.floor(centre).astype(int)
    offset = np.arange(-reach, reach + 1)
    dx, dy = (grid.ravel() for grid in np.meshgrid(offset, offset))
    ix, iy = corner[:, :1] + dx, corner[:, 1:] + dy
    away = np.hypot(ix + 0.5 - centre[:, :1], iy + 0.5 - centre[:, 1:])
    cover = np.zeros((size + 2 * reach, size + 2 * reach), np.float32)
    ix, iy = (np.clip(place + reach, 0, size + 2 * reach - 1) for place in (ix, iy))
    np.maximum.at(cover, (iy.ravel(), ix.ravel()), np.clip(radius + 0.5 - away, 0, 1).ravel().astype(np.float32))
    return cover[reach:-reach, reach:-reach]


def _resample(density: Density, extent: float, size: int) -> np.ndarray:
    place = (np.arange(size) + 0.5) / size * 2 * extent - extent
    column = np.searchsorted((density.x[1:] + density.x[:-1]) / 2, place)  # the nearest grid point
    row = np.searchsorted((density.y[1:] + density.y[:-1]) / 2, -place)
    z = density.z[np.ix_(row, column)].astype(np.float32)
    return np.clip(z / max(float(density.z.max()), 1e-12), 0, 1)
