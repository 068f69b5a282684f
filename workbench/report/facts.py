"""What a report says in numbers and words: settings, table, fingerprints of the samples, versions, machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import platform
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.compare import Column, Comparison, distance_to_law
from workbench.errors import WorkbenchError
from workbench.report.command import command_of, name_of
from workbench.student import hardware

PACKAGES = ("torch", "diffusers", "numpy", "plotly")


def facts(comparison: Comparison, out: str) -> dict[str, Any]:
    """Everything but the pictures, as plain values: it is stored in the page, and the same command gives the same.

    Only the times (`ms/image` and `seconds`) differ between two runs.

    Args:
        out: the file that the command in the footer writes.
    """
    n = len(next(iter(comparison.images.values())))
    try:
        command, obstacle = command_of(comparison.columns, n, comparison.cond, comparison.seed, out), None
    except WorkbenchError as error:
        command, obstacle = None, str(error)
    distance = distance_to_law(comparison.columns[0].model, n, comparison.cond)
    return {
        "title": title(comparison),
        "command": command,
        "no_command": obstacle,
        "n": n,
        "seed": comparison.seed,
        "classes": class_words(comparison),
        "columns": [_column(column, comparison) for column in comparison.columns],
        "table": {"columns": list(map(str, comparison.table.columns)), "rows": _rows(comparison)},
        "floor": {"name": distance.name, "value": float(f"{distance.floor():.4g}")} if distance else None,
        "notes": comparison.notes,
        "versions": versions(),
        "machine": f"{hardware()}, {platform.system()}, {torch.get_num_threads()} threads",
    }


def title(comparison: Comparison) -> str:
    """The comparison in one line: students against teachers, where there are both."""
    labels = [str(column.label) for column in comparison.columns]
    teachers = [str(c.label) for c in comparison.columns if getattr(c.model, "role", "teacher") == "teacher"]
    students = [label for label in labels if label not in teachers]
    if students and teachers:
        return f"{listed(students)} against {listed(teachers)}"
    return f"{listed(labels)} from the same noise" if len(labels) > 1 else f"{labels[0]}: from noise to data"


def class_words(comparison: Comparison) -> str:
    """Which classes were asked for, in words; nothing for a model without classes."""
    model, cond = comparison.columns[0].model, comparison.cond
    count, names = int(getattr(model, "classes", 0) or 0), list(getattr(model, "class_names", ()))
    if not count:
        return ""
    if cond is None:
        return "no class asked for"
    found = cond.unique().tolist()
    if found == list(range(count)):
        return f"all {count} classes in turn"
    words = [names[k] if 0 <= k < len(names) else "no class" if k < 0 else f"class {k}" for k in found]
    return listed(words[:8]) + (f" and {len(words) - 8} more" if len(words) > 8 else "")


def listed(words: Sequence[str]) -> str:
    """Words as in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def versions() -> dict[str, str]:
    """Package -> version of what decides the figures."""
    found = {"workbench": getattr(sys.modules.get("workbench"), "__version__", "unknown"), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def fingerprint(x: Tensor) -> str:
    """SHA-256 of the numbers of a tensor, so that two runs can be told equal.

    >>> fingerprint(torch.zeros(2))[:8], fingerprint(torch.ones(2))[:8]
    ('af5570f5', '80b8fd6d')
    """
    return hashlib.sha256(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _column(column: Column, comparison: Comparison) -> dict[str, Any]:
    plan, trajectory, card = column.plan(), comparison.trajectories[column.label], getattr(column.model, "card", None) or {}
    try:
        name = name_of(column)
    except WorkbenchError:
        name = None
    return {
        "label": str(column.label),
        "name": name,
        "role": getattr(column.model, "role", "teacher"),
        "what": _what(column, card),
        "plan": str(plan),
        "sampler": plan.sampler,
        "schedule": plan.schedule,
        "options": {
            key: value if isinstance(value, int | float | str | bool) else str(value) for key, value in plan.options.items()
        },
        "times": [float(f"{t:.6g}") for t in plan.times],
        "guidance": column.scale() if getattr(column.model, "classes", 0) else None,
        "baked": card.get("guidance_baked_in"),
        "recipe": card.get("recipe"),
        "paper": card.get("paper"),
        "nfe": trajectory.nfe[-1],
        "weights": card.get("sha256"),
        "samples": fingerprint(trajectory.final),
    }


def _what(column: Column, card: dict[str, Any]) -> str:
    model = column.model
    if hasattr(model, "log_density"):
        return f"the exact denoiser of a mixture of {len(model.means)} Gaussians"
    size = f", {card['parameters'] / 1e6:.2f} M parameters" if card.get("parameters") else ""
    if card.get("recipe") and card.get("teacher"):
        return f"a {card['recipe']} student of {card['teacher']}{size}"
    data = f" trained on {card['data']}" if card.get("data") else ""
    return f"a {getattr(model, 'role', 'model')}{data}{size}"


def _rows(comparison: Comparison) -> dict[str, list[Any]]:
    def plain(value: Any) -> Any:
        value = value.item() if hasattr(value, "item") else value
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        str(label): [plain(value) for value in row]
        for label, row in zip(comparison.table.index, comparison.table.values.tolist(), strict=True)
    }
