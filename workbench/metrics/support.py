"""Where samples are and where they are not: precision, recall, density, coverage, modes and classes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.errors import WorkbenchError, check_count
from workbench.metrics.samples import distance_rows, flat, pair


class PrecisionRecall(NamedTuple):
    """Fractions in [0, 1]: samples among the data, and data among the samples."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """`density` is 1 on average for equal laws and unbounded; `coverage` is a fraction of the data, 1 - 2^-k for equal laws."""

    density: float
    coverage: float


class ModeCoverage(NamedTuple):
    """`hit`: fraction of modes with a sample; `off`: fraction of samples at no mode; `shares` (modes,): fraction at each."""

    hit: float
    off: float
    shares: Tensor


def precision_recall(x: Any, reference: Any, k: int = 3) -> PrecisionRecall:
    """Return the fraction of samples in the data's support (precision), and of data in the samples' support (recall).

    A support is the union of balls around its points that reach to their k-th nearest neighbours. One outlier makes a
    large ball: `density_coverage` suffers less.

    Args:
        x, reference: features (n, ...) and (m, ...).
        k: neighbours, below n and m.

    Raises:
        WorkbenchError: for samples that cannot be compared, or too few. Source: Kynkaanniemi et al. 2019, arXiv 1904.06991.

    >>> points = torch.arange(10.0)[:, None]
    >>> precision_recall(points[:5], points, k=1)
    PrecisionRecall(precision=1.0, recall=0.6)
    """
    x, y = _with_neighbours(x, reference, k)
    radius_x, radius_y = _radii(x, k), _radii(y, k)
    precise, recalled = 0, torch.zeros(len(y), dtype=torch.bool, device=x.device)
    for start, distances in distance_rows(x, y):
        precise += int((distances <= radius_y).any(1).sum())
        recalled |= (distances <= radius_x[start : start + len(distances), None]).any(0)
    return PrecisionRecall(precise / len(x), int(recalled.sum()) / len(y))


def density_coverage(x: Any, reference: Any, k: int = 5) -> DensityCoverage:
    """Return how densely samples lie among the data, and the fraction of the data that has a sample near.

    Balls reach from each real point to its k-th real neighbour. density = balls around a sample, on average, over k;
    coverage = fraction of balls that hold a sample.

    Args:
        x, reference: features (n, ...) and (m, ...). For a coverage of 1 - 2^-k at equal laws take n = m.
        k: neighbours, below n and m.

    Raises:
        WorkbenchError: for samples that cannot be compared, or too few. Source: Naeem et al. 2020, arXiv 2002.09797.

    >>> points = torch.arange(10.0)[:, None]
    >>> density_coverage(points[:5], points, k=1)
    DensityCoverage(density=2.8, coverage=0.6)
    """
    x, y = _with_neighbours(x, reference, k)
    radius = _radii(y, k)
    balls, covered = 0, torch.zeros(len(y), dtype=torch.bool, device=x.device)
    for _, distances in distance_rows(x, y):
        inside = distances <= radius
        balls += int(inside.sum())
        covered |= inside.any(0)
    return DensityCoverage(balls / (k * len(x)), int(covered.sum()) / len(y))


def mode_coverage(x: Any, means: Any, scales: Any, reach: float = 4.0) -> ModeCoverage:
    """Return which of the known modes of a mixture the samples reach, and the fraction at none of them.

    A sample belongs to the nearest mode, in units of its scale, if that is at most `reach` scales away. Four leave out
    0.03 % of a Gaussian in two dimensions; in d > 4 dimensions take about sqrt(d) + 3.

    Args:
        x: samples (n, d).
        means: centres (modes, d).
        scales: standard deviation of the modes, one number or (modes,), positive.
        reach: in standard deviations, positive.

    Raises:
        WorkbenchError: for samples that cannot be compared with the means, or scales that do not fit.

    >>> mode_coverage(torch.tensor([[0.0], [0.1], [9.0]]), means=torch.tensor([[0.0], [5.0]]), scales=0.1)[:2]
    (0.5, 0.3333333333333333)
    """
    x, centres = pair(x, means, least=1)
    widths = torch.as_tensor(scales, dtype=torch.float64).to(x.device)
    if widths.shape not in ((), (len(centres),)) or not bool(((widths > 0) & torch.isfinite(widths)).all()):
        raise WorkbenchError(f"scales are {scales!r}: give one positive number, or one for each of {len(centres)} modes.")
    if not reach > 0:
        raise WorkbenchError(f"reach is {reach!r}, but must be a positive number of standard deviations.")
    nearest = [(rows / widths).min(1) for _, rows in distance_rows(x, centres)]
    near, mode = torch.cat([part.values for part in nearest]) <= reach, torch.cat([part.indices for part in nearest])
    shares = torch.bincount(mode[near], minlength=len(centres)).double() / len(x)
    return ModeCoverage(float((shares > 0).double().mean()), int((~near).sum()) / len(x), shares.cpu())


def class_agreement(logits: Any, labels: Any) -> float:
    """Return the fraction of samples that a classifier puts into the class that was asked for.

    Args:
        logits: (n, classes).
        labels: (n,), whole numbers in [0, classes).

    Raises:
        WorkbenchError: when the shapes or the labels do not fit.

    >>> class_agreement(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    """
    scores, wanted = flat(logits, "the logits", least=1), torch.as_tensor(labels)
    if torch.as_tensor(logits).dim() != 2 or wanted.shape != (len(scores),):
        shape = tuple(torch.as_tensor(logits).shape)
        raise WorkbenchError(f"logits {shape} and labels {tuple(wanted.shape)} do not fit: give (n, classes) and (n,).")
    if wanted.is_floating_point() or not bool(((wanted >= 0) & (wanted < scores.shape[1])).all()):
        raise WorkbenchError(f"labels must be whole numbers from 0 to {scores.shape[1] - 1}, one for each sample.")
    return float((scores.argmax(1) == wanted.to(scores.device)).double().mean())


def _with_neighbours(x: Any, reference: Any, k: int) -> tuple[Tensor, Tensor]:
    x, y = pair(x, reference)
    check_count("k (neighbours)", k, high=min(len(x), len(y)) - 1)
    return x, y


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest neighbour in its own set, itself excluded: (n,)."""
    radii = []
    for start, distances in distance_rows(points, points):
        distances.diagonal(start).fill_(math.inf)
        radii.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(radii)
