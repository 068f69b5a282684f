"""Patch-parallel sampling: the picture is cut into bands, one a process; each attends to its own fresh keys and values and
to the stale ones of the others, sent while it computed (DistriFusion), or to those of near rows only (PCPP).

Everything outside attention is local to a token, and so is every row of a plan: a process runs the plan on its band alone.
`patch_run` is the same mathematics in one process, to see what staleness does; `patch_group.PatchGroup` runs real processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Guided
from workbench.errors import WorkbenchError, check_count
from workbench.inference.resolution import fixed
from workbench.inference.tokens import Attention, as_model, conditioning, dit_of, embedded, picture, through
from workbench.samplers.plan import Plan
from workbench.samplers.run import Frame, run


class Bands(NamedTuple):
    """How a picture's rows of tokens are shared out.

    Attributes:
        cuts: first row of each band, and the number of rows. columns: tokens a row.
        width: rows beyond its own that a band sees after warm-up, on either side; None for all.
    """

    cuts: tuple[int, ...]
    columns: int
    width: int | None

    def own(self, rank: int) -> tuple[int, int]:
        """First token of a band and the one after its last."""
        return self.cuts[rank] * self.columns, self.cuts[rank + 1] * self.columns

    def seen(self, rank: int, all_rows: bool = False) -> tuple[int, int]:
        """Tokens that a band attends to."""
        rows = self.cuts[-1]
        width = rows if all_rows or self.width is None else self.width
        first, last = max(0, self.cuts[rank] - width), min(rows, self.cuts[rank + 1] + width)
        return first * self.columns, last * self.columns

    def sent(self, source: int, target: int, all_rows: bool = False) -> tuple[int, int]:
        """Tokens of band `source` that band `target` sees; first = last where it sees none."""
        (a, b), (c, d) = self.own(source), self.seen(target, all_rows)
        first = max(a, c)
        return first, max(first, min(b, d))


def bands_of(model: Denoiser, ranks: int, width: int | None = None) -> Bands:
    """Cut a DiT's rows of tokens into nearly equal bands.

    Raises:
        WorkbenchError: for a model that is no DiT of this workbench, or more bands than rows.
    """
    net = dit_of(model)
    rows = net.config.image_size // net.config.patch
    ranks = check_count("ranks", ranks, 1, rows)
    width = None if width is None else check_count("width", width, 0)
    return Bands(tuple(round(rows * rank / ranks) for rank in range(ranks + 1)), rows, width)


def band_prediction(net: Any, x: Tensor, t: Tensor, cond: Any, s: Tensor | None, row: int, attention: Attention) -> Tensor:
    """A DiT's prediction for a band x (n, c, h, w) that begins at this row of tokens, with attention handed in."""
    return picture(net, through(net, embedded(net, x, row), conditioning(net, x, t, cond, s), attention), x)


def patch_run(
    plan: Plan,
    model: Denoiser,
    noise: Tensor,
    cond: Any = None,
    seed: int = 0,
    index: Sequence[int] | None = None,
    ranks: int = 2,
    warmup: int = 4,
    width: int | None = None,
    guidance: float = 1.0,
) -> Iterator[Frame]:
    """Run a plan as `ranks` processes would, in this one: what patch parallelism does to the samples. Yields `Frame`s.

    Args:
        plan, model, noise, cond, seed, index: as for `workbench.run`; the model's net is a workbench DiT.
        ranks: bands. warmup: evaluations at the start in which every band attends to fresh tokens of all.
        width: rows of tokens beyond its own that a band sees afterwards; None for all (DistriFusion), fewer is PCPP, 0 none.
        guidance: classifier-free scale.

    Raises:
        WorkbenchError: for another network, or counts out of range.

    Source: DistriFusion, arXiv 2402.19481, section 4; partial conditioning, arXiv 2412.02962. This DiT has no convolution
    over patches and no group norm, so attention is all there is to exchange.
    Measured: two bands of the digits teacher, Euler, warm-up 2: 0.037, 0.026, 0.015 and 0.0075 RMS from the whole network at 8, 16,
    32 and 64 steps; with one row of the other band 0.14 to 0.17 and with none 0.24 to 0.28, its seam at 1.3 (whole: 1.01)
    (n = 64, seed 0, benchmarks/inference_more.py).

    >>> import workbench as wb
    >>> from workbench.networks.dit import DiT
    >>> model = wb.Network(DiT(image_size=8, patch=2, width=32, depth=1, heads=2), "linear", "flow", (1, 8, 8), 10)
    >>> *_, last = patch_run(wb.plan("euler", "linear", 6), model, torch.randn(2, 1, 8, 8), warmup=2)
    >>> last.x.shape
    torch.Size([2, 1, 8, 8])
    """
    fixed(plan)
    bands, warmup = bands_of(model, ranks, width), check_count("warmup", warmup, 1)
    own = as_model(model, _Emulated(model.net, bands, warmup), model.shape)
    return run(plan, Guided(own, guidance) if guidance != 1 else own, noise, cond, seed, index)


class _Emulated:
    """All bands in one process: the keys and values of the last evaluation are what the others would have sent."""

    def __init__(self, net: Any, bands: Bands, warmup: int):
        self.net, self.bands, self.warmup, self.calls = net, bands, warmup, 0
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None, s: Tensor | None = None) -> Tensor:
        predicted = band_prediction(self.net, x, t, cond, s, 0, self._attention)
        self.calls += 1
        return predicted

    def _attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        stale = self.kept.get(layer)
        self.kept[layer] = (k, v)
        if self.calls < self.warmup or stale is None or stale[0].shape != k.shape:
            return F.scaled_dot_product_attention(q, k, v)
        found = []
        for rank in range(len(self.bands.cuts) - 1):
            first, last = self.bands.own(rank)
            seen = band_seen(self.bands, rank, (k[:, :, first:last], v[:, :, first:last]), stale)
            found.append(F.scaled_dot_product_attention(q[:, :, first:last], *seen))
        return torch.cat(found, 2)


def band_seen(bands: Bands, rank: int, fresh: tuple[Tensor, Tensor], stale: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Keys and values that a band attends to: its own fresh ones between the stale ones it sees."""
    (first, last), (low, high) = bands.own(rank), bands.seen(rank)
    return [torch.cat([old[:, :, low:first], new, old[:, :, last:high]], 2) for new, old in zip(fresh, stale, strict=True)]


def seam(x: Tensor, cuts: Sequence[int]) -> float:
    """RMS jump between the rows of pixels on either side of the cuts, over that between all other neighbouring rows.

    Compare it with the same ratio of pictures made whole: above that, the cut shows.

    Args:
        x: pictures (n, c, h, w). cuts: rows of pixels at which a band begins, 0 and h left out.

    Raises:
        WorkbenchError: unless every cut lies inside and some row does not.

    >>> seam(torch.tensor([0.0, 0.0, 3.0, 4.0]).view(1, 1, 4, 1), [2])
    4.24
    """
    inside = [cut - 1 for cut in cuts]
    if not inside or min(inside) < 0 or max(inside) > x.shape[2] - 2 or len(set(inside)) > x.shape[2] - 2:
        raise WorkbenchError(
            f"cuts {list(cuts)} must be rows between 1 and {x.shape[2] - 1}, and leave others to compare with."
        )
    jumps = x.diff(dim=2).square().mean((0, 1, 3))
    other = [row for row in range(len(jumps)) if row not in inside]
    return float((jumps[inside].mean() / jumps[other].mean()).sqrt())
