"""Solvers of the probability-flow ODE and its stochastic relatives, as tables.

Notation: a step goes from s to t < s; h = log_snr(t) - log_snr(s); rho = sigma / alpha. A step that ends on clean data
(sigma = 0) is x = x0 estimate for every solver.
"""

from __future__ import annotations

import itertools
import math

from workbench.errors import WorkbenchError, unknown
from workbench.paths import Path
from workbench.samplers.plan import Row, Stage

SAVE_X = Row(x=1.0)


def jump(path: Path, s: float, t: float) -> Row:
    """The deterministic DDIM row from s to t on an x0 output (arXiv 2010.02502, eq. 12 with eta = 0)."""
    return jump_with_noise(path, s, t, 0.0)


def jump_with_noise(path: Path, s: float, t: float, noise: float) -> Row:
    """x_t = alpha_t x0 + sqrt(sigma_t^2 - noise^2) eps + noise z, with eps read off x_s."""
    kept = math.sqrt(max(0.0, path.sigma(t) ** 2 - noise**2)) / path.sigma(s)
    return Row(x=kept, outputs=(path.alpha(t) - kept * path.alpha(s),), noise=noise)


def pairs(times: list[float]) -> list[tuple[float, float]]:
    """(s, t) of every step."""
    return list(itertools.pairwise(times))


def ddim(path: Path, times: list[float], eta: float = 0.0) -> list[Stage]:
    """DDIM (arXiv 2010.02502, eq. 12 and 16): order 1; eta = 0 is deterministic, eta = 1 is ancestral sampling."""
    if not 0 <= eta <= 1:
        raise WorkbenchError(f"eta is {eta}, but must lie between 0 (deterministic) and 1 (ancestral).")
    stages = []
    for s, t in pairs(times):
        shrink = path.sigma(t) * path.alpha(s) / (path.sigma(s) * path.alpha(t))  # e^-h
        noise = eta * path.sigma(t) * math.sqrt(max(0.0, 1 - shrink**2))
        stages.append(Stage(s, t, "x0", jump_with_noise(path, s, t, noise)))
    return stages


def euler(path: Path, times: list[float], variable: str | None = None) -> list[Stage]:
    """Euler on the probability-flow ODE: order 1.

    Args:
        variable: "t" integrates dx/dt (flow matching), "rho" integrates d(x / alpha)/d rho = eps (k-diffusion, EDM;
            the same as DDIM). By default "t" on smooth paths (linear, trig), "rho" elsewhere.
    """
    return [_euler_stage(path, s, t, _variable(path, variable)) for s, t in pairs(times)]


def heun(path: Path, times: list[float], variable: str | None = None) -> list[Stage]:
    """Heun's trapezoid (EDM, arXiv 2206.00364, algorithm 1 without churn): order 2, two evaluations a step, one in the last.

    Args:
        variable: as for `euler`.
    """
    form = _variable(path, variable)
    stages = []
    for s, t in pairs(times):
        first = _euler_stage(path, s, t, form)
        if first.kind == "x0":  # to clean data, or from pure noise in rho: no corrector exists
            stages.append(first)
            continue
        weight = first.x.outputs[0] / 2
        corrected = Row(base=first.x.x, outputs=(weight, weight))
        stages.append(Stage(s, t, first.kind, first.x, base=SAVE_X))
        stages.append(Stage(t, t, first.kind, corrected, inner=True))
    return stages


def dpmpp_2m(path: Path, times: list[float]) -> list[Stage]:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2, midpoint): order 2, one evaluation a step.

    First and last steps are of order 1, where there is no history or no finite log-SNR. The weights extrapolate in
    log-SNR: where its steps do not shrink with N (equal steps in t near t = 0, and near alpha = 0) the local errors are
    O(h^2 / k) at the k-th point from that end, so the error of such a grid is O(log N / N^2).
    """
    stages: list[Stage] = []
    previous = math.inf
    for s, t in pairs(times):
        row = jump(path, s, t)
        h = path.log_snr(t) - path.log_snr(s)
        if stages and math.isfinite(h):
            slope = 0.5 * h / previous
            row = row._replace(outputs=(row.outputs[0] * (1 + slope), -row.outputs[0] * slope))
        stages.append(Stage(s, t, "x0", row))
        previous = h
    return stages


def consistency(path: Path, times: list[float]) -> list[Stage]:
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1): jump to x0, add fresh noise for the next time."""
    return [Stage(s, t, "x0", Row(outputs=(path.alpha(t),), noise=path.sigma(t)), jump=0.0) for s, t in pairs(times)]


def flow_map(path: Path, times: list[float], gamma: float = 0.0) -> list[Stage]:
    """Chained flow-map jumps with gamma-sampling (CTM, arXiv 2310.02279, algorithm 3).

    Each step jumps from s to the time r with rho_r = sqrt(1 - gamma^2) rho_t, then adds noise up to t. gamma = 0 is
    deterministic, gamma = 1 is consistency sampling. A network with two times is asked for the jump s -> r; one with a
    single time takes the DDIM step there.
    """
    if not 0 <= gamma <= 1:
        raise WorkbenchError(f"gamma is {gamma}, but must lie between 0 (deterministic) and 1 (consistency sampling).")
    stages = []
    for s, t in pairs(times):
        if gamma == 0 or path.sigma(t) == 0:
            r, row = t, jump(path, s, t)
        else:
            log_snr = path.log_snr(t) - 0.5 * math.log1p(-(gamma**2)) if gamma < 1 else math.inf
            r = path.time(log_snr)
            straight, scale = jump(path, s, r), path.alpha(t) / path.alpha(r)
            noise = math.sqrt(max(0.0, path.sigma(t) ** 2 - (scale * path.sigma(r)) ** 2))
            row = Row(x=scale * straight.x, outputs=(scale * straight.outputs[0],), noise=noise)
        stages.append(Stage(s, t, "x0", row, jump=r))
    return stages


def _variable(path: Path, variable: str | None) -> str:
    if variable is None:
        return "t" if path.smooth else "rho"
    if variable not in ("t", "rho"):
        raise unknown("variable", variable, ("t", "rho"))
    return variable


def _euler_stage(path: Path, s: float, t: float, variable: str) -> Stage:
    if path.sigma(t) == 0 or (variable == "rho" and path.alpha(s) == 0):
        return Stage(s, t, "x0", jump(path, s, t))
    if variable == "t":
        return Stage(s, t, "flow", Row(x=1.0, outputs=(t - s,)))
    scale = path.alpha(t) / path.alpha(s)
    return Stage(s, t, "eps", Row(x=scale, outputs=(path.sigma(t) - scale * path.sigma(s),)))
