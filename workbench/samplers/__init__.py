"""Samplers: plans (tables of coefficients) and the one loop that runs them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from workbench import paths, schedules
from workbench.errors import WorkbenchError, check_options, unknown
from workbench.fits import check_values
from workbench.paths import Path
from workbench.samplers import momentum, multistep, singlestep, solvers, stochastic, unipc
from workbench.samplers.adaptive import POLICIES, no_table, policy
from workbench.samplers.plan import Plan, Row, Solver, Stage, hybrid
from workbench.samplers.run import Frame, Trajectory, record, run, stage_noise

SAMPLERS: dict[str, Solver] = {
    "euler": solvers.euler,
    "heun": solvers.heun,
    "ddim": solvers.ddim,
    "dpmpp_2m": multistep.dpmpp_2m,
    "dpmpp_3m": multistep.dpmpp_3m,
    "dpmpp_2s": singlestep.dpmpp_2s,
    "dpm_1": singlestep.dpm_1,
    "dpm_2": singlestep.dpm_2,
    "dpm_3": singlestep.dpm_3,
    "unipc": unipc.unipc,
    "deis": multistep.deis,
    "ab": multistep.ab,
    "ipndm": multistep.ipndm,
    "pndm": multistep.pndm,
    "ghvb": momentum.ghvb,
    "hb": momentum.hb,
    "ddpm": stochastic.ddpm,
    "euler_ancestral": stochastic.euler_ancestral,
    "dpmpp_2m_sde": stochastic.dpmpp_2m_sde,
    "dpmpp_3m_sde": stochastic.dpmpp_3m_sde,
    "restart": stochastic.restart,
    "consistency": stochastic.consistency,
    "lcm": stochastic.lcm,
    "flow_map": solvers.flow_map,
}


def sampler_options(sampler: str) -> list[str]:
    """Names of the options that a sampler takes."""
    return list(inspect.signature(SAMPLERS[sampler]).parameters)[2:]


def plan(
    sampler: str,
    path: str | Path,
    steps: int | None = None,
    schedule: str | Callable | Sequence[float] | Tensor = "uniform",
    **options: Any,
) -> Plan:
    """Work out a sampler's table on a path.

    Args:
        sampler: one of `SAMPLERS`.
        path: a name (linear, cosine, vp, edm, trig) or a `Path`.
        steps: 1 to 10000; may be left out if `schedule` is a list of times.
        schedule: one of `schedules.NAMES`, a function (path, steps) -> times, the times, or a diffusers scheduler.
        options: of the sampler (eta, gamma, variable) and of the schedule (t_start, t_end, shift, rho_min, ...).

    Raises:
        UnknownName: for an unknown name or option, with the nearest one. WorkbenchError: for impossible steps or times.

    >>> plan("heun", "linear", 3).evaluations
    5
    """
    if sampler in POLICIES:
        raise no_table(sampler)
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    path = paths.get(path)
    if "thresholding" in options:
        raise WorkbenchError(
            "thresholding acts on the model's estimate, not on the table: pass it to workbench.sample or workbench.to_diffusers, or run the "
            "plan with workbench.Thresholded(model, 'dynamic')."
        )
    known, of_schedule = sampler_options(sampler), schedules.options(schedule)
    check_options(f"sampler {sampler!r} with this schedule", options, [*known, *of_schedule])
    check_values(SAMPLERS[sampler], {key: value for key, value in options.items() if key in known})
    times = schedules.get(schedule, path, steps, **{key: value for key, value in options.items() if key in of_schedule})
    grid = [float(t) for t in times]
    stages = SAMPLERS[sampler](path, grid, **{key: value for key, value in options.items() if key in known})
    name = schedule if isinstance(schedule, str) else getattr(schedule, "__name__", "given")
    return Plan(sampler, path, tuple(grid), tuple(stages), name, options).check()


__all__ = [
    "SAMPLERS",
    "Frame",
    "Plan",
    "Row",
    "Stage",
    "Trajectory",
    "hybrid",
    "plan",
    "policy",
    "record",
    "run",
    "sampler_options",
    "stage_noise",
]
