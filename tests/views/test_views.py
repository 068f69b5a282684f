"""Figures: a title, axes with names, traces that the browser's plotly can draw, and colours that stay with their model."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench import views
from workbench.errors import WorkbenchError
from workbench.views import grid, points, style

ALLOWED = {"scatter", "scattergl", "heatmap", "contour", "bar", "image"}


def blobs(steps: int = 4, sampler: str = "euler"):
    model = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2])
    noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return wb.record(wb.run(wb.plan(sampler, "linear", steps), model, noise))


def pictures(steps: int = 3):
    from workbench.samplers.run import Trajectory

    x = torch.rand(steps + 1, 2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Trajectory(torch.linspace(1, 0, steps + 1).double(), x, x.flip(0), tuple(range(steps + 1)), (0.1,) * (steps + 1))


def density():
    axis = np.linspace(-2, 2, 12)
    return views.Density(axis, axis, np.exp(-(axis[:, None] ** 2) - axis**2))


FIGURES = {
    "film_strip": lambda: views.film_strip({"digits/teacher": pictures(30), "digits/dmd2": pictures(1)}, 1),
    "particles": lambda: views.particles(blobs(), "teacher", density()),
    "particles, one sample": lambda: views.particles(blobs(), "teacher", None, 2),
    "log_snr": lambda: views.log_snr({"a": wb.plan("euler", "linear", 4), "b": wb.plan("heun", "vp", 3, "karras")}),
    "plan_table": lambda: views.plan_table(wb.plan("dpmpp_2m", "cosine", 5)),
    "target_distance": lambda: views.target_distance({"a": blobs(), "b": blobs(1)}),
    "target_distance, images": lambda: views.target_distance({"a": pictures()}, 0),
    "loss_curves": lambda: views.loss_curves([{"step": k, "seconds": 0.1 * k, "student": 1 / (k + 1)} for k in range(5)]),
    "error_curve": lambda: views.error_curve({"heun": [(4, 0.1), (8, 0.025)], "euler": [(4, 0.2), (8, 0.1)]}, floor=0.01),
    "bars": lambda: views.bars(pd.DataFrame({"sw2": [0.1, 0.2]}, index=["teacher", "dmd2"]), "sw2", floor=0.05),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_it_shows_and_the_browser_can_draw_it(name):
    content = json.loads(FIGURES[name]().to_json())
    layout = content["layout"]
    assert len(layout["title"]["text"]) > 10
    assert layout["xaxis"]["title"]["text"]
    assert name == "film_strip" or layout["yaxis"]["title"]["text"]
    assert {trace["type"] for trace in content["data"]} <= ALLOWED and content["data"]
    assert layout["uirevision"] == "keep"
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"


def test_a_model_keeps_its_colour_whoever_stands_beside_it():
    one = style.colors(["fashion/teacher", "fashion/reflow"])
    two = style.colors(["fashion/dmd2", "fashion/reflow", "fashion/teacher"])
    assert all(two[name] == color for name, color in one.items())
    assert style.colors(["digits/dmd2"])["digits/dmd2"] == two["fashion/dmd2"]
    assert len(set(style.colors([f"model {k}" for k in range(8)]).values())) == 8


def test_colours_can_be_seen_on_white_and_on_dark():
    def light(color: str) -> float:
        parts = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in style.rgb(color)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for color in [*style.PALETTE, style.INK]:
        on_white, on_dark = 1.05 / (light(color) + 0.05), (light(color) + 0.05) / (light("#161b22") + 0.05)
        assert min(on_white, on_dark) > 2.6, color


def test_the_slope_in_the_legend_is_the_order():
    figure = views.error_curve({"heun": [(n, n**-2.0) for n in (4, 8, 16)]})
    assert figure.data[0].name == "heun (slope −2.00)"


def test_a_click_on_a_grid_finds_the_image_that_is_drawn_there():
    images = torch.full((7, 1, 8, 8), -1.0)
    images[5] = 1.0
    picture = views.image_grid(images)
    rows, columns = np.nonzero(picture[..., 0] == 255)
    assert {views.cell_at(x, y, 7, (1, 8, 8)) for y, x in zip(rows[::97], columns[::97], strict=True)} == {5}
    assert views.cell_at(picture.shape[1] - 4, picture.shape[0] - 4, 7, (1, 8, 8)) is None


def test_a_grid_keeps_the_bytes_of_its_images():
    images = torch.tensor([-1.0, 0.0, 1.0, 3.0]).reshape(4, 1, 1, 1)
    place = grid.cells(4, (1, 1, 1))
    picture = views.image_grid(images)
    step = place.width + place.gap
    assert [int(picture[(k // 2) * step, (k % 2) * step, 0]) for k in range(4)] == [0, 128, 255, 255]
    assert views.png(picture).startswith(b"\x89PNG")


def test_a_click_on_points_finds_the_nearest_drawn_there():
    where = torch.tensor([[-1.0, 1.0], [1.0, 1.0], [0.5, -1.0]])
    picture = views.points_image(None, where[2:], None, "#d55e00")
    rows, columns = np.nonzero(picture[..., 3] > 200)
    assert views.nearest(columns.mean(), rows.mean(), where) == 2
    assert tuple(picture[int(rows.mean()), int(columns.mean()), :3]) == style.rgb("#d55e00")


def test_points_far_outside_or_not_finite_are_left_out():
    wild = torch.tensor([[1e9, 0.0], [float("nan"), 0.0], [0.0, -1e9]])
    assert views.points_image(wild, wild, density(), "#d55e00").shape == (points.SIZE, points.SIZE, 4)


def test_density_is_drawn_the_right_way_up():
    axis = np.linspace(-2, 2, 40)
    z = np.exp(-20 * ((axis[None, :] - 1) ** 2 + (axis[:, None] - 1) ** 2))  # at (1, 1): right, above
    picture = views.points_image(None, torch.full((1, 2), 9.0), views.Density(axis, axis, z), "#d55e00")
    row, column = np.unravel_index(picture[..., 3].argmax(), picture.shape[:2])
    assert column > points.SIZE / 2 and row < points.SIZE / 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: views.film_strip({}),
        lambda: views.film_strip({"a": blobs()}),
        lambda: views.film_strip({"a": pictures()}, 5),
        lambda: views.particles(pictures(), "a"),
        lambda: views.log_snr({}),
        lambda: views.loss_curves([]),
        lambda: views.loss_curves([{"step": 1, "student": 1.0}], ["studnt"]),
        lambda: views.bars(pd.DataFrame({"sw2": [0.1]}, index=["a"]), "sw3"),
        lambda: views.image_grid(torch.zeros(2, 5)),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_sentence(wrong):
    with pytest.raises(WorkbenchError) as caught:
        wrong()
    assert "\n" not in str(caught.value)
