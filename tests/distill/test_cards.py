"""What distillation on stored pairs, reflow and guided adapters do on laws whose answers are known; other methods are in test_cards_more."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import workbench as wb
from workbench import metrics
from workbench.denoiser import Guided, Network, Scaled
from workbench.distill.distill import distill
from workbench.distill.loop import Batch, step_rng
from workbench.distill.objectives.pairs import Pairs
from workbench.distill.objectives.starts import FromData, FromPairs
from workbench.distill.objectives.times import Between
from workbench.distill.recipes import get
from workbench.samplers.sample import Sampling

MEAN, WIDTH = 0.7, 0.4
F64 = torch.float64
SMALL = {"width": 48, "depth": 2}


def gaussian():
    return wb.mixture([[MEAN]], [WIDTH])


def two_modes():
    return wb.mixture([[-1.0], [1.0]], [0.25, 0.25])


def normals(n, d=1, seed=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Affine(nn.Module):
    """x0 = slope x + offset."""

    def __init__(self):
        super().__init__()
        self.slope, self.offset = (nn.Parameter(torch.zeros((), dtype=F64)) for _ in range(2))

    def forward(self, x, t, cond=None):
        return self.slope * x + self.offset


def one_step(net):
    return Network(net, "linear", "x0", (1,))


def prepared(recipe, teacher, student, seed=0, **options):
    """The recipe's objective with its pairs made."""
    bound = get(recipe).configured(**options).objective.bind(teacher, student)
    for _ in bound.prepare(None, seed, "cpu"):
        pass
    return bound


def solved(bound, batch, seed=0):
    """The student that is trained to the minimum of the objective's own loss on one batch; that loss."""
    optimizer = torch.optim.LBFGS(
        bound.student.net.parameters(),
        max_iter=100,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def loss():
        optimizer.zero_grad()
        value, _ = bound.loss("student", batch, step_rng(seed, 0))
        value.backward()
        return value

    optimizer.step(loss)
    return bound.student, float(loss().detach())


def landed(model, steps, noise, cond=None, sampler="euler"):
    with torch.no_grad():
        return list(wb.run(wb.plan(sampler, "linear", steps), model, noise, cond))[-1].x.double()


# --- knowledge distillation on pairs (A1)


def test_an_affine_student_of_a_gaussian_is_its_map():
    """Slope and offset are those of the stored pairs, and these tend to the exact ones by the solver's order."""
    errors = []
    for steps in (12, 24, 48):
        start = FromPairs(Pairs(256, Sampling("heun", steps)))
        bound = prepared("kd", gaussian(), one_step(Affine()), start=start)
        student, loss = solved(bound, Batch(None, None, 256, 1.0))
        ends = landed(gaussian(), steps, torch.tensor([[0.0], [1.0]], dtype=F64), sampler="heun")
        slope, offset = float(student.net.slope.detach()), float(student.net.offset.detach())
        assert loss < 1e-12 and (slope, offset) == pytest.approx((float(ends[1] - ends[0]), float(ends[0])), abs=1e-6)
        assert offset == pytest.approx(MEAN, abs=1e-6)
        errors.append(abs(slope - WIDTH))
    assert errors[2] < 5e-4 and [a / b for a, b in itertools.pairwise(errors)] == pytest.approx([4, 4], rel=0.1)


class Curve(nn.Module):
    """Any map of one dimension, with a resolution of 0.15."""

    def __init__(self):
        super().__init__()
        self.centres = torch.linspace(-3, 3, 40, dtype=F64)
        self.heights = nn.Parameter(torch.zeros(40, dtype=F64))

    def forward(self, x, t, cond=None):
        return (torch.softmax(-50 * (x - self.centres).square(), 1) @ self.heights)[:, None]


def test_more_pairs_lower_the_error_on_pairs_that_were_held_out():
    """Means over three sets of each size, on 4096 other pairs; the gap to the error on the set itself closes as well."""
    other = prepared("kd", two_modes(), one_step(Curve()), seed=9, count=4096)
    known, held_out = [], []
    for count in (8, 32, 128, 512):
        losses = []
        for seed in range(3):
            student, own = solved(
                prepared("kd", two_modes(), one_step(Curve()), seed=seed, count=count), Batch(None, None, 8 * count, 1.0)
            )
            other.student = student
            losses.append((own, float(other.loss("student", Batch(None, None, 8192, 1.0), step_rng(0, 1))[0].detach())))
        known.append(sum(own for own, _ in losses) / 3)
        held_out.append(sum(far for _, far in losses) / 3)
    assert all(b < 0.7 * a for a, b in itertools.pairwise(held_out)) and held_out[-1] < 0.05 * held_out[0]
    assert known[0] < 1e-3 * held_out[0] and held_out[-1] < 4 * known[-1]


def test_one_step_on_pairs_is_below_the_teacher_and_far_above_one_euler_step():
    noise = normals(4096)
    student, _ = solved(prepared("kd", two_modes(), one_step(Curve()), count=1024), Batch(None, None, 8192, 1.0))
    exact = landed(two_modes(), 200, noise, sampler="heun")
    made = {
        "teacher": landed(two_modes(), 12, noise, sampler="heun"),
        "kd": landed(student, 1, noise),
        "euler": landed(two_modes(), 1, noise),
    }
    error = {name: metrics.trajectory_error(x, exact) for name, x in made.items()}
    law = {name: metrics.sliced_wasserstein(x, exact) for name, x in made.items()}
    assert error["teacher"] < error["kd"] < 0.1 * error["euler"] and law["kd"] < 0.1 * law["euler"]
    assert float(made["euler"].abs().max()) < 1e-9  # the mean of both modes


# --- rectified flow (C1)


class Lines(nn.Module):
    """Velocity eps - x0 of the line between stored pairs that runs through x at t: the minimiser of reflow where lines never cross."""

    def __init__(self, eps, x0):
        super().__init__()
        order = eps[:, 0].argsort()
        self.eps, self.x0 = eps[order, 0].double(), x0[order, 0].double()

    def forward(self, x, t, cond=None):
        out = []
        for point, time in zip(x[:, 0].double().split(512), t.double().split(512), strict=True):
            grid = torch.lerp(self.x0, self.eps, time[:, None])
            k = torch.searchsorted(grid, point[:, None]).clamp(1, grid.shape[1] - 1)
            low, high = (grid.gather(1, j)[:, 0] for j in (k - 1, k))
            before, after = ((self.eps - self.x0)[j[:, 0]] for j in (k - 1, k))
            out.append(torch.lerp(before, after, (point - low) / (high - low)))
        return torch.cat(out)[:, None]


def straightness(model, noise, steps=50):
    with torch.no_grad():
        frames = [frame for frame in wb.run(wb.plan("euler", "linear", steps), model, noise) if not frame.inner]
    return metrics.straightness([frame.x.double() for frame in frames], [frame.t for frame in frames])


@pytest.mark.parametrize(
    "teacher", [gaussian, two_modes, lambda: wb.mixture([[-1.0], [0.2], [1.5]], [0.05, 0.1, 0.3], [1, 2, 1])]
)
def test_pairs_of_one_dimension_never_cross(teacher):
    """Sorted by their noise, the states are sorted at every time, but for the rounding of single precision."""
    stored = prepared("reflow", teacher(), one_step(Affine()), count=2048).store.tensors
    order = stored["eps"][:, 0].argsort()
    eps, x0 = stored["eps"][order, 0].double(), stored["x0"][order, 0].double()
    assert all(float(torch.lerp(x0, eps, t).diff().min()) > -1e-6 for t in (0.0, 0.1, 0.5, 0.9))
    assert float(x0[-1] - x0[0]) > 1


@pytest.mark.parametrize("teacher", [gaussian, two_modes])
def test_the_reflow_of_one_dimension_is_straight_and_exact_in_one_step(teacher):
    """The flow of the teacher gives the mean in one step; that of its pairs has no loss at any time, and lands on them."""
    assert torch.allclose(landed(teacher(), 1, normals(64)), teacher().means.mean().expand(64, 1), atol=1e-9)
    bound = prepared("reflow", teacher(), one_step(Affine()), count=2048, share=1.0)
    stored = bound.store.tensors
    bound.student = Network(Lines(**stored), "linear", "flow", (1,))
    loss, parts = bound.loss("student", Batch(None, None, 4096, 0.5), step_rng(0, 0))
    assert float(loss) < 1e-8 and len(parts) == 2  # times on both sides of 1/2
    inside = stored["eps"][stored["eps"].abs() < 3][:512, None].double()
    ends = landed(teacher(), 12, inside, sampler="heun")
    assert torch.allclose(landed(bound.student, 1, inside), ends, atol=1e-5)
    assert torch.allclose(landed(bound.student, 20, inside), ends, atol=1e-4)
    assert straightness(bound.student, inside) < 1e-8 < 1e-2 < straightness(teacher(), inside)


def test_the_straightness_of_a_gaussian_flow_is_known():
    """z = m(t) + S(t) e with S^2 = (1 - t)^2 width^2 + t^2: E int |(eps - x0) - v|^2 dt = int S'^2 dt - (1 - width)^2."""
    t = torch.linspace(0, 1, 20_001, dtype=F64)
    slope = (t - (1 - t) * WIDTH**2) / ((1 - t).square() * WIDTH**2 + t.square()).sqrt()
    exact = float(torch.trapezoid(slope.square(), t)) - (1 - WIDTH) ** 2
    noise = torch.tensor([[-1.0], [1.0]], dtype=F64)  # mean 0, variance 1: all that counts here
    assert straightness(gaussian(), noise, 2000) == pytest.approx(exact / (MEAN**2 + (1 - WIDTH) ** 2), rel=5e-3)


@pytest.fixture(scope="module")
def reflowed(tmp_path_factory):
    """A network that is reflowed, without one-step distillation, on the pairs of three modes in the plane."""
    teacher = wb.mixture([[1.0, 0.5], [-1.0, -0.5], [0.0, 1.2]], [0.3, 0.3, 0.2])
    *_, last = distill(
        teacher, "reflow", run=tmp_path_factory.mktemp("reflow"), steps=400, count=4096, share=1.0, network=SMALL, device="cpu"
    )
    return teacher, last.student


def test_reflow_straightens_the_flow_and_keeps_its_law(reflowed):
    """S falls a hundredfold; the whole flow's ends differ from fresh draws by less than four deviations of such draws (n = 2000)."""
    teacher, student = reflowed
    noise = normals(2000, 2)
    assert straightness(student, noise) < 0.01 * straightness(teacher, noise)
    draws = [teacher.sample(2000, seed=seed) for seed in range(11)]
    floor = torch.tensor([metrics.energy_distance(x, draws[0]) for x in draws[1:]])
    found = [metrics.energy_distance(landed(model, steps, noise), draws[0]) for model, steps in ((student, 40), (teacher, 1))]
    assert abs(found[0]) < 4 * float(floor.square().mean().sqrt()) < 0.05 * found[1]
    ends = landed(teacher, 40, noise, sampler="heun")
    one = [metrics.trajectory_error(landed(model, 1, noise), ends) for model in (student, teacher)]
    assert one[0] < 0.15 * one[1]


# --- adapters that learn guidance (B3); what they are at first, and the frozen base, are in test_agd

CLASSES = wb.mixture([[-1.0], [1.2]], [0.5, 0.5], labels=[0, 1])


class Beside(nn.Module):
    """The exact conditional answer, plus w - 1 times an adapter that is affine in x and in t: too small to be right everywhere."""

    def __init__(self):
        super().__init__()
        self.adapter = nn.Parameter(torch.zeros(3, 4, dtype=F64))

    def forward(self, x, t, cond=None, w=None):
        seen = torch.stack([torch.ones_like(t), t, x[:, 0], t * x[:, 0]], 1)
        return CLASSES(x, t, cond) + (w - 1)[:, None] * (seen * self.adapter[cond]).sum(1, keepdim=True)


def test_adapters_trained_on_noised_data_are_worse_at_large_scales():
    """Guided trajectories leave the states of noised data the further, the larger w: what is learned there alone is what is asked there."""
    noise, cond, errors = normals(1024), torch.arange(1024) % 2, {}
    x0, labels = CLASSES.sample(4096, labels=True)
    for name, options in (("trajectories", {}), ("data", {"start": FromData(), "times": Between(equal=1.0)})):
        student = Network(Beside(), "linear", "x0", (1,), 2)
        student.guidance_input = (1.0, 6.0)
        solved(get("agd").configured(dropout=0.0, **options).objective.bind(CLASSES, student), Batch(x0, labels, 4096))
        for w in (1.5, 6.0):
            ends = [landed(model, 16, noise, cond, "ddim") for model in (Scaled(student, w), Guided(CLASSES, w))]
            errors[name, w] = metrics.trajectory_error(*ends)
    assert errors["data", 6.0] > 3 * errors["trajectories", 6.0] and errors["data", 6.0] > 5 * errors["data", 1.5]
