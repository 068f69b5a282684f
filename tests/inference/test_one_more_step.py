"""One more step, zero terminal SNR and rescaled guidance, against what a Gaussian gives in closed form."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import workbench as wb
from workbench import paths
from workbench.denoiser import Guided, evaluate
from workbench.errors import UnknownName, WorkbenchError
from workbench.inference import RescaledGuidance, TerminalMean, fit_terminal_mean, one_more_step, zero_terminal_snr

F64 = torch.float64
PATH = paths.from_betas("scaled_linear", 1000, 0.00085, 0.012)  # alpha_T = 0.068
ALPHA, SIGMA = PATH.alpha(1.0), PATH.sigma(1.0)
MEAN, SCALE = torch.tensor([4.0, -3.0], dtype=F64), 2.0
TEACHER = wb.mixture([MEAN.tolist()], [SCALE], path=PATH)
PSI = TerminalMean(MEAN[None], MEAN, PATH)
PLAN = wb.plan("dpmpp_2m", PATH, 100, schedule="logsnr")


def frames(plan, models, noise, **options):
    return list(wb.run(plan, models, noise, **options))


def test_pure_noise_biases_the_mean_by_a_known_factor_and_one_more_step_mends_it():
    """The flow is affine, so the path of zero noise is the path of the mean: m - S alpha_T m / sqrt(V_T) without the step."""
    zero = torch.zeros(1, 2, dtype=F64)
    spread = math.sqrt((ALPHA * SCALE) ** 2 + SIGMA**2)
    flawed = frames(PLAN, TEACHER, zero)[-1].x
    assert torch.allclose(flawed[0] - MEAN, -SCALE * ALPHA * MEAN / spread, rtol=1e-2)
    assert (flawed[0] - MEAN).abs().max() > 0.4
    mended = frames(one_more_step(PLAN, fresh=False), [TEACHER, PSI], zero)[-1].x
    assert torch.allclose(mended[0], MEAN, atol=1e-9)


def test_the_state_after_the_step():
    """Mean alpha_T m exactly; variance sigma_T^2, short of that of x_T by alpha_T^2 S^2. n = 20000, five standard errors."""
    n = 20_000
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=F64)

    def begun(fresh):
        return list(itertools.islice(wb.run(one_more_step(PLAN, fresh), [TEACHER, PSI], noise, seed=3), 2))

    first, second = begun(True)
    assert ((second.x.mean(0) - ALPHA * MEAN).abs() < 5 * SIGMA / math.sqrt(n)).all()
    assert ((second.x.var(0) / SIGMA**2 - 1).abs() < 5 * math.sqrt(2 / n)).all()
    assert torch.corrcoef(torch.stack([first.x[:, 0], second.x[:, 0]]))[0, 1].abs() < 5 / math.sqrt(n)  # z is fresh
    assert torch.equal(second.x, begun(True)[1].x)
    assert torch.allclose(begun(False)[1].x, ALPHA * MEAN + SIGMA * noise, atol=1e-14)


def test_it_is_counted_and_is_no_point_of_the_trajectory():
    plan = one_more_step(PLAN)
    assert plan.evaluations == PLAN.evaluations + 1 and plan.models == 2 and plan.times == PLAN.times
    trajectory = wb.record(wb.run(plan, [TEACHER, PSI], torch.zeros(2, 2, dtype=F64)))
    assert trajectory.t.tolist() == list(PLAN.times) and trajectory.nfe[-1] == PLAN.evaluations + 1
    hybrid = one_more_step(wb.hybrid(PLAN, 5))
    assert hybrid.stages[0].model == 2 and wb.paths.get(hybrid.path) is PATH


def test_a_plan_from_pure_noise_needs_no_step():
    with pytest.raises(WorkbenchError, match="starts at pure noise"):
        one_more_step(wb.plan("ddim", "linear", 4))


def test_the_range_of_brightness_comes_back():
    """Constant 32x32 images along their one coordinate; W2 to exact draws, floor beside them, n = 1500, seed 0."""
    n, level = 1500, torch.linspace(-1, 1, 30, dtype=F64)
    exact = wb.mixture(32 * level[:, None], [0.05] * 30, path=PATH, labels=(torch.arange(30) // 10).tolist())
    cond = torch.arange(n) % 3
    truth, other = exact.sample(n, 1, cond) / 32, exact.sample(n, 2, cond) / 32
    noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    plan, mended = wb.plan("dpmpp_2m", PATH, 20, schedule="trailing"), zero_terminal_snr(PATH)
    psi = fit_terminal_mean(truth * 32, cond, PATH)
    flawed = frames(plan, exact, noise, cond=cond)[-1].x / 32
    oms = frames(one_more_step(plan), [exact, psi], noise, cond=cond)[-1].x / 32
    zero = frames(wb.plan("dpmpp_2m", mended, 20, schedule="trailing"), exact.on(mended), noise, cond=cond)[-1].x / 32
    distance = [wb.metrics.sliced_wasserstein(x, truth, projections=1) for x in (flawed, oms, zero, other)]
    assert distance[0] > 3 * max(distance[1:])


def test_least_squares_fits_the_class_means():
    x0, labels = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=F64), torch.arange(50) % 4
    psi = fit_terminal_mean(x0, labels, "vp")
    solution = torch.linalg.lstsq(torch.nn.functional.one_hot(labels).double(), x0).solution
    assert torch.allclose(psi.table[:4], solution) and torch.allclose(psi(x0[:2], 1.0), x0.mean(0).expand(2, 3))
    with pytest.raises(WorkbenchError, match="class 1 has no data"):
        fit_terminal_mean(x0, 2 * (labels % 2), "vp")
    with pytest.raises(WorkbenchError, match="as many labels"):
        fit_terminal_mean(x0, labels[:3], "vp")
    with pytest.raises(WorkbenchError, match="classes 0 to 3"):
        psi(x0[:2], 1.0, 4)


def test_zero_terminal_snr_of_a_table():
    mended, known = zero_terminal_snr(PATH), paths.from_betas("scaled_linear", 1000, 0.00085, 0.012, zero_snr=True)
    times = torch.arange(1, 1001, dtype=F64) / 1000
    assert torch.allclose(mended.alpha(times), known.alpha(times), atol=1e-7)
    assert mended.alpha(1.0) < 1e-9 and mended.alpha(0.001) == pytest.approx(PATH.alpha(0.001), abs=1e-12)
    ratio = mended.alpha(times[1:-1]) / mended.alpha(times[:-2])
    assert bool(((1 - ratio**2 > 0) & (1 - ratio**2 < 1)).all())  # betas


def test_zero_terminal_snr_of_a_continuous_path():
    old, path = paths.vp, zero_terminal_snr("vp")
    t = torch.linspace(0.01, 0.999, 97, dtype=F64, requires_grad=True)
    assert torch.allclose(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t), atol=1e-14)
    for value, slope in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        assert torch.allclose(torch.autograd.grad(value(t).sum(), t)[0], slope(t), rtol=1e-9)
    assert torch.allclose(path.time(path.log_snr(t)), t, atol=1e-10)
    assert path.alpha(1.0) == 0 and path.sigma(1.0) == 1 and path.alpha(0.0) == 1 and path.sigma(0.0) == 0
    assert path.log_snr(0.02) == pytest.approx(old.log_snr(0.02), abs=0.01)  # the data end stays
    teacher = wb.mixture([MEAN.tolist()], [SCALE], path=path)
    end = frames(wb.plan("dpmpp_2m", path, 200, schedule="logsnr"), teacher, torch.zeros(1, 2, dtype=F64))[-1].x
    assert torch.allclose(end[0], MEAN, atol=1e-2)
    for name in ("edm", "linear"):
        with pytest.raises(WorkbenchError, match="not variance preserving"):
            zero_terminal_snr(name)
    with pytest.raises(WorkbenchError, match="ends at pure noise already"):
        zero_terminal_snr("cosine")


@pytest.mark.parametrize("kind", ["x0", "v", "flow"])
def test_rescaled_guidance(kind):
    teacher = wb.load("mixture64")
    x, cond = torch.randn(6, 64, generator=torch.Generator().manual_seed(2), dtype=F64), torch.arange(6)

    def std(estimate):
        return teacher.path.convert(estimate, x, 0.7, "x0", kind).std(1, correction=0)

    plain, full = RescaledGuidance(teacher, 4.0, 0.0, kind), RescaledGuidance(teacher, 4.0, 1.0, kind)
    guided, nfe = evaluate(full, x, 0.7, cond)
    assert nfe == 2 and torch.allclose(plain(x, 0.7, cond), Guided(teacher, 4.0)(x, 0.7, cond), atol=1e-12)
    assert torch.allclose(std(guided), std(teacher(x, 0.7, cond)), rtol=1e-9)
    assert torch.equal(full(x, 0.7), teacher(x, 0.7)) and full.rescaled == kind
    half = RescaledGuidance(teacher, 4.0, 0.5, kind)(x, 0.7, cond)
    assert torch.allclose(half, (plain(x, 0.7, cond) + guided) / 2, atol=1e-12)


def test_bad_rescaling():
    with pytest.raises(WorkbenchError, match="phi is 2"):
        RescaledGuidance(TEACHER, 3.0, 2.0)
    with pytest.raises(UnknownName, match="prediction kind"):
        RescaledGuidance(TEACHER, 3.0, kind="noise")
