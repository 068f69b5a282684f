"""The sketch keeps the places of what plotly draws: panels, pictures, sizes, words of several lines."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch

import workbench as wb
from workbench import views
from workbench.samplers import Trajectory
from workbench.views.sketch import svg
from workbench.views.sketch_marks import words

SVG = "{http://www.w3.org/2000/svg}"


def read(figure) -> ElementTree.Element:
    return ElementTree.fromstring(svg(figure))


def run(n: int = 5) -> Trajectory:
    model = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2])
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return wb.record(wb.run(wb.plan("euler", "linear", 4), model, noise))


def test_panels_share_their_horizontal_axis():
    """The second point of a turn lies below the second point of a move: same step, same place."""
    panels = list(read(views.motion({"a": run()})).iter(f"{SVG}svg"))[1:]
    moves, turns = ([float(c.get("cx")) for c in panel.iter(f"{SVG}circle")] for panel in panels)
    assert len(moves) == 4 and moves[:3] == turns
    (above, below) = (float(panel.get("y")) for panel in panels)
    assert above + float(panels[0].get("height")) < below


def test_a_picture_lies_under_its_notes():
    x = torch.zeros(3, 2, 1, 4, 4)
    strip = views.target_grid_strip(Trajectory(torch.tensor([1.0, 0.5, 0.0]), x, x, (0, 1, 2), (0.0,) * 3), "teacher")
    root = read(strip)
    (image,) = root.iter(f"{SVG}image")
    left, width = float(image.get("x")), float(image.get("width"))
    notes = {"".join(t.itertext()): float(t.get("x")) for t in root.iter(f"{SVG}text")}
    scale = width / (3 * 62)
    assert [notes[t] for t in ("1.00", "0.50", "0.00")] == pytest.approx(
        [left + scale * (62 * k + 28.5) for k in range(3)], abs=0.2
    )
    assert width / float(image.get("height")) == pytest.approx(186 / 142, rel=1e-3)


def test_lists_of_sizes_and_symbols_are_kept():
    film = read(views.particles_animated(run(7), "teacher"))
    assert len(list(film.iter(f"{SVG}circle"))) == 7  # a dot at the newest place alone, not on the tail
    plan = wb.plan("euler", "linear", 4)
    hollow = [c for c in read(views.log_snr({"a": plan})).iter(f"{SVG}circle") if c.get("fill") == "none"]
    assert len(hollow) == 2  # pure noise and clean data lie at infinity


def test_arrows_have_heads_that_point_along_them():
    from workbench.samplers.field import velocity_fields

    model, film = wb.mixture([[1.5, 0.0]], [0.1]), run()
    figure = views.particles_animated(film, "a", fields=velocity_fields(model, film.t, size=3), shown=2)
    heads = [p.get("transform") for p in read(figure).iter(f"{SVG}path") if p.get("transform")]
    assert heads and any("rotate(0)" in head for head in heads)


def test_words_of_a_plan_table_have_their_own_colour():
    texts = {
        "".join(t.itertext()): t.get("fill") for t in read(views.plan_table(wb.plan("ddim", "linear", 2))).iter(f"{SVG}text")
    }
    assert texts["1"] == "#ffffff"


def test_a_line_across_is_inside_the_picture():
    root = read(views.target_diversity({"a": run()}, reference=40.0))
    (note,) = [t for t in root.iter(f"{SVG}text") if "".join(t.itertext()) == "data 40"]
    assert 20 < float(note.get("y")) < 100


def test_markup_becomes_words():
    text = words(0, 10, "<b>a & b</b><br>x <i>y</i> < z")
    assert text.count("<text") == 2 and "<tspan font-weight" in text
    root = ElementTree.fromstring(f"<svg>{text}</svg>")
    assert ["".join(t.itertext()) for t in root.iter("text")] == ["a & b", "x y < z"]


def test_a_hostile_label_stays_text():
    root = read(views.target_distance({"<script>alert(1)</script>": run()}, 0))
    assert not list(root.iter(f"{SVG}script"))
