"""The pieces that the widgets are made of: figures, pictures and sentences."""

from __future__ import annotations

import functools
import gzip
import json
import logging
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import plotly.graph_objects as go
import traitlets

from workbench.errors import WorkbenchError
from workbench.views.sketch import svg

HERE = Path(__file__).parent
log = logging.getLogger("workbench.widgets")


@functools.cache
def plotly_library() -> bytes:
    """plotly.js as this plotly writes for it, compressed: a third of its 5 MB."""
    from plotly.offline import get_plotlyjs

    return gzip.compress(get_plotlyjs().encode(), 6)


class Figure(anywidget.AnyWidget):
    """A plotly figure that is replaced whole and keeps its zoom.

    Plotly's own widget sends its library (5 MB) once a figure; here all figures of a page share one, fetched when first drawn.

    Attributes:
        content: the figure as plain values. here: one more trace, moved often, or {}. sketch: SVG that stands in for it.
    """

    _esm = HERE / "figure.js"
    _css = HERE / "widgets.css"
    content = traitlets.Dict({"data": [], "layout": {}}).tag(sync=True)
    here = traitlets.Dict().tag(sync=True)
    sketch = traitlets.Unicode().tag(sync=True)

    def __init__(self, drawn: go.Figure | None = None, **more: Any) -> None:
        super().__init__(**more)
        self.on_msg(self._asked)
        if drawn is not None:
            self.show(drawn)

    def show(self, drawn: go.Figure) -> None:
        """Draw another figure in its place."""
        with self.hold_sync():
            self.sketch = svg(drawn)
            self.here = {}
            self.content = json.loads(drawn.to_json())

    @property
    def curves(self) -> list[dict]:
        """The traces that are lines, in order."""
        return [trace for trace in self.content["data"] if "lines" in trace.get("mode", "")]

    def point_at(self, places: Sequence[int]) -> None:
        """Frame point `places[k]` of the k-th curve, in the curve's colour; nothing unless there is one place a curve."""
        if len(places) != len(self.curves):
            return
        kept = [(curve, k) for curve, k in zip(self.curves, places, strict=True) if k < len(curve["x"])]
        marker = {"size": 15, "symbol": "diamond-open", "color": [c["line"]["color"] for c, _ in kept], "line": {"width": 2.5}}
        self.here = {
            "type": "scatter", "mode": "markers", "x": [c["x"][k] for c, k in kept], "y": [c["y"][k] for c, k in kept],
            "marker": marker, "showlegend": False, "hoverinfo": "skip", "cliponaxis": False,
        }  # fmt: skip

    def _asked(self, _: Any, content: dict, __: Any) -> None:
        if content.get("kind") == "plotly":
            self.send({"kind": "plotly"}, buffers=[plotly_library()])


class Picture(anywidget.AnyWidget):
    """A PNG that can be clicked.

    Attributes:
        value: the file. alt: what it shows, in words. mark: left, top, width, height of what is chosen, as fractions, or [].
        ring: the mark is round.
    """

    _esm = HERE / "picture.js"
    _css = HERE / "widgets.css"
    value = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    mark = traitlets.List().tag(sync=True)
    ring = traitlets.Bool(False).tag(sync=True)

    def on_click(self, called: Callable[[float, float], None]) -> None:
        """Call with the pixel (x, y) of the picture that was clicked."""

        def heard(_: Any, content: dict, __: Any) -> None:
            if content.get("kind") == "click":
                called(float(content.get("x", -1)), float(content.get("y", -1)))

        self.on_msg(heard)


def sentence(text: str, wrong: bool = False) -> str:
    """A message as HTML; the text is shown as it is."""
    role = "alert" if wrong else "status"
    return f'<div class="{"wb-error" if wrong else "wb-quiet"}" role="{role}">{escape(text)}</div>' if text else ""


def told(error: Exception) -> str:
    """What a person reads about an error."""
    if isinstance(error, WorkbenchError):
        return str(error)
    log.error("a widget failed", exc_info=error)
    return f"This did not work ({type(error).__name__}: {error}); the kernel's log says more."
