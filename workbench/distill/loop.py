"""The training loop: optimisers, averaging, checkpoints and the clock. What is trained is an `Objective`."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from workbench.distill.checkpoint import RunFolder, pack_module, pack_optimizer, unpack_module, unpack_optimizer
from workbench.errors import Diverged, WorkbenchError

HUGE = 1e6  # a weight beyond it says that training has diverged


class Batch(NamedTuple):
    """What one step sees.

    Attributes:
        x0: data (n, ...) or None. cond: labels (n,) or None. size: n. progress: fraction of the run that is done.
        eps: noise that belongs to x0 (stored pairs), or None. w: guidance scales (n,) that made x0, or None.
        keys: states (n, m + 1, ...) of the teacher's trajectory at its key times, or None.
    """

    x0: Tensor | None
    cond: Tensor | None
    size: int
    progress: float = 0.0
    eps: Tensor | None = None
    w: Tensor | None = None
    keys: Tensor | None = None


class Objective(Protocol):
    """Owns players, says whose turn it is, and returns that player's loss.

    `product` names the player whose average becomes the result. `prepare`, if present, is a generator that makes
    what training needs first (stored pairs, say) and yields (done, total) as it goes. `frozen`, if present, holds modules
    without an optimiser that a checkpoint keeps (a target net); `after(progress)` is called once a step; `watch(optimizers)`, if present,
    is given the optimisers by player, before they are loaded.
    """

    players: dict[str, nn.Module]
    product: str

    def turn(self, step: int) -> Sequence[str]:
        """Names of the players to update at this step, in order."""
        ...

    def loss(self, player: str, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a player, with a graph, and parts of it by name, without one; all randomness is from `rng`."""
        ...


@dataclass(frozen=True)
class Optim:
    """AdamW for one player: rate after warm-up, momentum, weight decay, gradient norm limit.

    `decay` is the fraction of the run, at its end, over which the rate falls to zero along a cosine.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: int = 50
    decay: float = 1.0

    def __post_init__(self):
        if not 0 <= self.lr < math.inf:
            raise WorkbenchError(f"a rate (lr) is {self.lr!r}, but must be a number of at least 0, such as 1e-4.")

    def rate(self, step: int, fraction: float) -> float:
        """Learning rate at a step, `fraction` of the way through the run."""
        left = (1 - fraction) / self.decay if self.decay > 0 else 1.0
        cosine = 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, left)))
        return self.lr * min(1.0, (step + 1) / max(1, self.warmup)) * cosine


@dataclass
class Progress:
    """One report of a run.

    Attributes:
        step: player turns are counted once a step; `steps` is the total, or None for a run limited by time.
        losses: name -> float at this step: each player's loss, PLAYER/grad_norm (before clipping), PLAYER/PART, and PLAYER/PART/0 ... 9 for
            tenths of the noise level or, where the part is "calibration" or "share", of a discriminator's probability.
        metrics: name -> float, measured now and then.
        warning: what is going wrong now, in a sentence; "" if nothing is.
        seconds: training time so far, over all sessions of the run.
        stage: what is being done ("pairs", "train", "done").
        samples: call it, samples(n=16, cond=None), for what the averaged network draws now.
        average: the averaged network itself, live.
        student: the result; None until the last report.
    """

    step: int
    steps: int | None
    losses: dict[str, float]
    metrics: dict[str, float]
    seconds: float
    stage: str = "train"
    samples: Callable[..., Tensor] = field(default=lambda *_, **__: torch.empty(0), repr=False)
    average: nn.Module | None = field(default=None, repr=False)
    student: Any = None
    warning: str = ""


def step_rng(seed: int, step: int, device: str | torch.device = "cpu") -> torch.Generator:
    """The generator of one training step: it depends on (seed, step) alone, so a resumed run repeats it."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
    return torch.Generator(device=device).manual_seed(mixed)


def train(
    objective: Objective,
    batches: Callable[[torch.Generator], Batch],
    config: dict[str, Any],
    *,
    run: str | os.PathLike,
    optim: dict[str, Optim],
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    ema: float = 0.999,
    device: str | torch.device = "cpu",
    report_every: int = 20,
    report_seconds: float | None = None,
    checkpoint_seconds: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Train until `steps` or `seconds`, whichever comes first; yields a `Progress` now and then, the last with `stage="done"`.

    The run continues from the last checkpoint in `run`. With `steps` as the limit an interrupted and continued run
    gives the same weights, bit for bit, as an unbroken one. `objective.players[objective.product]` is left holding
    the averaged weights. A report comes every `report_every` steps, and, where steps are slow, after `report_seconds`. `clock` counts the seconds: `time.process_time` makes them those of the processor.

    Raises:
        Diverged: when a loss or gradient is not finite; the last checkpoint stays.
        WorkbenchError: when neither limit is given, or the folder belongs to another run.
    """
    if steps is None and seconds is None:
        raise WorkbenchError("say how long to train: steps=... or seconds=...")
    if not 0 <= ema < 1:
        raise WorkbenchError(f"ema is {ema!r}, but is how much of the average a step keeps, from 0 to below 1.")
    folder = RunFolder(run, {**config, "seed": seed, "steps": steps, "seconds": seconds, "ema": ema,
                             "optim": {name: asdict(value) for name, value in optim.items()}})  # fmt: skip
    players = {name: player.to(device).train() for name, player in objective.players.items()}
    optimizers = {name: _adamw(player, optim[name]) for name, player in players.items()}
    if hasattr(objective, "watch"):
        objective.watch(optimizers)
    frozen = {name: module.to(device) for name, module in getattr(objective, "frozen", {}).items()}
    average = copy.deepcopy(players[objective.product]).requires_grad_(False).eval()
    averaged, followed = list(average.parameters()), list(players[objective.product].parameters())
    step, elapsed = 0, 0.0
    if saved := folder.load():
        tensors, state = saved
        step, elapsed = state["step"], state["seconds"]
        try:
            for name, player in players.items():
                unpack_module(f"player.{name}", player, tensors)
                unpack_optimizer(f"optim.{name}", optimizers[name], tensors)
            unpack_module("average", average, tensors)
            for name, module in frozen.items():
                unpack_module(f"frozen.{name}", module, tensors)
        except (RuntimeError, KeyError, ValueError) as error:  # of an earlier version of the recipe, whose parts were others
            raise WorkbenchError(
                f"the checkpoint in {folder.folder} does not hold what this recipe has now ({' '.join(str(error).split())[:200]}): it stays as "
                "it is; begin again in a new run folder."
            ) from error
    folder.rewind(step)  # also to nothing: a run killed before its first checkpoint begins again

    def save() -> None:
        tensors = pack_module("average", average)
        for name, player in players.items():
            tensors |= pack_module(f"player.{name}", player) | pack_optimizer(f"optim.{name}", optimizers[name])
        for name, module in frozen.items():
            tensors |= pack_module(f"frozen.{name}", module)
        folder.save(tensors, {"step": step, "seconds": elapsed})

    if hasattr(objective, "prepare"):
        for done, total in objective.prepare(folder.folder, seed, device):
            yield Progress(step, steps, {"pairs": float(done)}, {}, elapsed, stage=f"pairs {done}/{total}")

    losses: dict[str, Tensor] = {}
    last_save = last_report = time.monotonic()
    while (steps is None or step < steps) and (seconds is None or elapsed < seconds):
        began = clock()
        rng = step_rng(seed, step, device)
        fraction = max(step / steps if steps else 0.0, elapsed / seconds if seconds else 0.0)
        batch = batches(rng)._replace(progress=fraction)
        for name in objective.turn(step):
            optimizer = optimizers[name]
            loss, parts = objective.loss(name, batch, rng)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], optim[name].clip)
            if not math.isfinite(float(norm)) or not math.isfinite(float(loss.detach())):
                if step and not folder.kept and sound(players.values()):  # in the first minute
                    save()
                held = (
                    f"The checkpoint in {folder.folder} is the last good state"
                    if folder.kept
                    else "Nothing was learned before it"
                )
                raise Diverged(
                    f"training of {name} diverged at step {step}: loss {float(loss.detach()):.4g}, gradient norm {float(norm):.4g}. "
                    f"{held}; lower the rate (lr=...) and use a new run folder."
                )
            for group in optimizer.param_groups:
                group["lr"] = optim[name].rate(step, fraction)
            optimizer.step()
            losses |= {
                name: loss.detach(),
                f"{name}/grad_norm": norm,
                **{f"{name}/{key}": value for key, value in parts.items()},
            }
            if name == objective.product:
                _average(averaged, followed, min(ema, (1 + step) / (10 + step)))
        step += 1
        if hasattr(objective, "after"):
            objective.after(max(step / steps if steps else 0.0, elapsed / seconds if seconds else 0.0))
        elapsed += clock() - began
        last = (steps is not None and step >= steps) or (seconds is not None and elapsed >= seconds)
        late = report_seconds is not None and time.monotonic() - last_report > report_seconds
        if step % report_every == 0 or last or step == 1 or late:
            values = _finite(losses)
            folder.log({"step": step, "seconds": round(elapsed, 3), **values})
            try:
                yield Progress(step, steps, values, {}, elapsed, average=average)
            except GeneratorExit:  # the consumer stopped: keep what is done, but not in the place of the last good state
                if sound(players.values()):
                    save()
                raise
            last_report = time.monotonic()
        if last or time.monotonic() - last_save > checkpoint_seconds:
            save()
            last_save = time.monotonic()
    objective.players[objective.product].load_state_dict(average.state_dict())
    values = _finite(losses)
    yield Progress(step, steps, values, {}, elapsed, stage="done", average=average)


def _finite(losses: dict[str, Tensor]) -> dict[str, float]:
    """What is known of them: a part that is NaN, such as the mean of an empty bin, is left out."""
    return {key: number for key, value in losses.items() if (number := float(value)) == number}


def sound(players: Iterable[nn.Module]) -> bool:
    """Whether every weight is finite, and none is larger than any training means."""
    return all(bool((parameter.abs() < HUGE).all()) for player in players for parameter in player.parameters())


def _adamw(player: nn.Module, optim: Optim) -> torch.optim.AdamW:
    trainable = [parameter for parameter in player.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trainable, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True)


@torch.no_grad()
def _average(averaged: list[Tensor], followed: list[Tensor], decay: float) -> None:
    torch._foreach_lerp_(averaged, followed, 1 - decay)
