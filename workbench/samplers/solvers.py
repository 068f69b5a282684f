"""Solvers of order 1 and 2 that look at one step only: DDIM, Euler, Heun (with EDM's churn), and flow maps.

Notation: a step goes from s to t < s; h = log_snr(t) - log_snr(s); rho = sigma / alpha. A step that ends on clean data
(sigma = 0) is x = x0 estimate for every solver.
"""

from __future__ import annotations

import math

from workbench.errors import WorkbenchError, unknown
from workbench.paths import Path
from workbench.samplers.plan import Row, Stage
from workbench.samplers.points import Point, at_log_snr, check_range, jump, points, renoised, steps_of

SAVE_X = Row(x=1.0)


def ddim(path: Path, times: list[float], eta: float = 0.0, reuse_noise: bool = False) -> list[Stage]:
    """DDIM (arXiv 2010.02502, eq. 12 and 16): order 1; eta = 0 is deterministic, eta = 1 is ancestral sampling.

    Args:
        reuse_noise: each x0 estimate is mixed with the noise that the run began with, in place of the predicted noise: RF++'s
            update for a straightened flow (arXiv 2405.20320). It is no solver of an ODE: more steps need not be better.
    """
    if not 0 <= eta <= 1:
        raise WorkbenchError(f"eta is {eta}, but must lie between 0 (deterministic) and 1 (ancestral).")
    if reuse_noise and eta:
        raise WorkbenchError(f"eta is {eta}, and adds fresh noise, but reuse_noise keeps the first: leave one of them out.")
    stages, steps = [], steps_of(path, times)
    if reuse_noise:
        return [Stage(s.t, t.t, "x0", Row(0.0, t.sigma / steps[0][0].sigma, (t.alpha,))) for s, t in steps]
    for s, t in steps:
        shrink = (t.sigma / s.sigma) * (s.alpha / t.alpha)  # e^-h
        stages.append(Stage(s.t, t.t, "x0", jump(s, t, eta * t.sigma * math.sqrt(max(0.0, 1 - shrink**2)))))
    return stages


def euler(
    path: Path,
    times: list[float],
    variable: str | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> list[Stage]:
    """Euler on the probability-flow ODE: order 1.

    Args:
        variable: "t" integrates dx/dt (flow matching), "rho" integrates d(x / alpha)/d rho = eps (k-diffusion, EDM;
            the same as DDIM). By default "t" on smooth paths (linear, trig), "rho" elsewhere.
        s_churn, s_tmin, s_tmax, s_noise: as for `heun`.
    """
    form, churn = form_of(path, variable), _churn(s_churn, s_tmin, s_tmax, s_noise)
    return _churned(path, times, churn, lambda s, t: [_euler_stage(s, t, form)])


def heun(
    path: Path,
    times: list[float],
    variable: str | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> list[Stage]:
    """Heun's trapezoid (EDM, arXiv 2206.00364, algorithms 1 and 2): order 2, two evaluations a step, one in the last.

    Args:
        variable: as for `euler`.
        s_churn: with s_churn > 0 every step first adds noise, up to rho (1 + min(s_churn / steps, sqrt(2) - 1)), and evaluates there
            (some released schedulers add it after the evaluation, which is not this). The first step, at pure noise, adds none.
        s_tmin, s_tmax: range of rho where it does. s_noise: factor of that noise; 1 is exact.
    """
    form, churn = form_of(path, variable), _churn(s_churn, s_tmin, s_tmax, s_noise)
    return _churned(path, times, churn, lambda s, t: heun_step(s, t, form))


def heun_step(s: Point, t: Point, form: str) -> list[Stage]:
    """Both stages of one step, or the one of order 1 where no corrector exists: to clean data, or from pure noise in rho."""
    first = _euler_stage(s, t, form)
    if first.kind == "x0":
        return [first]
    weight = first.x.outputs[0] / 2
    corrected = Row(base=first.x.x, outputs=(weight, weight))
    return [Stage(s.t, t.t, first.kind, first.x, base=SAVE_X), Stage(t.t, t.t, first.kind, corrected, inner=True)]


def flow_map(path: Path, times: list[float], gamma: float = 0.0) -> list[Stage]:
    """Chained flow-map jumps with gamma-sampling (CTM, arXiv 2310.02279, algorithm 3).

    Each step jumps from s to the time r with rho_r = sqrt(1 - gamma^2) rho_t, then adds noise up to t. gamma = 0 is
    deterministic, gamma = 1 is consistency sampling. A network with two times is asked for the jump s -> r; one with a
    single time takes the DDIM step there.
    """
    if not 0 <= gamma <= 1:
        raise WorkbenchError(f"gamma is {gamma}, but must lie between 0 (deterministic) and 1 (consistency sampling).")
    steps = steps_of(path, times)
    if gamma == 0:
        return [Stage(s.t, t.t, "x0", jump(s, t), jump=t.t) for s, t in steps]
    shift = -0.5 * math.log1p(-(gamma**2)) if gamma < 1 else math.inf
    lower = at_log_snr(path, [t.log_snr + shift for _, t in steps])
    stages = []
    for (s, t), r in zip(steps, lower, strict=True):
        stage = Stage(s.t, r.t, "x0", jump(s, r), jump=r.t)
        stages.append(stage if t.sigma == 0 else renoised(stage, r, t))
    return stages


def form_of(path: Path, variable: str | None) -> str:
    """What Euler and Heun integrate in: "t" or "rho"."""
    if variable is None:
        return "t" if path.smooth else "rho"
    if variable not in ("t", "rho"):
        raise unknown("variable", variable, ("t", "rho"))
    return variable


def _euler_stage(s: Point, t: Point, variable: str) -> Stage:
    if t.sigma == 0 or (variable == "rho" and s.alpha == 0):
        return Stage(s.t, t.t, "x0", jump(s, t))
    if variable == "t":
        return Stage(s.t, t.t, "flow", Row(x=1.0, outputs=(t.t - s.t,)))
    scale = t.alpha / s.alpha
    return Stage(s.t, t.t, "eps", Row(x=scale, outputs=(t.sigma - scale * s.sigma,)))


def _churn(s_churn: float, s_tmin: float, s_tmax: float, s_noise: float) -> tuple[float, float, float, float]:
    check_range("s_churn", s_churn, 0, 1e6, "0 is deterministic")
    check_range("s_noise", s_noise, 0, 2, "a factor of the added noise; 1 is exact")
    if not 0 <= s_tmin < s_tmax:
        raise WorkbenchError(f"s_tmin = {s_tmin} and s_tmax = {s_tmax} must satisfy 0 <= s_tmin < s_tmax: a range of rho.")
    return s_churn, s_tmin, s_tmax, s_noise


def _churned(path: Path, times: list[float], churn: tuple[float, float, float, float], step) -> list[Stage]:
    """The stages of every step, each step but the first after its churn, folded into the row before it."""
    s_churn, low, high, s_noise = churn
    grid = points(path, times)
    stages: list[Stage] = []
    gamma = min(s_churn / (len(grid) - 1), math.sqrt(2) - 1)
    for i in range(len(grid) - 1):
        s = grid[i]
        if gamma and i and s.alpha and low <= s.rho <= high:
            up = at_log_snr(path, [s.log_snr - math.log1p(gamma)])[0]
            if up.t < 1:
                stages[-1], s = renoised(stages[-1], s, up, s_noise), up
        stages += step(s, grid[i + 1])
    return stages
