"""Stored answers of the teacher: pairs of noise and solution, and key points of its trajectories; made once, see `generated`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any, ClassVar

import torch
from torch import Tensor

from workbench.denoiser import Denoiser
from workbench.distill.generated import Table, fingerprint, generate, guidance_of
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.guidance import Steering
from workbench.distill.objectives.maps import size_of, tau_of, velocity
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path
from workbench.samplers.plan import Plan
from workbench.samplers.run import initial_noise, run
from workbench.samplers.sample import Sampling

Real = Callable[[torch.Generator], tuple[Tensor | None, Tensor | None]]
CLEAN = 0.01  # tau at which an inverted sample starts: below it the velocity is a ratio of two small numbers


@dataclass(frozen=True)
class Pairs:
    """How many pairs, by which solver. Labels are uniform over the classes, a `dropout` share of them null.

    Attributes:
        count: number of pairs. sampling: the teacher's solver; must be deterministic. chunk: pairs that are made together.
        inverted: share of pairs whose solution is a real sample, and whose noise is where the teacher's reverse flow carries
            it (RF++, arXiv 2405.20320, section 3.3); 0 looks at no data.
    """

    count: int = 8192
    sampling: Sampling = field(default_factory=lambda: Sampling("heun", 12))
    chunk: int = 512
    dropout: float = 0.1
    inverted: float = 0.0
    what: ClassVar[str] = "pairs"

    def __post_init__(self):
        check_count("count", self.count)
        check_count("chunk", self.chunk)
        if not 0 <= self.inverted <= 1:
            raise WorkbenchError(f"inverted is {self.inverted}, but is a share of the pairs, from 0 to 1.")

    def plan(self, path: Path) -> Plan:
        """What the teacher runs."""
        return self.sampling.plan(path)

    def make(
        self, teacher: Denoiser, folder: File | None, seed: int, device: Any, steering: Steering | None = None,
        real: Real | None = None,
    ) -> Iterator[tuple[int, int]]:  # fmt: skip
        """Make what is missing of the set in folder/pairs (in memory if None), yielding (done, total); returns the `Store`.

        Args:
            steering: draws the guidance scale of each pair. real: rng -> (x0, labels), real samples for `inverted`.

        Raises:
            WorkbenchError: if the folder holds another set, or no real samples are there to be inverted.
        """
        plan = self.plan(teacher.path)
        manifest = {
            "what": self.what, "teacher": fingerprint(teacher), "seed": seed, "dropout": self.dropout, "inverted": self.inverted,
            "plan": {"sampler": plan.sampler, "path": teacher.path.name, "times": list(plan.times), "stages": len(plan.stages)},
            "guidance": list(steering.interval) if steering else guidance_of(teacher),
        }  # fmt: skip
        if self.inverted:
            if real is None:
                raise WorkbenchError("inverted pairs are made from real samples: pass data=..., or set inverted=0.")
            manifest["data"] = fingerprint(real(step_rng(seed, 2 * self.count, device)))
        columns = self._columns(tuple(teacher.shape))
        if getattr(teacher, "classes", 0):
            columns["cond"] = ((), torch.int64)
        if steering:
            columns["w"] = ((), torch.float32)

        def rows(first: int, n: int) -> dict[str, Tensor]:
            eps = initial_noise(n, teacher.shape, seed, torch.float32, first).to(device)
            cond = self._labels(teacher, n, seed, first, device)
            extra = {"w": steering.draw(n, step_rng(seed, self.count + first)).to(device)} if steering else {}
            made = self._solve(plan, teacher, eps, cond)
            if self.inverted:
                made, cond = self._invert(plan, teacher, made, cond, real, step_rng(seed, 2 * self.count + first, device))
            return made | ({"cond": cond} if cond is not None else {}) | extra

        place = folder / self.what if folder is not None else None
        table = yield from generate(place, manifest, columns, rows, self.count, self.chunk)
        return Store(table.to(device))

    def _columns(self, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"eps": (shape, torch.float32), "x0": (shape, torch.float32)}

    def _solve(self, plan: Plan, teacher: Denoiser, eps: Tensor, cond: Tensor | None) -> dict[str, Tensor]:
        for frame in run(plan, teacher, eps, cond):
            x0 = frame.x
        return {"eps": eps, "x0": x0.float()}

    def _invert(self, plan, teacher, made, cond, real, rng) -> tuple[dict[str, Tensor], Tensor | None]:
        """The first rows of a chunk replaced by real samples and the noise that leads to them."""
        k = round(self.inverted * len(made["x0"]))
        x0, labels = real(rng)
        while len(x0) < k:
            more, named = real(rng)
            x0, labels = torch.cat([x0, more]), torch.cat([labels, named]) if labels is not None else None
        x0 = x0[:k].to(made["x0"])
        if cond is not None:
            known = labels[:k].to(cond) if labels is not None else torch.full_like(cond[:k], -1)
            kept = torch.rand(k, generator=rng, device=rng.device) >= self.dropout
            cond = torch.cat([torch.where(kept.to(cond.device), known, -1), cond[k:]])
        eps = invert(teacher, x0, cond[:k] if cond is not None else None, plan.times)
        return {"eps": torch.cat([eps, made["eps"][k:]]), "x0": torch.cat([x0, made["x0"][k:]])}, cond

    def _labels(self, teacher: Denoiser, n: int, seed: int, first: int, device: Any) -> Tensor | None:
        classes = getattr(teacher, "classes", 0)
        if not classes:
            return None
        rng = step_rng(seed, first)
        cond = torch.randint(classes, (n,), generator=rng)
        return torch.where(torch.rand(n, generator=rng) < self.dropout, -1, cond).to(device)


@dataclass(frozen=True)
class KeyPoints(Pairs):
    """Teacher trajectories at `keys` + 1 key times, as AccVideo keeps them (arXiv 2503.19462, section 3.2).

    Attributes:
        keys: number of jumps, 5 in the paper. inner: the teacher's steps within a jump; the paper's Euler takes 10.
        shift: of the key times t = shift u / (1 + (shift - 1) u), u even; 7 in the paper, whose data are video latents.
        sampling: the solver alone counts; its times are these.
    """

    sampling: Sampling = field(default_factory=lambda: Sampling("heun"))
    keys: int = 5
    inner: int = 4
    shift: float = 1.0
    what: ClassVar[str] = "keypoints"

    def __post_init__(self):
        super().__post_init__()
        check_count("keys", self.keys, 1, 1000)
        check_count("inner", self.inner, 1, 1000)
        if not 0.01 <= self.shift <= 100:
            raise WorkbenchError(
                f"shift is {self.shift}, but key times are shifted by a factor from 0.01 to 100; 1 keeps them even."
            )
        if self.inverted:
            raise WorkbenchError("inverted makes pairs of noise and solution, which have no key points between: leave it at 0.")

    @property
    def times(self) -> tuple[float, ...]:
        """The key times, falling from 1 to 0."""
        return self._grid(self.keys)

    def plan(self, path: Path) -> Plan:
        """The teacher's solver on the key times and `inner` - 1 times between each two."""
        return self.sampling.plan(path, schedule=list(self._grid(self.keys * self.inner)))

    def _grid(self, n: int) -> tuple[float, ...]:
        even = (k / n for k in range(n, -1, -1))
        return tuple(self.shift * u / (1 + (self.shift - 1) * u) for u in even)

    def _columns(self, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"keys": ((self.keys + 1, *shape), torch.float32)}

    def _solve(self, plan: Plan, teacher: Denoiser, eps: Tensor, cond: Tensor | None) -> dict[str, Tensor]:
        states = [frame.x for frame in run(plan, teacher, eps, cond) if not frame.inner]
        return {"keys": torch.stack(states[:: self.inner], 1).float()}


@dataclass(frozen=True)
class Store:
    """All pairs, or all trajectories, in memory or mapped from the run folder."""

    table: Table

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every column whole."""
        return {name: torch.cat(pieces) for name, pieces in self.table.columns.items()}

    def draw(self, batch: Batch, rng: torch.Generator) -> Batch:
        """`batch.size` pairs, with replacement."""
        chosen = torch.randint(len(self.table), (batch.size,), generator=rng, device=rng.device)
        row = self.table.take(chosen)
        keys = row.get("keys")
        x0 = row["x0"] if keys is None else keys[:, -1]
        return Batch(x0, row.get("cond"), batch.size, batch.progress, row.get("eps"), row.get("w"), keys)


@torch.no_grad()
def invert(teacher: Denoiser, x0: Tensor, cond: Tensor | None, times: tuple[float, ...]) -> Tensor:
    """The noise (n, ...) from which the teacher's flow leads to x0, by Heun's rule along the times in reverse, on the linear path."""
    path, device = teacher.path, x0.device
    tau = tau_of(path, torch.tensor(sorted(times), dtype=torch.float64, device=device)).clamp(CLEAN, 1.0)
    tau = torch.cat([tau.new_tensor([CLEAN]), tau[tau > 2 * CLEAN]])
    tau[-1] = 1.0

    def slope(x: Tensor, now: Tensor) -> Tensor:
        inside = now.clamp_max(1 - 1e-6)
        t = path.time(torch.log1p(-inside) - inside.log()).expand(len(x)) if path.name != "linear" else now.expand(len(x))
        return velocity(teacher, x * size_of(path, t, x), t, cond)

    x = (1 - CLEAN) * x0
    for now, later in itertools.pairwise(tau):
        gap, first = float(later - now), slope(x, now)
        x = x + 0.5 * gap * (first + slope(x + gap * first, later))
    return x
