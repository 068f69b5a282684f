"""A new concept for a one-step student and its teacher together: distilled to the student, and echoed back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.adversarial import Judge
from workbench.distill.objectives.denoising import copied, denoising_loss, features_of
from workbench.distill.objectives.divergences import binned
from workbench.distill.objectives.judging import reliability
from workbench.distill.objectives.parts import drop_labels, guided, normal
from workbench.errors import WorkbenchError
from workbench.samplers.sample import Sampling, default_sampling


@dataclass(frozen=True)
class Echo:
    """EchoDistill (arXiv 2510.20512): a few pictures become a new class, the last one, of teacher and student at once.

    At every step, c* the new class and c an old one:

        teacher   denoising on the pictures with c* + echo x denoising on the student's own samples of c*, the better half of them
                  by the discriminator + keep |D(x_t, c) - D_start(x_t, c)|^2
        student   gan x adversarial term on noised features + align |x - sg D(x_t, c*)|^2, x = G(z, c*)
                  + keep |G(z, c) - G_start(z, c)|^2
        discriminator, on features of the teacher as it was: the pictures against x

    The embedding of c* is one for both: after each step each takes the mean of the two. The paper does not publish its weights, its
    filter or its prior term; these are ours.

    Attributes:
        echo, keep, gan, align: weights. low, high: noise levels of `align`. best: share of the samples that is echoed.
    """

    echo: float = 0.5
    keep: float = 1.0
    gan: float = 0.05
    align: float = 1.0
    low: float = 0.02
    high: float = 0.7
    best: float = 0.5
    guidance: float | None = None
    dropout: float = 0.1

    needs_data = True
    own_data = "it learns a concept from a few pictures that are yours to choose: pass data=, a tensor (n, ...)"
    adapts = True
    new_classes = 1
    sampling = Sampling("consistency", 1)

    def __post_init__(self):
        for name in ("echo", "keep", "gan", "align"):
            if not getattr(self, name) >= 0:
                raise WorkbenchError(f"{name} is {getattr(self, name)!r}, but a weight is a number from 0.")
        if not 0 < self.best <= 1:
            raise WorkbenchError(f"best is {self.best}, but is a share, above 0 and at most 1.")

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why it cannot be trained."""
        net = getattr(teacher, "net", None)
        if isinstance(net, nn.Module) and type(net).__module__.startswith("workbench."):
            return []
        return ["it trains the teacher too, so that must be a network of ours"]

    def bind(self, teacher: Denoiser, student: Network) -> BoundEcho:
        """The objective for this teacher and student."""
        return BoundEcho(self, teacher, student)


class BoundEcho:
    """An `Echo` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: Echo, teacher: Denoiser, student: Network):
        from workbench.networks import with_classes

        self.switches, self.student, self.path, self.before = switches, student, student.path, teacher
        net = with_classes(teacher.net).requires_grad_(True)
        self.teacher = Network(net, student.path, teacher.kind, student.shape, student.classes)
        scale = default_sampling(teacher).guidance if switches.guidance is None else switches.guidance
        self.guide = guided(self.teacher, scale)
        self.start = copied(student)
        self.judge = Judge(*features_of(teacher, student))
        self.concept = student.classes - 1
        self.players: dict[str, nn.Module] = {"student": student.net, "teacher": net, "discriminator": self.judge}
        self.frozen: dict[str, nn.Module] = {"start": self.start.net}
        rows = [player.class_embedding.weight for player in (student.net, net)]
        self.shared = rows if rows[0].shape == rows[1].shape else []
        self.drawn: Tensor | None = None
        self.after(0.0)

    def turn(self, step: int) -> Sequence[str]:
        """The teacher, the student, and the discriminator on the student's samples."""
        self.drawn = None
        return ("teacher", "student", "discriminator")

    def generate(self, cond: Tensor, rng: torch.Generator) -> Tensor:
        """Samples (n, ...) of the student."""
        return self.student(self.noise(len(cond), rng), 1.0, cond)

    def noise(self, n: int, rng: torch.Generator) -> Tensor:
        """What the student starts from."""
        return self.path.sigma(1.0) * normal((n, *self.student.shape), rng)

    def new(self, n: int, rng: torch.Generator) -> Tensor:
        """n labels of the new class."""
        return torch.full((n,), self.concept, device=rng.device)

    def old(self, n: int, rng: torch.Generator) -> Tensor:
        """n labels of old classes, a share of them none; all none where there are none."""
        if not self.concept:
            return torch.full((n,), -1, device=rng.device)
        return drop_labels(torch.randint(self.concept, (n,), generator=rng, device=rng.device), self.switches.dropout, rng)

    def logits(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """The discriminator's word (n,) on samples at noise levels of their own."""
        t = torch.rand(len(x), generator=rng, device=x.device).double()
        return self.judge(self.path.mix(x, normal(x.shape, rng), t) / self.student.unit(x, t), t, None)

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a player, see `Echo`."""
        if batch.x0 is None:
            raise WorkbenchError("a concept is learned from its pictures: pass data=...")
        if player == "teacher":
            return self._teach(batch.x0, rng)
        if player == "student":
            return self._follow(batch, rng)
        says_real, says_fake = self.logits(batch.x0, rng), self.logits(self.drawn, rng)
        accuracy = 0.5 * ((says_real > 0).float().mean() + (says_fake < 0).float().mean())
        told = {"accuracy": accuracy, **reliability(says_real, says_fake)}
        return F.softplus(-says_real).mean() + F.softplus(says_fake).mean(), told

    def _teach(self, real: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        n, switches = len(real), self.switches
        error, t = denoising_loss(self.teacher, real, self.new(n, rng), rng)
        loss = error.mean()
        parts = {"concept": loss.detach(), **binned("loss", error, t)}
        if switches.echo:
            with torch.no_grad():
                made = self.generate(self.new(n, rng), rng)
                made = made[self.logits(made, rng).topk(max(1, round(switches.best * n))).indices]
            echoed = denoising_loss(self.teacher, made, self.new(len(made), rng), rng)[0].mean()
            loss, parts["echo"] = loss + switches.echo * echoed, echoed.detach()
        if switches.keep:
            cond = self.old(n, rng)
            t = torch.rand(n, generator=rng, device=real.device).double()
            with torch.no_grad():
                x_t = self.path.mix(self.start(self.noise(n, rng), 1.0, cond), normal(real.shape, rng), t)
                wanted = self.before(x_t, t, cond).to(real)
            kept = (self.teacher(x_t, t, cond) - wanted).square().mean()
            loss, parts["keep"] = loss + switches.keep * kept, kept.detach()
        return loss, parts

    def _follow(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        n, switches = len(batch.x0), self.switches
        cond = self.new(n, rng)
        x = self.generate(cond, rng)
        self.drawn = x.detach()
        t = switches.low + (switches.high - switches.low) * torch.rand(n, generator=rng, device=x.device).double()
        with torch.no_grad():
            wanted = self.guide(self.path.mix(x, normal(x.shape, rng), t), t, cond).to(x)
        self.judge.requires_grad_(False)
        adversarial = F.softplus(-self.logits(x, rng)).mean()
        self.judge.requires_grad_(True)
        align = (x - wanted).square().mean()
        old, z = self.old(n, rng), self.noise(n, rng)
        with torch.no_grad():
            answer = self.start(z, 1.0, old)
        kept = (self.student(z, 1.0, old) - answer).square().mean()
        loss = switches.gan * adversarial + switches.align * align + switches.keep * kept
        return loss, {"gan": adversarial.detach(), "align": align.detach(), "keep": kept.detach()}

    @torch.no_grad()
    def after(self, progress: float) -> None:
        """Both networks take the mean of their embeddings of the concept, where these are of one size."""
        if self.shared:
            mean = sum(table[self.concept] for table in self.shared) / 2
            for table in self.shared:
                table[self.concept] = mean
