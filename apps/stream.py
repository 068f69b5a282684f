"""What a picture in the browser is sent: small messages of plain JSON, read by `viewer.js`.

{"run": 7, "begin": {...}, "frames": [...]}    run 7 starts; frames so far
{"run": 7, "frames": [...]}                    more of the same run; a frame that is there already does not count
{"run": 7, "begin": {...}, "frames": [...], "again": true}    the whole of it once more, for a page that has missed some
{"blank": "..."}, {"stale": true}              nothing there yet; what is shown no longer answers the controls
"""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apps.session import Setup
from workbench.compare import Column
from workbench.denoiser import Denoiser, decode, picture_shape
from workbench.samplers.field import Field
from workbench.samplers.plan import Plan
from workbench.samplers.run import Frame
from workbench.views.animation import field_arrows
from workbench.views.grid import data_uri
from workbench.views.points import EXTENT, Density, density_image

UNIT = 4096  # points travel as 16-bit multiples of 1/4096: at most 8 units from the middle
MOST_BYTES = 12e6  # of pictures that one run of one column sends: a longer run sends fewer of its steps


def begin(column: Column, setup: Setup, plan: Plan, color: str, density: Density | None = None) -> dict[str, Any]:
    """What a run is, sent once."""
    shape = picture_shape(column.model)
    return {
        "label": column.label,
        "color": color,
        "says": in_words(column, plan),
        "points": len(shape) == 1,
        "shape": list(shape),
        "n": setup.count,
        "seed": setup.seed,
        "label_asked": setup.label,
        "steps": plan.steps,
        "extent": EXTENT,
        "density": None if density is None else data_uri(density_image(density, 220)),
    }


def in_words(column: Column, plan: Plan, most: int = 5) -> str:
    """Model, sampler, schedule, path, guidance and times, as a person would say it."""
    shown = [f"{t:.3g}" for t in plan.times]
    times = ", ".join(shown if len(shown) <= most else [*shown[:3], "…", shown[-1]])
    return f"{column.describe()}; t = {times}"


def frame(k: int, seen: Frame, path: Any, model: Denoiser | None = None, field: Field | None = None) -> dict[str, Any]:
    """Point k of a run: time, half log-SNR (clipped to ±99), costs, state and DT target, decoded as `model` does it.

    `field` is the velocity there, for points: its arrows travel as (x, y) of tail and head.
    """
    ends = None if field is None else field_arrows(field, EXTENT)[:, :2].reshape(-1, 4)
    snr = path.log_snr(seen.t)
    return {
        "k": k,
        "t": seen.t,
        "snr": 99.0 if math.isnan(snr) else max(-99.0, min(99.0, snr)),
        "nfe": seen.nfe,
        "seconds": seen.seconds,
        "x": packed(seen.x if model is None else decode(model, seen.x)),
        "target": packed(seen.target if model is None else decode(model, seen.target)),
        "field": None if ends is None else packed(torch.from_numpy(ends[~np.isnan(ends).any(1)])),
    }


def packed(x: Tensor) -> str:
    """Images (n, c, h, w) in [-1, 1] as bytes in the order n, h, w, c; points (n, 2) as 16-bit numbers; in base64.

    >>> packed(torch.zeros(1, 1, 1, 3))
    'gICA'
    """
    x = x.detach().float().cpu()
    if x.dim() == 4:
        raw = x.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    else:
        raw = x.mul(UNIT).round().clamp(-32768, 32767).numpy().astype("<i2")
    return base64.b64encode(np.ascontiguousarray(raw).tobytes()).decode("ascii")


def stride(plan: Plan, setup: Setup, shape: tuple[int, ...]) -> int:
    """Every how many steps to send one, so that a run of pictures (or points) of this shape stays below `MOST_BYTES`."""
    size = 2 * setup.count * math.prod(shape) * (1 if len(shape) == 3 else 2)
    return max(1, math.ceil(size * plan.steps / MOST_BYTES))
