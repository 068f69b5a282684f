"""Generated sets: what a teacher answers, kept as a memory-mapped Hugging Face set beside a manifest.

    manifest.json         what was generated: the teacher's hash, its plan, guidance, seed, count, columns, versions
    part-0000512.arrow    rows 512 and on, while the set is being made
    data.arrow            the whole set once it is complete; the parts are gone

A row holds each tensor flattened, in a column of lists of one length, so that a column of the file is a tensor in place.
"""

from __future__ import annotations

import functools
import hashlib
import json
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.denoiser import Denoiser, Guided, Network, Scaled
from workbench.distill.checkpoint import differences
from workbench.errors import WorkbenchError
from workbench.files import read_json, write_atomically, write_json

MANIFEST, DATA = "manifest.json", "data.arrow"
ONE_BATCH = 2**28  # bytes of one record batch of data.arrow, which merging holds in memory
ON_DEVICE = 2**31  # bytes up to which an accelerator holds the set itself
DESCRIBE = (
    "card",
    "name",
    "role",
    "class_names",
    "sampling",
    "autoencoder",
)  # of a teacher, what is said of it and changes no answer

Columns = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
Rows = Callable[[int, int], dict[str, Tensor]]


@dataclass(frozen=True)
class Table:
    """Tensors by column, each in pieces of `size` rows, the last of which may be shorter; in memory or mapped from a file."""

    columns: dict[str, list[Tensor]]
    size: int

    def __len__(self) -> int:
        return sum(len(piece) for piece in next(iter(self.columns.values())))

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def take(self, rows: Tensor) -> dict[str, Tensor]:
        """The rows (n,) of every column, on the device of `rows`."""
        return {
            name: _take(pieces, rows.to(pieces[0].device), self.size).to(rows.device) for name, pieces in self.columns.items()
        }

    def to(self, device: str | torch.device) -> Table:
        """On an accelerator where it fits there; mapped from the file otherwise."""
        held = sum(piece.nbytes for pieces in self.columns.values() for piece in pieces)
        if torch.device(device).type == "cpu" or held > ON_DEVICE:
            return self
        return Table({name: [piece.to(device) for piece in pieces] for name, pieces in self.columns.items()}, self.size)


def generate(
    folder: File | None, manifest: dict[str, Any], columns: Columns, rows: Rows, count: int, chunk: int
) -> Iterator[tuple[int, int]]:
    """Make what is missing of a set, yielding (rows done, count) after each chunk; returns the `Table`.

    The result is the same, bit for bit, in memory or in a folder, made in one go or interrupted and continued.

    Args:
        folder: of the set; None to keep it in memory. manifest: what the set depends on; must equal what the folder holds.
        columns: name -> (shape of one row, dtype). rows: called as rows(first, n), returns n rows of every column.
        count, chunk: number of rows, and of a chunk; a killed process loses no more than a chunk.

    Raises:
        WorkbenchError: if the folder holds another set, with all that differs.
    """
    starts = range(0, count, chunk)
    if folder is None:
        made = []
        for first in starts:
            made.append(_checked(rows(first, min(chunk, count - first)), columns))
            yield min(first + chunk, count), count
        return Table({name: [torch.cat([piece[name] for piece in made])] for name in columns}, count)
    _claim(folder, manifest, columns, count, chunk)
    whole = _map(folder / DATA, columns, count)
    if whole is None:
        for first in starts:
            n, part = min(chunk, count - first), folder / f"part-{first:07d}.arrow"
            if _map(part, columns, n) is None:
                write_arrow(part, [_checked(rows(first, n), columns)], columns)
                yield first + n, count
        whole = _merge(folder, columns, count, chunk)
    for part in folder.glob("part-*.arrow"):
        part.unlink()
    return whole


def open_set(folder: str | File) -> Any:
    """A finished set as a `datasets.Dataset`, memory-mapped; its rows are flat lists, whose shapes the manifest has.

    Raises:
        WorkbenchError: if the folder holds no finished set.
    """
    from datasets import Dataset

    if not (File(folder) / DATA).exists():
        raise WorkbenchError(f"{folder} holds no finished set ({DATA} is missing): run the training that makes it again.")
    return Dataset.from_file(str(File(folder) / DATA))


def write_arrow(path: File, batches: list[dict[str, Tensor]] | Iterator[dict[str, Tensor]], columns: Columns) -> None:
    """Write batches of rows to an Arrow file that `datasets` reads, a record batch each, atomically."""
    import pyarrow as pa
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    def feature(shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        value = Value(str(dtype).removeprefix("torch."))
        return List(value, length=_size(shape)) if shape else value

    def column(tensor: Tensor, shape: tuple[int, ...]) -> Any:
        flat = pa.array(tensor.detach().cpu().reshape(-1).numpy())
        return pa.FixedSizeListArray.from_arrays(flat, _size(shape)) if shape else flat

    def write(place: File) -> None:
        writer = ArrowWriter(path=str(place), features=Features({name: feature(*kind) for name, kind in columns.items()}))
        for rows in batches:
            table = pa.table({name: column(rows[name], shape) for name, (shape, _) in columns.items()})
            writer.write_table(table, writer_batch_size=table.num_rows)
        writer.finalize()
        writer.close()

    write_atomically(path, write)


def fingerprint(teacher: Denoiser) -> str:
    """Hash of all that a teacher's answers depend on: weights, numbers, classes; not its guidance, which a manifest names.

    >>> import workbench as wb
    >>> fingerprint(wb.mixture([[1.0]], [0.2])) == fingerprint(wb.mixture([[1.0]], [0.3]))
    False
    """
    digest = hashlib.sha256()
    _feed(digest, teacher, set())
    return digest.hexdigest()[:32]


def guidance_of(teacher: Denoiser) -> float | list[float] | None:
    """The scale at which a teacher is asked: None without guidance, a list for scales set sample by sample."""
    scale = getattr(teacher, "scale", None) if isinstance(teacher, (Guided, Scaled)) else None
    return scale.tolist() if isinstance(scale, Tensor) else scale if scale is None else float(scale)


def versions() -> dict[str, str]:
    """Of what made a set; shown, not compared."""
    return {"torch": torch.__version__.split("+")[0], "datasets": version("datasets")}


def _claim(folder: File, manifest: dict[str, Any], columns: Columns, count: int, chunk: int) -> None:
    kinds = {name: [list(shape), str(dtype).removeprefix("torch.")] for name, (shape, dtype) in columns.items()}
    wanted = json.loads(json.dumps({**manifest, "count": count, "chunk": chunk, "columns": kinds}))
    if (folder / MANIFEST).exists():
        found = read_json(folder / MANIFEST)
        apart = differences({key: value for key, value in found.items() if key != "versions"}, wanted)
        if apart:
            raise WorkbenchError(
                f"{folder} holds a generated set with {'; '.join(apart)}: delete that folder to make the set anew, or choose "
                "another run folder."
            )
        return
    for stale in (folder / DATA, *folder.glob("part-*.arrow")):  # nothing says what they are
        stale.unlink(missing_ok=True)
    write_json(folder / MANIFEST, {**wanted, "versions": versions()})


def _checked(rows: dict[str, Tensor], columns: Columns) -> dict[str, Tensor]:
    return {name: rows[name].detach().to("cpu", dtype).reshape(-1, *shape) for name, (shape, dtype) in columns.items()}


def _map(file: File, columns: Columns, count: int) -> Table | None:
    """The file's columns in place; None if it is absent, cut off, or not this many rows."""
    import pyarrow as pa
    from datasets import Dataset

    if not file.exists():
        return None
    try:
        table = Dataset.from_file(str(file)).data
    except (pa.ArrowInvalid, OSError, ValueError):
        return None
    if table.num_rows != count or set(table.column_names) != set(columns):
        return None
    found: dict[str, list[Tensor]] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        for name, (shape, _) in columns.items():
            chunks = [chunk for chunk in table.column(name).chunks if len(chunk)]
            flat = [(chunk.flatten() if shape else chunk).to_numpy(zero_copy_only=True) for chunk in chunks]
            found[name] = [torch.from_numpy(values).reshape(-1, *shape) for values in flat]
    return Table(found, len(next(iter(found.values()))[0]))


def _merge(folder: File, columns: Columns, count: int, chunk: int) -> Table:
    parts = [(folder / f"part-{first:07d}.arrow", min(chunk, count - first)) for first in range(0, count, chunk)]
    row = sum(_size(shape) * dtype.itemsize for shape, dtype in columns.values())
    together = max(1, ONE_BATCH // (row * chunk))

    def batches() -> Iterator[dict[str, Tensor]]:
        for first in range(0, len(parts), together):
            tables = [_map(file, columns, n) for file, n in parts[first : first + together]]
            yield {name: torch.cat([table.columns[name][0] for table in tables]) for name in columns}

    write_arrow(folder / DATA, batches(), columns)
    return _map(folder / DATA, columns, count)


def _take(pieces: list[Tensor], rows: Tensor, size: int) -> Tensor:
    if len(pieces) == 1:
        return pieces[0][rows]
    out = pieces[0].new_empty((len(rows), *pieces[0].shape[1:]))
    which = rows // size
    for k in which.unique().tolist():
        mine = which == k
        out[mine] = pieces[k][rows[mine] - k * size]
    return out


def _size(shape: tuple[int, ...]) -> int:
    return functools.reduce(lambda a, b: a * b, shape, 1)


def _feed(digest: Any, value: Any, seen: set[int]) -> None:
    def say(text: str) -> None:
        digest.update(text.encode() + b"\0")

    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype)):
        return say(repr(value))
    if id(value) in seen:
        return say("again")
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        say(f"{value.dtype}{tuple(value.shape)}")
        return digest.update(value.reshape(-1).view(torch.uint8).numpy() if value.numel() else b"")
    seen = seen | {id(value)}
    say(type(value).__qualname__)
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: str(item[0]))
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = list(enumerate(sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value))
    elif isinstance(value, nn.Module):
        config = {key: item for key, item in dict(getattr(value, "config", {}) or {}).items() if not str(key).startswith("_")}
        items = [("config", config), *value.state_dict().items()]
    elif isinstance(value, (types.FunctionType, types.MethodType)):
        say(value.__code__.co_code.hex())
        items = [*enumerate(value.__code__.co_consts), *enumerate(cell.cell_contents for cell in value.__closure__ or ())]
    elif isinstance(value, (np.ndarray, np.generic)):
        say(f"{value.dtype}{value.shape}")
        return digest.update(value.tobytes())
    else:
        items = _state(value)
    for key, item in items:
        say(str(key))
        _feed(digest, item, seen)
    return None


def _state(value: Any) -> list[tuple[str, Any]]:
    """What an object holds, without descriptions, guidance, and what it has worked out and keeps."""
    cached = lambda name: isinstance(getattr(type(value), name, None), functools.cached_property)  # noqa: E731
    left_out = (*DESCRIBE, "scale") if isinstance(value, (Guided, Scaled, Network)) else DESCRIBE
    held = getattr(value, "__dict__", {})
    return [(name, held[name]) for name in sorted(held) if name not in left_out and not cached(name)]
