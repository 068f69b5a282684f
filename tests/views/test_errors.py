"""Stability regions, error against evaluations, local errors: what the curves hold and what the titles say."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import workbench as wb
from workbench import views
from workbench.errors import UnknownName, WorkbenchError
from workbench.samplers.stability import Region, stability_region
from workbench.views.sketch import svg
from workbench.views.stability import outline


def rows(**slopes: float) -> list[dict]:
    return [
        {"sampler": name, "schedule": "uniform", "nfe": n, "error": n**-order}
        for name, order in slopes.items()
        for n in (4, 8, 16)
    ]


def region(**options: object) -> Region:
    return stability_region(options.pop("sampler"), real=(-2.5, 0.5), imag=1.2, points=61, **options)


PLANS = {"uniform": wb.plan("ddim", "linear", 4), "karras": wb.plan("ddim", "linear", 4, "karras")}
ERRORS = {"uniform": [0.1, 0.1, 0.1, 0.1], "karras": torch.tensor([0.01, 0.02, 0.9, 0.07])}
FIGURES = {
    "stability_regions": lambda: views.stability_regions(
        {"Euler": region(sampler="euler"), "AB2": region(sampler="ab", order=2)}
    ),
    "error_against_evaluations": lambda: views.error_against_evaluations(rows(heun=2, euler=1), floor=0.001),
    "local_error": lambda: views.local_error(PLANS, ERRORS),
    "local_error, log-SNR": lambda: views.local_error(PLANS, ERRORS, "log_snr"),
    "local_error, step": lambda: views.local_error(PLANS, ERRORS, "step"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_by_the_browser_and_as_a_sketch(name: str) -> None:
    figure = FIGURES[name]()
    layout = json.loads(figure.to_json())["layout"]
    assert len(layout["title"]["text"]) > 10 and layout["xaxis"]["title"]["text"] and layout["yaxis"]["title"]["text"]
    assert {trace.type for trace in figure.data} == {"scatter"} and svg(figure).count("<path") > 2


def test_the_edge_of_eulers_region_is_the_circle() -> None:
    line = np.array(max(outline(region(sampler="euler")), key=len))
    assert np.allclose(np.hypot(line[:, 0] + 1, line[:, 1]), 1, atol=2e-3)
    assert sorted(line[[0, -1], 0].round(2).tolist()) == [-2, 0] and line[:, 1].max() > 0.99
    length = np.hypot(*np.diff(line, axis=0).T).sum()
    assert length == pytest.approx(math.pi, rel=0.01)  # one way around, without jumps


def test_an_outline_closes_around_an_island_and_finds_every_piece() -> None:
    x, y = torch.linspace(-3, 3, 81, dtype=torch.float64), torch.linspace(0, 3, 41, dtype=torch.float64)
    far = torch.minimum((x - 1.5).square() + (y[:, None] - 1.5).square(), (x + 1.5).square() + (y[:, None] - 1.5).square())
    lines = outline(Region(x, y, far, -1.0))
    assert len(lines) == 2 and all(line[0] == pytest.approx(line[-1]) for line in lines)
    assert outline(Region(x, y, torch.full((41, 81), 2.0).double(), 0.0)) == []


def test_stability_says_who_reaches_farthest() -> None:
    figure = FIGURES["stability_regions"]()
    assert figure.layout.title.text == "Euler is stable to −2 on the real axis, AB2 to −1"
    assert [trace.name for trace in figure.data] == ["Euler: to −2", "AB2: to −1"]
    assert figure.layout.yaxis.scaleanchor == "x"
    y = [v for v in figure.data[0].y if v is not None]
    assert min(y) == pytest.approx(-max(y))


def test_slopes_are_fitted_above_the_floor() -> None:
    found = [*rows(heun=2), *({"sampler": "heun", "schedule": "uniform", "nfe": n, "error": 0.001} for n in (64, 128))]
    figure = views.error_against_evaluations(found, floor=0.001)
    assert [trace.name for trace in figure.data] == ["heun (slope −2.00)", "noise floor 0.001"]
    assert "slope −1" in views.error_against_evaluations(found).data[0].name


def test_the_title_names_the_best_at_a_number_of_evaluations() -> None:
    assert (
        "At 8 evaluations heun errs least: 0.016 (euler: 0.12)"
        in views.error_against_evaluations(rows(heun=2, euler=1)).layout.title.text
    )
    assert "At 16 " in views.error_against_evaluations(rows(heun=2), at=16).layout.title.text
    with pytest.raises(UnknownName, match="number of evaluations"):
        views.error_against_evaluations(rows(heun=2), at=7)


def test_a_sampler_is_drawn_on_its_best_schedule_and_a_plan_averaged() -> None:
    found = [
        SimpleNamespace(sampler="ab", schedule=schedule, nfe=nfe, error=error)
        for schedule, nfe, error in [
            ("uniform", 4, 1.0),
            ("uniform", 4, 3.0),
            ("karras", 4, 5.0),
            ("uniform", 8, 2.0),
            ("karras", 8, 1.0),
        ]
    ]
    assert list(views.error_against_evaluations(found, by="sampler").data[0].y) == [2.0, 1.0]
    plans = views.error_against_evaluations(found)
    assert {trace.name.split(" (")[0]: list(trace.y) for trace in plans.data} == {
        "ab, uniform": [2.0, 2.0],
        "ab, karras": [5.0, 1.0],
    }


def test_more_curves_than_colours_differ_in_their_dashes() -> None:
    figure = views.error_against_evaluations(rows(**{f"solver{k}": 1 for k in range(20)}))
    assert len({(trace.line.color, trace.line.dash) for trace in figure.data}) == 20


def test_a_level_spans_its_step() -> None:
    figure = views.local_error(PLANS, ERRORS)
    assert list(figure.data[0].x) == [1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0.0]
    assert list(figure.data[1].y)[4:6] == pytest.approx([0.9, 0.9])
    assert figure.layout.title.text == "karras: step 3 of 4 makes 90% of the local errors; uniform: none more than 25%"
    even = views.local_error({"uniform": PLANS["uniform"]}, ERRORS)
    assert even.layout.title.text == "Every step errs about alike"
    assert views.local_error(PLANS, ERRORS, "log_snr").data[0].x[0] == -9.0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: views.stability_regions({}), "no region"),
        (lambda: views.error_against_evaluations([]), "no error to draw"),
        (lambda: views.error_against_evaluations([{"sampler": "ab"}]), "must have the fields"),
        (lambda: views.error_against_evaluations(rows(ab=1), by="teacher"), "grouping"),
        (lambda: views.local_error({}, {}), "no plan"),
        (lambda: views.local_error(PLANS, {"uniform": [1.0]}), "one a step"),
        (lambda: views.local_error(PLANS, ERRORS, "time"), "axis"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_sentence(wrong, says: str) -> None:
    with pytest.raises(WorkbenchError, match=says) as caught:
        wrong()
    assert "\n" not in str(caught.value)
