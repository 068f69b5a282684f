"""Figures and pictures from what was computed elsewhere: plans, trajectories, histories, tables. Nothing here samples."""

from workbench.views.animation import Field, particles_animated
from workbench.views.curves import bars, error_curve, loss_curves, slope
from workbench.views.errors import error_against_evaluations, local_error
from workbench.views.export import save
from workbench.views.fit import fit_curve
from workbench.views.grid import cell_at, data_uri, difference, image_grid, png
from workbench.views.health import by_level, calibration_error, gradient_norms, health, reliability_curve
from workbench.views.leaderboard import leaderboard, leaderboard_table
from workbench.views.motion import motion, principal
from workbench.views.points import Density, nearest, particles, points_image
from workbench.views.precision import precision_curve
from workbench.views.quality import quality
from workbench.views.sampler_map import sampler_map
from workbench.views.schedule import log_snr, plan_table, schedules
from workbench.views.stability import stability_regions
from workbench.views.style import colors
from workbench.views.targets import target_distance, target_diversity
from workbench.views.training import training_curves
from workbench.views.trajectory import film_strip, target_grid_strip

__all__ = [
    "training_curves",
    "Density",
    "Field",
    "bars",
    "by_level",
    "calibration_error",
    "cell_at",
    "colors",
    "data_uri",
    "difference",
    "error_against_evaluations",
    "error_curve",
    "film_strip",
    "fit_curve",
    "gradient_norms",
    "health",
    "image_grid",
    "leaderboard",
    "leaderboard_table",
    "local_error",
    "log_snr",
    "loss_curves",
    "motion",
    "nearest",
    "particles",
    "particles_animated",
    "plan_table",
    "png",
    "points_image",
    "precision_curve",
    "principal",
    "quality",
    "reliability_curve",
    "sampler_map",
    "save",
    "schedules",
    "slope",
    "stability_regions",
    "target_distance",
    "target_diversity",
    "target_grid_strip",
]
