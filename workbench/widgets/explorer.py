"""`explore`: the same noise through several models, every step of it under a slider."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as ipw
import plotly.graph_objects as go
import torch

from workbench import views
from workbench.compare import Column, Comparison, columns_of, exact_of, fine_solution, tabulate, teacher_of
from workbench.errors import WorkbenchError, check_count
from workbench.samplers.run import Trajectory
from workbench.samplers.sample import labels, noise_for
from workbench.views import notebook
from workbench.views.points import Density
from workbench.widgets.columns import ColumnView
from workbench.widgets.controls import Controls
from workbench.widgets.kernel import exhaust, running_loop, tell
from workbench.widgets.parts import Figure, sentence, told
from workbench.widgets.runs import QUICK, Asked, Recorder, aligned
from workbench.widgets.still import portrait, static

MOST_IMAGES, MOST_POINTS = 256, 2000
DEBOUNCE, PACE = 0.12, 0.04  # seconds: before a run, between live frames
PATIENCE, AHEAD = 2.0, 0.005  # seconds: until a first run says what it does, between pictures drawn ahead


def _guarded(method: Callable) -> Callable:
    """What goes wrong where a control is moved becomes a sentence in the widget."""

    @functools.wraps(method)
    def called(self: Explorer, *given: Any) -> None:
        try:
            method(self, *given)
        except Exception as error:
            self._fail(error)

    return called


class Explorer(ipw.VBox):
    """The widget that `explore` returns.

    Attributes:
        columns: what runs now, as `workbench.compare` takes it. settings: every control, as plain values.
        trajectories: label -> what was recorded. comparison: these runs measured, as `workbench.compare` returns them.
        error: what is wrong with what was asked for, or None.
    """

    def __init__(self, models: Any, n: int | None = None, seed: int = 0, cond: Any = None) -> None:
        super().__init__()
        self.add_class("wb-widget")
        self.error: Exception | None = None
        self._views: list[ColumnView] = []
        self.controls: Controls | None = None
        self._task: asyncio.Task | None = None
        self._ahead: asyncio.Task | None = None
        self._recorder, self._asked, self._compared = Recorder(), None, None
        self.message = ipw.HTML()
        try:
            self._build(columns_of(models), n, check_count("seed", seed, 0, 2**31 - 1), cond)
            self._first_run()
        except Exception as error:
            self._fail(error)
            self.children = self.children or (self.message,)

    # What a researcher takes to the next cell

    @property
    def columns(self) -> tuple[Column, ...]:
        """What runs now."""
        return self._question().columns

    @property
    def settings(self) -> dict[str, Any]:
        """Every control, as plain values; the same models with these settings draw the same samples."""
        asked = self._question()
        plans = [column.plan() for column in asked.columns]
        told = [
            {"label": c.label, "sampler": p.sampler, "schedule": p.schedule, "steps": p.steps, "guidance": c.scale()}
            for c, p in zip(asked.columns, plans, strict=True)
        ]
        cond = asked.cond.tolist() if isinstance(asked.cond, torch.Tensor) else asked.cond
        return {"n": asked.n, "seed": asked.seed, "class": self.controls.label.label, "cond": cond, "columns": told}

    @property
    def trajectories(self) -> dict[str, Trajectory]:
        """What was recorded with these settings; a column that was stopped is not among them."""
        asked = self._question()
        found = ((column.label, self._recorder.get(asked, k)) for k, column in enumerate(asked.columns))
        return {label: run for label, run in found if run is not None}

    @property
    def comparison(self) -> Comparison:
        """The recorded runs, measured: what `workbench.compare` returns for the same columns, seed and labels.

        Raises:
            WorkbenchError: while a column has not run to its end.
        """
        asked, runs = self._question(), self.trajectories
        if missing := [column.label for column in asked.columns if column.label not in runs]:
            raise WorkbenchError(f"{missing[0]} has not run to its end: let it run, or press Run.")
        if self._compared is None or self._compared[0] is not asked:
            first, teacher = asked.columns[0].model, teacher_of(asked.columns)
            noise = noise_for(first, asked.n, asked.seed)
            solution = fine_solution(teacher, asked.n, asked.cond, asked.seed, noise=noise) if teacher is not None else None
            table, notes = tabulate(asked.columns, runs, solution, asked.cond, asked.seed)
            images = {label: run.final for label, run in runs.items()}
            cond = labels(first, asked.cond, asked.n) if asked.cond is not None else None
            made = Comparison(images, runs, table, solution, cond, asked.columns, asked.seed, notes)
            self._compared = (asked, made)
        return self._compared[1]

    def _question(self) -> Asked:
        if self._asked is None:
            raise self.error or WorkbenchError("there is nothing to compare yet: mend the settings first.")
        return self._asked

    # Laying out

    def _build(self, columns: tuple[Column, ...], n: int | None, seed: int, cond: Any) -> None:
        shape = tuple(columns[0].model.shape)
        self._image = len(shape) == 3
        if not self._image and shape != (2,):
            raise WorkbenchError(f"explore draws images and points in the plane, not samples of shape {shape}: use compare.")
        most = MOST_IMAGES if self._image else MOST_POINTS
        self.n = check_count("n", (16 if self._image else 300) if n is None else n, 1, most)
        palette = views.colors([column.label for column in columns])
        self._views = [ColumnView(c, palette[c.label], self.n, self._changed, self._choose) for c in columns]
        self.controls = Controls(columns, [view.column for view in self._views if view.follows], self.n, seed, cond)
        self._connect()
        Asked(columns, self.n, seed, self.controls.labels()).check()
        self.strips = [Figure() for _ in ([0] if self._image else columns)]
        self.distance, self.log_snr = Figure(), Figure()
        for figure in (*self.strips, self.distance, self.log_snr):
            figure.add_class("wb-wide")
        c = self.controls
        self.children = (
            _row(c.step, c.play, c.align),
            _row(c.seed, c.next_seed, c.label, c.guidance),
            _row(c.run, c.stop, c.progress, self.message),
            _row(*self._views, name="wb-columns"),
            _row(c.sample, c.alone),
            _row(*self.strips, name="wb-columns"),
            _row(self.distance, self.log_snr, name="wb-columns"),
        )

    def _connect(self) -> None:
        c = self.controls
        c.step.observe(self._redraw, "value")
        c.align.observe(self._curves, "value")
        c.seed.observe(self._changed, "value")
        c.label.observe(self._changed, "value")
        c.guidance.observe(self._guided, "value")
        c.next_seed.on_click(lambda _: c.next())
        c.run.on_click(self._changed)
        c.stop.on_click(self._stopped)
        c.sample.observe(self._choose, "value")
        c.alone.observe(self._curves, "value")

    # Running

    def _ask(self) -> Asked:
        columns = tuple(view.asked(self.controls.scale) for view in self._views)
        return Asked(columns, self.n, self.controls.seed.value, self.controls.labels()).check()

    def _first_run(self) -> None:
        """Run in the cell itself, so that its stored output has a picture; interrupting the kernel stops it and keeps the rest."""
        self._asked, began, said = self._ask(), time.monotonic(), None
        self._prepare()
        with contextlib.suppress(KeyboardInterrupt):
            for text in self._frames(self._recorder.missing(self._asked)):
                if time.monotonic() - began > PATIENCE:
                    said = tell(f"{text}. Interrupt the kernel to stop.", said)
        self._finish()
        if said is not None:
            tell(f"Ran in {time.monotonic() - began:.1f} s.", said)

    @_guarded
    def _changed(self, _: Any = None) -> None:
        """Run what the controls ask for: at once what is recorded or quick, the rest in the event loop, where there is one."""
        self._halt()
        self._asked, self.error = self._ask(), None
        self._prepare()
        seconds = self._recorder.seconds
        exhaust(self._frames([k for k in self._recorder.missing(self._asked) if seconds.get(k, 1.0) < QUICK]))
        rest = self._recorder.missing(self._asked)
        loop = running_loop()
        if not rest or loop is None:
            exhaust(self._frames(rest))
            self._finish()
        else:
            self._redraw()
            self._task = loop.create_task(self._drive(rest))

    async def _draw_ahead(self) -> None:
        """Draw the other steps while the kernel has nothing to do, so that the slider only shows them."""
        for label, run in self.trajectories.items():
            view = next(view for view in self._views if view.column.label == label)
            for k in range(len(run)):
                for name in view.pictures:
                    view.ready(run, k, name)
                    await asyncio.sleep(AHEAD)

    async def _drive(self, rest: list[int]) -> None:
        """Run in the kernel's own loop, which hears of Stop and of every slider between two frames."""
        try:
            await asyncio.sleep(DEBOUNCE)
            for _text in self._frames(rest):
                await asyncio.sleep(0)
            self._finish()
        except Exception as error:
            self._fail(error)

    def _frames(self, only: list[int]) -> Iterator[str]:
        """Run columns, drawing at a pace that can be seen; yields what it is doing after every evaluation."""
        asked, drawn, done = self._asked, 0.0, 0
        plans = {k: asked.columns[k].plan() for k in only}
        self.controls.progress.max = max(1, sum(len(plan.stages) for plan in plans.values()))
        points: dict[int, int] = dict.fromkeys(only, -1)
        for k, frame in self._recorder.run(asked, only):
            plan, now = plans[k], time.monotonic()
            last = frame.i == len(plan.stages)
            done += not last
            points[k] += not frame.inner
            text = f"Running {asked.columns[k].label}: step {points[k]} of {plan.steps}"
            if last or (not frame.inner and now - drawn > PACE):
                drawn = now
                self._views[k].live(frame, points[k], plan.steps, plan.path.log_snr(frame.t))
                self.controls.progress.value, self.message.value = done, sentence(text)
            yield text

    def _prepare(self) -> None:
        """Say what will run, before it does."""
        exact = exact_of(self._asked.columns[0].model) if not self._image else None
        density = _density(exact, self._asked.cond) if exact is not None else None
        for k, (view, column) in enumerate(zip(self._views, self._asked.columns, strict=True)):
            view.density = density
            view.describe(column)
            if self._recorder.get(self._asked, k) is None:
                view.wait("waiting for its turn; the picture is of earlier settings")
        self.message.value, self.controls.progress.value = "", 0
        self.controls.busy(True)

    def _halt(self) -> None:
        for task in (self._task, self._ahead):
            if task is not None:
                task.cancel()
        self._task = self._ahead = None

    def _stopped(self, _: Any = None) -> None:
        self._halt()
        self._finish()

    def _finish(self) -> None:
        """What follows a run, whole or stopped."""
        runs, count = self.trajectories, len(self._views)
        for k, view in enumerate(self._views):
            if self._recorder.get(self._asked, k) is None:
                view.wait("stopped before its end")
        ended = len(runs) == count
        self.controls.busy(False, whole=ended)
        words = "" if ended else f"Stopped: {len(runs)} of {count} models ran to their end. What was drawn stays; Run goes on."
        self.message.value = sentence(words)
        if runs:
            self.controls.reach(max(len(run) for run in runs.values()) - 1)
            self._curves()
        self._redraw()
        if (loop := running_loop()) is not None:
            self._ahead = loop.create_task(self._draw_ahead())

    def _fail(self, error: Exception) -> None:
        self._halt()
        self.error = error if isinstance(error, WorkbenchError) else WorkbenchError(told(error))
        self.message.value = sentence(told(error), wrong=True)
        if self.controls is not None:
            self.controls.busy(False)

    # Showing

    def _places(self) -> dict[str, int]:
        runs = self.trajectories
        paths = {column.label: column.model.path for column in self._asked.columns}
        return aligned(runs, paths, self.controls.step.value, self.controls.align.value) if runs else {}

    @_guarded
    def _redraw(self, _: Any = None) -> None:
        """Show the step of the slider; nothing is computed but pictures."""
        if self._asked is None:
            return
        runs, places = self.trajectories, self._places()
        for view in self._views:
            label = view.column.label
            if label in places:
                run, k = runs[label], places[label]
                view.show(run, k, view.column.model.path.log_snr(float(run.t[k])))
            view.mark(self.controls.sample.value)
        for figure in (self.distance, self.log_snr):
            figure.point_at([places[label] for label in runs])

    @_guarded
    def _curves(self, _: Any = None) -> None:
        """The figures that belong to whole runs, and the strips of the chosen sample."""
        runs, j = self.trajectories, self.controls.sample.value
        if not runs:
            return
        paths = {column.label: column.model.path for column in self._asked.columns}
        alone = j if self.controls.alone.value else None
        self.distance.show(views.target_distance(runs, alone, against=self.controls.align.value, paths=paths))
        plans = {column.label: column.plan() for column in self._asked.columns if column.label in runs}
        self.log_snr.show(views.log_snr(plans))
        for figure, drawn in zip(self.strips, self._strips(runs, j), strict=False):
            figure.show(drawn)
        self._redraw()

    def _strips(self, runs: dict[str, Trajectory], j: int) -> list[go.Figure]:
        if self._image:
            models = {column.label: column.model for column in self._asked.columns}
            seen = {label: run.sample(j).decoded(models[label]) for label, run in runs.items()}
            return [views.film_strip(seen, name=f"sample {j}")]
        return [
            views.particles(run, view.column.label, view.density, j, paths=40, color=view.color)
            for view in self._views
            if (run := runs.get(view.column.label)) is not None
        ]

    @_guarded
    def _choose(self, change: Any) -> None:
        j = change["new"] if isinstance(change, dict) else change
        if self.controls.sample.value != j:
            self.controls.sample.value = j  # comes back here
            return
        if self._asked is not None:
            self._curves()

    def _guided(self, change: Any) -> None:
        self.controls.scale = change["new"]
        self._changed()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """The live view, and beside it what can be read without a kernel."""
        live = super()._repr_mimebundle_(**options)
        if self._asked is None or not self.trajectories:
            return live | {"text/plain": str(self.error or "nothing has run")}
        try:
            return live | self._still()
        except Exception as error:  # the live view must not be lost with its stand-in
            return live | {"text/plain": told(error)}

    def _still(self) -> dict[str, Any]:
        runs, places = self.trajectories, self._places()
        shown = [view for view in self._views if view.column.label in runs]
        pictures = {v.column.label: v.picture(runs[v.column.label], places[v.column.label]) for v in shown}
        strip, curves = self._strips(runs, self.controls.sample.value)[0], views.target_distance(runs)
        drawn = [portrait(pictures, {v.column.label: v.color for v in shown}), curves]
        described = [column.describe() for column in self._asked.columns]
        text = "; ".join([*described, f"seed {self._asked.seed}, class {self.controls.label.label}, n = {self.n}"])
        if self._image:
            return static(strip, [drawn[0], strip, curves], text)
        return static(notebook.particle_row(runs, shown[0].density), drawn, text)


def _row(*parts: ipw.Widget, name: str = "wb-row") -> ipw.Box:
    return ipw.Box(parts).add_class(name)


def _density(teacher: Any, cond: Any) -> Density | None:
    label = cond if isinstance(cond, int) else None
    return notebook.density(functools.partial(teacher.log_density, t=0.0, cond=label))


def explore(models: Any, n: int | None = None, seed: int = 0, cond: Any = None) -> Explorer:
    """A widget that runs models from the same noise and lets you walk through every step of what they drew.

    It needs a notebook to be used; without one it holds its first run. What is wrong is said inside it, not raised.

    Args:
        models: names, denoisers or `Column`s, or a mapping label -> one of these, as for `workbench.compare`.
        n: samples, 1 to 256 images (16 by default) or 1 to 2000 points (300). seed: of the noise. cond: a label, n labels or None.

    >>> shown = explore(["eight_gaussians"], n=20, seed=3)
    >>> shown.controls.seed.value, shown.trajectories["eight_gaussians"].x.shape
    (3, torch.Size([26, 20, 2]))
    """
    return Explorer(models, n, seed, cond)
