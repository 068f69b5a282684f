"""Options that any pointwise recipe takes by name: each works with each recipe, or one sentence says why it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.denoiser import Guided, Network
from workbench.distill.compiling import backend_of, compile_networks
from workbench.distill.distill import distill
from workbench.distill.fit import check_fit
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives import times as at
from workbench.distill.objectives.maps import average_velocity, from_average, total_derivative, velocity
from workbench.distill.objectives.parts import FEATURES_OF, FeatureDistance, PseudoHuber
from workbench.distill.objectives.pointwise import METRICS, Pointwise
from workbench.distill.objectives.targets import Eulerian, Point, Semigroup
from workbench.distill.recipes import RECIPES, get
from workbench.distill.students import new_student, settled
from workbench.errors import UnknownName, WorkbenchError
from workbench.networks import new_network
from workbench.samplers.sample import Sampling

POINTWISE = sorted(name for name, recipe in RECIPES.items() if type(recipe.objective) is Pointwise)
SHAPE, CLASSES, N = (1, 8, 8), 3, 8
TINY = {"width": 16, "depth": 1, "heads": 2}
STORED = {name for name in POINTWISE if getattr(get(name).objective.target, "asks_student", True) is False}
DATA_ALONE = {name for name in POINTWISE if not get(name).objective.asks_teacher}


@pytest.fixture(scope="module")
def teacher():
    net, rng = new_network(SHAPE, CLASSES, "flow", "linear", **TINY), torch.Generator().manual_seed(0)
    for name, parameter in net.named_parameters():
        if "head" in name or "modulation" in name:
            nn.init.normal_(parameter, std=0.1, generator=rng)
    return Network(net.requires_grad_(False), "linear", "flow", SHAPE, CLASSES)


def step(teacher, name, network=None, **options):
    """The loss of one step, with its gradient, as `distill` would train it."""
    chosen = get(name).configured(**options)
    data = (torch.randn(N, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.arange(N) % CLASSES)
    check_fit(chosen, teacher, data, None, network)
    given, more = settled(teacher, chosen)
    student, _ = new_student(given, None, 0, chosen.configured(**more), network or {})
    bound = chosen.configured(**more).objective.bind(given, student)
    bound.real_samples = lambda rng: data
    if hasattr(bound, "prepare"):
        for _ in bound.prepare(None, 0, "cpu"):
            pass
    loss, parts = bound.loss("student", Batch(*data, N, 0.5), step_rng(0, 0))
    loss.backward()
    assert torch.isfinite(loss) and any(p.grad is not None for p in student.net.parameters())
    return student, parts


def few(name):
    return {"count": N, "chunk": N} | ({"inner": 1} if name == "keypoints" else {}) if get(name).objective.start.pairs else {}


TOGETHER = {
    "images": {"mixing": 0.4, "metric": "features", "guidance": 2.5, "average": 0.9, "gan": 0.1},
    "guidance as input": {"metric": "pseudo-huber", "guidance": (1.0, 4.0), "lora": 2},
    "smaller": {"metric": "l2", "times": at.Grid(4, 16), "average": 0.0, "network": {"width": 8, "depth": 1, "heads": 2}},
}
OWN_TIMES, TOP = {"keypoints", "tbcm", "agd"}, {"boot", "freeflow"}
REFUSED = {  # option -> recipes, and what is said
    "average": (STORED, {"average": 0.9}, "asks no student for its target"),
    "guidance": (DATA_ALONE - {"meanflow", "meanflow-dispersive"}, {"guidance": 2.5}, "learns from data alone"),
    "times": (OWN_TIMES, {"times": at.Grid(4, 16)}, "draws itself: set its options"),
    "start": (TOP, {"times": at.Grid(4, 16)}, "set times=FromTop"),
    "network": ({"hipa", "agd"}, {"network": {"width": 8, "depth": 1, "heads": 2}}, "beside a trained network"),
    "lora": ({"agd"}, {"lora": 2}, "set one of them to 0"),
    "one scale": ({"agd"}, {"guidance": 2.5}, "set guidance to a range"),
}


@pytest.mark.parametrize("together", sorted(TOGETHER))
@pytest.mark.parametrize("name", POINTWISE)
def test_every_option_works_with_every_recipe(teacher, name, together):
    """Target mixing, metrics, guidance folded in and as an input, moving average and none, a grid of times, low rank, a smaller student, an adversary."""
    options = dict(TOGETHER[together])
    for option, (names, given, _) in REFUSED.items():
        if name in names:
            for key in given:
                if options.get(key) == given[key] or (key == "guidance" and option == "guidance"):
                    options.pop(key, None)
    student, parts = step(teacher, name, **options | few(name))
    own = isinstance(get(name).objective.guidance, tuple)
    assert (student.guidance_input is not None) == isinstance(options.get("guidance", () if own else None), tuple)
    assert together != "images" or "gan" in parts


@pytest.mark.parametrize(
    ("option", "name"), [(option, name) for option, (names, *_) in REFUSED.items() for name in sorted(names)]
)
def test_an_option_that_cannot_work_says_why(teacher, name, option):
    with pytest.raises(WorkbenchError, match=REFUSED[option][2]):
        step(teacher, name, **REFUSED[option][1] | few(name))


def test_metrics_have_names():
    assert get("cd").configured(metric="pseudo_huber").objective == get("cd").objective
    assert get("kd").configured(metric="Features").objective.metric == FeatureDistance() and len(METRICS) == 6
    with pytest.raises(UnknownName, match="unknown metric 'huber'"):
        get("cd").configured(metric="huber")
    for wrong, said in (({"metric": 3}, "metric is 3"), ({"weight": 2}, "weight is 2"), ({"times": "grid"}, "times is 'grid'")):
        with pytest.raises(WorkbenchError, match=said):
            get("cd").configured(**wrong)


def test_options_that_nothing_reads_are_not_there():
    for name in ("tbcm", "agd", "keypoints"):
        assert not {"mean", "std", "share"} & set(get(name).options())
    assert "route" in get("tbcm").options() and {"mean", "std"} <= set(get("scm").options())
    with pytest.raises(
        WorkbenchError, match="mean changes the times of recipe 'tbcm', which FromRollout draws itself: set its options, route"
    ):
        get("tbcm").configured(mean=0.5)


def test_features_are_those_of_samples_also_where_velocities_are_compared(teacher):
    student, _ = new_student(teacher, None, 0, get("reflow"), {})
    bound = get("reflow").configured(metric="features").objective.bind(teacher, student)
    x, t = torch.randn(2, *SHAPE), torch.full((2,), 0.1, dtype=torch.float64)
    a, b = bound._compared(x, 2 * x, Point(x, t, 0 * t, None))
    assert a is x and torch.equal(b, 2 * x) and FEATURES_OF[SHAPE] == "digits"
    plain = get("reflow").configured(metric=PseudoHuber()).objective.bind(teacher, student)
    assert torch.allclose(plain._compared(x, x, Point(x, t, 0 * t, None))[0], 10 * x, atol=1e-4)


# --- guidance of a recipe without a teacher

LABELLED = wb.mixture([[-1.0], [1.2]], [0.3, 0.3], labels=[0, 1])


@pytest.mark.parametrize("rule", [Eulerian("data"), Semigroup("data")], ids=lambda rule: type(rule).__name__)
def test_without_a_teacher_guidance_mixes_the_students_own_velocities(rule):
    """V = w (eps - x0) + (1 - w) u(x, t, t) without a label; a null label has V = eps - x0 (MeanFlow, arXiv 2505.13447, section 4.2)."""
    u = lambda x, t, cond, s: torch.sin(x) + 0.5 * cond[:, None] + (0.2 * s)[:, None]  # noqa: E731
    net = Network(u, "linear", "flow", (1,), 2, True)
    rng = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 6, 1, generator=rng, dtype=torch.float64)
    t, cond = torch.full((6,), 0.5, dtype=torch.float64), torch.tensor([0, 1, 0, 1, -1, -1])
    p = Point(net.path.mix(x0, eps, t), t, t, cond, x0, t, eps)  # s = t: the target is V itself
    null = average_velocity(net, p.x, t, t, torch.full_like(cond, -1))
    for scale in (3.0, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64)):
        w = torch.as_tensor(scale, dtype=torch.float64).expand(6)[:, None]
        v = torch.where(cond[:, None] >= 0, w * (eps - x0) + (1 - w) * null, eps - x0)
        assert torch.allclose(rule(Guided(LABELLED, scale), net, p), from_average(net.path, p.x, t, v), atol=1e-9)
    assert torch.allclose(rule(LABELLED, net, p), from_average(net.path, p.x, t, eps - x0), atol=1e-9)


def test_the_guided_velocity_is_that_of_a_guided_teacher_on_average():
    """With a student that knows the exact velocities, E[V | x] is the guided teacher's: the two recipes have one fixed point."""
    n, w, t, x = 40_000, 2.0, 0.6, 0.5
    rng = torch.Generator().manual_seed(0)
    variance = 0.09 * t**2 / ((1 - t) ** 2 * 0.09 + t**2)
    times, states, cond = (
        torch.full((n,), t, dtype=torch.float64),
        torch.full((n, 1), x, dtype=torch.float64),
        torch.ones(n, dtype=torch.long),
    )
    x0 = LABELLED(states, times, cond) + variance**0.5 * torch.randn(n, 1, generator=rng, dtype=torch.float64)
    net = Network(lambda x, t, cond, s: velocity(LABELLED, x, t, cond), "linear", "flow", (1,), 2, True)
    p = Point(states, times, times, cond, x0, times, (states - (1 - t) * x0) / t)
    made = Eulerian("data")(Guided(LABELLED, w), net, p)
    exact = Guided(LABELLED, w)(states[:1], times[:1], cond[:1])
    assert abs(float(made.mean() - exact)) < 5 * float(made.std()) / n**0.5


def test_a_recipe_of_data_alone_says_on_its_card_that_nothing_is_guided(tmp_path):
    teacher = Network(new_network((2,), 2, "flow", "linear"), "linear", "flow", (2,), 2)
    teacher.sampling = Sampling("ddim", 4, guidance=3.0)
    data = (torch.randn(32, 2), torch.arange(32) % 2)
    baked = {
        name: list(distill(teacher, name, data, run=tmp_path / name, steps=1, batch=8, **more))[-1].student.card[
            "guidance_baked_in"
        ]
        for name, more in (("ct", {}), ("meanflow", {}), ("cd", {}), ("scm", {"guidance": 2.0}))
    }
    assert baked == {"ct": 1.0, "meanflow": 1.0, "cd": 3.0, "scm": 2.0}


def test_guidance_without_classes_is_refused_before_training(tmp_path):
    for guidance in (2.0, (1.0, 3.0)):
        with pytest.raises(WorkbenchError, match="no classes, so nothing guides it"):
            distill(wb.mixture([[1.0, 0.0]], [0.2]), "cd", guidance=guidance, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- switches that contradict one another


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("freeflow", {"two_times": False}, "Lagrangian asks the student where a jump from t to s lands: set two_times=True"),
        ("splitmeanflow", {"two_times": False}, "Semigroup asks the student"),
        ("boot", {"two_times": False}, "Lagged asks the student"),
        ("ctm", {"two_times": False}, "push=True"),
        ("boot", {"times": at.Between()}, r"FromPrior\(\) starts at pure noise, t = 1, and times is Between"),
        ("kd", {"average": 0.5}, "average is 0.5, but StoredEndpoint asks no student"),
    ],
)
def test_switches_that_contradict_one_another_are_refused(name, options, said):
    with pytest.raises(WorkbenchError, match=said):
        get(name).configured(**options)


# --- derivatives in time, and compiled networks

JVP = sorted(name for name in POINTWISE if "exact" in get(name).options())


class Backward(torch.autograd.Function):
    """The identity, without a derivative in forward mode."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_a_network_without_forward_derivatives_is_told_of_differences():
    x, t = torch.randn(3, 1), torch.full((3,), 0.5, dtype=torch.float64)
    inputs = (lambda y, s: Backward.apply(y) * s[:, None].float(), x, t, torch.ones_like(x), torch.ones_like(t))
    with pytest.raises(WorkbenchError, match=r"no derivative in forward mode .* set exact=False for central differences"):
        total_derivative(*inputs)
    assert torch.allclose(total_derivative(*inputs, exact=False)[1], 0.5 + x, atol=1e-3)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):  # any other mistake is told as it is
        total_derivative(lambda y, s: y @ y, *inputs[1:])


@pytest.mark.parametrize("name", JVP)
def test_central_differences_replace_forward_derivatives(teacher, name):
    gradients = [
        torch.cat([p.grad.flatten() for p in step(teacher, name, exact=exact)[0].net.parameters() if p.grad is not None])
        for exact in (True, False)
    ]
    assert float((gradients[0] - gradients[1]).norm()) < 0.03 * float(gradients[0].norm())


def test_backends_of_the_compiler_have_names():
    assert backend_of(True) == "inductor" and backend_of("eager") == "eager" and backend_of(False) is None
    with pytest.raises(UnknownName, match="unknown compile backend 'inducto': did you mean 'inductor'"):
        distill(LABELLED, "cd", compile="inducto")
    with pytest.raises(WorkbenchError, match="compile is 3"):
        distill(LABELLED, "cd", compile=3)


def test_a_compiled_training_gives_the_same_student(tmp_path):
    """With the backend that only traces: the same weights and names, and a run may be continued with it."""
    net = Network(new_network((2,), 2, "flow", "linear", width=16, depth=1), "linear", "flow", (2,), 2)
    options = {"data": (torch.randn(32, 2), torch.arange(32) % 2), "batch": 8, "steps": 2, "seed": 1}
    plain, compiled = (
        list(distill(net, "cd", run=tmp_path / str(flag), compile=flag, **options))[-1].student for flag in (False, "eager")
    )
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain.net.parameters(), compiled.net.parameters(), strict=True))
    assert list(plain.net.state_dict()) == list(compiled.net.state_dict()) and "compile" not in compiled.card["trained"]
    assert list(distill(net, "cd", run=tmp_path / "False", compile="eager", **options))[-1].step == 2


def test_every_network_of_an_objective_is_compiled(teacher):
    counts = {}
    for name in ("cd", "freeflow", "slimflow", "progressive", "sana-sprint"):
        student, _ = new_student(teacher, None, 0, get(name), {})
        counts[name] = compile_networks(get(name).objective.bind(teacher, student), Guided(teacher, 2.0), "eager")
    # student and teacher, and: target net; critic; straightened flow; last stage
    assert counts == {"cd": 3, "freeflow": 3, "slimflow": 3, "progressive": 3, "sana-sprint": 2}
    teacher.net._compiled_call_impl = None


@pytest.mark.parametrize("path", ["vp", "edm"])
def test_every_recipe_trains_on_every_path(path):
    """Finite and of a sensible size at the beginning and the end of a run, also where the path explodes or its alpha ends at 0."""
    exact = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2], labels=[0, 1], path=path)
    x0, cond = exact.sample(16, seed=0, labels=True)
    for name in set(POINTWISE) - {"hipa", "agd"}:  # images, and a network to adapt
        chosen = get(name).fitted((2,), True).configured(**few(name))
        check_fit(chosen, exact, (x0, cond))
        student, _ = new_student(exact, None, 0, chosen, {"width": 16, "depth": 1})
        bound = chosen.objective.bind(exact, student)
        bound.real_samples = lambda rng: (x0.float(), cond)
        for _ in bound.prepare(None, 0, "cpu") if hasattr(bound, "prepare") else ():
            pass
        for progress in (0.0, 0.99):
            loss, _ = bound.loss("student", Batch(x0.float(), cond, 16, progress), step_rng(0, 0))
            loss.backward()
            bound.after(progress)
            assert abs(float(loss.detach())) < 1e3, name  # also: not NaN
        assert all(bool(torch.isfinite(p.grad).all()) for p in student.net.parameters() if p.grad is not None), name
