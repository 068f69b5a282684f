"""How many bits does few-step sampling need, and does stochastic rounding lower the bias?

    python benchmarks/precision.py [--n 4096] [--seed 0] [--out benchmarks/results/precision.json]

A 2-D mixture of three modes off the centre (so that a mean can be biased), DPM-Solver++(2M) at 8 steps and Euler at 250,
to the nearest and stochastic, once with state and coefficients rounded and once with the state alone. Prints the tables.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import workbench as wb
from workbench.precision import PLACES, ROUNDINGS, precision

BITS = (23, 16, 12, 10, 8, 7, 6, 5, 4)
PLANS = (("dpmpp_2m", 8), ("euler", 250))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "precision.json")
    arguments = parser.parse_args()
    teacher = wb.mixture([[2.0, 0.3], [0.9, 1.4], [0.6, -0.7]], [0.2, 0.3, 0.1], weights=[0.5, 0.3, 0.2])
    results = []
    for sampler, steps in PLANS:
        plan = wb.plan(sampler, "linear", steps)
        for where in (PLACES, ("state",)):
            for rounding in ROUNDINGS:
                began = time.perf_counter()
                found = precision(plan, teacher, BITS, rounding, where, arguments.n, arguments.seed)
                print(found, f"({time.perf_counter() - began:.0f} s)\n", flush=True)
                results.append(
                    {
                        "sampler": sampler,
                        "steps": steps,
                        "rounding": rounding,
                        "where": list(where),
                        "floor": found.floor,
                        "safe": found.safe,
                        "rows": [row._asdict() for row in found.rows],
                    }
                )
    content = {
        "command": f"python benchmarks/precision.py --n {arguments.n} --seed {arguments.seed}",
        "n": arguments.n,
        "seed": arguments.seed,
        "teacher": "three modes at (2, 0.3), (0.9, 1.4), (0.6, -0.7), deviations 0.2, 0.3, 0.1, weights 0.5, 0.3, 0.2",
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
