"""Schedules: where on the path to stop. Each returns steps + 1 falling times, float64, from t_start to t_end.

With t_end = 0 (the default) the last step ends on clean data. The schedules that live in log-SNR cannot place a point
there; they put `steps` points down to rho = `rho_min`, then 0, as Karras et al. do.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench import paths
from workbench.errors import WorkbenchError, check_count, check_options, unknown
from workbench.paths import Path

MAX_STEPS = 10_000


def uniform(path: Path, steps: int, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Equal steps in t."""
    return torch.linspace(t_start, t_end, steps + 1, dtype=torch.float64)


def quadratic(path: Path, steps: int, t_start: float = 1.0, t_end: float = 0.0) -> Tensor:
    """Equal steps in sqrt(t), dense near the data (DDIM, arXiv 2010.02502, app. D.2)."""
    return torch.linspace(math.sqrt(t_start), math.sqrt(t_end), steps + 1, dtype=torch.float64).square()


def trailing(path: Path, steps: int, t_start: float = 1.0, t_end: float = 0.0, timesteps: int | None = None) -> Tensor:
    """Equal steps rounded to a table of `timesteps` entries, from its noisiest one (arXiv 2305.08891, section 3.3).

    On a continuous path, without `timesteps`, the same as `uniform`.
    """
    count = timesteps or path.timesteps
    times = uniform(path, steps, t_start * (count or 1), t_end * (count or 1))
    return times.round() / count if count else times


def logsnr(
    path: Path, steps: int, t_start: float = 1.0, t_end: float = 0.0, rho_min: float = 0.002, rho_max: float = 80.0
) -> Tensor:
    """Equal steps in log-SNR (DPM-Solver, arXiv 2206.00927, section 3.4), between rho_max and rho_min."""
    return _in_rho(path, steps, t_start, t_end, rho_min, rho_max, torch.log, torch.exp)


def karras(
    path: Path,
    steps: int,
    t_start: float = 1.0,
    t_end: float = 0.0,
    rho_min: float = 0.002,
    rho_max: float = 80.0,
    power: float = 7.0,
) -> Tensor:
    """Equal steps in rho^(1/power), rho = sigma / alpha (EDM, arXiv 2206.00364, eq. 5; its rho is `power` here)."""
    if not 0 < power < math.inf:
        raise WorkbenchError(f"power is {power}, but must be positive; 1 is uniform in rho, large is uniform in log-SNR.")
    return _in_rho(path, steps, t_start, t_end, rho_min, rho_max, lambda r: r ** (1 / power), lambda q: q**power)


def shift(path: Path, steps: int, t_start: float = 1.0, t_end: float = 0.0, shift: float = 3.0) -> Tensor:
    """Uniform times moved towards noise by log-SNR - log(shift) (SD3, arXiv 2403.03206, eq. 23: t' = k t / (1 + (k - 1) t)).

    On a path that ends before pure noise, alpha / sigma is divided as measured from its value there, so that t = 1 stays.
    """
    if not shift > 0:
        raise WorkbenchError(f"shift is {shift}, but must be positive; 1 changes nothing.")
    times = uniform(path, steps, t_start, t_end)
    least = path.alpha(1.0) / path.sigma(1.0)
    moved = path.time(torch.log(least + (path.alpha(times) / path.sigma(times) - least) / shift))
    return torch.where((times <= 0) | (times >= 1), times, moved)


def _in_rho(
    path: Path, steps: int, t_start: float, t_end: float, rho_min: float, rho_max: float, to: Callable, back: Callable
) -> Tensor:
    if not 0 < rho_min < rho_max:
        raise WorkbenchError(f"rho_min = {rho_min:g} must lie between 0 and rho_max = {rho_max:g}.")
    high = min(path.rho(t_start), rho_max)
    points, low = (steps + 1, path.rho(t_end)) if t_end > 0 else (steps, min(rho_min, high / 2))
    if not 0 < low < high:
        raise WorkbenchError(f"t_end = {t_end:g} lies above rho_max = {rho_max:g}: raise rho_max, or end closer to the data.")
    ends = to(torch.tensor([high, low], dtype=torch.float64))
    fraction = torch.linspace(0, 1, points, dtype=torch.float64) if points > 1 else torch.zeros(1, dtype=torch.float64)
    times = path.time(-torch.log(back(ends[0] + fraction * (ends[1] - ends[0]))))
    times[0] = t_start
    if t_end > 0:
        times[-1] = t_end
        return times
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


NAMES: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "logsnr": logsnr,
    "karras": karras,
    "quadratic": quadratic,
    "shift": shift,
    "trailing": trailing,
}


def options(schedule: str | Callable | Sequence[float] | Tensor) -> list[str]:
    """Names of the options that a schedule takes, besides the path and the number of steps."""
    function = NAMES.get(schedule) if isinstance(schedule, str) else schedule
    return list(inspect.signature(function).parameters)[2:] if callable(function) else []


def get(schedule: str | Callable | Sequence[float] | Tensor, path: str | Path, steps: int | None, **given: Any) -> Tensor:
    """Return the times of a schedule given by name, by function, or as a list of steps + 1 falling times.

    Raises:
        UnknownName: for an unknown schedule or option, with the nearest name.
        WorkbenchError: if the times do not fall strictly within [0, 1], or their number is not steps + 1.

    >>> get("uniform", "linear", 4).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    path = paths.get(path)
    if isinstance(schedule, str) and schedule not in NAMES:
        raise unknown("schedule", schedule, NAMES)
    if isinstance(schedule, str) or callable(schedule):
        steps = check_count("steps", steps, 1, MAX_STEPS)
        check_options(f"schedule {schedule!r}", given, options(schedule))
        start, end = given.get("t_start", 1.0), given.get("t_end", 0.0)
        if not 0 <= end < start <= 1:
            raise WorkbenchError(f"t_start = {start} and t_end = {end} must satisfy 0 <= t_end < t_start <= 1.")
        times = (NAMES[schedule] if isinstance(schedule, str) else schedule)(path, steps, **given)
    else:
        check_options("a list of times", given, [])
        times = _as_times(schedule)
        if steps is not None and len(times) != steps + 1:
            raise WorkbenchError(
                f"a list of {len(times)} times is {len(times) - 1} steps, not {steps}: leave steps out, or give {steps + 1} times."
            )
    times = _as_times(times)
    if len(times) < 2 or not bool(torch.isfinite(times).all()) or float(times.max()) > 1 or float(times.min()) < 0:
        raise WorkbenchError(f"times {times.tolist()[:6]} must be at least two numbers between 0 (data) and 1 (noise).")
    if not bool((times.diff() < 0).all()):
        raise WorkbenchError(
            f"{len(times) - 1} steps on this schedule do not fall strictly from noise to data: take fewer steps."
        )
    return times


def _as_times(values: Any) -> Tensor:
    try:
        return torch.as_tensor(values, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise WorkbenchError(f"a schedule is a name, a function, or a list of falling times, not {values!r}.") from error


def from_scheduler(scheduler: Any) -> Tensor:
    """Return the times at which a diffusers scheduler stops, read after its `set_timesteps`.

    Raises:
        WorkbenchError: if `set_timesteps` has not been called.

    >>> from diffusers import DDIMScheduler
    >>> scheduler = DDIMScheduler(timestep_spacing="trailing")
    >>> scheduler.set_timesteps(4)
    >>> from_scheduler(scheduler).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if getattr(scheduler, "num_inference_steps", None) is None:
        raise WorkbenchError(f"call set_timesteps on the {type(scheduler).__name__} first: it has no times yet.")
    path = paths.from_scheduler(scheduler)
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) > 1:
        rho = torch.as_tensor(sigmas, dtype=torch.float64).cpu().unique_consecutive()  # Heun's list holds its stages twice
        if path.name == "linear":
            return rho
        times = path.time(-torch.log(rho))
        # DPM-Solver's sigmas are those of whole timesteps: undo the rounding to float32
        snapped = (times * path.timesteps).round() / path.timesteps if path.timesteps else times
        return torch.where((snapped - times).abs() < 2e-5, snapped, times)
    timesteps = torch.as_tensor(scheduler.timesteps, dtype=torch.float64).cpu()
    return torch.cat([(timesteps + 1) / path.timesteps, torch.zeros(1, dtype=torch.float64)])
