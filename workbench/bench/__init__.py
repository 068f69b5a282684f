"""The committed benchmarks: which sampler on which schedule on four teachers (`solvers`), and which recipe to start with (`recipes`)."""

from workbench.bench import recipes
from workbench.bench.solvers import STORED_LAW, STORED_TUNED, Entry, best, load, measure, stored, text, within

__all__ = ["STORED_LAW", "STORED_TUNED", "Entry", "best", "load", "measure", "recipes", "stored", "text", "within"]
