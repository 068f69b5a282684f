"""Denoising diffusion GAN: few large steps, whose law a generator with a latent learns against a discriminator (arXiv 2112.07804)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.judging import reliability
from workbench.distill.objectives.parts import drop_labels, normal
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path, per_sample
from workbench.samplers.sample import Sampling

SAMPLER = "ddpm"  # its steps are draws of q(x_s | x_t, x0)


@dataclass(frozen=True)
class DenoisingGAN:
    """x0 = G(x_t, t, z), x_s drawn from q(x_s | x_t, x0), and D(x_s, t, x_t) tells such pairs from the data's (arXiv 2112.07804, eqs. 4 to 6).

    A network without a latent would have to answer with one x0 where many are possible.

    Attributes:
        evaluations: steps of the sampler, T. z_dim: size of the latent. r1: weight of the penalty r1 / 2 |grad D|^2 on real x_s.
        lazy: steps from one penalty to the next. dropout: share of null labels.
    """

    evaluations: int = 4
    z_dim: int = 32
    r1: float = 0.02
    lazy: int = 15
    guidance: float = 1.0
    dropout: float = 0.1

    needs_data = True

    def __post_init__(self):
        check_count("evaluations", self.evaluations, 1, 64)
        check_count("z_dim", self.z_dim)
        check_count("lazy", self.lazy)
        if not self.r1 >= 0:
            raise WorkbenchError(f"r1 is {self.r1}, but a penalty's weight is a number from 0.")
        if self.guidance != 1:
            raise WorkbenchError(
                f"guidance is {self.guidance}, but this recipe learns the data's own law, not a guided teacher's: leave it at 1."
            )

    @property
    def sampling(self) -> Sampling:
        """How the student is sampled, in training and afterwards."""
        return Sampling(SAMPLER, self.evaluations, only=[SAMPLER])

    def bind(self, teacher: Denoiser, student: Network) -> BoundDenoisingGAN:
        """The objective for this student; the teacher only starts it."""
        return BoundDenoisingGAN(self, teacher, student)


class Discriminator(nn.Module):
    """One logit a pair from a network's features, unbounded, so that a sample far from the data still has a slope."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.head = nn.Linear(net.config.width, 1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """Logits (n,), positive for real."""
        h, _ = self.net.features(x, t.to(x.dtype), cond)
        return self.head(F.silu(h.mean(1) if h.dim() == 3 else h)).squeeze(1)


class BoundDenoisingGAN:
    """A `DenoisingGAN` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: DenoisingGAN, teacher: Denoiser, student: Network):
        from workbench.networks import new_network

        self.switches, self.student, self.path = switches, student, student.path
        times = switches.sampling.plan(student.path).times
        self.grid = torch.tensor(times, dtype=torch.float64)
        doubled = (2 * student.shape[0], *student.shape[1:])  # x_s and x_t side by side
        net = new_network(doubled, student.classes, student.kind, student.path.name, seed=1)
        self.judge = Discriminator(net)
        self.players = {"student": student.net, "discriminator": self.judge}
        self.penalised = False

    def turn(self, step: int) -> Sequence[str]:
        """The discriminator, then the student."""
        self.penalised = self.switches.r1 > 0 and step % self.switches.lazy == 0
        return ("discriminator", "student")

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Non-saturating logistic losses; for the discriminator also R1, now and then."""
        if batch.x0 is None:
            raise WorkbenchError("a denoising GAN compares with real samples: pass data=...")
        x_s, x_t, s, t, cond = self.states(batch, rng)
        if player == "student":
            logits = self.logits(self.fake(x_t, s, t, cond, rng), x_t, t, cond)
            return F.softplus(-logits).mean(), {}
        with torch.no_grad():
            made = self.fake(x_t, s, t, cond, rng)
        x_s = x_s.requires_grad_(self.penalised)
        with (
            sdpa_kernel(SDPBackend.MATH) if self.penalised else contextlib.nullcontext()
        ):  # the others have no second derivative
            says_real = self.logits(x_s, x_t, t, cond)
        says_fake = self.logits(made, x_t, t, cond)
        value = F.softplus(-says_real).mean() + F.softplus(says_fake).mean()
        parts = {"accuracy": 0.5 * ((says_real > 0).float().mean() + (says_fake < 0).float().mean())}
        parts |= reliability(says_real, says_fake)
        if self.penalised:
            (slope,) = torch.autograd.grad(says_real.sum(), x_s, create_graph=True)
            penalty = slope.square().flatten(1).sum(1).mean()
            value, parts = value + 0.5 * self.switches.r1 * penalty, parts | {"r1": penalty.detach()}
        return value, parts

    def states(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """(x_s, x_t, s, t, labels) of the data, one of the sampler's steps t -> s for each sample."""
        x0, grid = batch.x0, self.grid.to(rng.device)
        step = torch.randint(self.switches.evaluations, (len(x0),), generator=rng, device=rng.device)
        t, s = grid[step], grid[step + 1]
        x_s = self.path.mix(x0, normal(x0.shape, rng, x0), s)
        x_t = forward(self.path, x_s, normal(x0.shape, rng, x0), s, t)
        return x_s, x_t, s, t, drop_labels(batch.cond, self.switches.dropout, rng)

    def fake(self, x_t: Tensor, s: Tensor, t: Tensor, cond: Tensor | None, rng: torch.Generator) -> Tensor:
        """x_s drawn from q(x_s | x_t, G(x_t, t, z)) with a fresh latent for each sample."""
        z = torch.randn(len(x_t), self.switches.z_dim, generator=rng, device=rng.device)
        mean, std = posterior(self.path, x_t, self.student(x_t, t, cond, z=z), t, s)
        return mean + std * normal(x_t.shape, rng, x_t)

    def logits(self, x_s: Tensor, x_t: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """The discriminator's word on pairs, (n,); positive for real."""
        pair = torch.cat([x_s, x_t], 1) / self.student.unit(x_t, t)
        return self.judge(pair, t, cond)


def forward(path: Path, x_s: Tensor, eps: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """x_t drawn from q(x_t | x_s), s < t: (a_t / a_s) x_s + sqrt(b_t^2 - (a_t b_s / a_s)^2) eps; times (n,)."""
    ratio = path.alpha(t) / path.alpha(s)
    spread = (path.sigma(t) ** 2 - (ratio * path.sigma(s)) ** 2).clamp_min(0).sqrt()
    return per_sample(ratio, x_s) * x_s + per_sample(spread, x_s) * eps


def posterior(path: Path, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (n, ...) and standard deviation (n, 1, ...) of q(x_s | x_t, x0) (arXiv 2006.11239, eq. 7); times (n,), s < t.

    The variance is b_s^2 (1 - (a_t b_s / (a_s b_t))^2), 0 at s = 0.
    """
    a_s, b_s, a_t, b_t = path.alpha(s), path.sigma(s), path.alpha(t), path.sigma(t)
    shrink = a_t * b_s / (a_s * b_t)
    kept = per_sample(shrink * b_s / b_t, x_t)
    mean = kept * x_t + per_sample(a_s * (1 - shrink**2), x_t) * x0
    return mean, per_sample(b_s * (1 - shrink**2).clamp_min(0).sqrt(), x_t)
