"""Every solver against exact answers: what it must coincide with, the path's scale, the law of its noise, and its limits."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench import paths
from workbench.errors import UnknownName, WorkbenchError
from workbench.samplers import SAMPLERS, sampler_options
from workbench.samplers.table import combine, sum_of

VP = paths.vp
LOW, HIGH = -2.0, 2.0
TEACHER = wb.mixture([[1.5, 0.0], [-1.0, 1.2], [0.3, -1.4]], [0.45, 0.45, 0.45]).on(VP)
NOISE = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
STOCHASTIC = ("ddpm", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde", "restart", "consistency", "lcm")


def grid(steps: int, path: paths.Path = VP) -> Tensor:
    return path.time(torch.linspace(LOW, HIGH, steps + 1, dtype=torch.float64))


def rms(difference: Tensor) -> float:
    return float(difference.square().sum(1).mean().sqrt())


# -- what must coincide


def final(plan: wb.Plan, seed: int = 0) -> Tensor:
    *_, last = wb.run(plan, TEACHER.on(plan.path), NOISE, seed=seed)
    return last.x


SAME = [
    (("dpm_1", {}), ("ddim", {})),
    (("ab", {"order": 1}), ("ddim", {})),
    (("ipndm", {"order": 1}), ("ddim", {})),
    (("deis", {"order": 1}), ("ddim", {})),
    (("unipc", {"order": 1, "corrector": False}), ("ddim", {})),
    (("unipc", {"order": 1, "corrector": False, "kind": "eps"}), ("ddim", {})),
    (("deis", {"variable": "rho"}), ("ab", {})),
    (("unipc", {"order": 2, "corrector": False}), ("dpmpp_2m", {})),
    (("unipc", {"order": 3, "corrector": False}), ("dpmpp_3m", {"solver_type": "midpoint"})),
    (("dpmpp_2m_sde", {"eta": 0.0}), ("dpmpp_2m", {})),
    (("dpmpp_3m_sde", {"eta": 0.0}), ("dpmpp_3m", {})),
    (("ghvb", {"order": 3, "beta": 1.0}), ("ipndm", {"order": 3})),
    (("hb", {"order": 3, "beta": 1.0}), ("ipndm", {"order": 3})),
    (("ddpm", {}), ("ddim", {"eta": 1.0})),
    (("euler_ancestral", {}), ("ddim", {"eta": 1.0})),
    (("euler_ancestral", {"eta": 0.0}), ("ddim", {})),
    (("ddpm", {"variance": "gaussian", "data_std": 0.0}), ("ddpm", {})),
    (("restart", {"windows": []}), ("heun", {})),
    (("restart", {"windows": [(4, 0, 0.3, 1.0)]}), ("heun", {})),
    (("lcm", {"sigma_data": 0.0}), ("consistency", {})),
]


@pytest.mark.parametrize("path", ["vp", "linear", "edm"])
@pytest.mark.parametrize(("one", "other"), SAME, ids=[f"{a[0]}-{b[0]}" for a, b in SAME])
def test_special_cases_coincide(one: tuple, other: tuple, path: str) -> None:
    if path == "linear" and (one[1].get("kind") == "eps" or one[0] == "hb"):
        return  # unipc on eps does not start at pure noise; hb begins its history one step later there
    a, b = (final(wb.plan(name, path, 9, "karras", **options)) for name, options in (one, other))
    assert torch.allclose(a, b, atol=1e-10)


def test_ghvb_below_and_above_its_two_representations_agree() -> None:
    low, high = (final(wb.plan("ghvb", VP, 12, order=4, beta=beta)) for beta in (0.95, 0.9500001))
    assert torch.allclose(low, high, atol=1e-5)


def test_euler_on_the_linear_path_is_ddim_with_and_without_a_name() -> None:
    assert torch.allclose(final(wb.plan("euler", "linear", 7)), final(wb.plan("dpm_1", "linear", 7)), atol=1e-12)


def test_polynomials_are_integrated_exactly() -> None:
    """An eps that is a polynomial of degree 2 in the solver's own variable: three points are enough."""
    for variable in ("t", "rho", "log_snr"):
        plan = wb.plan("deis", VP, schedule=grid(12), order=3, variable=variable)
        value = {"t": lambda t: t, "rho": VP.rho, "log_snr": VP.log_snr}[variable]

        def eps(t: float, value=value) -> float:
            q = value(t)
            return 0.3 + q - 0.5 * q * q

        i = 6
        stage = plan.stages[i]
        row, s, t = stage.x, plan.times[i], plan.times[i + 1]
        found = sum(b * eps(plan.times[i - k]) for k, b in enumerate(row.outputs))
        fine = torch.linspace(math.log(VP.rho(s)), math.log(VP.rho(t)), 20001, dtype=torch.float64)
        at = VP.time(-fine)
        integral = torch.trapezoid(eps(at), fine.exp())
        assert found == pytest.approx(VP.alpha(t) * float(integral), rel=1e-7)


# -- the scale of the path


def scaled(path: paths.Path) -> paths.Path:
    """alpha and sigma times k(t): another way to write the same thing."""

    def k(t: Tensor) -> Tensor:
        return 0.5 + 1.5 * t

    return replace(
        path,
        name="scaled",
        alpha_fn=lambda t: k(t) * path.alpha_fn(t),
        sigma_fn=lambda t: k(t) * path.sigma_fn(t),
        d_alpha_fn=lambda t: 1.5 * path.alpha_fn(t) + k(t) * path.d_alpha_fn(t),
        d_sigma_fn=lambda t: 1.5 * path.sigma_fn(t) + k(t) * path.d_sigma_fn(t),
    )


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "lcm"])  # its boundary condition sees x itself
def test_the_scale_of_the_path_does_not_matter(sampler: str) -> None:
    if sampler == "pndm":
        options = {"start": "plms"}
    else:
        options = {"variable": "rho"} if sampler in ("euler", "heun", "restart") else {}
    other = scaled(VP)

    class Same:
        path = other

        def __call__(self, x: Tensor, t: float, cond: object = None) -> Tensor:
            return TEACHER(x / (0.5 + 1.5 * t), t)

    times = VP.time(torch.linspace(LOW, HIGH, 11, dtype=torch.float64))
    plain, moved = (wb.plan(sampler, path, schedule=times, **options) for path in (VP, other))
    *_, a = wb.run(plain, TEACHER, NOISE, seed=3)
    *_, b = wb.run(moved, Same(), NOISE, seed=3)
    assert torch.allclose(b.x / (0.5 + 1.5 * float(times[-1])), a.x, rtol=1e-11, atol=1e-12)


# -- noise


def moments(sampler: str, steps: int, std: float = 0.5, start: float = 1.0, **options: object) -> tuple[float, float]:
    """Mean and variance of what comes out for data N(0.7, std^2) in one dimension, worked out from the table: no samples."""
    path = paths.vp
    plan = wb.plan(sampler, path, schedule=torch.linspace(start, 0, steps + 1, dtype=torch.float64), **options)
    mean = 0.7
    begin = path.sigma(plan.times[0])
    # every quantity is a + sum_j b_j z_j over independent standard normal z; the first is the starting noise
    size = len(plan.stages) + 1
    x = torch.zeros(size + 1, dtype=torch.float64)
    x[1] = begin
    base, outputs = x, []
    for i, stage in enumerate(plan.stages):
        alpha, sigma = path.alpha(stage.t), path.sigma(stage.t)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        target = gain * x
        target[0] += mean - gain * alpha * mean
        c_x, c_p = path.conversion("x0", stage.kind, stage.t)
        outputs.insert(0, c_x * x + c_p * target)
        fresh = torch.zeros_like(x)
        fresh[i + 2 if i + 2 <= size else size] = 1.0
        held = (x, base, fresh, *outputs)
        new = [
            None if row is None else combine(sum_of((row.x, row.base, row.noise, *row.outputs)), held)
            for row in (stage.x, stage.base)
        ]
        x, base = new[0], base if new[1] is None else new[1]
    return float(x[0]), float(x[1:].square().sum())


def test_ddpm_with_the_exact_variance_is_exact_on_any_grid() -> None:
    for steps in (1, 3, 10):
        mean, variance = moments("ddpm", steps, variance="gaussian", data_std=0.5)
        # what is left is the noise that starts at sigma(1) instead of at the data's own law there
        assert mean == pytest.approx(0.7, abs=5e-3) and variance == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ddpm", {}),
        ("ddpm", {"variance": "large"}),
        ("euler_ancestral", {}),
        ("ddim", {"eta": 0.5}),
        ("dpmpp_2m_sde", {}),
        ("dpmpp_2m_sde", {"eta": 0.5}),
        ("dpmpp_3m_sde", {}),
        ("heun", {"s_churn": 20.0, "s_tmax": 20.0}),
        ("euler", {"s_churn": 20.0, "s_tmax": 20.0}),
        ("restart", {}),
    ],
    ids=str,
)
def test_the_law_of_gaussian_data_is_approached(sampler: str, options: dict) -> None:
    """Stationarity: the variance goes to the data's own as steps are added, whatever noise is thrown in."""
    off = [abs(moments(sampler, steps, **options)[1] - 0.25) for steps in (50, 200)]
    assert off[1] < 0.025 and off[1] < 0.5 * off[0] + 1e-5, off


def test_churn_keeps_the_law_of_the_state() -> None:
    """One exact Gaussian state, churned: its variance is that of the path at the higher time."""
    from workbench.samplers.plan import Row, Stage
    from workbench.samplers.points import at_log_snr, renoised

    here, up = at_log_snr(VP, [0.5, 0.1])
    stage = renoised(Stage(here.t, here.t, "x0", Row(x=1.0)), here, up)
    variance = (here.alpha * 0.5) ** 2 + here.sigma**2
    assert stage.to == up.t
    assert stage.x.x**2 * variance + stage.x.noise**2 == pytest.approx((up.alpha * 0.5) ** 2 + up.sigma**2)


def test_a_restart_contracts_an_error_and_counts_its_evaluations() -> None:
    times = grid(12)
    plain = wb.plan("heun", VP, schedule=times)
    rounds = [wb.plan("restart", VP, schedule=times, windows=[(5, k, 0.4, 3.0)]) for k in (0, 1, 3)]
    assert [plan.evaluations - plain.evaluations for plan in rounds] == [0, 8, 24]
    assert rounds[2].times == plain.times
    offset = []
    for plan in rounds:
        noisy = torch.cat([NOISE] * 40)
        *_, a = wb.run(plan, TEACHER, noisy, seed=1)
        *_, b = wb.run(plan, TEACHER, noisy + 0.5, seed=1)  # an error that the start brings along
        offset.append(rms(a.x - b.x))
    assert offset[0] > 1.5 * offset[1] > 1.5 * 1.5 * offset[2]


# -- options


def test_the_last_step_in_full_is_better_than_x0_alone_where_it_is_regular() -> None:
    times = [*grid(20)[:-1].tolist(), 0.0]
    ends = [final(wb.plan("ab", VP, schedule=times, final=last)) for last in ("x0", "full")]
    to_the_data = VP.time(torch.linspace(LOW, 7, 901, dtype=torch.float64))
    *_, fine = wb.run(wb.plan("dpmpp_2m", VP, schedule=[*to_the_data.tolist(), 0.0]), TEACHER, NOISE)
    assert rms(ends[1] - fine.x) < rms(ends[0] - fine.x)


@pytest.mark.parametrize(
    ("sampler", "options", "says"),
    [
        ("ab", {"order": 5}, "order is 5, but ab has orders 1 to 4"),
        ("deis", {"order": 4}, "order 4 needs 4 points .* this plan has 3 steps.* order 3 at most"),
        ("unipc", {"order": 0}, "unipc has orders 1 to 3"),
        ("dpm_2", {"r": 0.0}, "r is 0.0, but must lie between"),
        ("dpm_3", {"r1": 0.7}, "r1 is 0.7, but must lie between"),
        ("ghvb", {"beta": 0.0}, "beta is 0.0, but must lie between"),
        ("dpmpp_3m", {"dualfast": 2.0}, "dualfast is 2.0"),
        ("heun", {"s_churn": -1.0}, "s_churn is -1.0"),
        ("euler", {"s_tmin": 2.0, "s_tmax": 1.0}, "s_tmin = 2.0 and s_tmax = 1.0"),
        ("pndm", {"start": "prk"}, "needs 4 steps or more"),
        ("restart", {"windows": [(4, 1, 3.0, 1.0)]}, "a restart window is"),
        ("restart", {"windows": [(4, 1, 1e-4, 1.0)]}, "lies outside the plan's points"),
        ("ddpm", {"data_std": -1.0}, "data_std is -1.0"),
        ("dpmpp_2m_sde", {"eta": -0.1}, "eta is -0.1"),
        ("lcm", {"timestep_scaling": 0.0}, "timestep_scaling is 0.0"),
    ],
    ids=str,
)
def test_limits_are_told_in_a_sentence(sampler: str, options: dict, says: str) -> None:
    with pytest.raises(WorkbenchError, match=says):
        wb.plan(sampler, VP, 3, **options)


def test_a_path_without_an_inverse_says_what_runs_on_it() -> None:
    path = replace(VP, name="mine", time_fn=None)
    for sampler, schedule in (
        ("dpm_2", "uniform"),
        ("restart", "uniform"),
        ("deis", "uniform"),
        ("ddim", "karras"),
        ("ddim", "shift"),
    ):
        with pytest.raises(
            WorkbenchError, match=r"path 'mine' has no inverse.*give it one, or run ddim, euler, .* on uniform"
        ) as told:
            wb.plan(sampler, path, 6, schedule)
    for sampler in ("ddim", "euler", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "ab", "ipndm"):
        assert sampler in str(told.value)
        for schedule in ("uniform", "quadratic", "cosine", "beta", [1.0, 0.4, 0.1, 0.0]):
            plan = wb.plan(sampler, path, None if isinstance(schedule, list) else 6, schedule)
            assert torch.equal(final(plan), final(replace(plan, path=VP)))


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("dpmpp_3m", {"second_diff": "quarter"}),
        ("deis", {"variable": "x"}),
        ("ab", {"final": "f"}),
        ("unipc", {"variant": "bh3"}),
    ],
    ids=str,
)
def test_unknown_choices_name_what_there_is(sampler: str, options: dict) -> None:
    with pytest.raises(UnknownName):
        wb.plan(sampler, VP, 3, **options)


def test_unipc_on_eps_says_where_it_can_start() -> None:
    with pytest.raises(WorkbenchError, match="take kind='x0', or begin at t_start < 1"):
        wb.plan("unipc", "linear", 5, kind="eps")


def test_every_option_has_a_default() -> None:
    for sampler in SAMPLERS:
        assert wb.plan(sampler, "linear", 6).evaluations >= 6 and isinstance(sampler_options(sampler), list)


# -- the first noise in place of the predicted one


def straight(x: Tensor, t: float | Tensor, cond: object = None) -> Tensor:
    """x0 of the straight line through x at t whose ends are tied by x0 = 0.4 eps + 0.7."""
    return 0.4 * (x - (1 - t) * 0.7) / ((1 - t) * 0.4 + t) + 0.7


straight.path = paths.linear


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_on_straight_lines_the_first_noise_is_the_predicted_one(steps: int) -> None:
    """RF++'s update (arXiv 2405.20320) and Euler's agree where the coupling is straight, in any number of steps."""
    plans = [wb.plan("ddim", "linear", steps, reuse_noise=reused) for reused in (False, True)]
    ends = [[frame.x for frame in wb.run(plan, straight, NOISE)] for plan in plans]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*ends, strict=True))
    assert torch.allclose(ends[1][-1], 0.4 * NOISE + 0.7, atol=1e-12)


def test_on_bent_ones_it_is_not_and_every_state_keeps_the_first_noise() -> None:
    plan = wb.plan("ddim", VP, 4, reuse_noise=True)
    frames = list(wb.run(plan, TEACHER, NOISE))
    assert not torch.allclose(frames[-1].x, final(wb.plan("ddim", VP, 4)), atol=1e-2)
    for before, frame in itertools.pairwise(frames):
        t = torch.tensor(frame.t, dtype=torch.float64)
        assert torch.allclose(frame.x, VP.alpha(t) * before.target + VP.sigma(t) * NOISE, atol=1e-12)
    with pytest.raises(WorkbenchError, match=r"eta is 0.5, and adds fresh noise, but reuse_noise keeps the first"):
        wb.plan("ddim", VP, 4, reuse_noise=True, eta=0.5)
