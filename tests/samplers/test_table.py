"""How the executor reads a plan: conversions folded into rows where the state is at hand, and nothing kept that is not used."""

from __future__ import annotations

import gc

import pytest
import torch

import workbench as wb
from workbench.samplers import SAMPLERS
from workbench.samplers.table import combine, sum_of, table_of

TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.5]], [0.3, 0.4])
NOISE = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def literally(plan: wb.Plan, seed: int) -> torch.Tensor:
    """The plan as its definition says, output by output, with nothing folded."""
    from workbench.samplers import stage_noise

    teacher = TEACHER.on(plan.path)
    x = base = NOISE * plan.path.sigma(plan.times[0])
    outputs: list[torch.Tensor] = []
    for i, stage in enumerate(plan.stages):
        outputs.insert(0, plan.path.convert(teacher(x, stage.t), x, stage.t, "x0", stage.kind))
        held = (x, base, stage_noise(x, seed, i), *outputs)
        rows = [None if row is None else sum_of((row.x, row.base, row.noise, *row.outputs)) for row in (stage.x, stage.base)]
        x, base = combine(rows[0], held), base if rows[1] is None else combine(rows[1], held)
    return x


@pytest.mark.parametrize("path", ["vp", "linear"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_executor_computes_what_the_rows_say(sampler: str, path: str) -> None:
    plan = wb.plan(sampler, path, 7, t_end=0.05)
    *_, last = wb.run(plan, TEACHER.on(path), NOISE, seed=4)
    assert torch.allclose(last.x, literally(plan, 4), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "dpm_3", "ddim", "dpmpp_2m"])
def test_nothing_is_converted_where_the_state_is_at_hand(sampler: str) -> None:
    assert all(move.convert is None for move in table_of(wb.plan(sampler, "vp", 6), torch.float32).moves)


def test_only_outputs_that_outlive_their_state_are_converted() -> None:
    moves = table_of(wb.plan("ab", "vp", 6), torch.float32).moves
    assert (
        sum(move.convert is not None for move in moves) == 3
    )  # not the first, whose state is saved; not the fifth, used once; the last is x0


def test_a_run_keeps_no_more_states_the_longer_it_is() -> None:
    def alive(steps: int) -> int:
        counts = []
        for frame in wb.run(wb.plan("unipc", "vp", steps, order=3), TEACHER.on("vp"), torch.zeros(77, 2, dtype=torch.float64)):
            if frame.i == steps - 1:
                gc.collect()
                counts.append(sum(type(thing) is torch.Tensor and thing.shape == (77, 2) for thing in gc.get_objects()))
        return counts[0]

    alive(8)  # lru caches of the first run
    assert alive(200) <= alive(8)
