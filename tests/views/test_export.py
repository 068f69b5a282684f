"""Figures and pictures as files: what is drawn, on which ground, and what a wrong wish is answered."""

from __future__ import annotations

import io
import json
import os
import re

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from workbench.errors import UnknownName, WorkbenchError
from workbench.views import embed, error_curve, export, style
from workbench.views.export import gif_of, moments, pixels, plain, png_of, save

RED, BLUE = (np.full((6, 8, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))


@pytest.fixture
def figure() -> go.Figure:
    return error_curve({"euler": [(4, 0.2), (8, 0.1)], "heun α → 0": [(4, 0.1), (8, 0.025)]})


@pytest.fixture
def film() -> go.Figure:
    """A dot that goes from the left to the right over a line that stands."""
    made = style.figure("Where does it go?", height=200)
    made.add_trace(go.Scatter(x=[0, 4], y=[0, 0], mode="lines", line={"color": "#009e73"}))
    made.add_trace(go.Scatter(x=[0], y=[1], mode="markers", marker={"color": "#d55e00", "size": 20}))
    made.update_xaxes(range=[-1, 5]).update_yaxes(range=[-1, 2])
    made.frames = [go.Frame(data=[go.Scatter(x=[k], y=[1])], traces=[1], name=str(k)) for k in (0, 2, 4)]
    return made


def ink(picture: np.ndarray, color: str) -> np.ndarray:
    """Columns in which a colour appears."""
    return np.nonzero((np.abs(picture[..., :3].astype(int) - style.rgb(color)).sum(2) < 12).any(0))[0]


def test_a_png_has_the_size_the_ground_and_the_curves(figure):
    for background, corner in (("white", (255, 255, 255, 255)), ("dark", (20, 24, 29, 255)), (None, (0, 0, 0, 0))):
        picture = pixels(png_of(figure, 600, 1.5, background))
        assert picture.shape[:2] == (600, 900) and tuple(picture[-1, -1]) == corner
        assert len(ink(picture, style.colors(["euler", "heun α → 0"])["euler"])) > 100


def test_text_is_drawn_even_where_the_machine_has_no_fonts(figure, monkeypatch):
    bare = go.Figure(figure).update_layout(title_text="")
    words = lambda: (pixels(png_of(figure, background=None)) != pixels(png_of(bare, background=None))).any(2).sum()  # noqa: E731
    assert words() > 300
    export._fonts.cache_clear()
    monkeypatch.setattr(export, "FAMILIES", ())
    try:
        assert "font_files" in export._fonts() and words() > 300
    finally:
        export._fonts.cache_clear()


def test_without_fonts_greek_is_spelt():
    assert plain("log(α/σ) → −∞, x₁ ± 1 · café") == "log(alpha/sigma) -> -inf, x1 ± 1 · cafe"


def test_an_animated_figure_becomes_a_gif_that_moves(film, tmp_path):
    with Image.open(save(film, tmp_path / "film.gif", width=300, scale=1, seconds=0.2)) as picture:
        assert picture.n_frames == 3 and picture.size == (300, 200) and picture.info["loop"] == 0
        places, stays = [], []
        for k in range(3):
            picture.seek(k)
            frame = np.asarray(picture.convert("RGB"))
            places.append(float(ink(frame, "#d55e00").mean()))
            stays.append(picture.info["duration"])
            assert len(ink(frame, "#009e73")) > 100  # what stands still is in every frame
    assert places[0] + 50 < places[1] < places[2] - 50 and stays == [200, 200, 1500]
    assert [still.data[1].x[0] for still in moments(film)] == [0, 2, 4] and film.data[1].x[0] == 0
    assert next(moments(film)).data[1].marker.color == "#d55e00"


def test_a_film_of_pictures(tmp_path):
    with Image.open(io.BytesIO(gif_of([RED, BLUE]))) as picture:
        assert picture.n_frames == 2 and picture.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
        picture.seek(1)
        assert picture.convert("RGB").getpixel((0, 0)) == (0, 0, 255)
    clear = np.zeros((4, 4, 4), np.uint8)
    with Image.open(io.BytesIO(gif_of([clear], background="dark"))) as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (20, 24, 29)
    assert save([RED, BLUE], tmp_path / "two.gif").read_bytes() == gif_of([RED, BLUE])


def test_a_picture_keeps_its_pixels(tmp_path):
    assert (np.asarray(Image.open(save(RED, tmp_path / "red.png"))) == RED).all()
    assert 'width="8" height="6"' in save(RED, tmp_path / "red.svg").read_text()
    assert "data:image/png;base64," in save(RED, tmp_path / "red.html").read_text()


def test_svg_json_and_html_hold_the_figure(figure, tmp_path):
    svg = save(figure, tmp_path / "a.svg", background="dark").read_text()
    assert svg.startswith("<svg") and 'fill="#14181d"' in svg and "euler" in svg
    assert "#14181d" not in save(figure, tmp_path / "b.svg", background=None).read_text()
    assert go.Figure(json.loads(save(figure, tmp_path / "a.json").read_text())) == figure
    page = save(figure, tmp_path / "a.html").read_text()
    assert page.count('class="plot"') == 1 and len(page) < 2_500_000
    body = re.sub(r'id="plotly-gz">[^<]*<', "<", page)
    assert not re.findall(r"<[a-z][^<>]*\s(?:src|href)=", body)


def test_a_title_cannot_leave_its_script(tmp_path):
    hurt = "</script><script>alert(1)</script>"
    page = save(style.figure(hurt), tmp_path / "a.html").read_text()
    assert hurt not in page and page.count("<script") == 3
    assert "\\u003c/script>" in embed.figure_html(style.figure(hurt), "plot-1")
    assert png_of(style.figure("a \x00\x07 control & a < b"))[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("drawn", "name", "says"),
    [
        ("figure", "a.pdf", "Known: .gif, .html, .json, .png, .svg"),
        ("figure", "a", "unknown ending"),
        ("figure", "a.gif", "stands still: save it as .png"),
        (RED, "a.gif", "give a list of pictures"),
        (RED, "a.json", "no JSON"),
        ([RED, BLUE], "a.png", "save it as .gif"),
        ([RED, RED[:3]], "a.gif", "one size"),
        ([], "a.gif", "an empty list"),
        (RED.astype(float), "a.png", "of bytes"),
        ("text", "a.png", "not str"),
        (RED, "file/a.png", "could not write"),
        (RED, "a\0.png", "cannot be written"),
    ],
)
def test_a_wrong_wish_gets_a_sentence(drawn, name, says, tmp_path, figure):
    (tmp_path / "file").write_text("earlier")
    with pytest.raises(WorkbenchError, match=re.escape(says)) as caught:
        save(figure if isinstance(drawn, str) and drawn == "figure" else drawn, f"{tmp_path}{os.sep}{name}")
    assert "\n" not in str(caught.value) and (tmp_path / "file").read_text() == "earlier"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "options", [{"background": "blakc"}, {"width": 0}, {"scale": 100}, {"seconds": 0}, {"scale": float("nan")}, {"width": True}]
)
def test_options_are_checked_and_the_earlier_file_stays(options, tmp_path, figure):
    path = save(RED, tmp_path / "a.png")
    before = path.read_bytes()
    with pytest.raises(WorkbenchError) as caught:
        save(figure, path, **options)
    assert path.read_bytes() == before and ("background" not in options or isinstance(caught.value, UnknownName))


def test_a_gif_needs_a_frame():
    with pytest.raises(WorkbenchError, match="at least one frame"):
        gif_of([])
