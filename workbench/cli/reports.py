"""`workbench catalog`, `recipes`, `zoo measure` and `zoo table`: what is there, as tables."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workbench import zoo
from workbench.errors import WorkbenchError, check_count, unknown


def catalog(args: Namespace) -> None:
    """Every model known by name, with its main figures."""
    entries = zoo.catalog()
    if args.space:
        spaces = sorted({entry.space for entry in entries})
        if args.space not in spaces:
            raise unknown("space", args.space, spaces)
        entries = [entry for entry in entries if entry.space == args.space]
    rows = ([e.name, e.role, e.space, e.source, e.summary, main_figures(e.card or {})] for e in entries)
    show(["name", "role", "space", "source", "what it is", "figures"], rows)


def main_figures(card: dict[str, Any]) -> str:
    """Frechet distance (with its floor) and class agreement at each measured number of steps, in words."""
    figures = card.get("figures") or {}
    told = [
        f"{count} step{'s' * (count != '1')}: Frechet {found['frechet']:g}, agreement {found['agreement']:.1%}"
        for count, found in figures.items()
        if isinstance(found, dict) and "frechet" in found
    ]
    return "; ".join(told) + f" (floor {figures['frechet_floor']:g})" if told else ""


def recipes(args: Namespace) -> None:
    """Every recipe with its paper and what `--set` changes."""
    from workbench.distill.recipes import recipes as known

    show(
        ["name", "paper", "what it does", "options (--set)"],
        ([r.name, r.paper, r.summary, ", ".join(r.options())] for r in known()),
    )


def measure(args: Namespace) -> None:
    """The figures of a model's card, measured now."""
    from workbench.zoo.measure import measure as run

    model = zoo.load(args.name)
    space = str(getattr(model, "name", "")).split("/")[0]
    if space not in ("digits", "fashion") or not hasattr(model, "card"):
        raise WorkbenchError(
            f"{args.name} is not of the spaces digits or fashion, whose reference is bundled: use `workbench compare`."
        )
    for count in args.steps or ():
        check_count("--steps", count, 1, 10_000)
    found = run(model, tuple(args.steps) if args.steps else None, check_count("-n", args.n, 100, 100_000), args.seed)
    rows = {key: value for key, value in found.items() if isinstance(value, dict)}
    show(["steps", *next(iter(rows.values()))], ([count, *row.values()] for count, row in rows.items()))
    print(
        f"{args.name}: n = {found['n']}, seed {found['seed']}, against {found['reference']}; Frechet floor {found['frechet_floor']}."
    )


def table(args: Namespace) -> None:
    """The README's tables: printed, or put between the markers of a file."""
    from workbench.files import write_atomically

    made = tables()
    if not args.write:
        print("\n\n".join(made.values()))
        return
    path = Path(args.write)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise WorkbenchError(
            f"{path} cannot be read: give an existing file with the markers <!-- models --> and <!-- /models -->."
        ) from error
    write_atomically(path, lambda file: file.write_text(fill(text, made), encoding="utf-8") and None)


def tables() -> dict[str, str]:
    """Marker -> markdown table: the recipes, and the bundled models with the figures on their cards."""
    from workbench.distill.recipes import recipes as known

    made = [f"| `{r.name}` | {r.paper} | {r.summary} |" for r in known()]
    models = []
    for card in bundled_cards():
        figures = card.get("figures") or {}
        for count, found in figures.items():
            if isinstance(found, dict) and "frechet" in found:
                cells = (
                    f"{found['frechet']:.2f}",
                    f"{found['agreement']:.1%}",
                    f"{found['precision']:.2f}",
                    f"{found['recall']:.2f}",
                )
                models.append(
                    f"| `{card['name']}` | {count} | {found['nfe']} | {' | '.join(cells)} | {figures['frechet_floor']:.2f} | {figures['n']} |"
                )
    return {
        "recipes": "\n".join(["| recipe | paper | what it does |", "|---|---|---|", *made]),
        "models": "\n".join(
            [
                "| model | steps | NFE | Fréchet | agreement | precision | recall | floor | n |",
                "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
                *models,
            ]
        ),
    }


def bundled_cards() -> list[dict[str, Any]]:
    """Cards of the models in the package, teachers first; the user's own zoo is not looked at."""
    from workbench.files import read_json

    cards = [read_json(path) for path in sorted(zoo.BUNDLED.glob("*/*/card.json"))]
    return sorted(
        (card for card in cards if "role" in card),
        key=lambda card: (card["name"].split("/")[0], card["role"] == "student", card["name"]),
    )


def fill(text: str, made: dict[str, str]) -> str:
    """Put each table between its markers.

    Raises:
        WorkbenchError: if a marker is missing.

    >>> fill("a <!-- x -->old<!-- /x --> b", {"x": "new"})
    'a <!-- x -->\\nnew\\n<!-- /x --> b'
    """
    for name, content in made.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        if opening not in text or closing not in text.partition(opening)[2]:
            raise WorkbenchError(f"the file has no {opening} ... {closing}: put the two markers where the table belongs.")
        before, _, rest = text.partition(opening)
        text = f"{before}{opening}\n{content}\n{closing}{rest.partition(closing)[2]}"
    return text


def show(head: Sequence[str], rows: Iterable[Sequence[Any]], header: bool = True) -> None:
    """Print a table; where there is no terminal, lines are as long as they need to be."""
    from rich.table import Table

    made = Table(box=None, show_header=header, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in head:
        made.add_column(name, no_wrap=name == "name", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    console().print(made)


def _cell(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, float):
        return "" if value != value else f"{value:g}"
    return escape(str(value))


def console(stderr: bool = False):
    """A rich console on the stream of the moment."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else 400)


def bench(args: Namespace) -> None:
    """The best solvers of the committed benchmark, and a figure of all."""
    from workbench.bench import load
    from workbench.bench.solvers import text

    check_count("--nfe", args.nfe, 1, 10_000)
    entries, notes = load()
    print(text(entries, notes, args.nfe, check_count("--best", args.best, 1, 100)))
    if args.out:
        from workbench import views
        from workbench.views.export import save

        print(f"-> {save(views.solver_errors(entries, notes), args.out)}")
