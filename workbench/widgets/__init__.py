"""Widgets for notebooks: figures of `workbench.views` and runs of `workbench.compare` and `workbench.training` under controls. No mathematics here."""

from workbench.widgets.distiller import Distiller, distill
from workbench.widgets.explorer import Explorer, explore
from workbench.widgets.planner import Planner, schedule

__all__ = ["Distiller", "Explorer", "Planner", "distill", "explore", "schedule"]
