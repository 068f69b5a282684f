"""One-sentence errors: what was given, what is accepted, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WorkbenchError(ValueError):
    """An error whose message a user can act on; faces print it without a traceback."""


class UnknownName(WorkbenchError, KeyError):
    """A name that is not in a registry; the message offers the nearest one."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class MissingSource(WorkbenchError, FileNotFoundError):
    """Data or weights that are not on this machine; the message says how to get them."""

    def __str__(self) -> str:
        return str(self.args[0])


class Diverged(WorkbenchError, ArithmeticError):
    """Training or sampling produced a number that is not finite."""


def unknown(what: str, given: object, known: Iterable[str]) -> UnknownName:
    """Build the error for an unknown `what`, with the nearest known name first.

    >>> str(unknown("sampler", "heum", ["euler", "heun"]))
    "unknown sampler 'heum': did you mean 'heun'? Known: euler, heun."
    """
    names = sorted(str(name) for name in known)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else "."
    return UnknownName(f"unknown {what} {given!r}{hint} Known: {', '.join(names)}.")


def check_options(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `UnknownName` for the first keyword in `given` that is not in `known`."""
    known = list(known)
    for name in given:
        if name not in known:
            raise unknown(f"option of {what}", name, known)


def check_count(what: str, value: object, low: int = 1, high: int | None = None) -> int:
    """Return `value` as an int within [low, high], or raise with both bounds named."""
    try:
        number = int(value)  # type: ignore[call-overload]
        whole = not isinstance(value, bool) and number == value
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or number < low or (high is not None and number > high):
        bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise WorkbenchError(f"{what} is {value!r}, but must be a whole number {bounds}.")
    return number
