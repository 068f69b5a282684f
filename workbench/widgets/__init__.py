"""Widgets for notebooks: figures of `workbench.views` and runs of `workbench.compare` under controls. No mathematics here."""

from workbench.widgets.explorer import Explorer, explore
from workbench.widgets.planner import Planner, schedule

__all__ = ["Explorer", "Planner", "explore", "schedule"]
