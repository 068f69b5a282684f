"""Plans: stored and read back with every coefficient, and impossible ones refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import workbench as wb
from workbench import paths
from workbench.errors import WorkbenchError
from workbench.samplers import SAMPLERS, Plan


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("path", ["linear", "edm"])
def test_plans_survive_json(sampler: str, path: str) -> None:
    options = {"ddim": {"eta": 0.3}, "flow_map": {"gamma": 0.4}}.get(sampler, {})
    plan = wb.plan(sampler, path, 5, "karras", **options)
    for each in (plan, wb.hybrid(plan, 2)):
        back = Plan.from_json(json.loads(json.dumps(each.to_json())))
        assert back == each and str(back) == str(each)


@pytest.mark.parametrize(
    "name",
    ["betas linear 1000 0.0001 0.02", "betas squaredcos_cap_v2 50", "betas scaled_linear 100 0.001 0.02 zero_snr", "edm to 60"],
)
def test_a_path_that_its_name_makes_again_is_stored(name: str) -> None:
    made = wb.plan("dpmpp_2m", name, 5)
    back = Plan.from_json(json.loads(json.dumps(made.to_json())))
    assert back == made and back.path.name == name
    copied = replace(paths.get(name), alpha_fn=lambda t: paths.get(name).alpha(t))  # another object, the same path
    assert wb.plan("dpmpp_2m", copied, 5).to_json() == made.to_json()


def test_damaged_plans() -> None:
    content = json.loads(json.dumps(wb.plan("heun", "linear", 2).to_json()))
    stage = content["stages"][0]
    for damage in (
        {"stages": None},
        {"times": ["a", "b"]},
        {"stages": [{**stage, "x": [1.0]}]},
        {"stages": [{**stage, "t": "late"}]},
        {"stages": [{**stage, "extra": 1}]},
        {"stages": [{**stage, "t": float("nan")}]},
        {"path": "lineer"},
    ):
        with pytest.raises(WorkbenchError):
            Plan.from_json({**content, **damage})
    with pytest.raises(WorkbenchError, match="not a stored plan"):
        Plan.from_json({key: value for key, value in content.items() if key != "times"})
    with pytest.raises(WorkbenchError, match="cannot be stored"):
        wb.plan("ddim", replace(paths.linear, name="own"), 3).to_json()
    for name in ("cosine", "betas linear 1000 0.0001 0.02", "betas linear 1000 0.5 2.0"):  # of another path, or of none
        with pytest.raises(WorkbenchError, match="cannot be stored"):
            wb.plan("ddim", replace(paths.linear, name=name), 3).to_json()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("heum", "linear", 4), {}, "did you mean 'heun'"),
        (("heun", "lineer", 4), {}, "did you mean 'linear'"),
        (("heun", "linear", 4, "karas"), {}, "did you mean 'karras'"),
        (("ddim", "linear", 4), {"etaa": 1}, "did you mean 'eta'"),
        (("euler", "linear", 4), {"variable": "rhoo"}, "did you mean 'rho'"),
        (("ddim", "linear", 0), {}, "steps is 0"),
        (("ddim", "linear", 10_001), {}, "from 1 to 10000"),
        (("ddim", "linear", None), {}, "steps is None"),
        (("ddim", "linear", None, [0.0, 1.0]), {}, "must fall strictly from noise"),
        (("ddim", "linear", 3, [1.0, 0.0]), {}, "is 1 steps, not 3"),
        (("ddim", "linear", 4), {"t_start": 2.0}, "0 <= t_end < t_start <= 1"),
        (("ddim", "linear", 4), {"eta": 1.5}, "eta is 1.5"),
        (("flow_map", "linear", 4), {"gamma": -0.1}, "gamma is -0.1"),
    ],
)
def test_impossible_plans(arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(WorkbenchError, match=message):
        wb.plan(*arguments, **options)
