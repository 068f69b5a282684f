"""Whether a value fits the option it is given for: a field says by its annotation what it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from numbers import Real
from typing import Any

from workbench.errors import WorkbenchError

SCALARS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "float": (lambda value: _number(value), "a number"),
    "int": (lambda value: _number(value) and float(value).is_integer(), "a whole number"),
    "bool": (lambda value: isinstance(value, bool), "True or False"),
    "str": (lambda value: isinstance(value, str), "a word"),
    "None": (lambda value: value is None, "None"),
    "Any": (lambda value: not isinstance(value, (str, bool, Real)), "a part"),  # within a tuple; see `_plain`
}


def put(part: Any, name: str, value: Any) -> Any:
    """A copy of a dataclass with one field replaced.

    Raises:
        WorkbenchError: for a value that the field cannot hold.

    >>> from workbench.distill.loop import Optim
    >>> put(Optim(), "warmup", "long")
    Traceback (most recent call last):
        ...
    workbench.errors.WorkbenchError: warmup is 'long', but must be a whole number.
    """
    kind = next(item.type for item in fields(part) if item.name == name)
    held, members = getattr(part, name), _members(kind)
    plain = [_plain(member) for member in members]
    wrong = WorkbenchError(f"{name} is {value!r}, but must be {_said(held, members, plain)}.")
    if isinstance(value, Real) and value != value:
        raise wrong
    try:  # a part's own sentence comes first
        given = value if all(plain) or not hasattr(held, "given") else held.given(value)  # a number may stand for a part
        made = replace(part, **{name: given})
    except WorkbenchError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise wrong from error
    if all(plain):
        fitting = any(fits(value) for fits, _ in plain)
    else:
        word = getattr(made, name) is value and isinstance(value, (str, bool, Real))
        open_to_all = members == ["Any"] and (held is None or isinstance(held, str))  # the part that reads it knows more
        fitting = open_to_all or not word
    if not fitting:
        raise wrong
    return made


def _said(held: Any, members: list[str], plain: list[Any]) -> str:
    """What a field holds, in words."""
    known = [
        words[1] if words else member for member, words in zip(members, plain, strict=True) if member not in ("Any", "None")
    ]
    there = [getattr(held, "__name__", type(held).__name__)] if held is not None else ["a part of its own"]
    short = ["what stands for one"] if hasattr(held, "given") else []
    return " or ".join([*(known or there), *short, *(["None"] if "None" in members else [])])


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def _members(kind: str) -> list[str]:
    """The alternatives of an annotation.

    >>> _members("Callable[[int | None], int] | None")
    ['Callable[[int | None], int]', 'None']
    """
    found, depth = [""], 0
    for letter in kind:
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [one.strip() for one in found]


def _plain(member: str) -> tuple[Callable[[Any], bool], str] | None:
    """What tells whether a value is of a plain kind, and that kind in words; None for a part or a function."""
    if member in SCALARS:
        return SCALARS[member] if member != "Any" else None
    outer, _, inner = member.rstrip("]").partition("[")
    items = [item.strip() for item in inner.split(",")]
    if outer == "dict":
        return lambda value: isinstance(value, Mapping), "a mapping"
    if outer not in ("tuple", "list") or items[0] not in SCALARS:
        return None
    fits, words = SCALARS[items[0]]
    many = outer == "list" or items[-1] == "..."
    words = {"a number": "numbers", "a whole number": "whole numbers", "a word": "words", "a part": "parts"}.get(words, words)

    def holds(value: Any) -> bool:
        return isinstance(value, (tuple, list)) and (many or len(value) == len(items)) and all(map(fits, value))

    return holds, f"a list of {words}" if many else f"{len(items)} {words}"
