"""UniPC (arXiv 2302.04867): a multistep predictor, and a corrector that costs no evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.paths import Path
from workbench.samplers.dualfast import dualfast_stages
from workbench.samplers.multistep import reach
from workbench.samplers.plan import Row, Stage
from workbench.samplers.points import Point, check_choice, check_order, points, polynomial_weights


def unipc(
    path: Path,
    times: list[float],
    order: int | None = None,
    corrector: bool = True,
    variant: str = "bh2",
    kind: str = "x0",
    lower_order_final: bool = False,
    dualfast: float = 0.0,
) -> list[Stage]:
    """UniP of order p with the corrector UniC: after each evaluation the finished step is redone with the new output as one more node.

    Order p + 1 with exact first outputs, p without the corrector. The stage's base state is the corrected state; the
    table's row corrects and predicts at once.

    Args:
        order: p, 1 to 3, 2 by default. corrector: whether UniC runs. variant: "bh1" (B(h) = h) or "bh2" (B(h) = e^h - 1); they differ only
            where the paper fixes a coefficient to 1/2: in UniP-2 and in UniC-1.
        kind: what is interpolated: "x0", or "eps" (which needs a start before pure noise).
        lower_order_final: fall to order 1 in the last steps, as diffusers always does. dualfast: as for `ab`.
    Source: arXiv 2302.04867, algorithms 5-8 and appendix E.
    """
    order = check_order("unipc", order, 3, len(times) - 1, 2)
    check_choice("variant", variant, ("bh1", "bh2"))
    check_choice("kind", kind, ("x0", "eps"))
    grid = points(path, times)
    if kind == "eps" and grid[0].alpha == 0:
        raise WorkbenchError(
            f"unipc on eps cannot start at pure noise, where eps says nothing: take kind='x0', or begin at t_start < 1 on {path.name!r}."
        )
    orders = reach(grid, order, lower_order_final)
    predict = [_predictor(grid, i, p, kind, variant) for i, p in enumerate(orders)]
    correct = [_corrector(grid, i, p, kind, variant) if p and corrector else None for i, p in enumerate(orders)]
    for p in sorted(set(orders) - {0, 1}):  # whole polynomials: B(h) cancels
        chosen = [i for i, known in enumerate(orders) if known == p]
        if p > 2:
            _fill(predict, chosen, polynomial_weights(path, grid, chosen, p, "log_snr", kind))
        before = [i for i in chosen if i + 1 < len(orders)]
        if corrector and before:
            _fill(correct, before, polynomial_weights(path, grid, before, p + 1, "log_snr", kind, ahead=1))
    stages = []
    for i, (ahead, weights) in enumerate(predict):
        s, t = grid[i], grid[i + 1]
        if i and correct[i - 1]:
            scale, right = correct[i - 1]
            row = Row(0.0, ahead * scale, _sum([ahead * c for c in right], weights))
            stages.append(Stage(s.t, t.t, kind, row, base=Row(0.0, scale, tuple(right))))
        else:
            stages.append(Stage(s.t, t.t, kind, Row(ahead, 0.0, tuple(weights)), base=Row(x=1.0)))
    return dualfast_stages(stages, dualfast)


def _sum(a: Sequence[float], b: Sequence[float]) -> tuple[float, ...]:
    size = max(len(a), len(b))
    return tuple((a[k] if k < len(a) else 0.0) + (b[k] if k < len(b) else 0.0) for k in range(size))


def _scales(s: Point, t: Point, kind: str) -> tuple[float, float, float]:
    """Coefficient of the state, weight of the newest output (order 1), and h."""
    h = t.log_snr - s.log_snr
    if kind == "x0":
        kept = t.sigma / s.sigma
        return kept, t.alpha - kept * s.alpha, h
    kept = t.alpha / s.alpha
    return kept, t.sigma - kept * s.sigma, h


def _half(t: Point, h: float, kind: str, variant: str) -> float:
    """Half of B(h) with its factor: what multiplies (m - m_s) / r where the paper fixes its coefficient to 1/2."""
    signed = -h if kind == "x0" else h
    b = signed if variant == "bh1" else math.expm1(signed)
    return -(t.alpha if kind == "x0" else t.sigma) * b / 2


def _fill(rows: list, chosen: Sequence[int], weights: Tensor) -> None:
    """Put these weights, (len(chosen), ...), behind the state's coefficient."""
    for i, found in zip(chosen, weights.tolist(), strict=True):
        rows[i] = (rows[i][0], found)


def _predictor(grid: Sequence[Point], i: int, order: int, kind: str, variant: str) -> tuple[float, list[float]]:
    """Step i -> i + 1: coefficient of the state, weights of m_i, m_(i-1), ...; to order 2."""
    s, t = grid[i], grid[i + 1]
    if kind == "eps" and t.sigma == 0:  # x0 of the state, read off eps
        return t.alpha / s.alpha, [-t.alpha * s.sigma / s.alpha]
    kept, newest, h = _scales(s, t, kind)
    if order < 2:
        return kept, [newest]
    share = _half(t, h, kind, variant) / ((grid[i - 1].log_snr - s.log_snr) / h)
    return kept, [newest - share, share]


def _corrector(grid: Sequence[Point], i: int, order: int, kind: str, variant: str) -> tuple[float, list[float]]:
    """Step i -> i + 1 again with the output at i + 1: weights of m_(i+1), m_i, m_(i-1), ...; to order 1."""
    kept, newest, h = _scales(grid[i], grid[i + 1], kind)
    share = _half(grid[i + 1], h, kind, variant)
    return kept, [share, newest - share]
