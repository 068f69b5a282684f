"""Where a sampler is stable: how its own rows amplify the linear test equation, step after step.

On d(x / alpha) / d rho = k x / alpha every model output is a multiple of the state, so a step of a plan is a matrix on (state, base
state, past outputs), and what it makes of a component of the trajectory depends on z = k (rho_t - rho_s) alone. The exact solution
grows by e^z; a sampler whose spectral radius exceeds 1 where Re z < 0 turns a decaying component into a growing one, which is what
few steps with strong guidance look like (divergence artifacts, arXiv 2307.11118).

The rows are those that run: of steps in the middle of a plan on the path `edm` that are equal in rho and a millionth of rho long, where
equal steps in t, rho and log-SNR are the same. A solver on x0 or in log-SNR has there the weights of its counterpart on eps and in
rho, so `dpmpp_2m` and `deis` of order 2 have the region of `ab` of order 2; over long steps in log-SNR their weights are others.

What momentum does, measured by `real_interval` (tests/samplers/test_stability.py); beta = 1 is Adams-Bashforth of that order:

    sampler        beta 1    beta 0.8    beta 0.5    on the whole axis
    ghvb, order 1  -2        -3          -6          -2 (2 - beta) / beta
    ghvb, order 2  -1        -1.2        -1.5        -(2 - beta)
    ghvb, order 3  -6/11     -0.6429     -0.7826     -2 (2 - beta) / (4 - beta / 3)
    ghvb, order 4  -3/10     -0.3529     -0.4286     -2 (2 - beta) / (22 / 3 - 2 beta / 3)
    hb, order p    s         1.5 s       3 s         (2 - beta) / beta times the interval s of order p

So the claim of arXiv 2307.11118 that the region grows as beta falls holds along the real axis, for HB much and for GHVB above
order 1 little. It does not hold as a statement on sets: GHVB of order 1 is stable inside the ellipse with centre -(2 - beta) / beta,
half width (2 - beta) / beta and half height 1. That is 3 times the area of Euler's disc at beta = 0.5, but 22 % of the disc, near the
imaginary axis, is lost (7 % at 0.8); orders 2 and 3 lose 7 % and 3 % at 0.5, order 4 nothing that a grid of 600 x 142 sees; HB of
order 2 to 4 at 0.5 has 4 to 6 times the area and loses 18 to 28 %.

A corrector that costs no evaluation costs stability: `unipc` of order p with it has the region of `ab` of order p + 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench import paths, samplers
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path
from workbench.samplers.plan import Plan, Stage

STEPS, STEP, RHO, SHORT = 48, 32, 60.0, 1e-6  # the step looked at lies behind every start; SHORT is a step's part of rho
TOLERANCE = 1e-5  # above the error of SHORT, far below what can be seen
FARTHEST = 1e4


class Region(NamedTuple):
    """Spectral radii over a part of the upper half plane; the lower one mirrors it.

    Attributes:
        real: (m,) real parts of z, rising. imag: (n,) imaginary parts, from 0. radius: (n, m). interval: as `real_interval`.
    """

    real: Tensor
    imag: Tensor
    radius: Tensor
    interval: float


def stability(sampler: str, z: complex | Sequence | Tensor, **options: Any) -> Tensor:
    """Spectral radius of one step of a sampler on the linear test equation; it is stable where this is at most 1.

    Args:
        sampler: one of `workbench.samplers.SAMPLERS`, without noise. z: k times the step in rho, complex, any shape.
        options: of the sampler (order, beta, ...).

    Returns:
        float64, of the shape of z; it is off by about 1e-5 |z|.

    Raises:
        WorkbenchError: for a sampler that adds noise, or whose rows are not the same from step to step.

    >>> stability("heun", [0.0, -1.0, -3.0]).round(decimals=4)  # |1 + z + z^2 / 2|
    tensor([1.0000, 0.5000, 2.5000], dtype=torch.float64)
    """
    try:
        points = torch.as_tensor(z).to(torch.complex128)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WorkbenchError(f"z must hold complex numbers, k times the step in rho, not {z!r}.") from error
    plan = _plan(sampler, options)
    probe = torch.tensor([-0.3, -0.8, 0.4j - 0.2], dtype=torch.complex128)
    first, later = (_radius(plan, step, probe) for step in (STEP, STEP + 8))
    if not torch.allclose(first, later, rtol=1e-4, atol=1e-4):
        raise WorkbenchError(
            f"the rows of sampler {sampler!r} change along the run with {options}, so it has no one region: leave such options out."
        )
    return _radius(plan, STEP, points)


def real_interval(sampler: str, **options: Any) -> float:
    """How far left on the real axis a sampler is stable, beginning at 0: a number below 0, or -inf beyond -10000.

    A component that decays in rho at rate k stays bounded for steps up to |real_interval / k|. It is right to about 1e-4 of itself.

    Raises:
        WorkbenchError: as `stability`.

    >>> [round(real_interval("ab", order=p), 3) for p in (1, 2, 3, 4)]
    [-2.0, -1.0, -0.545, -0.3]
    """
    places = -torch.logspace(-2, math.log10(FARTHEST), 1200, dtype=torch.float64)
    for _ in range(3):
        wrong = (stability(sampler, places, **options) > 1 + TOLERANCE).nonzero()
        if not len(wrong):
            return -math.inf
        first = int(wrong[0])
        if first == 0:  # not stable anywhere near
            return 0.0
        places = torch.linspace(float(places[first - 1]), float(places[first]), 65, dtype=torch.float64)
    return float((places[0] + places[1]) / 2)


def stability_region(
    sampler: str, real: tuple[float, float] = (-4.0, 1.0), imag: float = 2.0, points: int = 121, **options: Any
) -> Region:
    """`stability` on a grid, for `workbench.views.stability_regions`.

    Args:
        real: from and to. imag: up to; below the axis it is the same. points: of the real axis; as dense on the other.

    Raises:
        WorkbenchError: for an empty rectangle, and as `stability`.

    >>> region = stability_region("euler", points=11)
    >>> region.radius.shape, round(region.interval, 3)
    (torch.Size([4, 11]), -2.0)
    """
    points = check_count("points", points, 8, 2000)
    if not (real[0] < real[1] and imag > 0):
        raise WorkbenchError(f"a region lies between two real numbers and below a positive one, not {real} and {imag}.")
    x = torch.linspace(*real, points, dtype=torch.float64)
    y = torch.linspace(0, imag, max(2, round(points * imag / (real[1] - real[0]))), dtype=torch.float64)
    radius = stability(sampler, torch.complex(*torch.meshgrid(x, y, indexing="xy")), **options)
    return Region(x, y, radius, real_interval(sampler, **options))


def _plan(sampler: str, options: dict[str, Any]) -> Plan:
    path = paths.edm
    rho = RHO * (1 + SHORT * torch.arange(STEPS, -1, -1, dtype=torch.float64))
    plan = samplers.plan(sampler, path, schedule=path.time(-rho.log()), **options)
    if any(row.noise for stage in plan.stages for row in (stage.x, stage.base) if row):
        raise WorkbenchError(
            f"sampler {sampler!r} adds noise, and a region of stability belongs to a deterministic one: switch its noise off, or take another."
        )
    return plan


def _radius(plan: Plan, step: int, z: Tensor) -> Tensor:
    """Spectral radius of one step at every z."""
    starts = [i for i, stage in enumerate(plan.stages) if not stage.inner]
    if len(starts) != plan.steps:
        raise WorkbenchError(f"the steps of sampler {plan.sampler!r} cannot be told apart: it has no region of stability.")
    k = z.flatten() / (plan.path.rho(plan.times[step + 1]) - plan.path.rho(plan.times[step]))
    size = 2 + plan.history
    whole = torch.eye(size, dtype=torch.complex128).repeat(len(k), 1, 1)
    stages = plan.stages[starts[step] : starts[step + 1]]
    if not any(row.base for stage in stages for row in (stage.x, stage.base) if row):
        whole[:, 1, 1] = 0  # nobody reads the base state: it is no part of the recursion
    for stage in stages:
        whole = _matrix(plan.path, stage, size, k) @ whole
    return torch.linalg.eigvals(whole).abs().amax(-1).reshape(z.shape)


def _matrix(path: Path, stage: Stage, size: int, k: Tensor) -> Tensor:
    """A stage on (x, base, newest output, the one before, ...), for every k."""
    alpha, sigma = path.alpha(stage.t), path.sigma(stage.t)
    of_x, of_x0 = path.conversion("x0", stage.kind, stage.t)
    output = of_x + of_x0 * (1 - sigma / alpha * k) / alpha  # x0 = (x - sigma eps) / alpha, eps = k x / alpha
    seen = torch.zeros(len(k), size, size, dtype=torch.complex128)
    seen[:, 0, 0] = seen[:, 1, 1] = 1
    seen[:, 2, 0] = output
    for place in range(3, size):
        seen[:, place, place - 1] = 1
    update = torch.eye(size, dtype=torch.complex128)
    for place, row in enumerate((stage.x, stage.base)):
        if row is not None:
            update[place] = torch.tensor([row.x, row.base, *row.outputs, *[0.0] * (size - 2 - len(row.outputs))])
    return update @ seen
