"""Small networks for points and images; each is a diffusers model, so it saves and loads itself."""

from __future__ import annotations

import torch
from torch import nn

from workbench.errors import WorkbenchError


def new_network(shape: tuple[int, ...], classes: int, kind: str, path: str, seed: int = 0) -> nn.Module:
    """A fresh network of a fitting size for points (d,) or square images (c, h, h); its weights depend on `seed` alone.

    Raises:
        WorkbenchError: for any other shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if len(shape) == 1:
            from workbench.networks.mlp import MLP

            return MLP(dim=shape[0], width=128 if shape[0] <= 8 else 256, depth=3, classes=classes, kind=kind, path=path)
        if len(shape) == 3 and shape[1] == shape[2] and shape[1] % 2 == 0:
            from workbench.networks.dit import DiT

            size = {"patch": 2, "width": 64, "depth": 4} if shape[1] <= 16 else {"patch": 4, "width": 128, "depth": 6}
            return DiT(image_size=shape[1], channels=shape[0], heads=4, classes=classes, kind=kind, path=path, **size)
    raise WorkbenchError(
        f"no network of ours fits samples of shape {shape}: points (d,) or square images (c, h, h) of even size."
    )
