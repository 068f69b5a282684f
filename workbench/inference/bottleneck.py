"""Bottleneck sampling: high resolution for the layout and for the detail, low resolution in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench import paths, samplers
from workbench.denoiser import Denoiser, evaluate
from workbench.errors import WorkbenchError, check_count
from workbench.inference.resolution import Ledger, SizedFrame, frames_of_part, part_seed, resize
from workbench.paths import Path
from workbench.samplers.plan import Plan
from workbench.samplers.run import run, stage_noise


class Part(NamedTuple):
    """A stretch of a run at one resolution: pixels a side, and the plan that is run there."""

    size: int
    plan: Plan


def bottleneck_parts(
    path: str | Path,
    sizes: Sequence[int] = (16, 8, 16),
    steps: Sequence[int] = (4, 8, 8),
    switches: Sequence[float] = (0.9, 0.5),
    delta: float = 1.0,
    sampler: str = "ddim",
    shift: bool = True,
    **options: Any,
) -> tuple[Part, ...]:
    """Plan a run that changes resolution at given times.

    A switch upwards at time t first goes back to the noisier time with log-SNR lower by `delta`, so that the model can
    draw the detail that the small picture lacks; a switch downwards stays at t. The times of a part are equal steps
    shifted by the ratio of its sides to the last part's (log-SNR - log ratio, as the schedule "shift").

    Args:
        sizes: pixels a side of the K parts. steps: of each part. switches: K - 1 falling times in (0, 1).
        delta: half log-SNR given back at a switch upwards, at least 0. shift: shift the times of smaller parts.
        sampler, options: as for `workbench.plan`.

    Raises:
        WorkbenchError: for lists that do not fit, or times that do not fall.

    Source: arXiv 2503.18940; the strength of the noise and the two rules above are the workbench's own reading of it.

    >>> [(part.size, part.plan.times[0] > part.plan.times[-1]) for part in bottleneck_parts("linear")]
    [(16, True), (8, True), (16, True)]
    """
    path, sizes = paths.get(path), [check_count("size", size) for size in sizes]
    if not sizes or len(steps) != len(sizes) or len(switches) != len(sizes) - 1:
        raise WorkbenchError(
            f"{len(sizes)} sizes need as many steps and one switch less, not {len(steps)} steps and {len(switches)} switches."
        )
    if not 0 <= delta < math.inf:
        raise WorkbenchError(f"delta is {delta}, but must be a finite number of at least 0; 1 is a good start.")
    if not all(0 < t < 1 for t in switches) or sorted(set(switches), reverse=True) != list(switches):
        raise WorkbenchError(f"switches {list(switches)} must be falling times between 0 and 1.")
    parts, start = [], 1.0
    for k, (size, count) in enumerate(zip(sizes, steps, strict=True)):
        end = switches[k] if k + 1 < len(sizes) else 0.0
        times = shifted(path, check_count("steps", count), start, end, size / sizes[-1] if shift else 1.0)
        parts.append(Part(size, samplers.plan(sampler, path, schedule=times, **options)))
        up = k + 1 < len(sizes) and sizes[k + 1] > size
        start = float(path.time(path.log_snr(end) - delta)) if up and delta else end
    return tuple(parts)


def shifted(path: Path, steps: int, start: float, end: float, ratio: float) -> Tensor:
    """Times from start to end, equal steps moved by log-SNR - log(ratio) as in the schedule "shift", both ends kept."""
    ends = torch.tensor([start, end], dtype=torch.float64)
    first, last = (float(t) for t in _moved(path, ends, 1 / ratio)) if ratio != 1 else (start, end)
    times = torch.linspace(first, last, steps + 1, dtype=torch.float64)
    times = _moved(path, times, ratio) if ratio != 1 else times
    times[0], times[-1] = start, end
    return times


def _moved(path: Path, times: Tensor, ratio: float) -> Tensor:
    least = path.alpha(1.0) / path.sigma(1.0)
    moved = path.time(torch.log(least + (path.alpha(times) / path.sigma(times) - least) / ratio))
    return torch.where((times <= 0) | (times >= 1), times, moved)


def bottleneck_run(
    parts: Sequence[Part],
    model: Denoiser | Mapping[int, Denoiser] | Callable[[int], Denoiser],
    noise: Tensor,
    cond: Any = None,
    seed: int = 0,
    index: Sequence[int] | None = None,
) -> Iterator[SizedFrame]:
    """Sample at high, low, high resolution, yielding a frame before every update; the last one holds the samples.

    At a switch the state itself is not resized (that would correlate its noise and change its variance): the x0 estimate
    is, and gets fresh noise. That estimate costs one evaluation more a switch, which is counted.

    Args:
        parts: from `bottleneck_parts`; a single part is `workbench.run`, bit for bit.
        model: a denoiser for all sizes, or size -> denoiser as a dict or a function.
        noise: standard normal (n, c, size, size) of the first size. cond, seed, index: as for `workbench.run`.

    Raises:
        WorkbenchError: for noise of another size, or a size without a model.

    Source: arXiv 2503.18940; re-noising by `delta` as `bottleneck_parts` says.
    Measured: on a Gaussian field with exact models, 16, 8, 16 pixels a side and switches at 0.9 and 0.1, the samples have 0.20 of
    the power above 4 cycles a side at delta 0, 0.46 at 1, 0.83 at 2 and 0.98 at 3 (n = 2000, seed 0, benchmarks/inference_more.py).
    With the same cost in pixels the run at 16 has 1.01: where models are exact, only attention's square is saved.

    >>> from workbench.teachers.gaussian import gaussian_field
    >>> field = gaussian_field(16)
    >>> parts = bottleneck_parts(field.path)
    >>> *_, last = bottleneck_run(parts, {16: field, 8: field.down(8)}, torch.randn(4, 1, 16, 16, dtype=torch.float64))
    >>> last.x.shape, last.nfe, last.cost
    (torch.Size([4, 1, 16, 16]), 22, 15.25)
    """
    parts, models = tuple(parts), {}
    for size, plan in parts:
        models[size] = _model_of(model, size)
        if plan.models > 1:
            raise WorkbenchError(f"{plan} runs {plan.models} models: a part runs one.")
    if not isinstance(noise, Tensor) or noise.dim() != 4 or noise.shape[-1] != parts[0].size:
        raise WorkbenchError(f"noise has shape {tuple(noise.shape)}, but the first part is {parts[0].size} pixels a side.")
    run(parts[0].plan, models[parts[0].size], noise, cond, seed, index)  # its checks
    return _bottleneck(parts, models, noise, cond, seed, index)


def _bottleneck(
    parts: tuple[Part, ...], models: dict, noise: Tensor, cond: Any, seed: int, index: Sequence[int] | None
) -> Iterator[SizedFrame]:
    ledger, start = Ledger(parts[-1].size), noise
    for k, (size, plan) in enumerate(parts):
        ends = ledger.i + len(plan.stages)
        for frame in frames_of_part(ledger, k, plan, models[size], start, cond, seed, index):
            if k + 1 == len(parts) or frame.i < ends:
                yield frame
        if k + 1 == len(parts):
            return
        with torch.no_grad():
            target, count = evaluate(models[size], frame.x, frame.t, cond)
        switch = ledger.frame(k, frame.t, frame.x, target, count)
        ledger.close(switch._replace(i=switch.i + 1))
        yield switch
        after = parts[k + 1]
        alpha, sigma = after.plan.path.alpha(after.plan.times[0]), after.plan.path.sigma(after.plan.times[0])
        estimate = resize(target, after.size)
        # `run` starts from sigma times its noise
        start = estimate * (alpha / sigma) + stage_noise(estimate, part_seed(seed, k + 1), -1, index)


def _model_of(model: Any, size: int) -> Denoiser:
    if getattr(model, "path", None) is not None:
        return model
    if isinstance(model, Mapping):
        if size not in model:
            raise WorkbenchError(f"there is no model for {size} pixels a side: the models given are for {sorted(model)}.")
        return model[size]
    return model(size)
