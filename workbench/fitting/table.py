"""A plan as a tensor that gradients pass through, and the run of such a table with a graph.

A row of the table is a stage: t, to, then the state's row and the base's row, each as x, base, outputs[0], outputs[1], ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError
from workbench.samplers.plan import Plan, Row, Stage

T, TO, X, BASE, FIRST = range(5)  # columns; the outputs begin at FIRST
STEP = 1e-5  # of the narrowest step: central differences in float64 are then right to about nine digits


def to_tensor(stages: Sequence[Stage], history: int) -> Tensor:
    """The numbers of these stages, (stages, 2 + 2 (2 + history)), float64; a stage that keeps its base has zeros there."""
    rows = []
    for stage in stages:
        numbers = [stage.t, stage.to]
        for row in (stage.x, stage.base or Row()):
            numbers += [row.x, row.base, *row.outputs, *[0.0] * (history - len(row.outputs))]
        rows.append(numbers)
    return torch.tensor(rows, dtype=torch.float64)


def to_stages(like: Sequence[Stage], table: Tensor, grid: Sequence[float]) -> tuple[Stage, ...]:
    """Stages with the kinds, models and order of `like` and the numbers of the table; trailing zeros are left out."""
    width = (table.shape[1] - 2) // 2
    stages = []
    for stage, numbers in zip(like, table.tolist(), strict=True):
        x, base = (_row(numbers[2 + k * width : 2 + (k + 1) * width]) for k in (0, 1))
        jump = None if stage.jump is None else numbers[TO]
        made = replace(stage, t=numbers[T], to=numbers[TO], x=x, base=stage.base and base, jump=jump)
        stages.append(made)
    return (*stages[:-1], replace(stages[-1], to=grid[-1]))


def _row(numbers: list[float]) -> Row:
    x, base, *outputs = numbers
    while outputs and outputs[-1] == 0:
        outputs.pop()
    return Row(x, base, tuple(outputs))


class AtTimes(torch.autograd.Function):
    """build(times), a solver's table, with its gradient in the inner times by central differences."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, build: Callable[[list[float]], Tensor]) -> Tensor:
        """The table at these times, and its slopes by central differences for the way back."""
        times, slopes = grid.tolist(), []
        for j in range(1, len(times) - 1) if ctx.needs_input_grad[0] else ():
            h = STEP * min(times[j - 1] - times[j], times[j] - times[j + 1])
            up, down = (build([*times[:j], times[j] + d, *times[j + 1 :]]) for d in (h, -h))
            slopes.append((up - down) / (2 * h))
        table = build(times)
        ctx.slopes = torch.stack(slopes) if slopes else table.new_zeros(0, *table.shape)
        return table

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient with respect to the times."""
        inner = torch.einsum("jsc,sc->j", ctx.slopes, gradient)
        end = inner.new_zeros(1)
        return torch.cat([end, inner, end]), None


def builder(plan: Plan, solver: Callable[..., list[Stage]], options: dict[str, Any], history: int) -> Callable:
    """The function times -> table of a solver.

    Raises (when called):
        WorkbenchError: if the solver's stages at these times are not those of the plan.
    """

    def build(times: list[float]) -> Tensor:
        stages = solver(plan.path, times, **options)
        if [(s.kind, s.base is None) for s in stages] != [(s.kind, s.base is None) for s in plan.stages]:
            raise WorkbenchError(f"sampler {plan.sampler!r} takes other stages at other times: learn ('rows',) alone.")
        return to_tensor(stages, history)

    return build


def roll(
    plan: Plan, table: Tensor, used: Tensor, model: Denoiser, noise: Tensor, cond: Any = None, seen: list | None = None
) -> list[Tensor]:
    """Run a table as `workbench.run` runs a plan, with gradients: the states after each stage.

    Args:
        plan: for its path, kinds and base rows. used: (stages, columns), which coefficients can be other than zero.
        seen: filled, if given, with what each stage's rows multiply: [state, base, outputs...].
    """
    width, use = (table.shape[1] - 2) // 2, used.tolist()
    x = noise * plan.path.sigma(plan.times[0])
    base, outputs, states = x, [], []
    for i, stage in enumerate(plan.stages):
        t = table[i, T]
        output = model(x, t, cond)
        if stage.kind != "x0":
            c_x, c_p = plan.path.conversion("x0", stage.kind, t)
            output = c_x * x + c_p * output
        outputs = [output, *outputs][: width - 2]
        held = [x, base, *outputs]
        if seen is not None:
            seen.append(held)
        x, kept = (_combine(table[i, first : first + width], use[i][first : first + width], held) for first in (X, X + width))
        base = base if stage.base is None else kept
        states.append(x)
    return states


def _combine(row: Tensor, used: list[bool], held: list[Tensor]) -> Tensor:
    total = None
    for c, use, one in zip(row, used, held, strict=False):
        if use:
            total = c * one if total is None else total + c * one
    return torch.zeros_like(held[0]) if total is None else total
