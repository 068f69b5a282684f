"""Guidance as an input: the student takes the scale w, the teacher is guided by the same, and w is drawn anew for each sample
(distillation of guided diffusion, arXiv 2210.03142, section 3.1; there w' = w - 1)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Guided, Network, Scaled
from workbench.errors import WorkbenchError

Range = tuple[float, float]


def checked(guidance: Any) -> float | Range | None:
    """A scale, or a range (low, high) of them, as a user may give it.

    Raises:
        WorkbenchError: for a range that is not two numbers, low < high, from 0 to 50.
    """
    if not isinstance(guidance, (tuple, list)):
        return guidance
    try:
        low, high = (float(end) for end in guidance)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0 <= low < high <= 50:
        raise WorkbenchError(f"guidance is {guidance!r}, but a range of scales is (low, high), 0 <= low < high <= 50.")
    return low, high


def steered(teacher: Denoiser, interval: Range) -> Denoiser:
    """The teacher under a scale that is set for each batch.

    Raises:
        WorkbenchError: for a teacher without classes, or one that takes a scale itself and not all of this range.
    """
    if not getattr(teacher, "classes", 0):
        raise WorkbenchError(
            f"guidance is a range, {interval}, but this teacher has no classes, so nothing guides it: leave guidance out."
        )
    own = getattr(teacher, "guidance_input", None)
    if own is not None and not (own[0] <= interval[0] and interval[1] <= own[1]):
        raise WorkbenchError(
            f"guidance is {interval}, but this teacher takes scales from {own[0]:g} to {own[1]:g}: choose a range within."
        )
    start = torch.tensor([interval[0]])
    return Scaled(teacher, start) if own is not None else Guided(teacher, start)


class Steering:
    """The models that are asked at the scale of the current batch, and the range it is drawn from."""

    def __init__(self, interval: Range, teacher: Denoiser, student: Network, *others: Network):
        if student.guidance_input is None:
            raise WorkbenchError("guidance is a range, so the student must take the scale: build it with guidance_input=...")
        self.interval = interval
        self.models: list[Any] = [teacher, student, *others]

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """Scales (n,), uniform over the range, given to every model."""
        low, high = self.interval
        return self.set(low + (high - low) * torch.rand(n, generator=rng, device=rng.device))

    def set(self, w: Tensor) -> Tensor:
        """Give scales (n,) to every model."""
        for model in self.models:
            model.scale = w
        return w
