"""Flash-DMD: no step receives both gradients, the score gap at noisy times and an adversary at clean ones; then a preference, interleaved."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.adversarial import Judge
from workbench.distill.objectives.critics import FakeScore, held
from workbench.distill.objectives.distributional import Distributional, reward_part
from workbench.distill.objectives.distributional_turns import BoundDistributional, Made, labels_of
from workbench.distill.objectives.judging import reliability
from workbench.distill.objectives.levels import BackSimulation
from workbench.distill.objectives.parts import drop_labels, normal
from workbench.distill.objectives.policy import reward_misfits
from workbench.distill.objectives.rewards import Reward
from workbench.distill.objectives.times import check_share
from workbench.errors import WorkbenchError, check_count


@dataclass(frozen=True)
class Flash(Distributional):
    """The switches of Flash-DMD (arXiv 2511.20549), beside those of `Distributional`.

    The paper's discriminator looks at decoded images through a frozen SAM encoder; here it is a head on the teacher's own features of
    nearly clean samples, where that is a network of ours, and a network of its own elsewhere.

    Attributes:
        split: times above it get the score gap, the others the adversary; 0 is DMD2 without GAN.
        adversary: weight of its term. near: highest level at which it judges.
        preference: a reward for the second stage, or None: from noisy times, the best and the worst of `candidates` next states are told
            apart by the student's step kernels against those it had when the stage began (beta, as in DPO).
        begins: share of the run after which it does. preferences: preference turns to one of the first stage.
    """

    inputs: BackSimulation = field(default_factory=lambda: BackSimulation((1.0, 0.75, 0.5, 0.25)))
    critic: FakeScore = field(default_factory=lambda: FakeScore(turns=2, couple=0.97))
    split: float = 0.5
    adversary: float = 1e-2
    near: float = 0.2
    preference: Reward | None = None
    begins: float = 0.5
    preferences: int = 5
    candidates: int = 4
    beta: float = 50.0

    def __post_init__(self):
        super().__post_init__()
        check_count("candidates", self.candidates, 2)
        check_count("preferences", self.preferences)
        if self.preference is not None:
            object.__setattr__(self, "preference", reward_part(self.preference))
        if not 0 <= self.split < 1 or not 0 < self.near <= 1:
            raise WorkbenchError(f"Flash-DMD needs 0 <= split < 1 and 0 < near <= 1, not {self.split} and {self.near}.")
        if not 0 <= self.adversary < math.inf:
            raise WorkbenchError(f"adversary is {self.adversary}, but is the weight of a term, a number from 0.")
        if not 0 < self.beta < math.inf:
            raise WorkbenchError(f"beta is {self.beta}, but must be a positive number.")
        check_share("begins", self.begins)

    @property
    def needs_data(self) -> bool:
        """Whether training looks at real samples."""
        return super().needs_data or any(t <= self.split for t in self.inputs.times)

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why it cannot be trained."""
        found = super().misfits(teacher)
        if self.preference is None:
            return found
        if not any(t > self.split and s > 0 for t, s in itertools.pairwise((*self.inputs.times, 0.0))):
            found.append(
                f"a preference tells the next states of noisy steps apart, and this student, asked at {self.inputs.times}, has one step or "
                f"none above split={self.split:g}: give inputs more steps, such as inputs=4, or lower split"
            )
        wrong = reward_misfits(self.preference.function, teacher)
        return found + [said.replace("pass reward=", "pass preference=") for said in wrong]

    def bind(self, teacher: Denoiser, student: Network) -> BoundFlash:
        """The objective for this teacher and student."""
        return BoundFlash(self, teacher, student)


class BoundFlash(BoundDistributional):
    """`Flash` with its networks."""

    def __init__(self, switches: Flash, teacher: Denoiser, student: Network):
        super().__init__(switches, teacher, student)
        times = switches.inputs.times
        self.high = [k for k, t in enumerate(times) if t > switches.split]
        self.low = [k for k, t in enumerate(times) if t <= switches.split]
        if self.low:
            own = getattr(teacher, "net", None)
            frozen = hasattr(own, "features") and hasattr(getattr(own, "config", None), "width")
            self.judge = Judge(own if frozen else copy.deepcopy(self.critic.net), frozen)
            self.players["discriminator"] = self.judge
        if switches.preference is not None:
            self.preference = switches.preference.bind(teacher)
            self.frozen |= {"reference": copy.deepcopy(student.net).requires_grad_(False), "stage": Stage()}
        self.index = 0

    def turn(self, step: int) -> Sequence[str]:
        """As DMD2's; the discriminator has one where the student is asked at clean times."""
        names = super().turn(step)
        self.index = max(0, step - self.warmup) // self.switches.critic.turns
        if not self.moves or not self.low or not self.clean:
            return names
        return ("student", "discriminator", "critic")

    @property
    def clean(self) -> bool:
        """Whether the student's turn is one of the adversary: every second, where both kinds of times are there."""
        return bool(self.low) and (not self.high or self.index % 2 == 1)

    def _generate(self, batch: Batch, rng: torch.Generator) -> Made:
        cond = batch.cond
        if cond is None and self.student.classes:
            cond = torch.randint(self.student.classes, (batch.size,), generator=rng, device=rng.device)
        cond = drop_labels(cond, self.switches.dropout, rng)
        among = (self.low if self.clean else self.high) if self.moves else None
        z, t = self.switches.inputs(self.student, (batch.size, *self.student.shape), cond, rng, batch.x0, among)
        x = self.student(z, t, cond)
        return Made(x, cond, t, x, 0.0)

    def _student_loss(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        switches = self.switches
        if not self.clean:
            late = switches.preference is not None and batch.progress >= switches.begins
            if late and self.index // (2 if self.low else 1) % (switches.preferences + 1):
                return self._prefer(batch, rng)
            return super()._student_loss(batch, rng)
        made = self._generate(batch, rng)
        self.made = made._replace(x=made.x.detach(), state=made.state.detach())
        with held([p for p in self.judge.parameters() if p.requires_grad]):
            value = F.softplus(-self._verdict(made.x, made.cond, rng)).mean()
        return switches.adversary * value, {"gan": value.detach()}

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a player; the discriminator's is logistic, on what the student has just made."""
        if player != "discriminator":
            return super().loss(player, batch, rng)
        if batch.x0 is None:
            raise WorkbenchError("the adversary compares with real samples: pass data=..., or set split=0.")
        real, fake = (
            self._verdict(x, cond, rng)
            for x, cond in ((batch.x0, labels_of(batch, self.made.cond)), (self.made.x, self.made.cond))
        )
        accuracy = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
        return F.softplus(-real).mean() + F.softplus(fake).mean(), {"accuracy": accuracy, **reliability(real, fake)}

    def _verdict(self, x: Tensor, cond: Tensor | None, rng: torch.Generator) -> Tensor:
        t = self.switches.near * torch.rand(len(x), generator=rng, device=x.device).double()
        x_t = self.path.mix(x, normal(x.shape, rng), t)
        return self.judge(x_t / self.student.unit(x, t), t, cond)

    def _prefer(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """-log sigmoid(beta [log p / p_ref (best) - log p / p_ref (worst)]) of next states from one noisy state, log p a mean over dimensions."""
        switches, student, path, n = self.switches, self.student, self.path, max(2, batch.size // self.switches.candidates)
        times = (*switches.inputs.times, 0.0)
        cond = self._labels(n, batch, rng)
        steps = [k for k in self.high if times[k + 1] > 0]
        if not steps:
            raise WorkbenchError("a preference tells next states apart, and this student has one step: give inputs more.")
        z, t = switches.inputs(student, (n, *student.shape), cond, rng, None if batch.x0 is None else batch.x0[:n], steps)
        s = times[times.index(t) + 1]
        mean = path.alpha(s) * student(z, t, cond)
        with torch.no_grad():
            reference = Network(self.frozen["reference"], path, student.kind, student.shape, student.classes)
            before = path.alpha(s) * reference(z, t, cond)
            states = mean[:, None] + path.sigma(s) * normal((n, switches.candidates, *student.shape), rng)
            many = None if cond is None else cond.repeat_interleave(switches.candidates)
            scores = self.preference(student(states.flatten(0, 1), s, many), many).view(n, switches.candidates)
            row = torch.arange(n, device=z.device)
            best, worst = states[row, scores.argmax(1)], states[row, scores.argmin(1)]
        ratio = lambda y: ((y - before).square() - (y - mean).square()).flatten(1).mean(1) / (2 * path.sigma(s) ** 2)  # noqa: E731
        value = -F.logsigmoid(switches.beta * (ratio(best) - ratio(worst))).mean()
        x = (mean / path.alpha(s)).detach()
        self.made = Made(x, cond, t, x, 0.0)
        return value, {"preference": value.detach(), "reward": scores.mean()}

    def _labels(self, n: int, batch: Batch, rng: torch.Generator) -> Tensor | None:
        if batch.cond is not None:
            return batch.cond[:n]
        classes = self.student.classes
        return torch.randint(classes, (n,), generator=rng, device=rng.device) if classes else None

    def after(self, progress: float) -> None:
        """The critic's pull, and the student that the second stage is compared with."""
        super().after(progress)
        if self.switches.preference is not None and progress >= self.switches.begins and not bool(self.frozen["stage"].begun):
            self.frozen["reference"].load_state_dict(self.student.net.state_dict())
            self.frozen["stage"].begun.fill_(True)


class Stage(nn.Module):
    """Whether the second stage has begun; kept in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))
