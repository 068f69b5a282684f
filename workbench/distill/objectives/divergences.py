"""f-divergences D_f(q || p) of the data q from the student p, by the weight h(r) = f''(r) r^2 of their density ratio r = q / p.

The gradient of D_f(q_t || p_t) is the score gap times h(r) (f-distill, arXiv 2502.15681, theorem 1); constants do not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.errors import WorkbenchError, unknown

BINS = 10


@dataclass(frozen=True)
class Divergence:
    """h(r) and its derivative."""

    h: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


DIVERGENCES = {
    "reverse-kl": Divergence(torch.ones_like, torch.zeros_like),
    "kl": Divergence(lambda r: r, torch.ones_like),
    "js": Divergence(lambda r: r / (1 + r), lambda r: (1 + r) ** -2),
    "softened-rkl": Divergence(lambda r: 1 / (1 + r), lambda r: -((1 + r) ** -2)),
    "hellinger": Divergence(lambda r: 0.5 * r.sqrt(), lambda r: 0.25 / r.sqrt()),
    "jeffreys": Divergence(lambda r: 1 + r, torch.ones_like),
    "neyman": Divergence(lambda r: 2 / r, lambda r: -2 / r**2),
    "pearson": Divergence(lambda r: 2 * r**2, lambda r: 4 * r),
}


@dataclass(frozen=True)
class Ratio:
    """Density ratio from a discriminator's logits, made tame, and the weight that a divergence gives it.

    Logits are clipped at `clip`, their exponentials to [low, high] and divided by a running mean over ten noise levels, since a
    ratio has mean one under the student (f-distill, arXiv 2502.15681, section 4); h is divided by its batch mean.

    Attributes:
        divergence: one of DIVERGENCES. rate: of the running mean; 0 keeps it at one.
    """

    divergence: str = "js"
    clip: float = 10.0
    low: float = 0.1
    high: float = 20.0
    rate: float = 0.05

    def __post_init__(self):
        if self.divergence not in DIVERGENCES:
            raise unknown("divergence", self.divergence, DIVERGENCES)
        if not 0 < self.low < self.high or self.clip <= 0 or not 0 <= self.rate <= 1:
            raise WorkbenchError(
                f"a ratio needs 0 < low < high, clip > 0 and a rate from 0 to 1, not {self.low}, {self.high}, {self.clip}, {self.rate}."
            )

    def given(self, value: object) -> object:
        """The part for a divergence named alone."""
        return Ratio(value, self.clip, self.low, self.high, self.rate) if isinstance(value, str) else value

    def __call__(self, logits: Tensor, t: Tensor, levels: Levels) -> Tensor:
        """r (n,), without graph."""
        r = logits.detach().clamp(-self.clip, self.clip).exp().clamp(self.low, self.high)
        if self.rate:
            r = levels(r, t, self.rate).clamp(self.low, self.high)
        return r

    def weights(self, r: Tensor) -> Tensor:
        """h(r), of mean one."""
        h = DIVERGENCES[self.divergence].h(r)
        return h / h.mean()


class Levels(nn.Module):
    """Running mean of ratios at ten noise levels; kept in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(BINS))

    @torch.no_grad()
    def forward(self, r: Tensor, t: Tensor, rate: float) -> Tensor:
        """r over the mean of its level, after that mean has moved by `rate` towards the batch's."""
        level = bins(t)
        count = torch.bincount(level, minlength=BINS)
        now = torch.zeros_like(self.mean).index_add_(0, level, r.to(self.mean)) / count.clamp_min(1)
        self.mean.copy_(torch.where(count > 0, self.mean + rate * (now - self.mean), self.mean))
        return r / self.mean[level].to(r)


def bins(t: Tensor) -> Tensor:
    """Which tenth of [0, 1] each value falls in."""
    return (t.detach() * BINS).long().clamp(0, BINS - 1)


def binned(name: str, values: Tensor, t: Tensor) -> dict[str, Tensor]:
    """name/0 ... name/9 -> mean of the values (n,) in each tenth of t; NaN where there are none."""
    level = bins(t)
    count = torch.bincount(level, minlength=BINS).to(values)
    total = values.new_zeros(BINS).index_add_(0, level, values.detach())
    return {f"{name}/{k}": mean for k, mean in enumerate((total / count).unbind())}


def gaps(gap: Tensor, t: Tensor) -> dict[str, Tensor]:
    """The root mean square of a gap of two estimates (n, ...), whole and in each tenth of the noise level t (n,)."""
    gap = gap.detach()
    return {"gap": gap.square().mean().sqrt(), **binned("gap", gap.square().flatten(1).mean(1).sqrt(), t)}
