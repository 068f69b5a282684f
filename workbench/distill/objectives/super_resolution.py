"""One-step super-resolution: a student that takes a low-resolution picture follows its teacher's answers, scores and features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Network, Wrapper, evaluate
from workbench.distill.loop import Batch
from workbench.distill.objectives.adversarial import Judge
from workbench.distill.objectives.control import low_resolution
from workbench.distill.objectives.denoising import features_of
from workbench.distill.objectives.divergences import gaps
from workbench.distill.objectives.judging import reliability
from workbench.distill.objectives.levels import check_bounds
from workbench.distill.objectives.parts import drop_labels, guided, normal
from workbench.distill.objectives.times import check_share
from workbench.errors import WorkbenchError, check_count
from workbench.networks.adapter import silence
from workbench.networks.embedding import TimeEmbedding
from workbench.samplers.run import run
from workbench.samplers.sample import Sampling


class Restored(Wrapper):
    """A teacher of pictures, asked for those whose blocks have given means: D + up(picture - down(D)).

    This is the projection of its x0 estimate that changes least (DDNM, arXiv 2212.00490, eq. 9), so any teacher restores pictures
    without having been trained to.
    """

    def __init__(self, model: Denoiser, picture: Tensor, factor: int):
        super().__init__(model)
        self.picture, self.factor = picture, factor

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None, **more: Any) -> Tensor:
        made = evaluate(self.model, x, t, cond, **more)[0]
        missing = self.picture.to(made) - low_resolution(made, self.factor)
        return made + F.interpolate(missing, scale_factor=self.factor)


class TimeAware(Judge):
    """A discriminator on the teacher's features, modulated by the noise level: h (1 + gamma(t)) + beta(t)."""

    def __init__(self, network: nn.Module, frozen: bool):
        super().__init__(network, frozen)
        width = network.config.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.time, self.modulation = TimeEmbedding(width), nn.Linear(width, 2 * width)
        silence(self.modulation)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        """Logits (n,), positive for real."""
        h, _ = (self.frozen[0] if self.frozen else self.net).features(x, t.to(x.dtype), cond, **self.more)
        h = h.mean(1) if h.dim() == 3 else h
        gamma, beta = self.modulation(F.silu(self.time(t.to(x.dtype)))).chunk(2, dim=1)
        return self.head(F.layer_norm(h, h.shape[-1:]) * (1 + gamma) + beta).squeeze(1)


@dataclass(frozen=True)
class SuperResolution:
    """Time-aware distillation for super-resolution (TAD-SR, arXiv 2408.07476).

    x_S = G(z, y) in one step, x_T = the teacher's deterministic answer in `solver_steps` steps for the same noise z and picture y.

        L = |x_S - x_T|^2 + score HSD + gan GAN,   dHSD/dx_S = w(t) [eps_phi(x_S, t) - eps_phi(x_T, t)]

    with one noise for both and t small, so that only what is fine counts; w = sigma / alpha makes it the difference of the
    residuals x - D(x_t). It is exactly 0 at x_S = x_T, which plain score distillation is not. The discriminator compares real
    pictures with x_S, both noised. The form of HSD is the best known one: the paper's code is not published.

    The paper's teacher was trained with y as an input; here any teacher of images is made one by `Restored`. The student reads y
    as a hint. `free` is the share of steps without y, where x_T is the teacher's plain answer: so it draws without a hint too.

    Attributes:
        factor: of the resolution. score, gan: weights. levels: noise levels of HSD. free: share of steps without a picture.
    """

    factor: int = 2
    solver_steps: int = 8
    score: float = 1.0
    gan: float = 0.02
    levels: tuple[float, float] = (0.02, 0.3)
    free: float = 0.1
    guidance: float | None = None
    dropout: float = 0.1

    needs_data = True
    sampling = Sampling("consistency", 1)

    def __post_init__(self):
        check_count("factor", self.factor, 2)
        check_count("solver_steps", self.solver_steps)
        if not (self.score >= 0 and self.gan >= 0):
            raise WorkbenchError(f"score is {self.score} and gan {self.gan}, but weights are numbers from 0.")
        check_bounds("levels", self.levels, "(0.02, 0.3)")
        for name in ("free", "dropout"):
            check_share(name, getattr(self, name))

    def hint(self, x: Tensor) -> Tensor:
        """The low-resolution picture of samples."""
        return low_resolution(x, self.factor)

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why it cannot be trained."""
        shape = tuple(teacher.shape)
        if len(shape) != 3:
            return [f"it restores pictures, so it needs images (c, h, w), not samples of shape {shape}"]
        if shape[1] % self.factor or shape[2] % self.factor:
            return [f"factor is {self.factor}, which does not divide {shape[1]} x {shape[2]} pixels"]
        return []

    def bind(self, teacher: Denoiser, student: Network) -> BoundSuperResolution:
        """The objective for this teacher and student."""
        return BoundSuperResolution(self, teacher, student)


class BoundSuperResolution:
    """A `SuperResolution` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: SuperResolution, teacher: Denoiser, student: Network):
        self.switches, self.student, self.path = switches, student, student.path
        self.teacher, self.judge = guided(teacher, switches.guidance), TimeAware(*features_of(teacher, student))
        self.plan = Sampling("ddim", switches.solver_steps).plan(student.path)
        self.players: dict[str, nn.Module] = {"student": student.net}
        if switches.gan:
            self.players["discriminator"] = self.judge
        self.drawn: tuple[Tensor, Tensor, Tensor | None] | None = None

    def turn(self, step: int) -> Sequence[str]:
        """The student, then the discriminator on the student's samples."""
        self.drawn = None
        return tuple(self.players)

    def answers(self, z: Tensor, picture: Tensor | None, cond: Tensor | None) -> Tensor:
        """x_T: where the teacher's flow leads from noise z."""
        model = self.teacher if picture is None else Restored(self.teacher, picture, self.switches.factor)
        for frame in run(self.plan, model, z, cond):
            last = frame.x
        return last

    def score(self, x_s: Tensor, x_t: Tensor, cond: Tensor | None, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """HSD, and its gap by noise level: the gradient in x_s is that difference of residuals over the dimensions; 0 where both are equal."""
        low, high = self.switches.levels
        t = low + (high - low) * torch.rand(len(x_s), generator=rng, device=x_s.device).double()
        eps = normal(x_s.shape, rng)
        with torch.no_grad():
            rest = [x - self.teacher(self.path.mix(x, eps, t), t, cond).to(x) for x in (x_s, x_t)]
        gap = rest[0] - rest[1]
        return 0.5 * (x_s - (x_s - gap).detach()).square().mean(), gaps(gap, t)

    def logits(self, x: Tensor, cond: Tensor | None, rng: torch.Generator) -> Tensor:
        """The discriminator's word (n,) on samples at noise levels of their own."""
        t = torch.rand(len(x), generator=rng, device=x.device).double()
        x_t = self.path.mix(x, normal(x.shape, rng), t)
        return self.judge(x_t / self.student.unit(x, t), t, cond)

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's three terms, or the discriminator's logistic loss."""
        if batch.x0 is None:
            raise WorkbenchError("super-resolution learns from pictures: pass data=...")
        if player == "discriminator":
            made, real, cond = self.drawn
            says_real, says_fake = self.logits(real, cond, rng), self.logits(made, cond, rng)
            accuracy = 0.5 * ((says_real > 0).float().mean() + (says_fake < 0).float().mean())
            told = {"accuracy": accuracy, **reliability(says_real, says_fake)}
            return F.softplus(-says_real).mean() + F.softplus(says_fake).mean(), told
        cond = drop_labels(batch.cond, self.switches.dropout, rng) if self.student.classes else None
        bare = float(torch.rand(1, generator=rng, device=rng.device)) < self.switches.free
        picture, z = None if bare else self.switches.hint(batch.x0), normal(batch.x0.shape, rng)
        target = self.answers(z, picture, cond).to(batch.x0)
        x = self.student(self.path.sigma(1.0) * z, 1.0, cond, hint=picture)
        self.drawn = (x.detach(), batch.x0, cond)
        regression, (score, parts) = (x - target).square().mean(), self.score(x, target, cond, rng)
        loss = regression + self.switches.score * score
        parts |= {"regression": regression.detach(), "score": score.detach()}
        if self.switches.gan:
            self.judge.requires_grad_(False)
            adversarial = F.softplus(-self.logits(x, cond, rng)).mean()
            self.judge.requires_grad_(True)
            loss, parts = loss + self.switches.gan * adversarial, parts | {"gan": adversarial.detach()}
        return loss, parts
