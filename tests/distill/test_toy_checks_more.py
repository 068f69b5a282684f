"""What the methods' cards promise of toys, second part: trajectories, divergences, distances, moving targets, twins, transport, preferences."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.backtracking import Backtracking
from workbench.distill.objectives.cores import Even, ImplicitMatching, ScoreGap, ScoreIdentity
from workbench.distill.objectives.critics import CriticHead
from workbench.distill.objectives.distributional import Distributional
from workbench.distill.objectives.distributional_turns import Made
from workbench.distill.objectives.divergences import Ratio
from workbench.distill.objectives.levels import AnyCount, BackSimulation, KarrasLevels, Told
from workbench.distill.objectives.maps import velocity
from workbench.distill.objectives.marginal_transport import LogitNormal, VelocityMatching
from workbench.distill.objectives.parts import L2, normal
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.objectives.policy import roll
from workbench.distill.objectives.preference import PairwiseOptimisation
from workbench.distill.objectives.rewards import Reward
from workbench.distill.objectives.targets import Eulerian, Point
from workbench.distill.objectives.times import T_MIN, uniform
from workbench.distill.objectives.twinflow import Twin
from workbench.distill.recipes import get
from workbench.networks import new_network
from workbench.paths import linear

F64 = torch.float64
TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.5, 0.4], labels=[0, 1])
STATES, LABELS = torch.randn(256, 2, generator=step_rng(0, 7)), torch.arange(256) % 2


def network(seed=0, two_times=False):
    net = new_network((2,), 2, "flow", "linear", seed, two_times, width=32, depth=2)
    rng = torch.Generator().manual_seed(seed + 9)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=rng)
    return Network(net, "linear", "flow", (2,), 2, two_times)


def gradient(switches, two_times=False):
    """The student's gradient at a turn of its own."""
    bound = switches.bind(TEACHER, network(0, two_times))
    bound.turn(getattr(bound, "warmup", 0))
    x0, cond = TEACHER.sample(64, seed=0, labels=True)
    bound.loss("student", Batch(x0.float(), cond, 64, 0.5), step_rng(0, 0))[0].backward()
    return torch.cat([p.grad.flatten() for p in bound.players["student"].parameters() if p.grad is not None])


# --- TDM (B4)


@pytest.mark.parametrize(("d", "n"), [(4, 100_000), (64, 20_000)])
def test_the_trajectory_critics_weight_is_one_on_average_where_the_predicted_noise_is_fresh(d, n):
    """With d -> infinity; its mean is (1 - (1 - rho^2) / d^2)^(-d / 2), rho = g / sigma_t the noises' correlation, four standard errors."""
    student = Network(new_network((d,), 0, "x0", "linear", 0, width=8, depth=1), "linear", "x0", (d,))
    bound = get("tdm").configured(inputs=4).objective.bind(wb.mixture([[0.0] * d], [1.0]), student)
    bound.networks = [Network(lambda x, t, cond: torch.zeros_like(x), "linear", "x0", (d,))]  # its error is one, if x is
    x, s = torch.ones(n, d), 0.5
    noise, means = torch.randn(n, d, generator=step_rng(0, 5)), []
    for size in (1.0, 2.0):
        state = linear.mix(x, size * noise, torch.full((n,), s, dtype=F64))
        weight, t = bound._denoising(Made(x, None, 0.75, state, s), step_rng(0, 0))
        assert float(t.min()) > s and float(t.max()) < 0.75
        means.append(float(weight.mean()))
        if size == 1:
            apart = weight - (1 - ((1 - t) / (1 - s) * s / t / d) ** 2) ** (-d / 2)
            assert abs(float(apart.mean())) < 4 * float(apart.std()) / n**0.5
            assert abs(float(weight.log().mean())) < 4 * float(weight.log().std()) / n**0.5
    assert means[0] == pytest.approx(1, abs=0.7 / d) and means[1] < 0.8  # too large a noise is less likely than a fresh one


MEAN, WIDTH = 0.7, 0.4


class FlowMap(nn.Module):
    """The average velocity of the flow of N(MEAN, WIDTH^2) between two times."""

    def __init__(self):
        super().__init__()
        self.none = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x, t, cond=None, s=None):
        (m_t, w_t), (m_s, w_s) = (((1 - u) * MEAN, ((1 - u) ** 2 * WIDTH**2 + u**2).sqrt()) for u in (t[:, None], s[:, None]))
        return (x - m_s - w_s / w_t * (x - m_t)) / (t - s)[:, None] + self.none


def ended(student, count, route):
    """The end of a student's chain of so many steps, as it is run in training."""
    chain = Told(BackSimulation().given(count).times, route)
    x, t = chain(student, (64, 1), None, step_rng(0, 0), among=[count - 1])
    return chain.ask(student, x, t, None, 0.0)


def test_a_deterministic_chain_leads_one_noise_to_one_sample_in_any_number_of_steps():
    """Of the exact flow map, in training and in sampling; chains that renoise, or a map of one time, end elsewhere."""
    student = Network(FlowMap(), "linear", "flow", (1,), 0, True)
    chains = [AnyCount().drawn(step_rng(0, k)) for k in range(12)]
    assert {len(chain.times) for chain in chains} == {1, 2, 4} and {(type(chain), chain.route) for chain in chains} == {
        (Told, "ode")
    }
    wanted = MEAN + WIDTH * torch.randn(64, 1, generator=step_rng(0, 0))
    for count in (1, 2, 4):
        assert torch.allclose(ended(student, count, "ode"), wanted, atol=1e-5)
        drawn = wb.sample(student, 64, steps=count, sampler="flow_map", seed=1)
        assert torch.allclose(drawn, wb.sample(student, 64, steps=1, sampler="flow_map", seed=1), atol=1e-5)
    assert not torch.allclose(ended(student, 4, "renoise"), wanted, atol=0.1)
    blind = Network(lambda x, t, cond, s: wb.mixture([[MEAN]], [WIDTH])(x, t), "linear", "x0", (1,), 0, True)
    assert not torch.allclose(ended(blind, 2, "ode"), ended(blind, 4, "ode"), atol=0.02)
    assert math.isclose(float(drawn.mean()), MEAN, abs_tol=4 * WIDTH / 8)


# --- f-distill (C1)


class Config(dict):
    width = 4


class Affine(nn.Module):
    """x0 = shift + scale z: one-step samples of one mode, N(shift, scale^2)."""

    def __init__(self, shift, scale):
        super().__init__()
        self.shift, self.scale = (nn.Parameter(torch.tensor(value, dtype=F64)) for value in (shift, scale))
        self.config = Config()

    def forward(self, x, t, cond=None):
        return self.shift + self.scale * x


@pytest.mark.parametrize("mode", [1.2, -1.2])
def test_the_kl_moves_mass_to_a_missed_mode_more_than_the_js_and_that_more_than_the_reverse_kl(mode):
    """A student of one mode of two, with the exact critic and ratio: its mean's pull to the other mode, and its variance, fall in one order.

    Means and variances over n = 20000 samples at the same levels and noise; the differences are six standard errors and more.
    """
    law, pulls = wb.mixture([[mode]], [0.4]), {}
    teacher = wb.mixture([[1.2], [-1.2]], [0.4, 0.4])
    for name in ("kl", "jeffreys", "js", "reverse-kl", "softened-rkl"):
        switches = Distributional(gan=CriticHead(weight=0.0), ratio=Ratio(name, rate=0.0), weight=Even(), renoise=(0.5, 0.7))
        bound = switches.bind(teacher, Network(Affine(mode, 0.4), "linear", "x0", (1,)))
        bound.networks = [law]
        bound.critic.logits = lambda x, t, cond: teacher.log_density(x, t) - law.log_density(x, t)
        x = law.sample(20_000).requires_grad_()
        loss, _ = bound._match(Made(x, None, 1.0, x, 0.0), Batch(None, None, len(x)), step_rng(0, 0))
        pulls[name] = (
            len(x) * torch.autograd.grad(loss, x)[0][:, 0] * math.copysign(1, mode)
        )  # descent leads to the missed mode
    for more, less in itertools.pairwise(pulls.values()):
        apart = more - less
        assert float(apart.mean()) > 6 * float(apart.std()) / len(apart) ** 0.5 and float(more.var()) > 1.2 * float(less.var())
    assert float(pulls["kl"].mean()) > 1.3 * float(pulls["reverse-kl"].mean()) > 0


# --- distances of scores: SIM (C3), SiD (C4), Diff-Instruct* (C6)


def test_a_wide_pseudo_huber_distance_is_the_squared_one_in_proportion():
    """sqrt(|y|^2 + c^2) - c = |y|^2 / 2 c for large c."""
    shared = {"weight": Even(), "renoise": KarrasLevels()}
    wide, squared, narrow = (gradient(Distributional(core=ImplicitMatching(c), **shared)) for c in (1e3, None, 0.1))
    assert torch.allclose(2e3 * wide, squared, rtol=1e-4, atol=1e-7) and float(squared.norm()) > 1e-3
    assert float(torch.cosine_similarity(narrow, squared, dim=0)) < 0.99


@dataclass(frozen=True)
class Cut(ScoreIdentity):
    """The score identity without the gradient through the two estimates."""

    graph: ClassVar[bool] = False


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_the_score_identity_without_its_graph_is_the_score_gap(alpha):
    gap = gradient(Distributional())
    assert torch.allclose(gradient(Distributional(core=Cut(alpha))), gap, rtol=1e-4, atol=1e-6) and float(gap.norm()) > 1e-2
    whole = gradient(Distributional(core=ScoreIdentity(alpha)))
    assert float(torch.cosine_similarity(whole, gap, dim=0)) < 0.99


def test_a_reward_of_no_weight_is_score_implicit_matching_bit_for_bit():
    star = lambda weight, **more: gradient(get("di-star").configured(reward=Reward(weight=weight), **more).objective)  # noqa: E731
    for options in ({}, {"guidance": 7.5}):
        sim = gradient(get("sim").configured(**options).objective)
        assert torch.equal(star(0.0, **options), sim) and not torch.allclose(star(1.0, **options), sim, rtol=0.1)


def test_the_kl_variant_of_diff_instruct_star_without_reward_is_guided_diff_instruct():
    host = get("diff-instruct").configured(guidance=7.5).objective
    star = get("di-star").configured(reward=Reward(weight=0.0), core=ScoreGap(), guidance=7.5, renoise=host.renoise).objective
    assert torch.equal(gradient(star), gradient(host))
    assert not torch.allclose(gradient(host), gradient(get("diff-instruct").objective), rtol=0.1)


# --- DisBack (D3)


def test_the_gap_is_small_where_the_way_back_begins_and_rises_at_every_switch():
    """The critic has gone the way from the teacher to the first student; then nobody moves, and the targets are walked through."""
    bound = Backtracking(targets=3, degrade=150, share=0.6).bind(network(3), network(4))
    optimizer = torch.optim.Adam(bound.critic.parameters(), lr=3e-3)
    for step in range(bound.warmup):
        assert bound.turn(step) == ("critic",)
        optimizer.zero_grad()
        bound.loss("critic", Batch(None, None, 128, 0.0), step_rng(0, step))[0].backward()
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / bound.warmup)
        optimizer.step()
        bound.after(0.0)
    bound.turn(bound.warmup)
    found = {}
    for progress in (0.2, 0.35, 0.37, 0.51, 0.53, 0.7, 1.0):  # the student's share begins at 0.2: switches at 0.36 and 0.52
        _, parts = bound.loss("student", Batch(None, None, 512, progress), step_rng(0, 1000))
        found.setdefault(int(parts["target"]), set()).add(float(parts["gap"]))
    assert float(bound.frozen["begin"].at) == 0.2 and list(found) == [2, 1, 0]
    gaps = [value for values in found.values() for value in values]
    assert len(gaps) == 3 and gaps == sorted(gaps) and gaps[0] < 0.2 * gaps[2] and gaps[1] > 2 * gaps[0]
    host = Backtracking(targets=0).bind(network(3), network(4))
    host.networks = bound.networks
    assert (
        float(host.loss("student", Batch(None, None, 512, 0.5), step_rng(0, 1000))[1]["gap"]) == gaps[2]
    )  # the teacher itself


# --- TwinFlow (D6)


class Twins(nn.Module):
    """An any-step network whose branches are frozen: velocities of the teacher at s = t and of another law at s = -t; only u(z, 1, 0) moves."""

    def __init__(self, real, fake):
        super().__init__()
        self.branches = (real, fake)
        self.shift, self.scale = (nn.Parameter(torch.tensor(value, dtype=F64)) for value in (0.2, 0.6))
        self.twin = nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x, t, cond=None, s=None):
        if bool((s == 0).all()):
            return x - (self.shift + self.scale * x)
        twin = bool((s < 0).all())
        return velocity(self.branches[int(twin)], x, t, cond) + (self.twin if twin else 0.0)


def test_a_twin_beside_a_frozen_teacher_is_one_step_matching_of_velocities():
    """s_real - s_fake = (1 - t) / t (v_fake - v_real): the score gap of the x0 estimates with the weight 1 / t."""
    real, fake = wb.mixture([[1.2], [-1.2]], [0.4, 0.4]), wb.mixture([[0.2]], [0.6])
    found = []
    for weight, clip in ((0.0, None), (1.0, None), (0.0, 0.1)):
        net = Twins(real, fake)
        switches = Pointwise(two_times=True, extras=(Twin(weight=weight, rectify=0.5, clip=clip, share=1.0),))
        term = switches.bind(real, Network(net, "linear", "flow", (1,), 0, True)).extras[0].term
        point, batch = Point(torch.zeros(512, 1), torch.ones(512), torch.zeros(512), None), Batch(None, None, 512)
        value, _ = term(point, None, batch, step_rng(0, 0))
        moved = torch.autograd.grad(value, [net.shift, net.scale, net.twin], allow_unused=True)
        found.append(torch.stack(moved[:2]))
        assert (weight == 0) == (moved[2] is None or not moved[2].any())
    rng = step_rng(0, 0)
    x = net.shift + net.scale * normal((512, 1), rng)
    uniform(512, rng), normal(x.shape, rng)  # those of the twin's own regression
    t = uniform(512, rng).clamp(T_MIN, 1 - T_MIN)
    x_t = linear.mix(x.detach(), normal(x.shape, rng), t)
    loss = ScoreGap()(x, real(x_t, t), fake(x_t, t), 1 / t)
    wanted = torch.stack(torch.autograd.grad(loss, [net.shift, net.scale]))  # rectify times 2, of the square, is 1
    assert torch.allclose(found[0], wanted, rtol=1e-4) and float(wanted.abs().min()) > 0.02
    assert torch.equal(found[0], found[1]) and not torch.allclose(found[2], wanted, rtol=0.1)


# --- MDT-dist (D7)


@pytest.mark.parametrize("two_times", [False, True])
def test_velocity_matching_alone_is_meanflow_of_the_teacher_to_the_end_zero(two_times):
    shared = {"times": LogitNormal(), "metric": L2(), "compare": "velocity", "two_times": two_times}
    alone = get("mdt-dist").configured(extras=(), two_times=two_times).objective
    meanflow = get("meanflow").configured(target=Eulerian("teacher"), **shared).objective
    found, wanted = gradient(alone, two_times), gradient(meanflow, two_times)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.norm()))
    for other in (Eulerian("data"), VelocityMatching(normalise=True)):
        assert not torch.allclose(gradient(Pointwise(target=other, **shared), two_times), wanted, rtol=0.1)
    whole = gradient(get("mdt-dist").configured(two_times=two_times).objective, two_times)
    assert not torch.allclose(whole, wanted, rtol=0.1)


# --- PSO (F2)


def test_pso_is_flat_for_a_small_beta():
    """Away from its start: the loss is log 2 and the gradient goes to zero as beta does."""
    student = network()
    gradients, losses = [], []
    for beta in (1e-4, 1e-3, 10.0):
        one = PairwiseOptimisation(reward=lambda x, cond: x[:, 0], beta=beta, clip=0.9).bind(network(), student)
        steps = roll(student, one.times, LABELS[:16], 16, step_rng(0, 0))
        with torch.no_grad():
            for parameter in one.reference.net.parameters():
                parameter += 0.01
        loss, parts = one.preferred(steps, torch.arange(8), torch.arange(8, 16))
        assert float(parts["moved"]) > 1e-2 and float(parts["clipped"]) < 1
        losses.append(float(loss.detach()))
        student.net.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in student.net.parameters() if p.grad is not None]))
    assert losses[:2] == pytest.approx([math.log(2)] * 2, abs=1e-3) and abs(losses[2] - math.log(2)) > 1e-2
    assert float(gradients[0].norm()) < 1e-3 * float(gradients[2].norm())
    assert torch.allclose(10 * gradients[0], gradients[1], rtol=1e-2, atol=1e-3 * float(gradients[1].norm()))
