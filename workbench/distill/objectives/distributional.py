"""The distributional objective: a critic learns the student's law, and the gap between its score and the teacher's moves the student.

Diff-Instruct (arXiv 2305.18455), DMD2 (arXiv 2405.14867), SiD (arXiv 2404.04057) and their relatives; the switches are fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.denoiser import Denoiser, Network
from workbench.distill.objectives.cores import ExpandedDivergence, PerSampleL1, ScoreGap
from workbench.distill.objectives.critics import CriticHead, FakeScore
from workbench.distill.objectives.distributional_turns import BoundDistributional
from workbench.distill.objectives.divergences import Ratio
from workbench.distill.objectives.levels import AnyCount, BackSimulation, Clean, check_renoise, crossed
from workbench.distill.objectives.pairs import KeyPoints, Pairs
from workbench.distill.objectives.policy import gradient_misfits, reward_misfits
from workbench.distill.objectives.rewards import Reward
from workbench.distill.objectives.times import check_share
from workbench.errors import WorkbenchError
from workbench.samplers.sample import Sampling, default_sampling


@dataclass(frozen=True)
class Guidance:
    """Classifier-free scales of the teacher and the critic where the student is judged.

    Attributes:
        real: of the teacher; None for its own setting. fake: of the critic; 0 asks it without labels. same: the critic's is the teacher's.
        spread: bounds between which the teacher's scale is drawn at every step, in place of `real` (PG-SB, arXiv 2412.02687v1).
        decoupled: the guidance part of the gap has a noise level of its own, below the student's time (arXiv 2511.22677).
        matching: share of the rest of the gap; 0 leaves the guidance part alone.
    """

    real: float | None = None
    fake: float = 1.0
    same: bool = False
    spread: tuple[float, float] | None = None
    decoupled: bool = False
    matching: float = 1.0

    def __post_init__(self):
        for name in ("real", "fake", "matching"):
            value = getattr(self, name)
            if not (name == "real" and value is None) and not math.isfinite(value):
                raise WorkbenchError(f"{name} is {value}, but guidance is set by finite numbers; a scale of 1 is none.")
        if self.spread is not None:
            try:
                low, high = (float(end) for end in self.spread)
            except (TypeError, ValueError):
                low = high = math.nan
            if not -math.inf < low <= high < math.inf:
                raise WorkbenchError(
                    f"spread is {self.spread!r}, but must be 2 numbers or None: the lowest and the highest scale, such as (0.5, 4.0)."
                )

    def asked(self, own: float) -> tuple[float, ...]:
        """The scales that the critic is asked at; `own` is the teacher's setting."""
        if not self.same or self.decoupled:
            return (self.fake,)
        return self.spread if self.spread is not None else (own if self.real is None else self.real,)

    def given(self, value: Any) -> Any:
        """The part for the teacher's scale alone."""
        return replace(self, real=float(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


@dataclass(frozen=True)
class Regression:
    """REG: the student's answer to stored noise is regressed on the teacher's solution (DMD, arXiv 2311.18828, eq. 9).

    Attributes:
        pairs: which. weight: of the term; the metric, pseudo-Huber, stands for the paper's LPIPS.
    """

    pairs: Pairs = field(default_factory=Pairs)
    weight: float = 0.25

    def __post_init__(self):
        if not isinstance(self.pairs, Pairs) or isinstance(self.pairs, KeyPoints):
            raise WorkbenchError(f"pairs is {self.pairs!r}, but must be Pairs(...); regression=None leaves the term out.")
        if self.pairs.inverted:
            raise WorkbenchError(
                f"inverted is {self.pairs.inverted}, but this regression is on the teacher's answers to noise: leave it at 0."
            )
        if not 0 <= self.weight < math.inf:
            raise WorkbenchError(f"the weight of regression is {self.weight}, but must be a number from 0.")


def reward_part(value: Any) -> Reward:
    """The part for a function, "class", or a part; raises WorkbenchError for anything else."""
    value = Reward().given(value)
    part = value if isinstance(value, Reward) else Reward(value)  # which says what is wrong with it
    if not math.isfinite(part.weight):
        raise WorkbenchError(f"the weight of the reward is {part.weight}, but must be a finite number.")
    return part


@dataclass(frozen=True)
class Distributional:
    """What a distribution-matching recipe is: parts, one for each switch.

    Plain numbers stand for parts where they can: guidance=2.0 is Guidance(real=2.0), gan=3e-3 is CriticHead(3e-3),
    inputs=4 is BackSimulation at four uniform times, ratio="kl" is Ratio("kl").

    Attributes:
        renoise: levels at which the student is judged: bounds of uniform ones, or a part.
        ratio: f-divergence read from the discriminator's ratio; needs `gan`. regression, reward: further terms.
        dropout: share of labels dropped.
    """

    core: Any = field(default_factory=ScoreGap)
    weight: Any = field(default_factory=PerSampleL1)
    critic: Any = field(default_factory=FakeScore)
    gan: CriticHead | None = None
    ratio: Ratio | None = None
    inputs: BackSimulation | AnyCount = field(default_factory=BackSimulation)
    anchor: Clean = field(default_factory=Clean)
    guidance: Guidance = field(default_factory=Guidance)
    renoise: Any = (0.02, 0.98)
    regression: Regression | None = None
    reward: Reward | None = None
    dropout: float = 0.1

    def __post_init__(self):
        for name, part in (("guidance", Guidance()), ("gan", CriticHead()), ("inputs", BackSimulation()), ("ratio", Ratio())):
            object.__setattr__(self, name, part.given(getattr(self, name)))
        if self.reward is not None:
            object.__setattr__(self, "reward", reward_part(self.reward))
        check_renoise(self.renoise)
        check_share("dropout", self.dropout)
        if self.ratio is not None and self.gan is None:
            raise WorkbenchError(
                "a divergence is read from a discriminator's ratio, and there is none: set gan to the weight of its term, such as 1e-3."
            )
        if isinstance(self.core, ExpandedDivergence) and self.ratio is None:
            raise WorkbenchError("this core weighs a divergence's terms by a density ratio: set ratio, such as ratio='kl'.")
        if self.gan is not None and not isinstance(self.critic, FakeScore):
            raise WorkbenchError(
                "the discriminator is a head of a trained critic, and this recipe trains none: leave gan at None."
            )
        if self.guidance.matching != 1 and not self.guidance.decoupled:
            raise WorkbenchError(
                "matching is the share of what is left of the gap beside its guidance part: set decoupled=True."
            )
        if self.inputs.drawn_times and type(self.anchor) is not Clean:
            raise WorkbenchError(
                f"anchor is {type(self.anchor).__name__}, which goes by the student's steps, and these inputs draw their times: leave it at Clean()."
            )
        if self.inputs.told and type(self) is not Distributional:
            raise WorkbenchError(
                "inputs draw the number of steps, which this recipe needs to know: give one number, such as inputs=4."
            )
        if self.critics > len(self.inputs.times):
            raise WorkbenchError(
                f"{self.critics} phases need as many steps, and inputs has {len(self.inputs.times)}: give more."
            )

    @property
    def needs_data(self) -> bool:
        """Whether training looks at real samples."""
        return self.gan is not None or self.inputs.needs_data

    @property
    def critics(self) -> int:
        """How many critics there are."""
        return self.anchor.phases(self.inputs.times)

    @property
    def two_times(self) -> bool:
        """Whether the student takes the end of its step as a second time."""
        return self.inputs.told

    @property
    def sampling(self) -> Sampling | None:
        """How a student must be run that takes two times; None for as the recipe says."""
        return Sampling("flow_map", len(self.inputs.times)) if self.inputs.told else None

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why it cannot be trained."""
        found = [*crossed(self.renoise), *self._shared(), *(self._unlearned(teacher) if getattr(teacher, "classes", 0) else [])]
        if self.reward is not None:
            found += reward_misfits(self.reward.function, teacher) or gradient_misfits(self.reward.function, teacher)
        return found

    def _shared(self) -> list[str]:
        """Why its critics do not go with its inputs; asked when all options are set."""
        if not self.inputs.told or self.critics == 1:
            return []
        return [
            f"inputs draw the number of steps, and {type(self.anchor).__name__} has a critic for each step: set anchor=Clean(), or give one number, "
            "such as inputs=4"
        ]

    def _unlearned(self, teacher: Denoiser) -> list[str]:
        """What the critic is asked and never learns: labels, or none."""
        if not isinstance(self.critic, FakeScore):
            return []
        takes_scale = bool(getattr(teacher, "guidance_input", None))  # it will be fixed at one, and not guided again
        guidance = replace(self.guidance, real=1.0) if takes_scale else self.guidance
        scales = guidance.asked(default_sampling(teacher).guidance)
        shown = "a guidance scale of " + " to ".join(f"{scale:g}" for scale in scales)
        if not self.critic.conditional and any(scale != 0 for scale in scales):
            return [
                f"its critic is asked with labels, at {shown}, and conditional=False trains it without: set conditional=True, or "
                "fake=0 and same=False"
            ]
        if self.critic.conditional and self.dropout == 0 and any(scale != 1 for scale in scales):
            return [
                f"its critic is asked without labels too, at {shown}, and dropout=0 trains it with labels alone: set dropout above 0, such "
                "as 0.1, or fake=1 and same=False"
            ]
        return []

    def bind(self, teacher: Denoiser, student: Network) -> BoundDistributional:
        """The objective for this teacher and student; the critic starts as the teacher where that is a network like the student."""
        return BoundDistributional(self, teacher, student)
