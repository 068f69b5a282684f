"""One column of an explorer: what runs, its pictures at a step, and the controls that change how it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import Any

import ipywidgets as ipw
import numpy as np
from torch import Tensor

from workbench import schedules
from workbench.compare import Column
from workbench.denoiser import decode, picture_shape
from workbench.samplers import SAMPLERS
from workbench.samplers.run import Frame, Trajectory
from workbench.views import cell_at, grid, image_grid, nearest, png, points_image
from workbench.views.points import EXTENT, Density
from workbench.widgets.parts import Picture, sentence

SIZE, MOST_STEPS = 320, 200


class ColumnView(ipw.VBox):
    """A model's header, its pictures and its controls.

    Args:
        column: as given. color: of the model. n: number of samples. changed: called when a control moves.
        chosen: called with the index of a sample that was clicked.
    """

    def __init__(
        self, column: Column, color: str, n: int, changed: Callable[[Any], None], chosen: Callable[[int], None]
    ) -> None:
        self.column, self.color, self.n = column, color, n
        self.density: Density | None = None
        self.image = len(column.model.shape) == 3
        self._shown: Trajectory | None = None
        self._drawn: dict[tuple[int, str], bytes] = {}
        self._points: Tensor | None = None
        self.head, self.status = ipw.HTML(), ipw.HTML()
        names = ("state", "DT target") if self.image else ("state and DT target",)
        self.pictures = {name: Picture(ring=not self.image) for name in names}
        for picture in self.pictures.values():
            picture.on_click(lambda x, y: self._clicked(x, y, chosen))
        self._controls(changed)
        captions = {"state": "state x_t", "DT target": "DT target (x0 estimate)"}
        captions |= {"state and DT target": "grey: state x_t · colour: DT target (x0 estimate)"}
        rows = [part for name, picture in self.pictures.items() for part in (ipw.HTML(sentence(captions[name])), picture)]
        how = ipw.Accordion([ipw.VBox([self.sampler, self.schedule, self.steps])], titles=["Change how it runs"])
        super().__init__([self.head, self.status, *rows, how])
        self.add_class("wb-column").add_class("wb-images" if self.image else "wb-points")
        self.describe(column)

    def _controls(self, changed: Callable[[Any], None]) -> None:
        plan = self.column.plan()
        look = {"style": {"description_width": "72px"}, "layout": {"width": "auto"}}
        samplers = [(f"own ({plan.sampler})", ""), *((name, name) for name in SAMPLERS)]
        grids = [(f"own ({plan.schedule})", ""), *((name, name) for name in schedules.NAMES)]
        self.sampler = ipw.Dropdown(options=samplers, value="", description="Sampler", **look)
        self.schedule = ipw.Dropdown(options=grids, value="", description="Schedule", **look)
        self.steps = ipw.BoundedIntText(plan.steps, min=1, max=max(MOST_STEPS, plan.steps), description="Steps", **look)
        self.own_steps = plan.steps
        for control in (self.sampler, self.schedule, self.steps):
            control.observe(changed, "value")

    def asked(self, guidance: float | None) -> Column:
        """The column with what its controls say, and a guidance scale if it follows the common one."""
        picked = {"sampler": self.sampler.value, "schedule": self.schedule.value}
        chosen: dict[str, Any] = {name: value for name, value in picked.items() if value}
        if chosen:
            chosen["options"] = {}  # options were given for what was replaced
        if self.steps.value != self.own_steps:
            chosen["steps"] = self.steps.value
            if not (self.column.schedule is None or isinstance(self.column.schedule, str) or callable(self.column.schedule)):
                chosen.setdefault("schedule", "uniform")  # a list of times has one length
        if guidance is not None and self.follows:
            chosen["guidance"] = guidance
        return replace(self.column, **chosen)

    @property
    def follows(self) -> bool:
        """Whether the common guidance scale is this model's: it knows classes, has no guidance baked in, and none was given."""
        card = getattr(self.column.model, "card", None) or {}
        free = self.column.guidance is None and card.get("guidance_baked_in") is None
        return free and bool(getattr(self.column.model, "classes", 0))

    def describe(self, column: Column) -> None:
        """Say what runs."""
        label, _, words = column.describe().partition(": ")
        baked = (getattr(column.model, "card", None) or {}).get("guidance_baked_in")
        words += f", guidance {baked:g} baked in" if isinstance(baked, int | float) and baked != 1 else ""
        title = f'<b style="color:{self.color}">{escape(label)}</b>'
        self.head.value = f'<div class="wb-head">{title}<br><span class="wb-quiet">{escape(words)}</span></div>'

    def wait(self, text: str) -> None:
        """Say that what is drawn belongs to earlier settings."""
        self.status.value = sentence(text)

    def live(self, frame: Frame, point: int, steps: int, log_snr: float) -> None:
        """Draw a frame of a run that goes on."""
        self._points = frame.x
        self._put({name: self._png(name, frame.x, frame.target) for name in self.pictures}, point)
        self.status.value = sentence(_words(point, steps, frame.t, log_snr, frame.nfe, frame.seconds))

    def show(self, trajectory: Trajectory, k: int, log_snr: float) -> None:
        """Draw point k of a recorded run."""
        self._points = trajectory.x[k]
        self._put({name: self.ready(trajectory, k, name) for name in self.pictures}, k)
        steps, t = len(trajectory) - 1, float(trajectory.t[k])
        self.status.value = sentence(_words(k, steps, t, log_snr, trajectory.nfe[k], trajectory.seconds[k]))

    def ready(self, trajectory: Trajectory, k: int, name: str) -> bytes:
        """The picture of point k, drawn once while this run is shown."""
        if self._shown is not trajectory:
            self._shown, self._drawn = trajectory, {}
        if (k, name) not in self._drawn:
            self._drawn[k, name] = self._png(name, trajectory.x[k], trajectory.target[k])
        return self._drawn[k, name]

    def mark(self, j: int) -> None:
        """Outline sample j."""
        for picture in self.pictures.values():
            picture.mark = self._place(j)

    def picture(self, trajectory: Trajectory, k: int) -> list[np.ndarray]:
        """The pictures of point k as arrays."""
        return [self._draw(name, trajectory.x[k], trajectory.target[k]) for name in self.pictures]

    def _put(self, files: dict[str, bytes], point: int) -> None:
        for name, picture in self.pictures.items():
            with picture.hold_sync():
                picture.value = files[name]
                picture.alt = f"{self.column.label}, {name} of {self.n} samples at step {point}"

    def _png(self, name: str, x: Tensor, target: Tensor) -> bytes:
        return png(self._draw(name, x, target))

    def _draw(self, name: str, x: Tensor, target: Tensor) -> np.ndarray:
        if self.image:
            return image_grid(decode(self.column.model, x if name == "state" else target), size=SIZE)
        return points_image(x, target, self.density, self.color, size=SIZE)

    def _place(self, j: int) -> list[float]:
        if self.image:
            place = grid.cells(self.n, picture_shape(self.column.model), size=SIZE)
            wide, high = place.columns * (place.width + place.gap), place.rows * (place.height + place.gap)
            left, top = (j % place.columns) * (place.width + place.gap), (j // place.columns) * (place.height + place.gap)
            return [left / wide, top / high, place.width / wide, place.height / high]
        if self._points is None:
            return []
        x, y = self._points[j].tolist()
        radius = 9 / SIZE
        across, down = (x + EXTENT) / (2 * EXTENT), (EXTENT - y) / (2 * EXTENT)
        inside = 0 <= across <= 1 and 0 <= down <= 1
        return [across - radius, down - radius, 2 * radius, 2 * radius] if inside else []

    def _clicked(self, x: float, y: float, chosen: Callable[[int], None]) -> None:
        if self.image:
            j = cell_at(x, y, self.n, picture_shape(self.column.model), size=SIZE)
        else:
            j = None if self._points is None else nearest(x, y, self._points, size=SIZE)
        if j is not None:
            chosen(j)


def _words(point: int, steps: int, t: float, log_snr: float, nfe: int, seconds: float) -> str:
    snr = f"{log_snr:.2f}" if abs(log_snr) < 1e6 else "∞" if log_snr > 0 else "-∞"
    return f"step {point} of {steps} · t {t:.3f} · log-SNR {snr} · NFE {nfe} · {seconds:.2g} s".replace("-", "−").replace(
        "log−SNR", "log-SNR"
    )
