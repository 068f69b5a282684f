"""Analytic teachers: Gaussian mixtures, whose posterior mean and density are exact on every path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench import paths
from workbench.denoiser import tally
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path


class Mixture:
    """A Gaussian mixture sum_k w_k N(mu_k, C_k) as a denoiser, exact in float64.

    With C_k = U_k diag(l_k) U_k^T, x_t is the mixture of N(alpha mu_k, alpha^2 C_k + sigma^2 I), and

        D(x) = sum_k r_k(x) [ mu_k + alpha U_k diag(l_k / (alpha^2 l_k + sigma^2)) U_k^T (x - alpha mu_k) ]

    with responsibilities r_k computed in log space.

    Args:
        means: (K, d). scales: K standard deviations, or K full covariances (K, d, d).
        weights: K positive numbers, equal by default. labels: class of each mode, for a conditional teacher.
        path: name or `Path`.

    Raises:
        WorkbenchError: for shapes that do not fit, non-positive scales or weights, or covariances not positive definite.
    """

    def __init__(
        self,
        means: Tensor | Sequence,
        scales: Tensor | Sequence,
        weights: Tensor | Sequence | None = None,
        path: str | Path = "linear",
        labels: Sequence[int] | None = None,
        name: str = "mixture",
    ):
        self.means, scales = _numbers("means", means), _numbers("scales", scales)
        if self.means.dim() != 2:
            raise WorkbenchError(f"means have shape {tuple(self.means.shape)}, but must be (modes, dimensions).")
        k, d = self.means.shape
        scales = scales.expand(k) if scales.dim() == 0 else scales
        self.isotropic = scales.dim() == 1
        if scales.shape not in ((k,), (k, d, d)):
            raise WorkbenchError(
                f"scales have shape {tuple(scales.shape)}, but {k} modes in {d} dimensions need ({k},) or ({k}, {d}, {d})."
            )
        if self.isotropic:
            self.spectrum, self.axes = scales.square()[:, None].expand(k, d), None
        else:
            if not torch.isfinite(scales).all() or not torch.allclose(scales, scales.mT):
                raise WorkbenchError("the covariances are not finite and symmetric.")
            self.spectrum, self.axes = torch.linalg.eigh(scales)
            self.basis = self.axes.permute(1, 0, 2).reshape(d, k * d)  # x @ basis is x in the axes of every mode
            self.turned = torch.einsum("kij,ki->kj", self.axes, self.means)
        weights = torch.ones(k, dtype=torch.float64) if weights is None else _numbers("weights", weights)
        finite = all(bool(torch.isfinite(values).all()) for values in (self.means, self.spectrum, weights))
        if not finite or weights.shape != (k,) or bool((weights <= 0).any()) or bool((self.spectrum <= 0).any()):
            raise WorkbenchError(f"a mixture of {k} modes needs {k} positive weights and positive, finite scales.")
        if self.isotropic and bool((scales <= 0).any()):
            raise WorkbenchError("scales are standard deviations and must be positive.")
        self.weights = weights / weights.sum()
        self.labels = None if labels is None else torch.as_tensor(labels).long()
        if self.labels is not None and self.labels.shape != (k,):
            raise WorkbenchError(f"{len(self.labels)} labels were given for {k} modes: give one a mode.")
        self.classes = 0 if self.labels is None else int(self.labels.max()) + 1
        if self.labels is not None and sorted(set(self.labels.tolist())) != list(range(self.classes)):
            raise WorkbenchError(
                f"labels {self.labels.tolist()[:8]} must be 0 to the number of classes - 1, each given to a mode."
            )
        self.path, self.shape, self.name = paths.get(path), (d,), name

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None) -> Tensor:
        self._check(x)
        alpha, sigma = self._coefficients(x, t)
        offset, variance = self._offset(x, alpha, sigma)
        r = torch.softmax(self._log_joint(offset, variance, cond, len(x)), dim=1)
        spectrum = self.spectrum.to(x)
        pull = r[:, :, None] * (alpha[:, :, None] * spectrum / variance * offset)
        tally(len(x))
        turned = pull.sum(1) if self.axes is None else pull.flatten(1) @ self.basis.to(x).T
        return torch.addmm(turned, r, self.means.to(x))

    def log_density(self, x: Tensor, t: float | Tensor = 0.0, cond: Any = None) -> Tensor:
        """Exact log p_t(x), shape (n,); at t = 0 that of the data."""
        self._check(x)
        offset, variance = self._offset(x, *self._coefficients(x, t))
        return torch.logsumexp(self._log_joint(offset, variance, cond, len(x)), dim=1)

    def sample(self, n: int, seed: int = 0, cond: Any = None, labels: bool = False) -> Any:
        """n exact draws of the data (n, d), float64; with `labels` also their classes (n,)."""
        check_count("n", n)
        rng = torch.Generator().manual_seed(seed)
        prior = self._log_prior(cond, n).exp()
        mode = torch.multinomial(prior, 1, generator=rng).squeeze(1)
        z = torch.randn(n, self.shape[0], generator=rng, dtype=torch.float64) * self.spectrum[mode].sqrt()
        if self.axes is not None:  # mode by mode: a matrix for every draw would be n d^2 numbers
            for k in mode.unique().tolist():
                drawn = mode == k
                z[drawn] = z[drawn] @ self.axes[k].T
        x = self.means[mode] + z
        return (x, self.labels[mode]) if labels and self.labels is not None else x

    def on(self, path: str | Path) -> Mixture:
        """The same law on another path."""
        scales = self.spectrum[:, 0].sqrt() if self.isotropic else self.axes @ torch.diag_embed(self.spectrum) @ self.axes.mT
        return Mixture(self.means, scales, self.weights, path, self.labels, self.name)

    def _check(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[1:] != self.shape:
            raise WorkbenchError(f"x has shape {tuple(x.shape)}, but this mixture lives in (n, {self.shape[0]}).")

    def _coefficients(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float64)
        if t.dim() > 1 or (t.dim() == 1 and len(t) not in (1, len(x))):
            raise WorkbenchError(f"t has shape {tuple(t.shape)}: give one time, or one for each of the {len(x)} samples.")
        return tuple(function(t).to(x).reshape(-1, 1) for function in (self.path.alpha, self.path.sigma))

    def _offset(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        # in the axes of each mode: offset (n, K, d); variance (n or 1, K, d)
        variance = alpha[:, :, None] ** 2 * self.spectrum.to(x) + sigma[:, :, None] ** 2
        if self.axes is None:
            return x[:, None] - alpha[:, :, None] * self.means.to(x), variance
        return (x @ self.basis.to(x)).view(len(x), *self.turned.shape) - alpha[:, :, None] * self.turned.to(x), variance

    def _log_prior(self, cond: Any, n: int) -> Tensor:
        log_w = self.weights.log().expand(n, -1)
        if cond is None:
            return log_w
        cond = torch.as_tensor(cond).expand(n).cpu()
        if self.labels is None:
            if bool((cond >= 0).any()):
                raise WorkbenchError("this mixture has no classes: leave cond out, or give labels= when making it.")
            return log_w
        if int(cond.max()) >= self.classes or int(cond.min()) < -1:
            raise WorkbenchError(
                f"class {cond.tolist()[:4]} does not exist: this mixture knows 0 to {self.classes - 1}, and -1 for no class."
            )
        allowed = (cond[:, None] < 0) | (self.labels == cond[:, None])
        masked = log_w.masked_fill(~allowed, -math.inf)
        return masked - torch.logsumexp(masked, 1, keepdim=True)

    def _log_joint(self, offset: Tensor, variance: Tensor, cond: Any, n: int) -> Tensor:
        logs = -0.5 * ((offset.square() / variance).sum(-1) + variance.log().sum(-1) + self.shape[0] * math.log(2 * math.pi))
        return logs + self._log_prior(cond, n).to(logs)


def _numbers(what: str, values: Any) -> Tensor:
    try:
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WorkbenchError(f"{what} must be a tensor or lists of numbers of equal length.") from error


def mixture(
    means: Tensor | Sequence,
    scales: Tensor | Sequence,
    weights: Tensor | Sequence | None = None,
    path: str | Path = "linear",
    labels: Sequence[int] | None = None,
) -> Mixture:
    """Make an analytic teacher from modes; see `Mixture`.

    >>> teacher = mixture([[0.0, 0.0]], [1.0], path="vp")
    >>> x = torch.ones(1, 2, dtype=torch.float64)
    >>> torch.allclose(teacher(x, 0.5), teacher.path.alpha(0.5) * x)
    True
    """
    return Mixture(means, scales, weights, path, labels)


def eight_gaussians(path: str | Path = "linear") -> Mixture:
    """Eight modes on the unit circle, standard deviation 0.1, one class each."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return Mixture(torch.stack([angle.cos(), angle.sin()], 1), [0.1] * 8, path=path, labels=range(8), name="eight_gaussians")


def moons(path: str | Path = "linear") -> Mixture:
    """Two moons, each a chain of 24 small modes along a half circle; one class a moon."""
    angle = (torch.arange(24, dtype=torch.float64) + 0.5) / 24 * math.pi
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    lower = torch.stack([0.5 - angle.cos(), 0.25 - angle.sin()], 1)
    return Mixture(torch.cat([upper, lower]), [0.07] * 48, path=path, labels=[0] * 24 + [1] * 24, name="moons")


def spirals(path: str | Path = "linear") -> Mixture:
    """Two arms of a spiral, each a chain of 40 small modes; one class an arm."""
    turn = 3 * math.pi * ((torch.arange(40, dtype=torch.float64) + 0.5) / 40).sqrt()
    arm = torch.stack([-turn.cos(), turn.sin()], 1) * turn[:, None] / (3 * math.pi)
    return Mixture(torch.cat([arm, -arm]), [0.05] * 80, path=path, labels=[0] * 40 + [1] * 40, name="spirals")


def checkerboard(path: str | Path = "linear") -> Mixture:
    """Eight dark squares of a 4x4 board, each a 4x4 grid of small modes; one class a square."""
    inside = (torch.arange(4, dtype=torch.float64) + 0.5) / 8
    cell = torch.cartesian_prod(inside, inside)
    corners = [((i / 2 - 1), (j / 2 - 1)) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    means = torch.cat([cell + torch.tensor(corner, dtype=torch.float64) for corner in corners])
    return Mixture(means, [0.05] * len(means), path=path, labels=[k for k in range(8) for _ in range(16)], name="checkerboard")


def sixty_four(path: str | Path = "linear") -> Mixture:
    """Ten modes in 64 dimensions with full covariances of falling spectrum; one class each."""
    rng = torch.Generator().manual_seed(64)
    means = torch.randn(10, 64, generator=rng, dtype=torch.float64) * 0.6
    basis = torch.linalg.qr(torch.randn(10, 64, 64, generator=rng, dtype=torch.float64)).Q
    spectrum = 0.05 + 0.5 * torch.exp(-torch.arange(64, dtype=torch.float64) / 8)
    covariance = basis @ torch.diag(spectrum.square()) @ basis.mT
    return Mixture(means, (covariance + covariance.mT) / 2, path=path, labels=range(10), name="mixture64")


ANALYTIC = {
    "eight_gaussians": eight_gaussians,
    "moons": moons,
    "spirals": spirals,
    "checkerboard": checkerboard,
    "mixture64": sixty_four,
}
