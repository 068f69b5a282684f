"""The loop that learns a plan, as a generator, and one call that runs it to the end."""

from __future__ import annotations

import inspect
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workbench import paths, samplers, schedules
from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.fitting.loss import Lesson, Loss, error, lesson
from workbench.fitting.table import builder
from workbench.fitting.unknowns import Unknowns
from workbench.samplers.fine import is_exact
from workbench.samplers.plan import Plan
from workbench.samplers.run import same_path
from workbench.samplers.sample import labels, noise_for, prepare

PARTS = ("rows", "times")
OPTIMIZERS = ("lbfgs", "adam")


@dataclass(frozen=True)
class Progress:
    """One report of a fit.

    Attributes:
        step, steps: iterations of the optimiser so far, and in all.
        loss: of the training noise, as the optimiser sees it. error: RMS end-point distance of `plan` on the validation noise.
        plan: the plan as it is now. best: the one with the least error so far, what `fit_plan` returns.
        before, after: errors of the start and of `best`. seconds: since the fit began.
    """

    step: int
    steps: int
    loss: float
    error: float
    plan: Plan
    best: Plan
    before: float
    after: float
    seconds: float


def fitting(
    teacher: Denoiser,
    steps: int | None = None,
    sampler: str = "dpmpp_2m",
    schedule: str | Sequence[float] | Tensor = "uniform",
    learn: Sequence[str] = PARTS,
    cond: Any = None,
    guidance: float | None = None,
    seed: int = 0,
    *,
    start: Plan | Progress | None = None,
    history: int | None = None,
    decouple: bool | None = None,
    intermediate: float = 0.0,
    relax: float = 0.0,
    n: int | None = None,
    iterations: int | None = None,
    seconds: float | None = None,
    optimizer: str = "lbfgs",
    fine: int = 64,
    every: int = 10,
    **options: Any,
) -> Iterator[Progress]:
    """Learn a plan against the teacher's fine trajectories from the same noise; yields a report now and then, `break` stops it.

    The first report is the start itself. With rows, the second is the start after one linear regression a stage, which puts each
    state nearest to the teacher's. `best` is chosen on noise that is not trained on, and is never worse than the start.

    Args:
        teacher: a denoiser with `.path` and `.shape`. steps, sampler, schedule, options: the plan to start from, as for
            `workbench.plan`; it must be deterministic.
        learn: "rows" (the coefficients of state, base and outputs), "times", or both. With times alone the rows stay the sampler's.
        cond: None, a label, or labels that are dealt out in turn. guidance: the model's own by default.
        start: an earlier fitted plan or a `Progress`, to go on from instead.
        history: outputs that a learned row may use, all earlier ones by default.
        decouple: the network may be asked at other times than the state's (LD3); by default if rows and times are learned.
        intermediate: weight of the states in between when the fit begins; it falls to zero over the first half.
        relax: radius, in standard deviations, of the ball that each training noise may move in (LD3's soft teacher forcing).
        n: training samples, 1024 of an exact teacher or 96 of a network; half as many more validate.
        iterations: of the optimiser, 200 or 40 by default. seconds: stop after these, at a report.
        optimizer: "lbfgs" or "adam". fine: Heun steps of the teacher, even in log-SNR. every: iterations between reports.

    Raises:
        UnknownName, WorkbenchError: for a stochastic sampler, an impossible count, or a teacher with nothing to follow.
        Source: LSD, arXiv 2509.19962, in continuous form; times as in LD3, arXiv 2405.15506; rows as in S4S, arXiv 2502.17423.

    >>> import workbench as wb
    >>> reports = list(fitting(wb.mixture([[1.0, 0.0]], [0.2]), 1, sampler="euler", n=32, iterations=10))
    >>> reports[-1].before > 0.1 > 1e-4 > reports[-1].after
    True
    """
    plan = _start(teacher, steps, sampler, schedule, start, options)
    chosen = [learn] if isinstance(learn, str) else list(learn)
    for name in chosen:
        if name not in PARTS:
            raise unknown("part of a plan to learn", name, PARTS)
    rows, times = "rows" in chosen, "times" in chosen
    decouple = rows and times if decouple is None else bool(decouple)
    if optimizer not in OPTIMIZERS:
        raise unknown("optimizer", optimizer, OPTIMIZERS)
    if not chosen or (not rows and plan.steps == 1 and not decouple):
        raise WorkbenchError(
            "there is nothing to learn: name 'rows', 'times' or both; a single step has no times in between, so learn its rows."
        )
    for what, value in (("intermediate", intermediate), ("relax", relax)):
        if not 0 <= value < math.inf:
            raise WorkbenchError(f"{what} is {value}, but must be a number of at least 0.")
    if seconds is not None and not seconds > 0:
        raise WorkbenchError(f"seconds is {seconds}, but must be positive, or None for no limit.")
    exact = is_exact(teacher)
    n = check_count("n", (1024 if exact else 96) if n is None else n, 2, 100_000)
    iterations = check_count("iterations", (200 if exact else 40) if iterations is None else iterations, 1)
    every, fine = check_count("every", every), check_count("fine", fine, 2 * plan.steps, schedules.MAX_STEPS)
    history = plan.evaluations if history is None else check_count("history", history, 1)
    unknowns = Unknowns(
        plan, _builder(plan, times, max(plan.history, history)), rows, times, decouple, max(plan.history, history)
    )
    record = {
        **plan.options, "from": plan.options.get("from", plan.sampler), "schedule": plan.options.get("schedule", plan.schedule),
        "learn": [name for name in PARTS if name in chosen], "n": n, "seed": seed,
    }  # fmt: skip
    named = replace(plan, sampler=f"lsd({record['from']})", schedule="learned" if times else plan.schedule)
    return _loop(
        prepare(teacher, guidance), _lessons(teacher, plan, cond, guidance, seed, n, fine), unknowns, named, record,
        intermediate, relax, iterations, seconds, optimizer, every,
    )  # fmt: skip


def _loop(
    model: Denoiser, lessons: Any, unknowns: Unknowns, named: Plan, record: dict, intermediate: float, relax: float,
    iterations: int, seconds: float | None, optimizer: str, every: int,
) -> Iterator[Progress]:  # fmt: skip
    began = time.monotonic()
    taught, held_out = lessons()
    loss = Loss(unknowns, model, taught, relax)
    theta, step, best = loss.start(), 0, None
    before = after = error(unknowns.plan, model, held_out)

    def report(value: float) -> Progress:
        nonlocal best, after
        now = unknowns.plan_of(loss.own(theta)) if step or best else unknowns.plan
        found = error(now, model, held_out) if best else before
        if best is None or found < after:
            best, after = now, found
        kept = {**record, "before": round(before, 6)}
        now, kind = (replace(one, sampler=named.sampler, schedule=named.schedule) for one in (now, best))
        now, kind = (
            replace(now, options=kept | {"after": round(found, 6)}),
            replace(kind, options=kept | {"after": round(after, 6)}),
        )
        return Progress(step, iterations, value, found, now, kind, before, after, time.monotonic() - began)

    value = loss(theta)[0]
    yield report(value)
    if unknowns.rows:
        corrections = loss.least_squares(theta)
        unknowns.correct(corrections)
        if (found := loss(theta)[0]) < value:
            value = found
            yield report(value)
        else:
            unknowns.correct(-corrections)
        loss.whiten(theta)
    descent, stuck, pace = None, False, 0.0
    while step < iterations and not (seconds is not None and time.monotonic() - began > seconds):
        weight = intermediate * max(0.0, 1 - 2 * step / iterations)
        if descent is None or weight != loss.intermediate:
            loss.intermediate = weight
            descent = Descent(loss, theta, optimizer)
        count, since = min(every, iterations - step), time.monotonic()
        if seconds is not None and pace:  # the last report comes in time, not one report later
            count = max(1, min(count, int((seconds - since + began) / pace)))
        old, theta, value = theta, *descent.take(count)
        step, pace = step + count, (time.monotonic() - since) / count
        yield report(value)
        if torch.equal(old, theta):
            if stuck or not unknowns.rows:
                break
            descent = None  # forget the curvature, measure the units again
        stuck = descent is None


class Descent:
    """L-BFGS or Adam on the whole batch, in float64."""

    def __init__(self, loss: Loss, theta: Tensor, optimizer: str):
        self.loss, self.theta = loss, theta.clone().requires_grad_()
        self.ceiling = 1e6 * (loss(theta)[0] + 1e-12)
        self.adam = optimizer == "adam"
        if self.adam:
            self.optimizer = torch.optim.Adam([self.theta], lr=3e-3)
        else:
            self.optimizer = torch.optim.LBFGS(
                [self.theta], history_size=50, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=1e-14
            )

    def take(self, count: int) -> tuple[Tensor, float]:
        """The vector and the loss after `count` iterations."""
        if not self.adam:
            self.optimizer.param_groups[0].update(max_iter=count, max_eval=2 * count)
        for _ in range(count if self.adam else 1):
            self.optimizer.step(self._closure)
        theta = self.theta.detach().clone()
        return theta, self.loss(theta)[0]  # an optimiser's step returns the loss that it began with

    def _closure(self) -> Tensor:
        value, gradient = math.inf, None
        if bool(torch.isfinite(self.theta).all()):
            value, gradient = self.loss(self.theta)
        if not math.isfinite(value) or not bool(torch.isfinite(gradient).all()):  # too long a step: the line search turns back
            value, gradient = self.ceiling, torch.zeros_like(self.theta)
        self.theta.grad = gradient
        return torch.tensor(value, dtype=torch.float64)


def fit_plan(teacher: Denoiser, *settings: Any, **named: Any) -> Plan:
    """Learn a plan and return it: `fitting` run to its end, with a line of progress where that takes more than two seconds.

    Arguments and errors are those of `fitting`. The plan's options record what was learned, from which sampler and schedule, and the
    validation errors before and after.

    >>> import workbench as wb
    >>> plan = fit_plan(wb.mixture([[1.0, 0.0]], [0.2]), 1, sampler="euler", n=32, iterations=10)
    >>> plan.sampler, [round(c, 3) for c in plan.stages[0].x.outputs]
    ('lsd(euler)', [1.0])
    """
    shown = False
    for progress in fitting(teacher, *settings, **named):
        if progress.seconds > 2:
            errors = f"error {progress.after:.4g} (start {progress.before:.4g})"
            print(f"\rfit_plan: {progress.step}/{progress.steps} iterations, {errors}  ", end="", file=sys.stderr, flush=True)
            shown = True
    if shown:
        print(file=sys.stderr)
    return progress.best


fit_plan.__signature__ = inspect.signature(fitting).replace(return_annotation="Plan")


def _start(teacher: Denoiser, steps: Any, sampler: str, schedule: Any, start: Plan | Progress | None, options: dict) -> Plan:
    path = getattr(teacher, "path", None)
    if path is None or getattr(teacher, "two_times", False):
        raise WorkbenchError(
            "a plan is fitted to a denoiser with a .path and one time; a flow map has no trajectory to follow: give its teacher."
        )
    if start is None:
        plan = samplers.plan(sampler, path, steps, schedule, **options)
    else:
        plan = start.best if isinstance(start, Progress) else start
        if not isinstance(plan, Plan) or not same_path(plan.path, paths.get(path)):
            raise WorkbenchError("start must be a plan on the teacher's path, or the Progress of an earlier fit.")
        if options or steps not in (None, plan.steps):
            raise WorkbenchError(f"start is a plan of {plan.steps} steps: leave steps and options of the sampler out.")
    if plan.models > 1:
        raise WorkbenchError("a hybrid plan runs several models, but only a plan of one can be fitted.")
    if any(row.noise for stage in plan.stages for row in (stage.x, stage.base) if row):
        raise WorkbenchError(
            f"sampler {plan.sampler!r} adds noise, so its end points have no fixed target: start from a deterministic one, "
            "such as dpmpp_2m, ddim or heun."
        )
    return plan


def _builder(plan: Plan, times: bool, history: int) -> Any:
    """The solver that a plan came from, as a function of the times; None where they stay."""
    if not times:
        return None
    name = plan.options.get("from", plan.sampler)
    if name not in samplers.SAMPLERS:
        raise WorkbenchError(f"sampler {name!r} is not among workbench's, so its times cannot move: learn ('rows',) alone.")
    known = {key: value for key, value in plan.options.items() if key in samplers.sampler_options(name)}
    return builder(plan, samplers.SAMPLERS[name], known, history)


def _lessons(teacher: Denoiser, plan: Plan, cond: Any, guidance: float | None, seed: int, n: int, fine: int) -> Any:
    """A function that follows the teacher, for training and for validation."""
    grid = {"t_start": plan.times[0], "t_end": plan.times[-1]}
    finely = samplers.plan("heun", plan.path, fine, "logsnr", **grid)
    model, held = prepare(teacher, guidance), max(2, n // 2)
    whole = labels(teacher, _dealt(cond, n + held), n + held)

    def follow() -> tuple[Lesson, Lesson]:
        noise = noise_for(teacher, n + held, seed)
        parts = (slice(0, n), slice(n, n + held))
        return tuple(lesson(finely, model, noise[part], whole if whole is None else whole[part]) for part in parts)

    return follow


def _dealt(cond: Any, n: int) -> Any:
    """Labels in turn until there are n."""
    if cond is None or not hasattr(cond, "__len__"):
        return cond
    given = torch.as_tensor(cond).flatten()
    if not len(given):
        raise WorkbenchError("cond is empty: give a label, some labels, or None.")
    return given.repeat(math.ceil(n / len(given)))[:n]
