"""Preferences: of two samples of a student the better is made likelier than the worse, by its own policy or by score gaps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.denoising import beside, copied, denoising_error, denoising_loss
from workbench.distill.objectives.divergences import binned, gaps
from workbench.distill.objectives.levels import check_bounds
from workbench.distill.objectives.parts import drop_labels, guided, normal
from workbench.distill.objectives.policy import (
    Steps,
    judges,
    log_policy,
    one_of,
    reward_misfits,
    roll,
    stochastic,
    times_of,
)
from workbench.distill.objectives.rewards import CLASS
from workbench.distill.objectives.times import check_share
from workbench.errors import WorkbenchError, check_count
from workbench.paths import per_sample
from workbench.samplers.sample import Sampling


def labels_for(student: Network, n: int, dropout: float, rng: torch.Generator) -> Tensor | None:
    """n labels, each as likely, a share of them none; None for a student without classes."""
    if not student.classes:
        return None
    return drop_labels(torch.randint(student.classes, (n,), generator=rng, device=rng.device), dropout, rng)


def ordered(told: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the winners and of the losers, (m,) each, of rewards (2 m,) whose rows i and m + i are a pair; the first wins a tie."""
    m = len(told) // 2
    first = torch.arange(m, device=told.device)
    won = told[:m] >= told[m:]
    return torch.where(won, first, first + m), torch.where(won, first + m, first)


@dataclass(frozen=True)
class PairwiseOptimisation:
    """DPO on the step kernels of a few-step student (PSO, arXiv 2410.03190, section 4).

    Online: two trajectories for each label, ranked by a reward; on each random step

        L = -log sigmoid(beta (log clip(rho_w, 1 - clip, 1 + clip) - log clip(rho_l, 1 - clip, 1 + clip)))

    with rho the ratio of the student's policy to the one it started as. Offline (personalisation) the winners are the data, the
    losers own samples, and a log-ratio is the difference of denoising errors at the sampler's times; the paper's
    prior-preservation term is left out.

    Attributes:
        reward: function of samples and labels that returns (n,), or a tuple of them, one of which is drawn at each step.
        evaluations: steps of consistency sampling, the last of which is not random. offline: learn from data, without a reward.
    """

    reward: Any = CLASS
    evaluations: int = 4
    beta: float = 50.0
    clip: float = 0.1
    offline: bool = False
    guidance: float | None = None
    dropout: float = 0.1

    adapts = True

    def __post_init__(self):
        stochastic(self.evaluations)
        if not self.beta > 0:
            raise WorkbenchError(f"beta is {self.beta}, but must be positive.")
        if not 0 < self.clip < 1:
            raise WorkbenchError(f"clip is {self.clip}, but must lie between 0 and 1.")
        check_share("dropout", self.dropout)

    @property
    def needs_data(self) -> bool:
        """Whether training looks at real samples."""
        return self.offline

    @property
    def sampling(self) -> Sampling:
        """How the student is sampled, in training and afterwards."""
        return Sampling("consistency", self.evaluations)

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why it cannot be trained."""
        return [] if self.offline else reward_misfits(self.reward, teacher)

    def bind(self, teacher: Denoiser, student: Network) -> BoundPairwiseOptimisation:
        """The objective for this student; of the teacher only the reward may know."""
        return BoundPairwiseOptimisation(self, teacher, student)


class BoundPairwiseOptimisation:
    """A `PairwiseOptimisation` with its student and the student's start: what the loop trains."""

    product = "student"

    def __init__(self, switches: PairwiseOptimisation, teacher: Denoiser, student: Network):
        self.switches, self.student, self.reference = switches, student, copied(student)
        self.judges = [] if switches.offline else judges(switches.reward, teacher)
        self.times = times_of(switches.evaluations, student.path)
        self.players: dict[str, nn.Module] = {"student": student.net}
        self.frozen: dict[str, nn.Module] = {"reference": self.reference.net}

    def turn(self, step: int) -> Sequence[str]:
        """The student, always."""
        return ("student",)

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The preference loss; parts: reward, how often the better is now likelier, distance to the reference."""
        if self.switches.offline:
            return self._offline(batch, rng)
        m = max(1, batch.size // 2)
        cond = labels_for(self.student, m, self.switches.dropout, rng)
        steps = roll(self.student, self.times, None if cond is None else cond.repeat(2), 2 * m, rng)
        told = one_of(self.judges, rng)(steps.final, steps.labels)
        loss, parts = self.preferred(steps, *ordered(told))
        return loss, {"reward": told.mean(), **parts}

    def preferred(self, steps: Steps, winners: Tensor, losers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pairs of trajectories, whose rows are given."""
        low, high = 1 - self.switches.clip, 1 + self.switches.clip
        with torch.no_grad():
            before = log_policy(self.reference, steps)
        ratio = (log_policy(self.student, steps) - before).view(-1, len(steps.final))
        clipped = ratio.exp().clamp(low, high).log()
        logits = self.switches.beta * (clipped[:, winners] - clipped[:, losers])
        outside = ((ratio.exp() < low) | (ratio.exp() > high)).float().mean()
        return F.softplus(-logits).mean(), {"clipped": outside, "moved": ratio.detach().abs().mean()}

    def _offline(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if batch.x0 is None:
            raise WorkbenchError("offline, the winners are the data: pass data=...")
        cond = drop_labels(batch.cond, self.switches.dropout, rng) if self.student.classes else None
        worse = roll(self.student, self.times, cond, batch.size, rng).final
        at = torch.tensor(self.times[:-1], dtype=torch.float64, device=rng.device)
        t = at[torch.randint(len(at), (batch.size,), generator=rng, device=rng.device)]
        eps, eased = normal(batch.x0.shape, rng), []
        for x in (batch.x0, worse):
            now = denoising_error(self.student, x, eps, t, cond)
            with torch.no_grad():
                before = denoising_error(self.reference, x, eps, t, cond)
            eased.append(before - now)
        logits = self.switches.beta * (eased[0] - eased[1])
        return F.softplus(-logits).mean(), {"preferred": (logits > 0).float().mean()}


@dataclass(frozen=True)
class PreferenceDistillation:
    """The better of two samples goes where the teacher's score leads, the worse away (Distillation-DPO, arXiv 2504.11447).

    Two samples for each label, from noise n and `gain` n', are ranked by a reward, which need not have a gradient. Two critics
    learn the laws of the winners and of the losers. With delta = the teacher's x0 estimate - the critic's at shared t and eps,

        dL/dx_w = -delta_w,  dL/dx_l = +loser delta_l,

    score gaps of weight 1 on x0, delta_l shortened to the length of its pair's delta_w where it is longer: what drives samples away
    grows without bound otherwise (on eight Gaussians within 700 steps at loser = 0.3). The released surrogate has no gradient at all: it multiplies the gap by a difference that
    does not depend on the sample. Only the last step of the sampler has a gradient.

    Attributes:
        reward: function of samples and labels that returns (n,). loser: weight of the losers' term; 0 is score matching of the
            best of two. renoise: noise levels at which samples are judged.
    """

    reward: Any = CLASS
    evaluations: int = 1
    gain: float = 1.1
    loser: float = 0.3
    renoise: tuple[float, float] = (0.02, 0.98)
    guidance: float | None = None
    dropout: float = 0.1

    needs_data = False

    def __post_init__(self):
        check_count("evaluations", self.evaluations, 1, 64)
        check_bounds("renoise", self.renoise)
        check_share("dropout", self.dropout)
        if not 0 <= self.loser <= 1:
            raise WorkbenchError(
                f"loser is {self.loser}, but must lie from 0 to 1: a larger weight drives samples away for good."
            )

    @property
    def sampling(self) -> Sampling:
        """How the student is sampled, in training and afterwards."""
        return Sampling("consistency", self.evaluations)

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why it cannot be trained."""
        return reward_misfits(self.reward, teacher)

    def bind(self, teacher: Denoiser, student: Network) -> BoundPreferenceDistillation:
        """The objective for this teacher and student; the critics start as the teacher where that is a network like the student."""
        return BoundPreferenceDistillation(self, teacher, student)


class BoundPreferenceDistillation:
    """A `PreferenceDistillation` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: PreferenceDistillation, teacher: Denoiser, student: Network):
        self.switches, self.student, self.path = switches, student, student.path
        self.teacher, self.times = guided(teacher, switches.guidance), times_of(switches.evaluations, student.path)
        (self.winner, alike), (self.loser, _) = beside(teacher, student), beside(teacher, student)
        self.judges, self.warmup = judges(switches.reward, teacher), 0 if alike else 200
        self.players: dict[str, nn.Module] = {"student": student.net, "winner": self.winner.net, "loser": self.loser.net}
        self.drawn: tuple[Tensor, Tensor, Tensor | None] | None = None

    def turn(self, step: int) -> Sequence[str]:
        """The student and both critics; the critics alone at first, where they do not start as the teacher."""
        self.drawn = None
        return ("student", "winner", "loser") if step >= self.warmup else ("winner", "loser")

    def generate(self, n: int, cond: Tensor | None, rng: torch.Generator, gain: float) -> Tensor:
        """Samples (n, ...) with the graph of their last step."""
        x = gain * self.path.sigma(self.times[0]) * normal((n, *self.student.shape), rng)
        for t, s in itertools.pairwise(self.times[:-1]):
            with torch.no_grad():
                x = self.path.mix(self.student(x, t, cond), normal(x.shape, rng), s)
        return self.student(x, self.times[-2], cond)

    def pair(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Winners and losers (m, ...) of the same labels, the labels, and their rewards (2 m,)."""
        m = max(1, batch.size // 2)
        cond = labels_for(self.student, m, self.switches.dropout, rng)
        x = torch.cat([self.generate(m, cond, rng, gain) for gain in (1.0, self.switches.gain)])
        told = one_of(self.judges, rng)(x.detach(), None if cond is None else cond.repeat(2))
        winners, losers = ordered(told)
        return x[winners], x[losers], cond, told

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's two score gaps, or a critic's denoising error on its own samples."""
        if player == "student":
            x_w, x_l, cond, told = self.pair(batch, rng)
            self.drawn = (x_w.detach(), x_l.detach(), cond)
            loss, parts = self.gaps(x_w, x_l, cond, rng)
            return loss, {"reward": told.mean(), **parts}
        if self.drawn is None:
            with torch.no_grad():
                self.drawn = self.pair(batch, rng)[:3]
        critic, x = (self.winner, self.drawn[0]) if player == "winner" else (self.loser, self.drawn[1])
        error, t = denoising_loss(critic, x, self.drawn[2], rng)
        return error.mean(), binned("loss", error, t)

    def gaps(self, x_w: Tensor, x_l: Tensor, cond: Tensor | None, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """1/2 |x - sg(x + delta)|^2 of the winners, with the sign of delta turned for the losers."""
        low, high = self.switches.renoise
        t = low + (high - low) * torch.rand(len(x_w), generator=rng, device=x_w.device).double()
        eps, loss, parts, most = normal(x_w.shape, rng), x_w.new_zeros(()), {}, None
        for name, x, critic, weight, sign in (
            ("winner", x_w, self.winner, 1.0, 1.0),
            ("loser", x_l, self.loser, self.switches.loser, -1.0),
        ):
            with torch.no_grad():
                x_t = self.path.mix(x, eps, t)
                delta = self.teacher(x_t, t, cond).to(x) - critic(x_t, t, cond)
                parts |= {f"{name}/{key}": value for key, value in gaps(delta, t).items()}
                size = delta.flatten(1).norm(dim=1)
                delta = delta if most is None else delta * per_sample((most / size.clamp_min(1e-12)).clamp_max(1), delta)
                most = size
            loss = loss + weight * 0.5 * (x - (x + sign * delta).detach()).square().mean()
        return loss, parts
