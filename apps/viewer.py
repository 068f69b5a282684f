"""The parts of the page that draw in the browser: a picture a column, the scrubber over them, the A/B slider, the pins.

The code is `viewer.js`; what it is sent is made in `stream.py`. Everything that comes from outside (labels, sentences) is
set as text there, never as HTML.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

SCRIPT = Path(__file__).with_name("viewer.js")

PICTURE = """
<div class="bar"><i></i></div>
<canvas tabindex="0" role="img" aria-label="nothing drawn yet" hidden></canvas>
<div class="empty">nothing drawn yet</div>
<div class="where"></div><div class="ran"></div>
"""
TOOL = """
<div class="segments" role="group" aria-label="What the pictures show">
  <button type="button" data-mode="target" title="What the model believes the final image is, seen from this step">DT target</button>
  <button type="button" data-mode="state" title="The state x at this step">state</button>
  <button type="button" data-mode="difference" title="DT target minus that of the reference column at the same place">difference</button>
</div>
<label class="reference">to <select class="reference" aria-label="Reference of the difference"></select></label>
<label class="field" hidden><input type="checkbox" class="field"> velocity</label>
<button type="button" class="play" title="Play from noise to data (space)" aria-label="Play from noise to data">▶</button>
<input type="range" min="0" max="1000" value="1000" step="any" aria-label="Step" title="Step, all columns together (← →)">
<output>data</output>
<label>columns meet at the same <select class="align" aria-label="How the columns are aligned">
  <option value="step">share of their steps</option><option value="snr">half log-SNR</option></select></label>
"""
OVER = """
<div class="over-asked"><label>left <select class="a" aria-label="Left picture"></select></label>
<label>right <select class="b" aria-label="Right picture"></select></label></div>
<div class="over-frame"><canvas aria-label="Two columns, one over the other" role="img"></canvas>
<input type="range" min="0" max="1000" value="500" step="any" aria-label="Where the left picture ends"></div>
"""
HEAD = """
<div class="title"><h1>{title}</h1><p>{intro}</p></div>
<div class="page-tools"><button type="button" class="show-keys" title="Keys (?)">Keys</button>
<button type="button" class="light-dark" title="Light or dark">Light / dark</button></div>
<dialog id="keys" aria-label="Keys"><h2>Keys</h2><dl>
<dt>g, Ctrl Enter</dt><dd>generate</dd><dt>s</dt><dd>stop</dd><dt>n, b</dt><dd>next seed, seed before</dd><dt>← →</dt><dd>a step back, a step on</dd>
<dt>space</dt><dd>play from noise to data</dd><dt>d</dt><dd>DT target, state, difference</dd><dt>p</dt><dd>pin the chosen sample</dd>
<dt>← → ↑ ↓, Enter</dt><dd>on a picture (Tab to it): choose a sample, open it</dd><dt>?</dt><dd>this list</dd></dl>
<form method="dialog"><button>Close</button></form></dialog>
"""


def head() -> str:
    """For the page's <head>: the script, inline, so that it is there before the first picture."""
    return f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>"


def picture(place: int) -> gr.HTML:
    """The picture of column `place`; its value is a message of `stream.py`, its `select` event carries {sample, column}."""
    on_load = f"window.workbench.mount({place}, element, props, watch, trigger)"
    return _part(PICTURE, on_load, f"picture-{place}", classes="picture")


def page_head(title: str, intro: str) -> gr.HTML:
    """Title, light and dark, the list of keys."""
    return _part(HEAD.format(title=title, intro=intro), "window.workbench.mountPage(element)", "intro")


def tool() -> gr.HTML:
    """What the pictures show, the step scrubber, and how the columns are aligned."""
    return _part(TOOL, "window.workbench.mountTool(element)", "scrubber")


def over() -> gr.HTML:
    """Two columns over one another with a slider between them."""
    return _part(OVER, "window.workbench.mountOver(element)", "over")


def pins() -> gr.HTML:
    """Where pinned samples stay."""
    return _part('<div class="pins"></div>', "", "pins")


def _part(template: str, on_load: str, name: str, classes: str = "") -> gr.HTML:
    return gr.HTML(
        None, html_template=template, js_on_load=on_load, elem_id=name, elem_classes=classes, apply_default_css=False,
        container=False, padding=False,
    )  # fmt: skip
