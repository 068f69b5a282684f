"""What notebooks need beside the app's figures: models in a row, and outputs that read without JavaScript too."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.samplers.run import Trajectory
from workbench.views import grid, style
from workbench.views.points import EXTENT, Density, particles
from workbench.views.sketch import svg

LABEL = 150


def density(log_density: Callable[[Tensor], Tensor], extent: float = EXTENT, size: int = 72) -> Density:
    """A log density of two dimensions, such as that of an analytic teacher, as a `Density` on [-extent, extent]^2.

    >>> import workbench as wb
    >>> density(wb.load("moons").log_density, size=8).z.shape
    (8, 8)
    """
    axis = torch.linspace(-extent, extent, size, dtype=torch.float64)
    place = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    z = log_density(place).exp().reshape(size, size).numpy()
    return Density(axis.numpy(), axis.numpy(), z)


def particle_row(
    trajectories: Mapping[str, Trajectory],
    exact: Density | None = None,
    title: str = "",
    paths: int = 60,
    extent: float = EXTENT,
) -> go.Figure:
    """Figure of several models beside one another: noise (rings), paths and samples (dots) on the density.

    Args:
        trajectories: label -> trajectory of points (n, 2). exact: density, or None. paths: at most so many samples.

    Raises:
        WorkbenchError: if there is nothing to draw, or the samples are not points in two dimensions.
    """
    from plotly.subplots import make_subplots

    if not trajectories:
        raise WorkbenchError("there is no trajectory to draw: generate samples first.")
    made = make_subplots(1, len(trajectories), subplot_titles=list(trajectories), horizontal_spacing=0.03, shared_yaxes=True)
    palette = style.colors(trajectories)
    for column, (label, trajectory) in enumerate(trajectories.items(), start=1):
        for trace in particles(trajectory, label, exact, paths=paths, color=palette[label], extent=extent).data:
            if not (trace.name or "").startswith("DT targets"):
                made.add_trace(trace.update(showlegend=False), row=1, col=column)
        made.update_xaxes(range=[-extent, extent], title={"text": "x₁ (data units)"}, row=1, col=column)
        made.update_yaxes(range=[-extent, extent], scaleanchor=f"x{column if column > 1 else ''}", row=1, col=column)
    look = style.figure(title or "Same noise: where does each model take it?", height=126 + 690 // max(2, len(trajectories)))
    _dress(made, look).update_xaxes(constrain="domain").update_yaxes(constrain="domain")
    return made.update_yaxes(title={"text": "x₂ (data units)"}, row=1, col=1)


def distilling(label: str, samples: Tensor, exact: Density, history: Sequence[tuple[float, float]], floor: float) -> go.Figure:
    """Figure of a run in progress: what the student draws now, and its distance to the exact law against training time.

    Args:
        samples: (n, 2). history: (seconds, sliced Wasserstein distance) so far. floor: the same between two exact draws.
    """
    from plotly.subplots import make_subplots

    color = style.colors([label])[label]
    made = make_subplots(1, 2, subplot_titles=["one-step samples now", "distance to the exact law"], horizontal_spacing=0.14)
    z = (exact.z / exact.z.max()).astype("float32")
    made.add_heatmap(x=exact.x, y=exact.y, z=z, colorscale=style.DENSITY, showscale=False, hoverinfo="skip", row=1, col=1)
    points = samples.detach().cpu().double().numpy().round(3).tolist()
    dots = {"mode": "markers", "marker": {"color": color, "size": 4}, "showlegend": False}
    made.add_scatter(x=[p[0] for p in points], y=[p[1] for p in points], **dots, row=1, col=1)
    curve = {"mode": "lines+markers", "line": {"color": color, "width": 2}, "marker": {"size": 5}, "showlegend": False}
    seconds, distances = ([round(values[k], 4) for values in history] for k in (0, 1))
    made.add_scatter(x=seconds, y=distances, **curve, row=1, col=2)
    made.add_hline(y=floor, line={"color": style.INK, "dash": "dot"}, annotation_text=f"noise floor {floor:.3g}", row=1, col=2)
    title = f"{label}: does one step reach the data? After {seconds[-1]:.0f} s sw2 = {distances[-1]:.3f} (floor {floor:.3f})"
    _dress(made, style.figure(title, height=380))
    made.update_xaxes(range=[-EXTENT, EXTENT], title={"text": "x₁ (data units)"}, constrain="domain", row=1, col=1)
    made.update_yaxes(range=[-EXTENT, EXTENT], title={"text": "x₂ (data units)"}, scaleanchor="x", row=1, col=1)
    made.update_xaxes(title={"text": "training time (s)"}, rangemode="tozero", row=1, col=2)
    return made.update_yaxes(title={"text": "sw2 (data units)"}, rangemode="tozero", row=1, col=2)


def _dress(made: go.Figure, look: go.Figure) -> go.Figure:
    made.update_layout(**{k: v for k, v in look.layout.to_plotly_json().items() if k not in ("xaxis", "yaxis")})
    made.update_layout(margin={"t": 72})
    made.update_annotations(font={"size": 13})
    return made.update_xaxes(gridcolor=style.GRID, zeroline=False).update_yaxes(gridcolor=style.GRID, zeroline=False)


def image_rows(images: Mapping[str, Tensor], count: int = 10, size: int = 56) -> np.ndarray:
    """Draw a labelled row of images (n, c, h, w) for every model as one RGB picture: a column is one noise.

    Args:
        images: label -> images in [-1, 1]. count: at most so many columns. size: of an image, in pixels.

    >>> image_rows({"a": torch.zeros(3, 1, 8, 8), "b": torch.zeros(3, 1, 8, 8)}).shape
    (118, 320, 3)
    """
    from PIL import Image, ImageDraw, ImageFont

    if not images:
        raise WorkbenchError("there are no images to draw: generate samples first.")
    count, step, palette = min(count, *(len(each) for each in images.values()), count), size + 3, style.colors(images)
    canvas = Image.new("RGB", (LABEL - 7 + step * count, step * len(images)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for row, (label, each) in enumerate(images.items()):
        pen.text((4, row * step + size // 2), label, fill=palette[label], font=font, anchor="lm")
        for column, pixels in enumerate(grid.to_uint8(each[:count])):
            tile = Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST)
            canvas.paste(tile, (LABEL - 7 + column * step, row * step))
    return np.asarray(canvas)


def bundle(drawn: go.Figure | np.ndarray) -> dict[str, Any]:
    """The outputs of a notebook cell for a figure (plotly, and an SVG sketch where there is no JavaScript) or a picture."""
    if isinstance(drawn, np.ndarray):
        return {"image/png": grid.png(drawn), "text/plain": "picture"}
    title = (drawn.layout.title.text or "figure").replace("<br>", " ")
    return {
        "application/vnd.plotly.v1+json": json.loads(drawn.to_json()),
        "image/svg+xml": svg(drawn),
        "text/plain": f"figure: {title}",
    }


def show(drawn: go.Figure | np.ndarray, handle: Any = None) -> Any:
    """Display a figure or a picture in a notebook; given the handle that an earlier call returned, replace that one."""
    from IPython.display import display

    if handle is None:
        return display(bundle(drawn), raw=True, display_id=True)
    handle.update(bundle(drawn), raw=True)
    return handle
