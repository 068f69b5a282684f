"""Distribution-matching recipes: reductions to one another, graph rules, what each player sees, and bad input."""

from __future__ import annotations

import copy

import pytest
import torch

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.distill import distill
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.backtracking import Backtracking, BoundBacktracking
from workbench.distill.objectives.cores import Even, HuberGap, ImplicitMatching, NoiseVariance, ScoreGap, ScoreIdentity
from workbench.distill.objectives.critics import CriticHead, Drawn, FakeScore, ShiftedTeacher
from workbench.distill.objectives.distributional import Distributional, Guidance
from workbench.distill.objectives.divergences import Ratio
from workbench.distill.objectives.flash import Flash
from workbench.distill.objectives.levels import (
    Annealed,
    BackSimulation,
    KarrasLevels,
    LogNormalLevels,
    PhaseEnd,
    TrajectoryStep,
    renoised,
    spread,
)
from workbench.distill.objectives.rewards import Reward, checked, class_reward
from workbench.distill.particles import optimise_particles
from workbench.distill.recipes import get
from workbench.errors import WorkbenchError
from workbench.networks import new_network
from workbench.paths import linear

TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2], labels=[0, 1])
FOUR = (1.0, 0.75, 0.5, 0.25)


def network(seed=0, classes=2):
    net = new_network((2,), classes, "flow", "linear", seed, width=32, depth=2)
    rng = torch.Generator().manual_seed(seed + 9)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=rng)
    return Network(net, "linear", "flow", (2,), classes)


def batch(n=64, progress=0.0):
    x0, cond = TEACHER.sample(n, seed=0, labels=True)
    return Batch(x0.float(), cond, n, progress)


def moved(switches, teacher=TEACHER, seed=0, progress=0.0, step=1000):
    """The student's gradient, of a fresh bound objective."""
    bound = switches.bind(teacher, network())
    bound.turn(step * getattr(switches.critic, "turns", 1) + bound.warmup)
    loss, parts = bound.loss("student", batch(progress=progress), step_rng(0, seed))
    loss.backward()
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bound.players["student"].parameters()]
    return torch.cat([g.flatten() for g in found]), parts


def same(a, b):
    return torch.equal(moved(a)[0], moved(b)[0])


def test_f_distill_with_the_reverse_kl_is_dmd2_bit_for_bit():
    gan = CriticHead(1e-3)
    assert same(Distributional(gan=gan), Distributional(gan=gan, ratio=Ratio("reverse-kl")))
    assert not same(Distributional(gan=gan), Distributional(gan=gan, ratio=Ratio("kl")))


def test_phased_with_one_phase_and_one_step_is_dmd2_without_gan():
    assert same(Distributional(), Distributional(anchor=PhaseEnd(1)))
    ode = BackSimulation((1.0,), "ode")
    assert same(Distributional(), Distributional(inputs=ode, anchor=PhaseEnd(1)))


def test_one_trajectory_step_is_one_step_matching():
    whole = Distributional(core=HuberGap(), anchor=TrajectoryStep(), renoise=(0.02, 0.99))
    assert torch.allclose(moved(whole)[0], moved(Distributional(core=HuberGap(), renoise=(0.02, 0.99)))[0])


def test_decoupled_without_guidance_is_coupled():
    assert same(Distributional(guidance=Guidance(1.0)), Distributional(guidance=Guidance(1.0, decoupled=True)))
    assert not same(Distributional(guidance=Guidance(2.0)), Distributional(guidance=Guidance(2.0, decoupled=True)))


def test_swiftbrush_without_guidance_is_vsd_and_a_spread_of_no_width_is_swiftbrush():
    plain = Distributional(weight=NoiseVariance(), guidance=Guidance(1.0))
    assert same(plain, Distributional(weight=NoiseVariance(), guidance=Guidance(1.0, same=True)))
    fixed, spread_ = Guidance(3.0, same=True), Guidance(3.0, same=True, spread=(3.0, 3.0))
    bounds = [Distributional(guidance=g).bind(TEACHER, network()) for g in (fixed, spread_)]
    x, t, cond = torch.randn(8, 2), torch.full((8,), 0.5).double(), torch.arange(8) % 2
    answers = [bound._models(step_rng(0, 0)) for bound in bounds]
    assert answers[0][1] == answers[1][1] == 3.0
    assert torch.equal(answers[0][0](x, t, cond), answers[1][0](x, t, cond))


def test_flash_with_every_time_noisy_and_no_pull_is_dmd2_without_gan():
    critic = FakeScore(turns=2)
    flash = Flash(inputs=BackSimulation(FOUR), critic=critic, split=0.0)
    assert not flash.needs_data and same(Distributional(inputs=BackSimulation(FOUR), critic=critic), flash)


def test_disback_without_targets_is_its_host():
    assert (
        same(Distributional(), Backtracking(targets=0))
        and type(Backtracking(targets=0).bind(TEACHER, network())).__name__ == "BoundDistributional"
    )


def test_sim_of_the_squared_distance_is_sid_of_alpha_one():
    weight = {"weight": Even(), "renoise": KarrasLevels()}
    a = moved(Distributional(core=ImplicitMatching(None), **weight))[0]
    b = moved(Distributional(core=ScoreIdentity(1.0), **weight))[0]
    assert torch.allclose(a, 2 * b, rtol=1e-4, atol=1e-7) and float(a.norm()) > 0


def test_few_step_sid_with_one_step_is_sid():
    core = ScoreIdentity(1.0)
    assert same(Distributional(core=core), Distributional(core=core, inputs=BackSimulation().given(1)))


def test_asd_without_shift_is_the_guidance_term_alone():
    still = ShiftedTeacher(eta=0.0)
    none, parts = moved(Distributional(critic=still, guidance=Guidance(1.0), weight=NoiseVariance(), dropout=0.0))
    assert float(none.norm()) < 1e-6 and float(parts["gap"]) < 1e-5
    guided, _ = moved(Distributional(critic=still, guidance=Guidance(3.0), weight=NoiseVariance(), dropout=0.0))
    doubled, _ = moved(Distributional(critic=still, guidance=Guidance(5.0), weight=NoiseVariance(), dropout=0.0))
    assert torch.allclose(doubled, 2 * guided, rtol=1e-3, atol=1e-6) and float(guided.norm()) > 0


def test_zero_cfg_asks_the_critic_without_labels():
    switches = get("sid-few-step").objective
    assert switches.guidance.fake == 0 and not switches.critic.conditional
    bound = Distributional(critic=FakeScore(turns=1, conditional=False), guidance=Guidance(1.0, fake=0.0)).bind(
        TEACHER, network()
    )
    seen = []
    bound.critic.net.register_forward_pre_hook(lambda module, args: seen.append(args[2].unique().tolist()))
    bound.turn(1000)
    bound.loss("student", batch(), step_rng(0, 0))
    bound.loss("critic", batch(), step_rng(0, 0))
    assert seen == [[-1], [-1]]


@pytest.mark.parametrize("core", [ScoreGap(), ScoreIdentity(), ImplicitMatching()])
def test_only_the_identities_send_a_gradient_through_the_networks_and_none_to_their_parameters(core):
    teacher, student = network(3), network(4)
    teacher.net.requires_grad_(False)
    bound = Distributional(core=core, critic=FakeScore(turns=1)).bind(teacher, student)
    seen = []
    hook = lambda module, args, out: seen.append(out.requires_grad)  # noqa: E731
    bound.critic.net.register_forward_hook(hook)
    teacher.net.register_forward_hook(hook)
    bound.turn(0)
    bound.loss("student", batch(), step_rng(0, 0))[0].backward()
    assert set(seen) == {core.graph} and all(p.grad is None for p in bound.critic.parameters())
    assert all(p.requires_grad for p in bound.critic.parameters())


def test_the_same_law_gives_no_gap():
    """psi = phi: a critic that starts as the teacher has nothing to say."""
    teacher = network(3)
    for core in (ScoreGap(), ScoreIdentity(0.7), ImplicitMatching()):
        found, parts = moved(Distributional(core=core, dropout=0.0), teacher)
        assert float(parts["gap"]) == 0 and float(found.abs().max()) < 1e-6


def test_the_gap_of_a_gaussian_student_is_the_closed_form():
    """With exact denoisers of N(m, s^2) no training is needed to see the sign and size of the pull."""
    real, fake = wb.mixture([[0.5]], [0.3]), wb.mixture([[-0.2]], [0.3])
    x = torch.full((4, 1), -0.2, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    x_t = linear.mix(x, torch.zeros_like(x), t).detach()
    loss = ScoreGap()(x, real(x_t, t), fake(x_t, t), torch.ones(4))
    (g,) = torch.autograd.grad(loss, x)
    variance = (1 - t) ** 2 * 0.09 + t**2
    assert torch.allclose(g[:, 0], -0.7 * t**2 / variance / 4)


def test_phases_have_ends_critics_and_unbiased_targets():
    anchor = PhaseEnd(2)
    assert [anchor.phase(FOUR, t) for t in FOUR] == [0, 0, 1, 1] and [anchor.end(FOUR, t) for t in FOUR] == [0.5, 0.5, 0.0, 0.0]
    assert [TrajectoryStep().end(FOUR, t) for t in FOUR] == [0.75, 0.5, 0.25, 0.0]
    bound = Distributional(inputs=BackSimulation(FOUR, "ode"), anchor=anchor).bind(TEACHER, network())
    assert len(bound.networks) == 2 and bound.networks[0].net is not bound.networks[1].net
    # E[clean | x_t] is the posterior mean although no clean sample is used: x0 | x_t by bins, 4 standard errors
    law, n, s = wb.mixture([[-1.0], [0.0], [1.0], [2.0]], [0.15] * 4), 400_000, 0.5
    rng = step_rng(0, 1)
    x_s = linear.mix(law.sample(n), torch.randn(n, 1, generator=rng).double(), torch.full((n,), s).double())
    t = torch.full((n,), 0.8, dtype=torch.float64)
    eps = torch.randn(n, 1, generator=rng).double()
    x_t, g = renoised(linear, x_s, eps, t, s), spread(linear, t, s)[1]
    clean = (x_t - (t**2 / g)[:, None] * eps) / (1 - t)[:, None]
    apart = clean - law(x_t, t)
    for k in range(-2, 3):
        inside = (x_t[:, 0] / 0.4).round() == k
        assert abs(float(apart[inside].mean())) < 4 * float(apart[inside].std()) / int(inside.sum()) ** 0.5


def test_renoising_from_a_state_keeps_the_marginal():
    n, t = 200_000, torch.full((200_000,), 0.7, dtype=torch.float64)
    rng = step_rng(0, 0)
    x_s = linear.mix(torch.ones(n, 1).double(), torch.randn(n, 1, generator=rng).double(), torch.full((n,), 0.4).double())
    x_t = renoised(linear, x_s, torch.randn(n, 1, generator=rng).double(), t, 0.4)
    assert abs(float(x_t.mean()) - 0.3) < 4 * 0.7 / n**0.5 and abs(float(x_t.std()) - 0.7) < 4 * 0.7 / (2 * n) ** 0.5


def test_levels():
    rng = step_rng(0, 0)
    draws = {type(part).__name__: part(4000, rng, linear, 0.0) for part in (LogNormalLevels(), KarrasLevels(), Annealed())}
    rho = {name: (t / (1 - t)).log() for name, t in draws.items()}
    assert abs(float(rho["LogNormalLevels"].mean()) + 1.2) < 4 * 1.2 / 4000**0.5
    top = (80 ** (1 / 7) + 0.2 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert float(rho["KarrasLevels"].exp().max()) <= top * (1 + 1e-6) and float(rho["KarrasLevels"].exp().min()) >= 0.002 * (
        1 - 1e-6
    )
    assert float(draws["Annealed"].min()) >= 0.5 and float(Annealed()(500, rng, linear, 1.0).max()) <= 0.5


def test_rollouts_carry_no_gradient_and_ode_routes_repeat_themselves():
    student = network()
    x, t = BackSimulation(FOUR, "ode")(student, (4, 2), None, step_rng(0, 0), among=[2])
    y, s = BackSimulation(FOUR, "ode")(student, (4, 2), None, step_rng(0, 0), among=[2])
    assert not x.requires_grad and t == s == 0.5 and torch.equal(x, y)


def test_flash_gives_no_step_both_gradients():
    bound = Flash(preference=lambda x, cond: -x.square().sum(1), begins=0.5).bind(TEACHER, network())
    kinds = []
    for step in range(bound.warmup, bound.warmup + 4):
        names = bound.turn(step)
        if "student" in names:
            _, parts = bound.loss("student", batch(), step_rng(0, step))
            kinds.append(("gan" in parts, "gap" in parts, "discriminator" in names))
            if "discriminator" in names:
                value, said = bound.loss("discriminator", batch(), step_rng(0, step))
                assert value.requires_grad and 0 <= float(said["accuracy"]) <= 1
        bound.loss("critic", batch(), step_rng(0, step))
    assert kinds == [(False, True, False), (True, False, True)]


def test_flash_prefers_what_is_rewarded():
    """At the start of the stage the student is its reference: log 2, and a gradient towards the better state."""
    bound = Flash(
        preference=lambda x, cond: x[:, 0], begins=0.0, preferences=1, inputs=BackSimulation((1.0, 0.5)), split=0.0
    ).bind(TEACHER, network())
    bound.after(0.0)
    bound.turn(bound.warmup + 2)
    loss, parts = bound.loss("student", batch(progress=0.5), step_rng(0, 0))
    assert float(loss.detach()) == pytest.approx(0.6931, abs=1e-3) and "reward" in parts
    loss.backward()
    with torch.no_grad():
        z, cond = torch.randn(256, 2, generator=step_rng(0, 5)), torch.arange(256) % 2
        before = bound.student(z, 1.0, cond)[:, 0].mean()
        for p in bound.student.net.parameters():
            p -= 1e-4 * p.grad if p.grad is not None else 0
        assert bound.student(z, 1.0, cond)[:, 0].mean() > before


def test_the_critic_is_pulled_towards_the_student_only_after_its_steps():
    bound = Distributional(critic=FakeScore(turns=2, couple=0.9)).bind(network(3), network(4))
    before = copy.deepcopy(bound.critic.net.state_dict())
    bound.turn(1)
    bound.after(0.0)
    assert all(torch.equal(before[k], v) for k, v in bound.critic.net.state_dict().items())
    bound.turn(2)
    bound.after(0.0)
    mine, theirs = dict(bound.critic.net.named_parameters()), dict(bound.student.net.named_parameters())
    assert all(torch.allclose(mine[k], 0.9 * before[k] + 0.1 * theirs[k], atol=1e-7) for k in mine)


def test_disback_walks_every_target_back_however_long_the_way_was(tmp_path, monkeypatch):
    """The way takes most of this run, and the student's share of it begins after it."""
    walked, known = [], BoundBacktracking.target
    monkeypatch.setattr(BoundBacktracking, "target", lambda self, progress: walked.append(known(self, progress)) or walked[-1])
    list(
        distill(
            TEACHER, "disback", TEACHER.sample(256, seed=0, labels=True), tmp_path, steps=100, fit=40, degrade=20, matched=0.0
        )
    )
    assert walked == sorted(walked, reverse=True) and set(walked) == {0, 1, 2}


def test_disback_records_the_critics_way_and_walks_it_back():
    bound = Backtracking(targets=2, degrade=4, share=0.5).bind(network(3), network(4))
    bound.frozen["begin"].first(0.0)
    assert [bound.target(p) for p in (0.0, 0.2, 0.26, 0.9)] == [1, 1, 0, 0]
    for step in range(4):
        assert bound.turn(step) == ("critic",)
        with torch.no_grad():
            for p in bound.critic.net.parameters():
                p += 1.0
        bound.after(0.0)
    start, kept = next(network(3).net.parameters()), [next(net.parameters()) for net in bound.frozen["targets"]]
    assert torch.allclose(kept[0], start + 2, atol=1e-5) and torch.allclose(kept[1], start + 4, atol=1e-5)
    assert bound.turn(4) == ("student", "critic")
    _, parts = bound.loss("student", batch(), step_rng(0, 0))
    # the first target is the last but one of the way: the critic, two steps on, does not agree with it
    assert float(parts["target"]) == 1 and float(parts["gap"]) > 0


def test_the_class_reward_is_the_exact_posterior():
    reward = class_reward(TEACHER)
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    values = reward(x, torch.tensor([0, 0, -1]))
    assert values.tolist() == pytest.approx([-0.6931, 0.0, 0.0], abs=1e-4)
    with pytest.raises(WorkbenchError, match="pass reward="):
        class_reward(wb.mixture([[0.0, 0.0]], [1.0]))


def test_rewards_are_checked_by_name():
    x = torch.zeros(3, 2)

    def crooked(x, cond):
        return x

    def lost(x, cond):
        return x[:, 0] / 0

    with pytest.raises(WorkbenchError, match=r"reward crooked gave shape \(3, 2\)"):
        checked(crooked, x, None)
    with pytest.raises(WorkbenchError, match="reward lost gave 3 values of 3 that are NaN"):
        checked(lost, x, None)
    with pytest.raises(WorkbenchError, match="gave a float"):
        checked(lambda x, cond: 1.0, x, None)
    with pytest.raises(WorkbenchError, match="must be a function"):
        Reward("beauty")


def test_what_cannot_be_is_refused_at_once():
    with pytest.raises(WorkbenchError, match="set gan"):
        Distributional(ratio="kl")
    with pytest.raises(WorkbenchError, match="leave gan at None"):
        Distributional(gan=1e-3, critic=ShiftedTeacher())
    with pytest.raises(WorkbenchError, match="2 phases need as many steps"):
        Distributional(anchor=PhaseEnd(2))
    with pytest.raises(WorkbenchError, match="decoupled=True"):
        Distributional(guidance=Guidance(matching=0.0))
    with pytest.raises(WorkbenchError, match="fall strictly"):
        BackSimulation((0.5, 1.0))
    for part, word in (
        (lambda: FakeScore(couple=2), "couple"),
        (lambda: ShiftedTeacher(1.0), "eta"),
        (lambda: Flash(near=0.0), "near"),
        (lambda: Backtracking(share=0.0), "share"),
    ):
        with pytest.raises(WorkbenchError, match=word):
            part()


def test_numbers_stand_for_parts_and_keep_the_rest_of_them():
    row = get("swiftbrush").configured(guidance=4.0)
    assert row.objective.guidance == Guidance(4.0, same=True)
    assert get("dmd2").configured(gan=0).objective.gan is None and not get("dmd2").configured(gan=0).objective.needs_data
    assert get("phased-dmd").configured(inputs=2).objective.inputs == BackSimulation((1.0, 0.5), "ode")
    assert get("f-distill").configured(ratio="kl").objective.ratio == Ratio("kl")


def test_particles_keep_both_modes_where_score_distillation_sampling_collapses():
    """VSD spreads particles over both modes, with the data's width; SDS puts each on a mode's centre."""
    law = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.3, 0.3])
    spreads = {}
    for name, options in (("vsd", {}), ("sds", {"critic": Drawn()})):
        *_, last = optimise_particles(law, 128, steps=500, seed=0, renoise=(0.02, 0.7), **options)
        x = last.samples()
        right = x[:, 0] > 0
        assert 0.2 < float(right.float().mean()) < 0.8
        spreads[name] = float(x[right, 1].std())
    assert spreads["sds"] < 0.05 < 0.15 < spreads["vsd"] < 0.4


@pytest.mark.parametrize("recipe", ["dmd", "phased-dmd", "f-distill", "disback", "flash-dmd"])
def test_runs_continue_bit_for_bit(recipe, tmp_path):
    options = {"batch": 8, "warmup": 2, "turns": 2, "network": {"width": 16, "depth": 2}, "seed": 3}
    options |= {
        "dmd": {"count": 16, "chunk": 16},
        "disback": {"fit": 2, "degrade": 4},
        "flash-dmd": {"preference": _right, "begins": 0.3},
    }.get(recipe, {})

    def final(folder, stop=None):
        for progress in distill(TEACHER, recipe, run=tmp_path / folder, steps=24, **options):
            if stop and progress.step >= stop and progress.stage == "train":
                break
        return progress

    whole = final("whole").student
    final("cut", 1)
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), final("cut").student.net.parameters(), strict=True))


def _right(x, cond):
    return x[:, 0]
