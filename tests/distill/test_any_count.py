"""One student for several numbers of steps: what it and its critic are told, and what it reduces to."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.fit import misfits
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.cores import HuberGap
from workbench.distill.objectives.distributional import Distributional
from workbench.distill.objectives.levels import AnyCount, BackSimulation, Clean, EachStep, NoisedReal, PhaseEnd, TrajectoryStep
from workbench.distill.recipes import get
from workbench.errors import WorkbenchError
from workbench.networks import new_network

TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2], labels=[0, 1])


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


def two_times(seed=0):
    """`network`, with a second time that it does not listen to yet."""
    net = new_network((2,), 2, "flow", "linear", seed, two_times=True, width=32, depth=2)
    plain = network(seed).net.state_dict()
    net.load_state_dict(plain, strict=False)
    return Network(net, "linear", "flow", (2,), 2, two_times=True)


@pytest.mark.parametrize("count", [1, 4])
def test_any_count_of_one_number_is_that_number_of_steps(count):
    """The same loss for both players, to the bit, while neither network listens to what it is told."""
    fixed = Distributional(core=HuberGap(), inputs=BackSimulation(route="ode").given(count), anchor=TrajectoryStep())
    told = Distributional(core=HuberGap(), inputs=AnyCount((count,)), anchor=TrajectoryStep())
    assert told.two_times and told.sampling.sampler == "flow_map" and told.sampling.steps == count and fixed.sampling is None
    losses = []
    for switches, student in ((fixed, network()), (told, two_times())):
        bound = switches.bind(TEACHER, student)
        losses.append([float(bound.loss(player, batch(), step_rng(0, 3))[0].detach()) for player in ("student", "critic")])
    assert losses[0] == losses[1]


def test_the_student_is_told_its_end_and_the_critic_the_number_of_steps():
    asked = []

    class Listening(Network):
        def predict(self, x, t, cond=None, s=None, **more):
            asked.append((float(torch.as_tensor(t).max()), s))
            return super().predict(x, t, cond, s, **more)

    heard = two_times()
    student = Listening(heard.net, "linear", "flow", (2,), 2, two_times=True)
    bound = Distributional(inputs=AnyCount((1, 2, 4)), anchor=TrajectoryStep()).bind(TEACHER, student)
    counts = set()
    for seed in range(30):
        asked.clear()
        made = bound._generate(batch(), step_rng(0, seed))
        ends = [k / made.steps for k in range(made.steps - 1, -1, -1)]
        assert [s for _, s in asked] == ends[: len(asked)] and asked[-1] == (made.t, made.s)
        seen = []
        bound.networks[0].net = lambda x, t, cond, s, seen=seen, **_: seen.append(s) or torch.zeros_like(x)
        bound._judge(made)(made.x, 0.5, made.cond)
        assert torch.equal(seen[0], torch.full((64,), 1 / made.steps))
        counts.add(made.steps)
    assert counts == {1, 2, 4}


@pytest.mark.parametrize("counts", [(), (2, 1), (0, 1), (1, 1)])
def test_counts_of_steps_must_rise(counts):
    with pytest.raises(WorkbenchError, match="counts"):
        AnyCount(counts)


@pytest.mark.parametrize("recipe", ["phased-dmd", "flash-dmd"])
def test_recipes_that_must_know_the_number_of_steps_refuse_a_drawn_one(recipe):
    with pytest.raises(WorkbenchError, match="give one number, such as inputs=4"):
        wb.distill(TEACHER, recipe, inputs=AnyCount())


def test_a_number_of_steps_stands_for_them_alone():
    alone = get("tdm").configured(inputs=2)
    assert alone.objective.inputs == BackSimulation((1.0, 0.5), "ode") and not alone.objective.two_times


def test_a_critic_for_each_step_of_one_step_is_the_one_critic():
    losses = []
    for anchor in (Clean(), EachStep()):
        bound = Distributional(anchor=anchor).bind(TEACHER, network())
        losses.append([float(bound.loss(player, batch(), step_rng(0, 3))[0].detach()) for player in ("student", "critic")])
    assert losses[0] == losses[1]


def test_each_step_teaches_and_asks_its_own_critic():
    bound = Distributional(inputs=BackSimulation().given(4), anchor=EachStep(), dropout=0.0).bind(TEACHER, network())
    assert len({id(judge.net) for judge in bound.networks}) == 4
    met = set()
    for seed in range(12):
        bound.turn(0)
        bound.critic.zero_grad()
        bound.loss("critic", batch(), step_rng(0, seed))[0].backward()
        mine = bound.switches.inputs.times.index(bound.made.t)
        taught = [any(p.grad is not None and bool(p.grad.any()) for p in bound.critic.of(k).parameters()) for k in range(4)]
        assert taught == [k == mine for k in range(4)]
        met.add(mine)
    assert met == {0, 1, 2, 3}


def test_a_shared_critic_sees_only_the_mixture_of_the_steps():
    """Exact critics of a student whose first step makes one of the teacher's modes and its last the other: the mixture is the teacher's
    law, so that a shared critic finds no gap, where those of the steps pull both back."""
    teacher = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2])
    modes = [wb.mixture([[1.0, 0.0]], [0.2]), wb.mixture([[-1.0, 0.0]], [0.2])]
    gaps = {}
    for anchor, critics in ((Clean(), [teacher]), (EachStep(), modes)):
        bound = Distributional(inputs=BackSimulation().given(2), anchor=anchor).bind(teacher, network(classes=0))
        bound.networks = critics
        found = [bound.loss("student", batch()._replace(cond=None), step_rng(0, seed))[1]["gap"] for seed in range(6)]
        gaps[type(anchor)] = torch.stack(found)
    assert gaps[Clean].max() < 1e-6 and gaps[EachStep].min() > 1e-2


def test_no_number_of_phases_is_one_a_step():
    times = BackSimulation().given(4).times
    assert [PhaseEnd(0).phase(times, t) for t in times] == [0, 1, 2, 3] and PhaseEnd(0).phases(times) == 4
    assert [PhaseEnd(0).end(times, t) for t in times] == [PhaseEnd(4).end(times, t) for t in times] == [0.75, 0.5, 0.25, 0.0]


def test_noised_real_inputs_are_pure_noise_at_the_top_and_near_the_sample_below():
    losses = []
    for inputs in (BackSimulation(), NoisedReal()):
        switches = Distributional(inputs=inputs)
        losses.append(float(switches.bind(TEACHER, network()).loss("student", batch(), step_rng(0, 3))[0].detach()))
    assert losses[0] == losses[1] and switches.needs_data
    x0 = TEACHER.sample(20_000, seed=0)
    x, t = NoisedReal((0.25,))(network(), (20_000, 2), None, step_rng(0, 0), x0)
    noise = (x - 0.75 * x0) / 0.25
    assert t == 0.25 and abs(float(noise.std()) - 1) < 0.02 and abs(float((noise * x0).mean())) < 0.02
    with pytest.raises(WorkbenchError, match="pass data="):
        NoisedReal((0.25,))(network(), (4, 2), None, step_rng(0, 0))


def test_critics_of_the_steps_go_with_inputs_that_have_them_whatever_option_comes_first():
    for options in ({"inputs": AnyCount(), "anchor": Clean()}, {"anchor": Clean(), "inputs": AnyCount()}):
        assert misfits(get("decoupled-dmd").fitted((2,), True).configured(**options), TEACHER) == []
    with pytest.raises(WorkbenchError, match=r"EachStep has a critic for each step: set anchor=Clean\(\)"):
        wb.distill(TEACHER, "decoupled-dmd", inputs=AnyCount())
    with pytest.raises(WorkbenchError, match="these inputs draw their times"):
        wb.distill(TEACHER, "rcm", anchor=EachStep())
