"""Try a paper's claim at small scale: its recipe against the proper baseline at equal processor time, over seeds.

    python benchmarks/claims.py --list
    python benchmarks/claims.py --recipe ict [--seeds 0 1 2] [--seconds 20] [--jobs 2] [--cells runs/claims] [--out benchmarks/results/claims]

Prints the figures and the verdict of every claim of the recipe, and writes OUT/NAME.json. An arm and a seed is a cell, kept in
`--cells`: a run that was stopped goes on where it was. `--recipe all` takes every recipe that is there, the cheapest first.
`--table docs/claims.md` puts a table of all that OUT holds into the page.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from workbench.bench import claims
from workbench.cli.reports import fill
from workbench.errors import WorkbenchError
from workbench.files import read_json, write_json

OUT = Path(__file__).parent / "results" / "claims"


def listing() -> str:
    """Every claim with its training time, and what is missing for it."""
    lines = []
    for claim in claims.claims():
        missing = claim.missing()
        state = f"missing: {', '.join(missing)}" if missing else f"{claim.cost():.0f} s"
        lines.append(f"{claim.recipe:20} {claim.name:24} {state:28} {claim.sentence}")
    return "\n".join(lines)


def cheapest_first() -> list[str]:
    """Names of the recipes whose claims can be run, by training time."""
    held = {claim.recipe: claims.of(claim.recipe) for claim in claims.claims()}
    able = [name for name, rows in held.items() if not any(claim.missing() for claim in rows)]
    return sorted(able, key=lambda name: sum(claim.cost() for claim in held[name]))


def table(place: Path) -> str:
    """A row for each check of every stored claim, in the order of `--list`: mean and deviation over the seeds of both sides."""
    rows = ["| recipe | claim | check | this | other | verdict |", "|---|---|---|--:|--:|---|"]
    for name in dict.fromkeys(claim.recipe for claim in claims.claims()):
        if not (place / f"{name}.json").exists():
            continue
        for claim in read_json(place / f"{name}.json")["claims"]:
            first = (f"`{name}`", f"{claim['sentence']} *{claim['verdict']}*")
            for check in claim["checks"]:
                sides = [_figure(check.get(side)) for side in ("arm", "other")]
                rows.append(f"| {' | '.join([*first, check['says'], *sides, check['verdict']])} |")
                first = ("", "")
    return "\n".join(rows)


def _figure(found: dict | None) -> str:
    return "" if found is None or found.get("mean") is None else f"{found['mean']:.3g} ± {found['sd']:.2g}"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="show every claim and the recipes that are missing")
    parser.add_argument("--recipe", nargs="+", default=[], metavar="NAME", help="recipes, or all")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(claims.SEEDS))
    parser.add_argument(
        "--seconds", type=float, help="processor time of training for an arm and a seed, in place of the claim's own"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cells", type=Path, default=claims.CELLS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--table", type=Path, help="a page with the markers <!-- claims --> and <!-- /claims -->, to put the table in"
    )
    given = parser.parse_args(words)
    if given.list or not (given.recipe or given.table):
        print(listing())
        return 0
    try:
        for name in cheapest_first() if given.recipe == ["all"] else given.recipe:
            found = claims.run(name, given.seeds, given.seconds, given.jobs, given.cells, partial(print, flush=True))
            write_json(given.out / f"{name}.json", found)
        if given.table:
            page = fill(given.table.read_text(encoding="utf-8"), {"claims": table(given.out)})
            given.table.write_text(page, encoding="utf-8")
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
