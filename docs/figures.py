"""Make the site's figures and its table of noise floors: python docs/figures.py

Everything is seeded and takes under a minute on two cores; figures are drawn by `workbench.views` and written as SVG.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import workbench as wb
from workbench import metrics
from workbench.compare import Column
from workbench.views import notebook, sketch

HERE = Path(__file__).resolve().parent / "figures"
COUNTS = (100, 400, 1600)
SEEDS = 5


def schedules() -> str:
    """Ten steps of each schedule on the variance-preserving path."""
    names = ("uniform", "quadratic", "karras", "logsnr")
    return sketch.svg(wb.views.log_snr({name: wb.plan("ddim", "vp", 10, schedule=name) for name in names}))


def plan() -> str:
    """DPM-Solver++(2M) as a table."""
    return sketch.svg(wb.views.plan_table(wb.plan("dpmpp_2m", "linear", 6)))


def paths() -> str:
    """What a teacher at 25 steps and at 4 steps does with the same noise."""
    teacher = wb.load("eight_gaussians")
    columns = {"25 steps of Heun": 25, "4 steps of Heun": 4}
    result = wb.compare([Column(teacher, label, steps=steps) for label, steps in columns.items()], n=60)
    exact = notebook.density(teacher.log_density)
    return sketch.svg(notebook.particle_row(result.trajectories, exact, "How does the same noise become data?"))


def decided() -> str:
    """How far the x0 estimate of each step is from the final image."""
    columns = ["digits/teacher", Column("digits/consistency", steps=4), Column("digits/dmd2", steps=4)]
    result = wb.compare(columns, n=64, cond=torch.arange(64) % 10)
    return sketch.svg(wb.views.target_distance(result.trajectories))


def orders() -> str:
    """Error against steps of four solvers on an exact teacher, from the same noise."""
    teacher = wb.mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5])
    noise = torch.randn(256, 2, generator=torch.Generator().manual_seed(0)).double()

    def end(sampler: str, steps: int) -> torch.Tensor:
        return wb.record(wb.run(wb.plan(sampler, teacher.path, steps), teacher, noise)).final

    exact = end("heun", 1024)
    counts = (4, 8, 16, 32, 64, 128)
    errors = {
        name: [(steps, metrics.trajectory_error(end(name, steps), exact)) for steps in counts]
        for name in ("euler", "heun", "dpmpp_2m")
    }
    return sketch.svg(wb.views.error_curve(errors))


def stability() -> str:
    """Stability regions with and without momentum."""
    from workbench.samplers.stability import stability_region

    window = {"real": (-6.5, 0.7), "imag": 1.7, "points": 181}
    chosen = {
        "Euler": ("euler", {}),
        "GHVB 1, β = 0.5": ("ghvb", {"order": 1, "beta": 0.5}),
        "AB 2": ("ab", {"order": 2}),
        "GHVB 2, β = 0.5": ("ghvb", {"order": 2, "beta": 0.5}),
        "HB 2, β = 0.5": ("hb", {"order": 2, "beta": 0.5}),
    }
    regions = {label: stability_region(name, **window, **options) for label, (name, options) in chosen.items()}
    return sketch.svg(wb.views.stability_regions(regions))


Draw = Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]


def points(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two draws of n points of the law itself."""
    teacher = wb.load("eight_gaussians")
    return teacher.sample(n, seed=2 * seed), teacher.sample(n, seed=2 * seed + 1)


def digits(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two disjoint sets of n real digits."""
    real, _ = metrics.reference("digits")
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    return real[order[:n]], real[order[n : 2 * n]]


ROWS: dict[str, tuple[Callable, Draw]] = {
    "`sliced_wasserstein`": (metrics.sliced_wasserstein, points),
    "`wasserstein2`": (metrics.wasserstein2, points),
    "`energy_distance`": (metrics.energy_distance, points),
    "`mmd`": (metrics.mmd, points),
    "`frechet_distance`": (metrics.frechet_distance, digits),
    "`kid`": (lambda x, y: metrics.kid(x, y, subsets=10), digits),
    "precision": (lambda x, y: metrics.precision_recall(x, y).precision, digits),
    "recall": (lambda x, y: metrics.precision_recall(x, y).recall, digits),
    "density": (lambda x, y: metrics.density_coverage(x, y).density, digits),
    "coverage": (lambda x, y: metrics.density_coverage(x, y).coverage, digits),
}


def floor(name: str, n: int) -> str:
    """Mean and spread of a metric between two draws of real data, over five seeds."""
    metric, draw = ROWS[name]
    values = torch.tensor([float(metric(*draw(n, seed))) for seed in range(SEEDS)], dtype=torch.float64)
    return f"{float(values.mean()):.3g} ± {float(values.std()):.1g}"


def floors() -> Iterator[str]:
    """The table, line by line; the digits end at 898, half of what there is."""
    yield "| metric | data | n = 100 | n = 400 | n = 1600 (digits: 898) |"
    yield "|---|---|--:|--:|--:|"
    for name, (_, draw) in ROWS.items():
        where = "eight Gaussians" if draw is points else "digits, features"
        cells = (floor(name, min(n, 898) if draw is digits else n) for n in COUNTS)
        yield f"| {name} | {where} | {' | '.join(cells)} |"


FIGURES = {"schedules": schedules, "plan": plan, "paths": paths, "decided": decided, "orders": orders, "stability": stability}


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (HERE / f"{name}.svg").write_text(draw() + "\n", encoding="utf-8")
    (HERE / "floors.md").write_text("\n".join(floors()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
