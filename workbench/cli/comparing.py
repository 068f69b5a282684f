"""`workbench compare`: the table on the terminal, and files of every kind from the same comparison."""

from __future__ import annotations

import contextlib
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from workbench.cli.commands import classes
from workbench.cli.reports import console, show
from workbench.compare import Comparison, Doing, columns_of, comparing
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.report.command import parse_column
from workbench.report.files import WRITERS, Writer


def compare(args: Namespace) -> None:
    """Print the table of a comparison, with the notes that say how it was measured, and write what --out asks for."""
    outs = [_asked(out) for out in args.out]
    words = [*args.words, *args.models]
    if not words:
        raise WorkbenchError("there is nothing to compare: give at least one model, such as fashion/teacher fashion/dmd2.")
    n = check_count("-n", args.n, 1, 20_000)
    columns = columns_of([parse_column(word) for word in words])
    cond = classes(columns[0].model, args.cond, n)
    single = cond is not None and bool((cond == cond[0]).all())
    began = time.perf_counter()
    result = _watched(comparing(columns, n, int(cond[0]) if single else cond, args.seed))
    seconds = time.perf_counter() - began
    show(
        ["model", *result.table.columns],
        ([label, *row] for label, row in zip(result.table.index, result.table.to_numpy().tolist(), strict=True)),
    )
    console().print(result.notes, soft_wrap=True, highlight=False, markup=False)
    for path, write in outs:
        write(path, result, seconds)
        console(stderr=True).print(f"-> {path}", highlight=False, markup=False)


def _watched(steps: Iterator[Doing]) -> Comparison:
    """Go through a comparison with a line of progress on a terminal; nothing where there is none."""
    status = console(stderr=True)
    shown = status.status("loading ...") if status.is_terminal else contextlib.nullcontext()
    with shown:
        for doing in steps:
            if status.is_terminal:
                from rich.markup import escape

                shown.update(f"{escape(doing.what)}, {doing.done} of {doing.total} evaluations (Ctrl-C stops)")
    return doing.result


def _asked(out: str) -> tuple[Path, Writer]:
    """The place and what writes it; a wrong ending or place is told before anything is computed."""
    path = Path(out).expanduser()
    if path.suffix.lower() not in WRITERS:
        raise unknown("ending of --out", path.suffix or out, WRITERS)
    if path.is_dir():
        raise WorkbenchError(f"--out {out} is a folder: name a file in it, such as {path / 'report.html'}.")
    return path, WRITERS[path.suffix.lower()]
