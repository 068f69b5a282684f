"""Every rule has the exact flow map of a Gaussian teacher as its fixed point, and pulls a perturbed student towards it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import paths
from workbench.denoiser import Network
from workbench.distill.generated import Table
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives import times as at
from workbench.distill.objectives.extras import Anchor
from workbench.distill.objectives.maps import (
    average_velocity,
    estimate,
    from_average,
    jump,
    tau_of,
    teacher_steps,
    total_derivative,
    velocity,
)
from workbench.distill.objectives.parts import L2
from workbench.distill.objectives.pointwise import Pointwise
from workbench.distill.objectives.starts import FromPairs, FromPrior, FromRollout
from workbench.distill.objectives.targets import (
    DiscreteConsistency,
    Eulerian,
    Lagged,
    Lagrangian,
    Point,
    Semigroup,
    StoredEndpoint,
    TeacherSteps,
    TrigTangent,
)
from workbench.distill.recipes import get

MEAN, WIDTH = 0.7, 0.4
F64 = torch.float64
SMOOTH = ["linear", "trig", "cosine"]


def teacher(path="linear"):
    return wb.mixture([[MEAN, MEAN]], [WIDTH], path=path)


class Exact(nn.Module):
    """The x0 estimate of the exact flow map of N(mean, width^2), plus `gain` sin(3 x)."""

    def __init__(self, path, gain=0.0):
        super().__init__()
        self.path = paths.get(path)
        self.gain = nn.Parameter(torch.tensor(gain, dtype=F64))

    def law(self, t):
        a, b = self.path.alpha(t), self.path.sigma(t)
        return paths.per_sample(a * MEAN, torch.empty(1, 1, dtype=F64)), paths.per_sample(
            (a**2 * WIDTH**2 + b**2).sqrt(), torch.empty(1, 1, dtype=F64)
        )

    def land(self, x, t, s):
        (m_t, w_t), (m_s, w_s) = self.law(t), self.law(s)
        return m_s + w_s / w_t * (x - m_t)

    def forward(self, x, t, cond=None, s=None):
        t = t.double()
        if s is None:
            s = torch.zeros(t.shape, dtype=F64)
        else:
            s = torch.where(
                t - s.double() > 1e-6, s.double(), t - 1e-6
            )  # at s = t the estimate is the limit, the posterior mean
        a, b, a_s, b_s = self.path.alpha(t), self.path.sigma(t), self.path.alpha(s), self.path.sigma(s)
        kept = paths.per_sample(b_s / b, x)
        return (self.land(x, t, s) - kept * x) / (
            paths.per_sample(a_s, x) - kept * paths.per_sample(a, x)
        ) + self.gain * torch.sin(3 * x)


def student(path="linear", gain=0.0, two_times=True):
    return Network(Exact(path, gain), path, "x0", (2,), 0, two_times)


def point(path="linear", n=64, end=None, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x0 = MEAN + WIDTH * torch.randn(n, 2, generator=rng, dtype=F64)
    eps = torch.randn(n, 2, generator=rng, dtype=F64)
    t = 0.3 + 0.6 * torch.rand(n, generator=rng, dtype=F64)
    s = t * torch.rand(n, generator=rng, dtype=F64) * 0.8 if end is None else torch.full_like(t, end)
    r = s + (t - s) * (0.2 + 0.6 * torch.rand(n, generator=rng, dtype=F64))
    return Point(paths.get(path).mix(x0, eps, t), t, s, None, x0, r, eps, 1.0)


def from_top(n=32, seed=0):
    p = point(n=n, seed=seed)
    one = torch.ones_like(p.t)
    return p._replace(x=p.eps, t=one, r=p.s + 1e-3, x0=None)


@pytest.mark.parametrize("path", SMOOTH)
def test_the_exact_map_jumps_as_the_ode_does(path):
    net, p = student(path), point(path)
    landed = jump(net.path, p.x, net(p.x, p.t, None, s=p.s), p.t, p.s)
    fine = teacher_steps(teacher(path), p.x, p.t, p.s, None, 400, "heun")
    assert torch.allclose(landed, fine, atol=1e-4)
    assert torch.allclose(estimate(net.path, p.x, landed, p.t, p.s), net(p.x, p.t, None, s=p.s), atol=1e-9)


@pytest.mark.parametrize("path", SMOOTH)
def test_velocities_live_on_the_linear_path(path):
    p, there = point(path), teacher("linear")
    tau = tau_of(paths.get(path), p.t)
    straight = (1 - tau)[:, None] * p.x0 + tau[:, None] * p.eps
    assert torch.allclose(velocity(teacher(path), p.x, p.t, None), velocity(there, straight, tau, None), atol=1e-9)
    u = average_velocity(student(path), p.x, p.t, p.s, None)
    assert torch.allclose(from_average(paths.get(path), p.x, p.t, u), student(path)(p.x, p.t, None, s=p.s), atol=1e-9)


@pytest.mark.parametrize("exact", [True, False])
def test_total_derivative(exact):
    x, t = torch.linspace(-1, 1, 8, dtype=F64)[:, None], torch.linspace(0.2, 0.9, 8, dtype=F64)
    value, slope = total_derivative(lambda y, s: y**2 * s[:, None], x, t, 3 * torch.ones_like(x), torch.ones_like(t), exact)
    assert torch.allclose(value, x**2 * t[:, None]) and torch.allclose(slope, 6 * x * t[:, None] + x**2, atol=1e-4)


@pytest.mark.parametrize("path", SMOOTH)
@pytest.mark.parametrize(
    "rule",
    [Eulerian("teacher"), Eulerian("teacher", normalise=True), Semigroup("teacher"), Lagrangian(), DiscreteConsistency(200, "heun")],
    ids=lambda rule: type(rule).__name__,
)  # fmt: skip
def test_the_exact_flow_map_is_the_fixed_point(rule, path):
    net, p = student(path), point(path)
    x0 = rule(teacher(path), net, p, None)
    assert torch.allclose(x0, net(p.x, p.t, None, s=p.s), atol=1e-4 if isinstance(rule, DiscreteConsistency) else 1e-6)


@pytest.mark.parametrize("path", SMOOTH)
def test_the_tangent_of_continuous_consistency_vanishes_at_the_map(path):
    net, p = student(path, two_times=False), point(path, end=0.0)
    _, g = TrigTangent().tangent(teacher(path), net, p)
    assert float(g.abs().max()) < 1e-6
    x0 = TrigTangent()(teacher(path), net, p)
    assert torch.allclose(x0, net(p.x, p.t), atol=1e-5)


def test_the_tangent_is_the_cosine_times_the_maps_derivative():
    """g = cos(a) df/da for any student (sCM, appendix B), which fixes its sign and its scale."""
    net, p = student("trig", gain=0.1, two_times=False), point("trig", end=0.0)
    _, g = TrigTangent().tangent(teacher("trig"), net, p)
    angle, h = p.t * math.pi / 2, 1e-5
    x0 = teacher("trig")(p.x, p.t)
    eps = (p.x - angle.cos()[:, None] * x0) / angle.sin()[:, None]
    dx = angle.cos()[:, None] * eps - angle.sin()[:, None] * x0
    ahead, behind = (net(p.x + sign * h * dx, p.t + sign * h * 2 / math.pi) for sign in (1, -1))
    assert torch.allclose(g, angle.cos()[:, None] * (ahead - behind) / (2 * h), atol=1e-6)


def test_bootstrapping_keeps_the_exact_map_to_first_order():
    """y(s) = y(r) + delta (D - y(r)) errs by O(step^2) on the map; the anchor at s = t is the teacher's own estimate."""
    net, errors = student(), []
    for step in (0.02, 0.01):
        p = from_top()
        p = p._replace(s=p.s.clamp(0.05, 0.9))
        p = p._replace(r=p.s + step)
        errors.append(float((Lagged()(teacher(), net, p) - net(p.x, p.t, None, s=p.s)).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.25)
    top = from_top()
    top = top._replace(s=top.t, r=top.t)
    assert torch.allclose(Lagged()(teacher(), net, top), teacher()(top.x, top.t))


def test_freeflow_from_the_top():
    net, p = student(), from_top()
    assert torch.allclose(Lagrangian()(teacher(), net, p), net(p.x, p.t, None, s=p.s), atol=1e-6)


def test_equal_times_are_flow_matching():
    p = point()
    p = p._replace(s=p.t, r=p.t)
    net = student(gain=0.2)
    for rule in (Eulerian("data"), Semigroup("data")):
        assert torch.allclose(rule(None, net, p), from_average(net.path, p.x, p.t, p.eps - p.x0), atol=1e-6)


def test_the_data_velocity_averages_to_the_teachers():
    """Conditional MeanFlow targets average to the marginal one: the target is linear in V."""
    n, net = 40000, student()
    rng = torch.Generator().manual_seed(0)
    x, t, s = torch.full((n, 2), 0.9, dtype=F64), torch.full((n,), 0.6, dtype=F64), torch.full((n,), 0.2, dtype=F64)
    variance = WIDTH**2 * 0.36 / (0.16 * WIDTH**2 + 0.36)
    x0 = teacher()(x, t) + variance**0.5 * torch.randn(n, 2, generator=rng, dtype=F64)
    p = Point(x, t, s, None, x0, s, (x - 0.4 * x0) / 0.6)
    mean = Eulerian("data")(None, net, p).mean(0)
    spread = Eulerian("data")(None, net, p).std(0) / n**0.5
    assert torch.all((mean - Eulerian("teacher")(teacher(), net, p)[0]).abs() < 5 * spread)


def test_a_constant_velocity_adds_up_without_an_anchor():
    """Additivity alone admits u = const, so the share with s = t is what ties SplitMeanFlow to the teacher."""
    constant = Network(lambda x, t, cond, s: torch.full_like(x, 0.3), "linear", "flow", (2,), 0, True)
    p = point()
    assert torch.allclose(Semigroup("teacher")(teacher(), constant, p), constant(p.x, p.t, None, s=p.s), atol=1e-9)


def test_split_tends_to_the_derivative_identity_as_r_nears_t():
    net, p = student(gain=0.05), point()
    gaps = []
    for h in (1e-2, 1e-3):
        near = p._replace(r=p.t - h)
        u = average_velocity(net, p.x, p.t, p.s, None)
        split = (Semigroup("teacher")(teacher(), net, near) - net(p.x, p.t, None, s=p.s)) / -p.t[:, None]
        # (t - r)/(t - s) v + ..: to first order the residual of the split is h/(t - s) times that of the derivative identity, V = u(x, t, t)
        v = average_velocity(net, p.x, p.t, p.t, None)
        _, slope = total_derivative(lambda y, w: average_velocity(net, y, w, p.s, None), p.x, p.t, v, torch.ones_like(p.t))
        residual = v - (p.t - p.s)[:, None] * slope - u
        gaps.append(float((split * ((p.t - p.s) / h)[:, None] - residual).abs().max()))
    assert gaps[1] < 0.15 * gaps[0]


def test_two_teacher_steps_invert_to_the_point_they_reach():
    p = point(end=0.0)
    p = p._replace(s=p.t / 2)
    x0 = TeacherSteps(2)(teacher(), student(), p)
    assert torch.allclose(
        jump(paths.get("linear"), p.x, x0, p.t, p.s), teacher_steps(teacher(), p.x, p.t, p.s, None, 2), atol=1e-12
    )
    assert torch.equal(TeacherSteps(0)(teacher(), student(), p), teacher()(p.x, p.t))


def test_consistency_training_shares_its_mean_with_an_euler_step():
    """E[x_r | x_t] under the same noise is one DDIM step of the exact teacher (arXiv 2303.01469, appendix A)."""
    n = 40000
    x, t, r = torch.full((n, 2), 0.9, dtype=F64), 0.6, torch.full((n,), 0.3, dtype=F64)
    variance = WIDTH**2 * 0.36 / (0.16 * WIDTH**2 + 0.36)
    x0 = teacher()(x, t) + variance**0.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    eps = (x - 0.4 * x0) / 0.6
    identity = Network(lambda x, t, cond: x, "linear", "x0", (2,))
    p = Point(x, torch.full((n,), t, dtype=F64), 0 * r, None, x0, r, eps)
    mean, one = (DiscreteConsistency(shared=shared)(teacher(), identity, p) for shared in (True, False))
    assert torch.all((mean.mean(0) - one[0]).abs() < 5 * mean.std(0) / n**0.5)


def test_a_stochastic_step_keeps_the_marginal():
    n = 20000
    p = point(n=n)
    t, s = torch.full((n,), 0.9, dtype=F64), torch.full((n,), 0.3, dtype=F64)
    x = paths.get("linear").mix(p.x0, p.eps, t)
    end = teacher_steps(teacher(), x, t, s, None, 60, "ddim", 1.0, torch.Generator().manual_seed(1))
    assert float(end.std()) == pytest.approx(math.sqrt(0.49 * WIDTH**2 + 0.09), rel=0.02)
    assert torch.equal(
        teacher_steps(teacher(), x, t, s, None, 3, "ddim", 0.0), teacher_steps(teacher(), x, t, s, None, 3, "ddim", 0.0, torch.Generator())
    )  # fmt: skip


def test_ctm_at_the_datas_end_is_consistency_distillation():
    p = point(end=0.0)
    two, one = student(gain=0.1), student(gain=0.1, two_times=False)
    rule = DiscreteConsistency(2, "heun")
    assert torch.allclose(rule(teacher(), two, p), rule(teacher(), one, p), atol=1e-9)


PERTURBED = {
    "kd": {}, "cd": {}, "meanflow": {}, "splitmeanflow": {}, "ayf": {}, "scm": {}, "tscd": {}, "ctm": {}, "boot": {}, "freeflow": {},
    "progressive": {}, "lcm": {},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PERTURBED))
def test_a_step_of_gradient_descent_goes_towards_the_map(name):
    """A student perturbed by 0.1 sin(3 x) has a gradient that lowers the perturbation: no sign, time or stop-gradient is swapped."""
    switches = get(name).objective
    net = student(gain=0.1, two_times=switches.two_times)
    bound = switches.bind(teacher(), net)
    bound.extras = []  # the rule alone
    if name == "kd":
        from workbench.distill.objectives.pairs import Store

        eps = torch.randn(512, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
        ends = Exact("linear").land(eps, torch.ones(512, dtype=F64), torch.zeros(512, dtype=F64)).detach()
        bound.store = Store(Table({"eps": [eps], "x0": [ends]}, len(eps)))
    x0 = MEAN + WIDTH * torch.randn(512, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    total = 0.0
    for step in range(4):
        loss, _ = bound.loss("student", Batch(x0, None, 512, 0.5), step_rng(0, step))
        (gradient,) = torch.autograd.grad(loss, net.net.gain)
        total += float(gradient)
    assert total > 0


def test_no_gradient_reaches_the_target():
    """Only the prediction has a graph: the gradient is that of a constant target."""
    switches = get("meanflow").objective
    net = student(gain=0.1)
    bound, batch = switches.bind(teacher(), net), Batch(torch.randn(64, 2, dtype=F64), None, 64, 0.5)
    loss, _ = bound.loss("student", batch, step_rng(0, 0))
    (gradient,) = torch.autograd.grad(loss, net.net.gain)
    p = bound.point(batch, step_rng(0, 0))
    with torch.no_grad():
        target = switches.target(teacher(), net, p)
    by_hand = switches.metric(*bound._compared(net(p.x, p.t, None, s=p.s), target, p)).mean()
    assert torch.allclose(torch.autograd.grad(by_hand, net.net.gain)[0], gradient)


def test_the_target_net_follows_the_student_and_has_no_gradient():
    switches = Pointwise(average=0.9)
    net = student(gain=1.0, two_times=False)
    bound = switches.bind(teacher(), net)
    assert list(bound.frozen) == ["target"] and not bound.target_net.net.gain.requires_grad
    with torch.no_grad():
        net.net.gain.fill_(2.0)
    bound.after(0.1)
    assert float(bound.target_net.net.gain) == pytest.approx(0.9 * 1.0 + 0.1 * 2.0)


def test_halving_promotes_the_student():
    net = student(gain=0.5, two_times=False)
    bound = Pointwise(times=at.Halving(4, 1), target=TeacherSteps(2)).bind(teacher(), net)
    p = point()
    assert bound._guide(p) is bound.teacher
    with torch.no_grad():
        net.net.gain.fill_(0.25)
    bound.after(0.2)
    assert bound._guide(p) is bound.teacher
    bound.after(0.4)
    assert bound._guide(p) is bound.previous and float(bound.previous.net.gain) == 0.25 and int(bound.stage.index) == 1


def test_the_anchor_is_denoising():
    net = student(gain=0.3)
    bound, p = Pointwise(two_times=True, extras=(Anchor(2.0),)).bind(teacher(), net), point()
    value, _ = bound.extras[0].term(p, None, None, None)
    by_hand = ((net(p.x, p.t, None, s=p.t) - p.x0) / p.t[:, None]).square().mean()
    assert float(value) == pytest.approx(2 * float(by_hand))


def test_annealed_noise_is_standard_normal_and_ends_as_the_pairs():
    n = 20000
    batch = Batch(torch.zeros(n, 2), None, n, 0.2, torch.randn(n, 2, generator=torch.Generator().manual_seed(0)))
    ones = torch.ones(n, dtype=F64)
    where = at.Times(ones, ones, 0 * ones)
    start = FromPairs(anneal=0.4)
    eps = start(batch, where, step_rng(0, 0), None, student())[2]
    assert float(eps.std()) == pytest.approx(1, abs=0.02) and not torch.equal(eps, batch.eps)
    correlation = float((eps * batch.eps).mean())
    assert correlation == pytest.approx((1 - 0.5**2) ** 0.5, abs=0.03)
    assert torch.equal(start(batch._replace(progress=0.4), where, step_rng(0, 0), None, student())[2], batch.eps)


def test_rollout_states_have_the_right_marginal_and_touch_no_data():
    start = FromRollout(route=8, refine=8)
    x, x0, eps, _, where = start(Batch(None, None, 7 * 3000), None, step_rng(0, 0), teacher(), student())
    assert x0 is None and eps is None and len(x) == len(where.t) == 21000
    for low, high in ((0.2, 0.3), (0.5, 0.65)):
        part = (where.t > low) & (where.t < high)
        t = where.t[part][:, None]
        z = (x[part].double() - (1 - t) * MEAN) / ((1 - t) ** 2 * WIDTH**2 + t**2).sqrt()
        assert float(z.mean()) == pytest.approx(0, abs=0.06) and float(z.std()) == pytest.approx(1, abs=0.06)


def test_the_prior_needs_no_data():
    x, x0, eps, _, _ = FromPrior()(Batch(None, None, 5), at.FromTop()(5, 0.0, step_rng(0, 0)), step_rng(0, 0), None, student())
    assert x0 is None and torch.equal(x, eps) and x.shape == (5, 2)


def test_velocity_comparison_is_the_flow_matching_loss():
    p = point()
    net = student(gain=0.1)
    bound = Pointwise(target=StoredEndpoint(), compare="velocity", two_times=True, metric=L2()).bind(teacher(), net)
    a, b = bound._compared(net(p.x, p.t, None, s=p.s), p.x0, p)
    assert torch.allclose(a - b, (p.eps - p.x0) - average_velocity(net, p.x, p.t, p.s, None), atol=1e-9) or torch.allclose(
        b - a, (p.eps - p.x0) - average_velocity(net, p.x, p.t, p.s, None), atol=1e-9
    )
