"""How soon a student of images is recognised: class agreement of its one-step samples while it trains from the bundled teacher.

    python benchmarks/recognisable.py --space fashion --recipe dmd2 --seconds 600 --threads 1 turns=2 judged=0.25 lr=3e-4 ema=0.98

Prints a line a minute: step, seconds of training of the processor, agreement of 200 samples balanced over the classes. On two idle cores that
train one run, 600 of these seconds are five minutes of the clock or a little more.

With `--tab` the run is the one that the app's tab Distill starts: in a process of its own, with the threads that it takes, reporting as for the tab. A
line every fifteen seconds of the clock since Start says how many of the samples that the tab shows are in their class, and the last one what the
finished student has; `--seconds` are then the tab's, of training.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import workbench as wb
from workbench import training
from workbench.errors import WorkbenchError, unknown
from workbench.training import switches
from workbench.training.form import changed

N, EVERY, LOOK = 200, 60.0, 15.0


def options_of(recipe: str, words: list[str]) -> dict[str, Any]:
    """Options of a recipe from words NAME=VALUE.

    Raises:
        WorkbenchError: for a word of another form. UnknownName: for an option that the recipe does not have.
    """
    known, asked = switches(recipe), {}
    for word in words:
        name, found, value = word.partition("=")
        if not found:
            raise WorkbenchError(f"{word!r} is no option: write NAME=VALUE, such as turns=2.")
        if name not in known:
            raise unknown(f"option of recipe {recipe!r}", name, known)
        asked[name] = value
    return changed(known, asked)


def agreement(space: str, x: torch.Tensor) -> float:
    """Share of samples (n, ...) in their class, which is k mod 10 for the k-th."""
    return wb.metrics.class_agreement(wb.metrics.image_logits(space, x), torch.arange(len(x)) % 10)


def in_tab(space: str, recipe: str, seconds: float, options: dict[str, Any]) -> None:
    """Start the run as the tab does, and look at what it shows.

    Raises:
        WorkbenchError: if the run fails.
    """
    with tempfile.TemporaryDirectory() as home:
        began, run, due = (
            time.monotonic(),
            training.start(f"{space}/teacher", recipe, seconds, options=options, home=home),
            LOOK,
        )
        while (state := run.state(history=False)).name in ("preparing", "running"):
            time.sleep(0.5)
            shown, _, step = run.samples()
            if time.monotonic() - began < due or shown is None or not step:
                continue
            spent = time.monotonic() - began
            due = spent // LOOK * LOOK + LOOK
            print(
                f"{spent:4.0f} s after Start  step {step:5d}  {agreement(space, shown):.3f} of {len(shown)} shown", flush=True
            )
        spent = time.monotonic() - began
        if state.name != "done":
            raise WorkbenchError(state.sentence)
        student = wb.load(run.folder / "student")
        made = wb.sample(student, N, torch.arange(N) % 10, seed=0)
        print(
            f"{spent:4.0f} s after Start  done at step {state.step}  agreement {agreement(space, made):.3f} of {N}, steps: {student.sampling.steps}",
            flush=True,
        )


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="fashion", choices=("digits", "fashion"))
    parser.add_argument("--recipe", default="dmd2")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tab", action="store_true", help="the run that the tab Distill starts, by the clock")
    parser.add_argument("options", nargs="*", metavar="NAME=VALUE", help="of the recipe")
    given = parser.parse_args(words)
    torch.set_num_threads(given.threads)
    labels, due = torch.arange(N) % 10, 0.0
    try:
        options = options_of(given.recipe, given.options)
        if given.tab:
            in_tab(given.space, given.recipe, given.seconds, options)
            return 0
        for progress in wb.distill(
            wb.load(f"{given.space}/teacher"), given.recipe, run=tempfile.mkdtemp(), seconds=given.seconds,
            clock=time.process_time, report_seconds=2.0, **options,
        ):  # fmt: skip
            if progress.average is None or (progress.seconds < due and progress.stage != "done"):
                continue
            due = progress.seconds // EVERY * EVERY + EVERY
            found = agreement(given.space, progress.samples(N, labels, seed=0))
            print(f"step {progress.step:5d}  {progress.seconds:5.0f} s  agreement {found:.3f}", flush=True)
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
