"""Fit a plan to each teacher and compare it, on held-out noise, with every hand-made sampler and schedule at as many evaluations.

    python benchmarks/fit_plan.py [--teachers moons digits/teacher] [--evaluations 4 6 8] [--sampler dpmpp_2m] [--schedule uniform]

The error is the RMS distance of end points to the teacher's own fine solution (Heun, even in log-SNR) from the same noise, of another
seed than the fit's. Hand-made are all samplers that add no noise, with their default options, on all schedules. Prints a table
and writes benchmarks/results/fit_plan.json, keeping there what other teachers left.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

import torch

import workbench as wb
from workbench import schedules
from workbench.errors import WorkbenchError
from workbench.fitting import fit_plan
from workbench.metrics import trajectory_error
from workbench.samplers import SAMPLERS, Plan
from workbench.samplers.fine import is_exact
from workbench.samplers.sample import noise_for, prepare

TEACHERS = ("eight_gaussians", "moons", "mixture64", "digits/teacher")
OUT = File(__file__).parent / "results" / "fit_plan.json"


def hand_made(path: Any, evaluations: int) -> Iterator[Plan]:
    """Every deterministic plan of so many evaluations; a sampler may take fewer steps than that."""
    for sampler in SAMPLERS:
        for schedule in schedules.NAMES:
            for steps in range(1, evaluations + 1):
                try:
                    plan = wb.plan(sampler, path, steps, schedule)
                except WorkbenchError:  # an order or a schedule that this many steps do not allow
                    continue
                noisy = any(row.noise for stage in plan.stages for row in (stage.x, stage.base) if row)
                if plan.evaluations == evaluations and not noisy:
                    yield plan


def end(plan: Plan, model: Any, noise: torch.Tensor, cond: Any) -> torch.Tensor:
    for frame in wb.run(plan, model, noise, cond):
        last = frame
    return last.x


def measure(name: str, budgets: list[int], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row of the table for each number of evaluations."""
    teacher = wb.load(name)
    exact = is_exact(teacher)
    n = 2048 if exact else 128
    cond = None if exact else range(teacher.classes)
    labels = None if exact else torch.arange(n) % teacher.classes
    model, noise = prepare(teacher), noise_for(teacher, n, arguments.seed + 1000)
    truth = {steps: end(wb.plan("heun", teacher.path, steps, "logsnr"), model, noise, labels) for steps in (64, 128)}
    own = trajectory_error(truth[64], truth[128])

    def error(plan: Plan) -> float:
        try:
            return trajectory_error(end(plan, model, noise, labels), truth[128])
        except WorkbenchError:  # it overflowed
            return float("inf")

    for budget in budgets:
        made = sorted((error(plan), f"{plan.sampler} on {plan.schedule}") for plan in hand_made(teacher.path, budget))
        began, cpu = time.monotonic(), time.process_time()
        plan = fit_plan(
            teacher, budget, arguments.sampler, arguments.schedule, arguments.learn, cond, seed=arguments.seed,
            optimizer=arguments.optimizer, seconds=arguments.seconds, intermediate=arguments.intermediate,
        )  # fmt: skip
        seconds, spent = time.monotonic() - began, time.process_time() - cpu
        fitted = error(plan)
        yield {
            "teacher": name, "evaluations": budget, "n": n, "seed": arguments.seed, "learn": arguments.learn,
            "reference_error": own, "hand_made": len(made), "best": made[0][1], "best_error": made[0][0], "second": made[1][1],
            "start": f"{arguments.sampler} on {arguments.schedule}", "fitted_error": fitted,
            "gain": 1 - fitted / made[0][0], "seconds": round(seconds, 1), "cpu_seconds": round(spent, 1),
            "optimizer": arguments.optimizer, "intermediate": arguments.intermediate, "threads": torch.get_num_threads(),
            "plan": plan.to_json(),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teachers", nargs="+", default=list(TEACHERS))
    parser.add_argument("--evaluations", nargs="+", type=int, default=[4, 6, 8])
    parser.add_argument("--sampler", default="dpmpp_2m")
    parser.add_argument("--schedule", default="uniform")
    parser.add_argument("--learn", nargs="+", default=["rows", "times"])
    parser.add_argument("--optimizer", default="lbfgs")
    parser.add_argument("--intermediate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=110.0, help="limit of a fit, wall clock")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=File, default=OUT)
    arguments = parser.parse_args()
    print(
        "| teacher | evaluations | best hand-made | its error | fitted | less by | seconds (CPU) |\n|---|---|---|---|---|---|---|"
    )
    for name in arguments.teachers:
        for row in measure(name, arguments.evaluations, arguments):
            print(
                f"| {name} | {row['evaluations']} | {row['best']} (of {row['hand_made']}) | {row['best_error']:.4f} | "
                f"{row['fitted_error']:.4f} | {row['gain']:.0%} | {row['seconds']:.0f} ({row['cpu_seconds']:.0f}) |",
                flush=True,
            )
            kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
            same = ("teacher", "evaluations", "learn")
            kept = [old for old in kept if any(old[key] != row[key] for key in same)]
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps([*kept, row], indent=1) + "\n")


if __name__ == "__main__":
    main()
