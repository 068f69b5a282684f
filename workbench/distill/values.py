"""Whether a value fits the option it is given for: a field says by its annotation what it holds."""

from __future__ import annotations

from dataclasses import fields, replace
from numbers import Real
from typing import Any

from workbench.errors import WorkbenchError
from workbench.fits import Plain, members, plain


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
    annotation = next(item.type for item in fields(part) if item.name == name)
    held, alternatives = getattr(part, name), members(annotation)
    kinds = [plain(one) for one in alternatives]
    wrong = WorkbenchError(f"{name} is {value!r}, but must be {_said(held, alternatives, kinds)}.")
    if isinstance(value, Real) and value != value:
        raise wrong
    try:  # a part's own sentence comes first
        given = value if all(kinds) or not hasattr(held, "given") else held.given(value)  # a number may stand for a part
        made = replace(part, **{name: given})
    except WorkbenchError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise wrong from error
    fitting = any(kind.fits(value) for kind in kinds if kind)
    if not fitting and not all(kinds):
        word = getattr(made, name) is value and isinstance(value, (str, bool, Real))
        open_to_all = alternatives == ["Any"] and (held is None or isinstance(held, str))  # the part that reads it knows more
        fitting = open_to_all or not word
    if not fitting:
        raise wrong
    return made


def _said(held: Any, alternatives: list[str], kinds: list[Plain | None]) -> str:
    """What a field holds, in words."""
    pairs = zip(alternatives, kinds, strict=True)
    known = [kind.words if kind else one for one, kind in pairs if one not in ("Any", "None")]
    there = [getattr(held, "__name__", type(held).__name__)] if held is not None else ["a part of its own"]
    short = ["what stands for one"] if hasattr(held, "given") else []
    return " or ".join([*(known or there), *short, *(["None"] if "None" in alternatives else [])])
