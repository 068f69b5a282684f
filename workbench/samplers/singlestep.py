"""Singlestep solvers of higher order: two or three evaluations a step and no history.

A step from pure noise or to clean data has no finite length in log-SNR and is x0 alone: one evaluation, order 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from workbench.paths import Path
from workbench.samplers.plan import Row, Stage
from workbench.samplers.points import Point, at_log_snr, check_range, jump, singular, steps_of

SAVE_X = Row(x=1.0)


def dpm_1(path: Path, times: list[float]) -> list[Stage]:
    """DPM-Solver-1 (arXiv 2206.00927, eq. 3.7): order 1, and the same as DDIM."""
    return [Stage(s.t, t.t, "x0", jump(s, t)) for s, t in steps_of(path, times)]


def between(path: Path, steps: Sequence[tuple[Point, Point]], r: float) -> list[Point]:
    """The points at log_snr_s + r h of every regular step (of a singular one: its start)."""
    return at_log_snr(path, [s.log_snr if singular(s, t) else s.log_snr + r * (t.log_snr - s.log_snr) for s, t in steps])


def dpm_2(path: Path, times: list[float], r: float = 0.5) -> list[Stage]:
    """DPM-Solver-2 (arXiv 2206.00927, algorithm 1 and its general form, algorithm 4): order 2, two evaluations a step, on eps.

    Args:
        r: where the second evaluation is, as a part of the step in log-SNR; 0 < r <= 1.
    """
    return _two_stages(path, times, r, "eps")


def _two_stages(path: Path, times: list[float], r: float, kind: str) -> list[Stage]:
    """A helper point at log_snr_s + r h, and a step through both outputs: on eps the state keeps its signal, on x0 its noise."""
    check_range("r", r, 0.01, 1.0, "the place of the second evaluation in the step")
    eps = kind == "eps"
    steps, stages = steps_of(path, times), []
    for (s, t), m in zip(steps, between(path, steps, r), strict=True):
        if singular(s, t):
            stages.append(Stage(s.t, t.t, "x0", jump(s, t)))
            continue
        h = (t.log_snr - s.log_snr) * (1 if eps else -1)
        kept = [p.alpha / s.alpha if eps else p.sigma / s.sigma for p in (m, t)]
        helper, weight = (-(p.sigma if eps else p.alpha) * math.expm1(part * h) for p, part in ((m, r), (t, 1.0)))
        stages.append(Stage(s.t, m.t, kind, Row(kept[0], 0.0, (helper,)), base=SAVE_X))
        second = (weight / (2 * r), weight * (1 - 1 / (2 * r)))
        stages.append(Stage(m.t, t.t, kind, Row(0.0, kept[1], second), inner=True))
    return stages


def dpm_3(path: Path, times: list[float], r1: float = 1 / 3) -> list[Stage]:
    """DPM-Solver-3 (arXiv 2206.00927, algorithm 2): order 3, three evaluations a step, on eps.

    The third evaluation is at 2/3 of the step: only there does the second one, which has an error of O(h^2), drop out of
    the last row; at any other place the order is 2.

    Args:
        r1: where the second evaluation is, as a part of the step in log-SNR.
    """
    check_range("r1", r1, 0.01, 0.66, "the place of the second evaluation, before 2/3")
    r2 = 2 / 3
    steps, stages = steps_of(path, times), []
    first, second = between(path, steps, r1), between(path, steps, r2)
    for (s, t), a, b in zip(steps, first, second, strict=True):
        if singular(s, t):
            stages.append(Stage(s.t, t.t, "x0", jump(s, t)))
            continue
        h = t.log_snr - s.log_snr
        stages.append(Stage(s.t, a.t, "eps", Row(a.alpha / s.alpha, 0.0, (-a.sigma * math.expm1(r1 * h),)), base=SAVE_X))
        slope = -b.sigma * (r2 / r1) * growth(r2 * h)
        row = Row(0.0, b.alpha / s.alpha, (slope, -b.sigma * math.expm1(r2 * h) - slope))
        stages.append(Stage(a.t, b.t, "eps", row, inner=True))
        slope = -t.sigma / r2 * growth(h)
        last = Row(0.0, t.alpha / s.alpha, (slope, 0.0, -t.sigma * math.expm1(h) - slope))
        stages.append(Stage(b.t, t.t, "eps", last, inner=True))
    return stages


def dpmpp_2s(path: Path, times: list[float], r: float = 0.5) -> list[Stage]:
    """DPM-Solver++(2S) (arXiv 2211.01095, algorithm 1): order 2, two evaluations a step, on x0.

    Args:
        r: where the second evaluation is, as a part of the step in log-SNR; 0 < r <= 1.
    """
    return _two_stages(path, times, r, "x0")


def growth(h: float) -> float:
    """(e^h - 1) / h - 1, by its series for small h, where it cancels."""
    if h >= 0.5:
        return math.expm1(h) / h - 1
    total, term = 0.0, 1.0
    for m in range(1, 25):
        term *= h / (m + 1)  # h^m / (m + 1)!
        total += term
    return total
