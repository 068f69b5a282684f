"""A sampler is a plan: a table of coefficients, worked out once in float64, that one loop runs.

Every fixed-step solver of this field is linear in what it has seen, so a stage is a row of numbers:

    m0    <- model(x, t) as the stage's kind, pushed to the front of a short history
    x'    <- row.x x + row.base base + sum_k row.outputs[k] m_k + row.noise eps
    base' <- likewise, when the stage has a base row
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch

from workbench import paths
from workbench.errors import WorkbenchError
from workbench.paths import Path


class Row(NamedTuple):
    """Coefficients of one update; `outputs[k]` multiplies the k-th most recent model output."""

    x: float = 0.0
    base: float = 0.0
    outputs: tuple[float, ...] = ()
    noise: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One model evaluation and the update that follows it.

    Attributes:
        t: time of the evaluation. to: time of the state after the update.
        kind: what the rows expect the model's output as: x0, eps, v or flow.
        x: row of the state. base: row of the saved base state, or None to keep it.
        model: which of the run's models to evaluate.
        inner: the state here is a helper point (Heun's predictor), not a point of the trajectory.
        jump: second time for a flow map (where its jump ends); differs from `to` when noise is added after it.
    """

    t: float
    to: float
    kind: str
    x: Row
    base: Row | None = None
    model: int = 0
    inner: bool = False
    jump: float | None = None


@dataclass(frozen=True)
class Plan:
    """A sampler on a path at given times; run it with `workbench.run`.

    Attributes:
        sampler: name. path: the path of the models it runs. times: falling grid, steps + 1 floats.
        stages: the table. options: what it was made with, for the record.
    """

    sampler: str
    path: Path
    times: tuple[float, ...]
    stages: tuple[Stage, ...]
    schedule: str = "list"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Number of steps between the first time and the last."""
        return len(self.times) - 1

    @property
    def evaluations(self) -> int:
        """Number of model evaluations."""
        return len(self.stages)

    @property
    def models(self) -> int:
        """Number of models that the plan runs."""
        return 1 + max(stage.model for stage in self.stages)

    @property
    def history(self) -> int:
        """How many model outputs any stage looks at."""
        return max([1, *(len(row.outputs) for stage in self.stages for row in (stage.x, stage.base) if row)])

    def __str__(self) -> str:
        extra = "".join(f", {key} {value}" for key, value in self.options.items())
        plural = "" if self.steps == 1 else "s"
        return f"{self.sampler}, {self.steps} {self.schedule} step{plural} on {self.path.name}{extra}"

    def check(self) -> Plan:
        """Return self if every number is finite and every stage is possible, else raise `WorkbenchError`."""
        for index, stage in enumerate(self.stages):
            numbers = [stage.t, stage.to]
            for row in (stage.x, stage.base):
                numbers += [row.x, row.base, row.noise, *row.outputs] if row else []
            if not all(math.isfinite(number) for number in numbers):
                raise WorkbenchError(
                    f"sampler {self.sampler!r} has no finite coefficients at stage {index} (t = {stage.t:g} to {stage.to:g}): "
                    "choose other times or another path."
                )
        return self

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values that `Plan.from_json` reads back, with every coefficient.

        Raises:
            WorkbenchError: for a path that its name does not make again, such as a table of its own.
        """
        if not _named(self.path):
            raise WorkbenchError(
                f"a plan on the path {self.path.name!r} cannot be stored: store the scheduler it was read from."
            )
        return {
            "sampler": self.sampler,
            "path": self.path.name,
            "schedule": self.schedule,
            "options": self.options,
            "times": list(self.times),
            "stages": [asdict(stage) for stage in self.stages],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            WorkbenchError: if a field is missing or of the wrong type.
        """
        try:
            stages = tuple(_stage(stage) for stage in content["stages"])
            times = tuple(float(t) for t in content["times"])
            made = cls(content["sampler"], paths.get(content["path"]), times, stages, content["schedule"], content["options"])
        except (KeyError, TypeError, ValueError) as error:
            raise WorkbenchError(f"this is not a stored plan ({error}): make it again with workbench.plan.") from error
        return made.check()


def _named(path: Path) -> bool:
    """Whether `paths.get` makes the same path of its name."""
    try:
        again = paths.get(path.name)
    except WorkbenchError:
        return False
    if again is path:
        return True
    at = torch.linspace(0, 1, 101, dtype=torch.float64)
    same = (torch.allclose(one(at), other(at)) for one, other in ((again.alpha, path.alpha), (again.sigma, path.sigma)))
    return again.timesteps == path.timesteps and all(same)


def _stage(content: dict[str, Any]) -> Stage:
    rows = {"x": _row(content["x"]), "base": _row(content["base"])}
    jump = None if content["jump"] is None else float(content["jump"])
    return Stage(**{**content, **rows, "t": float(content["t"]), "to": float(content["to"]), "jump": jump})


def _row(values: Any) -> Row | None:
    if values is None:
        return None
    x, base, outputs, noise = values.values() if isinstance(values, dict) else values
    return Row(float(x), float(base), tuple(float(c) for c in outputs), float(noise))


def hybrid(plan: Plan, first: int) -> Plan:
    """Return the plan with model 0 for its first `first` stages and model 1 for the rest.

    Run it with two models, `run(hybrid(plan, 4), [teacher, student], noise)`: the teacher decides the composition,
    the student finishes, or the other way round.

    Raises:
        WorkbenchError: unless 0 < first < number of stages.
    """
    if not 0 < first < len(plan.stages):
        raise WorkbenchError(
            f"a hybrid of {len(plan.stages)} stages can change models after 1 to {len(plan.stages) - 1}, not {first}."
        )
    stages = tuple(replace(stage, model=int(index >= first)) for index, stage in enumerate(plan.stages))
    return replace(plan, stages=stages, options={**plan.options, "switch": first})


Solver = Callable[..., list[Stage]]
