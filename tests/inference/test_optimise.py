"""Noise optimised through a one-step map: closed-form optima of linear maps, and a decoder that follows the same flow."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench import paths
from workbench.errors import Diverged, UnknownName, WorkbenchError
from workbench.inference import optimise_noise, optimise_samples

F64 = torch.float64
MEAN, SCALE = torch.tensor([0.7, -0.3, 0.1], dtype=F64), 0.4
NOISE = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
GOAL = torch.tensor([1.0, 0.0, -1.0], dtype=F64)


class FlowMap:
    """The exact one-step map of N(MEAN, SCALE^2) on the linear path: x0 = m + S z from pure noise."""

    path, shape, classes, dtype = paths.linear, (3,), 0, None

    def __init__(self):
        self.calls = 0

    def __call__(self, x, t, cond=None):
        self.calls += 1
        return MEAN + SCALE * x


def test_a_linear_reward_on_the_sphere():
    """max g.(m + S z) at fixed |z| is z = |z| g / |g|."""
    found = optimise_noise(FlowMap(), lambda x, c: x @ GOAL, NOISE, iterations=150, lr=0.2)
    radius = NOISE.norm(dim=1)
    assert torch.allclose(found.noise.norm(dim=1), radius)
    assert torch.allclose(found.noise, radius[:, None] * GOAL / GOAL.norm(), atol=2e-2)
    assert torch.allclose(found.reward, GOAL @ MEAN + SCALE * radius * GOAL.norm(), atol=1e-3)


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_the_prior_gives_the_ridge_solution(weight):
    """max -|m + S z - y|^2 / 2 - w |z|^2 / 2 is z = S (y - m) / (S^2 + w)."""
    found = optimise_noise(
        FlowMap(), lambda x, c: -0.5 * (x - GOAL).square().sum(1), NOISE, iterations=300, keep="prior", weight=weight
    )
    exact = SCALE * (GOAL - MEAN) / (SCALE**2 + weight)
    assert torch.allclose(found.noise, exact.expand(6, 3), atol=5e-3)


def test_free_noise_reaches_the_target():
    found = optimise_noise(FlowMap(), lambda x, c: -(x - GOAL).square().sum(1), NOISE, iterations=300, keep="free")
    assert torch.allclose(found.x0, GOAL.expand(6, 3), atol=2e-2)


def test_counts_history_and_gradients():
    flow = FlowMap()
    with torch.no_grad():  # a caller's mode does not stop it
        found = optimise_noise(flow, lambda x, c: x[:, 0], NOISE, iterations=7)
    assert flow.calls == found.nfe == 8 and found.gradients == 7 and found.history.shape == (8, 6)
    assert torch.equal(found.history[0], (MEAN + SCALE * NOISE)[:, 0]) and torch.equal(found.history[-1], found.reward)
    assert not found.noise.requires_grad and not found.x0.requires_grad
    alone = optimise_noise(flow, lambda x, c: x[:, 0], NOISE[2:3], iterations=7)
    assert torch.allclose(alone.noise, found.noise[2:3], atol=1e-12)  # samples do not know each other


def test_a_decoder_on_the_same_flow_gets_the_reward():
    teacher = wb.mixture([MEAN.tolist()], [SCALE])
    made = optimise_samples(FlowMap(), teacher, lambda x, c: x @ GOAL, 5, iterations=60, lr=0.3, steps=100, sampler="heun")
    assert torch.allclose(made.x, made.found.x0, atol=1e-3) and torch.allclose(made.reward, made.found.reward, atol=1e-3)
    assert made.nfe == 61 + 199 and bool((made.reward > made.found.history[0]).all())


def test_a_bundled_student_moves_the_teachers_digits():
    """Mean brightness to -0.2 within the sphere; n = 10, seed 0."""

    def reward(x, cond):
        return -(x.mean((1, 2, 3)) + 0.2).square()

    student, teacher, cond = wb.load("digits/reflow"), wb.load("digits/teacher"), torch.arange(10)
    before = reward(wb.sample(teacher, 10, cond, steps=8), cond)
    made = optimise_samples(student, teacher, reward, 10, cond, iterations=15, steps=8)
    assert float(made.reward.mean()) > 0.2 * float(before.mean()) and made.nfe == 16 + 16
    assert all(parameter.grad is None for parameter in student.net.parameters())


def test_bad_input():
    flow = FlowMap()
    with pytest.raises(UnknownName, match="did you mean 'sphere'"):
        optimise_noise(flow, lambda x, c: x[:, 0], NOISE, keep="spere")
    with pytest.raises(WorkbenchError, match="lr is -1"):
        optimise_noise(flow, lambda x, c: x[:, 0], NOISE, lr=-1)
    with pytest.raises(WorkbenchError, match="iterations is 0"):
        optimise_noise(flow, lambda x, c: x[:, 0], NOISE, iterations=0)
    with pytest.raises(WorkbenchError, match=r"the reward returned \(6, 3\).*tensor \(6,\)"):
        optimise_noise(flow, lambda x, c: x, NOISE)
    with pytest.raises(Diverged, match="the reward of 6 of 6 samples is not finite"):
        optimise_noise(flow, lambda x, c: x[:, 0] / 0, NOISE)
