"""Where a student begins whose teacher has no weights to give: it first learns the teacher's own estimates (TSM).

The papers that match distributions start student and critic from the teacher's network. An exact teacher has none, and a network of another
size cannot hold it; teacher score matching (MSD, arXiv 2410.23274, section 3.3) is the stand-in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.denoiser import Denoiser
from workbench.distill.loop import Optim, Progress
from workbench.distill.objectives.parts import L2
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.objectives.targets import TeacherSteps
from workbench.distill.objectives.twinflow import AnyStep
from workbench.distill.recipe import Recipe
from workbench.errors import WorkbenchError
from workbench.files import write_json
from workbench.samplers.sample import Sampling
from workbench.student import CARD

FOLDER = "start"  # in the run's folder
RATE = 3e-4


def check_matched(share: float) -> None:
    """Raises WorkbenchError unless 0 <= share < 1."""
    if not 0 <= share < 1:
        raise WorkbenchError(f"matched is {share}, but is a share of the run, from 0 to below 1.")


def matching(recipe: Recipe, shape: tuple[int, ...]) -> Recipe:
    """Regression on the teacher's own estimates at all times, with the batch and label dropout of a recipe."""
    objective = Pointwise(
        times=AnyStep(equal=1.0, top=0.0), target=TeacherSteps(0), metric=L2(), compare="velocity",
        guidance=1.0, dropout=float(getattr(recipe.objective, "dropout", 0.0)),
    )  # fmt: skip
    sampling = Sampling("consistency", 1) if getattr(recipe.objective, "two_times", False) else recipe.sampling
    made = Recipe("tsm", "arXiv 2410.23274", "Teacher score matching.", objective, sampling, {"student": Optim(lr=RATE)})
    return made.fitted(shape, fresh=True).configured(batch=recipe.batch)


def begun(
    teacher: Denoiser, recipe: Recipe, data: Any, folder: Path, steps: int | None, seconds: float | None, network: dict[str, int] | None,
    **more: Any,
) -> Iterator[Progress]:  # fmt: skip
    """`distill` of a fitted recipe whose student starts from nothing: its share `matched` of steps and seconds goes to the start."""
    from workbench.distill.distill import distill

    share, rest = recipe.matched, recipe.configured(matched=0.0)
    first = {
        "steps": None if steps is None else max(1, round(share * steps)),
        "seconds": None if seconds is None else share * seconds,
    }
    left = {
        "steps": None if steps is None else max(1, steps - first["steps"]),
        "seconds": None if seconds is None else seconds - first["seconds"],
    }
    named = more.pop("name")
    start = matching(recipe, tuple(teacher.shape))
    for progress in distill(teacher, start, data, folder / FOLDER, network=network, **first, **more):
        if progress.stage != "done":  # it says again what the last step has said
            yield replace(progress, steps=steps, warning="")
    before, spent, student = progress.step, progress.seconds, progress.student
    for progress in distill(teacher, rest, data, folder, init=student, name=named, **left, **more):
        progress = replace(progress, step=before + progress.step, seconds=spent + progress.seconds, steps=steps)
        if progress.student is not None:
            card = progress.student.card
            card["trained"] |= {"steps": progress.step, "seconds": round(progress.seconds, 1), "matched": share}
            write_json(folder / "student" / CARD, card)
        yield progress
