"""Region-adaptive steps for edits: what the edit leaves alone jumps along a straight line, the rest is iterated.

Where the final picture is known, the x0 estimate hardly moves, and the path from there to the data is the straight line
alpha x0 + sigma eps. So an unedited element keeps the x0 estimate of the last full evaluation, whatever the sampler; only
edited elements need the network. All elements stay at one common time, so the network sees a consistent state.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.denoiser import Denoiser, Wrapper, evaluate
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.inference.resolution import fixed
from workbench.samplers.plan import Plan
from workbench.samplers.run import run

MEASURES = ("distance", "cosine")


class RegionFrame(NamedTuple):
    """A `Frame` of a run with regions.

    Attributes:
        i, t, x, target, nfe, seconds, inner: as in `Frame`; `nfe` counts calls of the network, whatever part of it they ask for.
        elements: evaluations so far in units of a full one: a call for the edited elements costs their share.
        edited: mask of x's shape, or None during warm-up.
        settled: (n, ...) for each element, the time up to which its path is settled: t where edited, else the next full evaluation.
    """

    i: int
    t: float
    x: Tensor
    target: Tensor
    nfe: int
    seconds: float
    inner: bool
    elements: float
    edited: Tensor | None
    settled: Tensor
    times: None = None
    counts: None = None


def region_run(
    plan: Plan,
    model: Denoiser,
    noise: Tensor,
    reference: Tensor,
    cond: Any = None,
    seed: int = 0,
    index: Sequence[int] | None = None,
    warmup: int = 4,
    post: int = 1,
    refresh: int = 0,
    threshold: float = 0.1,
    measure: str = "distance",
    patch: int = 1,
    grow: int = 0,
    cache: float = 0.0,
    partial: Callable[[Tensor, float, Any, Tensor], Tensor] | None = None,
) -> Iterator[RegionFrame]:
    """Run a plan for an edit of `reference`, evaluating only what the edit changes; yields a frame before every update.

    After `warmup` full evaluations the x0 estimate is compared with the reference, token by token: tokens that differ are
    edited and go on as usual; the others keep their x0 estimate until the next full evaluation.

    Args:
        plan, model, noise, cond, seed, index: as for `workbench.run`.
        reference: what is edited, (n, ...) or one sample's shape. The model knows the edit through `cond`, or by itself.
        warmup: full evaluations at the start, at least 1. post: full evaluations at the end.
        refresh: every how many evaluations in between is full, 0 for none.
        threshold: a token is edited where it differs by more; below 0 all are. measure: "distance" is the RMS difference of the token;
            "cosine" is 1 - cosine similarity, the paper's, which needs tokens of several numbers that are not all 0.
        patch: side of a token in pixels, for pictures (n, c, h, w); 1 otherwise.
        grow: tokens by which the edited region of a picture is widened, to be safe.
        cache: reuse the last velocity dx/dt of edited elements while 1 - prod(1 - h) <= cache over the steps h since
            (0 never; smooth paths only). The paper fits a decay to each model; here the velocity is kept as it is.
        partial: (x, t, cond, edited) -> x0 estimate, a model that spares the work where edited is False (there its values
            are not read), such as `PartialDiT(model).partial`. Without it `model` is called in full, and `elements` says
            what could have been spared.

    Raises:
        WorkbenchError: for a reference, counts or measures that do not fit.

    Source: RegionE, arXiv 2510.25590. There, unedited tokens enter the network as cached keys and values (`PartialDiT` does
    that); here as their states on the line, which any denoiser understands.
    Measured: with 2 of 8 coordinates edited, the others a point mass, 32 DDIM steps cost 11.8 full evaluations at no error
    (2e-16 RMS), and 8.3 with cache = 0.04 (0.009 RMS; n = 512). On the digits teacher, the next class from the same noise: 21.8
    of 28 Euler evaluations, 0.013 RMS, where the edit moves 0.66 RMS (n = 64, seed 0, benchmarks/inference_more.py).

    >>> import workbench as wb
    >>> teacher = wb.mixture([[0.0, 2.0]], [1e-3])
    >>> frames = list(region_run(wb.plan("ddim", "linear", 10), teacher, torch.randn(4, 2).double(), torch.zeros(2), warmup=2))
    >>> frames[-1].nfe, frames[-1].elements
    (10, 6.5)
    """
    if measure not in MEASURES:
        raise unknown("measure", measure, MEASURES)
    count, reference = len(fixed(plan).stages), torch.as_tensor(reference).to(noise)
    try:
        reference = reference.expand_as(noise)
    except RuntimeError as error:
        raise WorkbenchError(f"the reference {tuple(reference.shape)} does not fit samples {tuple(noise.shape)}.") from error
    warmup, post = check_count("warmup", warmup, 1, count), check_count("post", post, 0, count)
    refresh, grow = check_count("refresh", refresh, 0), check_count("grow", grow, 0)
    patch = check_count("patch", patch)
    fits = not (noise.shape[-1] % patch or noise.shape[-2] % patch) if noise.dim() == 4 else patch == 1 and not grow
    if not fits:
        raise WorkbenchError(f"patch {patch} and grow {grow} do not fit samples {tuple(noise.shape)}: patches tile pictures.")
    if not math.isfinite(threshold) or not 0 <= cache < 1:
        raise WorkbenchError(f"threshold {threshold} must be a finite number and cache {cache} lie in [0, 1).")
    if plan.models > 1 or (cache and not plan.path.smooth):
        raise WorkbenchError(f"{plan}: regions need a plan of one model, and cache a smooth path (linear, trig).")
    full = [i < warmup or i >= count - post or bool(refresh and (i - warmup + 1) % refresh == 0) for i in range(count)]

    def split(target: Tensor) -> Tensor:
        mask = differs(target, reference, measure, patch) > threshold
        if grow:
            mask = F.max_pool2d(mask.to(target), 2 * grow + 1, 1, grow) > 0
        return spread(mask, target, patch)

    regional = _Regional(model, plan, full, warmup, split, cache, partial)
    return _frames(plan, regional, run(plan, regional, noise, cond, seed, index))


def _frames(plan: Plan, regional: _Regional, frames: Iterator) -> Iterator[RegionFrame]:
    for frame in frames:
        edited = None if regional.edited is None else regional.edited.expand_as(frame.x)
        settled = torch.full_like(frame.x, frame.t)
        if edited is not None and frame.i < len(plan.stages):
            ahead = (plan.stages[j].t for j in range(frame.i + 1, len(plan.stages)) if regional.full[j])
            settled = torch.where(edited, settled, next(ahead, plan.times[-1]))
        nfe = regional.nfe
        yield RegionFrame(
            frame.i, frame.t, frame.x, frame.target, nfe, frame.seconds, frame.inner, regional.elements, edited, settled
        )


class _Regional(Wrapper):
    """A denoiser for one run, whose calls are the plan's stages in order."""

    def __init__(self, model: Any, plan: Plan, full: list[bool], warmup: int, split: Callable, cache: float, partial: Any):
        super().__init__(model)
        self.plan, self.full, self.warmup, self.split, self.cache, self.partial = plan, full, warmup, split, cache, partial
        self.calls, self.nfe, self.elements = 0, 0, 0.0
        self.edited: Tensor | None = None

    def __call__(self, x: Tensor, t: float, cond: Any = None, **second_time: Any) -> Tensor:
        i, self.calls = self.calls, self.calls + 1
        if self.full[i]:
            target = self._counted(evaluate(self.model, x, t, cond, **second_time), 1.0)
            if i == self.warmup - 1:
                self.edited = self.split(target)
            self.frozen = target
            self._remember(target, x, t)
            return target
        share = float(self.edited.expand_as(x).to(torch.float64).mean())
        if not share:
            return self.frozen
        if self.cache and 1 - self.kept * (1 - (self.last - t)) <= self.cache:
            self.kept, self.last = self.kept * (1 - (self.last - t)), t
            target = self.plan.path.convert(self.velocity, x, t, "flow", "x0")
        else:
            if self.partial is None:
                found = evaluate(self.model, x, t, cond, **second_time)
            else:
                found = evaluate(self.partial, x, t, cond, edited=self.edited)
            target = self._counted(found, share)
            self._remember(target, x, t)
        return torch.where(self.edited, target, self.frozen)

    def _counted(self, found: tuple[Tensor, int], share: float) -> Tensor:
        self.nfe, self.elements = self.nfe + found[1], self.elements + found[1] * share
        return found[0]

    def _remember(self, target: Tensor, x: Tensor, t: float) -> None:
        if self.cache:
            self.kept, self.last = 1.0, t
            self.velocity = self.plan.path.convert(target, x, t, "x0", "flow")


def differs(target: Tensor, reference: Tensor, measure: str = "distance", patch: int = 1) -> Tensor:
    """How much each token of an x0 estimate differs from the reference: (n, 1, h / patch, w / patch) of pictures, else of x's shape.

    >>> differs(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
    tensor([[1., 0.]])
    """
    if target.dim() != 4:
        pairs = target[..., None], reference[..., None]
    else:
        pairs = (F.unfold(v, patch, stride=patch).mT for v in (target, reference))  # (n, tokens, c patch^2)
    a, b = pairs
    apart = (a - b).square().mean(-1).sqrt() if measure == "distance" else 1 - F.cosine_similarity(a, b, dim=-1)
    if target.dim() != 4:
        return apart
    return apart.view(len(target), 1, target.shape[2] // patch, target.shape[3] // patch)


def spread(tokens: Tensor, like: Tensor, patch: int = 1) -> Tensor:
    """A map of tokens as a mask of the shape of `like`."""
    if like.dim() == 4:
        tokens = tokens.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return tokens.expand_as(like)


def straightness(plan: Plan, model: Denoiser, noise: Tensor, cond: Any = None) -> Tensor:
    """How straight each element's path is, averaged over samples: 1 where its x0 estimate never moves, towards 0 as it moves more.

    With the x0 estimates D_i of a run, 1 - m / (m + |D_end - eps|) where m = sum_i |D_{i+1} - D_i|.

    >>> import workbench as wb
    >>> point = wb.mixture([[0.5, 0.5]], [1e-6])
    >>> straightness(wb.plan("ddim", "linear", 5), point, torch.randn(8, 2).double())
    tensor([1., 1.], dtype=torch.float64)
    """
    targets = [frame.target for frame in run(plan, model, noise, cond)]
    moved = sum((b - a).abs() for a, b in itertools.pairwise(targets))
    return (1 - moved / (moved + (targets[-1] - noise).abs()).clamp_min(1e-30)).mean(0)
