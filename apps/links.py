"""A comparison as the query of a link, and ready-made ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from apps import session
from apps.session import OWN, Setting, Setup
from workbench.errors import WorkbenchError

PLAIN = "own"
KEYS = ("space", "class", "n", "seed", "c1", "c2", "c3", "c4")
LONGEST = 400


def to_query(setup: Setup) -> str:
    """The query of a link that opens this comparison.

    >>> to_query(session.check("moons", [("moons", "heun", OWN, 8, 1.0)], 100, 3, "none"))
    'space=moons&class=none&n=100&seed=3&c1=moons,heun,own,8,1'
    """
    columns = {f"c{place}": _column(setting) for place, setting in enumerate(setup.columns, start=1)}
    pairs = {"space": setup.space, "class": setup.label, "n": setup.count, "seed": setup.seed, **columns}
    return "&".join(f"{key}={quote(str(value), safe='/,')}" for key, value in pairs.items())


def _column(setting: Setting) -> str:
    schedule = PLAIN if setting.schedule == OWN else setting.schedule
    return ",".join((quote(setting.model, safe="/"), setting.sampler, schedule, str(setting.steps), f"{setting.guidance:g}"))


def from_query(query: Mapping[str, str]) -> Setup:
    """The comparison that a link asks for; what it leaves out is as the page opens with.

    Raises:
        WorkbenchError: for a key, a number or a name that is unknown or impossible.
    """
    given = {str(key): str(value) for key, value in query.items() if not str(key).startswith("__")}
    for key, value in given.items():
        if key not in KEYS:
            raise WorkbenchError(f"the link has an unknown part {key[:40]!r}: it may hold {', '.join(KEYS)}.")
        if len(value) > LONGEST:
            raise WorkbenchError(f"the link's {key} is {len(value)} characters long, but at most {LONGEST} are read.")
    space = given.get("space") or next(iter(session.spaces()))
    opened = opening(space)
    columns = [_setting(given[key]) for key in KEYS[4:] if key in given]
    numbers = {"n": opened.count, "seed": opened.seed}
    for key in numbers:
        if key in given:
            try:
                numbers[key] = int(given[key])
            except ValueError:
                raise WorkbenchError(f"the link's {key} is {given[key][:40]!r}, but must be a whole number.") from None
    return session.check(space, columns or opened.columns, numbers["n"], numbers["seed"], given.get("class", opened.label))


def _setting(text: str) -> tuple[Any, ...]:
    parts = text.split(",")
    try:
        model, sampler, schedule, steps, guidance = parts
        return unquote(model), sampler, OWN if schedule == PLAIN else schedule, int(steps), float(guidance)
    except ValueError:
        raise WorkbenchError(
            f"the link's column {text[:60]!r} must be model,sampler,schedule,steps,guidance, such as moons,heun,own,8,1."
        ) from None


def opening(space: str, columns: int = 3) -> Setup:
    """What a space opens with.

    Raises:
        WorkbenchError: if there is no such space.
    """
    if not isinstance(space, str) or space not in session.spaces():
        raise session.unknown("space", str(space)[:60], session.spaces())
    image = session.is_image(space)
    count = session.most_count(space) if image else 500
    return session.check(
        space, session.defaults(space, columns), min(16, count) if image else count, 0, session.ANY if image else session.NONE
    )


def presets(space: str) -> dict[str, tuple[Setting, ...]]:
    """Ready-made sets of columns: name -> columns. The first is what the space opens with."""
    first = session.defaults(space, 4)
    teacher = first[0]
    students = [setting for setting in first[1:] if setting.model != teacher.model]
    found = {"teacher and its best students": tuple(first[:3])}
    if students:
        single = next((setting for setting in students if setting.steps == 1), students[0])
        found["teacher against one step"] = (teacher, single)
        own = session.own_setting(session.entry_of(space, students[-1].model))
        found[f"{own.model.split('/')[-1]} at 1, 2, 4, 8 steps"] = tuple(own._replace(steps=steps) for steps in (1, 2, 4, 8))
    found["the teacher with 4 samplers, 8 steps"] = tuple(
        teacher._replace(sampler=sampler, steps=8 if sampler != "heun" else 4)
        for sampler in ("euler", "heun", "ddim", "dpmpp_2m")
    )
    found["the teacher with 2, 4, 8, 32 steps"] = tuple(teacher._replace(steps=steps) for steps in (2, 4, 8, 32))
    if teacher.guidance != 1 or session.is_image(space):
        found["the teacher with guidance 0, 1, 2, 4"] = tuple(teacher._replace(guidance=float(scale)) for scale in (0, 1, 2, 4))
    return found


def preset_of(setup: Setup) -> str | None:
    """The preset that these columns are, if they are one."""
    return next((name for name, columns in presets(setup.space).items() if columns == setup.columns), None)
