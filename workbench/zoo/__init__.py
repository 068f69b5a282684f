"""Models by name: analytic teachers, the bundled networks, and what the user has trained.

A name is `space/model` (fashion/teacher, digits/dmd2) or that of an analytic teacher (eight_gaussians). The user's own
folder, WORKBENCH_HOME or ~/.local/share/workbench, comes before what is bundled: zoo/space/model in it holds a model that
`workbench distill` saved, or a diffusers pipeline. A pipeline of the Hub is `hf:org/name`; without the prefix, no name ever
reaches for the network.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import MissingSource, UnknownName, WorkbenchError, unknown
from workbench.files import home
from workbench.teachers.mixture import ANALYTIC, Mixture

BUNDLED = Path(__file__).parent / "bundled"
HUB = "hf:"  # begins the name of a pipeline on the Hub
SPACES = {"2-D": tuple(name for name in ANALYTIC if name != "mixture64"), "64-D": ("mixture64",)}


@dataclass(frozen=True)
class Entry:
    """One line of the catalog.

    Attributes:
        name: what `load` takes. role: "teacher" or "student". space: models of one space compare with one another.
        source: "analytic", "bundled" or "user". summary: one sentence. folder: where it lies, or None.
        card: the card of a trained model or, made from its configurations, of a diffusers pipeline; {} for an analytic one.
    """

    name: str
    role: str
    space: str
    source: str
    summary: str
    folder: Path | None = None
    card: dict[str, Any] | None = None


def catalog() -> list[Entry]:
    """Everything that `load` knows by name, teachers first within a space.

    Folders that are damaged are left out; `load` says what is wrong with them.

    >>> "eight_gaussians" in [entry.name for entry in catalog()]
    True
    """
    entries = {name: _analytic_entry(name) for name in ANALYTIC}
    for source, root in (("bundled", BUNDLED), ("user", home() / "zoo")):
        for folder in folders(root):
            entry = _entry(folder, source)
            if entry is not None:
                entries[entry.name] = entry
    return sorted(entries.values(), key=lambda entry: (entry.space, entry.role == "student", entry.name))


def folders(root: Path) -> list[Path]:
    """The folders root/space/model that hold a model, whole or damaged."""
    found = {file.parent for pattern in ("card.json", "model_index.json") for file in root.glob(f"*/*/{pattern}")}
    return sorted(found)


def load(name_or_folder: str | os.PathLike, device: str = "cpu") -> Any:
    """Load a teacher or student.

    Args:
        name_or_folder: a name from the catalog; a folder that `save` wrote; a folder of a diffusers pipeline, or of a bare network with its
            scheduler beside it; or `hf:org/name`, a pipeline of the Hub. Weights are read from safetensors alone.

    Raises:
        UnknownName: for a name that the catalog does not have, with the nearest one.
        MissingSource: for a folder or a Hub id that is not there.
        WorkbenchError: for a folder that is damaged or holds something else; the message says what is wrong.

    >>> load("moons").shape
    (2,)
    """
    if not isinstance(name_or_folder, (str, os.PathLike)):
        raise WorkbenchError(f"a model's name is {name_or_folder!r}, but must be a name from workbench.catalog() or a folder.")
    text = os.fspath(name_or_folder)
    if text in ANALYTIC:
        return ANALYTIC[text]()
    from workbench.zoo import pipelines

    if text.startswith(HUB):
        return pipelines.load_hub(text, device)
    try:
        folder = _find(text)
    except (OSError, RuntimeError) as error:  # too long a name, a forbidden folder, the home of an unknown user
        raise WorkbenchError(f"{text[:80]!r} is not a name or a folder that can be opened.") from error
    if folder is not None:
        return _load_folder(folder, device)
    if text.startswith(("/", ".", "~")) or text.count("/") > 1:
        raise MissingSource(f"there is no model folder {text!r}: give an existing folder, or a name from workbench.catalog().")
    entries = catalog()
    error = unknown("model", text, [entry.name for entry in entries])
    if pipelines.HUB_NAME.fullmatch(text) and text.split("/")[0] not in {entry.space for entry in entries}:
        raise UnknownName(f"{error} A model of the Hub is written {HUB + text!r}.")
    raise error


def check(folder: Path) -> None:
    """Read every file of a model in a zoo, as `load` does.

    Raises:
        WorkbenchError: for the first thing that is wrong.
    """
    _load_folder(folder, "cpu")


def _load_folder(folder: Path, device: str) -> Any:
    from workbench import student
    from workbench.zoo import pipelines

    if (folder / student.CARD).exists() or not pipelines.is_pipeline(folder):
        return pipelines.lend_decoder(student.load(folder, device))
    in_zoo = folder.parent.parent == home() / "zoo"
    return pipelines.load(folder, device, f"{folder.parent.name}/{folder.name}" if in_zoo else None)


def _find(text: str) -> Path | None:
    """The folder of a trained model: in the user's zoo, among the bundled ones, or at a path of its own."""
    parts = text.split("/")
    if len(parts) == 2 and all(part and part not in (".", "..") and "\\" not in part for part in parts):
        for root in (home() / "zoo", BUNDLED):
            if any((root / text / file).exists() for file in ("card.json", "model_index.json")):
                return root / text
    folder = Path(text).expanduser()
    return folder if text and folder.is_dir() else None


def summary(entry: Entry) -> str:
    """Name and what it is, on one line."""
    return f"{entry.name} ({entry.role}, {entry.source}): {entry.summary}"


def _analytic_entry(name: str) -> Entry:
    model: Mixture = ANALYTIC[name]()
    space = next(space for space, names in SPACES.items() if name in names)
    space = name if space == "2-D" else space
    text = f"exact mixture of {len(model.means)} Gaussians in {model.shape[0]} dimensions, {model.classes} classes"
    return Entry(name, "teacher", space, "analytic", text, card={})


def _entry(folder: Path, source: str) -> Entry | None:
    from workbench.files import read_json

    name = f"{folder.parent.name}/{folder.name}"
    try:
        if not (folder / "card.json").exists():
            from workbench.zoo import pipelines

            card = pipelines.card_of(folder, name)
            return Entry(name, card["role"], folder.parent.name, source, pipelines.summary(card), folder, card)
        card = read_json(folder / "card.json")
        plan = card["sampling"]
        made = (
            f"{card['recipe']} student of {card['teacher']}"
            if card["role"] == "student"
            else f"teacher trained on {card['data']}"
        )
        text = f"{made}, {card['parameters'] / 1e6:.2f} M parameters, {plan['sampler']} at {plan['steps']} step{'s' * (plan['steps'] > 1)}"
        space = card["teacher"].split("/")[0] if card["role"] == "student" else name.split("/")[0]
        return Entry(name, card["role"], space, source, text, folder, card)
    except (WorkbenchError, KeyError, TypeError, AttributeError):
        return None
