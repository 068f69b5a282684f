"""What each recipe reaches on an image set, from the files that `benchmarks/images.py` writes beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.bench.recipes import Entry
from workbench.errors import WorkbenchError
from workbench.files import read_json

STORED = Path(__file__).parent


def stored(folder: Path | None = None) -> list[Entry]:
    """Entries of every images_SPACE.json in a folder, those that come with the package by default: quality is the Frechet distance over
    its floor, `modes` the recall.

    Raises:
        WorkbenchError: for a file that is damaged.

    >>> {entry.space for entry in stored()} >= {"digits"}
    True
    """
    found: list[Entry] = []
    for file in sorted((folder or STORED).glob("images_*.json")):
        content = read_json(file)
        try:
            found += [entry for row in content["rows"] for entry in entries(row, content["space"])]
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise WorkbenchError(f"{file} is not a result of benchmarks/images.py: run it again with --out {file}.") from error
    return found


def entries(row: dict[str, Any], space: str) -> list[Entry]:
    """One entry for each number of steps that was measured, by what it costs in evaluations; a row that failed is one entry.

    >>> entries({"recipe": "kd", "failed": "It needs pairs."}, "digits")[0].failed
    'It needs pairs.'
    """
    if "failed" in row:
        return [Entry(row["recipe"], space, 1, failed=row["failed"])]
    figures, seconds, steps = row["figures"], row["seconds"], row["steps"]
    floor, rate = figures["frechet_floor"], steps / seconds if seconds else None
    shared = {"per_second": rate, "steps": steps, "seconds": seconds}
    return [
        Entry(row["recipe"], space, one.get("nfe", int(key)), one["frechet"] / floor, modes=one.get("recall"), **shared)
        for key, one in figures.items()
        if key.isdigit()
    ]
