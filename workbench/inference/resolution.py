"""What the runs of this folder share: frames that know their size and cost, resizing, seeds of parts, small helpers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError
from workbench.samplers.plan import Plan
from workbench.samplers.run import run


class SizedFrame(NamedTuple):
    """A `Frame` of a run that changes resolution.

    Attributes:
        i: evaluations so far. t: time. x: state (n, c, size, size). target: x0 estimate at (x, t).
        nfe: network evaluations per sample so far, of any size. seconds: computing time so far.
        part: which part of the run. size: pixels a side.
        cost: evaluations so far in units of one at the final size, by pixels; attention costs the square of that.
    """

    i: int
    t: float
    x: Tensor
    target: Tensor
    nfe: int
    seconds: float
    inner: bool
    part: int
    size: int
    cost: float
    times: None = None
    counts: None = None


class Ledger:
    """Adds up evaluations, seconds and cost over the parts of a run."""

    def __init__(self, final_size: int):
        self.final_size, self.i, self.nfe, self.seconds, self.cost = final_size, 0, 0, 0.0, 0.0

    def frame(
        self, part: int, t: float, x: Tensor, target: Tensor, nfe: int = 0, seconds: float = 0.0, i: int = 0
    ) -> SizedFrame:
        """A frame whose part has made `nfe` evaluations so far, in `seconds`."""
        size = x.shape[-1]
        cost = self.cost + nfe * (size / self.final_size) ** 2
        return SizedFrame(self.i + i, t, x, target, self.nfe + nfe, self.seconds + seconds, False, part, size, cost)

    def close(self, last: SizedFrame) -> None:
        """Begin the next part where this frame ends."""
        self.i, self.nfe, self.seconds, self.cost = last.i, last.nfe, last.seconds, last.cost


def frames_of_part(
    ledger: Ledger, part: int, plan: Plan, model: Denoiser, start: Tensor, cond: Any, seed: int, index: Sequence[int] | None
) -> Iterator[SizedFrame]:
    """The frames of `run` as `SizedFrame`; noise of this part is its own."""
    for frame in run(plan, model, start, cond, part_seed(seed, part), index):
        last = ledger.frame(part, frame.t, frame.x, frame.target, frame.nfe, frame.seconds, frame.i)
        yield last._replace(inner=frame.inner)
    ledger.close(last)


def fixed(plan: Plan) -> Plan:
    """The plan, if it is one.

    Raises:
        WorkbenchError: for a policy, which has no table to work on.
    """
    if not isinstance(plan, Plan):
        raise WorkbenchError(f"{plan} has no table of stages: this method needs a plan, from workbench.plan.")
    return plan


def part_seed(seed: int, part: int) -> int:
    """Seed of the noise of a part; the first has the run's own."""
    return int(seed) + part * 0x5DEECE66D


def resize(x: Tensor, size: int) -> Tensor:
    """Pictures (n, c, h, w) at size x size: block means downwards, bicubic upwards, the same at the same size.

    Raises:
        WorkbenchError: for anything but square pictures.

    >>> resize(torch.ones(1, 1, 4, 4), 2).shape
    torch.Size([1, 1, 2, 2])
    """
    if x.dim() != 4 or x.shape[-1] != x.shape[-2]:
        raise WorkbenchError(f"x has shape {tuple(x.shape)}, but resizing takes square pictures (n, c, size, size).")
    if size == x.shape[-1]:
        return x
    if size < x.shape[-1]:
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x, (size, size), mode="bicubic", align_corners=False)


def final(frames: Iterator[Any]) -> Any:
    """The last frame of a generator."""
    last = None
    for last in frames:  # noqa: B007
        pass
    return last


def identity_noise(shape: Sequence[int], of: int | None = None, at: int = 0) -> Tensor:
    """Unit vectors as noise: rows `at` .. of an identity matrix of `of` rows, the others 0; pushed through, they read off a linear map."""
    count = 1
    for side in shape:
        count *= side
    rows = torch.zeros(of or count, count, dtype=torch.float64)
    rows[at : at + count] = torch.eye(count, dtype=torch.float64)
    return rows.view(-1, *shape)
