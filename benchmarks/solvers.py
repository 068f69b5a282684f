"""Measure every solver on every schedule and store the result that `workbench bench solvers` shows.

`python benchmarks/solvers.py` takes about a quarter of an hour on two cores; it goes on where it was stopped. `--only digits/teacher` measures
one teacher again, `--samplers heun dpm_3` those solvers alone. `--tuned` measures the schedules that are computed from the teacher instead, `--law` the solvers that add noise.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from workbench.bench import Entry, load, measure, text
from workbench.bench.solvers import SPACES, STORED, STORED_LAW, STORED_TUNED, measure_law, store
from workbench.errors import WorkbenchError
from workbench.samplers import SAMPLERS
from workbench.samplers.tuned import TUNED


def main() -> None:
    """Measure what is missing, teacher by teacher, and store after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="TEACHER", help="measure these again")
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help="measure these again, and keep the others' entries")
    parser.add_argument("--again", action="store_true", help="forget what is stored")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--tuned", action="store_true", help="the schedules computed from the teacher")
    which.add_argument("--law", action="store_true", help="the solvers that add noise, by the distance of laws")
    args = parser.parse_args()
    place = STORED_TUNED if args.tuned else STORED_LAW if args.law else STORED
    try:
        found, notes = ([], []) if args.again else load(place)
    except WorkbenchError:
        found, notes = [], []
    done = set() if args.samplers else {note["teacher"] for note in notes} - set(args.only or ())
    for teacher in args.only or SPACES:
        if teacher in done:
            continue
        began, entries = time.monotonic(), []
        before = next((note.get("seconds", 0) for note in notes if note["teacher"] == teacher), 0) if args.samplers else 0
        kept = [e for e in found if e.teacher == teacher and args.samplers and e.sampler not in args.samplers]
        how = {"names": args.samplers, "schedule_names": list(TUNED) if args.tuned else None}
        for item in (measure_law if args.law else measure)([teacher], **how):
            if isinstance(item, Entry):
                entries.append(item)
                if sys.stderr.isatty():
                    told = f"{teacher}: {len(entries)} runs, {time.monotonic() - began:.0f} s"
                    print(f"\r{told}", end="", file=sys.stderr, flush=True)
            else:
                notes = [note for note in notes if note["teacher"] != teacher] + [
                    {**item, "seconds": round(before + time.monotonic() - began)}
                ]
        names = list(SAMPLERS)
        found = [e for e in found if e.teacher != teacher] + sorted(kept + entries, key=lambda e: names.index(e.sampler))
        order = {name: place for place, name in enumerate(SPACES)}
        notes.sort(key=lambda note: order.get(note["teacher"], 99))
        found.sort(key=lambda entry: order.get(entry.teacher, 99))
        store(found, notes, place)
        print(f"\r{teacher}: {len(entries)} runs in {time.monotonic() - began:.0f} s -> {place.name}", file=sys.stderr)
    print(text(*load(), 8))


if __name__ == "__main__":
    main()
