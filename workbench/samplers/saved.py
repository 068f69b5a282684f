"""Plans that a user keeps by name: JSON files below WORKBENCH_HOME, which sampling takes as the schedule `saved:NAME`."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from workbench import paths
from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, unknown
from workbench.files import home, read_json, write_json
from workbench.samplers import SAMPLERS
from workbench.samplers.plan import Plan
from workbench.samplers.run import same_path
from workbench.samplers.sample import SAVED, default_sampling, plan_for

LONGEST = 48
NAME = re.compile(
    rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{LONGEST - 1}}}"
)  # nothing that a folder, a link or a command line reads as its own


def folder() -> Path:
    """Where saved plans lie: plans in the user's folder."""
    return home() / "plans"


def save(plan: Plan, name: str, replace: bool = False) -> Path:
    """Keep a plan under a name; returns the file.

    Args:
        name: letters, digits, - and _, at most 48. replace: put it in the place of a plan that has this name already.

    Raises:
        WorkbenchError: for an impossible name, a name that is taken, or a plan that cannot be stored.

    >>> import workbench as wb
    >>> _ = save(wb.plan("ddim", "linear", 2), "halves", replace=True)
    >>> load("halves").times
    (1.0, 0.5, 0.0)
    """
    place = _place(name)
    content = plan.to_json()
    if place.exists() and not replace:
        raise WorkbenchError(f"a plan named {name!r} is there already: choose another name, or ask to replace it.")
    write_json(place, content)
    return place


def load(name: str) -> Plan:
    """The plan that was saved under a name.

    Raises:
        UnknownName: if there is none, with the nearest name. WorkbenchError: for an impossible name or a damaged file.
    """
    place = _place(name)
    if not place.exists():
        raise unknown("saved plan", name, names())
    return _read(place, place.stat().st_mtime_ns)


def names(path: str | paths.Path | None = None) -> list[str]:
    """Names of the saved plans, in order; of those on one path if it is given. Damaged files are left out."""
    found, wanted = [], None if path is None else paths.get(path)
    for place in sorted(folder().glob("*.json")):
        try:
            plan = load(place.stem)
        except (WorkbenchError, OSError):
            continue
        if wanted is None or same_path(plan.path, wanted):
            found.append(place.stem)
    return found


def is_saved(schedule: Any) -> bool:
    """Whether a schedule is written as that of a saved plan."""
    return isinstance(schedule, str) and schedule.startswith(SAVED)


def is_learned(plan: Plan) -> bool:
    """Whether a plan is more than its times: its coefficients are those of no sampler."""
    return plan.sampler not in SAMPLERS


def plan_of(schedule: str, model: Denoiser, steps: int | None = None, sampler: str | None = None, **options: Any) -> Plan:
    """What a model runs on the schedule `saved:NAME`: a learned plan as it is, of any other plan the times, with the sampler asked for.

    Raises:
        WorkbenchError: if there is no such plan, it has another number of steps, is on another path, or may not run this model.
    """
    name = schedule.removeprefix(SAVED).strip()
    plan = load(name)
    check_steps(name, plan, steps)
    if not same_path(plan.path, model.path):
        raise WorkbenchError(
            f"the saved plan {name!r} is on the path {plan.path.name}, but this model is on {model.path.name}."
        )
    if not is_learned(plan):
        return plan_for(model, None, sampler, list(plan.times), **options)
    allowed = default_sampling(model).only
    if allowed or getattr(model, "two_times", False):
        raise WorkbenchError(
            f"the saved plan {name!r} has coefficients of its own, but this model runs only with its own sampler: choose another."
        )
    return plan


def check_steps(name: str, plan: Plan, steps: int | None) -> None:
    """Raise unless a number of steps, if any is asked for, is that of the plan."""
    if steps is not None and steps != plan.steps:
        count = f"{plan.steps} step{'s' * (plan.steps != 1)}"
        raise WorkbenchError(
            f"the saved plan {name!r} has {count}, not {steps}: set the steps to {plan.steps}, or choose another."
        )


@functools.lru_cache(maxsize=64)
def _read(place: Path, _: int) -> Plan:
    content = read_json(place)
    if not isinstance(content, dict):
        raise WorkbenchError(f"{place} is not a stored plan: save it again, or remove the file.")
    return Plan.from_json(content)


def _place(name: Any) -> Path:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise WorkbenchError(
            f"a plan cannot be named {str(name)[:60]!r}: take letters, digits, - and _, beginning with a letter or digit, "
            f"at most {LONGEST}."
        )
    return folder() / f"{name}.json"
