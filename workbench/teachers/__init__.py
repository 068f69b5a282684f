"""Teachers: analytic mixtures, the empirical denoiser of a data set, and trained networks."""

from workbench.teachers.empirical import Empirical
from workbench.teachers.mixture import ANALYTIC, Mixture, mixture

__all__ = ["ANALYTIC", "Empirical", "Mixture", "mixture"]
