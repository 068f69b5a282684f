"""What each step of a recorded trajectory does: how far it moves, how it turns, how far and how diverse its DT targets are.

A trajectory is anything with times `t` (k,), states `x` (k, n, ...) and x0 estimates `target` (k, n, ...), such as a
`workbench.samplers.Trajectory`: k points are k - 1 steps.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.metrics.trajectory import in_flow_coordinates, pairwise_diversity
from workbench.paths import Path


class Recorded(Protocol):
    """What these metrics read of a trajectory."""

    t: Tensor
    x: Tensor
    target: Tensor


def displacement(trajectory: Recorded, path: Path | None = None) -> Tensor:
    """Return the root mean square, over samples and coordinates, of the move of each step: (k - 1,), float64, data units.

    Args:
        path: of the states, to measure in the coordinates of flow matching, x / (alpha + sigma); None takes them as they are.

    Raises:
        WorkbenchError: for a trajectory of fewer than two points.

    >>> from types import SimpleNamespace
    >>> displacement(SimpleNamespace(t=torch.tensor([1.0, 0.0]), x=torch.tensor([[[0.0, 0.0]], [[3.0, 3.0]]])))
    tensor([3.], dtype=torch.float64)
    """
    return _moves(trajectory, path, 2).square().mean((1, 2)).sqrt()


def curvature(trajectory: Recorded, path: Path | None = None) -> Tensor:
    """Return the mean angle between each step and the next, over samples: (k - 2,), float64, degrees; 0 is straight on.

    A sample that stands still before or after a point has no angle there and is left out of the mean; where none is left
    the value is NaN. Entry i belongs to point i + 1. The rays of a path other than flow matching bend in its own
    coordinates: give the path, and the states are first taken to x / (alpha + sigma), as in `straightness`.

    Raises:
        WorkbenchError: for a trajectory of fewer than two points.

    >>> from types import SimpleNamespace
    >>> corner = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[1.0, 1.0]]])
    >>> curvature(SimpleNamespace(t=torch.tensor([1.0, 0.5, 0.0]), x=corner))
    tensor([90.], dtype=torch.float64)
    """
    moves = _moves(trajectory, path, 2)
    length = moves.norm(dim=2, keepdim=True)
    unit = moves / length
    before, after = unit[:-1], unit[1:]
    # 2 atan(|u - v| / |u + v|): exact for nearly equal directions too, where the cosine has lost its digits
    angle = 2 * torch.atan2((after - before).norm(dim=2), (after + before).norm(dim=2))
    return torch.rad2deg(angle).nanmean(1)


def target_error(trajectory: Recorded) -> Tensor:
    """Return how far the DT targets are from the final samples: (k,), float64, data units.

    The root mean square over coordinates, averaged over samples; the last entry is 0 where the run ends on clean data.

    Raises:
        WorkbenchError: for a trajectory without points.

    >>> from types import SimpleNamespace
    >>> run = SimpleNamespace(x=torch.tensor([[[0.0]], [[1.0]]]), target=torch.tensor([[[4.0]], [[1.0]]]))
    >>> target_error(run)
    tensor([3., 0.], dtype=torch.float64)
    """
    x, target = _flat(trajectory.x, 1), _flat(trajectory.target, 1)
    return (target - x[-1]).square().mean(2).sqrt().mean(1)


def target_diversity(trajectory: Recorded, labels: Any = None) -> Tensor:
    """Return `pairwise_diversity` of the DT targets at each point: (k,), float64, data units.

    At pure noise every exact target is the mean of the data, so a teacher starts at 0 and its seeds part on the way. A
    one-step student must part them at once; what it loses of the teacher's last value is lost diversity.

    Args:
        labels: (n,) to count pairs of one class only, or None.

    Raises:
        WorkbenchError: for fewer than two samples, and as `pairwise_diversity`.
    """
    return torch.tensor([pairwise_diversity(target, labels) for target in _flat(trajectory.target, 1)], dtype=torch.float64)


def decided(trajectory: Recorded, share: float = 0.5) -> int:
    """Return the point from which on the DT targets stay within `share` of their first distance from the final samples.

    With e = `target_error(trajectory)` it is the smallest i such that e[m] <= share e[0] for every m >= i. Point i is the
    state after i steps at time trajectory.t[i], so that for share 0.5 the sentence is: half decided at step i of
    len(trajectory) - 1. It is 0 where the first target is the result already, as for every one-step model.

    Args:
        share: in [0, 1].

    Raises:
        WorkbenchError: for a share outside [0, 1], or when even the last target is farther away than that.

    >>> from types import SimpleNamespace
    >>> target = torch.tensor([8.0, 3.0, 5.0, 2.0, 0.0]).reshape(5, 1, 1)
    >>> decided(SimpleNamespace(x=torch.zeros(5, 1, 1), target=target))
    3
    """
    if not (isinstance(share, int | float) and 0 <= share <= 1):
        raise WorkbenchError(f"share is {share!r}, but must be a number from 0 to 1: 0.5 asks when half is decided.")
    error = target_error(trajectory)
    far = (error > share * error[0]).nonzero()
    first = int(far[-1]) + 1 if len(far) else 0
    if first == len(error):
        raise WorkbenchError(
            f"the last DT target is still {float(error[-1]):.3g} from the sample, more than {share:g} of the first's "
            f"{float(error[0]):.3g}: nothing is decided."
        )
    return first


def _moves(trajectory: Recorded, path: Path | None, least: int) -> Tensor:
    x = _flat(trajectory.x, least)
    return (x if path is None else in_flow_coordinates(x, trajectory.t, path)).diff(dim=0)


def _flat(values: Tensor, least: int) -> Tensor:
    """(k, n, ...) as (k, n, d), float64."""
    if values.dim() < 2 or len(values) < least or 0 in values.shape:
        plural = "s" * (least != 1)
        raise WorkbenchError(
            f"the trajectory has shape {tuple(values.shape)}: give (points, samples, ...), at least {least} point{plural}."
        )
    return values.detach().cpu().double().reshape(*values.shape[:2], math.prod(values.shape[2:]))
