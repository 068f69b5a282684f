"""Low-rank students of any recipe, and the recipe that counts high frequencies extra."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.adapters import adapted, add_lora, merged
from workbench.distill.distill import distill
from workbench.distill.objectives.frequency import HighFrequency, high_pass
from workbench.distill.objectives.parts import L2, PseudoHuber
from workbench.errors import WorkbenchError
from workbench.networks import new_network

SHAPE = (1, 8, 8)


def network(shape=SHAPE):
    net = new_network(shape, 3, "flow", "linear")
    for name, parameter in net.named_parameters():
        if "head" in name or "modulation" in name:
            nn.init.normal_(parameter, std=0.1)
    return net


def train(tmp_path, recipe="kd", shape=SHAPE, **options):
    teacher = Network(network(shape), "linear", "flow", shape, 3)
    data = (torch.randn(32, *shape), torch.arange(32) % 3)
    more = {"count": 32} if recipe in ("kd", "hipa") else {}
    last = list(distill(teacher, recipe, data, run=tmp_path, **{"steps": 3, "batch": 8, **more, **options}))[-1]
    return teacher, last


@pytest.mark.parametrize("shape", [SHAPE, (2,)])
def test_low_rank_updates_start_silent_and_can_be_merged(shape):
    net, x, t = network(shape), torch.randn(4, *shape), torch.rand(4)
    before = net(x, t)
    names = list(net.state_dict())
    layers = sum(isinstance(layer, (nn.Linear, nn.Conv2d)) for layer in net.modules())
    add_lora(net, 2, seed=3)
    assert torch.equal(net(x, t), before)
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * layers and all("lora_" in name for name in trained)
    again = add_lora(network(shape), 2, seed=3)
    assert all(torch.equal(p, dict(again.named_parameters())[name]) for name, p in net.named_parameters() if name in trained)
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    changed = net(x, t).detach()
    assert not torch.allclose(changed, before, atol=1e-3)
    whole = merged(net)
    assert list(whole.state_dict()) == names and torch.allclose(whole(x, t), changed, atol=1e-4)


def test_a_merged_update_has_the_rank():
    net = network((2,))
    before = net.blocks[0][0].weight.detach().clone()
    add_lora(net, 3)
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    change = merged(net).blocks[0][0].weight.detach() - before
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 3


@pytest.mark.parametrize("recipe", ["kd", "cd", "ctm", "scm", "dmd2"])
def test_any_recipe_can_have_a_low_rank_student(tmp_path, recipe):
    teacher, last = train(tmp_path, recipe, lora=2, **({"warmup": 1, "turns": 1} if recipe == "dmd2" else {}))
    stored = wb.load(tmp_path / "student")
    assert not any("lora" in name for name in stored.net.state_dict())
    card = stored.card
    assert card["trained"]["lora"] == 2 and 0 < card["trained_share"] < 0.2
    assert type(stored.net) is type(teacher.net) and not torch.equal(stored.net.head.weight, teacher.net.head.weight)
    assert torch.equal(stored.net.position, teacher.net.position)  # no layer, so not trained
    assert torch.allclose(wb.sample(stored, 2), last.samples(2), atol=1e-4)


def test_what_is_new_in_a_low_rank_student_is_trained_whole(tmp_path):
    net = new_network((2,), 3, "flow", "linear", two_times=True)
    add_lora(net, 2, whole=["second_time.mlp.0.weight", "second_time.mlp.2.weight"])
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {"second_time.mlp.0.weight", "second_time.mlp.2.weight"} <= trained and adapted(net)["trained_parameters"] > 0
    assert adapted(network()) == {}


def test_low_rank_training_resumes_bit_for_bit(tmp_path):
    teacher = Network(network((2,)), "linear", "flow", (2,), 3)
    data = torch.randn(32, 2), torch.arange(32) % 3
    options = {"data": data, "steps": 4, "batch": 8, "lora": 2}
    whole = list(distill(teacher, "cd", run=tmp_path / "whole", **options))[-1].student
    for _ in distill(teacher, "cd", run=tmp_path / "broken", **options):
        break
    broken = list(distill(teacher, "cd", run=tmp_path / "broken", **options))[-1].student
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), broken.net.parameters(), strict=True))
    with pytest.raises(WorkbenchError, match="lora"):
        list(distill(teacher, "cd", run=tmp_path / "broken", **{**options, "lora": 3}))


def test_what_cannot_be_adapted_is_refused(tmp_path):
    exact = wb.mixture([[0.0, 1.0]], [0.2])
    for recipe in ("cd", "dmd2"):
        with pytest.raises(WorkbenchError, match=r"low-rank updates \(lora\) beside a trained network"):
            distill(exact, recipe, lora=4)
    with pytest.raises(WorkbenchError, match="lora is -1"):
        train(tmp_path, lora=-1)
    with pytest.raises(WorkbenchError, match="no linear or convolutional layer"):
        add_lora(nn.LayerNorm(3), 2)


def test_high_pass_keeps_what_is_fast_and_drops_what_is_slow():
    axis = torch.arange(8) * 2 * torch.pi / 8
    slow, fast = (torch.cos(k * axis)[None, None, None].expand(1, 1, 8, 8).clone() for k in (1, 4))
    assert torch.allclose(high_pass(slow, 0.5), torch.zeros(1, 1, 8, 8), atol=1e-6)
    assert torch.allclose(high_pass(fast + slow, 0.5), fast, atol=1e-6)
    assert torch.allclose(high_pass(high_pass(torch.ones(1, 1, 8, 8), 0.0), 0.0), torch.ones(1, 1, 8, 8))


def test_without_its_weight_the_metric_is_the_spatial_one():
    p, y = torch.randn(2, 3, 1, 8, 8)
    assert torch.equal(HighFrequency(high=0.0)(p, y), PseudoHuber()(p, y))
    extra = HighFrequency(L2(), high=3.0)(p, y) - L2()(p, y)
    assert torch.allclose(extra, 3 * high_pass(p - y, 0.5).abs().flatten(1).mean(1))
    with pytest.raises(WorkbenchError, match="cut is 2"):
        HighFrequency(cut=2)
    with pytest.raises(WorkbenchError, match="images"):
        high_pass(torch.zeros(4, 2), 0.5)


def test_the_extra_weight_brings_high_frequencies_nearer():
    """One gradient step from blurred answers: the metric with the extra weight removes more of the missing detail."""
    y = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    left = {}
    for weight in (0.0, 4.0):
        p = (y - high_pass(y, 0.5) + 0.3).requires_grad_(True)
        HighFrequency(high=weight)(p, y).sum().backward()
        after = p.detach() - 0.5 * p.grad
        left[weight] = float(high_pass(after - y, 0.5).square().mean() / high_pass(y, 0.5).square().mean())
    assert left[4.0] < left[0.0] < 1


def test_hipa_trains_low_rank_on_images_and_refuses_points(tmp_path):
    _, last = train(tmp_path, "hipa")
    card = last.student.card
    assert (
        card["trained"]["lora"] == 4 and card["trained_share"] < 0.2 and card["trained"]["objective"]["metric"]["high"] == 2.0
    )
    assert last.student.plan().evaluations == 1
    with pytest.raises(WorkbenchError, match=r"needs images \(c, h, w\), not samples of shape \(2,\)"):
        train(tmp_path / "points", "hipa", (2,))
    assert not (tmp_path / "points").exists()
