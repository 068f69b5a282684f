"""The four cores against golden gradients in one dimension, where every law is known by quadrature."""

from __future__ import annotations

import pytest
import torch

from workbench.distill.objectives.cores import (
    ExpandedDivergence,
    HuberGap,
    ImplicitMatching,
    PerSampleL1,
    ScoreGap,
    ScoreIdentity,
)
from workbench.distill.objectives.divergences import DIVERGENCES, Levels, Ratio, binned
from workbench.errors import UnknownName, WorkbenchError

ALPHA, SIGMA = 0.6, 0.8
SCALE = ALPHA / SIGMA**2
GRID = torch.linspace(-5.2, 5.2, 131, dtype=torch.float64)
MASS = torch.exp(-0.5 * GRID**2) / torch.exp(-0.5 * GRID**2).sum()
PAIRS = (MASS[:, None] * MASS[None]).reshape(-1)
N = len(PAIRS)
MEANS, WIDTHS, WEIGHTS = (torch.tensor(v, dtype=torch.float64) for v in ([-1.0, 1.2], [0.4, 0.5], [0.45, 0.55]))


def data(x_t):
    """Posterior mean and density of the two-mode data."""
    variance = ALPHA**2 * WIDTHS**2 + SIGMA**2
    joint = WEIGHTS.log() - 0.5 * variance.log() - 0.5 * (x_t - ALPHA * MEANS) ** 2 / variance
    shrunk = MEANS + ALPHA * WIDTHS**2 / variance * (x_t - ALPHA * MEANS)
    return (joint.softmax(1) * shrunk).sum(1, keepdim=True), joint.logsumexp(1).exp()


class Student:
    """G(z) = a + b z + c z^2 on a grid of z, and its exact critic, whose parameters are held."""

    def __init__(self):
        self.parameters = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.2, 0.7, 0.12)]
        a, b, c = self.parameters
        self.atoms = a + b * GRID + c * GRID**2
        self.x = self.atoms[:, None].expand(-1, 131).reshape(-1, 1)
        self.x_t = ALPHA * self.x + SIGMA * GRID.repeat(131)[:, None]

    def fake(self, x_t):
        atoms = self.atoms.detach()
        joint = MASS.log() - 0.5 * ((x_t - ALPHA * atoms) / SIGMA) ** 2
        density = joint.logsumexp(1).exp() / SIGMA
        return (joint.softmax(1) * atoms).sum(1, keepdim=True), density

    def gradient(self, loss):
        return [float(g) for g in torch.autograd.grad(loss, self.parameters)]


WEIGHT = PAIRS * N  # the cores take means over samples; these make them expectations


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("reverse-kl", (0.033633, -0.088179, 0.032882)),
        ("kl", (0.060317, -0.113902, 0.066612)),
        ("js", (0.021098, -0.048219, 0.021502)),
        ("softened-rkl", (0.012534, -0.039960, 0.011381)),
        ("hellinger", (0.022220, -0.049298, 0.023070)),
        ("jeffreys", (0.093949, -0.202080, 0.099495)),
        ("neyman", (0.041139, -0.151160, 0.036974)),
        ("pearson", (0.246814, -0.350167, 0.309268)),
    ],
)
def test_the_weighted_score_gap_is_the_gradient_of_the_divergence(name, golden):
    s = Student()
    x_t = s.x_t.detach()
    (real, q), (fake, p) = data(x_t), s.fake(x_t)
    h = DIVERGENCES[name].h(q / p)
    loss = ScoreGap()(s.x, real, fake, ALPHA**2 / SIGMA**2 * h * WEIGHT)
    assert s.gradient(loss) == pytest.approx(golden, abs=5e-5)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_slopes_are_derivatives(name):
    r = torch.linspace(0.2, 4, 9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(DIVERGENCES[name].h(r).sum() + 0 * r.sum(), r)
    assert torch.allclose(DIVERGENCES[name].slope(r), slope)


@pytest.mark.parametrize(
    ("alpha", "golden"),
    [(0.5, (0.05738, -0.38787, 0.14299)), (1.0, (0.12740, -0.42923, 0.21170)), (1.2, (0.15541, -0.44577, 0.23918))],
)
def test_score_identity(alpha, golden):
    s = Student()
    loss = ScoreIdentity(alpha)(s.x, data(s.x_t)[0], s.fake(s.x_t)[0], 2 * SCALE**2 * WEIGHT)
    assert s.gradient(loss) == pytest.approx(golden, abs=5e-5)


@pytest.mark.parametrize(("c", "golden"), [(0.1, (0.03359, -0.46145, 0.07796)), (1.0, (0.04800, -0.18886, 0.08035))])
def test_implicit_matching_with_a_pseudo_huber_distance(c, golden):
    s = Student()
    loss = ImplicitMatching(c / SCALE)(s.x, data(s.x_t)[0], s.fake(s.x_t)[0], SCALE * WEIGHT)
    assert s.gradient(loss) == pytest.approx(golden, abs=5e-5)


def test_implicit_matching_of_the_squared_distance_is_the_score_identity_of_alpha_one():
    s = Student()
    real, fake = data(s.x_t)[0], s.fake(s.x_t)[0]
    mine = s.gradient(ImplicitMatching(None)(s.x, real, fake, WEIGHT))
    s = Student()
    theirs = s.gradient(ScoreIdentity(1.0)(s.x, data(s.x_t)[0], s.fake(s.x_t)[0], 2 * WEIGHT))
    assert mine == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "golden"),
    [("kl", (0.20476, -0.55406, 0.35982)), ("js", (0.04828, -0.21646, 0.09789)), ("pearson", (1.3414, -2.1373, 2.2264))],
)
def test_expanded_divergence(name, golden):
    s = Student()
    (real, q), (fake, p) = data(s.x_t), s.fake(s.x_t)
    r = (q / p).detach()
    scale = torch.full((N,), SCALE, dtype=torch.float64)
    loss = ExpandedDivergence()(s.x, real, fake, 2 * SCALE**2 * WEIGHT, r, s.x_t, scale, name)
    assert s.gradient(loss) == pytest.approx(golden, rel=1e-3, abs=5e-5)


def test_expanded_divergence_as_released_drops_what_the_ratio_moves():
    s = Student()
    (real, q), (fake, p) = data(s.x_t), s.fake(s.x_t)
    arguments = ((q / p).detach(), s.x_t, torch.full((N,), SCALE, dtype=torch.float64), "kl")
    loss = ExpandedDivergence(exact=False)(s.x, real, fake, 2 * SCALE**2 * WEIGHT, *arguments)
    assert s.gradient(loss)[1] == pytest.approx(-0.461, abs=1e-3)  # the true slope is -0.554


@pytest.mark.parametrize(("exact", "alpha"), [(True, 0.5), (False, 1.0)])
def test_expanded_reverse_kl_is_a_score_identity(exact, alpha):
    s = Student()
    scale = torch.full((N,), SCALE, dtype=torch.float64)
    one = torch.ones(N, dtype=torch.float64)
    loss = ExpandedDivergence(exact)(s.x, data(s.x_t)[0], s.fake(s.x_t)[0], WEIGHT, one, s.x_t, scale, "reverse-kl")
    mine = s.gradient(loss)
    s = Student()
    assert mine == pytest.approx(s.gradient(ScoreIdentity(alpha)(s.x, data(s.x_t)[0], s.fake(s.x_t)[0], WEIGHT)), rel=1e-9)


@pytest.mark.parametrize("core", [ScoreGap(), HuberGap(), ScoreIdentity(), ImplicitMatching(), ImplicitMatching(None)])
def test_no_gradient_where_the_critic_agrees_with_the_teacher(core):
    s = Student()
    real = data(s.x_t)[0]
    real = real if core.graph else real.detach()
    assert s.gradient(core(s.x, real, real.clone(), WEIGHT)) == pytest.approx([0.0] * 3, abs=1e-12)


def test_huber_gap_pulls_by_the_sign_of_a_large_gap():
    x = torch.zeros(4, 2, requires_grad=True)
    loss = HuberGap(1e-6)(x, torch.ones(4, 2), torch.zeros(4, 2), torch.full((4,), 8.0))
    (g,) = torch.autograd.grad(loss, x)
    assert torch.allclose(g, -torch.ones(4, 2))  # 8 samples x dimensions in the mean, weight 8


def test_per_sample_weight_is_detached_and_floored():
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    weight = PerSampleL1(0.1)(x, torch.zeros(2, 2))
    assert weight.tolist() == pytest.approx([2.0, 10.0]) and not weight.requires_grad


def test_ratio_is_clipped_and_of_mean_one_in_every_level():
    logits, t = torch.tensor([0.0, 50.0, -50.0, 0.0]), torch.tensor([0.05, 0.05, 0.95, 0.95])
    assert Ratio(rate=0.0)(logits, t, Levels()).tolist() == pytest.approx([1.0, 20.0, 0.1, 1.0])
    levels = Levels()
    r = Ratio(rate=1.0, low=0.01, high=100.0, clip=2.0)(logits, t, levels)
    assert float(r[:2].mean()) == pytest.approx(1.0) and float(r[2:].mean()) == pytest.approx(1.0)
    assert levels.mean[[1, 5]].tolist() == [1.0, 1.0]
    weights = Ratio("kl").weights(torch.tensor([1.0, 3.0]))
    assert weights.tolist() == [0.5, 1.5]
    assert Ratio("reverse-kl").weights(torch.rand(5)).tolist() == [1.0] * 5


def test_ratio_refuses_what_it_does_not_know():
    with pytest.raises(UnknownName, match="js"):
        Ratio("jss")
    with pytest.raises(WorkbenchError, match="0 < low < high"):
        Ratio(low=3.0, high=2.0)


def test_binned_means():
    found = binned("loss", torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.01, 0.09, 1.0]))
    assert len(found) == 10 and float(found["loss/0"]) == 2.0 and float(found["loss/9"]) == 5.0
    assert bool(torch.isnan(found["loss/4"]))
