"""The figures on a model's card: what its samples share with real images, with count, seed and noise floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench import metrics
from workbench.samplers.sample import sample
from workbench.student import Trained


def measure(model: Trained, steps: tuple[int, ...] | None = None, n: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Figures of conditional samples, balanced over the classes, at each number of steps.

    Frechet distance and precision/recall compare the bundled classifier's features with those of as many real images
    again; `floor` is the same between two disjoint sets of real images. A class that the classifier does not know is not asked for. `agreement` is the share of samples that the
    classifier puts in the class they were asked for.

    Args:
        steps: by default the model's own number for a teacher, 1, 2 and 4 for a student.
    """
    space = model.name.split("/")[0]
    features, _ = metrics.reference(space)
    n = min(n, len(features) // 2)
    real, other = features[:n], features[n : 2 * n]
    floor = metrics.frechet_distance(other, real)
    known = metrics.image_logits(space, torch.zeros(1, *model.shape)).shape[1]
    labels = torch.arange(n) % min(model.classes, known)
    figures: dict[str, Any] = {"n": n, "seed": seed, "reference": f"{n} real {space} images", "frechet_floor": round(floor, 2)}
    for count in steps or ((model.sampling.steps,) if model.role == "teacher" else (1, 2, 4)):
        drawn = sample(model, n, labels, steps=count, seed=seed)
        found = metrics.image_features(space, drawn)
        support = metrics.precision_recall(found, real)
        guided = model.sampling.guidance != 1
        figures[str(count)] = {
            "nfe": model.plan(count).evaluations * (2 if guided else 1),
            "frechet": round(metrics.frechet_distance(found, real), 2),
            "agreement": round(metrics.class_agreement(metrics.image_logits(space, drawn), labels), 3),
            "precision": round(float(support.precision), 3),
            "recall": round(float(support.recall), 3),
            "diversity": round(metrics.pairwise_diversity(drawn.flatten(1)[:500]), 3),
        }
    return figures


def frechet(space: str, draw: Callable[..., Tensor], n: int = 1000, seed: int = 0) -> float:
    """Frechet distance of draw(n, labels, seed=seed) to the real images that `measure` compares with."""
    features, _ = metrics.reference(space)
    n, classes = min(n, len(features) // 2), metrics.image_logits(space, draw(1, 0, seed=seed)).shape[1]
    drawn = draw(n, torch.arange(n) % classes, seed=seed)
    return round(metrics.frechet_distance(metrics.image_features(space, drawn), features[:n]), 2)
