"""Adapters beside a frozen teacher that is told the guidance scale (AGD)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.denoiser import Guided, Network
from workbench.distill.adapters import hidden_for
from workbench.distill.distill import distill
from workbench.distill.loop import Batch, step_rng
from workbench.distill.recipes import get
from workbench.distill.students import new_student
from workbench.errors import WorkbenchError
from workbench.networks import extended, new_network

EVERY = pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])


def teacher(shape=(2,)):
    net = new_network(shape, 3, "flow", "linear")
    for name, parameter in net.named_parameters():
        if "head" in name or "modulation" in name or "class_embedding" in name:
            nn.init.normal_(parameter, std=0.3)
    return Network(net, "linear", "flow", shape, 3)


def parts(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


@EVERY
def test_adapters_are_a_small_share_and_silent_at_first(shape):
    base = teacher(shape)
    student, fresh = new_student(base, None, 0, get("agd"), {})
    mine = sum(p.numel() for p in student.net.parameters() if p.requires_grad)
    every = sum(p.numel() for p in student.net.parameters())
    assert not fresh and 0.02 < mine / every <= 0.05 and student.guidance_input == (1.0, 6.0)
    assert every - mine == sum(p.numel() for p in base.net.parameters())
    x, t, cond = torch.randn(5, *shape), torch.rand(5), torch.tensor([0, 1, 2, -1, 0])
    for w in (1.0, 3.0, 6.0):
        assert torch.equal(student(x, t, cond, w=w), base(x, t, cond))


@EVERY
def test_a_step_moves_to_the_guided_answer(shape):
    base = teacher(shape)
    student, _ = new_student(base, None, 0, get("agd"), {})
    bound = get("agd").objective.bind(base, student)
    before = parts(student.net)
    optimizer = torch.optim.Adam([p for p in student.net.parameters() if p.requires_grad], lr=1e-3)
    point = bound.point(Batch(None, None, 64), step_rng(0, 0))
    point = point._replace(x=point.x.detach())

    def apart():
        with torch.no_grad():
            return float(
                (student(point.x, point.t, point.cond) - Guided(base, student.scale)(point.x, point.t, point.cond)).norm()
            )

    first = apart()
    for _ in range(5):
        optimizer.zero_grad()
        bound.loss("student", Batch(None, None, 64), step_rng(0, 0))[0].backward()
        optimizer.step()
    assert apart() < 0.97 * first
    changed = {name for name, value in student.net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("inputs.adapters.") for name in changed)


def test_it_looks_at_no_data_and_at_guided_trajectories():
    base = teacher()
    student, _ = new_student(base, None, 0, get("agd"), {})
    bound = get("agd").objective.bind(base, student)
    assert not get("agd").objective.needs_data and isinstance(bound.teacher, Guided)
    point = bound.point(Batch(None, None, 80), step_rng(0, 0))
    n = 80 // 8
    # the second state of a trajectory is one step of the teacher guided at the trajectory's own scale
    from workbench.distill.objectives.maps import jump

    with torch.no_grad():
        x0 = Guided(base, student.scale)(point.x[:n], point.t[:n], point.cond[:n])
    assert torch.allclose(jump(student.path, point.x[:n], x0, point.t[:n], point.t[n : 2 * n]), point.x[n : 2 * n], atol=1e-5)


def test_the_saved_student_holds_the_teacher_untouched(tmp_path):
    base = teacher()
    before = parts(base.net)
    made = list(distill(base, "agd", run=tmp_path, steps=4, batch=16))[-1].student
    assert all(torch.equal(value, before[name]) for name, value in base.net.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in made.net.state_dict().items() if name in before)
    card = wb.load(tmp_path / "student").card
    assert card["trained_share"] <= 0.05 and card["guidance_input"] == [1.0, 6.0] and card["trained"]["adapters"] == 0.05
    assert wb.sample(made, 4, 1, guidance=5.0).shape == (4, 2)
    assert made.plan().evaluations == 16


def test_a_share_too_small_and_a_missing_network_are_refused():
    net = teacher().net
    assert hidden_for(net, 0.1) > hidden_for(net, 0.05) >= 1
    with pytest.raises(WorkbenchError, match="the smallest are 1 % of this network"):
        hidden_for(net, 1e-4)
    with pytest.raises(WorkbenchError, match="adapters is 2"):
        hidden_for(net, 2)
    with pytest.raises(WorkbenchError, match="trains adapters beside a trained network of ours"):
        distill(wb.mixture([[0.0], [1.0]], [0.2, 0.2], labels=[0, 1]), "agd")
    with pytest.raises(WorkbenchError, match="set guidance to a range"):
        distill(teacher(), "agd", guidance=2.0)
    with pytest.raises(WorkbenchError, match="give guidance_input"):
        extended(net, adapter=4)
