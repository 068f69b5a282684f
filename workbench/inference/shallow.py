"""Shallow start: from a cheap prediction, noised to where it cannot be told from the data (DiffSinger, arXiv 2105.02446)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from workbench import paths
from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path
from workbench.samplers.plan import Plan
from workbench.samplers.run import run, stage_noise
from workbench.samplers.sample import default_sampling, labels, prepare


def shallow_level(path: str | Path, x0: Tensor, prediction: Tensor, kappa: float = 0.1) -> float:
    """The least noisy time at which the noised prediction and the noised truth are close: mean KL <= kappa.

    KL( N(alpha x0, sigma^2) || N(alpha x~0, sigma^2) ) = e^(2 log_snr) |x0 - x~0|^2 / 2, exactly, so the time has a closed form,
    log_snr = log(2 kappa / mean |x0 - x~0|^2) / 2. (The paper trains a classifier to find this boundary; the rule is ours.)

    Args:
        x0, prediction: pairs (n, ...), from a set that was held out. kappa: in nats, positive.

    Raises:
        WorkbenchError: for pairs that do not fit, a prediction without error, or a kappa that is not positive.

    >>> import torch
    >>> round(shallow_level("linear", torch.ones(5, 2), torch.zeros(5, 2), kappa=1.0), 6)  # alpha / sigma = 1
    0.5
    """
    if x0.shape != prediction.shape or x0.dim() < 2 or not len(x0):
        raise WorkbenchError(
            f"x0 {tuple(x0.shape)} and prediction {tuple(prediction.shape)} must be pairs of the same shape (n, ...)."
        )
    if not (isinstance(kappa, int | float) and 0 < kappa < math.inf):
        raise WorkbenchError(
            f"kappa is {kappa!r}, but must be a positive number of nats; 0.1 keeps the two hard to tell apart."
        )
    error = float((x0.double() - prediction.double()).square().flatten(1).sum(1).mean())
    if not 0 < error < math.inf:
        raise WorkbenchError(f"the prediction's squared error is {error:g}: with none there is nothing to sample.")
    return paths.get(path).time(0.5 * math.log(2 * kappa / error))


def shallow_noise(path: str | Path, prediction: Tensor, t: float, seed: int = 0, index: Sequence[int] | None = None) -> Tensor:
    """What to hand `run` as noise so that it starts from the noised prediction.

    A run starts at x = sigma(t) noise with t the plan's first time. Given (alpha / sigma) x~0 + eps instead of noise, it starts
    at x = alpha x~0 + sigma eps. eps belongs to (seed, sample index), as in `sample`; at alpha = 0 it is all there is.

    Raises:
        WorkbenchError: for a time outside (0, 1].

    >>> import torch
    >>> shallow_noise("linear", torch.zeros(3, 2), 1.0).shape
    torch.Size([3, 2])
    """
    path = paths.get(path)
    if not 0 < t <= 1:
        raise WorkbenchError(
            f"t is {t}, but a shallow start needs a time above 0 (the prediction itself) and up to 1 (pure noise)."
        )
    eps = stage_noise(prediction, seed, -1, index)
    alpha = path.alpha(t)
    return eps + prediction * (alpha / path.sigma(t)) if alpha else eps


def shallow_plan(model: Denoiser, t: float, steps: int | None = None, **changes: Any) -> Plan:
    """The model's own plan from time t on.

    Args:
        t: where it starts, from `shallow_level`. steps: of the whole way from t = 1, the model's own number by default;
            the plan takes the share t of them, at least one, so that its steps are as long as those of the full run.
        changes: sampler, schedule and options, as for `wb.sample`.

    Raises:
        WorkbenchError: as `workbench.plan`.

    >>> import workbench as wb
    >>> shallow_plan(wb.load("moons"), 0.4, steps=10).times[0]
    0.4
    """
    own = default_sampling(model)
    whole = check_count("steps", own.steps if steps is None else steps)
    if t == 1:
        return own.plan(model.path, whole, **changes)
    kept = own.options if changes.get("sampler") in (None, own.sampler) and "schedule" not in changes else {}
    return own.plan(model.path, max(1, round(whole * t)), **{"schedule": own.schedule, **kept, **changes, "t_start": t})


def shallow_sample(
    model: Denoiser,
    prediction: Tensor,
    t: float,
    cond: Any = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    **changes: Any,
) -> Tensor:
    """Samples (n, ...) that start from a cheap prediction (n, ...), noised to time t; t = 1 on a path to pure noise is `wb.sample`.

    A deterministic sampler keeps part of the prediction's error when t is small; the smaller t, the fewer evaluations.
    The same operation with a picture as prediction is SDEdit (arXiv 2108.01073).

    Args:
        prediction: in the model's space, in the precision of the run. t: from `shallow_level`, or a time of your own.
        steps: of the whole way, as for `shallow_plan`. cond, guidance, seed, changes: as for `wb.sample`.

    Counted: one evaluation a stage of `shallow_plan` (two if guided), besides what the prediction has cost.

    Raises:
        WorkbenchError: as `shallow_noise` and `wb.sample`.

    Measured: digits from their 4x4 means at the level of kappa = 1, t = 0.72: Frechet 0.67 at nfe 36, against 1.36 at nfe 50 of
    the full run (floor 0.55, n = 800, seed 7; `benchmarks/inference.py --only shallow`).
    """
    plan, n = shallow_plan(model, t, steps, **changes), len(prediction)
    noise = shallow_noise(model.path, prediction, t, seed)
    for frame in run(plan, prepare(model, guidance), noise, labels(model, cond, n), seed):
        last = frame
    return last.x
