"""The feature space of the image metrics: bundled classifiers of digits and Fashion-MNIST, and their real features."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.errors import MissingSource, WorkbenchError, unknown

if TYPE_CHECKING:
    from workbench.networks.classifier import Classifier

BUNDLED = Path(__file__).parents[1] / "zoo" / "bundled"
FEATURE_SETS = ("digits", "fashion")


@functools.cache
def features(name: str) -> Classifier:
    """Return the bundled classifier of "digits" or "fashion", float32, frozen, in evaluation mode.

    Call `.features(images)` for the 64 features of images in [-1, 1], or the classifier itself for logits.

    Raises:
        UnknownName: for another name. MissingSource: if the package came without its weights.

    >>> features("digits").features(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 64])
    """
    folder = _bundled(name, f"{name}-classifier")
    from workbench.networks.classifier import Classifier

    return Classifier.from_pretrained(folder, torch_dtype=torch.float32).eval().requires_grad_(False)


@torch.no_grad()
def image_features(name: str, images: Tensor, batch: int = 500) -> Tensor:
    """Return the features (n, 64), float64, of images (n, 1, size, size) in [-1, 1], computed in batches.

    Raises:
        UnknownName: for a name other than "digits" and "fashion". WorkbenchError: for images of another shape.

    >>> image_features("digits", torch.zeros(3, 1, 8, 8)).dtype
    torch.float64
    """
    net = features(name)
    return torch.cat([net.features(part.to(net.device, torch.float32)) for part in _images(images).split(batch)]).double()


@torch.no_grad()
def image_logits(name: str, images: Tensor, batch: int = 500) -> Tensor:
    """Return the classifier's logits (n, classes), float64, of images (n, 1, size, size) in [-1, 1].

    Raises: as `image_features`.

    >>> image_logits("digits", torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """
    net = features(name)
    return torch.cat([net(part.to(net.device, torch.float32)) for part in _images(images).split(batch)]).double()


def reference(name: str) -> tuple[Tensor, Tensor]:
    """Return the stored features (n, 64), float64, and labels (n,) of real images.

    n = 1797 for "digits" (the whole set) and 5000 for "fashion" (half of its test split).

    Raises:
        UnknownName: for another name. MissingSource: if the package came without the file.

    >>> real, labels = reference("digits")
    >>> real.shape, labels.shape
    (torch.Size([1797, 64]), torch.Size([1797]))
    """
    stored = _stored(name)
    return stored["features"].double(), stored["labels"].long()


def reference_images(name: str) -> tuple[Tensor, Tensor]:
    """Return 64 real images (64, 1, size, size) in [-1, 1], float32, and labels (64,), class after class in turn.

    Raises: as `reference`.

    >>> reference_images("digits")[1][:12].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    """
    stored = _stored(name)
    return stored["images"].float().div(127.5).sub(1).unsqueeze(1), stored["image_labels"].long()


@functools.cache
def _stored(name: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(_bundled(name, f"reference-{name}.safetensors"))


def _bundled(name: str, entry: str) -> str | os.PathLike:
    if name not in FEATURE_SETS:
        raise unknown("feature set", name, FEATURE_SETS)
    if not (BUNDLED / entry).exists():
        raise MissingSource(f"{BUNDLED / entry} is missing, though the package comes with it: reinstall workbench.")
    return BUNDLED / entry


def _images(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.dim() != 4 or len(images) == 0:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise WorkbenchError(f"images are {shape}: give a tensor (n, 1, size, size) with at least one image.")
    if not bool(torch.isfinite(images).all()):
        raise WorkbenchError("images hold NaN or infinite values: look at the sampler before measuring.")
    return images
