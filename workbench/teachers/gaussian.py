"""Gaussian teachers with structure: a random field on a grid, at every resolution, and a sequence of frames.

For x0 ~ N(m, C) the posterior mean is linear, D(x) = m + alpha C (alpha^2 C + sigma^2 I)^-1 (x - alpha m), so every
sampler is an affine map of its noise and its law is known without drawing a sample.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from workbench import paths
from workbench.denoiser import tally
from workbench.errors import WorkbenchError, check_count
from workbench.paths import Path

F64 = torch.float64


class GaussianField:
    """A Gaussian random field on a torus of N x N pixels as a denoiser, exact in float64.

    Made by `gaussian_field`; `down` gives the same field at a lower resolution, `given` the same field once its
    low-resolution version is known (then `cond` is that picture, at any resolution that averages to it).

    Attributes:
        shape: (1, N, N). basis: (N^2, N^2), columns are the eigenvectors. spectrum: (N^2,) variances along them.
        frequency: (N^2,) larger of the two frequencies in cycles a side, or None where the field is not stationary.
        covariance: (N^2, N^2).
    """

    def __init__(
        self,
        basis: Tensor,
        spectrum: Tensor,
        path: str | Path = "linear",
        frequency: Tensor | None = None,
        low: int | None = None,
        regress: Tensor | None = None,
    ):
        size = math.isqrt(len(spectrum))
        self.path, self.shape, self.name = paths.get(path), (1, size, size), f"gaussian field {size}x{size}"
        self.size, self.low, self.regress = size, low, regress
        self.basis, self.spectrum, self.frequency = basis, spectrum, frequency

    @property
    def covariance(self) -> Tensor:
        """Covariance of the pixels, row by row."""
        return (self.basis * self.spectrum) @ self.basis.T

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None) -> Tensor:
        if x.dim() != 4 or x.shape[1:] != self.shape:
            raise WorkbenchError(f"x has shape {tuple(x.shape)}, but this field lives in (n, 1, {self.size}, {self.size}).")
        times = torch.as_tensor(t, dtype=F64)
        alpha, sigma = (f(times).to(x).reshape(-1, 1) for f in (self.path.alpha, self.path.sigma))
        spectrum, basis = self.spectrum.to(x), self.basis.to(x)
        gain = torch.where(spectrum > 0, alpha * spectrum / (alpha**2 * spectrum + sigma**2), 0.0)
        mean = self._mean(cond, x)
        tally(len(x))
        return (mean + ((x.flatten(1) - alpha * mean) @ basis * gain) @ basis.T).view_as(x)

    def sample(self, n: int, seed: int = 0, cond: Any = None) -> Tensor:
        """n exact draws of the data (n, 1, N, N), float64."""
        rng = torch.Generator().manual_seed(seed)
        z = torch.randn(check_count("n", n), len(self.spectrum), generator=rng, dtype=F64)
        return (self._mean(cond, z) + (z * self.spectrum.sqrt()) @ self.basis.T).view(n, *self.shape)

    def power(self, x: Tensor) -> Tensor:
        """Mean square of each coefficient of pictures x (n, 1, N, N): (N^2,), to be compared with `spectrum`."""
        return (x.double().flatten(1) @ self.basis).square().mean(0)

    def down(self, size: int) -> GaussianField:
        """The law of this field averaged over blocks of pixels, exact: a stationary field of size x size with folded spectrum."""
        mean = block_mean(self.size, size)
        basis, frequency = hartley(size)
        return GaussianField(basis, ((mean.T @ basis).T @ self.basis).square() @ self.spectrum, self.path, frequency)

    def given(self, size: int, noise: float = 0.0) -> GaussianField:
        """The law of this field given its average over blocks, size x size, seen with Gaussian noise of this deviation.

        `cond` of the result is that picture (n, 1, size, size), or one of larger size whose block means it is.
        """
        mean, covariance = block_mean(self.size, size), self.covariance
        seen = mean @ covariance @ mean.T + noise**2 * torch.eye(size * size, dtype=F64)
        regress = torch.linalg.solve(seen, mean @ covariance).T
        spectrum, basis = torch.linalg.eigh(covariance - regress @ mean @ covariance)
        spectrum = torch.where(spectrum > 1e-10 * self.spectrum.max(), spectrum, 0.0)
        return GaussianField(basis, spectrum, self.path, None, size, regress)

    def _mean(self, cond: Any, like: Tensor) -> Tensor:
        if self.regress is None:
            return torch.zeros(1, len(self.spectrum)).to(like)
        if cond is None:
            raise WorkbenchError(f"this field is conditional: give cond, a picture (n, 1, {self.low}, {self.low}).")
        picture = torch.nn.functional.adaptive_avg_pool2d(getattr(cond, "image", cond).to(like), self.low)
        return picture.flatten(1) @ self.regress.to(like).T


def gaussian_field(size: int = 16, slope: float = 3.0, path: str | Path = "linear") -> GaussianField:
    """A stationary Gaussian field of size x size pixels of variance 1, power falling like (1 + |k|^2)^(-slope / 2).

    Raises:
        WorkbenchError: for an impossible size or a slope that is not finite.

    >>> field = gaussian_field(8)
    >>> field(torch.zeros(3, 1, 8, 8), 0.5).shape, round(float(field.covariance[5, 5]), 6)
    (torch.Size([3, 1, 8, 8]), 1.0)
    """
    size = check_count("size", size, 2, 64)
    if not math.isfinite(slope):
        raise WorkbenchError(f"slope is {slope}, but must be a finite number; 3 looks like clouds.")
    basis, frequency = hartley(size)
    k = torch.arange(size, dtype=F64)
    k = torch.minimum(k, size - k)
    spectrum = (1 + k[:, None] ** 2 + k[None] ** 2).flatten() ** (-slope / 2)
    return GaussianField(basis, spectrum / spectrum.mean(), path, frequency)


def hartley(size: int) -> tuple[Tensor, Tensor]:
    """The real Fourier (Hartley) basis of a size x size grid (size^2, size^2), and each column's larger frequency."""
    at = torch.arange(size, dtype=F64)
    angle = 2 * math.pi / size * at[:, None] * at[None]
    line = (angle.cos() + angle.sin()) / math.sqrt(size)
    k = torch.minimum(at, size - at)
    return torch.kron(line, line), torch.maximum(k[:, None], k[None]).flatten()


def block_mean(size: int, low: int) -> Tensor:
    """The matrix (low^2, size^2) that averages blocks of pixels.

    Raises:
        WorkbenchError: unless low divides size.
    """
    if low < 1 or size % low:
        raise WorkbenchError(f"a field of {size} x {size} cannot be averaged to {low} x {low}: take a divisor of {size}.")
    line = torch.eye(low, dtype=F64).repeat_interleave(size // low, 1) * low / size
    return torch.kron(line, line)


class GaussianSequence:
    """Frames x_1 .. x_F of d numbers, jointly Gaussian, as a denoiser that takes one time a frame; exact in float64.

    With a = diag(alpha(t_f)) and s = diag(sigma(t_f)), D(x) = C a (a C a + s^2)^-1 x.

    Args:
        covariance: (F d, F d), positive definite. frames: F. path: name or `Path`.

    Raises:
        WorkbenchError: for a covariance that does not fit.
    """

    def __init__(self, covariance: Tensor, frames: int, path: str | Path = "linear"):
        covariance = torch.as_tensor(covariance, dtype=F64)
        frames = check_count("frames", frames)
        if covariance.dim() != 2 or covariance.shape[0] != covariance.shape[1] or len(covariance) % frames:
            raise WorkbenchError(f"covariance has shape {tuple(covariance.shape)}, but {frames} frames need (F d, F d).")
        if int(torch.linalg.cholesky_ex(covariance).info):
            raise WorkbenchError("the covariance is not positive definite.")
        self.covariance, self.frames = covariance, frames
        self.path, self.shape, self.name = paths.get(path), (frames, len(covariance) // frames), "gaussian sequence"

    def __call__(self, x: Tensor, t: float | Tensor, cond: Any = None) -> Tensor:
        """x0 estimate of x (n, F, d) at one time, times (n,), or times (n, F)."""
        times = torch.as_tensor(t, dtype=F64)
        times = times[:, None] if times.dim() == 1 else times.reshape(1, 1) if times.dim() == 0 else times
        if x.dim() != 3 or x.shape[1:] != self.shape or times.shape not in ((1, 1), (len(x), 1), (len(x), self.frames)):
            raise WorkbenchError(
                f"x {tuple(x.shape)} and t {tuple(times.shape)} do not fit: this sequence takes (n, {self.frames}, "
                f"{self.shape[1]}) with one time, n times, or (n, {self.frames}) times."
            )
        if len(times) > 1 and bool((times == times[:1]).all()):
            times = times[:1]  # one solve serves all samples
        times = times.expand(-1, self.frames).repeat_interleave(self.shape[1], 1)
        alpha, sigma = self.path.alpha(times), self.path.sigma(times)
        left = alpha[:, :, None] * self.covariance * alpha[:, None] + torch.diag_embed(sigma.square())
        gain = torch.linalg.solve(left, alpha[:, :, None] * self.covariance).mT.to(x)
        tally(len(x))
        return (gain @ x.flatten(1)[:, :, None]).view_as(x)

    def conditional(self, frame: int) -> tuple[Tensor, Tensor]:
        """(A, Q) of x_frame given all earlier frames: N(A [x_0 .. x_{frame-1}], Q), frames counted from 0."""
        d = self.shape[1]
        start, stop = frame * d, (frame + 1) * d
        across, own = self.covariance[:start, start:stop], self.covariance[start:stop, start:stop]
        weight = torch.linalg.solve(self.covariance[:start, :start], across).T
        return weight, own - weight @ across


def rotating_sequence(
    frames: int = 4, turn: float = 45.0, memory: float = 0.9, ratio: float = 0.2, path: str | Path = "linear"
) -> GaussianSequence:
    """A 2-D Gaussian of deviations 1 and `ratio` that turns by `turn` degrees a frame: an AR(1) with R a rotation.

    x_{f+1} = memory R x_f + sqrt(1 - memory^2) R^{f+1} S z, so frame f has the covariance of frame 0 turned f times.

    >>> rotating_sequence().covariance.shape
    torch.Size([8, 8])
    """
    if not 0 <= memory < 1 or not ratio > 0:
        raise WorkbenchError(f"memory {memory} must lie in [0, 1) and ratio {ratio} be positive.")
    angle = math.radians(turn)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=F64)
    powers = [torch.linalg.matrix_power(rotation, f) for f in range(check_count("frames", frames))]
    scale = torch.diag(torch.tensor([1.0, ratio**2], dtype=F64))
    blocks = [[memory ** abs(f - g) * powers[f] @ scale @ powers[g].T for g in range(frames)] for f in range(frames)]
    whole = torch.cat([torch.cat(row, 1) for row in blocks])
    return GaussianSequence((whole + whole.T) / 2, frames, path)
