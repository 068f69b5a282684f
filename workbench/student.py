"""A trained network with its card: everything that is needed to run it travels in one folder.

    config.json, diffusion_pytorch_model.safetensors   the network, as diffusers writes it
    card.json                                          path, kind, classes, sampling, recipe, teacher, figures, SHA-256

`save` writes the card last, so a folder without a card is one that was never finished.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.denoiser import Network
from workbench.errors import MissingSource, WorkbenchError, unknown
from workbench.files import read_json, to_json, write_together
from workbench.fits import check_values
from workbench.samplers.plan import Plan
from workbench.samplers.sample import Sampling

CARD, WEIGHTS = "card.json", "diffusion_pytorch_model.safetensors"
SEVERAL = "workbench.routed"  # reads a folder of several students; by name, since it stands above this module
PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}
NETWORKS = {"DiT": "workbench.networks.dit", "MLP": "workbench.networks.mlp"}


class Trained(Network):
    """A teacher or student: a network as a denoiser, plus its card and how it is to be sampled.

    Attributes:
        name: as in the catalog. role: "teacher" or "student". card: the whole card, a dict.
        sampling: sampler, steps, schedule and guidance it must be run with.
    """

    def __init__(self, net: nn.Module, card: dict[str, Any]):
        super().__init__(
            net.eval(), card["path"], card["kind"], tuple(card["shape"]), card["classes"], card.get("two_times", False)
        )
        self.card, self.name, self.role = card, card["name"], card["role"]
        self.sampling = Sampling(**card["sampling"])
        self.class_names = tuple(card.get("class_names", ()))
        self.scale = self.sampling.guidance if self.guidance_input else None

    def plan(self, steps: int | None = None, **changes: Any) -> Plan:
        """Its own plan, by default at its own number of steps."""
        return self.sampling.plan(self.path, steps, **changes)

    def __repr__(self) -> str:
        millions = sum(parameter.numel() for parameter in self.net.parameters()) / 1e6
        return f"{self.role} {self.name}: {self.card['network']}, {millions:.2f} M parameters, {self.plan()}"


def make_card(
    net: nn.Module, *, name: str, role: str, shape: tuple[int, ...], sampling: Sampling, **more: Any
) -> dict[str, Any]:
    """Fill a card from a network of ours (its config knows path, kind and classes)."""
    config = net.config
    return {
        "name": name,
        "role": role,
        "network": type(net).__name__,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "path": config.path,
        "kind": config.kind,
        "shape": list(shape),
        "classes": config.classes,
        "two_times": config.two_times,
        **{name: config[name] for name in ("guidance_input", "z_dim", "hint") if config.get(name)},
        "sampling": asdict(sampling),
        **more,
        "torch": torch.__version__.split("+")[0],
        "hardware": hardware(),
    }


def hardware() -> str:
    """One line: accelerator, or cores and processor family."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores, {platform.machine()}"


def save(net: nn.Module, card: dict[str, Any], folder: str | os.PathLike, dtype: torch.dtype = torch.float32) -> Trained:
    """Write network and card; the weights are stored in `dtype`, and the result holds what was stored.

    Raises:
        WorkbenchError: if the weights are not finite, or the disk is full; an older model in the folder is then untouched.
    """
    from safetensors.torch import save as serialize

    folder = Path(folder)
    state = {name: value.detach().to("cpu", dtype).contiguous() for name, value in net.state_dict().items()}
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise WorkbenchError(f"the weights of {card['name']!r} hold NaN or infinite values: nothing was written.")
    weights = serialize(state, metadata={"format": "pt"})
    card = {**card, "dtype": str(dtype).removeprefix("torch."), "sha256": hashlib.sha256(weights).hexdigest()}
    write_together(
        {
            folder / WEIGHTS: lambda path: path.write_bytes(weights) and None,
            folder / "config.json": lambda path: path.write_text(net.to_json_string(), encoding="utf-8") and None,
            folder / CARD: lambda path: path.write_text(to_json(card), encoding="utf-8") and None,
        }
    )
    return load(folder)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(folder: str | os.PathLike, device: str | torch.device = "cpu") -> Trained:
    """Read a folder that `save` wrote; every file is checked before a weight is used.

    Raises:
        MissingSource: if there is no such folder. WorkbenchError: if a file is missing, damaged, or not what the card says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if not folder.is_dir():
        raise MissingSource(
            f"there is no model folder {str(folder)!r}: give a name from workbench.catalog() or an existing folder."
        )
    if not (folder / CARD).exists():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise WorkbenchError(
                f"{folder} holds {pickles[0]}, a pickle, which could run code: convert it to safetensors first."
            )
        raise WorkbenchError(f"{folder} has no {CARD}, so it is not a finished model: point to the folder that holds it.")
    card = read_json(folder / CARD)
    if not isinstance(card, dict):
        raise WorkbenchError(f"{folder / CARD} is damaged (not a JSON object): restore it from where it came.")
    if card.get("students"):
        return importlib.import_module(SEVERAL).load_routed(folder, card, device)
    missing = [
        key for key in ("name", "role", "network", "path", "kind", "shape", "classes", "sampling", "sha256") if key not in card
    ]
    if missing:
        raise WorkbenchError(f"{folder / CARD} lacks {', '.join(missing)}: restore it from where it came.")
    if not (folder / WEIGHTS).exists():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        held = f"; {pickles[0]} is a pickle and is not read" if pickles else ""
        raise WorkbenchError(f"{folder} has no {WEIGHTS}{held}: restore it from where it came.")
    if digest(folder / WEIGHTS) != card["sha256"]:
        raise WorkbenchError(
            f"{folder / WEIGHTS} does not match the SHA-256 on its card: it was truncated or changed; fetch it again."
        )
    if str(card["network"]) not in NETWORKS:
        raise unknown("network", card["network"], NETWORKS)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):  # a string would send diffusers to the Hub
        raise WorkbenchError(f"{folder / 'config.json'} is damaged (not a JSON object): restore it from where it came.")
    network = getattr(importlib.import_module(NETWORKS[card["network"]]), card["network"])
    try:
        with torch.random.fork_rng(devices=[]):
            net = network.from_config(config)
        net.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS).items()})
    except (SafetensorError, RuntimeError, TypeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise WorkbenchError(
            f"the weights in {folder} do not fit its config.json ({reason}): fetch the folder again."
        ) from error
    size = net.config.get("image_size")
    takes = {**net.config, "shape": [net.config["channels"], size, size] if size else [net.config["dim"]]}
    differing = [key for key in ("path", "kind", "classes", "shape") if card[key] != takes[key]]
    if differing:
        raise WorkbenchError(
            f"{folder / CARD} and config.json differ in {', '.join(differing)}: restore them from where they came."
        )
    if not all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters()):
        raise WorkbenchError(f"{folder / WEIGHTS} holds NaN or infinite weights: train it again.")
    try:
        check_values(Sampling, dict(card["sampling"]))
        return Trained(net.to(device).requires_grad_(False), card)
    except (KeyError, TypeError, ValueError) as error:
        raise WorkbenchError(f"{folder / CARD} is damaged ({error}): restore it from where it came.") from error
