"""The distributional objective: a critic learns the student's law, and the score gap to the teacher moves the student.

DMD2 (arXiv 2405.14867) and its relatives; the switches are fields.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.flow_matching import logit_normal
from workbench.distill.objectives.parts import drop_labels, guided, normal
from workbench.errors import WorkbenchError, check_count
from workbench.paths import per_sample


@dataclass(frozen=True)
class ScoreGap:
    """CORE K1: loss 1/2 mean |x - sg(x + w delta)|^2, delta = teacher's x0 estimate - critic's.

    Its gradient, -w delta, is that of the reverse KL integrated over noise levels when w is alpha^2 / sigma^2.
    """

    def __call__(self, x: Tensor, real: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
        pull = per_sample(weight, x) * (real - fake)
        return 0.5 * (x - (x + pull).detach()).square().mean()


@dataclass(frozen=True)
class PerSampleL1:
    """WEIGHT 1 / mean |x - teacher's x0 estimate| of each sample (DMD, arXiv 2311.18828, eq. 8), floored."""

    floor: float = 1e-3

    def __call__(self, x: Tensor, real: Tensor) -> Tensor:
        return 1 / (x - real).abs().flatten(1).mean(1).clamp_min(self.floor)


@dataclass(frozen=True)
class FakeScore:
    """CRITIC: a network fitted to the student's samples, `turns` updates to one of the student (two time scales).

    Attributes:
        warmup: critic-only steps at the start, for a critic that does not start as the teacher.
    """

    turns: int = 5
    warmup: int = 0

    def __post_init__(self):
        check_count("turns", self.turns)
        check_count("warmup", self.warmup, 0)


@dataclass(frozen=True)
class CriticHead:
    """GAN: a small head on the critic's features tells real from generated at random noise levels; logistic loss.

    Attributes:
        weight: of the student's term. critic_weight: of the critic's.
    """

    weight: float = 3e-3
    critic_weight: float = 1e-2


@dataclass(frozen=True)
class BackSimulation:
    """INPUT: the student's own chain at these times, consistency sampling; one step of it, drawn at random, gets the gradient.

    (1.0,) trains a one-step student. The last entry of a plan's times, 0, is not listed.
    """

    times: tuple[float, ...] = (1.0,)

    def __call__(self, student: Network, shape: tuple[int, ...], cond: Tensor | None, rng: torch.Generator, like: Tensor):
        """Return (x_t, t) at which the student is to be evaluated; t is a float shared by the batch."""
        path, x = student.path, path_start(student, shape, rng, self.times[0])
        steps = int(torch.randint(len(self.times), (1,), generator=rng, device=rng.device))
        for t, s in zip(self.times[:steps], self.times[1 : steps + 1], strict=True):
            with torch.no_grad():
                x = path.mix(student(x, t, cond), normal(shape, rng), s)
        return x, self.times[steps]


def path_start(student: Network, shape: tuple[int, ...], rng: torch.Generator, t: float) -> Tensor:
    """Noise at the level of time t."""
    return student.path.sigma(t) * normal(shape, rng)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free scales of the teacher (real; None for the teacher's own setting) and the critic (fake)."""

    real: float | None = None
    fake: float = 1.0


@dataclass(frozen=True)
class Distributional:
    """What a distribution-matching recipe is: parts, one for each switch.

    Plain numbers stand for parts where they can: guidance=2.0 is Guidance(real=2.0), gan=3e-3 is CriticHead(3e-3),
    inputs=4 is BackSimulation at four uniform times. `renoise` bounds the noise levels at which the student is judged.
    """

    core: Any = field(default_factory=ScoreGap)
    weight: Any = field(default_factory=PerSampleL1)
    critic: FakeScore = field(default_factory=FakeScore)
    gan: CriticHead | None = None
    inputs: BackSimulation = field(default_factory=BackSimulation)
    guidance: Guidance = field(default_factory=Guidance)  # a number sets `real`
    renoise: tuple[float, float] = (0.02, 0.98)
    dropout: float = 0.1

    def __post_init__(self):
        if isinstance(self.guidance, (int, float)):
            object.__setattr__(self, "guidance", Guidance(real=float(self.guidance)))
        if isinstance(self.gan, (int, float)):
            object.__setattr__(self, "gan", CriticHead(weight=float(self.gan)))
        if isinstance(self.inputs, int):
            check_count("inputs", self.inputs, 1, 1000)
            object.__setattr__(self, "inputs", BackSimulation(tuple(1 - k / self.inputs for k in range(self.inputs))))

    @property
    def needs_data(self) -> bool:
        """Whether training looks at real samples."""
        return self.gan is not None

    def bind(self, teacher: Denoiser, student: Network) -> BoundDistributional:
        """The objective for this teacher and student; the critic starts as the teacher where that is a network like the student."""
        return BoundDistributional(self, teacher, student)


class Critic(nn.Module):
    """The fake-score network, with a discriminator head on its features where a GAN term is used."""

    def __init__(self, net: nn.Module, head: bool):
        super().__init__()
        self.net = net
        self.head = None
        if head:
            width = net.config.width
            self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def logits(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """One logit a sample: positive for real."""
        features, _ = self.net.features(x, t.to(x.dtype), cond)
        return self.head(features.mean(1) if features.dim() == 3 else features).squeeze(1)


class BoundDistributional:
    """A `Distributional` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: Distributional, teacher: Denoiser, student: Network):
        self.switches, self.student, self.path = switches, student, student.path
        self.teacher = guided(teacher, switches.guidance.real)
        own = getattr(teacher, "net", None)
        like_teacher = isinstance(own, nn.Module) and type(own) is type(student.net)
        start = own if like_teacher else student.net
        self.critic = Critic(copy.deepcopy(start).requires_grad_(True), switches.gan is not None)
        self.network = Network(self.critic.net, student.path, student.kind, student.shape, student.classes)
        self.fake = guided(self.network, switches.guidance.fake)
        self.warmup = switches.critic.warmup or (0 if like_teacher else 200)
        self.players = {"student": student.net, "critic": self.critic}
        self.drawn: tuple[Tensor, Tensor | None] | None = None

    def turn(self, step: int) -> Sequence[str]:
        """The critic at every step; the student too once in `turns` steps after the warm-up."""
        self.drawn = None
        if step >= self.warmup and (step - self.warmup) % self.switches.critic.turns == 0:
            return ("student", "critic")
        return ("critic",)

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's score gap (and GAN term), or the critic's denoising error (and discriminator)."""
        return self._student_loss(batch, rng) if player == "student" else self._critic_loss(batch, rng)

    def _generate(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        cond = batch.cond
        if cond is None and self.student.classes:
            cond = torch.randint(self.student.classes, (batch.size,), generator=rng, device=rng.device)
        cond = drop_labels(cond, self.switches.dropout, rng)
        x, t = self.switches.inputs(self.student, (batch.size, *self.student.shape), cond, rng, batch.x0)
        return self.student(x, t, cond), cond

    def _student_loss(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x, cond = self._generate(batch, rng)
        self.drawn = (x.detach(), cond)
        low, high = self.switches.renoise
        t = low + (high - low) * torch.rand(len(x), generator=rng, device=x.device).double()
        with torch.no_grad():
            x_t = self.path.mix(x, normal(x.shape, rng), t)
            real, fake = self.teacher(x_t, t, cond).to(x), self.fake(x_t, t, cond)
            weight = self.switches.weight(x, real)
        loss = self.switches.core(x, real, fake, weight)
        parts = {"gap": (real - fake).square().mean().sqrt()}
        if self.switches.gan is not None:
            tau = torch.rand(len(x), generator=rng, device=x.device).double()
            adversarial = F.softplus(-self._logits(x, tau, cond, rng)).mean()
            loss = loss + self.switches.gan.weight * adversarial
            parts["gan"] = adversarial.detach()
        return loss, parts

    def _critic_loss(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if self.drawn is None:
            with torch.no_grad():
                self.drawn = self._generate(batch, rng)
        x, cond = self.drawn
        t = logit_normal(len(x), rng).double()
        eps = normal(x.shape, rng)
        a, b = self.path.kind(self.student.kind, t)
        target = per_sample(a, x) * x + per_sample(b, x) * eps
        x_t = self.path.mix(x, eps, t)
        error = ((self.network.predict(x_t, t, cond) - target) / self.network.unit(x, t)).square().mean()
        gan = self.switches.gan
        if gan is None:
            return error, {}
        if batch.x0 is None:
            raise WorkbenchError("a GAN term compares with real samples: pass data=...")
        tau = torch.rand(len(x), generator=rng, device=x.device).double()
        real_logits, fake_logits = self._logits(batch.x0, tau, batch.cond, rng), self._logits(x, tau, cond, rng)
        discriminator = F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()
        accuracy = 0.5 * ((real_logits > 0).float().mean() + (fake_logits < 0).float().mean())
        return error + gan.critic_weight * discriminator, {"denoising": error.detach(), "accuracy": accuracy}

    def _logits(self, x: Tensor, t: Tensor, cond: Tensor | None, rng: torch.Generator) -> Tensor:
        x_t = self.path.mix(x, normal(x.shape, rng), t)
        return self.critic.logits(x_t / self.network.unit(x, t), t, cond)
