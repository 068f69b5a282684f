"""Few-step sampling as a decision process: each step that adds noise is a Gaussian policy, and a reward judges where it ends.

Consistency sampling draws x_s from N(alpha_s f(x_t, t), sigma_s^2) and ends with f itself, which is not random.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch
from workbench.distill.objectives.parts import drop_labels, normal
from workbench.distill.objectives.rewards import CLASS, Reward
from workbench.distill.objectives.times import check_share
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.paths import Path, per_sample
from workbench.samplers.sample import Sampling

RULES = ("ppo", "rebel")
Judge = Callable[[Tensor, Tensor | None], Tensor]


def judges(reward: Any, teacher: Denoiser) -> list[Judge]:
    """The rewards of a recipe as functions (x, labels) -> (n,), checked at every call; without gradient, in float64.

    Args:
        reward: a function, "class", or a tuple of these, see `Reward`.

    Raises:
        WorkbenchError: for anything else, or where "class" is not known for the teacher.
    """
    given = reward if isinstance(reward, (tuple, list)) else (reward,)
    functions = [Reward(one).bind(teacher) for one in given]

    def quiet(function: Judge) -> Judge:
        def judge(x: Tensor, cond: Tensor | None) -> Tensor:
            with torch.no_grad():
                return function(x, cond).to(x.device, torch.float64)

        return judge

    return [quiet(function) for function in functions]


def one_of(judges: Sequence[Judge], rng: torch.Generator) -> Judge:
    """One of the rewards, each as likely."""
    return judges[int(torch.randint(len(judges), (1,), generator=rng, device=rng.device))] if len(judges) > 1 else judges[0]


def reward_misfits(reward: Any, teacher: Denoiser) -> list[str]:
    """What is wrong with the rewards, tried on two samples of noise; empty if nothing is seen to be."""
    return _tried(lambda x, cond: _flawed(reward, teacher, x, cond), teacher)


def gradient_misfits(reward: Any, teacher: Denoiser) -> list[str]:
    """Why a reward, which `reward_misfits` has nothing against, cannot be climbed: it has no gradient in the samples."""
    return _tried(lambda x, cond: _flat(reward, teacher, x, cond), teacher)


def _tried(trial: Callable[[Tensor, Tensor | None], list[str]], teacher: Denoiser) -> list[str]:
    """What a trial on noise finds; nothing if a reward that lives on an accelerator does there."""
    x = torch.randn(2, *teacher.shape, generator=torch.Generator().manual_seed(0))
    cond = torch.zeros(2, dtype=torch.long) if getattr(teacher, "classes", 0) else None
    found = trial(x, cond)
    if found and torch.cuda.is_available() and not trial(x.cuda(), None if cond is None else cond.cuda()):
        return []
    return found


def _flawed(reward: Any, teacher: Denoiser, x: Tensor, cond: Tensor | None) -> list[str]:
    try:
        for judge in judges(reward, teacher):
            judge(x, cond)
    except WorkbenchError as error:
        return [str(error).rstrip(".")] if "NaN" not in str(error) else []  # noise need not be in its domain
    except Exception as error:
        return [f"the reward raised {type(error).__name__} ({error}) for samples {tuple(x.shape)}"]
    return []


def _flat(reward: Any, teacher: Denoiser, x: Tensor, cond: Tensor | None) -> list[str]:
    x = x.detach().requires_grad_()
    try:
        with torch.enable_grad():
            value = Reward(reward).bind(teacher)(x, cond).sum()
            if value.requires_grad and torch.autograd.grad(value, x, allow_unused=True)[0] is not None:
                return []
        said = "has no gradient in the samples"
    except WorkbenchError:  # NaN, as above
        return []
    except Exception as error:
        said = f"raised {type(error).__name__} ({error}) where its gradient in the samples was asked for"
    name = getattr(reward, "__name__", type(reward).__name__)
    return [
        f"the reward {name} {said}, and this recipe climbs it: compute it by differentiable torch operations, without detach() or "
        "no_grad(), or take rlcm or pso, which learn from any reward"
    ]


class Steps(NamedTuple):
    """The random steps of n trajectories, step after step, and where they end.

    Attributes:
        x, t: states ((H - 1) n, ...) and times before a step. to, s: after it. cond: labels of each row, or None.
        final: samples (n, ...). labels: of the samples, (n,), or None.
    """

    x: Tensor
    t: Tensor
    to: Tensor
    s: Tensor
    cond: Tensor | None
    final: Tensor
    labels: Tensor | None


def stochastic(evaluations: int) -> int:
    """The number of evaluations, checked to leave a random step.

    Raises:
        WorkbenchError: for fewer than two, which leave none.
    """
    if evaluations == 1:
        raise WorkbenchError(
            "evaluations is 1: a single step is deterministic, so there is no policy to train; take 2 or more, of a student that was trained for them."
        )
    return check_count("evaluations", evaluations, 2, 64)


def times_of(evaluations: int, path: Path) -> tuple[float, ...]:
    """The falling times of consistency sampling, the end included."""
    return Sampling("consistency", evaluations).plan(path).times


@torch.no_grad()
def roll(
    student: Network, times: Sequence[float], cond: Tensor | None, n: int, rng: torch.Generator, gain: float = 1.0
) -> Steps:
    """Draw n trajectories from noise (times `gain`); the last step, which is not random, is not recorded."""
    path = student.path
    x = gain * path.sigma(times[0]) * normal((n, *student.shape), rng)
    before, after = [], []
    for t, s in itertools.pairwise(times[:-1]):
        before.append(x)
        x = path.mix(student(x, t, cond), normal(x.shape, rng), s)
        after.append(x)
    row = lambda values: torch.tensor(values, dtype=torch.float64, device=x.device).repeat_interleave(n)  # noqa: E731
    rows = None if cond is None else cond.repeat(len(before))
    return Steps(
        torch.cat(before), row(times[:-2]), torch.cat(after), row(times[1:-1]), rows, student(x, times[-2], cond), cond
    )


def log_policy(student: Network, steps: Steps) -> Tensor:
    """log N(x_s; alpha_s f(x_t), sigma_s^2) of each recorded step but for its constant, its mean over dimensions, ((H - 1) n,)."""
    path, x = student.path, steps.to
    mean = per_sample(path.alpha(steps.s), x) * student(steps.x, steps.t, steps.cond)
    return -0.5 * ((x - mean) / per_sample(path.sigma(steps.s), x)).square().flatten(1).mean(1)


class Running(nn.Module):
    """Rewards standardised within their class, by the last `size` of it once there are `least`, else by the batch.

    A spread that is none gives advantages of exactly 0.
    """

    def __init__(self, groups: int, size: int, least: int):
        super().__init__()
        self.least = least
        self.register_buffer("values", torch.zeros(groups, size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(groups, dtype=torch.long))

    def forward(self, r: Tensor, group: Tensor) -> Tensor:
        """Advantages (n,) of rewards r (n,), which are remembered first; group (n,) counts from 0."""
        mean, spread = r.mean().expand(len(r)).clone(), r.std(correction=0).expand(len(r)).clone()
        for g in group.unique().tolist():
            mine = group == g
            held = torch.cat([self.values[g, : self.count[g]], r[mine]])[-self.values.shape[1] :]
            self.values[g, : len(held)], self.count[g] = held, len(held)
            if len(held) >= self.least:
                mean[mine], spread[mine] = held.mean(), held.std(correction=0)
        return torch.where(spread > 1e-6 * (1 + mean.abs()), (r - mean) / spread.clamp_min(1e-300), 0.0)


@dataclass(frozen=True)
class PolicyGradient:
    """Consistency sampling as a decision process of `evaluations` steps, tuned by PPO (RLCM, arXiv 2404.03673, section 4).

    L = max(-A rho, -A clip(rho, 1 - clip, 1 + clip)) over every random step, rho the ratio of the student's policy to the one
    that drew the trajectory, log-probabilities means over dimensions, A the reward standardised within its class. The reward
    sees the final samples alone. "rebel" regresses the reward's difference on that of the log-ratios instead, in pairs.

    Attributes:
        reward: function of samples and labels that returns (n,); "class" is the log-probability of the label. inner: updates on one set of trajectories; rho is 1 at the first.
        clip: of the ratio; small since log-probabilities are means. most: bound of the advantages. size, least: of the memory.
        eta: weight of the log-ratios of "rebel". dropout: share of null labels.
    """

    reward: Any = CLASS
    evaluations: int = 4
    rule: str = "ppo"
    inner: int = 1
    clip: float = 1e-4
    most: float = 10.0
    size: int = 32
    least: int = 16
    eta: float = 1.0
    guidance: float | None = None
    dropout: float = 0.1

    needs_data = False
    adapts = True

    def __post_init__(self):
        stochastic(self.evaluations)
        check_count("inner", self.inner)
        if check_count("least", self.least, 2) > check_count("size", self.size):
            raise WorkbenchError(f"least is {self.least}, more than the {self.size} rewards that are remembered.")
        if self.rule not in RULES:
            raise unknown("rule", self.rule, RULES)
        for name in ("clip", "most", "eta"):
            if not 0 < getattr(self, name) < math.inf:
                raise WorkbenchError(f"{name} is {getattr(self, name)}, but must be a positive number.")
        check_share("dropout", self.dropout)

    @property
    def sampling(self) -> Sampling:
        """How the student is sampled, in training and afterwards."""
        return Sampling("consistency", self.evaluations)

    def misfits(self, teacher: Denoiser) -> list[str]:
        """Why it cannot be trained."""
        return reward_misfits(self.reward, teacher)

    def bind(self, teacher: Denoiser, student: Network) -> BoundPolicyGradient:
        """The objective for this student; of the teacher only the reward may know."""
        return BoundPolicyGradient(self, teacher, student)


class BoundPolicyGradient:
    """A `PolicyGradient` with its student: what the loop trains."""

    product = "student"

    def __init__(self, switches: PolicyGradient, teacher: Denoiser, student: Network):
        self.switches, self.student, self.judges = switches, student, judges(switches.reward, teacher)
        self.times = times_of(switches.evaluations, student.path)
        self.players: dict[str, nn.Module] = {"student": student.net}
        self.memory = Running(student.classes + 1, switches.size, switches.least)
        self.frozen = {"rewards": self.memory}
        self.drawn: tuple[Steps, Tensor, Tensor, Tensor] | None = None

    def turn(self, step: int) -> Sequence[str]:
        """The student, as often as there are inner updates."""
        self.drawn = None
        return ("student",) * self.switches.inner

    def draw(self, batch: Batch, rng: torch.Generator) -> tuple[Steps, Tensor, Tensor, Tensor]:
        """Trajectories, the log-probabilities of their steps, their advantages (n,) and rewards (n,); for pairs, of equal labels."""
        student, n = self.student, batch.size
        cond = None
        if student.classes:
            cond = torch.randint(student.classes, (n,), generator=rng, device=rng.device)
            cond = drop_labels(cond, self.switches.dropout, rng)
            if self.switches.rule == "rebel":
                cond = cond[: n // 2].repeat(2)
        n = n if self.switches.rule == "ppo" else 2 * (n // 2)
        steps = roll(student, self.times, cond, n, rng)
        with torch.no_grad():
            old = log_policy(student, steps)
        told = one_of(self.judges, rng)(steps.final, cond)
        group = torch.zeros(n, dtype=torch.long, device=told.device) if cond is None else cond.clamp_min(-1) + 1
        return steps, old, self.memory(told, group).clamp(-self.switches.most, self.switches.most), told

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped policy loss, or REBEL's regression."""
        if self.drawn is None:
            self.drawn = self.draw(batch, rng)
        steps, old, advantage, told = self.drawn
        change = log_policy(self.student, steps) - old
        parts = {"reward": told.mean(), "moved": change.detach().abs().mean()}
        if self.switches.rule == "rebel":
            whole = change.view(-1, len(advantage)).sum(0)
            one, other = (self.switches.eta * whole).chunk(2)
            high, low = advantage.to(whole).chunk(2)
            return (one - other - (high - low)).square().mean(), parts
        a = advantage.to(change).repeat(len(change) // len(advantage))
        rho, clip = change.exp(), self.switches.clip
        return torch.maximum(-a * rho, -a * rho.clamp(1 - clip, 1 + clip)).mean(), parts
