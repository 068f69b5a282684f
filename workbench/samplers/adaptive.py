"""Adaptive samplers: every sample takes steps as large as an error estimate of its own allows.

An attempt goes from s to t with two solvers of neighbouring order that share their evaluations. With delta = max(atol,
rtol max(|x_low|, |x_before|)) and E = RMS((x_high - x_low) / delta) over the coordinates of one sample, it is accepted where
E <= 1, and E says how large the next step may be. A rejected sample stands where it stood, bit for bit.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench import paths
from workbench.errors import WorkbenchError, check_count, check_options, unknown
from workbench.fits import check_values
from workbench.paths import Path, per_sample
from workbench.samplers.policy import Place, Policy, Visit, Visits, jump, place

Attempt = Generator[Visit, Tensor, tuple[Tensor, Tensor]]  # yields helper points, returns (x_low, x_high)
LEAST = 0.1  # a step shrinks at most tenfold, so that one wild estimate does not stop a run


@dataclass(frozen=True, kw_only=True)
class Adaptive(Policy):
    """An embedded pair with its controller; `options` holds the numbers.

    Attributes:
        kind: what the pair expects the model's output as. pair: the attempt, from (x, output at s, s, t, running).
        by_time: steps are taken in t; else in log-SNR.
        factor: (E, E of the last accepted attempt, accepted) -> factor of the next step.
    """

    kind: str
    pair: Callable[..., Attempt]
    by_time: bool
    factor: Callable[[Tensor, Tensor, Tensor], Tensor]

    def stages(self, x: Tensor) -> Visits:
        """Go from states x (n, ...) at the first time to the last."""
        path, options, ones = self.path, self.options, torch.ones(len(x), dtype=torch.float64)
        (first, last), everyone = self.times, ones.bool()
        if not self.by_time and path.alpha(first) == 0:  # pure noise has no log-SNR: the step away from it is of order 1
            s, t = (place(path, time * ones) for time in (first, path.time(-math.log(options["rho_max"]))))
            x, first = jump(x, (yield Visit(s.t, x, everyone)), s, t), float(t.t[0])
        stop = last if path.sigma(last) > 0 else path.time(-math.log(options["rho_min"]))
        at, end = (-time if self.by_time else path.log_snr(time) for time in (first * ones, stop))  # this coordinate rises
        step, settled, before, slope = options["h_init"] * ones, ones, x, torch.zeros_like(x)
        running, fresh = at < end, everyone
        while bool(running.any()):
            to = torch.where(running, torch.where(step < end - at, at + step, end), at)
            s, t = (place(path, -q if self.by_time else path.time(q)) for q in (at, to))
            if bool((ask := running & fresh).any()):
                output = path.convert((yield Visit(s.t, x, ask)), x, s.t, "x0", self.kind)
                slope = _where(ask, output, slope)
            low, high = yield from self.pair(path, x, slope, s, t, running)
            error = self.error(low, high, before)
            accepted = running & (error <= 1)
            step = torch.where(running, (to - at) * self.factor(error, settled, accepted), step)
            x, before, at = _where(accepted, high, x), _where(accepted, low, before), torch.where(accepted, to, at)
            settled = torch.where(accepted, error.clamp_min(1e-4), settled)
            running, fresh = at < end, accepted if options["reuse_on_reject"] else everyone
        if path.sigma(last) > 0:
            return x
        s, t = place(path, stop * ones), place(path, last * ones)
        return jump(x, (yield Visit(s.t, x, everyone)), s, t)

    def __str__(self) -> str:
        usual = inspect.signature(POLICIES[self.sampler]).parameters
        given = [f"{key} {value}" for key, value in self.options.items() if value != usual[key].default]
        return ", ".join([f"{self.sampler}, steps of its own on {self.path.name}", *given])

    def error(self, low: Tensor, high: Tensor, before: Tensor) -> Tensor:
        """E of each sample, (n,), float64."""
        delta = (self.options["rtol"] * torch.maximum(low.abs(), before.abs())).clamp_min(self.options["atol"])
        return ((high - low) / delta).flatten(1).square().mean(1).sqrt().cpu().double()


def dpm_adaptive(
    path: str | Path,
    t_start: float = 1.0,
    t_end: float = 0.0,
    order: int = 2,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    theta: float = 0.9,
    reuse_on_reject: bool = True,
    rho_min: float = 0.002,
    rho_max: float = 80.0,
    max_evaluations: int = 1000,
) -> Adaptive:
    """Adaptive DPM-Solver (arXiv 2206.00927, section 3.4 and appendix C): steps in log-SNR, h <- theta h E^(-1/order).

    Order 2 pairs DPM-Solver-1 with -2 (two evaluations an attempt), order 3 pairs -2 with -3 (three). The released code takes
    the largest E of a batch for all of it; here each sample has its own. In few dimensions the two results of order 3 meet by
    accident now and then, which lets a bad step pass: its median error is far smaller, its largest is not.

    Args:
        t_start, t_end: first and last time. With t_end = 0 the steps go down to rho = sigma / alpha = `rho_min`, and the last
            one from there to the x0 estimate; from pure noise (alpha = 0) a first step of order 1 leads to `rho_max`.
        rtol, atol: tolerance, relative and in units of x. h_init: first step, in log-SNR. theta: safety, between 0 and 1.
        reuse_on_reject: a rejected sample keeps its evaluation at s, which the released code repeats.
        max_evaluations: model calls a sample may make.

    Raises:
        WorkbenchError: for numbers out of their range.

    >>> import workbench as wb
    >>> policy = dpm_adaptive("vp", rtol=0.1)
    >>> *_, last = wb.run(policy, wb.mixture([[0.5]], [0.2], path="vp"), torch.ones(3, 1))
    >>> last.nfe
    27
    """
    if order not in (2, 3):
        raise WorkbenchError(f"order is {order}, but must be 2 (DPM-Solver-1 and -2) or 3 (-2 and -3).")
    options = {"order": order, "rtol": rtol, "atol": atol, "h_init": h_init, "theta": theta, "reuse_on_reject": reuse_on_reject,
               "rho_min": rho_min, "rho_max": rho_max}  # fmt: skip

    def factor(error: Tensor, settled: Tensor, accepted: Tensor) -> Tensor:
        return (theta * error ** (-1 / order)).clamp_min(LEAST)

    return _make("dpm_adaptive", path, t_start, t_end, options, max_evaluations, "eps", _dpm_pair(order), False, factor)


def heun_adaptive(
    path: str | Path,
    t_start: float = 1.0,
    t_end: float = 0.0,
    variable: str | None = None,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    theta: float = 0.9,
    reuse_on_reject: bool = True,
    rho_min: float = 0.002,
    rho_max: float = 80.0,
    max_evaluations: int = 1000,
) -> Adaptive:
    """Euler and Heun as an embedded pair (two evaluations an attempt) under a PI controller.

    After acceptance the step is multiplied by theta E^(-0.7/2) E_last^(0.4/2), at most 5, after a rejection by
    theta E^(-1/2), at most 1 (Hairer and Wanner, Solving Ordinary Differential Equations II, section IV.2).

    Args:
        variable: "t" integrates dx/dt in steps of t, "rho" integrates d(x / alpha)/d rho = eps in steps of log rho. By default
            "t" on smooth paths (linear, trig), "rho" elsewhere, as for `heun`.
        h_init: first step, in t or in log-SNR. The others: as for `dpm_adaptive`.

    Raises:
        UnknownName: for another variable. WorkbenchError: for numbers out of their range.

    >>> heun_adaptive("linear", rtol=0.1, t_end=0.01).times
    (1.0, 0.01)
    """
    path = paths.get(path)
    variable = variable or ("t" if path.smooth else "rho")
    if variable not in ("t", "rho"):
        raise unknown("variable", variable, ("t", "rho"))
    options = {"variable": variable, "rtol": rtol, "atol": atol, "h_init": h_init, "theta": theta,
               "reuse_on_reject": reuse_on_reject, "rho_min": rho_min, "rho_max": rho_max}  # fmt: skip

    def factor(error: Tensor, settled: Tensor, accepted: Tensor) -> Tensor:
        after = (theta * error**-0.35 * settled**0.2).clamp(LEAST, 5.0)
        return torch.where(accepted, after, (theta * error**-0.5).clamp(LEAST, 1.0))

    kind, by_time = ("flow", True) if variable == "t" else ("eps", False)
    return _make("heun_adaptive", path, t_start, t_end, options, max_evaluations, kind, heun_pair(kind), by_time, factor)


POLICIES: dict[str, Callable[..., Policy]] = {"dpm_adaptive": dpm_adaptive, "heun_adaptive": heun_adaptive}


def policy(sampler: str, path: str | Path, **options: Any) -> Policy:
    """Make a sampler that chooses its own steps; run it with `workbench.run`, as a plan.

    Args:
        sampler: dpm_adaptive or heun_adaptive. path: a name or a `Path`. options: rtol, atol, t_start, t_end and the others of
            the function of that name in `workbench.samplers.adaptive`.

    Raises:
        UnknownName: for an unknown name or option, with the nearest one. WorkbenchError: for numbers out of their range.

    >>> print(policy("dpm_adaptive", "vp", rtol=0.02, order=3))
    dpm_adaptive, steps of its own on vp, order 3, rtol 0.02
    """
    if sampler not in POLICIES:
        raise unknown("adaptive sampler", sampler, POLICIES)
    check_options(f"sampler {sampler!r}", options, list(inspect.signature(POLICIES[sampler]).parameters)[1:])
    check_values(POLICIES[sampler], options)
    return POLICIES[sampler](path, **options)


def no_table(sampler: str) -> WorkbenchError:
    """The error for a plan of a sampler that has none."""
    return WorkbenchError(
        f"{sampler} is adaptive: it chooses its steps as it goes and has no table, so call workbench.policy({sampler!r}, path, "
        f"rtol=0.05) and run that, or workbench.sample(model, n, sampler={sampler!r}, rtol=0.05)."
    )


def _make(
    name: str, path: str | Path, t_start: float, t_end: float, options: dict[str, Any], ceiling: int,
    kind: str, pair: Callable[..., Attempt], by_time: bool, factor: Callable[..., Tensor],
) -> Adaptive:  # fmt: skip
    path = paths.get(path)
    if not 0 <= t_end < t_start <= 1:
        raise WorkbenchError(f"t_start = {t_start} and t_end = {t_end} must satisfy 0 <= t_end < t_start <= 1.")
    for key in ("rtol", "atol", "h_init"):
        if not 0 < options[key] < math.inf:
            raise WorkbenchError(f"{key} is {options[key]}, but must be a positive number; 0.05 is the usual rtol and h_init.")
    if not options["rho_max"] > 0:
        raise WorkbenchError(f"rho_max is {options['rho_max']}, but must be positive; 80 is usual.")
    if not 0 < options["theta"] < 1:
        raise WorkbenchError(f"theta is {options['theta']}, but must lie between 0 and 1; 0.9 is usual.")
    start = min(path.rho(t_start), options["rho_max"])
    if not 0 < options["rho_min"] < start or (t_end > 0 and not path.rho(t_end) < start):
        raise WorkbenchError(
            f"rho_min = {options['rho_min']:g} and t_end = {t_end:g} must lie closer to the data than t_start = {t_start:g} and "
            f"rho_max = {options['rho_max']:g}: lower rho_min or t_end, or raise rho_max."
        )
    ceiling = check_count("max_evaluations", ceiling, 1)
    return Adaptive(
        name, path, (float(t_start), float(t_end)), options, ceiling, kind=kind, pair=pair, by_time=by_time, factor=factor
    )


def _dpm_pair(order: int) -> Callable[..., Attempt]:
    """DPM-Solver-1/2 with r = 1/2, or -2/3 with r1 = 1/3 and r2 = 2/3 (arXiv 2206.00927, algorithms 1 and 2); e is eps."""
    r1, r2 = (1 / 2, None) if order == 2 else (1 / 3, 2 / 3)

    def attempt(path: Path, x: Tensor, e_s: Tensor, s: Place, t: Place, running: Tensor) -> Attempt:
        start = path.log_snr(s.t)
        h = path.log_snr(t.t) - start

        def first(u: Place, r: float) -> Tensor:
            return per_sample(u.alpha / s.alpha, x) * x - per_sample(u.sigma * torch.expm1(r * h), x) * e_s

        def look(u: Place, helper: Tensor) -> Generator[Visit, Tensor, Tensor]:
            return path.convert((yield Visit(u.t, helper, running, inner=True)), helper, u.t, "x0", "eps")

        def second(q: Tensor) -> Tensor:  # (e^q - 1) / q - 1; 0 for a sample that waits
            return torch.where(q > 0, torch.expm1(q) / q - 1, 0.0)

        a, end = place(path, path.time(start + r1 * h)), first(t, 1.0)
        change = (yield from look(a, first(a, r1))) - e_s
        low = end - per_sample(t.sigma * torch.expm1(h) / (2 * r1), x) * change
        if r2 is None:
            return end, low
        b = place(path, path.time(start + r2 * h))
        helper = first(b, r2) - per_sample(b.sigma * (r2 / r1) * second(r2 * h), x) * change
        return low, end - per_sample(t.sigma / r2 * second(h), x) * ((yield from look(b, helper)) - e_s)

    return attempt


def heun_pair(kind: str) -> Callable[..., Attempt]:
    """Euler and the trapezoid (arXiv 2206.00364, algorithm 1), in t over the velocity or in rho over eps."""

    def attempt(path: Path, x: Tensor, slope: Tensor, s: Place, t: Place, running: Tensor) -> Attempt:
        scale = torch.ones_like(s.t) if kind == "flow" else t.alpha / s.alpha
        length = t.t - s.t if kind == "flow" else t.sigma - scale * s.sigma
        scale, length = per_sample(scale, x), per_sample(length, x)
        euler = scale * x + length * slope
        other = path.convert((yield Visit(t.t, euler, running, inner=True)), euler, t.t, "x0", kind)
        return euler, scale * x + length * (slope + other) / 2

    return attempt


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (yes.dim() - 1)).to(yes.device), yes, no)
