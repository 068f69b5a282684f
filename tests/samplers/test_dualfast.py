"""DualFast on every multistep solver: the rewritten table is the solver run on mixed outputs, and what that costs an exact teacher."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench import paths
from workbench.errors import WorkbenchError
from workbench.samplers import SAMPLERS, stage_noise

MULTISTEP = [name for name, solver in SAMPLERS.items() if "dualfast" in inspect.signature(solver).parameters]
TEACHER = wb.mixture([[1.5, 0.0], [-1.0, 1.2], [0.3, -1.4]], [0.45, 0.45, 0.45])
NOISE = torch.randn(8, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(plan: wb.samplers.Plan, amount: float) -> Tensor:
    """The solver's own table on outputs that are mixed as they come: the definition."""
    path, model = plan.path, TEACHER.on(plan.path)
    x = base = NOISE * path.sigma(plan.times[0])
    raw: list[tuple[float, str, Tensor]] = []
    outputs: list[Tensor] = []
    for i, stage in enumerate(plan.stages):
        m = path.convert(model(x, stage.t), x, stage.t, "x0", stage.kind)
        noisier = [old for t, kind, old in raw if t > stage.t and kind == stage.kind]
        last = i + 1 == len(plan.stages) and stage.kind == "x0" and stage.to == 0
        c = amount * (1 - i / len(plan.stages)) if noisier and not last else 0.0
        raw.append((stage.t, stage.kind, m))
        outputs.insert(0, m if c == 0 else (1 + c) * m - c * noisier[-1])
        made = [
            row and row.x * x + row.base * base + row.noise * stage_noise(x, 3, i) + sum(b * o for b, o in zip(row.outputs, outputs, strict=False))
            for row in (stage.x, stage.base)
        ]  # fmt: skip
        x, base = made[0], base if made[1] is None else made[1]
    return x


def test_it_is_an_option_of_every_multistep_solver() -> None:
    assert MULTISTEP == [
        "dpmpp_2m",
        "dpmpp_3m",
        "unipc",
        "deis",
        "ab",
        "ipndm",
        "pndm",
        "ghvb",
        "hb",
        "dpmpp_2m_sde",
        "dpmpp_3m_sde",
    ]


@pytest.mark.parametrize("path", ["linear", "vp"])
@pytest.mark.parametrize("sampler", MULTISTEP)
def test_the_table_is_the_solver_on_mixed_outputs(sampler: str, path: str) -> None:
    for options in ({}, {"start": "prk"} if sampler == "pndm" else {"order": 3} if sampler in ("unipc", "ghvb", "hb") else {}):
        plain = wb.plan(sampler, path, 9, **options)
        assert plain.stages == wb.plan(sampler, path, 9, dualfast=0.0, **options).stages
        *_, last = wb.run(wb.plan(sampler, path, 9, dualfast=0.3, **options), TEACHER.on(path), NOISE, seed=3)
        expected = by_hand(plain, 0.3)
        assert torch.allclose(last.x, expected, atol=1e-10)
        assert float((by_hand(plain, 0.0) - expected).abs().max()) > 1e-3


@pytest.mark.parametrize("sampler", [name for name in MULTISTEP if not name.endswith("_sde")])
def test_it_costs_an_exact_teacher_an_order_at_most(sampler: str) -> None:
    path = paths.vp

    def end(steps: int, name: str = sampler, **options: float) -> Tensor:
        times = path.time(torch.linspace(-1.5, 1.5, steps + 1, dtype=torch.float64))
        *_, last = wb.run(wb.plan(name, path, schedule=times, **options), TEACHER.on(path), NOISE)
        return last.x

    exact = end(120, "dpm_3")
    plain, *mixed = [float((end(n, dualfast=c) - exact).norm()) for n, c in ((80, 0.0), (40, 0.3), (80, 0.3))]
    assert math.log2(mixed[0] / mixed[1]) == pytest.approx(1, abs=0.25)
    assert sampler == "hb" or mixed[1] > 1.2 * plain  # of order 1 itself: a mixture may as well help it


@pytest.mark.parametrize("sampler", MULTISTEP)
def test_its_range_is_told(sampler: str) -> None:
    with pytest.raises(WorkbenchError, match=r"dualfast is 2.0, but must lie between -0.5 and 0.5 \(0 is the solver itself\)"):
        wb.plan(sampler, "vp", 5, dualfast=2.0)
