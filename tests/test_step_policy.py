"""Learned steps: exact expectations, the one-dimensional Gaussian against dynamic programming, transfer, storage, bad input."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench.errors import MissingSource, UnknownName, WorkbenchError
from workbench.samplers.sample import noise_for
from workbench.step_policy import SOLVERS, Chooser, LearnedSteps, load_steps, mean_evaluations, save_steps
from workbench.step_training import (
    StepProgress,
    endpoint_error,
    expected,
    fine_endpoints,
    fixed_schedules,
    learn_steps,
    learned_steps,
    unroll,
)

F64 = torch.float64
GAUSSIAN = wb.mixture([[0.0]], [0.2])
BRANCHES = wb.mixture([[-2.0, 0.0], [1.0, 0.3], [1.0, -0.3]], [0.3, 0.05, 0.05])
QUICK = {"steps": 12, "samples": 256, "batch": 64, "reference": 60}


def untrained(times: list[float], solver: str, path: str = "linear", sharp: float = 1.0) -> LearnedSteps:
    """A policy that takes the evaluations of a fixed schedule for all samples."""
    law, most = wb.paths.get(path), len(times) - 1
    nodes = law.log_snr(torch.tensor(times[:-1], dtype=F64))
    if not math.isfinite(float(nodes[0])):
        nodes[0] = float(nodes[1]) - 1
    return LearnedSteps(
        "learned_steps", law, (times[0], times[-1]), solver=solver, net=Chooser(nodes), most=most, evaluations=most
    )


@functools.cache
def trained() -> tuple[StepProgress, ...]:
    return tuple(learn_steps(BRANCHES, "dpmpp_2m", 5, **QUICK))


def final(plan: Any, model: Any, noise: Tensor) -> Any:
    *_, last = wb.run(plan, model, noise)
    return last


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("path", ["linear", "vp", "edm", "cosine"])
@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.9, 0.1)])
def test_untrained_it_is_the_plan_of_its_schedule(solver: str, path: str, ends: tuple[float, float]) -> None:
    """Every solver with a time for each sample does what its plan does."""
    model, times = BRANCHES.on(path), torch.linspace(*ends, 7, dtype=F64).tolist()
    noise = noise_for(model, 20)
    plan = wb.plan(solver, path, schedule=times)
    mine, theirs = final(untrained(times, solver, path), model, noise), final(plan, model, noise)
    assert torch.allclose(mine.x, theirs.x, atol=1e-9) and mine.nfe == theirs.nfe and mine.t == times[-1]


def test_the_expectation_over_stopping_is_exact() -> None:
    """One decision: error and evaluations are the mixture of its two ends."""
    policy = untrained([1.0, 0.6, 0.3, 0.0], "ddim")
    noise = noise_for(BRANCHES, 6)
    exits = unroll(policy, BRANCHES, noise)
    assert torch.allclose(sum(end.probability for end in exits), torch.ones(6, dtype=F64), atol=3e-3)
    grid = [1.0, 0.6, 0.3]
    for k, end in enumerate(exits):
        assert torch.allclose(
            end.x, final(wb.plan("ddim", "linear", schedule=[*grid[: k + 1], 0.0]), BRANCHES, noise).x, atol=1e-9
        )
        assert bool((end.evaluations == k + 1).all())
    error, count = expected(exits, torch.zeros(6, 2, dtype=F64))
    hand = sum(end.probability * end.x.square().mean(1) for end in exits).mean()
    assert float(error.detach()) == pytest.approx(float(hand.detach()), rel=3e-3) and 1 < float(count.detach()) < 3


def test_gradient_through_the_solver_is_that_of_finite_differences() -> None:
    policy, noise = (
        replace(untrained([1.0, 0.7, 0.4, 0.2, 0.0], "dpmpp_2m"), pace=-0.07),
        noise_for(BRANCHES, 8),
    )  # off the nodes
    exact = fine_endpoints(BRANCHES, noise, steps=60)

    def loss() -> Tensor:
        error, count = expected(unroll(policy, BRANCHES, noise), exact)
        return error + 0.1 * count

    (gradient,) = torch.autograd.grad(loss(), [policy.net.table])
    for k in (0, 2):
        with torch.no_grad():
            values = []
            for side in (1e-6, -1e-6):
                policy.net.table[k] += side
                values.append(float(loss().detach()))
                policy.net.table[k] -= side
        assert float(gradient[k]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_gaussian_steps_reach_what_dynamic_programming_finds() -> None:
    """DDIM on N(0, S^2) multiplies x by a factor a step: the best five-step product is a shortest path over a grid of times."""
    scale, count = 0.2, 5
    grid = torch.cat([torch.linspace(1, 0.005, 200, dtype=F64), torch.zeros(1, dtype=F64)])
    alpha, sigma = 1 - grid, grid
    shrink = alpha * scale**2 / (alpha**2 * scale**2 + sigma**2)  # x0 estimate = shrink x
    kept = sigma[None, :] / sigma[:, None]
    factor = kept + (alpha[None, :] - kept * alpha[:, None]) * shrink[:, None]
    cost = torch.where(grid[None, :] < grid[:, None], -torch.log(factor.clamp_min(1e-12)), math.inf)  # DDIM shrinks too much
    best = cost[:, -1]
    for _ in range(count - 1):
        best = (cost + best[None, :]).min(1).values
    optimum = scale - math.exp(-float(best[0]))  # exact flow: x_0 = S x_1
    assert optimum > 0
    policy = learned_steps(GAUSSIAN, "ddim", count, steps=80, samples=64, batch=64, lr=0.02, reference=100)
    noise = noise_for(GAUSSIAN, 400, seed=5)
    last = final(policy, GAUSSIAN, noise)
    found = endpoint_error(last.x, scale * noise) / float(noise.square().mean().sqrt())
    fixed = {name: endpoint_error(final(plan, GAUSSIAN, noise).x, scale * noise) for name, plan in
             fixed_schedules(GAUSSIAN.path, "ddim", count).items()}  # fmt: skip
    assert last.nfe <= count + 0.05 and found < 1.1 * optimum
    assert found < min(fixed.values()) / float(noise.square().mean().sqrt())


def test_training_reports_and_keeps_the_best() -> None:
    first, *between, last = trained()
    assert first.stage == "reference" and first.fixed[0] in wb.schedules.NAMES and last.stage == "done"
    assert all(report.policy is None for report in between) and last.error == min(report.error for report in between)
    assert last.evaluations <= 5 and str(last.policy) == "learned_steps, dpmpp_2m, 5 evaluations on average on linear"
    assert last.policy.card["fixed"] == list(first.fixed)


def test_the_same_seed_gives_the_same_policy() -> None:
    torch.manual_seed(123)  # no global state
    *_, again = learn_steps(BRANCHES, "dpmpp_2m", 5, **QUICK)
    mine = trained()[-1].policy
    assert all(torch.equal(a, b) for a, b in zip(mine.net.parameters(), again.policy.net.parameters(), strict=True))
    assert mine.pace == again.policy.pace
    other = learned_steps(BRANCHES, "dpmpp_2m", 5, **QUICK, seed=1)
    assert not torch.equal(mine.net.table, other.net.table)


def test_samples_choose_for_themselves_and_alone() -> None:
    policy, noise = trained()[-1].policy, noise_for(BRANCHES, 64, seed=9)
    with torch.no_grad():
        policy.net.net[-1].weight.add_(0.3 * torch.randn(2, 64, generator=torch.Generator().manual_seed(0), dtype=F64))
    try:
        whole = final(policy, BRANCHES, noise)
        assert whole.counts.unique().numel() > 1
        for j in (0, 33):
            alone = final(policy, BRANCHES, noise[j : j + 1])
            assert torch.allclose(alone.x[0], whole.x[j], atol=1e-9) and alone.nfe == whole.counts[j]
    finally:
        trained.cache_clear()


@pytest.mark.parametrize("solver", SOLVERS)
def test_another_solver_model_and_mean_without_training(solver: str) -> None:
    policy = trained()[-1].policy.with_solver(solver)
    small = wb.mixture([[0.0] * 5, [1.0] * 5], [0.1, 0.2])  # five dimensions: nothing of the data is in the policy
    assert policy.evaluations == (9 if solver == "heun" else 5)
    paced = policy.paced(small, 9 if solver == "heun" else 6, n=128)
    x = wb.sample(small, 64, sampler=paced, seed=4)
    noise = noise_for(small, 64, 4)
    assert mean_evaluations(paced, small, noise) == pytest.approx(paced.evaluations, abs=0.6)
    assert endpoint_error(x, fine_endpoints(small, noise, steps=100)) < 0.2


def test_a_stored_policy_is_the_policy(tmp_path: Path) -> None:
    policy, noise = trained()[-1].policy, noise_for(BRANCHES, 16)
    save_steps(policy, tmp_path / "steps")
    again = load_steps(tmp_path / "steps")
    assert torch.equal(final(policy, BRANCHES, noise).x, final(again, BRANCHES, noise).x)
    assert (str(again), again.card, again.pace) == (str(policy), policy.card, policy.pace)
    card = tmp_path / "steps" / "policy.json"
    for damage in ({"nodes": 3}, {"solver": "hein"}, {"path": "liner"}, {"sha256": "0"}):
        good = json.loads(card.read_text())
        card.write_text(json.dumps({**good, **damage}))
        with pytest.raises(WorkbenchError):
            load_steps(tmp_path / "steps")
        card.write_text(json.dumps(good))
    with pytest.raises(MissingSource):
        load_steps(tmp_path)


def test_bad_input_is_refused() -> None:
    for given in ({"evaluations": 3}, {"steps": 0}, {"samples": 1}, {"lr": 0.0}, {"t_end": 1.0}, {"reference": 2}):
        with pytest.raises(WorkbenchError):
            learn_steps(BRANCHES, **given)
    with pytest.raises(UnknownName, match="heun"):
        learn_steps(BRANCHES, "heum")
    with pytest.raises(UnknownName, match="ddim"):
        trained()[-1].policy.with_solver("ddmi")
    with pytest.raises(WorkbenchError, match="too few"):
        trained()[-1].policy.paced(BRANCHES, 0.5, n=8)
