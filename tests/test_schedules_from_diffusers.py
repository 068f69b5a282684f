"""Timesteps of diffusers' schedulers as schedules: times that fall, read as each class means them, and run as it runs."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import workbench as wb
from workbench import paths, schedules
from workbench.errors import WorkbenchError

diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of diffusers' arrays, by the thousand
TABLE = paths.from_betas("linear")
NOISE = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TABLES = (
    "DDIM", "DDPM", "DDIMParallel", "DDPMParallel", "CogVideoXDDIM", "CogVideoXDPM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete",
    "LMSDiscrete", "PNDM", "DEISMultistep", "DPMSolverSinglestep", "DPMSolverMultistep", "UniPCMultistep", "KDPM2Discrete",
    "KDPM2AncestralDiscrete", "SASolver", "LCM", "TCD", "UnCLIP",
)  # fmt: skip
OTHERS = {
    "FlowMatchEulerDiscrete": "linear", "FlowMatchHeunDiscrete": "linear", "FlowMatchLCM": "linear", "FlowMapEulerDiscrete": "linear",
    "LTXEulerAncestralRF": "linear", "Piflow": "linear", "MiniMaxH3": "linear", "IPNDM": "trig", "SCM": "trig", "DDPMWuerstchen": "cosine",
    "EDMEuler": "edm", "EDMDPMSolverMultistep": "edm", "CMStochasticIterative": "edm",
}  # fmt: skip
SIGMAS = ("karras", "exponential", "beta", "flow")


def made(name: str, **config: Any) -> Any:
    return getattr(diffusers, f"{name}Scheduler")(**config)


@pytest.mark.parametrize("name", [*TABLES, *OTHERS])
def test_every_scheduler_gives_falling_times(name: str) -> None:
    kind = getattr(diffusers, f"{name}Scheduler")
    accepted = kind.__init__.__wrapped__.__annotations__ if hasattr(kind.__init__, "__wrapped__") else {}
    settings = [{}] + [{f"use_{form}_sigmas": True} for form in SIGMAS if f"use_{form}_sigmas" in accepted]
    for config in settings:
        if "use_beta_sigmas" in config and importlib.util.find_spec("scipy") is None:
            continue
        scheduler = made(name, **config, **({"num_train_timesteps": 100} if name in TABLES else {}))
        scheduler.set_timesteps(6, **({"intermediate_timesteps": None} if name == "SCM" else {}))
        path = OTHERS.get(name) or ("linear" if "use_flow_sigmas" in config else paths.from_scheduler(scheduler))
        times = schedules.from_scheduler(scheduler)
        plan = wb.plan("ddim", path, schedule=scheduler)
        assert plan.times == tuple(times.tolist()) and 4 <= plan.steps <= 6, config
        assert times[0] <= 1 and times[-1] >= 0 and bool((times.diff() < 0).all()), config


def test_what_is_read_of_them() -> None:
    """By hand, from what each class does between its timesteps."""
    grid = {
        "PNDM": [0.801, 0.601, 0.401, 0.201, 0.001],  # to the table's first entry, where it is already
        "IPNDM": [
            2 / np.pi * np.arctan2(np.sin(a) ** 2, (1 - np.sin(a) ** 4) ** 0.5) for a in np.linspace(1, 0, 6) * np.pi / 2
        ],
        "DDPMWuerstchen": [1.0, 0.8, 0.6, 0.4, 0.2, 0.0],
        "TCD": [1.0, 0.8, 0.6, 0.4, 0.2, 0.0],
        "FlowMapEulerDiscrete": [1.0, 0.8, 0.6, 0.4, 0.2, 0.0],
    }
    for name, times in grid.items():
        found = wb.plan("ddim", OTHERS.get(name, TABLE), 5, made(name)).times
        assert np.allclose(found, times, atol=1e-5), name
    short = {"num_train_timesteps": 100}
    kdpm, heun = (wb.plan("euler", TABLE, 5, made(name, **short)).times for name in ("KDPM2Discrete", "HeunDiscrete"))
    assert kdpm == heun and len(kdpm) == 6  # points within a step are left out
    kept = made("DDIM", set_alpha_to_one=False, timestep_spacing="trailing")
    assert wb.plan("ddim", TABLE, 4, kept).times == (1.0, 0.75, 0.5, 0.25, 0.001) and kept.num_inference_steps is None


def test_edm_by_another_name() -> None:
    """CosineDPMSolverMultistepScheduler, which needs a package that is not here."""
    sigmas, config = torch.tensor([500.0, 20.0, 0.3]), {"sigma_max": 500.0, "sigma_data": 1.0}
    times = schedules.from_scheduler(SimpleNamespace(timesteps=sigmas, num_inference_steps=3, sigmas=sigmas, config=config))
    assert torch.allclose(paths.get("edm to 500").sigma(times), sigmas.double())


def test_their_plan_runs_as_they_do() -> None:
    """Euler of diffusers at its own Karras steps; an eps network told the time that each sigma means."""
    scheduler = made("EulerDiscrete", beta_schedule="linear", beta_start=1e-4, beta_end=0.02, use_karras_sigmas=True)
    scheduler.set_timesteps(8)
    path = paths.from_scheduler(scheduler)
    model = wb.mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5], path=TABLE)
    x = NOISE * float(scheduler.sigmas[0])
    for i, timestep in enumerate(scheduler.timesteps):
        rho = float(scheduler.sigmas[i])
        t, scaled = path.time(-np.log(rho)), x / (1 + rho**2) ** 0.5
        x = scheduler.step(path.convert(model(scaled, t), scaled, t, "x0", "eps"), timestep, x).prev_sample.double()
    *_, last = wb.run(wb.plan("euler", TABLE, schedule=scheduler, variable="rho"), model, NOISE)
    assert float((last.x - x).abs().max() / x.abs().max()) < 1e-4


NO_SCHEDULE = {
    "DDIMInverse": "do not fall from noise to data", "DPMSolverMultistepInverse": "do not fall from noise to data",
    "ScoreSdeVe": "has neither alphas_cumprod", "BlockRefinement": "has neither alphas_cumprod", "EntropyBound": "has neither",
}  # fmt: skip


@pytest.mark.parametrize("name", NO_SCHEDULE)
def test_what_is_no_schedule(name: str) -> None:
    with pytest.raises(WorkbenchError, match=NO_SCHEDULE[name]) as caught:
        wb.plan("ddim", TABLE, 5, made(name))
    assert "\n" not in str(caught.value)


def test_schedulers_that_must_be_told_more() -> None:
    with pytest.raises(WorkbenchError, match="call set_timesteps on the DDIMScheduler first"):
        wb.plan("ddim", TABLE, schedule=made("DDIM"))
    with pytest.raises(WorkbenchError, match=r"makes no 5 steps .*: call its set_timesteps, and leave steps out"):
        wb.plan("ddim", "linear", 5, made("FlowMatchEulerDiscrete", use_dynamic_shifting=True))
    with pytest.raises(WorkbenchError, match="but its table ends at"):
        wb.plan("ddim", TABLE, 5, made("EulerDiscrete", use_karras_sigmas=True, sigma_max=700.0, sigma_min=0.01))
    repaint = made("RePaint")
    repaint.set_timesteps(20, jump_length=5, jump_n_sample=2)
    with pytest.raises(WorkbenchError, match="neither inverts nor goes back"):
        wb.plan("ddim", TABLE, schedule=repaint)
