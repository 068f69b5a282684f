"""The pictures and figures of a report, section by section."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from workbench import views
from workbench.compare import FINE_STEPS, Comparison, distance_to_law, exact_of, teacher_of
from workbench.denoiser import decode, picture_shape
from workbench.errors import WorkbenchError
from workbench.metrics import paired_errors
from workbench.samplers.field import velocity_fields
from workbench.views import embed, notebook, style

WIDE, HALF = 640, 0


class Level(NamedTuple):
    """How much a page shows: cells of a grid, particles of an animation, columns of the plan tables."""

    cells: int
    particles: int
    plans: bool


LEVELS = (Level(36, 150, True), Level(25, 60, True), Level(16, 30, False), Level(9, 12, False), Level(4, 4, False))


class Section(NamedTuple):
    """A part of the page: heading, a sentence, and HTML."""

    heading: str
    words: str
    html: str


class Drawer:
    """Turns figures into HTML, each under a name of its own, in the models' colours.

    Labels may hold anything; plotly reads a little HTML in its texts, so that they are escaped before a view sees them.
    """

    def __init__(self, comparison: Comparison):
        self.comparison, self.count = comparison, 0
        self.names = {column.label: escape(str(column.label)) for column in comparison.columns}
        chosen = style.colors(self.names.values())
        self.colors = {label: chosen[name] for label, name in self.names.items()}
        self.trajectories = {self.names[label]: each for label, each in comparison.trajectories.items()}
        self.plans = {self.names[column.label]: column.plan() for column in comparison.columns}
        self.paths = {self.names[column.label]: column.model.path for column in comparison.columns}

    def figure(self, figure: go.Figure, least: int = HALF) -> str:
        """A figure that fills its place, or scrolls where that is narrower than `least` pixels."""
        self.count += 1
        drawn = embed.figure_html(figure, f"plot-{self.count}")
        return f'<div class="scroll" style="--least:{least}px">{drawn}</div>'

    def caption(self, label: str) -> str:
        """The label of a column with its dot."""
        return f'<span class="dot" style="background:{self.colors[label]}"></span>{self.names[label]}'


def sections(drawer: Drawer, level: Level) -> Iterator[Section]:
    """Every part with pictures, top to bottom."""
    comparison = drawer.comparison
    shape = _shape(comparison)
    if len(shape) == 3 and shape[0] in (1, 3):
        yield _images(drawer, level, shape)
    elif shape == (2,):
        yield _points(drawer)
    yield _trajectories(drawer, level, shape)
    yield _decided(drawer)
    yield _plans(drawer, level)


def _shape(comparison: Comparison) -> tuple[int, ...]:
    """Shape of a sample as it is drawn; () where a model's latents cannot be decoded, so that no picture is."""
    try:
        shapes = [picture_shape(column.model) for column in comparison.columns]
    except WorkbenchError:
        return ()
    return shapes[0]


def bars(drawer: Drawer) -> str:
    """Bars of the distance to the law with its floor, or nothing where there is none."""
    comparison = drawer.comparison
    n = len(next(iter(comparison.images.values())))
    distance = distance_to_law(comparison.columns[0].model, n, comparison.cond)
    if distance is None or distance.name not in comparison.table.columns:
        return ""
    table = comparison.table.rename(index=drawer.names)
    return drawer.figure(
        views.bars(table, distance.name, f"How far is each from the data? ({distance.name}, n = {n})", distance.floor())
    )


def _images(drawer: Drawer, level: Level, shape: tuple[int, ...]) -> Section:
    comparison = drawer.comparison
    shown = min(level.cells, len(next(iter(comparison.images.values()))))
    side = int(np.ceil(np.sqrt(shown)))
    size = side * (max(56, shape[2]) + views.grid.GAP)
    images = {column.label: decode(column.model, comparison.images[column.label][:shown]) for column in comparison.columns}
    reference = comparison.reference
    if reference is not None:
        reference = decode(comparison.columns[0].model, reference[:shown]).cpu()
    grids = [
        _picture(views.image_grid(x, side, size), drawer.caption(label), f"samples of {drawer.names[label]}")
        for label, x in images.items()
    ]
    html = ""
    words = "Each place holds the same noise in every grid, so that the same cells can be compared."
    if reference is not None:
        grids.append(
            _picture(
                views.image_grid(reference, side, size),
                f"Reference <small>teacher, {FINE_STEPS} steps</small>",
                "reference samples",
            )
        )
        differences = [
            _picture(
                views.difference(x.cpu(), reference, side, size),
                f"{drawer.caption(label)} <small>− reference</small>",
                f"difference of {drawer.names[label]} to the reference",
            )
            for label, x in images.items()
        ]
        html = (
            '<h3 style="margin-top:22px">What changed against the reference</h3><p class="words">Orange is brighter than the teacher\'s '
            f'fine solution, blue is darker; full colour is half the range. Nothing is drawn where both agree.</p><div class="pictures many">{"".join(differences)}</div>'
        )
    return Section(f"The same {shown} samples from each", words, f'<div class="pictures many">{"".join(grids)}</div>{html}')


def _points(drawer: Drawer) -> Section:
    comparison = drawer.comparison
    density = _density(comparison)
    finals = dict(comparison.images)
    pictures = [
        _picture(
            views.points_image(None, x, density, drawer.colors[label]),
            drawer.caption(label),
            f"samples of {drawer.names[label]}",
            False,
        )
        for label, x in finals.items()
    ]
    if comparison.reference is not None:
        picture = views.points_image(None, comparison.reference, density, style.INK)
        pictures.append(_picture(picture, f"Reference <small>teacher, {FINE_STEPS} steps</small>", "reference samples", False))
    words = f"All {len(next(iter(finals.values())))} samples, on the exact density where it is known; both axes run from −2.1 to 2.1."
    return Section("The samples of each", words, f'<div class="pictures">{"".join(pictures)}</div>')


def _trajectories(drawer: Drawer, level: Level, shape: tuple[int, ...]) -> Section:
    comparison, parts = drawer.comparison, []
    words = "The state is what the sampler holds; the DT target is what the model believes, at that step, the result will be."
    if shape == (2,):
        density, cond = _density(comparison), comparison.cond
        single = int(cond[0]) if cond is not None and len(cond.unique()) == 1 else None
        for column in comparison.columns:
            name, trajectory = drawer.names[column.label], comparison.trajectories[column.label]
            teacher = getattr(column.model, "role", "teacher") == "teacher" and (cond is None or single is not None)
            fields = velocity_fields(column.model, trajectory.t, single) if teacher else None
            parts.append(
                drawer.figure(
                    views.particles_animated(
                        trajectory, name, density, fields, level.particles, color=drawer.colors[column.label]
                    )
                )
            )
        words = "Press play, or pull the slider. Arrows, where they are drawn, are the teacher's velocity field."
    elif len(shape) == 3 and shape[0] in (1, 3):
        worst = _worst(comparison)
        for j in (0, worst) if worst else (0,):  # alone, so that no other sample is decoded
            seen = {
                drawer.names[column.label]: comparison.trajectories[column.label].sample(j).decoded(column.model)
                for column in comparison.columns
            }
            parts.append(drawer.figure(views.film_strip(seen, name=f"sample {j}"), WIDE))
        if worst:
            words += f" Sample 0, and sample {worst}, on which the models differ most from the reference."
    across = "plots" if shape == (2,) else "strips"
    return Section("How noise becomes a result", words, f'<div class="{across}">{"".join(parts)}</div>')


def _decided(drawer: Drawer) -> Section:
    n = len(next(iter(drawer.comparison.images.values())))
    parts = [drawer.figure(views.target_distance(drawer.trajectories))]
    if n > 1:
        parts.append(drawer.figure(views.target_diversity(drawer.trajectories)))
    parts.append(drawer.figure(views.motion(drawer.trajectories, drawer.paths)))
    if n > 1:
        parts.append(drawer.figure(views.principal(drawer.trajectories, paths=drawer.paths, most=24)))
    words = "How far each DT target still is from the result, how much the targets of different seeds differ, and how straight the way is."
    return Section("When is the result decided?", words, f'<div class="plots">{"".join(parts)}</div>')


def _plans(drawer: Drawer, level: Level) -> Section:
    parts = f'<div class="plots">{drawer.figure(views.schedules(drawer.plans))}</div>'
    if level.plans:
        tables = (
            f"<h3>{drawer.caption(c.label)}</h3>{drawer.figure(views.plan_table(c.plan()), 560)}"
            for c in drawer.comparison.columns
        )
        parts += f"<details><summary>The table of each plan: every coefficient that ran</summary>{''.join(tables)}</details>"
    return Section("Where each plan spends its steps", "Time, half log-SNR and step size at every step.", parts)


def _picture(picture: np.ndarray, caption: str, alt: str, sharp: bool = True) -> str:
    """A picture with its caption, as the smallest PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    high, wide = picture.shape[:2]
    look = ' class="sharp"' if sharp else ""
    return f'<figure><figcaption>{caption}</figcaption><img{look} src="{source}" width="{wide}" height="{high}" alt="{alt}"></figure>'


def _density(comparison: Comparison) -> views.Density | None:
    teacher = next(filter(None, (exact_of(column.model) for column in comparison.columns)), None) or teacher_of(
        comparison.columns
    )
    return notebook.density(teacher.log_density) if hasattr(teacher, "log_density") else None


def _worst(comparison: Comparison) -> int | None:
    """The sample on which the columns together are farthest from the reference, or None for the first."""
    if comparison.reference is None:
        return None
    errors: Tensor = sum(paired_errors(x, comparison.reference) for x in comparison.images.values())
    return int(errors.argmax()) or None
