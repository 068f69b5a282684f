"""Rewards of samples: a function (x, labels) -> (n,), checked where it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.denoiser import Denoiser, Wrapper
from workbench.distill.objectives.parts import FEATURES_OF
from workbench.errors import WorkbenchError

CLASS = "class"


@dataclass(frozen=True)
class Reward:
    """REWARD, added with its weight to what the student climbs.

    Attributes:
        function: (x, labels) -> (n,), higher is better; "class" is log p(label | x) of the teacher's own law or a bundled classifier.
        weight: of the term.
    """

    function: Callable[[Tensor, Tensor | None], Tensor] | str = CLASS
    weight: float = 0.1

    def given(self, value: Any) -> Any:
        """The part for a function, or the name of one, alone."""
        return (
            Reward(value, self.weight)
            if (callable(value) and not isinstance(value, Reward)) or isinstance(value, str)
            else value
        )

    def __post_init__(self):
        if not callable(self.function) and self.function != CLASS:
            raise WorkbenchError(f"the reward is {self.function!r}, but must be a function (x, labels) -> (n,), or {CLASS!r}.")

    def bind(self, teacher: Denoiser) -> Callable[[Tensor, Tensor | None], Tensor]:
        """The function, checked at every call."""
        function = self.function if callable(self.function) else class_reward(teacher)
        return lambda x, cond: checked(function, x, cond)


def checked(function: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, cond: Tensor | None) -> Tensor:
    """Rewards (n,) of samples.

    Raises:
        WorkbenchError: if they are no tensor, of another shape, or not finite; it names the function.
    """
    name, values = getattr(function, "__name__", type(function).__name__), function(x, cond)
    if not isinstance(values, Tensor) or values.shape != (len(x),):
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise WorkbenchError(
            f"the reward {name} gave {got} for {len(x)} samples, but must give one number each: shape ({len(x)},)."
        )
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise WorkbenchError(
            f"the reward {name} gave {bad} values of {len(x)} that are NaN or infinite: mend it, or clip its argument."
        )
    return values


def class_reward(teacher: Denoiser) -> Callable[[Tensor, Tensor | None], Tensor]:
    """log p(label | x): exact for a labelled mixture, of the bundled classifier for digits and Fashion; 0 where the label is null.

    Raises:
        WorkbenchError: where neither is there.
    """
    base = teacher
    while isinstance(base, Wrapper):
        base = base.model
    if getattr(base, "labels", None) is not None and hasattr(base, "log_density"):
        prior = torch.stack([base.weights[base.labels == label].sum().log() for label in range(base.classes)])
        joint = lambda x: torch.stack([base.log_density(x, 0.0, label) for label in range(base.classes)], 1) + prior  # noqa: E731
        return lambda x, cond: _of_label(joint(x), cond, x)
    name = FEATURES_OF.get(tuple(teacher.shape))
    if name is None or not getattr(teacher, "classes", 0):
        raise WorkbenchError(
            "this recipe climbs a reward, and none is known for this teacher: pass reward=, a function (x, labels) -> (n,)."
        )
    from workbench.metrics.features import features

    net = features(name)
    return lambda x, cond: _of_label(net.to(x.device)(x), cond, x)


def _of_label(scores: Tensor, cond: Tensor | None, x: Tensor) -> Tensor:
    if cond is None:
        return x.new_zeros(len(x))
    chosen = scores.log_softmax(1).gather(1, cond.clamp_min(0)[:, None]).squeeze(1)
    return torch.where(cond >= 0, chosen, 0.0).to(x)
