"""What the rows of a sweep say, in words: which plan is best at a number of steps, and whether by more than the noise floor."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError, unknown

if TYPE_CHECKING:
    import pandas

SAME = 2e-3  # relative difference below which two plans are the same but for rounding


def rows_of(rows: Iterable[Any] | pandas.DataFrame) -> list[SimpleNamespace]:
    """Rows of a sweep or of its table, alike."""
    records = rows.to_dict("records") if hasattr(rows, "to_dict") else [row._asdict() for row in rows]
    read = []
    for record in records:
        row = SimpleNamespace(**record)
        row.value, row.floor = (math.nan if number is None else float(number) for number in (row.value, row.floor))
        row.nfe = int(row.nfe) if math.isfinite(row.value) else None
        read.append(row)
    return read


def measured(rows: Iterable[Any] | pandas.DataFrame) -> list[SimpleNamespace]:
    """Rows that could run, as `rows_of`; raises where there is none, or they hold several metrics."""
    found = [row for row in rows_of(rows) if math.isfinite(row.value)]
    if not found:
        raise WorkbenchError("there are no figures to draw: no plan of this sweep has run yet, or none could.")
    metrics = list(dict.fromkeys(row.metric for row in found))
    if len(metrics) > 1:
        raise WorkbenchError(f"these rows hold {' and '.join(metrics)}, which have no common axis: draw one space at a time.")
    return found


def best_of(rows: Sequence[SimpleNamespace]) -> SimpleNamespace:
    """The row with the least value; among equals the model's own plan, then the cheapest."""
    least = min(row.value for row in rows)
    return min((row for row in rows if row.value <= least * (1 + SAME)), key=lambda row: (not row.own, row.nfe))


def at_each(rows: Sequence[SimpleNamespace]) -> list[SimpleNamespace]:
    """The best row at each number of evaluations."""
    return [best_of([row for row in rows if row.nfe == nfe]) for nfe in sorted({row.nfe for row in rows})]


def panels_of(rows: list[SimpleNamespace], steps: int | Sequence[int] | None) -> dict[int, list[SimpleNamespace]]:
    """Step count -> its rows, in rising order."""
    panels = {count: [row for row in rows if row.steps == count] for count in sorted({row.steps for row in rows})}
    if steps is None:  # a count at which only the model's own plan ran is no map
        return {count: cells for count, cells in panels.items() if len(cells) > 1} or panels
    wanted = [steps] if isinstance(steps, int) else list(steps)
    for count in wanted:
        if count not in panels:
            raise unknown("number of steps of the sweep", count, panels)
    return {count: panels[count] for count in wanted}


def all_same(runs: Sequence[SimpleNamespace]) -> bool:
    """Whether all plans give the same figure but for rounding."""
    values = [row.value for row in runs]
    return max(values) - min(values) <= SAME * min(values)


def findings(rows: Iterable[Any] | pandas.DataFrame) -> list[str]:
    """What a sweep of one model says, a sentence for each number of steps that is worth a map."""
    told = []
    for count, cells in panels_of(rows_of(rows), None).items():
        told.append(finding(count, [row for row in cells if math.isfinite(row.value)]))
    return told


def finding(count: int, runs: Sequence[SimpleNamespace]) -> str:
    """What one panel says."""
    steps = f"{count} step{'s' * (count != 1)}"
    return f"{steps}: {verdict(runs, brief=True)}" if runs else f"{steps}: nothing can run"


def verdict(runs: Sequence[SimpleNamespace], brief: bool = False) -> str:
    """The best plan against the model's own; a difference within the noise floor is none."""
    best, own = best_of(runs), next((row for row in runs if row.own), None)
    how, value = f"{best.sampler}, {best.schedule}", short(best.value)
    if all_same(runs):
        return f"every plan is the same, {value}"
    if own is None:
        return f"{how} is best, {value}"
    if best is own:
        return f"its own plan{'' if brief else f' ({how})'} is best, {value}"
    if own.value - best.value <= own.floor:
        return f"its own plan is as good as any, {short(own.value)} (best {value})"
    cost = f", at {best.nfe} evaluations for {own.nfe}" if best.nfe != own.nfe and not brief else ""
    return f"{how} beats its own{'' if brief else ' plan'}, {value} for {short(own.value)}{cost}"


def in_words(row: SimpleNamespace) -> str:
    """A row in words, for hovering."""
    head = (
        f"<b>{row.sampler}, {row.schedule}</b>, {row.steps} step{'s' * (row.steps != 1)}{', its own plan' if row.own else ''}"
    )
    note = "<br>".join(escape(line) for line in textwrap.wrap(str(row.note), 60))
    if not math.isfinite(row.value):
        return f"{head}<br>cannot run: {note}"
    cost = f"{row.nfe} evaluation{'s' * (row.nfe != 1)}, {row.ms_per_image:.3g} ms an image"
    return f"{head}<br>{row.metric} {short(row.value)} (floor {short(row.floor)})<br>{cost}" + (f"<br>{note}" if note else "")


def short(value: float) -> str:
    """Three digits, never as a power of ten for what a person would write out."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")
