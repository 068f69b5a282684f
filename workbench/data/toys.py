"""Two-dimensional densities, drawn exactly from a seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from workbench.errors import check_count, unknown


def _eight_gaussians(n: int, rng: torch.Generator) -> Tensor:
    angle = torch.randint(8, (n,), generator=rng).double() * math.pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(n, 2, generator=rng, dtype=torch.float64)


def _moons(n: int, rng: torch.Generator) -> Tensor:
    angle = math.pi * torch.rand(n, generator=rng, dtype=torch.float64)
    upper = torch.rand(n, generator=rng) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return torch.stack([x, y], 1) + 0.05 * torch.randn(n, 2, generator=rng, dtype=torch.float64)


def _spirals(n: int, rng: torch.Generator) -> Tensor:
    turn = 3 * math.pi * torch.rand(n, generator=rng, dtype=torch.float64).sqrt()
    sign = torch.where(torch.rand(n, generator=rng) < 0.5, 1.0, -1.0).double()
    curve = torch.stack([-turn.cos(), turn.sin()], 1) * turn[:, None] / (3 * math.pi)
    return sign[:, None] * curve + 0.03 * torch.randn(n, 2, generator=rng, dtype=torch.float64)


def _checkerboard(n: int, rng: torch.Generator) -> Tensor:
    column = torch.randint(4, (n,), generator=rng)
    row = 2 * torch.randint(2, (n,), generator=rng) + column % 2
    corner = torch.stack([column, row], 1).double()
    return (corner + torch.rand(n, 2, generator=rng, dtype=torch.float64)) / 2 - 1


TOYS = {"eight_gaussians": _eight_gaussians, "moons": _moons, "spirals": _spirals, "checkerboard": _checkerboard}


def toy(name: str, n: int, seed: int = 0) -> Tensor:
    """Draw n points (n, 2), float64, all within about [-1.5, 1.5]^2.

    Raises:
        UnknownName: for a name other than eight_gaussians, moons, spirals, checkerboard.

    >>> toy("moons", 5).shape
    torch.Size([5, 2])
    """
    if name not in TOYS:
        raise unknown("toy density", name, TOYS)
    return TOYS[name](check_count("n", n), torch.Generator().manual_seed(seed))
