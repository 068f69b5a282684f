"""The velocity field that a sampler follows, on a grid: where a point at each place would go next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count
from workbench.samplers.sample import labels

EXTENT = 2.1


class Field(NamedTuple):
    """Velocities on a grid: x (w,), y (h,) rising; u and v (h, w) with (u, v)[i, j] at (x[j], y[i])."""

    x: Tensor
    y: Tensor
    u: Tensor
    v: Tensor


def velocity_field(model: Denoiser, t: float, cond: Any = None, extent: float = EXTENT, size: int = 15) -> Field:
    """Return dx/dt of the probability flow at time t on a grid over [-extent, extent]^2, in data units per unit of t.

    dx/dt = alpha' x0 + sigma' eps, with x0 the model's estimate and eps what x and x0 leave. Samplers go from t = 1 to
    t = 0, so they move against it.

    Args:
        model: a denoiser of points (n, 2) with a `.path`. t: in (0, 1]. cond: a label, or None.
        size: grid points a side.

    Raises:
        WorkbenchError: for samples that are not points in two dimensions, or a time where the path has no noise: an x0
            estimate says nothing about the velocity there.
        Source: Lipman et al. 2022, arXiv 2210.02747; Song et al. 2020, arXiv 2011.13456, eq. 13.

    >>> import workbench as wb
    >>> velocity_field(wb.mixture([[1.0, 0.0]], [0.1]), 1.0, size=3).u[0]  # at t = 1 x0 is 1 and eps is x
    tensor([-3.1000, -1.0000,  1.1000], dtype=torch.float64)
    """
    shape = tuple(getattr(model, "shape", (2,)))
    if shape != (2,):
        raise WorkbenchError(f"a velocity field is drawn in two dimensions, not for samples of shape {shape}.")
    size = check_count("size", size, 2, 200)
    t = float(t)
    if not 0 < t <= 1 or model.path.sigma(t) <= 0:
        raise WorkbenchError(f"t is {t:g}, but a velocity is read from an x0 estimate only where there is noise: 0 < t <= 1.")
    net = getattr(model, "net", None)
    parameter = next(net.parameters(), None) if isinstance(net, torch.nn.Module) else None
    axis = torch.linspace(-float(extent), float(extent), size, dtype=torch.float64)
    place = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    x = place if parameter is None else place.to(parameter.device, torch.float32)
    given = labels(model, cond, len(x))
    with torch.no_grad():
        x0 = model(x, t, given if given is None else given.to(x.device)).cpu().double()
    velocity = model.path.convert(x0, place, t, "x0", "flow").reshape(size, size, 2)
    return Field(axis, axis, velocity[..., 0], velocity[..., 1])


def velocity_fields(
    model: Denoiser, times: Sequence[float] | Tensor, cond: Any = None, extent: float = EXTENT, size: int = 15
) -> list[Field | None]:
    """Return `velocity_field` at each of the times, such as a trajectory's; None where the path has no noise left.

    >>> import workbench as wb
    >>> [field is None for field in velocity_fields(wb.load("moons"), [1.0, 0.5, 0.0], size=2)]
    [False, False, True]
    """
    return [velocity_field(model, t, cond, extent, size) if model.path.sigma(t) > 0 else None for t in map(float, times)]
