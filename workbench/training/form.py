"""A recipe's switches as a form: what a person leaves alone is no option, and what cannot be is told in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from workbench.errors import WorkbenchError, check_count


def changed(known: Mapping[str, tuple[type, Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that differ from what the recipe would take anyway.

    Args:
        known: what `training.switches` gives: name -> (int, float, bool or str; default). values: name -> what was entered: text, a number,
            or yes or no; an empty one is the default.

    Raises:
        WorkbenchError: for what is no number where one is wanted, or not whole where it must be.

    >>> changed({"batch": (int, 64), "lr": (float, 1e-4), "divergence": (str, "js")}, {"batch": "32", "lr": "", "divergence": "kl"})
    {'batch': 32, 'divergence': 'kl'}
    """
    options: dict[str, Any] = {}
    for name, value in values.items():
        kind, default = known[name]
        value = value.strip() if isinstance(value, str) else value
        if value is None or value == "" or value == default:
            continue
        if kind is bool:
            options[name] = bool(value)
        elif kind is str:
            options[name] = str(value)[:200]
        elif (number := _number(name, value)) != default:
            options[name] = check_count(name, int(number) if number.is_integer() else number, 0) if kind is int else number
    return options


def _number(name: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise WorkbenchError(f"{name} is {str(value)[:40]!r}, but must be a number.")
    return number
