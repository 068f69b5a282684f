"""Training runs in processes of their own, in the user's folder: start, watch, pause, resume and stop them from any face."""

from workbench.training.records import Run, State, open_run, runs, start, switches

__all__ = ["Run", "State", "open_run", "runs", "start", "switches"]
