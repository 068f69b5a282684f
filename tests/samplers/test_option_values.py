"""An option of a sampler or schedule that is of the wrong kind is refused in one sentence."""

from __future__ import annotations

import inspect
import math

import pytest

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.samplers import POLICIES, SAMPLERS, sampler_options

OPTIONS = [
    *((name, "uniform", option) for name in SAMPLERS for option in sampler_options(name)),
    *(("ddim", name, option) for name in wb.schedules.NAMES for option in wb.schedules.options(name)),
    *((name, None, option) for name in POLICIES for option in list(inspect.signature(POLICIES[name]).parameters)[1:]),
]


@pytest.mark.parametrize(("sampler", "schedule", "option"), OPTIONS)
def test_no_option_takes_nonsense(sampler, schedule, option):
    for value in ("abc", math.nan, [1.0]):
        with pytest.raises(WorkbenchError) as raised:
            if schedule is None:
                wb.policy(sampler, "linear", **{option: value})
            else:
                wb.plan(sampler, "linear", 3, schedule, **{option: value})
        assert "\n" not in str(raised.value) and str(raised.value).endswith((".", ")"))
