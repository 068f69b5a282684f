"""What a discriminator says of itself: whether its probabilities are ones, since ratios are read from them."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.distill.objectives.divergences import BINS, bins


def reliability(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """calibration/0 ... 9 -> share of real samples among those that were called real with a probability in this tenth (NaN where
    there are none), and share/0 ... 9 -> share of all samples that this tenth holds. Real and generated ones count for a half each, as in the loss.

    The probability is sigmoid(logit), which a logistic loss aims at; a hinge loss aims at no probability. At the optimum the k-th calibration lies in
    the k-th tenth, and the logit is the log density ratio (reliability diagram: Guo et al., arXiv 1706.04599).

    Args:
        real, fake: logits (n,) and (m,), positive for real.

    >>> told = reliability(torch.tensor([3.0, -3.0]), torch.tensor([-3.0, -3.0]))
    >>> round(float(told["calibration/0"]), 2), float(told["calibration/9"]), float(told["share/0"])
    (0.33, 1.0, 0.75)
    """
    mine, other = (_shares(logits) for logits in (real, fake))
    both = mine + other
    told = {f"calibration/{k}": share for k, share in enumerate((mine / both).unbind())}
    return told | {f"share/{k}": share for k, share in enumerate((0.5 * both).unbind())}


def _shares(logits: Tensor) -> Tensor:
    level = bins(torch.sigmoid(logits.detach()))
    return torch.bincount(level, minlength=BINS).to(logits.dtype) / len(logits)
