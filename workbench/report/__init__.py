"""One page that holds a comparison: samples, figures, trajectories, settings, citations, and the command that makes it again."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from typing import Any

from workbench.callable_module import make_callable
from workbench.compare import Comparison, compare
from workbench.errors import WorkbenchError, unknown
from workbench.report.command import command_of, parse_column, spell_column

__all__ = ["command_of", "parse_column", "report", "spell_column"]


def report(
    compared: Any,
    path: str | os.PathLike = "report.html",
    n: int = 64,
    cond: Any = None,
    seed: int = 0,
    seconds: float | None = None,
) -> Path:
    """Write a comparison as one HTML file below 5 MB that works without a network; returns where it lies.

    Args:
        compared: a `Comparison`, or the models of one as `workbench.compare` takes them. path: ends in .html.
        n, cond, seed: as for `workbench.compare`, where models are given. seconds: that the comparison took, for the footer.

    Raises:
        WorkbenchError: if the comparison cannot be made, or the file cannot be written; an earlier file is then intact.

    >>> import tempfile
    >>> report(["moons"], tempfile.mkdtemp() + "/moons.html", n=8).name
    'moons.html'
    """
    from workbench.report.facts import facts
    from workbench.report.page import build
    from workbench.views.export import write_bytes

    place = page_path(path)
    if not isinstance(compared, Comparison):
        began = time.perf_counter()
        compared = compare(compared, n, cond, seed)
        seconds = time.perf_counter() - began
    made = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z").strip()
    return write_bytes(place, build(compared, facts(compared, place.name), made, seconds).encode())


def page_path(path: str | os.PathLike) -> Path:
    """The place of a page, or one sentence that says why it cannot be one."""
    try:
        place = Path(path).expanduser()
    except (TypeError, RuntimeError) as error:
        raise WorkbenchError(f"{path!r} is not the name of a file.") from error
    if place.suffix.lower() != ".html":
        raise unknown("ending of a report", place.suffix or place.name, [".html"])
    return place


make_callable(__name__, report)
