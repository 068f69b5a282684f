"""TwinFlow, MDT-dist, NitroFusion and rCM: their identities, what they reduce to, and what they keep."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import paths
from workbench.denoiser import Network
from workbench.distill.distill import distill
from workbench.distill.loop import Batch, step_rng
from workbench.distill.measuring import Measure
from workbench.distill.objectives.consistency_matching import ConsistencyMatching, RandomSimulation, Shifted
from workbench.distill.objectives.maps import average_velocity, velocity
from workbench.distill.objectives.marginal_transport import VelocityDistillation, VelocityMatching
from workbench.distill.objectives.nitrofusion import NitroFusion, Pool
from workbench.distill.objectives.parts import L2
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.objectives.targets import Point
from workbench.distill.objectives.twinflow import AnyStep, Recursive, Twin
from workbench.distill.recipes import get
from workbench.errors import WorkbenchError
from workbench.networks import new_network

TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2], labels=[0, 1])
MEAN, WIDTH, F64 = 0.7, 0.4, torch.float64


@pytest.fixture(scope="module", autouse=True)
def unmeasured():
    """Without the distance to the law, which takes longer than the training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Measure, "_law", lambda self, model: {})
        yield


class Gaussian(nn.Module):
    """The average velocity of the flow of N(MEAN, WIDTH^2); where the end's sign is turned, the velocity at t itself."""

    def __init__(self, gain=0.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=F64))

    def forward(self, x, t, cond=None, s=None):
        t = t.double()
        s = torch.zeros_like(t) if s is None else s.double()
        s = torch.where(s < 0, t, s)
        near = t - s < 1e-9
        law = lambda time: ((1 - time) * MEAN, ((1 - time) ** 2 * WIDTH**2 + time**2).sqrt())  # noqa: E731
        (m_t, w_t), (m_s, w_s) = law(t), law(torch.where(near, t, s))
        column = lambda value: paths.per_sample(value, x)  # noqa: E731
        mapped = (x - column(m_s) - column(w_s / w_t) * (x - column(m_t))) / column(torch.where(near, 1.0, t - s))
        slope = (t - (1 - t) * WIDTH**2) / w_t**2
        at_once = -MEAN + column(slope) * (x - column(m_t))
        return torch.where(column(near.double()) > 0, at_once, mapped) + self.gain * torch.sin(3 * x)


def exact(gain=0.0, two_times=True):
    return Network(Gaussian(gain), "linear", "flow", (2,), 0, two_times)


def network(two_times=False, frequency=16.0):
    net = new_network((2,), 2, "flow", "linear", 0, two_times, width=32, depth=2, frequency=frequency)
    rng = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=rng)
    return Network(net, "linear", "flow", (2,), 2, two_times)


def batch(n=32, progress=0.0):
    x0, cond = TEACHER.sample(n, seed=0, labels=True)
    return Batch(x0.float(), cond, n, progress)


def moved(switches, two_times=False):
    bound = switches.bind(TEACHER, network(two_times))
    for step in range(1000):
        if "student" in bound.turn(step):
            break
    loss, _ = bound.loss("student", batch(), step_rng(0, 0))
    loss.backward()
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bound.players["student"].parameters()]
    )


def points(n=64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    t = 0.05 + 0.9 * torch.rand(n, generator=rng, dtype=F64)
    s = t * torch.rand(n, generator=rng, dtype=F64)
    return torch.randn(n, 2, generator=rng, dtype=F64), t, s, rng


# --- TwinFlow


def test_the_gap_of_two_velocities_is_that_of_the_scores():
    one, other = wb.mixture([[0.5]], [0.3]), wb.mixture([[-0.2]], [0.6])
    x, t = torch.randn(16, 1, dtype=F64), torch.linspace(0.1, 0.9, 16, dtype=F64)
    score = lambda law: ((1 - t)[:, None] * law(x, t) - x) / t[:, None] ** 2  # noqa: E731
    apart = velocity(other, x, t, None) - velocity(one, x, t, None)
    assert torch.allclose(score(one) - score(other), ((1 - t) / t)[:, None] * apart)


def test_the_recursive_target_is_exact_for_an_exact_map_to_first_order_of_its_gap():
    teacher, (x, t, s, _) = wb.mixture([[MEAN, MEAN]], [WIDTH]), points()
    errors = []
    for gap in (0.01, 0.001):
        rule = Recursive(gap=gap, source="teacher", clip=None, hops=1)
        found = rule(teacher, exact(), Point(x, t, s, None))
        u = (x - found) / t[:, None]
        far = (t - s) > 0.02
        errors.append(float((u - average_velocity(exact(), x, t, s, None))[far].detach().abs().max()))
    assert errors[0] < 0.1 and errors[1] < 0.2 * errors[0]


def test_without_its_twin_twinflow_is_its_base():
    base = Pointwise(times=AnyStep(), target=Recursive(), metric=L2(), compare="velocity", two_times=True)
    silent = dataclasses.replace(base, extras=(Twin(weight=0.0, rectify=0.0),))
    assert torch.equal(moved(base, True), moved(silent, True))
    assert not torch.equal(moved(base, True), moved(dataclasses.replace(base, extras=(Twin(),)), True))


def test_samples_of_the_data_are_not_rectified():
    switches = Pointwise(times=AnyStep(), target=Recursive(), two_times=True, extras=(Twin(weight=0.0),))
    bound = switches.bind(wb.mixture([[MEAN, MEAN]], [WIDTH]), exact())
    x, _, _, rng = points()
    assert float(bound.extras[0].difference(x, None, rng)[0].abs().max()) == 0
    net = network(True)
    other = switches.bind(TEACHER, net).extras[0]
    assert float(other.difference(x.float(), None, step_rng(0, 0))[0].abs().max()) > 0


def test_the_twin_needs_two_times():
    with pytest.raises(WorkbenchError, match="two_times=True"):
        Pointwise(extras=(Twin(),)).bind(TEACHER, network())
    with pytest.raises(WorkbenchError, match="add up to more than 1"):
        AnyStep(0.7, 0.7)


# --- MDT-dist


def test_the_average_velocity_of_a_gaussian_satisfies_velocity_matching():
    teacher, (x, t, _, _) = wb.mixture([[MEAN, MEAN]], [WIDTH]), points()
    student = exact(two_times=False)
    point = Point(x, t, torch.zeros_like(t), None)
    u, wanted = VelocityMatching().velocities(teacher, student, point)
    assert torch.allclose(u, wanted, atol=1e-9)
    off, wrong = VelocityMatching().velocities(teacher, exact(0.1, False), point)
    assert float((off - wrong).abs().max()) > 0.05
    assert not torch.allclose(u, VelocityMatching(normalise=True).velocities(teacher, student, point)[1], atol=1e-3)


def test_velocity_distillation_leaves_an_exact_student_alone():
    switches = Pointwise(target=VelocityMatching(), extras=(VelocityDistillation(),))
    teacher, (x, _, _, rng) = wb.mixture([[MEAN, MEAN]], [WIDTH]), points()
    apart = switches.bind(teacher, exact(two_times=False)).extras[0].apart(x, None, 0.0, rng)[0]
    assert float(apart.abs().max()) < 1e-9
    with pytest.raises(WorkbenchError, match="use it as the target"):
        Pointwise(extras=(VelocityDistillation(),)).bind(TEACHER, network())


# --- NitroFusion


def test_heads_are_made_anew_and_their_moments_go_too():
    bound = NitroFusion(pairs=None, renewed=1.0).bind(TEACHER, network())
    optimizer = torch.optim.AdamW(bound.pool.parameters(), lr=1e-3)
    bound.watch({"discriminator": optimizer})
    bound.turn(0)
    bound.loss("student", batch(), step_rng(0, 0))
    bound.loss("discriminator", batch(), step_rng(0, 0))[0].backward()
    optimizer.step()
    asked = [head for head in bound.pool.heads if head[0].weight in optimizer.state]
    before = asked[0][0].weight.detach().clone()
    assert len(asked) == 16  # one of each of four kinds in four groups
    assert bound.renew(step_rng(0, 1)) == list(range(64))
    assert not any(p in optimizer.state for head in asked for p in head.parameters())
    assert not torch.equal(before, asked[0][0].weight)


def test_a_hundredth_of_the_heads_is_made_anew():
    pool = Pool(new_network((2,), 2, "flow", "linear", width=8, depth=1), False, 256, hidden=2)
    counts = [len(pool.renew(0.01, step_rng(0, step))) for step in range(400)]
    assert abs(sum(counts) / (400 * 256) - 0.01) < 4 * (0.01 / (400 * 256)) ** 0.5
    assert counts == [len(pool.renew(0.01, step_rng(0, step))) for step in range(400)]


def test_the_student_gets_no_gradient_from_the_heads_turn_and_all_kinds_are_asked():
    bound = NitroFusion(pairs=None).bind(TEACHER, network())
    bound.turn(0)
    bound.loss("student", batch(), step_rng(0, 0))
    bound.loss("discriminator", batch(), step_rng(0, 0))[0].backward()
    assert all(p.grad is None for p in bound.players["student"].parameters())
    chosen = bound.choose(step_rng(0, 0))
    assert torch.equal(chosen[:, 0] % 16, torch.arange(16)) and chosen.shape == (16, 1)
    with pytest.raises(WorkbenchError, match="multiple of 16"):
        NitroFusion(heads=40)


@pytest.mark.parametrize("name", ["nitrofusion", "twinflow"])
def test_a_broken_run_ends_where_a_whole_one_does(tmp_path, name):
    options = {"steps": 4, "batch": 16} | ({"count": 64, "renewed": 0.3} if name == "nitrofusion" else {})
    whole = list(distill(TEACHER, name, run=tmp_path / "whole", **options))[-1].student
    for progress in distill(TEACHER, name, run=tmp_path / "broken", **options):
        if progress.step:
            break
    broken = list(distill(TEACHER, name, run=tmp_path / "broken", **options))[-1].student
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), broken.net.parameters(), strict=True))


# --- rCM


def test_rcm_reduces_to_its_parts_bit_for_bit():
    whole = ConsistencyMatching()
    share = {"dropout": whole.dropout}
    assert torch.equal(
        moved(dataclasses.replace(whole, matching_scale=0.0)), moved(dataclasses.replace(whole.consistency, **share))
    )
    assert torch.equal(
        moved(dataclasses.replace(whole, consistency_scale=0.0, matching_scale=1.0)),
        moved(dataclasses.replace(whole.matching, **share)),
    )
    scm = get("scm").objective
    assert whole.consistency == scm
    with pytest.raises(WorkbenchError, match="not both 0"):
        ConsistencyMatching(consistency_scale=0.0, matching_scale=0.0)


def test_random_simulation_falls_and_is_noisy():
    inputs, seen = RandomSimulation(), []
    for step in range(60):
        _, t = inputs(network(), (4, 2), None, step_rng(0, step))
        seen.append(t)
    assert all(0 < t <= 1 for t in seen) and 5 < seen.count(1.0) < 30 and len(set(seen)) > 20
    drawn = Shifted(5.0)(4000, step_rng(0, 0), None, 0.0)
    assert abs(float((drawn > 5 / 6).double().mean()) - 0.5) < 4 * 0.5 / 4000**0.5  # 5 u / (1 + 4 u) at u = 1/2
