"""Particles moved by a distribution-matching recipe in place of a network: variational score distillation as it was first used."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from workbench import paths
from workbench.denoiser import Denoiser, Network
from workbench.distill.loop import Batch, Optim, Progress, train
from workbench.distill.objectives.distributional import Distributional
from workbench.distill.objectives.distributional_turns import BoundDistributional, Made
from workbench.distill.recipes import get
from workbench.errors import WorkbenchError, check_count


class Particles(nn.Module):
    """n samples as parameters (n, ...)."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Parameter(values)


class _Moved(BoundDistributional):
    """The objective whose student is a set of particles."""

    def __init__(self, switches: Distributional, teacher: Denoiser, critic: Network, particles: Particles, cond: Tensor | None):
        super().__init__(switches, teacher, critic)
        self.particles, self.cond = particles, cond
        self.players["student"] = particles

    def _generate(self, batch: Batch, rng: torch.Generator) -> Made:
        values = self.particles.values
        row = torch.randint(len(values), (batch.size,), generator=rng, device=rng.device)
        x = values[row]
        return Made(x, None if self.cond is None else self.cond[row], 1.0, x, 0.0)


def optimise_particles(
    teacher: Denoiser,
    n: int = 256,
    cond: Tensor | None = None,
    recipe: str = "vsd",
    steps: int = 1000,
    lr: float = 1e-2,
    critic_lr: float = 1e-3,
    batch: int = 64,
    seed: int = 0,
    start: Tensor | None = None,
    **options: Any,
) -> Iterator[Progress]:
    """Move n particles until a critic of their law agrees with the teacher (ProlificDreamer, arXiv 2305.16213, algorithm 1).

    Args:
        cond: labels (n,) of the particles. recipe: one whose objective is distributional. start: particles (n, ...), small Gaussian noise
            by default. options: of the recipe; `critic=Drawn()` is score distillation sampling.

    Yields:
        `Progress`; `samples()` gives the particles (n, ...).

    Raises:
        WorkbenchError: for a recipe without a critic core, or a start of the wrong shape.
    """
    check_count("n", n)
    check_count("steps", steps)
    chosen = get(recipe).configured(**options)
    if type(chosen.objective) is not Distributional:
        raise WorkbenchError(f"recipe {recipe!r} does not move particles: choose one like vsd, diff-instruct or sid.")
    shape = tuple(teacher.shape)
    if start is not None and tuple(start.shape) != (n, *shape):
        raise WorkbenchError(f"start has shape {tuple(start.shape)}, but {n} particles of this teacher need {(n, *shape)}.")
    net = getattr(teacher, "net", None)
    path, classes = paths.get(teacher.path), int(getattr(teacher, "classes", 0) or 0)
    kind = "flow" if path.smooth else "v"
    if isinstance(net, nn.Module):
        network = teacher
    else:
        from workbench.networks import new_network

        network = Network(new_network(shape, classes, kind, path.name, seed), path, kind, shape, classes)
    rng = torch.Generator().manual_seed(seed)
    particles = Particles(0.1 * torch.randn(n, *shape, generator=rng) if start is None else start.float().clone())
    objective = _Moved(chosen.objective, teacher, network, particles, cond)
    optim = {"student": Optim(lr=lr, warmup=1, clip=10.0), "critic": Optim(lr=critic_lr, warmup=1)}
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        for progress in train(
            objective, lambda rng: Batch(None, None, batch), {"particles": n, "recipe": recipe}, run=folder, steps=steps, seed=seed,
            optim={name: optim[name] for name in objective.players}, ema=0.0,
        ):  # fmt: skip
            progress.samples = lambda: particles.values.detach().clone()
            yield progress
