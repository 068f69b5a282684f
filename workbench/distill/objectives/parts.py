"""Small parts that the objectives are made of: metrics, solver steps, guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Guided, Scaled
from workbench.distill.objectives.guidance import steered
from workbench.errors import WorkbenchError
from workbench.samplers.sample import default_sampling


@dataclass(frozen=True)
class L2:
    """Mean squared error of each sample."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().flatten(1).mean(1)


@dataclass(frozen=True)
class RootL2:
    """Root mean square error of each sample (ECT, arXiv 2406.14548, eq. 12), smooth at 0."""

    smooth: float = 1e-4

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (L2()(prediction, target) + self.smooth**2).sqrt()


@dataclass(frozen=True)
class AdaptiveL2:
    """e / sg(e + c)^power of each sample, e its mean squared error (MeanFlow, arXiv 2505.13447, eq. 22); power 0 is `L2`."""

    power: float = 1.0
    c: float = 1e-3

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        error = L2()(prediction, target)
        return error / (error + self.c).detach() ** self.power


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


@dataclass(frozen=True)
class FeatureDistance:
    """Mean squared error of each sample in the features of a bundled classifier, plus `pixels` times that of the samples.

    The Frechet distances of the workbench are measured in the same features, so they flatter a student of this metric.

    Attributes:
        features: "digits" or "fashion", by the shape of the samples if None. pixels: share of the plain error.
    """

    features: str | None = None
    pixels: float = 0.1
    of_samples: ClassVar[bool] = True  # never of a velocity, which is no picture

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        from workbench.metrics.features import features

        name = self.features or FEATURES_OF.get(tuple(prediction.shape[1:]))
        if name is None:
            raise WorkbenchError(
                f"no bundled classifier knows samples of shape {tuple(prediction.shape[1:])}: use another metric, such as PseudoHuber()."
            )
        net = features(name).to(prediction.device)
        apart = net.features(prediction) - net.features(target)
        return apart.square().mean(1) + self.pixels * L2()(prediction, target)


FEATURES_OF = {(1, 8, 8): "digits", (1, 28, 28): "fashion"}


@dataclass(frozen=True)
class InverseGap:
    """WEIGHT 1 / (rho_t - rho_r), rho = sigma / alpha (iCT, arXiv 2310.14189, eq. 9), at most `most`."""

    most: float = 100.0

    def __call__(self, tau_t: Tensor, tau_r: Tensor, tau_s: Tensor) -> Tensor:
        return (1 / (_rho(tau_t) - _rho(tau_r)).clamp_min(1e-9)).clamp_max(self.most)


@dataclass(frozen=True)
class TruncatedSNR:
    """WEIGHT max(alpha^2 / sigma^2, 1), at most `most` (progressive distillation, arXiv 2202.00512, eq. 9)."""

    most: float = 100.0

    def __call__(self, tau_t: Tensor, tau_r: Tensor, tau_s: Tensor) -> Tensor:
        return _rho(tau_t).square().reciprocal().clamp(1.0, self.most)


@dataclass(frozen=True)
class Hard:
    """WEIGHT 2 - tau on velocities: (1 - tau) of RF++'s robust term, and 1 of its perceptual term (arXiv 2405.20320, eq. 8).

    That term is divided by tau, which turns an error of x0 into one of the velocity; without a perceptual network both are
    measured by the recipe's metric.
    """

    def __call__(self, tau_t: Tensor, tau_r: Tensor, tau_s: Tensor) -> Tensor:
        return 2 - tau_t


@dataclass(frozen=True)
class InverseStep:
    """WEIGHT 1 / delta, delta = 1 - rho_s / rho_r, 1 where s = t (BOOT, arXiv 2306.05544, eq. 9, has 1 / delta^2, which leaves the anchor no say)."""

    most: float = 100.0

    def __call__(self, tau_t: Tensor, tau_r: Tensor, tau_s: Tensor) -> Tensor:
        delta = 1 - _rho(tau_s) / _rho(tau_r)
        return torch.where(tau_s < tau_t, (1 / delta.clamp_min(1e-9)).clamp_max(self.most), torch.ones_like(delta))


def _rho(tau: Tensor) -> Tensor:
    return tau / (1 - tau).clamp_min(1e-6)


def guided(teacher: Denoiser, scale: float | tuple[float, float] | None) -> Denoiser:
    """The teacher with classifier-free guidance (its own setting if None), or as it is where that changes nothing.

    A range of scales (low, high) is a teacher whose scale is set for each batch.
    """
    if isinstance(scale, tuple):
        return steered(teacher, scale)
    scale = default_sampling(teacher).guidance if scale is None else scale
    if getattr(teacher, "guidance_input", None):
        return Scaled(teacher, scale)
    return Guided(teacher, scale) if scale != 1 and getattr(teacher, "classes", 0) else teacher


def drop_labels(cond: Tensor | None, share: float, rng: torch.Generator) -> Tensor | None:
    """Replace a share of the labels by the null class, so that the student can also be run without one."""
    if cond is None or share <= 0:
        return cond
    return torch.where(torch.rand(len(cond), generator=rng, device=cond.device) < share, -1, cond)


def normal(shape: tuple[int, ...], rng: torch.Generator, like: Tensor | None = None) -> Tensor:
    """Standard normal noise from the step's own generator."""
    return torch.randn(shape, generator=rng, device=rng.device, dtype=None if like is None else like.dtype)
