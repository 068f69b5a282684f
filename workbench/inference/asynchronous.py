"""Asynchronous times along a sequence: frame f is `lag` steps behind frame f - 1 (AR-Diffusion, arXiv 2503.07418).

lag 0 denoises all frames together; lag N finishes each frame before the next begins, which is autoregressive sampling;
in between, later frames see earlier ones less noisy than themselves. The model takes one time a frame.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, evaluate
from workbench.errors import Diverged, WorkbenchError, check_count
from workbench.inference.resolution import fixed
from workbench.samplers.plan import Plan
from workbench.samplers.run import run, stage_noise
from workbench.samplers.table import combine, table_of


class LagFrame(NamedTuple):
    """A `Frame` of an asynchronous run.

    Attributes:
        i: row. t: time of the last frame of the sequence, the noisiest. x, target: (n, F, ...). nfe, seconds, inner: as in `Frame`.
        clock: (F,) time of every frame of the sequence. moved: evaluations so far of frames that were then updated.
    """

    i: int
    t: float
    x: Tensor
    target: Tensor
    nfe: int
    seconds: float
    inner: bool
    clock: Tensor
    moved: int
    times: None = None
    counts: None = None


def lag_rows(steps: int, frames: int, lag: int) -> list[list[int]]:
    """How many steps each frame has taken, row by row: steps + (frames - 1) lag updates, so one row more.

    Frame 0 takes a step a row, frame f is `lag` steps behind frame f - 1 and follows it to the end.

    Args:
        steps: N, at least 1. frames: F, at least 1. lag: 0 (together) to N (one after the other).

    Raises:
        WorkbenchError: for counts out of range.

    Source: AR-Diffusion, arXiv 2503.07418, the adaptive-delay ("AD") scheduler.

    >>> lag_rows(2, 2, 1)
    [[0, 0], [1, 0], [2, 1], [2, 2]]
    """
    steps, frames = check_count("steps", steps), check_count("frames", frames)
    lag = check_count("lag", lag, 0, steps)
    return [[min(steps, max(0, row - frame * lag)) for frame in range(frames)] for row in range(steps + (frames - 1) * lag + 1)]


def asynchronous_run(
    plan: Plan,
    model: Denoiser,
    noise: Tensor,
    lag: int = 0,
    cond: Any = None,
    seed: int = 0,
    index: Sequence[int] | None = None,
) -> Iterator[LagFrame]:
    """Run a plan on a sequence whose frames keep `lag` stages between them, yielding a `LagFrame` before every row.

    Every frame goes through the plan's stages in order, with a history of its own, so any plan will do. A frame that does not
    move in a row keeps its state (the released sampler masks the model's output instead). `nfe` is the number of rows,
    N + (F - 1) lag for a plan of N stages.

    Args:
        plan, cond, seed, index: as for `workbench.run`.
        model: called with x (n, F, ...) and times (n, F); one evaluation a row.
        noise: standard normal (n, F, ...). lag: 0 to the number of stages.

    Raises:
        WorkbenchError: for noise without frames, a lag out of range, or a plan of several models.
        Diverged: if the final state is not finite.

    Source: AR-Diffusion, arXiv 2503.07418; the multistep history per frame is the workbench's own.
    Measured: exact W2 to four frames of a rotating Gaussian with dpmpp_2m: at 32 evaluations, 0.015 with lag 0 and 32 steps, 0.022
    with lag 4 and 20, 0.125 with lag 8 and 8; at 16 steps a frame, 0.045 with lag 0, 0.034 with lag 4, 0.041 with lag 16, so a
    lag helps each step but not each evaluation (no sampling, benchmarks/inference_more.py).

    >>> import workbench as wb
    >>> from workbench.teachers.gaussian import rotating_sequence
    >>> *_, last = asynchronous_run(wb.plan("ddim", "linear", 5), rotating_sequence(4), torch.randn(3, 4, 2).double(), lag=2)
    >>> last.x.shape, last.nfe
    (torch.Size([3, 4, 2]), 11)
    """
    if not isinstance(noise, Tensor) or noise.dim() < 2:
        raise WorkbenchError("noise must be a tensor (n, frames, ...) of standard normal numbers.")
    if fixed(plan).models > 1:
        raise WorkbenchError(f"{plan} runs {plan.models} models: an asynchronous run takes plans of one.")
    rows = lag_rows(len(plan.stages), noise.shape[1], lag)
    run(plan, model, noise, cond, seed, index)  # its checks
    return _rows(plan, model, noise, rows, cond, seed, index)


def _rows(
    plan: Plan, model: Any, noise: Tensor, rows: list[list[int]], cond: Any, seed: int, index: Sequence[int] | None
) -> Iterator[LagFrame]:
    table, count = table_of(plan, noise.dtype), len(plan.stages)
    clock = [*(stage.t for stage in plan.stages), plan.times[-1]]
    with torch.no_grad():
        states = list((noise * table.start).unbind(1))
    bases, outputs = list(states), [[] for _ in states]
    nfe, moved, seconds = 0, 0, 0.0
    for i, (now, after) in enumerate(zip(rows, [*rows[1:], None], strict=True)):
        began = time.perf_counter()
        times = torch.tensor([clock[stage] for stage in now], dtype=torch.float64)
        x = torch.stack(states, 1)
        if after is None:
            break
        with torch.no_grad():
            target, per_sample = evaluate(model, x, times.to(x.device).expand(len(x), -1), cond)
            moving = [f for f, (a, b) in enumerate(zip(now, after, strict=True)) if b > a]
            drawn = {now[f]: stage_noise(noise, seed, now[f], index) for f in moving if table.moves[now[f]].draws}
            for f in moving:
                move = table.moves[now[f]]
                output = target[:, f] if move.convert is None else combine(move.convert, (states[f], target[:, f]))
                outputs[f] = [output, *outputs[f][: table.history - 1]]
                held = (states[f], bases[f], drawn[now[f]][:, f] if move.draws else None, *outputs[f])
                states[f] = combine(move.x, held)
                bases[f] = bases[f] if move.base is None else combine(move.base, held)
        nfe, moved, seconds = nfe + per_sample, moved + per_sample * len(moving), seconds + time.perf_counter() - began
        yield LagFrame(i, clock[now[-1]], x, target, nfe, seconds, now[-1] < count and plan.stages[now[-1]].inner, times, moved)
    if not bool(torch.isfinite(x).all()):
        raise Diverged(f"samples are not finite after {plan}: check the model's weights, or take more steps.")
    yield LagFrame(len(rows) - 1, clock[-1], x, x if table.clean else target, nfe, seconds, False, times, moved)


def path_counts(levels: int, frames: int) -> Tensor:
    """log of the number of non-decreasing ways on: entry (t, k) for k frames still to come after one at level t.

    A frame to come may be at any level from t to levels - 1: C(levels - 1 - t + k, k) ways, in logs since they overflow.

    >>> path_counts(3, 3).exp().round().tolist()
    [[1.0, 3.0, 6.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]
    """
    levels, frames = check_count("levels", levels), check_count("frames", frames)
    room = (levels - 1 - torch.arange(levels, dtype=torch.float64))[:, None]
    left = torch.arange(frames, dtype=torch.float64)[None]
    return torch.lgamma(room + left + 1) - torch.lgamma(room + 1) - torch.lgamma(left + 1)


def fopp_times(n: int, frames: int, levels: int, seed: int = 0) -> Tensor:
    """Draw n non-decreasing vectors of noise levels 0 .. levels - 1, (n, frames): what an asynchronous model is trained on.

    A pivot frame is drawn uniformly, its level uniformly, then the rest uniformly among all non-decreasing vectors through
    it (the "FoPP" scheduler: frame-oriented probability propagation). Level k of a path is time (k + 1) / levels.

    Args:
        n: how many. frames: F. levels: T. seed: of the draws.

    Raises:
        WorkbenchError: for counts below 1.

    Source: AR-Diffusion, arXiv 2503.07418.

    >>> fopp_times(2, 4, 1000).shape
    torch.Size([2, 4])
    """
    n, ways, rng = check_count("n", n), path_counts(levels, frames), torch.Generator().manual_seed(seed)
    rows, level = torch.arange(n), torch.arange(levels)
    pivot = torch.randint(frames, (n,), generator=rng)
    drawn = torch.full((n, frames), -1)
    drawn[rows, pivot] = torch.randint(levels, (n,), generator=rng)
    for f in range(1, frames):  # forwards from the pivot: k >= the frame before
        chosen = pivot < f
        logits = ways[:, frames - 1 - f].expand(n, -1).masked_fill(level < drawn[:, f - 1 : f], -math.inf)
        drawn[chosen, f] = _choose(logits[chosen], rng)
    for f in range(frames - 2, -1, -1):  # backwards, mirrored: k <= the frame after
        chosen = pivot > f
        logits = ways.flip(0)[:, f].expand(n, -1).masked_fill(level > drawn[:, f + 1 : f + 2], -math.inf)
        drawn[chosen, f] = _choose(logits[chosen], rng)
    return drawn


def _choose(logits: Tensor, rng: torch.Generator) -> Tensor:
    if not len(logits):
        return torch.zeros(0, dtype=torch.long)
    return torch.multinomial(torch.softmax(logits, 1), 1, generator=rng).squeeze(1)
