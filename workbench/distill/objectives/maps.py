"""A student as a flow map, and its derivatives along the teacher's ODE.

All rules are stated on the linear path, to which every path is carried exactly: tau = sigma / (alpha + sigma) and
x / (alpha + sigma). There x = (1 - tau) x0 + tau eps, the velocity is v = eps - x0, and a jump t -> s of a student whose
x0 estimate is X(x, t, s) is f = x - (tau_t - tau_s) u with the average velocity u = (x - X) / tau_t (MeanFlow, arXiv
2505.13447, eq. 3). The x0 estimate itself is the same number on every path.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench.denoiser import Denoiser, Network
from workbench.errors import WorkbenchError
from workbench.paths import Path, per_sample

FINITE_STEP = 5e-4  # of time: at 2e-3 a network whose embedding turns at 256 is off by 4 %, below 1e-4 single precision rounds


def tau_of(path: Path, t: Tensor) -> Tensor:
    """The linear path's time with the same noise-to-signal ratio, float64.

    >>> from workbench import paths
    >>> tau_of(paths.get("linear"), torch.tensor([0.25])), tau_of(paths.get("trig"), torch.tensor([0.5]))
    (tensor([0.2500], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    t = t.double()
    if path.name == "linear":
        return t
    alpha, sigma = path.alpha(t), path.sigma(t)
    return sigma / (alpha + sigma)


def size_of(path: Path, t: Tensor, like: Tensor) -> Tensor | float:
    """alpha + sigma, by which a state is divided to lie on the linear path."""
    return 1.0 if path.name == "linear" else per_sample(path.alpha(t.double()) + path.sigma(t.double()), like)


def ask(student: Network, x: Tensor, t: Tensor, cond: Tensor | None, s: Tensor | None) -> Tensor:
    """The student's x0 estimate; the end of the jump goes in where the network takes it."""
    return student(x, t, cond, s=s) if student.two_times else student(x, t, cond)


def average_velocity(student: Network, x: Tensor, t: Tensor, s: Tensor | None, cond: Tensor | None) -> Tensor:
    """u(x_t, s, t) on the linear path, (n, ...); x lies on the student's own path."""
    if student.path.name == "linear" and student.kind == "flow":
        return student.predict(x, t, cond, s) if student.two_times else student.predict(x, t, cond)
    target = ask(student, x, t, cond, s)
    return (x / size_of(student.path, t, x) - target) / per_sample(tau_of(student.path, t), x)


def velocity(teacher: Denoiser, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
    """The teacher's v on the linear path at a state of its own path."""
    return (x / size_of(teacher.path, t, x) - teacher(x, t, cond).to(x)) / per_sample(tau_of(teacher.path, t), x)


def from_average(path: Path, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
    """The x0 estimate of an average velocity: x - tau u."""
    return x / size_of(path, t, x) - per_sample(tau_of(path, t), x) * u


def jump(path: Path, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Where the deterministic step t -> s with the x0 estimate held lands (DDIM, arXiv 2010.02502, eq. 12); times (n,)."""
    t, s = t.double(), s.double()
    kept = path.sigma(s) / path.sigma(t)
    return per_sample(kept, x) * x + per_sample(path.alpha(s) - kept * path.alpha(t), x) * x0


def estimate(path: Path, x: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The x0 estimate whose step t -> s from x lands at x_s: the inverse of `jump`, s < t (arXiv 2202.00512, eq. 38)."""
    t, s = t.double(), s.double()
    kept = path.sigma(s) / path.sigma(t)
    return (x_s - per_sample(kept, x) * x) / per_sample(path.alpha(s) - kept * path.alpha(t), x)


def teacher_steps(
    teacher: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Tensor | None, count: int = 1, solver: str = "ddim",
    eta: float = 0.0, rng: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """`count` steps of the teacher from t to s, equal in time; solver "ddim", or "heun" (the same step with the two slopes averaged).

    Args:
        eta: share of fresh noise in a step that keeps the marginals: 0 is deterministic, 1 ancestral (DDIM, eq. 16).
    """
    path, now = teacher.path, t
    for k in range(count):
        later = t + (s - t) * (k + 1) / count
        x0 = teacher(x, now, cond).to(x)
        moved = jump(path, x, x0, now, later)
        if solver == "heun":
            inside = later.clamp_min(
                1e-4
            )  # at the data's end the second slope would divide by zero: weight it by the step alone
            second = teacher(moved, inside, cond).to(x)
            mean = torch.where(per_sample(later, x) > 0, 0.5 * (x0 + second), x0)
            moved = jump(path, x, mean, now, later)
        if eta:
            moved = _noised(path, x, x0, now, later, eta, rng)
        x, now = moved, later
    return x


def _noised(path: Path, x: Tensor, x0: Tensor, t: Tensor, s: Tensor, eta: float, rng: torch.Generator) -> Tensor:
    alpha_t, sigma_t, alpha_s, sigma_s = path.alpha(t), path.sigma(t), path.alpha(s), path.sigma(s)
    fresh = eta * sigma_s * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2).clamp_min(0).sqrt()
    kept = (sigma_s**2 - fresh**2).clamp_min(0).sqrt() / sigma_t
    noise = torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
    return per_sample(kept, x) * x + per_sample(alpha_s - kept * alpha_t, x) * x0 + per_sample(fresh, x) * noise


def total_derivative(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, dx: Tensor, dt: Tensor, exact: bool = True
) -> tuple[Tensor, Tensor]:
    """(function, its derivative along (dx, dt)) at (x, t), without gradient.

    Args:
        exact: forward-mode differentiation (torch.func.jvp, with attention computed plainly); else central differences
            with the step 5e-4, for networks that forward mode cannot pass.

    Raises:
        WorkbenchError: for such a network.
    """
    with torch.no_grad():
        if exact:
            with _plain():
                try:
                    return torch.func.jvp(function, (x, t), (dx, dt))
                except RuntimeError as error:  # also NotImplementedError
                    if not any(word in str(error) for word in ("forward AD", "jvp", "functorch", "forward-mode")):
                        raise
                    reason = str(error).strip().splitlines()[0].rstrip(".")
                    raise WorkbenchError(
                        f"this network has no derivative in forward mode ({reason}): set exact=False for central differences."
                    ) from error
        h = FINITE_STEP
        return function(x, t), (function(x + h * dx, t + h * dt) - function(x - h * dx, t - h * dt)) / (2 * h)


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """Without what has no forward-mode derivative: fused attention, and compiled networks, which would stay uncompiled ever after."""
    compiler = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
    with sdpa_kernel(SDPBackend.MATH), compiler:
        yield
