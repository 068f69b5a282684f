"""A workbench DiT taken apart, so that a part of its tokens can be computed while attention sees stored ones of the rest.

The network's file is left alone: these functions read its modules, and with plain attention give its own prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Network
from workbench.errors import WorkbenchError

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q, k, v) of the tokens being computed, each (n, heads, tokens, d) -> (n, heads, tokens, d)."""


def dit_of(model: Denoiser) -> Any:
    """The DiT of a model.

    Raises:
        WorkbenchError: for a model with another network.
    """
    from workbench.networks.dit import DiT

    net = getattr(model, "net", None)
    if not isinstance(net, DiT):
        raise WorkbenchError(
            f"{type(net or model).__name__} has no tokens to share out: give a model whose net is a workbench DiT."
        )
    return net


def conditioning(net: Any, x: Tensor, t: Tensor, cond: Any = None, s: Tensor | None = None) -> Tensor:
    """What modulates every block (n, width)."""
    from workbench.networks.embedding import batch_times, labels

    c = net.time(batch_times(t, x)) + net.class_embedding(labels(cond, len(x), net.config.classes, x.device))
    return F.silu(c if s is None else c + net.second_time(batch_times(s, x)))


def embedded(net: Any, x: Tensor, row: int = 0) -> Tensor:
    """Tokens (n, tokens, width) of a band of the picture (n, c, h, w) that begins at this row of tokens."""
    tokens = net.embed(x).flatten(2).transpose(1, 2)
    first = row * (net.config.image_size // net.config.patch)
    return tokens + net.position[:, first : first + tokens.shape[1]]


def through(net: Any, tokens: Tensor, c: Tensor, attention: Attention) -> Tensor:
    """These tokens after all blocks and the head: patches (n, tokens, channels patch^2)."""
    modulation = net.modulation(c).view(len(tokens), 6, -1)
    for layer, block in enumerate(net.blocks):
        tokens = _block(block, tokens, modulation, layer, attention)
    shift, scale = net.last_modulation(c).unsqueeze(1).chunk(2, dim=2)
    return net.head(net.norm(tokens) * (1 + scale) + shift)


def picture(net: Any, patches: Tensor, like: Tensor) -> Tensor:
    """Patches laid out as the picture (n, c, h, w) that they tile, of the shape of `like`."""
    p, (n, channels, h, w) = net.config.patch, like.shape
    return patches.view(n, h // p, w // p, channels, p, p).permute(0, 3, 1, 4, 2, 5).reshape(like.shape)


def _block(block: Any, x: Tensor, modulation: Tensor, layer: int, attention: Attention) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + block.table).unsqueeze(2).unbind(1)
    qkv = block.heads_of(block.qkv(block.norm1(x) * (1 + scale1) + shift1))
    x = x + gate1 * block.project(attention(layer, *qkv).transpose(1, 2).reshape(x.shape))
    return x + gate2 * block.mlp(block.norm2(x) * (1 + scale2) + shift2)


def as_model(model: Any, net: Any, shape: tuple[int, ...]) -> Network:
    """A denoiser with this net in place of the model's own."""
    made = Network(net, model.path, model.kind, shape, model.classes, model.two_times)
    made.dtype = model.dtype
    return made


class PartialDiT:
    """A DiT for `region_run`: full calls store keys and values, `partial` computes edited tokens alone against them.

    `region_run(plan, dit, ..., partial=dit.partial)` with dit = PartialDiT(model); without guidance. A token is computed
    where any of its pixels is edited. Samples with fewer edited tokens than others wait for those.

    Raises:
        WorkbenchError: for a model with another network, or one of two times.

    Measured: the next Fashion class from the same noise, 20.8 of 28 evaluations, 0.11 RMS from the full run; a network of 49 tokens
    saves no CPU time by it (1.04 of the full run's; n = 8, seed 0, benchmarks/inference_more.py).

    Source: RegionE, arXiv 2510.25590 (cached keys and values of what is not edited).
    """

    def __init__(self, model: Denoiser):
        self.model, self.dit, self.kept = model, dit_of(model), {}
        if model.two_times:
            raise WorkbenchError("a flow map has no parts yet: give PartialDiT a model of one time.")
        self.whole, self.path, self.shape = as_model(model, self._full, model.shape), model.path, model.shape

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None) -> Tensor:
        return self.whole(x, t, cond)

    def partial(self, x: Tensor, t: Tensor | float, cond: Any, edited: Tensor) -> Tensor:
        """x0 estimate where `edited` (mask of x's shape); elsewhere the values mean nothing."""
        return as_model(self.model, lambda *given: self._some(*given, edited), self.model.shape)(x, t, cond)

    def _full(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.kept[layer] = (k, v)
            return F.scaled_dot_product_attention(q, k, v)

        return picture(self.dit, through(self.dit, embedded(self.dit, x), conditioning(self.dit, x, t, cond), attention), x)

    def _some(self, x: Tensor, t: Tensor, cond: Any, edited: Tensor) -> Tensor:
        wanted = F.max_pool2d(edited.to(x).amax(1, keepdim=True), self.dit.config.patch).flatten(1) > 0  # (n, tokens)
        fewest = int(wanted.sum(1).max())
        index = torch.argsort(wanted.to(torch.uint8), dim=1, descending=True, stable=True)[:, :fewest]
        fresh = wanted.gather(1, index)  # False where a sample has fewer: computed, but seen by no one
        tokens = embedded(self.dit, x)
        some = tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            places, seen = index[:, None, :, None].expand_as(k), fresh[:, None, :, None]
            both = [
                old.scatter(2, places, torch.where(seen, new, old.gather(2, places)))
                for old, new in zip(self.kept[layer], (k, v), strict=True)
            ]
            return F.scaled_dot_product_attention(q, *both)

        found = through(self.dit, some, conditioning(self.dit, x, t, cond), attention)
        patches = found.new_zeros(len(x), tokens.shape[1], found.shape[2])
        patches.scatter_(1, index[:, :, None].expand_as(found), found)
        return picture(self.dit, patches, x)
