"""One cell of the recipe benchmark: train a recipe on an exact teacher in this process, and measure its student.

`python -m workbench.bench.cell REQUEST` reads the JSON file REQUEST and writes its row beside it. Seconds are processor
time of one thread, training alone: neither what is prepared before (stored pairs) nor measuring counts.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench import metrics, zoo
from workbench.compare import fine_solution
from workbench.distill.distill import distill
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.objectives.starts import FromKeyPoints, FromPrior
from workbench.distill.recipes import Recipe, get
from workbench.errors import WorkbenchError
from workbench.files import read_json, write_json
from workbench.samplers.plan import Plan
from workbench.samplers.sample import Sampling, noise_for, sample

COUNTS = (1, 2, 4)
N, DRAWS, EARLY = 2048, 8, 2  # samples of a draw; draws at the end, and before it
PAIRED = 1024
MARKS = (0.125, 0.25, 0.5)  # shares of the budget at which the student is measured, beside the end
START = ("cd", 1 / 3)  # what adapts a few-step student is given one of this recipe, of this share of the budget
FIRST, DATA = 1_000_000, 2_000_000  # seeds of the first draw of a student, and of the data it is trained on


class Law:
    """Exact draws (n, d) of a teacher, the floor that they have among themselves, and figures of samples against them."""

    def __init__(self, teacher: Any, n: int = N, draws: int = DRAWS):
        self.teacher, self.n, d = teacher, n, teacher.shape[0]
        self.reach = 4.0 if d <= 4 else math.sqrt(d) + 3
        self.exact = [teacher.sample(n, seed=seed) for seed in range(draws)]
        others = (teacher.sample(n, seed=seed) for seed in range(draws, 2 * draws))
        self.floors = [metrics.sliced_wasserstein(x, y) for x, y in zip(others, self.exact, strict=True)]

    @property
    def floor(self) -> float:
        """Sliced Wasserstein distance of two exact draws, the mean over all of them."""
        return sum(self.floors) / len(self.floors)

    def distances(self, draws: Sequence[Tensor]) -> list[float]:
        """Sliced Wasserstein distance of each draw (n, d) to an exact one."""
        return [metrics.sliced_wasserstein(x.double(), y) for x, y in zip(draws, self.exact, strict=False)]

    def modes(self, x: Tensor) -> tuple[float, float]:
        """Fraction of modes that samples (n, d) reach, and of samples at none, by Mahalanobis distance to the nearest mode."""
        offset = x.double()[:, None] - self.teacher.means
        if self.teacher.axes is not None:
            offset = torch.einsum("kij,nki->nkj", self.teacher.axes, offset)
        near, mode = (offset / self.teacher.spectrum.sqrt()).norm(dim=2).min(1)
        inside = near <= self.reach
        return len(mode[inside].unique()) / len(self.teacher.means), float((~inside).double().mean())


def one_step_only(recipe: Recipe) -> bool:
    """Whether the student is only ever asked about pure noise in training, so that a second step asks what it never saw.

    >>> one_step_only(get("dmd2")), one_step_only(get("cd"))
    (True, False)
    """
    objective = recipe.objective
    times = getattr(getattr(objective, "inputs", None), "times", None)
    if times is not None:
        return len(times) == 1
    if not isinstance(objective, Pointwise):
        return getattr(getattr(objective, "sampling", None), "steps", 0) == 1
    return isinstance(objective.start, FromPrior) or getattr(objective.times, "share", None) == 0.0


def plan_of(sampling: Sampling, path: Any, evaluations: int) -> Plan | None:
    """The recipe's own sampler at a number of evaluations, or None where it has no such plan."""
    for steps in range(evaluations, 0, -1):
        try:
            plan = sampling.plan(path, steps)
        except WorkbenchError:
            continue
        if plan.evaluations == evaluations:
            return plan
    return None


def plans(recipe: Recipe, path: Any) -> dict[int, Plan | None]:
    """Evaluations -> plan of the student, None where it cannot be sampled with so many: chords between key points have one plan.

    >>> [count for count, plan in plans(get("keypoints").configured(keys=2), "linear").items() if plan]
    [2]
    """
    start = getattr(recipe.objective, "start", None)
    if isinstance(start, FromKeyPoints) and not recipe.adapters:
        chords = recipe.sampling.plan(path, schedule=list(start.pairs.times))
        return {count: chords if count == start.pairs.keys else None for count in COUNTS}
    counts = {count: plan_of(recipe.sampling, path, count) for count in COUNTS}
    return {count: None if count > 1 and one_step_only(recipe) else plan for count, plan in counts.items()}


def signature(recipe: str) -> str:
    """A short hash of a recipe as it is configured: a cell that holds another one is out of date."""
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(get(recipe))).encode()).hexdigest()[:12]


class Memory:
    """Peak resident memory of training: high-water marks that measuring has set do not count."""

    def __init__(self) -> None:
        self.base = self.peak = self.measured = resident()

    def before(self) -> None:
        """To be called before measuring."""
        if self.peak is not None and (now := resident()) > self.measured:
            self.peak = now

    def after(self) -> None:
        """To be called after measuring."""
        self.measured = resident()


def resident() -> float | None:
    """The high-water mark of this process in MB, or None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def measure(law: Law, samples: Callable[..., Tensor], plans: dict[int, Plan | None], draws: int) -> dict[str, Any]:
    """Evaluations -> sw2 over the floor, with the standard error of that ratio, and how modes are covered."""
    found: dict[str, Any] = {}
    for count, plan in plans.items():
        if plan is None:
            found[str(count)] = None
            continue
        drawn = [samples(law.n, steps=plan.steps, seed=FIRST + k, batch=law.n) for k in range(draws)]
        if not all(bool(torch.isfinite(x).all()) for x in drawn):
            raise WorkbenchError(f"the student's samples in {count} evaluations are not finite.")
        distances = law.distances(drawn)
        mean = sum(distances) / draws
        spread = (sum((one - mean) ** 2 for one in distances) / max(1, draws - 1)) ** 0.5
        hit, off = law.modes(torch.cat(drawn))
        found[str(count)] = {
            "sw2": round(mean, 5),
            "ratio": round(mean / law.floor, 4),
            "ratio_error": round(spread / draws**0.5 / law.floor, 4),
            "off_mode": round(off, 5),
            "modes": round(hit, 4),
        }
    return found


def paired(teacher: Any, student: Any, plans: dict[int, Plan | None]) -> dict[str, float | None]:
    """Evaluations -> RMS distance to the exact flow map from the same noise; None for a plan that adds noise of its own."""
    noise = noise_for(student, PAIRED, FIRST)
    exact = fine_solution(teacher, PAIRED, noise=noise, steps=128)
    found: dict[str, float | None] = {}
    for count, plan in plans.items():
        found[str(count)] = None
        if plan is not None and not any(stage.x.noise for stage in plan.stages):
            drawn = sample(student, PAIRED, steps=plan.steps, seed=FIRST, batch=PAIRED)
            found[str(count)] = round(metrics.trajectory_error(drawn, exact), 5)
    return found


def data_of(teacher: Any, seed: int, parts: int = 49) -> Any:
    """Exact draws to train on, with their classes, as many as `distill` takes, a part at a time: all at once take gigabytes."""
    drawn = [teacher.sample(N, seed=DATA + seed * parts + k, labels=True) for k in range(parts)]
    return tuple(torch.cat(each) for each in zip(*((x.float(), y) for x, y in drawn), strict=True))


def start_of(teacher: Any, recipe: Recipe, data: Any, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    """{"init": a few-step student} for a recipe that adapts one, else {}."""
    if not getattr(recipe.objective, "adapts", False):
        return {}
    name, share = START
    *_, last = distill(teacher, name, data, folder, seconds=share * seconds, seed=seed, device="cpu", clock=time.process_time)
    return {"init": last.student}


def run(space: str, recipe: str, seconds: float, seed: int, folder: Path, n: int = N, draws: int = DRAWS) -> dict[str, Any]:
    """Train and measure one recipe; checkpoints go to `folder`. Its student is judged by `draws` draws of n samples.

    Raises:
        WorkbenchError: whatever training or measuring finds wrong.
    """
    teacher = zoo.load(space)
    law, chosen = Law(teacher, n, draws), get(recipe).fitted(tuple(teacher.shape), fresh=True)
    able, memory, data = plans(chosen, teacher.path), Memory(), data_of(teacher, seed)
    began, marks, curve = time.process_time(), list(MARKS), []
    start = start_of(teacher, chosen, data, seconds, seed, folder / "start")
    preparing = time.process_time() - began if start else 0.0
    training = distill(
        teacher, recipe, data, folder, seconds=seconds, seed=seed, device="cpu", clock=time.process_time, **start
    )
    for progress in training:
        if progress.stage not in ("train", "done"):
            preparing = time.process_time() - began
        elif progress.stage == "done" or (marks and progress.seconds >= marks[0] * seconds):
            marks = [mark for mark in marks if mark * seconds > progress.seconds]
            memory.before()
            figures = measure(law, progress.samples, able, draws if progress.stage == "done" else EARLY)
            ratios = {count: one and one["ratio"] for count, one in figures.items()}
            curve.append([round(progress.seconds, 2), progress.step, ratios])
            memory.after()
    if isinstance(chosen.objective, Pointwise):
        for count, error in paired(teacher, progress.student, able).items():
            if figures[count]:
                figures[count]["paired"] = error
    return {
        "steps": progress.step,
        "seconds": round(progress.seconds, 2),
        "preparing": round(preparing, 2),
        "per_second": round(progress.step / progress.seconds, 2),
        "peak_mb": memory.peak,
        "base_mb": memory.base,
        "parameters": sum(p.numel() for p in progress.student.net.parameters()),
        "floor": round(law.floor, 5),
        "off_mode_floor": round(law.modes(torch.cat(law.exact))[1], 5),
        "figures": figures,
        "curve": curve,
    }


def main(file: str) -> None:
    """Answer one request; what goes wrong is a sentence in the row."""
    torch.set_num_threads(1)
    place = Path(file)
    asked = read_json(place)
    head = {name: asked[name] for name in ("space", "recipe", "settings", "signature")}
    try:
        row = run(asked["space"], asked["recipe"], folder=place.parent / "run", **asked["settings"])
    except WorkbenchError as error:
        row = {"failed": str(error)}
    except Exception as error:
        traceback.print_exc()
        row = {"failed": f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}"}
    write_json(Path(asked["out"]), {**head, **row})


if __name__ == "__main__":
    main(sys.argv[1])
