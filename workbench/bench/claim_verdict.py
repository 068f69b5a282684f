"""The verdict of a claim: what the figures of its arms say over the seeds, by `RULE`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.bench.describe import described
from workbench.errors import unknown

if TYPE_CHECKING:
    from workbench.bench.claims import Check, Claim

T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)  # one-sided 95 % points of Student's t, 1 to 9 degrees
SUPPORTED, REFUTED, UNDECIDED = "supported", "not supported", "undecided"
SHOWN = ("ratio", "frechet", "agreement", "steps", "step_ms", "balance", "off_mode")
RULE = (
    "For each seed the gap is the figure of the baseline, times the factor, minus that of the arm (the other way round for 'higher'); 'at "
    "most' and 'at least' put a constant in place of the baseline. With the mean of the gaps over the seeds and their standard error, the "
    "check is supported if mean - t error is above 0 (or at 0 where equality is enough), not supported if mean + t error is below 0, else "
    "undecided; t is the one-sided 95 % point of Student's t. The claim is supported if all its checks are, not supported if one is not, and "
    "undecided otherwise, or where an arm failed or did not come nearer to the law than noise, unless just that is claimed of it."
)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (of a sample) of some numbers; 0 for the latter of a single one."""
    mean = sum(values) / len(values)
    return mean, (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5


def judge(gaps: Sequence[float], strict: bool = True) -> str:
    """What the gaps of the seeds say, by `RULE`.

    >>> judge([1.0, 1.1, 0.9]), judge([-1.0, -1.1, -0.9]), judge([1.0, -1.0, 0.5]), judge([3.0])
    ('supported', 'not supported', 'undecided', 'undecided')
    """
    n = len(gaps)
    if n < 2:
        return UNDECIDED
    mean, deviation = spread(gaps)
    error = T95[min(n - 1, len(T95)) - 1] * deviation / n**0.5
    if mean - error > 0 or (not strict and mean - error == 0):
        return SUPPORTED
    return REFUTED if mean + error < 0 or (strict and mean + error == 0) else UNDECIDED


def decided(check: Check, rows: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """A check with its figures, over the seeds that both arms have."""
    mine = _figures(rows[check.arm], check.metric)
    theirs = (
        _figures(rows[check.other], check.other_metric or check.metric) if check.other else dict.fromkeys(mine, check.limit)
    )
    seeds = sorted(seed for seed in mine if seed in theirs)
    sign = 1 if check.want == "lower" else -1
    gaps = [sign * (check.factor * theirs[seed] - mine[seed]) for seed in seeds]
    found = {"says": check.says(), "verdict": judge(gaps, check.strict)}
    for what, values in (("arm", mine), ("other", theirs), ("gap", dict(zip(seeds, gaps, strict=True)))):
        if seeds:
            mean, deviation = spread([values[seed] for seed in seeds])
            found[what] = {"mean": _short(mean), "sd": _short(deviation), "n": len(seeds)}
    return found


def _figures(rows: dict[int, dict[str, Any]], metric: str) -> dict[int, float]:
    """Seed -> figure, of the rows that have it.

    Raises:
        UnknownName: for a figure that no row has although rows are there.
    """
    good = {seed: row["figures"] for seed, row in rows.items() if "figures" in row}
    if good and not any(metric in figures for figures in good.values()):
        raise unknown("figure", metric, {name for figures in good.values() for name in figures})
    return {seed: figures[metric] for seed, figures in good.items() if figures.get(metric) is not None}


def verdict(claim: Claim, rows: dict[str, dict[int, dict[str, Any]]], seconds: float | None = None) -> dict[str, Any]:
    """A claim with its checks, arms and verdict; `rows` holds arm -> seed -> row."""
    checks = [decided(check, rows) for check in claim.checks]
    doubts = [f"{name}: {why}" for name, held in rows.items() for why in _doubts(held, name in claim.breaks)]
    said = {check["verdict"] for check in checks}
    outcome = SUPPORTED if said == {SUPPORTED} else REFUTED if REFUTED in said else UNDECIDED
    found: dict[str, Any] = {
        "claim": claim.name, "paper": claim.paper, "sentence": claim.sentence, "verdict": UNDECIDED if doubts else outcome,
        "doubts": doubts, "seconds": claim.seconds if seconds is None else seconds, "note": claim.note, "checks": checks, "arms": {},
    }  # fmt: skip
    for name, arm in claim.arms.items():
        figures: dict[str, Any] = {}
        good = {seed: row for seed, row in rows[name].items() if "figures" in row}
        for metric in sorted({metric for row in good.values() for metric in row["figures"]}):
            values = _figures(good, metric)
            if values:
                mean, deviation = spread(list(values.values()))
                figures[metric] = {
                    "mean": _short(mean),
                    "sd": _short(deviation),
                    "seeds": [_short(values[s]) for s in sorted(values)],
                }
        changed = {key: value for key, value in described(arm).items() if key not in ("", "recipe")}
        found["arms"][name] = {"recipe": arm.recipe or "(the teacher)", **changed, "figures": figures}
        curves = {str(seed): row["curve"] for seed, row in sorted(good.items()) if row.get("curve")}
        if curves:
            found["arms"][name]["curve"] = curves
    return found


def _doubts(rows: dict[int, dict[str, Any]], breaks: bool = False) -> Iterable[str]:
    """Why the figures of an arm should not be judged; that it leaves the law is no reason where it `breaks`."""
    for seed, row in sorted(rows.items()):
        if "failed" in row:
            yield f"seed {seed} failed: {row['failed']}"
        elif not row.get("sensible", True) and not breaks:
            yield f"seed {seed} came no nearer to the law than noise"


def told(row: dict[str, Any]) -> str:
    """A row in a line."""
    if "failed" in row:
        return row["failed"]
    shown = [
        f"{name} {value:.4g}" for name, value in row["figures"].items() if value is not None and name.split("@")[0] in SHOWN
    ]
    return ", ".join(shown) + ("" if row.get("sensible", True) else " (no nearer than noise)")


def summary(one: dict[str, Any]) -> str:
    """A judged claim in a few lines."""
    lines = [f"{one['claim']}: {one['verdict'].upper()}. {one['sentence']}"]
    for check in one["checks"]:
        figures = ", ".join(
            f"{what} {check[what]['mean']:g} +- {check[what]['sd']:g}" for what in ("arm", "other") if what in check
        )
        lines.append(f"  {check['verdict']}: {check['says']} ({figures})")
    return "\n".join([*lines, *(f"  doubt: {doubt}" for doubt in one["doubts"])])


def _short(value: float) -> float:
    """Five significant digits."""
    return float(f"{value:.5g}")
