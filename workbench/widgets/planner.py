"""`schedule`: a plan under controls, with its times, its log-SNR, its step sizes and its table."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import ipywidgets as ipw

from workbench import paths, schedules, views
from workbench.errors import WorkbenchError
from workbench.paths import Path
from workbench.samplers import SAMPLERS, Plan, plan, sampler_options
from workbench.widgets.parts import Figure, sentence, told
from workbench.widgets.still import static

LOOK = {"style": {"description_width": "78px"}, "layout": {"width": "300px"}}
NAMES = ("A", "B")
# Sliders for the options whose useful range is known: lowest, highest, step. Any other gets a field by the type of its default.
RANGES = {
    "eta": (0.0, 1.0, 0.05),
    "gamma": (0.0, 1.0, 0.05),
    "t_start": (0.01, 1.0, 0.01),
    "t_end": (0.0, 0.99, 0.01),
    "power": (1.0, 12.0, 0.5),
    "shift": (0.25, 12.0, 0.25),
}
# Options that take one of a few words.
CHOICES = {
    "solver_type": ("midpoint", "heun"),
    "second_diff": ("full", "half"),
    "final": ("x0", "full"),
    "variant": ("bh1", "bh2"),
    "kind": ("x0", "eps"),
    "start": ("plms", "prk"),
    "variance": ("small", "large", "gaussian"),
    "variable": ("t", "rho", "log_snr"),
    "dense": ("both", "noise"),
    "table": ("sd15", "sdxl", "svd"),
}
MOST_STEPS = 100


class PlanControls(ipw.VBox):
    """The controls of one plan; the options shown are those of its sampler and its schedule.

    Args:
        name: of the plan. path: a name or a `Path`. changed: called when a control moves.
    """

    def __init__(self, name: str, path: Path, sampler: str, grid: str, steps: int, changed: Callable[[], None]) -> None:
        self.name, self._notify = name, changed
        known = {**paths.NAMES, path.name: path}
        self.path = ipw.Dropdown(options=list(known.items()), value=path, description="Path", **LOOK)
        self.sampler = ipw.Dropdown(options=list(SAMPLERS), value=sampler, description="Sampler", **LOOK)
        self.schedule = ipw.Dropdown(options=list(schedules.NAMES), value=grid, description="Schedule", **LOOK)
        self.steps = ipw.IntSlider(steps, 1, MOST_STEPS, description="Steps", **LOOK)
        self.options: dict[str, ipw.Widget] = {}
        self._box = ipw.VBox()
        self.title = ipw.HTML()
        super().__init__([self.title, self.path, self.sampler, self.schedule, self.steps, self._box])
        self.add_class("wb-plan")
        for control in (self.path, self.sampler, self.schedule, self.steps):
            control.observe(self._moved, "value")
        self._lay_out()

    def plan(self) -> Plan:
        """The plan that the controls describe.

        Raises:
            WorkbenchError: if these times or options are impossible.
        """
        given = {name: control.value for name, control in self.options.items() if _given(name, control, self._defaults[name])}
        return plan(self.sampler.value, self.path.value, self.steps.value, self.schedule.value, **given)

    def _moved(self, change: Any) -> None:
        if change["owner"] in (self.sampler, self.schedule):
            self._lay_out()
        self._notify()

    def _lay_out(self) -> None:
        """Controls for the options of what is chosen; those that stay keep their values."""
        wanted = {**_defaults(SAMPLERS[self.sampler.value], sampler_options(self.sampler.value))}
        function = schedules.NAMES[self.schedule.value]
        wanted |= _defaults(function, schedules.options(self.schedule.value))
        kept = {name: control for name, control in self.options.items() if name in wanted}
        self._defaults, self.options = wanted, {}
        for name, default in wanted.items():
            if name == "windows":  # of restart: a list of four numbers each, for code
                continue
            if name not in kept:
                kept[name] = _control(name, default)
                kept[name].observe(lambda _: self._notify(), "value")
            self.options[name] = kept[name]
        self._box.children = tuple(self.options.values())


def _defaults(function: Callable, names: list[str]) -> dict[str, Any]:
    signature = inspect.signature(function).parameters
    return {name: signature[name].default for name in names}


def _control(name: str, default: Any) -> ipw.Widget:
    words = name.replace("_", " ")
    if name == "variable" and default is None:
        return ipw.Dropdown(options=[("by the path", ""), ("t", "t"), ("rho", "rho")], description=words, **LOOK)
    if name in RANGES:
        low, high, step = RANGES[name]
        return ipw.FloatSlider(float(default), min=low, max=high, step=step, description=words, readout_format=".2f", **LOOK)
    if name in CHOICES:
        return ipw.Dropdown(options=CHOICES[name], value=default, description=words, **LOOK)
    if isinstance(default, bool):
        return ipw.Checkbox(default, description=words, indent=True, **LOOK)
    if default == math.inf:  # which JSON has no word for
        return ipw.FloatText(0.0, description=words, tooltip="0 leaves it open", **LOOK)
    if isinstance(default, float):
        return ipw.FloatText(default, description=words, **LOOK)
    if isinstance(default, int) or name in ("timesteps", "order"):
        return ipw.IntText(default or 0, description=words, tooltip="0 leaves it to the path or the sampler", **LOOK)
    return ipw.Text("" if default is None else str(default), description=words, **LOOK)


def _given(name: str, control: ipw.Widget, default: Any) -> bool:
    """Whether a control says something that its default does not; empty fields and 0 stand for None and for no limit."""
    return control.value != default and not (default in (None, math.inf) and control.value in ("", 0, None))


class Planner(ipw.VBox):
    """The widget that `schedule` returns.

    Attributes:
        plan: the plan that plan A's controls describe now. plans: name -> plan, of those that are shown.
        error: what is wrong with the controls, or None; figures then show the last good plans.
    """

    def __init__(self, path: str | Path = "linear") -> None:
        super().__init__()
        self.add_class("wb-widget")
        self.error: WorkbenchError | None = None
        self._plans: dict[str, Plan] = {}
        self.message = ipw.HTML()
        try:
            self._build(paths.get(path))
        except Exception as error:
            self._fail(error)
            self.children = (self.message,)

    @property
    def plan(self) -> Plan:
        """The plan of A, to take to the next cell."""
        return self.plans["plan A"]

    @property
    def plans(self) -> dict[str, Plan]:
        """What is shown.

        Raises:
            WorkbenchError: if the controls describe no possible plan.
        """
        if self.error is not None:
            raise self.error
        return dict(self._plans)

    def _build(self, path: Path) -> None:
        first = PlanControls("plan A", path, "heun" if path.smooth else "dpmpp_2m", "uniform", 8, self._redraw)
        second = PlanControls("plan B", path, "dpmpp_2m", "karras", 8, self._redraw)
        self.controls = dict(zip(NAMES, (first, second), strict=True))
        self.two = ipw.Checkbox(False, description="compare with a second plan", indent=False, layout={"width": "auto"})
        self.two.observe(self._redraw, "value")
        self.curves, self.tables = Figure(), [Figure() for _ in NAMES]
        for figure in (self.curves, *self.tables):
            figure.add_class("wb-wide")
        palette = views.colors([each.name for each in self.controls.values()])
        for each in self.controls.values():
            each.title.value = f'<b style="color:{palette[each.name]}">{each.name}</b>'
        controls = ipw.Box(list(self.controls.values())).add_class("wb-columns")
        curves, tables = (ipw.Box(each).add_class("wb-columns") for each in ([self.curves], self.tables))
        self.children = (self.two, controls, self.message, curves, tables)
        self._redraw()

    def _redraw(self, _: Any = None) -> None:
        shown = list(self.controls.values())[: 1 + self.two.value]
        self.controls["B"].layout.display = self.tables[1].layout.display = None if self.two.value else "none"
        try:
            self._plans = {each.name: each.plan() for each in shown}
            self.curves.show(self._curves())
            for figure, (name, made) in zip(self.tables, self._plans.items(), strict=False):
                figure.show(_titled(views.plan_table(made), name))
            self.error = None
            self.message.value = sentence(" · ".join(f"{name}: {made}, {_count(made)}" for name, made in self._plans.items()))
        except Exception as error:
            self._fail(error)

    def _curves(self) -> Any:
        return views.schedules(self._plans)

    def _fail(self, error: Exception) -> None:
        self.error = error if isinstance(error, WorkbenchError) else WorkbenchError(told(error))
        self.message.value = sentence(told(error), wrong=True)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """The live view, and beside it what can be read without a kernel."""
        live = super()._repr_mimebundle_(**options)
        if self.error is not None or not self._plans:
            return live | {"text/plain": str(self.error)}
        curves = self._curves()
        tables = [_titled(views.plan_table(made), name) for name, made in self._plans.items()]
        return live | static(curves, [curves, *tables], "; ".join(f"{name}: {made}" for name, made in self._plans.items()))


def _titled(figure: Any, name: str) -> Any:
    figure.layout.title.text = f"What does one update of {name} read?"
    return figure


def _count(made: Plan) -> str:
    return f"{made.evaluations} evaluation{'s' * (made.evaluations != 1)}"


def schedule(path: str | Path = "linear") -> Planner:
    """A widget in which a plan is chosen by eye: sampler, schedule, steps and options, and what they come to.

    Its `.plan` is the plan as the controls stand, ready for `workbench.run` or for the next cell.

    Args:
        path: a name (linear, cosine, vp, edm, trig) or a `Path`.

    >>> chosen = schedule("linear")
    >>> chosen.controls["A"].steps.value = 4
    >>> str(chosen.plan)
    'heun, 4 uniform steps on linear'
    """
    return Planner(path)
