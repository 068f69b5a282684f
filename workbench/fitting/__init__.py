"""Learn a sampler: the coefficients and the times of a plan, trained against the teacher's own fine trajectories."""

from workbench.callable_module import make_callable
from workbench.fitting.fit import Progress, fit_plan, fitting

make_callable(__name__, fitting)

__all__ = ["Progress", "fit_plan", "fitting"]
