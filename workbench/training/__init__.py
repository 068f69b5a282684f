"""Training runs in processes of their own, in the user's folder: start, watch, pause, resume and stop them from any face."""

from workbench.training.form import changed
from workbench.training.records import Run, State, open_run, runs, start, switches

__all__ = ["Run", "State", "changed", "open_run", "runs", "start", "switches"]
