"""What a step of every fixed plan costs against the diffusers scheduler of the same name: `python benchmarks/plans.py`.

Also the time to build a table of 1000 steps, and the memory of a run of 50 and of 1000 steps. Both sides get a model that costs
nothing and take turns on one thread; figures are medians of CPU time. Noise is drawn on both sides where the sampler asks for it.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.overhead import interleaved

SHAPES = ((1, 1, 28, 28), (64, 1, 28, 28))
STEPS, TARGET, TABLE_TARGET = 50, 1 / 8, 50.0
TRAILING: dict[str, Any] = {"timestep_spacing": "trailing", "prediction_type": "epsilon"}
PEERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {**TRAILING, "clip_sample": False}, {}),
    "ddim": ("DDIMScheduler", {**TRAILING, "clip_sample": False}, {}),
    "euler": ("EulerDiscreteScheduler", TRAILING, {"variable": "rho"}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", TRAILING, {}),
    "heun": ("HeunDiscreteScheduler", TRAILING, {"variable": "rho"}),
    "ab": ("LMSDiscreteScheduler", TRAILING, {"order": 4}),
    "pndm": ("PNDMScheduler", {**TRAILING, "skip_prk_steps": True}, {}),
    "ipndm": ("IPNDMScheduler", {}, {}),
    "deis": ("DEISMultistepScheduler", {**TRAILING, "solver_order": 3}, {"variable": "log_snr"}),
    "dpm_2": ("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, {}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {"final_sigmas_type": "sigma_min"}, {}),
    "dpm_3": (
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"},
        {},
    ),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", TRAILING, {}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {**TRAILING, "solver_order": 3}, {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {**TRAILING, "algorithm_type": "sde-dpmsolver++"}, {}),
    "unipc": ("UniPCMultistepScheduler", TRAILING, {}),
    "lcm": ("LCMScheduler", {"clip_sample": False}, {}),
}


def peer(name: str) -> Any:
    import diffusers

    kind, config, _ = PEERS[name]
    return getattr(diffusers, kind)(**config)


def step_costs(name: str, shape: tuple[int, ...], repeats: int) -> tuple[float, float]:
    """Microseconds a stage (one model evaluation and its update): ours and theirs."""
    import torch

    import workbench as wb

    noise, estimate = torch.randn(2, *shape)
    path = wb.paths.from_betas("linear")

    def model(x, t, cond=None):
        return estimate

    model.path = path
    plan = wb.plan(name, path, STEPS, **PEERS[name][2])
    scheduler = peer(name)

    def set_timesteps() -> None:
        scheduler.set_timesteps(STEPS)

    def ours() -> None:
        for _ in wb.run(plan, model, noise):
            pass

    @torch.no_grad()
    def theirs() -> None:
        set_timesteps()
        x = noise
        for t in scheduler.timesteps:
            x = scheduler.step(estimate, t, x).prev_sample

    found = interleaved({"ours": ours, "theirs": theirs, "set": set_timesteps}, repeats, time.thread_time)
    set_timesteps()
    return 1e6 * found["ours"] / plan.evaluations, 1e6 * (found["theirs"] - found["set"]) / len(scheduler.timesteps)


def table_costs(repeats: int) -> dict[str, float]:
    """Milliseconds to build each sampler's table of 1000 steps, its schedule included."""
    import workbench as wb
    from workbench.samplers import SAMPLERS

    calls = {name: lambda name=name: wb.plan(name, "vp", 1000) for name in SAMPLERS}
    return {name: 1000 * seconds for name, seconds in interleaved(calls, repeats).items()}


MEMORY = """
import resource, torch, workbench as wb
torch.set_num_threads(1)
noise = torch.randn(64, 3, 64, 64)
def model(x, t, cond=None): return x * 0.5
model.path = wb.paths.vp
plan = wb.plan("unipc", "vp", {steps}, order=3)
for _ in wb.run(plan, model, noise): pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak(steps: int) -> float:
    """Largest resident megabytes of a fresh process that runs a plan on 64 states of 3 x 64 x 64."""
    code = MEMORY.format(steps=steps)
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure, print, and store as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", help="write the figures to this JSON file")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, 1 thread, torch {torch.__version__}\n\nmicroseconds a stage, target 1/8 of the scheduler's step"
    )
    result: dict[str, Any] = {"stage": {}, "table": {}, "memory": {}}
    for shape in SHAPES:
        for name in PEERS:
            mine, other = step_costs(name, shape, args.repeats)
            missed = "" if mine / other <= TARGET else "  MISSED"
            size = "x".join(map(str, shape))
            result["stage"][f"{name} {size}"] = [round(mine, 2), round(other, 2)]
            print(f"  {name:16s} {size:12s} {mine:8.1f} {other:8.1f}   1/{other / mine:.1f}{missed}", flush=True)
    print(f"\nmilliseconds for a table of 1000 steps, target {TABLE_TARGET:g}")
    for name, taken in table_costs(args.repeats).items():
        result["table"][name] = round(taken, 1)
        print(f"  {name:16s} {taken:8.1f}{'' if taken <= TABLE_TARGET else '  MISSED'}")
    few, many = peak(50), peak(1000)
    result["memory"] = {"50 steps": round(few, 1), "1000 steps": round(many, 1)}
    print(f"\npeak memory: {few:.0f} MB in 50 steps, {many:.0f} MB in 1000 steps")
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
