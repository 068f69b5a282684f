"""The directions in which a cloud of samples is widest, to look at high dimensions in two."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.metrics.samples import flat


class Principal(NamedTuple):
    """Principal components of a cloud of points.

    Attributes:
        mean: (d,). axes: (count, d), orthonormal, the widest first. share: (count,), of the cloud's variance along each.
    """

    mean: Tensor
    axes: Tensor
    share: Tensor

    def project(self, x: Tensor) -> Tensor:
        """Coordinates (..., count) of points (..., d) on the axes."""
        return (x.to(self.mean) - self.mean) @ self.axes.T


def principal_components(x: Any, count: int = 2, weights: Tensor | None = None) -> Principal:
    """Return the `count` principal components of samples, float64.

    The sign of each axis is free; it is chosen so that the largest entry is positive.

    Args:
        x: samples (n, ...), at least 2. weights: (n,) positive, or None for equal ones.

    Raises:
        WorkbenchError: for fewer than two samples, fewer than `count` coordinates, or samples that are all the same.

    >>> principal_components(torch.tensor([[0.0, 3.0], [0.0, -3.0], [1.0, 0.0], [-1.0, 0.0]])).share
    tensor([0.9000, 0.1000], dtype=torch.float64)
    """
    x = flat(x)
    weights = torch.ones(len(x)).to(x) if weights is None else weights.to(x)
    weights = (weights / weights.sum())[:, None]
    mean = (weights * x).sum(0)
    away = weights.sqrt() * (x - mean)
    total = away.square().sum()
    if x.shape[1] < count:
        raise WorkbenchError(f"samples of {x.shape[1]} coordinates have no {count} principal components.")
    if not total > 0:
        raise WorkbenchError("the samples are all the same, so there is no direction in which they differ.")
    if len(x) >= x.shape[1]:
        axes = torch.linalg.eigh(away.T @ away).eigenvectors.flip(1)[:, :count].T
    else:  # fewer samples than coordinates: their Gram matrix is the smaller problem
        axes = torch.linalg.svd(away, full_matrices=False).Vh
        axes = torch.cat([axes, torch.zeros(max(0, count - len(axes)), x.shape[1]).to(x)])[:count]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = torch.where(largest < 0, -axes, axes)
    return Principal(mean, axes, (away @ axes.T).square().sum(0) / total)
