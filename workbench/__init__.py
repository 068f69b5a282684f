"""Diffusion-distillation workbench: see what a teacher does, turn it into a few-step student, watch both side by side."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "paths": "workbench.paths:",
    "schedules": "workbench.schedules:",
    "plan": "workbench.samplers:plan",
    "hybrid": "workbench.samplers:hybrid",
    "run": "workbench.samplers:run",
    "record": "workbench.samplers:record",
    "mixture": "workbench.teachers:mixture",
    "Empirical": "workbench.teachers:Empirical",
    "Guided": "workbench.denoiser:Guided",
    "Autoguided": "workbench.denoiser:Autoguided",
    "Thresholded": "workbench.denoiser:Thresholded",
    "Counted": "workbench.denoiser:Counted",
    "Network": "workbench.denoiser:Network",
    "WorkbenchError": "workbench.errors:WorkbenchError",
    "load": "workbench.zoo:load",
    "catalog": "workbench.zoo:catalog",
    "sample": "workbench.samplers.sample:sample",
    "distill": "workbench.distill:",
    "recipes": "workbench.distill.recipes:recipes",
    "compare": "workbench.compare:",
    "sweep": "workbench.sweep:",
    "training": "workbench.training:",
    "cite": "workbench.cite:",
    "report": "workbench.report:",
    "data": "workbench.data:",
    "metrics": "workbench.metrics:",
    "fit_plan": "workbench.fitting:fit_plan",
    "fitting": "workbench.fitting:",
    "policy": "workbench.samplers.adaptive:policy",
    "learn_steps": "workbench.step_training:learn_steps",
    "learned_steps": "workbench.step_training:learned_steps",
    "load_steps": "workbench.step_policy:load_steps",
    "save_steps": "workbench.step_policy:save_steps",
    "local_errors": "workbench.samplers.local:local_errors",
    "stability_region": "workbench.samplers.stability:stability_region",
    "tuned": "workbench.samplers.tuned:tuned",
    "precision": "workbench.precision:",
    "inference": "workbench.inference:",
    "to_diffusers": "workbench.diffusers_scheduler:to_diffusers",
    "views": "workbench.views:",
    "widgets": "workbench.widgets:",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    loaded = importlib.import_module(module)
    value = getattr(loaded, attribute) if attribute else loaded
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
