"""The small pieces of HTML that the tab shows; everything that is not ours is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from workbench.samplers.run import Trajectory
from workbench.views.grid import data_uri, to_uint8
from workbench.views.trajectory import steps_shown

if TYPE_CHECKING:
    import pandas

    from apps.session import Setup

LOWER = {"ms/image", "error to fine solution", "sw2", "off-mode", "Frechet", "nfe"}
HIGHER = {"class agreement", "modes"}
HIDDEN = {"sampler", "schedule", "guidance"}


def say(text: str, done: bool = False) -> str:
    """One line of what is going on."""
    return f'<div class="say" role="status" data-done="{int(done)}">{escape(text)}</div>'


def error(text: str) -> str:
    """One sentence of what is wrong and what to do."""
    return f'<div class="say wrong" role="alert">{escape(text[:1].upper() + text[1:])}</div>'


def failed(problem: Exception) -> str:
    """For what should never happen: its kind; the rest is in the program's log."""
    return error(f"This did not work ({type(problem).__name__}); the program's log says more.")


def hint() -> str:
    """What to do first."""
    return say(
        "Press Generate: every column starts from the same noise. Each model runs as its card says unless you change it."
    )


def no_table() -> str:
    """Where the table will be."""
    return '<div class="empty wide">The table of measured figures appears here after a run.</div>'


def no_detail() -> str:
    """Where a trajectory will be."""
    return '<div class="empty wide">Click a sample in a picture to see its trajectory: state and DT target at every step.</div>'


def note(text: str, wrong: bool = False) -> str:
    """What a column will run."""
    return f'<div class="ran{" wrong" if wrong else ""}" title="{escape(text)}">{escape(text)}</div>'


def text(title: str, content: str, rows: int) -> str:
    """A text to take away, with its title: it can be reached by keyboard, selected whole, and not changed."""
    return f'<label class="text">{escape(title)}<textarea readonly rows="{rows}" onfocus="this.select()">{escape(content)}</textarea></label>'


def chip(color: str) -> str:
    """A dot in a model's colour."""
    return f'<span class="chip" style="background:{color}"></span>'


def table(frame: pandas.DataFrame, notes: str, palette: Mapping[str, str]) -> str:
    """The table of a comparison; the best figure of a column is bold where one direction is better."""
    names = [name for name in frame.columns if name not in HIDDEN]
    head = "".join(f"<th>{escape(name)}{' ↓' if name in LOWER else ' ↑' if name in HIGHER else ''}</th>" for name in names)
    best = {name: frame[name].min() if name in LOWER else frame[name].max() for name in names if name in LOWER | HIGHER}
    rows = []
    for label, row in frame.iterrows():
        cells = "".join(_cell(row[name], name in best and len(frame) > 1 and row[name] == best[name]) for name in names)
        rows.append(f"<tr><th>{chip(palette.get(str(label), 'gray'))}{escape(str(label))}</th>{cells}</tr>")
    return (
        f'<div class="scroll"><table class="figures"><thead><tr><th>model</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<div class="ran">{escape(notes)}</div>'
    )


def _cell(value: Any, best: bool) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    text = "–" if missing else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td>{'<b>' if best else ''}{escape(text)}{'</b>' if best else ''}</td>"


def strip(trajectories: Mapping[str, Trajectory], j: int, palette: Mapping[str, str], most: int = 33) -> str:
    """Sample j in every column: a row of states and a row of DT targets, a picture a step, as wide as it needs to be."""
    rows = []
    for label, trajectory in trajectories.items():
        shown = steps_shown(len(trajectory), most)
        states, targets = (
            _pictures(images[shown, j], what) for images, what in ((trajectory.x, "state"), (trajectory.target, "DT target"))
        )
        times = "".join(f"<span>{float(trajectory.t[k]):.2f}</span>" for k in shown)
        steps, nfe = len(trajectory) - 1, trajectory.nfe[-1]
        told = f"{steps} step{'s' * (steps != 1)}, {nfe} evaluation{'s' * (nfe != 1)}"
        rows.append(
            f'<div class="strip-head">{chip(palette[label])}<b>{escape(label)}</b> {told}</div><div class="scroll">'
            f'<div class="strip" style="--steps:{len(shown)}"><em>state</em>{states}<em>DT target</em>{targets}<em>time t</em>{times}</div></div>'
        )
    return "".join(rows)


def _pictures(images: Any, what: str) -> str:
    return "".join(f'<img alt="{what} at step {k}" src="{data_uri(image)}">' for k, image in enumerate(to_uint8(images)))


def opened(j: int, setup: Setup) -> str:
    """Over the figures of one sample."""
    return f"<h2>Sample {j} <span>seed {setup.seed}, run again from its own noise: the same picture as above</span></h2>"
