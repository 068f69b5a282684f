"""The pointwise objective: the student's prediction at (x_t, t) is pulled to a target, sample by sample.

One skeleton, whose switches are fields: START where x_t comes from, TIMES which (t, r, s), TARGET the rule, METRIC, WEIGHT, and
extras. The parts live in `starts`, `times`, `targets`, `parts`, `extras`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives import adversarial
from workbench.distill.objectives.frequency import HighFrequency
from workbench.distill.objectives.guidance import Steering, checked
from workbench.distill.objectives.maps import ask, jump, tau_of
from workbench.distill.objectives.mixing import Mix, Mixing
from workbench.distill.objectives.parts import L2, AdaptiveL2, FeatureDistance, PseudoHuber, RootL2, drop_labels, guided
from workbench.distill.objectives.starts import FromData, FromKeyPoints, FromPairs, FromPrior, FromRollout
from workbench.distill.objectives.targets import SMALL, DiscreteConsistency, Point, Target, angle_of
from workbench.distill.objectives.times import Grid, Halving
from workbench.errors import WorkbenchError, unknown
from workbench.paths import per_sample

COMPARED = ("x0", "velocity", "trig")
METRICS = {
    "l2": L2, "root-l2": RootL2, "adaptive-l2": AdaptiveL2, "pseudo-huber": PseudoHuber, "features": FeatureDistance,
    "high-frequency": HighFrequency,
}  # fmt: skip


@dataclass(frozen=True)
class Average:
    """TARGET NET: a moving average of the student, theta^- <- mu theta^- + (1 - mu) theta after each step (arXiv 2303.01469, eq. 8).

    Attributes:
        decay: mu. 0 is the student itself, without gradient.
    """

    decay: float = 0.95

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise WorkbenchError(f"decay is {self.decay}, but must lie from 0 (the student itself) to below 1.")


@dataclass(frozen=True)
class Pointwise:
    """What a pointwise recipe is: parts, one for each switch.

    Attributes:
        start: FromData, FromPairs, FromKeyPoints, FromPrior or FromRollout. times, target: parts of `times` and `targets`.
        metric: distance of each sample: a part, or its name in `METRICS`. weight: called with (tau_t, tau_r, tau_s), times of the linear path; or None.
        compare: in what the metric measures: "x0"; "velocity", (x - x0) / tau; "trig", TrigFlow's F.
        two_times: the student is a flow map, X(x, t, s). push: prediction and target are both carried on to s = 0 by the target
            net before they are compared (CTM, arXiv 2310.02279, eq. 6).
        average: decay of the target net, 0 for the student itself. extras: further losses, see `extras`.
        gan: adversarial term, a weight or a part; None for none. mixing: target that starts near the student (TAID); None for the rule's own.
        guidance: classifier-free scale of the teacher, baked into the student; None for its own setting; or a range (low, high), over
            which the scale is drawn and the student takes it as an input. Without a teacher None is no guidance. dropout: share of
            null labels.
    """

    start: FromData | FromPairs | FromKeyPoints | FromPrior | FromRollout = field(default_factory=FromData)
    times: Any = field(default_factory=Grid)
    target: Target = field(default_factory=DiscreteConsistency)
    metric: Any = field(default_factory=L2)
    weight: Any = None
    compare: str = "x0"
    two_times: bool = False
    push: bool = False
    average: Average = field(default_factory=lambda: Average(0.0))
    extras: tuple[Any, ...] = ()
    gan: adversarial.Adversarial | None = None
    mixing: Mixing | None = None
    guidance: float | tuple[float, float] | None = None
    dropout: float = 0.1

    def __post_init__(self):
        if self.compare not in COMPARED:
            raise unknown("compare", self.compare, COMPARED)
        if isinstance(self.average, (int, float)):
            object.__setattr__(self, "average", Average(float(self.average)))
        for name, example in (
            ("start", "FromData()"),
            ("times", "Grid(8, 64)"),
            ("target", "TeacherSteps(2)"),
            ("weight", "InverseGap()"),
        ):
            value = getattr(self, name)
            if not callable(value) and not (name == "weight" and value is None):
                raise WorkbenchError(f"{name} is {value!r}, but must be a part such as {example}.")
        object.__setattr__(self, "metric", _metric(self.metric))
        object.__setattr__(self, "gan", adversarial.of(self.gan))
        object.__setattr__(self, "guidance", checked(self.guidance))
        if isinstance(self.mixing, (int, float)):
            object.__setattr__(self, "mixing", Mixing(start=float(self.mixing)))
        if self.push and not self.two_times:
            raise WorkbenchError(
                "push=True carries a jump on to s = 0, so it needs a student with two times: set two_times=True."
            )
        target = type(self.target).__name__
        if getattr(self.target, "needs_end", False) and not self.two_times:
            raise WorkbenchError(f"{target} asks the student where a jump from t to s lands: set two_times=True.")
        if isinstance(self.start, FromPrior) and not getattr(self.times, "from_top", False):
            raise WorkbenchError(
                f"FromPrior() starts at pure noise, t = 1, and times is {type(self.times).__name__}: set times=FromTop(...), or another start."
            )
        if self.average.decay and not self.push and not getattr(self.target, "asks_student", True):
            raise WorkbenchError(
                f"average is {self.average.decay:g}, but {target} asks no student for its target, so there is no target net: leave it at 0."
            )

    @property
    def needs_data(self) -> bool:
        """Whether training looks at real samples."""
        return self.start.needs_data or self.gan is not None

    @property
    def asks_teacher(self) -> bool:
        """Whether states or targets are a teacher's, whose guidance then counts."""
        return self.start.asks_teacher or getattr(self.target, "asks_teacher", True)

    def bind(self, teacher: Denoiser, student: Network) -> BoundPointwise:
        """The objective for this teacher and student."""
        scale = 1.0 if self.guidance is None and not self.asks_teacher else self.guidance
        return BoundPointwise(self, guided(teacher, scale), student)

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why guidance would do nothing with this teacher; empty if it would."""
        if self.guidance is None or self.guidance == 1:
            return []
        if not getattr(teacher, "classes", 0):
            shown = f"a range, {list(self.guidance)}" if isinstance(self.guidance, tuple) else f"{self.guidance:g}"
            return [
                f"guidance is {shown}, but this teacher has no classes, so nothing guides it: choose a teacher with classes, or leave "
                "guidance out"
            ]
        if self.asks_teacher or (self.two_times and getattr(self.target, "guides_itself", False)):
            return []
        return [
            "it learns from data alone and asks no teacher, so guidance has nothing to act on: leave guidance out, or take a recipe that "
            "distils the teacher, such as cd, lcm or scm"
        ]


class BoundPointwise:
    """A `Pointwise` with its networks: what the loop trains."""

    product = "student"

    def __init__(self, switches: Pointwise, teacher: Denoiser, student: Network):
        self.switches, self.teacher, self.student = switches, teacher, student
        self.players: dict[str, nn.Module] = {"student": student.net}
        self.frozen: dict[str, nn.Module] = {}
        self.store: Any = None
        self.real_samples: Any = None  # rng -> (x0, labels), for pairs that are made from real samples
        self.target_net = student
        if switches.average.decay > 0:
            self.target_net = _copy(student)
            self.frozen["target"] = self.target_net.net
        self.followed: tuple[list[Tensor], list[Tensor]] | None = None
        self.stage = Stage()
        if isinstance(switches.times, Halving):
            self.previous = _copy(student)
            self.frozen |= {"previous": self.previous.net, "stage": self.stage}
        if switches.start.pairs is not None:
            self.prepare = self._prepare
        self.steering: Steering | None = None
        if isinstance(switches.guidance, tuple):
            asked = [self.target_net, *([self.previous] if isinstance(switches.times, Halving) else [])]
            self.steering = Steering(switches.guidance, teacher, student, *asked)
        self.extras = [extra.bind(self) for extra in (*switches.extras, *([switches.gan] if switches.gan else []))]
        self.mix = None
        if switches.mixing is not None:
            self.mix = self.frozen["mix"] = Mix(switches.mixing)

    def turn(self, step: int) -> Sequence[str]:
        """The student, and the players of the extras."""
        return ("student", *(name for extra in self.extras for name in extra.turn(step)))

    def _prepare(self, folder: File, seed: int, device: Any):
        self.store = yield from self.switches.start.pairs.make(
            self.teacher, folder, seed, device, self.steering, self.real_samples
        )

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean distance of the student's prediction to its target; parts: the same at low and at high noise."""
        for extra in self.extras:
            if player in extra.players:
                return extra.loss(player, batch, rng)
        switches, student = self.switches, self.student
        point = self.point(batch, rng)
        with torch.no_grad():
            target = switches.target(self._guide(point), self.target_net, point, rng)
        prediction = ask(student, point.x, point.t, point.cond, point.s)
        if self.mix is not None:
            target = self.mix(prediction, target)
        error = switches.metric(*self._compared(prediction, target, point))
        if switches.weight is not None:
            tau = (tau_of(student.path, time) for time in (point.t, point.r, point.s))
            error = error * switches.weight(*tau).to(error)
        loss, parts = error.mean(), halves(error, point.t)
        if self.mix is not None:
            self.mix.follow(loss, batch.progress)
        for extra in self.extras:
            if extra.balanced:
                extra.pull = pull_of(loss, prediction)
            value, more = extra.term(point, prediction, batch, rng)
            loss, parts = loss + value, parts | more
        return loss, parts

    def point(self, batch: Batch, rng: torch.Generator) -> Point:
        """Where the student is asked in this step."""
        if self.store is not None:
            batch = self.store.draw(batch, rng)
        if self.steering is not None and batch.w is None:
            self.steering.draw(self.switches.start.rows(batch.size), rng)
        elif self.steering is not None:
            self.steering.set(batch.w)
        times = self.switches.times(batch.size, batch.progress, rng, self.student.path)
        x, x0, eps, cond, times = self.switches.start(batch, times, rng, self.teacher, self.student)
        cond = drop_labels(cond, self.switches.dropout, rng) if self.store is None else cond
        return Point(x, times.t, times.s, cond, x0, times.r, eps, batch.progress)

    def after(self, progress: float) -> None:
        """Once a step: the target net follows the student; a new stage of halving begins with the student as its teacher."""
        decay = self.switches.average.decay
        if decay > 0:
            if self.followed is None:  # listing the weights anew would cost as much as averaging small ones
                self.followed = list(self.target_net.net.parameters()), list(self.student.net.parameters())
            follow(*self.followed, decay)
        if isinstance(self.switches.times, Halving):
            stage = self.switches.times.stage(progress)
            if stage > self.stage.index:
                self.previous.net.load_state_dict(self.student.net.state_dict())
                self.stage.index.fill_(stage)

    def _guide(self, point: Point) -> Denoiser:
        """The teacher of this step: that of the last stage, once there is one."""
        return self.previous if self.stage.index > 0 else self.teacher

    def _compared(self, prediction: Tensor, target: Tensor, point: Point) -> tuple[Tensor, Tensor]:
        path, x = self.student.path, point.x
        if self.switches.push:
            return self._pushed(prediction, point), self._pushed(target, point).detach()
        if self.switches.compare == "x0" or getattr(self.switches.metric, "of_samples", False):
            return prediction, target
        tau = tau_of(path, point.t) if self.switches.compare == "velocity" else angle_of(path, point.t).sin()
        scale = per_sample(1 / tau, x)
        return scale * prediction, scale * target

    def _pushed(self, x0: Tensor, point: Point) -> Tensor:
        """The jump of this estimate to s, then the target net's jump to the data; its weights are frozen, its input is not."""
        s = point.s.clamp_min(SMALL)
        landed = jump(self.student.path, point.x, x0, point.t, s)
        weights = {name: value.detach() for name, value in self.target_net.net.named_parameters()}
        frozen = copy.copy(self.target_net)
        frozen.net = lambda *inputs, **more: torch.func.functional_call(self.target_net.net, weights, inputs, more)
        end = ask(frozen, landed, s, point.cond, torch.zeros_like(s))
        return torch.where(per_sample(point.s, x0) > SMALL, end, x0)


class Stage(nn.Module):
    """A counter that is saved with the networks."""

    def __init__(self):
        super().__init__()
        self.register_buffer("index", torch.zeros((), dtype=torch.long))


def _metric(value: Any) -> Any:
    """A metric from what a user may give: its name, or the part itself."""
    if isinstance(value, str):
        name = value.strip().lower().replace("_", "-")
        if name not in METRICS:
            raise unknown("metric", value, METRICS)
        return METRICS[name]()
    if not callable(value):
        raise WorkbenchError(
            f"metric is {value!r}, but must be one of {', '.join(METRICS)}, or a part such as PseudoHuber(0.1)."
        )
    return value


def _copy(network: Network) -> Network:
    other = copy.copy(network)
    other.net = copy.deepcopy(network.net).requires_grad_(False).eval()
    return other


def pull_of(loss: Tensor, prediction: Tensor) -> Tensor:
    """Mean norm of the loss' gradient in each sample's prediction, for a term that is to be as strong."""
    (gradient,) = torch.autograd.grad(loss, prediction, retain_graph=True)
    return len(gradient) * gradient.flatten(1).norm(dim=1).mean()


@torch.no_grad()
def follow(average: list[Tensor], weights: list[Tensor], decay: float) -> None:
    """average <- decay average + (1 - decay) weights, each list in the same order."""
    torch._foreach_lerp_(average, weights, 1 - decay)


def halves(error: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Mean error below and above t = 1/2, so that training can be watched across noise levels."""
    error, low = error.detach(), t < 0.5
    return {name: error[part].mean() for name, part in (("t<0.5", low), ("t>0.5", ~low)) if bool(part.any())}
