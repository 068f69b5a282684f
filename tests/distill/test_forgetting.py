"""A class is forgotten: its student follows another class's score, and the critic knows it under its own label."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.distill import distill
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.cores import PerSampleL1, ScoreIdentity
from workbench.distill.objectives.forgetting import ScoreForgetting
from workbench.errors import WorkbenchError
from workbench.networks import new_network

LABELLED = wb.mixture([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], [0.2] * 3, labels=[0, 1, 2])


def network(seed=0):
    net = new_network((2,), 3, "flow", "linear", seed, width=32, depth=2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in net.named_parameters():
            if "head.weight" in name or "modulation" in name:
                nn.init.normal_(parameter, std=0.1)
    return Network(net, "linear", "flow", (2,), 3)


def gradients(net):
    return {name for name, parameter in net.named_parameters() if parameter.grad is not None and parameter.grad.abs().max() > 0}


def forgetting(**switches):
    student = network()
    one = ScoreForgetting(**{"forget": (1,), **switches}).bind(LABELLED, student)
    one.critic.net.load_state_dict(network(seed=1).net.state_dict())
    return one, student


def test_without_forgetting_it_is_conditional_sid():
    one, student = forgetting(weight_forget=0.0)
    loss, _ = one.loss("student", Batch(None, None, 32), step_rng(0, 3))
    rng = step_rng(0, 3)
    cond, gone = one.labels(32, rng)
    x = one.generate(cond, rng)
    t = 0.04 + (0.72 - 0.04) * torch.rand(32, generator=rng).double()
    x_t = one.path.mix(x, torch.randn(32, 2, generator=rng), t)
    real, fake = LABELLED(x_t, t, cond), one.critic(x_t, t, cond)
    kept = ScoreIdentity()(x[~gone], real[~gone], fake[~gone], PerSampleL1(1e-2)(x, real)[~gone])
    assert float(loss.detach()) == pytest.approx(float(kept.detach()), rel=1e-5)
    loss.backward()
    assert not gradients(one.critic.net) and gradients(student.net)
    assert all(parameter.requires_grad for parameter in one.critic.net.parameters())


def test_the_forgotten_class_follows_the_score_of_another():
    """With the teacher itself as the critic the kept classes are at rest; the forgotten one is too if both classes are one."""
    one, _ = forgetting(forget=1, override=2)
    one.critic = LABELLED
    cond, gone = one.labels(40, step_rng(0, 0))
    assert set(cond[gone].tolist()) == {1} and set(cond[~gone].tolist()) == {0, 2} and int(gone.sum()) == 10
    kept, lost, _ = one.match(torch.randn(40, 2), cond, gone, step_rng(0, 1), 0.0)
    assert float(kept) == 0 and abs(float(lost)) > 1e-3
    one.override = 1
    assert float(one.match(torch.randn(40, 2), cond, gone, step_rng(0, 1), 0.0)[1]) == 0
    assert forgetting(forget=(0, 1))[0].override == 2 and forgetting(forget=2)[0].override == 0


def test_gap_and_critic_loss_are_told_by_noise_level():
    """The tenths, weighted by how many samples fell in each, are the whole; levels end at 0.72."""
    one, _ = forgetting()
    student, critic = (one.loss(player, Batch(None, None, 64), step_rng(0, 3))[1] for player in ("student", "critic"))
    by_level = torch.stack([student[f"gap/{k}"] for k in range(10)])
    assert torch.isfinite(by_level[:8]).any() and torch.isnan(by_level[8:]).all()
    assert float(by_level.nan_to_num().min()) >= 0 and float(by_level[:8].nanmean()) <= 2 * float(student["gap"])
    assert sum(bool(torch.isfinite(critic[f"loss/{k}"])) for k in range(10)) >= 8 and not student["gap"].requires_grad


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"none is named: pass forget=, from 0 to 2, such as forget=\(3,\)"),
        ({"forget": 3}, "class 3 cannot be forgotten: this teacher knows 0 to 2"),
        ({"forget": (0, 1, 2)}, "every class is to be forgotten"),
        ({"forget": 1, "override": 1}, "override is 1, but must be a class of the teacher that is kept"),
        ({"forget": (1.5,)}, "forget is 1.5"),
        ({"forget": 1, "share": 1.0}, "share is 1.0"),
        ({"forget": 1, "weight_forget": -1.0}, "weight_forget is -1"),
    ],
)
def test_what_cannot_be_forgotten(options, said):
    with pytest.raises(WorkbenchError, match=said):
        distill(LABELLED, "sfd", **options)
    with pytest.raises(WorkbenchError, match="no classes"):
        distill(wb.mixture([[0.0, 0.0]], [1.0]), "sfd", forget=1)
