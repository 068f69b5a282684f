"""TIMES: where on the path a pointwise objective asks the student, how far it jumps, and where the target is taken.

Each part is called as part(n, progress, rng, path) and returns `Times`: start t, end s of the jump, and r between them,
float64 of shape (n,), t >= r >= s, in the path's own time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from workbench.errors import WorkbenchError, check_count, unknown
from workbench.paths import Path

T_MIN = 1e-3


class Times(NamedTuple):
    """Start t, intermediate r and end s of the student's jump, (n,) each."""

    t: Tensor
    r: Tensor
    s: Tensor


def uniform(n: int, rng: torch.Generator) -> Tensor:
    """n numbers in [0, 1), float64, from the step's own generator."""
    return torch.rand(n, generator=rng, device=rng.device).double()


def check_share(name: str, value: float) -> None:
    """Raises WorkbenchError unless 0 <= value <= 1."""
    if not (isinstance(value, (int, float)) and 0 <= value <= 1):
        raise WorkbenchError(f"{name} is {value!r}, but must be a share from 0 to 1.")


def doubling(first: int, last: int, progress: float) -> int:
    """first 2^k cells, k rising in equal parts of the run until `last` (iCT, arXiv 2310.14189, eq. 10).

    >>> [doubling(10, 1280, p) for p in (0.0, 0.13, 0.5, 1.0)]
    [10, 20, 160, 1280]
    """
    stages = max(0, (last // first).bit_length() - 1)
    return min(last, first * 2 ** int(progress * (stages + 1)))


@dataclass(frozen=True)
class Grid:
    """Neighbours (t, r) of a uniform grid of N cells, N rising from `first` to `last` over the run; s = 0.

    Uniform in the path's time: on `edm` these are the Karras levels (rho = 7) of arXiv 2303.01469.

    Attributes:
        rule: "doubling" (iCT, arXiv 2310.14189, eq. 10) or "root", N(k) = ceil(sqrt(k/K ((s1+1)^2 - s0^2) + s0^2) - 1) + 1
            (CT, arXiv 2303.01469, appendix C).
        skip: cells from t to r (LCM, arXiv 2310.04378, eq. 13).
    """

    first: int = 8
    last: int = 64
    rule: str = "doubling"
    skip: int = 1

    def __post_init__(self):
        check_count("first", self.first)
        check_count("last", self.last, self.first)
        check_count("skip", self.skip, 1, self.first)
        if self.rule not in ("doubling", "root"):
            raise unknown("rule", self.rule, ("doubling", "root"))

    def cells(self, progress: float) -> int:
        """N at this fraction of the run."""
        if self.rule == "doubling":
            return doubling(self.first, self.last, progress)
        low, high = self.first, self.last
        return math.ceil(math.sqrt(progress * ((high + 1) ** 2 - low**2) + low**2) - 1)

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path | None = None) -> Times:
        cells = self.cells(progress)
        k = torch.randint(1, cells + 1, (n,), generator=rng, device=rng.device).double()
        return Times(k / cells, (k - self.skip).clamp_min(0) / cells, torch.zeros_like(k))


@dataclass(frozen=True)
class LogNormalGrid:
    """Neighbours of the Karras grid whose cell is drawn by its lognormal mass; s = 0 (iCT, arXiv 2310.14189, eqs. 10 and 11).

    p(i) is proportional to erf((log rho_{i+1} - mean) / (sqrt 2 std)) - erf((log rho_i - mean) / (sqrt 2 std)), rho = sigma / alpha.

    Attributes:
        low, high: ends of the grid in rho. power: 7, of the Karras spacing.
    """

    first: int = 10
    last: int = 160
    mean: float = -1.1
    std: float = 2.0
    low: float = 0.002
    high: float = 80.0
    power: float = 7.0

    def __post_init__(self):
        check_count("first", self.first, 2)
        check_count("last", self.last, self.first)
        if not 0 < self.low < self.high or self.std <= 0:
            raise WorkbenchError(f"the grid needs 0 < low < high and std > 0, not {self.low}, {self.high} and {self.std}.")

    def levels(self, progress: float) -> Tensor:
        """The N + 1 values of rho, rising."""
        cells = doubling(self.first, self.last, progress)
        root = torch.linspace(self.low ** (1 / self.power), self.high ** (1 / self.power), cells + 1, dtype=torch.float64)
        return root**self.power

    def masses(self, progress: float) -> Tensor:
        """Probability of each of the N cells."""
        edges = torch.erf((self.levels(progress).log() - self.mean) / (math.sqrt(2) * self.std))
        mass = edges.diff()
        return mass / mass.sum()

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path) -> Times:
        levels = self.levels(progress).to(rng.device)
        cell = torch.multinomial(self.masses(progress).to(rng.device), n, replacement=True, generator=rng)
        t, r = (path.time(-levels[k].log()) for k in (cell + 1, cell))
        return Times(t, r, torch.zeros_like(t))


@dataclass(frozen=True)
class EasyGap:
    """t lognormal in rho; r = t (1 - n(t) / q^(stage + 1)), n = 1 + k sigmoid(-b t), in rho, 0 where negative; s = 0 (ECT, arXiv 2406.14548).

    The first stage has r = 0 nearly everywhere, which is denoising; each stage of the run shrinks the gap by q.
    """

    stages: int = 8
    q: float = 2.0
    k: float = 8.0
    b: float = 1.0
    mean: float = -1.1
    std: float = 2.0
    low: float = 0.002
    high: float = 80.0

    def __post_init__(self):
        check_count("stages", self.stages)
        if self.q <= 1:
            raise WorkbenchError(f"q is {self.q}, but the gap shrinks by q at each stage: give more than 1.")

    def ratio(self, rho: Tensor, progress: float) -> Tensor:
        """r / t in units of rho."""
        stage = min(self.stages - 1, int(progress * self.stages))
        return (1 - (1 + self.k * torch.sigmoid(-self.b * rho)) / self.q ** (stage + 1)).clamp_min(0)

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path) -> Times:
        draw = torch.randn(n, generator=rng, device=rng.device).double()
        rho = (self.mean + self.std * draw).exp().clamp(self.low, self.high)
        lower = rho * self.ratio(rho, progress)
        t, zero = path.time(-rho.log()), torch.zeros_like(rho)
        r = torch.where(lower > 0, path.time(-lower.clamp_min(1e-12).log()), zero)
        return Times(t, torch.minimum(r, t), zero)


@dataclass(frozen=True)
class Straighten:
    """Any t for the first `share` of the run (reflow), then t = 1 alone (one-step distillation); r = s = 0."""

    share: float = 0.4

    def __post_init__(self):
        check_share("share", self.share)

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path | None = None) -> Times:
        zero = torch.zeros(n, dtype=torch.float64, device=rng.device)
        if progress >= self.share:
            return Times(torch.ones_like(zero), zero, zero)
        return Times(uniform(n, rng).clamp_min(T_MIN), zero, zero)


@dataclass(frozen=True)
class UShaped:
    """t with density proportional to exp(a t) + exp(-a t): both ends are hard (RF++, arXiv 2405.20320, section 3.1); a = 0 is uniform."""

    a: float = 4.0

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path | None = None) -> Times:
        u, side = uniform(n, rng), uniform(n, rng)
        t = u if self.a == 0 else torch.log1p(u * math.expm1(self.a)) / self.a
        t = torch.where(side < 0.5, t, 1 - t).clamp(T_MIN, 1.0)
        return Times(t, torch.zeros_like(t), torch.zeros_like(t))


@dataclass(frozen=True)
class Halving:
    """Steps (t, s) = (i/N, (i-1)/N), r in the middle; N halves from `first` to `last` in equal parts of the run (arXiv 2202.00512, algorithm 2)."""

    first: int = 8
    last: int = 1

    def __post_init__(self):
        for name, value in (("first", self.first), ("last", self.last)):
            check_count(name, value)
            if value & (value - 1):
                raise WorkbenchError(f"{name} is {value}, but steps are halved: give a power of two.")
        if self.last > self.first:
            raise WorkbenchError(f"last is {self.last}, but must be at most first, {self.first}.")

    @property
    def count(self) -> int:
        """Number of stages."""
        return (self.first // self.last).bit_length()

    def stage(self, progress: float) -> int:
        """Index of the stage at this fraction of the run."""
        return min(self.count - 1, int(progress * self.count))

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path | None = None) -> Times:
        steps = self.first // 2 ** self.stage(progress)
        i = torch.randint(1, steps + 1, (n,), generator=rng, device=rng.device).double()
        return Times(i / steps, (i - 0.5) / steps, (i - 1) / steps)


@dataclass(frozen=True)
class Segments:
    """t anywhere on a grid of `cells`, r one cell below, s in t's segment; the number of segments falls over the run (TSCD, arXiv 2404.13686).

    Attributes:
        segments: their numbers, one for each equal part of the run. edge: s is always the segment's lower edge (PCM,
            arXiv 2405.18407), not uniform between it and r.
    """

    segments: tuple[int, ...] = (8, 4, 2, 1)
    cells: int = 64
    edge: bool = False

    def __post_init__(self):
        object.__setattr__(self, "segments", tuple(self.segments))
        for value in self.segments:
            check_count("segments", value, 1, self.cells)
            if self.cells % value:
                raise WorkbenchError(f"segments holds {value}, which does not divide {self.cells} cells.")

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path | None = None) -> Times:
        size = self.cells // self.segments[min(len(self.segments) - 1, int(progress * len(self.segments)))]
        k = torch.randint(1, self.cells + 1, (n,), generator=rng, device=rng.device)
        edge = (k - 1) // size * size
        chosen = uniform(n, rng)
        s = edge if self.edge else edge + (chosen * (k - edge)).long()
        return Times(k.double() / self.cells, (k - 1).double() / self.cells, s.double() / self.cells)


@dataclass(frozen=True)
class LongStart:
    """t and r of a grid, r up to `reach` cells below t with probability proportional to the distance; s on the grid, at most r (CTM, arXiv 2310.02279)."""

    cells: int = 18
    reach: int = 17

    def __post_init__(self):
        check_count("cells", self.cells, 2)
        check_count("reach", self.reach, 1, self.cells)

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path | None = None) -> Times:
        k = torch.randint(1, self.cells + 1, (n,), generator=rng, device=rng.device).double()
        most = k.clamp_max(self.reach)
        triangle = uniform(n, rng) * most * (most + 1) / 2  # inverse of m (m + 1) / 2
        m = torch.ceil((torch.sqrt(1 + 8 * triangle) - 1) / 2).clamp_min(1).minimum(most)
        s = (uniform(n, rng) * (k - m + 1)).floor()
        return Times(k / self.cells, (k - m) / self.cells, s / self.cells)


@dataclass(frozen=True)
class Between:
    """Two logit-normal times, t the larger; a share `equal` of them has s = t; r uniform between (MeanFlow, arXiv 2505.13447, section 4.3)."""

    mean: float = -0.4
    std: float = 1.0
    equal: float = 0.5

    def __post_init__(self):
        check_share("equal", self.equal)

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path | None = None) -> Times:
        draws = self.mean + self.std * torch.randn(2, n, generator=rng, device=rng.device).double()
        low, high = torch.sigmoid(draws).sort(dim=0).values
        t, s = high.clamp(T_MIN, 1.0), low
        s = torch.where(uniform(n, rng) < self.equal, t, s.minimum(t))
        return Times(t, s + uniform(n, rng) * (t - s), s)


@dataclass(frozen=True)
class Noisy:
    """t lognormal in rho, s = 0: the proposal of continuous consistency (sCM, arXiv 2410.11081, section 4.1)."""

    mean: float = -0.8
    std: float = 1.6
    low: float = 0.01
    high: float = 80.0

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path) -> Times:
        draw = torch.randn(n, generator=rng, device=rng.device).double()
        t = path.time(-(self.mean + self.std * draw).clamp(math.log(self.low), math.log(self.high)))
        return Times(t, torch.zeros_like(t), torch.zeros_like(t))


@dataclass(frozen=True)
class FromTop:
    """t = 1 always; the jump's end s anywhere, a share `boundary` of them at 1; r = s + step, where the target starts (BOOT, FreeFlow).

    Attributes:
        step: of the path's time, for the discrete rule of BOOT (arXiv 2306.05544, eq. 9). zero: a share of s = 0.
    """

    step: float = 1 / 32
    boundary: float = 0.25
    zero: float = 0.0
    from_top: ClassVar[bool] = True

    def __post_init__(self):
        for name in ("step", "boundary", "zero"):
            check_share(name, getattr(self, name))

    def __call__(self, n: int, progress: float, rng: torch.Generator, path: Path | None = None) -> Times:
        s, which = uniform(n, rng) * (1 - self.step), uniform(n, rng)
        s = torch.where(which < self.boundary, torch.ones_like(s), s)
        s = torch.where(which > 1 - self.zero, torch.zeros_like(s), s)
        return Times(torch.ones_like(s), (s + self.step).clamp_max(1.0), s)
