"""Stability regions worked out from the rows that run, against closed forms: root conditions, and the paper's claim on momentum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from workbench.errors import UnknownName, WorkbenchError
from workbench.samplers.momentum import ghvb_weights
from workbench.samplers.multistep import ADAMS
from workbench.samplers.stability import TOLERANCE, real_interval, stability, stability_region

PLANE = torch.complex(*torch.meshgrid(torch.linspace(-3, 0.5, 24).double(), torch.linspace(0, 2, 13).double(), indexing="xy"))


def inside(sampler: str, z: Tensor, **options: object) -> Tensor:
    return stability(sampler, z, **options) <= 1 + TOLERANCE


def momentum_roots(kind: str, order: int, beta: float, z: Tensor) -> Tensor:
    """Largest root of (r - 1) (r - 1 + beta) r^(p - 2) ... = z sum of weights: v_i = (1 - beta) v_(i-1) + beta e_i put into the step."""
    weights = [beta * c for c in ghvb_weights(order, beta)] if kind == "ghvb" else [beta * c for c in ADAMS[order]]
    degree = max(2, order)
    characteristic = torch.zeros(len(z), degree + 1, dtype=torch.complex128)  # r^degree first
    characteristic[:, :3] = torch.tensor([1.0, -(2 - beta), 1 - beta])
    for k, c in enumerate(weights):
        characteristic[:, 1 + k] -= c * z
    companion = torch.zeros(len(z), degree, degree, dtype=torch.complex128)
    companion[:, 0] = -characteristic[:, 1:]
    for place in range(1, degree):
        companion[:, place, place - 1] = 1
    return torch.linalg.eigvals(companion).abs().amax(-1)


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpm_1", "flow_map"])
def test_first_order_is_the_disc(sampler: str) -> None:
    assert torch.allclose(stability(sampler, PLANE), (1 + PLANE).abs(), atol=2e-5)


@pytest.mark.parametrize(
    ("sampler", "order"), [("heun", 2), ("dpm_2", 2), ("dpmpp_2s", 2), ("dpm_3", 3)], ids=lambda value: str(value)
)
def test_one_step_methods_have_the_taylor_polynomial_of_their_order(sampler: str, order: int) -> None:
    taylor = sum(PLANE**k / math.factorial(k) for k in range(order + 1))
    assert torch.allclose(stability(sampler, PLANE), taylor.abs(), atol=5e-5)


@pytest.mark.parametrize(("order", "interval"), [(1, -2.0), (2, -1.0), (3, -6 / 11), (4, -3 / 10)])
def test_adams_bashforth_reaches_what_every_textbook_says(order: int, interval: float) -> None:
    for sampler in ("ab", "ipndm", "deis"):
        assert real_interval(sampler, order=order) == pytest.approx(interval, rel=2e-4)


def test_solvers_of_one_order_on_x0_and_on_eps_have_one_region() -> None:
    """Over short steps; and a corrector that costs no evaluation has the region of one order more."""
    for sampler, options, order in (
        ("dpmpp_2m", {}, 2),
        ("dpmpp_3m", {}, 3),
        ("deis", {"variable": "log_snr"}, 3),
        ("unipc", {"order": 2, "corrector": False}, 2),
        ("unipc", {"order": 1}, 2),
        ("unipc", {"order": 2}, 3),
        ("unipc", {"order": 3}, 4),
    ):
        assert torch.allclose(stability(sampler, PLANE, **options), stability("ab", PLANE, order=order), atol=2e-3), sampler


@pytest.mark.parametrize("kind", ["ghvb", "hb"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_momentum_obeys_its_characteristic_polynomial(kind: str, order: int) -> None:
    z = PLANE.flatten()
    for beta in (1.0, 0.97, 0.8, 0.5):  # 0.97 runs on rows of another form
        found = stability(kind, z, order=order, beta=beta)
        assert torch.allclose(found, momentum_roots(kind, order, beta, z), rtol=1e-4, atol=1e-4), beta


@pytest.mark.parametrize("beta", [1.0, 0.8, 0.5])
def test_momentum_reaches_farther_left_the_smaller_beta(beta: float) -> None:
    """At r = -1 the root condition gives every interval in closed form."""
    plain = {1: -2.0, 2: -1.0, 3: -6 / 11, 4: -3 / 10}
    for order, interval in plain.items():
        theory = -2 * (2 - beta) / abs(sum((-1) ** k * beta * c for k, c in enumerate(ghvb_weights(order, beta))))
        assert real_interval("ghvb", order=order, beta=beta) == pytest.approx(theory, rel=2e-4)
        assert real_interval("hb", order=order, beta=beta) == pytest.approx(interval * (2 - beta) / beta, rel=2e-4)
        assert theory <= interval + 1e-12


@pytest.mark.parametrize(("beta", "lost"), [(0.8, 0.065), (0.5, 0.216)])
def test_the_region_of_ghvb_1_is_an_ellipse_that_does_not_cover_the_disc(beta: float, lost: float) -> None:
    """What the paper's claim leaves out: near the imaginary axis momentum loses stability."""
    wide = (2 - beta) / beta
    angle = torch.linspace(0.1, 3.0, 40, dtype=torch.float64)
    edge = torch.complex(wide * (angle.cos() - 1), angle.sin())
    assert torch.allclose(stability("ghvb", edge, order=1, beta=beta), torch.ones(40).double(), atol=1e-5)
    z = torch.complex(*torch.meshgrid(torch.linspace(-2, 0, 81).double(), torch.linspace(0, 1, 41).double(), indexing="xy"))
    disc = inside("ghvb", z, order=1, beta=1.0)
    kept = inside("ghvb", z[disc], order=1, beta=beta)
    assert 1 - float(kept.double().mean()) == pytest.approx(lost, abs=0.02)
    assert inside("euler", torch.tensor([-0.1 + 0.42j])) and not inside("ghvb", torch.tensor([-0.1 + 0.42j]), order=1, beta=0.5)


def test_a_region_is_the_same_numbers_on_a_grid() -> None:
    region = stability_region("ab", real=(-2, 1), imag=1.5, points=13, order=2)
    assert region.radius.shape == (len(region.imag), len(region.real)) == (6, 13)
    assert float(region.imag[0]) == 0 and region.interval == pytest.approx(-1, rel=1e-4)
    z = torch.complex(region.real[3], region.imag[4])
    assert float(region.radius[4, 3]) == pytest.approx(float(stability("ab", z, order=2)), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stability("ddpm", [-1.0]), "adds noise"),
        (lambda: stability("heun", [-1.0], s_churn=10), "adds noise"),
        (lambda: stability("ab", [-1.0], dualfast=0.3), "change along the run"),
        (lambda: stability("ab", "left"), "complex numbers"),
        (lambda: stability_region("ab", real=(1, -1)), "between two real numbers"),
    ],
)
def test_what_has_no_region_is_said_in_a_sentence(call, says: str) -> None:
    with pytest.raises(WorkbenchError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_unknown_option_names_what_there_is() -> None:
    with pytest.raises(UnknownName, match="order"):
        stability("ab", [-1.0], oder=2)


def test_what_momentum_gains_and_loses_of_the_region() -> None:
    """The areas that the module's docstring states, on a grid of 0.02 in the upper half plane, which the lower one mirrors."""

    def inside(sampler: str, **options: object) -> Tensor:
        x, y = torch.arange(-7, 1, 0.02, dtype=torch.float64), torch.arange(0.01, 2, 0.02, dtype=torch.float64)
        z = torch.complex(*torch.meshgrid(x, y, indexing="ij"))
        return stability(sampler, z, **options) <= 1 + 1e-9

    disc = inside("ghvb", order=1, beta=1.0)
    for beta, grown, lost in ((0.8, 1.5, 0.065), (0.5, 3.0, 0.22)):
        region = inside("ghvb", order=1, beta=beta)
        assert float(region.sum() / disc.sum()) == pytest.approx(grown, rel=0.02)
        assert float((disc & ~region).sum() / disc.sum()) == pytest.approx(lost, abs=0.01)
    for order in (2, 3, 4):
        base, region = (inside("hb", order=order, beta=beta) for beta in (1.0, 0.5))
        assert 4 <= float(region.sum() / base.sum()) <= 6.2
        assert 0.15 < float((base & ~region).sum() / base.sum()) < 0.3
