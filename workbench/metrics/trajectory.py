"""Errors of a trajectory against a finer one from the same noise, its straightness, and the diversity of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.metrics.samples import distance_rows, flat, pair
from workbench.paths import Path, per_sample


def paired_errors(x: Any, reference: Any) -> Tensor:
    """Return, for each sample, the root mean square over its coordinates of x - reference: (n,), float64.

    Near the border between modes a few samples err by far the most: report the median and the 95 % quantile too.

    Raises:
        WorkbenchError: when the sets differ in shape, are empty, or are not finite.

    >>> paired_errors(torch.zeros(2, 4), torch.tensor([[3.0] * 4, [0.0] * 4]))
    tensor([3., 0.], dtype=torch.float64)
    """
    x, y = pair(x, reference, least=1, paired=True)
    return (x - y).square().mean(1).sqrt()


def trajectory_error(x: Any, reference: Any) -> float:
    """Return the root mean square over all samples of `paired_errors`: how far a sampler lands from the exact solution.

    Args:
        x: end points (n, ...) of the sampler in question.
        reference: (n, ...), where the same noise lands with many steps; its own error must be far smaller.

    Raises:
        WorkbenchError: as `paired_errors`.

    >>> round(trajectory_error(torch.zeros(2, 4), torch.tensor([[3.0] * 4, [0.0] * 4])), 4)
    2.1213
    """
    return float(paired_errors(x, reference).square().mean().sqrt())


def straightness(states: Sequence[Tensor], times: Sequence[float] | Tensor, path: Path | None = None) -> float:
    """Return S = int_0^1 E|(z_1 - z_0) - dz/du|^2 du / E|z_1 - z_0|^2 of recorded trajectories: 0 for a straight, steady line.

    u in [0, 1] is the time, rescaled; dz/du is the slope between neighbouring records, so that the integral is exact for
    the polygon. The times of a path other than flow matching (1 - t, t) curve and speed up what flow matching sees as a
    straight line: give the path, and states and times are first taken to x / (alpha + sigma) and sigma / (alpha + sigma).

    Args:
        states: N + 1 states (n, ...), in order.
        times: their N + 1 times, strictly monotone.
        path: the path that the states belong to; None takes them as they are.

    Raises:
        WorkbenchError: for fewer than two states, times that do not fit, or trajectories that end where they began.
        Source: Liu et al. 2022, arXiv 2209.03003, sec. 2.2, normalised by the squared length.

    >>> states = [torch.tensor([[0.0]]), torch.tensor([[3.0]]), torch.tensor([[4.0]])]
    >>> straightness(states, [0.0, 0.5, 1.0])  # speeds 6 and 2 around 4
    0.25
    """
    t = torch.as_tensor(times, dtype=torch.float64).flatten().cpu()
    if len(states) < 2 or len(t) != len(states):
        raise WorkbenchError(f"there are {len(states)} states and {len(t)} times: give at least two, and one time a state.")
    z = [pair(state, states[0], least=1, paired=True)[0] for state in states]
    if path is not None:
        z, t = list(in_flow_coordinates(torch.stack(z), t, path)), path.sigma(t) / (path.alpha(t) + path.sigma(t))
    steps = t.diff() / (t[-1] - t[0])
    if not bool((steps > 0).all()):
        raise WorkbenchError("times must rise, or fall, from each state to the next: give each state once, in order.")
    chord = z[-1] - z[0]
    length = chord.square().sum()
    if not length > 0:
        raise WorkbenchError("the trajectories end where they began, so there is no straight line to compare them with.")
    return sum(
        float(h * (chord - (end - start) / h).square().sum() / length)
        for start, end, h in zip(z[:-1], z[1:], steps.tolist(), strict=True)
    )


def in_flow_coordinates(states: Tensor, times: Tensor, path: Path) -> Tensor:
    """Return states (k, ...) at times (k,) as flow matching sees them, x / (alpha + sigma): fixed ends are straight there."""
    times = times.double().cpu()
    return states / per_sample(path.alpha(times) + path.sigma(times), states)


def pairwise_diversity(x: Any, labels: Any = None) -> float:
    """Return the mean, over pairs of samples, of the root mean square over coordinates of their difference.

    A student that gives nearly the same image for every seed shows here first. With labels, only pairs of one class
    count: diversity within classes.

    Args:
        x: samples or features (n, ...), at least 2.
        labels: (n,), or None.

    Raises:
        WorkbenchError: for fewer than two samples, labels that do not fit, or no two samples of one class.

    >>> pairwise_diversity(torch.tensor([[0.0], [1.0], [5.0], [7.0]]), labels=[0, 0, 1, 1])
    1.5
    """
    x = flat(x)
    groups = [x]
    if labels is not None:
        marks = torch.as_tensor(labels).flatten().to(x.device)
        if len(marks) != len(x):
            raise WorkbenchError(f"there are {len(x)} samples but {len(marks)} labels: give one label a sample.")
        groups = [x[marks == mark] for mark in marks.unique()]
    total = sum(float(rows.sum()) for group in groups for _, rows in distance_rows(group, group))
    pairs = sum(len(group) * (len(group) - 1) for group in groups)
    if pairs == 0:
        raise WorkbenchError("no two samples share a class: give more samples of each class, or no labels.")
    return total / pairs / x.shape[1] ** 0.5
