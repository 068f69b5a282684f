"""Momentum solvers: Adams-Bashforth on a low-passed eps, for a larger stability region (arXiv 2307.11118).

The velocity v is the plan's base state: v_i = (1 - beta) v_(i-1) + beta e_i, v_0 = e_0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from workbench.paths import Path
from workbench.samplers.dualfast import dualfast_stages
from workbench.samplers.multistep import ADAMS, Weights, stages_of
from workbench.samplers.plan import Row, Stage
from workbench.samplers.points import Point, check_order, check_range, jump, points

NEAR_ONE = 0.95  # above it the velocities die out within a few outputs, and reading old ones back from v would amplify rounding


def ghvb_weights(order: int, beta: float) -> tuple[float, ...]:
    """Weights of the velocities v_i, v_(i-1), ... in e' (arXiv 2307.11118, appendix; divided by beta); beta = 1 is Adams-Bashforth."""
    b = beta
    known = {
        1: (b,),
        2: ((2 + b) / 2, -(2 - b) / 2),
        3: ((18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12),
        4: ((46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24),
    }
    return tuple(c / b for c in known[order])


def ghvb(path: Path, times: list[float], order: int | None = None, beta: float = 0.8, dualfast: float = 0.0) -> list[Stage]:
    """Generalised Heavy-Ball momentum on Adams-Bashforth (GHVB of arXiv 2307.11118): order 1, else 2 as `ipndm`.

    Args:
        order: 1 to 4, 2 by default; the paper's "GHVB 1.8" is order 2 with beta 0.8. beta: damping in (0, 1]; 1 is `ipndm`.
        dualfast: as for `ab`.
    """
    order = check_order("ghvb", order, 4, len(times) - 1, 2)
    check_range("beta", beta, 0.01, 1, "small damps more, 1 is no momentum")
    grid = points(path, times)
    if beta > NEAR_ONE:
        return stages_of(grid, _unrolled(grid, order, beta), "eps", dualfast)
    rows = []
    for i in range(len(grid) - 1):
        c = ghvb_weights(min(order, i + 1), beta)
        # v_i and v_(i-k) as (coefficient of the base v_(i-1), coefficients of e_i, e_(i-1), ...)
        base, outputs = c[0] * (1 - beta), [c[0] * beta]
        older, shares = 1.0, []  # v_(i-1) = base; v_(i-k-1) = (v_(i-k) - beta e_(i-k)) / (1 - beta)
        for k in range(1, len(c)):
            if k > 1:
                older, shares = older / (1 - beta), [*(s / (1 - beta) for s in shares), -beta / (1 - beta)]
            base += c[k] * older
            for j, share in enumerate(shares, start=1):
                outputs += [0.0] * (j + 1 - len(outputs))
                outputs[j] += c[k] * share
        rows.append((base, outputs) if i else (0.0, [1.0]))
    return dualfast_stages(_stages(grid, rows, lambda i: (1 - beta, [beta])), dualfast)


def hb(path: Path, times: list[float], order: int | None = None, beta: float = 0.8, dualfast: float = 0.0) -> list[Stage]:
    """Heavy-Ball momentum on Adams-Bashforth (HB of arXiv 2307.11118): v = (1 - beta) v + beta AB(e), e' = v; order 1 for beta < 1.

    Args:
        order: of the Adams-Bashforth combination, 1 to 4, 2 by default. beta: damping in (0, 1]; 1 is `ipndm`.
        dualfast: as for `ab`.
    """
    order = check_order("hb", order, 4, len(times) - 1, 2)
    check_range("beta", beta, 0.01, 1, "small damps more, 1 is no momentum")
    grid = points(path, times)
    noisy = grid[0].alpha == 0

    def velocity(i: int) -> tuple[float, list[float]]:
        # at pure noise the first output is no eps: its velocity is in the base, and the history begins one later
        return 1 - beta, [beta * c for c in ADAMS[min(order, i + 1 - noisy)]]

    rows = [velocity(i) if i else (0.0, [1.0]) for i in range(len(grid) - 1)]
    return dualfast_stages(_stages(grid, rows, velocity), dualfast)


def _stages(grid: Sequence[Point], rows: Sequence[tuple[float, list[float]]], velocity) -> list[Stage]:
    """Rows x_t = alpha_t / alpha_s x_s + alpha_t (rho_t - rho_s) e' with e' over (base, outputs), and the base's own update."""
    stages = []
    for i, (base, outputs) in enumerate(rows):
        s, t = grid[i], grid[i + 1]
        if i:
            kept = velocity(i)
            update = Row(0.0, kept[0], tuple(kept[1]))
        else:
            update = Row(outputs=(1.0,)) if s.alpha else Row(x=1 / s.sigma)  # v_0 = e_0
        if s.alpha == 0 or t.sigma == 0:
            stages.append(Stage(s.t, t.t, "x0", jump(s, t), base=update if s.alpha == 0 else None))
            continue
        step = t.alpha * (t.rho - s.rho)
        row = Row(t.alpha / s.alpha, step * base, tuple(step * c for c in outputs))
        stages.append(Stage(s.t, t.t, "eps", row, base=update))
    return stages


def _unrolled(grid: Sequence[Point], order: int, beta: float) -> list[Weights]:
    """The same on outputs alone: v_i = beta sum_k (1 - beta)^k e_(i-k), whose terms soon vanish."""
    depth = 1 if beta == 1 else math.ceil(-38 / math.log(1 - beta))
    weights: list[Weights] = []
    for i in range(len(grid) - 1):
        s, t = grid[i], grid[i + 1]
        if s.alpha == 0 or t.sigma == 0:
            weights.append(None)
            continue
        step, w = t.alpha * (t.rho - s.rho), [0.0] * min(i + 1, depth + order)
        for k, c in enumerate(ghvb_weights(min(order, i + 1), beta)):
            for j in range(min(depth, i + 1 - k)):
                last = j == i - k  # v_0 is e_0 whole
                w[k + j] += step * c * (1 - beta) ** j * (1 if last else beta)
        weights.append(w)
    return weights
