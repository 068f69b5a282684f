"""Distances between sample sets, what they cover, trajectory errors, diversity, and figures with their noise floor.

`metrics.features` stays the module: `metrics.features.features("fashion")` is the bundled classifier.
"""

from workbench.metrics.distances import (
    Moments,
    energy_distance,
    frechet_distance,
    frechet_from_moments,
    kid,
    kid_subsets,
    median_distance,
    mmd,
    moments,
    sliced_wasserstein,
    wasserstein2,
)
from workbench.metrics.features import image_features, image_logits, reference, reference_images
from workbench.metrics.principal import Principal, principal_components
from workbench.metrics.report import Figure, measure, noise_floor
from workbench.metrics.steps import curvature, decided, displacement, target_diversity, target_error
from workbench.metrics.support import (
    DensityCoverage,
    ModeCoverage,
    PrecisionRecall,
    class_agreement,
    density_coverage,
    mode_coverage,
    precision_recall,
)
from workbench.metrics.trajectory import paired_errors, pairwise_diversity, straightness, trajectory_error
from workbench.metrics.vendi import vendi_score

__all__ = [
    "DensityCoverage",
    "Figure",
    "ModeCoverage",
    "Moments",
    "PrecisionRecall",
    "Principal",
    "class_agreement",
    "curvature",
    "decided",
    "density_coverage",
    "displacement",
    "energy_distance",
    "frechet_distance",
    "frechet_from_moments",
    "image_features",
    "image_logits",
    "kid",
    "kid_subsets",
    "measure",
    "median_distance",
    "mmd",
    "mode_coverage",
    "moments",
    "noise_floor",
    "paired_errors",
    "pairwise_diversity",
    "precision_recall",
    "principal_components",
    "reference",
    "reference_images",
    "sliced_wasserstein",
    "straightness",
    "target_diversity",
    "target_error",
    "trajectory_error",
    "vendi_score",
    "wasserstein2",
]
