"""What each step of a plan errs by itself, started from the exact solution and remembering exact outputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench import samplers
from workbench.denoiser import Denoiser, evaluate
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path
from workbench.samplers.plan import Plan, Stage
from workbench.samplers.run import combine, run, table_of

SUBSTEPS, REACH = 16, 10.0  # REACH: nats of log-SNR beside pure noise and clean data, of which a fine solution sees no more


def local_errors(plan: Plan, model: Denoiser, noise: Tensor, cond: Any = None, substeps: int = SUBSTEPS) -> Tensor:
    """Local error of every step of a plan on a model: float64 (steps,), as a part of the spread of the state that the step ends at.

    Every step starts from the exact solution, and so do the outputs and the base state that it reads; its error is the root mean
    square distance, over samples and coordinates, to the exact solution at its end, divided by the standard deviation there (so that
    it is the same on every path). A solver of order p has errors of O(h^(p + 1)). Errors pass on and grow or shrink on their way
    to the sample, so their sum is not the error of the run.

    Args:
        plan: deterministic. model: one, on the plan's path. noise: standard normal (n, ...), n at least 2. cond: as for `run`.
        substeps: steps of DPM-Solver-3 that solve one step of the plan for reference; the two steps at the ends take three times as many.

    Raises:
        WorkbenchError: for a plan that adds noise or runs several models, and for a flow map.
    Source: local truncation error (Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section III.2).

    >>> import workbench as wb
    >>> model, noise = wb.mixture([[0.0, 0.0]], [0.5]), torch.randn(9, 2, dtype=torch.float64)
    >>> coarse, fine = (local_errors(wb.plan("ddim", "linear", n, t_start=0.9, t_end=0.1), model, noise).max() for n in (20, 40))
    >>> bool(3.5 < coarse / fine < 4.5)  # order 1
    True
    """
    if getattr(model, "two_times", False):
        raise WorkbenchError("a flow map jumps and solves no equation, so its steps have no local error: give its teacher.")
    if len(noise) < 2:
        raise WorkbenchError("local errors are told against the spread of samples: give 2 or more.")
    return errors_from(plan, model, exact_states(plan.path, plan.times, model, noise.double(), cond, substeps), cond)


def exact_states(
    path: Path, times: Sequence[float], model: Denoiser, noise: Tensor, cond: Any = None, substeps: int = SUBSTEPS
) -> Tensor:
    """States of the probability flow at these times, (len(times), n, ...), by many small steps of DPM-Solver-3.

    Args:
        times: falling. noise: standard normal (n, ...). cond: as for `run`. substeps: as for `local_errors`.
    """
    substeps = check_count("substeps", substeps, 2, 1000)
    grid = [float(times[0])]
    wanted = {0}
    for s, t in itertools.pairwise(float(t) for t in times):
        low, high = path.log_snr(s), path.log_snr(t)
        count = substeps if math.isfinite(high - low) else 3 * substeps
        low = low if math.isfinite(low) else min(high, 0.0) - REACH
        high = high if math.isfinite(high) else max(low, 0.0) + REACH
        between = path.time(torch.linspace(low, high, count + 1, dtype=torch.float64)).tolist()
        grid += [u for u in between if t < u < s] + [t]
        wanted.add(len(grid) - 1)
    fine = samplers.plan("dpm_3", path, schedule=grid)
    points = (frame.x for frame in run(fine, model, noise, cond) if not frame.inner)
    return torch.stack([x for place, x in enumerate(points) if place in wanted])


def errors_from(plan: Plan, model: Denoiser, states: Tensor, cond: Any = None) -> Tensor:
    """`local_errors` from exact states (steps + 1, n, ...) at the plan's times."""
    ends = states[1:].double()
    spread = (ends - ends.mean(1, keepdim=True)).square().flatten(1).mean(1).sqrt()
    return gaps_from(plan, model, states, cond) / spread


def gaps_from(plan: Plan, model: Denoiser, states: Tensor, cond: Any = None) -> Tensor:
    """How far every step ends from the exact states (steps + 1, n, ...) at the plan's times: float64 (steps,), root mean squares.

    Every step starts from its exact state, and so do the outputs and the base state that it reads. It runs in the states' precision.

    Raises:
        WorkbenchError: for a plan that adds noise or runs several models, or whose steps do not end on its times.
    """
    starts = [i for i, stage in enumerate(plan.stages) if not stage.inner]
    if any(row.noise for stage in plan.stages for row in (stage.x, stage.base) if row):
        raise WorkbenchError(
            f"sampler {plan.sampler!r} adds noise, so its steps have no error of their own: take a deterministic one."
        )
    if len(starts) != plan.steps or plan.models > 1:
        raise WorkbenchError(
            f"the steps of this plan ({plan}) cannot be told apart: take one model, and a sampler whose steps end on the times."
        )
    table, ends = table_of(plan, states.dtype), [*starts[1:], len(plan.stages)]
    found, outputs, base, since = [], [], states[0], plan.times[0]
    with torch.no_grad():
        for j, (start, end) in enumerate(zip(starts, ends, strict=True)):
            x = states[j]
            for stage, move in zip(plan.stages[start:end], table.moves[start:end], strict=True):
                target, _ = evaluate(model, x, stage.t, cond)
                output = target if move.convert is None else combine(move.convert, (x, target))
                outputs = [output, *outputs[: table.history - 1]]
                held = (x, base, None, *outputs)
                x = combine(move.x, held)
                if move.base is not None:
                    since = stage.t if _holds_state(plan.path, stage, since) else None
                    base = combine(move.base, held) if since is None else states[j]
            found.append((x.double() - states[j + 1].double()).square().mean().sqrt())
    return torch.stack(found)


def _holds_state(path: Path, stage: Stage, since: float | None) -> bool:
    """Whether the base row makes the state at the stage's time: a copy, or a correction of the last one (UniPC); else a velocity.

    Without outputs the row of a state only scales it, by sigma for x0 and by alpha for eps.
    """
    row, size = stage.base, {"x0": path.sigma, "eps": path.alpha}.get(stage.kind)
    if row.x == 1 and not stage.inner:
        return True
    if since is None or row.x or size is None or not size(since):
        return False
    return math.isclose(row.base, size(stage.t) / size(since), rel_tol=1e-9)
