"""Distances between two sample sets: sliced and exact Wasserstein, energy, MMD, KID and Frechet.

Arguments are always (samples, reference), of any shape (n, ...), taken as vectors; work is in float64. All of them depend
on n and on the feature space: report them with the same distance between two draws of the data (`report.measure`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.errors import WorkbenchError, check_count
from workbench.metrics.samples import distance_rows, flat, pair, subset

EXACT_LIMIT = 5000


def sliced_wasserstein(x: Any, reference: Any, projections: int = 256, p: float = 2.0, seed: int = 0) -> float:
    """Return the sliced Wasserstein distance SW_p: one-dimensional distances averaged over directions.

    SW_p^p = mean over theta of W_p^p(theta.x, theta.y), theta uniform on the sphere. The directions depend on the seed
    and the dimension alone, so all methods are judged along the same ones. A shift delta gives |delta| / sqrt(d) on average.

    Args:
        x, reference: (n, ...) and (m, ...); n and m may differ.
        projections: number of directions, at least 1.
        p: order, at least 1.
        seed: of the directions.

    Raises:
        WorkbenchError: for samples that cannot be compared. Source: Bonneel et al. 2015; POT where n and m differ.

    >>> sliced_wasserstein(torch.zeros(4, 1), torch.full((4, 1), 3.0))
    3.0
    """
    x, y = pair(x, reference)
    check_count("projections", projections)
    if not p >= 1:
        raise WorkbenchError(f"p is {p!r}, but a Wasserstein distance has an order of at least 1.")
    theta = torch.randn(projections, x.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    theta = (theta / theta.norm(dim=1, keepdim=True)).to(x.device)
    if len(x) == len(y):  # five times as fast as general quantiles
        gaps = (theta @ x.T).sort(1).values - (theta @ y.T).sort(1).values
        return float(gaps.abs().pow(p).mean() ** (1 / p))
    import ot

    return float(ot.sliced_wasserstein_distance(_numpy(x), _numpy(y), p=p, projections=_numpy(theta.T)))


def wasserstein2(x: Any, reference: Any) -> float:
    """Return the exact W2 between two point sets, sqrt(min over couplings of E|x - y|^2), by linear programming.

    For low dimension only: between equal laws it falls like n^(-1/d), 1.8 in d = 8 at n = 400.

    Args:
        x, reference: (n, ...) and (m, ...), at most 5000 items each (time grows like n^3).

    Raises:
        WorkbenchError: for samples that cannot be compared, or too many. Source: POT, Bonneel et al. 2011.

    >>> wasserstein2(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [2.0]]))
    2.0
    """
    x, y = pair(x, reference)
    if max(len(x), len(y)) > EXACT_LIMIT:
        raise WorkbenchError(f"exact W2 of {max(len(x), len(y))} items takes too long: give at most {EXACT_LIMIT}.")
    import ot

    cost = torch.cat([rows for _, rows in distance_rows(x, y)]).square()
    return float(ot.emd2([], [], _numpy(cost), numItermax=10_000_000)) ** 0.5


def energy_distance(x: Any, reference: Any) -> float:
    """Return the squared energy distance 2 E|x - y| - E|x - x'| - E|y - y'|, unbiased: MMD^2 with kernel -|x - y|.

    Zero on average for equal laws, so a single value may be slightly negative.

    Raises:
        WorkbenchError: for samples that cannot be compared. Source: Szekely and Rizzo 2013.

    >>> energy_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]]))
    -1.0
    """
    x, y = pair(x, reference)
    return _mmd(x, y, lambda distances: -distances)


def mmd(x: Any, reference: Any, bandwidth: float | None = None) -> float:
    """Return the squared maximum mean discrepancy with kernel exp(-|x - y|^2 / (2 l^2)), unbiased; it may be negative.

    Args:
        x, reference: (n, ...) and (m, ...).
        bandwidth: l; by default the median distance within the reference, so that all methods are judged by one kernel.

    Raises:
        WorkbenchError: for samples that cannot be compared, or a bandwidth that is not positive.
        Source: Gretton et al. 2012, JMLR 13, eq. 3.

    >>> round(mmd(torch.zeros(3, 2), torch.ones(3, 2), bandwidth=1.0), 6)  # 2 - 2 / e
    1.264241
    """
    x, y = pair(x, reference)
    width = median_distance(y) if bandwidth is None else float(bandwidth)
    if not 0 < width < float("inf"):
        raise WorkbenchError(f"the bandwidth is {width:g}: give a positive one, or a reference whose points differ.")
    return _mmd(x, y, lambda distances: torch.exp(-0.5 * (distances / width).square()))


def median_distance(reference: Any, limit: int = 2000) -> float:
    """Return the median distance between different items of a set (at most `limit` of them, chosen by seed 0).

    >>> median_distance(torch.tensor([[0.0], [1.0], [3.0]]))
    2.0
    """
    y = subset(flat(reference, "the reference"), limit, seed=0)
    return float(torch.nn.functional.pdist(y).median())


def kid(x: Any, reference: Any, subsets: int = 100, subset_size: int | None = None, seed: int = 0) -> float:
    """Return the kernel inception distance of two feature sets, the mean of `kid_subsets`; it may be negative.

    Raises: as `kid_subsets`.

    >>> kid(torch.zeros(3, 2), torch.ones(3, 2), subsets=1)  # 1 + 8 - 2
    7.0
    """
    return float(kid_subsets(x, reference, subsets, subset_size, seed).mean())


def kid_subsets(x: Any, reference: Any, subsets: int = 100, subset_size: int | None = None, seed: int = 0) -> Tensor:
    """Return MMD^2 with kernel (x.y / d + 1)^3, unbiased, of random pairs of subsets: float64 (subsets,).

    The kernel sees moments up to the third only.

    Args:
        x, reference: features (n, d) and (m, d).
        subsets: number of pairs of subsets, at least 1.
        subset_size: items in each; by default 1000, or the size of the smaller set.
        seed: of the subsets.

    Raises:
        WorkbenchError: for samples that cannot be compared, or a subset larger than a set.
        Source: Binkowski et al. 2018, arXiv 1801.01401; kernel and estimator from torchmetrics.

    >>> kid_subsets(torch.zeros(3, 2), torch.ones(3, 2), subsets=2)
    tensor([7., 7.], dtype=torch.float64)
    """
    x, y = pair(x, reference)
    fewest = min(len(x), len(y))
    size = check_count("subset_size", min(1000, fewest) if subset_size is None else subset_size, low=2, high=fewest)
    check_count("subsets", subsets)
    from torchmetrics.image.kid import poly_mmd

    rng = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        left, right = (s[torch.randperm(len(s), generator=rng)[:size].to(s.device)] for s in (x, y))
        values.append(poly_mmd(left, right, degree=3, coef=1.0))
    return torch.stack(values).cpu()


class Moments(NamedTuple):
    """Mean (d,) and covariance (d, d) of a feature set, float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Any) -> Moments:
    """Return the mean and the unbiased covariance of features (n, ...).

    >>> moments(torch.tensor([[0.0], [2.0]])).covariance
    tensor([[2.]], dtype=torch.float64)
    """
    x = flat(features, "the feature set")
    centred = x - x.mean(0)
    return Moments(x.mean(0), centred.T @ centred / (len(x) - 1))


def frechet_distance(features_x: Any, features_y: Any) -> float:
    """Return the Frechet distance of the Gaussians that fit two feature sets (FID, for Inception features).

    Biased upwards by about d^2 / (2 n) + 2 d / n for white features: compare values at equal n only.

    Args:
        features_x, features_y: (n, d) and (m, d).

    Raises:
        WorkbenchError: for samples that cannot be compared. Source: Heusel et al. 2017, arXiv 1706.08500.

    >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]))
    9.0
    """
    x, y = pair(features_x, features_y)
    return frechet_from_moments(moments(x), moments(y))


def frechet_from_moments(first: Moments, second: Moments) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^{1/2} C2 C1^{1/2})^{1/2}), the squared W2 of two Gaussians.

    The last trace is the sum of the roots of the eigenvalues of a symmetric product, so singular covariances do no harm.

    Raises:
        WorkbenchError: when the moments differ in shape or are not finite.

    >>> unit = torch.eye(2, dtype=torch.float64)
    >>> frechet_from_moments(Moments(torch.zeros(2).double(), unit), Moments(torch.zeros(2).double(), 4 * unit))
    2.0
    """
    (m1, c1), (m2, c2) = first, second
    if m1.shape != m2.shape or c1.shape != c2.shape or c1.shape != (len(m1), len(m1)):
        raise WorkbenchError(
            f"moments have shapes {tuple(m1.shape)}, {tuple(c1.shape)} and {tuple(m2.shape)}, {tuple(c2.shape)}: "
            "give (d,), (d, d) twice."
        )
    m1, c1, m2, c2 = (value.double() for value in (m1, c1, m2, c2))
    if not all(bool(torch.isfinite(value).all()) for value in (m1, c1, m2, c2)):
        raise WorkbenchError("moments hold NaN or infinite values: look at the samples first.")
    values, vectors = torch.linalg.eigh(c1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ c2 @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float((m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * cross))


def _mmd(x: Tensor, y: Tensor, kernel: Callable[[Tensor], Tensor]) -> float:
    """Unbiased MMD^2 of a kernel of the distance: pairs of an item with itself are left out."""
    return _mean_kernel(x, x, kernel, same=True) + _mean_kernel(y, y, kernel, same=True) - 2 * _mean_kernel(x, y, kernel)


def _mean_kernel(x: Tensor, y: Tensor, kernel: Callable[[Tensor], Tensor], same: bool = False) -> float:
    total = 0.0
    for start, distances in distance_rows(x, y):
        values = kernel(distances)
        if same:
            values.diagonal(start).zero_()
        total += float(values.sum())
    return total / (len(x) * (len(y) - same))


def _numpy(x: Tensor) -> Any:
    return x.cpu().numpy()
