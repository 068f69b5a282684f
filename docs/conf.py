"""Sphinx settings: furo, MyST, and docstrings read as this project writes them (`make docs`)."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import workbench  # noqa: E402  the tree that these pages lie in, installed or not

project = "Diffusion-distillation workbench"
author = "The workbench authors"
version = release = workbench.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "figures/*.md"]
default_role = "py:obj"  # a name in backticks in a docstring links to what it names, or is plain code
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "Workbench"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = html_show_sourcelink = html_copy_source = False
pygments_style, pygments_dark_style = "friendly", "github-dark"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f66a3", "color-brand-content": "#1f66a3", "font-stack": FONT},
    "dark_css_variables": {"color-brand-primary": "#6db3ea", "color-brand-content": "#6db3ea", "font-stack": FONT},
}

autodoc_member_order = "bysource"
add_module_names = False  # the heading above says it
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
autodoc_default_options = {"members": True, "ignore-module-all": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True

FIELDS, RAISES = ("Args:", "Attributes:"), "Raises:"
MODULES = re.compile(r"<!-- modules: ([\w. ]+) -->")
FACE = "<!-- public face -->"
INTERNAL = {"workbench.__main__", "workbench.callable_module", "workbench.cli", "workbench.files", "workbench.references"}


def modules(name: str) -> list[str]:
    """A module and the public ones below it, in the order of their names."""
    package = import_module(name)
    below = pkgutil.walk_packages(getattr(package, "__path__", []), f"{name}.")
    return [name, *(item.name for item in below if not item.name.rpartition(".")[2].startswith("_"))]


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Put every module of a part, or the public names, in the place of a marker: nothing new can be forgotten."""

    source[0] = MODULES.sub(
        lambda match: "\n".join(entry(name) for part in parts(match[1]) for name in modules(part)), source[0]
    )
    if FACE in source[0]:
        source[0] = source[0].replace(FACE, public_face())


def parts(words: str) -> list[str]:
    """The modules that a marker names; "the rest" are those at the top of the package that no page names."""
    if words != "the rest":
        return words.split()
    named = {
        word
        for page in Path(__file__).parent.glob("api/*.md")
        for found in MODULES.findall(page.read_text())
        for word in found.split()
    }
    found = {f"workbench.{item.name}" for item in pkgutil.iter_modules(workbench.__path__)}
    return sorted(found - named - INTERNAL)


def entry(name: str) -> str:
    """One module; a function that shares its name with a module below (`samplers.plan`) cannot be in the index too."""
    module = import_module(name)
    below = [item.name for item in pkgutil.iter_modules(getattr(module, "__path__", []))]
    twice = [word for word in below if getattr(getattr(module, word, None), "__module__", "") == name]
    text = [f".. automodule:: {name}", f"   :exclude-members: {', '.join(twice)}" if twice else ""]
    text += [line for word in twice for line in ("", f".. autofunction:: {name}.{word}", "   :no-index:")]
    return "\n".join([f"## `{name}`", "", "```{eval-rst}", *text, "```", ""])


def public_face() -> str:
    """A table of what `import workbench as wb` offers: name, where it lives, its first sentence."""
    rows = ["| name | lives in | what it is |", "|---|---|---|"]
    for name in workbench.__all__:
        module, _, attribute = workbench._LAZY[name].partition(":")
        value = getattr(workbench, name)
        if inspect.ismodule(value) and callable(value):
            value, attribute = getattr(value, name), name
        text = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        owner = getattr(value, "__module__", module) if attribute else module
        where = f"{{py:obj}}`{owner}.{attribute}`" if attribute else f"{{py:mod}}`{module}`"
        rows.append(f"| `wb.{name}` | {where} | {text} |")
    return "\n".join(rows)


def docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make reStructuredText of a docstring that was written to be read in the source.

    Several fields on one line become one line each, an equation becomes a literal block, and signs that mean markup
    elsewhere (|x|, *) are taken as they are.
    """
    if what == "module":  # Sphinx takes the margin of all but the first line away, and blocks with it
        lines[:] = (obj.__doc__ or "").splitlines()
    known, out, k = names_of(obj), [], 0
    while k < len(lines):
        line = lines[k]
        if line.strip() in FIELDS or line.strip() == RAISES:
            body = []
            while k + 1 < len(lines) and (not lines[k + 1].strip() or lines[k + 1].startswith(" ")):
                body.append(lines[k := k + 1])
            out += section(line.strip(), body, known)
        elif line.startswith(" ") and (not out or not out[-1].strip()):
            out += [".. code-block:: text", ""]
            while k < len(lines) and (lines[k].startswith(" ") or not lines[k].strip()):
                out.append(lines[k])
                k += 1
            continue
        elif line.startswith((">>>", "...")):
            while k < len(lines) and lines[k].strip():
                out.append(lines[k])
                k += 1
            out.append("")
            continue
        else:
            out.append(escaped(line))
        k += 1
    lines[:] = out


def names_of(obj: Any) -> set[str]:
    """Names that may begin a field: parameters of a callable, fields of a class."""
    found = {field.name for field in dataclasses.fields(obj)} if dataclasses.is_dataclass(obj) else set()
    found |= set(getattr(obj, "_fields", ())) | set(getattr(obj, "__annotations__", {}))
    try:
        return found | set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        return found


def section(title: str, body: list[str], known: set[str]) -> list[str]:
    """One section for napoleon, a field a line; a source named among the errors becomes a paragraph of its own."""
    fields: list[str] = []
    indent = min((len(line) - len(line.lstrip()) for line in body if line.strip()), default=4)
    for line in filter(str.strip, body):
        deeper = len(line) - len(line.lstrip()) > indent
        new = not deeper and (begins(line.strip(), known) or title == RAISES) and bool(re.match(r"[\w, ]+: ", line.strip()))
        fields = [*fields, line.strip()] if new or not fields else [*fields[:-1], f"{fields[-1]} {line.strip()}"]
    start = re.compile(r"(?<=[.;)]) (?=[A-Z]\w+: )" if title == RAISES else r"(?<=[.;)]) (?=(?:\w+, )*\w+: )")
    split: list[str] = []
    for field in fields:
        for piece in start.split(field):
            apart = title == RAISES or begins(piece, known) or not split
            split = [*split, piece] if apart else [*split[:-1], f"{split[-1]} {piece}"]
    kept = [piece for piece in split if not piece.startswith("Source: ")]
    sources = [piece for piece in split if piece.startswith("Source: ")]
    text = [title, *(f"    {escaped(piece)}" for piece in kept), ""] if kept else []
    return [*text, *(line for piece in sources for line in (escaped(piece), ""))]


def begins(piece: str, known: set[str]) -> bool:
    """Whether "a, b: ..." names only known parameters."""
    head, colon, _ = piece.partition(": ")
    return bool(colon) and all(word.strip() in known for word in head.split(","))


def escaped(line: str) -> str:
    """Outside backticks, signs stand for themselves."""
    parts = line.split("`")
    parts[1::2] = [part if re.fullmatch(r"~?[A-Za-z_][\w.]*", part) else f"`{part}`" for part in parts[1::2]]  # else a literal
    parts[::2] = [re.sub(r"[\\|*@]|\w_(?=\W|$)", _escape, part) for part in parts[::2]]
    parts[2::2] = [f"\\ {part}" if part[:1].isalnum() else part for part in parts[2::2]]  # `Column`s
    return "`".join(parts)


def _escape(match: re.Match) -> str:
    return f"{match[0][0]}\\_" if match[0].endswith("_") else f"\\{match[0]}"


def short_name(app: Sphinx, env: BuildEnvironment, node: nodes.Element, text: nodes.Node) -> nodes.Node | None:
    """Link `Plan` from any module to the one class or function of that name."""
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    wanted, domain = node["reftarget"], env.domains["py"]
    found = [
        (name, entry)
        for name, entry in domain.objects.items()
        if name.rpartition(".")[2] == wanted and entry.objtype in ("class", "exception", "function")
    ]
    if len(found) != 1:
        return None
    ((name, entry),) = found
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text, name)


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Fields of a named tuple are told in its docstring."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def labels(app: Sphinx, doctree: nodes.document) -> None:
    """Call attributes attributes."""
    for field in doctree.findall(nodes.field_name):
        if field.astext() == "Variables":
            field.children = [nodes.Text("Attributes")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip)
    app.connect("doctree-read", labels)
    app.connect("missing-reference", short_name)
    return {"parallel_read_safe": True}
