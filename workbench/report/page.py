"""The page of a report: one HTML file that asks no other host, with everything from outside escaped."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from workbench import cite
from workbench.compare import Comparison
from workbench.errors import WorkbenchError
from workbench.report.figures import LEVELS, Drawer, Section, bars, sections
from workbench.report.look import CSS
from workbench.views import embed

MOST_BYTES = 5_000_000
# Nothing is fetched, from anywhere: what a label may hold cannot change that.
POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def build(comparison: Comparison, told: dict[str, Any], made: str, seconds: float | None = None) -> str:
    """The page as text, below 5 MB: where samples are large, it shows fewer.

    Args:
        told: from `facts`. made: date and time, in words. seconds: that the comparison took, or None.

    Raises:
        WorkbenchError: if even four samples a model are too much for one page.
    """
    for level in LEVELS:
        drawer = Drawer(comparison)
        head = _head(drawer, told)
        table = _section(Section("The figures", "", _table(drawer, told)))
        body = "".join(_section(each) for each in sections(drawer, level))
        page = _whole(told, f"{head}{table}{body}{_settings(told, made)}{_citations(comparison)}", _footer(told, made, seconds))
        if len(page.encode()) < MOST_BYTES:
            return page
    raise WorkbenchError("this comparison makes a page above 5 MB: compare fewer models, or smaller images.")


def _whole(told: dict[str, Any], body: str, footer: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(told['title'])}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}</main>\n{footer}\n"
        f"{embed.json_block(json.dumps(told, ensure_ascii=False), id='workbench')}\n{embed.plotly_html()}\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    words = f'<p class="words">{section.words}</p>' if section.words else ""
    return f"<section>\n<h2>{section.heading}</h2>\n{words}{section.html}\n</section>\n"


def _head(drawer: Drawer, told: dict[str, Any]) -> str:
    many = len(told["columns"]) > 1
    each = f"{told['n']} sample{'s' * (told['n'] != 1)}{' from each' * many}"
    asked = f"; {told['classes']}" if told["classes"] else ""
    lead = f"{each}, {'all from the same noise' if many else 'from noise'} (seed {told['seed']}){asked}."
    cards = "".join(_card(drawer, column, told) for column in told["columns"])
    return (
        f'<header>\n<p class="kind">Comparison</p>\n<h1>{escape(told["title"])}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        f'<div class="cards">{cards}</div>\n</header>\n'
    )


def _card(drawer: Drawer, column: dict[str, Any], told: dict[str, Any]) -> str:
    label, head = column["label"], told["table"]["columns"]
    row = dict(zip(head, told["table"]["rows"][label], strict=True))
    figures = [("evaluations", f"{column['nfe']}"), ("ms a sample", _number(row.get("ms/image")))]
    distance = told["floor"]["name"] if told["floor"] else "error to fine solution"
    if row.get(distance) is not None:
        figures.append((distance if told["floor"] else "error", _number(row[distance])))
    guided = ""
    if column["guidance"] not in (None, 1.0):
        guided = f", guidance {column['guidance']:g}"
    elif column["baked"] not in (None, 1.0):
        guided = f"; guidance {column['baked']:g} is in its weights"
    paper = f" ({column['paper']})" if column["paper"] else ""
    return (
        f'<div class="card"><h3>{drawer.caption(label)}</h3><p>{escape(column["what"] + paper)}.</p>'
        f"<p>{escape(column['plan'] + guided)}.</p>"
        f'<p class="times">t: {escape(_times(column["times"]))}</p>'
        f"<dl>{''.join(f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>' for name, value in figures)}</dl></div>"
    )


def _times(times: list[float]) -> str:
    told = [f"{t:.3g}" for t in times]
    return " → ".join(told if len(told) <= 7 else [*told[:3], "…", *told[-2:]])


def _table(drawer: Drawer, told: dict[str, Any]) -> str:
    head = told["table"]["columns"]
    rows = "".join(
        f"<tr><th><div>{drawer.caption(label)}</div></th>{''.join(f'<td>{escape(_number(value))}</td>' for value in row)}</tr>"
        for label, row in told["table"]["rows"].items()
    )
    if told["floor"] and told["floor"]["name"] in head:
        cells = (f"<td>{_number(told['floor']['value']) if name == told['floor']['name'] else ''}</td>" for name in head)
        rows += f'<tr class="floor"><th>two draws of the data</th>{"".join(cells)}</tr>'
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    return (
        f'<div class="scroll"><table><thead><tr><th>model</th>{titles}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="notes">{escape(told["notes"])}</p>{bars(drawer)}'
    )


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _settings(told: dict[str, Any], made: str) -> str:
    rows = [("made", made), ("machine", told["machine"]), ("samples", f"n = {told['n']}, seed {told['seed']}")]
    rows += [("classes", told["classes"])] if told["classes"] else []
    rows += [("versions", ", ".join(f"{name} {version}" for name, version in told["versions"].items()))]
    for column in told["columns"]:
        weights = f"; weights {column['weights'][:16]}" if column["weights"] else ""
        text = f"{column['plan']}; samples {column['samples'][:16]}{weights}"
        rows.append((column["label"], text))
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows)
    words = "Samples and weights are named by the first digits of their SHA-256: equal digits, equal numbers."
    return _section(Section("Settings", words, f'<table class="facts"><tbody>{body}</tbody></table>'))


def _citations(comparison: Comparison) -> str:
    text = cite.bibtex(comparison)
    count = text.count("\n@") + text.startswith("@")
    block = f"<details><summary>{count} reference{'s' * (count != 1)} as BibTeX</summary><pre>{escape(text)}</pre></details>"
    return _section(Section("What to cite", "The samplers, methods and metrics that this page uses.", block))


def _footer(told: dict[str, Any], made: str, seconds: float | None) -> str:
    took = f", in {seconds:.0f} s" if seconds is not None and seconds >= 1 else ""
    if told["command"]:
        again = (
            "This command makes it again. With the same versions and number of threads on the same machine the samples are equal to the "
            f'last bit, elsewhere up to rounding; times differ.<pre id="command">{escape(told["command"])}</pre>'
        )
    else:
        again = f"No command makes this page again: {escape(told['no_command'])} Call workbench.report with the same models instead."
    return f"<footer>Made by workbench {escape(told['versions']['workbench'])} on {escape(made)}{took}. {again}</footer>"
