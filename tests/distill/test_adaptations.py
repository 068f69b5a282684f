"""Adaptations of a one-step student: hints, noise consistency, a new concept, super-resolution, steering."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.distill import distill
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.control import NoiseConsistency, edges, half_plane, low_resolution, read
from workbench.distill.objectives.echo import Echo
from workbench.distill.objectives.super_resolution import Restored, SuperResolution
from workbench.distill.recipes import get
from workbench.errors import MissingSource, WorkbenchError
from workbench.inference import negative_guidance
from workbench.networks import extended, new_network, with_classes

LABELLED = wb.mixture([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], [0.2] * 3, labels=[0, 1, 2])
IMAGE = (1, 8, 8)


def network(shape=(2,), classes=0, seed=0, spread=0.1, **more):
    size = {"width": 32, "depth": 2} | ({"heads": 2} if len(shape) == 3 else {})
    net = new_network(shape, classes, "flow", "linear", seed, **size, **more)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in net.named_parameters():
            if "head.weight" in name or "modulation" in name:
                nn.init.normal_(parameter, std=spread)
    return Network(net, "linear", "flow", shape, classes)


def train(*arguments, **options):
    return list(distill(*arguments, **{"batch": 16, "steps": 3, **options}))[-1]


def gradients(net):
    return {name for name, parameter in net.named_parameters() if parameter.grad is not None and parameter.grad.abs().max() > 0}


# ---- hints --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "hint"), [((2,), (1,)), ((2,), (1, 4, 4)), (IMAGE, (1, 4, 4)), (IMAGE, (3,))])
def test_a_hint_is_silent_at_first_and_read_afterwards(shape, hint):
    plain = network(shape).net
    made, x, h = extended(plain, hint=list(hint)), torch.randn(3, *shape), torch.randn(3, *hint)
    assert torch.equal(made(x, 0.7, hint=h), plain(x, 0.7))
    for layer in made.inputs.hint.up:
        nn.init.normal_(layer.weight)
    assert torch.equal(made(x, 0.7), plain(x, 0.7)) and not torch.allclose(made(x, 0.7, hint=h), plain(x, 0.7), atol=1e-3)
    assert torch.allclose(made(x, 0.7, hint=h)[1:], made(x[1:], 0.7, hint=h[1:]), atol=1e-5)
    with pytest.raises(WorkbenchError, match="hint has shape"):
        made(x, 0.7, hint=h[:2])
    with pytest.raises(WorkbenchError, match="takes no hint"):
        plain(x, 0.7, hint=h)


def hinted():
    model = network()
    net = extended(model.net, hint=[1])
    for layer in net.inputs.hint.up:
        nn.init.normal_(layer.weight)
    return Network(net, "linear", "flow", (2,))


def test_every_sample_gets_its_own_hint_whatever_the_batch():
    model, h = hinted(), torch.randn(10, 1)
    whole = wb.sample(model, 10, hint=h, steps=2)
    assert torch.allclose(whole, wb.sample(model, 10, hint=h, steps=2, batch=3), atol=1e-6)
    assert torch.allclose(whole[4:5], wb.sample(model, 10, hint=h[4:5], steps=2)[4:5], atol=1e-6)
    assert not torch.allclose(whole, wb.sample(model, 10, steps=2), atol=1e-3)


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (torch.zeros(3, 2), r"hint is \(3, 2\), but must be a tensor \(n, 1\)"),
        (torch.full((3, 1), float("nan")), "hint holds NaN"),
        (torch.zeros(2, 1), "there are 2 hints for 3 samples"),
        (1.0, "hint is float"),
    ],
)
def test_hints_that_do_not_fit_are_refused(hint, said):
    with pytest.raises(WorkbenchError, match=said):
        wb.sample(hinted(), 3, hint=hint)
    with pytest.raises(WorkbenchError, match="this model takes no hint"):
        wb.sample(network(), 3, hint=torch.zeros(3, 1))


# ---- noise consistency --------------------------------------------------------------------------------------------------


def test_conditions_are_what_they_say():
    assert half_plane(torch.tensor([[0.3, -1.0], [-0.1, 2.0]])).tolist() == [[1.0], [-1.0]]
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, :, 2:] = 3.0
    assert edges(x)[0, 0].tolist() == [[0.0, 3.0, 0.0, 0.0]] * 4
    assert low_resolution(x).tolist() == [[[[0.0, 3.0], [0.0, 3.0]]]]
    assert torch.equal(read(None, x), edges(x)) and read("low-resolution", x).shape == (1, 1, 2, 2)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("egdes", "unknown condition 'egdes': did you mean 'edges'"),
        ("edges", r"the condition edges is read from images"),
        (lambda x: x.sum(), "gave shape"),
        (lambda x: x / 0, "gave NaN or infinite values"),
        (3, "condition is 3, but must be a function"),
    ],
)
def test_a_condition_that_cannot_be_read_is_named_at_the_call(condition, said):
    with pytest.raises(WorkbenchError, match=said):
        distill(network(), "nct", init=network(), condition=condition)


def test_level_0_of_the_noise_is_consistent_and_latents_stay_normal():
    student = hinted()
    one = NoiseConsistency(levels=4).bind(network(), student)
    z, e, h = torch.randn(20000, 2), torch.randn(20000, 2), torch.ones(20000, 1)
    zero = torch.zeros(20000, dtype=torch.long)
    assert float(one.consistency(z, e, None, h, zero).detach().abs().max()) == 0
    assert float(one.consistency(z, e, None, h, zero + 1).detach().mean()) > 0
    for k in range(5):
        z_k = one.noised(z, e, zero + k)
        assert float(z_k.std()) == pytest.approx(1, abs=0.03)
        assert float((z_k * z).mean()) == pytest.approx((1 - (k / 4) ** 2) ** 0.5, abs=0.03)


def test_the_multiplier_falls_to_0_where_the_boundary_holds_and_rises_where_not():
    one = NoiseConsistency(tolerance=0.1, rate=1.0, start=0.05).bind(network(), hinted())
    one.excess = torch.tensor(0.3)
    one.after(0.0)
    assert float(one.multiplier.value) == pytest.approx(0.35)
    one.excess = torch.tensor(-0.4)
    one.after(0.0)
    assert float(one.multiplier.value) == 0


def test_nct_trains_the_adapter_alone_and_the_condition_is_obeyed():
    """The one-step student of a fresh network is nearly the identity, so its half-plane is that of the noise."""
    base = network()
    progress = train(base, "nct", init=base, condition="half-plane", steps=200, batch=64, lr=1e-2)
    student, hint = progress.student, torch.tensor([[1.0], [-1.0]]).repeat(500, 1)
    kept = dict(student.net.named_parameters())
    assert all(torch.equal(kept[name], parameter) for name, parameter in base.net.named_parameters())
    assert torch.equal(wb.sample(student, 8), wb.sample(base, 8, steps=1, sampler="consistency"))
    x = wb.sample(student, 1000, hint=hint)
    plain = wb.sample(student, 1000)
    share, chance = (float((one[:, :1].sign() == hint).float().mean()) for one in (x, plain))
    assert share > 0.85 and chance == pytest.approx(0.5, abs=0.08)
    assert float(x[:, 1].std()) == pytest.approx(float(plain[:, 1].std()), rel=0.25)
    assert student.card["hint"] == [1] and student.card["trained_share"] < 0.7
    assert student.card["trained"]["objective"]["condition"] == "half-plane" and student.hint_shape == (1,)
    again = train(student, "nct", condition="half-plane")  # a student that takes the hint goes on
    assert again.student.hint_shape == (1,)


# ---- a new concept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "classes"), [((2,), 0), ((2,), 3), (IMAGE, 3)])
def test_a_new_class_starts_as_the_null_class_and_the_old_ones_stay(shape, classes):
    net = network(shape, classes).net
    made, x = with_classes(net), torch.randn(2, *shape)
    for label, old in [(classes, -1), (-1, -1), *[(k, k) for k in range(classes)]]:
        assert torch.equal(made(x, 0.5, label), net(x, 0.5, old))


def echoing(**switches):
    teacher, student = network(classes=2), network(classes=2)
    teacher.net.requires_grad_(False)
    student = Network(with_classes(student.net), "linear", "flow", (2,), 3)
    return Echo(**switches).bind(teacher, student), teacher


def test_teacher_and_student_share_the_embedding_of_the_concept():
    one, teacher = echoing()
    batch = Batch(torch.randn(8, 2) + 3, None, 8)
    assert one.turn(0) == ("teacher", "student", "discriminator") and one.concept == 2
    for player in one.turn(0):
        net = one.players[player]
        net.zero_grad()
        one.loss(player, batch, step_rng(0, 0))[0].backward()
        others = [other for name, other in one.players.items() if name != player]
        assert gradients(net) and not any(gradients(other) for other in others) and not gradients(teacher.net)
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
        net.zero_grad()
        [other.zero_grad() for other in others]
    student, refined = (one.players[name].class_embedding.weight for name in ("student", "teacher"))
    mean = (student[2] + refined[2]).detach() / 2
    assert not torch.equal(student[2], refined[2])
    one.after(0.5)
    assert torch.equal(student[2], refined[2]) and torch.allclose(student[2], mean)


def test_what_is_echoed_and_kept_can_be_switched_off():
    batch = Batch(torch.randn(8, 2), None, 8)
    full, bare = (echoing(**switches)[0].loss("teacher", batch, step_rng(0, 0))[1] for switches in ({}, {"echo": 0, "keep": 0}))
    full, bare = ({name.split("/")[0] for name in parts} for parts in (full, bare))
    assert full == {"concept", "echo", "keep", "loss"} and bare == {"concept", "loss"}  # loss: of the concept, by noise level
    one, _ = echoing()
    assert float(one.loss("teacher", batch, step_rng(0, 0))[1]["keep"]) == 0  # nothing has changed yet
    assert float(one.loss("student", batch, step_rng(0, 0))[1]["keep"]) == 0


def test_the_student_knows_one_class_more_and_both_learn_it():
    teacher, concept = network(classes=2), torch.randn(8, 2) * 0.1 + torch.tensor([3.0, 0.0])
    student = train(teacher, "echo", concept, init=network(classes=2), steps=80, lr=1e-2, teacher_lr=1e-2).student
    new, old = wb.sample(student, 300, 2), wb.sample(student, 300, 0)
    assert student.classes == 3 and float(new[:, 0].mean()) > 0.6 + float(old[:, 0].mean())


def test_a_concept_needs_its_pictures():
    student = wb.load("digits/dmd2")
    with pytest.raises(MissingSource, match="a few pictures that are yours to choose: pass data="):
        distill(student, "echo")
    with pytest.raises(WorkbenchError, match="must be a network of ours"):
        distill(LABELLED, "echo", torch.zeros(3, 2), init=network(classes=3))


# ---- super-resolution ---------------------------------------------------------------------------------------------------


def test_a_restored_picture_has_the_means_of_the_given_one():
    teacher, picture = network(IMAGE), torch.randn(5, 1, 4, 4)
    made = Restored(teacher, picture, 2)(torch.randn(5, *IMAGE), 0.6)
    assert torch.allclose(low_resolution(made), picture, atol=1e-5)
    own = teacher(x := torch.randn(5, *IMAGE), 0.6)
    assert torch.allclose(Restored(teacher, low_resolution(own), 2)(x, 0.6), own, atol=1e-5)


def test_the_score_term_is_0_at_the_teachers_answer_and_plain_score_distillation_is_not():
    teacher = network(IMAGE)
    one = SuperResolution().bind(teacher, Network(extended(network(IMAGE).net, hint=[1, 4, 4]), "linear", "flow", IMAGE))
    x = torch.randn(4, *IMAGE, requires_grad=True)
    one.score(x, x.detach(), None, step_rng(0, 0))[0].backward()
    assert float(x.grad.abs().max()) == 0
    assert float((x - teacher(one.path.mix(x, torch.randn(4, *IMAGE), 0.1), 0.1)).abs().max()) > 0.1  # what SDS would pull by
    other = torch.randn(4, *IMAGE)
    one.score(x, other, None, step_rng(0, 0))[0].backward()
    rng = step_rng(0, 0)
    t, eps = 0.02 + 0.28 * torch.rand(4, generator=rng).double(), torch.randn(4, *IMAGE, generator=rng)
    rest = [y - teacher(one.path.mix(y, eps, t), t) for y in (x.detach(), other)]
    assert torch.allclose(x.grad * x.numel(), rest[0] - rest[1], atol=1e-4)


def test_the_teachers_answer_is_that_of_its_flow_from_the_same_noise():
    teacher = network(IMAGE)
    one = SuperResolution(solver_steps=3).bind(teacher, teacher)
    z = torch.randn(2, *IMAGE)
    plan = wb.plan("ddim", "linear", 3)
    *_, last = wb.run(plan, teacher, z)
    assert torch.equal(one.answers(z, None, None), last.x)
    assert torch.allclose(low_resolution(one.answers(z, picture := torch.randn(2, 1, 4, 4), None)), picture, atol=1e-5)


def test_a_picture_is_restored_in_one_step_after_training():
    data = torch.rand(64, 1, 1, 1) + torch.rand(64, 1, 1, 8) * torch.ones(1, 1, 8, 1)
    progress = train(network(IMAGE), "tad-sr", data, steps=40, batch=32, lr=1e-2, solver_steps=2, free=0.0)
    student = progress.student
    found = low_resolution(wb.sample(student, 64, hint=low_resolution(data)))
    one, other = found.mean((1, 2, 3)), data.mean((1, 2, 3))
    assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) > 0.7
    assert {"student/score", "student/regression", "student/gan", "discriminator/accuracy"} <= set(progress.losses)
    assert student.hint_shape == (1, 4, 4) and progress.metrics["paired_rms"] > 0


@pytest.mark.parametrize(
    ("teacher", "options", "said"),
    [
        (LABELLED, {}, r"needs images \(c, h, w\)"),
        (network(IMAGE), {"factor": 3}, "factor is 3, which does not divide 8 x 8"),
        (network(IMAGE), {"factor": 1}, "factor is 1"),
        (network(IMAGE), {}, r"pass data=\.\.\."),
    ],
)
def test_what_cannot_be_restored(teacher, options, said):
    with pytest.raises(WorkbenchError, match=said):
        distill(teacher, "tad-sr", **options)


# ---- steering away from a class -----------------------------------------------------------------------------------------


def test_steering_is_negative_guidance_and_0_changes_nothing():
    student = wb.load("digits/dmd2")
    steered = wb.sample(student, 4, 1, negative=3, steering=2.0)
    assert torch.equal(steered, wb.sample(negative_guidance(student, 3, 2.0), 4, 1))
    assert not torch.allclose(steered, wb.sample(student, 4, 1), atol=1e-3)
    assert torch.equal(wb.sample(student, 4, 1, negative=3, steering=0.0), wb.sample(student, 4, 1))


@pytest.mark.parametrize("more", [{"two_times": True}, {"z_dim": 4}, {"guidance_input": (1.0, 4.0)}, {"guidance_input": (1.0, 4.0), "adapter": 8}, {"hint": (1, 4, 4)}])  # fmt: skip
def test_every_attention_network_can_be_steered(more):
    model = network(IMAGE, 3, **more)
    model.two_times = bool(more.get("two_times"))
    for layer in [*getattr(model.net.inputs.hint, "up", ()), *getattr(model.net.inputs.adapters, "up", ())]:
        nn.init.normal_(layer.weight)
    given = {"w": 2.0} if "guidance_input" in more else {}
    given |= {"hint": torch.randn(3, 1, 4, 4)} if "hint" in more else {}
    given |= {"z": torch.randn(3, 4)} if "z_dim" in more else {}
    x = torch.randn(3, *IMAGE)
    steered = negative_guidance(model, 1, 2.0)
    assert torch.allclose(steered(x, 0.8, 1, **given), model(x, 0.8, 1, **given), atol=1e-5)  # away from its own class
    assert not torch.allclose(steered(x, 0.8, 0, **given), model(x, 0.8, 0, **given), atol=1e-4)


def test_each_student_of_a_set_is_steered():
    model = wb.load("fashion/msd")
    steered, x = negative_guidance(model, 1, 2.0), torch.randn(3, 1, 28, 28)
    own, others = torch.tensor([1, 1, 1]), torch.tensor([0, 5, 9])  # of both students
    with torch.no_grad():
        assert torch.allclose(steered(x, 1.0, own), model(x, 1.0, own), atol=1e-5)
        apart = (steered(x, 1.0, others) - model(x, 1.0, others)).abs().flatten(1).amax(1)
    assert apart.min() > 1e-3


# ---- what all of them share ---------------------------------------------------------------------------------------------

CASES = {
    "nct": (network(), {"init": network()}),
    "sfd": (network(classes=3), {"forget": 1, "init": network(classes=3)}),
    "echo": (network(classes=2), {"init": network(classes=2), "data": torch.randn(8, 2)}),
    "tad-sr": (network(IMAGE), {"data": torch.randn(8, *IMAGE), "solver_steps": 2}),
}


@pytest.mark.parametrize("name", CASES)
def test_training_resumes_bit_for_bit(tmp_path, name):
    teacher, options = CASES[name]
    options = {"steps": 4, "batch": 8, **options}
    whole = list(distill(teacher, name, run=tmp_path / "whole", **options))[-1].student
    for _ in distill(teacher, name, run=tmp_path / "broken", **options):
        break
    broken = list(distill(teacher, name, run=tmp_path / "broken", **options))[-1].student
    assert all(torch.equal(a, b) for a, b in zip(whole.net.parameters(), broken.net.parameters(), strict=True))
    assert wb.load(tmp_path / "whole" / "student").hint_shape == whole.hint_shape
    assert get(name).objective.sampling == get(name).sampling


@pytest.mark.parametrize("name", ["nct", "echo"])
def test_a_teacher_that_is_no_student_needs_init(name):
    with pytest.raises(WorkbenchError, match="this teacher is none: pass init="):
        distill(network(classes=2), name, torch.zeros(3, 2))
