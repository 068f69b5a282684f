"""DisBack: the teacher's way to the initial student is recorded, and walked back as a sequence of nearer targets."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.distributional import Distributional
from workbench.distill.objectives.distributional_turns import BoundDistributional, Made, scale_of
from workbench.distill.objectives.parts import guided
from workbench.errors import WorkbenchError, check_count


@dataclass(frozen=True)
class Backtracking(Distributional):
    """Distribution matching towards a moving teacher (DisBack, arXiv 2408.15991, algorithms 1 and 2); any other switch is its host's.

    Attributes:
        targets: states of the critic kept on its way from the teacher to the initial student; 0 is the host.
        degrade: steps of that way. fit: steps before it in which a critic that does not start as the teacher learns the data.
        share: of the run that the student has, by the end of which the targets have been walked back to the teacher.
    """

    targets: int = 3
    degrade: int = 150
    fit: int = 600
    share: float = 0.4

    def __post_init__(self):
        super().__post_init__()
        check_count("targets", self.targets, 0, 20)
        check_count("degrade", self.degrade, max(1, self.targets))
        check_count("fit", self.fit, 0)
        if not 0 < self.share <= 1:
            raise WorkbenchError(f"share is {self.share}, but is a share of the run, above 0 and at most 1.")

    def bind(self, teacher: Denoiser, student: Network) -> BoundDistributional:
        """The objective for this teacher and student."""
        return BoundBacktracking(self, teacher, student) if self.targets else super().bind(teacher, student)


class BoundBacktracking(BoundDistributional):
    """`Backtracking` with its networks."""

    def __init__(self, switches: Backtracking, teacher: Denoiser, student: Network):
        super().__init__(switches, teacher, student)
        self.fit = 0 if self.like_teacher else switches.fit
        self.warmup = self.fit + switches.degrade
        kept = nn.ModuleList(copy.deepcopy(self.critic.net).requires_grad_(False) for _ in range(switches.targets))
        self.frozen |= {"targets": kept, "begin": Begin()}
        self.path_nets = [Network(net, student.path, student.kind, student.shape, student.classes) for net in kept]
        self.step, self.progress = 0, 0.0

    def turn(self, step: int) -> Sequence[str]:
        """The critic alone on its way to the initial student, then as the host."""
        self.step = step
        return super().turn(step)

    def _generate(self, batch: Batch, rng: torch.Generator) -> Made:
        if self.step < self.fit:
            if batch.x0 is None:
                raise WorkbenchError("the critic first learns the data, since the teacher is no network of ours: pass data=...")
            return Made(batch.x0, batch.cond, self.switches.inputs.times[0], batch.x0, 0.0)
        return super()._generate(batch, rng)

    def _student_loss(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        self.progress = batch.progress
        self.frozen["begin"].first(batch.progress)
        loss, parts = super()._student_loss(batch, rng)
        return loss, parts | {"target": torch.tensor(float(self.target(batch.progress)))}

    def target(self, progress: float) -> int:
        """Index of the target: targets - 1 next to the initial student, down to 0, the teacher itself."""
        begin = float(self.frozen["begin"].at)
        done = (progress - begin) / (1 - begin) if begin < 1 else 1.0
        return max(0, self.switches.targets - 1 - int(done / self.switches.share * self.switches.targets))

    def _models(self, rng: torch.Generator) -> tuple[Denoiser, float]:
        teacher, fake = super()._models(rng)
        index = self.target(self.progress)
        if index == 0:
            return teacher, fake
        return guided(self.path_nets[index - 1], scale_of(teacher)), fake

    def after(self, progress: float) -> None:
        """Keep the critic's state at equal distances on its way."""
        super().after(progress)
        done = self.step + 1 - self.fit
        for k in range(1, self.switches.targets + 1):
            if done == round(k * self.switches.degrade / self.switches.targets):
                self.frozen["targets"][k - 1].load_state_dict(self.critic.net.state_dict())


class Begin(nn.Module):
    """How much of the run was over when the student first moved; kept in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("at", torch.tensor(torch.nan, dtype=torch.float64))

    def first(self, progress: float) -> None:
        """Say how much is over; the first word counts."""
        if self.at.isnan():
            self.at.fill_(progress)
