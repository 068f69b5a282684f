"""Check the built site: every page is there, nothing is fetched from elsewhere, the reference is whole: `make docs`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
FETCHED = (
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b(?![^>]*rel=\"canonical)[^>]*href=\"(?:https?:)?//"
)
SHEET = r"(?:url\(['\"]?|@import ['\"])(?:https?:)?//"


def faults(site: Path) -> Iterator[str]:
    """What is wrong with a site, a sentence each."""
    built = {page.relative_to(site).as_posix(): page.read_text(encoding="utf-8") for page in site.glob("**/*.html")}
    sources = [page.relative_to(DOCS).with_suffix(".html").as_posix() for page in DOCS.glob("**/*.md")]
    for name in sources:
        if not name.startswith(("_build", "figures/")) and name not in built:
            yield f"{name} was not built."
    for name, text in built.items():
        if re.search(FETCHED, text):
            yield f"{name} fetches something from elsewhere: {re.search(FETCHED, text)[0]}"
    sheets = list(site.glob("**/*.css"))
    if not sheets:
        yield "there is no style sheet."
    for sheet in sheets:
        if re.search(SHEET, sheet.read_text(encoding="utf-8")):
            yield f"{sheet.name} fetches something from elsewhere."
    samplers = built.get("api/samplers.html", "")
    if 'id="workbench.samplers.plan.Stage"' not in samplers:
        yield "a module is missing from the reference: workbench.samplers.plan has no Stage."
    if "what the rows expect the model’s output as" not in samplers or "kind: what the rows" in samplers:
        yield "the fields of Stage run together in the reference."


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1])))
    sys.exit("\n".join(found) if found else 0)
