"""Stochastic solvers: the reverse SDE, ancestral steps, fresh noise between jumps, and restarts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from workbench.errors import WorkbenchError
from workbench.paths import Path
from workbench.samplers.dualfast import dualfast_stages
from workbench.samplers.multistep import data_weights, reach
from workbench.samplers.plan import Row, Stage
from workbench.samplers.points import Point, at_log_snr, check_choice, check_range, jump, points, renoised, steps_of
from workbench.samplers.solvers import form_of, heun_step


def ddpm(path: Path, times: list[float], variance: str = "small", data_std: float = 1.0) -> list[Stage]:
    """DDPM ancestral sampling (arXiv 2006.11239, eq. 6-7): the Gaussian posterior q(x_t | x_s, x0) at the x0 estimate; order 1 in law.

    Args:
        variance: "small" is that posterior's own (the same as DDIM with eta = 1), right for data at one point; "large" is the paper's
            beta, right for Gaussian data of standard deviation 1; "gaussian" is exact for Gaussian data of standard
            deviation `data_std` on any grid, the noise of its last step included.
        data_std: for "gaussian", in data units.
    """
    check_choice("variance", variance, ("small", "large", "gaussian"))
    check_range("data_std", data_std, 0, 1e6, "the data's own standard deviation")
    std = data_std if variance == "gaussian" else 1.0
    stages = []
    for s, t in steps_of(path, times):
        shrink = (t.sigma / s.sigma) * (s.alpha / t.alpha)  # e^-h
        w = t.sigma**2 * (1 - shrink**2)
        if variance != "small" and (t.sigma > 0 or variance == "gaussian"):
            v_s, v_t = ((p.alpha * std) ** 2 + p.sigma**2 for p in (s, t))
            w = max(0.0, v_t - (s.alpha / t.alpha * v_t) ** 2 / v_s)
        row = Row(t.sigma / s.sigma * shrink, 0.0, (t.alpha * (1 - shrink**2),), math.sqrt(w))
        stages.append(Stage(s.t, t.t, "x0", row))
    return stages


def euler_ancestral(path: Path, times: list[float], eta: float = 1.0) -> list[Stage]:
    """Euler in rho to a lower noise level, then fresh noise up to the step's own (k-diffusion `sample_euler_ancestral`).

    Euler in rho is the DDIM jump, so this is DDIM with the same eta, and at eta = 1 DDPM with the small variance.

    Args:
        eta: 0 (deterministic) to 1 (ancestral).
    """
    check_range("eta", eta, 0, 1, "deterministic to ancestral")
    stages = []
    for s, t in steps_of(path, times):
        shrink = (t.sigma / s.sigma) * (s.alpha / t.alpha)
        stages.append(Stage(s.t, t.t, "x0", jump(s, t, eta * t.sigma * math.sqrt(max(0.0, 1 - shrink**2)))))
    return stages


def dpmpp_2m_sde(
    path: Path, times: list[float], eta: float = 1.0, solver_type: str = "midpoint", dualfast: float = 0.0
) -> list[Stage]:
    """SDE-DPM-Solver++(2M): the reverse SDE in log-SNR, its x0 estimate a line through two outputs; drift of order 2.

    Args:
        eta: 0 is DPM-Solver++(2M), 1 the reverse SDE itself; with one output, eta = 1 is DDPM. solver_type: "midpoint" or "heun".
        dualfast: as for `ab`.
    Source: arXiv 2211.01095, section 3.4 and algorithm 4; k-diffusion `sample_dpmpp_2m_sde`.
    """
    return dualfast_stages(_sde(path, times, 2, eta, solver_type, "full"), dualfast)


def dpmpp_3m_sde(
    path: Path,
    times: list[float],
    eta: float = 1.0,
    second_diff: str = "full",
    solver_type: str = "midpoint",
    dualfast: float = 0.0,
) -> list[Stage]:
    """SDE-DPM-Solver++(3M): as `dpmpp_2m_sde` with a parabola through three outputs; drift of order 3.

    Args:
        eta: 0 is DPM-Solver++(3M), 1 the reverse SDE. second_diff: "full", or "half" as k-diffusion has it (drift of order 2).
        solver_type: of the second step. dualfast: as for `ab`.
    Source: k-diffusion `sample_dpmpp_3m_sde`; diffusers' third order has the second difference with the wrong sign, which is not offered.
    """
    return dualfast_stages(_sde(path, times, 3, eta, solver_type, second_diff), dualfast)


def _sde(path: Path, times: list[float], order: int, eta: float, solver_type: str, second_diff: str) -> list[Stage]:
    """x_t = sigma_t / sigma_s e^(-eta h) x_s + alpha_t [K_0 D + ...] + sigma_t sqrt(1 - e^(-2 eta h)) z."""
    check_range("eta", eta, 0, 10, "0 is the ODE, 1 the reverse SDE")
    grid = points(path, times)
    weights = data_weights(grid, reach(grid, min(order, len(times) - 1)), solver_type, second_diff, 1 + eta)
    stages = []
    for i, w in enumerate(weights):
        s, t = grid[i], grid[i + 1]
        if w is None and (t.sigma == 0 or eta == 0):
            row = jump(s, t)
        elif w is None:  # from pure noise: h is infinite, and only x0 and fresh noise are left
            row = Row(outputs=(t.alpha,), noise=t.sigma)
        else:
            h = t.log_snr - s.log_snr
            noise = t.sigma * math.sqrt(-math.expm1(-2 * eta * h))
            row = Row(t.sigma / s.sigma * math.exp(-eta * h), 0.0, tuple(w), noise)
        stages.append(Stage(s.t, t.t, "x0", row))
    return stages


def consistency(path: Path, times: list[float]) -> list[Stage]:
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1): jump to x0, add fresh noise for the next time."""
    return [Stage(s.t, t.t, "x0", Row(outputs=(t.alpha,), noise=t.sigma), jump=0.0) for s, t in steps_of(path, times)]


def lcm(path: Path, times: list[float], sigma_data: float = 0.5, timestep_scaling: float = 10.0) -> list[Stage]:
    """LCM few-step sampling (arXiv 2310.04378, eq. 9): as `consistency`, with the boundary condition applied to the x0 estimate.

    f = c_skip x + c_out x0 with c_skip = sigma_data^2 / (tau^2 + sigma_data^2), c_out = tau / sqrt(tau^2 + sigma_data^2), tau the timestep
    times `timestep_scaling`; far from the data c_skip is below 1e-6 and this is `consistency`.

    Args:
        sigma_data: of the boundary condition. timestep_scaling: larger keeps x0 longer; both as the network was trained.
    """
    check_range("sigma_data", sigma_data, 0, 100, "the data's standard deviation in the boundary condition")
    check_range("timestep_scaling", timestep_scaling, 1e-6, 1e6, "the network's own")
    count, stages = path.timesteps or 1000, []
    for s, t in steps_of(path, times):
        tau = timestep_scaling * (s.t * count - 1 if path.timesteps else s.t * count)
        skip, out = sigma_data**2 / (tau**2 + sigma_data**2), tau / math.sqrt(tau**2 + sigma_data**2)
        stages.append(Stage(s.t, t.t, "x0", Row(t.alpha * skip, 0.0, (t.alpha * out,), t.sigma), jump=0.0))
    return stages


def restart(
    path: Path,
    times: list[float],
    windows: Sequence[Sequence[Any]] | None = None,
    s_noise: float = 1.0,
    variable: str | None = None,
) -> list[Stage]:
    """Restart sampling (arXiv 2306.14878, algorithm 1): Heun, and windows of noise levels run again from fresh noise.

    Where the main grid comes nearest to rho_min, noise takes the state back up to rho_max, and Heun solves the window again, `times` times:
    each round contracts what error the state had brought along.

    Args:
        windows: None for one round over the middle third of the plan's own points; else (points, times, rho_min, rho_max) each; `points` Karras points a round, both ends counted, 2 or more; rho = sigma / alpha.
        s_noise: factor of the fresh noise, 1 to 1.01. variable: as for `heun`.

    Raises:
        WorkbenchError: for a window that is not one, or lies outside the grid.
    """
    check_range("s_noise", s_noise, 0, 2, "a factor of the fresh noise; 1 is exact")
    form, grid = form_of(path, variable), points(path, times)
    asked: dict[int, list[tuple[int, int, Any]]] = {}
    for window in _middle(grid) if windows is None else windows:
        count, rounds, low, high = _window(window)
        inside = [i for i in range(1, len(grid)) if grid[i].sigma > 0]
        if not inside or not grid[inside[-1]].rho <= low * 1.5 or high > grid[0].rho:
            raise WorkbenchError(
                f"the restart window from rho {low:g} to {high:g} lies outside the plan's points "
                f"(rho {grid[0].rho:.3g} down to {grid[inside[-1]].rho if inside else 0:.3g}): take more steps, or another window."
            )
        near = min(inside, key=lambda i: abs(grid[i].rho - low))
        if not grid[near].rho < high:
            raise WorkbenchError(f"the plan has no point below rho {high:g} near {low:g}: take more steps, or a wider window.")
        asked.setdefault(near, []).append((count, rounds, high))
    stages: list[Stage] = []
    for i in range(len(grid) - 1):
        stages += heun_step(grid[i], grid[i + 1], form)
        for count, rounds, high in asked.get(i + 1, []):
            here = grid[i + 1]
            root = torch.linspace(high ** (1 / 7), here.rho ** (1 / 7), count, dtype=torch.float64) ** 7
            inner = at_log_snr(path, (-root.log()).tolist())
            inner[-1] = here
            for _ in range(rounds):
                stages[-1] = renoised(stages[-1], here, inner[0], s_noise)
                stages += [stage for s, t in itertools.pairwise(inner) for stage in heun_step(s, t, form)]
    return stages


def _middle(grid: Sequence[Point]) -> list[tuple[int, int, float, float]]:
    """One round over the middle third of a plan's regular points; none if there are fewer than four."""
    regular = [p for p in grid if p.alpha > 0 and p.sigma > 0]
    if len(regular) < 4:
        return []
    high, low = len(regular) // 3, (2 * len(regular)) // 3
    return [(low - high + 1, 1, regular[low].rho, regular[high].rho)]


def _window(window: Sequence[Any]) -> tuple[int, int, float, float]:
    try:
        count, rounds, low, high = window
        if int(count) == count >= 2 and int(rounds) == rounds >= 0 and 0 < low < high < math.inf:
            return int(count), int(rounds), float(low), float(high)
    except (TypeError, ValueError):
        pass
    raise WorkbenchError(
        f"a restart window is (points, times, rho_min, rho_max) with points 2 or more and 0 < rho_min < rho_max, not {window!r}."
    )
