"""Multistep solvers: one evaluation a step, and a short history of outputs.

All of them are one table: x_t = A x_s + sum_k B_k m_(i-k), on eps outputs (A = alpha_t / alpha_s) or on x0 outputs
(A = sigma_t / sigma_s); they differ in the weights B. A history is short at first, so the first steps are of lower order: a
method of order p > 2 shows its order p only if its first outputs come from somewhere better than such a start.
A step from pure noise or to clean data is x0 alone (order 1), whatever the solver.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from workbench.errors import WorkbenchError
from workbench.paths import Path
from workbench.samplers.dualfast import dualfast_stages
from workbench.samplers.plan import Row, Stage
from workbench.samplers.points import Point, check_choice, check_order, jump, points, polynomial_weights

ADAMS = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
Weights = Sequence[float] | None


def stages_of(grid: Sequence[Point], weights: Sequence[Weights], kind: str, dualfast: float = 0.0) -> list[Stage]:
    """The table of these weights, newest output first; None is the step of order 1 on the x0 estimate.

    Args:
        dualfast: see `dualfast_stages`.
    """
    noisy = grid[0].alpha == 0 and kind == "eps"  # its output is an x0 estimate; its eps is the first state itself
    stages = []
    for i, w in enumerate(weights):
        s, t = grid[i], grid[i + 1]
        if w is None:
            stages.append(Stage(s.t, t.t, "x0", jump(s, t)))
            continue
        a = t.alpha / s.alpha if kind == "eps" else t.sigma / s.sigma
        first = w[i] / grid[0].sigma if noisy and len(w) > i else 0.0
        stages.append(Stage(s.t, t.t, kind, Row(a, first, tuple(w[:i] if noisy else w))))
    return dualfast_stages(stages, dualfast)


def reach(grid: Sequence[Point], order: int, lower_order_final: bool = False, clean: bool = False) -> list[int]:
    """Order of every step: what the history allows; 0 for a `singular` step. A point of infinite log-SNR is no node.

    Args:
        lower_order_final: fall to order 1 in the last steps, as diffusers does below 15 steps. clean: a full last step to sigma = 0.
    """
    first, count = int(grid[0].alpha == 0), len(grid) - 1
    orders = []
    for i in range(count):
        known = min(order, i + 1 - first)
        known = min(known, count - i) if lower_order_final else known
        last = grid[i + 1].sigma == 0 and not clean
        orders.append(0 if last or known < 1 else known)
    return orders


def polynomial(path: Path, grid: Sequence[Point], orders: Sequence[int], variable: str, kind: str) -> list[Weights]:
    """`polynomial_weights` of every step at its own order."""
    weights: list[Weights] = [None] * len(orders)
    for order in sorted(set(orders) - {0}):
        chosen = [i for i, p in enumerate(orders) if p == order]
        for i, row in zip(chosen, polynomial_weights(path, grid, chosen, order, variable, kind).tolist(), strict=True):
            weights[i] = row
    return weights


def ab(path: Path, times: list[float], order: int | None = None, final: str = "x0", dualfast: float = 0.0) -> list[Stage]:
    """Adams-Bashforth on d(x / alpha) / d rho = eps with weights for the actual spacing (LMS, iPNDM_v, rhoAB): order 1 to 4.

    Args:
        order: points of the polynomial in rho; 3 by default. final: "x0" ends on the x0 estimate, "full" keeps the order in
            a last step to clean data (diffusers' LMSDiscreteScheduler).
        dualfast: -0.5 to 0.5, see `dualfast_stages`.
    Source: DEIS, arXiv 2204.13902, section 3.3 (rho-AB); k-diffusion `sample_lms`.
    """
    grid = points(path, times)
    order = check_order("ab", order, 4, len(times) - 1, 3)
    full = check_choice("final", final, ("x0", "full")) == "full"
    return stages_of(grid, polynomial(path, grid, reach(grid, order, clean=full), "rho", "eps"), "eps", dualfast)


def ipndm(path: Path, times: list[float], order: int | None = None, final: str = "x0", dualfast: float = 0.0) -> list[Stage]:
    """iPNDM: Adams-Bashforth weights of equal steps, whatever the steps (PNDM without its Runge-Kutta start).

    Order 1 for order=1, else 2: constant weights do not see that rho is not uniform; `ab` reaches its order.

    Args:
        order: 1 to 4, 4 by default. final, dualfast: as for `ab`.
    Source: arXiv 2202.09778, eq. 12; arXiv 2204.13902, section 4.
    """
    grid = points(path, times)
    order = check_order("ipndm", order, 4, len(times) - 1, 4)
    full = check_choice("final", final, ("x0", "full")) == "full"
    weights: list[Weights] = []
    for i in range(len(grid) - 1):
        s, t = grid[i], grid[i + 1]
        if s.alpha == 0 or (t.sigma == 0 and not full):
            weights.append(None)
            continue
        step = t.alpha * (t.rho - s.rho)
        weights.append([step * b for b in ADAMS[min(order, i + 1)]])
    return stages_of(grid, weights, "eps", dualfast)


def pndm(path: Path, times: list[float], start: str = "plms", dualfast: float = 0.0) -> list[Stage]:
    """PNDM: four Adams-Bashforth outputs in a DDIM transfer, after a start of its own: order 2.

    Args:
        start: "plms" evaluates the first step twice (diffusers' skip_prk_steps); "prk" begins with three pseudo Runge-Kutta steps
            of four evaluations.
        dualfast: as for `ab`.

    A step from pure noise, where eps says nothing, is x0 alone, and the start comes after it.

    Raises:
        WorkbenchError: with fewer than four regular steps for "prk".
    Source: arXiv 2202.09778, algorithm 2.
    """
    grid = points(path, times)
    prk = check_choice("start", start, ("plms", "prk")) == "prk"
    noisy = int(grid[0].alpha == 0)
    if prk and len(grid) - noisy < 5:
        raise WorkbenchError(
            f"pndm with start='prk' needs {4 + noisy} steps or more here, not {len(grid) - 1}: take start='plms'."
        )
    stages: list[Stage] = []
    seen: list[int] = []  # stages whose outputs the multistep rule looks at

    def transfer(here: Point, there: Point, found: dict[int, float], saved: bool, **more: Any) -> None:
        """A DDIM transfer of the state, or of the saved base, with e' a mixture of the outputs of these stages."""
        now, scale = len(stages), there.alpha / here.alpha
        weight = there.sigma - scale * here.sigma
        outputs = [0.0] * (now - min(found) + 1)
        for stage, c in found.items():
            outputs[now - stage] = weight * c
        row = Row(0.0 if saved else scale, scale if saved else 0.0, tuple(outputs))
        stages.append(Stage(kind="eps", x=row, **more))

    for i in range(len(grid) - 1):
        s, t, now = grid[i], grid[i + 1], len(stages)
        if s.alpha == 0 or t.sigma == 0:
            stages.append(Stage(s.t, t.t, "x0", jump(s, t)))
            continue
        if prk and i < 3 + noisy:
            middle = points(path, [(s.t + t.t) / 2])[0]
            seen.append(now)
            transfer(s, middle, {now: 1.0}, False, t=s.t, to=middle.t, base=Row(x=1.0))
            transfer(s, middle, {now + 1: 1.0}, True, t=middle.t, to=middle.t, inner=True)
            transfer(s, t, {now + 2: 1.0}, True, t=middle.t, to=t.t, inner=True)
            four = {now: 1 / 6, now + 1: 1 / 3, now + 2: 1 / 3, now + 3: 1 / 6}
            transfer(s, t, four, True, t=t.t, to=t.t, inner=True)
            continue
        seen.append(now)
        if i == noisy:
            transfer(s, t, {now: 1.0}, False, t=s.t, to=t.t, base=Row(x=1.0))
            transfer(s, t, {now: 0.5, now + 1: 0.5}, True, t=t.t, to=t.t, inner=True)
            continue
        newest = seen[:-5:-1]
        transfer(s, t, dict(zip(newest, ADAMS[len(newest)], strict=True)), False, t=s.t, to=t.t)
    return dualfast_stages(stages, dualfast)


def deis(
    path: Path,
    times: list[float],
    order: int | None = None,
    variable: str = "t",
    lower_order_final: bool = False,
    dualfast: float = 0.0,
) -> list[Stage]:
    """DEIS: the exact semilinear integral of a polynomial through past eps outputs: order 1 to 4.

    Args:
        order: points of the polynomial, 3 by default; tAB of degree order - 1 in the paper's names.
        variable: what it is a polynomial in: "t" (tAB; depends on how the path counts time), "rho" (the same as `ab`), or "log_snr"
            (log-rho; diffusers' DEISMultistepScheduler).
        lower_order_final: fall to order 1 in the last steps. dualfast: as for `ab`.
    Source: arXiv 2204.13902, eq. 15 and section 3.3.
    """
    grid = points(path, times)
    order = check_order("deis", order, 4, len(times) - 1, 3)
    check_choice("variable", variable, ("t", "rho", "log_snr"))
    orders = reach(grid, order, lower_order_final)
    if variable == "t" and grid[0].alpha == 0:  # t = 1 is a node like any other; its eps is the first state
        orders = [0 if p == 0 else min(order, i + 1) for i, p in enumerate(orders)]
    return stages_of(grid, polynomial(path, grid, orders, variable, "eps"), "eps", dualfast)


def dpmpp_2m(path: Path, times: list[float], solver_type: str = "midpoint", dualfast: float = 0.0) -> list[Stage]:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): order 2, one evaluation a step.

    First and last steps are of order 1, where there is no history or no finite log-SNR. The weights extrapolate in
    log-SNR: where its steps do not shrink with N (equal steps in t near t = 0, and near alpha = 0) the local errors are
    O(h^2 / k) at the k-th point from that end, so the error of such a grid is O(log N / N^2).

    Args:
        solver_type: "midpoint" (the paper's) or "heun" (the line through two outputs integrated exactly).
        dualfast: -0.5 to 0.5, see `dualfast_stages`.
    """
    grid = points(path, times)
    orders = reach(grid, min(2, len(times) - 1))
    return stages_of(grid, data_weights(grid, orders, solver_type), "x0", dualfast)


def dpmpp_3m(
    path: Path,
    times: list[float],
    second_diff: str = "full",
    solver_type: str = "midpoint",
    lower_order_final: bool = False,
    dualfast: float = 0.0,
) -> list[Stage]:
    """DPM-Solver++(3M): order 3 with the full second difference.

    Args:
        second_diff: "full" integrates the parabola through three outputs exactly; "half" gives its second difference half its weight, as
            the authors' code, diffusers and k-diffusion do, and is of order 2.
        solver_type: of the second step, as for `dpmpp_2m`. lower_order_final: fall to order 1 in the last steps. dualfast: as there.
    Source: arXiv 2211.01095, appendix B; k-diffusion `sample_dpmpp_3m_sde` without noise.
    """
    grid = points(path, times)
    orders = reach(grid, min(3, len(times) - 1), lower_order_final)
    return stages_of(grid, data_weights(grid, orders, solver_type, second_diff), "x0", dualfast)


def moments(h: float, rate: float = 1.0) -> tuple[float, float, float]:
    """K_0, K_1 / h, K_2 / h^2 with K_n = rate int_0^h e^(-rate (h - u)) u^n / n! du; by their series for small h, where they cancel."""
    z = rate * h
    zeroth = -math.expm1(-z)
    if z >= 0.5:
        first = 1 - zeroth / z
        return zeroth, first, 0.5 - first / z
    first = second = 0.0
    term = 1.0
    for m in range(1, 25):
        term *= -z / (m + 1)  # (-z)^m / (m + 1)!
        first -= term
        second -= term / (m + 2)
    return zeroth, first, second


def data_weights(
    grid: Sequence[Point], orders: Sequence[int], solver_type: str = "midpoint", second_diff: str = "full", rate: float = 1.0
) -> list[Weights]:
    """Weights on x0 outputs by differences in log-SNR, as DPM-Solver++ writes them.

    Args:
        rate: 1 for the ODE, 1 + eta for the SDE.
    """
    midpoint = check_choice("solver_type", solver_type, ("midpoint", "heun")) == "midpoint"
    curve = {"full": 2.0, "half": 1.0}[check_choice("second_diff", second_diff, ("full", "half"))]
    found: list[Weights] = []
    for i, order in enumerate(orders):
        if not order:
            found.append(None)
            continue
        t = grid[i + 1]
        h = t.log_snr - grid[i].log_snr
        k0, k1, k2 = moments(h, rate)
        if order == 1:
            w = [k0]
        else:
            r0 = (grid[i].log_snr - grid[i - 1].log_snr) / h
            slope = (k0 / 2 if midpoint and order == 2 else k1) / r0
            w = [k0 + slope, -slope]
        if order == 3:  # D1 = d0 + (d0 - d1) r0 / (r0 + r1), D2 = curve (d0 - d1) / (r0 + r1)
            r1 = (grid[i - 1].log_snr - grid[i - 2].log_snr) / h
            bend = (k1 * r0 + k2 * curve) / (r0 + r1)
            w = [w[0] + bend / r0, w[1] - bend / r0 - bend / r1, bend / r1]
        found.append([t.alpha * c for c in w])
    return found
