"""Forget classes while distilling to one step: the student of a forgotten class follows the teacher's score of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.cores import PerSampleL1, ScoreIdentity
from workbench.distill.objectives.critics import held
from workbench.distill.objectives.denoising import beside, denoising_error
from workbench.distill.objectives.divergences import binned, gaps
from workbench.distill.objectives.flow_matching import logit_normal
from workbench.distill.objectives.levels import check_renoise, crossed, levels
from workbench.distill.objectives.parts import guided, normal
from workbench.distill.objectives.times import check_share
from workbench.errors import WorkbenchError, check_count
from workbench.samplers.sample import Sampling

NONE = -1


@dataclass(frozen=True)
class ScoreForgetting:
    """Score forgetting distillation (SFD, arXiv 2409.11219): SiD for the classes that are kept, and for a forgotten class c_f

        L_f = the same core with the teacher's estimate for the class `override`, the critic's for c_f, and x = G(z, c_f).

    The critic learns the student's law of every class under its own label. No data are needed. Samples without a label are not
    trained: the null class would bring the forgotten one back.

    Attributes:
        forget: a class or several. override: whose score stands for theirs; -1 is the lowest class that is kept.
        weight_forget, critic_forget: weights of the forgotten classes' terms; the paper's is 0.01 for both, over 50,000 steps.
        share: of the batch that is asked for forgotten classes. core, weight: as in `Distributional`.
        renoise: levels at which the student is judged.
    """

    forget: int | tuple[int, ...] = NONE
    override: int = NONE
    weight_forget: float = 0.3
    critic_forget: float = 1.0
    share: float = 0.25
    core: Any = field(default_factory=ScoreIdentity)
    weight: Any = field(default_factory=lambda: PerSampleL1(1e-2))
    renoise: Any = (0.04, 0.72)
    guidance: float | None = None
    dropout: float = 0.0

    needs_data = False
    sampling = Sampling("consistency", 1)

    def __post_init__(self):
        for name in ("weight_forget", "critic_forget"):
            if not getattr(self, name) >= 0:
                raise WorkbenchError(f"{name} is {getattr(self, name)!r}, but must be a number from 0.")
        if not 0 < self.share < 1:
            raise WorkbenchError(f"share is {self.share}, but is a part of the batch, between 0 and 1.")
        for one in self.forgotten:
            check_count("forget", one, 0)
        check_count("override", self.override, NONE)
        check_renoise(self.renoise)
        check_share("dropout", self.dropout)

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The classes to forget, each once, in order."""
        given = self.forget if isinstance(self.forget, (tuple, list)) else (self.forget,)
        return tuple(sorted({one for one in given if one != NONE}))

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why it cannot be trained."""
        classes = int(getattr(teacher, "classes", 0) or 0)
        if not classes:
            return ["this teacher has no classes, so there is none to forget: choose a teacher with classes"]
        if not self.forgotten:
            return [f"it forgets a class, and none is named: pass forget=, from 0 to {classes - 1}, such as forget=(3,)"]
        if self.forgotten[-1] >= classes:
            return [f"class {self.forgotten[-1]} cannot be forgotten: this teacher knows 0 to {classes - 1}"]
        if len(self.forgotten) == classes:
            return ["every class is to be forgotten, so no other can stand for them: keep one"]
        if self.override in self.forgotten or self.override >= classes:
            return [
                f"override is {self.override}, but must be a class of the teacher that is kept, from 0 to {classes - 1}, or -1 for the lowest"
            ]
        return crossed(self.renoise)

    def bind(self, teacher: Denoiser, student: Network) -> BoundScoreForgetting:
        """The objective for this teacher and student; the critic starts as the teacher where that is a network like the student."""
        return BoundScoreForgetting(self, teacher, student)


class BoundScoreForgetting:
    """A `ScoreForgetting` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: ScoreForgetting, teacher: Denoiser, student: Network):
        self.switches, self.student, self.path = switches, student, student.path
        self.teacher = guided(teacher, switches.guidance)
        self.critic, alike = beside(teacher, student)
        self.warmup = 0 if alike else 200
        self.players: dict[str, nn.Module] = {"student": student.net, "critic": self.critic.net}
        self.kept = [label for label in range(student.classes) if label not in switches.forgotten]
        self.override = self.kept[0] if switches.override == NONE else switches.override

    def turn(self, step: int) -> Sequence[str]:
        """The critic, then the student, on fresh samples; the critic alone at first, where it does not start as the teacher."""
        return ("critic", "student") if step >= self.warmup else ("critic",)

    def labels(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Labels (n,), each class of its part as likely, and which of them are forgotten ones."""
        cut = max(1, round(self.switches.share * n))
        drawn = []
        for pool, count in ((self.switches.forgotten, cut), (self.kept, max(1, n - cut))):
            pool = torch.tensor(pool, device=rng.device)
            drawn.append(pool[torch.randint(len(pool), (count,), generator=rng, device=rng.device)])
        return torch.cat(drawn), torch.arange(len(drawn[0]) + len(drawn[1]), device=rng.device) < cut

    def generate(self, cond: Tensor, rng: torch.Generator) -> Tensor:
        """Samples (n, ...) of the student."""
        return self.student(self.path.sigma(1.0) * normal((len(cond), *self.student.shape), rng), 1.0, cond)

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's core on kept and forgotten classes, or the critic's denoising error."""
        cond, gone = self.labels(batch.size, rng)
        if player == "critic":
            with torch.no_grad():
                x = self.generate(cond, rng)
            t = logit_normal(len(x), rng).double()
            error = denoising_error(self.critic, x, normal(x.shape, rng), t, cond)
            parts = {"forget": error[gone].detach().mean(), **binned("loss", error, t)}
            return error[~gone].mean() + self.switches.critic_forget * error[gone].mean(), parts
        x = self.generate(cond, rng)
        with held([parameter for parameter in self.critic.net.parameters() if parameter.requires_grad]):
            kept, lost, parts = self.match(x, cond, gone, rng, batch.progress)
        return kept + self.switches.weight_forget * lost, {"keep": kept.detach(), "forget": lost.detach(), **parts}

    def match(
        self, x: Tensor, cond: Tensor, gone: Tensor, rng: torch.Generator, progress: float
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The core of the kept classes and of the forgotten ones, and the gap by noise level."""
        t = levels(self.switches.renoise, len(x), rng, self.path, progress)
        x_t = self.path.mix(x, normal(x.shape, rng), t)
        real = self.teacher(x_t, t, torch.where(gone, self.override, cond)).to(x)
        fake = self.critic(x_t, t, cond)
        weight = self.switches.weight(x, real, self.path.alpha(t), self.path.sigma(t))
        kept, lost = (self.switches.core(x[part], real[part], fake[part], weight[part]) for part in (~gone, gone))
        return kept, lost, gaps(real - fake, t)
