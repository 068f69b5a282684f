"""The order of every solver on every path, on a Gaussian and on a mixture, with an exact history.

A multistep method of order p started by a first-order step has one local error of O(h^2) and shows order 2; so the
orders here are measured from outputs of the exact trajectory, as section 0.4 of the method cards asks. The grid lies between two
log-SNRs, so no step is of order 1 by construction.

In y = x / sigma against log_snr all paths follow one equation, so one exact trajectory judges every path. The drift of a
stochastic sampler with eta, its noise left out, follows d(e^(eta q) y) / dq = (1 + eta) e^((1 + eta) q) x0, q = log_snr.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench import paths
from workbench.cite import USES
from workbench.references import REFERENCES
from workbench.samplers import SAMPLERS

LOW, HIGH = -1.5, 1.5
NOISE = torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
VP = paths.vp
FINE = 384
MEAN, STD = torch.tensor([0.7, -0.4], dtype=torch.float64), 0.6
MODES, WIDTH = torch.tensor([[1.5, 0.0], [-1.0, 1.2], [0.3, -1.4]], dtype=torch.float64), 0.45
TEACHERS = {"mixture": (MODES, WIDTH), "gaussian": (MEAN[None], STD)}


def estimate(name: str, x: Tensor, alpha: float, sigma: float) -> Tensor:
    """E[x0 | x] of equally wide and likely modes: a few lines, since it is asked tens of thousands of times."""
    modes, std = TEACHERS[name]
    spread = (alpha * std) ** 2 + sigma**2
    told = torch.softmax((x[:, None] - alpha * modes).square().sum(-1) / (-2 * spread), 1)
    return torch.addmm(x, told, modes, beta=alpha * std**2 / spread, alpha=sigma**2 / spread)


def test_the_teachers_are_those_of_the_workbench() -> None:
    for name, (modes, std) in TEACHERS.items():
        theirs = wb.mixture(modes, [std] * len(modes), path="vp")(NOISE, 0.4)
        assert torch.allclose(estimate(name, NOISE, VP.alpha(0.4), VP.sigma(0.4)), theirs, atol=1e-12)


def grid(steps: int, path: paths.Path = VP) -> Tensor:
    return path.time(torch.linspace(LOW, HIGH, steps + 1, dtype=torch.float64))


def exact(name: str, steps: int, eta: float = 0.0) -> list[Tensor]:
    """x / sigma at every point of `grid(steps)`."""
    every = FINE // steps
    return (gaussian(eta) if name == "gaussian" else runge_kutta(eta))[::every]


@cache
def gaussian(eta: float) -> list[Tensor]:
    """Closed forms: the flow keeps (y - u mean) / sqrt(u^2 S^2 + 1), u = alpha / sigma; along the drift of eta = 1 x0 stands still."""
    u = torch.linspace(LOW, HIGH, FINE + 1, dtype=torch.float64).exp().tolist()
    if eta == 0:
        spread = [math.sqrt((v * STD) ** 2 + 1) for v in u]
        return [v * MEAN + s / spread[0] * (NOISE - u[0] * MEAN) for v, s in zip(u, spread, strict=True)]
    assert eta == 1
    x0 = MEAN + u[0] * STD**2 / ((u[0] * STD) ** 2 + 1) * (NOISE - u[0] * MEAN)
    return [(u[0] * NOISE + (v**2 - u[0] ** 2) * x0) / v for v in u]


@cache
def runge_kutta(eta: float) -> list[Tensor]:
    """The mixture's, by steps of order 4 and 0.008 in log-SNR."""

    def slope(q: float, z: Tensor) -> Tensor:  # with sigma = 1, alpha = e^q
        return (1 + eta) * math.exp((1 + eta) * q) * estimate("mixture", z * math.exp(-eta * q), math.exp(q), 1.0)

    q, z, states = LOW, NOISE * math.exp(eta * LOW), [NOISE]
    h = (HIGH - LOW) / FINE
    for _ in range(FINE):
        k1 = slope(q, z)
        k2 = slope(q + h / 2, z + h / 2 * k1)
        k3 = slope(q + h / 2, z + h / 2 * k2)
        z, q = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(q + h, z + h * k3)), q + h
        states.append(z * math.exp(-eta * q))
    return states


def error(
    sampler: str, steps: int, known: int = 0, path: str = "vp", name: str = "mixture", drift: float = 0.0, **options: object
) -> float:
    """RMS distance of x / sigma at the end, without noise; the first `known` steps are taken from the exact trajectory, with their outputs.

    drift: the eta of the drift that is solved.
    """
    law = paths.get(path)
    plan = wb.plan(sampler, law, schedule=grid(steps, law), **options)
    ratios = exact(name, steps, drift)
    x = base = NOISE * law.sigma(plan.times[0])
    outputs: list[Tensor] = []
    for i, stage in enumerate(plan.stages):
        if known and i <= known:
            x = ratios[i] * law.sigma(stage.t)
            base = ratios[i - 1] * law.sigma(plan.times[i - 1]) if i else x
        c_x, c_p = law.conversion("x0", stage.kind, stage.t)
        outputs = [c_x * x + c_p * estimate(name, x, law.alpha(stage.t), law.sigma(stage.t)), *outputs[: plan.history - 1]]
        made = [
            row and sum((c * m for c, m in zip(row.outputs, outputs, strict=False) if c), row.x * x + row.base * base)
            for row in (stage.x, stage.base)
        ]
        x, base = made[0], base if made[1] is None else made[1]
    return float((x / law.sigma(plan.times[-1]) - ratios[-1]).square().sum(1).mean().sqrt())


ORDERS = [
    ("ddim", 1, 0, {}),
    ("euler", 1, 0, {"variable": "t"}),
    ("euler", 1, 0, {"variable": "rho"}),
    ("heun", 2, 0, {"variable": "t"}),
    ("heun", 2, 0, {"variable": "rho"}),
    ("restart", 2, 0, {"windows": []}),
    ("flow_map", 1, 0, {}),  # of a network with one time
    ("dpm_1", 1, 0, {}),
    ("dpm_2", 2, 0, {}),
    ("dpm_2", 2, 0, {"r": 0.3}),
    ("dpm_3", 3, 0, {}),
    ("dpm_3", 3, 0, {"r1": 0.5}),
    ("dpmpp_2s", 2, 0, {}),
    ("dpmpp_2s", 2, 0, {"r": 0.8}),
    ("dpmpp_2m", 2, 0, {}),
    ("dpmpp_2m", 2, 0, {"solver_type": "heun"}),
    ("dpmpp_3m", 3, 2, {}),
    ("ab", 1, 0, {"order": 1}),
    ("ab", 2, 1, {"order": 2}),
    ("ab", 3, 2, {}),
    ("ab", 4, 3, {"order": 4}),
    ("deis", 1, 0, {"order": 1}),
    ("deis", 2, 1, {"order": 2}),
    ("deis", 3, 2, {}),
    ("deis", 4, 3, {"order": 4}),
    ("deis", 3, 2, {"variable": "log_snr"}),
    ("ipndm", 1, 0, {"order": 1}),
    ("ipndm", 2, 1, {"order": 2}),
    ("ipndm", 2, 3, {}),  # constant weights: no better with an exact history
    ("pndm", 2, 0, {}),
    ("pndm", 2, 0, {"start": "prk"}),
    ("unipc", 1, 0, {"order": 1, "corrector": False}),
    ("unipc", 2, 0, {"order": 2, "corrector": False}),
    ("unipc", 3, 2, {"order": 3, "corrector": False}),
    ("unipc", 2, 0, {"order": 1}),
    ("unipc", 2, 0, {"order": 1, "variant": "bh1"}),
    ("unipc", 3, 0, {}),
    ("unipc", 3, 0, {"variant": "bh1"}),
    ("unipc", 3, 0, {"order": 2, "kind": "eps"}),
    ("unipc", 4, 3, {"order": 3}),
    ("ghvb", 1, 0, {"order": 1, "beta": 0.8}),
    ("ghvb", 2, 0, {}),
    ("ghvb", 2, 0, {"order": 4, "beta": 0.97}),
    ("hb", 1, 0, {}),
    ("dpmpp_2m_sde", 2, 0, {"eta": 0.0}),
    ("ddpm", 1, 0, {"drift": 1.0}),
    ("euler_ancestral", 1, 0, {"drift": 1.0}),
    ("ddim", 1, 0, {"eta": 1.0, "drift": 1.0}),
    ("dpmpp_2m_sde", 2, 0, {"drift": 1.0}),
    ("dpmpp_2m_sde", 2, 0, {"eta": 0.5, "drift": 0.5}),
    ("dpmpp_3m_sde", 3, 2, {"drift": 1.0}),
]
IDS = [f"{sampler}-{order}-{'-'.join(map(str, options.values()))}" for sampler, order, _, options in ORDERS]
USUAL = [row for row in ORDERS if set(row[3]) <= {"drift"} or row[0] in ("euler", "heun", "restart", "pndm")]  # as they come
EVERYWHERE = [("gaussian", path) for path in paths.NAMES] + [("mixture", path) for path in paths.NAMES if path != "vp"]


def slopes(sampler: str, order: int, known: int, options: dict, path: str = "vp", name: str = "mixture") -> list[float]:
    counts = {1: (24, 48), 2: (48, 96), 3: (48, 96), 4: (192, 384)}[order]
    found = [error(sampler, steps, known, path, name, **options) for steps in counts]
    return [math.log2(a / b) for a, b in itertools.pairwise(found)]


@pytest.mark.parametrize(("sampler", "order", "known", "options"), ORDERS, ids=IDS)
def test_order(sampler: str, order: int, known: int, options: dict) -> None:
    assert slopes(sampler, order, known, options)[-1] == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("name", "path"), EVERYWHERE)
@pytest.mark.parametrize(
    ("sampler", "order", "known", "options"), USUAL, ids=[f"{s}-{'-'.join(map(str, o.values()))}" for s, _, _, o in USUAL]
)
def test_order_on_every_path(sampler: str, order: int, known: int, options: dict, name: str, path: str) -> None:
    if name == "gaussian" and "drift" in options:  # x0 stands still along it: no error at all
        assert error(sampler, 48, 0, path, name, **options) < 1e-12
        return
    assert slopes(sampler, order, known, options, path, name)[-1] == pytest.approx(order, abs=0.2)


def test_every_solver_of_the_flow_or_of_a_drift_is_measured() -> None:
    assert {row[0] for row in USUAL} == set(SAMPLERS) - {"consistency", "lcm"}  # which jump to x0


def test_the_second_difference_at_half_its_weight_costs_an_order() -> None:
    """As the released third-order solvers have it (section 0.6 of the cards)."""
    full, half = ([error("dpmpp_3m", n, 2, second_diff=kind) for n in (48, 96)] for kind in ("full", "half"))
    assert math.log2(full[0] / full[1]) > 2.8
    assert math.log2(half[0] / half[1]) == pytest.approx(2, abs=0.3) and half[1] > 5 * full[1]


def test_the_table_of_the_documentation() -> None:
    """Orders as measured above, sources as `workbench.cite` prints them, and what the tables of coefficients hold."""
    page = (Path(__file__).parents[2] / "docs" / "samplers.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    cells = [row for row in cells if len(row) == 7]
    assert [row[0].strip("`") for row in cells] == list(SAMPLERS)
    measured = {row[0]: row[1] for row in USUAL}
    for name, order, *numbers, source in ([row[0].strip("`"), *row[1:]] for row in cells):
        jumps = any(stage.jump is not None for stage in wb.plan(name, "vp", 4).stages)
        assert order == "jump" if jumps else int(order[0]) == measured[name], name
        assert source == REFERENCES[USES[name][0]].eprint, name
        plan = wb.plan(name, "vp", 24, "logsnr", t_start=0.95, t_end=0.05)
        starts = [i for i, stage in enumerate(plan.stages) if not stage.inner]
        here, after = starts[len(starts) // 2 : len(starts) // 2 + 2]
        step = [row for stage in plan.stages[here:after] for row in (stage.x, stage.base) if row]
        noise = any(stage.x.noise for stage in plan.stages)
        words = [
            str(after - here),
            str(max(len(row.outputs) for row in step)),
            *("yes" if word else "no" for word in (any(row.base for row in step), noise)),
        ]
        assert numbers == words, name
