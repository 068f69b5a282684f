"""The one loop that runs every plan, as a generator of frames."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from workbench import paths
from workbench.denoiser import Denoiser, decode, evaluate
from workbench.errors import Diverged, WorkbenchError
from workbench.paths import Path
from workbench.samplers.plan import Plan
from workbench.samplers.table import combine, table_of

if TYPE_CHECKING:
    from workbench.samplers.policy import Policy

NOISE_BLOCK = 8
LATENT_SALT = 0x5A17  # the latents of a step differ from the noise that it adds


class Frame(NamedTuple):
    """A point of a run: the state x at time t, and what the model believes the final image is, seen from there.

    Attributes:
        i: index of the stage; the last frame has i = number of stages.
        t: time. x: state (n, ...). target: x0 estimate at (x, t); in the last frame, if it is clean data, x itself.
        nfe: network evaluations per sample so far, their mean where samples differ. seconds: computing time so far, the
            consumer's not included.
        inner: the state is a helper point of the solver (Heun's predictor), not of the trajectory.
        times, counts: under a policy, whose samples choose their own steps, time and evaluations of each, (n,); t is then
            their median. None under a plan.
    """

    i: int
    t: float
    x: Tensor
    target: Tensor
    nfe: float
    seconds: float
    inner: bool = False
    times: Tensor | None = None
    counts: Tensor | None = None


def run(
    plan: Plan | Policy,
    model: Denoiser | Sequence[Denoiser],
    noise: Tensor,
    cond: Any = None,
    seed: int = 0,
    index: Sequence[int] | None = None,
) -> Iterator[Frame]:
    """Run a plan, yielding a frame before every update and one at the end; `break` stops it.

    Args:
        plan: from `workbench.plan`, or a policy, which chooses its steps as it goes.
        model: a denoiser with a `.path`, or one for each model of a hybrid plan.
        noise: standard normal (n, ...); the run starts at sigma(t_0) noise, in the precision of `noise`.
        cond: a label, a tensor of n labels, or whatever the model understands.
        seed: of the noise that stochastic stages add; it belongs to (seed, sample index, stage).
        index: the samples' indices, 0 to n - 1 by default, so that a part of a batch can be run again alone.

    Raises:
        WorkbenchError: for noise that is not finite or floating, a wrong number of models, or a model on another path.
        Diverged: if the final state is not finite.

    >>> import workbench as wb
    >>> model = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.1, 0.1])
    >>> frames = list(run(wb.plan("euler", "linear", 4), model, torch.randn(5, 2)))
    >>> len(frames), frames[-1].nfe, frames[-1].x.shape
    (5, 4, torch.Size([5, 2]))
    """
    models = list(model) if isinstance(model, (list, tuple)) else [model]
    _check(plan, models, noise, index)
    if not isinstance(plan, Plan):
        from workbench.samplers.policy import run_policy  # which builds on this file

        return run_policy(plan, models[0], noise, cond)
    return _frames(plan, models, noise, cond, seed, index)


def _frames(plan: Plan, models: list, noise: Tensor, cond: Any, seed: int, index: Sequence[int] | None) -> Iterator[Frame]:
    (start, clean, history, moves), stages = table_of(plan, noise.dtype), plan.stages
    two_times = [bool(getattr(model, "two_times", False)) for model in models]
    latents = [int(getattr(model, "z_dim", 0) or 0) for model in models]
    with torch.no_grad():
        x = noise * start
    shape, base, outputs, nfe, seconds, target = x.shape, x, [], 0, 0.0, x
    for i in range(len(stages) + 1):
        began, graph = time.perf_counter(), torch.is_grad_enabled()
        if graph:  # off for the update and the evaluation, never across a yield
            torch.set_grad_enabled(False)
        try:
            if i:
                move = moves[i - 1]
                held = (x, base, stage_noise(x, seed, i - 1, index) if move.draws else None, *outputs)
                x, base = combine(move.x, held), base if move.base is None else combine(move.base, held)
            if i == len(stages):
                break
            stage = stages[i]
            model = models[stage.model]
            more = {"s": stage.to if stage.jump is None else stage.jump} if two_times[stage.model] else {}
            if latents[stage.model]:
                more["z"] = stage_noise(x.new_empty(len(x), latents[stage.model]), seed ^ LATENT_SALT, i, index)
            target, count = evaluate(model, x, stage.t, cond, **more)
            nfe += count
            if target.shape != shape:
                raise WorkbenchError(
                    f"the model returned shape {tuple(target.shape)} for a state of shape {tuple(shape)}: they must be equal."
                )
            convert = moves[i].convert
            output = target if convert is None else combine(convert, (x, target))
            outputs = [output] if history == 1 else [output, *outputs[: history - 1]]
        finally:
            if graph:
                torch.set_grad_enabled(True)
        seconds += time.perf_counter() - began
        yield Frame(i, stage.t, x, target, nfe, seconds, stage.inner)
    seconds += time.perf_counter() - began
    if not finite(x):
        bad = (~torch.isfinite(x)).reshape(len(x), -1).any(1).sum().item()
        raise Diverged(
            f"{bad} of {len(x)} samples are not finite after {plan}: check the model's weights, or take more steps or less guidance."
        )
    yield Frame(len(stages), plan.times[-1], x, x if clean else target, nfe, seconds)


def finite(x: Tensor) -> bool:
    """Whether every number is finite; the sum tells, unless it overflows, and takes a thirtieth of the time."""
    return math.isfinite(float(x.sum())) or bool(torch.isfinite(x).all())


def stage_noise(like: Tensor, seed: int, stage: int, index: Sequence[int] | None = None) -> Tensor:
    """Standard normal noise of the shape of `like`, row j belonging to (seed, index[j], stage) alone.

    Drawn in blocks of 8 sample indices, one CPU generator a block: neither batch size, nor position, nor device, nor precision matters.
    """
    index = range(len(like)) if index is None else index
    blocks: dict[int, Tensor] = {}
    for block in {int(j) // NOISE_BLOCK for j in index}:
        mixed = (int(seed) * 0x9E3779B97F4A7C15 + (stage + 1) * 0xBF58476D1CE4E5B9 + (block + 1) * 0x94D049BB133111EB) % 2**63
        rng = torch.Generator().manual_seed(mixed ^ (mixed >> 31))
        blocks[block] = torch.randn(NOISE_BLOCK, *like.shape[1:], generator=rng).to(like.dtype)
    if isinstance(index, range) and index.start == 0 and index.step == 1:
        return torch.cat([blocks[block] for block in sorted(blocks)])[: len(index)].to(like.device)
    return torch.stack([blocks[int(j) // NOISE_BLOCK][int(j) % NOISE_BLOCK] for j in index]).to(like.device)


def initial_noise(n: int, shape: Sequence[int], seed: int = 0, dtype: torch.dtype = torch.float32, first: int = 0) -> Tensor:
    """Standard normal noise (n, *shape) for samples `first` to first + n - 1 of a seed."""
    return stage_noise(torch.empty(n, *shape, dtype=dtype), seed, -1, range(first, first + n))


@dataclass(frozen=True)
class Trajectory:
    """A recorded run, helper points left out.

    Attributes:
        t: times (k,), float64, falling. x: states (k, n, ...). target: x0 estimates (k, n, ...).
        nfe: evaluations per sample up to each point, tuple of k. seconds: likewise.
        times, counts: under a policy, time and evaluations of each sample, (k, n); else None.
    """

    t: Tensor
    x: Tensor
    target: Tensor
    nfe: tuple[float, ...]
    seconds: tuple[float, ...]
    times: Tensor | None = None
    counts: Tensor | None = None

    @property
    def final(self) -> Tensor:
        """The samples (n, ...)."""
        return self.x[-1]

    def __len__(self) -> int:
        return len(self.t)

    def sample(self, j: int) -> Trajectory:
        """The trajectory of sample j alone, with a batch of one; under a policy at its own times, without its waiting."""
        if self.times is None or self.counts is None:
            return Trajectory(self.t, self.x[:, j : j + 1], self.target[:, j : j + 1], self.nfe, self.seconds)
        times, counts = self.times[:, j], self.counts[:, j]
        kept = torch.cat([times.diff() != 0, torch.ones(1, dtype=torch.bool)])  # the last of its stay at a point
        rows = kept.nonzero().squeeze(1).tolist()
        x, target, seconds = self.x[rows, j : j + 1], self.target[rows, j : j + 1], tuple(self.seconds[k] for k in rows)
        own = (times[rows, None], counts[rows, None])
        return Trajectory(times[rows], x, target, tuple(counts[rows].tolist()), seconds, *own)

    def decoded(self, model: Denoiser) -> Trajectory:
        """As pictures, for the views: itself, unless the model that ran works on latents (`workbench.denoiser.decode`)."""
        if not hasattr(model, "decode"):
            return self
        return replace(self, x=decode(model, self.x), target=decode(model, self.target))


def record(frames: Iterable[Frame]) -> Trajectory:
    """Run to the end and keep everything.

    Raises:
        WorkbenchError: if there is no frame.
    """
    kept: list[Frame] = []
    nfe, seconds = 0, 0.0
    for frame in frames:
        nfe, seconds = frame.nfe, frame.seconds
        if not frame.inner:
            kept.append(frame)
    if not kept:
        raise WorkbenchError("there are no frames to record: the run had ended already.")
    times = torch.tensor([frame.t for frame in kept], dtype=torch.float64)
    states, targets = torch.stack([frame.x for frame in kept]), torch.stack([frame.target for frame in kept])
    counts = (*(frame.nfe for frame in kept[:-1]), nfe)
    own = [
        None if kept[0].times is None else torch.stack([getattr(frame, name) for frame in kept]) for name in ("times", "counts")
    ]
    return Trajectory(times, states, targets, counts, (*(frame.seconds for frame in kept[:-1]), seconds), *own)


def same_path(first: Path, second: Path) -> bool:
    """Whether two paths have the same alpha and sigma (compared at five times)."""
    probe = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    return first is second or all(
        torch.allclose(f(probe), g(probe), rtol=1e-6) for f, g in ((first.alpha, second.alpha), (first.sigma, second.sigma))
    )


def _check(plan: Plan | Policy, models: list, noise: Tensor, index: Sequence[int] | None) -> None:
    if not isinstance(noise, Tensor) or not noise.is_floating_point() or noise.dim() < 1 or not len(noise):
        raise WorkbenchError("noise must be a floating-point tensor (n, ...) of standard normal numbers, n at least 1.")
    if not finite(noise):
        raise WorkbenchError("noise holds NaN or infinite values: draw it again.")
    if plan.models > len(models):
        raise WorkbenchError(f"this plan runs {plan.models} models, but {len(models)} was given: pass a list of {plan.models}.")
    if index is not None and len(index) != len(noise):
        raise WorkbenchError(f"index has {len(index)} entries for {len(noise)} samples: give one index a sample.")
    for model in models:
        path = getattr(model, "path", None)
        if path is None:
            raise WorkbenchError(
                "the model has no .path: set it to one of linear, cosine, vp, edm, trig, or wrap the network in Network."
            )
        if not same_path(model_path := paths.get(path), plan.path):
            raise WorkbenchError(
                f"the plan is on path {plan.path.name!r}, but the model is on {model_path.name!r}: make the plan on the model's path."
            )
