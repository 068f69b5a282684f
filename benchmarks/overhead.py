"""What the workbench adds to the networks it runs: `make bench`, or `python benchmarks/overhead.py`.

Every ratio comes from one run of this file on one machine; both sides take turns, and the figure is the median of their
repeats, so that a busy moment hits both alike. Parts: sampler, network, import, app; `--only sampler,network` picks.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ((1, 1, 28, 28), (64, 1, 28, 28), (4, 4, 64, 64))
STEPS = 50
IMPORTS = "import torch, diffusers, gradio"


@dataclass(frozen=True)
class Line:
    """One comparison: what was measured, ours and theirs (in `unit`), and the largest ratio that is allowed."""

    what: str
    ours: float
    theirs: float
    unit: str
    target: float
    remark: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


def interleaved(calls: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(call())
    return {name: statistics.median(values) for name, values in taken.items()}


def clock(call: Callable[[], object]) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began


def sampler_lines(repeats: int) -> list[Line]:
    """Microseconds a step around a model that costs nothing: it returns one stored x0 estimate to both sides."""
    import torch
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    import workbench as wb

    def schedulers(name: str):
        if name == "ddim":
            return DDIMScheduler(prediction_type="sample", clip_sample=False, timestep_spacing="trailing")
        return DPMSolverMultistepScheduler(prediction_type="sample", timestep_spacing="trailing")

    lines = []
    for shape in SHAPES:
        noise, estimate = torch.randn(2, *shape)
        for name, label in (("ddim", "DDIM"), ("dpmpp_2m", "DPM-Solver++(2M)")):
            scheduler = schedulers(name)
            scheduler.set_timesteps(STEPS)
            timesteps = list(scheduler.timesteps)

            def model(x, t, cond=None, estimate=estimate):
                return estimate

            model.path = wb.paths.from_scheduler(scheduler)
            plan = wb.plan(name, model.path, schedule=wb.schedules.from_scheduler(scheduler))

            def ours(plan=plan, model=model, noise=noise):
                for _ in wb.run(plan, model, noise):
                    pass

            @torch.no_grad()
            def theirs(scheduler=scheduler, timesteps=timesteps, noise=noise, estimate=estimate):
                scheduler.set_timesteps(STEPS)
                x = noise
                for t in timesteps:
                    x = scheduler.step(estimate, t, x).prev_sample

            @torch.no_grad()
            def only_set(scheduler=scheduler):
                scheduler.set_timesteps(STEPS)

            for call in (ours, theirs):
                call()
            found = interleaved({name: lambda call=call: clock(call) for name, call in (("ours", ours), ("theirs", theirs), ("set", only_set))}, repeats)
            mine, other = 1e6 * found["ours"] / STEPS, 1e6 * (found["theirs"] - found["set"]) / STEPS
            lines.append(Line(f"{label}, {'x'.join(map(str, shape))}", mine, other, "us/step", 1 / 8))
    return lines
for l in sampler_lines(9): print(l.what, round(l.ours,1), round(l.theirs,1), round(1/l.ratio,1))
