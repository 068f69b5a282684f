"""One look for every figure: colour-blind safe, the same colour for the same model everywhere, light and dark alike."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

# Okabe and Ito's set, darkened or lightened where needed to keep a contrast of about 3 on white and on near-black.
PALETTE = ("#2f7fc1", "#d55e00", "#009e73", "#c25e9a", "#d18f00", "#7f6fd0", "#3aa6d8", "#8a8f3c")
KNOWN = {"teacher": 0, "dmd2": 1, "reflow": 2, "consistency": 3}
INK, GRID, FAINT = "#7d8794", "rgba(125,135,148,0.22)", "rgba(125,135,148,0.55)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
DENSITY = [[0.0, "rgba(125,135,148,0)"], [0.15, "rgba(125,135,148,0.16)"], [1.0, "rgba(125,135,148,0.62)"]]
DIVERGING = [[0.0, "#2f7fc1"], [0.5, "rgba(125,135,148,0.10)"], [1.0, "#d55e00"]]


def colors(labels: Iterable[str]) -> dict[str, str]:
    """Return a colour for each label: it depends on the label alone, unless two labels of one figure would share it.

    >>> colors(["digits/teacher", "digits/dmd2"])
    {'digits/teacher': '#2f7fc1', 'digits/dmd2': '#d55e00'}
    """
    names, taken, chosen = list(dict.fromkeys(labels)), set(), {}
    for name in names:
        place = _preferred(name)
        while place in taken and len(taken) < len(PALETTE):
            place = (place + 1) % len(PALETTE)
        taken.add(place)
        chosen[name] = PALETTE[place]
    return chosen


def _preferred(label: str) -> int:
    last = re.split(r"[ ,@(-]", label.split("/")[-1])[0].lower()
    return KNOWN[last] if last in KNOWN else 4 + zlib.crc32(label.encode()) % (len(PALETTE) - 4)


def faded(color: str, alpha: float) -> str:
    """A colour "#rrggbb" with an opacity, as plotly writes it.

    >>> faded("#2f7fc1", 0.5)
    'rgba(47,127,193,0.5)'
    """
    red, green, blue = rgb(color)
    return f"rgba({red},{green},{blue},{alpha:g})"


def rgb(color: str) -> tuple[int, int, int]:
    """The three bytes of "#rrggbb"."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def figure(title: str, x: str = "", y: str = "", height: int = 360, **layout: Any) -> go.Figure:
    """An empty figure in the common look; zoom survives redraws, since `uirevision` never changes.

    Args:
        title: the finding or the question. x, y: axis titles, with units. height: in pixels.
    """
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
        "automargin": True,
        "title_font_size": 12,
        "title_standoff": 6,
    }
    made = go.Figure(
        layout={
            "template": "none",
            "title": {"text": title, "font": {"size": 14}, "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 8}},
            "font": {"family": FONT, "size": 12, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 56, "r": 16, "t": 44, "b": 44},
            "height": height,
            "xaxis": {"title": {"text": x}, **axis},
            "yaxis": {"title": {"text": y}, **axis},
            "legend": {"orientation": "h", "y": -0.24, "yanchor": "top", "x": 0, "font": {"size": 12}},
            "hoverlabel": {"font": {"family": FONT}},
            "uirevision": "keep",
        }
    )
    return made.update_layout(**layout) if layout else made


def dress(panels: go.Figure, look: go.Figure) -> go.Figure:
    """Give a figure of panels one above another the layout of `look`, one made by `figure`."""
    layout = look.layout.to_plotly_json()
    axis = {key: value for key, value in layout["xaxis"].items() if key != "title"}
    panels.update_layout(**{key: value for key, value in layout.items() if key not in ("xaxis", "yaxis")})
    panels.update_layout(legend={"y": -46 / (layout["height"] - 130)})  # as many pixels below as in a figure of one panel
    panels.update_xaxes(**axis, title={"font": {"size": 12}, "standoff": 6})
    return panels.update_yaxes(**axis, title={"font": {"size": 12}, "standoff": 6})


def log_ticks(low: float, high: float) -> list[float]:
    """Values to mark on a logarithmic axis: 1, 2 and 5 of each power of ten, or the powers alone where there would be more than 9."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    shown = [tick for tick in ticks if low / 2 <= tick <= 2 * high]
    return shown if len(shown) <= 9 else [tick for tick in shown if math.log10(tick).is_integer()]
