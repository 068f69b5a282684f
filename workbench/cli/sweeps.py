"""`workbench sweep`: every sampler on every schedule, as lines while it runs, a table at the end, a CSV or a page."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError, check_count
from workbench.sweep import SweepRow, collect
from workbench.sweep import sweep as run

if TYPE_CHECKING:
    import plotly.graph_objects as go

ENDINGS = (".csv", ".html")
COLUMNS = ("steps", "sampler", "schedule", "nfe", "value", "floor", "ms_per_image", "own", "note")


def sweep(args: Namespace) -> None:
    """Run the sweep, print its table, and write it where --out says."""
    from workbench.cli.commands import classes
    from workbench.cli.reports import console, show
    from workbench.compare import columns_of
    from workbench.report import parse_column

    outs = [_out(text) for text in args.out or ()]
    columns = columns_of([parse_column(word) for word in args.models])
    n = check_count("-n", args.n, 2, 20_000)
    cond: Any = args.cond
    if cond == "none":
        cond = None
    elif cond != "all":
        given = classes(columns[0].model, cond, n)
        cond = int(given[0]) if bool((given == given[0]).all()) else given
    rows: list[SweepRow] = []
    live = sys.stderr.isatty()
    for row in run(
        columns, _words(args.samplers), _words(args.schedules), _counts(args.steps), n, cond, args.seed, args.guidance
    ):
        rows.append(row)
        if live:
            print(f"\r\x1b[K{len(rows)}: {row}"[:160], end="", file=sys.stderr, flush=True)
    if live:
        print("\r\x1b[K", end="", file=sys.stderr)
    metric = rows[0].metric
    head = ["model", *(metric if name == "value" else name.replace("_per_", "/") for name in COLUMNS)]
    show(head, ([row.label, *(_cell(row, name) for name in COLUMNS)] for row in rows))
    console().print(_notes(rows, args.cond), soft_wrap=True, highlight=False)
    for out in outs:
        print(f"{len(rows)} rows -> {_write(out, rows, args)}", file=sys.stderr)


def _cell(row: SweepRow, name: str) -> Any:
    value = getattr(row, name)
    if name == "own":
        return "own" if value else ""
    return "" if value is None else float(f"{value:.4g}") if isinstance(value, float) else value


def _notes(rows: Sequence[SweepRow], cond: str) -> str:
    from workbench.views.findings import findings

    first, labels = rows[0], list(dict.fromkeys(row.label for row in rows))
    asked = {"all": "every class in turn", "none": "no class"}.get(cond, f"class {cond}")
    told = [f"n = {first.n}, seed {first.seed}, same noise for all, {asked} where a model has classes."]
    for label in labels:
        mine = [row for row in rows if row.label == label]
        told += [f"{label}, {finding}." for finding in findings(mine)]
    return "\n".join(told)


def _words(text: str | None) -> list[str] | None:
    """Words between commas; None stays None."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _counts(text: str | None) -> list[int] | None:
    counts = _words(text)
    return None if counts is None else [check_count("--steps", int(word) if word.isdigit() else word) for word in counts]


def _out(given: str) -> Path:
    path = Path(given).expanduser()
    if path.suffix.lower() not in ENDINGS:
        raise WorkbenchError(f"--out {given!r} must end in .csv for the table or .html for a page with the figures.")
    return path


def _write(path: Path, rows: list[SweepRow], args: Namespace) -> Path:
    from workbench.files import write_atomically

    text = collect(rows).to_csv(index=False) if path.suffix.lower() == ".csv" else page(rows, command_of(args))
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)
    return path


def command_of(args: Namespace) -> str:
    """The command that makes a sweep again."""
    words = ["workbench", "sweep", *args.models]
    for name in ("samplers", "schedules", "steps", "cond", "seed", "guidance"):
        value = getattr(args, name)
        if value is not None and (name, value) not in (("cond", "all"), ("seed", 0)):
            words += [f"--{name}", str(value)]
    return shlex.join([*words, "-n", str(args.n), *(word for out in args.out or () for word in ("--out", out))])


def page(rows: list[SweepRow], command: str) -> str:
    """One HTML page that works without a network: the figures, the table, the references, and the command."""
    from workbench import cite
    from workbench.report.look import CSS
    from workbench.report.page import POLICY
    from workbench.views import embed

    figures = _figures(rows)
    drawn = "\n".join(f"<section>{embed.figure_html(figure, f'plot-{k}')}</section>" for k, figure in enumerate(figures))
    table = collect(rows).drop(
        columns=["label", "metric", "n", "seed"] if len({r.label for r in rows}) == 1 else ["metric", "n", "seed"]
    )
    used = [row.label for row in rows], [row.sampler for row in rows], [row.schedule for row in rows], [rows[0].metric]
    references = cite.bibtex("workbench", *_citable(name for names in used for name in names))
    title = figures[0].layout.title.text
    floor = f"{rows[0].metric}: noise floor {rows[0].floor:.3g}, n = {rows[0].n}, seed {rows[0].seed}, same noise for all."
    body = (
        f'<header><p class="kind">Sampler sweep</p><h1>{escape(title)}</h1><p class="lead">{escape(floor)}</p></header>\n{drawn}\n'
        f'<section><h2>Every plan</h2><div style="overflow-x:auto">{table.to_html(index=False, border=0, na_rep="")}</div></section>\n'
        f"<section><h2>What to cite</h2><details><summary>References as BibTeX</summary><pre>{escape(references)}</pre></details></section>"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}</main>\n"
        f"<footer>This command makes it again; times differ.<pre>{escape(command)}</pre></footer>\n{embed.plotly_html()}\n</body>\n</html>\n"
    )


def _figures(rows: list[SweepRow]) -> list[go.Figure]:
    from workbench.views import quality, sampler_map

    labels = dict.fromkeys(row.label for row in rows)
    maps = [
        sampler_map(rows, label) for label in labels if len({(r.sampler, r.schedule) for r in rows if r.label == label}) > 1
    ]
    return [*maps, quality(rows)]


def _citable(names: Any) -> list[str]:
    """The names that have a reference: a model's label may be a folder, a schedule a list of times."""
    from workbench import cite, zoo

    known = {*cite.USES, *(entry.name for entry in zoo.catalog())}
    return [name for name in dict.fromkeys(names) if name in known]
