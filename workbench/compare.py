"""Same noise through several models: images, trajectories, and one table of honest figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench import metrics, zoo
from workbench.callable_module import make_callable
from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count
from workbench.samplers.plan import Plan
from workbench.samplers.run import Frame, Trajectory, record, run
from workbench.samplers.sample import default_sampling, labels, noise_for, prepare

if TYPE_CHECKING:
    import pandas

FRECHET_LEAST = 200  # fewer samples than this say little about a distribution of 64 features
FINE_STEPS = 64


@dataclass(frozen=True)
class Column:
    """One contestant: a model and how to run it; what is None is the model's own setting.

    Attributes:
        model: a denoiser, or a name from `workbench.catalog()`. label: shown in the table; the model's name by default.
        sampler, schedule, steps, guidance, options: as for `workbench.sample`.
    """

    model: Denoiser | str
    label: str | None = None
    sampler: str | None = None
    schedule: Any = None
    steps: int | None = None
    guidance: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def resolved(self) -> Column:
        """With the model loaded and a label."""
        model = zoo.load(self.model) if isinstance(self.model, str) else self.model
        return replace(self, model=model, label=self.label or getattr(model, "name", None) or type(model).__name__)

    def plan(self) -> Plan:
        """The plan it runs."""
        return default_sampling(self.model).plan(self.model.path, self.steps, self.sampler, self.schedule, **self.options)

    def scale(self) -> float:
        """The guidance scale it runs with."""
        return float(default_sampling(self.model).guidance if self.guidance is None else self.guidance)

    def describe(self) -> str:
        """In words, what runs."""
        plan = self.plan()
        guidance = f", guidance {self.scale():g}" if self.scale() != 1 and getattr(self.model, "classes", 0) else ""
        return f"{self.label}: {plan}{guidance}"


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns.

    Attributes:
        images: label -> samples (n, ...). trajectories: label -> `Trajectory`. table: one row a model (pandas).
        reference: the teacher's fine solution from the same noise (n, ...), or None. cond: labels (n,) or None.
        columns: what ran. notes: how each figure of the table was made.
    """

    images: dict[str, Tensor]
    trajectories: dict[str, Trajectory]
    table: pandas.DataFrame
    reference: Tensor | None
    cond: Tensor | None
    columns: tuple[Column, ...]
    seed: int
    notes: str

    @property
    def metrics(self) -> pandas.DataFrame:
        """The table, by its other name."""
        return self.table

    def __repr__(self) -> str:
        return f"{self.table.to_string()}\n{self.notes}"

    def _repr_html_(self) -> str:
        return f"{self.table.to_html()}<p>{self.notes}</p>"


def columns_of(models: Any) -> tuple[Column, ...]:
    """Columns from a list of names, denoisers or `Column`s, or a mapping label -> one of these; labels made unique.

    Raises:
        WorkbenchError: if there is none, or their samples have different shapes.
    """
    if isinstance(models, Mapping):
        pairs = list(models.items())
    else:
        pairs = [
            (None, model) for model in (models if isinstance(models, Sequence) and not isinstance(models, str) else [models])
        ]
    made: list[Column] = []
    for label, model in pairs:
        column = model if isinstance(model, Column) else Column(model)
        column = (replace(column, label=label) if label else column).resolved()
        taken = {other.label for other in made}
        number = 2
        base = column.label
        while column.label in taken:
            column = replace(column, label=f"{base} ({number})")
            number += 1
        made.append(column)
        if getattr(column.model, "path", None) is None or getattr(column.model, "shape", None) is None:
            raise WorkbenchError(
                f"{column.label} has no .path or .shape (of one sample): wrap the network in workbench.Network."
            )
    if not made:
        raise WorkbenchError("there is nothing to compare: give at least one model.")
    shapes = {tuple(column.model.shape) for column in made}
    if len(shapes) > 1:
        raise WorkbenchError(
            f"these models draw samples of different shapes ({', '.join(map(str, sorted(shapes)))}): compare within one space."
        )
    return tuple(made)


def stream(columns: Sequence[Column], n: int, cond: Any = None, seed: int = 0) -> Iterator[tuple[int, Frame]]:
    """Run every column from the same noise, yielding (column index, frame) as each denoises, column after column."""
    for index, column in enumerate(columns):
        given = _cond(column.model, cond, n)
        noise = noise_for(columns[0].model, n, seed)
        for frame in run(column.plan(), prepare(column.model, column.guidance), noise, given, seed):
            yield index, frame


def fine_solution(
    teacher: Denoiser, n: int, cond: Any = None, seed: int = 0, guidance: float | None = None, noise: Tensor | None = None
) -> Tensor:
    """Where the teacher's own flow takes this noise: Heun at 64 steps (exact models), DPM-Solver++(2M) at 64 (networks).

    `noise` is by default the teacher's for this seed, which in another precision is other noise.
    """
    noise = noise_for(teacher, n, seed) if noise is None else noise
    exact = hasattr(teacher, "log_density")
    plan = default_sampling(teacher).plan(teacher.path, FINE_STEPS, "heun" if exact else "dpmpp_2m", "uniform")
    for frame in run(plan, prepare(teacher, guidance), noise, _cond(teacher, cond, n), seed):
        last = frame
    return last.x


def compare(models: Any, n: int, cond: Any = None, seed: int = 0) -> Comparison:
    """Draw n samples from each model, all from the same noise, and measure them.

    Args:
        models: names, denoisers or `Column`s, or a mapping label -> one of these.
        cond: a label, n labels, or None. seed: of the noise.

    Raises:
        WorkbenchError: if the models live in different spaces, or n or cond is impossible.

    >>> result = compare(["eight_gaussians", Column("eight_gaussians", label="3 steps", steps=3)], 16)
    >>> list(result.table.index)
    ['eight_gaussians', '3 steps']
    """
    n = check_count("n", n, 1, 20_000)
    columns = columns_of(models)
    frames: dict[int, list[Frame]] = {index: [] for index in range(len(columns))}
    for index, frame in stream(columns, n, cond, seed):
        frames[index].append(frame)
    trajectories = {column.label: record(frames[index]) for index, column in enumerate(columns)}
    teacher = teacher_of(columns)
    noise = noise_for(columns[0].model, n, seed)
    reference = fine_solution(teacher, n, cond, seed, noise=noise) if teacher is not None else None
    table, notes = tabulate(columns, trajectories, reference, cond, seed)
    images = {label: trajectory.final for label, trajectory in trajectories.items()}
    first = columns[0].model
    return Comparison(images, trajectories, table, reference, _cond(first, cond, n), columns, seed, notes)


def teacher_of(columns: Sequence[Column]) -> Denoiser | None:
    """The teacher that the figures refer to: the first among the columns, else the one named on the first student's card."""
    for column in columns:
        if getattr(column.model, "role", "teacher") == "teacher":
            return column.model
    named = getattr(columns[0].model, "card", {}).get("teacher")
    try:
        return zoo.load(named) if named else None
    except WorkbenchError:
        return None


def tabulate(
    columns: Sequence[Column], trajectories: Mapping[str, Trajectory], reference: Tensor | None, cond: Any, seed: int
) -> tuple[pandas.DataFrame, str]:
    """The table of a comparison and the sentence that says how its figures were made."""
    import pandas

    rows = {}
    for column in columns:
        trajectory = trajectories[column.label]
        x, n = trajectory.final, len(trajectory.final)
        plan = column.plan()
        row: dict[str, Any] = {
            "sampler": plan.sampler,
            "schedule": plan.schedule,
            "steps": plan.steps,
            "guidance": column.scale(),
            "nfe": trajectory.nfe[-1],
            "ms/image": float(f"{1000 * trajectory.seconds[-1] / n:.3g}"),
        }
        if reference is not None:
            row["error to fine solution"] = round(metrics.trajectory_error(x, reference), 4)
        if n > 1:
            row["diversity"] = round(metrics.pairwise_diversity(x.flatten(1)[:500]), 3)
        rows[column.label] = row | _law(column, x, cond)
    notes = f"n = {len(x)}, seed {seed}, same noise for all."
    if reference is not None:
        notes += f" Error: RMS distance to the teacher's {FINE_STEPS}-step solution from the same noise. Diversity: mean distance of pairs."
    notes += _floor_note(columns[0].model, len(x), cond)
    return pandas.DataFrame.from_dict(rows, orient="index"), notes


def _law(column: Column, x: Tensor, cond: Any) -> dict[str, float]:
    """Figures against the law itself, where it is known exactly or its features are bundled."""
    exact, n = _exact(column.model), len(x)
    if exact is not None and n >= 2:
        covered = metrics.mode_coverage(x, exact.means, exact.spectrum[:, 0].sqrt()) if exact.isotropic else None
        row = {"sw2": round(metrics.sliced_wasserstein(x, exact.sample(n, 1, _cond(exact, cond, n))), 4)}
        return row | ({"modes": round(covered.hit, 3), "off-mode": round(covered.off, 3)} if covered else {})
    space = _space(column.model)
    if space is None or n < 2:
        return {}
    given = _cond(column.model, cond, n)
    row = {}
    if given is not None and int(given.min()) >= 0:
        row["class agreement"] = round(metrics.class_agreement(metrics.image_logits(space, x), given), 3)
    if n >= FRECHET_LEAST:
        row["Frechet"] = round(metrics.frechet_distance(metrics.image_features(space, x), _real(space, n, cond)[0]), 2)
    return row


def _floor_note(model: Denoiser, n: int, cond: Any) -> str:
    exact, space = _exact(model), _space(model)
    if exact is not None and n >= 2:
        given = _cond(exact, cond, n)
        floor = metrics.sliced_wasserstein(exact.sample(n, 2, given), exact.sample(n, 1, given))
        return f" sw2: sliced 2-Wasserstein distance to {n} exact draws (floor {floor:.3f}, between two such draws)."
    if space is None:
        return ""
    if n < FRECHET_LEAST:
        return f" Frechet distances need at least {FRECHET_LEAST} samples."
    one, two = _real(space, n, cond)
    return f" Frechet distance on the bundled classifier's features to {len(one)} real images (floor {metrics.frechet_distance(two, one):.2f}, {len(two)} others)."


def _real(space: str, n: int, cond: Any) -> tuple[Tensor, Tensor]:
    """Features of real images, of one class if one was asked for: two disjoint sets of at most n."""
    features, classes = metrics.reference(space)
    if cond is not None and torch.as_tensor(cond).dim() == 0 and int(cond) >= 0:
        features = features[classes == int(cond)]
    size = min(n, len(features) // 2)
    return features[:size], features[size : 2 * size]


def _exact(model: Denoiser) -> Any:
    if hasattr(model, "log_density"):
        return model
    name = str(getattr(model, "card", {}).get("teacher", ""))
    return zoo.load(name) if name in zoo.ANALYTIC else None


def _space(model: Denoiser) -> str | None:
    name = getattr(model, "card", {}).get("teacher") or getattr(model, "name", "")
    space = str(name).split("/")[0]
    return space if space in ("digits", "fashion") else None


def _cond(model: Denoiser, cond: Any, n: int) -> Tensor | None:
    return labels(model, cond, n) if cond is not None else None


make_callable(__name__, compare)
