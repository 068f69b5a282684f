"""`workbench bench recipes`: lines while it runs, a table at the end, a file of all rows."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError


def recipes(args: Namespace) -> None:
    """Run the sweep, print what each cell reached, and write --out.

    Raises:
        KeyboardInterrupt: after saying what is kept.
    """
    from workbench.bench import recipes as bench
    from workbench.cli.reports import show
    from workbench.files import write_atomically

    cells = Path(args.cells).expanduser() if args.cells else bench.CELLS
    out = Path(args.out).expanduser() if args.out else None
    if out is not None and out.suffix.lower() != ".json":
        raise WorkbenchError(f"--out {args.out!r} must end in .json.")
    known = bench.load(out) if out is not None and out.exists() else None
    doing = bench.sweep(_words(args.only), _words(args.spaces), args.seconds, args.seed, args.jobs, cells, known)
    rows: list[dict[str, Any]] = []
    live = sys.stderr.isatty()
    try:
        for now in doing:
            if now.again:
                _say(now.again, live)
            if now.row is not None:
                rows.append(now.row)
                _say(f"{now.done}/{now.total} {bench.text(now.row)}", live)
            elif live:
                at_work = ", ".join(f"{recipe} on {space} {spent:.0f} s" for (space, recipe), spent in now.running.items())
                print(f"\r\x1b[K{now.done}/{now.total} done; {at_work}"[:160], end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        doing.close()
        print(f"\n{len(rows)} cells are in {cells}; the same command goes on from there.", file=sys.stderr)
        raise
    content = bench.collect(rows, args.jobs, known)
    found = sorted(bench.entries({"rows": rows}), key=_rank)
    show(HEAD, (_cells(entry) for entry in found if not entry.failed))
    for told in dict.fromkeys(f"{entry.recipe} on {entry.space}: {entry.failed}" for entry in found if entry.failed):
        print(told)
    print(f"sw2 over its noise floor, n = {bench.N}, {bench.DRAWS} draws, seed {args.seed}; {content['hardware']}.")
    if out is not None:
        write_atomically(out, lambda file: file.write_text(bench.to_json(content), encoding="utf-8") and None)
        print(f"{len(content['rows'])} rows -> {out}", file=sys.stderr)


HEAD = ("name", "space", "evaluations", "sw2/floor", "off-mode", "modes", "paired RMS", "steps/s", "peak MB")


def _rank(entry: Any) -> tuple:
    return entry.space, entry.evaluations, entry.quality is None, entry.quality or 0.0, entry.recipe


def _cells(entry: Any) -> list[Any]:
    figures = (entry.quality, entry.off_mode, entry.modes, entry.paired, entry.per_second, entry.peak_mb)
    return [entry.recipe, entry.space, entry.evaluations, *("" if one is None else float(f"{one:.4g}") for one in figures)]


def _say(text: str, live: bool) -> None:
    print(f"\r\x1b[K{text}" if live else text, file=sys.stderr, flush=True)


def _words(text: str | None) -> list[str] | None:
    """Words between commas; None stays None."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]
