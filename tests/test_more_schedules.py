"""Cosine and beta grids, the shift by resolution and Align Your Steps' tables: their identities and their published numbers."""

from __future__ import annotations

import math

import pytest
import torch

from workbench import paths, schedules
from workbench.errors import UnknownName, WorkbenchError
from workbench.samplers import plan

diffusers = pytest.importorskip("diffusers")
TABLE = paths.from_scheduler(diffusers.DDIMScheduler())
SD = paths.from_betas("scaled_linear", low=0.00085, high=0.012)
PATHS = {**paths.NAMES, "table": TABLE}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("name", schedules.NAMES)
def test_every_schedule_falls_for_every_count(name: str, path: paths.Path) -> None:
    for steps in range(1, 51):
        times = schedules.get(name, path, steps)
        assert times.dtype == torch.float64 and len(times) == steps + 1
        assert times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()


@pytest.mark.parametrize("options", [{"dense": "noise"}, {"table": "sdxl"}, {"table": "svd"}, {"a": 2.0, "b": 0.5}])
@pytest.mark.parametrize("ends", [(1.0, 0.0), (0.9, 0.05), (0.3, 0.0)])
def test_options_keep_the_ends(options: dict, ends: tuple[float, float]) -> None:
    name = {"dense": "cosine", "table": "ays", "a": "beta"}[next(iter(options))]
    for path in ("linear", "vp"):
        times = schedules.get(name, path, 9, t_start=ends[0], t_end=ends[1], **options)
        assert (float(times[0]), float(times[-1])) == pytest.approx(ends, abs=1e-15) and (times.diff() < 0).all()


# -- cosine and beta


def test_cosine_is_chebyshevs_grid() -> None:
    angle = torch.arange(7, dtype=torch.float64) * math.pi / 6
    both, noise = schedules.get("cosine", "vp", 6), schedules.get("cosine", "vp", 6, dense="noise")
    assert torch.allclose(both, (1 + angle.cos()) / 2, atol=1e-15)
    assert torch.allclose(noise, (angle / 2).cos(), atol=1e-15)
    assert torch.allclose(both + both.flip(0), torch.ones(7, dtype=torch.float64))  # dense at both ends alike
    assert (noise.diff().diff() < 0).all()  # each step larger than the last


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.3, 2.0), (5.0, 1.5), (1.0, 1.0), (10.0, 10.0), (0.5, 0.5)])
def test_beta_quantiles(a: float, b: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    level = torch.linspace(1, 0, 41, dtype=torch.float64)
    times = schedules.beta(paths.vp, 40, a=a, b=b)
    assert torch.allclose(times, torch.from_numpy(stats.beta.ppf(level.numpy(), a, b)), rtol=1e-9, atol=1e-14)


def test_beta_of_one_is_uniform_of_a_half_is_cosine() -> None:
    assert torch.allclose(schedules.get("beta", "vp", 9, a=1.0, b=1.0), schedules.get("uniform", "vp", 9), atol=1e-15)
    assert torch.allclose(schedules.get("beta", "vp", 9, a=0.5, b=0.5), schedules.get("cosine", "vp", 9), atol=1e-14)
    symmetric = schedules.get("beta", "vp", 8)
    assert torch.allclose(symmetric + symmetric.flip(0), torch.ones(9, dtype=torch.float64), atol=1e-15)


def test_beta_is_the_one_of_diffusers() -> None:
    """There the last time of the law is sigma_min, and clean data comes after it."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True)
    scheduler.set_timesteps(12)
    ours = schedules.get("beta", "linear", 11, t_end=float(scheduler.sigma_min))
    assert torch.allclose(ours, scheduler.sigmas[:-1].double(), atol=1e-6)


# -- resolution


def test_resolution_is_a_shift() -> None:
    for tokens, base in ((4096, 256), (256, 256), (64, 256), (1000, 333)):
        moved = schedules.get("resolution", "linear", 8, tokens=tokens, base=base)
        assert torch.equal(moved, schedules.get("shift", "linear", 8, shift=math.sqrt(tokens / base)))
    assert torch.allclose(schedules.get("resolution", "vp", 8, tokens=256), schedules.get("uniform", "vp", 8), atol=1e-15)


@pytest.mark.parametrize("k", [0.5, 3.0, 4.0])
def test_shift_is_the_one_of_flow_matching_in_diffusers(k: float) -> None:
    """Handed times without a shift, the scheduler moves them by its own."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=k)
    scheduler.set_timesteps(sigmas=schedules.get("uniform", "linear", 10)[:-1].tolist())
    moved = schedules.get("resolution", "linear", 10, tokens=round(256 * k * k))
    assert torch.allclose(moved, scheduler.sigmas.double(), atol=1e-7)


def test_dynamic_shift_is_the_one_of_diffusers() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="exponential")
    for tokens, mu in ((256, 0.5), (4096, 1.15), (2176, 0.825)):  # 2176 lies halfway
        scheduler.set_timesteps(sigmas=schedules.get("uniform", "linear", 10)[:-1].tolist(), mu=mu)
        moved = schedules.get("resolution", "linear", 10, tokens=tokens, dynamic=True)
        assert torch.allclose(moved, scheduler.sigmas.double(), atol=1e-7)


@pytest.mark.parametrize("path", ["linear", "trig", "cosine"])
def test_resolution_moves_log_snr(path: str) -> None:
    """Four times as many tokens need half the signal-to-noise ratio at every step, on every path."""
    one, four = (schedules.get("resolution", path, 8, tokens=tokens)[1:-1] for tokens in (256, 1024))
    gaps = paths.get(path).log_snr(one) - paths.get(path).log_snr(four)
    assert torch.allclose(gaps, torch.full_like(gaps, math.log(2)), atol=1e-9)


# -- Align Your Steps


@pytest.mark.parametrize(("table", "name"), [("sd15", "StableDiffusion"), ("sdxl", "StableDiffusionXL")])
def test_ays_at_ten_steps_is_the_published_table(table: str, name: str) -> None:
    published = pytest.importorskip("diffusers.schedulers.scheduling_utils").AysSchedules
    times = schedules.get("ays", SD, 10, table=table)
    assert times[0] == 1 and times[-1] == 0  # rho 14.615 is the noisiest of this model
    rho = torch.tensor(published[f"{name}Sigmas"], dtype=torch.float64)
    assert torch.allclose(SD.rho(times), rho, rtol=3e-5, atol=0)  # the model's own noisiest rho is 14.6146
    assert (times[:-1] * 1000 - 1 - torch.tensor(published[f"{name}Timesteps"])).abs().max() < 0.6  # published as whole ones
    exact = paths.edm.rho(schedules.get("ays", "edm", 10, table=table)[1:])
    assert torch.allclose(exact, rho[1:], rtol=1e-12, atol=0)


def test_ays_of_video() -> None:
    published = pytest.importorskip("diffusers.schedulers.scheduling_utils").AysSchedules["StableDiffusionVideoSigmas"]
    rho = paths.get("edm to 700").rho(schedules.get("ays", "edm to 700", 10, table="svd"))
    assert torch.allclose(rho, torch.tensor(published, dtype=torch.float64), rtol=1e-12)


def test_ays_interpolates_log_rho() -> None:
    """19 steps have the table's ten points, and between each two their geometric mean."""
    fine, table = (
        paths.linear.rho(schedules.get("ays", "linear", 19)[1:-1]),
        torch.tensor(schedules.AYS["sd15"], dtype=torch.float64),
    )
    assert torch.allclose(fine[1::2], table[1:], rtol=1e-12)
    assert torch.allclose(fine[2::2], (table[1:-1] * table[2:]).sqrt(), rtol=1e-12)


def test_ays_goes_on_below_its_least_rho() -> None:
    table, path = schedules.AYS["sd15"], paths.linear
    end = path.time(-math.log(table[-1] ** 2 / table[-2]))  # one more step like the last
    times = schedules.get("ays", path, 10, t_end=end)
    assert torch.allclose(path.rho(times)[1:-1], torch.tensor(table[1:], dtype=torch.float64), rtol=1e-9)


# -- errors


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        ("cosine", {"dense": "nois"}, UnknownName, "did you mean 'noise'"),
        ("ays", {"table": "sd1"}, UnknownName, "did you mean 'sd15'"),
        ("beta", {"a": 0.0}, WorkbenchError, "must lie between 0.05 and 10"),
        ("beta", {"b": float("nan")}, WorkbenchError, "must lie between 0.05 and 10"),
        ("resolution", {"tokens": 0}, WorkbenchError, "tokens is 0, but must be a whole number"),
        ("resolution", {"base": 2.5}, WorkbenchError, "base is 2.5, but must be a whole number"),
    ],
)
def test_impossible_options(name: str, options: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        schedules.get(name, "linear", 5, **options)


def test_ays_cannot_end_above_its_table() -> None:
    with pytest.raises(WorkbenchError, match=r"lies above rho_max = 14\.615: end closer to the data"):
        schedules.get("ays", "edm", 5, t_end=0.9)


@pytest.mark.parametrize("name", ["cosine", "beta", "ays", "resolution"])
def test_a_plan_takes_the_schedule_by_name(name: str) -> None:
    made = plan("euler", "vp", 6, name)
    assert made.schedule == name and made.times == tuple(schedules.get(name, "vp", 6).tolist())
