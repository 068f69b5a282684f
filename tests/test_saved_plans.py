"""A saved plan as the schedule of `wb.sample`: its times with any sampler, a learned plan whole, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import workbench as wb
from workbench import plans
from workbench.errors import UnknownName, WorkbenchError
from workbench.samplers.sample import plan_for

TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.5]], [0.3, 0.4])
TIMES = [1.0, 0.7, 0.2, 0.0]

pytestmark = pytest.mark.usefixtures("home")


def test_a_saved_schedule_is_its_times_with_any_sampler() -> None:
    plans.save(wb.plan("ddim", "linear", schedule=TIMES), "mine")
    for sampler in ("ddim", "dpmpp_2m", None):
        drawn = wb.sample(TEACHER, 5, sampler=sampler, schedule="saved:mine", seed=1)
        assert torch.equal(drawn, wb.sample(TEACHER, 5, sampler=sampler, schedule=TIMES, seed=1))
    noisy = wb.sample(TEACHER, 5, sampler="ddim", schedule="saved:mine", steps=3, eta=1.0)
    assert torch.equal(noisy, wb.sample(TEACHER, 5, sampler="ddim", schedule=TIMES, eta=1.0))


def test_a_learned_plan_runs_whole() -> None:
    plan = replace(wb.plan("dpmpp_2m", "linear", schedule=TIMES), sampler="lsd(dpmpp_2m)")
    plans.save(plan, "learned")
    noise = wb.samplers.sample.noise_for(TEACHER, 5, seed=2)
    *_, last = wb.run(plan, TEACHER, noise)
    assert torch.equal(wb.sample(TEACHER, 5, sampler="euler", schedule="saved:learned", seed=2), last.x)


def test_sampling_and_comparing_run_the_same_plan() -> None:
    plans.save(wb.plan("ddim", "linear", schedule=TIMES), "mine")
    column = wb.compare.Column(TEACHER, sampler="heun", schedule="saved:mine")
    assert column.plan() == plan_for(TEACHER, sampler="heun", schedule="saved:mine")


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: wb.sample(TEACHER, 2, schedule="saved:mien"), UnknownName, "did you mean 'mine'"),
        (lambda: wb.sample(TEACHER, 2, schedule="saved:"), WorkbenchError, "cannot be named ''"),
        (lambda: wb.sample(TEACHER, 2, schedule="saved:../x"), WorkbenchError, "cannot be named '../x'"),
        (lambda: wb.sample(TEACHER, 2, steps=4, schedule="saved:mine"), WorkbenchError, "has 3 steps, not 4"),
        (lambda: wb.sample(TEACHER.on("vp"), 2, schedule="saved:mine"), WorkbenchError, "is on the path linear"),
    ],
)
def test_what_cannot_be_is_one_sentence(call, kind, says: str) -> None:
    plans.save(wb.plan("ddim", "linear", schedule=TIMES), "mine")
    with pytest.raises(kind, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
