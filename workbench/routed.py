"""Several students as one model: each sample goes to the student of its class.

card.json                 of the model: its parts with their classes and SHA-256, and all that a card says
part-0, part-1, ...       a model each, as `student.save` writes it
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.files import write_json
from workbench.student import CARD, Trained, load, save

ALIKE = ("network", "path", "kind", "shape", "classes", "two_times", "sampling")  # what students of one model share


def parts_of(classes: int, count: int) -> list[list[int]]:
    """Labels 0 to classes - 1 cut into runs of consecutive ones, as even as can be; one empty part for a model without classes.

    >>> parts_of(8, 3)
    [[0, 1, 2], [3, 4, 5], [6, 7]]
    """
    return [part.tolist() for part in torch.arange(classes).tensor_split(count)]


def own_labels(classes: int, n: int) -> Tensor:
    """n labels (n,) for samples that name none: uniform over the classes, the same at every call.

    >>> torch.equal(own_labels(4, 9)[:5], own_labels(4, 5))
    True
    """
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(0))


class Router(nn.Module):
    """Networks (K), and for each label which of them answers; the null label is any class, by the row."""

    def __init__(self, nets: Sequence[nn.Module], parts: Sequence[Sequence[int]]):
        super().__init__()
        self.nets, self.config = nn.ModuleList(nets), nets[0].config
        which = torch.zeros(sum(map(len, parts)), dtype=torch.long)
        for k, part in enumerate(parts):
            which[list(part)] = k
        self.register_buffer("which", which)

    def around(self, nets: Sequence[nn.Module]) -> Router:
        """A router of other networks (K) for the same labels."""
        classes = range(len(self.which))
        made = Router(self.nets, [[label for label in classes if self.which[label] == k] for k in range(len(self.nets))])
        made.nets, made.which = nn.ModuleList(nets), self.which
        return made

    def forward(self, x: Tensor, t: Tensor, cond: Any = None, s: Tensor | None = None, **more: Any) -> Tensor:
        """The prediction of each row's own network."""
        given = {"s": s} if s is not None else {}
        if len(self.nets) == 1:
            return self.nets[0](x, t, cond, **given, **more)
        drawn = own_labels(len(self.which), len(x)).to(x.device)
        labels = drawn if cond is None else torch.as_tensor(cond, device=x.device).expand(len(x))
        labels = torch.where(labels < 0, drawn, labels)
        times, mine, made = t.expand(len(x)), self.which[labels], torch.empty_like(x)
        rows = lambda value, where: value[where] if isinstance(value, Tensor) and len(value) == len(x) else value  # noqa: E731
        for k, net in enumerate(self.nets):
            where = (mine == k).nonzero().flatten()
            if len(where):
                inner = {name: rows(value, where) for name, value in (given | more).items()}
                made[where] = net(x[where], times[where], labels[where], **inner).to(made)
        return made


class Routed(Trained):
    """A saved model of several students; `classes_of[k]` are the labels of student k. Without a label, a sample's class is drawn."""

    def __init__(self, students: Sequence[Trained], card: dict[str, Any]):
        self.classes_of = [list(map(int, part["classes"])) for part in card["students"]]
        super().__init__(Router([one.net for one in students], self.classes_of), card)

    def own_labels(self, n: int) -> Tensor | None:
        """Labels (n,) of samples that are asked for without any."""
        return own_labels(self.classes, n) if len(self.classes_of) > 1 else None


def save_routed(
    folders: Sequence[Path], parts: Sequence[Sequence[int]], folder: Path, measure: Callable[[Routed], dict[str, float]],
    write: bool = True, **more: Any,
) -> Routed:  # fmt: skip
    """Gather finished students into one model, measure it, and write it; the card comes last.

    Args:
        folders: of the students. parts: labels of each. measure: figures for the card. write: False leaves that to another process.
        more: what else the card says.

    Raises:
        WorkbenchError: for students that are not of one kind.
    """
    students = [load(one) for one in folders]
    first = students[0].card
    for one in students[1:]:
        apart = [key for key in ALIKE if one.card[key] != first[key]]
        if apart:
            raise WorkbenchError(
                f"the students differ in {', '.join(apart)}, so they are no one model: train all of them alike."
            )
    listed = [
        {"folder": f"part-{k}", "classes": list(part), "sha256": one.card["sha256"]}
        for k, (part, one) in enumerate(zip(parts, students, strict=True))
    ]
    card = {
        **first, **more, "students": listed, "parameters": sum(one.card["parameters"] for one in students),
        "sha256": hashlib.sha256("".join(part["sha256"] for part in listed).encode()).hexdigest(),
    }  # fmt: skip
    model = Routed(students, card)
    model.card["figures"] = measure(model)
    if write:
        (folder / CARD).unlink(missing_ok=True)
        for part, one in zip(listed, students, strict=True):
            save(one.net, one.card, folder / part["folder"], getattr(torch, one.card.get("dtype", "float32")))
        write_json(folder / CARD, model.card)
    return model


def load_routed(folder: str | os.PathLike, card: dict[str, Any], device: str | torch.device = "cpu") -> Routed:
    """Read a folder that `save_routed` wrote.

    Raises:
        WorkbenchError: if a part is missing, damaged, or not the one on the card, or the parts do not share out the classes.
    """
    folder, parts = Path(folder), card["students"]
    try:
        labels = sorted(int(label) for part in parts for label in part["classes"])
        listed = [(str(part["folder"]), part["sha256"]) for part in parts]
        known = {key: card[key] for key in ("name", "role", "classes", *ALIKE)}
    except (KeyError, TypeError) as error:
        raise WorkbenchError(f"{folder / CARD} is damaged ({error}): restore it from where it came.") from error
    if (
        labels != list(range(len(labels)))
        or len(labels) != known["classes"]
        or any(Path(name).name != name for name, _ in listed)
    ):
        raise WorkbenchError(f"{folder / CARD} does not give each class to one student: restore it from where it came.")
    students = [load(folder / name, device) for name, _ in listed]
    for (name, digest), one in zip(listed, students, strict=True):
        if one.card["sha256"] != digest:
            raise WorkbenchError(f"{folder / name} is not the student on the card: restore it from where it came.")
        if apart := [key for key in ALIKE if one.card[key] != known[key]]:
            raise WorkbenchError(
                f"{folder / CARD} and that of {name} differ in {', '.join(apart)}: restore them from where they came."
            )
    try:
        model = Routed(students, card)
        model.net.to(device)
        return model
    except (KeyError, TypeError, ValueError) as error:
        raise WorkbenchError(f"{folder / CARD} is damaged ({error}): restore it from where it came.") from error
