"""Terms beside a pointwise objective: an adversary, a mixed target, moment matching, feature distance."""

from __future__ import annotations

import copy

import pytest
import torch

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.distill import distill
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.adversarial import Adversarial
from workbench.distill.objectives.maps import jump
from workbench.distill.objectives.mixing import Mix, Mixing
from workbench.distill.objectives.moments import Moments, mmd
from workbench.distill.objectives.parts import L2, FeatureDistance
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.recipes import get
from workbench.errors import WorkbenchError
from workbench.networks import new_network

TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2], labels=[0, 1])


def network(seed=0, classes=2):
    return Network(new_network((2,), classes, "flow", "linear", seed, width=32, depth=2), "linear", "flow", (2,), classes)


def batch(n=64, seed=0):
    x0, cond = TEACHER.sample(n, seed=seed, labels=True)
    return Batch(x0.float(), cond, n)


def gradients(objective, player, *, seed=0):
    module = objective.players[player]
    module.zero_grad()
    loss, parts = objective.loss(player, batch(), step_rng(0, seed))
    loss.backward()
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in module.parameters()]), parts


def perturbed(student):
    with torch.no_grad():
        for parameter in student.net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return student


def test_an_adversary_of_no_weight_leaves_the_students_gradient_alone():
    plain = Pointwise(metric=L2()).bind(TEACHER, perturbed(network()))
    judged = Pointwise(metric=L2(), gan=Adversarial(1e-12)).bind(TEACHER, perturbed(network()))
    assert Pointwise(gan=0).gan is None and Pointwise(gan=0.5).gan == Adversarial(0.5)
    assert torch.allclose(gradients(plain, "student")[0], gradients(judged, "student")[0], atol=1e-7)


def test_the_adversary_trains_heads_alone_where_the_teacher_is_a_network():
    teacher = network(1)
    teacher.net.requires_grad_(False)
    objective = Pointwise(gan=0.5).bind(teacher, perturbed(network()))
    judge = objective.players["discriminator"]
    names = [name for name, parameter in judge.named_parameters() if parameter.requires_grad]
    assert names and all(name.startswith("head.") for name in names)
    assert set(judge.state_dict()) == set(names)
    with_term, parts = gradients(objective, "student")
    assert torch.isfinite(with_term).all() and "gan" in parts
    assert all(parameter.grad is None for parameter in judge.parameters())  # the student's turn leaves it alone
    student = [parameter.grad.clone() for parameter in objective.student.net.parameters() if parameter.grad is not None]
    found, _ = gradients(objective, "discriminator", seed=1)
    assert found.abs().sum() > 0
    after = [parameter.grad for parameter in objective.student.net.parameters() if parameter.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(student, after, strict=True))


def test_a_trained_judge_tells_data_from_a_shifted_law():
    """The optimal discriminator of two laws that do not touch is right about all samples."""
    objective = Pointwise(gan=Adversarial(0.5, loss="logistic", mean=-3.0, misaligned=False)).bind(TEACHER, network())
    extra = objective.extras[0]
    optimizer = torch.optim.Adam(extra.judge.parameters(), lr=3e-3)
    for step in range(150):
        b = batch(seed=step)
        extra.drawn = (b.x0 + 3.0, b.x0, b.cond)
        loss, parts = extra.loss("discriminator", b, step_rng(0, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert parts["accuracy"] > 0.98 and loss < 0.2


def test_an_adversary_needs_data_and_a_sensible_weight():
    assert Pointwise(gan=0.5).needs_data and get("tbcm").configured(gan=0.1).objective.needs_data
    assert not get("tbcm").objective.needs_data
    with pytest.raises(WorkbenchError, match="weight from 0"):
        Pointwise(gan="much")
    with pytest.raises(WorkbenchError, match="hinge"):
        Adversarial(loss="hing")
    with pytest.raises(WorkbenchError, match="share from 0 to 1"):
        Adversarial(top=2)


def test_with_a_squared_error_a_mixed_target_is_only_a_smaller_rate():
    student = perturbed(network())
    plain = gradients(Pointwise(metric=L2()).bind(TEACHER, copy.deepcopy(student)), "student")[0]
    mixed = gradients(Pointwise(metric=L2(), mixing=0.25).bind(TEACHER, copy.deepcopy(student)), "student")[0]
    assert torch.allclose(mixed, 0.25 * plain, atol=1e-6)


def test_the_share_of_the_target_grows_with_the_run_and_faster_while_the_loss_falls():
    steady, falling = Mix(Mixing(rate=0.05)), Mix(Mixing(rate=0.05))
    for step in range(50):
        steady.follow(torch.tensor(1.0), 0.0)
        falling.follow(torch.tensor(0.5**step), 0.0)
    assert 0.4 < steady.share < falling.share < 1
    steady.follow(torch.tensor(1.0), 1.0)
    assert steady.share == 1
    x, y = torch.zeros(2, 2), torch.ones(2, 2)
    assert torch.equal(steady(x, y), y)


def test_the_unbiased_discrepancy_of_one_law_is_zero_on_average_and_positive_of_two():
    rng = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(64, 2, generator=rng, dtype=torch.float64)  # noqa: E731
    for kernel in ("polynomial", "rbf"):
        same = torch.stack([mmd(draw(), draw(), kernel=kernel) for _ in range(200)])
        assert abs(same.mean()) < 4 * same.std() / 200**0.5
        assert mmd(draw(), draw() + 1.0, kernel=kernel) > 10 * same.std()


def test_the_polynomial_discrepancy_matches_its_expansion():
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    k = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    by_hand = sum(k(x[i], x[j]) + k(y[i], y[j]) - 2 * k(x[i], y[j]) for i, j in pairs) / 20
    assert torch.allclose(mmd(x, y), by_hand)


def test_moment_matching_trains_the_sampler_that_the_card_names():
    objective = Moments(evaluations=3, features="samples").bind(TEACHER, network())
    rng = step_rng(0, 0)
    x = objective.rollout(None, 16, rng)
    rng = step_rng(0, 0)
    state = torch.randn((16, 2), generator=rng)
    plan = objective.switches.sampling.plan(objective.student.path)
    for stage in plan.stages:
        t, s = (torch.full((16,), time, dtype=torch.float64) for time in (stage.t, stage.to))
        state = jump(objective.student.path, state, objective.student(state, t, None), t, s)
    assert torch.allclose(x, state) and plan.evaluations == 3
    got = list(distill(TEACHER, "mmd", steps=3, batch=16, evaluations=2))[-1].student
    assert got.card["sampling"]["sampler"] == "ddim" and got.card["sampling"]["steps"] == 2


def test_one_step_of_a_gaussian_gets_its_variance_from_moment_matching():
    """A one-step sampler of a plain flow collapses to the mean; moments repair it (the card's own check)."""
    teacher = wb.mixture([[0.7, 0.7]], [0.4])
    student = list(distill(teacher, "mmd", steps=150, batch=128, evaluations=1, lr=3e-3, seed=1))[-1].student
    x = wb.sample(student, 4000)
    assert (x.mean(0) - 0.7).abs().max() < 0.1 and (x.std(0) - 0.4).abs().max() < 0.12


@pytest.mark.parametrize("wrong", [{"kernel": "cubic"}, {"features": "inception"}, {"evaluations": 0}, {"guidance": 2.0}])
def test_what_moment_matching_refuses(wrong):
    with pytest.raises(WorkbenchError, match=str(next(iter(wrong.values())))):
        Moments(**wrong)


def test_feature_distance_is_zero_at_the_target_and_names_what_it_cannot_see():
    x = torch.rand(3, 1, 8, 8) * 2 - 1
    assert FeatureDistance()(x, x).abs().max() == 0 and FeatureDistance()(x, -x).shape == (3,)
    x.requires_grad_(True)
    FeatureDistance()(x, torch.zeros_like(x)).sum().backward()
    assert x.grad.abs().sum() > 0
    with pytest.raises(WorkbenchError, match="no bundled classifier"):
        FeatureDistance()(torch.zeros(3, 2), torch.zeros(3, 2))


def test_continuous_consistency_with_an_adversary_of_no_weight_is_scm():
    student = perturbed(network())
    options = {"target": get("scm").objective.target, "metric": L2(), "compare": "trig"}
    plain = gradients(Pointwise(**options).bind(TEACHER, copy.deepcopy(student)), "student")[0]
    judged = gradients(Pointwise(**options, gan=Adversarial(1e-12)).bind(TEACHER, copy.deepcopy(student)), "student")[0]
    assert torch.allclose(plain, judged, atol=1e-6)


def test_what_is_beside_the_objective_resumes_bit_for_bit(tmp_path):
    def weights(progress):
        return torch.cat([p.flatten() for p in progress.student.net.parameters()])

    options = {"teacher": TEACHER, "recipe": "scott", "gan": 0.1, "mixing": 0.4, "steps": 6, "batch": 16}
    whole = weights(list(distill(**options))[-1])
    run = distill(**options, run=tmp_path / "run")
    next(run)
    run.close()
    assert torch.equal(weights(list(distill(**options, run=tmp_path / "run"))[-1]), whole)
