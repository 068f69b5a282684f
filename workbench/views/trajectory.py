"""One sample, step by step: the state and what the model believes it will become (the DT target), for every model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from workbench.errors import WorkbenchError
from workbench.samplers.run import Trajectory
from workbench.views import grid, style
from workbench.views.points import Density, particles

CELL, SPACE, BAND = 56, 6, 34

__all__ = ["Density", "film_strip", "particles", "steps_shown"]


def steps_shown(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 .. count - 1, evenly spread, both ends included.

    >>> steps_shown(26, 6)
    [0, 5, 10, 15, 20, 25]
    """
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, most))})


def film_strip(trajectories: Mapping[str, Trajectory], j: int = 0, frames: int = 9, name: str | None = None) -> go.Figure:
    """Figure of sample j as it denoises: for every label a row of states and under it the row of DT targets.

    Args:
        trajectories: label -> trajectory of images (k, n, channels, height, width). frames: at most so many steps a row.
        name: of the sample in the title, by default `sample {j}`.

    Raises:
        WorkbenchError: if there is nothing to draw, the samples are not images, or j does not exist.
    """
    if not trajectories:
        raise WorkbenchError("there is no trajectory to draw: generate samples first.")
    for label, trajectory in trajectories.items():
        _check_images(label, trajectory)
        if not 0 <= j < trajectory.x.shape[1]:
            raise WorkbenchError(f"sample {j} does not exist: {label} has samples 0 to {trajectory.x.shape[1] - 1}.")
    shown = {label: steps_shown(len(trajectory), frames) for label, trajectory in trajectories.items()}
    wide = max(2, *(len(steps) for steps in shown.values())) if len(shown) > 1 else max(2, len(next(iter(shown.values()))))
    step, block = CELL + SPACE, 2 * (CELL + SPACE) + BAND
    picture = np.zeros((block * len(shown), step * wide, 4), np.uint8)
    figure = style.figure(
        f"What does each step do to {name or f'sample {j}'}? State above, DT target below", height=block * len(shown) + 72
    )
    palette = style.colors(shown)
    for row, (label, steps) in enumerate(shown.items()):
        trajectory, top = trajectories[label], row * block + BAND
        for place, k in enumerate(steps):
            for below, images in enumerate((trajectory.x, trajectory.target)):
                _paste(picture, _cell(images[k, j]), top + below * step, place * step)
            time = f"{float(trajectory.t[k]):.2f}"
            _note(figure, place * step + CELL / 2, top - 8, time, style.INK, "center", 10)
        nfe = trajectory.nfe[-1]
        text = f"<b>{label}</b> · {len(trajectory) - 1} step{'s' * (len(trajectory) != 2)}, {nfe} evaluation{'s' * (nfe != 1)}"
        _note(figure, 0, top - 23, text, palette[label], "left", 12)
    return _framed(figure, picture)


def target_grid_strip(trajectory: Trajectory, label: str, samples: int = 8, frames: int = 9) -> go.Figure:
    """Figure of what one model believes it draws: a row for each sample, a column for each step, DT targets alone.

    Args:
        trajectory: of images (k, n, channels, height, width). label: of the model, for title and colour.
        samples: at most so many rows. frames: at most so many steps, evenly spread, both ends included.

    Raises:
        WorkbenchError: if the samples are not images.
    """
    _check_images(label, trajectory)
    steps, rows = steps_shown(len(trajectory), frames), min(samples, trajectory.x.shape[1])
    step, top = CELL + SPACE, 18
    picture = np.zeros((top + step * rows, step * max(2, len(steps)), 4), np.uint8)
    title = f"<b>{label}</b>: what does each step believe it draws?"
    figure = style.figure(title, height=picture.shape[0] + 76)
    for place, k in enumerate(steps):
        for row in range(rows):
            _paste(picture, _cell(trajectory.target[k, row]), top + row * step, place * step)
        _note(figure, place * step + CELL / 2, top - 8, f"{float(trajectory.t[k]):.2f}", style.INK, "center", 10)
    return _framed(figure, picture)


def _check_images(label: str, trajectory: Trajectory) -> None:
    if trajectory.x.dim() != 5:
        raise WorkbenchError(f"{label} does not draw images: use particles for points in two dimensions.")


def _framed(figure: go.Figure, picture: np.ndarray) -> go.Figure:
    """Put a picture in the figure, a unit a pixel, without ticks."""
    bare = {"showticklabels": False, "showgrid": False, "showline": False, "constrain": "domain", "ticks": ""}
    figure.add_trace(go.Image(source=grid.data_uri(picture), hoverinfo="skip", zsmooth=False))
    title = {"text": "time t, from noise (left) to data (right)", "standoff": 4}
    figure.update_xaxes(range=[-4, picture.shape[1]], title=title, **bare)
    figure.update_yaxes(range=[picture.shape[0], 0], scaleanchor="x", title=None, **bare)
    return figure.update_layout(margin={"l": 8, "r": 8, "t": 44, "b": 28})


def _cell(image) -> np.ndarray:
    pixels = grid.to_uint8(image[None])[0]
    rows, columns = (np.arange(CELL) * size // CELL for size in pixels.shape[:2])
    return pixels[np.ix_(rows, columns)]


def _paste(picture: np.ndarray, pixels: np.ndarray, top: int, left: int) -> None:
    picture[top : top + CELL, left : left + CELL, :3] = pixels
    picture[top : top + CELL, left : left + CELL, 3] = 255


def _note(figure: go.Figure, x: float, y: float, text: str, color: str, anchor: str, size: int) -> None:
    figure.add_annotation(
        x=x, y=y, text=text, showarrow=False, xanchor=anchor, yanchor="middle", font={"color": color, "size": size}
    )
