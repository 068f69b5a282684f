"""A discriminator beside a pointwise objective: heads on features of noised samples tell the data from the student's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.denoiser import Wrapper
from workbench.distill.loop import Batch
from workbench.distill.objectives.extras import Extra
from workbench.distill.objectives.judging import reliability
from workbench.distill.objectives.maps import ask
from workbench.distill.objectives.parts import normal
from workbench.distill.objectives.targets import Point
from workbench.distill.objectives.times import check_share
from workbench.errors import WorkbenchError, unknown

LOSSES = ("hinge", "logistic")


@dataclass(frozen=True)
class Adversarial:
    """Latent adversarial term on the frozen teacher's features (LADD, arXiv 2403.12015; SANA-Sprint, arXiv 2503.09641, eq. 9).

    Where the teacher is no network of ours, the discriminator is a network of its own.

    Attributes:
        weight: of the student's term. loss: "hinge", or "logistic" (non-saturating).
        share: of the batch that is judged. top: share of the judged answers that start from pure noise (max-time weighting).
        mean, std: of the lognormal sigma / alpha at which samples are noised before they are judged.
        misaligned: real samples with other labels count as generated too.
    """

    weight: float = 0.5
    loss: str = "hinge"
    share: float = 0.5
    top: float = 0.5
    mean: float = -0.6
    std: float = 1.0
    misaligned: bool = True

    needs_data = True

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        for name in ("share", "top"):
            check_share(name, getattr(self, name))

    def bind(self, bound: Any) -> Extra:
        """This term, with its discriminator, for an objective."""
        return _BoundAdversarial(self, bound)


class Judge(nn.Module):
    """One logit a sample from features of a network: `frozen`, whose features are asked for but not trained, or its own."""

    def __init__(self, network: nn.Module, frozen: bool):
        super().__init__()
        if frozen:
            self.frozen = (network,)  # a tuple, so that its weights are neither trained nor saved
        else:
            self.net, self.frozen = network, None
        width, interval = network.config.width, network.config.get("guidance_input")
        self.more = {"w": float(interval[0])} if interval else {}  # features at the least guidance
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.head = nn.Sequential(
                nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
            )

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """Logits (n,), positive for real."""
        h, _ = (self.frozen[0] if self.frozen else self.net).features(x, t.to(x.dtype), cond, **self.more)
        h = h.mean(1) if h.dim() == 3 else h
        return self.head(F.layer_norm(h, h.shape[-1:])).squeeze(1)


class _BoundAdversarial(Extra):
    players = ("discriminator",)

    def __init__(self, switches: Adversarial, bound: Any):
        super().__init__(switches, bound)
        student, base = bound.student, bound.teacher
        while isinstance(base, Wrapper):
            base = base.model
        own = getattr(base, "net", None)
        if hasattr(own, "features") and hasattr(getattr(own, "config", None), "width"):
            self.judge = Judge(own, frozen=True)
        else:
            from workbench.networks import new_network

            path = student.path.name
            self.judge = Judge(new_network(student.shape, student.classes, student.kind, path, seed=1), frozen=False)
        bound.players["discriminator"] = self.judge
        self.drawn: tuple[Tensor, Tensor, Tensor | None] | None = None

    def turn(self, step: int) -> Sequence[str]:
        """The discriminator after the student, on the student's samples."""
        self.drawn = None
        return ("discriminator",)

    def _generate(self, point: Point, real: Tensor | None, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        if real is None:
            raise WorkbenchError("an adversarial term compares with real samples: pass data=..., or set gan=None.")
        student, n = self.bound.student, max(2, round(self.switches.share * len(point.x)))
        x, t, cond = point.x[:n], point.t[:n], None if point.cond is None else point.cond[:n]
        top = torch.rand(n, generator=rng, device=x.device) < self.switches.top
        noise = student.path.sigma(1.0) * normal(x.shape, rng)
        x = torch.where(top.view(-1, *[1] * (x.dim() - 1)), noise, x)
        t = torch.where(top, torch.ones_like(t), t)
        return ask(student, x, t, cond, torch.zeros_like(t)), real[:n], cond

    def _logits(self, x: Tensor, cond: Tensor | None, rng: torch.Generator) -> Tensor:
        student = self.bound.student
        level = self.switches.mean + self.switches.std * torch.randn(len(x), generator=rng, device=x.device).double()
        t = student.path.time(-level)
        x_t = student.path.mix(x, normal(x.shape, rng), t)
        return self.judge(x_t / student.unit(x, t), t, cond)

    def term(self, point: Point, prediction: Tensor, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x, real, cond = self._generate(point, batch.x0 if point.x0 is None else point.x0, rng)
        self.drawn = (x.detach(), real, cond)
        self.judge.requires_grad_(False)
        logits = self._logits(x, cond, rng)
        self.judge.requires_grad_(True)
        value = -logits.mean() if self.switches.loss == "hinge" else F.softplus(-logits).mean()
        return self.switches.weight * value, {"gan": value.detach()}

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss on the samples that the student has just made."""
        if self.drawn is None:
            raise WorkbenchError("the discriminator's turn comes after the student's.")
        x, real, cond = self.drawn
        says_real, says_fake = self._logits(real, cond, rng), self._logits(x, cond, rng)
        fakes = [says_fake]
        if self.switches.misaligned and cond is not None and self.bound.student.classes > 1:
            other = (
                cond + 1 + torch.randint(self.bound.student.classes - 1, cond.shape, generator=rng, device=cond.device)
            ) % (self.bound.student.classes)
            wrong = self._logits(real, torch.where(cond >= 0, other, cond), rng)
            fakes.append(wrong[cond >= 0])
        fake = torch.cat(fakes)
        if self.switches.loss == "hinge":
            value = 0.5 * (F.relu(1 - says_real).mean() + F.relu(1 + fake).mean())
        else:
            value = F.softplus(-says_real).mean() + F.softplus(fake).mean()
        accuracy = 0.5 * ((says_real > 0).float().mean() + (says_fake < 0).float().mean())
        told = reliability(says_real, fake) if self.switches.loss == "logistic" else {}
        return value, {"accuracy": accuracy, **told}


def of(value: Any) -> Adversarial | None:
    """`Adversarial` from what a user may give for `gan`: None, a weight, or the part itself."""
    if value is None or isinstance(value, Adversarial):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return Adversarial(weight=float(value)) if value else None
    raise WorkbenchError(f"gan is {value!r}, but must be a weight from 0, an Adversarial part, or None.")
