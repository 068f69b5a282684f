"""Measure every deterministic solver on every schedule and store the result that `workbench bench solvers` shows.

`python benchmarks/solvers.py` takes about a quarter of an hour on two cores; it goes on where it was stopped. `--only digits/teacher` measures
one teacher again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from workbench.bench import Entry, load, measure, text
from workbench.bench.solvers import SPACES, STORED, store
from workbench.errors import WorkbenchError


def main() -> None:
    """Measure what is missing, teacher by teacher, and store after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="TEACHER", help="measure these again")
    parser.add_argument("--again", action="store_true", help="forget what is stored")
    args = parser.parse_args()
    try:
        found, notes = ([], []) if args.again else load()
    except WorkbenchError:
        found, notes = [], []
    done = {note["teacher"] for note in notes} - set(args.only or ())
    for teacher in args.only or SPACES:
        if teacher in done:
            continue
        began, entries = time.monotonic(), []
        for item in measure([teacher]):
            if isinstance(item, Entry):
                entries.append(item)
                if sys.stderr.isatty():
                    told = f"{teacher}: {len(entries)} runs, {time.monotonic() - began:.0f} s"
                    print(f"\r{told}", end="", file=sys.stderr, flush=True)
            else:
                notes = [note for note in notes if note["teacher"] != teacher] + [
                    {**item, "seconds": round(time.monotonic() - began)}
                ]
        found = [entry for entry in found if entry.teacher != teacher] + entries
        order = {name: place for place, name in enumerate(SPACES)}
        notes.sort(key=lambda note: order.get(note["teacher"], 99))
        found.sort(key=lambda entry: order.get(entry.teacher, 99))
        store(found, notes)
        print(f"\r{teacher}: {len(entries)} runs in {time.monotonic() - began:.0f} s -> {STORED.name}", file=sys.stderr)
    print(text(found, notes, 8))


if __name__ == "__main__":
    main()
