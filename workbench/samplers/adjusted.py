"""A plan run with a hand on its state: between any two stages the state may be replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, evaluate
from workbench.samplers.plan import Plan
from workbench.samplers.run import stage_noise
from workbench.samplers.table import Table, combine, table_of


def adjusted(
    plan: Plan,
    model: Denoiser,
    x: Tensor,
    adjust: Callable[[int, Tensor], Tensor],
    table: Table | None = None,
    cond: Any = None,
    seed: int = 0,
    index: Sequence[int] | None = None,
) -> Tensor:
    """Run a plan of one model, replacing every state, and return the final one (n, ...).

    What `run` does for a stage, for studies that need to step in: `adjust(i, x)` gets the state that stage i is about to
    start from (i = number of stages: the final one) and returns what takes its place. One that returns x changes nothing.

    Args:
        x: the state (n, ...) at the plan's first time, so sigma times the noise. table: coefficients, by default the plan's.
        cond, seed, index: as for `run`.

    >>> import workbench as wb
    >>> model, noise = wb.mixture([[1.0, 0.0]], [0.1]), torch.zeros(1, 2, dtype=torch.float64)
    >>> adjusted(wb.plan("ddim", "linear", 4), model, noise, lambda i, x: x)
    tensor([[1., 0.]], dtype=torch.float64)
    """
    table = table or table_of(plan, x.dtype)
    two_times, outputs = bool(getattr(model, "two_times", False)), []
    with torch.no_grad():
        base = x = adjust(0, x)
        for i, (stage, move) in enumerate(zip(plan.stages, table.moves, strict=True)):
            second = {"s": stage.to if stage.jump is None else stage.jump} if two_times else {}
            target, _ = evaluate(model, x, stage.t, cond, **second)
            output = target if move.convert is None else combine(move.convert, (x, target))
            outputs = [output, *outputs[: table.history - 1]]
            held = (x, base, stage_noise(x, seed, i, index) if move.draws else None, *outputs)
            x = adjust(i + 1, combine(move.x, held))
            base = base if move.base is None else combine(move.base, held)
    return x
