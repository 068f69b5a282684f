"""A comparison as a file: a page, its pictures, its steps as a film, its table, its facts, its samples."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from workbench.compare import Comparison
from workbench.denoiser import decode
from workbench.errors import unknown
from workbench.report import pictures

FILM_STEPS = 40
Writer = Callable[[Path, Comparison, float], None]


def save(result: Comparison, path: str | os.PathLike, seconds: float = 0.0) -> Path:
    """Write a comparison in the form that the ending names: .html .png .gif .csv .json .safetensors.

    Args:
        seconds: that the comparison took, told where the form has a place for it.

    Raises:
        WorkbenchError: for another ending, or a file that cannot be written.
    """
    place = Path(path).expanduser()
    if place.suffix.lower() not in WRITERS:
        raise unknown("ending", place.suffix or str(path), WRITERS)
    WRITERS[place.suffix.lower()](place, result, seconds)
    return place


def _page(path: Path, result: Comparison, seconds: float) -> None:
    from workbench.report import report

    report(result, path, seconds=seconds)


def _picture(path: Path, result: Comparison, seconds: float) -> None:
    pictures.save(str(path), _seen(result, result.images), result.cond)


def _numbers(path: Path, result: Comparison, seconds: float) -> None:
    pictures.save(str(path), result.images, result.cond)  # latents stay latents


def _seen(result: Comparison, samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Samples of every column as pictures."""
    return {column.label: decode(column.model, samples[column.label]) for column in result.columns}


def _film(path: Path, result: Comparison, seconds: float) -> None:
    import numpy as np

    from workbench.views.export import gif_of, write_bytes
    from workbench.views.trajectory import steps_shown

    longest = max(len(trajectory) for trajectory in result.trajectories.values())
    reach = 1.2 * max(1.0, *(float(x.abs().max()) for x in result.images.values()))  # one for every frame
    frames = []
    for k in steps_shown(longest, FILM_STEPS):  # a run that has ended waits for the others
        states = {label: each.x[min(k, len(each) - 1)] for label, each in result.trajectories.items()}
        frames.append(np.asarray(pictures.draw(_seen(result, states), result.cond, reach)))
    write_bytes(path, gif_of(frames))


def _table(path: Path, result: Comparison, seconds: float) -> None:
    from workbench.views.export import write_bytes

    text = io.StringIO(newline="")
    result.table.to_csv(text, index_label="model", lineterminator="\n")
    write_bytes(path, text.getvalue().encode())


def _facts(path: Path, result: Comparison, seconds: float) -> None:
    from workbench.files import to_json
    from workbench.report.facts import facts
    from workbench.views.export import write_bytes

    write_bytes(path, to_json({**facts(result, path.name), "seconds": round(seconds, 2)}).encode())


WRITERS: dict[str, Writer] = {
    ".html": _page,
    ".png": _picture,
    ".gif": _film,
    ".csv": _table,
    ".json": _facts,
    ".safetensors": _numbers,
}
