"""INPUT, ANCHOR and RENOISE: where the student is asked, which of its states is judged, and at which noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from workbench.denoiser import Network
from workbench.distill.objectives.maps import jump
from workbench.distill.objectives.parts import normal
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.paths import Path, per_sample

ROUTES = ("renoise", "ode")
FLOOR, GAP = 0.02, 0.01


def check_bounds(name: str, value: Any, example: str = "(0.02, 0.98)", part: str = "") -> None:
    """Raises WorkbenchError unless the value is two noise levels, 0 <= low < high <= 1."""
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low < high <= 1:
        raise WorkbenchError(
            f"{name} is {value!r}, but must be two noise levels (low, high), 0 <= low < high <= 1, such as {example}{part}."
        )


def check_renoise(value: Any) -> None:
    """Raises WorkbenchError unless the value is a RENOISE part, or two noise levels that stand for one."""
    if not callable(value) or isinstance(value, type):
        check_bounds("renoise", value, part=", or a part such as LogNormalLevels()")


def crossed(renoise: Any) -> list[str]:
    """Which bounds of a RENOISE part do not rise; asked when all are set, since options are set one after the other."""
    return renoise.crossed() if hasattr(renoise, "crossed") else []


@dataclass(frozen=True)
class BackSimulation:
    """INPUT: the student's own chain at these times; one step of it, drawn at random, gets the gradient (DMD2, arXiv 2405.14867, section 4.5).

    (1.0,) trains a one-step student. The last entry of a plan's times, 0, is not listed.

    Attributes:
        route: "renoise" mixes each estimate with fresh noise (the sampler `consistency`), "ode" steps along it (`ddim`).
    """

    times: tuple[float, ...] = (1.0,)
    route: str = "renoise"
    told: ClassVar[bool] = False
    needs_data: ClassVar[bool] = False
    drawn_times: ClassVar[bool] = False

    def __post_init__(self):
        object.__setattr__(self, "times", tuple(self.times))
        if self.route not in ROUTES:
            raise unknown("route", self.route, ROUTES)
        if (
            not self.times
            or any(not 0 < t <= 1 for t in self.times)
            or list(self.times) != sorted(set(self.times), reverse=True)
        ):
            raise WorkbenchError(f"inputs are the times {self.times}, but must fall strictly, from at most 1 to above 0.")

    def given(self, value: Any) -> Any:
        """The part for a number of steps alone: as many uniform times."""
        if isinstance(value, int) and not isinstance(value, bool):
            check_count("inputs", value, 1, 1000)
            return replace(self, times=tuple(1 - k / value for k in range(value)))
        return value

    def drawn(self, rng: torch.Generator) -> BackSimulation:
        """The chain of one batch: always this one."""
        return self

    def ask(self, student: Network, x: Tensor, t: float, cond: Tensor | None, s: float) -> Tensor:
        """The student's estimate of x0 for the step from t to s."""
        return student(x, t, cond)

    def __call__(
        self, student: Network, shape: tuple[int, ...], cond: Tensor | None, rng: torch.Generator, like: Any = None,
        among: Sequence[int] | None = None,
    ) -> tuple[Tensor, float]:  # fmt: skip
        """Return (x_t, t) at which the student is to be evaluated; t is a float shared by the batch, one of the steps `among`."""
        path, x = student.path, student.path.sigma(self.times[0]) * normal(shape, rng)
        among = range(len(self.times)) if among is None else among
        steps = among[int(torch.randint(len(among), (1,), generator=rng, device=rng.device))]
        for t, s in zip(self.times[:steps], self.times[1 : steps + 1], strict=True):
            with torch.no_grad():
                x0 = self.ask(student, x, t, cond, s)
                x = path.mix(x0, normal(shape, rng), s) if self.route == "renoise" else step(path, x, x0, t, s)
        return x, self.times[steps]


@dataclass(frozen=True)
class NoisedReal(BackSimulation):
    """INPUT: real samples, noised to one of the times, in place of the student's own chain.

    In training the student then meets states that it never makes, and in sampling makes states that it has not met: the mismatch that back-
    simulation is for (DMD2, arXiv 2405.14867, section 4.5).
    """

    needs_data: ClassVar[bool] = True

    def __call__(
        self, student: Network, shape: tuple[int, ...], cond: Tensor | None, rng: torch.Generator, like: Any = None,
        among: Sequence[int] | None = None,
    ) -> tuple[Tensor, float]:  # fmt: skip
        """Return (x_t, t) of the real samples `like` (n, ...); t is a float shared by the batch, one of the steps `among`."""
        if like is None:
            raise WorkbenchError(
                "these inputs are noised real samples: pass data=..., or leave inputs at the student's own chain."
            )
        noise, among = normal(shape, rng), range(len(self.times)) if among is None else among
        t = self.times[among[int(torch.randint(len(among), (1,), generator=rng, device=rng.device))]]
        return student.path.mix(like, noise, torch.full((len(like),), t, dtype=torch.float64, device=like.device)), t


@dataclass(frozen=True)
class Told(BackSimulation):
    """As `BackSimulation`, of a student that takes the end of its step as a second time."""

    told: ClassVar[bool] = True

    def ask(self, student: Network, x: Tensor, t: float, cond: Tensor | None, s: float) -> Tensor:
        return student(x, t, cond, s)


@dataclass(frozen=True)
class AnyCount:
    """INPUT: a chain of a number of uniform steps that is drawn for every batch, so that one student serves all (TDM, arXiv 2503.06674, section 3.4).

    The student is told the end of its step, and the critic the number of steps: the laws of their states differ.
    A number in its place is a `BackSimulation` of so many steps alone.
    """

    counts: tuple[int, ...] = (1, 2, 4)
    told: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    drawn_times: ClassVar[bool] = False

    def __post_init__(self):
        object.__setattr__(self, "counts", tuple(self.counts))
        if not self.counts or list(self.counts) != sorted(set(self.counts)):
            raise WorkbenchError(f"counts are {self.counts}, but must be numbers of steps that rise, such as (1, 2, 4).")
        for count in self.counts:
            check_count("counts", count, 1, 1000)
        object.__setattr__(self, "times", BackSimulation().given(self.counts[-1]).times)  # of the longest chain

    def given(self, value: Any) -> Any:
        """The part for a number of steps alone."""
        return BackSimulation(route="ode").given(value)

    def drawn(self, rng: torch.Generator) -> BackSimulation:
        """The chain of one batch."""
        k = int(torch.randint(len(self.counts), (1,), generator=rng, device=rng.device)) if len(self.counts) > 1 else 0
        return Told(BackSimulation().given(self.counts[k]).times, "ode")


def step(path: Path, x: Tensor, x0: Tensor, t: float, s: float) -> Tensor:
    """`jump` with times shared by the batch."""
    return jump(path, x, x0, *(torch.full((len(x),), time, dtype=torch.float64, device=x.device) for time in (t, s)))


@dataclass(frozen=True)
class Clean:
    """ANCHOR: the estimate of x0 itself, judged at any level."""

    def end(self, times: tuple[float, ...], t: float) -> float:
        """The level s of the state that is judged, for a student asked at t."""
        return 0.0

    def phase(self, times: tuple[float, ...], t: float) -> int:
        """Which critic judges it."""
        return 0

    def phases(self, times: tuple[float, ...]) -> int:
        """How many critics there are for a student that is asked at these times."""
        return 1

    def span(self, t: float, s: float) -> tuple[float, float] | None:
        """Between which levels it is judged, or None for the objective's own."""
        return None


@dataclass(frozen=True)
class EachStep(Clean):
    """ANCHOR: as `Clean`, with a critic for each of the student's steps.

    A shared critic learns the mixture of what the steps make, and only the mixture is matched: a first step that is too wide and a last one
    that is too narrow cancel in it, and the chain ends with the narrow one.
    """

    def phases(self, times: tuple[float, ...]) -> int:
        return len(times)

    def phase(self, times: tuple[float, ...], t: float) -> int:
        return times.index(t)


@dataclass(frozen=True)
class PhaseEnd(Clean):
    """ANCHOR: the state at the end of the phase, which the student's step leads to; each phase has a critic (Phased DMD, arXiv 2510.27684).

    The student's times are cut into `count` phases of equally many steps, 0 for one a step; levels are drawn above the phase's end, up to 1 (nested).
    """

    count: int = 2

    def __post_init__(self):
        check_count("phases", self.count, 0)

    def phases(self, times: tuple[float, ...]) -> int:
        return self.count or len(times)

    def phase(self, times: tuple[float, ...], t: float) -> int:
        count = self.phases(times)
        return min(count - 1, times.index(t) * count // len(times))

    def end(self, times: tuple[float, ...], t: float) -> float:
        first = -(-(self.phase(times, t) + 1) * len(times) // self.phases(times))  # index of the next phase's first step
        return times[first] if first < len(times) else 0.0

    def span(self, t: float, s: float) -> tuple[float, float] | None:
        return (s + FLOOR, 1 - FLOOR)


@dataclass(frozen=True)
class TrajectoryStep(Clean):
    """ANCHOR: the next state of the student's trajectory, judged within its own slice of levels (TDM, arXiv 2503.06674, section 3).

    `separate` = False judges it at any level above.
    """

    separate: bool = True

    def end(self, times: tuple[float, ...], t: float) -> float:
        following = times.index(t) + 1
        return times[following] if following < len(times) else 0.0

    def span(self, t: float, s: float) -> tuple[float, float] | None:
        return (max(FLOOR, s + GAP), t - GAP if self.separate else 1 - FLOOR)


@dataclass(frozen=True)
class LogNormalLevels:
    """RENOISE: log(sigma / alpha) ~ N(mean, std^2) (EDM, arXiv 2206.00364, table 1)."""

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self):
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise WorkbenchError(
                f"mean is {self.mean} and std {self.std}, but log(sigma / alpha) needs a finite mean and a positive std, such as -1.2 and 1.2."
            )

    def of(self, d: int) -> LogNormalLevels:
        """The levels that hide in d dimensions what these hide in two: sigma / alpha larger by sqrt(d / 2), and never smaller.

        >>> round(LogNormalLevels().of(64).mean, 2), LogNormalLevels().of(2).mean
        (0.53, -1.2)
        """
        return replace(self, mean=self.mean + 0.5 * math.log(d / 2)) if d > 2 else self

    def __call__(self, n: int, rng: torch.Generator, path: Path, progress: float) -> Tensor:
        return path.time(-(self.mean + self.std * torch.randn(n, generator=rng, device=rng.device).double()))


@dataclass(frozen=True)
class KarrasLevels:
    """RENOISE: sigma / alpha = (high^(1/7) + (1 - u) (low^(1/7) - high^(1/7)))^7, u ~ U(0, share) (SiD, arXiv 2404.04057, eq. 16)."""

    share: float = 0.8
    low: float = 0.002
    high: float = 80.0
    power: float = 7.0

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise WorkbenchError(f"share is {self.share}, but is a share of the levels, above 0 and at most 1.")
        for name in ("low", "high", "power"):
            if not 0 < getattr(self, name) < math.inf:
                raise WorkbenchError(f"{name} is {getattr(self, name)}, but must be a positive number.")

    def crossed(self) -> list[str]:
        """Why its bounds are none."""
        return (
            []
            if self.low < self.high
            else [f"sigma / alpha is to be drawn from {self.low:g} up to {self.high:g}: set low below high"]
        )

    def __call__(self, n: int, rng: torch.Generator, path: Path, progress: float) -> Tensor:
        u = self.share * torch.rand(n, generator=rng, device=rng.device).double()
        low, high = self.low ** (1 / self.power), self.high ** (1 / self.power)
        return path.time(-self.power * (high + (1 - u) * (low - high)).log())


@dataclass(frozen=True)
class Annealed:
    """RENOISE: uniform between bounds that move over the run, each given as (start, end) (ProlificDreamer, arXiv 2305.16213; ASD, arXiv 2407.02040).

    Attributes:
        low, high: the bounds. until: share of the run by which they have arrived.
    """

    low: tuple[float, float] = (0.5, 0.02)
    high: tuple[float, float] = (0.98, 0.5)
    until: float = 0.5

    def __post_init__(self):
        for name in ("low", "high"):
            start, end = getattr(self, name)
            if not (0 <= start <= 1 and 0 <= end <= 1):
                raise WorkbenchError(
                    f"{name} is {getattr(self, name)}, but must be the noise level at the start and that at the end, from 0 to 1."
                )
        if not 0 < self.until <= 1:
            raise WorkbenchError(f"until is {self.until}, but is a share of the run, above 0 and at most 1.")

    def crossed(self) -> list[str]:
        """Why its bounds are none."""
        return [
            f"noise levels are to be drawn from {low:g} up to {high:g} at the run's {when}: set low below high"
            for low, high, when in zip(self.low, self.high, ("start", "end"), strict=True)
            if not low < high
        ]

    def __call__(self, n: int, rng: torch.Generator, path: Path, progress: float) -> Tensor:
        done = min(1.0, progress / self.until)
        low, high = (start + done * (end - start) for start, end in (self.low, self.high))
        return low + (high - low) * torch.rand(n, generator=rng, device=rng.device).double()


def levels(renoise: Any, n: int, rng: torch.Generator, path: Path, progress: float) -> Tensor:
    """Noise levels (n,) of a RENOISE part, or uniform ones between the two numbers that stand for one."""
    if isinstance(renoise, (tuple, list)):
        low, high = renoise
        return low + (high - low) * torch.rand(n, generator=rng, device=rng.device).double()
    return renoise(n, rng, path, progress).clamp(1e-3, 1 - 1e-3)


def spread(path: Path, t: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """(a, g) with x_t = a x_s + g eps: a = alpha_t / alpha_s, g^2 = sigma_t^2 - a^2 sigma_s^2."""
    s_ = torch.as_tensor(s, dtype=torch.float64, device=t.device)
    a = path.alpha(t) / path.alpha(s_)
    return a, (path.sigma(t) ** 2 - (a * path.sigma(s_)) ** 2).clamp_min(1e-12).sqrt()


def renoised(path: Path, x: Tensor, eps: Tensor, t: Tensor, s: float) -> Tensor:
    """x_t (n, ...) from a state x at level s and fresh noise."""
    if s == 0:
        return path.mix(x, eps, t)
    a, g = spread(path, t, s)
    return per_sample(a, x) * x + per_sample(g, x) * eps
