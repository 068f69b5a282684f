"""Methods that act when sampling: hybrids, better starts, guidance, search and cheaper runs; one file a method.

Those that look inside a network are loaded when asked for: they bring the networks, and with them diffusers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from workbench.inference.asynchronous import LagFrame, asynchronous_run, fopp_times, lag_rows, path_counts
from workbench.inference.bottleneck import Part, bottleneck_parts, bottleneck_run
from workbench.inference.cascade import Given, cascade_run, mismatch
from workbench.inference.diversity import DiversityAtK, DiversityCurve, diversity_against_k, diversity_plan
from workbench.inference.one_more_step import (
    RescaledGuidance,
    TerminalMean,
    fit_terminal_mean,
    one_more_step,
    zero_terminal_snr,
)
from workbench.inference.optimise import OptimisedNoise, OptimisedSamples, optimise_noise, optimise_samples
from workbench.inference.parallel import Sweep, parallel_run
from workbench.inference.regions import RegionFrame, region_run, straightness
from workbench.inference.resolution import SizedFrame, resize
from workbench.inference.search import Found, noise_search, search_evaluations
from workbench.inference.shallow import shallow_level, shallow_noise, shallow_plan, shallow_sample

if TYPE_CHECKING:
    from workbench.inference.patch_group import PatchGroup, PatchSamples
    from workbench.inference.patches import patch_run, seam
    from workbench.inference.tokens import PartialDiT
    from workbench.steering import negative_guidance, relative_cost

_LAZY = {
    "PatchGroup": "workbench.inference.patch_group",
    "PatchSamples": "workbench.inference.patch_group",
    "patch_run": "workbench.inference.patches",
    "seam": "workbench.inference.patches",
    "PartialDiT": "workbench.inference.tokens",
    "negative_guidance": "workbench.steering",
    "relative_cost": "workbench.steering",
}
__all__ = [
    "DiversityAtK",
    "DiversityCurve",
    "Found",
    "Given",
    "LagFrame",
    "OptimisedNoise",
    "OptimisedSamples",
    "Part",
    "PartialDiT",
    "PatchGroup",
    "PatchSamples",
    "RegionFrame",
    "RescaledGuidance",
    "SizedFrame",
    "Sweep",
    "TerminalMean",
    "asynchronous_run",
    "bottleneck_parts",
    "bottleneck_run",
    "cascade_run",
    "diversity_against_k",
    "diversity_plan",
    "fit_terminal_mean",
    "fopp_times",
    "lag_rows",
    "mismatch",
    "negative_guidance",
    "noise_search",
    "one_more_step",
    "optimise_noise",
    "optimise_samples",
    "parallel_run",
    "patch_run",
    "path_counts",
    "region_run",
    "relative_cost",
    "resize",
    "seam",
    "search_evaluations",
    "shallow_level",
    "shallow_noise",
    "shallow_plan",
    "shallow_sample",
    "straightness",
    "zero_terminal_snr",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
