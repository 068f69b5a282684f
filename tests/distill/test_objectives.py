"""Objectives against exact answers: golden gradients, fixed points, gradient routing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from workbench.denoiser import Network
from workbench.distill.generated import Table
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.cores import PerSampleL1, ScoreGap
from workbench.distill.objectives.critics import CriticHead, FakeScore
from workbench.distill.objectives.distributional import Distributional
from workbench.distill.objectives.flow_matching import FlowMatching
from workbench.distill.objectives.levels import BackSimulation
from workbench.distill.objectives.maps import jump
from workbench.distill.objectives.pairs import Store
from workbench.distill.objectives.parts import L2, PseudoHuber, drop_labels
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.objectives.starts import FromPairs
from workbench.distill.objectives.targets import DiscreteConsistency
from workbench.distill.objectives.times import Grid, Straighten
from workbench.networks import new_network
from workbench.teachers import mixture


def fresh(classes: int = 0, path: str = "linear") -> Network:
    return Network(new_network((2,), classes, "flow", path), path, "flow", (2,), classes)


def test_score_gap_vanishes_when_critic_and_teacher_agree():
    x = torch.randn(4, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(ScoreGap()(x, x.detach() * 0.3, x.detach() * 0.3, torch.ones(4)), x)
    assert torch.equal(gradient, torch.zeros(4, 2))


def test_per_sample_weight():
    x, real = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert PerSampleL1(floor=0.01)(x, real).tolist() == pytest.approx([0.5, 100.0])


def test_pseudo_huber_and_l2():
    p, y = torch.zeros(1, 4), torch.full((1, 4), 2.0)
    c = 0.1 * math.sqrt(4)
    assert float(PseudoHuber(0.1)(p, y)) == pytest.approx((math.sqrt(16 + c**2) - c) / 2)
    assert float(L2()(p, y)) == pytest.approx(4.0)


@pytest.mark.parametrize("path", ["linear", "vp", "trig", "cosine", "edm"])
def test_transfer_is_the_ddim_plan(path):
    import workbench as wb

    teacher = mixture([[1.0, 0.0], [-1.0, 0.5]], [0.3, 0.2], path=path)
    noise = torch.randn(6, 2, dtype=torch.float64)
    frames = list(wb.run(wb.plan("ddim", path, schedule=[0.9, 0.5]), teacher, noise))
    t, s = torch.full((6,), 0.9, dtype=torch.float64), torch.full((6,), 0.5)
    moved = jump(teacher.path, frames[0].x, frames[0].target, t, s)
    assert torch.allclose(moved, frames[-1].x, rtol=1e-12, atol=1e-12)


def test_discrete_consistency_has_the_euler_endpoint_as_its_fixed_point():
    """The map that takes k teacher steps from t = k / N makes the loss of an N-cell grid exactly zero."""
    cells = 8
    teacher = mixture([[1.0, 0.0], [-1.0, 0.5]], [0.3, 0.2])

    def endpoint(x, t, cond=None):
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        out = []
        for row, time in zip(x, t, strict=True):
            row, k = row[None], round(float(time) * cells)
            for j in range(k, 0, -1):
                start, stop = torch.tensor([j / cells]), torch.tensor([(j - 1) / cells])
                row = jump(teacher.path, row, teacher(row, float(start)), start, stop)
            out.append(row[0])
        return torch.stack(out)

    student = Network(lambda x, t, cond: endpoint(x, t), "linear", "x0", (2,))
    student.net = nn.Identity()
    student.__class__ = type("Exact", (Network,), {"__call__": lambda self, x, t, cond=None: endpoint(x, t)})
    bound = Pointwise(times=Grid(cells, cells), target=DiscreteConsistency()).bind(teacher, student)
    batch = Batch(teacher.sample(32), None, 32, 0.5)
    loss, _ = bound.loss("student", batch, step_rng(0, 0))
    assert float(loss) < 1e-24


def test_grid_doubles():
    grid = Grid(8, 64)
    assert [grid.cells(p) for p in (0.0, 0.24, 0.26, 0.51, 0.76, 1.0)] == [8, 8, 16, 32, 64, 64]
    t, r, s = grid(100, 1.0, step_rng(0, 0))
    assert not bool(s.any())
    assert (
        torch.allclose(t - r, torch.full((100,), 1 / 64, dtype=torch.float64)) and float(t.max()) <= 1 and float(r.min()) >= 0
    )


def test_straighten_ends_on_pure_noise():
    t, _, s = Straighten(0.4)(50, 0.5, step_rng(0, 0))
    assert bool((t == 1).all()) and bool((s == 0).all())
    t, _, _ = Straighten(0.4)(50, 0.1, step_rng(0, 0))
    assert float(t.min()) > 0 and float(t.std()) > 0.1


def test_reflow_loss_is_zero_on_straight_pairs():
    """If x0 is a function of the pair alone and the student knows it at t = 1, nothing is left to learn there."""
    eps = torch.randn(16, 2, dtype=torch.float64)
    student = Network(nn.Identity(), "linear", "x0", (2,))
    student.__class__ = type("Half", (Network,), {"__call__": lambda self, x, t, cond=None: 0.5 * x})
    bound = Pointwise(start=FromPairs(), times=Straighten(0.0), compare="velocity").bind(mixture([[0.0, 0.0]], [0.5]), student)
    bound.switches = Pointwise(
        start=FromPairs(), times=Straighten(0.0), target=lambda teacher, student, point, rng: point.x0, compare="velocity"
    )
    bound.store = Store(Table({"eps": [eps], "x0": [0.5 * eps]}, len(eps)))
    loss, _ = bound.loss("student", Batch(None, None, 8, 0.5), step_rng(0, 0))
    assert float(loss) < 1e-28


def gradients(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


@pytest.mark.parametrize("gan", [None, CriticHead()])
def test_gradients_reach_only_the_player_whose_turn_it_is(gan):
    teacher, student = fresh(), fresh()
    for network in (teacher.net, student.net):
        for p in network.parameters():
            nn.init.normal_(p, std=0.2)
    teacher.net.requires_grad_(False)
    bound = Distributional(gan=gan, critic=FakeScore(turns=1)).bind(teacher, student)
    nn.init.normal_(bound.critic.net.head.weight, std=0.3)
    batch = Batch(torch.randn(8, 2), None, 8)
    assert list(bound.turn(0)) == ["student", "critic"]
    bound.loss("student", batch, step_rng(0, 0))[0].backward()
    assert gradients(student.net) and not gradients(teacher.net)
    assert gan is not None or not gradients(bound.critic)
    student.net.zero_grad()
    bound.critic.zero_grad()
    bound.loss("critic", batch, step_rng(0, 1))[0].backward()
    assert gradients(bound.critic) and not gradients(student.net) and not gradients(teacher.net)


def test_two_time_scales_and_shared_samples():
    bound = Distributional(critic=FakeScore(turns=3)).bind(fresh(), fresh())
    assert [len(bound.turn(step)) for step in range(7)] == [2, 1, 1, 2, 1, 1, 2]
    bound.turn(0)
    bound.loss("student", Batch(None, None, 4), step_rng(0, 0))
    drawn = bound.made.x
    bound.loss("critic", Batch(None, None, 4), step_rng(0, 0))
    assert bound.made.x is drawn and not drawn.requires_grad
    analytic = Distributional(critic=FakeScore(turns=3)).bind(mixture([[0.0, 0.0]], [1.0]), fresh())
    assert list(analytic.turn(0)) == ["critic"]  # a critic that starts from nothing is fitted first


def test_back_simulation_of_one_step_is_the_one_step_path_and_rolls_out_without_gradient():
    student = fresh()
    x, t = BackSimulation((1.0,))(student, (5, 2), None, step_rng(0, 3), None)
    assert t == 1.0 and not x.requires_grad
    expected = torch.randn(5, 2, generator=step_rng(0, 3))
    assert torch.equal(x, expected)
    seen = {BackSimulation((1.0, 0.5))(student, (5, 2), None, step_rng(0, k), None)[1] for k in range(12)}
    assert seen == {1.0, 0.5}


def test_flow_matching_is_minimised_by_the_conditional_velocity():
    net = fresh().net
    objective = FlowMatching(net)
    x0 = torch.tensor([[0.3, -0.2]]).expand(64, 2)
    # one data point: the exact prediction is (x - x0) / t, for which the loss is zero
    exact = lambda x, t, cond: (x - x0) / t[:, None]  # noqa: E731
    objective.net = type("Exact", (), {"__call__": staticmethod(exact), "config": net.config})()
    loss, parts = objective.loss("teacher", Batch(x0, None, 64), step_rng(0, 0))
    assert float(loss) < 1e-8 and set(parts) <= {"t<0.5", "t>0.5"}


def test_dropped_labels():
    cond = torch.arange(10_000) % 10
    dropped = drop_labels(cond, 0.1, step_rng(0, 0))
    share = float((dropped == -1).float().mean())
    assert abs(share - 0.1) < 4 * math.sqrt(0.09 / 10_000)  # n = 10000, four standard errors
    assert drop_labels(None, 0.1, step_rng(0, 0)) is None
