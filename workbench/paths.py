"""Paths between data and noise: x_t = alpha(t) x0 + sigma(t) eps, data at t = 0, noise at t = 1.

A `Path` is two functions and their derivatives; everything else (half log-SNR, its inverse, the four kinds of
prediction and one conversion between them) follows. Times and coefficients are float64.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workbench.errors import WorkbenchError, unknown

KINDS = ("x0", "eps", "v", "flow")
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Path:
    """One path. Every method takes a float (and returns a float) or a float64 tensor of times in [0, 1].

    Attributes:
        name: as in `paths.get(name)`.
        smooth: d alpha/dt and d sigma/dt are finite on [0, 1]; Euler and Heun then integrate the velocity in t,
            otherwise eps in rho = sigma / alpha, as k-diffusion does.
        time_fn: inverse of the half log-SNR; a path of your own may do without, for samplers and schedules that ask for none.
        timesteps: length T of the table a network was trained with, or None for continuous times;
            time t is then the network's timestep t T - 1.

    >>> linear.alpha(0.25), linear.sigma(0.25)
    (0.75, 0.25)
    """

    name: str
    alpha_fn: Function
    sigma_fn: Function
    d_alpha_fn: Function
    d_sigma_fn: Function
    time_fn: Function | None = None
    smooth: bool = False
    timesteps: int | None = None

    def alpha(self, t: float | Tensor) -> Any:
        """Weight of the data at time t."""
        return _apply(self.alpha_fn, t)

    def sigma(self, t: float | Tensor) -> Any:
        """Standard deviation of the noise at time t."""
        return _apply(self.sigma_fn, t)

    def d_alpha(self, t: float | Tensor) -> Any:
        """Derivative of alpha with respect to t."""
        return _apply(self.d_alpha_fn, t)

    def d_sigma(self, t: float | Tensor) -> Any:
        """Derivative of sigma with respect to t."""
        return _apply(self.d_sigma_fn, t)

    def log_snr(self, t: float | Tensor) -> Any:
        """Half log signal-to-noise ratio, log(alpha / sigma): +inf at clean data, -inf at pure noise."""
        return _apply(lambda u: torch.log(self.alpha_fn(u)) - torch.log(self.sigma_fn(u)), t)

    def time(self, log_snr: float | Tensor) -> Any:
        """Inverse of `log_snr`, clamped to [0, 1].

        Raises:
            WorkbenchError: for a path that was made without one.
        """
        if self.time_fn is None:
            raise WorkbenchError(
                f"path {self.name!r} has no inverse (time_fn), and this needs the time of a log-SNR: give it one, or run ddim, euler, "
                "heun, dpmpp_2m, dpmpp_3m, unipc, ab or ipndm on uniform, quadratic, cosine or beta times, or on a list."
            )
        return _apply(lambda u: self.time_fn(u).clamp(0.0, 1.0), log_snr)

    def rho(self, t: float | Tensor) -> Any:
        """Noise-to-signal ratio sigma / alpha, the sigma of EDM."""
        return _apply(lambda u: self.sigma_fn(u) / self.alpha_fn(u), t)

    def kind(self, kind: str, t: float | Tensor) -> tuple[Any, Any]:
        """Return (a, b) such that a prediction of this kind is a x0 + b eps.

        x0: (1, 0); eps: (0, 1); v: (-sigma, alpha), arXiv 2202.00512; flow: dx/dt, (alpha', sigma').

        Raises:
            UnknownName: if kind is not one of x0, eps, v, flow.
        """
        one = torch.ones_like(t) if isinstance(t, Tensor) else 1.0
        if kind == "x0":
            return one, 0.0 * one
        if kind == "eps":
            return 0.0 * one, one
        if kind == "v":
            return -self.sigma(t), self.alpha(t)
        if kind == "flow":
            return self.d_alpha(t), self.d_sigma(t)
        raise unknown("prediction kind", kind, KINDS)

    def conversion(self, source: str, target: str, t: float | Tensor) -> tuple[Any, Any]:
        """Return (c_x, c_p): a prediction p of kind `source` at (x, t) is c_x x + c_p p as kind `target`.

        The one 2x2 solve of [x; p] = [[alpha, sigma], [a, b]] [x0; eps] that every conversion uses.

        Raises:
            WorkbenchError: where the target is not determined, for example eps from x0 at sigma = 0.
        """
        if not isinstance(t, Tensor):
            return _conversion_at(self, source, target, float(t))
        return self._conversion(source, target, t)

    def _conversion(self, source: str, target: str, t: float | Tensor) -> tuple[Any, Any]:
        if source == target:
            one = torch.ones_like(t) if isinstance(t, Tensor) else 1.0
            return 0.0 * one, one
        (a, b), (c, d) = self.kind(source, t), self.kind(target, t)
        alpha, sigma = self.alpha(t), self.sigma(t)
        det = a * sigma - b * alpha
        if not isinstance(t, Tensor) and (det == 0 or not math.isfinite(det)):
            raise WorkbenchError(
                f"{target} cannot be computed from {source} at t = {t} on path {self.name!r}: choose 0 < t < 1 or another kind."
            )
        return (a * d - c * b) / det, (c * sigma - d * alpha) / det

    def convert(self, prediction: Tensor, x: Tensor, t: float | Tensor, source: str, target: str) -> Tensor:
        """Convert a prediction at (x, t) between kinds; t is a float or one time per sample.

        >>> x0, eps = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
        >>> x_t = vp.mix(x0, eps, 0.3)
        >>> torch.allclose(vp.convert(eps, x_t, 0.3, "eps", "x0"), x0)
        True
        """
        c_x, c_p = self.conversion(source, target, t.double() if isinstance(t, Tensor) else t)
        if isinstance(t, Tensor):
            c_x, c_p = per_sample(c_x, x), per_sample(c_p, x)
        return c_x * x + c_p * prediction

    def mix(self, x0: Tensor, eps: Tensor, t: float | Tensor) -> Tensor:
        """Return x_t = alpha x0 + sigma eps for one time, or one time per sample."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        if isinstance(t, Tensor):
            alpha, sigma = per_sample(alpha, x0), per_sample(sigma, x0)
        return alpha * x0 + sigma * eps


@functools.lru_cache(4096)
def _conversion_at(path: Path, source: str, target: str, t: float) -> tuple[float, float]:
    """Worked out once: a network asks at every step of every run, and a plan's times come back."""
    return path._conversion(source, target, t)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Shape (n,) or scalar coefficients so that they multiply `like` (n, ...), in its dtype and device."""
    values = torch.as_tensor(values).to(like)
    return values.reshape(-1, *[1] * (like.dim() - 1)) if values.dim() else values


def _apply(function: Function, t: float | Tensor) -> Any:
    if isinstance(t, Tensor):
        return function(t)
    return float(function(torch.tensor(float(t), dtype=torch.float64)))


def _sqrt_one_minus_square(log_alpha: Tensor) -> Tensor:
    return torch.sqrt(-torch.expm1(2 * log_alpha))


def _linear() -> Path:
    return Path(
        "linear",
        alpha_fn=lambda t: 1 - t,
        sigma_fn=lambda t: t + 0.0,
        d_alpha_fn=lambda t: -torch.ones_like(t),
        d_sigma_fn=torch.ones_like,
        time_fn=lambda u: torch.sigmoid(-u),
        smooth=True,
    )


def _trig() -> Path:
    half = math.pi / 2
    return Path(
        "trig",
        alpha_fn=lambda t: torch.sin(half * (1 - t)),  # cos, but exactly 0 at t = 1
        sigma_fn=lambda t: torch.sin(half * t),
        d_alpha_fn=lambda t: -half * torch.sin(half * t),
        d_sigma_fn=lambda t: half * torch.cos(half * t),
        time_fn=lambda u: torch.atan(torch.exp(-u)) / half,
        smooth=True,
    )


def _cosine(offset: float = 0.008) -> Path:
    # alpha = cos(angle) / cos(angle0), Improved DDPM, arXiv 2102.09672, eq. 17 (square root)
    first = offset / (1 + offset) * math.pi / 2
    rate = math.pi / 2 / (1 + offset)

    def alpha(t: Tensor) -> Tensor:
        return torch.sin(rate * (1 - t)) / math.cos(first)

    def sigma(t: Tensor) -> Tensor:
        # 1 - alpha^2 with cos^2 a - cos^2 b = sin(b - a) sin(b + a): no cancellation near the data
        return torch.sqrt(torch.sin(rate * t) * torch.sin(rate * t + 2 * first)) / math.cos(first)

    def d_alpha(t: Tensor) -> Tensor:
        return -rate * torch.cos(rate * (1 - t)) / math.cos(first)

    def time(u: Tensor) -> Tensor:
        log_alpha = -0.5 * torch.nn.functional.softplus(-2 * u)
        return 1 - torch.asin(torch.exp(log_alpha) * math.cos(first)) / rate

    return Path("cosine", alpha, sigma, d_alpha, lambda t: -alpha(t) * d_alpha(t) / sigma(t), time)


def _vp(low: float = 0.1, high: float = 20.0) -> Path:
    # Score SDE, arXiv 2011.13456, eq. 32-33: beta(t) = low + t (high - low)
    def log_alpha(t: Tensor) -> Tensor:
        return -0.25 * t * t * (high - low) - 0.5 * t * low

    def beta(t: Tensor) -> Tensor:
        return low + t * (high - low)

    def alpha(t: Tensor) -> Tensor:
        return torch.exp(log_alpha(t))

    def sigma(t: Tensor) -> Tensor:
        return _sqrt_one_minus_square(log_alpha(t))

    def time(u: Tensor) -> Tensor:
        tail = 2 * (high - low) * torch.nn.functional.softplus(-2 * u)  # DPM-Solver, arXiv 2206.00927, app. D.4
        return tail / (torch.sqrt(low**2 + tail) + low) / (high - low)

    return Path(
        "vp", alpha, sigma, lambda t: -0.5 * beta(t) * alpha(t), lambda t: 0.5 * beta(t) * alpha(t) ** 2 / sigma(t), time
    )


def _edm(sigma_max: float = 80.0, power: float = 7.0) -> Path:
    # VE in EDM's units (arXiv 2206.00364). Time is chosen so that equal steps are Karras steps with sigma_min = 0.
    return Path(
        "edm",
        alpha_fn=torch.ones_like,
        sigma_fn=lambda t: sigma_max * t**power,
        d_alpha_fn=torch.zeros_like,
        d_sigma_fn=lambda t: sigma_max * power * t ** (power - 1),
        time_fn=lambda u: (torch.exp(-u) / sigma_max) ** (1 / power),
    )


def from_table(alphas_cumprod: Tensor, name: str = "table") -> Path:
    """Return the VP path through a table of cumulative alpha^2, shape (T,): entry i is the path at t = (i + 1) / T.

    Between entries log alpha is linear in t; t = 0 is clean data.

    Raises:
        WorkbenchError: if the table does not fall strictly within [0, 1).
    """
    table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).flatten()
    whole = torch.cat([torch.ones(1, dtype=torch.float64), table])
    if len(table) < 2 or not bool((whole.diff() < 0).all()) or not bool(torch.isfinite(table).all()) or float(table[-1]) < 0:
        raise WorkbenchError("alphas_cumprod must be at least two numbers that fall strictly from below 1 towards 0.")
    count = len(table)
    logs = 0.5 * torch.log(whole.clamp_min(1e-20))  # zero terminal SNR: a floor of 1e-10 on alpha

    def log_alpha(t: Tensor) -> Tensor:
        place = (t.double() * count).clamp(0, count)
        left = place.floor().clamp(max=count - 1).long()
        nodes = logs.to(t.device)
        return nodes[left] + (place - left) * (nodes[left + 1] - nodes[left])

    def slope(t: Tensor) -> Tensor:
        left = (t.double() * count).floor().clamp(0, count - 1).long()
        nodes = logs.to(t.device)
        return (nodes[left + 1] - nodes[left]) * count

    def alpha(t: Tensor) -> Tensor:
        return torch.exp(log_alpha(t))

    def sigma(t: Tensor) -> Tensor:
        return _sqrt_one_minus_square(log_alpha(t))

    def time(u: Tensor) -> Tensor:
        target = -0.5 * torch.nn.functional.softplus(-2 * u.double())
        nodes = logs.to(u.device)
        right = torch.searchsorted(-nodes, -target.contiguous()).clamp(1, count)
        return (right - 1 + (target - nodes[right - 1]) / (nodes[right] - nodes[right - 1])) / count

    return Path(
        name,
        alpha,
        sigma,
        lambda t: slope(t) * alpha(t),
        lambda t: -slope(t) * alpha(t) ** 2 / sigma(t),
        time,
        timesteps=count,
    )


@functools.lru_cache(64)
def from_betas(schedule: str, count: int = 1000, low: float = 1e-4, high: float = 0.02, zero_snr: bool = False) -> Path:
    """The path of one of diffusers' named tables; its own name says how to make it again, so that a card can hold it.

    Args:
        schedule: linear, scaled_linear (in sqrt(beta)) or squaredcos_cap_v2 (Improved DDPM, arXiv 2102.09672, eq. 17).
        count: entries of the table. low, high: first and last beta; the cosine has none.
        zero_snr: alpha moved and stretched to end at 0 (arXiv 2305.08891, algorithm 1).

    Raises:
        UnknownName: for any other schedule. WorkbenchError: for numbers that make no falling table.

    >>> get(from_betas("linear").name).alpha(1.0)
    0.0063
    """
    if schedule not in BETAS:
        raise unknown("beta schedule", schedule, BETAS)
    if not (2 <= count <= 100_000 and 0 <= low <= high < 1):
        raise WorkbenchError(f"{count} betas from {low} to {high} make no table: take 2 to 100000, from 0 up to below 1.")
    if schedule == "squaredcos_cap_v2":
        level = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        betas = torch.tensor([min(1 - b / a, 0.999) for a, b in itertools.pairwise(level)], dtype=torch.float32)
    else:  # in float32, as the tables that networks were trained with
        power = 1 if schedule == "linear" else 2
        betas = torch.linspace(low ** (1 / power), high ** (1 / power), count, dtype=torch.float32) ** power
    table = torch.cumprod(1 - betas, 0)
    if zero_snr:
        alpha = table.sqrt()
        table = ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2
    numbers = "" if schedule == "squaredcos_cap_v2" else f" {low!r} {high!r}"
    return from_table(table, f"betas {schedule} {count}{numbers}{' zero_snr' * zero_snr}")


def _from_name(name: str) -> Path | None:
    """A path whose name says how to make it: a table of betas, or edm to another sigma."""
    match name.split():
        case ["betas", schedule, count, *rest] if schedule in BETAS and count.isdecimal():
            numbers = [_number(word) for word in rest if word != "zero_snr"]
            if len(numbers) in (0, 2) and None not in numbers:
                return from_betas(schedule, int(count), *numbers, zero_snr="zero_snr" in rest)
        case ["edm", "to", top] if (sigma := _number(top)) is not None and 2 < sigma < 1e6:
            return _edm_to(sigma)
    return None


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


@functools.lru_cache(64)
def _edm_to(top: float) -> Path:
    return edm if top == 80 else replace(_edm(top), name=f"edm to {top:g}")


def from_scheduler(scheduler: Any) -> Path:
    """Read the path of a diffusers scheduler: its `alphas_cumprod` table, or `linear` for a flow-matching one.

    Raises:
        WorkbenchError: if the scheduler has neither.

    >>> from diffusers import DDIMScheduler
    >>> from_scheduler(DDIMScheduler()).timesteps
    1000
    """
    kind = type(scheduler).__name__
    flow_sigmas = getattr(getattr(scheduler, "config", None), "use_flow_sigmas", False)
    if kind.startswith("FlowM") or flow_sigmas:
        return linear
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is not None:
        return from_table(table, name=f"table of {kind}")
    if "EDM" in kind or kind == "CMStochasticIterativeScheduler":
        return _edm_to(float(scheduler.config.sigma_max))
    raise WorkbenchError(
        f"{kind} has neither alphas_cumprod nor flow-matching sigmas: pass a path by name ({', '.join(NAMES)}) instead."
    )


linear, cosine, vp, edm, trig = _linear(), _cosine(), _vp(), _edm(), _trig()
NAMES = {path.name: path for path in (linear, cosine, vp, edm, trig)}


def get(path: str | Path) -> Path:
    """Return a path by name (linear, cosine, vp, edm, trig, or one of `from_betas`); a `Path` is returned as it is.

    >>> get("vp").name
    'vp'
    """
    if isinstance(path, Path):
        return path
    if path in NAMES:
        return NAMES[path]
    found = _from_name(path) if isinstance(path, str) else None
    if found is None:
        raise unknown("path", path, NAMES)
    return found
