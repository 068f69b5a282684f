"""Stored pairs (noise, teacher's solution from it), made once, in pieces that survive a kill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from workbench.denoiser import Denoiser
from workbench.distill.loop import Batch, step_rng
from workbench.errors import check_count
from workbench.files import write_atomically
from workbench.samplers.run import initial_noise, run
from workbench.samplers.sample import Sampling


@dataclass(frozen=True)
class Pairs:
    """How many pairs, by which solver. Labels are uniform over the classes, a `dropout` share of them null.

    Attributes:
        count: number of pairs. sampling: the teacher's solver; must be deterministic. chunk: pairs to a file.
    """

    count: int = 8192
    sampling: Sampling = field(default_factory=lambda: Sampling("heun", 12))
    chunk: int = 512
    dropout: float = 0.1

    def __post_init__(self):
        check_count("count", self.count)
        check_count("chunk", self.chunk)

    def make(self, teacher: Denoiser, folder: File, seed: int, device: Any) -> Iterator[tuple[int, int]]:
        """Make what is missing below folder/pairs, yielding (done, total); returns the `Store`."""
        from safetensors.torch import save_file

        place = folder / "pairs"
        plan = self.sampling.plan(teacher.path)
        pieces = []
        for first in range(0, self.count, self.chunk):
            n, file = min(self.chunk, self.count - first), place / f"{first:07d}.safetensors"
            piece = _read(file)
            if piece is None:
                eps = initial_noise(n, teacher.shape, seed, torch.float32, first).to(device)
                cond = self._labels(teacher, n, seed, first, device)
                for frame in run(plan, teacher, eps, cond):
                    x0 = frame.x
                piece = {"eps": eps, "x0": x0.float()} | ({"cond": cond} if cond is not None else {})
                write_atomically(file, lambda path, piece=piece: save_file(piece, path))
                yield first + n, self.count
            pieces.append(piece)
        return Store({key: torch.cat([piece[key] for piece in pieces]).to(device) for key in pieces[0]})

    def _labels(self, teacher: Denoiser, n: int, seed: int, first: int, device: Any) -> Tensor | None:
        classes = getattr(teacher, "classes", 0)
        if not classes:
            return None
        rng = step_rng(seed, first)
        cond = torch.randint(classes, (n,), generator=rng)
        return torch.where(torch.rand(n, generator=rng) < self.dropout, -1, cond).to(device)


@dataclass(frozen=True)
class Store:
    """All pairs in memory."""

    tensors: dict[str, Tensor]

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """`batch.size` pairs, with replacement."""
        chosen = torch.randint(len(self.tensors["eps"]), (batch.size,), generator=rng, device=rng.device)
        cond = self.tensors["cond"][chosen] if "cond" in self.tensors else None
        return Batch(self.tensors["x0"][chosen], cond, batch.size, batch.progress, self.tensors["eps"][chosen])


def _read(file: File) -> dict[str, Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file) if file.exists() else None
    except SafetensorError:
        return None
