"""Noise search: best-of-n where nothing is pruned, survivors that pruning does not touch, honest counts, and the gain."""

from __future__ import annotations

import math

import pytest
import torch

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.inference import noise_search, search_evaluations

LAW = wb.mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5], labels=[0, 0, 1])
GOAL = torch.tensor([1.2, 0.3], dtype=torch.float64)
PRUNE = {2: 0.4, 6: 0.4, 11: 0.5}


def near(x, cond):
    return -(x - GOAL).square().sum(1)


@pytest.mark.parametrize("prune", [None, {3: 1.0}])
def test_without_pruning_it_is_best_of_n_bit_for_bit(prune):
    x = wb.sample(LAW, 30, sampler="dpmpp_2m", steps=6, seed=4).view(3, 10, 2)
    best = near(x.flatten(0, 1), None).view(3, 10).argmax(1)
    found = noise_search(LAW, near, 10, 3, prune, seed=4, sampler="dpmpp_2m", steps=6)
    assert torch.equal(found.x, x[torch.arange(3), best]) and torch.equal(found.candidate, best)
    assert torch.equal(found.reward, near(found.x, None)) and found.evaluations == 60


@pytest.mark.parametrize(("sampler", "options"), [("dpmpp_2m", {}), ("heun", {}), ("consistency", {}), ("ddim", {"eta": 1.0})])
def test_survivors_end_where_they_would_have_ended_alone(sampler, options):
    """Histories, saved base states and noise are those of the whole batch."""
    found = noise_search(LAW, near, 12, 4, {1: 0.5, 3: 0.5}, sampler=sampler, steps=6, **options)
    x = wb.sample(LAW, 48, sampler=sampler, steps=6, **options).view(4, 12, 2)
    assert torch.allclose(found.x, x[torch.arange(4), found.candidate], rtol=0, atol=1e-12)
    assert found.survivors == (6, 3) and found.scored == 12 + 6 + 3


def test_evaluations_are_those_of_the_network():
    rows = []

    def counted(x, t, cond=None):
        rows.append(len(x))
        return LAW(x, t, cond)

    counted.path, counted.shape, counted.classes, counted.dtype = LAW.path, LAW.shape, LAW.classes, None
    plan = wb.plan("ddim", "linear", 20)
    found = noise_search(counted, near, 20, 2, PRUNE, sampler="ddim", steps=20)
    assert rows == [40] * 3 + [16] * 4 + [6] * 5 + [4] * 8
    assert found.evaluations == sum(rows) / 2 == search_evaluations(plan, 20, PRUNE) == 123
    guided = noise_search(LAW, near, 20, 2, PRUNE, cond=0, guidance=2.0, sampler="ddim", steps=20)
    assert guided.evaluations == 246


def test_each_group_has_its_own_label_and_reward_sees_it():
    seen = []

    def reward(x, cond):
        seen.append(cond.tolist())
        return -(x - LAW.means[2]).square().sum(1)

    found = noise_search(LAW, reward, 4, 2, {2: 0.5}, cond=[0, 1], sampler="ddim", steps=8)
    assert seen == [[0] * 4 + [1] * 4, [0, 0, 1, 1]]
    assert float(found.reward[1]) > float(found.reward[0])


def test_pruning_beats_best_of_n_at_the_same_cost():
    """Distance to a point, 150 groups, seed 0: 20 seeds pruned cost 123 evaluations, as much as 6 whole ones."""
    found = noise_search(LAW, near, 20, 150, PRUNE, sampler="ddim", steps=20)
    plain = noise_search(LAW, near, 7, 150, sampler="ddim", steps=20)
    assert found.evaluations < plain.evaluations
    error = math.sqrt(float(found.reward.var() + plain.reward.var()) / 150)
    assert float(found.reward.mean() - plain.reward.mean()) > 4 * error


def test_an_early_reward_sees_the_frame():
    times = []

    def early(frame, cond):
        times.append((frame.t, len(frame.x), len(frame.target)))
        return near(frame.target, cond)

    options = {"prune": {1: 0.5, 2: 0.5}, "sampler": "ddim", "steps": 4}
    found = noise_search(LAW, near, 8, early=early, **options)
    assert times == [(0.75, 8, 8), (0.5, 4, 4)]
    assert torch.equal(found.x, noise_search(LAW, near, 8, **options).x)


def test_at_least_one_seed_survives():
    found = noise_search(LAW, near, 5, 2, {0: 0.01, 1: 0.01}, sampler="ddim", steps=3)
    assert found.survivors == (1, 1) and found.evaluations == 5 + 1 + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": {4: 0.5}}, "a pruning stage is 4, but must be a whole number from 0 to 3"),
        ({"prune": {1: 0.0}}, "at stage 1 a share of 0.0 would go on"),
        ({"prune": {1: 1.5}}, "at most 1"),
        ({"n": 0}, "n .seeds. is 0"),
        ({"reward": lambda x, cond: x}, r"returned \(4, 2\)"),
        ({"reward": lambda x, cond: x[:, 0] * math.nan}, "without NaN"),
        ({"steqs": 3}, "unknown option of sampler"),
        ({"cond": [0, 1, 1]}, "1 samples need one label"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(WorkbenchError, match=message):
        noise_search(LAW, **{"reward": near, "n": 4, "sampler": "ddim", "steps": 4, **options})
