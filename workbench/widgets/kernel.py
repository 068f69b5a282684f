"""What a widget asks of the notebook's kernel: its event loop, and a line below the running cell."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The kernel's event loop, or None outside one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def exhaust(texts: Iterator[str]) -> None:
    """Run to the end, whatever is said on the way."""
    for _ in texts:
        pass


def tell(text: str, handle: Any) -> Any:
    """Say something below the running cell, or say it anew."""
    from IPython.display import display

    said = {"text/plain": text}
    if handle is None:
        return display(said, raw=True, display_id=True) or False
    if handle:
        handle.update(said, raw=True)
    return handle
