"""The guidance scale as an input: a student that takes w, its training, and what is sampled at a given w."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.denoiser import Guided, Network, Scaled, rows_of
from workbench.distill.distill import distill
from workbench.distill.fit import misfits
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.distributional_turns import scale_of
from workbench.distill.objectives.guidance import Steering, steered
from workbench.distill.objectives.parts import L2, guided
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.objectives.starts import FromRollout
from workbench.distill.objectives.targets import TeacherSteps
from workbench.distill.objectives.times import Between, Halving
from workbench.distill.recipes import get
from workbench.errors import WorkbenchError
from workbench.networks import at_scale, extended, new_network
from workbench.samplers.run import initial_noise
from workbench.samplers.sample import prepare

TEACHER = wb.mixture([[-1.0], [1.2]], [0.3, 0.3], labels=[0, 1])
RANGE = (1.0, 5.0)


class Exact(nn.Module):
    """The guided x0 estimate itself, plus `gain` sin(3 x): what a student with w as its input converges to."""

    def __init__(self, gain=0.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))

    def forward(self, x, t, cond=None, w=None):
        return Guided(TEACHER, w)(x, t, cond) + self.gain * torch.sin(3 * x)


def student(gain=0.0):
    net = Network(Exact(gain), "linear", "x0", (1,), 2)
    net.guidance_input = RANGE
    return net


def batch(n=64):
    x0, labels = TEACHER.sample(n, seed=0, labels=True)
    return Batch(x0.double(), labels, n, 0.5)


def trained_net(shape=(1, 8, 8), **more):
    net = new_network(shape, 3, "flow", "linear", **more)
    for name, parameter in net.named_parameters():
        if "head" in name or "modulation" in name:
            nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize("shape", [(1, 8, 8), (2,)])
def test_a_network_extended_by_the_scale_starts_as_it_was(shape):
    net = trained_net(shape)
    made = extended(net, guidance_input=RANGE)
    x, t, cond = torch.randn(4, *shape), torch.rand(4), torch.tensor([0, 1, 2, -1])
    for w in (1.0, 2.5, torch.tensor([1.0, 2.0, 3.0, 5.0])):
        assert torch.equal(made(x, t, cond, w=w), net(x, t, cond))
    with pytest.raises(WorkbenchError, match="takes the guidance scale as an input: give w"):
        made(x, t, cond)
    with pytest.raises(WorkbenchError, match="takes no guidance scale"):
        net(x, t, cond, w=2.0)


def test_a_network_fixed_at_a_scale_is_the_same_there():
    net = trained_net(guidance_input=RANGE)
    nn.init.normal_(net.inputs.guidance.mlp[2].weight, std=0.3)
    x, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    fixed = at_scale(net, 3.0)
    assert torch.allclose(fixed(x, t, 1), net(x, t, 1, w=3.0), atol=1e-6) and fixed.config.guidance_input is None
    assert not torch.allclose(fixed(x, t, 1), net(x, t, 1, w=2.0), atol=1e-3)


def test_a_model_that_takes_the_scale_is_not_guided_again():
    with pytest.raises(WorkbenchError, match="must not be guided again"):
        Guided(student(), 2.0)


def test_rows_repeat_the_scales():
    assert rows_of(torch.tensor([1.0, 2.0]), torch.zeros(5, 3)).tolist() == [1, 2, 1, 2, 1]
    assert rows_of(3.0, torch.zeros(2, 3)).tolist() == [3, 3]


def test_a_scale_for_each_row_guides_each_row():
    x, t = torch.randn(3, 1, dtype=torch.float64), torch.tensor([0.3, 0.5, 0.9])
    cond, scales = torch.tensor([0, 1, 1]), [0.0, 1.0, 4.0]
    both = Guided(TEACHER, torch.tensor(scales))(x, t, cond)
    for i, scale in enumerate(scales):
        assert torch.allclose(both[i], Guided(TEACHER, scale)(x[i : i + 1], float(t[i]), cond[i : i + 1])[0])


def test_guided_sampling_of_two_classes_has_the_known_law():
    """Means and widths of class 2 of two 1-D Gaussians at w = 1, 2, 4, by a student that gives the exact guided answer in one pass."""
    net = student()
    noise = torch.randn(4000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for w, mean, std in ((1.0, 1.20, 0.30), (2.0, 1.39, 0.216), (4.0, 1.61, 0.175)):
        end = list(wb.run(wb.plan("heun", "linear", 40), Scaled(net, w), noise, 1))[-1]
        assert float(end.x.mean()) == pytest.approx(mean, abs=0.03) and float(end.x.std()) == pytest.approx(std, abs=0.02)


@pytest.mark.parametrize("start", [None, FromRollout(top=True)])
def test_the_guided_answer_is_the_fixed_point_and_a_gradient_step_goes_there(start):
    switches = Pointwise(times=Between(equal=1.0), target=TeacherSteps(0), metric=L2(), guidance=RANGE)
    switches = switches if start is None else Pointwise(start=start, target=TeacherSteps(0), metric=L2(), guidance=RANGE)
    exact = switches.bind(TEACHER, student())
    loss, _ = exact.loss("student", batch(), step_rng(0, 0))
    assert float(loss.detach()) < 1e-12
    wrong = student(gain=0.1)
    loss, _ = switches.bind(TEACHER, wrong).loss("student", batch(), step_rng(0, 0))
    (gradient,) = torch.autograd.grad(loss, wrong.net.gain)
    assert float(loss.detach()) > 1e-5 and float(gradient) > 0


def test_teacher_student_and_target_net_are_asked_at_the_same_scales():
    net = student()
    bound = Pointwise(average=0.5, guidance=RANGE).bind(TEACHER, net)
    bound.point(batch(8), step_rng(0, 0))
    assert bound.teacher.scale is net.scale is bound.target_net.scale
    assert float(net.scale.min()) >= 1 and float(net.scale.max()) <= 5 and len(net.scale.unique()) == 8
    bound = Pointwise(times=Halving(4, 1), target=TeacherSteps(2), guidance=RANGE).bind(TEACHER, student())
    bound.point(batch(8), step_rng(0, 0))
    assert bound.previous.scale is bound.teacher.scale


def test_a_trajectory_keeps_its_scale():
    net = student()
    start = FromRollout(route=4, top=True)
    bound = Pointwise(start=start, target=TeacherSteps(0), guidance=RANGE, dropout=0.0).bind(TEACHER, net)
    point = bound.point(Batch(None, None, 20), step_rng(0, 0))
    assert len(point.x) == 20 and len(net.scale) == 5 and torch.equal(point.t[:5], torch.ones(5, dtype=torch.float64))
    assert torch.equal(point.cond[:5], point.cond[5:10])


def test_the_range_is_drawn_over_evenly():
    teacher, net = steered(TEACHER, RANGE), student()
    w = Steering(RANGE, teacher, net).draw(20000, step_rng(0, 0))
    assert float(w.mean()) == pytest.approx(3, abs=0.05) and float(w.std()) == pytest.approx(4 / math.sqrt(12), abs=0.05)


def run(tmp_path, recipe="guidance", teacher=None, **options):
    teacher = teacher or Network(trained_net((2,)), "linear", "flow", (2,), 3)
    data = (torch.randn(64, 2), torch.arange(64) % 3)
    return list(distill(teacher, recipe, data, run=tmp_path, **{"steps": 3, "batch": 8, **options}))[-1].student


def test_a_student_that_takes_the_scale_is_sampled_at_any_in_its_range(tmp_path):
    made = run(tmp_path)
    card = made.card
    assert card["guidance_input"] == [1.0, 5.0] and card["guidance_baked_in"] is None and made.sampling.guidance == 1.0
    nn.init.normal_(made.net.inputs.guidance.mlp[2].weight, std=0.5)
    one, four = (wb.sample(made, 4, 0, guidance=w) for w in (1.0, 4.0))
    assert torch.equal(one, wb.sample(made, 4, 0)) and not torch.allclose(one, four, atol=1e-3)
    frames = list(wb.run(made.plan(), prepare(made, 4.0), initial_noise(4, (2,)), 0))
    assert frames[-1].nfe == made.plan().evaluations and torch.equal(frames[-1].x, four)  # one pass a step
    for w in (0.5, 7.0):
        with pytest.raises(
            WorkbenchError, match=f"guidance is {w:g}, but this model takes it as an input and was trained from 1 to 5"
        ):
            wb.sample(made, 4, 0, guidance=w)


def test_comparing_honours_the_scale(tmp_path):
    made = run(tmp_path)
    result = wb.compare.Column(made, "student", guidance=3.0)
    assert result.scale() == 3.0
    with pytest.raises(WorkbenchError, match="from 1 to 5"):
        prepare(made, 9.0)


@pytest.mark.parametrize("recipe", ["kd", "ctm", "tbcm", "progressive", "freeflow", "meanflow-dispersive", "lcm"])
def test_any_pointwise_recipe_takes_a_range(tmp_path, recipe):
    more = {"count": 32} if recipe == "kd" else {}
    made = run(tmp_path, recipe, guidance=(1, 3), **more)
    assert made.guidance_input == (1.0, 3.0) and wb.sample(made, 3, 1, guidance=2.5).shape == (3, 2)


def test_pairs_remember_the_scale_they_were_made_at(tmp_path):
    switches = get("kd").configured(guidance=(1, 3), count=32, chunk=8).objective
    net = student()
    bound = switches.bind(TEACHER, net)
    for _ in bound.prepare(tmp_path, 0, "cpu"):
        pass
    stored = bound.store.draw(Batch(None, None, 800), step_rng(0, 0))
    assert len(stored.w.unique()) == 32 and 1 <= float(stored.w.min()) < float(stored.w.max()) <= 3
    for row in range(4):  # the answer of the teacher guided at that scale, from that noise
        model = Guided(TEACHER, float(stored.w[row]))
        plan = switches.start.pairs.sampling.plan("linear")
        end = list(wb.run(plan, model, stored.eps[row : row + 1], stored.cond[row : row + 1]))[-1].x
        assert torch.allclose(end.float(), stored.x0[row : row + 1], atol=1e-4)
    point = bound.point(Batch(None, None, 6), step_rng(0, 1))
    assert len(point.x) == len(net.scale) == 6


def test_progressive_halving_of_a_student_with_the_scale_keeps_the_range(tmp_path):
    first = run(tmp_path / "first")
    assert run(tmp_path / "second", "progressive", first).guidance_input == RANGE
    fixed = run(tmp_path / "third", "progressive", first, guidance=2.0)
    assert fixed.guidance_input is None and fixed.card["guidance_baked_in"] == 2.0
    with pytest.raises(WorkbenchError, match="guidance is 8, but this model takes it as an input"):
        run(tmp_path / "fourth", "progressive", first, guidance=8.0)
    with pytest.raises(WorkbenchError, match=r"takes scales from 1 to 5|wants \[1.0, 9.0\]"):
        run(tmp_path / "fifth", "progressive", first, guidance=(1, 9))


def test_a_recipe_that_matches_laws_gets_the_teacher_at_one_scale(tmp_path):
    first = run(tmp_path / "first")
    assert run(tmp_path / "second", "dmd2", first, warmup=1, turns=1, guidance=2.0).card["guidance_baked_in"] == 2.0


@pytest.mark.parametrize("given", [(3, 1), (1, 1), (-1, 2), (1, 2, 3), ("a", 2), (1, 99)])
def test_bad_ranges_are_refused(given):
    with pytest.raises(WorkbenchError, match="a range of scales is"):
        get("cd").configured(guidance=given)


def test_a_range_needs_classes_and_a_student_that_takes_it(tmp_path):
    plain = wb.mixture([[0.0, 1.0]], [0.3])
    for recipe in ("guidance", "cd"):
        with pytest.raises(WorkbenchError, match="no classes"):
            distill(plain, recipe, guidance=(1, 3), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(WorkbenchError, match="student must take the scale"):
        Pointwise(guidance=RANGE).bind(TEACHER, Network(Exact(), "linear", "x0", (1,), 2))
    assert guided(TEACHER, 2.0).scale == 2.0


@pytest.mark.parametrize(
    ("recipe", "options", "shown"),
    [
        ("dmd2", {"guidance": 3}, r"real = 3\.0"),
        ("decoupled-dmd", {"guidance": 3}, r"real = 3\.0"),
        ("pg-sb", {"guidance": 3}, r"real = 3\.0"),
        ("pg-sb", {"spread": (1.0, 8.0)}, r"spread = \[1\.0, 8\.0\]"),
        ("dmd2", {"fake": 0.0}, r"fake = 0\.0"),
        ("dmd2", {"same": True}, "same = True"),
        ("rcm", {"guidance": 3}, "guidance = 3"),
        ("rcm", {"same": True}, "same = True"),
    ],
)
def test_what_is_asked_of_guidance_needs_classes(tmp_path, recipe, options, shown):
    with pytest.raises(
        WorkbenchError, match=rf"guidance is set \({shown}\), but this teacher has no classes, so nothing guides it"
    ):
        distill(wb.mixture([[0.0, 1.0]], [0.3]), recipe, run=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    assert misfits(get(recipe).configured(**options), TEACHER) == []


def test_a_recipe_s_own_guidance_and_none_need_no_classes():
    plain = wb.mixture([[0.0, 1.0]], [0.3])
    for recipe in ("pg-sb", "swiftbrush", "sid-few-step", "decoupled-dmd"):
        for options in ({}, {"guidance": 1.0}, {"fake": get(recipe).objective.guidance.fake}):
            assert misfits(get(recipe).configured(**options), plain) == []
    assert misfits(get("pg-sb").configured(spread=[0.5, 4.0], same=False), plain) == []


def test_training_with_the_scale_resumes_bit_for_bit(tmp_path):
    teacher = Network(trained_net((2,)), "linear", "flow", (2,), 3)
    data = (torch.randn(64, 2), torch.arange(64) % 3)
    whole = list(distill(teacher, "guidance", data, run=tmp_path / "whole", steps=4, batch=8))[-1].student
    for _ in distill(teacher, "guidance", data, run=tmp_path / "broken", steps=4, batch=8):
        break
    broken = list(distill(teacher, "guidance", data, run=tmp_path / "broken", steps=4, batch=8))[-1].student
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), broken.net.parameters(), strict=True))


def test_a_matching_recipe_sees_the_scale_of_a_teacher_that_takes_it():
    assert [scale_of(guided(model, 3.0)) for model in (student(), TEACHER)] == [3.0, 3.0] and scale_of(TEACHER) == 1.0
