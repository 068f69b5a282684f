"""Schedules computed from a teacher, by name: `wb.sample(model, 64, schedule="gits", steps=8)`."""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench import samplers
from workbench.denoiser import Denoiser
from workbench.errors import check_options, unknown
from workbench.samplers import equal_error, gits, klub
from workbench.samplers.fine import Progress, times_of
from workbench.samplers.plan import Plan
from workbench.samplers.sample import default_sampling, noise_for

TUNED: dict[str, Callable[..., Iterator[Progress]]] = {
    "gits": gits.gitting,
    "ays_tuned": klub.aligning,
    "equal_error": equal_error.equalising,
}
KEPT = 256
_cache: OrderedDict[tuple, Tensor] = OrderedDict()
_lock = threading.Lock()


def tuned_options(name: str) -> list[str]:
    """Names of the options that a schedule computed from a teacher takes, besides the sampler that it is made for."""
    return [option for option in list(inspect.signature(TUNED[name]).parameters)[2:] if option not in ("sampler", "options")]


def tuning(name: str, teacher: Denoiser, steps: int, **options: Any) -> Iterator[Progress]:
    """As `tuned`, but a `Progress` after every evaluation, so that progress can be shown and `break` stops it.

    >>> import workbench as wb
    >>> *_, last = tuning("gits", wb.load("eight_gaussians"), 3, n=16, points=12)
    >>> last.done == last.total, len(last.times)
    (True, 4)
    """
    if name not in TUNED:
        raise unknown("tuned schedule", name, TUNED)
    parameters = inspect.signature(TUNED[name]).parameters
    if "options" not in parameters:  # those of a sampler are checked by its plan
        check_options(f"tuned schedule {name!r}", options, list(parameters)[2:])
    return _tuning(name, teacher, steps, options)


def _tuning(name: str, teacher: Denoiser, steps: int, options: Mapping[str, Any]) -> Iterator[Progress]:
    key = (name, _identity(teacher), steps, *sorted((option, _plain(value)) for option, value in options.items()))
    with _lock:
        times = _cache.get(key)
        if times is not None:
            _cache.move_to_end(key)
    if times is None:
        for progress in TUNED[name](teacher, steps, **options):
            if progress.times is None:
                yield progress
        times = progress.times
        with _lock:
            _cache[key] = times
            while len(_cache) > KEPT:
                _cache.popitem(last=False)
    else:
        progress = Progress("computed before", 1, 1)
    yield progress._replace(times=times.clone())


def tuned(name: str, teacher: Denoiser, steps: int, **options: Any) -> Tensor:
    """Compute a schedule from a teacher: falling times (steps + 1,), float64, for `wb.plan(..., schedule=times)`.

    Kept in memory for as long as the program runs: the same teacher, steps and options are computed once.

    Args:
        name: gits (`gits.gits`), ays_tuned (`klub.align_your_steps`) or equal_error (`equal_error.equal_error`).
        options: theirs.

    Raises:
        UnknownName: for an unknown name or option. WorkbenchError: as they do.

    >>> import workbench as wb
    >>> tuned("ays_tuned", wb.load("moons"), 6).shape
    torch.Size([7])
    """
    return times_of(tuning(name, teacher, steps, **options))


def tuned_plan(name: str, model: Denoiser, steps: int | None = None, sampler: str | None = None, **options: Any) -> Plan:
    """The plan of a sampler on a schedule computed from the model that will run it; the model's own steps and sampler by default.

    Args:
        options: of the schedule and of the sampler.

    >>> import workbench as wb
    >>> str(tuned_plan("equal_error", wb.load("moons"), 5, "euler", points=40))
    'euler, 5 equal_error steps on linear, points 40'
    """
    own = default_sampling(model)
    steps, sampler = own.steps if steps is None else steps, sampler or own.sampler
    of_schedule = tuned_options(name)
    given = {option: value for option, value in options.items() if option in of_schedule}
    rest = {option: value for option, value in options.items() if option not in given}
    made_for = {"sampler": sampler, **rest} if "sampler" in inspect.signature(TUNED[name]).parameters else {}
    times = tuned(name, model, steps, **given, **made_for)
    return replace(samplers.plan(sampler, model.path, schedule=times, **rest), schedule=name, options=options)


def _identity(teacher: Denoiser) -> tuple:
    """What tells a teacher from any other: its name, its path, and what it answers to eight points of noise.

    A name alone would not do: every mixture of a user's own is called "mixture", and a network in training changes.
    """
    path = teacher.path
    probe = noise_for(teacher, 8, seed=7)
    at = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    with torch.no_grad():
        told = [path.alpha(at), path.sigma(at), *(teacher(path.sigma(t) * probe, t) for t in (0.9, 0.3))]
    digest = hashlib.sha256(repr([values.tolist() for values in told]).encode()).hexdigest()
    return getattr(teacher, "name", type(teacher).__name__), digest


def _plain(value: Any) -> Any:
    return tuple(torch.as_tensor(value).flatten().tolist()) if isinstance(value, (list, tuple, Tensor)) else value
