"""What dispersion, self-mixed guidance and FreeFlow's critic do on a Gaussian; other methods are in test_cards."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.distill import distill
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.extras import Dispersive
from workbench.distill.objectives.maps import average_velocity
from workbench.distill.objectives.targets import Eulerian, Point, SelfMixed
from workbench.distill.recipes import get
from workbench.networks import new_network

MEAN, WIDTH = 0.7, 0.4
F64 = torch.float64


def gaussian(**more):
    return wb.mixture([[MEAN]], [WIDTH], **more)


def normals(n, d=1, seed=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


# --- dispersion of features (F3)


class Held(nn.Module):
    """A network whose inner features are its weights."""

    def __init__(self, features):
        super().__init__()
        self.held = nn.Parameter(features.clone())

    def features(self, x, t, cond=None, s=None):
        return self.held, None


def dispersed(features, **switches):
    """The term of the recipe on these features, and its gradient."""
    student = Network(Held(features), "linear", "flow", (1,), 0, True)
    objective = get("meanflow-dispersive").configured(extras=(Dispersive(**switches),)).objective
    t = torch.full((len(features),), 0.5, dtype=F64)
    point = Point(torch.zeros(len(features), 1, dtype=features.dtype), t, 0 * t, None)
    value, _ = objective.bind(gaussian(), student).extras[0].term(point, None, None, None)
    return value.detach(), torch.autograd.grad(value, student.net.held)[0]


def test_the_dispersive_term_is_the_intended_formula():
    """weight log mean_{i != j} exp(-|h_i - h_j|^2 / (tau width)), written out pair by pair."""
    h = normals(7, 5).requires_grad_()
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    by_hand = 0.3 * torch.stack([(-(h[i] - h[j]).square().sum() / (0.8 * 5)).exp() for i, j in pairs]).mean().log()
    value, gradient = dispersed(h.detach(), weight=0.3, tau=0.8)
    assert torch.allclose(value, by_hand) and torch.allclose(gradient, torch.autograd.grad(by_hand, h)[0], atol=1e-12)


@pytest.mark.parametrize("n", [2, 6])
def test_pushing_two_points_apart_lowers_the_dispersive_term(n):
    """Along an axis in which the others do not differ, so that neither comes nearer to one of them."""
    h, axis = torch.cat([torch.zeros(n, 1, dtype=F64), normals(n, 3)], 1), torch.zeros(n, 4, dtype=F64)
    h[1], axis[0, 0], axis[1, 0] = h[0], -1.0, 1.0
    values = [float(dispersed(h + apart * axis)[0]) for apart in (0.0, 0.1, 0.3, 1.0, 3.0)]
    assert all(b < a for a, b in itertools.pairwise(values))
    assert float((dispersed(h + 0.1 * axis)[1] * axis).sum()) < 0


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("n", [2, 8, 64])
def test_equal_features_have_no_dispersion_and_no_gradient(n, unit):
    value, gradient = dispersed(normals(1, 16).expand(n, 16), unit=unit)
    assert abs(float(value)) < 1e-14 and float(gradient.norm()) < 1e-14


def test_nearly_equal_features_keep_the_gradient_of_the_formula():
    """4 weight / (tau width n (n - 1)) sum_j (h_j - h_i) to first order: the released code's is 350 times smaller (DM1's card)."""
    n, width = 64, 16
    h = normals(1, width) + 1e-3 * normals(n, width, seed=6)
    first = 4 * 0.5 / (0.5 * width * n * (n - 1)) * n * (h.mean(0) - h)
    for features, tolerance in ((h, 1e-5), (h.float(), 1e-2)):
        _, gradient = dispersed(features)
        assert float((gradient.double() - first).norm()) < tolerance * float(first.norm())


@pytest.mark.parametrize("unit", [False, True])
def test_dispersion_of_no_weight_is_meanflow_bit_for_bit(unit):
    x0, gradients = gaussian().sample(64).float(), []
    plain = get("meanflow").configured(metric=get("meanflow-dispersive").objective.metric)
    for recipe in (plain, *(get("meanflow-dispersive").configured(extras=(Dispersive(w, unit=unit),)) for w in (0.0, 0.5))):
        net = new_network((1,), 0, "flow", "linear", 3, True, width=16, depth=2)
        for parameter in (net.head.weight, *(one.weight for one in net.modulation)):
            nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
        bound = recipe.objective.bind(gaussian(), Network(net, "linear", "flow", (1,), 0, True))
        loss, _ = bound.loss("student", Batch(x0, None, 64, 0.5), step_rng(0, 0))
        loss.backward()
        gradients.append([loss.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters())])
    same, other = ([torch.equal(a, b) for a, b in zip(gradients[0], one, strict=True)] for one in gradients[1:])
    assert all(same) and not all(other)


# --- guidance by mixing with the student's own velocity (F4)


def exact_average(x, t, cond=None, s=None):
    """u(x, t, s) of the Gaussian's flow map, also at s = t."""
    t, s = t[:, None], s[:, None]
    size, end = (((1 - time).square() * WIDTH**2 + time.square()).sqrt() for time in (t, s))
    return -MEAN + (t + s - WIDTH**2 * (2 - t - s)) / (size * (size + end)) * (x - (1 - t) * MEAN)


MIXING = pytest.mark.parametrize("rule", [Eulerian("data"), SelfMixed()], ids=lambda rule: type(rule).__name__)


def mixed(rule, w, net, p):
    """The target of MeanFlow under guidance w for a teacher of one class, whose null answer is that of the class."""
    bound = get("meanflow").configured(target=rule, guidance=w).objective.bind(gaussian(labels=[0]), net)
    return bound.switches.target(bound.teacher, net, p)


def at_one_state(n, s):
    """n draws of the data and noise that lead to x = 0.9 at t = 0.6."""
    t, x = torch.full((n,), 0.6, dtype=F64), torch.full((n, 1), 0.9, dtype=F64)
    deviation = WIDTH * 0.6 / math.sqrt(0.16 * WIDTH**2 + 0.36)
    x0 = gaussian()(x, t) + deviation * normals(n)
    return Point(x, t, torch.full_like(t, s), torch.zeros(n, dtype=torch.long), x0, t, (x - 0.4 * x0) / 0.6)


@MIXING
def test_a_scale_of_one_removes_the_mix(rule):
    net, p = Network(lambda x, t, cond, s: torch.sin(x) + s[:, None], "linear", "flow", (1,), 1, True), at_one_state(64, 0.2)
    plain = Eulerian("data")(None, net, p)
    assert torch.equal(mixed(rule, 1.0, net, p), plain) and torch.equal(mixed(rule, None, net, p), plain)
    assert not torch.allclose(mixed(rule, 2.0, net, p), plain)


@MIXING
@pytest.mark.parametrize("s", [0.6, 0.2])
def test_mixing_moves_no_mean_at_the_optimum(rule, s):
    """E over the data of the guided target is the exact map, at any w (n = 40000, five standard errors)."""
    net, p = Network(exact_average, "linear", "flow", (1,), 1, True), at_one_state(40_000, s)
    exact = net(p.x[:1], p.t[:1], p.cond[:1], s=p.s[:1])
    plain = mixed(rule, None, net, p)
    for w in (2.0, 4.0):
        made = mixed(rule, w, net, p)
        assert abs(float(made.mean() - exact)) < 5 * float(made.std()) / 200
        assert abs(float((made - plain).mean())) < 5 * float((made - plain).std()) / 200


@MIXING
def test_mixing_multiplies_the_pull_by_the_scale(rule):
    """V_w - u = w (V - u) at s = t where the null answer is the student's own: the same fixed point, w times as stiff."""
    net, p = Network(lambda x, t, cond, s: torch.sin(x) + s[:, None], "linear", "flow", (1,), 1, True), at_one_state(64, 0.6)
    mine = p.x - 0.6 * average_velocity(net, p.x, p.t, p.s, p.cond)
    assert torch.allclose(mixed(rule, 3.0, net, p) - mine, 3 * (mixed(rule, None, net, p) - mine), atol=1e-9)


# --- the critic of FreeFlow (G2)


class Affine(nn.Module):
    """x0 = slope eps + offset: one-step samples N(offset, slope^2)."""

    def __init__(self, slope, offset):
        super().__init__()
        self.slope, self.offset = (nn.Parameter(torch.tensor(value, dtype=F64)) for value in (slope, offset))

    def forward(self, x, t, cond=None, s=None):
        return self.slope * x + self.offset


def corrected(student, n=4096, pull=1.0, seed=0):
    """The correction of a student whose critic is the exact velocity of its law N(offset, slope^2), its gap, and its gradient there."""
    bound = get("freeflow").configured(share=1.0).objective.bind(gaussian(), Network(student, "linear", "x0", (1,), 0, True))
    correction = bound.extras[0]
    correction.critic = wb.mixture([[float(student.offset.detach())]], [float(student.slope.detach())])
    correction.pull = torch.tensor(pull)
    value, parts = correction.term(None, None, Batch(None, None, n, 0.5), step_rng(seed, 0))
    return value.detach(), parts["gap"], torch.stack(torch.autograd.grad(value, [student.offset, student.slope]))


def test_the_correction_rests_exactly_at_the_teachers_law():
    value, gap, gradient = corrected(Affine(WIDTH, MEAN))
    assert float(value) == float(gap) == 0 and not gradient.any()


LAWS = [(slope, offset) for slope in (0.2, WIDTH, 0.8) for offset in (0.3, MEAN, 1.1) if (slope, offset) != (WIDTH, MEAN)]


@pytest.mark.parametrize(("slope", "offset"), LAWS)
def test_the_correction_moves_mean_and_width_to_the_teachers(slope, offset):
    """It is zero for no other law, and descent lowers what is too large and leaves what is right (n = 40000, six standard errors)."""
    _, gap, gradient = corrected(Affine(slope, offset), 40_000)
    assert float(gap) > 0.05
    for found, value, exact, least in zip(gradient.tolist(), (offset, slope), (MEAN, WIDTH), (0.5, 0.03), strict=True):
        assert found * math.copysign(1, value - exact) > least if value != exact else abs(found) < 0.03


@pytest.mark.parametrize("pull", [0.3, 1.0])
def test_the_correction_is_as_strong_as_the_prediction(pull):
    """Of two widths alike the gap has one sign everywhere, so that its mean is the pull itself."""
    for offset in (0.3, 1.1):
        _, _, (mean, _) = corrected(Affine(WIDTH, offset), pull=pull)
        assert float(mean) == pytest.approx(math.copysign(pull, offset - MEAN), rel=1e-4)


def test_following_the_correction_ends_at_the_teachers_law():
    student = Affine(0.15, -0.4)
    for step in range(80):
        gradient = corrected(student, 512, seed=step)[2]
        with torch.no_grad():
            for parameter, slope in zip((student.offset, student.slope), gradient, strict=True):
                parameter -= 0.05 * (1 - step / 80) * slope
    assert (float(student.offset.detach()), float(student.slope.detach())) == pytest.approx((MEAN, WIDTH), abs=0.02)


def test_freeflow_never_looks_at_data(tmp_path):
    """The losses of both players without data, and the weights of a run whose data are shifted by 5, bit for bit."""
    assert not get("freeflow").objective.needs_data
    net = Network(new_network((1,), 0, "flow", "linear", two_times=True, width=16, depth=1), "linear", "flow", (1,), 0, True)
    bound, x0 = get("freeflow").objective.bind(gaussian(), net), gaussian().sample(32).float()
    for player in ("student", "critic"):
        found = []
        for data in (None, x0, x0 + 5):
            bound.turn(0)
            found.append(bound.loss(player, Batch(data, None, 32, 0.5), step_rng(0, 0))[0].detach())
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2]) and float(found[0]) > 0
    weights = []
    for k, data in enumerate((x0, x0 + 5)):
        *_, last = distill(
            gaussian(), "freeflow", data, run=tmp_path / str(k), steps=3, batch=16, network={"width": 16, "depth": 1}
        )
        weights.append(torch.cat([parameter.flatten() for parameter in last.student.net.parameters()]))
    assert torch.equal(*weights)
