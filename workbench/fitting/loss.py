"""How far a table lands from the teacher's own trajectories, and the gradient of that."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.denoiser import Denoiser
from workbench.fitting.table import TO, roll
from workbench.fitting.unknowns import Unknowns, damped
from workbench.metrics.trajectory import trajectory_error
from workbench.samplers.fine import Fine
from workbench.samplers.plan import Plan
from workbench.samplers.run import record, run

CHUNK = 256  # samples that hold a graph together


class Lesson(NamedTuple):
    """Noise (n, ...), its labels, and where the teacher's fine trajectories pass and end."""

    noise: Tensor
    cond: Tensor | None
    fine: Fine

    @property
    def end(self) -> Tensor:
        return self.fine.x[-1]


def lesson(plan: Plan, model: Denoiser, noise: Tensor, cond: Tensor | None) -> Lesson:
    """Follow the teacher along a fine plan."""
    whole = record(run(plan, model, noise, cond))
    return Lesson(noise, cond, Fine(plan.path, whole.t, whole.x, whole.target))


def error(plan: Plan, model: Denoiser, held_out: Lesson) -> float:
    """RMS distance between the ends of a plan and of the teacher; infinite for a plan that overflows."""
    for frame in run(plan, model, held_out.noise, held_out.cond):
        x = frame.x
        if not bool(torch.isfinite(x).all()):
            return math.inf
    return trajectory_error(x, held_out.end)


class Loss:
    """Mean square of the end's error, plus `intermediate` times that of the states in between.

    Each state is compared with the teacher's at the same time, in units of sqrt(alpha^2 + sigma^2). With `relax` each sample of
    noise may move within a ball around itself, of that radius as root mean square over coordinates, and what it moves by is learned
    too (LD3, arXiv 2405.15506, section 3.2).
    """

    def __init__(self, unknowns: Unknowns, model: Denoiser, taught: Lesson, relax: float):
        self.unknowns, self.model, self.taught, self.relax = unknowns, model, taught, relax
        self.intermediate = 0.0
        self.plan = unknowns.plan

    def start(self) -> Tensor:
        """The vector to begin at: the plan's own unknowns, and the shifts of the noise if it is relaxed."""
        own = self.unknowns.zero()
        return torch.cat([own, own.new_zeros(self.taught.noise.numel())]) if self.relax else own

    def own(self, theta: Tensor) -> Tensor:
        """The part of a vector that is the plan's."""
        return theta[: sum(self.unknowns.sizes)]

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """The loss and its gradient; the teacher's weights get none. Runs in chunks, so that memory stays small."""
        theta = theta.detach().requires_grad_()
        with torch.enable_grad():
            _, table = self.unknowns.unpack(self.own(theta))
            leaf, total = table.detach().requires_grad_(), 0.0
            shift = theta[sum(self.unknowns.sizes) :]
            moved = shift.detach().reshape(self.taught.noise.shape).requires_grad_() if self.relax else None
            leaves = [leaf] if moved is None else [leaf, moved]
            sums = [torch.zeros_like(one) for one in leaves]
            for first in range(0, len(self.taught.noise), CHUNK):
                part = self._part(leaf, moved, slice(first, first + CHUNK))
                found = torch.autograd.grad(part, leaves, allow_unused=True)
                sums = [kept if one is None else kept + one for kept, one in zip(sums, found, strict=True)]
                total += float(part.detach())
            outputs, gradients = ([table], sums[:1]) if moved is None else ([table, shift], [sums[0], sums[1].flatten()])
            (gradient,) = torch.autograd.grad(outputs, theta, gradients)
        return total, gradient

    def _part(self, table: Tensor, moved: Tensor | None, rows: slice) -> Tensor:
        noise, cond = self.taught.noise[rows], self.taught.cond
        if moved is not None:
            size = moved[rows].flatten(1).square().mean(1).clamp_min(1.0).sqrt()
            noise = noise + (self.relax * moved[rows] / size.reshape(-1, *[1] * (noise.dim() - 1))).to(noise)
        cond = cond if cond is None else cond[rows]
        states = roll(self.plan, table, self.unknowns.used, self.model, noise, cond)
        total = (states[-1] - self.taught.end[rows]).double().square().sum()
        if self.intermediate and len(states) > 1:
            targets, scale = self._targets(table, rows)
            ahead = (torch.stack(states[:-1]) - targets).double().square().flatten(1).sum(1)
            total = total + self.intermediate * (ahead / scale).mean()
        return total / self.taught.noise.numel()

    def _targets(self, table: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        fine, at = self.taught.fine, table[:-1, TO]
        scale = self.plan.path.alpha(at) ** 2 + self.plan.path.sigma(at) ** 2
        targets = fine._replace(x=fine.x[:, rows], target=fine.target[:, rows]).at(at)
        return targets.to(self.taught.end.dtype), scale

    @torch.no_grad()
    def least_squares(self, theta: Tensor) -> Tensor:
        """Corrections (stages, columns) that take each state, in turn, nearest to the teacher's: one regression a stage."""
        unknowns, taught = self.unknowns, self.taught
        _, table = unknowns.unpack(self.own(theta))
        targets = [*taught.fine.at(table[:-1, TO]), taught.end]
        corrections = torch.zeros_like(table)
        for i, target in enumerate(targets):
            # a stage at a time: its row decides what the next one sees
            seen: list[list[Tensor]] = []
            states = roll(self._first(i + 1), (table + corrections)[: i + 1], unknowns.used, self.model, *taught[:2], seen=seen)
            features = unknowns.features(i, seen[i])
            missing = (target - states[i]).flatten().double()
            found = torch.linalg.solve(damped(features.T @ features, 1e-6), features.T @ missing)
            corrections[i, unknowns.learned[i]] = found
        return corrections

    def _first(self, stages: int) -> Plan:
        return Plan(self.plan.sampler, self.plan.path, self.plan.times, self.plan.stages[:stages])

    @torch.no_grad()
    def whiten(self, theta: Tensor) -> None:
        """Choose the units of the coefficients by the run of this vector's plan."""
        seen: list[list[Tensor]] = []
        roll(self.plan, self.unknowns.unpack(self.own(theta))[1], self.unknowns.used, self.model, *self.taught[:2], seen=seen)
        self.unknowns.whiten(seen)
