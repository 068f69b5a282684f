"""Samples as pictures: fast numpy grids for streaming, whose cells can be found again from a click."""

from __future__ import annotations

import base64
import io
import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.views import style

SIZE, GAP = 640, 2


class Cells(NamedTuple):
    """Where the cells of a grid lie: `columns` x `rows` cells of `width` x `height` pixels, `gap` pixels apart."""

    columns: int
    rows: int
    scale: int
    width: int
    height: int
    gap: int = GAP


def cells(n: int, shape: tuple[int, ...], columns: int | None = None, size: int = SIZE) -> Cells:
    """Lay out n images of `shape` (channels, height, width) so that the grid is about `size` pixels wide.

    >>> cells(16, (1, 8, 8))
    Cells(columns=4, rows=4, scale=19, width=152, height=152, gap=2)
    """
    if len(shape) != 3 or n < 1:
        raise WorkbenchError(f"a grid shows at least one image (channels, height, width), not {n} of shape {tuple(shape)}.")
    columns = columns or math.ceil(math.sqrt(n))
    scale = max(1, (size // columns - GAP) // shape[2])
    return Cells(columns, math.ceil(n / columns), scale, scale * shape[2], scale * shape[1])


def to_uint8(images: Tensor) -> np.ndarray:
    """Images (n, 1 or 3, h, w) in [-1, 1] as bytes (n, h, w, 3); what lies outside is clipped."""
    values = images.detach().float().cpu().add(1).mul(127.5).round().clamp(0, 255).byte()
    if values.dim() != 4 or values.shape[1] not in (1, 3):
        raise WorkbenchError(f"images have shape {tuple(images.shape)}, but must be (n, 1, h, w) or (n, 3, h, w).")
    return values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def image_grid(images: Tensor, columns: int | None = None, size: int = SIZE) -> np.ndarray:
    """Draw images (n, c, h, w) in [-1, 1] as one RGBA picture: nearest neighbour, transparent gaps.

    >>> import torch
    >>> image_grid(torch.zeros(4, 1, 8, 8)).shape
    (628, 628, 4)
    """
    pixels = to_uint8(images)
    place = cells(len(pixels), tuple(images.shape[1:]), columns, size)
    picture = np.zeros((place.rows * (place.height + GAP), place.columns * (place.width + GAP), 4), np.uint8)
    for j, image in enumerate(pixels):
        top, left = (j // place.columns) * (place.height + GAP), (j % place.columns) * (place.width + GAP)
        cell = picture[top : top + place.height, left : left + place.width]
        cell[..., :3] = image.repeat(place.scale, 0).repeat(place.scale, 1)
        cell[..., 3] = 255
    return picture


def difference(a: Tensor, b: Tensor, columns: int | None = None, size: int = SIZE) -> np.ndarray:
    """Draw where images a (n, c, h, w) are brighter (orange) or darker (blue) than b, as one RGBA picture like `image_grid`.

    The signed difference is averaged over channels. The scale is fixed, so that pictures can be compared: full colour is a
    difference of 1, half the range of [-1, 1]; equal pixels are transparent.

    Raises:
        WorkbenchError: if the shapes differ or these are not images.

    >>> import torch
    >>> difference(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), size=9)[0, 0].tolist()  # a is darker by 1: full blue
    [47, 127, 193, 255]
    """
    if a.shape != b.shape or a.dim() != 4:
        raise WorkbenchError(
            f"a difference needs two batches (n, c, h, w) of one shape, not {tuple(a.shape)} and {tuple(b.shape)}."
        )
    signed = (a.detach().float() - b.detach().float().to(a.device)).mean(1).clamp(-1, 1).cpu().numpy()
    place = cells(len(a), tuple(a.shape[1:]), columns, size)
    picture = np.zeros((place.rows * (place.height + GAP), place.columns * (place.width + GAP), 4), np.uint8)
    low, high = (np.array(style.rgb(style.DIVERGING[end][1]), np.uint8) for end in (0, 2))
    for j, values in enumerate(signed):
        top, left = (j // place.columns) * (place.height + GAP), (j % place.columns) * (place.width + GAP)
        values = values.repeat(place.scale, 0).repeat(place.scale, 1)
        cell = picture[top : top + place.height, left : left + place.width]
        cell[..., :3] = np.where(values[..., None] < 0, low, high)
        cell[..., 3] = np.ceil(255 * np.abs(values))
    return picture


def cell_at(x: float, y: float, n: int, shape: tuple[int, ...], columns: int | None = None, size: int = SIZE) -> int | None:
    """Which image lies at pixel (x, y) of `image_grid`, or None beside them all.

    >>> cell_at(400, 10, 16, (1, 8, 8))
    2
    """
    place = cells(n, shape, columns, size)
    column, row = int(x // (place.width + GAP)), int(y // (place.height + GAP))
    j = row * place.columns + column
    return j if 0 <= column < place.columns and row >= 0 and 0 <= j < n else None


def png(picture: np.ndarray) -> bytes:
    """A picture (h, w, 3 or 4) of bytes as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def data_uri(picture: np.ndarray) -> str:
    """The PNG as an address that needs no file."""
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()
