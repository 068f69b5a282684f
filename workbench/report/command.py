"""A column in one word of a command line, and the command that makes a comparison again.

NAME                                                the model with its own settings
NAME@4                                              at 4 steps
NAME:sampler=euler,steps=8,schedule=karras,eta=0.5  with any setting replaced
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench import schedules, zoo
from workbench.compare import Column
from workbench.errors import WorkbenchError, unknown
from workbench.samplers import SAMPLERS, sampler_options

KEYS = ("sampler", "schedule", "steps", "guidance", "label")
MOST_LABELS = 400  # so many numbers of --cond fit on every system's command line


def parse_column(text: str) -> Column:
    """Read NAME, NAME@STEPS or NAME:key=value,key=value; values are Python literals where they can be, else text.

    Args:
        text: keys are sampler, schedule (a name or a list of times), steps, guidance, label and the options of samplers and
            schedules (eta, shift, ...).

    Raises:
        UnknownName: for an unknown key, with the nearest one. WorkbenchError: for anything else that is not of this form.

    >>> parse_column("fashion/teacher:sampler=euler,steps=8,guidance=2")
    Column(model='fashion/teacher', label='fashion/teacher@8, euler, guidance 2', sampler='euler', schedule=None, steps=8, ...)
    """
    matched = re.fullmatch(r"(.+?):(?=\s*[A-Za-z_][\w-]*\s*=)(.*)", text, re.DOTALL)
    name, rest = matched.groups() if matched else (text, "")
    head, at, count = name.rpartition("@")
    if at and not count.isdecimal():
        raise WorkbenchError(f"{text!r} must be NAME@STEPS with a whole number of steps, such as fashion/dmd2@4.")
    found: dict[str, Any] = {"steps": int(count)} if at else {}
    known = [*KEYS, *_options()]
    for pair in _split(rest) if rest else ():
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not value.strip():
            raise WorkbenchError(f"{pair!r} in {text!r} must be key=value, such as steps=8.")
        if key not in known:
            raise unknown("setting of a column", key, known)
        if key in found:
            raise WorkbenchError(f"{text!r} gives {key} twice: keep one.")
        found[key] = _value(value.strip())
    _check(text, found)
    label = found.pop("label", None)
    given = {key: found.pop(key) for key in ("sampler", "schedule", "steps", "guidance") if key in found}
    column = Column(head if at else name, options=found, **given)
    return replace(column, label=_default_label(column) if label is None else str(label))


def spell_column(column: Column) -> str:
    """The word that `parse_column` reads as this column.

    Raises:
        WorkbenchError: for a model that was handed over as an object, or a setting that has no spelling (a function).

    >>> spell_column(Column("fashion/dmd2", steps=4)), spell_column(Column("moons", sampler="ddim", options={"eta": 0.5}))
    ('fashion/dmd2@4', 'moons:sampler=ddim,eta=0.5')
    """
    name = name_of(column)
    schedule = column.schedule.tolist() if isinstance(column.schedule, Tensor) else column.schedule
    if callable(schedule):
        named = [known for known, function in schedules.NAMES.items() if function is schedule]
        if not named:
            raise WorkbenchError(f"the schedule of {column.label or name} is a function, which a command cannot name.")
        schedule = named[0]
    schedule = list(schedule) if isinstance(schedule, tuple) else schedule
    settings = {"sampler": column.sampler, "schedule": schedule, "steps": column.steps, "guidance": column.guidance}
    told = {key: value for key, value in {**settings, **column.options}.items() if value is not None}
    asked = replace(column, model=name, schedule=schedule, source=None)
    if column.label is not None and column.label != _default_label(asked):
        told["label"] = column.label
    if set(told) == {"steps"}:
        word = f"{name}@{column.steps}"
    else:
        word = name + "".join(f"{',' if k else ':'}{key}={_literal(key, value)}" for k, (key, value) in enumerate(told.items()))
    again = parse_column(word)
    if name.startswith("-") or replace(again, label=None) != replace(asked, label=None):
        raise WorkbenchError(f"{column.label or name} has a name or a setting that a command cannot spell.")
    return word


def command_of(
    columns: Sequence[Column],
    n: int,
    cond: Any = None,
    seed: int = 0,
    out: str | None = "report.html",
    program: str = "workbench",
) -> str:
    """The command that makes a comparison again, quoted for a POSIX shell.

    Args:
        columns: as given to `workbench.compare`, or those of its result. n: samples a column. cond: a label, n labels, or None.
        seed: of the noise. out: file to write, or None.

    Raises:
        WorkbenchError: if it cannot be said on a command line; the sentence says what stands in the way.

    >>> command_of([Column("moons"), Column("moons", steps=3)], 64, cond=1, seed=7)
    'workbench compare moons moons@3 -n 64 --cond=1 --seed 7 --out report.html'
    """
    words = [program, "compare", *(spell_column(column) for column in columns), "-n", str(int(n))]
    if cond is not None:
        words.append(f"--cond={_classes(columns[0], cond)}")
    words += ["--seed", str(int(seed)), *(["--out", out] if out else [])]
    return " ".join(shlex.quote(word) for word in words)


def name_of(column: Column) -> str:
    """The name by which `zoo.load` gives this very model.

    Raises:
        WorkbenchError: if there is none.
    """
    if isinstance(column.model, str):
        return column.model
    if column.source is not None:
        return column.source
    model, name = column.model, str(getattr(column.model, "name", ""))
    for entry in zoo.catalog():
        if entry.name == name and _same(zoo.load(name) if entry.source == "analytic" else entry.card, model):
            return name
    raise WorkbenchError(f"the model of {column.label or name!r} was handed over as an object, which a command cannot name.")


def _same(known: Any, model: Any) -> bool:
    if isinstance(known, dict):  # a trained model is its weights and the card that says how to run them
        return getattr(model, "card", None) == known
    places = ("means", "weights", "spectrum", "labels")
    own, other = ([getattr(each, place, None) for place in places] for each in (known, model))
    alike = (
        a is b or (isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b))
        for a, b in zip(own, other, strict=True)
    )
    return type(known) is type(model) and known.path.name == model.path.name and all(alike)


def _classes(column: Column, cond: Any) -> str:
    """--cond for these labels: their shortest period."""
    model = zoo.load(column.model) if isinstance(column.model, str) else column.model
    given = torch.as_tensor(cond).flatten().tolist()
    period = next(p for p in range(1, len(given) + 1) if all(a == given[k % p] for k, a in enumerate(given)))
    given = given[:period]
    if len(given) > 1 and given == list(range(int(getattr(model, "classes", 0) or 0))):
        return "all"
    if len(given) > MOST_LABELS:
        raise WorkbenchError(
            f"{len(given)} labels without a pattern are too many for a command line: give them to workbench.compare."
        )
    names = list(getattr(model, "class_names", ()))
    return ",".join(names[k] if 0 <= k < len(names) and str(k) in names else str(k) for k in given)


def _default_label(column: Column) -> str:
    """NAME, NAME@STEPS, and behind it in words whatever else is set."""
    words = [column.sampler, column.schedule if isinstance(column.schedule, str | None) else "given times"]
    words += [None if column.guidance is None else f"guidance {column.guidance:g}"]
    words += [f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in column.options.items()]
    return ", ".join([f"{column.model}@{column.steps}" if column.steps else column.model, *filter(None, words)])


def _options() -> list[str]:
    return sorted(
        {
            *(o for name in SAMPLERS for o in sampler_options(name)),
            *(o for name in schedules.NAMES for o in schedules.options(name)),
        }
    )


def _check(text: str, found: dict[str, Any]) -> None:
    guidance, steps = found.get("guidance", 1.0), found.get("steps", 1)
    if isinstance(guidance, bool) or not isinstance(guidance, int | float):
        raise WorkbenchError(f"guidance={guidance} in {text!r} must be a number; 1 is none.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise WorkbenchError(f"steps={steps} in {text!r} must be a whole number of at least 1.")
    for key, kinds in (("sampler", str), ("schedule", str | list | tuple)):
        if not isinstance(found.get(key, ""), kinds):
            raise WorkbenchError(f"{key}={found[key]} in {text!r} must be a name{' or a list of times' * (key == 'schedule')}.")


def _split(text: str) -> Iterator[str]:
    """Pieces between commas that lie outside quotes and brackets."""
    start, depth, quote, escaped = 0, 0, "", False
    for place, each in enumerate(text):
        if quote:
            quote, escaped = ("" if each == quote and not escaped else quote), each == "\\" and not escaped
        elif each in "'\"" and text[:place].rstrip().endswith(("=", "[", "(", ",")):
            quote, escaped = each, False
        elif each in "([{":
            depth += 1
        elif each in ")]}":
            depth -= 1
        elif each == "," and depth <= 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _quoted(text: str) -> str:
    """A Python literal in double quotes where it can be, since a shell's quotes are single."""
    inside = repr("'" + text)[2:-1]
    return f'"{inside}"' if '"' not in text else repr(text)


def _literal(key: str, value: Any) -> str:
    if isinstance(value, str):
        bare = re.fullmatch(r"[A-Za-z_][\w./@-]*", value) and _value(value) == value
        return value if bare else _quoted(value)
    text = repr(value).replace(", ", ",")
    if _value(text) != value:
        raise WorkbenchError(f"{key} = {value!r:.60} has no spelling on a command line.")
    return text
