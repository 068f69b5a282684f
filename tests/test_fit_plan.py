"""Learned plans: gradients against differences, closed forms, what is kept fixed, and a lead over the best hand-made plan."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import workbench as wb
from workbench import schedules
from workbench.denoiser import Network
from workbench.errors import UnknownName, WorkbenchError
from workbench.fitting import fit_plan, fitting
from workbench.fitting.fit import _builder
from workbench.fitting.loss import Loss, error, lesson
from workbench.fitting.table import AtTimes, roll, to_stages, to_tensor
from workbench.fitting.unknowns import Unknowns
from workbench.metrics import trajectory_error
from workbench.samplers import SAMPLERS, Plan
from workbench.samplers.sample import noise_for

F64 = torch.float64
MIXTURE = wb.mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5])
RING = wb.load("eight_gaussians")
NOISE = noise_for(MIXTURE, 6)


def final(plan: Plan, model: Any, noise: torch.Tensor, cond: Any = None) -> torch.Tensor:
    *_, last = wb.run(plan, model, noise, cond)
    return last.x


def noisy(plan: Plan) -> bool:
    return any(row.noise for stage in plan.stages for row in (stage.x, stage.base) if row)


def loss_of(plan: Plan, model: Any, rows: bool, times: bool, offsets: bool, relax: float = 0.0) -> Loss:
    history = plan.evaluations
    unknowns = Unknowns(plan, _builder(plan, times, history), rows, times, offsets, history)
    fine = wb.plan("heun", plan.path, 24, "logsnr")
    return Loss(unknowns, model, lesson(fine, model, noise_for(model, 5, seed=3), None), relax)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if not noisy(wb.plan(name, "linear", 6))])
@pytest.mark.parametrize("path", ["linear", "vp"])
def test_the_run_with_gradients_is_the_run(sampler, path):
    plan = wb.plan(sampler, path, 6)
    table, model = to_tensor(plan.stages, plan.history), MIXTURE.on(path)
    states = roll(plan, table, table != 0, model, NOISE)
    assert torch.allclose(states[-1], final(plan, model, NOISE), rtol=0, atol=1e-12)
    again = Plan("again", plan.path, plan.times, to_stages(plan.stages, table, plan.times))
    assert torch.equal(final(again, model, NOISE), final(plan, model, NOISE))


@pytest.mark.parametrize(
    ("sampler", "path", "rows", "times", "offsets", "relax"),
    [
        ("dpmpp_2m", "linear", True, True, True, 0.0),
        ("dpmpp_2m", "vp", False, True, False, 0.0),
        ("heun", "linear", True, True, False, 0.0),
        ("unipc", "edm", True, True, True, 0.0),
        ("euler", "cosine", True, False, False, 0.3),
    ],
)
def test_the_gradient_is_that_of_finite_differences(sampler, path, rows, times, offsets, relax):
    loss = loss_of(wb.plan(sampler, path, 3), MIXTURE.on(path), rows, times, offsets, relax)
    loss.intermediate = 0.5
    rng = torch.Generator().manual_seed(0)
    start = loss.start()
    theta = 0.05 * torch.randn(len(start), generator=rng, dtype=F64)
    theta[len(loss.own(theta)) :] *= 40  # some shifts lie outside of the ball
    if offsets:  # an offset above t = 1 has no effect: keep away from that corner
        theta[loss.unknowns.sizes[0]] = -0.1
    _, gradient = loss(theta)
    for _ in range(3):
        way = torch.randn(len(theta), generator=rng, dtype=F64)
        h = 1e-5
        slope = (loss(theta + h * way)[0] - loss(theta - h * way)[0]) / (2 * h)
        assert float(gradient @ way) == pytest.approx(slope, rel=2e-5, abs=1e-9)
    assert gradient.abs().max() > 0


def test_a_solvers_table_has_the_slope_of_its_formula():
    def build(times: list[float]) -> torch.Tensor:
        return to_tensor(SAMPLERS["ddim"](wb.paths.linear, times), 1)

    grid = torch.tensor([1.0, 0.6, 0.2, 0.0], dtype=F64, requires_grad=True)
    table = AtTimes.apply(grid, build)
    (slope,) = torch.autograd.grad(table[1, 2], grid)  # x row of the step 0.6 -> 0.2 is t / s
    assert slope.tolist() == pytest.approx([0.0, -0.2 / 0.36, 1 / 0.6, 0.0], rel=1e-8)


@pytest.mark.parametrize("scale", [0.25, 0.8])
def test_one_step_on_a_gaussian_finds_the_exact_flow(scale):
    # at t = 1 of the linear path x0 is the mean m whatever x; the flow ends at m + S z: coefficients S and 1
    gaussian = wb.mixture([[0.7, -0.3]], [scale])
    plan = fit_plan(gaussian, 1, "ddim", learn="rows", n=64, iterations=20)
    row = plan.stages[0].x
    assert row.x == pytest.approx(scale, abs=1e-3) and row.outputs == pytest.approx((1.0,), abs=1e-3)
    assert error(plan, gaussian, lesson(wb.plan("heun", "linear", 100, "logsnr"), gaussian, NOISE, None)) < 1e-3


def test_times_alone_keep_the_rows_of_the_solver():
    plan = fit_plan(RING, 4, "dpmpp_2m", learn=("times",), n=64, iterations=20)
    same = wb.plan("dpmpp_2m", "linear", schedule=plan.times)
    assert plan.times != wb.plan("dpmpp_2m", "linear", 4).times and plan.times[0] == 1 and plan.times[-1] == 0
    table, expected = (to_tensor(made.stages, 2) for made in (plan, same))
    assert torch.allclose(table, expected, rtol=1e-12, atol=0)
    assert plan.options["after"] < 0.9 * plan.options["before"]


def test_rows_alone_keep_the_times():
    start = wb.plan("heun", "linear", 3, "quadratic")
    plan = fit_plan(RING, 3, "heun", "quadratic", learn=("rows",), n=64, iterations=10)
    assert plan.times == start.times and [s.t for s in plan.stages] == [s.t for s in start.stages]
    assert plan.schedule == "quadratic" and plan.stages != start.stages
    assert plan.history == start.evaluations  # every row sees all outputs
    narrow = fit_plan(RING, 3, "heun", "quadratic", learn=("rows",), n=64, iterations=2, history=1)
    assert narrow.history == start.history


def test_a_short_fit_beats_every_hand_made_plan_by_a_third():
    noise = noise_for(RING, 256, seed=77)
    exact = final(wb.plan("heun", "linear", 100, "logsnr"), RING, noise)

    def far(plan: Plan) -> float:
        return trajectory_error(final(plan, RING, noise), exact)

    made = {}
    for sampler in SAMPLERS:
        for schedule in schedules.NAMES:
            try:
                plan = wb.plan(sampler, "linear", 4, schedule)
            except WorkbenchError:
                continue
            if plan.evaluations == 4 and not noisy(plan):
                made[sampler, schedule] = far(plan)
    fitted = fit_plan(RING, 4, n=256, iterations=60)
    assert len(made) > 50 and far(fitted) < 0.7 * min(made.values())
    assert fitted.evaluations == 4 and fitted.sampler == "lsd(dpmpp_2m)" and fitted.schedule == "learned"
    assert far(fitted) == pytest.approx(fitted.options["after"], rel=0.6)


def test_the_result_is_the_best_seen_and_never_worse_than_the_start():
    reports = list(fitting(RING, 3, n=8, iterations=40, every=10))  # so few samples that it learns them by heart
    errors = [report.error for report in reports]
    assert reports[0].plan.stages == wb.plan("dpmpp_2m", "linear", 3).stages and reports[0].error == reports[0].before
    assert reports[-1].after == min(errors) <= reports[0].before
    assert reports[-1].best.stages == reports[errors.index(min(errors))].plan.stages
    assert [report.after for report in reports] == [min(errors[: k + 1]) for k in range(len(errors))]
    exact = wb.mixture([[1.0, 2.0]], [0.2])  # a start that nothing improves: one Gaussian, exact rows
    done = fit_plan(exact, 1, "ddim", learn="rows", n=16, iterations=10)
    again = fit_plan(exact, start=done, learn="rows", n=16, iterations=10)
    assert again.options["after"] <= done.options["after"]


def test_a_seed_repeats_and_another_does_not():
    first, again, other = (fit_plan(RING, 3, n=32, iterations=6, every=3, fine=16, seed=seed) for seed in (1, 1, 2))
    assert first.to_json() == again.to_json() and first.stages != other.stages


@pytest.mark.parametrize("as_progress", [True, False])
def test_a_fit_goes_on_from_an_earlier_one(as_progress):
    for report in fitting(RING, 4, n=64, iterations=100, every=10, fine=24):
        if report.step == 20:
            break
    stored = Plan.from_json(report.best.to_json())
    reports = list(fitting(RING, start=report if as_progress else stored, n=64, iterations=30, fine=24))
    assert reports[0].plan.stages == report.best.stages and reports[0].before == pytest.approx(report.after)
    assert reports[-1].after < 0.9 * report.after
    assert reports[-1].best.sampler == "lsd(dpmpp_2m)" and reports[-1].best.options["from"] == "dpmpp_2m"


def test_a_fitted_plan_is_stored_and_runs_in_single_precision():
    plan = fit_plan(RING, 3, "dpmpp_2s", "karras", n=32, iterations=5, t_end=0.01, rho_min=0.02)
    again = Plan.from_json(plan.to_json())
    assert again == plan and again.times[-1] == 0.01
    noise = noise_for(RING, 16, seed=5)
    double, single = final(plan, RING, noise), final(again, RING, noise.float())
    assert single.dtype == torch.float32 and torch.allclose(single.double(), double, atol=1e-4)
    assert {
        "from": "dpmpp_2s",
        "schedule": "karras",
        "learn": ["rows", "times"],
        "seed": 0,
        "n": 32,
    }.items() <= plan.options.items()


def test_a_network_is_fitted_without_touching_its_weights():
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None) -> torch.Tensor:
            label = torch.zeros(len(x)) if cond is None else cond.float()
            return self.body(torch.cat([x, t[:, None], label[:, None]], 1))

    teacher = Network(Small(), "linear", "flow", (2,), classes=2)
    before = [value.clone() for value in body.parameters()]
    plan = fit_plan(teacher, 2, "euler", cond=[0, 1], guidance=2.0, n=16, iterations=10)
    assert plan.options["after"] < 0.7 * plan.options["before"]
    assert all(value.grad is None and torch.equal(value, old) for value, old in zip(body.parameters(), before, strict=True))


def test_states_in_between_follow_the_teacher_where_they_count():
    plan = wb.plan("ddim", "linear", 3)
    loss = loss_of(plan, MIXTURE, True, False, False)
    theta = loss.start()
    end = loss(theta)[0]
    assert end == pytest.approx(error(plan, MIXTURE, loss.taught) ** 2, rel=1e-9)
    loss.intermediate = 1.0
    assert loss(theta)[0] > end
    loss.unknowns.correct(loss.least_squares(theta))
    assert loss(theta)[0] < 0.5 * end


def test_adam_learns_too_and_relaxed_noise_leaves_validation_alone():
    adam = fit_plan(RING, 3, n=64, iterations=30, optimizer="adam")
    assert adam.options["after"] < 0.8 * adam.options["before"]
    relaxed = list(fitting(RING, 3, n=64, iterations=10, relax=0.05))
    plain = list(fitting(RING, 3, n=64, iterations=10))
    assert relaxed[-1].loss < plain[-1].loss and relaxed[0].before == plain[0].before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 3, "learn": ("rows", "noise")}, "noise"),
        ({"steps": 3, "learn": ()}, "nothing to learn"),
        ({"steps": 1, "learn": "times"}, "nothing to learn"),
        ({"steps": 3, "sampler": "ddpm"}, "adds noise"),
        ({"steps": 3, "sampler": "eulr"}, "did you mean 'euler'"),
        ({"steps": 3, "optimizer": "sgd"}, "optimizer"),
        ({"steps": 3, "relax": -1.0}, "relax is -1"),
        ({"steps": 3, "intermediate": math.nan}, "intermediate is nan"),
        ({"steps": 3, "n": 1}, "n is 1"),
        ({"steps": 3, "seconds": 0}, "seconds is 0"),
        ({"steps": 3, "fine": 4}, "fine is 4"),
        ({"steps": 3, "cond": []}, "cond is empty"),
        ({"steps": 3, "cond": 99}, "class 99"),
        ({"steps": 3, "start": "plan"}, "start must be"),
        ({"steps": 5, "start": wb.plan("ddim", "linear", 4)}, "leave steps"),
        ({"start": wb.plan("ddim", "vp", 4)}, "path"),
        ({"start": wb.hybrid(wb.plan("ddim", "linear", 4), 2)}, "hybrid"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_runs(settings, words):
    with pytest.raises(WorkbenchError, match=words):
        fitting(RING, **settings)


def test_a_model_without_a_path_or_with_two_times_is_refused():
    with pytest.raises(WorkbenchError, match=r"denoiser with a \.path"):
        fitting(lambda x, t, cond: x, 3)
    with pytest.raises(WorkbenchError, match="flow map"):
        fitting(Network(lambda x, t, cond, s: x, "linear", "flow", (2,), two_times=True), 3)
    with pytest.raises(UnknownName, match="did you mean 'shift'"):
        fitting(RING, 3, shfit=2.0, schedule="shift")
