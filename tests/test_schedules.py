"""Schedules: falling, ending where they should, with the limits and equalities that the papers state."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import paths, schedules
from workbench.errors import UnknownName, WorkbenchError

diffusers = pytest.importorskip("diffusers")
TABLE = paths.from_scheduler(diffusers.DDIMScheduler())
PATHS = {**paths.NAMES, "table": TABLE}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("name", schedules.NAMES)
@settings(max_examples=15, deadline=None)
@given(steps=st.integers(1, 60), ends=st.sampled_from([(1.0, 0.0), (0.9, 0.0), (1.0, 0.1), (0.8, 0.2)]))
def test_falls_from_start_to_end(name: str, path: paths.Path, steps: int, ends: tuple[float, float]) -> None:
    start, end = ends
    times = schedules.get(name, path, steps, t_start=start, t_end=end)
    assert times.dtype == torch.float64 and len(times) == steps + 1
    assert (times.diff() < 0).all()
    if name in ("shift", "resolution"):  # their ends are those before the move
        assert times[0] >= start and times[-1] >= end and (times[0] == 1) == (start == 1)
    else:
        assert float(times[0]) == pytest.approx(start, abs=1e-12) and float(times[-1]) == pytest.approx(end, abs=1e-12)
    assert (float(times[-1]) == 0) == (end == 0)


def test_uniform_and_quadratic() -> None:
    assert schedules.get("uniform", "vp", 4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert schedules.get("quadratic", "vp", 4).tolist() == [1, 0.5625, 0.25, 0.0625, 0]


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_logsnr_steps_are_equal(path: paths.Path) -> None:
    times = schedules.get("logsnr", path, 12, t_start=0.9, t_end=0.3)
    h = path.log_snr(times).diff()
    assert torch.allclose(h, h.mean().expand(12), rtol=1e-10)


def test_logsnr_and_karras_reach_clean_data_in_a_last_step_of_their_own() -> None:
    for name in ("logsnr", "karras"):
        times = schedules.get(name, "edm", 8)
        assert times[-1] == 0 and paths.edm.rho(float(times[-2])) == pytest.approx(0.002, rel=1e-9)


def test_karras_limits() -> None:
    """Power 1 is uniform in rho; a large power is uniform in log-SNR (limit n log(1 + a / n))."""
    given = {"t_start": 0.9, "t_end": 0.2}
    rho = paths.vp.rho(schedules.get("karras", "vp", 10, power=1.0, **given))
    assert torch.allclose(rho.diff(), rho.diff().mean().expand(10), rtol=1e-9)
    large = schedules.get("karras", "vp", 10, power=1e5, **given)
    assert torch.allclose(large, schedules.get("logsnr", "vp", 10, **given), atol=1e-4)


def test_karras_is_the_one_of_edm() -> None:
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(18)
    ours = paths.edm.sigma(schedules.get("karras", "edm", 18))
    assert torch.allclose(ours, scheduler.sigmas.double(), rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(first=st.floats(0.2, 5), second=st.floats(0.2, 5), name=st.sampled_from(["linear", "trig", "cosine"]))
def test_shifts_compose(first: float, second: float, name: str) -> None:
    path, steps = paths.get(name), 7
    once = schedules.get("shift", path, steps, shift=first * second)
    half = schedules.get("shift", path, steps, shift=first)
    twice = path.time(path.log_snr(half) - math.log(second))
    assert torch.allclose(once, twice, atol=1e-9)
    assert torch.allclose(schedules.get("shift", path, steps, shift=1.0), schedules.get("uniform", path, steps), atol=1e-9)


@pytest.mark.parametrize("k", [0.5, 3.0, 6.0])
def test_shift_is_that_of_flow_matching_in_diffusers(k: float) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=k)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 8, 8))
    ours = schedules.get("shift", "linear", 8, shift=k)
    assert torch.allclose(ours, scheduler.sigmas.double(), atol=1e-6)
    t = torch.linspace(1, 0, 9, dtype=torch.float64)
    assert torch.allclose(ours, k * t / (1 + (k - 1) * t), atol=1e-12)


def test_trailing_integers() -> None:
    integers = (schedules.get("trailing", TABLE, 10)[:-1] * 1000 - 1).round().long().tolist()
    assert integers == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert (schedules.get("trailing", TABLE, 1000) * 1000).round().long().tolist() == list(range(1000, -1, -1))
    assert schedules.get("trailing", "vp", 3, timesteps=10).tolist() == [1.0, 0.7, 0.3, 0.0]
    assert torch.equal(schedules.get("trailing", "vp", 3), schedules.get("uniform", "vp", 3))


def test_trailing_equals_diffusers_for_every_count() -> None:
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing")
    for steps in [*range(1, 101), 250, 333, 500]:
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) != steps:
            continue  # rounding gives its arange one entry too many, at 61 steps for one
        ours = (schedules.get("trailing", TABLE, steps)[:-1] * 1000 - 1).round().long()
        tie = torch.arange(steps) * 2000 % steps == 0  # whole or half: a half is rounded by the last bit of a float
        assert torch.equal(ours[~tie], scheduler.timesteps[~tie]), steps
        assert (ours - scheduler.timesteps).abs().max() <= 1
        assert 1000 % steps or torch.equal(ours, scheduler.timesteps), steps


# -- from_scheduler


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_from_scheduler_reads_timesteps(kind: str, spacing: str) -> None:
    scheduler = getattr(diffusers, kind)(timestep_spacing=spacing)
    scheduler.set_timesteps(10)
    times = schedules.from_scheduler(scheduler)
    assert torch.allclose(times[:-1] * 1000 - 1, scheduler.timesteps.double(), atol=1e-9) and times[-1] == 0
    schedules.get(times, TABLE, 10)


@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "EDMEulerScheduler"])
def test_from_scheduler_reads_sigmas(kind: str) -> None:
    scheduler = getattr(diffusers, kind)()
    scheduler.set_timesteps(7)
    times, path = schedules.from_scheduler(scheduler), paths.from_scheduler(scheduler)
    assert len(times) == 8 and times[-1] == 0
    assert torch.allclose(path.rho(times), scheduler.sigmas.unique_consecutive().double(), rtol=1e-2)
    schedules.get(times, path, 7)


def test_from_scheduler_flow_matching() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    scheduler.set_timesteps(5)
    assert torch.equal(schedules.from_scheduler(scheduler), scheduler.sigmas.double())


def test_from_scheduler_without_times() -> None:
    with pytest.raises(WorkbenchError, match="call set_timesteps on the DDIMScheduler"):
        schedules.from_scheduler(diffusers.DDIMScheduler())


# -- own schedules and errors


def test_a_list_or_a_function_is_a_schedule() -> None:
    assert schedules.get([1, 0.5, 0], "vp", None).tolist() == [1, 0.5, 0]
    assert schedules.get(lambda path, steps: [1 - i / steps for i in range(steps + 1)], "vp", 2).tolist() == [1, 0.5, 0]


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "four", None, 10_001])
def test_impossible_steps(steps: object) -> None:
    with pytest.raises(WorkbenchError, match=r"steps is .* whole number from 1 to 10000"):
        schedules.get("uniform", "vp", steps)


@pytest.mark.parametrize(
    ("times", "steps", "message"),
    [
        ([1.0, 0.5, 0.0], 3, "is 2 steps, not 3"),
        ([0.0, 1.0], None, "but 1 follows 0"),
        ([1.0, 0.5, 0.5, 0.0], None, "but 0.5 follows 0.5"),
        ([1.2, 0.0], None, "between 0 .data. and 1 .noise."),
        ([1.0, -0.1], None, "between 0 .data. and 1 .noise."),
        ([1.0, float("nan")], None, "between 0 .data. and 1 .noise."),
        ([1.0], None, "at least two"),
        (["late", "early"], None, "list of falling times"),
    ],
)
def test_impossible_times(times: list, steps: int | None, message: str) -> None:
    with pytest.raises(WorkbenchError, match=message):
        schedules.get(times, "linear", steps)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("uniform", {"t_start": 0.2, "t_end": 0.4}, "0 <= t_end < t_start <= 1"),
        ("uniform", {"t_start": 1.4}, "0 <= t_end < t_start <= 1"),
        ("shift", {"shift": 0.0}, "shift is 0.0, but must be positive"),
        ("karras", {"power": 0.0}, "power is 0.0, but must be positive"),
        ("karras", {"rho_min": 100.0}, "rho_min = 100 must lie between"),
        ("logsnr", {"rho_max": 0.1, "t_end": 0.5}, "lies above rho_max"),
        ("uniform", {"t_stert": 0.5}, "did you mean 't_start'"),
    ],
)
def test_impossible_options(name: str, options: dict, message: str) -> None:
    with pytest.raises(WorkbenchError, match=message):
        schedules.get(name, "linear", 5, **options)


def test_more_steps_than_a_table_has() -> None:
    with pytest.raises(WorkbenchError, match="take fewer steps"):
        schedules.get("trailing", "vp", 20, timesteps=10)


def test_unknown_schedule() -> None:
    with pytest.raises(UnknownName, match="did you mean 'karras'"):
        schedules.get("karas", "linear", 5)
