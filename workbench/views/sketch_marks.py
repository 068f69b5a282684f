"""The marks of a sketch as SVG: lines, markers, heat maps, bars, pictures and words, on axes that place them."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np
from plotly.colors import sample_colorscale

from workbench.views import grid, style

DASHES = {"dot": "2 3", "dash": "6 4"}


def draw(trace: dict, x: Any, y: Any) -> Iterator[str]:
    """The SVG parts of one trace on two axes (`sketch.Axis`)."""
    kind = trace.get("type", "scatter")
    if kind == "heatmap":
        yield from _heatmap(trace, x, y)
    elif kind == "image":
        yield _image(trace, x, y)
    elif kind == "bar":
        for value, name, color in zip(trace["x"], trace["y"], trace["marker"]["color"], strict=True):
            yield f'<rect x="{x(0):.1f}" y="{y(name) - 12:.1f}" width="{x(value) - x(0):.1f}" height="24" fill="{color}"/>'
            yield words(x(value) - 6, y(name) + 4, f"{value:.3g}", anchor="end", color="#fff")
    elif kind in ("scatter", "scattergl"):
        points = [(x(a), y(b)) if _shown(a, x) and _shown(b, y) else None for a, b in zip(trace["x"], trace["y"], strict=True)]
        mode = trace.get("mode", "lines")
        if "lines" in mode:
            yield curve(points, trace.get("line") or {})
        if "markers" in mode:
            yield from markers(points, trace)
        if "text" in mode:
            yield from _labels(points, trace)


def _shown(value: Any, axis: Any) -> bool:
    return isinstance(value, str) or (value is not None and math.isfinite(value) and (value > 0 or not axis.log))


def curve(points: list, line: dict) -> str:
    """A line through points, broken where one is None."""
    path, pen = [], "M"
    for point in points:
        path += [f"{pen}{point[0]:.1f} {point[1]:.1f}"] if point else []
        pen = "L" if point else "M"
    dash = f' stroke-dasharray="{DASHES[line["dash"]]}"' if line.get("dash") in DASHES else ""
    look = f'stroke="{line.get("color", style.INK)}" stroke-width="{line.get("width", 2)}"{dash}'
    return f'<path d="{"".join(path)}" fill="none" {look}/>'


def markers(points: list, trace: dict) -> Iterator[str]:
    """The markers of a trace, each with its own symbol, size and colour where the trace has lists of them."""
    marker = trace.get("marker") or {}
    color = _first_given(marker.get("color"), (trace.get("line") or {}).get("color"), style.INK)
    looks = [_each(value, len(points)) for value in (marker.get("size", 6), color, marker.get("symbol", "circle"))]
    before = None
    for point, size, paint, shape in zip(points, *looks, strict=True):
        if point is not None and size:
            yield _mark(*point, float(size) / 2, paint, shape, before)
        before = point


def _first_given(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _each(value: Any, count: int) -> list:
    """One value for each point; a short list is repeated, as plotly leaves the points beyond it to the default."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [value[k % len(value)] for k in range(count)]
    return [value] * count


def _mark(a: float, b: float, radius: float, color: str, shape: str, before: tuple | None) -> str:
    if shape.startswith("x"):
        r = 0.8 * radius
        return f'<path d="M{a - r:.1f} {b - r:.1f}l{2 * r:.1f} {2 * r:.1f}m0 {-2 * r:.1f}l{-2 * r:.1f} {2 * r:.1f}" stroke="{color}"/>'
    if shape.startswith("arrow") and before is not None:
        turn = math.degrees(math.atan2(b - before[1], a - before[0]))
        head = f"M0 0L{-1.6 * radius:.1f} {-0.7 * radius:.1f}L{-1.6 * radius:.1f} {0.7 * radius:.1f}Z"
        return f'<path d="{head}" fill="{color}" transform="translate({a:.1f} {b:.1f}) rotate({turn:.0f})"/>'
    look = f'fill="none" stroke="{color}"' if shape.endswith("open") else f'fill="{color}"'
    return f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{radius:.1f}" {look}/>'


def _labels(points: list, trace: dict) -> Iterator[str]:
    font = trace.get("textfont") or {}
    where = str(trace.get("textposition", "middle center"))
    anchor = "start" if where.endswith("right") else "end" if where.endswith("left") else "middle"
    drop = {"top": -6, "bottom": 14}.get(where.split()[0], 4)
    looks = [_each(value, len(points)) for value in (trace.get("text", ""), font.get("color", ""))]
    for point, text, color in zip(points, *looks, strict=True):
        if point is not None:
            yield words(point[0], point[1] + drop, str(text), anchor=anchor, size=font.get("size", 12), color=color)


def _image(trace: dict, x: Any, y: Any) -> str:
    """A picture given as a PNG: a pixel a unit, the first one's centre at 0."""
    head = base64.b64decode(trace["source"].partition(",")[2][:64])
    width, height = (int.from_bytes(head[start : start + 4], "big") for start in (16, 20))
    (left, right), (top, bottom) = sorted((x(-0.5), x(width - 0.5))), sorted((y(-0.5), y(height - 0.5)))
    place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
    return f'<image {place} style="image-rendering:pixelated" preserveAspectRatio="none" href="{trace["source"]}"/>'


def _heatmap(trace: dict, x: Any, y: Any) -> Iterator[str]:
    z = np.array([[math.nan if value is None else value for value in row] for row in trace["z"]], dtype=float)
    known = z[np.isfinite(z)]
    ends = (known.min(), known.max()) if known.size else (0.0, 1.0)
    low, high = (
        float(end if trace.get(name) is None else trace[name]) for name, end in zip(("zmin", "zmax"), ends, strict=True)
    )
    scale = [[float(place), color] for place, color in trace["colorscale"]]
    levels = np.array([_rgba(color) for color in sample_colorscale(_opaque(scale), 64)])
    levels[:, 3] = np.interp(np.linspace(0, 1, 64), [p for p, _ in scale], [_rgba(c)[3] for _, c in scale])
    part = np.nan_to_num((z - low) / ((high - low) or 1) * 63)  # a cell without a value stays empty, below
    shade = levels[np.clip(part, 0, 63).round().astype(int)]
    shade[~np.isfinite(z), 3] = 0
    picture = (shade * [1, 1, 1, 255]).round().astype(np.uint8)
    across, up = ([*range(count)] if trace.get(a) is None else trace[a] for a, count in (("x", z.shape[1]), ("y", z.shape[0])))
    (left, right), (top, bottom) = _cells(across, x), _cells(up, y)
    rising = y(up[0]) > y(up[-1])
    place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
    texts = trace.get("text")
    sharp = ' style="image-rendering:pixelated"' if texts is not None or isinstance(up[0], str) else ""
    yield f'<image {place}{sharp} preserveAspectRatio="none" href="{grid.data_uri(picture[::-1] if rising else picture)}"/>'
    for row, line in enumerate(texts if texts is not None else ()):
        for column, text in enumerate(line):
            yield words(
                x(across[column]), y(up[row]) + 4, str(text), anchor="middle", size=11, color=_on(shade[row, column])
            )  # fmt: skip


def _on(shade: np.ndarray) -> str:
    """White on a strong and dark enough colour, else the figure's own ink."""
    light = float(shade[:3] @ [0.299, 0.587, 0.114])
    return "#fff" if shade[3] > 0.6 and light < 150 else "#222" if shade[3] > 0.6 else ""


def _cells(values: Any, axis: Any) -> tuple[float, float]:
    """Pixels between which a heat map's cells lie, half a cell beyond the first and last centre."""
    first, last = sorted((axis(values[0]), axis(values[-1])))
    half = (last - first) / 2 / max(1, len(values) - 1) or (axis.end - axis.start) / 2
    return first - abs(half), last + abs(half)


def _opaque(scale: list) -> list:
    return [[place, "rgb({:.0f},{:.0f},{:.0f})".format(*_rgba(color)[:3])] for place, color in scale]


def _rgba(color: str) -> tuple[float, float, float, float]:
    if color.startswith("#"):
        return (*style.rgb(color), 1.0)
    numbers = [float(word) for word in color[color.index("(") + 1 : -1].split(",")]
    return (*numbers[:3], numbers[3] if len(numbers) > 3 else 1.0)


def across(a: float, b: float, c: float, d: float, color: str, dash: str = "") -> str:
    """A straight line from pixel (a, b) to (c, d)."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" stroke="{color}"{dashes}/>'


def words(a: float, b: float, text: str, anchor: str = "start", size: float = 12, color: str = "") -> str:
    """Text at a pixel; of plotly's markup, <b> is kept, <br> begins a new line, and the rest is left out.

    >>> words(0, 9, "<b>a</b> < b")
    '<text x="0.0" y="9.0" font-size="12" text-anchor="start"><tspan font-weight="bold">a</tspan> &lt; b</text>'
    """
    fill = f' fill="{color}"' if color else ""
    lines = [
        f'<text x="{a:.1f}" y="{b + k * 1.35 * size:.1f}" font-size="{size:g}" text-anchor="{anchor}"{fill}>{_marked(line)}</text>'
        for k, line in enumerate(re.split(r"<br\s*/?>", text))
    ]
    return "".join(lines)


def _marked(line: str) -> str:
    kept = re.sub(r"</?(?!b>)[a-z]+[^<>]*>", "", line)
    return escape(kept).replace("&lt;b&gt;", '<tspan font-weight="bold">').replace("&lt;/b&gt;", "</tspan>")
