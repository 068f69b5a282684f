"""Embeddings of time and class that the small networks share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from workbench.errors import WorkbenchError


class TimeEmbedding(nn.Module):
    """Map times in [0, 1], shape (n,), to features (n, width): sinusoids and two layers.

    Args:
        frequency: the highest angular frequency. Objectives that differentiate in time (continuous consistency, MeanFlow)
            multiply the network's error by it, so a network that starts from nothing for one of them has a low one.
    """

    def __init__(self, width: int, bands: int = 32, frequency: float = 256.0):
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(frequency), bands)), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * bands, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Embed times (n,) as vectors (n, width)."""
        angle = t[:, None].to(self.frequencies.dtype) * self.frequencies
        weight = self.mlp[0].weight
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=1).to(weight.dtype))


def labels(cond: Tensor | int | None, n: int, classes: int, device: torch.device) -> Tensor:
    """Return n class indices; `None` and -1 become the null class, whose index is `classes`.

    Raises:
        WorkbenchError: if a label is not in -1..classes-1 (checked for ints and CPU tensors only: on an
            accelerator the check would stall the device, and within a compiled graph break it; the face above has made it already).
    """
    if cond is None:
        return torch.full((n,), classes, device=device)
    cond = torch.as_tensor(cond, device=device)
    if cond.dim() == 0:
        cond = cond.expand(n)
    if cond.shape != (n,):
        raise WorkbenchError(f"cond has shape {tuple(cond.shape)}, but {n} samples need one label or ({n},) labels.")
    checked = cond.device.type == "cpu" and not torch.compiler.is_compiling()
    if checked and n and not (int(cond.min()) >= -1 and int(cond.max()) < classes):
        raise WorkbenchError(
            f"class {int(cond.max() if cond.max() >= classes else cond.min())} does not exist: "
            f"this network knows 0 to {classes - 1}, and -1 for no class."
        )
    return torch.where(cond < 0, classes, cond).long()


def batch_times(t: Tensor | float, x: Tensor) -> Tensor:
    """Return times of shape (n,) on the device of `x`, from a float or a tensor of one or n times."""
    t = torch.as_tensor(t, device=x.device, dtype=torch.float32 if x.dtype != torch.float64 else x.dtype)
    return t.reshape(-1).expand(x.shape[0]) if t.numel() == 1 else t
