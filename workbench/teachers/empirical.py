"""The exact denoiser of a finite data set: what a network that memorised it would answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench import paths
from workbench.denoiser import tally
from workbench.errors import WorkbenchError
from workbench.paths import Path


class Empirical:
    """D(x) = sum_i w_i x_i with w = softmax_i( -|x - alpha x_i|^2 / (2 sigma^2) ) over the data x_i.

    Args:
        data: (m, ...). labels: (m,) for a conditional teacher. path: name or `Path`.

    It memorises: use it to test solvers and targets, not for quality claims.

    >>> teacher = Empirical(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    >>> teacher(torch.tensor([[0.9, 0.9]]), 0.05).round()
    tensor([[1., 1.]])
    """

    def __init__(self, data: Tensor, labels: Tensor | None = None, path: str | Path = "linear", name: str = "empirical"):
        if data.dim() < 2 or not len(data) or not bool(torch.isfinite(data).all()):
            raise WorkbenchError(
                f"data has shape {tuple(data.shape)}: it must be a finite tensor (m, ...) of at least one item."
            )
        if labels is not None and labels.shape != (len(data),):
            raise WorkbenchError(f"{len(data)} items need as many labels, not {tuple(labels.shape)}.")
        self.data, self.labels, self.path, self.name = data, labels, paths.get(path), name
        self.shape = tuple(data.shape[1:])
        self.classes = 0 if labels is None else int(labels.max()) + 1
        if labels is not None and labels.unique().tolist() != list(range(self.classes)):
            raise WorkbenchError("labels must be 0 to the number of classes - 1, each given to an item.")

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None) -> Tensor:
        if x.shape[1:] != self.shape:
            raise WorkbenchError(f"x has shape {tuple(x.shape)}, but the data is (n, {', '.join(map(str, self.shape))}).")
        time = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = (function(time).to(x).reshape(-1, 1) for function in (self.path.alpha, self.path.sigma))
        flat, points = x.flatten(1), self.data.to(x).flatten(1)
        # |x - alpha p|^2 without |x|^2, which softmax removes
        score = (alpha * (flat @ points.T) - 0.5 * alpha**2 * points.square().sum(1)) / sigma.square().clamp_min(1e-12)
        if cond is not None:
            wanted = torch.as_tensor(cond, device=x.device).expand(len(x))
            if int(wanted.max()) >= self.classes or int(wanted.min()) < -1:
                raise WorkbenchError(
                    f"class {wanted.tolist()[:4]} does not exist: this data has {self.classes} classes, and -1 is no class."
                )
        if cond is not None and self.labels is not None:
            allowed = (wanted[:, None] < 0) | (self.labels.to(x.device) == wanted[:, None])
            score = score.masked_fill(~allowed, -torch.inf)
        tally(len(x))
        return (torch.softmax(score, 1) @ points).view_as(x)
