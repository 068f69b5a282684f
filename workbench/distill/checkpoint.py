"""Run folders: atomic checkpoints in safetensors, configuration and history in JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.files import read_json, write_atomically, write_json

CHECKPOINT, CONFIG, HISTORY = "checkpoint.safetensors", "config.json", "metrics.jsonl"


class RunFolder:
    """A folder that holds one run: config.json, metrics.jsonl, checkpoint.safetensors, and in the end the student.

    Args:
        folder: created if absent.
        config: what the run is; must equal what the folder holds already, if it holds one.

    Raises:
        WorkbenchError: if the folder belongs to a run with another configuration.
    """

    def __init__(self, folder: str | os.PathLike, config: dict[str, Any]):
        self.folder = Path(folder)
        config = json.loads(json.dumps(config))
        if (self.folder / CONFIG).exists():
            found = read_json(self.folder / CONFIG)
            apart = differences(found, config)
            if apart:
                raise WorkbenchError(
                    f"{self.folder} holds a run with {'; '.join(apart)}: choose another run folder, or the same options to continue it."
                )
        elif self.folder.exists() and not self.folder.is_dir():
            raise WorkbenchError(f"{self.folder} is a file: choose a folder for the run.")
        else:
            write_json(self.folder / CONFIG, config)

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write tensors and a JSON state as the run's only checkpoint, atomically."""
        tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        write_atomically(self.folder / CHECKPOINT, lambda path: save_file(tensors, path, metadata={"state": json.dumps(state)}))

    @property
    def kept(self) -> bool:
        """Whether there is a checkpoint."""
        return (self.folder / CHECKPOINT).exists()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return (tensors, state) of the last checkpoint, or None if there is none."""
        path = self.folder / CHECKPOINT
        if not self.kept:
            return None
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
                return tensors, json.loads(file.metadata()["state"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise WorkbenchError(f"{path} is damaged ({error}): delete it to start this run again.") from error

    def log(self, row: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        try:
            with open(self.folder / HISTORY, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise WorkbenchError(
                f"could not write {self.folder / HISTORY} ({error}): free some space and run again."
            ) from error

    def rewind(self, step: int) -> None:
        """Drop history after `step`, which a resumed run is about to write again."""
        path = self.folder / HISTORY
        if path.exists():
            rows = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            write_atomically(path, lambda temporary: temporary.write_text("".join(row + "\n" for row in rows)) and None)


def differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """All that differs between two nested settings, a phrase each: "batch = 64, not 32".

    >>> differences({"a": 1, "b": {"c": [2, 3]}}, {"a": 1, "b": {"c": [2], "d": None}})
    ['b.c = [2, 3], not [2]', 'b.d is absent, not None']
    """
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [] if found == wanted else [f"{name} = {found!r}, not {wanted!r}"]
    said = []
    for key in dict.fromkeys([*wanted, *found]):
        inner = f"{name}.{key}" if name else str(key)
        if key not in found:
            said.append(f"{inner} is absent, not {wanted[key]!r}")
        elif key not in wanted:
            said.append(f"{inner} = {found[key]!r}, not absent")
        else:
            said += differences(found[key], wanted[key], inner)
    return said


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # a line cut off by a kill
        return float("inf")


def pack_module(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Name every parameter and buffer of a module `prefix.name`."""
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def unpack_module(prefix: str, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load what `pack_module` named."""
    start = len(prefix) + 1
    module.load_state_dict({name[start:]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")})


def pack_optimizer(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name every tensor of an optimizer's state `prefix.index.key`."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}


def unpack_optimizer(prefix: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load what `pack_optimizer` named."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix + "."):
            index, key = name[len(prefix) + 1 :].split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
