"""What an explorer has run: asked for, recorded, kept for a while, and lined up step by step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from workbench.compare import Column, stream
from workbench.errors import unknown
from workbench.paths import Path
from workbench.samplers.run import Frame, Trajectory, record
from workbench.samplers.sample import labels

ALIGNMENTS = {"by step": "step", "by log-SNR": "log_snr"}
KEPT_BYTES = 128 * 2**20
QUICK = 0.05  # seconds that a run may take for a slider to wait for it


@dataclass(frozen=True)
class Asked:
    """One question: which columns, from which noise, with which labels.

    Attributes:
        columns: with the settings of the controls. n: samples. seed: of the noise. cond: labels, a label, or None.
    """

    columns: tuple[Column, ...]
    n: int
    seed: int
    cond: Any

    def check(self) -> Asked:
        """Return self if every plan and every label is possible, else raise `WorkbenchError`."""
        for column in self.columns:
            column.plan()
            if self.cond is not None:
                labels(column.model, self.cond, self.n)
        return self

    def key(self, index: int) -> tuple:
        """What the run of one column depends on."""
        c = self.columns[index]
        cond = tuple(self.cond.tolist()) if isinstance(self.cond, Tensor) and self.cond.dim() else self.cond
        given = repr(c.schedule), repr(sorted(c.options.items()))
        return index, c.sampler, *given, c.steps, c.scale(), self.n, self.seed, repr(cond)


class Recorder:
    """Runs columns and keeps what they drew: the last used within 128 MB."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple, Trajectory] = OrderedDict()
        self.seconds: dict[int, float] = {}  # of each column's last run

    def get(self, asked: Asked, index: int) -> Trajectory | None:
        """The recorded run of a column, or None."""
        key = asked.key(index)
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def missing(self, asked: Asked) -> list[int]:
        """Columns that have not run, the cheapest first."""
        left = [k for k in range(len(asked.columns)) if self.get(asked, k) is None]
        return sorted(left, key=lambda k: self.seconds.get(k, asked.columns[k].plan().evaluations))

    def run(self, asked: Asked, only: Sequence[int]) -> Iterator[tuple[int, Frame]]:
        """Run columns one after another, yielding (column index, frame); each is recorded with its last frame."""
        frames: list[Frame] = []
        ends = [len(column.plan().stages) for column in asked.columns]
        for index, frame in stream(asked.columns, asked.n, asked.cond, asked.seed, only):
            frames.append(frame)
            if frame.i == ends[index]:
                self.seconds[index] = frame.seconds
                self._keep(asked.key(index), record(frames), len(asked.columns))
                frames = []
            yield index, frame

    def _keep(self, key: tuple, trajectory: Trajectory, least: int) -> None:
        self._kept[key] = trajectory
        while len(self._kept) > least and sum(map(_bytes, self._kept.values())) > KEPT_BYTES:
            self._kept.popitem(last=False)


def _bytes(trajectory: Trajectory) -> int:
    return sum(values.numel() * values.element_size() for values in (trajectory.x, trajectory.target))


def aligned(trajectories: Mapping[str, Trajectory], paths: Mapping[str, Path], place: int, by: str = "step") -> dict[str, int]:
    """Which recorded point of each run belongs to point `place` of the longest one.

    Args:
        by: "step": the same fraction of the steps. "log_snr": the last point at no higher half log-SNR, so that a model is
            shown where it stands when the longest run has come so far.

    >>> import torch
    >>> runs = {k: Trajectory(torch.linspace(1, 0, k + 1).double(), torch.zeros(k + 1), torch.zeros(k + 1), (), ()) for k in (8, 2)}
    >>> from workbench.paths import linear
    >>> aligned(runs, {8: linear, 2: linear}, 3), aligned(runs, {8: linear, 2: linear}, 3, "log_snr")
    ({8: 3, 2: 1}, {8: 3, 2: 0})
    """
    if by not in ALIGNMENTS.values():
        raise unknown("alignment", by, ALIGNMENTS.values())
    longest = max(trajectories, key=lambda label: len(trajectories[label]))
    most = len(trajectories[longest]) - 1
    place = min(max(place, 0), most)
    if by == "step":
        return {label: round(place / most * (len(run) - 1)) if most else 0 for label, run in trajectories.items()}
    reached = paths[longest].log_snr(float(trajectories[longest].t[place])) + 1e-9
    found = {}
    for label, run in trajectories.items():
        below = [k for k, t in enumerate(run.t.tolist()) if paths[label].log_snr(t) <= reached]
        found[label] = below[-1] if below else 0
    return found | {longest: place}
