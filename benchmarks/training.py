"""What training costs: iterations per second of every recipe, the share of its time that networks take, and its peak memory.

    python benchmarks/training.py --space fashion [--recipe scm ect] [--seconds 12] [--threads 1] [--out benchmarks/results/training_fashion.json]

A recipe is run in a process of its own, on the bundled teacher or the exact one, with the batch, student and options that `wb.distill`
gives it (of stored pairs only 64 are made, which cost nothing in training). Its row is kept in `--cells`: a run that was stopped goes on
where it was, and a recipe that has changed since is measured again.

Seconds are those of the processor, so that what else the machine does counts little. A quarter of them warms up, the next part
measures plain steps (iterations per second, memory), and the last part the same steps with instruments:

    network   calls of a network of ours (student, target net, critic, discriminator, teacher), in forward and, where it has a
              gradient, backward. Forward is the outermost call alone, by a wrapper of the class. Backward begins where the gradient
              reaches the call's result, which passes through an identity, and ends where it leaves the call's arguments, or
              else with the backward pass: what lies between two networks in one pass, such as a loss of the first, counts as network
              where the second needs no gradient of its input. A derivative in time (`torch.func.jvp`) is one dearer call.
              An exact teacher (a mixture) counts as a network: it stands in the place of one. Heads of a discriminator count.
    update    gradient norm, optimiser step, moving averages of weights.
    rest      everything else within a step: drawing the batch, times and noise, targets, losses and their backward pass.

`over` is (network + rest) / network: what a recipe costs beside its networks, the update apart. The targets are a network share of at
least 90 % on Fashion-MNIST, and an `over` of at most 1.10 for recipes without a critic or discriminator.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn

import workbench as wb
from workbench.bench.cell import resident, signature
from workbench.denoiser import Network, Wrapper
from workbench.distill import loop, measuring
from workbench.distill.objectives import pointwise
from workbench.distill.recipes import RECIPES
from workbench.distill.several import Several
from workbench.errors import WorkbenchError
from workbench.files import read_json, write_json
from workbench.networks import new_network
from workbench.networks.dit import DiT
from workbench.networks.mlp import MLP

SPACES = {"eight_gaussians": "eight_gaussians", "digits": "digits/teacher", "fashion": "fashion/teacher"}
STUDENTS = {"digits": "digits/dmd2", "fashion": "fashion/dmd2"}  # what recipes that adapt a student are given
RESULTS = Path(__file__).parent / "results"
PAIRS, WARM, PLAIN = 64, 0.25, 0.35  # shares of the time; the rest is measured with instruments
LEAST = 3  # steps of each part
SHARE, OVER = 0.90, 1.10
HIGH_WATER = Path("/proc/self/status")


class Enough(Exception):
    """There are enough steps."""


class Stopwatch:
    """The loop's clock, which also knows what part of each step is whose; called at the beginning and at the end of every step.

    Raises:
        Enough: at the beginning of the first step that is not needed.
    """

    def __init__(self, seconds: float):
        self.seconds, self.inside, self.on, self.depth, self.whose = seconds, False, False, 0, "rest"
        self.plain: list[float] = []
        self.timed: list[float] = []
        self.spent = dict.fromkeys(("network", "update", "rest"), 0.0)
        self.steps, self.passed, self.since = 0, 0.0, 0.0
        self.before: float | None = None
        self.peak: float | None = None

    def __call__(self) -> float:
        if not self.inside:
            if self.passed > self.seconds and len(self.timed) >= LEAST:
                raise Enough
            self.before = high_water(reset=True) if not self.steps else self.before
            self.on = self.passed > (WARM + PLAIN) * self.seconds and len(self.plain) >= LEAST
            self.peak = high_water() if self.on and self.peak is None else self.peak
            self.whose, self.inside = "rest", True
            self.began = self.since = time.process_time()
            return self.began
        now = time.process_time()
        self.inside = False
        took = now - self.began
        if self.on:
            self.switch("rest")
            self.timed.append(took)
        elif self.passed > WARM * self.seconds and self.steps >= LEAST:
            self.plain.append(took)
        self.on, self.steps, self.passed = False, self.steps + 1, self.passed + took
        return now

    def switch(self, whose: str) -> None:
        """What follows belongs to `whose`."""
        now = time.process_time()
        self.spent[self.whose] += now - self.since
        self.whose, self.since = whose, now

    def of(self, whose: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, whose time is `whose`."""

        def timed(*inputs: Any, **more: Any) -> Any:
            if not self.on:
                return call(*inputs, **more)
            before = self.whose
            self.switch(whose)
            try:
                return call(*inputs, **more)
            finally:
                self.switch(before)

        return timed

    def network(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A method of a network: its forward time, and marks that find its backward time."""

        def timed(*inputs: Any, **more: Any) -> Any:
            if not self.on or self.depth:
                return call(*inputs, **more)
            marked = torch.is_grad_enabled() and torch._C._functorch.peek_interpreter_stack() is None
            if marked:
                inputs = tuple(self._mark(one, "rest") for one in inputs)
                more = {name: self._mark(one, "rest") for name, one in more.items()}
            self.depth += 1
            self.switch("network")
            try:
                made = call(*inputs, **more)
            finally:
                self.depth -= 1
                self.switch("rest")
            if not marked:
                return made
            return tuple(self._mark(one, "network") for one in made) if isinstance(made, tuple) else self._mark(made, "network")

        return timed

    def _mark(self, value: Any, whose: str) -> Any:
        return _Mark.apply(value, self, whose) if isinstance(value, Tensor) and value.requires_grad else value


class _Mark(torch.autograd.Function):
    """The identity; when the gradient passes, what follows belongs to `whose`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, watch: Stopwatch, whose: str) -> Tensor:
        ctx.watch, ctx.whose = watch, whose
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if ctx.watch.on:
            ctx.watch.switch(ctx.whose)
        return gradient, None, None


@contextlib.contextmanager
def instruments(watch: Stopwatch, teacher: Any) -> Iterator[None]:
    """Time the networks, the backward passes and the updates of every training within."""
    changed: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, value: Any) -> None:
        changed.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, value)

    def watched(kind: type) -> None:
        own = [name for name, held in vars(kind).items() if isinstance(held, FunctionType) and not name.startswith("_")]
        if not any(owner is kind for owner, *_ in changed):
            for name in (*own, "__call__"):
                replace(kind, name, watch.network(getattr(kind, name)))

    training = sys.modules["workbench.distill.distill"]
    train = training.train

    def begun(objective: Any, *inputs: Any, **more: Any) -> Any:
        for player in objective.players.values():
            watched(type(player))
        return train(objective, *inputs, **more)

    while isinstance(teacher, Wrapper):
        teacher = teacher.model
    for kind in (MLP, DiT, *(() if isinstance(teacher, Network) else (type(teacher),))):
        watched(kind)
    replace(training, "train", begun)
    replace(measuring.Measure, "__call__", lambda self, model, always=False: {})  # it is not training
    replace(torch.autograd, "backward", watch.of("rest", torch.autograd.backward))  # ends what a backward pass left open
    replace(torch.autograd, "grad", watch.of("rest", torch.autograd.grad))
    replace(nn.utils, "clip_grad_norm_", watch.of("update", nn.utils.clip_grad_norm_))
    replace(torch.optim.AdamW, "step", watch.of("update", torch.optim.AdamW.step))
    replace(loop, "_average", watch.of("update", loop._average))
    replace(pointwise, "follow", watch.of("update", pointwise.follow))
    try:
        yield
    finally:
        for owner, name, value in reversed(changed):
            setattr(owner, name, value) if value is not None else delattr(owner, name)


def fitted(name: str, space: str, teacher: Any) -> dict[str, Any]:
    """What a recipe is given beside the teacher, so that it can train: few pairs, a student to adapt, a reward."""
    recipe, given = RECIPES[name], {}
    objective = recipe.objective
    stores = (objective, getattr(objective, "start", None), getattr(objective, "regression", None))
    if any(getattr(store, "pairs", None) is not None for store in stores):
        given["count"] = PAIRS
    if getattr(objective, "adapts", False) or recipe.lora or recipe.adapters or hasattr(objective, "own_data"):
        if space in STUDENTS and getattr(objective, "adapts", False):
            given["init"] = wb.load(STUDENTS[space])
        elif space not in STUDENTS:  # untrained, which costs the same
            shape, classes = tuple(teacher.shape), int(teacher.classes)
            net = new_network(shape, classes, "flow", teacher.path.name)
            given["init"] = Network(net, teacher.path.name, "flow", shape, classes)
    if hasattr(objective, "own_data"):
        given["data"] = torch.randn(256, *teacher.shape)
    if "reward" in recipe.options():
        given["reward"] = lambda x, cond: x.flatten(1)[:, 0]
    if "forget" in recipe.options():
        given["forget"] = 1
    return given


def measure(name: str, space: str, seconds: float, folder: str | os.PathLike) -> dict[str, Any]:
    """The row of one recipe.

    Raises:
        WorkbenchError: if it does not fit the space, or is several runs of another recipe.
    """
    if isinstance(RECIPES[name].objective, Several):
        raise WorkbenchError(f"{name} trains each student by {RECIPES[name].objective.host}: a step costs what it costs there.")
    teacher, watch = wb.load(SPACES[space]), Stopwatch(seconds)
    with instruments(watch, teacher):
        running = wb.distill(
            teacher, name, run=Path(folder) / name, seconds=1e6, device="cpu", clock=watch, **fitted(name, space, teacher)
        )
        with contextlib.suppress(Enough):
            for _ in running:
                pass
    steps, total = len(watch.timed), sum(watch.timed)
    shares = {part: round(spent / total, 4) for part, spent in watch.spent.items()}
    return {
        "per_second": round(len(watch.plain) / sum(watch.plain), 3),
        "step_ms": round(1e3 * sum(watch.plain) / len(watch.plain), 3),
        **shares,
        "over": round((watch.spent["network"] + watch.spent["rest"]) / watch.spent["network"], 4),
        "players": players(name),
        "steps": [len(watch.plain), steps],
        "peak_mb": watch.peak,
        "before_mb": watch.before,
    }


def players(name: str) -> int:
    """How many players a recipe's row has rates for: 1 without a critic or discriminator."""
    return len(RECIPES[name].optim)


def high_water(reset: bool = False) -> float | None:
    """Peak resident memory in MB since the last reset, where the system lets it be reset; what is held now, on a reset."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = dict(line.split(":", 1) for line in HIGH_WATER.read_text().splitlines())
    except OSError:
        return resident()
    return round(int(lines["VmRSS" if reset else "VmHWM"].split()[0]) / 1024, 1)


def cell(name: str, asked: argparse.Namespace, place: Path) -> dict[str, Any]:
    """The row of a recipe: the stored one, or measured in a process of its own."""
    file = place / f"{name}.json"
    if file.exists() and (row := read_json(file)).get("signature") == signature(name) and "failed" not in row:
        return row
    words = ["--space", asked.space, "--seconds", str(asked.seconds), "--threads", str(asked.threads), "--one", name, str(file)]
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode or not file.exists():
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        write_json(file, {"recipe": name, "signature": signature(name), "failed": f"the process died: {said}"})
    return read_json(file)


def one(name: str, file: Path, asked: argparse.Namespace) -> None:
    """Measure in this process; what does not fit is a sentence in the row."""
    row: dict[str, Any] = {"recipe": name, "signature": signature(name)}
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        try:
            row |= measure(name, asked.space, asked.seconds, folder)
        except WorkbenchError as error:
            row["failed"] = str(error)
    write_json(file, row)


def text(row: dict[str, Any]) -> str:
    """One line."""
    if "failed" in row:
        return f"{row['recipe']:20} {row['failed']}"
    shares = "  ".join(f"{part} {row[part]:6.1%}" for part in ("network", "update", "rest"))
    memory = f"{row['peak_mb']:6.0f} MB" if row["peak_mb"] is not None else ""
    return f"{row['recipe']:20} {row['per_second']:8.2f} it/s  {shares}  over {row['over']:.3f}  {memory}"


def verdict(rows: list[dict[str, Any]], space: str) -> str:
    """Which recipes miss the targets."""
    there = [row for row in rows if "failed" not in row]
    slow = [f"{row['recipe']} ({row['over']:.2f})" for row in there if row["players"] == 1 and row["over"] > OVER]
    said = [f"over {OVER} without a critic: {', '.join(slow) or 'none'}"]
    if space == "fashion":
        low = [f"{row['recipe']} ({row['network']:.0%})" for row in there if row["network"] < SHARE]
        said.append(f"network share under {SHARE:.0%}: {', '.join(low) or 'none'}")
    return "\n".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="eight_gaussians", choices=sorted(SPACES))
    parser.add_argument("--recipe", nargs="+", default=["all"], metavar="NAME", help="recipes, or all")
    parser.add_argument("--seconds", type=float, default=12.0, help="processor time of training for a recipe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", type=Path, default=Path("runs/training"))
    parser.add_argument("--out", type=Path, help="default: results/training_SPACE.json beside this file, for all recipes")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.one:
        return one(asked.one[0], Path(asked.one[1]), asked)
    names = sorted(RECIPES) if asked.recipe == ["all"] else asked.recipe
    if wrong := [name for name in names if name not in RECIPES]:
        sys.exit(f"unknown recipe {wrong[0]!r}: one of {', '.join(sorted(RECIPES))}.")
    place = asked.cells / f"{asked.space}-{asked.seconds:g}s-{asked.threads}"
    rows = []
    for k, name in enumerate(names, 1):
        rows.append(cell(name, asked, place))
        print(f"{k:2}/{len(names)}  {text(rows[-1])}", flush=True)
    print(verdict(rows, asked.space))
    out = asked.out or (RESULTS / f"training_{asked.space}.json" if asked.recipe == ["all"] else None)
    if out:
        facts = {"space": asked.space, "seconds": asked.seconds, "threads": asked.threads, "clock": "processor",
                 "torch": torch.__version__, "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}"}  # fmt: skip
        write_json(out, {**facts, "rows": rows})
        print(out)


if __name__ == "__main__":
    main()
