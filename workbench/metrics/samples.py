"""What every metric does first: check its samples, and lay them out as (n, d) in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from workbench.errors import WorkbenchError

BLOCK = 1024  # rows of a distance matrix held at once
EXACT_DIM = 64  # up to this dimension distances are summed coordinate by coordinate


def flat(samples: Any, name: str = "x", least: int = 2) -> Tensor:
    """Return samples (n, ...) as a float64 tensor (n, d), detached.

    Raises:
        WorkbenchError: for fewer than `least` samples, no coordinates, or values that are not finite.

    >>> flat(torch.zeros(4, 1, 2, 2)).shape
    torch.Size([4, 4])
    """
    x = torch.as_tensor(samples).detach()
    x = x.cpu() if x.device.type == "mps" else x  # no float64 there
    if x.dim() == 0 or len(x) < least:
        raise WorkbenchError(f"{name} holds {len(x) if x.dim() else 0} samples: this metric needs at least {least}.")
    if x.numel() == 0 or x.is_complex():
        raise WorkbenchError(f"{name} has shape {tuple(x.shape)} and type {x.dtype}: give real numbers (n, d) or (n, c, h, w).")
    x = x.reshape(len(x), -1).double()
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).any(1).sum())
        raise WorkbenchError(f"{name} holds NaN or infinite values in {bad} of {len(x)} samples: look at the sampler first.")
    return x


def pair(x: Any, y: Any, least: int = 2, paired: bool = False) -> tuple[Tensor, Tensor]:
    """Return two sample sets as float64 (n, d) and (m, d) on the device of the first.

    Raises:
        WorkbenchError: as `flat`, when the items differ in shape, or, if `paired`, in number.

    >>> [len(samples) for samples in pair(torch.zeros(3, 2), torch.zeros(5, 2))]
    [3, 5]
    """
    first, second = flat(x, "the first sample set", least), flat(y, "the second sample set", least)
    shapes = tuple(torch.as_tensor(x).shape), tuple(torch.as_tensor(y).shape)
    if shapes[0][1:] != shapes[1][1:]:
        raise WorkbenchError(f"the sample sets have shapes {shapes[0]} and {shapes[1]}: all but the first size must agree.")
    if paired and len(first) != len(second):
        raise WorkbenchError(f"the sample sets hold {len(first)} and {len(second)} items, but item i is compared with item i.")
    return first, second.to(first.device)


def distance_rows(x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (start, distances (b, m)) of successive rows of x to all of y, without holding the whole matrix.

    Above 64 dimensions a matrix product is used, on samples centred to keep the cancellation small.
    """
    fast = x.shape[1] > EXACT_DIM
    mode = "use_mm_for_euclid_dist" if fast else "donot_use_mm_for_euclid_dist"
    if fast:
        x, y = x - y.mean(0), y - y.mean(0)
    for start in range(0, len(x), BLOCK):
        yield start, torch.cdist(x[start : start + BLOCK], y, compute_mode=mode)


def subset(x: Tensor, size: int, seed: int) -> Tensor:
    """Return `size` items of x chosen at random by the seed, or all of x when it holds no more."""
    if len(x) <= size:
        return x
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:size].to(x.device)]
