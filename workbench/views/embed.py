"""Figures inside an HTML page that asks no other host: plotly.js travels in the page, once and compressed."""

from __future__ import annotations

import base64
import functools
import gzip
import json
from html import escape

import plotly.graph_objects as go

# Plotly.js is 4.8 MB as it comes and 2.0 MB like this; every browser since 2023 unpacks gzip by itself.
LOADER = """
(async () => {
  const places = [...document.querySelectorAll("script[data-plot]")];
  const fail = (why) => places.forEach((each) => { document.getElementById(each.dataset.plot).textContent = why; });
  if (typeof DecompressionStream === "undefined")
    return fail("This figure needs a browser of 2023 or later.");
  const packed = atob(document.getElementById("plotly-gz").textContent.trim());
  const bytes = Uint8Array.from(packed, (each) => each.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const code = document.createElement("script");
  code.textContent = await new Response(stream).text();
  document.head.append(code);
  const fold = (title, width) => {  // a long title takes two lines where the place is narrow
    const most = Math.floor(width / 7.4), text = title?.text || "";
    if (text.includes("<") || text.length <= most) return;
    const cut = text.lastIndexOf(" ", most);
    if (cut > 0) title.text = text.slice(0, cut) + "<br>" + text.slice(cut + 1);
  };
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  for (const each of places) {
    const place = document.getElementById(each.dataset.plot), figure = JSON.parse(each.textContent);
    place.textContent = "";
    fold(figure.layout?.title, place.clientWidth);
    await Plotly.newPlot(place, { ...figure, config });
    place.dataset.drawn = "1";
  }
  const everywhere = (change) => document.querySelectorAll("[data-drawn]").forEach((each) => Plotly.relayout(each, change));
  addEventListener("beforeprint", () => everywhere({ width: 660, autosize: false }));
  addEventListener("afterprint", () => everywhere({ width: null, autosize: true }));
  document.addEventListener("toggle", (event) => event.target.querySelectorAll?.("[data-drawn]").forEach((each) =>
    Plotly.Plots.resize(each)), true);
  document.documentElement.dataset.ready = "1";
})();
"""


@functools.lru_cache(maxsize=1)
def _packed() -> str:
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def json_block(content: str, **attributes: str) -> str:
    """JSON text as a script element that is never run, in which nothing can end the element early.

    >>> json_block('{"a": "</script>"}', id="data")
    '<script type="application/json" id="data">{"a": "\\\\u003c/script>"}</script>'
    """
    told = "".join(f' {name.replace("_", "-")}="{escape(value)}"' for name, value in attributes.items())
    return f'<script type="application/json"{told}>{content.replace("<", chr(92) + "u003c")}</script>'


def figure_html(figure: go.Figure, name: str) -> str:
    """A figure as HTML: a place to draw it, and its data; `plotly_html()` must follow at the end of the page.

    Args:
        name: an identifier that is the page's own, such as "plot-1".
    """
    height = int(figure.layout.height or 400)
    place = f'<div class="plot" id="{escape(name)}" style="min-height:{height}px"></div>'
    return place + json_block(json.dumps(json.loads(figure.to_json()), separators=(",", ":")), data_plot=name)


def plotly_html() -> str:
    """The scripts that draw every figure of a page: plotly.js itself, packed, and what unpacks it."""
    return f'<script type="text/plain" id="plotly-gz">{_packed()}</script><script>{LOADER}</script>'
