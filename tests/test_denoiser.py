"""Denoisers and their wrappers: what guidance, thresholding and precision compute, and that evaluations are counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import workbench as wb
from workbench.denoiser import Autoguided, Counted, Guided, Network, Precision, Thresholded, evaluate, tally
from workbench.errors import UnknownName, WorkbenchError

TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.5]], [0.3, 0.4])
CLASSES = type(TEACHER)([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5], labels=[0, 1, 1])
X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1, 0, -1])


class Plain:
    """A denoiser that never tallies, and remembers how it was called."""

    path, shape, classes = wb.paths.linear, (2,), 2

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: float | Tensor, cond: Tensor | None = None) -> Tensor:
        self.batches.append(len(x))
        return x * (2.0 + torch.as_tensor(-1 if cond is None else cond).to(x).expand(len(x))[:, None])


# -- guidance


@pytest.mark.parametrize("scale", [3.0, 0.5, -1.0])
def test_guidance_is_unconditional_plus_scale_times_the_difference_in_one_call(scale: float) -> None:
    model = Plain()
    out, nfe = evaluate(Guided(model, scale), X, 0.5, LABELS)
    assert model.batches == [10] and nfe == 2
    with_cond, without = CLASSES(X, 0.5, LABELS), CLASSES(X, 0.5)
    assert torch.allclose(Guided(CLASSES, scale)(X, 0.5, LABELS), without + scale * (with_cond - without), atol=1e-13)
    assert torch.equal(out[4], X[4])  # a sample of the null class has nothing to be guided towards


def test_scales_one_and_zero_cost_one_evaluation() -> None:
    for scale, expected in ((1.0, CLASSES(X, 0.5, LABELS)), (0.0, CLASSES(X, 0.5))):
        model = Counted(CLASSES)
        out, nfe = evaluate(Guided(model, scale), X, 0.5, LABELS)
        assert torch.equal(out, expected) and (nfe, model.calls, model.nfe) == (1, 1, 1)


def test_without_a_condition_guidance_does_nothing() -> None:
    out, nfe = evaluate(Guided(CLASSES, 5.0), X, 0.5)
    assert torch.equal(out, CLASSES(X, 0.5)) and nfe == 1


def test_one_label_for_all() -> None:
    assert torch.equal(Guided(CLASSES, 2.0)(X, 0.5, 1), Guided(CLASSES, 2.0)(X, 0.5, torch.ones(5, dtype=torch.long)))


def test_guidance_acts_inside_its_interval() -> None:
    guided = Guided(CLASSES, 4.0, interval=(0.3, 0.6))
    for t, cost in ((0.2, 1), (0.3, 2), (0.6, 2), (0.61, 1)):
        out, nfe = evaluate(guided, X, t, LABELS)
        assert nfe == cost
        assert torch.equal(out, (Guided(CLASSES, 4.0) if cost == 2 else CLASSES)(X, t, LABELS))
    times = torch.tensor([0.2, 0.3, 0.5, 0.6, 0.7], dtype=torch.float64)
    together = guided(X, times, LABELS)
    for i, t in enumerate(times.tolist()):
        assert torch.allclose(together[i], guided(X[i : i + 1], t, LABELS[i : i + 1])[0], atol=1e-13)


@pytest.mark.parametrize("interval", [(0.5, 0.2), (-0.1, 0.5), (0.0, 1.5), (float("nan"), 1.0)])
def test_impossible_intervals(interval: tuple[float, float]) -> None:
    with pytest.raises(WorkbenchError, match="guidance interval"):
        Guided(CLASSES, 2.0, interval)


def test_guidance_hands_on_the_second_time() -> None:
    seen = []

    def net(x: Tensor, t: Tensor, cond: Tensor, s: Tensor) -> Tensor:
        seen.append(s)
        return x

    model = Guided(Network(net, "linear", "x0", (2,), classes=2, two_times=True), 2.0)
    model(X, 0.5, LABELS, s=0.25)
    model(X, torch.full((5,), 0.5), LABELS, s=torch.linspace(0, 0.4, 5))
    assert torch.equal(seen[0], torch.full((10,), 0.25).double())
    assert torch.equal(seen[1], torch.linspace(0, 0.4, 5).repeat(2).double())


# -- counting


def test_counting_through_nested_wrappers() -> None:
    inner = Counted(Plain())
    outer = Counted(Thresholded(Guided(inner, 3.0), "clip", limit=9.0))
    _, nfe = evaluate(outer, X, 0.5, LABELS)
    assert nfe == outer.nfe == 2 and outer.calls == 1
    assert inner.nfe == 1 and inner.calls == 1  # of its own batch, twice as long
    outer(X, 0.5, None)
    assert outer.nfe == 3 and outer.calls == 2


def test_a_model_may_say_what_it_cost() -> None:
    def three(x: Tensor, t: float, cond: object = None) -> Tensor:
        for _ in range(3):
            tally(len(x))
        return x

    assert evaluate(three, X, 0.5)[1] == 3
    tally(100)  # nobody counts: nothing happens
    assert evaluate(three, X, 0.5)[1] == 3


def test_counting_survives_an_error() -> None:
    def fails(x: Tensor, t: float, cond: object = None) -> Tensor:
        tally(len(x))
        raise RuntimeError("boom")

    model = Counted(fails)
    with pytest.raises(RuntimeError, match="boom"):
        model(X, 0.5)
    assert model.nfe == 0 and evaluate(TEACHER, X, 0.5)[1] == 1


@pytest.mark.parametrize(("sampler", "evaluations"), [("ddim", 4), ("heun", 7)])
def test_frames_count_network_evaluations(sampler: str, evaluations: int) -> None:
    plan, noise = wb.plan(sampler, "linear", 4), X
    for model, each in ((CLASSES, 1), (Guided(CLASSES, 2.0), 2), (Guided(Plain(), 2.0), 2), (Guided(CLASSES, 0.0), 1)):
        frames = list(wb.run(plan, model, noise, LABELS))
        assert [frame.nfe for frame in frames] == [each * k for k in range(1, evaluations + 1)] + [each * evaluations]


def test_wrappers_pass_attributes_on() -> None:
    model = Counted(Thresholded(Guided(CLASSES, 2.0)))
    assert model.path is CLASSES.path and model.shape == (2,) and model.classes == 2
    with pytest.raises(AttributeError, match="nonsense"):
        _ = model.nonsense


# -- thresholding


def test_clip() -> None:
    model = Thresholded(lambda x, t, cond: 3 * x, "clip", limit=1.5)
    assert torch.equal(model(X, 0.5), (3 * X).clamp(-1.5, 1.5))


def test_dynamic_thresholding() -> None:
    x = torch.tensor([[0.2, -0.5], [4.0, -1.0], [-2.0, 3.0]], dtype=torch.float64)
    largest = Thresholded(lambda x, t, cond: x, "dynamic", limit=2.0, quantile=1.0)(x, 0.5)
    # quantile 1: the largest pixel lands on the limit, nothing is clipped, and what lies within the limit is untouched
    assert torch.allclose(largest, torch.tensor([[0.2, -0.5], [2.0, -0.5], [-4 / 3, 2.0]], dtype=torch.float64))
    half = Thresholded(lambda x, t, cond: x, "dynamic", limit=1.0, quantile=0.5)(x, 0.5)
    assert torch.allclose(half[1], torch.tensor([1.0, -0.4], dtype=torch.float64))  # s = 2.5 clips 4, then all over 2.5


def test_dynamic_is_clip_where_the_limit_exceeds_the_quantile() -> None:
    args = {"limit": 1.0, "quantile": 0.01}
    x = X / X.abs().amax(1, keepdim=True) * 0.9
    assert torch.equal(Thresholded(lambda x, t, c: x, "dynamic", **args)(x, 0.5), x)


@pytest.mark.parametrize("options", [{"limit": 0.0}, {"quantile": 0.0}, {"quantile": 1.1}, {"limit": float("nan")}])
def test_impossible_thresholding(options: dict) -> None:
    with pytest.raises(WorkbenchError, match="thresholding needs"):
        Thresholded(TEACHER, "dynamic", **options)
    with pytest.raises(UnknownName, match="did you mean 'dynamic'"):
        Thresholded(TEACHER, "dynamik")


# -- precision and networks


def test_precision_returns_the_states_own() -> None:
    torch.manual_seed(0)
    net = nn.Linear(2, 2)
    seen = []

    def call(x: Tensor, t: Tensor, cond: object) -> Tensor:
        seen.append(net(x).dtype)
        return net(x)

    model = Network(call, "linear", "x0", (2,))
    out = Precision(model, torch.bfloat16)(X.float(), 0.5)
    assert seen == [torch.bfloat16] and out.dtype == torch.float32
    assert torch.allclose(out, model(X.float(), 0.5), atol=0.05) and not torch.equal(out, model(X.float(), 0.5))


@pytest.mark.parametrize("path", ["linear", "cosine", "vp", "trig", "edm"])
@pytest.mark.parametrize("kind", ["x0", "eps", "v", "flow"])
def test_a_network_of_any_kind_is_the_same_denoiser(path: str, kind: str) -> None:
    """A network that predicts the exact kind of a mixture becomes the mixture's denoiser."""
    teacher = TEACHER.on(path)

    def net(x: Tensor, t: Tensor, cond: object) -> Tensor:
        assert t.shape == (len(x),)
        r = teacher.path.mix(torch.ones_like(x), torch.zeros_like(x), t) ** 2 if path == "edm" else torch.ones_like(x)
        if path == "edm":  # variance-exploding: it sees x / r and answers in units of r
            r = (r + teacher.path.mix(torch.zeros_like(x), torch.ones_like(x), t) ** 2).sqrt()
        return teacher.path.convert(teacher(x * r, t), x * r, t, "x0", kind) / r

    model = Network(net, path, kind, (2,))
    times = torch.tensor([0.3, 0.4, 0.5, 0.7, 0.9], dtype=torch.float64)
    for t in (0.4, times, torch.tensor(0.4, dtype=torch.float64)):
        x = X * (10.0 if path == "edm" else 1.0)
        assert torch.allclose(model(x, t), teacher(x, t), rtol=1e-9, atol=1e-8)


def test_a_network_keeps_its_own_and_the_states_precision() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x: Tensor, t: Tensor, cond: object) -> Tensor:
            assert x.dtype == t.dtype == torch.float32
            return self.linear(x)

    model = Network(Net(), "linear", "flow", (2,))
    assert model.dtype == torch.float32
    assert model(X, 0.5).dtype == torch.float64
    with pytest.raises(UnknownName, match="did you mean 'flow'"):
        Network(Net(), "linear", "flows", (2,))


def test_a_flow_map_without_a_second_time_gets_the_first() -> None:
    model = Network(lambda x, t, cond, s: x * s[:, None], "linear", "x0", (2,), two_times=True)
    assert torch.equal(model(X, 0.5), 0.5 * X) and torch.equal(model(X, 0.5, s=0.25), 0.25 * X)


# -- autoguidance


def test_autoguidance_goes_on_from_the_weak_model_past_the_strong_one() -> None:
    weak = wb.mixture([[1.0, 0.0], [-1.0, 0.5]], [0.6, 0.6])
    out, nfe = evaluate(Autoguided(TEACHER, weak, 2.0), X, 0.5)
    assert nfe == 2 and torch.allclose(out, 2 * TEACHER(X, 0.5) - weak(X, 0.5), atol=1e-12)
    alone, nfe = evaluate(Autoguided(TEACHER, weak, 1.0), X, 0.5)
    assert nfe == 1 and torch.equal(alone, TEACHER(X, 0.5))
    assert torch.allclose(Autoguided(TEACHER, TEACHER, 5.0)(X, 0.5), TEACHER(X, 0.5), atol=1e-12)


def test_autoguidance_of_a_gaussian_narrows_it() -> None:
    """A weak model that is too wide: samples of the guided one are narrower than the law, by the flow of 2 D - D_weak."""
    law, wide = wb.mixture([[0.0]], [0.5]), wb.mixture([[0.0]], [0.8])
    plain, guided = (float(wb.sample(model, 4000, steps=40, seed=0).std()) for model in (law, Autoguided(law, wide, 2.0)))
    assert plain == pytest.approx(0.5, rel=0.03) and guided < 0.8 * plain


def test_autoguidance_needs_two_models_of_one_kind() -> None:
    with pytest.raises(WorkbenchError, match="path is cosine, and the model's linear: choose a weaker model of the same kind"):
        Autoguided(TEACHER, wb.mixture([[1.0, 0.0]], [0.5], path="cosine"), 2.0)
    with pytest.raises(WorkbenchError, match=r"shape is \(1,\), and the model's \(2,\)"):
        Autoguided(TEACHER, wb.mixture([[1.0]], [0.5]), 2.0)


def test_a_student_of_an_autoguided_network_starts_as_the_strong_one() -> None:
    from workbench.networks import new_network

    strong, weak = (
        Network(new_network((2,), 0, "flow", "linear", k, width=32, depth=2), "linear", "flow", (2,)) for k in (0, 1)
    )
    torch.nn.init.normal_(strong.net.head.weight)
    *_, last = wb.distill(Autoguided(strong, weak, 2.0), "ayf", data=torch.randn(64, 2), steps=1, batch=16, lr=0.0)
    x, t = X.float(), torch.full((5,), 0.6)
    assert torch.allclose(last.student(x, t, None, t), strong(x, t), atol=1e-6)
    assert not torch.allclose(strong(x, t), weak(x, t), atol=1e-3)


def test_both_networks_of_an_autoguided_teacher_are_moved_and_frozen_as_copies() -> None:
    from workbench.distill.distill import _frozen
    from workbench.networks import new_network

    nets = [new_network((2,), 0, "flow", "linear", seed, width=32, depth=2) for seed in (0, 1)]
    held = _frozen(Autoguided(*(Network(net, "linear", "flow", (2,)) for net in nets), 2.0), "meta")
    for mine, given in zip((held.model.net, held.weak.net), nets, strict=True):
        assert {(p.device.type, p.requires_grad) for p in mine.parameters()} == {("meta", False)}
        assert {(p.device.type, p.requires_grad) for p in given.parameters()} == {("cpu", True)}
