"""What solvers err: at the end against evaluations, and step by step along the path."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from workbench.errors import WorkbenchError, unknown
from workbench.samplers.plan import Plan
from workbench.views import against, style
from workbench.views.curves import error_curve

if TYPE_CHECKING:
    from torch import Tensor


def error_against_evaluations(
    rows: Iterable[Any],
    by: str | None = None,
    floor: float | None = None,
    at: int | None = None,
    y: str = "RMS distance to the exact solution",
) -> go.Figure:
    """Log-log figure of error against network evaluations, with the fitted slope of every curve in the legend.

    Args:
        rows: dicts, or objects such as `workbench.bench.Entry`, with sampler, schedule, nfe and error; several of one plan are averaged.
        by: "plan" (a curve for every sampler on every schedule) or "sampler" (its best schedule at each count); by default "plan" up to
            eight curves.
        floor: the error that cannot be told from none, drawn as a line; points below twice that are not fitted.
        at: the number of evaluations that the title speaks of, by default the one nearest 8. y: title of the axis.

    Raises:
        WorkbenchError: if there is no row with a finite error above 0, or a row lacks a field.
    """
    found = [_read(row) for row in rows]
    kept = [row for row in found if math.isfinite(row[3]) and row[3] > 0]
    if not kept:
        raise WorkbenchError("there is no error to draw: give rows with sampler, schedule, nfe and a finite error above 0.")
    schedules = {row[1] for row in kept}
    by = by or ("plan" if len({row[:2] for row in kept}) <= len(style.PALETTE) else "sampler")
    if by not in ("plan", "sampler"):
        raise unknown("grouping", by, ("plan", "sampler"))
    runs: dict[tuple[str, str, int], list[float]] = {}
    for sampler, schedule, nfe, error in kept:
        runs.setdefault((sampler, schedule, nfe), []).append(error)
    curves: dict[str, dict[int, float]] = {}
    for (sampler, schedule, nfe), errors in runs.items():
        label = sampler if by == "sampler" or len(schedules) == 1 else f"{sampler}, {schedule}"
        mean, curve = sum(errors) / len(errors), curves.setdefault(label, {})
        curve[nfe] = min(mean, curve.get(nfe, math.inf))
    title = _who_wins(curves, at)
    errors = {label: sorted(curve.items()) for label, curve in curves.items()}
    figure, colors = error_curve(errors, title, "network evaluations a sample", y, floor), len(style.PALETTE)
    for k, trace in enumerate(figure.data[: len(errors)]):
        if k >= colors:  # more curves than colours: the second round is dashed, the third dotted
            color, dash = style.PALETTE[k % colors], "dash" if k < 2 * colors else "dot"
            trace.update(line={"color": color, "dash": dash}, marker={"symbol": "circle-open", "color": color})
    return figure


def _read(row: Any) -> tuple[str, str, int, float]:
    names = ("sampler", "schedule", "nfe", "error")
    try:
        sampler, schedule, nfe, error = (row[name] if isinstance(row, Mapping) else getattr(row, name) for name in names)
        return str(sampler), str(schedule), int(nfe), float(error)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise WorkbenchError(f"a row must have the fields {', '.join(names)}; this one has not: {row!r}.") from error


def _who_wins(curves: Mapping[str, Mapping[int, float]], at: int | None) -> str:
    counts = sorted({nfe for curve in curves.values() for nfe in curve})
    if at is not None and at not in counts:
        raise unknown("number of evaluations", at, counts)
    at = at if at is not None else min(counts, key=lambda nfe: abs(math.log(nfe / 8)))
    there = {label: curve[at] for label, curve in curves.items() if at in curve}
    best, worst = (pick(there, key=there.get) for pick in (min, max))
    told = f"At {at} evaluation{'s' * (at != 1)} {best} errs least"
    return told if len(there) < 2 else f"{told}: {there[best]:.2g} ({worst}: {there[worst]:.2g})"


def local_error(
    plans: Mapping[str, Plan], errors: Mapping[str, Sequence[float] | Tensor], axis: str = "t", title: str | None = None
) -> go.Figure:
    """Figure of the local error of each step: a level from where the step starts to where it ends, one line a plan, log scale.

    Args:
        plans: label -> plan. errors: label -> (steps,) numbers, as of `workbench.samplers.local.local_errors`.
        axis: "t", "log_snr" (half; pure noise and clean data lie on the edges) or "step". title: by default, which step weighs most.

    Raises:
        WorkbenchError: if there is nothing to draw, or the number of errors is not that of the steps.
    """
    if not plans:
        raise WorkbenchError("there is no plan to draw: give at least one.")
    if axis not in against.TITLES:
        raise unknown("axis", axis, against.TITLES)
    levels = {label: [float(error) for error in errors.get(label, ())] for label in plans}
    for label, plan in plans.items():
        if len(levels[label]) != plan.steps:
            raise WorkbenchError(
                f"{label} has {plan.steps} steps, but {len(levels[label])} errors were given: give one a step."
            )
    figure = style.figure(title or _heaviest(levels), against.TITLES[axis], "local error, relative to the state", height=380)
    palette = style.colors(plans)
    for label, plan in plans.items():
        places = [_place(plan, k, axis) for k in range(plan.steps + 1)]
        x, y, told = [], [], []
        for k, error in enumerate(levels[label]):
            shown = error if error > 0 and math.isfinite(error) else None
            x += [places[k], places[k + 1]]
            y += [shown, shown]
            told += [f"step {k + 1} of {plan.steps}, t = {plan.times[k]:.3g} to {plan.times[k + 1]:.3g}"] * 2
        figure.add_trace(
            go.Scatter(
                x=x, y=y, text=told, mode="lines+markers", name=f"{label}: {plan.steps} {plan.schedule} steps",
                line={"color": palette[label], "width": 2}, marker={"size": [6, 0] * plan.steps, "color": palette[label]},
                hovertemplate="%{text}: %{y:.3g}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_yaxes(type="log", exponentformat="power")
    return against.dress(figure, axis, max(plan.steps for plan in plans.values())).update_layout(showlegend=True)


def _place(plan: Plan, k: int, axis: str) -> float:
    if axis == "log_snr":
        return against.clipped(plan.path.log_snr(plan.times[k]))
    return round(plan.times[k], 4) if axis == "t" else k


def _heaviest(levels: Mapping[str, Sequence[float]]) -> str:
    """The step that makes the largest part of its plan's local errors, against an equal share."""

    def weight(label: str) -> float:
        return max(levels[label]) * len(levels[label]) / (sum(levels[label]) or 1.0)

    most, least = max(levels, key=weight), min(levels, key=weight)
    if weight(most) < 1.5:
        return "Every step errs about alike"
    errors = levels[most]
    told = f"{most}: step {errors.index(max(errors)) + 1} of {len(errors)} makes {max(errors) / sum(errors):.0%} of the local errors"
    return f"{told}; {least}: none more than {max(levels[least]) / sum(levels[least]):.0%}" if weight(least) < 1.5 else told
