"""A target that starts near the student and moves to the rule's own (TAID, arXiv 2501.16937)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.distill.objectives.times import check_share


@dataclass(frozen=True)
class Mixing:
    """y <- (1 - share) sg(prediction) + share y; the share grows at least linearly over the run, faster while the loss falls.

    share <- min(end, max(linear, share + rate sigmoid(m) (1 - share))), m the moving average of the loss' relative decrease
    (TAID, arXiv 2501.16937, eqs. 6 and 7, there for logits). With a squared error it only multiplies the gradient by the share.

    Attributes:
        start, end: of the share. rate: of its adaptive growth. momentum: of m.
    """

    start: float = 0.4
    end: float = 1.0
    rate: float = 5e-4
    momentum: float = 0.99

    def __post_init__(self):
        for name in ("start", "end", "momentum"):
            check_share(name, getattr(self, name))


class Mix(nn.Module):
    """The share, with what it depends on; saved with the networks."""

    def __init__(self, switches: Mixing):
        super().__init__()
        self.switches = switches
        for name, value in (("share", switches.start), ("m", 0.0), ("last", 0.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The mixed target, without gradient."""
        return torch.lerp(prediction.detach(), target, self.share.to(target))

    @torch.no_grad()
    def follow(self, loss: Tensor, progress: float) -> None:
        """After a loss: move the share."""
        switches, loss = self.switches, loss.detach().double()
        if self.last > 0:
            fall = (self.last - loss) / self.last
            self.m.copy_(switches.momentum * self.m + (1 - switches.momentum) * fall)
        self.last.copy_(loss)
        linear = switches.start + (switches.end - switches.start) * progress
        grown = self.share + switches.rate * torch.sigmoid(self.m) * (1 - self.share)
        self.share.copy_(grown.clamp_min(linear).clamp_max(switches.end))
