"""CRITIC and GAN: what stands for the student's own score, and what tells its samples from real ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from workbench.denoiser import Network
from workbench.errors import WorkbenchError, check_count


@dataclass(frozen=True)
class FakeScore:
    """CRITIC: a network fitted to the student's samples, `turns` updates to one of the student (two time scales).

    Attributes:
        warmup: critic-only steps at the start; 0 takes 200 for a critic that does not start as the teacher.
        fresh: its samples are drawn anew, not the ones that the student has just been judged by.
        conditional: False trains it without labels (Zero-CFG).
        lora: rank of low-rank updates, which alone are trained, for a critic that starts as the teacher; 0 trains every weight.
        couple: after each student step the critic becomes couple critic + (1 - couple) student, where both are one architecture
            (Flash-DMD, arXiv 2511.20549); 1 for not at all.
    """

    turns: int = 5
    warmup: int = 0
    fresh: bool = False
    conditional: bool = True
    lora: int = 0
    couple: float = 1.0

    def __post_init__(self):
        check_count("turns", self.turns)
        check_count("warmup", self.warmup, 0)
        check_count("critic lora", self.lora, 0)
        if not 0 <= self.couple <= 1:
            raise WorkbenchError(f"couple is {self.couple}, but is the critic's share of itself, from 0 to 1.")


@dataclass(frozen=True)
class ShiftedTeacher:
    """CRITIC: the teacher itself at a noisier time, t + eta (t - low) u, u ~ U(0, 1), unguided; nothing is trained (ASD, arXiv 2407.02040, eq. 9)."""

    eta: float = 0.1
    low: float = 0.02

    def __post_init__(self):
        if not 0 <= self.eta < 1:
            raise WorkbenchError(f"eta is {self.eta}, but the teacher is shifted by a share from 0 to below 1 of the time.")
        if not 0 <= self.low < 1:
            raise WorkbenchError(f"low is {self.low}, but is the noise level that is not shifted, from 0 to below 1.")


@dataclass(frozen=True)
class Drawn:
    """CRITIC: the noise that was drawn stands for the critic's prediction, so its x0 estimate is x: score distillation sampling
    (DreamFusion, arXiv 2209.14988), which collapses onto modes."""


@dataclass(frozen=True)
class CriticHead:
    """GAN: a small head on the critic's features tells real from generated at random noise levels; logistic loss.

    Attributes:
        weight: of the student's term. critic_weight: of the critic's. judged: share of the batch that is judged.
    """

    weight: float = 3e-3
    critic_weight: float = 1e-2
    judged: float = 1.0

    def __post_init__(self):
        if not 0 < self.judged <= 1:
            raise WorkbenchError(f"judged is {self.judged}, but is a share of the batch, above 0 and at most 1.")
        for name, said in (("weight", "the weight of gan"), ("critic_weight", "critic_weight")):
            if not 0 <= getattr(self, name) < math.inf:
                raise WorkbenchError(
                    f"{said} is {getattr(self, name)}, but must be a number from 0; gan=0 leaves the term out."
                )

    def count(self, n: int) -> int:
        """How many of n samples are judged."""
        return max(2, round(self.judged * n))

    def given(self, value: Any) -> Any:
        """The part for a weight alone; 0 is none."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return replace(self, weight=float(value)) if value else None
        return value


class Critic(nn.Module):
    """The fake-score network, with a discriminator head on its features where a GAN term is used.

    Attributes:
        net: the network. more: those of further phases.
    """

    def __init__(self, net: nn.Module, head: bool, phases: int = 1):
        super().__init__()
        self.net = net
        self.more = nn.ModuleList(copy.deepcopy(net) for _ in range(phases - 1))
        self.head = None
        if head:
            width = net.config.width
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def of(self, phase: int) -> nn.Module:
        """The network of a phase."""
        return self.more[phase - 1] if phase else self.net

    def logits(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """One logit a sample: positive for real."""
        features, _ = self.net.features(x, t.to(x.dtype), cond)
        return self.head(features.mean(1) if features.dim() == 3 else features).squeeze(1)


def told(network: Network, s: float) -> Network:
    """A network of two times whose second is s, in every call."""
    one = copy.copy(network)
    one.net = lambda x, t, cond=None, **more: network.net(x, t, cond, x.new_full((len(x),), s), **more)
    one.two_times = False
    return one


@contextmanager
def held(parameters: list[nn.Parameter]) -> Iterator[None]:
    """No gradient goes to these parameters inside."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
