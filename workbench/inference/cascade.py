"""A cascade of resolutions: each stage draws the next size given the picture that the last one drew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count
from workbench.inference.resolution import Ledger, SizedFrame, fixed, frames_of_part, part_seed
from workbench.samplers.plan import Plan
from workbench.samplers.run import run, stage_noise
from workbench.samplers.sample import noise_for


class Given(NamedTuple):
    """What a stage of a cascade is conditioned on.

    Attributes:
        image: the previous stage's picture, repeated to this stage's size (n, c, size, size). label: as in `run`, or None.
    """

    image: Tensor
    label: Any = None


def cascade_run(
    models: Sequence[Denoiser],
    plans: Sequence[Plan],
    n: int | None = None,
    cond: Any = None,
    seed: int = 0,
    augment: float = 0.0,
    noise: Sequence[Tensor] | None = None,
    index: Sequence[int] | None = None,
) -> Iterator[SizedFrame]:
    """Sample sizes r_1 < r_2 < ... one after the other, yielding a frame before every update; the last one holds the samples.

    Stage 1 is called with `cond`, every later one with `Given(image, cond)`, and starts from noise of its own. `image` is
    the previous result with each pixel repeated, so its block means give that result back.

    Args:
        models: one a size, each with `.shape` (c, r, r). plans: one each.
        n: how many samples; may be left out where `noise` is given. cond: a label, labels, or None.
        augment: standard deviation of noise added to a picture before the next stage sees it; a stage trained with some
            forgives the errors of the one before.
        noise: starting noise of each stage (n, *shape), drawn from the seed by default.
        index: as for `workbench.run`.

    Raises:
        WorkbenchError: for models and plans that do not pair up, or sizes that are not multiples of the one before.

    Source: LowDiff, arXiv 2509.15342: one network for all sizes there. Pixel repetition and the noise are the workbench's own
    choices; the claim is measured on exact conditional teachers, no network of several sizes is bundled.
    Measured: exact W2 to a Gaussian field of 16 x 16 pixels at equal compute, 16 full-size evaluations: 1.27 for DDIM with 32 steps
    at 8 and 8 at 16, 1.96 with 16 steps at 16; 0.41 and 1.06 for dpmpp_2m (no sampling, benchmarks/inference_more.py).

    >>> import workbench as wb
    >>> from workbench.teachers.gaussian import gaussian_field
    >>> field = gaussian_field(8)
    >>> plans = [wb.plan("ddim", "linear", 8), wb.plan("ddim", "linear", 2)]
    >>> *_, last = cascade_run([field.down(4), field.given(4)], plans, 3)
    >>> last.x.shape, last.nfe, last.cost
    (torch.Size([3, 1, 8, 8]), 10, 4.0)
    """
    models, plans = list(models), list(plans)
    if not models or len(models) != len(plans):
        raise WorkbenchError(f"{len(models)} models and {len(plans)} plans were given: a cascade needs one plan a model.")
    shapes = [tuple(getattr(model, "shape", ())) for model in models]
    for small, large in itertools.pairwise(shapes):
        if len(small) != 3 or len(large) != 3 or small[0] != large[0] or large[1] % small[1] or large[1] <= small[1]:
            raise WorkbenchError(f"shapes {shapes} are no cascade: each must be a larger multiple of the one before.")
    if not 0 <= augment < math.inf:
        raise WorkbenchError(f"augment is {augment}, but must be a standard deviation of at least 0.")
    if noise is None:
        n = check_count("n", n)
        noise = [noise_for(model, n, part_seed(seed, k)) for k, model in enumerate(models)]
        if index is not None:
            noise = [stage_noise(start, part_seed(seed, k), -1, index) for k, start in enumerate(noise)]
    if len(noise) != len(models) or any(tuple(z.shape[1:]) != s for z, s in zip(noise, shapes, strict=False)):
        raise WorkbenchError(f"noise must be one tensor a stage, of shapes (n, ...) with {shapes}.")
    for plan, model, start in zip(plans, models, noise, strict=True):
        run(fixed(plan), model, start, None, seed, index)  # its checks
    return _cascade(models, plans, list(noise), cond, seed, augment, index)


def _cascade(
    models: list, plans: list[Plan], noise: list[Tensor], cond: Any, seed: int, augment: float, index: Any
) -> Iterator[SizedFrame]:
    ledger, given = Ledger(models[-1].shape[-1]), cond
    for k, (model, plan, start) in enumerate(zip(models, plans, noise, strict=True)):
        for frame in frames_of_part(ledger, k, plan, model, start, given, seed, index):
            yield frame
        if k + 1 < len(models):
            picture = frame.x
            if augment:
                picture = picture + augment * stage_noise(picture, part_seed(seed, k), -2, index)
            given = Given(F.interpolate(picture, models[k + 1].shape[-2:], mode="nearest"), cond)


def mismatch(x: Tensor, picture: Tensor) -> float:
    """RMS of down(x) - picture: how far the block means of x (n, c, R, R) are from what it was conditioned on (n, c, r, r).

    >>> import torch
    >>> mismatch(torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 2, 2))
    1.0
    """
    return float((F.adaptive_avg_pool2d(x, picture.shape[-2:]) - picture).square().mean().sqrt())
