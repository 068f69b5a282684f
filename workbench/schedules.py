"""Schedules: where on the path to stop. Each returns steps + 1 falling times, float64, from t_start to t_end.

With t_end = 0 (the default) the last step ends on clean data. The schedules that live in log-SNR cannot place a point
there; they put `steps` points down to rho = `rho_min`, then 0, as Karras et al. do.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench import paths
from workbench.errors import WorkbenchError, check_count, check_options, unknown
from workbench.fits import check_values
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


def resolution(
    path: Path, steps: int, t_start: float = 1.0, t_end: float = 0.0, tokens: int = 4096, base: int = 256, dynamic: bool = False
) -> Tensor:
    """`shift` by what a larger picture needs: k = sqrt(tokens / base) (SD3, arXiv 2403.03206, eq. 23; arXiv 2301.11093).

    Args:
        tokens: positions of the picture to sample. base: of the pictures that need no shift.
        dynamic: k = exp(mu) with mu linear in `tokens`, 0.5 at 256 and 1.15 at 4096, as FLUX's pipelines do; `base` is not used.
    """
    for name, count in (("tokens", tokens), ("base", base)):
        check_count(name, count)
    k = math.exp(0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)) if dynamic else math.sqrt(tokens / base)
    return shift(path, steps, t_start, t_end, k)


def cosine(path: Path, steps: int, t_start: float = 1.0, t_end: float = 0.0, dense: str = "both") -> Tensor:
    """Times along a quarter or half of a cosine: (1 + cos(pi i / N)) / 2, dense at both ends, or cos(pi i / 2N).

    A grid in t (Chebyshev's extreme points), not the cosine noise schedule, which is the path of that name.

    Args:
        dense: "both" ends, or the "noise" end alone.
    """
    if dense not in ("both", "noise"):
        raise unknown("dense end", dense, ("both", "noise"))
    left = torch.sin(torch.linspace(1, 0, steps + 1, dtype=torch.float64) * math.pi / 2)  # cos(pi i / 2N), exact at its ends
    return _between(t_start, t_end, left.square() if dense == "both" else left)


def beta(path: Path, steps: int, t_start: float = 1.0, t_end: float = 0.0, a: float = 0.6, b: float = 0.6) -> Tensor:
    """Equally likely times of a Beta(a, b) law: t_i is its quantile at 1 - i / N (arXiv 2407.12173).

    Below 1 both parameters make the ends dense; a is that of the data end.
    """
    if not (0.05 <= a <= 10 and 0.05 <= b <= 10):
        raise WorkbenchError(f"a = {a:g} and b = {b:g} must lie between 0.05 and 10; 1 and 1 are equal steps.")
    return _between(t_start, t_end, _beta_quantile(torch.linspace(1, 0, steps + 1, dtype=torch.float64), a, b))


# rho at the ends of Align Your Steps' ten steps, after which comes clean data (arXiv 2404.14507, published with its page)
AYS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
}


def ays(path: Path, steps: int, t_start: float = 1.0, t_end: float = 0.0, table: str = "sd15") -> Tensor:
    """Align Your Steps' published tables, log rho interpolated to any number of steps (arXiv 2404.14507).

    They were optimised for three models and are placed by log-SNR on any path; beyond its least rho a table goes on as it
    ended. `tuned("ays_tuned", teacher, steps)` computes the like for a teacher.

    Args:
        table: "sd15" (Stable Diffusion 1.5), "sdxl" or "svd" (Stable Video Diffusion).
    """
    if table not in AYS:
        raise unknown("table of Align Your Steps", table, AYS)
    logs = torch.tensor(AYS[table], dtype=torch.float64).log()

    def place(rho: Tensor) -> Tensor:
        left = (torch.searchsorted(-logs, -rho.log(), right=True) - 1).clamp(0, len(logs) - 2)
        return left + (rho.log() - logs[left]) / (logs[left + 1] - logs[left])

    def rho_at(place: Tensor) -> Tensor:
        left = place.floor().long().clamp(0, len(logs) - 2)
        return (logs[left] + (place - left) * (logs[left + 1] - logs[left])).exp()

    return _in_rho(path, steps, t_start, t_end, AYS[table][-1], AYS[table][0], place, rho_at)


def _between(t_start: float, t_end: float, fraction: Tensor) -> Tensor:
    """The end at fraction 0, the start at fraction 1."""
    return torch.lerp(torch.tensor(t_end, dtype=torch.float64), torch.tensor(t_start, dtype=torch.float64), fraction)


def _beta_quantile(level: Tensor, a: float, b: float) -> Tensor:
    """Quantiles of Beta(a, b) by halving intervals.

    The law is x^a sum_n (1 - b)(2 - b)...(n - b) / (n! (a + n)) x^n up to a factor; a point above 1/2 is seen from 1.
    """
    n, pair = torch.arange(56, dtype=torch.float64), torch.tensor([a, b], dtype=torch.float64)
    factors = torch.cat([torch.ones(2, 1), (n[1:] - pair.flip(0)[:, None]) / n[1:]], 1).cumprod(1) / (pair[:, None] + n)

    def below(x: Tensor, side: Tensor) -> Tensor:
        return x ** pair[side] * (x[:, None] ** n * factors[side]).sum(1)

    first, second = below(torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([0, 1])).tolist()
    mirrored = level > first / (first + second)
    mass, side = torch.where(mirrored, 1 - level, level) * (first + second), mirrored.long()
    low, high = torch.zeros_like(level), torch.full_like(level, 0.5)
    for _ in range(60):
        x = (low + high) / 2
        short = below(x, side) < mass
        low, high = torch.where(short, x, low), torch.where(short, high, x)
    return torch.where(mirrored, 1 - low, low)  # low, so that levels 0 and 1 are themselves


def _in_rho(
    path: Path, steps: int, t_start: float, t_end: float, rho_min: float, rho_max: float, to: Callable, back: Callable
) -> Tensor:
    if not 0 < rho_min < rho_max:
        raise WorkbenchError(f"rho_min = {rho_min:g} must lie between 0 and rho_max = {rho_max:g}.")
    high = min(path.rho(t_start), rho_max)
    points, low = (steps + 1, path.rho(t_end)) if t_end > 0 else (steps, min(rho_min, high / 2))
    if not 0 < low < high:
        raise WorkbenchError(
            f"t_end = {t_end:g} lies above rho_max = {rho_max:g}: end closer to the data, or choose a larger one."
        )
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
    "resolution": resolution,
    "cosine": cosine,
    "beta": beta,
    "ays": ays,
}


def options(schedule: str | Callable | Sequence[float] | Tensor) -> list[str]:
    """Names of the options that a schedule takes, besides the path and the number of steps."""
    function = NAMES.get(schedule) if isinstance(schedule, str) else schedule
    return list(inspect.signature(function).parameters)[2:] if callable(function) else []


def get(schedule: str | Callable | Sequence[float] | Tensor, path: str | Path, steps: int | None, **given: Any) -> Tensor:
    """Return the times of a schedule given by name, by function, as a list of steps + 1 falling times, or by a diffusers scheduler.

    Raises:
        UnknownName: for an unknown schedule or option, with the nearest name.
        WorkbenchError: if the times do not fall strictly within [0, 1], or their number is not steps + 1.

    >>> get("uniform", "linear", 4).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    path = paths.get(path)
    if isinstance(schedule, str) and schedule not in NAMES:
        raise unknown("schedule", schedule, NAMES)
    if hasattr(schedule, "set_timesteps"):  # a diffusers scheduler
        schedule, steps = _set(schedule, steps), None
    if isinstance(schedule, str) or callable(schedule):
        steps = check_count("steps", steps, 1, MAX_STEPS)
        check_options(f"schedule {schedule!r}", given, options(schedule))
        check_values(NAMES[schedule] if isinstance(schedule, str) else schedule, given)
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
        if not (isinstance(schedule, str) or callable(schedule)):
            at = int((times.diff() >= 0).nonzero()[0])
            raise WorkbenchError(
                f"times must fall strictly from noise (1) to data (0), but {float(times[at + 1]):g} follows {float(times[at]):g}: "
                "give them in falling order, each once."
            )
        raise WorkbenchError(
            f"{len(times) - 1} steps on this schedule do not fall strictly from noise to data: take fewer steps."
        )
    return times


def _as_times(values: Any) -> Tensor:
    try:
        return torch.as_tensor(values, dtype=torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise WorkbenchError(f"a schedule is a name, a function, or a list of falling times, not {values!r}.") from error


# schedulers whose timesteps are times of a path of ours already, up to a factor: trig, cosine and trig (in radians)
_OWN_TIMES = {"IPNDMScheduler": 1.0, "DDPMWuerstchenScheduler": 1.0, "SCMScheduler": 2 / math.pi}


def from_scheduler(scheduler: Any) -> Tensor:
    """Return the times at which a diffusers scheduler stops, read after its `set_timesteps`.

    They are times of `paths.from_scheduler(scheduler)`; of trig for IPNDM and SCM, of cosine for Wuerstchen, of linear for
    other flows. Points within a step (Heun, KDPM2, PNDM's Runge-Kutta) are left out, and so is a last step of no length. The
    end is clean data, unless the scheduler ends at its table's first entry.

    Raises:
        WorkbenchError: if `set_timesteps` has not been called; for a scheduler of tokens or of noise levels of its own, and
            for one whose timesteps do not fall (inversion, or RePaint, which goes back to noise).

    >>> from diffusers import DDIMScheduler
    >>> scheduler = DDIMScheduler(timestep_spacing="trailing")
    >>> scheduler.set_timesteps(4)
    >>> from_scheduler(scheduler).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if hasattr(scheduler, "plan"):  # one of ours, of `workbench.diffusers_scheduler`
        return torch.tensor(scheduler.plan.times, dtype=torch.float64)
    name = type(scheduler).__name__
    if getattr(scheduler, "timesteps", None) is None or getattr(scheduler, "num_inference_steps", 0) is None:
        raise WorkbenchError(f"call set_timesteps on the {name} first: it has no times yet.")
    times = _times_of(scheduler, name)
    if len(times) < 2 or not bool((times.diff() < 0).all()):
        raise WorkbenchError(
            f"the timesteps of this {name} do not fall from noise to data (they are times {[round(t, 3) for t in times.tolist()[:6]]}): "
            "take one that neither inverts nor goes back, or fewer steps."
        )
    return times


def _times_of(scheduler: Any, name: str) -> Tensor:
    clean = torch.zeros(1, dtype=torch.float64)
    told = torch.as_tensor(scheduler.timesteps, dtype=torch.float64).cpu()
    if name in _OWN_TIMES:
        times = (told * _OWN_TIMES[name]).clamp(max=1.0)
        return torch.cat([times, clean]) if times[-1] > 0 else times
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) > 1:
        rho = torch.as_tensor(sigmas, dtype=torch.float64).cpu().unique_consecutive()  # Heun's list holds its stages twice
        path = _path_of(scheduler, rho)
        if path.name == "linear":
            return rho
        if float(rho.max()) > 1.001 * path.rho(1.0):
            raise WorkbenchError(
                f"this {name} starts at sigma = {float(rho.max()):g}, but its table ends at {path.rho(1.0):g}: give times as a list."
            )
        times = path.time(-torch.log(rho))
        # DPM-Solver's sigmas are those of whole timesteps: undo the rounding to float32
        snapped = (times * path.timesteps).round() / path.timesteps if path.timesteps else times
        return torch.where((snapped - times).abs() < 2e-5, snapped, times)
    path = paths.from_scheduler(scheduler)
    if path.timesteps is None:
        raise WorkbenchError(f"this {name} has neither sigmas nor a table, so its times are unknown: give times as a list.")
    if name == "PNDMScheduler":  # its timesteps come back: stages of Runge-Kutta, and a first step made twice
        told = torch.as_tensor(scheduler._timesteps, dtype=torch.float64).flip(0)
    last = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
    if last < 1:
        clean += round(path.time(0.5 * math.log(last / (1 - last))) * path.timesteps) / path.timesteps
    times = (told + 1) / path.timesteps
    return times if times[-1] == clean[0] else torch.cat([times, clean])


def _path_of(scheduler: Any, rho: Tensor) -> Path:
    """The path of a scheduler's sigmas; of flow matching where there is no table and they are at most 1."""
    try:
        return paths.from_scheduler(scheduler)
    except WorkbenchError:
        config = getattr(scheduler, "config", {})
        if "sigma_data" in config:  # EDM's kind by another name
            return paths.get(f"edm to {float(config['sigma_max']):g}")
        if float(rho.max()) <= 1:
            return paths.linear
        raise


def _set(scheduler: Any, steps: int | None) -> Tensor:
    """The times of a diffusers scheduler, as it is, or at a number of steps; itself it is not changed."""
    if steps is not None:
        steps = check_count("steps", steps, 1, MAX_STEPS)
        try:
            scheduler = copy.deepcopy(scheduler)
            scheduler.set_timesteps(steps)
        except Exception as error:  # whatever it makes of a number that it does not like
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise WorkbenchError(
                f"{type(scheduler).__name__} makes no {steps} steps ({reason}): call its set_timesteps, and leave steps out."
            ) from error
    return from_scheduler(scheduler)
