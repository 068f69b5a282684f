"""Teachers: analytic mixtures, the empirical denoiser of a data set, and trained networks."""

from workbench.teachers.empirical import Empirical
from workbench.teachers.gaussian import gaussian_field, rotating_sequence
from workbench.teachers.mixture import ANALYTIC, Mixture, mixture

__all__ = ["ANALYTIC", "Empirical", "Mixture", "gaussian_field", "mixture", "rotating_sequence"]
