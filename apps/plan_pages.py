"""HTML of the Schedules tab: the table of errors, the sentence over it, and the samples of one schedule."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from apps import laboratory, pages, session
from apps.laboratory import Asked, Result
from workbench import views


def summary(found: dict[str, Result], asked: Asked) -> str:
    """Which schedule errs least."""
    if not found:
        return "None of these schedules can be run with this sampler."
    best = min(found, key=lambda name: found[name].error)
    return f"Least error with {asked.sampler} at {asked.steps} steps: {best}, {found[best].error:.4g} (n = {asked.setup.count}, seed {asked.setup.seed})."


def table(asked: Asked, plans: dict, found: dict[str, Result], wrong: dict[str, str]) -> str:
    """What each schedule costs in error, with a bar; for one that cannot run, why."""
    look = laboratory.palette(list(asked.names))
    top = max([result.error for result in found.values() if math.isfinite(result.error)], default=0.0) or 1.0
    best = min((result.error for result in found.values()), default=None)
    lines = []
    for name in asked.names:
        head = f"<th>{pages.chip(look[name][0])}{escape(name)}</th>"
        if name not in found:
            lines.append(f'<tr>{head}<td colspan="3" class="left">{escape(wrong.get(name, ""))}</td></tr>')
            continue
        error, text = found[name].error, f"{found[name].error:.4g}"
        wide = 100 * min(1.0, error / top) if math.isfinite(error) else 100
        bar = f'<span class="meter"><i style="width:{wide:.1f}%;background:{look[name][0]}"></i></span>'
        number = f"<b>{text}</b>" if error == best else text
        lines.append(
            f'<tr class="{"chosen" if name == asked.chosen else ""}">{head}<td class="meter-cell">{bar}</td><td>{number}</td><td>{found[name].nfe}</td></tr>'
        )
    noise = (
        " This sampler adds noise, which counts as error here."
        if any(laboratory.noisy(plan) for plan in plans.values())
        else ""
    )
    told = f"RMS distance to {laboratory.describe_fine()} from the same noise, n = {asked.setup.count}, seed {asked.setup.seed}.{noise}"
    return (
        f'<div class="scroll"><table class="figures errors"><thead><tr><th>schedule</th><th colspan="2">error ↓</th><th>nfe</th></tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div><div class="ran">{escape(told)}</div>'
    )


def pictures(asked: Asked, result: Result, solution: Any) -> str:
    """Samples of the schedule shown beside those of the fine solution."""
    look = laboratory.palette(list(asked.names))
    crisp = " crisp" if session.is_image(asked.setup.space) else ""
    pairs = ((asked.chosen, result.x, look[asked.chosen][0]), ("fine solution", solution, views.style.PALETTE[0]))
    made = "".join(
        f'<figure><img class="{crisp}" alt="{escape(name)}, {asked.setup.count} samples" src="{laboratory.picture(asked, x, color)}">'
        f"<figcaption>{pages.chip(color)}{escape(name)}</figcaption></figure>"
        for name, x, color in pairs
    )
    return f'<div class="seen">{made}</div>'
