"""CORE and WEIGHT: how a sample x, the teacher's x0 estimate and the critic's at its noised copy become a loss.

Notation: delta = real - fake; the score gap is (alpha / sigma^2) delta. A core with `graph` is differentiated through both
estimates, whose parameters are frozen meanwhile; one without must be given estimates without graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workbench.distill.objectives.divergences import DIVERGENCES
from workbench.errors import WorkbenchError
from workbench.paths import per_sample


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).mean(1)


@dataclass(frozen=True)
class ScoreGap:
    """K1: 1/2 mean |x - sg(x + w delta)|^2. Its gradient -w delta is that of the reverse KL over noise levels for w = alpha^2 / sigma^2.

    (Diff-Instruct, arXiv 2305.18455, theorem 3.1; DMD, arXiv 2311.18828, eq. 7.)
    """

    graph: ClassVar[bool] = False

    def __call__(self, x: Tensor, real: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
        pull = per_sample(weight, x) * (real - fake)
        return 0.5 * (x - (x + pull).detach()).square().mean()


@dataclass(frozen=True)
class HuberGap:
    """K1 with a pseudo-Huber metric of width c for each component: w mean(sqrt((x - sg(x + delta))^2 + c^2) - c) (TDM, arXiv 2503.06674)."""

    c: float = 1e-3
    graph: ClassVar[bool] = False

    def __post_init__(self):
        if not 0 < self.c < math.inf:
            raise WorkbenchError(
                f"c is {self.c}, but is the width of a pseudo-Huber distance, a positive number, such as 1e-3."
            )

    def __call__(self, x: Tensor, real: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
        error = x - (x + real - fake).detach()
        return (per_sample(weight, x) * ((error.square() + self.c**2).sqrt() - self.c)).mean()


@dataclass(frozen=True)
class ScoreIdentity:
    """K2: w <real - fake, (real - x) - alpha (real - fake)> (SiD, arXiv 2404.04057, eq. 23), mean over dimensions.

    alpha = 1/2 is half the gradient of the Fisher divergence E |s_p - s_q|^2, in units of (sigma^2 / alpha_t)^2; alpha = 1 leaves out
    what comes from the sampling measure (SIM, arXiv 2410.16794, with the squared distance).
    """

    alpha: float = 1.2
    graph: ClassVar[bool] = True

    def __post_init__(self):
        if not math.isfinite(self.alpha):
            raise WorkbenchError(f"alpha is {self.alpha}, but must be a finite number, such as 1.2.")

    def __call__(self, x: Tensor, real: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
        delta = real - fake
        return (weight * _dot(delta, (real - x) - self.alpha * delta)).mean()


@dataclass(frozen=True)
class ImplicitMatching:
    """K3: -w <d'(y), fake - x>, y = fake - real, d the pseudo-Huber distance sqrt(|y|^2 + c^2) - c (SIM, arXiv 2410.16794, eq. 3.5).

    In units of x0, which is the score's distance with w times (sigma^2 / alpha)^2 and c times sigma^2 / alpha. c is in units of the root
    of the dimension; None is the squared distance |y|^2.
    """

    c: float | None = 0.1
    graph: ClassVar[bool] = True

    def __post_init__(self):
        if self.c is not None and not 0 < self.c < math.inf:
            raise WorkbenchError(
                f"c is {self.c}, but is the width of a pseudo-Huber distance, a positive number; None is the squared distance."
            )

    def __call__(self, x: Tensor, real: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
        y, e = fake - real, fake - x
        if self.c is None:
            return -(weight * 2 * _dot(y, e)).mean()
        d = math.prod(x.shape[1:])
        size = (y.flatten(1).square().sum(1) + d * self.c**2).sqrt() / math.sqrt(d)
        return -(weight * _dot(y, e) / size).mean()


@dataclass(frozen=True)
class ExpandedDivergence:
    """K2 weighted for the divergence's integral over noise levels: h(r) 2 <delta, fake - x> + (h - r h') |delta|^2 (Uni-Instruct, arXiv 2505.20755).

    `exact` differentiates r too, through grad log r = s_q - s_p, which gives the whole gradient of E h(r) |s_p - s_q|^2; otherwise r is
    held and the second term dropped, as in the released code, which is exact for a constant h alone.
    """

    exact: bool = True
    graph: ClassVar[bool] = True

    def __call__(
        self, x: Tensor, real: Tensor, fake: Tensor, weight: Tensor, r: Tensor, x_t: Tensor, scale: Tensor, divergence: str
    ) -> Tensor:
        """`r` (n,) the ratio, `x_t` with its graph, `scale` (n,) alpha / sigma^2."""
        part, delta = DIVERGENCES[divergence], real - fake
        if not self.exact:
            return 0.5 * (weight * part.h(r) * 2 * _dot(delta, fake - x)).mean()
        move = (per_sample(scale, x) * delta.detach() * (x_t - x_t.detach())).flatten(1).sum(1)
        r = r * torch.exp(move - move.detach())  # r itself, with the gradient of log r along x_t
        h = part.h(r)
        return 0.5 * (weight * (h * 2 * _dot(delta, fake - x) + (h - r * part.slope(r)) * _dot(delta, delta))).mean()


@dataclass(frozen=True)
class PerSampleL1:
    """WEIGHT 1 / mean |x - teacher's x0 estimate| of each sample (DMD, arXiv 2311.18828, eq. 8), floored."""

    floor: float = 1e-3

    def __post_init__(self):
        if not 0 <= self.floor < math.inf:
            raise WorkbenchError(
                f"floor is {self.floor}, but bounds a distance from below: give a number from 0, such as 1e-3."
            )

    def __call__(self, x: Tensor, real: Tensor, alpha: Tensor | None = None, sigma: Tensor | None = None) -> Tensor:
        return 1 / (x - real).detach().abs().flatten(1).mean(1).clamp_min(self.floor)


@dataclass(frozen=True)
class NoiseVariance:
    """WEIGHT alpha sigma, which is sigma^2 on the gap of the noise predictions (ProlificDreamer, arXiv 2305.16213; SwiftBrush)."""

    def __call__(self, x: Tensor, real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha * sigma).to(x)


@dataclass(frozen=True)
class Even:
    """WEIGHT 1 on the gap of the x0 estimates (Diff-Instruct's code)."""

    def __call__(self, x: Tensor, real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha).to(x)


@dataclass(frozen=True)
class Cleaner:
    """WEIGHT 1 - sigma: less the noisier, for flow models (SiD-DiT, arXiv 2509.25127); at least 0.02."""

    def __call__(self, x: Tensor, real: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (1 - sigma).clamp_min(0.02).to(x)
