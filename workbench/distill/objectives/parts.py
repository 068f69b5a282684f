"""Small parts that the objectives are made of: metrics, solver steps, guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Guided
from workbench.paths import Path, per_sample
from workbench.samplers.sample import default_sampling


@dataclass(frozen=True)
class L2:
    """Mean squared error of each sample."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().flatten(1).mean(1)


@dataclass(frozen=True)
class PseudoHuber:
    """sqrt(|p - y|^2 + c^2) - c of each sample, c = scale sqrt(dimensions) (iCT, arXiv 2310.14189, eq. 12).

    Divided by sqrt(dimensions), so that it compares with a root mean square.
    """

    scale: float = 0.03

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        error = (prediction - target).flatten(1)
        d = error.shape[1]
        c = self.scale * math.sqrt(d)
        return ((error.square().sum(1) + c**2).sqrt() - c) / math.sqrt(d)


def transfer(path: Path, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The deterministic step t -> s with the x0 estimate held (DDIM), one pair of times a sample."""
    t, s = t.double(), s.double()
    kept = path.sigma(s) / path.sigma(t)
    return per_sample(kept, x) * x + per_sample(path.alpha(s) - kept * path.alpha(t), x) * x0


def guided(teacher: Denoiser, scale: float | None) -> Denoiser:
    """The teacher with classifier-free guidance (its own setting if None), or as it is where that changes nothing."""
    scale = default_sampling(teacher).guidance if scale is None else scale
    return Guided(teacher, scale) if scale != 1 and getattr(teacher, "classes", 0) else teacher


def drop_labels(cond: Tensor | None, share: float, rng: torch.Generator) -> Tensor | None:
    """Replace a share of the labels by the null class, so that the student can also be run without one."""
    if cond is None or share <= 0:
        return cond
    return torch.where(torch.rand(len(cond), generator=rng, device=cond.device) < share, -1, cond)


def normal(shape: tuple[int, ...], rng: torch.Generator, like: Tensor | None = None) -> Tensor:
    """Standard normal noise from the step's own generator."""
    return torch.randn(shape, generator=rng, device=rng.device, dtype=None if like is None else like.dtype)
