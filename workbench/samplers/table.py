"""A plan as the executor reads it: rows without their zeros, and as few conversions of outputs as possible.

An output of another kind than x0 is c_x x + c_p x0 of the state it was taken at. Where that state is at hand when the output is
used (it is the current one, or the saved base), both terms go into the row, and nothing is converted at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.samplers.plan import Plan, Row


class Sum(NamedTuple):
    """A row without its zeros: factor held[first] + sum of c held[place]; a factor of 1 is None and costs nothing.

    The factor is a tensor of no dimension: multiplying by it takes half as long as by a Python number, a third
    if it is float32 like the state.
    """

    first: int
    factor: Tensor | None
    rest: tuple[tuple[int, float], ...]


class Move(NamedTuple):
    """A stage as the loop reads it.

    Attributes:
        convert: over (x, x0 estimate), to the stage's kind, or None. draws: whether noise is needed.
        x, base: rows over (x, base, noise, outputs[0], outputs[1], ...); no base row keeps the base state.
    """

    convert: Sum | None
    x: Sum
    base: Sum | None
    draws: bool


class Table(NamedTuple):
    """A plan as the loop reads it.

    Attributes:
        start: sigma at the first time. clean: whether the last time is data. history: outputs to keep. moves: its stages.
    """

    start: float
    clean: bool
    history: int
    moves: tuple[Move, ...]


def table_of(plan: Plan, dtype: torch.dtype) -> Table:
    """Worked out once a plan and a precision of its factors (float64 for float64 states, else float32), and kept with the plan."""
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    tables = plan.__dict__.get("_tables")
    if tables is None:
        object.__setattr__(plan, "_tables", tables := {})
    if dtype not in tables:
        start, end = plan.path.sigma(plan.times[0]), plan.path.sigma(plan.times[-1])
        tables[dtype] = Table(start, end == 0, plan.history, _moves(plan, dtype))
    return tables[dtype]


def _moves(plan: Plan, dtype: torch.dtype) -> tuple[Move, ...]:
    stages = plan.stages
    saved = _saved(plan)
    needed = [False] * len(stages)  # outputs that some row looks at when their state is gone
    for i, stage in enumerate(stages):
        for row in (stage.x, stage.base):
            for k, c in enumerate(row.outputs if row else ()):
                j = i - k
                if c and stages[j].kind != "x0" and j not in (i, saved[i]):
                    needed[j] = True
    known = [None if stage.kind == "x0" else plan.path.conversion("x0", stage.kind, stage.t) for stage in stages]
    moves = []
    for i, stage in enumerate(stages):
        rows = []
        for row in (stage.x, stage.base):
            rows.append(None if row is None else sum_of(_folded(row, i, saved[i], needed, known), dtype))
        convert = sum_of(known[i], dtype) if needed[i] else None
        moves.append(Move(convert, rows[0], rows[1], bool(stage.x.noise or (stage.base and stage.base.noise))))
    return tuple(moves)


def _saved(plan: Plan) -> list[int | None]:
    """For each stage, which stage's state the base holds when it runs; None if it is no stage's state."""
    found: list[int | None] = []
    base: int | None = 0
    for i, stage in enumerate(plan.stages):
        found.append(base)
        if stage.base is not None:
            base = i if stage.base == Row(x=1.0) else None
    return found


def _folded(row: Row, i: int, saved: int | None, needed: Sequence[bool], known: Sequence) -> tuple[float, ...]:
    """Coefficients over (x, base, noise, outputs...), the conversions that need no run-time work worked in."""
    x, base, outputs = row.x, row.base, list(row.outputs)
    for k, c in enumerate(row.outputs):
        j = i - k
        if not c or known[j] is None or needed[j]:
            continue
        c_x, c_p = known[j]
        outputs[k] = c * c_p
        if j == i:
            x += c * c_x
        else:
            base += c * c_x
    return (x, base, row.noise, *outputs)


def sum_of(coefficients: Sequence[float], dtype: torch.dtype = torch.float64) -> Sum:
    """The sum with these coefficients; one that is 1 comes first."""
    found = sorted(((place, float(c)) for place, c in enumerate(coefficients) if c), key=lambda term: term[1] != 1)
    (first, factor), *rest = found or [(0, 0.0)]
    return Sum(first, None if factor == 1 else torch.tensor(factor, dtype=dtype), tuple(rest))


def combine(row: Sum, held: Sequence[Tensor]) -> Tensor:
    """Work out a row: at most one fused multiply-add for every coefficient; no tensor in `held` is changed."""
    first, factor, rest = row
    if factor is not None:
        result = held[first] * factor
    elif rest:
        (place, c), *rest = rest
        result = torch.add(held[first], held[place], alpha=c)
    else:
        return held[first]
    for place, c in rest:
        result.add_(held[place], alpha=c)
    return result
