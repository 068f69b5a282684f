"""Score-regularised continuous consistency (rCM, arXiv 2510.08431): the tangent of sCM, and distribution matching on the student's own chain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.critics import FakeScore
from workbench.distill.objectives.distributional import Distributional
from workbench.distill.objectives.levels import BackSimulation
from workbench.distill.objectives.parts import L2
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.objectives.targets import TrigTangent
from workbench.distill.objectives.times import Noisy, check_share
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path


def _check_shift(shift: float) -> None:
    if not 0 < shift < math.inf:
        raise WorkbenchError(f"shift is {shift}, but must be a positive number; 1 leaves times as they are.")


@dataclass(frozen=True)
class Shifted:
    """RENOISE: shift u / (1 + (shift - 1) u), u ~ U(0, 1): noisier than uniform for a shift above 1 (rCM: 5)."""

    shift: float = 5.0

    def __post_init__(self):
        _check_shift(self.shift)

    def __call__(self, n: int, rng: torch.Generator, path: Path, progress: float) -> Tensor:
        u = torch.rand(n, generator=rng, device=rng.device).double()
        return self.shift * u / (1 + (self.shift - 1) * u)


@dataclass(frozen=True)
class RandomSimulation(BackSimulation):
    """INPUT: the student's own chain of 1 to `most` steps at random falling times, each no noisier than the one before (rCM).

    Attributes:
        most: steps, drawn evenly. shift: of the times' law, see `Shifted`. The first time is 1.
    """

    most: int = 4
    shift: float = 5.0
    drawn_times: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        check_count("most", self.most)
        _check_shift(self.shift)

    def __call__(
        self, student: Network, shape: tuple[int, ...], cond: Tensor | None, rng: torch.Generator, like: Any = None,
        among: Sequence[int] | None = None,
    ) -> tuple[Tensor, float]:  # fmt: skip
        """Return (x_t, t) at which the student is to be evaluated; t is a float shared by the batch."""
        steps = int(torch.randint(self.most, (1,), generator=rng, device=rng.device))
        later = Shifted(self.shift)(steps, rng, student.path, 0.0).clamp(1e-2, 1.0).tolist()
        chain = BackSimulation(tuple(sorted({1.0, *later}, reverse=True)), self.route)
        return chain(student, shape, cond, rng, like, [len(chain.times) - 1])


@dataclass(frozen=True)
class ConsistencyMatching:
    """What rCM is: two objectives on one student, whose losses are added.

    Attributes:
        consistency: the pointwise part. matching: the distributional part. Their guidance and dropout are those given here.
        consistency_scale, matching_scale: weights of the losses; with 0 the part is absent, networks and all.
        always: the consistency loss has a turn at every step, not only at the student's in the matching part.
        guidance: the teacher's scale, None for its own. dropout: share of null labels.
    """

    consistency: Pointwise = field(
        default_factory=lambda: Pointwise(times=Noisy(), target=TrigTangent("teacher"), metric=L2(), compare="trig")
    )
    matching: Distributional = field(
        default_factory=lambda: Distributional(inputs=RandomSimulation(), critic=FakeScore(turns=5), renoise=Shifted())
    )
    consistency_scale: float = 1.0
    matching_scale: float = 0.01
    always: bool = False
    guidance: float | None = None
    dropout: float = 0.1

    def __post_init__(self):
        if self.consistency_scale < 0 or self.matching_scale < 0 or self.consistency_scale + self.matching_scale == 0:
            raise WorkbenchError(
                f"consistency_scale and matching_scale are {self.consistency_scale} and {self.matching_scale}, but must be weights "
                "from 0, not both 0."
            )
        check_share("dropout", self.dropout)

    @property
    def target(self) -> Any:
        """The rule of the pointwise part."""
        return self.consistency.target

    @property
    def needs_data(self) -> bool:
        """Whether training looks at real samples."""
        return (self.consistency_scale > 0 and self.consistency.needs_data) or (
            self.matching_scale > 0 and self.matching.needs_data
        )

    @property
    def matching_part(self) -> Distributional:
        """The distributional part, with the guidance and dropout that both have."""
        guidance = self.matching.guidance
        if self.guidance is not None:
            guidance = replace(guidance, real=self.guidance)
        return replace(self.matching, guidance=guidance, dropout=self.dropout)

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why it cannot be trained."""
        return self.matching_part.misfits(teacher) if self.matching_scale else []

    def bind(self, teacher: Denoiser, student: Network) -> BoundConsistencyMatching:
        """The objective for this teacher and student."""
        return BoundConsistencyMatching(self, teacher, student)


class BoundConsistencyMatching:
    """A `ConsistencyMatching` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: ConsistencyMatching, teacher: Denoiser, student: Network):
        self.switches, self.student = switches, student
        self.consistency = self.matching = None
        if switches.consistency_scale:
            part = replace(switches.consistency, guidance=switches.guidance, dropout=switches.dropout)
            self.consistency = part.bind(teacher, student)
        if switches.matching_scale:
            self.matching = switches.matching_part.bind(teacher, student)
        self.parts = [part for part in (self.consistency, self.matching) if part is not None]
        self.players = {name: player for part in self.parts for name, player in part.players.items()}
        self.frozen = {name: module for part in self.parts for name, module in part.frozen.items()}

    def turn(self, step: int) -> Sequence[str]:
        """The matching part's turns; the student alone without it."""
        if self.matching is None:
            return self.consistency.turn(step)
        names = self.matching.turn(step)
        if self.switches.always and self.consistency is not None and "student" not in names:
            return ("student", *names)
        return names

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum for the student; the matching part's own for its players."""
        if player != "student":
            return self.matching.loss(player, batch, rng)
        switches, parts, losses = self.switches, {}, []
        if self.consistency is not None:
            value, found = self.consistency.loss(player, batch, rng)
            losses.append(switches.consistency_scale * value)
            parts |= found | {"consistency": value.detach()}
        if self.matching is not None and self.matching.moves:
            value, found = self.matching.loss(player, batch, rng)
            losses.append(switches.matching_scale * value)
            parts |= found | {"matching": value.detach()}
        return sum(losses[1:], losses[0]), parts

    def after(self, progress: float) -> None:
        """What each part does once a step."""
        for part in self.parts:
            part.after(progress)
