"""Paths: monotone, invertible, differentiable as claimed; one conversion between the kinds; what diffusers' schedulers say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import paths
from workbench.errors import UnknownName, WorkbenchError
from workbench.paths import KINDS, Path

diffusers = pytest.importorskip("diffusers")

TABLES = {
    "ddpm": diffusers.DDPMScheduler(),
    "scaled": diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    "cosine table": diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    "zero snr": diffusers.DDIMScheduler(rescale_betas_zero_snr=True),
}
ALL = {**paths.NAMES, **{name: paths.from_scheduler(scheduler) for name, scheduler in TABLES.items()}}
every_path = pytest.mark.parametrize("path", ALL.values(), ids=ALL)
inside = st.floats(1e-3, 1 - 1e-3)


@every_path
def test_ends_and_monotone(path: Path) -> None:
    t = torch.linspace(0, 1, 3001, dtype=torch.float64)
    alpha, sigma = path.alpha(t), path.sigma(t)
    assert alpha[0] == pytest.approx(1, abs=1e-15) and sigma[0] == 0
    assert (alpha.diff() <= 0).all() and (sigma.diff() >= 0).all()
    assert (path.log_snr(t[1:]).diff() < 0).all()
    assert path.log_snr(0.0) == torch.inf
    assert alpha.dtype == sigma.dtype == torch.float64


@pytest.mark.parametrize("name", ["linear", "cosine", "trig"])
def test_pure_noise_is_exact(name: str) -> None:
    path = paths.get(name)
    assert path.alpha(1.0) == 0 and path.sigma(1.0) == pytest.approx(1, abs=1e-15)
    assert (
        path.log_snr(1.0) == -torch.inf and path.time(-torch.inf) == 1 and path.time(torch.inf) == pytest.approx(0, abs=1e-12)
    )


@pytest.mark.parametrize("name", ["cosine", "vp", "trig", *TABLES])
def test_variance_preserving(name: str) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert torch.allclose(ALL[name].alpha(t) ** 2 + ALL[name].sigma(t) ** 2, torch.ones(101, dtype=torch.float64), atol=1e-14)


@every_path
@settings(max_examples=40, deadline=None)
@given(t=inside)
def test_time_inverts_log_snr(path: Path, t: float) -> None:
    assert path.time(path.log_snr(t)) == pytest.approx(t, abs=1e-9)


def test_time_is_clamped() -> None:
    # the edm path ends at rho = 80 and vp at a finite log-SNR: beyond, the nearest end
    assert paths.edm.time(-10.0) == 1 and paths.vp.time(-50.0) == 1
    assert all(path.time(60.0) < 1e-6 for path in ALL.values() if path.name != "edm")


@every_path
@settings(max_examples=25, deadline=None)
@given(t=inside)
def test_derivatives_match_finite_differences(path: Path, t: float) -> None:
    if path.timesteps:  # log alpha is linear between the nodes of a table: stay between two
        t = (int(t * path.timesteps) + 0.5) / path.timesteps
    d = 1e-6
    for function, derivative in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        measured = (function(t + d) - function(t - d)) / (2 * d)
        assert derivative(t) == pytest.approx(measured, rel=1e-5, abs=1e-6)


@every_path
@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
@settings(max_examples=8, deadline=None)
@given(t=st.floats(0.02, 0.98), seed=st.integers(0, 10))
def test_kinds_convert_into_each_other(path: Path, source: str, target: str, t: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 3, 4, generator=rng, dtype=torch.float64)
    if path.name == "edm":
        t = max(t, 0.3)  # below, rho < 0.02 falls to 1e-10: x no longer shows eps to nine digits
    x = path.mix(x0, eps, t)

    def truth(kind: str) -> torch.Tensor:
        a, b = path.kind(kind, t)
        return a * x0 + b * eps

    there = path.convert(truth(source), x, t, source, target)
    scale = 1 + truth(target).abs() + truth(source).abs() * abs(path.conversion(source, target, t)[1])
    assert ((there - truth(target)).abs() / scale).max() < 1e-9
    back = path.convert(there, x, t, target, source)
    assert ((back - truth(source)).abs() / (1 + truth(source).abs())).max() < 1e-9


def test_conversion_with_one_time_per_sample_equals_each_alone() -> None:
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x, v = torch.randn(2, 3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = paths.cosine.convert(v, x, t, "v", "eps")
    for i, time in enumerate(t.tolist()):
        assert torch.allclose(together[i], paths.cosine.convert(v[i], x[i], time, "v", "eps"), atol=1e-14)
    assert torch.equal(paths.cosine.mix(x, v, t)[1], paths.cosine.mix(x[1], v[1], 0.5))


def test_kinds_of_the_papers() -> None:
    assert paths.linear.kind("flow", 0.3) == (-1, 1)  # eps - x0
    assert paths.vp.kind("v", 0.3) == (-paths.vp.sigma(0.3), paths.vp.alpha(0.3))
    a, b = paths.trig.kind("flow", 0.3)
    assert (a, b) == pytest.approx([torch.pi / 2 * c for c in paths.trig.kind("v", 0.3)])  # TrigFlow: its flow is v


@pytest.mark.parametrize(("source", "target", "t"), [("x0", "eps", 0.0), ("eps", "x0", 1.0), ("x0", "flow", 0.0)])
def test_undetermined_conversions_say_so(source: str, target: str, t: float) -> None:
    with pytest.raises(WorkbenchError, match=f"{target} cannot be computed from {source} at t = {t}"):
        paths.linear.conversion(source, target, t)


def test_floats_in_floats_out_and_precision_of_the_state() -> None:
    assert isinstance(paths.vp.alpha(0.3), float) and isinstance(paths.vp.time(1), float)
    x = torch.randn(2, 2)
    assert paths.vp.convert(x, x, torch.tensor([0.2, 0.3]), "eps", "x0").dtype == torch.float32
    assert paths.vp.mix(x, x, torch.tensor([0.2, 0.3])).dtype == torch.float32


# -- diffusers


@pytest.mark.parametrize("name", TABLES)
def test_a_table_holds_the_schedulers_alphas(name: str) -> None:
    table, path = TABLES[name].alphas_cumprod.double(), ALL[name]
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert path.timesteps == 1000
    assert torch.allclose(path.alpha(t), table.sqrt(), rtol=1e-12, atol=1e-9)  # zero terminal SNR: alpha(1) = 1e-10
    assert torch.allclose(path.sigma(t), (1 - table).sqrt(), rtol=1e-9)


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [
        (diffusers.DDPMScheduler(), "table of DDPMScheduler"),
        (diffusers.DDIMScheduler(), "table of DDIMScheduler"),
        (diffusers.EulerDiscreteScheduler(), "table of EulerDiscreteScheduler"),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "linear"),
        (diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"), "linear"),
        (diffusers.EDMEulerScheduler(), "edm"),
        (diffusers.EDMDPMSolverMultistepScheduler(sigma_max=500.0), "edm to 500"),
    ],
)
def test_from_scheduler(scheduler: object, name: str) -> None:
    path = paths.from_scheduler(scheduler)
    assert path.name == name
    if name.startswith("table"):
        assert torch.allclose(path.rho(torch.tensor([0.5])).double(), ((1 / scheduler.alphas_cumprod[499]) - 1).sqrt().double())
    if name == "edm to 500":
        assert path.sigma(1.0) == 500


def test_edm_times_make_equal_steps_of_karras() -> None:
    rho = paths.edm.sigma(torch.linspace(0, 1, 5, dtype=torch.float64)) ** (1 / 7)
    assert torch.allclose(rho.diff(), rho.diff()[0].expand(4))


# -- errors


def test_errors_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'cosine'"):
        paths.get("cosin")
    with pytest.raises(UnknownName, match="did you mean 'eps'"):
        paths.vp.kind("epss", 0.5)
    with pytest.raises(WorkbenchError, match="neither alphas_cumprod nor"):
        paths.from_scheduler(object())


@pytest.mark.parametrize(
    "table", [[0.5], [0.5, 0.6], [1.0, 0.5], [0.9, float("nan")], [0.9, -0.1], [0.9, 0.9]], ids=lambda t: str(t)
)
def test_impossible_tables(table: list[float]) -> None:
    with pytest.raises(WorkbenchError, match="fall strictly"):
        paths.from_table(torch.tensor(table))
