"""Parallel in time: the same samples in fewer rounds, exact entries after each sweep, and the sequential run as a special case."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.inference.parallel import parallel_run

NOISE = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MOONS = wb.load("moons")
PLANS = [
    ("euler", {}),
    ("ddim", {}),
    ("ddim", {"eta": 1.0}),
    ("consistency", {}),
    ("flow_map", {"gamma": 0.5}),
    ("heun", {}),
    ("dpmpp_2m", {}),
]


def states(plan: Any, model: Any = MOONS, **options: Any) -> list[torch.Tensor]:
    return [frame.x for frame in wb.run(plan, model, NOISE, **options)]


@pytest.mark.parametrize(("sampler", "options"), PLANS)
def test_a_window_of_one_is_the_sequential_run(sampler: str, options: dict) -> None:
    plan = wb.plan(sampler, MOONS.path, 9, **options)
    one_step = sampler not in ("heun", "dpmpp_2m")
    for rule in ("rows", "picard", "jacobi") if one_step else ("rows",):
        frames = list(parallel_run(plan, MOONS, NOISE, seed=3, window=1, rule=rule))
        *_, last = wb.run(plan, MOONS, NOISE, seed=3)
        assert torch.equal(frames[-1].x, last.x)
        assert len(frames) == frames[-1].i == frames[-1].nfe == plan.evaluations


@pytest.mark.parametrize(("sampler", "options"), PLANS)
def test_entry_j_is_exact_after_j_sweeps(sampler: str, options: dict) -> None:
    plan = wb.plan(sampler, MOONS.path, 8, **options)
    exact = states(plan, seed=2)
    for rule in ("rows", "picard", "jacobi") if sampler not in ("heun", "dpmpp_2m") else ("rows",):
        for sweep in parallel_run(plan, MOONS, NOISE, seed=2, tolerance=0.0, rule=rule):
            for j in range(min(sweep.i, plan.evaluations) + 1):
                assert torch.allclose(sweep.states[j], exact[j], rtol=0, atol=1e-12), (rule, sweep.i, j)
        assert sweep.i <= plan.evaluations


@pytest.mark.parametrize(
    ("sampler", "steps", "options", "how", "rounds", "apart"),
    [
        ("euler", 128, {}, {}, 20, 1e-3),
        ("euler", 128, {}, {"rule": "rows", "window": 16}, 32, 8e-3),
        ("ddim", 128, {"eta": 1.0}, {}, 40, 2e-2),
        ("heun", 64, {}, {}, 20, 2e-3),
        ("dpmpp_2m", 64, {}, {"window": 16, "slide": False}, 32, 2e-2),
    ],
)
def test_fewer_rounds_than_stages(sampler: str, steps: int, options: dict, how: dict, rounds: int, apart: float) -> None:
    plan = wb.plan(sampler, MOONS.path, steps, **options)
    *_, last = parallel_run(plan, MOONS, NOISE, **how)
    assert last.i <= rounds < plan.evaluations / 2 + 1
    assert last.nfe > plan.evaluations  # rounds are bought with evaluations
    assert float((last.x - states(plan)[-1]).abs().max()) < apart


def test_a_smaller_tolerance_is_closer_and_takes_more_rounds() -> None:
    plan = wb.plan("euler", MOONS.path, 64)
    exact, found = states(plan)[-1], []
    for tolerance in (1e-1, 1e-3, 1e-6):
        *_, last = parallel_run(plan, MOONS, NOISE, tolerance=tolerance)
        found.append((last.i, float((last.x - exact).abs().max())))
    assert found[0][0] < found[1][0] < found[2][0]
    assert found[0][1] > found[1][1] > found[2][1] and found[2][1] < 1e-6


def test_sweeps_can_be_recorded_and_one_call_serves_a_round() -> None:
    plan, counted = wb.plan("euler", MOONS.path, 20), wb.Counted(MOONS)
    frames = list(parallel_run(plan, counted, NOISE, window=5))
    assert counted.calls == len(frames) < 20
    trajectory = wb.record(iter(frames))
    assert torch.equal(trajectory.final, frames[-1].x) and trajectory.nfe[-1] == frames[-1].nfe
    assert all(a.done < b.done and a.t > b.t for a, b in itertools.pairwise(frames))
    assert frames[-1].done == 20 and frames[-1].t == 0 and torch.equal(frames[-1].x, frames[-1].target)


def test_a_network_with_labels_and_a_flow_map() -> None:
    digits = wb.load("digits/teacher")
    noise, cond = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 5])
    plan = wb.plan("euler", digits.path, 20)
    *_, whole = wb.run(plan, digits, noise, cond)
    *_, last = parallel_run(plan, digits, noise, cond)
    assert last.i < 15 and float((last.x - whole.x).square().mean().sqrt()) < 5e-3

    def net(x: torch.Tensor, t: torch.Tensor, cond: Any, s: torch.Tensor) -> torch.Tensor:
        return x * (t - s)[:, None]

    jumps = wb.Network(net, "linear", "flow", (2,), two_times=True)
    plan = wb.plan("flow_map", "linear", 6)
    *_, last = parallel_run(plan, jumps, NOISE, tolerance=0.0)
    assert torch.allclose(last.x, states(plan, jumps)[-1], atol=1e-12)


def test_bad_input() -> None:
    plan = wb.plan("heun", MOONS.path, 4)
    with pytest.raises(WorkbenchError, match="did you mean 'picard'"):
        parallel_run(plan, MOONS, NOISE, rule="picar")
    with pytest.raises(WorkbenchError, match="use rule='rows'"):
        parallel_run(plan, MOONS, NOISE, rule="picard")
    with pytest.raises(WorkbenchError, match="window is 0"):
        parallel_run(plan, MOONS, NOISE, window=0)
    with pytest.raises(WorkbenchError, match="tolerance is nan"):
        parallel_run(plan, MOONS, NOISE, tolerance=float("nan"))
    with pytest.raises(WorkbenchError, match="plans of one"):
        parallel_run(wb.hybrid(wb.plan("euler", MOONS.path, 4), 2), [MOONS, MOONS], NOISE)
    with pytest.raises(WorkbenchError, match="make the plan on the model's path"):
        parallel_run(wb.plan("euler", "vp", 4), MOONS, NOISE)
