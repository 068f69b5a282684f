"""Where samplers are stable, on one complex plane."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from workbench.errors import WorkbenchError
from workbench.views import style

if TYPE_CHECKING:
    from workbench.samplers.stability import Region

TOLERANCE = 1e-5  # of a radius of 1: what rows of a millionth of a step are off by
Edge = tuple[int, int, bool]


def stability_regions(results: Mapping[str, Region], title: str | None = None) -> go.Figure:
    """Figure of the edges of stability regions: a sampler is stable inside its line; the legend tells how far on the real axis.

    Args:
        results: label -> region, from `workbench.samplers.stability.stability_region`. title: by default, which reaches farthest.

    Raises:
        WorkbenchError: if there is no region.
    """
    if not results:
        raise WorkbenchError("there is no region to draw: give at least one.")
    title = title or _title({label: region.interval for label, region in results.items()})
    figure = style.figure(title, "Re z, z = rate × step in ρ (decaying: left of 0)", "Im z", height=420)
    palette = style.colors(results)
    for label, region in results.items():
        x, y = [], []
        for line in outline(region):
            for sign in (1, -1):
                x += [*(round(a, 4) for a, _ in line), None]
                y += [*(round(sign * b, 4) for _, b in line), None]
        figure.add_trace(
            go.Scatter(
                x=x[:-1], y=y[:-1], mode="lines", name=f"{label}: to {_number(region.interval)}",
                line={"color": palette[label], "width": 2}, hovertemplate=f"{label}: z = %{{x:.3f}} %{{y:+.3f}} i<extra></extra>",
            )
        )  # fmt: skip
    left = min(float(region.real[0]) for region in results.values())
    right = max(float(region.real[-1]) for region in results.values())
    top = max(float(region.imag[-1]) for region in results.values())
    figure.add_vline(x=0, line={"color": style.INK, "dash": "dot", "width": 1})
    figure.update_xaxes(range=[left, right], constrain="domain")
    figure.update_yaxes(range=[-top, top], scaleanchor="x", constrain="domain")
    return figure.update_layout(showlegend=True)


def outline(region: Region) -> list[list[tuple[float, float]]]:
    """Lines (x, y) in the upper half plane on which the spectral radius is 1, by linear interpolation on the grid's edges."""
    x, y = region.real.tolist(), region.imag.tolist()
    f = region.radius.numpy() - 1 - TOLERANCE
    links: dict[Edge, list[Edge]] = {}
    inside = f <= 0
    mixed = inside[:-1, :-1].astype(int) + inside[1:, :-1] + inside[:-1, 1:] + inside[1:, 1:]
    for i, j in np.argwhere((mixed > 0) & (mixed < 4)).tolist():
        sides: list[Edge] = [(i, j, True), (i, j + 1, False), (i + 1, j, True), (i, j, False)]
        cut = [side for side in sides if inside[side[0], side[1]] != inside[_other(side)]]
        for a, b in zip(cut[::2], cut[1::2], strict=True):
            links.setdefault(a, []).append(b)
            links.setdefault(b, []).append(a)

    def point(side: Edge) -> tuple[float, float]:
        (i, j, _), (k, m) = side, _other(side)
        share = f[i, j] / (f[i, j] - f[k, m])
        return x[j] + share * (x[m] - x[j]), y[i] + share * (y[k] - y[i])

    return [[point(side) for side in line] for line in _chains(links)]


def _other(side: Edge) -> tuple[int, int]:
    """Where an edge of the grid ends that begins at (row, column) and goes right, or up."""
    i, j, right = side
    return (i, j + 1) if right else (i + 1, j)


def _chains(links: dict[Edge, list[Edge]]) -> Iterator[list[Edge]]:
    """Follow the links from every loose end, then around what closes on itself."""
    left = {side: list(ends) for side, ends in links.items()}
    for start in sorted(left, key=lambda side: len(links[side])):
        while left[start]:
            line = [start]
            while left[line[-1]]:
                here, after = line[-1], left[line[-1]].pop()
                left[after].remove(here)
                line.append(after)
            yield line


def _title(intervals: Mapping[str, float]) -> str:
    farthest, nearest = (pick(intervals, key=intervals.get) for pick in (min, max))
    told = f"{farthest} is stable to {_number(intervals[farthest])} on the real axis"
    return (
        told if math.isclose(intervals[farthest], intervals[nearest]) else f"{told}, {nearest} to {_number(intervals[nearest])}"
    )


def _number(value: float) -> str:
    return "−∞" if value == -math.inf else f"{value:.3g}".replace("-", "−")
