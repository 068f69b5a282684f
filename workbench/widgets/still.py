"""What stands for a widget where there is no kernel: code hosts, exported pages, a notebook that is only read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.views import data_uri, png
from workbench.views.sketch import svg


def stacked(drawn: Sequence[go.Figure | np.ndarray], width: int = 760) -> str:
    """Figures (as sketches) and pictures below one another as one SVG.

    >>> stacked([np.zeros((10, 20, 3), np.uint8)], width=40).count("<image")
    1
    """
    body, top = [], 0
    for each in drawn:
        if isinstance(each, np.ndarray):
            high, wide = each.shape[:2]
            height = round(high * min(1.0, width / wide))
            inner = f'<image width="{min(wide, width)}" height="{height}" href="{data_uri(each)}"/>'
        else:
            inner = svg(each, width)
            height = int(inner.split('height="')[1].split('"')[0])
        body.append(f'<g transform="translate(0 {top})">{inner}</g>')
        top += height + 12
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}" height="{top}">'
    return f"{head}{''.join(body)}</svg>"


def static(figure: go.Figure, drawn: Sequence[go.Figure | np.ndarray], text: str) -> dict[str, Any]:
    """What a stored output shows beside the live view: plotly's figure, one SVG of everything, its pictures as PNG, text."""
    made: dict[str, Any] = {
        "application/vnd.plotly.v1+json": json.loads(figure.to_json()),
        "image/svg+xml": stacked(drawn),
        "text/plain": text,
    }
    pictures = [each for each in drawn if isinstance(each, np.ndarray)]
    return {**made, "image/png": png(pictures[0])} if pictures else made


def portrait(pictures: dict[str, list[np.ndarray]], palette: dict[str, str]) -> np.ndarray:
    """Columns of pictures (h, w, 4) with their names above in their colours, as one picture on white."""
    from PIL import Image, ImageDraw, ImageFont

    wide = max(each.shape[1] for column in pictures.values() for each in column) + 12
    high = 24 + max(sum(each.shape[0] + 8 for each in column) for column in pictures.values())
    canvas = Image.new("RGBA", (wide * len(pictures), high), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for place, (label, column) in enumerate(pictures.items()):
        pen.text((place * wide + 2, 3), label, fill=palette[label], font=font)
        top = 24
        for each in column:
            canvas.alpha_composite(Image.fromarray(each), (place * wide, top))
            top += each.shape[0] + 8
    return np.asarray(canvas.convert("RGB"))
