"""Rounding, its bias and its stagnation in closed form; and a plan that is judged by what it draws."""

from __future__ import annotations

import math

import pytest
import torch

import workbench as wb
from workbench.errors import UnknownName, WorkbenchError
from workbench.precision import PrecisionStudy, Rounded, precision, precision_steps, rounded, rounded_run
from workbench.samplers.run import initial_noise
from workbench.views.precision import precision_curve

TEACHER = wb.mixture([[2.0, 0.3], [0.9, 1.4], [0.6, -0.7]], [0.2, 0.3, 0.1])


def final(plan, model, noise, seed=0) -> torch.Tensor:
    return wb.record(wb.run(plan, model, noise, seed=seed)).final


# -- rounding


@pytest.mark.parametrize(("bits", "dtype"), [(23, torch.float32), (10, torch.float16), (7, torch.bfloat16)])
def test_rounding_to_the_nearest_is_that_of_the_machine(bits: int, dtype: torch.dtype) -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.cat([x, 2.0 ** torch.arange(-10, 10).double(), torch.tensor([0.0, 1 + 2.0**-24, 1 + 3 * 2.0**-8])])
    assert torch.equal(rounded(x, bits), x.to(dtype).double())


def test_fifty_two_bits_change_nothing() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chance = torch.rand(1000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.equal(rounded(x, 52), x) and torch.equal(rounded(x, 52, chance), x)


def test_stochastic_rounding_is_unbiased() -> None:
    """To the two neighbours only, and on average to x; the variance is f (1 - f) ulp^2, 1/6 on average."""
    n, rng = 200_000, torch.Generator().manual_seed(3)
    for value, ulp in ((1.3, 2.0**-5), (-0.0871, 2.0**-9)):
        x = torch.full((n,), value, dtype=torch.float64)
        y = rounded(x, 5, torch.rand(n, generator=rng, dtype=torch.float64))
        assert len(y.unique()) == 2 and (y - x).abs().max() < ulp
        assert abs(float((y - x).mean())) < 4 * float(y.std()) / math.sqrt(n)
    x = torch.rand(n, generator=rng, dtype=torch.float64) + 1
    error = rounded(x, 5, torch.rand(n, generator=rng, dtype=torch.float64)) - x
    assert float(error.square().mean()) * 2.0**10 == pytest.approx(1 / 6, abs=0.002)
    assert float((rounded(x, 5) - x).square().mean()) * 2.0**10 == pytest.approx(1 / 12, abs=0.001)


class Drift:
    """dx/dt = -1 on the linear path, whatever x is: every step of h moves the state by h."""

    path, shape = wb.paths.linear, (1,)

    def __call__(self, x, t, cond=None):
        return x + t


def test_rounding_to_the_nearest_stagnates_where_predicted() -> None:
    """Steps of 0.001 from 0 to 1 at 7 bits: half a spacing is 2^-9 from 1/2 on, more than a step, so the state stays there."""
    noise, plan = torch.zeros(64, 1, dtype=torch.float64), wb.plan("euler", "linear", 1000)
    assert float(rounded_run(plan, Drift(), noise)[0]) == pytest.approx(1.0, abs=1e-9)
    near = rounded_run(plan, Drift(), noise, 7, "nearest", ("state",))
    assert torch.equal(near, torch.full_like(near, 0.5))
    by_chance = rounded_run(plan, Drift(), noise, 7, "stochastic", ("state",))
    assert abs(float(by_chance.mean()) - 1) < 4 * float(by_chance.std()) / math.sqrt(64) and by_chance.std() > 0.01


# -- a plan


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "euler_ancestral", "unipc"])
def test_fifty_two_bits_are_the_executor(sampler: str, rounding: str) -> None:
    plan, noise = wb.plan(sampler, "vp", 6), initial_noise(10, (2,), 4, torch.float64)
    teacher = TEACHER.on("vp")
    assert torch.equal(rounded_run(plan, teacher, noise, 52, rounding, seed=4), final(plan, teacher, noise, seed=4))


def test_what_is_rounded_is_what_was_asked() -> None:
    plan, noise = wb.plan("dpmpp_2m", "linear", 5), initial_noise(10, (2,), 0, torch.float64)
    exact = final(plan, TEACHER, noise)
    state, table, both = (
        rounded_run(plan, TEACHER, noise, 6, where=w) for w in (("state",), ("coefficients",), ("state", "coefficients"))
    )
    assert torch.equal(state, rounded(state, 6)) and not torch.equal(table, rounded(table, 6))
    assert len({tuple(x.flatten().tolist()) for x in (exact, state, table, both)}) == 4
    assert torch.equal(rounded_run(plan, TEACHER, noise, 6, where=()), exact)


def test_chance_belongs_to_the_sample() -> None:
    """Not to the batch; and it is not the noise that the sampler draws."""
    plan, noise = wb.plan("euler_ancestral", "linear", 4), initial_noise(24, (2,), 0, torch.float64)
    whole = rounded_run(plan, TEACHER, noise, 5, "stochastic", seed=1)
    assert torch.equal(whole[:8], rounded_run(plan, TEACHER, noise[:8], 5, "stochastic", seed=1))
    assert not torch.equal(whole, rounded_run(plan, TEACHER, noise, 5, "stochastic", seed=2))


def test_few_steps_need_few_bits_and_many_need_more() -> None:
    few = precision(wb.plan("dpmpp_2m", "linear", 8), TEACHER, (52, 10, 7), n=512)
    many = precision(wb.plan("euler", "linear", 100), TEACHER, (52, 10, 3), n=512)
    assert few.rows[0].ratio == 1 and few.rows[0].error == 0 and few.floor > 0
    for one in (few, many):
        errors = [row.error for row in one.rows]
        assert errors == sorted(errors) and abs(one.rows[1].ratio - 1) < 0.05
    assert few.safe == 7
    assert many.rows[2].ratio > 2 and many.safe == 10
    for row in (*few.rows, *many.rows):
        assert row.low <= row.ratio <= row.high
        assert row.bias <= row.bound + 1e-12 and row.bound <= row.error * math.sqrt(2) + 1e-12
        assert len(row.by_coordinate) == 2


def test_stochastic_rounding_lowers_the_bias_of_many_steps() -> None:
    plan = wb.plan("euler", "linear", 200)
    near, chance = (precision(plan, TEACHER, (5,), r, ("state",), n=256).rows[0] for r in ("nearest", "stochastic"))
    assert near.bias > 5 * near.noise and chance.bias < near.bias / 2


def test_a_result_of_every_number_of_bits() -> None:
    plan = wb.plan("euler", "linear", 3)
    found = list(precision_steps(plan, TEACHER, (8, 4), n=64))
    assert [len(one.rows) for one in found] == [1, 2]
    assert found[-1] == precision(plan, TEACHER, (8, 4), n=64)
    assert "euler, 3 uniform steps" in repr(found[-1]) and "  8 bits: R = " in repr(found[-1])


def test_safe_bits_are_those_from_which_all_are() -> None:
    def row(bits: int, high: float) -> Rounded:
        return Rounded(bits, high, high, high, (), 0.0, 0.0, 0.0, 0.0)

    def safe(*rows: Rounded) -> int | None:
        return PrecisionStudy(rows, 0.1, 64, 0, "nearest", ("state",), "").safe

    assert safe(row(4, 3.0), row(16, 1.0), row(8, 1.1)) == 8
    assert safe(row(16, 1.0), row(8, 1.2), row(4, 1.0)) == 16
    assert safe(row(8, 1.2)) is None


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"rounding": "up"}, UnknownName, "unknown rounding 'up'"),
        ({"where": ("weights",)}, UnknownName, "unknown place to round 'weights'"),
        ({"bits": (0,)}, WorkbenchError, "bits is 0, but must be a whole number from 1 to 52"),
        ({"bits": ()}, WorkbenchError, "bits is empty"),
        ({"n": 10}, WorkbenchError, "n is 10, but must be a whole number from 64"),
    ],
)
def test_impossible_requests(options: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        precision(wb.plan("euler", "linear", 2), TEACHER, **{"bits": (8,), "n": 64, **options})


def test_a_plan_on_another_path() -> None:
    with pytest.raises(WorkbenchError, match="make the plan on the model's path"):
        precision(wb.plan("euler", "vp", 2), TEACHER, (8,), n=64)


def test_the_figure_has_both_roundings_the_floor_and_the_limit() -> None:
    plan = wb.plan("euler", "linear", 3)
    found = {r: precision(plan, TEACHER, (7, 4), r, n=64) for r in ("nearest", "stochastic")}
    figure = precision_curve(found)
    names = [trace.name for trace in figure.data]
    assert names[:2] == ["nearest", "stochastic"] and "n = 64, seed 0" in names[2] and names[3].startswith("1.1")
    assert list(figure.data[0].x) == [4, 7] and list(figure.data[2].y) == [1, 1]
    assert figure.data[0].error_y.array[0] == pytest.approx(found["nearest"].rows[1].high - found["nearest"].rows[1].ratio)
    assert "bits" in figure.layout.xaxis.title.text and figure.layout.title.text.startswith("How many bits")
    with pytest.raises(WorkbenchError, match="no result to draw"):
        precision_curve({})
