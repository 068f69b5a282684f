"""What the methods' cards promise of toys, first part: fixed points, detached norms, and guidance, levels and critics that reduce to others."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.special import ndtr

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives import distributional_turns
from workbench.distill.objectives.cores import (
    Even,
    ExpandedDivergence,
    HuberGap,
    ImplicitMatching,
    NoiseVariance,
    PerSampleL1,
    ScoreGap,
    ScoreIdentity,
)
from workbench.distill.objectives.critics import CriticHead, ShiftedTeacher
from workbench.distill.objectives.denoising import denoising_error
from workbench.distill.objectives.distributional import Distributional, Guidance
from workbench.distill.objectives.distributional_turns import Made
from workbench.distill.objectives.divergences import DIVERGENCES, Ratio
from workbench.distill.objectives.levels import BackSimulation, PhaseEnd
from workbench.distill.objectives.parts import normal
from workbench.distill.recipes import get
from workbench.networks import new_network
from workbench.paths import linear

F64 = torch.float64
TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.5, 0.4], labels=[0, 1])
CRITIC = wb.mixture([[0.6, 0.2], [-0.9, 0.3]], [0.4, 0.6], labels=[0, 1])  # the exact score of another law


def network(seed=0, kind="flow", shape=(2,), classes=2):
    net = new_network(shape, classes, kind, "linear", seed, width=32, depth=2)
    rng = torch.Generator().manual_seed(seed + 9)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=rng)
    return Network(net, "linear", kind, shape, classes)


def gradient(switches, seed=0, teacher=TEACHER):
    """The student's gradient at a turn of its own."""
    bound = switches.bind(teacher, network())
    bound.turn(bound.warmup)
    x0, cond = TEACHER.sample(64, seed=0, labels=True)
    bound.loss("student", Batch(x0.float(), cond, 64), step_rng(0, seed))[0].backward()
    return torch.cat([p.grad.flatten() for p in bound.players["student"].parameters() if p.grad is not None])


STATES, LABELS = torch.randn(256, 2, generator=step_rng(0, 7), dtype=F64), torch.arange(256) % 2


def pull(switches):
    """dL/dx (n, d) times the size of the batch at fixed samples x, where the critic is exact; and the levels and states drawn."""
    bound = switches.bind(TEACHER, network())
    if bound.critic is not None:
        bound.networks = [CRITIC]
    x = STATES.clone().requires_grad_()
    loss, _ = bound._match(Made(x, LABELS, 1.0, x, 0.0), Batch(None, None, len(x)), step_rng(0, 0))
    rng = step_rng(0, 0)
    t = 0.02 + 0.96 * torch.rand(len(x), generator=rng).double()
    return x.numel() * torch.autograd.grad(loss, x)[0], t, linear.mix(STATES, normal(x.shape, rng), t)


# --- 0.6: one level and one dimension, where every law is known by quadrature

ALPHA, SIGMA = 0.6, 0.8
SCALE = ALPHA / SIGMA**2
MEANS, WIDTHS, WEIGHTS = (torch.tensor(v, dtype=F64) for v in ([-1.0, 1.2], [0.4, 0.5], [0.45, 0.55]))


def data(x_t):
    """Posterior mean (n, 1) and density (n,) of two modes."""
    variance = ALPHA**2 * WIDTHS**2 + SIGMA**2
    joint = WEIGHTS.log() - 0.5 * variance.log() - 0.5 * (x_t - ALPHA * MEANS) ** 2 / variance
    shrunk = MEANS + ALPHA * WIDTHS**2 / variance * (x_t - ALPHA * MEANS)
    return (joint.softmax(1) * shrunk).sum(1, keepdim=True), joint.logsumexp(1).exp()


def grid(count):
    points = torch.linspace(-5.2, 5.2, count, dtype=F64)
    return points, torch.softmax(-0.5 * points**2, 0)


def quantiles(z):
    """The increasing map that turns a standard normal number into a sample of the data."""
    low, high = torch.full_like(z, -8.0), torch.full_like(z, 8.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = (WEIGHTS * ndtr((middle[:, None] - MEANS) / WIDTHS)).sum(1) < ndtr(z)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


class Pushed:
    """A generator's atoms, a sum of parameters times functions of z, on grids of z and of the noise; its critic is exact, and held."""

    def __init__(self, values, functions, z, noise):
        (_, self.mass), (eps, other) = z, noise
        self.parameters = [torch.tensor(value, dtype=F64, requires_grad=True) for value in values]
        atoms = sum(p * f for p, f in zip(self.parameters, functions, strict=True))
        self.atoms, count = atoms.detach(), len(eps)
        self.x = atoms[:, None].expand(-1, count).reshape(-1, 1)
        self.x_t = ALPHA * self.x + SIGMA * eps.repeat(len(atoms))[:, None]
        self.weight = len(self.x) * (self.mass[:, None] * other).reshape(-1)  # makes expectations of the cores' means

    def fake(self, x_t):
        joint = self.mass.log() - 0.5 * ((x_t - ALPHA * self.atoms) / SIGMA) ** 2
        return (joint.softmax(1) * self.atoms).sum(1, keepdim=True), joint.logsumexp(1).exp() / SIGMA

    def gradient(self, core, divergence=None):
        x_t = self.x_t if core.graph else self.x_t.detach()
        (real, q), (fake, p) = data(x_t), self.fake(x_t)
        r, more = (q / p).detach(), ()
        if divergence:
            more = (r, x_t, torch.full_like(r, SCALE), divergence)
        loss = core(self.x, real, fake, self.weight, *more)
        return torch.stack(torch.autograd.grad(loss, self.parameters))


@pytest.mark.parametrize(("held", "golden"), [(False, (0.03359, -0.46145, 0.07796)), (True, (0.03359, -0.73105, 0.17562))])
def test_a_norm_that_is_detached_gives_another_gradient(held, golden):
    """The pseudo-Huber distance is the squared one with the weight 1 / (2 sqrt(|y|^2 + c^2)), and that weight has a gradient."""
    z = grid(131)
    student = Pushed((0.2, 0.7, 0.12), (torch.ones_like(z[0]), z[0], z[0] ** 2), z, z)
    real, fake = data(student.x_t)[0], student.fake(student.x_t)[0]
    size = ((fake - real).square().sum(1) + (0.1 / SCALE) ** 2).sqrt()
    size = size.detach() if held else size
    loss = ImplicitMatching(None)(student.x, real, fake, SCALE * student.weight / (2 * size))
    found = torch.stack(torch.autograd.grad(loss, student.parameters, retain_graph=True))
    assert found.tolist() == pytest.approx(golden, abs=5e-5)
    whole = ImplicitMatching(0.1 / SCALE)(student.x, real, fake, SCALE * student.weight)
    whole = torch.stack(torch.autograd.grad(whole, student.parameters))
    assert torch.allclose(whole, found) != held  # the core's own norm is not detached


def test_the_weight_of_dmd_has_no_gradient_and_one_that_had_would_turn_the_pull():
    """Of the score gap -w delta alone is left, w = 1 / n1(x - D); of the identity the same term with another w is another direction."""
    x = STATES.clone().requires_grad_()
    real, fake = (law(STATES, 0.5, LABELS) for law in (TEACHER, CRITIC))
    (found,) = torch.autograd.grad(ScoreGap()(x, real, fake, PerSampleL1()(x, real)), x)
    n1 = (STATES - real).abs().mean(1, keepdim=True)
    assert torch.allclose(x.numel() * found, (fake - real) / n1)
    through = 1 / (x - real).abs().mean(1)
    (turned,) = torch.autograd.grad(ScoreIdentity()(x, real, fake, through), x)
    (straight,) = torch.autograd.grad(ScoreIdentity()(x, real, fake, PerSampleL1()(x, real)), x)
    assert torch.cosine_similarity(turned, straight, dim=1).min() < 0.9


CORES = [
    (ScoreGap(), None), (HuberGap(0.5), None), (ScoreIdentity(0.5), None), (ScoreIdentity(1.2), None), (ImplicitMatching(), None),
    (ImplicitMatching(None), None), *((ExpandedDivergence(exact), name) for name in DIVERGENCES for exact in (True, False)),
]  # fmt: skip


@pytest.mark.parametrize(("core", "divergence"), CORES)
def test_a_generator_of_the_data_has_no_expected_gradient(core, divergence):
    """x = shift + scale Q(z), Q the data's quantiles: a quadrature critic of its samples against the exact law."""
    z, noise = grid(201), grid(61)
    functions = torch.ones_like(z[0]), quantiles(z[0])
    right, moved, narrow = (
        Pushed(v, functions, z, noise).gradient(core, divergence) for v in ((0.0, 1.0), (0.15, 1.0), (0.0, 0.85))
    )
    assert float(moved[0]) > 0 > float(narrow[1])  # descent moves it back and widens it
    assert abs(float(right[0])) < 0.01 * float(moved[0]) and abs(float(right[1])) < 0.01 * abs(float(narrow[1]))


class Config(dict):
    width = 4


class Transport(nn.Module):
    """x0 = shift + scale Q(z) as a network; its law is known."""

    def __init__(self, shift=0.0, scale=1.0):
        super().__init__()
        self.shift, self.scale = (nn.Parameter(torch.tensor(value, dtype=F64)) for value in (shift, scale))
        self.config = Config()

    def forward(self, x, t, cond=None):
        return self.shift + self.scale * quantiles(x[:, 0].detach())[:, None]

    def law(self):
        shift, scale = float(self.shift.detach()), float(self.scale.detach())
        return wb.mixture(scale * MEANS[:, None] + shift, scale * WIDTHS, WEIGHTS)


def distilled(student, core, divergence, n=4096):
    """The gradient in (shift, scale) of the objective with the exact critic, and the exact ratio where one is asked for."""
    gan = {"gan": CriticHead(weight=0.0), "ratio": Ratio(divergence, rate=0.0)} if divergence else {}
    law, teacher = student.law(), wb.mixture(MEANS[:, None], WIDTHS, WEIGHTS)
    bound = Distributional(core=core, weight=Even(), renoise=(0.3, 0.9), **gan).bind(
        teacher, Network(student, "linear", "x0", (1,))
    )
    bound.networks = [law]
    bound.critic.logits = lambda x, t, cond: teacher.log_density(x, t) - law.log_density(x, t)
    loss, parts = bound.loss("student", Batch(None, None, n), step_rng(0, 0))
    return torch.stack(torch.autograd.grad(loss, [student.shift, student.scale])), float(parts["gap"])


@pytest.mark.parametrize(("core", "divergence"), [*CORES[:6], (ExpandedDivergence(), "kl"), (ExpandedDivergence(False), "js")])
def test_a_student_network_of_the_data_is_left_alone_and_another_is_moved_to_it(core, divergence):
    found, gap = distilled(Transport(), core, divergence)
    assert gap < 1e-6 and float(found.abs().max()) < 1e-6
    moved, narrow = (distilled(Transport(*v), core, divergence)[0] for v in ((0.3, 1.0), (0.0, 0.8)))
    assert float(moved[0]) > 0.01 and float(narrow[1]) < -0.01


# --- guidance: SwiftBrush (A2), decoupled DMD (B3), ASD (D1)


def test_swiftbrush_with_an_unguided_critic_is_dmd_up_to_its_weight():
    """sample by sample: alpha sigma in place of 1 / n1(x - D^k), on the same guided gap (DMD's regression aside)."""
    k = Guidance(3.0)
    brush, t, x_t = pull(get("swiftbrush").configured(guidance=k, same=False).objective)
    dmd, *_ = pull(get("dmd").configured(guidance=k).objective)
    with_label, without = TEACHER(x_t, t, LABELS), TEACHER(x_t, t, torch.full_like(LABELS, -1))
    real = without + 3.0 * (with_label - without)
    n1 = (STATES - real).abs().mean(1)
    assert torch.allclose(dmd * n1[:, None], CRITIC(x_t, t, LABELS) - real, atol=1e-9) and float(n1.min()) > 1e-3
    assert torch.allclose(brush, (t * (1 - t) * n1)[:, None] * dmd, atol=1e-9)
    own, *_ = pull(get("swiftbrush").configured(guidance=3.0).objective)  # its critic is guided as well
    assert not torch.allclose(own, brush, atol=0.1)


@pytest.fixture
def same_noise(monkeypatch):
    """Every level and every noise of a step is the same."""
    rng = step_rng(0, 3)
    t, eps = 0.1 + 0.8 * torch.rand(len(STATES), generator=rng).double(), torch.randn(STATES.shape, generator=rng)
    monkeypatch.setattr(distributional_turns, "levels", lambda *_: t)
    monkeypatch.setattr(distributional_turns, "normal", lambda *_: eps)


@pytest.mark.parametrize("weight", [Even(), PerSampleL1(), NoiseVariance()])
def test_decoupled_guidance_at_one_level_is_guided_dmd(weight, request):
    coupled, decoupled = (Distributional(weight=weight, guidance=Guidance(4.0, decoupled=d)) for d in (False, True))
    assert not torch.allclose(pull(coupled)[0], pull(decoupled)[0], atol=0.1)
    request.getfixturevalue("same_noise")
    assert torch.allclose(pull(coupled)[0], pull(decoupled)[0], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(pull(coupled)[0], pull(Distributional(weight=weight))[0], atol=0.1)


def test_asd_without_a_shift_is_decoupled_guidance_without_matching(same_noise):
    shared = {"weight": NoiseVariance(), "dropout": 0.0}
    still = Distributional(critic=ShiftedTeacher(eta=0.0), guidance=Guidance(4.0), **shared)
    part = Distributional(guidance=Guidance(4.0, decoupled=True, matching=0.0), **shared)
    assert torch.allclose(pull(still)[0], pull(part)[0], rtol=1e-9, atol=1e-9) and float(pull(part)[0].norm()) > 1
    assert not torch.allclose(pull(still)[0], pull(Distributional(guidance=Guidance(4.0), **shared))[0], atol=0.1)


@pytest.mark.parametrize("k", [1.0, 2.5, 7.5])
def test_asd_without_a_shift_is_the_gap_of_the_two_noise_predictions(k):
    """dL/dx = (k - 1) sigma^2 (eps(c) - eps(null))."""
    row = get("asd").configured(eta=0.0, guidance=k, renoise=(0.02, 0.98))
    found, t, x_t = pull(row.objective)
    with_label, without = (
        (x_t - (1 - t)[:, None] * TEACHER(x_t, t, c)) / t[:, None] for c in (LABELS, torch.full_like(LABELS, -1))
    )
    assert torch.allclose(found, (k - 1) * t[:, None] ** 2 * (with_label - without), atol=1e-9)
    assert float((with_label - without).norm()) > 1


# --- DMD2 (A4)


def test_dmd2_without_its_discriminator_is_diff_instruct_with_the_weight_of_dmd():
    plain = get("diff-instruct").configured(weight=PerSampleL1(), renoise=(0.02, 0.98)).objective
    assert torch.equal(gradient(get("dmd2").configured(gan=0).objective), gradient(plain))
    assert torch.equal(gradient(Distributional(gan=CriticHead(weight=0.0))), gradient(plain))
    tiny, whole = (gradient(Distributional(gan=CriticHead(weight=w))) for w in (1e-6, 1.0))
    assert torch.allclose(tiny, gradient(plain), atol=1e-6) and not torch.allclose(whole, gradient(plain), atol=1e-2)
    assert not torch.equal(gradient(get("diff-instruct").configured(renoise=(0.02, 0.98)).objective), gradient(plain))


def test_the_first_step_of_a_chain_of_two_is_the_one_step_student():
    """Bit for bit, where the step that is drawn is the first; the second has been led there by the student."""
    chain, one, drawn = BackSimulation((1.0, 0.5)), BackSimulation(), {}
    for seed in range(12):
        t = chain(network(), (64, 2), LABELS[:64], step_rng(0, seed))[1]
        drawn.setdefault(t, seed)
    first, second = drawn[1.0], drawn[0.5]
    for core in (ScoreGap(), ScoreIdentity()):
        of_chain, of_one = (
            [gradient(Distributional(core=core, inputs=inputs, dropout=0.0), seed) for seed in (first, second)]
            for inputs in (chain, one)
        )
        assert torch.equal(of_chain[0], of_one[0]) and not torch.allclose(of_chain[1], of_one[1], rtol=0.1)


# --- Phased DMD (B2)


def test_the_phased_critics_target_at_the_clean_end_is_the_usual_one():
    bound = Distributional(inputs=BackSimulation((1.0, 0.5), "ode"), anchor=PhaseEnd(2)).bind(TEACHER, network())
    x = STATES.float()
    error, t = bound._denoising(Made(x, LABELS, 0.5, x, 0.0), step_rng(0, 0))
    rng = step_rng(0, 0)
    again = 0.02 + 0.96 * torch.sigmoid(torch.randn(len(x), generator=rng)).double()
    assert torch.allclose(t, again)
    usual = denoising_error(bound.networks[1], x, torch.randn(x.shape, generator=rng), t, LABELS)
    assert torch.allclose(error, usual, rtol=1e-5)
    near, _ = bound._denoising(
        Made(x, LABELS, 0.5, x, 1e-7), step_rng(0, 0)
    )  # its own formula, of a phase that ends just there
    assert torch.allclose(near, usual, rtol=1e-3, atol=1e-4)
    far, _ = bound._denoising(Made(x, LABELS, 0.5, x, 0.4), step_rng(0, 0))
    assert not torch.allclose(far, usual, rtol=0.1)
