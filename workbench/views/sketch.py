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

from workbench.views import style
from workbench.views.sketch_marks import across, curve, draw, markers, words

WIDTH, CHARACTER, LINE = 760, 6.2, 18
MOST_TICKS = 24


class Page(NamedTuple):
    """Pixels: the size of the picture, and the box that the axes share."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float


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
            powers = range(math.floor(min(self.low, self.high)), math.floor(max(self.low, self.high)) + 1)
            values = [m * 10.0**p for p in powers for m in ((1, 2, 5) if len(powers) < 4 else (1,))]
            texts = [f"{value:g}" for value in values]
        else:
            step, given = _round_step(abs(self.high - self.low) / 5), self.layout.get("dtick")
            if isinstance(given, int | float) and abs(self.high - self.low) / given <= MOST_TICKS:
                step = given
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
    page = _page(layout, traces, width, len(legend))
    body = []
    for anchor in dict.fromkeys(map(_anchor, traces)):
        mine = [trace for trace in traces if _anchor(trace) == anchor]
        x, y = _axes(traces, layout, anchor, page)
        inside, free = ([t for t in mine if (t.get("cliponaxis") is False) == out] for out in (False, True))
        parts = [*_backgrounds(layout, anchor, x, y), *(part for trace in inside for part in draw(trace, x, y))]
        body += [*_frame(x, y), *_clipped(x, y, parts)]
        body += [part for trace in free for part in draw(trace, x, y)]
        body += _shapes(layout, anchor, x, y)
        body += _notes(layout, anchor, x, y)
    body += _panel_titles(layout, page)
    for row, items in enumerate(legend):
        body += _legend(items, page.height - LINE * (len(legend) - row) + 8)
    body.append(words(8, 20, _title(layout), size=14))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {page.height}" width="{width}" height="{page.height}"'
    return f'{head} font-family="{escape(style.FONT)}" fill="{style.INK}">{"".join(body)}</svg>'


def _anchor(trace: dict) -> tuple[str, str]:
    return trace.get("xaxis", "x"), trace.get("yaxis", "y")


def _title(settings: dict) -> str:
    return (settings.get("title") or {}).get("text") or ""


def _settings(layout: dict, name: str) -> dict:
    return layout.get(f"{name[0]}axis{name[1:]}") or {}


def _page(layout: dict, traces: list[dict], width: int, legend: int) -> Page:
    """The box: room for the title's lines, for the longest tick text at the left, for the legend's rows below."""
    height = int(layout.get("height") or 400) + LINE * max(0, legend - 1) - (90 if layout.get("updatemenus") else 0)
    top = 40 + 19 * _title(layout).count("<br>") + 12 * _is_panels(layout)
    axes = {name: _settings(layout, name) for trace in traces for name in _anchor(trace)}
    if all(settings.get("showticklabels") is False for settings in axes.values()):
        return Page(width, height, 12, width - 12, top, height - 12 - 16 * any(map(_title, axes.values())) - LINE * legend)
    texts = [str(text) for name, each in axes.items() if name[0] == "y" for text in each.get("ticktext") or ()]
    texts += [text for name in axes if name[0] == "y" for text in _names(traces, name)]
    left = 64 + CHARACTER * max((max(0, len(text) - 4) for text in texts), default=0)
    return Page(width, height, min(left, 0.5 * width), width - 16, top, height - 48 - LINE * legend)


def _names(traces: list[dict], name: str) -> list[str]:
    """The categories of an axis, in the order of their traces."""
    given = [trace.get(name[0]) for trace in traces if name in _anchor(trace)]
    kept = [values for values in given if values is not None and any(isinstance(value, str) for value in values)]
    return list(dict.fromkeys(str(value) for values in kept for value in values))


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if "bdata" not in value:
            return {key: _decoded(item) for key, item in value.items()}
        numbers = np.frombuffer(base64.b64decode(value["bdata"]), np.dtype(value["dtype"]))
        return numbers.reshape([int(n) for n in value["shape"].split(",")]) if "shape" in value else numbers
    return [_decoded(item) for item in value] if isinstance(value, (list, tuple)) else value


def _axes(traces: list[dict], layout: dict, anchor: tuple[str, str], page: Page) -> tuple[Axis, Axis]:
    made = []
    for name in anchor:
        settings, names = _settings(layout, name), _names(traces, name)
        log = settings.get("type") == "log"
        lines = [s[f"{name[0]}0"] for s in layout.get("shapes") or () if s.get(f"{name[0]}ref", name[0]) == name]
        low, high = _range([t for t in traces if _shares(layout, name, t)], name[0], settings, log, names, lines)
        first, last = settings.get("domain") or (0, 1)
        start, end = (page.left, page.right) if name[0] == "x" else (page.bottom, page.top)
        made.append(Axis(low, high, start + first * (end - start), start + last * (end - start), log, names, settings))
    x, y = made
    if y.layout.get("scaleanchor"):
        scale = min((x.end - x.start) / abs(x.high - x.low), (y.start - y.end) / abs(y.high - y.low))
        x, y = (_shrunk(axis, scale * abs(axis.high - axis.low)) for axis in (x, y))
    return x, y


def _shares(layout: dict, name: str, trace: dict) -> bool:
    """Whether a trace's axis is this one, or is kept in step with it (`matches`)."""
    own = _anchor(trace)["xy".index(name[0])]
    return own == name or _settings(layout, own).get("matches", own) == _settings(layout, name).get("matches", name)


def _shrunk(axis: Axis, length: float) -> Axis:
    middle, sign = (axis.start + axis.end) / 2, math.copysign(1, axis.end - axis.start)
    return axis._replace(start=middle - sign * length / 2, end=middle + sign * length / 2)


def _range(
    traces: list[dict], which: str, settings: dict, log: bool, names: list[str], extra: list[float]
) -> tuple[float, float]:
    if names:
        ends = (-0.5, len(names) - 0.5)
    elif settings.get("range") is not None:
        return tuple(float(value) for value in settings["range"])
    else:
        values = [float(v) for trace in traces for v in _numbers(trace, which) if v is not None and (v > 0 or not log)]
        values += extra
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
        if x.layout.get("showgrid") is not False:
            yield across(place, top, place, bottom, style.GRID)
        half = CHARACTER * len(text) / 2
        if place - half > free and x.layout.get("showticklabels") is not False:
            yield words(place, bottom + 15, text, anchor="middle", size=11)
            free = place + half
    for place, text in y.ticks():
        if y.layout.get("showgrid") is not False:
            yield across(x.start, place, x.end, place, style.GRID)
        if y.layout.get("showticklabels") is not False:
            yield words(x.start - 6, place + 4, text, anchor="end", size=11)
    drop = 16 if x.layout.get("showticklabels") is False else 32
    if _title(x.layout):
        yield words((x.start + x.end) / 2, bottom + drop, _title(x.layout), anchor="middle")
    if _title(y.layout):
        beside = 14 if y.names or y.layout.get("ticktext") else x.start - 48
        title = words(0, 0, _title(y.layout), anchor="middle")
        yield f'<g transform="translate({beside:.0f} {(top + bottom) / 2:.0f}) rotate(-90)">{title}</g>'


def _clipped(x: Axis, y: Axis, parts: list[str]) -> list[str]:
    (left, right), (top, bottom) = sorted((x.start, x.end)), sorted((y.start, y.end))
    box = f"{left:.1f} {top:.1f} {right - left:.1f} {bottom - top:.1f}"
    place = 'x="{}" y="{}" width="{}" height="{}"'.format(*box.split())
    return [f'<svg {place} viewBox="{box}">', *parts, "</svg>"]


def _backgrounds(layout: dict, anchor: tuple[str, str], x: Axis, y: Axis) -> Iterator[str]:
    for image in layout.get("images") or ():
        if (image.get("xref"), image.get("yref")) == anchor:
            left, top = x(image["x"]), y(image["y"])
            width, height = x(image["x"] + image["sizex"]) - left, y(image["y"] - image["sizey"]) - top
            place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
            yield f'<image {place} preserveAspectRatio="none" href="{image["source"]}"/>'


def _shapes(layout: dict, anchor: tuple[str, str], x: Axis, y: Axis) -> Iterator[str]:
    for shape in layout.get("shapes") or ():
        wide, high = shape.get("xref", "x"), shape.get("yref", "y")
        if shape.get("type") != "line" or (wide.split(" ")[0], high.split(" ")[0]) != anchor:
            continue
        a, c = (x.start, x.end) if "domain" in wide else (x(shape["x0"]), x(shape["x1"]))
        b, d = (y.start, y.end) if "domain" in high else (y(shape["y0"]), y(shape["y1"]))
        yield across(a, b, c, d, style.INK, "2 3")


def _notes(layout: dict, anchor: tuple[str, str], x: Axis, y: Axis) -> Iterator[str]:
    for note in layout.get("annotations") or ():
        wide, high = note.get("xref", "x"), note.get("yref", "y")
        if (wide.split(" ")[0], high.split(" ")[0]) != anchor:
            continue
        a = x.start + note["x"] * (x.end - x.start) if "domain" in wide else x(note["x"])
        b = y.start + note["y"] * (y.end - y.start) if "domain" in high else y(note["y"])
        side, font = note.get("xanchor", "center"), note.get("font") or {}
        aside = 4 * ("domain" in wide or "domain" in high)
        move = {"left": ("start", aside), "right": ("end", -aside)}.get(side, ("middle", 0))
        drop = {"bottom": -4, "top": 13}.get(note.get("yanchor"), 4)
        look = {"size": font.get("size", 12), "color": font.get("color", "")}
        yield words(a + move[1], b + drop, note.get("text", ""), anchor=move[0], **look)


def _is_panels(layout: dict) -> bool:
    return any(note.get("xref") == "paper" for note in layout.get("annotations") or ())


def _panel_titles(layout: dict, page: Page) -> Iterator[str]:
    for note in layout.get("annotations") or ():
        if note.get("xref") == "paper":
            a = page.left + note["x"] * (page.right - page.left)
            side = {"left": "start", "right": "end"}.get(note.get("xanchor"), "middle")
            yield words(a, page.bottom - note["y"] * (page.bottom - page.top) - 4, note.get("text", ""), anchor=side)


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
            yield curve([(place, y - 4), (place + 18, y - 4)], trace.get("line") or {})
        if "markers" in trace.get("mode", "lines"):
            marker = {key: _one(value) for key, value in (trace.get("marker") or {}).items()}
            yield from markers([(place + 9, y - 4)], {**trace, "marker": marker})
        yield words(place + 23, y, trace["name"])


def _one(value: Any) -> Any:
    """The commonest of a list, which stands for a curve in the legend."""
    return max(value, key=list(value).count) if isinstance(value, (list, tuple)) else value


def _round_step(rough: float) -> float:
    power = 10 ** math.floor(math.log10(rough))
    return min((m * power for m in (1, 2, 5, 10)), key=lambda step: abs(step - rough))
