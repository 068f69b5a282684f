"""Noise search with early pruning: many seeds start, the reward of their x0 estimates decides who goes on (TTSnap, arXiv 2511.22242)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Wrapper, evaluate
from workbench.errors import WorkbenchError, check_count
from workbench.samplers.plan import Plan
from workbench.samplers.run import Frame, run
from workbench.samplers.sample import default_sampling, labels, noise_for, prepare

Reward = Callable[[Tensor, Any], Tensor]
Early = Callable[[Frame, Any], Tensor]


class Found(NamedTuple):
    """The best of each group of seeds.

    Attributes:
        x: (groups, ...). reward: of these (groups,). candidate: which of its group's seeds it was (groups,); with one group and
            one class it is the sample's index in `wb.sample` with the same seed.
        evaluations: network evaluations of all seeds together, on average over groups. scored: rewards computed, likewise.
        survivors: seeds of a group alive after each pruning, in order of the stages.
    """

    x: Tensor
    reward: Tensor
    candidate: Tensor
    evaluations: float
    scored: float
    survivors: tuple[int, ...]


class Alive(Wrapper):
    """A denoiser that evaluates only the samples that are still alive; the x0 estimate of a pruned one stays its last.

    Attributes:
        alive: bool (n,) to be changed between evaluations. rows: network evaluations so far, summed over samples.
    """

    def __init__(self, model: Denoiser, n: int):
        super().__init__(model)
        self.alive, self.rows, self.last = torch.ones(n, dtype=torch.bool), 0, None

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None, **second_time: Any) -> Tensor:
        if bool(self.alive.all()):
            target, nfe = evaluate(self.model, x, t, cond, **second_time)
            self.rows, self.last = self.rows + nfe * len(x), target
            return target
        rows = self.alive.nonzero().squeeze(1).to(x.device)
        part = cond[rows.to(cond.device)] if isinstance(cond, Tensor) and cond.dim() else cond
        some, nfe = evaluate(self.model, x[rows], t, part, **second_time)
        self.rows += nfe * len(rows)
        self.last = self.last.index_copy(0, rows, some)
        return self.last


def noise_search(
    model: Denoiser,
    reward: Reward,
    n: int,
    groups: int = 1,
    prune: Mapping[int, float] | None = None,
    cond: Any = None,
    seed: int = 0,
    guidance: float | None = None,
    early: Early | None = None,
    **sampling: Any,
) -> Found:
    """The best of n seeds by a reward, with weak seeds dropped on the way.

    All seeds run together; at each pruning stage the x0 estimates of those alive are scored and the best share of each
    group goes on. The rest are not evaluated any more. A survivor ends where it would have ended alone. Without `prune` this
    is best-of-n.

    Args:
        reward: (x (m, ...), cond) -> (m,), higher is better; only ranks within a group matter.
        n: seeds in a group. groups: how many searches, such as prompts; seeds of all differ.
        prune: stage index -> share that goes on, in (0, 1], at least one seed. The paper's example is
            {2: 0.4, 6: 0.4, 11: 0.5} of 20 steps. Stage i is scored after its evaluation, so a seed dropped at i has cost i + 1.
        cond: a label, or one a group.
        early: (frame, cond) -> (m,) in place of the reward at pruning; a frame has x, t and target (the x0 estimate). The
            ideal is E[reward(x0) | x_t] (the paper fine-tunes its reward towards it); the reward of the estimate is not that,
            unless it is linear.
        guidance, sampling: as for `wb.sample`: steps, sampler, schedule and options.

    Counted in `evaluations`: every network evaluation of every seed, two where guided; rewards apart, in `scored`.

    Raises:
        WorkbenchError: for stages or shares that do not exist, or a reward of another shape.

    Measured: 20 seeds pruned as in the paper cost as much as best-of-6: distance squared to a point on a 2-D mixture 0.071 instead of
    0.359 (gain 0.288 +- 0.010, 400 groups), ink of digits 0.361 instead of 0.348 (0.0135 +- 0.0017, 50 groups, seed 0). The
    classifier's log-probability gains nothing so (-0.0012 +- 0.0009): it cannot rank early x0 estimates
    (`benchmarks/inference.py --only search`).

    >>> import workbench as wb
    >>> moons = wb.load("moons")
    >>> found = noise_search(moons, lambda x, cond: x[:, 0], n=8, prune={1: 0.5}, sampler="ddim", steps=4)
    >>> found.evaluations, found.survivors  # 8 * 2 + 4 * 2
    (24.0, (4,))
    """
    n, groups = check_count("n (seeds)", n, 1, 100_000), check_count("groups", groups, 1, 100_000)
    plan = default_sampling(model).plan(model.path, **sampling)
    prune = _checked_stages(prune or {}, plan)
    total = n * groups
    given = labels(model, cond, groups)
    given = None if given is None else given.repeat_interleave(n)
    noise = noise_for(model, total, seed)
    alive = Alive(prepare(model, guidance), total)
    scored, survivors = 0, []
    for frame in run(plan, alive, noise, given, seed):
        if frame.i in prune:
            rows = alive.alive.nonzero().squeeze(1)
            part = None if given is None else given[rows]
            seen = frame._replace(x=frame.x[rows], target=frame.target[rows])
            value = _scores(reward(seen.target, part) if early is None else early(seen, part), len(rows))
            kept = max(1, round(prune[frame.i] * (len(rows) // groups)))
            best = value.view(groups, -1).topk(kept, dim=1).indices
            rows = rows.view(groups, -1).gather(1, best).flatten()
            alive.alive = torch.zeros(total, dtype=torch.bool).index_fill(0, rows, True)
            scored += len(value)
            survivors.append(kept)
    rows = alive.alive.nonzero().squeeze(1)
    value = _scores(reward(frame.x[rows], None if given is None else given[rows]), len(rows))
    best = value.view(groups, -1).argmax(1, keepdim=True)
    rows = rows.view(groups, -1).gather(1, best).squeeze(1)
    chosen = value.view(groups, -1).gather(1, best).squeeze(1)
    scored += len(value)
    return Found(frame.x[rows], chosen, rows % n, alive.rows / groups, scored / groups, tuple(survivors))


def search_evaluations(plan: Plan, n: int, prune: Mapping[int, float] | None = None) -> int:
    """Evaluations that a search of n seeds costs: with it a best-of-m of equal budget has m = this / plan.evaluations.

    >>> from workbench import samplers
    >>> search_evaluations(samplers.plan("ddim", "linear", 20), 20, {2: 0.4, 6: 0.4, 11: 0.5})
    123
    """
    prune, alive, total = _checked_stages(prune or {}, plan), n, 0
    for stage in range(len(plan.stages)):
        total += alive
        if stage in prune:
            alive = max(1, round(prune[stage] * alive))
    return total


def _checked_stages(prune: Mapping[int, float], plan: Plan) -> dict[int, float]:
    for stage, share in prune.items():
        check_count("a pruning stage", stage, 0, len(plan.stages) - 1)
        if not 0 < share <= 1:
            raise WorkbenchError(f"at stage {stage} a share of {share} would go on: give a share above 0, and at most 1.")
    return {int(stage): float(share) for stage, share in prune.items()}


def _scores(value: Tensor, n: int) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != (n,) or bool(torch.isnan(value).any()):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise WorkbenchError(f"the reward returned {shape}, but must return one number a sample without NaN, a tensor ({n},).")
    return value.detach().cpu()
