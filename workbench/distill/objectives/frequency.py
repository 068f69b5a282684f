"""METRIC for images: differences of their high frequencies, which one-step students lack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from workbench.distill.objectives.parts import PseudoHuber
from workbench.distill.objectives.times import check_share
from workbench.errors import WorkbenchError


def high_pass(x: Tensor, cut: float) -> Tensor:
    """Images (n, c, h, w) without their spatial frequencies below `cut`, 0 to 1, of the highest along an axis (Nyquist's).

    >>> float(high_pass(torch.ones(1, 1, 8, 8), 0.1).abs().max())
    0.0
    """
    if x.dim() != 4:
        raise WorkbenchError(f"x has shape {tuple(x.shape)}, but spatial frequencies are those of images (n, c, h, w).")
    h, w = x.shape[-2:]
    radius = (torch.fft.fftfreq(h)[:, None].square() + torch.fft.rfftfreq(w)[None].square()).sqrt() * 2
    kept = (radius >= cut).to(x.device)
    return torch.fft.irfft2(torch.fft.rfft2(x) * kept, s=(h, w))


@dataclass(frozen=True)
class HighFrequency:
    """spatial(p, y) + high mean |high_pass(p - y)| of each sample (HiPA, arXiv 2311.18158, section 3).

    The paper's spatial term is a perceptual distance, which `spatial` replaces where there is no perceptual network; high = 0 leaves it alone.

    Attributes:
        spatial: any metric. high: weight of the high frequencies. cut: where they begin, as a share of Nyquist's.
    """

    spatial: Any = field(default_factory=PseudoHuber)
    high: float = 2.0
    cut: float = 0.5
    images_only: ClassVar[bool] = True

    def __post_init__(self):
        check_share("cut", self.cut)
        if not self.high >= 0:
            raise WorkbenchError(f"high is {self.high}, but the high frequencies' weight is a number from 0.")

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        missing = high_pass(prediction - target, self.cut).abs().flatten(1).mean(1)
        return self.spatial(prediction, target) + self.high * missing
