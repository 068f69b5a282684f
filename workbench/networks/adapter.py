"""Small parts beside a network: a latent, a guidance scale or a hint as a further input, and adapters that a frozen network is read through."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.errors import WorkbenchError
from workbench.networks.embedding import TimeEmbedding, batch_times

FREQUENCY = 16.0  # of the guidance scale's embedding: what is learned changes slowly with the scale


class ScaleEmbedding(TimeEmbedding):
    """A guidance scale w in [low, high] as features (n, width), embedded as a time (w - low) / (high - low) is (arXiv 2210.03142).

    Raises:
        WorkbenchError: unless low < high.
    """

    def __init__(self, width: int, interval: tuple[float, float], bands: int = 32):
        super().__init__(width, bands, FREQUENCY)
        self.low, self.high = (float(end) for end in interval)
        if not self.low < self.high:
            raise WorkbenchError(f"guidance_input is {tuple(interval)}, but must be two scales, low < high.")

    def forward(self, w: Tensor) -> Tensor:
        """Embed scales (n,) as vectors (n, width)."""
        return super().forward((w - self.low) / (self.high - self.low))


class LatentEmbedding(nn.Sequential):
    """A latent z (n, size) as features (n, width): two layers on z of unit mean square (DDGAN, arXiv 2112.07804, appendix C)."""

    def __init__(self, size: int, width: int):
        super().__init__(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, z: Tensor) -> Tensor:
        """Embed latents (n, size) as vectors (n, width)."""
        z = z.to(self[0].weight.dtype)
        return super().forward(z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt())


class GuidanceAdapters(nn.Module):
    """Adapters parallel to the blocks of a network, which see the scale w, the time and the class (AGD, arXiv 2503.07274).

    Each adds up(silu(down(h) (1 + a) + b)) to its block's output, (a, b) linear in an embedding of w, t and the class. The last
    layer of each starts at zero, so the network starts as it is without them.

    Args:
        width: of the network. depth: its blocks. hidden: size of an adapter. interval: scales that will be asked for.
    """

    def __init__(self, width: int, depth: int, hidden: int, interval: tuple[float, float]):
        super().__init__()
        self.scale = ScaleEmbedding(hidden, interval, bands=8)
        self.context = nn.Linear(width, hidden)
        self.down = nn.ModuleList(nn.Linear(width, hidden) for _ in range(depth))
        self.modulation = nn.ModuleList(nn.Linear(hidden, 2 * hidden) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(hidden, width) for _ in range(depth))
        silence(*self.up)

    def embedding(self, w: Tensor, c: Tensor) -> Tensor:
        """What every adapter sees of the scales (n,) and of the network's own conditioning (n, width)."""
        return F.silu(self.scale(w) + self.context(c))

    def forward(self, block: int, h: Tensor, e: Tensor) -> Tensor:
        """What the adapter of a block adds, for the block's input h (n, ..., width) and an embedding (n, hidden)."""
        change = self.modulation[block](e)
        change = change.unsqueeze(1) if h.dim() == 3 else change
        by, shift = change.chunk(2, dim=-1)
        inner = self.down[block](F.layer_norm(h, h.shape[-1:]))
        return self.up[block](F.silu(inner * (1 + by) + shift))


class HintAdapters(nn.Module):
    """Adapters parallel to the blocks of a network, which see a hint: a picture or a vector that says what is wanted.

    Each adds up(silu(down(h) + read(e))) to its block's output, e an embedding of the hint: of its patches for a network of
    patches and a picture, which is first brought to the network's size, else of the whole hint. The last layer of each starts
    at zero, so the network starts as it is without them; without a hint they add nothing.

    Args:
        width: of the network. depth: its blocks. shape: of one hint. size, patch: of the network's images; None for points.
    """

    def __init__(self, width: int, depth: int, shape: tuple[int, ...], size: int | None = None, patch: int | None = None):
        super().__init__()
        self.shape, self.size = tuple(int(side) for side in shape), size if len(shape) == 3 else None
        if self.size is not None:
            self.embed: nn.Module = nn.Conv2d(self.shape[0], width, patch, stride=patch)
        else:
            self.embed = nn.Linear(math.prod(self.shape), width)
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.read = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        silence(*self.up)

    def embedding(self, hint: Tensor, n: int) -> Tensor:
        """What every adapter sees of the hints (n, *shape): (n, tokens, width), or (n, width) of the whole hint.

        Raises:
            WorkbenchError: for hints of another shape.
        """
        if tuple(hint.shape) != (n, *self.shape):
            raise WorkbenchError(f"hint has shape {tuple(hint.shape)}, but {n} samples need hints {(n, *self.shape)}.")
        if self.size is None:
            return F.silu(self.embed(hint.flatten(1)))
        return F.silu(self.embed(F.interpolate(hint, (self.size, self.size))).flatten(2).transpose(1, 2))

    def forward(self, block: int, h: Tensor, e: Tensor) -> Tensor:
        """What the adapter of a block adds, for the block's input h (n, ..., width) and an embedding."""
        read = self.read[block](e)
        read = read.unsqueeze(1) if h.dim() > read.dim() else read
        return self.up[block](F.silu(self.down[block](F.layer_norm(h, h.shape[-1:])) + read))


class Inputs(nn.Module):
    """The inputs that a network may have besides state, time and class; each is silent at first.

    Args:
        guidance_input: (low, high) of the guidance scale, or None. adapter: hidden size of the adapters that alone see the scale;
            0 lets the scale into the conditioning instead. z_dim: size of a latent, 0 for none. hint: shape of a hint, or None.
        size, patch: of the network's images; None for points.
    """

    def __init__(
        self, width: int, depth: int, guidance_input: tuple[float, float] | None, adapter: int, z_dim: int,
        hint: tuple[int, ...] | None = None, size: int | None = None, patch: int | None = None,
    ):  # fmt: skip
        super().__init__()
        if adapter and guidance_input is None:
            raise WorkbenchError("adapters are told the guidance scale: give guidance_input=(low, high) as well.")
        self.z_dim, self.takes_scale = z_dim, guidance_input is not None
        self.guidance = ScaleEmbedding(width, guidance_input) if guidance_input is not None and not adapter else None
        self.latent = LatentEmbedding(z_dim, width) if z_dim else None
        self.adapters = GuidanceAdapters(width, depth, adapter, guidance_input) if adapter else None
        self.hint = HintAdapters(width, depth, hint, size, patch) if hint else None
        silence(*[layer for layer in (self.guidance and self.guidance.mlp[2], self.latent and self.latent[2]) if layer])

    def conditioning(self, c: Tensor, x: Tensor, w: Tensor | float | None, z: Tensor | None) -> Tensor:
        """The network's conditioning c (n, width) with these inputs added.

        Raises:
            WorkbenchError: for an input that the network lacks or does not take, or latents of another shape.
        """
        if (w is None) == self.takes_scale:
            raise WorkbenchError(
                "this network takes the guidance scale as an input: give w."
                if self.takes_scale
                else "this network takes no guidance scale: build it with guidance_input=(low, high)."
            )
        if self.guidance is not None:
            c = c + self.guidance(batch_times(w, x))
        if z is not None and self.latent is None:
            raise WorkbenchError("this network takes no latent: build it with z_dim=...")
        if self.latent is not None:
            z = torch.zeros(len(x), self.z_dim, device=x.device) if z is None else z
            if z.shape != (len(x), self.z_dim):
                raise WorkbenchError(
                    f"z has shape {tuple(z.shape)}, but {len(x)} samples need latents ({len(x)}, {self.z_dim})."
                )
            c = c + self.latent(z)
        return c

    def embedding(self, x: Tensor, w: Tensor | float | None, c: Tensor) -> Tensor | None:
        """What the adapters see, or None without them."""
        return None if self.adapters is None else self.adapters.embedding(batch_times(w, x), c)

    def hints(self, hint: Tensor | None, n: int) -> Tensor | None:
        """What the hint's adapters see of n hints, or None without any.

        Raises:
            WorkbenchError: for a hint that the network does not take, or of another shape.
        """
        if hint is None:
            return None
        if self.hint is None:
            raise WorkbenchError("this network takes no hint: build it with hint=(shape of one hint).")
        return self.hint.embedding(hint, n)

    def beside(self, block: int, made: Tensor, h: Tensor, e: Tensor | None, seen: Tensor | None = None) -> Tensor:
        """What a block made of h, with what its adapters add: e is seen by those of the scale, `seen` by those of a hint."""
        made = made if e is None else made + self.adapters(block, h, e)
        return made if seen is None else made + self.hint(block, h, seen)


def silence(*layers: nn.Linear) -> None:
    """Set layers to zero, so that what they feed changes nothing at first."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
