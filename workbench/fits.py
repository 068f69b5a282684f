"""Whether a value fits what an annotation says: a number, a word, so many numbers. Anything else is left to who reads it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

from workbench.errors import WorkbenchError


class Plain(NamedTuple):
    """A kind of value that can be told by looking: the test, and its name in words."""

    fits: Callable[[Any], bool]
    words: str


def is_number(value: Any) -> bool:
    """Whether it is a real number, tensors of one included, and NaN, which any range refuses; True is none."""
    if isinstance(value, (bool, str, bytes)):
        return False
    try:
        return isinstance(float(value), float)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False


SCALARS: dict[str, Plain] = {
    "float": Plain(is_number, "a number"),
    "int": Plain(lambda value: is_number(value) and float(value).is_integer(), "a whole number"),
    "bool": Plain(lambda value: isinstance(value, bool), "True or False"),
    "str": Plain(lambda value: isinstance(value, str), "a word"),
    "None": Plain(lambda value: value is None, "None"),
}
MANY = {
    "float": Plain(is_number, "numbers"),
    "int": Plain(SCALARS["int"].fits, "whole numbers"),
    "str": Plain(SCALARS["str"].fits, "words"),
    "Any": Plain(lambda value: not isinstance(value, (str, bool, Real)), "parts"),
}


def members(annotation: str) -> list[str]:
    """The alternatives of an annotation.

    >>> members("Callable[[int | None], int] | None")
    ['Callable[[int | None], int]', 'None']
    """
    found, depth = [""], 0
    for letter in annotation:
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [one.strip() for one in found]


def plain(member: str) -> Plain | None:
    """What tells whether a value is of this kind; None where looking does not tell (a class of ours, a function).

    >>> plain("tuple[float, float]").words, plain("Callable[..., float]")
    ('2 numbers', None)
    """
    if member in SCALARS:
        return SCALARS[member]
    outer, _, inner = member.removesuffix("]").partition("[")
    items = [item.strip() for item in inner.split(",")]
    if outer == "dict":
        return Plain(lambda value: isinstance(value, Mapping), "a mapping")
    if outer == "Sequence":
        return Plain(lambda value: isinstance(value, Sequence) and not isinstance(value, (str, bytes)), "a list")
    if outer not in ("tuple", "list") or items[0] not in MANY:
        return None
    one, count = MANY[items[0]], None if outer == "list" or items[-1] == "..." else len(items)

    def fits(value: Any) -> bool:
        return isinstance(value, (tuple, list)) and count in (None, len(value)) and all(map(one.fits, value))

    return Plain(fits, f"a list of {one.words}" if count is None else f"{count} {one.words}")


def check_values(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse arguments that a function cannot take, by what its annotations say.

    Raises:
        WorkbenchError: for the first one.

    >>> def cut(depth: float = 1.0): ...
    >>> check_values(cut, {"depth": "deep"})
    Traceback (most recent call last):
        ...
    workbench.errors.WorkbenchError: depth is 'deep', but must be a number.
    """
    parameters = inspect.signature(function).parameters
    for name, value in given.items():
        annotation = parameters[name].annotation if name in parameters else None
        kinds = [plain(member) for member in members(annotation)] if isinstance(annotation, str) else []
        if kinds and all(kinds) and not any(kind.fits(value) for kind in kinds):
            raise WorkbenchError(f"{name} is {value!r}, but must be {' or '.join(kind.words for kind in kinds)}.")
