"""Learned steps: a small network chooses the next log-SNR of every sample, and when to stop, from what the sampler sees.

After each evaluation it sees where the sample is, how far and how fast the x0 estimate just moved, whether that motion speeds up
and turns, and how large the remaining noise looks: nothing of the data, so one policy runs on any teacher of its path, in any
dimension. `workbench.step_training` trains it. The idea to let reinforcement learning choose time steps is Saz Ulibarrena and
Portegies Zwart's (arXiv 2502.12809), for the three-body problem.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path as Folder
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workbench import paths
from workbench.denoiser import Denoiser
from workbench.errors import MissingSource, WorkbenchError, check_count, unknown
from workbench.files import read_json, to_json, write_together
from workbench.paths import Path, per_sample
from workbench.samplers.adaptive import heun_pair
from workbench.samplers.policy import Place, Policy, Visit, Visits, jump, place
from workbench.samplers.run import run
from workbench.samplers.sample import noise_for

CARD, WEIGHTS = "policy.json", "policy.safetensors"
FEATURES = 7
FURTHEST = 20.0  # log-SNR beyond which nothing is left to see in double precision
SOFT = 1e-3  # while training, samples that are less likely than this to be still on their way are no longer followed
Move = Generator[Visit, Tensor, Tensor]


class Chooser(nn.Module):
    """(log-SNR, features) -> (log of the step, logit of stopping): a table along log-SNR plus a network of two layers.

    Args:
        nodes: log-SNRs (k,) of a fixed schedule, rising; untrained, the chooser takes its steps and stops after it.
    """

    def __init__(self, nodes: Tensor, width: int = 64):
        super().__init__()
        nodes = torch.as_tensor(nodes, dtype=torch.float64)
        self.register_buffer("nodes", nodes)
        steps = nodes.diff().log()
        self.table = nn.Parameter(torch.cat([steps, steps[-1:]]))
        layers = nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        self.net = nn.Sequential(*layers).double()
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, log_snr: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Both (n,), from log-SNRs (n,) and features (n, 7), float64."""
        nodes, out = self.nodes, self.net(features)
        left = (torch.searchsorted(nodes, log_snr.detach().contiguous()) - 1).clamp(0, len(nodes) - 2)
        share = ((log_snr - nodes[left]) / (nodes[left + 1] - nodes[left])).clamp(0, 1)
        table = torch.lerp(self.table[left], self.table[left + 1], share)
        gap = nodes[-1] - nodes[-2]
        stop = 6 * ((log_snr - nodes[-1]) / gap + 0.25)
        return table + 2 * torch.tanh(out[:, 0] / 2), stop + 3 * out[:, 1]


class Exit(NamedTuple):
    """One way to end, followed in training: its probability (n,), its samples (n, ...), and the evaluations on the way (n,)."""

    probability: Tensor
    x: Tensor
    evaluations: Tensor


class Seen(NamedTuple):
    """What is kept of the last visit: estimate, its change, the log of its rate, and the step after it."""

    x0: Tensor
    change: Tensor | None
    rate: Tensor
    step: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class LearnedSteps(Policy):
    """A trained policy; run it with `workbench.run`, or as `workbench.sample(model, n, sampler=policy)`.

    Attributes:
        solver: ddim, dpmpp_2m or heun. net: what chooses. most: steps of one sample, after which it stops.
        evaluations: mean over samples that it was set to. pace: added to the log of every step. card: how it was made.
    """

    solver: str
    net: Chooser
    most: int
    evaluations: float
    pace: float = 0.0
    card: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.sampler}, {self.solver}, {self.evaluations:g} evaluations on average on {self.path.name}"

    def with_solver(self, solver: str) -> LearnedSteps:
        """The same choices with another solver, nothing retrained; its evaluations are those of as many steps.

        The mean moves a little, since the policy sees other estimates: `paced` sets it.

        Raises:
            UnknownName: for a solver that does not run with a time for each sample.
        """
        if solver not in SOLVERS:
            raise unknown("solver of learned steps", solver, SOLVERS)
        old, new = SOLVERS[self.solver].evaluations, SOLVERS[solver].evaluations
        if self.path.sigma(self.times[1]) == 0:  # the last step, to clean data, takes one
            return replace(self, solver=solver, evaluations=1 + (self.evaluations - 1) * new / old)
        return replace(self, solver=solver, evaluations=self.evaluations * new / old)

    def paced(
        self, model: Denoiser, evaluations: float, n: int = 1024, seed: int = 1, noise: Tensor | None = None, cond: Any = None
    ) -> LearnedSteps:
        """The same choices, all steps longer or shorter by one factor, so that a sample makes `evaluations` on average, not more.

        Args:
            n, seed: samples that the mean is measured on; or give their noise (n, ...).

        Raises:
            WorkbenchError: if no factor between 1/20 and 20 reaches that mean.
        """
        noise = noise_for(model, check_count("n", n), seed) if noise is None else noise
        low, high = -3.0, 3.0
        if mean_evaluations(replace(self, pace=high), model, noise, cond) > evaluations:
            raise WorkbenchError(
                f"{evaluations:g} evaluations on average are too few for this policy: train one, or allow more."
            )
        for _ in range(14):
            middle = (low + high) / 2
            fewer = mean_evaluations(replace(self, pace=middle), model, noise, cond) <= evaluations
            low, high = (low, middle) if fewer else (middle, high)
        return replace(self, pace=high, evaluations=float(evaluations))

    def stages(self, x: Tensor) -> Visits:
        """Go from states x (n, ...) at the first time to the last."""
        return self.walk(x)

    def walk(self, x: Tensor, exits: list[Exit] | None = None) -> Visits:
        """The same; given a list, the choice to stop stays a probability, and every way to end is put there."""
        path, ones, (first, last) = self.path, torch.ones(len(x), dtype=torch.float64), self.times
        s, end = place(path, first * ones), place(path, last * ones)
        clean, regular = path.sigma(last) == 0, int(path.alpha(first) == 0)  # from visit `regular` on log-SNR is finite
        at, seen, done = self.net.nodes[0] * ones, None, x
        limit = FURTHEST if clean else path.log_snr(last)
        alive, spent, extra = ones, 0 * ones, SOLVERS[self.solver].evaluations - 1
        for i in range(self.most):
            running = alive > (0 if exits is None else SOFT)
            if not bool(running.any()):
                break
            x0 = yield Visit(s.t, x, running)
            features, change, rate = look_at(i, at, x, x0, s, seen)
            log_step, stop = self.net(at, features)
            step = (log_step + self.pace).clamp(max=4.0).exp()
            stop = torch.sigmoid(stop + 3 * self.pace)
            stop = torch.where((at + step >= limit) | (i == self.most - 1), 1.0, stop)
            ratio = step / seen.step if seen and i > regular else None
            spent = spent + 1
            if exits is None:
                ending = stop > 0.5
                ahead = place(path, torch.where(ending, end.t, path.time((at + step).clamp(max=limit))))
                if not clean and ratio is not None:
                    ratio = torch.where(ending, (limit - at) / seen.step, ratio)
                direct = ending if clean else torch.zeros_like(ending)
                moved = yield from self._move(x, x0, s, ahead, i, seen, ratio, running & ~direct)
                moved = _where(direct, jump(x, x0, s, end), moved)
                done, alive = _where(running & ending, moved, done), alive * ~ending
            else:
                if clean:
                    final = jump(x, x0, s, end)
                else:
                    to_end = None if ratio is None else (limit - at) / seen.step
                    final = yield from self._move(x, x0, s, end, i, seen, to_end, running)
                exits.append(Exit(alive * stop * running, final, spent + (0 if clean else extra)))
                ahead = place(path, path.time((at + step).clamp(max=limit)))
                moved = yield from self._move(x, x0, s, ahead, i, seen, ratio, running)
                spent, alive = spent + extra, alive * (1 - stop)
            seen = Seen(x0, change, rate, step)
            x, at = _where(running, moved, x), torch.where(running, at + step, at)
            s = place(path, torch.where(running, ahead.t, s.t))
        return done

    def _move(
        self, x: Tensor, x0: Tensor, s: Place, t: Place, i: int, seen: Seen | None, ratio: Tensor | None, running: Tensor
    ) -> Move:
        if i == 0 and self.path.alpha(self.times[0]) == 0 and not self.path.smooth:
            return jump(x, x0, s, t)  # from pure noise every solver is of order 1, unless it integrates in t
        return (yield from SOLVERS[self.solver].move(self.path, x, x0, s, t, seen, ratio, running))


def look_at(i: int, at: Tensor, x: Tensor, x0: Tensor, s: Place, seen: Seen | None) -> tuple[Tensor, Tensor | None, Tensor]:
    """(features (n, 7), change of the estimate, log of its rate): log-SNR; rate and size of the change of the x0 estimate, how
    the rate changes, the cosine between this change and the last; size of the noise estimate; whether it is the first visit."""
    zero = torch.zeros_like(at)
    noise = _square((x - per_sample(s.alpha, x) * x0) / per_sample(s.sigma, x))
    size = rate = turn = growth = zero
    change = None
    if seen is not None:
        change = x0 - seen.x0
        size = 0.5 * torch.log(_square(change) + 1e-10) / 3
        rate = size - seen.step.log() / 3
        growth = rate - seen.rate if i > 1 else zero
        if seen.change is not None:
            both = torch.sqrt((_square(change) + 1e-12) * (_square(seen.change) + 1e-12))
            turn = (change * seen.change).flatten(1).mean(1).cpu().double() / both
    first = torch.full_like(at, float(i == 0))
    return torch.stack([at / 3, rate, size, growth, turn, torch.log(noise + 1e-6), first], 1), change, rate


class Solver(NamedTuple):
    """A solver whose every sample has its own times: how it moves, and its evaluations a step."""

    move: Callable[..., Move]
    evaluations: int


def _ddim(path: Path, x: Tensor, x0: Tensor, s: Place, t: Place, seen: Any, ratio: Any, running: Tensor) -> Move:
    """As `workbench.samplers.solvers.ddim`."""
    yield from ()  # it asks for nothing
    return jump(x, x0, s, t)


def _dpmpp_2m(path: Path, x: Tensor, x0: Tensor, s: Place, t: Place, seen: Seen, ratio: Tensor | None, running: Tensor) -> Move:
    """As `dpmpp_2m`: the estimate extrapolated by half of ratio = h / h_before times its last change."""
    yield from ()
    return jump(x, x0 if ratio is None else x0 + per_sample(0.5 * ratio, x) * (x0 - seen.x0), s, t)


def _heun(path: Path, x: Tensor, x0: Tensor, s: Place, t: Place, seen: Any, ratio: Any, running: Tensor) -> Move:
    """As `heun`: in t on smooth paths, in rho elsewhere."""
    if not bool(running.any()):
        return x
    kind = "flow" if path.smooth else "eps"
    slope = path.convert(x0, x, s.t, "x0", kind)
    return (yield from heun_pair(kind)(path, x, slope, s, t, running))[1]


SOLVERS = {"ddim": Solver(_ddim, 1), "dpmpp_2m": Solver(_dpmpp_2m, 1), "heun": Solver(_heun, 2)}


def mean_evaluations(policy: Policy, model: Denoiser, noise: Tensor, cond: Any = None) -> float:
    """Evaluations of a run over these samples, on average."""
    *_, last = run(policy, model, noise, cond)
    return last.nfe


def save_steps(policy: LearnedSteps, folder: str | os.PathLike) -> None:
    """Write a policy: `policy.safetensors` and `policy.json`, both or neither.

    Raises:
        WorkbenchError: for a path that its name does not make again, weights that are not finite, or a full disk.
    """
    from safetensors.torch import save as serialize

    if paths.get(policy.path.name) is not policy.path:
        raise WorkbenchError(f"a policy on the path {policy.path.name!r} cannot be stored: train it on a path that has a name.")
    state = {name: value.detach().contiguous() for name, value in policy.net.state_dict().items()}
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise WorkbenchError("the policy's weights hold NaN or infinite values: nothing was written.")
    weights = serialize(state)
    card = {
        "sampler": policy.sampler, "path": policy.path.name, "times": list(policy.times), "solver": policy.solver,
        "evaluations": policy.evaluations, "pace": policy.pace, "most": policy.most, "nodes": len(policy.net.nodes),
        "width": policy.net.net[0].out_features, **policy.card, "sha256": hashlib.sha256(weights).hexdigest(),
    }  # fmt: skip
    write_together(
        {
            Folder(folder) / WEIGHTS: lambda file: file.write_bytes(weights) and None,
            Folder(folder) / CARD: lambda file: file.write_text(to_json(card), encoding="utf-8") and None,
        }
    )


def load_steps(folder: str | os.PathLike) -> LearnedSteps:
    """Read what `save_steps` wrote.

    Raises:
        MissingSource: if there is no policy. WorkbenchError: if a file is damaged, or not what the card says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Folder(folder)
    if not (folder / CARD).exists() or not (folder / WEIGHTS).exists():
        raise MissingSource(f"{folder} holds no learned steps ({CARD} and {WEIGHTS}): give the folder that they were saved in.")
    card, weights = read_json(folder / CARD), (folder / WEIGHTS).read_bytes()
    known = {"sampler", "path", "times", "solver", "evaluations", "pace", "most", "nodes", "width", "sha256"}
    if not isinstance(card, dict) or not known <= set(card):
        raise WorkbenchError(f"{folder / CARD} is damaged: restore it, or save the policy again.")
    if hashlib.sha256(weights).hexdigest() != card["sha256"]:
        raise WorkbenchError(
            f"{folder / WEIGHTS} does not match the SHA-256 on its card: it was truncated or changed; save it again."
        )
    if card["solver"] not in SOLVERS:
        raise unknown("solver of learned steps", card["solver"], SOLVERS)
    try:
        net = Chooser(torch.linspace(0, 1, int(card["nodes"])), int(card["width"]))
        net.load_state_dict(load(weights))
        net.requires_grad_(False)
        times, numbers = tuple(float(t) for t in card["times"]), {key: float(card[key]) for key in ("evaluations", "pace")}
        made = LearnedSteps(
            str(card["sampler"]), paths.get(card["path"]), times, solver=str(card["solver"]), net=net, most=int(card["most"]), **numbers,
            card={key: value for key, value in card.items() if key not in known},
        )  # fmt: skip
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise WorkbenchError(f"{folder} is damaged ({str(error).splitlines()[0]}): save the policy again.") from error
    return made


def _square(v: Tensor) -> Tensor:
    """Mean square of each sample, (n,), float64."""
    return v.flatten(1).square().mean(1).cpu().double()


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (yes.dim() - 1)).to(yes.device), yes, no)
