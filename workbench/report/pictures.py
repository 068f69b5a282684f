"""PNG pictures of samples: images as a grid, points as a scatter; drawn with pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.files import write_atomically

GAP, CELL, PLOT = 4, 56, 560
INK, PAPER, FAINT = (38, 38, 38), (255, 255, 255), (214, 214, 214)
# Okabe and Ito's colours, told apart by the colour-blind
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")


def save(out: str, samples: Mapping[str, Tensor], labels: Tensor | None = None) -> Path:
    """Write samples to `out`: .png draws them, one panel a name; .safetensors keeps the numbers.

    Args:
        samples: name -> images (n, channels, h, w) in [-1, 1], or points (n, d). labels: classes (n,), for the colours of points.

    Raises:
        WorkbenchError: for another ending, or a file that cannot be written.
    """
    path = Path(out).expanduser()
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        tensors = {name: x.detach().cpu().contiguous() for name, x in samples.items()}
        tensors |= {"labels": labels.cpu().contiguous()} if labels is not None else {}
        write_atomically(path, lambda file: save_file(tensors, file))
    elif path.suffix.lower() == ".png":
        picture = draw(samples, labels)
        write_atomically(path, lambda file: picture.save(file, format="PNG"))
    else:
        raise WorkbenchError(f"--out {out} must end in .png (a picture) or .safetensors (the numbers).")
    return path


def draw(samples: Mapping[str, Tensor], labels: Tensor | None = None, reach: float | None = None):
    """A pillow image: one row a model if there are several, else a square grid; points side by side, up to `reach`."""
    panels = list(samples.items())
    points = panels[0][1].dim() == 2
    made = (
        _scatters(panels, labels, reach)
        if points
        else [_grid(x, None if len(panels) == 1 else min(len(x), 16)) for _, x in panels]
    )
    if len(panels) == 1:
        return made[0]
    return _stack([name for name, _ in panels], made, across=points)


def _grid(x: Tensor, columns: int | None = None):
    from PIL import Image

    n, channels, height, width = x.shape
    columns = columns or math.ceil(math.sqrt(n))
    x = x[: columns if n > columns > 0 and columns == 16 else n]
    rows, scale = math.ceil(len(x) / columns), max(1, round(CELL / height))
    x = x.detach().float().cpu().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    x = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    high, wide = height * scale + GAP, width * scale + GAP
    page = torch.full((3, rows * high + GAP, columns * wide + GAP), 255, dtype=torch.uint8)
    for k, image in enumerate(x):
        top, left = GAP + (k // columns) * high, GAP + (k % columns) * wide
        page[:, top : top + high - GAP, left : left + wide - GAP] = image[:3] if channels >= 3 else image[:1]
    return Image.fromarray(page.permute(1, 2, 0).contiguous().numpy())


def _scatters(panels: list[tuple[str, Tensor]], labels: Tensor | None, reach: float | None) -> list:
    from PIL import Image, ImageDraw

    reach = reach or max(1.0, max(float(x[:, :2].abs().max()) for _, x in panels)) * 1.05
    made = []
    for _, x in panels:
        picture = Image.new("RGB", (PLOT, PLOT), PAPER)
        pen = ImageDraw.Draw(picture)
        for tick in range(-math.floor(reach), math.floor(reach) + 1):
            at = _place(tick, reach)
            pen.line([(at, 0), (at, PLOT)], FAINT)
            pen.line([(0, PLOT - at), (PLOT, PLOT - at)], FAINT)
            pen.text((at + 3, PLOT - 14), str(tick), INK)
            pen.text((3, PLOT - at - 13), str(tick), INK)
        radius = 3 if len(x) <= 500 else 2 if len(x) <= 3000 else 1
        for k, (across, up) in enumerate(x[:, :2].tolist()):
            left, top = _place(across, reach), PLOT - _place(up, reach)
            colour = COLOURS[int(labels[k]) % len(COLOURS)] if labels is not None else COLOURS[0]
            pen.ellipse([left - radius, top - radius, left + radius, top + radius], fill=colour)
        pen.rectangle([0, 0, PLOT - 1, PLOT - 1], outline=INK)
        made.append(picture)
    return made


def _place(value: float, reach: float) -> float:
    return (value / reach + 1) / 2 * PLOT


def _stack(names: list[str], pictures: list, across: bool):
    from PIL import Image, ImageDraw

    title = 18
    width = sum(p.width + GAP for p in pictures) if across else max(p.width for p in pictures)
    height = title + (max(p.height for p in pictures) if across else sum(p.height + title for p in pictures) - title)
    page = Image.new("RGB", (width, height), PAPER)
    pen, left, top = ImageDraw.Draw(page), 0, 0
    for name, picture in zip(names, pictures, strict=True):
        pen.text((left + GAP, top + 3), name, INK)
        page.paste(picture, (left, top + title))
        left, top = (left + picture.width + GAP, 0) if across else (0, top + title + picture.height)
    return page
