"""The controls that all columns of an explorer share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as ipw
import torch

from workbench.compare import Column
from workbench.widgets.runs import ALIGNMENTS

ANY, NONE, GIVEN = "any (all in turn)", "none", "as given"
MOST_GUIDANCE = 10.0
WIDE = {"style": {"description_width": "72px"}, "layout": {"width": "340px"}}
SMALL = {"width": "auto"}


class Controls:
    """Step, seed, class, guidance and the rest; an explorer connects them.

    Args:
        columns: as given. follow: those of them that the common guidance scale is for. n: samples. cond: as given.
    """

    def __init__(self, columns: Sequence[Column], follow: Sequence[Column], n: int, seed: int, cond: Any) -> None:
        self.n, self._cond, self._columns, self._follow = n, cond, columns, follow
        self.step = ipw.IntSlider(0, 0, 1, description="Step", **WIDE)
        self.play = ipw.Play(min=0, max=1, interval=250, show_repeat=False, description="Play the steps")
        self._link = ipw.jslink((self.play, "value"), (self.step, "value"))
        narrow = {"style": {"description_width": "auto", "button_width": "auto"}, "layout": {"width": "max-content"}}
        self.align = ipw.ToggleButtons(options=ALIGNMENTS, description="Align", **narrow)
        self.seed = ipw.IntSlider(seed, 0, max(99, seed), description="Seed", **WIDE)
        self.next_seed = ipw.Button(description="Next seed", layout=SMALL)
        options = self._classes()
        self.label = ipw.Dropdown(options=options, description="Class", disabled=len(options) < 2, **WIDE)
        scales = [column.scale() for column in follow] or [1.0]
        self.guidance = ipw.FloatSlider(
            scales[0], min=0, max=max(MOST_GUIDANCE, *scales), step=0.25, description="Guidance", readout_format=".2f", **WIDE
        )
        self.scale: float | None = None  # until the slider moves, each model runs at its own
        names = ", ".join(column.label for column in follow)
        self.guidance.tooltip = f"for {names}; 1 is none" if follow else "these models have their guidance baked in, or none"
        self.run = ipw.Button(description="Run", disabled=True, tooltip="Run what was stopped", layout=SMALL)
        self.stop = ipw.Button(description="Stop", disabled=True, tooltip="Stop within a step", layout=SMALL)
        self.progress = ipw.IntProgress(0, 0, 1, description="Progress", layout={"width": "260px", "visibility": "hidden"})
        self.sample = ipw.IntSlider(0, 0, max(1, n - 1), description="Sample", disabled=n == 1, **WIDE)
        self.alone = ipw.Checkbox(False, description="curves of this sample alone", indent=False, layout=SMALL)

    def labels(self) -> Any:
        """The labels that the class menu stands for: n labels, a label, or None."""
        chosen = self.label.value
        if chosen == ANY:
            return torch.arange(self.n) % min(int(column.model.classes) for column in self._columns)
        return {NONE: None, GIVEN: self._cond}.get(chosen, chosen)

    def reach(self, most: int) -> None:
        """Let the step slider run to `most`; at the end, or on another scale, it goes to the end."""
        to_end = self.step.value >= self.step.max or self.step.max != most
        for control in (self.step, self.play):
            control.max = most
        if to_end:
            self.step.value = self.play.value = most

    def busy(self, running: bool, whole: bool = True) -> None:
        """Show whether something runs, and whether there is something left to run."""
        self.progress.layout.visibility = "visible" if running else "hidden"
        self.stop.disabled, self.run.disabled = not running, running or whole
        self.guidance.disabled = not self._follow or self.label.value == NONE

    def next(self) -> None:
        """Take the next seed."""
        self.seed.max = max(self.seed.max, self.seed.value + 1)
        self.seed.value += 1

    def _classes(self) -> list[tuple[str, Any]]:
        """Choices of the class menu; the first is what was asked for."""
        count = min(int(getattr(column.model, "classes", 0) or 0) for column in self._columns)
        names = (getattr(self._columns[0].model, "card", None) or {}).get("class_names") or [f"class {k}" for k in range(count)]
        image = len(self._columns[0].model.shape) == 3
        both = [(ANY, ANY), (NONE, NONE)] if image else [(NONE, NONE), (ANY, ANY)]
        options = [*(both if count else [(NONE, NONE)]), *zip(names[:count], range(count), strict=False)]
        if self._cond is None:
            return options
        if isinstance(self._cond, int) and 0 <= self._cond < count:
            return sorted(options, key=lambda option: option[1] != self._cond)
        return [(GIVEN, GIVEN), *options]
