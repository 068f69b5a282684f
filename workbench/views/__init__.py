"""Figures and pictures from what was computed elsewhere: plans, trajectories, histories, tables. Nothing here samples."""

from workbench.views.curves import bars, error_curve, loss_curves, slope, target_distance
from workbench.views.grid import cell_at, data_uri, image_grid, png
from workbench.views.points import Density, nearest, particles, points_image
from workbench.views.schedule import log_snr, plan_table
from workbench.views.style import colors
from workbench.views.trajectory import film_strip

__all__ = [
    "Density",
    "bars",
    "cell_at",
    "colors",
    "data_uri",
    "error_curve",
    "film_strip",
    "image_grid",
    "log_snr",
    "loss_curves",
    "nearest",
    "particles",
    "plan_table",
    "png",
    "points_image",
    "slope",
    "target_distance",
]
