"""Whether a student collapses while it trains: variance and coverage of its samples beside those of its teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path as File

import torch
from torch import Tensor

from workbench.files import read_json, write_json
from workbench.metrics import density_coverage

PEAKS = "peaks.json"
NEIGHBOURS = 5
FALLEN = 0.6  # a figure below this share of its peak has fallen; coverage has a standard error of about 0.03 at n = 64
ONCE = 0.5  # ... if the peak was at least this: a student that begins as its teacher first has to spread
NEVER, HALF = 0.25, 0.5  # and one that is below a quarter when half of the run is over has not spread at all
WHAT = {"variance": "{now:.0%} of its teacher's variance", "coverage": "a sample near {now:.0%} of its teacher's samples"}


def spread(x: Tensor, reference: Tensor, cond: Tensor | None = None) -> dict[str, float]:
    """How far samples spread beside their teacher's.

    Args:
        x, reference: samples (n, ...), n > 5. cond: their labels (n,), or None.

    Returns:
        variance: of x, the mean over dimensions, over that of the reference; within the classes where labels are given.
        coverage: share of the reference with a sample of x within reach of its fifth neighbour (`metrics.density_coverage`),
        about 0.97 for two draws of one law.

    >>> points = torch.arange(12.0)[:, None]
    >>> spread(points, points), spread(0 * points, points)["variance"]
    ({'variance': 1.0, 'coverage': 1.0}, 0.0)
    """
    first, second = _within(x, cond), _within(reference, cond)
    size = second.square().mean()
    ratio = float(first.square().mean() / size) if size > 0 else 1.0
    return {"variance": ratio, "coverage": density_coverage(x, reference, k=NEIGHBOURS).coverage}


def _within(x: Tensor, cond: Tensor | None) -> Tensor:
    """Samples less the mean of their class, or of all where no class has two."""
    x = x.detach().double().flatten(1).cpu()
    if cond is None or len(cond.unique()) > len(x) // 2:
        return x - x.mean(0)
    group = cond.cpu().unique(return_inverse=True)[1]
    count = torch.bincount(group).double()[:, None]
    return x - (torch.zeros(len(count), x.shape[1], dtype=x.dtype).index_add_(0, group, x) / count)[group]


@dataclass
class Watch:
    """Says when variance or coverage has fallen, or never rose. The peaks are kept in the run's folder, since a run may be interrupted.

    >>> watch = Watch()
    >>> watch({"variance": 0.9, "coverage": 0.95}, 400, 0.2)
    ''
    >>> watch({"variance": 0.2, "coverage": 0.9}, 800, 0.4)
    "The student is collapsing: its samples have 20% of its teacher's variance (90% at step 400). A lower lr, or more turns of a critic, may hold it."
    """

    folder: File | None = None
    peaks: dict[str, list[float]] = field(default_factory=dict)  # name -> (value, step)

    def __post_init__(self) -> None:
        if self.folder is not None and (self.folder / PEAKS).exists():
            self.peaks = read_json(self.folder / PEAKS)

    def __call__(self, figures: dict[str, float], step: int, progress: float) -> str:
        """What is wrong, in a sentence or two, or "" if nothing is.

        Args:
            figures: of `spread`. progress: fraction of the run that is done.
        """
        fallen, low = [], []
        self.peaks = {name: peak for name, peak in self.peaks.items() if peak[1] <= step}  # a resumed run begins before some
        for name, words in WHAT.items():
            if (now := figures.get(name)) is None:
                continue
            value, peak = min(now, 1.0), self.peaks.get(name, [0.0, 0])
            if value > peak[0]:
                self.peaks[name] = peak = [value, step]
                if self.folder is not None:
                    write_json(self.folder / PEAKS, self.peaks)
            if peak[0] >= ONCE and value < FALLEN * peak[0]:
                fallen.append(f"{words.format(now=now)} ({peak[0]:.0%} at step {peak[1]})")
            elif progress >= HALF and value < NEVER:
                low.append(words.format(now=now))
        if fallen:
            return f"The student is collapsing: its samples have {' and '.join(fallen)}. A lower lr, or more turns of a critic, may hold it."
        return (
            f"The student has not spread: its samples have {' and '.join(low)} after {progress:.0%} of the run." if low else ""
        )
