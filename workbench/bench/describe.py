"""A configuration as JSON that does not change when a part gets a new switch."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any


def described(value: Any) -> Any:
    """A configured part as JSON: its class, and the fields that differ from their defaults, so that a new switch changes nothing."""
    if is_dataclass(value) and not isinstance(value, type):
        try:
            plain = type(value)()
        except TypeError:  # fields without a default
            plain = None
        told = {item.name: getattr(value, item.name) for item in fields(value)}
        changed = {name: held for name, held in told.items() if plain is None or held != getattr(plain, name)}
        return {"": type(value).__name__, **{name: described(held) for name, held in changed.items()}}
    if isinstance(value, dict):
        return {str(name): described(held) for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(held) for held in value]
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else value
