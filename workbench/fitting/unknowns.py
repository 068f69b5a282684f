"""What is learned, as one vector: the gaps between times, the offsets of the network's times, the coefficients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from workbench.fitting.table import BASE, FIRST, TO, AtTimes, T, X, to_stages, to_tensor
from workbench.samplers.plan import Plan

F64 = torch.float64


class Unknowns:
    """The vector `start` is the plan itself; `unpack` of any other of its length is another plan of the same shape.

    The grid is t_i = t_end + (t_start - t_end) sum_{j >= i} gap_j with gaps = softmax, so it always falls. The rows are the solver's
    at those times plus corrections; the network is asked at t_i exp(width_i offset_i / t_i), within (0, 1].

    Args:
        plan: where to start. build: times -> table of its solver, or None if there is none, when times stay.
        rows, times, offsets: what is learned. history: outputs that each row may use.
    """

    def __init__(self, plan: Plan, build: Callable | None, rows: bool, times: bool, offsets: bool, history: int):
        self.plan, self.build, self.rows, self.times, self.offsets = plan, build, rows, times, offsets
        self.grid = torch.tensor(plan.times, dtype=F64)
        own = to_tensor(plan.stages, history)
        self.solver = build(list(plan.times)) if build else own
        self.fixed = own - self.solver  # corrections made already, by an earlier fit or by least squares
        self.fixed[:, [T, TO]] = 0.0
        t = self.solver[:, T]
        self.step = [min(int((self.grid >= at).sum()) - 1, plan.steps - 1) for at in t.tolist()]
        gaps = -self.grid.diff() / (self.grid[0] - self.grid[-1])
        self.floor = min(1e-5, float(gaps.min()) / 2)
        self.gaps = torch.log((gaps - self.floor) / (1 - self.floor * len(gaps)))
        self.learned = torch.zeros_like(own, dtype=torch.bool)
        if rows:
            self.learned[:, X], self.learned[:, BASE] = True, bool((own[:, BASE] != 0).any())
            for i in range(len(own)):
                self.learned[i, FIRST : FIRST + min(i + 1, history)] = True
        self.used = self.learned | (own != 0)
        self.scale = torch.eye(int(self.learned.sum()), dtype=F64)
        self.sizes = [plan.steps * times, len(own) * offsets, len(self.scale)]
        moved = torch.log(own[:, T] / t) * t / (-self.grid.diff())[self.step]
        self.moved = moved if moved.abs().max() > 1e-12 else torch.zeros_like(moved)  # by an earlier fit

    def zero(self) -> Tensor:
        """The vector of the plan itself."""
        return torch.zeros(sum(self.sizes), dtype=F64)

    def unpack(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The grid (steps + 1,) and the table of a vector, with a graph."""
        gaps, offsets, rows = theta.split(self.sizes)
        grid, table = self.grid, self.solver
        if self.times:
            share = self.floor + (1 - self.floor * len(gaps)) * torch.softmax(self.gaps + gaps, 0)
            inner = grid[-1] + (grid[0] - grid[-1]) * share.flip(0).cumsum(0).flip(0)[1:]
            grid = torch.cat([grid[:1], inner, grid[-1:]])
            table = AtTimes.apply(grid, self.build)
        table = table + self.fixed
        if self.rows:
            table = table.index_put((self.learned,), self.scale @ rows, accumulate=True)
        if self.offsets or bool(self.moved.any()):
            t, width = table[:, T], -grid.diff()[self.step]
            moved = self.moved + offsets if self.offsets else self.moved
            asked = (t * torch.exp(width / t * moved)).clamp(max=1.0)
            table = torch.cat([asked[:, None], table[:, 1:]], 1)
        return grid, table

    def correct(self, corrections: Tensor) -> None:
        """Move the start by these corrections, (stages, columns)."""
        self.fixed = self.fixed + corrections

    def whiten(self, seen: list[list[Tensor]]) -> None:
        """Measure the coefficients of each stage in units in which they change the next state alike and independently.

        With G the second moments of what the row multiplies, c = G^(-1/2) theta: the outputs of neighbouring stages are
        nearly the same, and a descent on the bare coefficients would crawl.
        """
        blocks = []
        for i, held in enumerate(seen):
            features = self.features(i, held)
            if features.shape[1]:
                moments = damped(features.T @ features / len(features), 1e-5)
                blocks.append(torch.linalg.inv(torch.linalg.cholesky(moments)).T)
        self.scale = torch.block_diag(*blocks) if blocks else self.scale

    def features(self, i: int, held: list[Tensor]) -> Tensor:
        """What the learned coefficients of stage i multiply, (numbers, coefficients), float64."""
        learned = self.learned[i, X : X + len(held)].tolist()
        columns = [one.detach().flatten().double() for one, keep in zip(held, learned, strict=True) if keep]
        return torch.stack(columns, 1) if columns else torch.zeros(held[0].numel(), 0, dtype=F64)

    def plan_of(self, theta: Tensor) -> Plan:
        """The plan of a vector, under the name and with the options of the start."""
        with torch.no_grad():
            grid, table = self.unpack(theta.detach())
        times = tuple(grid.tolist())
        return replace(self.plan, times=times, stages=to_stages(self.plan.stages, table, times))


def damped(moments: Tensor, by: float) -> Tensor:
    """A matrix of second moments made safe to invert."""
    return moments + by * moments.diagonal().mean() * torch.eye(len(moments), dtype=moments.dtype)
