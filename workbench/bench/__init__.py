"""The committed benchmark: which sampler on which schedule, at how many evaluations, on four teachers."""

from workbench.bench.solvers import Entry, best, load, measure, stored, text

__all__ = ["Entry", "best", "load", "measure", "stored", "text"]
