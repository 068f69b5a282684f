"""Analytic mixtures against brute force: quadrature, autograd, and draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import workbench as wb
from workbench import paths
from workbench.errors import WorkbenchError
from workbench.teachers.mixture import ANALYTIC, Mixture

F64 = torch.float64
COVARIANCES = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.05], [-0.05, 0.4]], [[0.1, 0.0], [0.0, 0.1]]], dtype=F64)
MEANS = [[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]
FULL = Mixture(MEANS, COVARIANCES, [1.0, 2.0, 3.0], labels=[0, 1, 1])
every_path = pytest.mark.parametrize("path", paths.NAMES)


def grid(d: int, width: float, count: int) -> tuple[Tensor, float]:
    axis = torch.linspace(-width, width, count, dtype=F64)
    return torch.cartesian_prod(*[axis] * d).reshape(-1, d), float(axis[1] - axis[0]) ** d


def brute_force(density: Tensor, points: Tensor, x: Tensor, alpha: float, sigma: float, cell: float) -> tuple[Tensor, Tensor]:
    """Posterior mean and p_t(x) by a sum over a grid of x0 (the trapezoid rule is spectrally exact for smooth decaying ones)."""
    d = points.shape[1]
    likelihood = torch.exp(-(x[:, None] - alpha * points).square().sum(-1) / (2 * sigma**2)) / (2 * math.pi * sigma**2) ** (
        d / 2
    )
    joint = likelihood * density * cell
    return (joint @ points) / joint.sum(1, keepdim=True), joint.sum(1)


class Sizes(TorchDispatchMode):
    """Remembers the size of the largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, function, types, given=(), named=None):
        made = function(*given, **(named or {}))
        if isinstance(made, Tensor) and made.untyped_storage().size() > 0:
            self.largest = max(self.largest, made.untyped_storage().size() // made.element_size())
        return made


@every_path
def test_one_dimension_against_quadrature(path: str) -> None:
    teacher = wb.mixture([[1.0], [-0.5]], [0.3, 0.2], [1.0, 2.0], path)
    points, cell = grid(1, 5.0, 4001)
    p = points[:, 0]

    def bump(mean: float, scale: float) -> Tensor:
        return torch.exp(-((p - mean) ** 2) / (2 * scale**2)) / (scale * math.sqrt(2 * math.pi))

    density = bump(1.0, 0.3) / 3 + 2 * bump(-0.5, 0.2) / 3
    assert torch.allclose(teacher.log_density(points).exp(), density, rtol=1e-10, atol=1e-300)
    for t in (0.45, 0.7, 0.99):
        alpha, sigma = teacher.path.alpha(t), teacher.path.sigma(t)
        x = alpha * torch.tensor([[-1.0], [0.1], [2.0]], dtype=F64) + sigma * torch.tensor([[0.3], [-0.5], [0.5]], dtype=F64)
        mean, evidence = brute_force(density, points, x, alpha, sigma, cell)
        assert torch.allclose(teacher(x, t), mean, atol=1e-9)
        assert torch.allclose(teacher.log_density(x, t), evidence.log(), atol=1e-9)


@pytest.mark.parametrize("cond", [None, 0, 1])
def test_two_dimensions_with_full_covariances_against_quadrature(cond: int | None) -> None:
    points, cell = grid(2, 5.0, 301)
    modes = torch.distributions.MultivariateNormal(torch.tensor(MEANS, dtype=F64), COVARIANCES)
    weight = torch.tensor({None: [1.0, 2.0, 3.0], 0: [1.0, 0.0, 0.0], 1: [0.0, 2.0, 3.0]}[cond], dtype=F64)
    density = modes.log_prob(points[:, None]).exp() @ (weight / weight.sum())
    x = torch.tensor([[0.5, 0.2], [-0.7, 0.4], [0.1, -1.5]], dtype=F64)
    mean, evidence = brute_force(density, points, x, 0.6, 0.4, cell)
    assert torch.allclose(FULL(x, 0.4, cond), mean, atol=1e-9)
    assert torch.allclose(FULL.log_density(x, 0.4, cond), evidence.log(), atol=1e-9)


@every_path
@pytest.mark.parametrize("name", ["full", "eight_gaussians", "mixture64"])
def test_tweedie(path: str, name: str) -> None:
    """The gradient of the exact log density is (alpha D - x) / sigma^2."""
    teacher = FULL.on(path) if name == "full" else ANALYTIC[name](path)
    times = torch.tensor([0.3, 0.5, 0.8, 0.99], dtype=F64)
    rng = torch.Generator().manual_seed(0)
    eps = torch.randn(4, *teacher.shape, generator=rng, dtype=F64)
    x = teacher.path.mix(teacher.sample(4), eps, times).requires_grad_()
    (score,) = torch.autograd.grad(teacher.log_density(x, times).sum(), x)
    alpha, sigma = teacher.path.alpha(times)[:, None], teacher.path.sigma(times)[:, None]
    assert torch.allclose(sigma * score, (alpha * teacher(x, times) - x) / sigma, rtol=1e-9, atol=1e-8)


@every_path
def test_full_and_isotropic_agree(path: str) -> None:
    scales = torch.tensor([0.3, 0.4, 0.5], dtype=F64)
    isotropic = Mixture(MEANS, scales, path=path, labels=[0, 1, 1])
    full = Mixture(MEANS, scales.square()[:, None, None] * torch.eye(2, dtype=F64), path=path, labels=[0, 1, 1])
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    for t in (0.0, 0.4, 1.0):
        for cond in (None, torch.tensor([0, 1, -1, 0, 1, -1])):
            assert torch.allclose(full(x, t, cond), isotropic(x, t, cond), atol=1e-12)
            assert torch.allclose(full.log_density(x, t, cond), isotropic.log_density(x, t, cond), atol=1e-12)
    moved = full.on("linear").on(path)
    assert torch.allclose(moved(x, 0.4), full(x, 0.4), atol=1e-12) and moved.path is full.path


def test_both_ends() -> None:
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    mean = torch.tensor([1.0, 2.0, 3.0], dtype=F64) @ torch.tensor(MEANS, dtype=F64) / 6
    assert torch.allclose(FULL(x, 0.0), x, atol=1e-14)  # clean data is its own mean
    assert torch.allclose(FULL(x, 1.0), mean.expand(4, 2), atol=1e-14)  # pure noise says nothing


def test_one_time_per_sample_and_precision() -> None:
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    times = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    for i, t in enumerate(times.tolist()):
        assert torch.allclose(FULL(x, times)[i], FULL(x[i : i + 1], t)[0], atol=1e-14)
    single = FULL(x.float(), 0.5)
    assert single.dtype == torch.float32 and torch.allclose(single.double(), FULL(x, 0.5), atol=1e-5)


def test_far_away_it_stays_finite() -> None:
    x = torch.tensor([[300.0, -400.0]], dtype=F64)
    assert torch.isfinite(FULL(x, 1e-3)).all() and torch.isfinite(FULL.log_density(x, 1e-3)).all()
    assert torch.isfinite(ANALYTIC["eight_gaussians"]()(x.float(), 1e-3)).all()


def test_sample_moments() -> None:
    n = 40_000
    x, labels = FULL.sample(n, seed=3, labels=True)
    weights, means = FULL.weights, torch.tensor(MEANS, dtype=F64)
    mean = weights @ means
    second = torch.einsum("k,kij->ij", weights, COVARIANCES + means[:, :, None] * means[:, None])
    covariance = second - mean[:, None] * mean
    assert x.dtype == F64 and ((x.mean(0) - mean).abs() < 5 * covariance.diagonal().sqrt() / math.sqrt(n)).all()
    assert ((x.T.cov() - covariance).abs() < 5 * 2 * covariance.diagonal().max() / math.sqrt(n)).all()
    assert abs(float((labels == 1).double().mean()) - 5 / 6) < 5 * math.sqrt(5 / 36 / n)
    only = FULL.sample(n // 4, seed=3, cond=0)
    assert (only.mean(0) - means[0]).abs().max() < 5 * math.sqrt(0.3 / (n // 4))
    assert torch.equal(FULL.sample(5, seed=1), FULL.sample(5, seed=1))


def test_samples_of_full_covariances_are_drawn_mode_by_mode() -> None:
    """As with a matrix for every draw, which 100 000 draws of 64 numbers have no room for."""
    teacher, n, d = ANALYTIC["mixture64"](), 4000, 64
    rng = torch.Generator().manual_seed(7)
    mode = torch.multinomial(teacher.weights.expand(n, -1), 1, generator=rng).squeeze(1)
    z = torch.randn(n, d, generator=rng, dtype=F64) * teacher.spectrum[mode].sqrt()
    sizes = Sizes()
    with sizes:
        x, labels = teacher.sample(n, seed=7, labels=True)
    assert torch.equal(labels, mode) and sizes.largest == n * d
    first = slice(0, 200)
    turned = torch.einsum("nij,nj->ni", teacher.axes[mode[first]], z[first])
    assert torch.allclose(x[first], teacher.means[mode[first]] + turned, atol=1e-13)
    for k in (0, 9):
        mine = x[mode == k]
        covariance = teacher.axes[k] @ torch.diag(teacher.spectrum[k]) @ teacher.axes[k].T
        deviation = covariance.diagonal().sqrt()
        assert ((mine.mean(0) - teacher.means[k]).abs() < 5 * deviation / math.sqrt(len(mine))).all()
        allowed = 6 * deviation[:, None] * deviation / math.sqrt(len(mine))  # 4096 entries, of standard error at most sqrt(2)
        assert ((mine.T.cov() - covariance).abs() < math.sqrt(2) * allowed).all()


@pytest.mark.parametrize("name", ANALYTIC)
def test_catalogue(name: str) -> None:
    teacher = ANALYTIC[name]("cosine")
    x, labels = teacher.sample(64, labels=True)
    assert teacher.name == name and teacher.path is paths.cosine and x.shape == (64, *teacher.shape)
    assert set(labels.tolist()) <= set(range(teacher.classes))
    guess = torch.stack([teacher.log_density(x, cond=k) for k in range(teacher.classes)]).argmax(0)
    assert float((guess == labels).double().mean()) > 0.9  # a sample is likeliest under its own class
    assert torch.isfinite(teacher(x, 0.5)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [0.1, 0.1]), "must be .modes, dimensions."),
        (([[1.0], [2.0, 3.0]], [0.1, 0.1]), "means must be a tensor or lists"),
        (([["a"]], [0.1]), "means must be a tensor or lists"),
        (([[1.0], [2.0]], [0.1]), "2 modes in 1 dimensions need"),
        (([[1.0]], [0.0]), "positive"),
        (([[1.0]], [-0.1]), "positive"),
        (([[float("nan")]], [0.1]), "finite"),
        (([[1.0]], [0.1], [0.0]), "positive weights"),
        (([[1.0]], [0.1], [1.0, 2.0]), "positive weights"),
        (([[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
        (([[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "positive"),
        (([[0.0]], [0.1], None, "lineer"), "did you mean 'linear'"),
        (([[0.0]], [0.1], None, "linear", [0, 1]), "2 labels were given for 1 modes"),
        (([[0.0], [1.0]], [0.1, 0.1], None, "linear", [0, 2]), "labels"),
    ],
)
def test_impossible_mixtures(arguments: tuple, message: str) -> None:
    with pytest.raises(WorkbenchError, match=message):
        wb.mixture(*arguments)


def test_bad_calls() -> None:
    x = torch.zeros(3, 2, dtype=F64)
    with pytest.raises(WorkbenchError, match=r"lives in \(n, 2\)"):
        FULL(torch.zeros(3, 3), 0.5)
    with pytest.raises(WorkbenchError, match=r"class \[2"):
        FULL(x, 0.5, 2)
    with pytest.raises(WorkbenchError, match="has no classes"):
        wb.mixture([[0.0, 0.0]], [1.0])(x, 0.5, 0)
    with pytest.raises(WorkbenchError, match="one for each of the 3 samples"):
        FULL(x, torch.tensor([0.1, 0.2]))
    with pytest.raises(WorkbenchError, match="n is 0"):
        FULL.sample(0)
