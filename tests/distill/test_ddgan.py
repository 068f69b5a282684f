"""Denoising diffusion GAN: the posterior step, the latent, and the two players."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import paths
from workbench.denoiser import Network
from workbench.distill.distill import distill
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.ddgan import DenoisingGAN, forward, posterior
from workbench.errors import WorkbenchError
from workbench.networks import extended, new_network
from workbench.samplers.run import stage_noise

F64 = torch.float64
TEACHER = wb.mixture([[-1.0, 0.0], [1.0, 0.0]], [0.2, 0.2], labels=[0, 1])
TEACHER_NET = Network(new_network((2,), 2, "flow", "linear"), "linear", "flow", (2,), 2)
POINTS = (torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2)
PATHS = ["linear", "cosine", "vp", "edm", "trig"]


def net(z_dim=4, shape=(2,), **more):
    made = new_network(shape, 2, "flow", "linear", z_dim=z_dim, **more)
    for name, parameter in made.named_parameters():
        if "head" in name or "modulation" in name or "latent" in name:
            nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("path", PATHS)
def test_the_posterior_is_that_of_the_joint_gaussian(path):
    """Given x0, (x_s, x_t) is Gaussian: mean and variance of x_s given x_t by the formula of conditioning."""
    path, t, s = paths.get(path), torch.tensor([0.9, 0.6], dtype=F64), torch.tensor([0.5, 0.2], dtype=F64)
    x0, x_t = torch.randn(2, 3, dtype=F64), torch.randn(2, 3, dtype=F64)
    mean, std = posterior(path, x_t, x0, t, s)
    for i in range(2):
        a_s, b_s, a_t, b_t = path.alpha(s)[i], path.sigma(s)[i], path.alpha(t)[i], path.sigma(t)[i]
        covariance = a_t / a_s * b_s**2  # of x_s and x_t given x0
        assert torch.allclose(mean[i], a_s * x0[i] + covariance / b_t**2 * (x_t[i] - a_t * x0[i]))
        assert float(std[i]) ** 2 == pytest.approx(float(b_s**2 - covariance**2 / b_t**2))


@pytest.mark.parametrize("path", PATHS)
def test_the_posterior_step_is_the_samplers(path):
    """The row of the sampler that the student is run with: the same mean and noise."""
    plan = DenoisingGAN().sampling.plan(path)
    for stage in plan.stages:
        t, s = torch.tensor([stage.t], dtype=F64), torch.tensor([stage.to], dtype=F64)
        x_t, x0 = torch.randn(1, 2, dtype=F64), torch.randn(1, 2, dtype=F64)
        mean, std = posterior(plan.path, x_t, x0, t, s)
        assert stage.kind == "x0" and torch.allclose(mean, stage.x.x * x_t + stage.x.outputs[0] * x0, atol=1e-6)
        assert float(std) == pytest.approx(stage.x.noise, abs=1e-6)
    assert plan.stages[-1].x.noise == 0


def test_forward_steps_keep_the_marginal():
    path, n = paths.get("linear"), 40000
    x0 = torch.full((n, 1), 0.7, dtype=F64)
    noise = torch.randn(2, n, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    for t, s in ((0.75, 0.5), (1.0, 0.75)):
        t, s = torch.full((n,), t, dtype=F64), torch.full((n,), s, dtype=F64)
        x_t = forward(path, path.mix(x0, noise[0], s), noise[1], s, t)
        assert float(x_t.mean()) == pytest.approx(0.7 * (1 - float(t[0])), abs=0.02)
        assert float(x_t.std()) == pytest.approx(float(t[0]), rel=0.02)


class Sign(nn.Module):
    """x0 is one of two points, by the sign of a latent's first number: the exact generator of two points at t = 1."""

    def __init__(self):
        super().__init__()
        self.size = nn.Parameter(torch.ones(()))

    def forward(self, x, t, cond=None, z=None):
        return self.size * torch.sign(z[:, :1]).to(x).expand_as(x) if z is not None else torch.zeros_like(x)


def two_points(z_dim):
    model = Network(Sign(), "linear", "x0", (1,))
    model.z_dim = z_dim
    return model


def test_only_a_latent_reaches_two_points_in_one_step():
    """The law of x0 given noise at t = 1 is both points; without z the answer is their mean, and the variance is 0, not 1."""
    with_z, without = (wb.sample(two_points(k), 2000, steps=1, sampler="ddpm", schedule="uniform") for k in (4, 0))
    assert float(with_z.var()) == pytest.approx(1, abs=0.05) and set(with_z.flatten().tolist()) == {-1.0, 1.0}
    assert float(without.abs().max()) == 0


def test_the_latent_belongs_to_seed_sample_and_step():
    model = two_points(4)
    whole = wb.sample(model, 20, seed=3, steps=1, sampler="ddpm")
    assert torch.equal(whole, wb.sample(model, 20, seed=3, steps=1, sampler="ddpm", batch=7))
    assert not torch.equal(whole, wb.sample(model, 20, seed=4, steps=1, sampler="ddpm"))
    seen = []
    model.net.forward = lambda x, t, cond=None, z=None: seen.append(z) or x
    wb.sample(model, 5, steps=3, sampler="ddpm")
    noise = stage_noise(torch.empty(5, 4), 0, 0)
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], noise)


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_the_output_depends_on_the_latent_and_an_extended_network_starts_as_it_was(shape):
    made, x, t = net(shape=shape), torch.randn(3, *shape), torch.rand(3)
    one, two = torch.randn(2, 3, 4)
    assert not torch.allclose(made(x, t, z=one), made(x, t, z=two), atol=1e-4)
    assert torch.allclose(made(x, t, z=one), made(x, t, z=5 * one), atol=1e-3)  # its length is divided out
    plain = new_network(shape, 2, "flow", "linear")
    for name, parameter in plain.named_parameters():
        if "head" in name or "modulation" in name:
            nn.init.normal_(parameter, std=0.3)
    assert torch.equal(extended(plain, z_dim=4)(x, t, z=one), plain(x, t))
    with pytest.raises(WorkbenchError, match=r"z has shape \(3, 5\), but 3 samples need latents \(3, 4\)"):
        made(x, t, z=torch.zeros(3, 5))
    with pytest.raises(WorkbenchError, match="takes no latent"):
        plain(x, t, z=one)


def bound(**switches):
    student = Network(net(8), "linear", "flow", (2,), 2)
    return DenoisingGAN(z_dim=8, **switches).bind(TEACHER, student)


def batch(n=64):
    x0, labels = TEACHER.sample(n, seed=0, labels=True)
    return Batch(x0.float(), labels, n, 0.5)


def test_each_player_has_its_own_gradient():
    one = bound()
    assert one.turn(0) == ("discriminator", "student") and one.penalised
    loss, parts = one.loss("discriminator", batch(), step_rng(0, 0))
    loss.backward()
    assert "r1" in parts and all(p.grad is None for p in one.student.net.parameters())
    assert any(p.grad is not None for p in one.judge.parameters())
    one.judge.zero_grad()
    one.turn(1)
    parts = one.loss("discriminator", batch(), step_rng(0, 0))[1]
    assert not one.penalised and "accuracy" in parts and "r1" not in parts
    one.loss("student", batch(), step_rng(0, 0))[0].backward()
    assert all(p.grad is not None for name, p in one.student.net.named_parameters() if "latent" in name or "head" in name)


def test_the_discriminator_looks_at_both_states_in_order():
    one = bound()
    x_s, x_t, s, t, cond = one.states(batch(), step_rng(0, 0))
    logits = one.logits(x_s, x_t, t, cond)
    assert logits.shape == (64,) and not torch.allclose(logits, one.logits(x_t, x_s, t, cond), atol=1e-4)
    assert not torch.allclose(logits, one.logits(x_s, x_t.flip(0), t, cond), atol=1e-4)
    assert set(zip(t.tolist(), s.tolist(), strict=True)) == {(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)}


def test_the_penalty_is_half_r1_times_the_squared_slope():
    with_it, without = bound(r1=0.3), bound(r1=0.0)
    without.judge.load_state_dict(with_it.judge.state_dict())
    without.student.net.load_state_dict(with_it.student.net.state_dict())
    values = []
    for one in (with_it, without):
        one.turn(0)
        values.append(one.loss("discriminator", batch(), step_rng(0, 0)))
    assert float((values[0][0] - values[1][0]).detach()) == pytest.approx(0.15 * float(values[0][1]["r1"]), rel=1e-4)


def test_a_student_is_trained_saved_and_run_by_its_own_sampler_alone(tmp_path):
    student = list(distill(TEACHER_NET, "ddgan", POINTS, run=tmp_path, steps=4, batch=16, z_dim=8))[-1].student
    assert student.z_dim == student.card["z_dim"] == 8 and str(student.plan()).startswith("ddpm, 4 uniform steps")
    again = wb.load(tmp_path / "student")
    assert torch.equal(wb.sample(student, 5, 1), wb.sample(again, 5, 1))
    with pytest.raises(WorkbenchError, match="allows the sampler ddpm only"):
        wb.sample(student, 5, sampler="heun")
    images = list(
        distill(Network(net(0, (1, 8, 8)), "linear", "flow", (1, 8, 8), 2), "ddgan", torch.randn(8, 1, 8, 8), steps=2, batch=4)
    )[-1]
    assert images.student.z_dim == 32 and wb.sample(images.student, 2).shape == (2, 1, 8, 8)


def test_training_resumes_bit_for_bit(tmp_path):
    options = {"data": POINTS, "steps": 5, "batch": 16}
    whole = list(distill(TEACHER_NET, "ddgan", run=tmp_path / "whole", **options))[-1].student
    for _ in distill(TEACHER_NET, "ddgan", run=tmp_path / "broken", **options):
        break
    broken = list(distill(TEACHER_NET, "ddgan", run=tmp_path / "broken", **options))[-1].student
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), broken.net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"guidance": 2.0}, "leave it at 1"), ({"r1": -1.0}, "r1 is -1"), ({"z_dim": 0}, "z_dim is 0"), ({"evaluations": 99}, "evaluations is 99")],
)  # fmt: skip
def test_impossible_settings_are_refused(options, said):
    with pytest.raises(WorkbenchError, match=said):
        distill(TEACHER, "ddgan", **options)
