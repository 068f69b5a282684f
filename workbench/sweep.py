"""Which sampler should this student be run with? Every combination from the same noise, one honest row for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from workbench import metrics, schedules
from workbench.callable_module import make_callable
from workbench.compare import (
    FINE_STEPS,
    FRECHET_LEAST,
    Column,
    columns_of,
    distance_to_law,
    exact_of,
    fine_solution,
    space_of,
    teacher_of,
)
from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.samplers import SAMPLERS
from workbench.samplers.plan import Plan
from workbench.samplers.run import run
from workbench.samplers.sample import default_sampling, labels, noise_for, prepare

if TYPE_CHECKING:
    import pandas

STEPS = (1, 2, 4, 8)
USUAL_SAMPLERS = ("euler", "heun", "ddim", "dpmpp_2m", "consistency", "flow_map")  # one of each kind; the others by name
USUAL_SCHEDULES = ("uniform", "logsnr", "karras", "quadratic", "shift", "trailing")
BATCH = 512
ERROR = "error to fine solution"


class SweepRow(NamedTuple):
    """One combination, measured.

    Attributes:
        label: of the model. sampler, schedule, steps: what ran. own: whether this is the model's own plan at this count.
        nfe: network evaluations per sample, counted; None if nothing ran. guidance: classifier-free scale.
        metric: name of the figure. value: the figure, NaN if the combination cannot run. floor: see `sweep`.
        ms_per_image: computing time of a sample, milliseconds. n: samples. seed: of the noise.
        note: why it cannot run, or which earlier row made the same updates (they are not run twice).
    """

    label: str
    sampler: str
    schedule: str
    steps: int
    nfe: int | None
    guidance: float
    metric: str
    value: float
    floor: float
    ms_per_image: float
    n: int
    seed: int
    own: bool = False
    note: str = ""

    def __str__(self) -> str:
        what = f"{self.label}: {self.sampler}, {self.steps} {self.schedule} step{'s' * (self.steps != 1)}"
        if not math.isfinite(self.value):
            return f"{what}: {self.note}"
        measured = (
            f"{self.metric} = {self.value:.3g} (floor {self.floor:.3g}, n = {self.n}, nfe = {self.nfe}, seed {self.seed})"
        )
        return f"{what}: {measured}{', its own plan' if self.own else ''}"


class _Yardstick(NamedTuple):
    """How the samples of one model are judged, and the distance that means nothing."""

    metric: str
    of: Callable[[Tensor], float]
    floor: float


class _Cell(NamedTuple):
    """One combination before it runs; `plan` is None with the reason where there is none."""

    sampler: str
    schedule: str
    steps: int
    plan: Plan | None
    own: bool
    reason: str = ""


def sweep(
    models: Any,
    samplers: Sequence[str] | str | None = None,
    schedules: Sequence[str] | str | None = None,
    steps: Sequence[int] | int | None = None,
    n: int = 500,
    cond: Any = "all",
    seed: int = 0,
    guidance: float | None = None,
) -> Iterator[SweepRow]:
    """Run every sampler on every schedule at every number of steps from the same noise, yielding a row for each; `break` stops.

    The figure is the sliced 2-Wasserstein distance to the exact law for analytic teachers and their students, the Frechet
    distance on bundled features for digits and fashion, and elsewhere the RMS error to the teacher's 64-step solution from
    the same noise. Its floor is the same between two draws of the law; for the RMS error, between the teacher's solutions
    in 64 and 32 steps. A combination that cannot run is a row too, with the reason in `note`.

    Args:
        models: as for `workbench.compare`; a `Column`'s sampler and schedule are then what counts as its own plan.
        samplers, schedules: names, or "all"; by default one sampler of each kind and six schedules. Times that the model's
            card holds for a count join the default schedules.
        steps: counts; by default 1, 2, 4 and 8, and the model's own plan at its own count.
        cond: a label, n labels, None, or "all": every class in turn, where the model has classes.
        guidance: classifier-free scale, 1 for none; the model's own by default.

    Raises:
        UnknownName: for an unknown model, sampler or schedule. WorkbenchError: for an impossible count or condition, for
            fewer than 200 images, or for a model that there is nothing to measure against.

    >>> [(row.sampler, row.nfe, row.own) for row in sweep("moons", ["euler", "heun"], "uniform", 4, n=50)]
    [('euler', 4, False), ('heun', 7, True)]
    """
    n = check_count("n", n, 2, 20_000)
    chosen = _names("sampler", samplers, SAMPLERS), _names("schedule", schedules, _schedules()), _counts(steps)
    columns = columns_of(models)
    if guidance is not None:
        columns = tuple(replace(column, guidance=guidance) for column in columns)
    for column in columns:  # a bad scale or condition is no property of one combination
        prepare(column.model, column.guidance)
        _given(column.model, cond, n)
    return _rows(columns, chosen, n, cond, seed)


def collect(rows: Iterable[SweepRow]) -> pandas.DataFrame:
    """The rows of a sweep as a table, a column for each field.

    >>> from workbench.sweep import collect, sweep
    >>> collect(sweep("moons", "euler", "uniform", [1, 2], n=50))[["sampler", "steps", "nfe"]].values.tolist()
    [['euler', 1, 1], ['euler', 2, 2]]
    """
    import pandas

    table = pandas.DataFrame(list(rows), columns=list(SweepRow._fields))
    return table.astype({"nfe": "Int64"})


def _rows(columns: tuple[Column, ...], chosen: tuple, n: int, cond: Any, seed: int) -> Iterator[SweepRow]:
    noise = noise_for(columns[0].model, n, seed)
    for column in columns:
        given = _given(column.model, cond, n)
        yardstick = _yardstick(column, columns, n, given if isinstance(cond, str) else cond, seed, noise)
        denoiser, seen = prepare(column.model, column.guidance), {}
        two_times = bool(getattr(column.model, "two_times", False))
        for cell in _cells(column, *chosen):
            nfe, value, ms, note = None, math.nan, math.nan, cell.reason
            if cell.plan is not None:
                key = _updates(cell.plan, two_times)
                try:
                    if key not in seen:
                        x, count, seconds = _draw(cell.plan, denoiser, noise, given, seed)
                        seen[key] = (count, yardstick.of(x), float(f"{1000 * seconds / n:.3g}"), cell)
                    nfe, value, ms, first = seen[key]
                    note = "" if first is cell else f"the same updates as {first.sampler}, {first.schedule}: not run again"
                except WorkbenchError as error:
                    note = str(error)
            yield SweepRow(
                column.label, cell.sampler, cell.schedule, cell.steps, nfe, column.scale(), yardstick.metric, value,
                yardstick.floor, ms, n, seed, cell.own, note,
            )  # fmt: skip


def _cells(
    column: Column, samplers: tuple[str, ...] | None, names: tuple[str, ...] | None, steps: tuple[int, ...] | None
) -> Iterator[_Cell]:
    sampling = default_sampling(column.model)
    usual = column.steps or (None if isinstance(column.schedule, (list, tuple, Tensor)) else sampling.steps)
    for count in steps or STEPS:
        own = _own(column, count)
        pairs = [(sampler, name) for sampler in samplers or USUAL_SAMPLERS for name in names or USUAL_SCHEDULES]
        if own and names is None and (own.sampler, own.schedule) not in pairs and own.sampler in (samplers or SAMPLERS):
            pairs.append((own.sampler, own.schedule))  # times of its own, tuned or trained for this count
        for sampler, name in pairs:
            if own and (own.sampler, own.schedule) == (sampler, name):
                yield _Cell(sampler, name, count, own, True)
                continue
            try:
                yield _Cell(sampler, name, count, sampling.plan(column.model.path, count, sampler, name), False)
            except WorkbenchError as error:
                yield _Cell(sampler, name, count, None, False, str(error))
    if steps is None and usual not in STEPS:
        own = column.plan()
        if own.sampler in (samplers or SAMPLERS) and (names is None or own.schedule in names):
            yield _Cell(own.sampler, own.schedule, own.steps, own, True)


def _own(column: Column, steps: int) -> Plan | None:
    """The model's own plan at a number of steps; None where it has none (a list of times has one count)."""
    try:
        return replace(column, steps=steps).plan()
    except WorkbenchError:
        return None


def _updates(plan: Plan, two_times: bool) -> tuple:
    """What a plan does, however it is written: two plans of equal updates differ by rounding alone.

    A stage that reads only the state and its own output is put in terms of x0: Euler on a straight path is DDIM.
    """
    made = []
    for stage in plan.stages:
        row, jump = stage.x, (stage.to if stage.jump is None else stage.jump) if two_times else None
        if stage.base is None and row.base == 0 and len(row.outputs) == 1:
            of_x, of_x0 = plan.path.conversion("x0", stage.kind, stage.t)
            x, x0 = row.x + row.outputs[0] * of_x, row.outputs[0] * of_x0
            made.append((stage.t, stage.to, *(round(number, 10) for number in (x, x0, row.noise)), jump))
        else:
            made.append(replace(stage, jump=jump))
    return (plan.times[0], *made)


def _draw(plan: Plan, model: Denoiser, noise: Tensor, cond: Tensor | None, seed: int) -> tuple[Tensor, int, float]:
    """(samples, evaluations a sample, seconds), in batches that do not change the samples."""
    parts, seconds = [], 0.0
    for first in range(0, len(noise), BATCH):
        part = noise[first : first + BATCH]
        given = None if cond is None else cond[first : first + BATCH]
        for frame in run(plan, model, part, given, seed, index=range(first, first + len(part))):
            last = frame
        parts.append(last.x)
        seconds += last.seconds
    return torch.cat(parts), last.nfe, seconds


def _yardstick(column: Column, columns: tuple[Column, ...], n: int, cond: Any, seed: int, noise: Tensor) -> _Yardstick:
    distance = distance_to_law(column.model, n, cond)
    if distance is not None:
        return _Yardstick(distance.name, distance.of, distance.floor())
    if exact_of(column.model) is None and space_of(column.model) is not None:
        raise WorkbenchError(f"n is {n}, but the Frechet distance of {column.label} needs at least {FRECHET_LEAST} samples.")
    teacher = teacher_of((column,)) or teacher_of(columns)
    if teacher is None:
        raise WorkbenchError(
            f"there is nothing to measure {column.label} against: neither its law nor its teacher is known; add the teacher."
        )
    fine, coarse = (
        fine_solution(teacher, n, cond, seed, noise=noise.to(noise_for(teacher, 1).dtype), steps=count)
        for count in (FINE_STEPS, FINE_STEPS // 2)
    )
    return _Yardstick(ERROR, lambda x: metrics.trajectory_error(x.to(fine.dtype), fine), metrics.trajectory_error(coarse, fine))


def _given(model: Denoiser, cond: Any, n: int) -> Tensor | None:
    """Labels (n,) or None; "all" is every class in turn."""
    if isinstance(cond, str) and cond == "all":
        classes = int(getattr(model, "classes", 0) or 0)
        cond = torch.arange(n) % classes if classes else None
    return labels(model, cond, n)


def _schedules() -> list[str]:
    return list(schedules.NAMES)


def _names(what: str, given: Sequence[str] | str | None, known: Iterable[str]) -> tuple[str, ...] | None:
    if given is None:
        return None
    if given == "all":
        return tuple(known)
    names = tuple(dict.fromkeys([given] if isinstance(given, str) else given))
    for name in names:
        if name not in known:
            raise unknown(what, name, known)
    if not names:
        raise WorkbenchError(f"there is no {what} to try: name at least one, or leave it out.")
    return names


def _counts(steps: Sequence[int] | int | None) -> tuple[int, ...] | None:
    if steps is None:
        return None
    counts = [steps] if isinstance(steps, (int, float, str)) else list(steps)
    if not counts:
        raise WorkbenchError("there is no number of steps to try: give at least one, or leave steps out for 1, 2, 4 and 8.")
    return tuple(dict.fromkeys(check_count("steps", count, 1, schedules.MAX_STEPS) for count in counts))


make_callable(__name__, sweep)
