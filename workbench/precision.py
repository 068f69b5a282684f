"""How many bits a sampler needs: a plan run with its state and its coefficients rounded, judged by what it draws.

A rounded run is not compared with the exact one point by point, which tells chaos from order and little else, but as a law: its
distance to an independent exact run, over the distance between two exact runs (Paxton et al. 2022, arXiv 2104.15076).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.callable_module import make_callable
from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.samplers.adjusted import adjusted
from workbench.samplers.plan import Plan
from workbench.samplers.run import initial_noise, run, stage_noise
from workbench.samplers.sample import labels
from workbench.samplers.table import Sum, Table, table_of

ROUNDINGS = ("nearest", "stochastic")
PLACES = ("state", "coefficients")
SAFE = 1.1
REPEATS, DIRECTIONS = 100, 32


class Rounded(NamedTuple):
    """A plan at one number of bits, against the same plan in float64.

    Attributes:
        bits: explicit bits of the significand (float64 has 52, float32 23, float16 10, bfloat16 7).
        ratio: W1(X_p, X_64) / W1(X'_64, X_64), sliced; X_p and X'_64 share their noise, which X_64 does not, so that 1 is exact.
        low, high: 95 % interval of the ratio, by bootstrap.
        by_coordinate: the same ratio for each coordinate alone (d,).
        error: root mean square of X_p - X'_64, sample by sample.
        bias: |E X_p - E X'_64|, root mean square over coordinates; noise: its standard error.
        bound: E |X_p - X'_64|, at least W1, so no mean of a function changes by more than its Lipschitz constant times this.
    """

    bits: int
    ratio: float
    low: float
    high: float
    by_coordinate: tuple[float, ...]
    error: float
    bias: float
    noise: float
    bound: float


@dataclass(frozen=True)
class PrecisionStudy:
    """What `precision` returns.

    Attributes:
        rows: one a number of bits, as asked for. floor: sliced W1 between the two exact runs. n, seed, rounding, where: as given.
        plan: in words.
    """

    rows: tuple[Rounded, ...]
    floor: float
    n: int
    seed: int
    rounding: str
    where: tuple[str, ...]
    plan: str

    @property
    def safe(self) -> int | None:
        """Fewest bits from which on, as far as was asked, the whole interval of the ratio lies at or below 1.1; None if none."""
        fewest = None
        for row in sorted(self.rows, key=lambda row: -row.bits):
            if row.high > SAFE:
                break
            fewest = row.bits
        return fewest

    def __repr__(self) -> str:
        lines = [f"{self.plan}; {' and '.join(self.where)} rounded, {self.rounding}; n = {self.n}, seed {self.seed}"]
        lines += [
            f"{row.bits:3d} bits: R = {row.ratio:.3f} ({row.low:.3f} to {row.high:.3f}), error {row.error:.2e}, "
            f"bias {row.bias:.2e} (standard error {row.noise:.1e})"
            for row in self.rows
        ]
        return "\n".join([*lines, f"floor: W1 = {self.floor:.4f} between two exact runs; safe from {self.safe} bits on"])


def rounded(x: Tensor, bits: int, chance: Tensor | None = None) -> Tensor:
    """x with `bits` explicit bits of significand: to the nearest, ties to even, or up with the probability that makes it unbiased.

    Args:
        x: float64, of any shape. bits: 1 to 52. The exponent is not limited: no overflow, no subnormal numbers.
        chance: uniform numbers in [0, 1) of x's shape for stochastic rounding; None rounds to the nearest.

    >>> rounded(torch.tensor([1.3, -1.3, 0.0], dtype=torch.float64), 2)
    tensor([ 1.2500, -1.2500,  0.0000], dtype=torch.float64)
    """
    fraction, exponent = torch.frexp(x)
    scaled = torch.ldexp(fraction, torch.tensor(bits + 1))  # a whole number, where nothing is to be rounded
    whole = scaled.round() if chance is None else scaled.floor() + (chance < scaled - scaled.floor())
    return torch.ldexp(whole, exponent - (bits + 1))


def rounded_table(plan: Plan, bits: int) -> Table:
    """The coefficients of a plan to the nearest number of `bits` bits: they are stored once, so chance would be a bias of its own."""

    def near(row: Sum | None) -> Sum | None:
        if row is None:
            return None
        factor = None if row.factor is None else rounded(row.factor, bits)
        numbers = rounded(torch.tensor([c for _, c in row.rest], dtype=torch.float64), bits).tolist()
        return Sum(row.first, factor, tuple(zip((place for place, _ in row.rest), numbers, strict=True)))

    table = table_of(plan, torch.float64)
    moves = (move._replace(convert=near(move.convert), x=near(move.x), base=near(move.base)) for move in table.moves)
    start = float(rounded(torch.tensor(table.start, dtype=torch.float64), bits))
    return table._replace(start=start, moves=tuple(moves))


def rounded_run(
    plan: Plan,
    model: Denoiser,
    noise: Tensor,
    bits: int = 52,
    rounding: str = "nearest",
    where: Sequence[str] = PLACES,
    cond: Any = None,
    seed: int = 0,
) -> Tensor:
    """Run a plan at `bits` bits of significand and return its samples (n, ...), float64; 52 bits are `workbench.run` itself.

    The state is rounded whenever it is stored, so once an update; sums inside an update, and the model, are exact.

    Args:
        plan: of one model. noise: standard normal (n, ...). where: "state", "coefficients", or both.
        rounding: of the state, "nearest" or "stochastic"; its chance belongs to (seed, sample, stage) like a sampler's noise.
        cond, seed: as for `workbench.run`.

    >>> import workbench as wb
    >>> noise = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    >>> rounded_run(wb.plan("ddim", "linear", 4), wb.mixture([[0.0, 0.0]], [1.0]), noise, bits=3)
    tensor([[ 0.7500, -0.7500]], dtype=torch.float64)
    """
    bits = check_count("bits", bits, 1, 52)
    if rounding not in ROUNDINGS:
        raise unknown("rounding", rounding, ROUNDINGS)
    for place in where:
        if place not in PLACES:
            raise unknown("place to round", place, PLACES)
    run(plan, model, noise, cond, seed)  # checks what it is given; nothing is computed
    table = rounded_table(plan, bits) if "coefficients" in where else table_of(plan, torch.float64)

    def store(i: int, x: Tensor) -> Tensor:
        if "state" not in where:
            return x
        chance = None
        if rounding == "stochastic":  # a stream of its own, beside the sampler's
            chance = 0.5 * (1 + torch.erf(stage_noise(x, seed + 0x5EED, i).double() / math.sqrt(2)))
        return rounded(x, bits, chance)

    return adjusted(plan, model, noise.double() * table.start, store, table, cond, seed)


def precision(
    plan: Plan,
    teacher: Denoiser,
    bits: Sequence[int] = (23, 16, 10, 8, 7, 5),
    rounding: str = "nearest",
    where: Sequence[str] = PLACES,
    n: int = 2048,
    seed: int = 0,
    cond: Any = None,
) -> PrecisionStudy:
    """Run a plan at reduced precision and say from how many bits on its samples cannot be told from exact ones.

    Args:
        plan: of one model, from `workbench.plan`. teacher: the model, on samples of any shape.
        bits: explicit bits of the significand, each 1 to 52. rounding: "nearest" or "stochastic". where: "state",
            "coefficients", or both. n: samples, at least 64. seed: of the noise. cond: a label or n labels.

    Raises:
        UnknownName: for an unknown rounding or place. WorkbenchError: for impossible counts, or a plan on another path.
        Source: Paxton et al. 2022, arXiv 2104.15076.

    >>> import workbench as wb
    >>> found = precision(wb.plan("heun", "linear", 4), wb.load("moons"), bits=(52, 1), n=128)
    >>> found.rows[0].ratio, found.rows[1].error > 0.1
    (1.0, True)
    """
    *_, last = precision_steps(plan, teacher, bits, rounding, where, n, seed, cond)
    return last


def precision_steps(
    plan: Plan,
    teacher: Denoiser,
    bits: Sequence[int],
    rounding: str = "nearest",
    where: Sequence[str] = PLACES,
    n: int = 2048,
    seed: int = 0,
    cond: Any = None,
) -> Iterator[PrecisionStudy]:
    """As `precision`, but yielding what is known after every number of bits."""
    n = check_count("n", n, 64, 100_000)
    if not bits:
        raise WorkbenchError("bits is empty: give at least one number of bits, from 1 to 52.")
    bits = [check_count("bits", b, 1, 52) for b in bits]
    given, where = labels(teacher, cond, n), (where,) if isinstance(where, str) else tuple(where)
    if plan.models != 1:
        raise WorkbenchError(f"this plan runs {plan.models} models: the study of precision is of a plan of one.")

    def drawn(noise_seed: int, bits: int) -> Tensor:
        noise = initial_noise(n, teacher.shape, noise_seed, torch.float64)
        return rounded_run(plan, teacher, noise, bits, rounding, where, given, noise_seed).flatten(1)

    exact, other = drawn(seed, 52), drawn(seed + 1, 52)
    rng = torch.Generator().manual_seed(seed)
    theta = torch.randn(DIRECTIONS, exact.shape[1], generator=rng, dtype=torch.float64)
    theta = theta / theta.norm(dim=1, keepdim=True)
    picks = [(torch.randint(n, (n,), generator=rng), torch.randint(n, (n,), generator=rng)) for _ in range(REPEATS)]
    shadows, far = exact @ theta.T, (other @ theta.T).sort(0).values
    floor, floors = _w1(shadows.sort(0).values, far), exact.sort(0).values.sub(other.sort(0).values).abs().mean(0)
    resampled = [(p, (other @ theta.T)[q].sort(0).values) for p, q in picks]
    below = torch.tensor([_w1(shadows[p].sort(0).values, against) for p, against in resampled])
    rows: list[Rounded] = []
    for b in bits:
        x = drawn(seed, b)
        shadow, gap = x @ theta.T, x - exact
        ratio = _w1(shadow.sort(0).values, far) / floor
        spread = (torch.tensor([_w1(shadow[p].sort(0).values, against) for p, against in resampled]) / below).log()
        # a resampled floor is higher than the floor itself, so the spread is taken around its own median
        low, high = (spread.quantile(torch.tensor([0.025, 0.975])) - spread.median()).exp().tolist()
        each = x.sort(0).values.sub(other.sort(0).values).abs().mean(0) / floors
        rows.append(
            Rounded(
                b,
                ratio,
                ratio * low,
                ratio * high,
                tuple(each.tolist()),
                float(gap.square().mean().sqrt()),
                float(gap.mean(0).square().mean().sqrt()),
                float((gap.var(0) / n).mean().sqrt()),
                float(gap.norm(dim=1).mean()),
            )
        )
        yield PrecisionStudy(tuple(rows), floor, n, seed, rounding, where, str(plan))


def _w1(x: Tensor, y: Tensor) -> float:
    """Mean over columns of W1 between sorted samples."""
    return float((x - y).abs().mean())


make_callable(__name__, precision)
