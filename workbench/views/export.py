"""Figures and pictures as files: PNG, SVG, GIF, HTML and JSON, made in this process and without a browser."""

from __future__ import annotations

import atexit
import functools
import io
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from workbench.errors import WorkbenchError, unknown
from workbench.files import write_atomically
from workbench.views import embed, grid, sketch, style

WIDTH, SCALE, SECONDS, HOLD = 760, 2.0, 0.15, 1.5
BACKGROUNDS = {"white": "#ffffff", "dark": "#14181d"}
SUFFIXES = (".png", ".svg", ".gif", ".html", ".json")
FAMILIES = (
    "DejaVu Sans", "Arial", "Helvetica Neue", "Helvetica", "Liberation Sans", "Noto Sans", "Segoe UI", "Roboto", "Ubuntu",
    "Cantarell", "Open Sans", "Lato", "FreeSans", "Nimbus Sans",
)  # fmt: skip
# What our figures write beyond ASCII, for a machine without fonts: the one that Pillow carries has no more than ASCII.
PLAIN = {
    "α": "alpha", "σ": "sigma", "ρ": "rho", "λ": "lambda", "ε": "eps", "Δ": "Delta", "√": "sqrt ", "∞": "inf", "−": "-", "–": "-",
    "—": "-", "→": "->", "←": "<-", "×": "x", "≤": "<=", "≥": ">=", "≈": "~", "“": '"', "”": '"', "’": "'", "…": "...", "|": "|",
}  # fmt: skip


def save(
    drawn: go.Figure | np.ndarray | Sequence[np.ndarray],
    path: str | os.PathLike,
    width: int = WIDTH,
    scale: float = SCALE,
    background: str | None = "white",
    seconds: float = SECONDS,
) -> Path:
    """Write a figure, a picture or a film of pictures to a file; its ending says what is written.

    Args:
        drawn: a plotly figure; a picture (h, w, 3 or 4) of bytes; or a list of pictures of one size, for .gif.
        path: ends in .png, .svg, .gif (an animated figure, or a list of pictures), .html (one file, nothing fetched) or .json.
        width: of a figure, in pixels. scale: PNG and GIF pixels for each of these. seconds: a frame of a GIF stays.
        background: "white", "dark", or None for a transparent one (white in a GIF).

    Raises:
        UnknownName: for another ending or background. WorkbenchError: if this cannot be drawn so, or the file cannot be
            written; an earlier file is then intact.

    >>> import tempfile
    >>> save(np.zeros((8, 8, 3), np.uint8), tempfile.mkdtemp() + "/black.png").name
    'black.png'
    """
    path = _place(path)
    ending = path.suffix.lower()
    if ending not in SUFFIXES:
        raise unknown("ending of a file", path.suffix or path.name, SUFFIXES)
    _check(width, scale, seconds, background)
    if isinstance(drawn, go.Figure):
        content = _figure_as(drawn, ending, width, scale, background, seconds)
    elif isinstance(drawn, np.ndarray):
        content = _picture_as(_picture(drawn), ending)
    elif isinstance(drawn, Sequence) and drawn and all(isinstance(each, np.ndarray) for each in drawn):
        content = _film_as(drawn, ending, seconds, background)
    else:
        raise WorkbenchError(
            f"save writes a plotly figure, a picture (numpy, h x w x 4 of bytes) or a list of pictures, not {_kind(drawn)}."
        )
    return write_bytes(path, content)


def write_bytes(path: Path, content: bytes) -> Path:
    """Put a whole file in place, or raise a `WorkbenchError` and leave the earlier one."""
    try:
        write_atomically(path, lambda file: file.write_bytes(content) and None)
    except WorkbenchError:
        raise
    except (OSError, ValueError) as error:  # a folder that may not be looked into, a name with a NUL
        raise WorkbenchError(f"{str(path)!r} cannot be written ({error}): choose another place.") from error
    return path


def png_of(figure: go.Figure, width: int = WIDTH, scale: float = SCALE, background: str | None = "white") -> bytes:
    """A figure as a PNG file, drawn from `views.sketch` without a browser.

    Args:
        width: in pixels; the height is the figure's own. scale: PNG pixels for each of these.
        background: "white", "dark", or None for a transparent one.

    >>> from workbench.views import error_curve
    >>> png_of(error_curve({"euler": [(4, 0.2), (8, 0.1)]}))[1:4]
    b'PNG'
    """
    import resvg_py

    text, fonts = sketch.svg(figure, width), _fonts()
    if "font_files" in fonts:
        text = plain(text)
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "", text)
    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=text, zoom=float(scale), background=_color(background), **fonts))
    except ValueError as error:
        raise WorkbenchError(f"this figure cannot be drawn as a picture ({error}): save it as .html instead.") from error


def svg_of(figure: go.Figure, width: int = WIDTH, background: str | None = None) -> str:
    """A figure as SVG text, on a background as in `png_of`."""
    text, color = sketch.svg(figure, width), _color(background)
    head, end, body = text.partition(">")
    return f'{head}{end}<rect width="100%" height="100%" fill="{color}"/>{body}' if color else text


def gif_of(frames: Sequence[np.ndarray], seconds: float = SECONDS, background: str | None = "white") -> bytes:
    """Pictures (h, w, 3 or 4) of one size as an endless GIF; the last one stays longer, so that the result can be seen.

    Args:
        seconds: that a frame stays, 0.02 to 60, in steps of 0.01.

    Raises:
        WorkbenchError: if there is no frame, or the frames differ in size.

    >>> gif_of([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)])[:6]
    b'GIF89a'
    """
    from PIL import Image

    pictures = [_picture(frame) for frame in frames]
    if not pictures:
        raise WorkbenchError("a GIF needs at least one frame: generate samples first.")
    sizes = sorted({each.shape[:2] for each in pictures})
    if len(sizes) > 1:
        raise WorkbenchError(f"the frames of a GIF have one size, not {sizes[0]} and {sizes[-1]}: draw them all alike.")
    canvas = Image.new("RGBA", pictures[0].shape[1::-1], _color(background) or BACKGROUNDS["white"])
    made = []
    for each in pictures:
        flat = Image.alpha_composite(canvas, Image.fromarray(each).convert("RGBA")).convert("RGB")
        made.append(flat.quantize(256, dither=Image.Dither.NONE))
    stays = [round(1000 * seconds)] * (len(made) - 1) + [round(1000 * max(HOLD, 4 * seconds))]
    buffer = io.BytesIO()
    made[0].save(buffer, "GIF", save_all=True, append_images=made[1:], duration=stays, loop=0, disposal=1)
    return buffer.getvalue()


def moments(figure: go.Figure) -> Iterator[go.Figure]:
    """The still figures that an animated figure passes through, one a frame."""
    for frame in figure.frames:
        still = go.Figure(data=figure.data, layout=figure.layout)
        for place, change in zip(frame.traces or range(len(frame.data)), frame.data, strict=False):
            still.data[place].update(change.to_plotly_json(), overwrite=True)
        yield still.update_layout(frame.layout.to_plotly_json()) if frame.layout else still


def pixels(png: bytes) -> np.ndarray:
    """A PNG file as a picture (h, w, 4) of bytes."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def plain(text: str) -> str:
    """Text in ASCII, Greek letters by name.

    >>> plain("α → −1 · café x₁")
    'alpha -> -1 · cafe x1'
    """
    spelt = "".join(PLAIN.get(each, each) for each in text)
    told = (unicodedata.normalize("NFKD", each).encode("ascii", "ignore").decode() or "?" for each in spelt)
    return "".join(each if ord(each) < 128 or each in "·±" else other for each, other in zip(spelt, told, strict=True))


def _figure_as(figure: go.Figure, ending: str, width: int, scale: float, background: str | None, seconds: float) -> bytes:
    if ending == ".png":
        return png_of(figure, width, scale, background)
    if ending == ".svg":
        return svg_of(figure, width, background).encode()
    if ending == ".json":
        return figure.to_json().encode()
    if ending == ".gif":
        if not figure.frames:
            raise WorkbenchError("this figure stands still: save it as .png, .svg or .html, or save an animated one as .gif.")
        return gif_of([pixels(png_of(still, width, scale, background)) for still in moments(figure)], seconds, background)
    title = (figure.layout.title.text or "figure") if figure.layout.title else "figure"
    return _page(re.sub("<[^>]*>", " ", title), embed.figure_html(figure, "plot-1") + embed.plotly_html(), background)


def _picture_as(picture: np.ndarray, ending: str) -> bytes:
    if ending == ".png":
        return grid.png(picture)
    high, wide = picture.shape[:2]
    image = grid.data_uri(picture)
    if ending == ".svg":
        place = f'width="{wide}" height="{high}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {place}><image {place} href="{image}"/></svg>'.encode()
    if ending == ".html":
        return _page("picture", f'<img src="{image}" alt="picture" style="max-width:100%">', None)
    if ending == ".gif":
        raise WorkbenchError("one picture stands still: save it as .png, or give a list of pictures for a .gif.")
    raise WorkbenchError("a picture has no JSON: save it as .png, .svg or .html.")


def _film_as(frames: Sequence[np.ndarray], ending: str, seconds: float, background: str | None) -> bytes:
    if ending != ".gif":
        raise WorkbenchError(f"a list of pictures is a film: save it as .gif, or save one of them as {ending}.")
    return gif_of(frames, seconds, background)


def _page(title: str, body: str, background: str | None) -> bytes:
    paper = _color(background)
    look = f"body{{margin:16px;font-family:{style.FONT};background:{paper or 'Canvas'}}}"
    scheme = {"white": "light", "dark": "dark"}.get(str(background), "light dark")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="{scheme}">'
        f"<style>{look}</style></head><body>{body}</body></html>\n"
    ).encode()


@functools.lru_cache(maxsize=1)
def _fonts() -> dict:
    """The first usable family of this machine; where there is none, the font that Pillow carries."""
    for family in FAMILIES:
        if _draws({"sans_serif_family": family}):
            return {"sans_serif_family": family}
    from PIL import ImageFont

    data = getattr(ImageFont.load_default(12), "font_bytes", b"")
    if not data:
        return {}  # no font on the machine and none in this Pillow: curves without words
    handle, name = tempfile.mkstemp(suffix=".ttf")  # resvg reads fonts from files only
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    atexit.register(lambda: Path(name).unlink(missing_ok=True))
    return {"sans_serif_family": "Aileron", "font_files": [name], "skip_system_fonts": True}


def _draws(fonts: dict) -> bool:
    import resvg_py

    probe = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><text y="15" font-family="sans-serif">a</text></svg>'
    )
    return bool(pixels(resvg_py.svg_to_bytes(svg_string=probe, **fonts)).any())


def _color(background: str | None) -> str | None:
    return None if background is None else BACKGROUNDS[background]


def _check(width: int, scale: float, seconds: float, background: str | None) -> None:
    for name, value, low, high in (("width", width, 100, 8000), ("scale", scale, 0.1, 8), ("seconds", seconds, 0.02, 60)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise WorkbenchError(f"{name} is {value!r}, but must be a number from {low} to {high}.")
    if background is not None and background not in BACKGROUNDS:
        raise unknown("background", background, [*BACKGROUNDS, "None"])


def _place(path: str | os.PathLike) -> Path:
    try:
        return Path(path).expanduser()
    except (TypeError, RuntimeError) as error:
        raise WorkbenchError(f"{path!r} is not the name of a file.") from error


def _picture(values: np.ndarray) -> np.ndarray:
    if values.ndim != 3 or values.shape[2] not in (3, 4) or values.dtype != np.uint8 or not values.size:
        raise WorkbenchError(
            f"a picture is an array (height, width, 3 or 4) of bytes, not {values.shape} of {values.dtype}: see views.image_grid."
        )
    return values


def _kind(drawn: object) -> str:
    return "an empty list" if isinstance(drawn, Sequence) and not drawn else type(drawn).__name__
