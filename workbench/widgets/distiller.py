"""`distill`: choose a teacher, a recipe and its switches; watch students learn, in processes that outlive the notebook."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from contextlib import contextmanager
from html import escape
from typing import Any

import ipywidgets as ipw
import numpy as np

from workbench import training, views, zoo
from workbench.distill.fit import misfits
from workbench.distill.recipes import get, recipes
from workbench.errors import WorkbenchError, unknown
from workbench.views import notebook
from workbench.views.training import AXES, numbers_of, training_curves
from workbench.widgets.kernel import running_loop
from workbench.widgets.parts import Figure, Picture, sentence, told
from workbench.widgets.still import portrait, static

EVERY, HEALTH = 0.8, 4.0  # seconds between looks into the run folders, and between two drawings of the players' health
SIZE, MOST = 320, 40
LIVE = ("preparing", "running")
LOSS, METRIC = ("student", "loss"), ("sw2", "paired_rms")  # shown first, where a run has them
LOOK = {"style": {"description_width": "72px"}, "layout": {"width": "250px"}}
SMALL = {"width": "auto"}
PANELS = ("gradients", "gap", "critic", "calibration", "weights", "ratio")


def _guarded(method: Callable) -> Callable:
    """What goes wrong where a control is moved becomes a sentence in the widget."""

    @functools.wraps(method)
    def called(self: Distiller, *given: Any) -> None:
        if self._quiet:
            return
        try:
            self.error = None
            method(self, *given)
        except Exception as error:
            self._fail(error)

    return called


class Distiller(ipw.VBox):
    """The widget that `distill` returns.

    Attributes:
        run: the training run that is shown, or None. state: where it is, with its losses and metrics, or None.
        student: the finished student, or None while there is none. error: what is wrong with what was asked for, or None.
    """

    def __init__(
        self, teacher: str = "digits/teacher", recipe: str = "dmd2", seconds: float | None = 60.0, steps: int | None = None,
        seed: int = 0, name: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.add_class("wb-widget")
        self.error: WorkbenchError | None = None
        self._quiet, self._task, self._drawn, self._healthy = False, None, (), 0.0
        self.message = ipw.HTML()
        try:
            self._build(teacher, recipe, seconds, steps, seed, name, options)
        except Exception as error:
            self._fail(error)
            self.children = (self.message,)
            return
        self._look()
        self._follow()

    # What a researcher takes to the next cell

    @property
    def run(self) -> training.Run | None:
        """The run that is shown."""
        return training.open_run(self.chosen.value) if self.chosen.value else None

    @property
    def state(self) -> training.State | None:
        """Where the shown run is."""
        return self.run.state() if self.run else None

    @property
    def student(self) -> Any:
        """The finished student of the shown run, or None."""
        state = self.run.state(history=False) if self.run else None
        return zoo.load(state.model) if state and state.model else None

    def wait(self, seconds: float = 600.0) -> training.State | None:
        """Draw until the shown run has ended, at most this long; interrupting the kernel leaves it at work."""
        if self.error is not None:
            raise self.error
        end = time.monotonic() + seconds
        while self._look() and time.monotonic() < end:
            time.sleep(EVERY)
        return self.state

    # Laying out

    def _build(self, teacher: Any, recipe: Any, seconds: Any, steps: Any, seed: Any, name: Any, options: dict) -> None:
        self._spaces: dict[str, list[str]] = {}
        for entry in zoo.catalog():
            self._spaces.setdefault(entry.space, []).append(entry.name)
        known = {one: space for space, names in self._spaces.items() for one in names}
        if teacher not in known:
            raise unknown("teacher", str(teacher)[:60], known)
        get(recipe).configured(**options)
        space = known[teacher]
        self.space = ipw.Dropdown(options=list(self._spaces), value=space, description="Space", **LOOK)
        self.teacher = ipw.Dropdown(options=self._spaces[space], value=teacher, description="Teacher", **LOOK)
        self.recipe = ipw.Dropdown(options=[one.name for one in recipes()], value=recipe, description="Recipe", **LOOK)
        words = ["" if value is None else f"{value:g}" for value in (seconds, steps)]
        self.seconds = ipw.Text(words[0], description="Seconds", placeholder="no limit", **LOOK)
        self.steps = ipw.Text(words[1], description="Steps", placeholder="no limit", **LOOK)
        self.seed = ipw.IntText(seed, description="Seed", **LOOK)
        self.name = ipw.Text(name or "", description="Name", placeholder="recipe and number", **LOOK)
        self.start = ipw.Button(description="Start", button_style="primary", layout=SMALL)
        self.about, self.switches, self._box = ipw.HTML(), {}, ipw.Box().add_class("wb-row")
        form = ipw.Accordion([ipw.VBox([self.about, self._box])], titles=["Switches of the recipe"])
        self.chosen = ipw.Dropdown(options=[], description="Run", **LOOK)
        self.overlaid = ipw.SelectMultiple(options=[], description="Overlaid", rows=3, **LOOK)
        self.pause, self.resume, self.stop = (
            ipw.Button(description=word, disabled=True, layout=SMALL) for word in ("Pause", "Resume", "Stop")
        )
        self.loss, self.metric = (ipw.Dropdown(options=[], description=word, **LOOK) for word in ("Loss", "Metric"))
        self.axis = ipw.Dropdown(options=list(AXES), description="Against", **LOOK)
        self.status, self.losses, self.metrics = ipw.HTML(), Figure(), Figure()
        self.pictures = {who: Picture() for who in ("student", "teacher")}
        self.captions = {who: ipw.HTML() for who in self.pictures}
        self.panels = {panel: Figure() for panel in PANELS}
        for figure in (self.losses, self.metrics, *self.panels.values()):
            figure.add_class("wb-wide")
            figure.layout.display = "none"
        seen = [ipw.VBox([self.captions[who], self.pictures[who]]).add_class("wb-column") for who in self.pictures]
        self.health = ipw.Accordion(
            [_row(*self.panels.values(), name="wb-columns")], titles=["Health of critic and discriminator"]
        )
        self.children = (
            _row(self.space, self.teacher, self.recipe, self.seconds, self.steps, self.seed, self.name, self.start),
            form, self.message,
            _row(self.chosen, self.overlaid, self.pause, self.resume, self.stop, self.loss, self.metric, self.axis),
            self.status, _row(*seen, name="wb-columns"), _row(self.losses, self.metrics, name="wb-columns"), self.health,
        )  # fmt: skip
        self._form(options)
        self._connect()

    def _connect(self) -> None:
        self.space.observe(self._moved, "value")
        for control in (self.teacher, self.recipe):
            control.observe(self._formed, "value")
        for control in (self.chosen, self.overlaid, self.loss, self.metric, self.axis):
            control.observe(self._picked, "value")
        self.health.observe(self._picked, "selected_index")
        self.start.on_click(self._started)
        for button in (self.pause, self.resume, self.stop):
            button.on_click(self._told)

    def _form(self, options: dict[str, Any]) -> None:
        """Fields for the switches of the recipe as it would be for this teacher."""
        recipe, model = get(self.recipe.value), zoo.load(self.teacher.value)
        wrong = misfits(recipe, model)
        self.about.value = sentence(f"{recipe.summary} ({recipe.paper})") + (
            sentence(f"It does not fit this teacher: {'; '.join(wrong)}.", wrong=True) if wrong else ""
        )
        self._known = training.switches(recipe, tuple(model.shape), fresh=not hasattr(model, "net"))
        self._known.pop("steps", None)
        self._rest = {key: value for key, value in options.items() if key not in self._known}
        self.switches = {}
        for key, (kind, default) in self._known.items():
            value, words = options.get(key, default), key.replace("_", " ")
            if kind is bool:
                self.switches[key] = ipw.Checkbox(bool(value), description=words, indent=False, layout=SMALL)
            else:
                text = "" if value is None else str(value)
                look = {"style": {"description_width": "auto"}, "layout": {"width": "190px"}}
                self.switches[key] = ipw.Text(text, description=words, placeholder="open", **look)
        self._box.children = tuple(self.switches.values())

    # Asking

    @_guarded
    def _moved(self, _: Any) -> None:
        self.teacher.options = self._spaces[self.space.value]  # which chooses its first

    @_guarded
    def _formed(self, _: Any) -> None:
        self._form({})

    @_guarded
    def _started(self, _: Any = None) -> None:
        """Start a run in a process of its own, beside those that are at work."""
        options = training.changed(self._known, {key: control.value for key, control in self.switches.items()})
        run = training.start(
            self.teacher.value, self.recipe.value, seconds=_budget("seconds", self.seconds.value), steps=_budget("steps", self.steps.value),
            seed=self.seed.value, name=self.name.value.strip() or None, options={**self._rest, **options},
        )  # fmt: skip
        self.message.value = sentence(f"Started {run.name}; closing the notebook does not end it.")
        self._look(run.name)
        self._follow()

    @_guarded
    def _told(self, button: ipw.Button) -> None:
        word = button.description.lower()
        getattr(training.open_run(self.chosen.value), word)()
        self.message.value = sentence(
            f"{ {'pause': 'Pausing', 'resume': 'Resuming', 'stop': 'Stopping'}[word] } {self.chosen.value}."
        )
        self._look(anew=True)
        self._follow()

    @_guarded
    def _picked(self, _: Any) -> None:
        self._look(anew=True)
        self._follow()

    def _fail(self, error: Exception) -> None:
        self.error = error if isinstance(error, WorkbenchError) else WorkbenchError(told(error))
        self.message.value = sentence(told(error), wrong=True)

    # Showing

    def _follow(self) -> None:
        """Look again and again in the kernel's own loop, while a shown run is at work."""
        loop = running_loop()
        if loop is not None and (self._task is None or self._task.done()) and self._at_work:
            self._task = loop.create_task(self._drive())

    async def _drive(self) -> None:
        try:
            while self._look():
                await asyncio.sleep(EVERY)
        except Exception as error:
            self._fail(error)

    @contextmanager
    def _silently(self) -> Any:
        """Controls change without being heard."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def _look(self, name: str | None = None, anew: bool = False) -> bool:
        """Read the run folders and draw what has changed; whether a shown run is at work."""
        found = {run.name: run for run in training.runs()[:MOST]}
        self._at_work = False
        if not found:
            self.status.value = sentence("Losses, metrics and samples of your runs appear here.")
            return False
        chosen = name or self.chosen.value
        chosen = chosen if chosen in found else next(iter(found))
        shown = [one for one in found if one in self.overlaid.value or one == chosen][:8]
        states = {one: found[one].state(history=False) for one in shown}
        self._at_work = any(state.name in LIVE for state in states.values())
        with self._silently():
            if list(self.chosen.options) != list(found):
                self.chosen.options = self.overlaid.options = list(found)
            self.chosen.value, self.overlaid.value = chosen, tuple(shown)
        key = (chosen, *((one, state.name, state.sentence, state.step) for one, state in states.items()))
        if key != self._drawn or anew:
            self._drawn = key
            self._draw(found, shown, states, chosen)
        return self._at_work

    def _draw(self, found: dict, shown: list[str], states: dict, chosen: str) -> None:
        state, palette = states[chosen], views.colors(shown)
        self.pause.disabled, self.stop.disabled = state.name not in LIVE, state.name not in (*LIVE, "paused")
        self.resume.disabled = state.name not in ("paused", "stopped", "failed")
        self.status.value = "".join(_line(one, states[one], found[one].request, palette[one]) for one in shown)
        full = {one: found[one].state() for one in shown}
        for figure, control, first, rows, smooth in (
            (self.losses, self.loss, LOSS, {one: each.losses for one, each in full.items()}, 0.9),
            (self.metrics, self.metric, METRIC, {one: each.metrics for one, each in full.items()}, 0.0),
        ):
            known = numbers_of(rows)
            value = control.value if control.value in known else next((one for one in (*first, *known) if one in known), None)
            with self._silently():
                if list(control.options) != known:
                    control.options = known
                control.value = value
            figure.layout.display = None if value else "none"
            if value:
                figure.show(training_curves(rows, value, self.axis.value, smooth, palette))
        for who, (caption, picture) in self._pictures(found[chosen], palette[chosen]).items():
            self.captions[who].value = sentence(caption)
            self.pictures[who].value, self.pictures[who].alt = views.png(picture), caption
        if self.health.selected_index is not None and (not self._at_work or time.monotonic() - self._healthy > HEALTH):
            self._healthy = time.monotonic()
            drawn = views.health(full[chosen].losses, self.axis.value)
            for panel, figure in self.panels.items():
                figure.layout.display = None if panel in drawn else "none"
                if panel in drawn:
                    figure.show(drawn[panel])

    def _pictures(self, run: training.Run, color: str) -> dict[str, tuple[str, np.ndarray]]:
        """Samples of the student and of its teacher, from the same noise."""
        student, teacher, step = run.samples()
        teacher = teacher if student is None or teacher is None else teacher[: len(student)]
        asked, made = run.request, {}
        for who, x, ink, text in (
            ("student", student, color, f"{run.name}, step {step}"),
            ("teacher", teacher, views.style.PALETTE[0], f"{asked['teacher']}, same noise"),
        ):
            if x is None:
                continue
            text = f"{text}, n = {len(x)}"
            if x.ndim == 4:
                made[who] = (text, views.image_grid(x, columns=4, size=SIZE))
            elif tuple(x.shape[1:]) == (2,):
                made[who] = (text, views.points_image(None, x, _density(asked["teacher"]), ink, size=SIZE))
        return made

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """The live view, and beside it what can be read without a kernel."""
        live = super()._repr_mimebundle_(**options)
        if self.error is not None or self.run is None:
            return live | {"text/plain": str(self.error or "No run yet: press Start.")}
        state, name, palette = self.state, self.run.name, views.colors([self.run.name])
        text = f"{name}: {state.sentence}" + (f" {state.warning}" if state.warning else "")
        pictures = {caption: [picture] for caption, picture in self._pictures(self.run, palette[name]).values()}
        known = numbers_of({name: state.losses})
        if not known or not pictures:
            return live | {"text/plain": text}
        number = self.loss.value if self.loss.value in known else known[0]
        curve = training_curves({name: state.losses}, number, self.axis.value, 0.9, palette)
        seen = portrait(pictures, dict.fromkeys(pictures, palette[name]))
        return live | static(curve, [seen, curve], text)


def _row(*parts: Any, name: str = "wb-row") -> ipw.Box:
    return ipw.Box(parts).add_class(name)


def _budget(what: str, text: str) -> float | int | None:
    """A limit of a run from its field; an empty one is none.

    >>> _budget("seconds", "1.5"), _budget("steps", "300"), _budget("steps", " ")
    (1.5, 300, None)
    """
    kind = int if what == "steps" else float
    return training.changed({what: (kind, None)}, {what: text}).get(what)


def _line(name: str, state: training.State, asked: dict[str, Any], color: str) -> str:
    wrong = state.name == "failed"
    head = f'<b style="color:{color}">{escape(name)}</b> {escape(asked["recipe"])} of {escape(asked["teacher"])}: <b>{state.name}</b>'
    warning = sentence(state.warning, wrong=True) if state.warning else ""
    return f"<div>{head}{sentence(state.sentence, wrong=wrong)}{warning}</div>"


@functools.lru_cache(maxsize=8)
def _density(teacher: str) -> Any:
    """The exact density of a law of points, or None where it is not known."""
    model = zoo.load(teacher)
    return notebook.density(model.log_density) if hasattr(model, "log_density") and tuple(model.shape) == (2,) else None


def distill(
    teacher: str = "digits/teacher", recipe: str = "dmd2", seconds: float | None = 60.0, steps: int | None = None, seed: int = 0,
    name: str | None = None, start: bool = False, **options: Any,
) -> Distiller:  # fmt: skip
    """A widget in which students are trained and watched, as in the app's tab Distill: runs are the same, and so is the user's zoo.

    Each run has a process of its own: it goes on when the notebook is closed, and is found again. `.wait()` draws until the shown run
    has ended, `.student` is then the model, also `workbench.load(SPACE/NAME)`.

    Args:
        teacher: a name from the catalog. recipe: a name from `workbench.recipes()`. options: of the recipe, by name.
        seconds, steps: how long, whichever ends first. name: of the run and of the student. start: begin at once.

    >>> chosen = distill("eight_gaussians", "reflow", seconds=5)
    >>> chosen.switches["batch"].value = "64"
    >>> chosen.recipe.value, chosen.error, chosen.start.description
    ('reflow', None, 'Start')
    """
    made = Distiller(teacher, recipe, seconds, steps, seed, name, **options)
    if start and made.error is None:
        made._started()
    return made
