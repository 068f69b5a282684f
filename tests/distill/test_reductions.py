"""Reductions of one method to another: rules in their limits, the same targets on every path, and rows with other switches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import paths
from workbench.denoiser import Network
from workbench.distill.loop import step_rng
from workbench.distill.objectives import times as at
from workbench.distill.objectives.maps import average_velocity, jump, size_of, tau_of, total_derivative, velocity
from workbench.distill.objectives.parts import L2, PseudoHuber
from workbench.distill.objectives.starts import FromData
from workbench.distill.objectives.targets import (
    DiscreteConsistency,
    Eulerian,
    Lagged,
    Lagrangian,
    Point,
    Semigroup,
    TeacherSteps,
    TrigTangent,
    angle_of,
)
from workbench.distill.recipes import get

MEAN, WIDTH = 0.7, 0.4
F64 = torch.float64
LINEAR = paths.get("linear")


def teacher(path="linear"):
    return wb.mixture([[MEAN]], [WIDTH], path=path)


def bent(two_times=True):
    """Any smooth student: u(x, t, s) = sin(x + 0.7 t) + 0.3 s t x."""

    def u(x, t, cond=None, s=None):
        return (
            torch.sin(x + 0.7 * t[:, None]) + (0.3 * s * t)[:, None] * x if s is not None else torch.sin(x + 0.7 * t[:, None])
        )

    return Network(u, "linear", "flow", (1,), 0, two_times)


def point(n=32, end=None, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x0 = MEAN + WIDTH * torch.randn(n, 1, generator=rng, dtype=F64)
    eps = torch.randn(n, 1, generator=rng, dtype=F64)
    t = 0.3 + 0.6 * torch.rand(n, generator=rng, dtype=F64)
    s = t * torch.rand(n, generator=rng, dtype=F64) * 0.8 if end is None else torch.full_like(t, end)
    r = s + (t - s) * (0.2 + 0.6 * torch.rand(n, generator=rng, dtype=F64))
    return Point(LINEAR.mix(x0, eps, t), t, s, None, x0, r, eps, 1.0)


def halves_with(gaps):
    """First order: the error falls tenfold with the step."""
    return gaps[1] < 0.15 * gaps[0]


# --- one rule is the limit of another


def test_discrete_consistency_tends_to_the_derivative_identity():
    """(y - X) / (t - r) of neighbouring points is the tangent of the Eulerian rule at s = 0."""
    net, p, gaps = bent(two_times=False), point(end=0.0), []
    x0 = net(p.x, p.t)
    tangent = (Eulerian("teacher")(teacher(), net, p) - x0) / -p.t[:, None]
    for h in (1e-2, 1e-3):
        near = DiscreteConsistency()(teacher(), net, p._replace(r=p.t - h))
        gaps.append(float(((near - x0) / -h - tangent).abs().max()))
    assert halves_with(gaps)


def test_the_trigonometric_tangent_is_the_eulerian_one_on_another_clock():
    """g = cos(a) dX/da, and dX/dtau is the Eulerian tangent at s = 0: the same minimiser (sCM against MeanFlow)."""
    net, p = bent(two_times=False), point(end=0.0)
    _, g = TrigTangent().tangent(teacher(), net, p)
    tangent = (Eulerian("teacher")(teacher(), net, p) - net(p.x, p.t)) / -p.t[:, None]
    angle = angle_of(LINEAR, p.t)[:, None]
    assert torch.allclose(g, angle.cos() / (angle.cos() + angle.sin()) ** 2 * tangent, atol=1e-9)


def test_additivity_tends_to_the_lagrangian_rule_as_r_nears_s():
    net, p, gaps = bent(), point(), []
    p = p._replace(s=p.s.clamp_min(0.05))
    own = Network(lambda x, t, cond: average_velocity(net, x, t, t, None), "linear", "flow", (1,))  # v = u(x, t, t)
    x0 = net(p.x, p.t, None, s=p.s)
    limit = Lagrangian()(own, net, p) - x0
    for h in (1e-2, 1e-3):
        split = Semigroup("teacher")(own, net, p._replace(r=p.s + h)) - x0
        gaps.append(float((split * ((p.t - p.s) / h)[:, None] - limit).abs().max()))
    assert halves_with(gaps)


def test_bootstrapping_is_the_first_order_step_of_freeflows_predictor():
    net, p, gaps = bent(), point(), []
    one = torch.ones_like(p.t)
    p = p._replace(x=p.eps, t=one, s=p.s.clamp(0.1, 0.8))
    x0 = net(p.x, p.t, None, s=p.s)
    limit = Lagrangian()(teacher(), net, p) - x0
    for h in (1e-2, 1e-3):
        moved = Lagged()(teacher(), net, p._replace(r=p.s + h)) - x0
        gaps.append(float((moved * ((1 - p.s) / h)[:, None] - limit).abs().max()))
    assert halves_with(gaps)


def test_additivity_of_two_frozen_halves_is_progressive_distillation():
    frozen = Network(lambda x, t, cond: teacher()(x, t), "linear", "x0", (1,))  # its jump is a DDIM step
    p = point()
    p = p._replace(r=(p.t + p.s) / 2)
    assert torch.allclose(Semigroup("teacher")(teacher(), frozen, p), TeacherSteps(2)(teacher(), frozen, p), atol=1e-9)


def test_a_jump_to_where_the_teacher_stops_is_the_teachers_alone():
    """CTM with r = s, consistency at r = 0, and segments of one cell: no student is asked (rule T2)."""
    p, silent = point(), Network(lambda *inputs: torch.full_like(inputs[0], torch.nan), "linear", "x0", (1,), 0, True)
    p = p._replace(s=p.s.clamp_min(0.05))
    for s in (p.s, 0 * p.s):
        q = p._replace(r=s, s=s)
        for count, solver in ((1, "ddim"), (3, "ddim"), (2, "heun")):
            assert torch.allclose(
                DiscreteConsistency(count, solver)(teacher(), silent, q),
                TeacherSteps(count, solver)(teacher(), silent, q),
                atol=1e-9,
            )
    t, r, s = at.Segments((16,), cells=16)(200, 0.5, step_rng(0, 0))
    assert torch.equal(r, s) and torch.allclose(t - s, torch.full_like(t, 1 / 16))


def test_one_segment_to_its_edge_is_a_grid_of_consistency():
    t, r, s = at.Segments((1,), cells=16, edge=True)(2000, 0.5, step_rng(0, 0))
    assert not s.any() and torch.allclose(t - r, torch.full_like(t, 1 / 16)) and set((t * 16).tolist()) == set(range(1, 17))


def test_a_teacher_that_knows_the_sample_is_consistency_training():
    class Knows:
        path, shape, classes = LINEAR, (1,), 0

        def __init__(self, x0):
            self.x0 = x0

        def __call__(self, x, t, cond=None):
            return self.x0

    for two_times in (False, True):
        net, p = bent(two_times), point(end=None if two_times else 0.0)
        with_teacher, without = (DiscreteConsistency(shared=shared)(Knows(p.x0), net, p) for shared in (False, True))
        assert torch.allclose(with_teacher, without, atol=1e-12)


def test_the_flow_map_gradient_is_that_of_the_regression():
    """AYF's form, f^T sg(df/dt) of the landing point, against the regression on u: parallel, the factor is t - s (arXiv 2506.14603)."""
    weight, p = torch.full((), 0.8, dtype=F64, requires_grad=True), point()
    u = lambda x, t, cond=None, s=None: weight * torch.sin(x + 0.7 * t[:, None]) + (0.3 * s * t)[:, None] * x  # noqa: E731
    net, v = Network(u, "linear", "flow", (1,), 0, True), velocity(teacher(), p.x, p.t, None)
    land = lambda x, t: x - (t - p.s)[:, None] * u(x, t, None, p.s)  # noqa: E731
    _, slope = total_derivative(land, p.x, p.t, v, torch.ones_like(p.t))
    (theirs,) = torch.autograd.grad((land(p.x, p.t) * slope).sum(), weight)
    with torch.no_grad():
        target = (p.x - Eulerian("teacher")(teacher(), net, p)) / p.t[:, None]
    error = u(p.x, p.t, None, p.s) - target
    (ours,) = torch.autograd.grad(0.5 * ((p.t - p.s)[:, None] * error.square()).sum(), weight)
    assert torch.allclose(theirs, ours)


def test_during_warm_up_continuous_consistency_is_velocity_regression():
    net, p = bent(two_times=False), point(end=0.0)
    big, g = TrigTangent().tangent(teacher(), net, p, grown=0.0)
    trig, angle = paths.get("trig"), angle_of(LINEAR, p.t)
    x, clock = p.x / size_of(LINEAR, p.t, p.x) * (angle.cos() + angle.sin())[:, None], angle * 2 / math.pi
    taught, own = (trig.convert(x0, x, clock, "x0", "v") for x0 in (teacher()(p.x, p.t), net(p.x, p.t)))
    assert torch.allclose(big, own, atol=1e-9) and torch.allclose(g, -(angle.cos() ** 2)[:, None] * (big - taught), atol=1e-9)


def test_a_flow_network_is_a_trigonometric_one_in_closed_form():
    """F = [(1 - 2t) x + (1 - 2t + 2t^2) v] / k, k = sqrt(t^2 + (1 - t)^2) (SANA-Sprint, arXiv 2503.09641, eq. 3)."""
    net, p = bent(two_times=False), point(end=0.0)
    big, _ = TrigTangent().tangent(teacher(), net, p)
    t = p.t[:, None]
    k = (t**2 + (1 - t) ** 2).sqrt()
    by_hand = ((1 - 2 * t) * p.x + (1 - 2 * t + 2 * t**2) * net.predict(p.x, p.t)) / k
    assert torch.allclose(big, by_hand, atol=1e-9)


@pytest.mark.parametrize("path", ["trig", "cosine"])
@pytest.mark.parametrize(
    "rule",
    [DiscreteConsistency(), DiscreteConsistency(shared=True), Eulerian("teacher"), Eulerian("data", normalise=True), TrigTangent(), Semigroup("teacher"),
     Lagrangian(), Lagged(), TeacherSteps(1), TeacherSteps(0)],
    ids=lambda rule: type(rule).__name__,
)  # fmt: skip
def test_a_rule_gives_the_same_x0_on_every_path(rule, path):
    """Carried exactly to another path, the same states, student and teacher have the same target."""
    one, p, other = bent(), point(end=0.0 if isinstance(rule, TrigTangent) else 0.2), paths.get(path)
    time = lambda tau: other.time(torch.log1p(-tau) - tau.log()) if tau.min() > 0 else torch.zeros_like(tau)  # noqa: E731

    class Carried(Network):
        def __call__(self, x, t, cond=None, s=None):
            ends = {} if s is None else {"s": tau_of(other, s)}
            return one(x / size_of(other, t, x), tau_of(other, t), cond, **ends)

    there = Carried(nn.Identity(), path, "x0", (1,), 0, True)
    t, r, s = (time(tau) for tau in (p.t, p.r, p.s))
    moved = p._replace(x=p.x * size_of(other, t, p.x), t=t, r=r, s=s)
    assert torch.allclose(rule(teacher(), one, p), rule(teacher(path), there, moved), atol=1e-6)


ROWS = {
    "lcm without skipping is cd": ("lcm", {"first": 18, "last": 18, "skip": 1, "solver": "heun", "guidance": 2.0}, "cd", {"guidance": 2.0}),
    "scott without noise is cd": ("scott", {"times": at.Grid(18, 18), "eta": 0.0, "substeps": 1, "solver": "heun"}, "cd", {}),
    "tscd of one time is cd": ("tscd", {"times": at.Grid(18, 18), "two_times": False, "solver": "heun", "metric": PseudoHuber()}, "cd", {}),
    "ctm without its extras is a flow map": (
        "ctm", {"push": False, "extras": (), "times": at.Segments(), "substeps": 1, "solver": "ddim", "metric": L2()}, "tscd", {},
    ),
    "cd on shared noise is ct": ("cd", {"shared": True, "solver": "ddim", "times": at.Grid(2, 150, rule="root"), "average": 0.9}, "ct", {}),
    "tbcm from data is scm": ("tbcm", {"start": FromData()}, "scm", {}),
    "sana-sprint without its adversary is scm": ("sana-sprint", {"gan": None, "mean": -0.8, "std": 1.6}, "scm", {}),
    "dispersive without its term is meanflow": ("meanflow-dispersive", {"extras": ()}, "meanflow", {}),
    "meanflow along the teacher is ayf": (
        "meanflow", {"source": "teacher", "normalise": True, "warmup": 0.2, "equal": 0.1, "metric": L2()}, "ayf", {},
    ),
    "slimflow of one noise is reflow": ("slimflow", {"anneal": 0.0, "extras": (), "share": 0.4}, "reflow", {}),
    "instaflow with the plain metric is reflow": ("instaflow", {"metric": L2(), "share": 0.4}, "reflow", {}),
    "rfpp of even times is reflow": (
        "rfpp", {"metric": L2(), "weight": None, "inverted": 0.0, "times": at.Straighten(1.0)}, "reflow", {"share": 1.0},
    ),
    "reflow from the start on pure noise is kd": ("reflow", {"share": 0.0, "compare": "x0"}, "kd", {}),
    "hipa without frequencies is kd": ("hipa", {"metric": L2()}, "kd", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_recipe_with_other_switches_is_another(name):
    one, switches, other, theirs = ROWS[name]
    assert get(one).configured(**switches).objective == get(other).configured(**theirs).objective


def test_a_jump_is_its_average_velocity():
    """jump and its average velocity agree: f = x - (t - s) u."""
    net, p = bent(), point()
    u = average_velocity(net, p.x, p.t, p.s, None)
    assert torch.allclose(jump(LINEAR, p.x, net(p.x, p.t, None, s=p.s), p.t, p.s), p.x - (p.t - p.s)[:, None] * u, atol=1e-12)
