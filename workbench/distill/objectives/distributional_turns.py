"""The turns of the distributional objective: the student's, judged by the gap of two scores, and its critic's.

Diff-Instruct (arXiv 2305.18455), DMD2 (arXiv 2405.14867), SiD (arXiv 2404.04057) and their relatives; `Distributional` has the switches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Guided, Network, Scaled
from workbench.distill.loop import Batch
from workbench.distill.objectives.cores import ExpandedDivergence
from workbench.distill.objectives.critics import Critic, Drawn, FakeScore, ShiftedTeacher, held, told
from workbench.distill.objectives.divergences import DIVERGENCES, Levels, binned, gaps
from workbench.distill.objectives.flow_matching import logit_normal
from workbench.distill.objectives.judging import reliability
from workbench.distill.objectives.levels import levels, renoised, spread, step
from workbench.distill.objectives.parts import PseudoHuber, drop_labels, guided, normal
from workbench.errors import WorkbenchError
from workbench.paths import per_sample

if TYPE_CHECKING:
    from workbench.distill.objectives.distributional import Distributional


class Made(NamedTuple):
    """What the student has made.

    Attributes:
        x: estimates of x0 (n, ...). cond: labels or None. t: the time it was asked at. state: what is judged, at level s.
        steps: of its chain, where the critic must be told; else 0.
    """

    x: Tensor
    cond: Tensor | None
    t: float
    state: Tensor
    s: float
    steps: int = 0


class BoundDistributional:
    """A `Distributional` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: Distributional, teacher: Denoiser, student: Network):
        self.switches, self.student, self.path, self.base = switches, student, student.path, teacher
        own = getattr(teacher, "net", None)
        self.like_teacher = isinstance(own, nn.Module) and type(own) is type(student.net)
        self.players, self.frozen, self.store = {"student": student.net}, {}, None
        self.teacher, self.critic, self.warmup = guided(teacher, switches.guidance.real), None, 0
        if isinstance(switches.critic, FakeScore):
            like = own if self.like_teacher and not switches.inputs.told else student.net
            self._make_critic(copy.deepcopy(like))
        if switches.ratio is not None:
            self.frozen["ratio"] = Levels()
        self.reward = switches.reward.bind(teacher) if switches.reward is not None else None
        self.made: Made | None = None
        self.moves = False  # whether the student has a turn in this step

    def _make_critic(self, net: nn.Module) -> None:
        part, student = self.switches.critic, self.student
        net.requires_grad_(True)
        if part.lora and self.like_teacher:
            from workbench.distill.adapters import add_lora

            add_lora(net, part.lora)
        self.critic = Critic(net, self.switches.gan is not None, self.switches.critics)
        self.networks = [
            Network(self.critic.of(k), student.path, student.kind, student.shape, student.classes, self.switches.inputs.told)
            for k in range(self.switches.critics)
        ]
        self.trained = [parameter for parameter in self.critic.parameters() if parameter.requires_grad]
        self.warmup = part.warmup or (0 if self.like_teacher else 200)
        self.players["critic"] = self.critic

    def prepare(self, folder: File, seed: int, device: Any) -> Iterator[tuple[int, int]]:
        """Make the stored pairs, where there is a regression term."""
        if self.switches.regression is not None:
            self.store = yield from self.switches.regression.pairs.make(self.teacher, folder, seed, device)

    def turn(self, step: int) -> Sequence[str]:
        """The critic at every step; the student too once in `turns` steps after the warm-up."""
        self.made = None
        turns = self.switches.critic.turns if self.critic is not None else 1
        self.moves = step >= self.warmup and (step - self.warmup) % turns == 0
        if self.critic is None:
            return ("student",)
        return ("student", "critic") if self.moves else ("critic",)

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's loss, or the critic's denoising error (and discriminator)."""
        return self._student_loss(batch, rng) if player == "student" else self._critic_loss(batch, rng)

    def _generate(self, batch: Batch, rng: torch.Generator) -> Made:
        cond = batch.cond
        if cond is None and self.student.classes:
            cond = torch.randint(self.student.classes, (batch.size,), generator=rng, device=rng.device)
            if self.switches.inputs.needs_data:  # real samples, of classes that nobody knows
                cond = torch.full_like(cond, -1)
        cond = drop_labels(cond, self.switches.dropout, rng)
        chain = self.switches.inputs.drawn(rng)
        z, t = chain(self.student, (batch.size, *self.student.shape), cond, rng, batch.x0)
        s = self.switches.anchor.end(chain.times, t)
        x = chain.ask(self.student, z, t, cond, s)
        return Made(x, cond, t, step(self.path, z, x, t, s) if s else x, s, len(chain.times) if chain.told else 0)

    def _judge(self, made: Made) -> Network:
        """The critic's network for what was made."""
        network = self.networks[self.switches.anchor.phase(self.switches.inputs.times, made.t)]
        return network if not made.steps else told(network, 1 / made.steps)

    def _draw_levels(self, made: Made, rng: torch.Generator, progress: float) -> Tensor:
        span = self.switches.anchor.span(made.t, made.s)
        return levels(self.switches.renoise if span is None else span, len(made.x), rng, self.path, progress)

    def _student_loss(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        made = self._generate(batch, rng)
        self.made = made._replace(x=made.x.detach(), state=made.state.detach())
        with held(self.trained if self.critic is not None else []):
            loss, parts = self._match(made, batch, rng)
            if self.switches.gan is not None:
                judged = self._judged(made)
                tau = torch.rand(len(judged.x), generator=rng, device=made.x.device).double()
                adversarial = F.softplus(-self._logits(judged.x, tau, judged.cond, rng)).mean()
                loss, parts["gan"] = loss + self.switches.gan.weight * adversarial, adversarial.detach()
        if self.store is not None:
            drawn = self.store.draw(batch, rng)
            answer = self.student(self.path.sigma(1.0) * drawn.eps, 1.0, drawn.cond)
            regression = PseudoHuber()(answer, drawn.x0).mean()
            loss, parts["regression"] = loss + self.switches.regression.weight * regression, regression.detach()
        if self.reward is not None:
            reward = self.reward(made.x, made.cond).mean()
            loss, parts["reward"] = loss - self.switches.reward.weight * reward, reward.detach()
        return loss, parts

    def _match(self, made: Made, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The core's loss at fresh noise levels."""
        switches, x, cond = self.switches, made.x, made.cond
        t = self._draw_levels(made, rng, batch.progress)
        eps = normal(x.shape, rng)
        real_model, fake_scale = self._models(rng)
        with torch.set_grad_enabled(switches.core.graph):
            x_t = renoised(self.path, made.state, eps, t, made.s)
            real = real_model(x_t, t, cond).to(x)
            fake = self._fake(x_t, t, made, eps, fake_scale, rng)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        parts = gaps(real - fake, t)
        if switches.guidance.decoupled:
            fake = fake + (1 - switches.guidance.matching) * (real - fake)
            real = real + self._guidance_part(made, rng)
        weight = switches.weight(x, real, alpha, sigma)
        if switches.ratio is None:
            return switches.core(x, real, fake, weight), parts
        with torch.no_grad():
            logits = self.critic.logits(x_t / self.student.unit(x, t), t, cond)
            r = switches.ratio(logits, t, self.frozen["ratio"])
            h = switches.ratio.weights(r)
            parts["ratio_ess"] = h.sum() ** 2 / (len(h) * h.square().sum())  # share of the samples that carry the weight
            parts |= binned("ratio", h, t)
        if isinstance(switches.core, ExpandedDivergence):
            scale, name = (alpha / sigma**2).to(x), switches.ratio.divergence
            return switches.core(x, real, fake, weight / DIVERGENCES[name].h(r).mean(), r, x_t, scale, name), parts
        return switches.core(x, real, fake, weight * h), parts

    def _models(self, rng: torch.Generator) -> tuple[Denoiser, float]:
        """The teacher as it is asked now, and the critic's guidance scale."""
        guidance, teacher = self.switches.guidance, self.teacher
        if guidance.spread is not None:
            low, high = guidance.spread
            scale = low + (high - low) * float(torch.rand(1, generator=rng, device=rng.device))
            teacher = guided(self.base, scale)
        if guidance.decoupled:
            return guided(self.base, 1.0), guidance.fake
        return teacher, scale_of(teacher) if guidance.same else guidance.fake

    def _fake(self, x_t: Tensor, t: Tensor, made: Made, eps: Tensor, scale: float, rng: torch.Generator) -> Tensor:
        """The critic's x0 estimate, or what stands for it."""
        part = self.switches.critic
        if isinstance(part, Drawn):
            return made.x
        if isinstance(part, ShiftedTeacher):
            u = torch.rand(len(t), generator=rng, device=t.device).double()
            later = (t + part.eta * (t - part.low).clamp_min(0) * u).clamp_max(1 - 1e-3).maximum(t)
            noise = lambda x, time: (  # noqa: E731
                (x - per_sample(self.path.alpha(time), x) * guided(self.base, 1.0)(x, time, made.cond).to(x))
                / per_sample(self.path.sigma(time), x)
            )
            shifted = noise(renoised(self.path, made.state, eps, later, made.s), later)
            return (x_t - per_sample(self.path.sigma(t), x_t) * shifted) / per_sample(self.path.alpha(t), x_t)
        return guided(self._judge(made), scale)(x_t, t, made.cond).to(made.x)

    def _guidance_part(self, made: Made, rng: torch.Generator) -> Tensor:
        """(k - 1) (D(cond) - D(null)) at a level of its own, below the student's time."""
        k = scale_of(self.teacher)
        if k == 1 or made.cond is None:
            return torch.zeros_like(made.x)
        with torch.no_grad():
            t = levels((min(0.02, 0.5 * made.t), made.t), len(made.x), rng, self.path, 0.0)
            x_t = self.path.mix(made.x.detach(), normal(made.x.shape, rng), t)
            model = guided(self.base, 1.0)
            return (k - 1) * (model(x_t, t, made.cond) - model(x_t, t, torch.full_like(made.cond, -1))).to(made.x)

    def _critic_loss(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if self.made is None or self.switches.critic.fresh:
            with torch.no_grad():
                self.made = self._generate(batch, rng)
        made, gan = self.made, self.switches.gan
        error, t = self._denoising(made, rng)
        parts = binned("loss", error, t)
        if gan is None:
            return error.mean(), parts
        if batch.x0 is None:
            raise WorkbenchError("a GAN term compares with real samples: pass data=..., or set gan=0.")
        made, n = self._judged(made), gan.count(len(made.x))
        tau = torch.rand(n, generator=rng, device=made.x.device).double()
        labels = None if made.cond is None else torch.cat([labels_of(batch, made.cond), made.cond])
        real, fake = self._logits(torch.cat([batch.x0[:n], made.x]), torch.cat([tau, tau]), labels, rng).chunk(2)
        discriminator = F.softplus(fake).mean() + F.softplus(-real).mean()
        says = torch.cat([real, fake]).detach()
        is_real = torch.cat([torch.ones_like(real), torch.zeros_like(fake)]).detach()
        parts |= reliability(real, fake)
        parts |= {"denoising": error.detach().mean(), "accuracy": ((says > 0).float() == is_real).float().mean()}
        return error.mean() + gan.critic_weight * discriminator, parts

    def _denoising(self, made: Made, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Error (n,) of the critic's own kind of prediction on noised samples of the student, and their levels.

        For a state at s > 0 the target's noise is sigma_t eps' / g, eps' the fresh one: without bias although no clean sample
        is known (Phased DMD, arXiv 2510.27684, section 3.3), weighted by (g / sigma_t)^2 since its variance grows as t nears s.
        """
        anchor, x = self.switches.anchor, made.x
        span = anchor.span(made.t, made.s)
        t = logit_normal(len(x), rng).double()
        if span is not None:
            t = span[0] + (span[1] - span[0]) * t
        eps = normal(x.shape, rng)
        x_t, clean, noise, weight = renoised(self.path, made.state, eps, t, made.s), x, eps, 1.0
        if made.s:
            alpha, sigma = self.path.alpha(t), self.path.sigma(t)
            g = spread(self.path, t, made.s)[1]
            if self.switches.critics > 1:
                noise, weight = per_sample(sigma / g, x) * eps, ((g / sigma) ** 2).to(x)
                clean = (x_t - per_sample(sigma, x) * noise) / per_sample(alpha, x)
            else:  # the target is the student's own estimate; how likely its noise is, tempered by the dimension (TDM, algorithm 1)
                noise = (x_t - per_sample(alpha, x) * x) / per_sample(sigma, x)
                weight = torch.exp(0.5 * (eps.square() - noise.square()).flatten(1).mean(1))
        network, cond = self._judge(made), made.cond
        if cond is not None and not self.switches.critic.conditional:
            cond = torch.full_like(cond, -1)
        a, b = self.path.kind(self.student.kind, t)
        target = per_sample(a, x) * clean + per_sample(b, x) * noise
        error = ((network.predict(x_t, t, cond) - target) / network.unit(x, t)).square().flatten(1).mean(1)
        return weight * error, t

    def _judged(self, made: Made) -> Made:
        """The first rows, as many as the discriminator looks at."""
        n = self.switches.gan.count(len(made.x))
        return made._replace(x=made.x[:n], cond=None if made.cond is None else made.cond[:n])

    def _logits(self, x: Tensor, t: Tensor, cond: Tensor | None, rng: torch.Generator) -> Tensor:
        x_t = self.path.mix(x, normal(x.shape, rng), t)
        return self.critic.logits(x_t / self.student.unit(x, t), t, cond)

    def after(self, progress: float) -> None:
        """Pull the critic towards the student after the student's steps, where that is asked for."""
        part = self.switches.critic
        if not isinstance(part, FakeScore) or part.couple == 1 or not self.moves:
            return
        with torch.no_grad():
            for phase in range(self.switches.critics):
                mine, theirs = dict(self.critic.of(phase).named_parameters()), dict(self.student.net.named_parameters())
                for name, parameter in mine.items():
                    if name in theirs and theirs[name].shape == parameter.shape:
                        parameter.lerp_(theirs[name], 1 - part.couple)


def labels_of(batch: Batch, cond: Tensor | None) -> Tensor | None:
    """Labels of the real samples, null where those of the generated ones (n,) are: a dropped label must not tell them apart."""
    if cond is None or batch.cond is None:
        return cond if cond is None else torch.full_like(cond, -1)
    return torch.where(cond < 0, -1, batch.cond[: len(cond)].to(cond))


def scale_of(model: Denoiser) -> float:
    """The guidance scale that a model is asked at, by its wrapper; 1 for none."""
    return model.scale if isinstance(model, (Guided, Scaled)) else 1.0
