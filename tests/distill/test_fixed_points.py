"""What a perfectly trained student keeps of its teacher's error, the fixed points on other teachers, and times as they are printed."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import paths
from workbench.denoiser import Network
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives import maps
from workbench.distill.objectives import times as at
from workbench.distill.objectives.maps import teacher_steps
from workbench.distill.objectives.parts import PseudoHuber
from workbench.distill.objectives.targets import (
    DiscreteConsistency,
    Eulerian,
    Lagged,
    Lagrangian,
    Point,
    Semigroup,
    TeacherSteps,
    TrigTangent,
)
from workbench.distill.recipes import get

MEAN, WIDTH = 0.7, 0.4
F64 = torch.float64
LINEAR = paths.get("linear")
BENT = Network(lambda x, t, cond=None: torch.sin(x + 0.7 * t[:, None]), "linear", "flow", (1,))  # any smooth student


def teacher():
    return wb.mixture([[MEAN]], [WIDTH])


class Table(nn.Module):
    """An affine x0 estimate for each time of a grid: what linear students of a Gaussian converge to, solved for one after another."""

    def __init__(self, cells):
        super().__init__()
        self.cells, self.lines = cells, {}

    def key(self, t, s):
        return round(float(t[0]) * self.cells, 6), 0.0 if s is None else round(float(s[0]) * self.cells, 6)

    def forward(self, x, t, cond=None, s=None):
        slope, offset = self.lines[self.key(t, s)] if float(t[0]) > 2e-4 else (0.0, 0.0)  # at the data nobody reads the answer
        return slope * x + offset

    def solve(self, rule, guide, t, r, s, two_times=False):
        """Set the estimate at (t, s) to the target there."""
        x = torch.tensor([[0.0], [1.0]], dtype=F64)
        t, r, s = (torch.full((2,), float(time), dtype=F64) for time in (t, r, s))
        y = rule(guide, self.network(two_times), Point(x, t, s, None, None, r), torch.Generator().manual_seed(0))
        self.lines[self.key(t, s if two_times else None)] = (float(y[1] - y[0]), float(y[0]))

    def network(self, two_times=False):
        return Network(self, "linear", "x0", (1,), 0, two_times)


def worst(line):
    """Largest error of a one-step map x0 = slope eps + offset at eps = -1.3 and 1.3; the exact one is WIDTH eps + MEAN."""
    slope, offset = line
    return max(abs((slope - WIDTH) * eps + offset - MEAN) for eps in (-1.3, 1.3))


def consistency(cells, rule, skip=1):
    table = Table(cells)
    for k in range(1, cells + 1):
        table.solve(rule, teacher(), k / cells, max(0, k - skip) / cells, 0)
    return table.lines[cells, 0.0]


def euler(cells):
    """The teacher's own one-step map in so many Euler steps."""
    x, one = torch.tensor([[0.0], [1.0]], dtype=F64), torch.ones(2, dtype=F64)
    y = teacher_steps(teacher(), x, one, 0 * one, None, cells)
    return float(y[1] - y[0]), float(y[0])


@pytest.mark.parametrize("cells", [4, 16])
def test_a_trained_consistency_model_is_the_teachers_solver(cells):
    assert consistency(cells, DiscreteConsistency()) == pytest.approx(euler(cells), abs=1e-9)


def test_consistency_errs_by_the_order_of_the_solver():
    """1/N for Euler, with the errors that were worked out beforehand; log(N)/N^2 for Heun, since equal steps do not shrink near the data."""
    euler, heun = (
        [worst(consistency(cells, DiscreteConsistency(solver=solver))) for cells in (4, 16, 64)] for solver in ("ddim", "heun")
    )
    assert euler == pytest.approx([0.182, 0.051, 0.013], abs=6e-4)
    assert [n**2 / math.log(n) * e for n, e in zip((4, 16, 64), heun, strict=True)] == pytest.approx([1.62] * 3, rel=0.05)


def test_skipped_cells_cost_accuracy():
    """Twenty cells with five skipped at once end as four cells do."""
    assert consistency(20, DiscreteConsistency(), skip=5) == pytest.approx(consistency(4, DiscreteConsistency()), abs=1e-9)
    assert worst(consistency(20, DiscreteConsistency(), skip=5)) > 3 * worst(consistency(20, DiscreteConsistency()))


def test_halving_keeps_the_teachers_error_and_one_long_target_gives_the_same():
    errors = {}
    for first in (8, 32):
        guide, cells = teacher(), first
        while cells > 1:
            cells //= 2
            table = Table(cells)
            for k in range(1, cells + 1):
                table.solve(TeacherSteps(2), guide, k / cells, (k - 0.5) / cells, (k - 1) / cells, two_times=True)
            table.lines = {(k, 0.0): line for (k, _), line in table.lines.items()}
            guide = table.network()
        direct = Table(1)
        direct.solve(TeacherSteps(first), teacher(), 1, 0.5, 0)
        assert table.lines[1, 0.0] == pytest.approx(euler(first), abs=1e-9) == direct.lines[1, 0.0]
        errors[first] = worst(table.lines[1, 0.0])
    assert errors == pytest.approx({8: 0.097, 32: 0.026}, abs=6e-4)


def test_bootstrapping_errs_in_proportion_to_its_step():
    errors = []
    for cells in (8, 32):
        table = Table(cells)
        table.lines[cells, cells] = (0.0, 0.0)  # read, and not used: there the teacher's own step begins
        table.solve(Lagged(), teacher(), 1, 1, 1, two_times=True)
        for k in range(cells, 0, -1):
            table.solve(Lagged(), teacher(), 1, k / cells, (k - 1) / cells, two_times=True)
        assert table.lines[cells, cells] == pytest.approx((0.0, MEAN), abs=1e-9)  # the anchor is the mean
        errors.append(worst(table.lines[cells, 0.0]))
    assert errors == pytest.approx([0.098, 0.027], abs=2e-3)


def test_without_its_anchor_bootstrapping_admits_a_wrong_map():
    """Every later point follows from the first: a wrong start has no residual either."""
    cells, table = 16, Table(16)
    table.lines[cells, cells - 1] = (0.0, MEAN + 5.0)
    for k in range(cells - 1, 0, -1):
        table.solve(Lagged(), teacher(), 1, k / cells, (k - 1) / cells, two_times=True)
    wrong, (slope, offset) = table.lines[cells, 0.0], table.lines[cells, 0.0]
    assert abs(offset - MEAN) > 0.1
    table.solve(Lagged(), teacher(), 1, 1 / cells, 0, two_times=True)
    assert table.lines[cells, 0.0] == wrong and slope == wrong[0]


@pytest.mark.parametrize(
    ("eta", "slopes"), [(0.0, (0.333, 0.392)), (0.3, (0.276, 0.279)), (0.5, (0.191, 0.149)), (1.0, (0.0033, 0.0033))]
)
def test_stochastic_steps_move_the_fixed_point_to_the_mean(monkeypatch, eta, slopes):
    """The slope in one step from t = 0.98 on grids of 8 and 40 cells; 0.408 is the flow's, 0.0033 the posterior mean's (SCott)."""
    monkeypatch.setattr(maps.torch, "randn", lambda shape, **_: torch.zeros(shape, dtype=F64))  # the mean over the noise
    top = 0.98
    for cells, expected in zip((8, 40), slopes, strict=True):
        table = Table(cells / top)
        for k in range(1, cells + 1):
            table.solve(DiscreteConsistency(eta=eta), teacher(), top * k / cells, top * (k - 1) / cells, 0)
        assert table.lines[cells, 0.0][0] == pytest.approx(expected, abs=1.5e-3)


def test_renoising_an_imperfect_map_is_best_at_a_few_steps_and_chaining_at_many():
    """W2 of f (1 + 0.03 (t - s)), f the exact map: U-shaped in the steps of consistency sampling, falling in those of a flow map."""
    spread = lambda t: math.sqrt((1 - t) ** 2 * WIDTH**2 + t**2)  # noqa: E731

    def estimate(t, s):
        """x0 = slope x + offset whose jump t -> s is the imperfect map."""
        gain, ratio = 1 + 0.03 * (t - s), spread(s) / spread(t)
        slope, offset = gain * ratio, gain * ((1 - s) * MEAN - ratio * (1 - t) * MEAN)
        kept = s / t
        return (slope - kept) / (1 - s - kept * (1 - t)), offset / (1 - s - kept * (1 - t))

    found = {}
    for sampler in ("consistency", "flow_map"):
        for steps in (1, 2, 4, 8, 16):
            mean, std = 0.0, 1.0
            for stage in wb.plan(sampler, "linear", steps, schedule="uniform").stages:
                slope, offset = estimate(stage.t, 0.0 if stage.jump is None else stage.jump)
                held = stage.x.x + stage.x.outputs[0] * slope
                mean, std = held * mean + stage.x.outputs[0] * offset, math.hypot(held * std, stage.x.noise)
            found[sampler, steps] = math.hypot(mean - MEAN, std - WIDTH)
    told = {"consistency": (0.0245, 0.0203, 0.0196, 0.0219, 0.0250), "flow_map": (0.0245, 0.0193, 0.0165, 0.0154, 0.0155)}
    for sampler, values in told.items():
        assert [found[sampler, steps] for steps in (1, 2, 4, 8, 16)] == pytest.approx(list(values), abs=1e-3)


def test_one_euler_step_of_the_teacher_is_the_mean():
    assert euler(1) == pytest.approx((0.0, MEAN), abs=1e-12)


def test_training_on_shared_noise_has_another_minimiser_on_a_mixture():
    """For several modes E f(x_r) and f(E x_r) differ by O((t - r)^2): consistency training is exact only as the grid is refined."""
    modes, width, t, x = torch.tensor([-1.0, 1.0], dtype=F64), 0.3, 0.6, 0.2
    x0 = torch.linspace(-3, 3, 4001, dtype=F64)[:, None]
    prior = torch.exp(-((x0 - modes) ** 2) / (2 * width**2)).sum(1)
    weight = prior * torch.exp(-((x - (1 - t) * x0[:, 0]) ** 2) / (2 * t**2))
    weight, n = weight / weight.sum(), len(x0)
    guide, net, gaps = wb.mixture([[-1.0], [1.0]], [width, width]), BENT, []
    for h in (0.2, 0.1):
        full = lambda value: torch.full((n,), value, dtype=F64)  # noqa: E731
        p = Point(torch.full((n, 1), x, dtype=F64), full(t), full(0.0), None, x0, full(t - h), (x - (1 - t) * x0) / t)
        shared, taught = (DiscreteConsistency(shared=flag)(guide, net, p)[:, 0] for flag in (True, False))
        gaps.append(float((weight * shared).sum() - taught[0]))
    assert abs(gaps[0]) > 1e-3 and gaps[0] / gaps[1] == pytest.approx(4, rel=0.35)


# --- other teachers whose answers are known


class Solved(Network):
    """The flow map of any teacher by many Heun steps: the x0 estimate whose jump t -> s lands where the flow does."""

    def __init__(self, guide, two_times=True, steps=60):
        super().__init__(nn.Identity(), "linear", "x0", guide.shape, 0, two_times)
        self.guide, self.fine = guide, steps

    def __call__(self, x, t, cond=None, s=None):
        t = t.double()
        s = torch.zeros_like(t) if s is None else s.double()
        apart = t - s > 1e-3
        landed = teacher_steps(self.guide, x, t, torch.where(apart, s, 0.5 * t), None, self.fine, "heun")
        return torch.where(
            apart[:, None], maps.estimate(LINEAR, x, landed, t, torch.where(apart, s, 0.5 * t)), self.guide(x, t)
        )


TEACHERS = {
    "mixture": lambda: wb.mixture([[1.0, 0.0], [-1.0, 0.5]], [0.4, 0.3]),
    "data": lambda: wb.teachers.Empirical(torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], dtype=F64)),
}


@pytest.mark.parametrize("which", sorted(TEACHERS))
@pytest.mark.parametrize(
    "rule",
    [DiscreteConsistency(30, "heun"), Eulerian("teacher", exact=False), Semigroup("teacher"), Lagrangian(exact=False), TrigTangent(normalise=False, exact=False)],
    ids=lambda rule: type(rule).__name__,
)  # fmt: skip
def test_the_flow_of_any_teacher_is_the_fixed_point(rule, which):
    guide = TEACHERS[which]()
    rng = torch.Generator().manual_seed(0)
    t = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9], dtype=F64)
    x0 = guide.sample(5, seed=0).double() if hasattr(guide, "sample") else guide.data[[0, 1, 2, 0, 1]]
    x = LINEAR.mix(x0, torch.randn(5, 2, generator=rng, dtype=F64), t)
    trig = isinstance(rule, TrigTangent)
    s = torch.zeros_like(t) if trig else 0.4 * t
    net, p = Solved(guide, two_times=not trig), Point(x, t, s, None, None, 0.5 * (t + s), None, 1.0)
    assert torch.allclose(rule(guide, net, p), maps.ask(net, x, t, None, s), atol=2e-3)


# --- times and weights as they are printed


def test_hard_times_have_the_density_that_is_stated():
    """exp(a t) + exp(-a t) on [0, 1], mirrored: histogram of n = 40000 against its integral, five standard errors."""
    n, a = 40_000, 4.0
    t = at.UShaped(a)(n, 0.0, step_rng(0, 0)).t
    edges = torch.linspace(0, 1, 11, dtype=F64)
    below = lambda u: (torch.expm1(a * u) + (math.exp(a) - torch.exp(a * (1 - u)))) / (2 * math.expm1(a))  # noqa: E731
    mass = below(edges).diff()
    counts = torch.histc(t, 10, 0, 1)
    assert torch.all((counts - n * mass).abs() < 5 * (n * mass).sqrt()) and float(mass[0]) > 2 * float(mass[4])
    even = at.UShaped(0.0)(n, 0.0, step_rng(0, 1)).t
    assert torch.all((torch.histc(even, 10, 0, 1) - n / 10).abs() < 5 * (n / 10) ** 0.5)


def test_the_lognormal_grid_is_the_papers():
    grid = at.LogNormalGrid(10, 1280)
    assert [len(grid.levels(p)) for p in (0.0, 0.13, 0.26, 0.99)] == [11, 21, 41, 1281]
    levels, mass = grid.levels(0.99), grid.masses(0.99)
    assert float(mass.sum()) == pytest.approx(1)
    peak = int((mass / levels.log().diff()).argmax())
    assert float(levels[peak].log()) == pytest.approx(-1.1, abs=0.05)


def test_easy_gaps_are_the_papers():
    easy, ten = at.EasyGap(), torch.tensor([10.0], dtype=F64)
    assert float(easy.ratio(ten, 0.0)) == pytest.approx(0.4998, abs=1e-4) and float(easy.ratio(ten, 0.99)) == pytest.approx(
        0.996, abs=1e-3
    )
    assert float(easy.ratio(torch.tensor([1.94]), 0.0)) == 0 < float(easy.ratio(torch.tensor([1.96]), 0.0))


def test_easy_consistency_starts_as_denoising():
    net = BENT
    switches = dataclasses.replace(get("ect").objective, times=at.EasyGap(mean=-3.0, std=0.1), weight=None)
    bound, x0 = switches.bind(teacher(), net), torch.randn(512, 1, dtype=F64)
    p = bound.point(Batch(x0, None, 512, 0.0), step_rng(0, 0))
    assert not p.r.any() and torch.equal(switches.target(teacher(), net, p, None), x0)


def test_pseudo_huber_is_the_square_of_little_and_the_norm_of_much():
    metric, d = PseudoHuber(0.1), 4
    c, little, much = 0.1 * math.sqrt(d), torch.full((1, d), 1e-4, dtype=F64), torch.full((1, d), 1e4, dtype=F64)
    assert float(metric(little, 0 * little)) * math.sqrt(d) == pytest.approx(float(little.square().sum()) / (2 * c), rel=1e-3)
    assert float(metric(much, 0 * much)) * math.sqrt(d) == pytest.approx(float(much.norm()), rel=1e-3)
