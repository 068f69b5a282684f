"""A figure names its sample count, its seed and its noise floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.errors import WorkbenchError, check_count

Metric = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Figure:
    """A measured number with what it takes to judge it.

    Attributes:
        name: of the metric. value: what was measured.
        n: samples on each side. seed: of the choice of samples.
        floor: the same metric between two draws of the data, or None if it has not been measured.
        nfe: network evaluations per sample, where a model was measured.

    >>> print(Figure("sw2", 0.0791, n=8192, seed=0, floor=0.0364))
    sw2 = 0.0791 (floor 0.0364, n = 8192, seed 0)
    """

    name: str
    value: float
    n: int
    seed: int
    floor: float | None = None
    nfe: int | None = None

    def __str__(self) -> str:
        floor = "" if self.floor is None else f"floor {_short(self.floor)}, "
        nfe = "" if self.nfe is None else f"nfe = {self.nfe}, "
        return f"{self.name} = {_short(self.value)} ({floor}n = {self.n}, {nfe}seed {self.seed})"


def noise_floor(metric: Metric, reference: Tensor, n: int, seed: int = 0) -> Figure:
    """Measure the metric between two disjoint random subsets of n items of the real data.

    Args:
        metric: (x, reference) -> number.
        reference: real items (m, ...).
        n: items in each subset; with fewer than 2 n items each subset is half of them, and `n` of the result says so.
        seed: of the subsets.

    The floor of an unbiased metric (energy distance, MMD, KID) is near zero and may be negative.

    Raises:
        WorkbenchError: for fewer than four real items, or a metric that does not return one number.

    >>> print(noise_floor(lambda x, y: abs(float(x.mean() - y.mean())), torch.arange(4.0), n=10))
    <lambda> = 2 (n = 2, seed 0)
    """
    size = min(check_count("n", n, low=2), _half(reference))
    left, right = _halves(reference, size, seed)
    return Figure(_name(metric), _number(metric, left, right), size, seed)


def measure(
    metric: Metric, x: Tensor, reference: Tensor, seed: int = 0, name: str | None = None, nfe: int | None = None
) -> Figure:
    """Measure the metric between samples and real data, and its floor, with the same number of items everywhere.

    That number is the smaller of len(x) and half of len(reference): the floor needs two draws of the data, and most
    distances depend on n.

    Args:
        metric: (x, reference) -> number.
        x: samples (k, ...); the first ones are used.
        reference: real items (m, ...).
        seed: of the choice of real items.
        name: shown for the metric; by default that of the function.
        nfe: network evaluations per sample, if there is a network.

    Raises:
        WorkbenchError: for fewer than two samples or four real items, or a metric that does not return one number.

    >>> print(measure(lambda x, y: abs(float(x.mean() - y.mean())), torch.ones(9), torch.zeros(8), name="shift"))
    shift = 1 (floor 0, n = 4, seed 0)
    """
    size = min(check_count("the number of samples", len(x), low=2), _half(reference))
    left, right = _halves(reference, size, seed)
    value, floor = _number(metric, x[:size], left), _number(metric, right, left)
    return Figure(name or _name(metric), value, size, seed, floor, nfe)


def _short(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _half(reference: Tensor) -> int:
    if len(reference) < 4:
        raise WorkbenchError(f"the reference holds {len(reference)} items: a noise floor needs at least 4 real ones.")
    return len(reference) // 2


def _halves(reference: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(reference), generator=torch.Generator().manual_seed(seed)).to(reference.device)
    return reference[order[:size]], reference[order[size : 2 * size]]


def _number(metric: Metric, x: Tensor, y: Tensor) -> float:
    value: Any = metric(x, y)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WorkbenchError(
            f"{_name(metric)} returned {type(value).__name__}, not one number: choose one of its fields."
        ) from error


def _name(metric: Metric) -> str:
    return getattr(metric, "__name__", type(metric).__name__)
