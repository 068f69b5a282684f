"""Claims: one comparative statement of a paper, tried at small scale against its proper baseline at equal budget, over seeds.

A `Claim` has arms, each a recipe with options, and checks, each a figure of one arm against that of another. An arm and a seed
is a cell: a JSON file in a folder, made in a process of one thread, so a run that was stopped goes on where it was, and
claims that share an arm share its cells. A cell whose arm is configured otherwise now, or that failed, is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from workbench.bench.claim_verdict import RULE, summary, told, verdict
from workbench.bench.describe import described
from workbench.distill.recipes import RECIPES, get
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.files import read_json, write_json

CELLS = Path("runs") / "claims"
CHILD = ("-m", "workbench.bench.claim_cell")  # what measures one cell, given a request
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Arm:
    """What is trained and how it is measured.

    Attributes:
        recipe: a name, or "" for the teacher itself, untrained. options: of the recipe.
        teacher, law, data: names of spaces (see `claim_cell.SPACES`): what is distilled, what samples are compared with (the teacher's
            law by default), and what it is trained on (draws of the law by default).
        network: size of a fresh student, such as {"width": 64}. init: name of a model to start from, or "".
        share: of the claim's seconds. steps: of training at most, or None.
        counts: evaluations at which the student is measured. samplers: further samplers beside the recipe's own.
        guidance: scale at which it is sampled, or None for its own. labelled: its points are asked for by label, each as often.
    """

    recipe: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    teacher: str = "eight_gaussians"
    law: str = ""
    data: str = ""
    network: dict[str, int] = field(default_factory=dict)
    init: str = ""
    share: float = 1.0
    steps: int | None = None
    counts: tuple[int, ...] = (1,)
    samplers: tuple[str, ...] = ()
    guidance: float | None = None
    labelled: bool = False


@dataclass(frozen=True)
class Check:
    """A figure of an arm against the same figure of another, or against a constant.

    Attributes:
        arm, other: names of arms. metric: name of a figure, such as "ratio@1" (see `claim_cell`). want: "lower" or "higher".
        factor: on the other's figure: 1.1 with "lower" is "no worse within 10 %". limit: a constant in place of an arm.
        other_metric: of the other arm, where it is another figure.
    """

    arm: str
    metric: str
    other: str = ""
    want: str = "lower"
    factor: float = 1.0
    limit: float | None = None
    other_metric: str = ""

    def __post_init__(self):
        if self.want not in ("lower", "higher"):
            raise unknown("want", self.want, ("lower", "higher"))
        if (self.limit is None) == (self.other == ""):
            raise WorkbenchError("a check compares with another arm or with a limit: give one of them.")

    @property
    def strict(self) -> bool:
        """Whether equality is not enough."""
        return self.limit is None and self.factor == 1

    def says(self) -> str:
        """The check in words."""
        if self.limit is not None:
            return f"{self.metric} of {self.arm} is at {'most' if self.want == 'lower' else 'least'} {self.limit:g}"
        named = f"{self.other_metric} of {self.other}" if self.other_metric else f"that of {self.other}"
        times = "" if self.factor == 1 else f"{self.factor:g} times "
        return f"{self.metric} of {self.arm} is {self.want} than {times}{named}"


@dataclass(frozen=True)
class Claim:
    """One statement of a paper.

    Attributes:
        name: of the claim; the first word is its recipe's. recipe, paper, sentence: whose, where, and what is claimed.
        arms: by name. checks: all of which must hold. seconds: processor time of training for an arm and a seed.
        note: what differs from the paper's own setting. breaks: arms that are claimed to leave the law, which is no doubt then.
    """

    name: str
    recipe: str
    paper: str
    sentence: str
    arms: dict[str, Arm]
    checks: tuple[Check, ...]
    seconds: float = 20.0
    note: str = ""
    breaks: tuple[str, ...] = ()

    def __post_init__(self):
        compared = [arm for check in self.checks for arm in (check.arm, check.other) if arm]
        for arm in (*compared, *self.breaks):
            if arm not in self.arms:
                raise unknown(f"arm of claim {self.name!r}", arm, self.arms)

    def missing(self) -> list[str]:
        """Recipes of its arms that the workbench does not have."""
        return sorted({arm.recipe for arm in self.arms.values() if arm.recipe and arm.recipe not in RECIPES})

    def cost(self, seeds: int = len(SEEDS)) -> float:
        """Seconds of training for all arms and seeds."""
        return seeds * self.seconds * sum(arm.share for arm in self.arms.values() if arm.recipe)


def claims() -> tuple[Claim, ...]:
    """Every claim that is written down."""
    from workbench.bench import claim_rows, claim_rows_dm

    return (*claim_rows.ROWS, *claim_rows_dm.ROWS)


def of(recipe: str) -> list[Claim]:
    """The claims of a recipe.

    Raises:
        UnknownName: for a name that no recipe and no claim has. WorkbenchError: for a recipe without a claim.
    """
    known = {claim.recipe for claim in claims()}
    if recipe not in known:
        if recipe in RECIPES:
            raise WorkbenchError(
                f"no claim is written down for recipe {recipe!r}; there is one for {', '.join(sorted(known))}."
            )
        raise unknown("recipe", recipe, {*known, *RECIPES})
    return [claim for claim in claims() if claim.recipe == recipe]


# ---- cells --------------------------------------------------------------------------------------------------------------


def signature(arm: Arm, seconds: float) -> str:
    """A short hash of an arm as it is configured now: of its options, its recipe's row and its budget."""
    row = {}
    if arm.recipe:
        recipe = get(arm.recipe)
        chosen = recipe.configured(**arm.options)
        row = {
            item.name: described(getattr(chosen, item.name))
            for item in fields(chosen)
            if item.name not in ("summary", "points")
        }
        row["points"] = described({**recipe.points, **arm.options})
    text = json.dumps([described(arm), row, seconds * arm.share], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Cell:
    """An arm and a seed at a budget."""

    arm: Arm
    seconds: float
    seed: int

    def file(self, cells: Path) -> Path:
        """Where its row is kept."""
        return cells / f"{self.arm.recipe or 'teacher'}-{signature(self.arm, self.seconds)}-seed{self.seed}.json"

    def row(self, cells: Path) -> dict[str, Any] | None:
        """What is kept of it, or None."""
        file = self.file(cells)
        return read_json(file) if file.exists() else None


def measured(
    claim: Claim, seconds: float, seeds: Sequence[int], cells: Path, jobs: int = 1
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Every cell of a claim with its row; those that are not there, or failed, are made, `jobs` at once."""
    wanted = {Cell(arm, seconds, seed).file(cells): Cell(arm, seconds, seed) for arm in claim.arms.values() for seed in seeds}
    left = []
    for cell in wanted.values():
        row = cell.row(cells)
        if row is not None and "failed" not in row:
            yield cell, row
        else:
            left.append(cell)
    with ThreadPoolExecutor(jobs) as pool:
        made = {pool.submit(_make, cell, cells): cell for cell in left}
        try:
            for future in as_completed(made):
                yield made[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _make(cell: Cell, cells: Path) -> dict[str, Any]:
    """Measure a cell in a process of its own; one that takes ten times its budget and ten minutes is ended."""
    out = cell.file(cells).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    row: dict[str, Any] = {"recipe": cell.arm.recipe, "seed": cell.seed, "seconds": cell.seconds * cell.arm.share}
    row |= {"signature": signature(cell.arm, cell.seconds), "arm": described(cell.arm)}
    environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")}
    source = str(Path(__file__).resolve().parents[2])  # the child finds this package, installed or not
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [source, environment.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="workbench-claim-", ignore_cleanup_errors=True) as folder:
        request = Path(folder) / "request.json"
        write_json(request, {"head": row, "out": str(out), "claim": _place(cell.arm)})
        try:
            ended = subprocess.run(
                [sys.executable, *CHILD, str(request)], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment,
                timeout=10 * cell.seconds + 600,
            )  # fmt: skip
            said, status = ended.stderr.strip().splitlines(), f"status {ended.returncode}"
        except subprocess.TimeoutExpired:
            said, status = [], "it took too long"
    if not out.exists():
        told = f"; its last line: {said[-1]}" if said else ""
        write_json(out, row | {"failed": f"its process ended without a row ({status}){told}"})
    return read_json(out)


def _place(arm: Arm) -> list[str]:
    """Where an arm is written down, (claim, arm): options hold parts, which JSON does not."""
    for claim in claims():
        for name, one in claim.arms.items():
            if one == arm:
                return [claim.name, name]
    raise WorkbenchError(f"an arm of recipe {arm.recipe!r} is in no claim: add it to the rows.")


def arm_at(place: Sequence[str]) -> Arm:
    """The arm of a (claim, arm)."""
    return next(claim for claim in claims() if claim.name == place[0]).arms[place[1]]


def run(
    recipe: str,
    seeds: Sequence[int] = SEEDS,
    seconds: float | None = None,
    jobs: int = 1,
    cells: str | os.PathLike = CELLS,
    tell: Any = print,
) -> dict[str, Any]:
    """Measure what is missing of a recipe's claims, and judge them.

    Args:
        seconds: of processor time for an arm and a seed, in place of the claim's own. jobs: processes at once. tell: called with lines.

    Raises:
        UnknownName: for an unknown recipe. WorkbenchError: for a recipe without a claim or that does not exist yet, or impossible numbers.
    """
    chosen = of(recipe)
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= 86_400
    ):
        raise WorkbenchError(f"seconds is {seconds!r}, but must be a positive number, at most a day.")
    jobs, seeds = check_count("jobs", jobs, 1, 256), [check_count("seed", seed, 0, 2**31 - 1) for seed in seeds]
    if not seeds:
        raise WorkbenchError("no seeds are given: a claim is judged over at least two.")
    lacking = sorted({name for claim in chosen for name in claim.missing()})
    if lacking:
        raise WorkbenchError(f"the claims of {recipe!r} need recipes that are not there yet: {', '.join(lacking)}.")
    found = []
    for claim in chosen:
        budget = claim.seconds if seconds is None else float(seconds)
        named = {(arm, name) for name, arm in ((name, signature(arm, budget)) for name, arm in claim.arms.items())}
        rows: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in claim.arms}
        for cell, row in measured(claim, budget, seeds, Path(cells), jobs):
            for key, name in named:
                if key == signature(cell.arm, budget):
                    rows[name][cell.seed] = row
                    tell(f"  {claim.name}: {name}, seed {cell.seed}: {told(row)}")
        found.append(verdict(claim, rows, budget))
        tell(summary(found[-1]))
    return collect(recipe, found, seeds)


def collect(recipe: str, found: list[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """Judged claims with what they were measured on."""
    import torch

    return {
        "recipe": recipe,
        "seeds": list(seeds),
        "rule": RULE,
        "versions": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0], "workbench": sys.modules["workbench"].__version__},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}; one thread a cell, seconds of processor time",
        "claims": found,
    }  # fmt: skip
