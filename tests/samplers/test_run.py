"""The one loop: exactness where mathematics allows none else, seeds, precision, frames, and bad input."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import workbench as wb
from workbench import paths
from workbench.denoiser import Network
from workbench.errors import Diverged, UnknownName, WorkbenchError
from workbench.paths import Path
from workbench.samplers import SAMPLERS, Frame, Plan, stage_noise

F64 = torch.float64
NOISE = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
MEAN, SCALE = torch.tensor([0.7, -0.3], dtype=F64), 0.4
MIXTURE = wb.mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], [0.3, 0.4, 0.5])
every_path = pytest.mark.parametrize("path", paths.NAMES)


def final(plan: Plan, model: Any, noise: Tensor = NOISE, **options: Any) -> Tensor:
    *_, last = wb.run(plan, model, noise, **options)
    return last.x


def model(path: Path | str, function: Any, **attributes: Any) -> Any:
    def call(x: Tensor, t: float, cond: Any = None, **second: float) -> Tensor:
        return function(x, t, **second)

    call.path = paths.get(path)
    for name, value in attributes.items():
        setattr(call, name, value)
    return call


def gaussian_map(path: Path, x: Tensor, t: float, s: float) -> Tensor:
    """The exact flow of N(MEAN, SCALE^2): alpha_s m + sqrt(V_s / V_t) (x - alpha_t m)."""
    v_t, v_s = ((path.alpha(u) * SCALE) ** 2 + path.sigma(u) ** 2 for u in (t, s))
    return path.alpha(s) * MEAN + math.sqrt(v_s / v_t) * (x - path.alpha(t) * MEAN)


def gaussian_flow_map(name: str) -> Any:
    """A model of two times whose x0 estimate makes the deterministic step from t to s land on the exact flow."""
    path = paths.get(name)

    def estimate(x: Tensor, t: float, s: float) -> Tensor:
        kept = path.sigma(s) / path.sigma(t)
        return (gaussian_map(path, x, t, s) - kept * x) / (path.alpha(s) - kept * path.alpha(t))

    return model(path, estimate, two_times=True)


# -- exactness


EXACT = [name for name in SAMPLERS if name != "lcm"]  # its boundary condition mixes some of x into every x0 estimate


@every_path
@pytest.mark.parametrize("sampler", EXACT)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_constant_target_is_reached_exactly(sampler: str, path: str, steps: int) -> None:
    constant = model(path, lambda x, t: MEAN.expand_as(x))
    assert torch.allclose(final(wb.plan(sampler, path, steps), constant), MEAN.expand(6, 2), atol=1e-14)


@pytest.mark.parametrize(
    ("sampler", "path", "options"),
    [("euler", "linear", {}), ("heun", "linear", {})]
    + [(s, p, {"variable": "rho"}) for s in ("euler", "heun") for p in paths.NAMES]
    + [(s, p, {}) for s in ("ddim", "dpmpp_2m", "flow_map") for p in paths.NAMES],
)
def test_constant_target_moves_on_a_straight_line(sampler: str, path: str, options: dict) -> None:
    """Deterministic samplers stop anywhere on the exact solution alpha x0 + sigma eps, eps read off the start."""
    plan = wb.plan(sampler, path, 5, t_start=0.9, t_end=0.3, **options)
    start, law = plan.path.sigma(0.9) * NOISE, plan.path
    eps = (start - law.alpha(0.9) * MEAN) / law.sigma(0.9)
    ended = final(plan, model(path, lambda x, t: MEAN.expand_as(x)))
    assert torch.allclose(ended, law.alpha(0.3) * MEAN + law.sigma(0.3) * eps, rtol=1e-12, atol=1e-13)


@every_path
@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim", "dpmpp_2m"])
def test_gaussian_teacher_follows_the_exact_flow(sampler: str, path: str) -> None:
    teacher = wb.mixture([MEAN.tolist()], [SCALE], path=path)
    plan = wb.plan(sampler, path, 200, schedule="logsnr", t_start=0.9, t_end=0.3)
    exact = gaussian_map(plan.path, plan.path.sigma(0.9) * NOISE, 0.9, 0.3)
    bound = 2e-2 if sampler in ("euler", "ddim") else 3e-4
    assert (final(plan, teacher) - exact).abs().max() < bound * exact.abs().max()


@every_path
@settings(max_examples=10, deadline=None)
@given(steps=st.integers(1, 9), ends=st.sampled_from([(1.0, 0.0), (0.9, 0.2)]))
def test_an_exact_flow_map_is_exact_for_any_steps(path: str, steps: int, ends: tuple[float, float]) -> None:
    plan = wb.plan("flow_map", path, steps, t_start=ends[0], t_end=ends[1])
    exact = gaussian_map(plan.path, plan.path.sigma(ends[0]) * NOISE, *ends)
    assert torch.allclose(final(plan, gaussian_flow_map(path)), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", ["linear", "trig", "cosine"])
@pytest.mark.parametrize(
    ("sampler", "options"), [("consistency", {}), ("flow_map", {"gamma": 0.5}), ("flow_map", {"gamma": 1.0})]
)
def test_renoising_an_exact_map_keeps_the_law(path: str, sampler: str, options: dict) -> None:
    """Seven stochastic steps of an exact map leave mean and variance where they are; n = 20000, five standard errors."""
    n = 20_000
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    x = final(wb.plan(sampler, path, 7, **options), gaussian_flow_map(path), noise, seed=2)
    assert ((x.mean(0) - MEAN).abs() < 5 * SCALE / math.sqrt(n)).all()
    assert ((x.var(0) / SCALE**2 - 1).abs() < 5 * math.sqrt(2 / n)).all()


@every_path
def test_gamma_one_is_consistency_sampling(path: str) -> None:
    for network in (gaussian_flow_map(path), MIXTURE.on(path)):
        flow = final(wb.plan("flow_map", path, 5, gamma=1.0), network, seed=3)
        assert torch.allclose(flow, final(wb.plan("consistency", path, 5), network, seed=3), rtol=1e-12, atol=1e-12)


@every_path
def test_gamma_between_leaves_the_marginal_noise(path: str) -> None:
    """The jump ends at rho_r = sqrt(1 - gamma^2) rho_t, and the noise added brings it back to sigma_t."""
    plan = wb.plan("flow_map", path, 3, gamma=0.6)
    law = plan.path
    for stage in plan.stages[:-1]:
        assert law.rho(stage.jump) == pytest.approx(0.8 * law.rho(stage.to), rel=1e-9)
        scale = law.alpha(stage.to) / law.alpha(stage.jump)
        assert stage.x.noise**2 + (scale * law.sigma(stage.jump)) ** 2 == pytest.approx(law.sigma(stage.to) ** 2)


def rescaled(path: Path) -> Path:
    """alpha and sigma both times k(t) = 1 + t + sin(3 t) / 2."""

    def k(t: Tensor) -> Tensor:
        return 1 + t + torch.sin(3 * t) / 2

    def dk(t: Tensor) -> Tensor:
        return 1 + 1.5 * torch.cos(3 * t)

    return Path(
        "rescaled",
        lambda t: k(t) * path.alpha_fn(t),
        lambda t: k(t) * path.sigma_fn(t),
        lambda t: dk(t) * path.alpha_fn(t) + k(t) * path.d_alpha_fn(t),
        lambda t: dk(t) * path.sigma_fn(t) + k(t) * path.d_sigma_fn(t),
        path.time_fn,
    )


@every_path
@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.9, 0.2)])
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ddim", {}),
        ("ddim", {"eta": 0.7}),
        ("dpmpp_2m", {}),
        ("euler", {"variable": "rho"}),
        ("heun", {"variable": "rho"}),
        ("consistency", {}),
        ("flow_map", {"gamma": 0.5}),
    ],
)
def test_rescaling_the_path_changes_nothing(sampler: str, options: dict, ends: tuple[float, float], path: str) -> None:
    plain = paths.get(path)
    other = rescaled(plain)
    k = other.sigma(ends[1]) / plain.sigma(ends[1]) if ends[1] else 1.0
    teacher = MIXTURE.on(plain)
    scaled = model(other, lambda x, t: teacher(x * (plain.sigma(t) / other.sigma(t)), t))
    given = {"t_start": ends[0], "t_end": ends[1], **options}
    first = final(wb.plan(sampler, plain, 6, **given), teacher, seed=1)
    second = final(wb.plan(sampler, other, 6, **given), scaled, seed=1)
    assert torch.allclose(second / k, first, rtol=1e-11, atol=1e-12)


def test_two_names_of_one_step() -> None:
    """DDIM is Euler in rho everywhere, and Euler in t on the linear path; one step of every solver is the x0 estimate."""
    for path in paths.NAMES:
        teacher = MIXTURE.on(path)
        ddim = final(wb.plan("ddim", path, 6), teacher)
        assert torch.allclose(ddim, final(wb.plan("euler", path, 6, variable="rho"), teacher), atol=1e-12)
        for sampler in EXACT:
            assert torch.allclose(final(wb.plan(sampler, path, 1), teacher), teacher(teacher.path.sigma(1.0) * NOISE, 1.0))
    assert torch.allclose(
        final(wb.plan("ddim", "linear", 6), MIXTURE), final(wb.plan("euler", "linear", 6), MIXTURE), atol=1e-12
    )


@every_path
@settings(max_examples=20, deadline=None)
@given(
    sampler=st.sampled_from(sorted(EXACT)),
    grid=st.lists(st.floats(0.02, 1.0), min_size=2, max_size=9, unique_by=lambda t: round(t, 3)),
    zero=st.booleans(),
)
def test_every_plan_keeps_the_schedule(path: str, sampler: str, grid: list[float], zero: bool) -> None:
    """Whatever the times: one step a pair, a row preserves alpha for data that is known, and stages join up."""
    times = [*sorted(grid, reverse=True), *([0.0] if zero else [])]
    plan = wb.plan(sampler, path, schedule=times)
    law = plan.path
    assert plan.steps == len(times) - 1 and plan.stages[0].t == times[0] and plan.stages[-1].to == times[-1]
    assert all(a.to == b.t for a, b in zip(plan.stages, plan.stages[1:], strict=False))
    for stage in plan.stages:
        if stage.kind == "x0" and not stage.x.base:  # x = alpha x0 + sigma eps stays so in its data part
            assert stage.x.x * law.alpha(stage.t) + sum(stage.x.outputs) == pytest.approx(law.alpha(stage.to), abs=1e-9)


# -- hybrids


def test_hybrid_runs_the_first_model_then_the_second() -> None:
    calls = []
    first, second = (model("linear", lambda x, t, k=k: calls.append(k) or MIXTURE(x, t) + k) for k in (0, 1))
    plan = wb.plan("ddim", "linear", 5)
    frames = list(wb.run(wb.hybrid(plan, 2), [first, second], NOISE))
    assert calls == [0, 0, 1, 1, 1] and frames[-1].nfe == 5
    alone = list(wb.run(plan, first, NOISE))
    assert torch.equal(frames[2].x, alone[2].x) and not torch.equal(frames[3].x, alone[3].x)
    same = final(wb.hybrid(plan, 2), [MIXTURE, MIXTURE])
    assert torch.equal(same, final(plan, MIXTURE))


@pytest.mark.parametrize("first", [0, 5, -1])
def test_impossible_hybrids(first: int) -> None:
    with pytest.raises(WorkbenchError, match="can change models after 1 to 4"):
        wb.hybrid(wb.plan("ddim", "linear", 5), first)
    with pytest.raises(WorkbenchError, match="runs 2 models, but 1 was given"):
        wb.run(wb.hybrid(wb.plan("ddim", "linear", 5), 2), MIXTURE, NOISE)


# -- seeds


@pytest.mark.parametrize(("sampler", "options"), [("consistency", {}), ("ddim", {"eta": 1.0}), ("flow_map", {"gamma": 0.5})])
def test_a_sample_belongs_to_its_seed_and_index(sampler: str, options: dict) -> None:
    """Bit-equal alone, in part, in another order, and in a larger batch."""

    def rowwise(x: Tensor, t: float) -> Tensor:  # element by element: no reduction whose order a batch could change
        return torch.tanh(x) * (1 - t)

    denoiser, plan = model("linear", rowwise), wb.plan(sampler, "linear", 5, **options)
    noise = torch.randn(19, 3, generator=torch.Generator().manual_seed(4))
    whole = final(plan, denoiser, noise, seed=7)
    for index in ([0], [18], [11, 3, 8], range(8, 19), range(0, 19, 3), torch.tensor([2, 17])):
        picked = list(map(int, index))
        assert torch.equal(final(plan, denoiser, noise[picked], seed=7, index=index), whole[picked])
    assert torch.equal(final(plan, denoiser, noise[:5], seed=7), whole[:5])
    assert not torch.equal(final(plan, denoiser, noise, seed=8), whole)


def test_runs_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    final(wb.plan("consistency", "linear", 3), MIXTURE)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_noise_of_seeds_stages_and_samples_is_independent() -> None:
    like = torch.empty(4000, 2)
    drawn = [stage_noise(like, seed, stage) for seed in (0, 1) for stage in (-1, 0, 1)]
    flat = torch.stack([d.flatten() for d in drawn])
    assert (flat.mean(1).abs() < 5 / math.sqrt(8000)).all() and ((flat.var(1) - 1).abs() < 5 * math.sqrt(2 / 8000)).all()
    assert (torch.corrcoef(flat) - torch.eye(6)).abs().max() < 5 / math.sqrt(8000)
    assert len(torch.unique(flat)) > 0.999 * flat.numel()


# -- precision and frames


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_state_keeps_its_precision(dtype: torch.dtype) -> None:
    for sampler in SAMPLERS:
        seen = set()
        denoiser = model("linear", lambda x, t, seen=seen: seen.add(x.dtype) or x * (1 - t))
        frames = list(wb.run(wb.plan(sampler, "linear", 3), denoiser, NOISE.to(dtype)))
        assert seen == {dtype} and {f.x.dtype for f in frames} == {f.target.dtype for f in frames} == {dtype}


def test_float64_is_computed_in_float64_throughout() -> None:
    plan = wb.plan("heun", "linear", 10)
    exact, single = final(plan, MIXTURE), final(plan, MIXTURE, NOISE.float())
    assert 1e-9 < (exact - single.double()).abs().max() < 1e-4
    # the noise itself is not rounded: a change of 1e-12 arrives
    moved = final(plan, MIXTURE, NOISE + 1e-12)
    assert 0 < (moved - exact).abs().max() < 1e-10


def test_frames() -> None:
    plan = wb.plan("heun", "linear", 4)
    frames = list(wb.run(plan, MIXTURE, NOISE))
    assert [f.i for f in frames] == list(range(8)) and plan.evaluations == 7
    assert [f.nfe for f in frames] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert [f.t for f in frames] == [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0.0]
    assert [f.inner for f in frames] == [False, True] * 3 + [False, False]
    seconds = [f.seconds for f in frames]
    assert seconds[0] > 0 and seconds == sorted(set(seconds))
    assert torch.equal(frames[0].x, NOISE) and torch.equal(frames[-1].target, frames[-1].x)
    for f in frames[:-1]:
        assert torch.allclose(f.target, MIXTURE(f.x, f.t))


def test_frames_are_not_changed_by_later_steps() -> None:
    for sampler in SAMPLERS:
        kept = [(f, f.x.clone(), f.target.clone()) for f in wb.run(wb.plan(sampler, "linear", 4), MIXTURE, NOISE.clone())]
        assert all(torch.equal(f.x, x) and torch.equal(f.target, target) for f, x, target in kept)


def test_the_consumers_time_is_not_counted() -> None:
    def slowly(frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            time.sleep(0.5)
            yield frame

    *_, last = slowly(wb.run(wb.plan("ddim", "linear", 3), MIXTURE, NOISE))
    assert last.seconds < 0.5


def test_gradient_mode_does_not_leak() -> None:
    inside = []
    denoiser = model("linear", lambda x, t: inside.append(torch.is_grad_enabled()) or MIXTURE(x, t))
    for frame in wb.run(wb.plan("heun", "linear", 3), denoiser, NOISE):
        assert torch.is_grad_enabled() and not frame.x.requires_grad and not frame.x.is_inference()
    with torch.no_grad():
        for _ in wb.run(wb.plan("ddim", "linear", 3), denoiser, NOISE):
            assert not torch.is_grad_enabled()
    stopped = wb.run(wb.plan("ddim", "linear", 3), denoiser, NOISE)
    next(stopped)
    stopped.close()
    failing = wb.run(wb.plan("ddim", "linear", 3), model("linear", lambda x, t: 1 / 0), NOISE)
    with pytest.raises(ZeroDivisionError):
        next(failing)
    assert torch.is_grad_enabled() and not any(inside)


def test_record() -> None:
    plan = wb.plan("heun", "linear", 4)
    trajectory = wb.record(wb.run(plan, MIXTURE, NOISE))
    assert trajectory.t.tolist() == list(plan.times) and len(trajectory) == 5 and trajectory.x.shape == (5, 6, 2)
    assert torch.equal(trajectory.final, final(plan, MIXTURE)) and trajectory.nfe == (1, 3, 5, 7, 7)
    assert torch.equal(trajectory.sample(2).x, trajectory.x[:, 2:3])
    with pytest.raises(WorkbenchError, match="no frames to record"):
        wb.record(iter(()))


# -- bad input


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (torch.full((2, 2), torch.nan), "NaN or infinite"),
        (torch.tensor([[1.0, -math.inf], [math.inf, 0.0]]), "NaN or infinite"),
        (torch.ones(2, 2, dtype=torch.long), "floating-point tensor"),
        (torch.ones(()), "floating-point tensor"),
        (torch.ones(0, 2), "n at least 1"),
        ([[0.0, 1.0]], "floating-point tensor"),
    ],
)
def test_impossible_noise(noise: Any, message: str) -> None:
    with pytest.raises(WorkbenchError, match=message):  # at once, not at the first frame
        wb.run(wb.plan("ddim", "linear", 2), MIXTURE, noise)


def test_models_that_do_not_fit() -> None:
    plan = wb.plan("ddim", "linear", 2)
    with pytest.raises(WorkbenchError, match="on path 'linear', but the model is on 'vp'"):
        wb.run(plan, MIXTURE.on("vp"), NOISE)
    with pytest.raises(WorkbenchError, match=r"no \.path"):
        wb.run(plan, lambda x, t, cond: x, NOISE)
    named = model("linear", lambda x, t: x)
    named.path = "vp"  # a name will do, and is read
    with pytest.raises(WorkbenchError, match="the model is on 'vp'"):
        wb.run(plan, named, NOISE)
    with pytest.raises(WorkbenchError, match=r"returned shape \(6, 1\)"):
        list(wb.run(plan, model("linear", lambda x, t: x[:, :1]), NOISE))
    with pytest.raises(WorkbenchError, match="index has 2 entries for 6"):
        wb.run(plan, MIXTURE, NOISE, index=[0, 1])
    with pytest.raises(UnknownName, match="unknown prediction kind"):
        Network(lambda x, t, c: x, "linear", "noise", (2,))


def test_nan_from_a_model_is_reported_with_its_count() -> None:
    def spoils(x: Tensor, t: float) -> Tensor:
        return torch.where(torch.arange(len(x))[:, None] < 2, torch.nan, x)

    for noise in (NOISE, NOISE[:, 0]):
        count = model("linear", spoils if noise.dim() == 2 else lambda x, t: x / 0)
        with pytest.raises(Diverged, match=r"[26] of 6 samples are not finite after ddim, 3 uniform steps on linear"):
            list(wb.run(wb.plan("ddim", "linear", 3), count, noise))
