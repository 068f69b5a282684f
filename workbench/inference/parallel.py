"""Parallel-in-time sampling: all stages of a window are evaluated in one batched call, again until nothing changes.

A plan is a recursion x_{j+1} = Phi_j(x_j). Instead of walking it stage by stage, guess the states of a window, evaluate
the model on all of them at once, and correct the guess:

    new_{j+1} = Phi_j(old_j) + c_j (new_j - old_j)

with c_j = 0 (Jacobi), 1 (Picard: the drifts Phi - id are summed, ParaDiGMS) or the row's own factor of x (only the
model's outputs are frozen, the linear part of the row is solved). Whatever c_j is, entry j is exact after j sweeps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, evaluate
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.inference.resolution import fixed
from workbench.samplers.plan import Plan, Row, Stage
from workbench.samplers.run import run, stage_noise
from workbench.samplers.table import Table, combine, table_of

RULES = ("rows", "picard", "jacobi")


class Sweep(NamedTuple):
    """What is known after a round: a `Frame` (so that `record` takes it) with the whole window.

    Attributes:
        i: rounds so far, the sequential depth. t, x: time and state (n, ...) up to where stages are accepted.
        target: newest x0 estimate at the far end of the window (n, ...); in the last frame, if it is clean data, x itself.
        nfe: network evaluations per sample so far, those done again included. seconds: computing time so far.
        done: stages accepted. states: the present guess of the states of stages 0 .. far end, a list of (n, ...).
        change: of each guess in this round, largest RMS of a sample in units of sqrt(alpha^2 + sigma^2).
    """

    i: int
    t: float
    x: Tensor
    target: Tensor
    nfe: int
    seconds: float
    inner: bool
    done: int
    states: list[Tensor]
    change: list[float]
    times: None = None
    counts: None = None


def parallel_run(
    plan: Plan,
    model: Denoiser,
    noise: Tensor,
    cond: Any = None,
    seed: int = 0,
    index: Sequence[int] | None = None,
    window: int | None = None,
    tolerance: float = 1e-3,
    rule: str | None = None,
    slide: bool = True,
) -> Iterator[Sweep]:
    """Run a plan parallel in time, yielding a `Sweep` a round: fewer sequential rounds than stages, the same samples.

    Stochastic plans draw the noise that `workbench.run` would draw, so the samples are the same there too. On a machine
    with room for the batch a round takes as long as one evaluation; `nfe` counts all evaluations, more than `run` makes.

    Args:
        plan, model, noise, cond, seed, index: as for `workbench.run`; one model, which takes a tensor of times.
        window: stages in flight, all by default; 1 is `run`, bit for bit.
        tolerance: change below which a guess is accepted, in units of sqrt(alpha^2 + sigma^2); 0 waits until nothing changes.
            (ParaDiGMS measures by the variance of the noise, which is none on clean data.)
        rule: "rows" for any plan; "picard" and "jacobi" for plans of one step (no history, no helper points). By default
            "picard" for those without noise, "rows" for all others, which is what takes fewer rounds.
        slide: the window moves past accepted entries (ParaDiGMS); False finishes a window before the next begins:
            Gauss-Seidel over segments in time, the rule inside each.

    Raises:
        WorkbenchError: for an unknown rule, a rule that the plan cannot use, a plan of several models, or as `run`.

    Source: ParaDiGMS, arXiv 2305.16317, algorithm 1; segments after GS-Jacobi, arXiv 2505.12849.
    Measured: 128 Euler steps take 11 rounds (790 evaluations) on moons, 4.4e-5 RMS from `run` (n = 256), and 14 rounds (807) on
    the digits teacher, 9.1e-5 RMS (n = 16); with a window of 16, 20 and 17 rounds (302 and 252). Heun's 127 stages take 18
    and 17 rounds, 128 of DDIM with eta 1 take 23 and 26; "jacobi" saves nothing on Euler (seed 0, benchmarks/inference_more.py).

    >>> import workbench as wb
    >>> teacher = wb.load("moons")
    >>> noise = torch.randn(8, 2, dtype=torch.float64)
    >>> *_, last = parallel_run(wb.plan("ddim", "linear", 64), teacher, noise)
    >>> last.i < 32
    True
    """
    if rule is None:
        plain = all(_one_step(stage) and not stage.x.noise for stage in fixed(plan).stages)
        rule = "picard" if plain else "rows"
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    if fixed(plan).models > 1:
        raise WorkbenchError(f"{plan} runs {plan.models} models: parallel sampling takes plans of one.")
    if rule != "rows" and not all(map(_one_step, plan.stages)):
        raise WorkbenchError(f"{plan} looks at more than its last output, which rule {rule!r} cannot: use rule='rows'.")
    if not 0 <= tolerance < float("inf"):
        raise WorkbenchError(f"tolerance is {tolerance}, but must be a finite number of at least 0.")
    window = len(plan.stages) if window is None else check_count("window", window)
    run(plan, model, noise, cond, seed, index)  # its checks; a generator not started costs nothing
    return _sweeps(plan, model, noise, cond, seed, index, min(window, len(plan.stages)), tolerance, rule, slide)


def _sweeps(
    plan: Plan,
    model: Any,
    noise: Tensor,
    cond: Any,
    seed: int,
    index: Any,
    window: int,
    tolerance: float,
    rule: str,
    slide: bool,
) -> Iterator[Sweep]:
    table, stages, count = table_of(plan, noise.dtype), plan.stages, len(plan.stages)
    units = [max(1e-30, (plan.path.alpha(s.to) ** 2 + plan.path.sigma(s.to) ** 2) ** 0.5) for s in stages]
    with torch.no_grad():
        x = noise * table.start
    states, bases, outputs, draws = [x], [x], [], []
    begin, rounds, nfe, seconds, target = 0, 0, 0, 0.0, None
    while begin < count:
        began = time.perf_counter()
        with torch.no_grad():
            end = min(begin + window, count) if slide or len(states) == begin + 1 else len(states) - 1
            for j in range(len(states) - 1, end):  # a first guess: the newest x0 estimate stays what it is
                draws.append(stage_noise(x, seed, j, index) if table.moves[j].draws else None)
                outputs.append(_output(table, j, states[j], states[j] if target is None else target))
                after, base = _after(table, j, states[j], bases[j], draws[j], outputs)
                states.append(states[j].clone() if target is None else after)
                bases.append(base)
            targets, per_sample = _targets(model, stages[begin:end], states[begin:end], cond)
            nfe, rounds, target = nfe + per_sample * (end - begin), rounds + 1, targets[-1]
            for j in range(begin, end):
                outputs[j] = _output(table, j, states[j], targets[j - begin])
            change = _correct(table, rule, begin, end, states, bases, draws, outputs)
        change = [moved / unit for moved, unit in zip(torch.stack(change).tolist(), units[begin:end], strict=True)]
        begin += 1 + next((k for k, moved in enumerate(change[1:]) if not moved <= tolerance), len(change) - 1)
        seconds += time.perf_counter() - began
        clean = begin == count and table.clean
        shown, at = states[begin], plan.times[-1] if begin == count else stages[begin].t
        inner = begin < count and stages[begin].inner
        yield Sweep(rounds, at, shown, shown if clean else target, nfe, seconds, inner, begin, list(states), change)


def _correct(
    table: Table, rule: str, begin: int, end: int, states: list, bases: list, draws: list, outputs: list
) -> list[Tensor]:
    """Replace the states begin + 1 .. end by the corrected ones; return how far each moved, largest RMS of a sample."""
    change, before = [], states[begin]
    for j in range(begin, end):
        new = states[j]
        after, bases[j + 1] = _after(table, j, new if rule == "rows" else before, bases[j], draws[j], outputs)
        if rule == "picard":
            after = after + (new - before)
        before, states[j + 1] = states[j + 1], after
        change.append((after - before).flatten(1).square().mean(1).max().sqrt())
    return change


def _after(table: Table, j: int, x: Tensor, base: Tensor, noise: Tensor | None, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """State and base after stage j, from outputs[j], outputs[j - 1], ..."""
    move = table.moves[j]
    held = (x, base, noise, *outputs[j : None if j < table.history else j - table.history : -1])
    return combine(move.x, held), base if move.base is None else combine(move.base, held)


def _output(table: Table, j: int, x: Tensor, target: Tensor) -> Tensor:
    convert = table.moves[j].convert
    return target if convert is None else combine(convert, (x, target))


def _targets(model: Any, stages: Sequence[Stage], states: Sequence[Tensor], cond: Any) -> tuple[list[Tensor], int]:
    """x0 estimates of all stages in one call, and network evaluations per sample and stage."""
    many, n = len(stages), len(states[0])
    second = [s.to if s.jump is None else s.jump for s in stages] if getattr(model, "two_times", False) else None
    if many == 1:
        target, per_sample = evaluate(model, states[0], stages[0].t, cond, **({"s": second[0]} if second else {}))
        return [target], per_sample
    x = torch.cat(list(states))
    t, *s = (
        torch.tensor(v, dtype=torch.float64, device=x.device).repeat_interleave(n) for v in ([s.t for s in stages], second) if v
    )
    cond = cond.repeat(many, *[1] * (cond.dim() - 1)) if isinstance(cond, Tensor) and cond.dim() else cond
    target, per_sample = evaluate(model, x, t, cond, **({"s": s[0]} if s else {}))
    return list(target.chunk(many)), per_sample


def _one_step(stage: Stage) -> bool:
    row: Row = stage.x
    return not stage.inner and stage.base is None and not row.base and len(row.outputs) <= 1
