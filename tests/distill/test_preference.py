"""Preferences and rewards: the losses at their starts, whom their gradients favour, and rewards that are none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.distill import distill
from workbench.distill.fit import misfits
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.policy import PolicyGradient, Running, log_policy, roll, times_of
from workbench.distill.objectives.preference import PairwiseOptimisation, PreferenceDistillation, ordered
from workbench.distill.recipes import get
from workbench.errors import WorkbenchError
from workbench.networks import new_network

F64 = torch.float64
SIZE = {"width": 32, "depth": 2}


def first(x, cond):
    """Reward: the first number."""
    return x[:, 0]


def level(x, cond):
    """Reward: the same for all; 0.1 is no binary fraction."""
    return torch.full((len(x),), 0.1)


def made(classes=0, seed=0, spread=0.3):
    net = new_network((2,), classes, "flow", "linear", seed, **SIZE)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nn.init.normal_(net.head.weight, std=spread)
    return Network(net, "linear", "flow", (2,), classes)


def gradient(loss, network):
    network.net.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in network.net.parameters() if p.grad is not None])


def train(recipe, **options):
    return list(distill(**{"teacher": made(), "recipe": recipe, "init": made(), "reward": first, "batch": 32, **options}))[-1]


# ---- the steps of a few-step sampler ------------------------------------------------------------------------------------


def test_trajectories_are_those_of_consistency_sampling():
    student, times = made(), times_of(4, made().path)
    steps = roll(student, times, None, 5, step_rng(0, 0))
    assert times == (1.0, 0.75, 0.5, 0.25, 0.0) and steps.x.shape == steps.to.shape == (15, 2)
    assert steps.t.view(3, 5)[:, 0].tolist() == [1.0, 0.75, 0.5] and steps.s.view(3, 5)[:, 0].tolist() == [0.75, 0.5, 0.25]
    assert torch.equal(steps.x[5:], steps.to[:10]) and torch.equal(steps.final, student(steps.to[10:], 0.25))
    noise = (steps.to[:5] - 0.25 * student(steps.x[:5], 1.0)) / 0.75  # alpha_s f + sigma_s eps
    assert torch.allclose(log_policy(student, steps)[:5], -0.5 * noise.square().mean(1), atol=1e-5)


@pytest.mark.parametrize("objective", [PairwiseOptimisation, PolicyGradient])
def test_one_deterministic_step_leaves_nothing_to_train(objective):
    with pytest.raises(WorkbenchError, match=r"evaluations is 1: a single step is deterministic.*take 2 or more"):
        objective(evaluations=1)


# ---- pso ----------------------------------------------------------------------------------------------------------------


def pso(student, **switches):
    return PairwiseOptimisation(reward=first, **switches).bind(made(), student)


def test_pso_starts_at_log_2_with_the_scores_of_winner_and_loser():
    student = made()
    one = pso(student, beta=8.0)
    steps = roll(student, one.times, None, 12, step_rng(0, 0))
    winners, losers = torch.arange(6), torch.arange(6, 12)
    loss, parts = one.preferred(steps, winners, losers)
    assert (
        float(loss.detach()) == pytest.approx(math.log(2), abs=1e-6) and float(parts["moved"]) == float(parts["clipped"]) == 0
    )
    found = gradient(loss, student)
    likely = log_policy(student, steps).view(-1, 12)
    wanted = gradient(-0.5 * 8.0 * (likely[:, winners] - likely[:, losers]).mean(), student)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6) and float(found.norm()) > 1e-3
    assert all(p.grad is None for p in one.reference.net.parameters())


def test_pso_has_no_gradient_beyond_its_clip():
    student = made()
    one = pso(student)
    steps = roll(student, one.times, None, 12, step_rng(0, 0))
    with torch.no_grad():
        student.net.head.bias += 50
    loss, parts = one.preferred(steps, torch.arange(6), torch.arange(6, 12))
    assert float(parts["clipped"]) == 1 and float(gradient(loss, student).norm()) == 0


def test_the_better_of_a_pair_wins_and_the_first_a_tie():
    winners, losers = ordered(torch.tensor([1.0, 5.0, 2.0, 3.0, 4.0, 2.0]))
    assert winners.tolist() == [3, 1, 2] and losers.tolist() == [0, 4, 5]


def test_pso_offline_starts_at_log_2_and_favours_the_data():
    student = made()
    one = PairwiseOptimisation(offline=True, beta=2.0).bind(made(), student)
    batch = Batch(torch.randn(64, 2) * 0.1 + 3, None, 64)
    loss, _ = one.loss("student", batch, step_rng(0, 0))
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=1e-6)
    optimizer = torch.optim.Adam(student.net.parameters(), lr=3e-3)
    for k in range(30):
        optimizer.zero_grad()
        loss, parts = one.loss("student", batch, step_rng(0, k))
        loss.backward()
        optimizer.step()
    assert float(parts["preferred"]) > 0.9 and float(loss) < 0.5
    with pytest.raises(WorkbenchError, match="the winners are the data: pass data="):
        one.loss("student", Batch(None, None, 8), step_rng(0, 0))


def test_pso_raises_the_reward_and_stays_near_its_start():
    progress = train("pso", steps=60, batch=64, lr=1e-2)
    before, after = (wb.sample(one, 500, steps=4, sampler="consistency")[:, 0].mean() for one in (made(), progress.student))
    assert float(after - before) > 0.01 and progress.losses["student/clipped"] < 1
    assert progress.student.card["trained"]["objective"]["reward"] == "first"


def test_one_of_several_rewards_is_drawn_at_each_step():
    seen = set()

    def note(name):
        def reward(x, cond):
            seen.add(name)
            return x[:, 0]

        return reward

    list(distill(made(), "pso", init=made(), reward=(note("a"), note("b")), steps=8, batch=8))
    assert seen == {"a", "b"}


# ---- rlcm ---------------------------------------------------------------------------------------------------------------


def test_a_constant_reward_gives_no_gradient():
    for classes in (0, 3):
        student = made(classes)
        one = PolicyGradient(reward=level, dropout=0.5).bind(made(classes), student)
        loss, _ = one.loss("student", Batch(None, None, 64), step_rng(0, 0))
        assert float(loss) == 0 and float(gradient(loss, student).norm()) == 0


def test_the_ratio_is_1_at_the_first_pass_and_the_gradient_that_of_the_policy():
    student = made()
    one = PolicyGradient(reward=first, inner=2).bind(made(), student)
    assert one.turn(0) == ("student", "student")
    loss, parts = one.loss("student", Batch(None, None, 64), step_rng(0, 0))
    steps, _, advantage, told = one.drawn
    assert float(parts["moved"]) == 0 and torch.allclose(told, steps.final[:, 0].double())
    found = gradient(loss, student)
    wanted = gradient(-(advantage.float().repeat(3) * log_policy(student, steps)).mean(), student)
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        student.net.head.bias += 0.1
    again, parts = one.loss("student", Batch(None, None, 64), step_rng(0, 1))
    assert one.drawn[0] is steps and float(parts["moved"]) > 0  # the same trajectories
    change = log_policy(student, steps) - one.drawn[1]
    a, rho = advantage.float().repeat(3), change.exp()
    assert float(again) == pytest.approx(float(torch.maximum(-a * rho, -a * rho.clamp(1 - 1e-4, 1 + 1e-4)).mean()), abs=1e-6)


def test_rebel_regresses_the_difference_of_rewards():
    student = made(2)
    one = PolicyGradient(reward=first, rule="rebel").bind(made(2), student)
    loss, _ = one.loss("student", Batch(None, None, 32), step_rng(0, 0))
    steps, _, advantage, _ = one.drawn
    high, low = advantage.chunk(2)
    assert torch.equal(steps.labels[:16], steps.labels[16:])
    assert float(loss) == pytest.approx(float((high - low).square().mean()), rel=1e-5)


def test_rewards_are_standardised_within_their_class_once_there_are_enough():
    memory = Running(2, size=6, least=4)
    r, group = torch.tensor([1.0, 2.0, 3.0, 10.0], dtype=F64), torch.tensor([0, 0, 0, 1])
    assert torch.allclose(memory(r, group), (r - 4) / r.std(correction=0))  # too few: those of the batch
    a = memory(torch.tensor([4.0, 5.0, 6.0, 7.0], dtype=F64), torch.zeros(4, dtype=torch.long))
    held = torch.arange(2.0, 8.0, dtype=F64)  # the last six of the class
    assert memory.values[0].tolist() == held.tolist() and memory.count.tolist() == [6, 1]
    assert torch.allclose(a, (torch.arange(4.0, 8.0, dtype=F64) - 4.5) / held.std(correction=0))


def test_rlcm_moves_the_samples_to_where_the_reward_is():
    def near(x, cond):
        return -(x - torch.tensor([1.0, 0.0])).norm(dim=1)

    student = train("rlcm", reward=near, steps=80, batch=64, lr=2e-2).student
    before, after = (wb.sample(one, 500, steps=4, sampler="consistency") for one in (made(), student))
    assert float(near(after, None).mean()) > 0.9 * float(near(before, None).mean())


# ---- distillation with preferences --------------------------------------------------------------------------------------


def test_equal_samples_and_critics_pull_nowhere_and_others_do():
    student, teacher = made(), made(seed=1)
    one = PreferenceDistillation(reward=first, loser=1.0).bind(teacher, student)
    one.winner.net.load_state_dict(made(seed=2).net.state_dict())
    one.loser.net.load_state_dict(made(seed=2).net.state_dict())
    x = student(torch.randn(32, 2), 1.0)
    assert float(gradient(one.gaps(x, x, None, step_rng(0, 0))[0], student).norm()) < 1e-6
    x, other = student(torch.randn(2, 32, 2).flatten(0, 1), 1.0).chunk(2)
    assert float(gradient(one.gaps(x, other, None, step_rng(0, 0))[0], student).norm()) > 1e-3


def test_gradients_are_the_gaps_with_the_losers_turned():
    student, teacher = made(), made(seed=1)
    one = PreferenceDistillation(reward=first, loser=0.3).bind(teacher, student)
    one.winner.net.load_state_dict(made(seed=2).net.state_dict())
    one.loser.net.load_state_dict(made(seed=3).net.state_dict())
    x_w, x_l = torch.randn(2, 16, 2).unbind()
    x_w.requires_grad_(), x_l.requires_grad_()
    one.gaps(x_w, x_l, None, step_rng(0, 0))[0].backward()
    rng = step_rng(0, 0)
    t, eps = 0.02 + 0.96 * torch.rand(16, generator=rng).double(), torch.randn(16, 2, generator=rng)
    with torch.no_grad():
        states = [one.path.mix(x, eps, t) for x in (x_w, x_l)]
        toward, away = (teacher(x, t) - critic(x, t) for x, critic in zip(states, (one.winner, one.loser), strict=True))
    cap = (toward.norm(dim=1) / away.norm(dim=1)).clamp_max(1)[:, None]  # the push is never longer than the pull
    assert torch.allclose(32 * x_w.grad, -toward, atol=1e-5) and torch.allclose(32 * x_l.grad, 0.3 * cap * away, atol=1e-5)
    assert 0 < float((cap < 1).float().mean()) < 1


def test_without_the_losers_it_is_score_matching_of_the_better():
    student, teacher = made(), made(seed=1)
    one = PreferenceDistillation(reward=first, loser=0.0).bind(teacher, student)
    one.winner.net.load_state_dict(made(seed=2).net.state_dict())
    x_w, x_l, _, told = one.pair(Batch(None, None, 32), step_rng(0, 0))
    assert bool((x_w[:, 0] >= x_l[:, 0]).all()) and told.shape == (32,)
    assert torch.autograd.grad(one.gaps(x_w, x_l, None, step_rng(0, 1))[0], x_l, allow_unused=True)[0].abs().max() == 0


def test_every_player_of_it_has_its_own_gradient():
    student = made()
    one = PreferenceDistillation(reward=first, evaluations=2).bind(made(seed=1), student)
    assert one.turn(0) == ("student", "winner", "loser")
    one.loss("student", Batch(None, None, 16), step_rng(0, 0))[0].backward()
    assert all(p.grad is None for net in (one.winner.net, one.loser.net) for p in net.parameters())
    one.loss("winner", Batch(None, None, 16), step_rng(0, 0))[0].backward()
    assert all(p.grad is None for p in one.loser.net.parameters()) and one.winner.net.head.weight.grad is not None


# ---- rewards that are none ----------------------------------------------------------------------------------------------


def column(x, cond):
    return x[:, :1]


def broken(x, cond):
    raise RuntimeError("no such file")


@pytest.mark.parametrize("name", ["pso", "rlcm", "distillation-dpo", "di-star", "flash-dmd"])
@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("class", r"none is known for this teacher: pass (reward|preference)="),
        (column, r"the reward column gave shape \(2, 1\) for 2 samples"),
        (lambda x, cond: 3.0, "gave a float"),
        (broken, r"the reward raised RuntimeError \(no such file\)"),
        ("beauty", "the reward is 'beauty', but must be a function"),
        (7, "the reward is 7, but must be a function"),
    ],
)
def test_a_reward_is_tried_at_the_call(tmp_path, name, reward, said):
    with pytest.raises(WorkbenchError, match=said):
        option = "preference" if name == "flash-dmd" else "reward"
        distill(made(), name, init=made(), run=tmp_path / "run", **{option: reward})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda x, cond: x[:, 0].detach(), "has no gradient in the samples"),
        (lambda x, cond: (x[:, 0] > 0).float(), "has no gradient in the samples"),
        (lambda x, cond: torch.ones(len(x), requires_grad=True) * 2, "has no gradient in the samples"),
        (lambda x, cond: torch.from_numpy(x.numpy())[:, 0], "raised RuntimeError .*Can't call numpy"),
    ],
)
def test_a_reward_that_is_climbed_needs_a_gradient(tmp_path, reward, said):
    for name in ("di-star", "dmd2"):
        with pytest.raises(WorkbenchError, match=f"{said}.* or take rlcm or pso, which learn from any reward"):
            distill(made(), name, torch.zeros(8, 2), reward=reward, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert misfits(get("rlcm").configured(reward=reward), made()) == misfits(get("rlcm").configured(reward=first), made())
    assert misfits(get("flash-dmd").configured(preference=reward), made()) == []


def test_the_class_reward_can_be_climbed():
    labelled = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2], labels=[0, 1])
    for teacher in (labelled, wb.load("digits/teacher")):
        assert misfits(get("di-star"), teacher) == []
    for reward in (first, lambda x, cond: (x[:, 0] - 100).log()):  # NaN of noise, which need not be in its domain
        assert misfits(get("di-star").configured(reward=reward), labelled) == []


@pytest.mark.parametrize("options", [{"inputs": 1}, {"inputs": 4, "split": 0.99, "times": (0.9, 0.5)}])
def test_a_preference_needs_a_noisy_step_with_a_next(tmp_path, options):
    with pytest.raises(
        WorkbenchError, match=r"a preference tells the next states of noisy steps apart.*give inputs more steps"
    ):
        distill(made(), "flash-dmd", torch.zeros(8, 2), preference=first, run=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    assert misfits(get("flash-dmd").configured(**options), made()) == []


def test_a_reward_that_turns_nan_is_named():
    def root(x, cond):
        return torch.where(x[:, 0] > 0, x[:, 0], math.nan)

    with pytest.raises(WorkbenchError, match=r"the reward root gave .* that are NaN or infinite"):
        list(distill(made(), "rlcm", init=made(), reward=root, steps=2, batch=16))


@pytest.mark.parametrize("name", ["pso", "rlcm"])
def test_a_teacher_that_is_no_student_needs_init(name):
    with pytest.raises(WorkbenchError, match="it adapts a trained few-step student, and this teacher is none: pass init="):
        distill(made(), name, reward=first)
    with pytest.raises(WorkbenchError, match="it adapts a trained student that is a network of ours"):
        distill(wb.load("moons"), name, reward=first)


@pytest.mark.parametrize("name", ["pso", "rlcm", "distillation-dpo"])
def test_training_resumes_bit_for_bit(tmp_path, name):
    options = {"init": made(), "reward": first, "steps": 4, "batch": 16}
    whole = list(distill(made(), name, run=tmp_path / "whole", **options))[-1].student
    for _ in distill(made(), name, run=tmp_path / "broken", **options):
        break
    broken = list(distill(made(), name, run=tmp_path / "broken", **options))[-1].student
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), broken.net.parameters(), strict=True))
