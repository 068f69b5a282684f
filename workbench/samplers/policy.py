"""Samplers that choose their next time from what they see: a policy asks for evaluations, and the loop answers.

A plan knows all its times beforehand. A policy is a generator instead: it yields a `Visit` (states, one time a sample, and
which samples need it), receives the model's x0 estimates, and in the end returns the samples. Every sample chooses for
itself, so that a seeded sample does not depend on the batch that it is drawn in; one that has arrived waits and costs nothing.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, evaluate
from workbench.errors import Diverged, WorkbenchError
from workbench.paths import Path, per_sample
from workbench.samplers.run import Frame, finite


class Visit(NamedTuple):
    """What a policy asks the model.

    Attributes:
        t: times (n,), float64. x: states (n, ...).
        where: (n,), bool; the samples to evaluate. The others have arrived, or know their estimate already: they keep the
            last one, and are not counted.
        inner: the states are helper points of a solver, not of the trajectory.
    """

    t: Tensor
    x: Tensor
    where: Tensor
    inner: bool = False


Visits = Generator[Visit, Tensor, Tensor]  # yields visits, receives x0 estimates (n, ...), returns the samples (n, ...)


@dataclass(frozen=True)
class Policy(ABC):
    """A sampler without a table; run it with `workbench.run`, as a plan.

    Attributes:
        sampler: name. path: the path of the models it runs. times: the first time and the last.
        options: what it was made with, for the record.
        ceiling: model calls that one sample may make before the run is stopped with an error.
    """

    sampler: str
    path: Path
    times: tuple[float, float] = (1.0, 0.0)
    options: dict[str, Any] = field(default_factory=dict)
    ceiling: int = 1000
    models = 1

    @abstractmethod
    def stages(self, x: Tensor) -> Visits:
        """Go from states x (n, ...) at the first time to the last, asking on the way."""

    def __str__(self) -> str:
        extra = "".join(f", {key} {value}" for key, value in self.options.items())
        return f"{self.sampler}, steps of its own on {self.path.name}{extra}"


class Place(NamedTuple):
    """A path at one time a sample: each field is (n,), float64."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor


def place(path: Path, t: Tensor) -> Place:
    """The path at times t (n,)."""
    return Place(t, path.alpha(t), path.sigma(t))


def jump(x: Tensor, x0: Tensor, s: Place, t: Place) -> Tensor:
    """The deterministic DDIM step of every sample from its own s to its own t (arXiv 2010.02502, eq. 12 with eta = 0)."""
    kept = t.sigma / s.sigma
    return per_sample(kept, x) * x + per_sample(t.alpha - kept * s.alpha, x) * x0


def run_policy(policy: Policy, model: Denoiser, noise: Tensor, cond: Any = None) -> Iterator[Frame]:
    """The loop of `workbench.run` for a policy: a frame before every move and one at the end.

    Raises:
        WorkbenchError: for a model with two times, or when a sample reaches the ceiling on model calls.
        Diverged: if an estimate or the final state is not finite.
    """
    if getattr(model, "two_times", False):
        raise WorkbenchError(
            f"{policy.sampler} chooses where to go after it has seen the model's answer, but this model is a flow map, which must "
            "be told before: run it with a plan, such as workbench.plan('flow_map', ...)."
        )
    with torch.no_grad():
        x = target = noise * policy.path.sigma(policy.times[0])
    asked, answer, seconds = policy.stages(x), None, 0.0
    calls = torch.zeros(len(x), dtype=torch.long)  # of the model, and of its network: guided ones make two a call
    counts, i = calls.clone(), 0
    while True:
        began, graph = time.perf_counter(), torch.is_grad_enabled()
        if graph:
            torch.set_grad_enabled(False)
        try:
            visit = asked.send(answer)
            calls += visit.where
            if int(calls.max()) > policy.ceiling:
                raise WorkbenchError(
                    f"a sample made {policy.ceiling} model calls without arriving ({policy}): allow a larger error (rtol), end "
                    "farther from the data (t_end, rho_min), or raise max_evaluations."
                )
            target, count = look(model, visit, target, cond)
            counts += count * visit.where
            if not finite(target):
                raise Diverged(
                    f"the model's estimate is not finite at visit {i} of {policy}: check its weights, or use less guidance."
                )
        except StopIteration as end:
            x = end.value
            break
        finally:
            if graph:
                torch.set_grad_enabled(True)
        seconds += time.perf_counter() - began
        yield Frame(i, float(visit.t.median()), visit.x, target, mean(counts), seconds, visit.inner, visit.t, counts.clone())
        answer, i = target, i + 1
    seconds += time.perf_counter() - began
    if not finite(x):
        raise Diverged(f"some samples are not finite after {policy}: check the model's weights, or use less guidance.")
    end = torch.full((len(x),), policy.times[1], dtype=torch.float64)
    clean = policy.path.sigma(policy.times[1]) == 0
    yield Frame(i, policy.times[1], x, x if clean else target, mean(counts), seconds, False, end, counts)


def look(model: Denoiser, visit: Visit, last: Tensor, cond: Any = None) -> tuple[Tensor, int]:
    """Evaluate the samples that a visit asks for; returns x0 estimates (n, ...), the last ones elsewhere, and evaluations a call."""
    if bool(visit.where.all()):
        target, count = evaluate(model, visit.x, visit.t, cond)
        rows = None
    else:
        rows = visit.where.nonzero().squeeze(1)
        there = rows.to(visit.x.device)
        target, count = evaluate(model, visit.x[there], visit.t[rows], part(cond, rows, len(visit.x)))
    if target.shape[1:] != visit.x.shape[1:]:
        raise WorkbenchError(
            f"the model returned shape {tuple(target.shape)} for states of shape {tuple(visit.x.shape)}: they must be equal."
        )
    return (target if rows is None else last.index_copy(0, there, target)), count


def part(cond: Any, rows: Tensor, n: int) -> Any:
    """The conditions of some of n samples; what does not belong to single samples is passed on."""
    if isinstance(cond, Tensor) and cond.dim() and len(cond) == n:
        return cond[rows.to(cond.device)]
    if isinstance(cond, Mapping):
        return {key: part(value, rows, n) for key, value in cond.items()}
    if isinstance(cond, (list, tuple)) and len(cond) == n:
        return [cond[row] for row in rows.tolist()]
    return cond


def mean(counts: Tensor) -> int | float:
    """Mean evaluations a sample; a whole number where all made as many."""
    low, high = int(counts.min()), int(counts.max())
    return low if low == high else float(counts.double().mean())
