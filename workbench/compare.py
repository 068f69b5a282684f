"""Same noise through several models: images, trajectories, and one table of honest figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from workbench import metrics, zoo
from workbench.callable_module import make_callable
from workbench.denoiser import Denoiser
from workbench.errors import WorkbenchError, check_count
from workbench.samplers.plan import Plan
from workbench.samplers.run import Frame, Trajectory, record, run
from workbench.samplers.sample import default_sampling, labels, noise_for, plan_for, prepare

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
        source: the name by which the model was loaded, or None for one that was handed over.
    """

    model: Denoiser | str
    label: str | None = None
    sampler: str | None = None
    schedule: Any = None
    steps: int | None = None
    guidance: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    source: str | None = None

    def resolved(self) -> Column:
        """With the model loaded and a label."""
        model, source = (zoo.load(self.model), self.model) if isinstance(self.model, str) else (self.model, self.source)
        label = self.label or getattr(model, "name", None) or type(model).__name__
        return replace(self, model=model, label=label, source=source)

    def plan(self) -> Plan:
        """The plan it runs."""
        return plan_for(self.model, self.steps, self.sampler, self.schedule, **self.options)

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


def stream(
    columns: Sequence[Column], n: int, cond: Any = None, seed: int = 0, only: Sequence[int] | None = None
) -> Iterator[tuple[int, Frame]]:
    """Run columns from the same noise, yielding (column index, frame) as each denoises, column after column.

    Args:
        only: indices of the columns to run, in that order, by default all; each gives what it gives among all.
    """
    for index in range(len(columns)) if only is None else only:
        column = columns[index]
        given = _cond(column.model, cond, n)
        noise = noise_for(columns[0].model, n, seed)
        for frame in run(column.plan(), prepare(column.model, column.guidance), noise, given, seed):
            yield index, frame


def fine_solution(
    teacher: Denoiser,
    n: int,
    cond: Any = None,
    seed: int = 0,
    guidance: float | None = None,
    noise: Tensor | None = None,
    steps: int = FINE_STEPS,
) -> Tensor:
    """Where the teacher's own flow takes this noise: Heun at 64 steps (exact models), DPM-Solver++(2M) at 64 (networks).

    `noise` is by default the teacher's for this seed, which in another precision is other noise.
    """
    noise = noise_for(teacher, n, seed) if noise is None else noise
    for frame in _fine_frames(teacher, _cond(teacher, cond, n), seed, guidance, noise, steps):
        last = frame
    return last.x


def _fine_frames(teacher: Denoiser, cond: Any, seed: int, guidance: float | None, noise: Tensor, steps: int) -> Iterator[Frame]:
    exact = hasattr(teacher, "log_density")
    plan = default_sampling(teacher).plan(teacher.path, steps, "heun" if exact else "dpmpp_2m", "uniform")
    return run(plan, prepare(teacher, guidance), noise, cond, seed)


class Doing(NamedTuple):
    """What a comparison in progress is at; the last one carries the result.

    Attributes:
        what: in words. done, total: evaluations of everything so far, and in all. result: the `Comparison`, at the end.
    """

    what: str
    done: int
    total: int
    result: Comparison | None = None


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
    for doing in comparing(models, n, cond, seed):
        last = doing
    return last.result


def comparing(models: Any, n: int, cond: Any = None, seed: int = 0) -> Iterator[Doing]:
    """As `compare`, but one `Doing` after every evaluation, so that progress can be shown and `break` stops it."""
    n = check_count("n", n, 1, 20_000)
    columns = columns_of(models)
    teacher, first = teacher_of(columns), columns[0].model
    noise = noise_for(first, n, seed)
    counts = [len(column.plan().stages) for column in columns]
    fine = FINE_STEPS * (2 if hasattr(teacher, "log_density") else 1) if teacher is not None else 0
    done, total = 0, sum(counts) + fine
    frames: dict[int, list[Frame]] = {index: [] for index in range(len(columns))}
    for index, frame in stream(columns, n, cond, seed):
        frames[index].append(frame)
        yield Doing(columns[index].label, done + frame.i, total)
        done += frame.i if frame.i == counts[index] else 0
    trajectories = {column.label: record(frames[index]) for index, column in enumerate(columns)}
    reference = None
    if teacher is not None:
        for frame in _fine_frames(teacher, _cond(teacher, cond, n), seed, None, noise, FINE_STEPS):
            yield Doing("the teacher's fine solution", min(done + frame.i, total), total)
        reference = frame.x
    yield Doing("the table", total, total)
    table, notes = tabulate(columns, trajectories, reference, cond, seed)
    images = {label: trajectory.final for label, trajectory in trajectories.items()}
    made = Comparison(images, trajectories, table, reference, _cond(first, cond, n), columns, seed, notes)
    yield Doing("done", total, total, made)


def teacher_of(columns: Sequence[Column]) -> Denoiser | None:
    """The teacher that the figures refer to: the first among the columns, else the one named on the first student's card."""
    for column in columns:
        if getattr(column.model, "role", "teacher") == "teacher":
            return column.model
    named = str(getattr(columns[0].model, "card", {}).get("teacher") or "")
    try:  # a name of the Hub is not followed: showing a student must not start a download
        return zoo.load(named) if named and not named.startswith(zoo.HUB) else None
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


@dataclass(frozen=True)
class Distance:
    """How far samples are from the law that a model should have, and how far two draws of that law are from each other.

    Attributes:
        name: "sw2" (sliced 2-Wasserstein) or "Frechet" (on the bundled classifier's features).
        real, other: two disjoint draws of the law (m, d), features of real images for Frechet.
        space: whose classifier makes the features, or None where points are compared as they are.
    """

    name: str
    real: Tensor
    other: Tensor
    space: str | None = None

    def of(self, x: Tensor) -> float:
        """The distance of samples (n, ...) to the law."""
        return self._between(x if self.space is None else metrics.image_features(self.space, x))

    def floor(self) -> float:
        """The same between the two draws of the law: nothing measured against them can be told from the law below it."""
        return self._between(self.other)

    def _between(self, x: Tensor) -> float:
        metric = metrics.sliced_wasserstein if self.space is None else metrics.frechet_distance
        return float(metric(x, self.real))


def distance_to_law(model: Denoiser, n: int, cond: Any = None) -> Distance | None:
    """The distance by which n samples of a model are judged, or None where the law is not known or n is too small.

    sw2 to n exact draws for analytic teachers and their students; the Frechet distance to real images for the spaces whose
    features are bundled, from 200 samples on.
    """
    exact, space = exact_of(model), space_of(model)
    if exact is not None and n >= 2:
        given = _cond(exact, cond, n)
        return Distance("sw2", exact.sample(n, 1, given), exact.sample(n, 2, given))
    if space is not None and n >= FRECHET_LEAST:
        return Distance("Frechet", *_real(space, n, cond), space)
    return None


def _law(column: Column, x: Tensor, cond: Any) -> dict[str, float]:
    """Figures against the law itself, where it is known exactly or its features are bundled."""
    exact, space, n = exact_of(column.model), space_of(column.model), len(x)
    distance = distance_to_law(column.model, n, cond)
    row: dict[str, float] = {}
    if exact is None and space is not None and n >= 2:
        given = _cond(column.model, cond, n)
        if given is not None and int(given.min()) >= 0:
            row["class agreement"] = round(metrics.class_agreement(metrics.image_logits(space, x), given), 3)
    if distance is not None:
        row[distance.name] = round(distance.of(x), 4 if exact is not None else 2)
    if distance is not None and exact is not None and exact.isotropic:
        covered = metrics.mode_coverage(x, exact.means, exact.spectrum[:, 0].sqrt())
        row |= {"modes": round(covered.hit, 3), "off-mode": round(covered.off, 3)}
    return row


def _floor_note(model: Denoiser, n: int, cond: Any) -> str:
    distance = distance_to_law(model, n, cond)
    if distance is None:
        few = exact_of(model) is None and space_of(model) is not None
        return f" Frechet distances need at least {FRECHET_LEAST} samples." if few else ""
    floor, count = distance.floor(), len(distance.real)
    if distance.space is None:
        return f" sw2: sliced 2-Wasserstein distance to {n} exact draws (floor {floor:.3f}, between two such draws)."
    return f" Frechet distance on the bundled classifier's features to {count} real images (floor {floor:.2f}, {len(distance.other)} others)."


def _real(space: str, n: int, cond: Any) -> tuple[Tensor, Tensor]:
    """Features of real images, of one class if one was asked for: two disjoint sets of at most n."""
    features, classes = metrics.reference(space)
    asked = None if cond is None else torch.as_tensor(cond).unique()
    if asked is not None and len(asked) == 1 and int(asked) >= 0:
        features = features[classes == int(asked)]
    size = min(n, len(features) // 2)
    return features[:size], features[size : 2 * size]


def exact_of(model: Denoiser) -> Any:
    """The analytic teacher whose law a model should have: itself, or the one on its card; None for any other."""
    if hasattr(model, "log_density"):
        return model
    name = str(getattr(model, "card", {}).get("teacher", ""))
    return zoo.load(name) if name in zoo.ANALYTIC else None


def space_of(model: Denoiser) -> str | None:
    """The space with bundled features (digits or fashion) that a model draws in, or None."""
    name = getattr(model, "card", {}).get("teacher") or getattr(model, "name", "")
    space = str(name).split("/")[0]
    return space if space in ("digits", "fashion") else None


def _cond(model: Denoiser, cond: Any, n: int) -> Tensor | None:
    return labels(model, cond, n) if cond is not None else None


make_callable(__name__, compare)
