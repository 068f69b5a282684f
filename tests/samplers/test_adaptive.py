"""Samplers that choose their own steps: tolerance, independence of the batch, rejection, and the loop that runs them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench.errors import Diverged, UnknownName, WorkbenchError
from workbench.samplers import Frame
from workbench.samplers.adaptive import POLICIES, policy
from workbench.samplers.policy import Policy, Visit, Visits

F64 = torch.float64
NOISE = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
MIXTURE = wb.mixture([[1.0, 0.0], [-1.0, 0.3]], [0.3, 0.4])
PAIRS = [("dpm_adaptive", {"order": 2}), ("dpm_adaptive", {"order": 3}), ("heun_adaptive", {"variable": "t"}),
         ("heun_adaptive", {"variable": "rho"})]  # fmt: skip
every_pair = pytest.mark.parametrize(("name", "options"), PAIRS)


def frames(made: Policy, model: Any = MIXTURE, noise: Tensor = NOISE, **options: Any) -> list[Frame]:
    return list(wb.run(made, model, noise, **options))


def exact(scale: float, noise: Tensor, t: float, s: float) -> Tensor:
    """The flow of N(0, scale^2) from t to s on the linear path."""
    v_t, v_s = ((1 - u) ** 2 * scale**2 + u**2 for u in (t, s))
    return math.sqrt(v_s / v_t) * t * noise


@every_pair
def test_error_follows_tolerance_and_evaluations_rise(name: str, options: dict) -> None:
    """Exact Gaussian solution; rtol over two decades: log-log slope 1 within 0.25."""
    model, found, tolerances = wb.mixture([[0.0, 0.0]], [0.4]), [], (0.03, 0.01, 0.003, 0.001, 0.0003)
    for rtol in tolerances:
        made = policy(name, "linear", rtol=rtol, atol=1e-9, t_start=0.98, t_end=0.02, **options)
        last = frames(made, model)[-1]
        found.append((float((last.x - exact(0.4, NOISE, 0.98, 0.02)).square().mean().sqrt()), last.nfe))
    errors, counts = zip(*found, strict=True)
    slope = math.log(errors[0] / errors[-1]) / math.log(tolerances[0] / tolerances[-1])
    assert slope == pytest.approx(1, abs=0.25)
    assert all(a < b for a, b in itertools.pairwise(counts))


@every_pair
@pytest.mark.parametrize("path", ["linear", "vp", "edm", "cosine", "trig"])
def test_samples_come_out_on_every_path(name: str, options: dict, path: str) -> None:
    """From pure noise to clean data, against a fine plan; eight samples."""
    model, noise = MIXTURE.on(path), NOISE[:8]
    *_, fine = wb.run(wb.plan("heun", path, 300, "logsnr"), model, noise)
    last = frames(policy(name, path, rtol=0.003, atol=3e-4, **options), model, noise)[-1]
    error = (last.x - fine.x).abs()
    assert last.t == 0 and error.median() < 0.004 and error.max() < 0.06


@every_pair
def test_a_sample_alone_is_the_sample_in_a_batch(name: str, options: dict) -> None:
    whole = frames(policy(name, "linear", **options))[-1]
    assert whole.counts.unique().numel() > 1 and whole.nfe == pytest.approx(float(whole.counts.double().mean()))
    for j in (0, 7, 39):
        alone = frames(policy(name, "linear", **options), noise=NOISE[j : j + 1])[-1]
        assert torch.allclose(alone.x[0], whole.x[j], rtol=1e-9, atol=1e-12) and alone.nfe == whole.counts[j]
        assert isinstance(alone.nfe, int)


@pytest.mark.parametrize("reuse", [False, True])
def test_a_rejected_sample_stands_where_it_stood(reuse: bool) -> None:
    """A first step far too large is refused: the same state, bit for bit, and with reuse one evaluation less a refusal."""
    given = {"order": 2, "h_init": 6.0, "t_start": 0.98, "t_end": 0.02, "rtol": 0.01}
    seen = frames(policy("dpm_adaptive", "linear", reuse_on_reject=reuse, **given), noise=NOISE[:1])
    helpers = [frame.t for frame in seen if frame.inner]
    assert helpers[0] < helpers[1] < 0.98, "the second attempt is shorter"
    outer = [frame for frame in seen if not frame.inner]
    again = [(a, b) for a, b in itertools.pairwise(outer) if a.t == b.t]
    assert bool(again) is not reuse and all(torch.equal(a.x, b.x) for a, b in again)
    other = frames(policy("dpm_adaptive", "linear", reuse_on_reject=not reuse, **given), noise=NOISE[:1])
    assert torch.equal(other[-1].x, seen[-1].x) and (seen[-1].nfe < other[-1].nfe) is reuse


def test_steps_gather_where_a_gaussian_turns() -> None:
    """N(0, S^2) changes from noise to data at log_snr = log(1 / S): there the steps are shortest."""
    for scale in (0.05, 0.5):
        made = policy("dpm_adaptive", "linear", order=2, rtol=0.003, atol=1e-9, t_start=0.999, t_end=0.0005)
        run = wb.record(wb.run(made, wb.mixture([[0.0, 0.0]], [scale]), NOISE[:1]))
        at = made.path.log_snr(run.t)[3:-1]  # without the first, which grow from h_init, and the last, which is cut
        shortest = int(at.diff().argmin())
        assert float(at[shortest]) == pytest.approx(math.log(1 / scale), abs=1.0)


def test_guided_evaluations_count_twice_and_labels_follow_their_samples() -> None:
    model = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.1, 0.3], labels=[0, 1])
    labels = torch.tensor([0, 1] * 10)
    made = policy("dpm_adaptive", "linear")
    plain, guided = frames(made, model, NOISE[:20], cond=labels), frames(made, wb.Guided(model, 2.0), NOISE[:20], cond=labels)
    assert ((plain[-1].x[:, 0] > 0) == (labels == 0)).all() and plain[-1].counts.unique().numel() > 1
    assert (guided[-1].counts % 2 == 0).all()


def test_recorded_samples_have_times_of_their_own() -> None:
    run = wb.record(wb.run(policy("dpm_adaptive", "linear"), MIXTURE, NOISE))
    assert (run.t.diff() <= 0).all() and run.times.shape == (len(run), 40) and run.nfe[-1] == run.counts[-1].double().mean()
    for j in (0, 5):
        own = run.sample(j)
        assert (own.t.diff() < 0).all() and torch.equal(own.final[0], run.final[j]) and own.nfe[-1] == run.counts[-1, j]
    assert not torch.equal(run.sample(0).t, run.sample(5).t)


def test_float32_and_gradient_mode_are_kept() -> None:
    last = frames(policy("heun_adaptive", "linear"), noise=NOISE.float())[-1]
    assert last.x.dtype == torch.float32 and torch.is_grad_enabled() and not last.x.requires_grad


def test_sample_takes_a_name_or_a_policy() -> None:
    named = wb.sample(MIXTURE, 6, sampler="dpm_adaptive", rtol=0.01, seed=3)
    given = wb.sample(MIXTURE, 6, sampler=policy("dpm_adaptive", "linear", rtol=0.01), seed=3, batch=4)
    assert torch.allclose(named, given, rtol=1e-9)
    fine = wb.sample(MIXTURE, 6, sampler="heun", steps=200, schedule="logsnr", seed=3)
    assert (named - fine).abs().max() < 0.02
    with pytest.raises(WorkbenchError, match="leave steps"):
        wb.sample(MIXTURE, 6, sampler="dpm_adaptive", steps=5)
    with pytest.raises(WorkbenchError, match="rtol"):
        wb.sample(MIXTURE, 6, sampler=policy("dpm_adaptive", "linear"), rtol=0.1)


def test_what_a_policy_says() -> None:
    assert str(policy("dpm_adaptive", "vp", rtol=0.01)) == "dpm_adaptive, steps of its own on vp, rtol 0.01"


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(
    "given",
    [{"rtol": 0.0}, {"rtol": -1.0}, {"rtol": math.nan}, {"atol": 0.0}, {"h_init": 0.0}, {"theta": 1.5}, {"t_end": 1.0},
     {"t_end": -0.1}, {"rho_min": 0.0}, {"rho_min": 90.0}, {"max_evaluations": 0}, {"t_end": 0.999}],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(name: str, given: dict) -> None:
    with pytest.raises(WorkbenchError):
        policy(name, "linear", **given)


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(UnknownName, match="dpm_adaptive"):
        policy("dpm_adaptiv", "linear")
    with pytest.raises(UnknownName, match="rtol"):
        policy("dpm_adaptive", "linear", rtoll=0.1)
    with pytest.raises(WorkbenchError, match="order is 4"):
        policy("dpm_adaptive", "linear", order=4)
    with pytest.raises(WorkbenchError, match="path 'vp'"):
        frames(policy("dpm_adaptive", "vp"))
    with pytest.raises(WorkbenchError, match="12 model calls"):
        frames(policy("dpm_adaptive", "linear", rtol=1e-6, max_evaluations=12))


def test_a_model_that_fails_is_named() -> None:
    def broken(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return x * math.nan if float(t.min()) < 0.5 else x * 0.5

    broken.path = "linear"
    with pytest.raises(Diverged, match="not finite"):
        frames(policy("dpm_adaptive", "linear"), broken)
    broken.two_times = True
    with pytest.raises(WorkbenchError, match="flow map"):
        frames(policy("dpm_adaptive", "linear"), broken)


def test_any_policy_runs_in_the_same_loop() -> None:
    """One that takes the uniform grid with DDIM is the plan."""

    class Fixed(Policy):
        def stages(self, x: Tensor) -> Visits:
            grid = torch.linspace(1, 0, 6, dtype=F64).tolist()
            for s, t in itertools.pairwise(grid):
                x0 = yield Visit(torch.full((len(x),), s, dtype=F64), x, torch.ones(len(x), dtype=torch.bool))
                x = t / s * x + ((1 - t) - t / s * (1 - s)) * x0
            return x

    mine = frames(Fixed("fixed", wb.paths.linear))
    *_, plan = wb.run(wb.plan("ddim", "linear", 5), MIXTURE, NOISE)
    assert torch.allclose(mine[-1].x, plan.x, atol=1e-14) and mine[-1].nfe == 5 and len(mine) == 6


@pytest.mark.parametrize("name", ["dpm_adaptive", "heun_adaptive"])
def test_a_plan_of_an_adaptive_sampler_says_what_to_call(name: str) -> None:

    with pytest.raises(WorkbenchError, match=name):
        wb.plan(name, "vp", 8)
