"""What a run says of its student while it trains: its distance to the teacher and how far it spreads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Network
from workbench.distill.health import spread
from workbench.distill.objectives.distributional import Distributional
from workbench.distill.objectives.forgetting import ScoreForgetting
from workbench.samplers.run import record
from workbench.samplers.run import run as run_plan
from workbench.samplers.sample import Sampling, default_sampling, noise_for, prepare, sample

METRIC_SECONDS = 10.0
SPREAD = 512  # samples of a known law whose variance and coverage are measured


def trained_labels(objective: Any, data: Any, classes: int) -> list[int] | None:
    """The labels that a student must be asked with: those it is trained for, where they are not all or none was ever dropped.

    None where it may be asked without one: it has no classes, learns the whole law without labels as well, or only that, from data without.

    Args:
        objective: of the recipe; classes that it forgets are not trained for, and without label dropout the null class is not.
        data: what `distill` takes: an image set, a tensor, or (tensor, labels). classes: of the teacher.

    >>> from workbench.distill.recipes import get
    >>> trained_labels(get("sfd").configured(forget=1).objective, None, 3), trained_labels(get("dmd2").objective, None, 3)
    ([0, 2], None)
    """
    if not classes:
        return None
    forgotten = getattr(objective, "forgotten", ())
    y = getattr(data, "labels", None) if hasattr(data, "images") else data[1] if isinstance(data, tuple) else None
    if data is not None and not isinstance(y, Tensor) and not isinstance(objective, (Distributional, ScoreForgetting)):
        return None  # those two draw labels themselves
    met = range(classes) if not isinstance(y, Tensor) else [k for k in y.long().unique().tolist() if 0 <= k < classes]
    mine = [k for k in met if k not in forgotten]
    if not mine or (len(mine) == classes and getattr(objective, "dropout", 1.0) > 0):
        return None
    return mine


class Measure:
    """Now and then: root mean square distance of the student to the teacher's solution from the same noise, how far it spreads
    beside it (`health.spread`), and, where the law is known, its sliced Wasserstein distance with the floor of two exact draws.
    A student that takes a hint is given that of the teacher's solution, and one that was not trained without a label the labels that it
    was trained for (`trained_labels`); the law is then that of these classes, each as likely."""

    def __init__(
        self, teacher: Denoiser, sampling: Sampling, seed: int, guidance: float, hint: Callable[[Tensor], Tensor] | None = None,
        labels: Sequence[int] | None = None, n: int = 64,
    ):  # fmt: skip
        self.hint = hint
        self.teacher, self.sampling, self.seed, self.n, self.guidance = teacher, sampling, seed, n, guidance
        self.last, self.values, self.reference = -1e9, {}, None
        self.labels = None if labels is None else torch.tensor(labels)
        self.exact: tuple[list[Tensor], float] | None = None

    def __call__(self, model: Network, always: bool = False) -> dict[str, float]:
        if not always and time.monotonic() - self.last < METRIC_SECONDS:
            return self.values
        n, classes = self.n, int(getattr(self.teacher, "classes", 0) or 0)
        cond = torch.arange(n) % classes if classes else None
        if self.labels is not None:
            cond = self.labels[torch.arange(n) % len(self.labels)]
        if self.reference is None:
            noise = noise_for(model, n, 10**6 + self.seed)
            frames = run_plan(
                default_sampling(self.teacher).plan(self.teacher.path), prepare(self.teacher, self.guidance), noise, cond
            )
            self.reference = record(frames).final
        hint = None if self.hint is None else self.hint(self.reference)
        drawn = sample(model, n, cond, seed=10**6 + self.seed, hint=hint)
        self.values = {"paired_rms": float((drawn - self.reference).square().mean().sqrt())}
        if hasattr(self.teacher, "log_density"):
            self.values |= self._law(model)
        else:
            self.values |= spread(drawn, self.reference, cond)
        self.last = time.monotonic()
        return self.values

    def _law(self, model: Network, n: int = 2048, draws: int = 4) -> dict[str, float]:
        # means over draws: a single floor moves by a factor of three with the luck of the mode counts
        from workbench.metrics import sliced_wasserstein

        cond = None if self.labels is None else self.labels[torch.arange(n) % len(self.labels)]
        if self.exact is None:
            given = {} if cond is None else {"cond": cond}
            exact = [self.teacher.sample(n, seed=seed, **given) for seed in range(2 * draws)]
            floor = sum(sliced_wasserstein(x, y) for x, y in zip(exact[draws:], exact[:draws], strict=True)) / draws
            self.exact = exact[:draws], floor
        exact, floor = self.exact
        mine = [sample(model, n, cond, seed=10**6 + self.seed + k).double() for k in range(draws)]
        distance = sum(sliced_wasserstein(x, y) for x, y in zip(mine, exact, strict=True)) / draws
        return {
            "sw2": distance,
            "sw2_floor": floor,
            **spread(mine[0][:SPREAD], exact[0][:SPREAD], None if cond is None else cond[:SPREAD]),
        }
