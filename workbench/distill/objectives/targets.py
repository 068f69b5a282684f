"""TARGET: what the student's x0 estimate should be, without gradient: one of seven rules (methods/trajectory.md, section 0.1).

A rule is called as rule(teacher, student, point, rng): `student` is the target network (the live one, or its average), and
the result is the x0 estimate X whose jump t -> s lands where the rule says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Guided, Network, Scaled, rows_of
from workbench.distill.objectives.maps import (
    ask,
    average_velocity,
    estimate,
    from_average,
    jump,
    size_of,
    tau_of,
    teacher_steps,
    total_derivative,
    velocity,
)
from workbench.errors import WorkbenchError, check_count, unknown
from workbench.paths import per_sample

SMALL = 1e-4  # of a time: below it a jump is the identity, and no network is asked


class Point(NamedTuple):
    """Where the student is asked: x_t at times t, jump's end s, and between them r, (n,) each; with the data x0 and noise eps that
    made x_t where they are known, and the fraction of the run that is done."""

    x: Tensor
    t: Tensor
    s: Tensor
    cond: Tensor | None
    x0: Tensor | None = None
    r: Tensor | None = None
    eps: Tensor | None = None
    progress: float = 0.0


class Target(Protocol):
    """TARGET: the x0 estimate to be had at the point, without gradient.

    A rule may say of itself `asks_teacher` (else True), `asks_student`: whether the target net is asked (else True), `guides_itself`:
    without a teacher, guidance is folded into its velocity (else False), and `needs_end`: the student must be told where a jump ends (else False).
    """

    def __call__(self, teacher: Denoiser, student: Network, point: Point, rng: torch.Generator | None = None) -> Tensor: ...


@dataclass(frozen=True)
class StoredEndpoint:
    """The pair's own x0 (rule T1)."""

    asks_teacher: ClassVar[bool] = False
    asks_student: ClassVar[bool] = False

    def __call__(self, teacher: Denoiser, student: Network, point: Point, rng: torch.Generator | None = None) -> Tensor:
        return point.x0


@dataclass(frozen=True)
class TeacherSteps:
    """Where `count` steps of the teacher from t to s lead (rule T2); count 0 is the teacher's own x0 estimate at x_t.

    Two steps of DDIM are progressive distillation (arXiv 2202.00512, algorithm 2).
    """

    count: int = 2
    solver: str = "ddim"
    asks_student: ClassVar[bool] = False

    def __post_init__(self):
        check_count("count", self.count, 0)
        _check_solver(self.solver)

    def __call__(self, teacher: Denoiser, student: Network, point: Point, rng: torch.Generator | None = None) -> Tensor:
        x, t, s, cond = point.x, point.t, point.s, point.cond
        if self.count == 0:
            return teacher(x, t, cond).to(x)
        return estimate(teacher.path, x, teacher_steps(teacher, x, t, s, cond, self.count, self.solver), t, s)


@dataclass(frozen=True)
class DiscreteConsistency:
    """The student's own answer one step nearer the data, at r (rule T3; arXiv 2303.01469, eq. 7), exact at r = s.

    Attributes:
        substeps: steps of the teacher between t and r. solver: "ddim" or "heun".
        shared: no teacher: the same x0 and noise at r (consistency training, eq. 10).
        eta: of a stochastic teacher step (SCott, arXiv 2403.01505); above 0 the fixed point is not the ODE's map.
    """

    substeps: int = 1
    solver: str = "ddim"
    shared: bool = False
    eta: float = 0.0

    def __post_init__(self):
        check_count("substeps", self.substeps)
        _check_solver(self.solver)
        if not 0 <= self.eta <= 1:
            raise WorkbenchError(f"eta is {self.eta}, but must lie between 0 (the ODE) and 1 (ancestral).")

    @property
    def asks_teacher(self) -> bool:
        """Whether a step of the teacher leads to r."""
        return not self.shared

    def __call__(self, teacher: Denoiser, student: Network, point: Point, rng: torch.Generator | None = None) -> Tensor:
        x, t, r, s, cond = point.x, point.t, point.r, point.s, point.cond
        path = student.path
        if self.shared:
            x_r = path.mix(point.x0, point.eps, r)
        else:
            x_r = teacher_steps(teacher, x, t, r, cond, self.substeps, self.solver, self.eta, rng)
        answer = ask(student, x_r, r.clamp_min(SMALL), cond, s)
        if not student.two_times:  # the answer is f(x_r, r, 0); at r = 0 the boundary f(x, 0) = x holds by construction
            return torch.where(per_sample(r, x) > SMALL, answer, x_r)
        landed = torch.where(per_sample(r - s, x) > SMALL, jump(path, x_r, answer, r.clamp_min(SMALL), s), x_r)
        return estimate(path, x, landed, t, s)


@dataclass(frozen=True)
class Eulerian:
    """u = V - (t - s) du/dt, the total derivative along (V, 1, 0) (rule T4; MeanFlow, arXiv 2505.13447, eq. 8).

    Attributes:
        source: "data", V = eps - x0 of the sample itself, or "teacher" (AYF, arXiv 2506.14603, eq. 7). Under guidance w the
            data's is w V + (1 - w) u(x, t, t) without a label (MeanFlow, section 4.2).
        normalise: divide the tangent V - u - (t - s) du/dt by its norm + `c`, per sqrt(dimension) (sCM, arXiv 2410.11081, eq. 11).
        warmup: share of the run over which the derivative's weight rises from 0 to 1.
        exact: forward-mode derivative, or central differences.
    """

    source: str = "data"
    normalise: bool = False
    c: float = 0.1
    warmup: float = 0.0
    exact: bool = True
    guides_itself: ClassVar[bool] = True

    def __post_init__(self):
        _check_source(self.source)

    @property
    def asks_teacher(self) -> bool:
        """Whether V is the teacher's."""
        return self.source == "teacher"

    def __call__(self, teacher: Denoiser, student: Network, point: Point, rng: torch.Generator | None = None) -> Tensor:
        x, t, s, path = point.x, point.t, point.s, student.path
        tau, tau_s = tau_of(path, t), tau_of(path, s)
        v = self._velocity(teacher, student, point)
        u, slope = along(student, point, v, self.exact)
        grown = 1.0 if self.warmup <= 0 else min(1.0, point.progress / self.warmup)
        tangent = v - u - per_sample(tau - tau_s, x) * grown * slope
        if self.normalise:
            tangent = _normalised(tangent, self.c)
        return from_average(path, x, t, u + tangent)

    def _velocity(self, teacher: Denoiser, student: Network, point: Point) -> Tensor:
        return _velocity(self.source, teacher, student, point)


@dataclass(frozen=True)
class SelfMixed(Eulerian):
    """As `Eulerian` from data, with w V + kappa u(x, t, t, cond) + (1 - w - kappa) u(x, t, t) under guidance w (MeanFlow, arXiv 2505.13447, eq. 20).

    Attributes:
        kappa: share of the conditional answer; None for 1 - w, so that the unconditional one is not asked (MP1, arXiv 2507.10543,
            whose w is 2), which extrapolates past the student's own answer and has the same fixed point as no guidance.
    """

    kappa: float | None = None

    def __post_init__(self):
        if self.source != "data":
            raise WorkbenchError(
                f"source is {self.source!r}, but the mix is of the data's velocity: use Eulerian for the teacher's."
            )

    def _velocity(self, teacher: Denoiser, student: Network, point: Point) -> Tensor:
        v, x, t, cond = point.eps - point.x0, point.x, point.t, point.cond
        scale = teacher.scale if isinstance(teacher, (Guided, Scaled)) else 1.0
        w = per_sample(rows_of(scale, v), v)
        kappa = 1 - w if self.kappa is None else self.kappa
        mixed = w * v + kappa * average_velocity(student, x, t, t, cond)
        if self.kappa is None or cond is None:
            return mixed if self.kappa is None else mixed + (1 - w - kappa) * average_velocity(student, x, t, t, None)
        null = average_velocity(student, x, t, t, torch.full_like(cond, -1))
        return torch.where(per_sample(cond, v) >= 0, mixed + (1 - w - kappa) * null, v)


@dataclass(frozen=True)
class TrigTangent:
    """The tangent of continuous consistency on TrigFlow (rule T4 at s = 0; sCM, arXiv 2410.11081, eqs. 6, 8 and 9, algorithm 1).

    With f = cos(a) x - sin(a) F on x = cos(a) x0 + sin(a) z: g = -cos^2(a) (F - dx/da) - r cos(a) sin(a) (x + dF/da), r rising over
    `warmup`, and F is pulled to F + g / (|g| + c). Any teacher will do, since every path is carried to the trigonometric one
    exactly (SANA-Sprint, arXiv 2503.09641, eq. 3). The paper's learned weight of each time is left out: normalised tangents have a norm near 1 at all of them.

    Attributes:
        source: "teacher" (sCD) or "data" (sCT). normalise, c: divide g by its norm per sqrt(dimension) + c. exact: as in `Eulerian`.
    """

    source: str = "teacher"
    normalise: bool = True
    c: float = 0.1
    warmup: float = 0.2
    exact: bool = True

    def __post_init__(self):
        _check_source(self.source)

    @property
    def asks_teacher(self) -> bool:
        """Whether the trajectory is the teacher's."""
        return self.source == "teacher"

    def tangent(self, teacher: Denoiser, student: Network, point: Point, grown: float = 1.0) -> tuple[Tensor, Tensor]:
        """(F, g) at the point, before normalisation."""
        x, t, path = point.x, point.t, student.path
        v = _velocity(self.source, teacher, student, point)
        angle = per_sample(angle_of(path, t), x)
        cos, sin = angle.cos(), angle.sin()
        size = cos + sin  # of the linear state: x_linear = x_trig / size
        x_linear = x / size_of(path, t, x)
        x_trig = size * x_linear
        x0, eps = x_linear - sin / size * v, x_linear + cos / size * v
        dx = cos * eps - sin * x0
        u, slope = along(student, point, v, self.exact)
        target = x_linear - sin / size * u
        big = (cos * x_trig - target) / sin
        # the x0 estimate changes by d(x - tau u) = v - u - tau du for each unit of tau, and tau by 1 / size^2 for each of the angle
        change = (v - u - sin / size * slope) / size**2
        d_big = ((-sin * x_trig + cos * dx - change) - cos * big) / sin
        return big, -(cos**2) * (big - dx) - grown * cos * sin * (x_trig + d_big)

    def __call__(self, teacher: Denoiser, student: Network, point: Point, rng: torch.Generator | None = None) -> Tensor:
        grown = 1.0 if self.warmup <= 0 else min(1.0, point.progress / self.warmup)
        big, g = self.tangent(teacher, student, point, grown)
        x, t, path = point.x, point.t, student.path
        angle = per_sample(angle_of(path, t), x)
        x_trig = (angle.cos() + angle.sin()) * x / size_of(path, t, x)
        return angle.cos() * x_trig - angle.sin() * (big + (_normalised(g, self.c) if self.normalise else g))


@dataclass(frozen=True)
class Lagged:
    """The student's own point at r, one teacher step later, as its jump from the top to s (rule T5; BOOT, arXiv 2306.05544, eq. 9).

    y = X(r) + (1 - rho_s / rho_r) (D(x_r, r) - X(r)), x_r the student's own; at s = t the anchor X = D(x, t) (eq. 11).
    """

    needs_end: ClassVar[bool] = True

    def __call__(self, teacher: Denoiser, student: Network, point: Point, rng: torch.Generator | None = None) -> Tensor:
        x, t, r, s, cond, path = point.x, point.t, point.r, point.s, point.cond, student.path
        mine = ask(student, x, t, cond, r)
        at_r = jump(path, x, mine, t, r)
        top = per_sample(r, x) >= per_sample(t, x)
        believed = teacher(torch.where(top, x, at_r), r, cond).to(x)
        moved = jump(path, torch.where(top, x, at_r), believed, r, s.minimum(r))
        return torch.where(per_sample(t - s, x) > SMALL, estimate(path, x, moved, t, s.minimum(t - SMALL)), believed)


@dataclass(frozen=True)
class Lagrangian:
    """u = v(f, s) + (t - s) du/ds with the teacher asked at the student's own point f (rule T6).

    FreeFlow's predictor at t = 1 (arXiv 2511.19428), AYF-LMD elsewhere (arXiv 2506.14603, eq. 9).
    """

    exact: bool = True
    needs_end: ClassVar[bool] = True

    def __call__(self, teacher: Denoiser, student: Network, point: Point, rng: torch.Generator | None = None) -> Tensor:
        x, t, s, cond, path = point.x, point.t, point.s.clamp(SMALL, 1 - SMALL), point.cond, student.path
        tau, tau_s = tau_of(path, t), tau_of(path, s)
        if path.name != "linear":  # near the data a path's own time may race against the linear one
            tau_s = tau_s.clamp(SMALL, 1 - SMALL)
            s = path.time(torch.log1p(-tau_s) - tau_s.log())
        one = torch.ones_like(tau_s)
        u, slope = total_derivative(
            lambda y, end: average_velocity(student, y, t, path.time(torch.log1p(-end) - end.log()), cond),
            x, tau_s, torch.zeros_like(x), one, self.exact,
        )  # fmt: skip
        landed = jump(path, x, from_average(path, x, t, u), t, s)
        return from_average(path, x, t, velocity(teacher, landed, s, cond) + per_sample(tau - tau_s, x) * slope)


@dataclass(frozen=True)
class Semigroup:
    """Two jumps of the student itself, t -> r -> s (rule T7; SplitMeanFlow, arXiv 2507.16884, eq. 9); V where s = t, its only anchor."""

    source: str = "data"
    guides_itself: ClassVar[bool] = True
    needs_end: ClassVar[bool] = True

    def __post_init__(self):
        _check_source(self.source)

    @property
    def asks_teacher(self) -> bool:
        """Whether V is the teacher's."""
        return self.source == "teacher"

    def __call__(self, teacher: Denoiser, student: Network, point: Point, rng: torch.Generator | None = None) -> Tensor:
        x, t, r, s, cond, path = point.x, point.t, point.r, point.s, point.cond, student.path
        tau, tau_r, tau_s = (tau_of(path, time) for time in (t, r, s))
        first = average_velocity(student, x, t, r, cond)
        x_r = jump(path, x, from_average(path, x, t, first), t, r)
        second = average_velocity(student, x_r, r.clamp_min(SMALL), s, cond)
        share = per_sample(((tau - tau_r) / (tau - tau_s).clamp_min(1e-12)).clamp(0, 1), x)
        composed = share * first + (1 - share) * second
        v = _velocity(self.source, teacher, student, point)
        return from_average(path, x, t, torch.where(per_sample(t - s, x) > SMALL, composed, v))


def angle_of(path, t: Tensor) -> Tensor:
    """TrigFlow's time: atan(sigma / alpha), float64."""
    return torch.atan2(path.sigma(t.double()), path.alpha(t.double()))


def along(student: Network, point: Point, v: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """(u, du/dtau) of the student at the point along the linear path's ODE, whose slope is v."""
    x, t, path = point.x, point.t, student.path
    if path.name == "linear":
        ask_at, start, first = lambda y, time: average_velocity(student, y, time, point.s, point.cond), x, t.double()
    else:
        start, first = x / size_of(path, t, x), tau_of(path, t)

        def ask_at(y: Tensor, tau: Tensor) -> Tensor:
            time = path.time(torch.log1p(-tau) - tau.log())
            return average_velocity(student, y * size_of(path, time, y), time, point.s, point.cond)

    return total_derivative(ask_at, start, first, v, torch.ones_like(first), exact)


def _velocity(source: str, teacher: Denoiser, student: Network, point: Point) -> Tensor:
    if source == "teacher":
        return velocity(teacher, point.x, point.t, point.cond)
    v, cond = point.eps - point.x0, point.cond
    scale = teacher.scale if isinstance(teacher, (Guided, Scaled)) else 1.0
    if cond is None or (not isinstance(scale, Tensor) and scale == 1):
        return v
    null = average_velocity(student, point.x, point.t, point.t, torch.full_like(cond, -1))
    w = per_sample(rows_of(scale, v), v)
    return torch.where(per_sample(cond, v) >= 0, w * v + (1 - w) * null, v)


def _normalised(tangent: Tensor, c: float) -> Tensor:
    norm = tangent.flatten(1).square().mean(1).sqrt()
    return tangent / per_sample(norm + c, tangent)


def _check_solver(solver: str) -> None:
    if solver not in ("ddim", "heun"):
        raise unknown("solver", solver, ("ddim", "heun"))


def _check_source(source: str) -> None:
    if source not in ("data", "teacher"):
        raise unknown("source", source, ("data", "teacher"))
