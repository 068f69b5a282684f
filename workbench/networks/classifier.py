"""A small image classifier whose penultimate layer is the feature space of the workbench's distances.

Inception features mean nothing on 28x28 or 8x8 grey images; those of a network trained on the data set itself do.
"""

from __future__ import annotations

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.errors import WorkbenchError, check_count

FEATURES = 64


class Classifier(ModelMixin, ConfigMixin):
    """Four convolutions, two poolings, 64 features, one linear head; images are in [-1, 1].

    Args:
        image_size: height and width in pixels, at least 8.
        channels: image channels.
        classes: number of classes.
        width: channels after the first convolution; the others have 2, 2 and 4 times as many.

    Raises:
        WorkbenchError: if a size is not a whole number in its range.

    >>> import torch
    >>> net = Classifier(image_size=8, width=8).eval()
    >>> net.features(torch.zeros(3, 1, 8, 8)).shape, net(torch.zeros(3, 1, 8, 8)).shape
    (torch.Size([3, 64]), torch.Size([3, 10]))
    """

    @register_to_config
    def __init__(self, image_size: int = 28, channels: int = 1, classes: int = 10, width: int = 32):
        super().__init__()
        check_count("image_size", image_size, low=8)
        for name, value, low in (("channels", channels, 1), ("classes", classes, 2), ("width", width, 1)):
            check_count(name, value, low=low)
        self.trunk = nn.Sequential(
            _convolution(channels, width),
            nn.MaxPool2d(2),
            _convolution(width, 2 * width),
            _convolution(2 * width, 2 * width),
            nn.MaxPool2d(2),
            _convolution(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        # no affine map: over real data each feature has mean 0 and variance 1, so distances have a known scale
        self.project = nn.Sequential(nn.Linear(16 * width, FEATURES), nn.BatchNorm1d(FEATURES, affine=False))
        self.head = nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (n, 64) of images (n, channels, image_size, image_size).

        In evaluation mode each feature has mean 0 and variance 1 over the training images.

        Raises:
            WorkbenchError: if x has another shape.
        """
        size, channels = self.config.image_size, self.config.channels
        if x.dim() != 4 or x.shape[1:] != (channels, size, size):
            raise WorkbenchError(f"x has shape {tuple(x.shape)}, but this classifier takes (n, {channels}, {size}, {size}).")
        return self.project(self.trunk(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        return self.head(F.silu(self.features(x)))


def _convolution(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
