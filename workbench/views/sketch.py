"""A plotly figure as a plain SVG, for readers without JavaScript: code hosts, e-mail, print.

It knows what the figures of this package use (lines, markers, heat maps, bars, notes, lines across) and is no more exact
than a sketch needs to be; whoever runs the notebook sees the figure itself.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from workbench.views import grid, style

WIDTH, CHARACTER, LINE = 760, 6.2, 18
DASHES = {"dot": "2 3", "dash": "6 4"}


class Axis(NamedTuple):
    """One axis on the picture: numbers between `low` and `high` (log10 of them if `log`) lie between two pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    names: list[str]
    layout: dict[str, Any]

    def __call__(self, value: Any) -> float:
        if isinstance(value, str):
            value = self.names.index(value)
        value = math.log10(value) if self.log else float(value)
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Pixels and texts of the ticks."""
        if self.names:
            return [(self(name), name) for name in self.names]
        if self.layout.get("tickvals") is not None:
            values = [float(value) for value in self.layout["tickvals"]]
            texts = list(self.layout.get("ticktext") or [f"{value:g}" for value in values])
        elif self.log:
            powers = range(math.ceil(min(self.low, self.high)), math.floor(max(self.low, self.high)) + 1)
            values, texts = [10.0**p for p in powers], [f"1e{p}" for p in powers]
        else:
            step = _round_step(abs(self.high - self.low) / 5)
            first, last = (math.ceil(min(self.low, self.high) / step), math.floor(max(self.low, self.high) / step))
            values = [k * step for k in range(first, last + 1)]
            texts = [f"{value:.10g}" for value in values]
        low, high = sorted((self.start, self.end))
        return [
            (self(v), text)
            for v, text in zip(values, texts, strict=True)
            if (v > 0 or not self.log) and low - 1 <= self(v) <= high + 1
        ]


def svg(figure: go.Figure, width: int = WIDTH) -> str:
    """Draw a figure of this package as SVG text.

    >>> from workbench.views import error_curve
    >>> svg(error_curve({"euler": [(4, 0.2), (8, 0.1)]})).startswith("<svg")
    True
    """
    content = _decoded(figure.to_plotly_json())
    layout, traces = content["layout"], [trace for trace in content["data"] if trace.get("visible", True) is True]
    legend = _legend_rows(traces, layout, width)
    height = int(layout.get("height") or 400) + (LINE * (len(legend) - 1) if legend else 0)
    body = []
    for anchor in dict.fromkeys((trace.get("xaxis", "x"), trace.get("yaxis", "y")) for trace in traces):
        mine = [trace for trace in traces if (trace.get("xaxis", "x"), trace.get("yaxis", "y")) == anchor]
        x, y = _axes(mine, layout, anchor, width, height, LINE * len(legend))
        body += [*_frame(x, y), *_clipped(x, y, [part for trace in mine for part in _trace(trace, x, y)])]
        body += _shapes(layout, anchor, x, y)
        body += _notes(layout, anchor, x, y)
    body += _panel_titles(layout, width, height, LINE * len(legend))
    body += [part for row, items in enumerate(legend) for part in _legend(items, height - LINE * (len(legend) - row) + 8)]
    title = (layout.get("title") or {}).get("text", "")
    body.append(_text(8, 20, title, size=14))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'{head} font-family="{escape(style.FONT)}" fill="{style.INK}">{"".join(body)}</svg>'


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if "bdata" not in value:
            return {key: _decoded(item) for key, item in value.items()}
        numbers = np.frombuffer(base64.b64decode(value["bdata"]), np.dtype(value["dtype"]))
        return numbers.reshape([int(n) for n in value["shape"].split(",")]) if "shape" in value else numbers
    return [_decoded(item) for item in value] if isinstance(value, (list, tuple)) else value


def _axes(traces: list[dict], layout: dict, anchor: tuple[str, str], width: int, height: int, legend: int) -> tuple[Axis, Axis]:
    made = []
    names = {"x": [], "y": []}
    for which in "xy":
        for trace in traces:
            values = trace.get(which)
            if values is not None and any(isinstance(value, str) for value in values):
                names[which] = list(dict.fromkeys([*names[which], *map(str, values)]))
    left = 64 + max((CHARACTER * max(0, len(name) - 4) for name in names["y"]), default=0)
    spans = {"x": (left, width - 16), "y": (height - 48 - legend, 52 if _is_panels(layout) else 40)}
    for which, name in zip("xy", anchor, strict=True):
        settings = layout.get(f"{which}axis{name[1:]}") or {}
        log = settings.get("type") == "log"
        low, high = _range(traces, which, settings, log, names[which])
        first, last = settings.get("domain") or (0, 1)
        start, end = spans[which]
        made.append(Axis(low, high, start + first * (end - start), start + last * (end - start), log, names[which], settings))
    x, y = made
    if y.layout.get("scaleanchor"):
        scale = min((x.end - x.start) / abs(x.high - x.low), (y.start - y.end) / abs(y.high - y.low))
        x, y = (_shrunk(axis, scale * abs(axis.high - axis.low)) for axis in (x, y))
    return x, y


def _shrunk(axis: Axis, length: float) -> Axis:
    middle, sign = (axis.start + axis.end) / 2, math.copysign(1, axis.end - axis.start)
    return axis._replace(start=middle - sign * length / 2, end=middle + sign * length / 2)


def _range(traces: list[dict], which: str, settings: dict, log: bool, names: list[str]) -> tuple[float, float]:
    if names:
        ends = (-0.5, len(names) - 0.5)
    elif settings.get("range") is not None:
        return tuple(float(value) for value in settings["range"])
    else:
        values = [float(v) for trace in traces for v in _numbers(trace, which) if v is not None and (v > 0 or not log)]
        values = [math.log10(v) if log else v for v in values if math.isfinite(v)] or [0.0, 1.0]
        if settings.get("rangemode") == "tozero" and not log:
            values.append(0.0)
        pad = 0.05 * ((max(values) - min(values)) or 1.0)
        ends = (min(values) - pad, max(values) + pad)
    return ends[::-1] if settings.get("autorange") == "reversed" else ends


def _numbers(trace: dict, which: str) -> Any:
    values = trace.get(which)
    bar = trace.get("type") == "bar" and (which == "x") == (trace.get("orientation") == "h")
    return [*([] if values is None else values), *([0.0] if bar else [])]


def _frame(x: Axis, y: Axis) -> Iterator[str]:
    top, bottom = sorted((y.start, y.end))
    free = -math.inf
    for place, text in sorted(x.ticks()):
        yield _line(place, top, place, bottom, style.GRID)
        if place - CHARACTER * len(text) / 2 > free:
            yield _text(place, bottom + 15, text, anchor="middle", size=11)
            free = place + CHARACTER * len(text) / 2
    for place, text in y.ticks():
        yield _line(x.start, place, x.end, place, style.GRID)
        yield _text(x.start - 6, place + 4, text, anchor="end", size=11)
    yield _text((x.start + x.end) / 2, bottom + 32, (x.layout.get("title") or {}).get("text", ""), anchor="middle")
    title = (y.layout.get("title") or {}).get("text", "")
    if title:
        beside = 14 if not (x.layout.get("domain") or [0])[0] else x.start - 44
        yield f'<g transform="translate({beside:.0f} {(top + bottom) / 2:.0f}) rotate(-90)">{_text(0, 0, title, anchor="middle")}</g>'


def _clipped(x: Axis, y: Axis, parts: list[str]) -> list[str]:
    (left, right), (top, bottom) = sorted((x.start, x.end)), sorted((y.start, y.end))
    box = f"{left:.1f} {top:.1f} {right - left:.1f} {bottom - top:.1f}"
    place = 'x="{}" y="{}" width="{}" height="{}"'.format(*box.split())
    return [f'<svg {place} viewBox="{box}">', *parts, "</svg>"]


def _trace(trace: dict, x: Axis, y: Axis) -> Iterator[str]:
    kind = trace.get("type", "scatter")
    if kind == "heatmap":
        yield from _heatmap(trace, x, y)
    elif kind == "bar":
        for value, name, color in zip(trace["x"], trace["y"], trace["marker"]["color"], strict=True):
            yield f'<rect x="{x(0):.1f}" y="{y(name) - 12:.1f}" width="{x(value) - x(0):.1f}" height="24" fill="{color}"/>'
            yield _text(x(value) - 6, y(name) + 4, f"{value:.3g}", anchor="end", color="#fff")
    elif kind in ("scatter", "scattergl"):
        points = [(x(a), y(b)) if _shown(a, x) and _shown(b, y) else None for a, b in zip(trace["x"], trace["y"], strict=True)]
        mode = trace.get("mode", "lines")
        if "lines" in mode:
            yield _curve(points, trace.get("line") or {})
        if "markers" in mode:
            yield from _markers(points, trace)


def _shown(value: Any, axis: Axis) -> bool:
    return isinstance(value, str) or (value is not None and math.isfinite(value) and (value > 0 or not axis.log))


def _curve(points: list, line: dict) -> str:
    words, pen = [], "M"
    for point in points:
        words += [f"{pen}{point[0]:.1f} {point[1]:.1f}"] if point else []
        pen = "L" if point else "M"
    dash = f' stroke-dasharray="{DASHES[line["dash"]]}"' if line.get("dash") in DASHES else ""
    look = f'stroke="{line.get("color", style.INK)}" stroke-width="{line.get("width", 2)}"{dash}'
    return f'<path d="{"".join(words)}" fill="none" {look}/>'


def _markers(points: list, trace: dict) -> Iterator[str]:
    marker = trace.get("marker") or {}
    color = marker.get("color") or (trace.get("line") or {}).get("color") or style.INK
    radius, symbol = float(marker.get("size", 6)) / 2, marker.get("symbol", "circle")
    symbols = symbol if isinstance(symbol, (list, tuple)) else [symbol] * len(points)
    for point, shape in zip(points, symbols, strict=True):
        if point is not None:
            yield _mark(*point, radius, color, shape)


def _mark(a: float, b: float, radius: float, color: str, shape: str) -> str:
    if shape.startswith("x"):
        r = 0.8 * radius
        return f'<path d="M{a - r:.1f} {b - r:.1f}l{2 * r:.1f} {2 * r:.1f}m0 {-2 * r:.1f}l{-2 * r:.1f} {2 * r:.1f}" stroke="{color}"/>'
    look = f'fill="none" stroke="{color}"' if shape.endswith("open") else f'fill="{color}"'
    return f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{radius:.1f}" {look}/>'


def _heatmap(trace: dict, x: Axis, y: Axis) -> Iterator[str]:
    z = np.asarray(trace["z"], dtype=float)
    low, high = (float(trace.get(name, fallback)) for name, fallback in (("zmin", z.min()), ("zmax", z.max())))
    scale = [[float(place), color] for place, color in trace["colorscale"]]
    levels = np.array([_rgba(color) for color in sample_colorscale(_opaque(scale), 64)])
    levels[:, 3] = np.interp(np.linspace(0, 1, 64), [p for p, _ in scale], [_alpha(c) for _, c in scale])
    shade = levels[np.clip((z - low) / ((high - low) or 1) * 63, 0, 63).round().astype(int)]
    picture = (shade * [1, 1, 1, 255]).round().astype(np.uint8)
    (left, right), (top, bottom) = _cells(trace["x"], x), _cells(trace["y"], y)
    rising = (y.start > y.end) == (y.low < y.high)
    place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
    sharp = ' style="image-rendering:pixelated"' if trace.get("text") is not None else ""
    yield f'<image {place}{sharp} preserveAspectRatio="none" href="{grid.data_uri(picture[::-1] if rising else picture)}"/>'
    for row, texts in enumerate(trace.get("text") if trace.get("text") is not None else ()):
        for column, text in enumerate(texts):
            strong = abs(z[row, column] - (low + high) / 2) > 0.3 * (high - low)
            place = (x(trace["x"][column]), y(trace["y"][row]) + 4)
            yield _text(*place, str(text), anchor="middle", size=11, color="#fff" if strong else "")


def _cells(values: Any, axis: Axis) -> tuple[float, float]:
    """Pixels between which a heat map's cells lie, half a cell beyond the first and last centre."""
    first, last = sorted((axis(values[0]), axis(values[-1])))
    half = (last - first) / 2 / max(1, len(values) - 1)
    return first - half, last + half


def _opaque(scale: list) -> list:
    return [[place, "rgb({:.0f},{:.0f},{:.0f})".format(*_rgba(color)[:3])] for place, color in scale]


def _rgba(color: str) -> tuple[float, float, float, float]:
    if color.startswith("#"):
        return (*style.rgb(color), 1.0)
    numbers = [float(word) for word in color[color.index("(") + 1 : -1].split(",")]
    return (*numbers[:3], numbers[3] if len(numbers) > 3 else 1.0)


def _alpha(color: str) -> float:
    return _rgba(color)[3]


def _shapes(layout: dict, anchor: tuple[str, str], x: Axis, y: Axis) -> Iterator[str]:
    for shape in layout.get("shapes") or ():
        across, up = shape.get("xref", "x"), shape.get("yref", "y")
        if shape.get("type") != "line" or (across.split(" ")[0], up.split(" ")[0]) != anchor:
            continue
        a, c = (x.start, x.end) if "domain" in across else (x(shape["x0"]), x(shape["x1"]))
        b, d = (y.start, y.end) if "domain" in up else (y(shape["y0"]), y(shape["y1"]))
        yield _line(a, b, c, d, style.INK, "2 3")


def _notes(layout: dict, anchor: tuple[str, str], x: Axis, y: Axis) -> Iterator[str]:
    for note in layout.get("annotations") or ():
        across, up = note.get("xref", "x"), note.get("yref", "y")
        if (across.split(" ")[0], up.split(" ")[0]) != anchor:
            continue
        a = x.start + note["x"] * (x.end - x.start) if "domain" in across else x(note["x"])
        b = y.start + note["y"] * (y.end - y.start) if "domain" in up else y(note["y"])
        yield _text(a - 4, b - 4, note.get("text", ""), anchor="end" if "domain" in across else "middle")


def _is_panels(layout: dict) -> bool:
    return any(note.get("xref") == "paper" for note in layout.get("annotations") or ())


def _panel_titles(layout: dict, width: int, height: int, legend: int) -> Iterator[str]:
    for note in layout.get("annotations") or ():
        if note.get("xref") == "paper":
            b = (height - 48 - legend) - note["y"] * (height - 100 - legend)
            yield _text(64 + note["x"] * (width - 80), b - 4, note.get("text", ""), anchor="middle")


def _legend_rows(traces: list[dict], layout: dict, width: int) -> list[list[tuple[float, dict]]]:
    named = [t for t in traces if t.get("name") and t.get("showlegend", True) and t.get("type", "scatter") == "scatter"]
    if layout.get("showlegend") is False or (len(named) < 2 and not layout.get("showlegend")):
        return []
    rows, place = [[]], 64.0
    for trace in named:
        wide = 34 + CHARACTER * len(trace["name"])
        if rows[-1] and place + wide > width - 8:
            rows.append([])
            place = 64.0
        rows[-1].append((place, trace))
        place += wide
    return rows


def _legend(items: list[tuple[float, dict]], y: float) -> Iterator[str]:
    for place, trace in items:
        if "lines" in trace.get("mode", "lines"):
            yield _curve([(place, y - 4), (place + 18, y - 4)], trace.get("line") or {})
        if "markers" in trace.get("mode", "lines"):
            yield from _markers(
                [(place + 9, y - 4)], {**trace, "marker": {**(trace.get("marker") or {}), "symbol": _first(trace)}}
            )
        yield _text(place + 23, y, trace["name"])


def _first(trace: dict) -> str:
    symbol = (trace.get("marker") or {}).get("symbol", "circle")
    return symbol if isinstance(symbol, str) else "circle"


def _round_step(rough: float) -> float:
    power = 10 ** math.floor(math.log10(rough))
    return min((m * power for m in (1, 2, 5, 10)), key=lambda step: abs(step - rough))


def _line(a: float, b: float, c: float, d: float, color: str, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" stroke="{color}"{dashes}/>'


def _text(a: float, b: float, text: str, anchor: str = "start", size: int = 12, color: str = "") -> str:
    fill = f' fill="{color}"' if color else ""
    return f'<text x="{a:.1f}" y="{b:.1f}" font-size="{size}" text-anchor="{anchor}"{fill}>{escape(text)}</text>'
