"""Toy densities, small image sets and any image folder or Hub data set, all as one `ImageSet` or tensor."""

from workbench.data.images import ImageSet, digits, fashion, hub, image_folder, load
from workbench.data.toys import TOYS, toy

__all__ = ["ImageSet", "TOYS", "digits", "fashion", "hub", "image_folder", "load", "toy"]
