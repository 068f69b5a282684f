"""Training a teacher from data: regression of the network's own kind of prediction along a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from workbench import paths
from workbench.distill.loop import Batch


def logit_normal(n: int, rng: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """n times in (0, 1): the logistic of a Gaussian (SD3, arXiv 2403.03206, eq. 19)."""
    return torch.sigmoid(mean + std * torch.randn(n, generator=rng, device=rng.device))


@dataclass
class FlowMatching:
    """E || net(x_t, t, c) - (a x0 + b eps) ||^2 with (a, b) of the network's kind (flow matching, arXiv 2210.02747).

    Args:
        net: predicts `net.config.kind` along `net.config.path`.
        dropout: share of labels replaced by the null class, for classifier-free guidance (arXiv 2207.12598).
    """

    net: nn.Module
    dropout: float = 0.1
    time_mean: float = 0.0
    time_std: float = 1.0
    product: str = "teacher"
    players: dict[str, nn.Module] = field(init=False)

    def __post_init__(self):
        self.players = {"teacher": self.net}
        self.path = paths.get(self.net.config.path)

    def turn(self, step: int) -> Sequence[str]:
        """The teacher, always."""
        return ("teacher",)

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the prediction at random times."""
        x0, cond = batch.x0, batch.cond
        t = logit_normal(len(x0), rng, self.time_mean, self.time_std)
        eps = torch.randn(x0.shape, generator=rng, device=x0.device, dtype=x0.dtype)
        if cond is not None:
            drop = torch.rand(len(x0), generator=rng, device=x0.device) < self.dropout
            cond = torch.where(drop, -1, cond)
        a, b = self.path.kind(self.net.config.kind, t.double())
        target = paths.per_sample(a, x0) * x0 + paths.per_sample(b, x0) * eps
        error = (self.net(self.path.mix(x0, eps, t.double()), t, cond) - target).square().flatten(1).mean(1)
        with torch.no_grad():
            low = t < 0.5
            parts = {"t<0.5": error[low].mean(), "t>0.5": error[~low].mean()} if 0 < low.sum() < len(t) else {}
        return error.mean(), parts
