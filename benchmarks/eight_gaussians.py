"""Distil the exact eight Gaussians in a minute a recipe, and compare one step with two draws of the exact law.

    python benchmarks/eight_gaussians.py [--seconds 60] [--recipes reflow consistency]

Prints, for each recipe, the one-step sliced 2-Wasserstein distance to exact draws and its noise floor, both as means over
`--draws` pairs of n samples: a single floor moves by a factor of three with the luck of the mode counts.
"""

from __future__ import annotations

import argparse
import tempfile

import workbench as wb
from workbench.metrics import sliced_wasserstein


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--recipes", nargs="+", default=["reflow", "consistency"])
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--draws", type=int, default=8)
    arguments = parser.parse_args()
    teacher, n, draws = wb.load("eight_gaussians"), arguments.n, arguments.draws
    exact = [teacher.sample(n, seed=seed) for seed in range(2 * draws)]
    floor = sum(sliced_wasserstein(x, y) for x, y in zip(exact[:draws], exact[draws:], strict=True)) / draws
    for recipe in arguments.recipes:
        with tempfile.TemporaryDirectory() as run:
            for progress in wb.distill(teacher, recipe, run=run, seconds=arguments.seconds):
                last = progress
            student = last.student
            drawn = [wb.sample(student, n, seed=seed).double() for seed in range(draws)]
        distance = sum(sliced_wasserstein(x, y) for x, y in zip(drawn, exact[:draws], strict=True)) / draws
        settings = f"n = {n}, {draws} draws, nfe = 1, {last.step} steps in {last.seconds:.0f} s"
        print(f"{recipe}: sw2 = {distance:.4f} (floor {floor:.4f}, ratio {distance / floor:.2f}; {settings})", flush=True)


if __name__ == "__main__":
    main()
