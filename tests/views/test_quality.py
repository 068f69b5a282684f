"""Figures of a sweep: what is drawn is what was measured, and the title claims no more than the floor allows."""

from __future__ import annotations

import json
import math

import pytest

from workbench.errors import UnknownName, WorkbenchError
from workbench.sweep import SweepRow, collect, sweep
from workbench.views import quality, sampler_map, sketch
from workbench.views.findings import findings

ALLOWED = {"scatter", "scattergl", "heatmap", "contour", "bar", "image"}


def row(
    sampler="euler",
    schedule="uniform",
    steps=4,
    value=1.0,
    own=False,
    nfe=None,
    label="a/student",
    floor=0.1,
    note="",
    metric="sw2",
):
    nfe = None if math.isnan(value) else nfe or steps
    return SweepRow(label, sampler, schedule, steps, nfe, 1.0, metric, value, floor, 0.5, 100, 0, own, note)


def grid(values, own=None, steps=4, **more):
    """Rows from {(sampler, schedule): value}."""
    return [row(*pair, steps=steps, value=value, own=pair == own, **more) for pair, value in values.items()]


PAIRS = {("euler", "uniform"): 2.0, ("euler", "karras"): 1.5, ("heun", "uniform"): 3.0, ("heun", "karras"): 0.5}


def heatmaps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def outlined(figure):
    """The cells (column, row) that are framed, and those with a dot."""
    framed = {
        (round(sum(t.x[:4]) / 4), round(sum(t.y[:4]) / 4))
        for t in figure.data
        if t.type == "scatter" and t.mode == "lines" and len(t.x) == 5
    }
    dots = {
        (round(t.x[0]), round(t.y[0]))
        for t in figure.data
        if t.type == "scatter" and t.mode == "markers" and t.x[0] is not None
    }
    return framed, dots


@pytest.fixture(scope="module")
def measured():
    return list(sweep("eight_gaussians", n=100))


@pytest.mark.parametrize("draw", [quality, sampler_map])
def test_real_rows_and_their_table_give_the_same_figure(measured, draw):
    figure = draw(measured)
    assert figure.to_json() == draw(collect(measured)).to_json()
    content = json.loads(figure.to_json())
    assert {trace["type"] for trace in content["data"]} <= ALLOWED
    assert len(content["layout"]["title"]["text"]) > 20 and content["layout"]["uirevision"] == "keep"
    assert content["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"
    picture = sketch.svg(figure)
    assert picture.startswith("<svg") and "eight_gaussians" in picture and "euler" in picture


def test_the_map_shows_every_value_where_it_belongs():
    figure = sampler_map(grid(PAIRS, own=("heun", "uniform")))
    (cells,) = heatmaps(figure)
    assert figure.layout.xaxis.ticktext == ("uniform", "karras") and figure.layout.yaxis.ticktext == ("euler", "heun")
    assert [list(line) for line in cells.text] == [["2.00", "1.50"], ["3.00", "0.500"]]
    assert [[round(10**v, 6) for v in line] for line in cells.z] == [[2.0, 1.5], [3.0, 0.5]]
    assert outlined(figure) == ({(0, 1)}, {(1, 1)})
    assert "noise floor 0.100, n = 100, seed 0" in figure.layout.xaxis.title.text


@pytest.mark.parametrize(
    ("values", "own", "said"),
    [
        (PAIRS, ("heun", "karras"), "a/student at 4 steps: its own plan (heun, karras) is best, 0.500, floor 0.100"),
        (PAIRS, ("euler", "uniform"), "a/student at 4 steps: heun, karras beats its own plan, 0.500 for 2.00, floor 0.100"),
        (PAIRS | {("euler", "uniform"): 0.58}, ("euler", "uniform"), "a/student at 4 steps: its own plan is as good as any, 0.580 (best 0.500), floor 0.100"),
        (PAIRS, None, "a/student at 4 steps: heun, karras is best, 0.500, floor 0.100"),
        (dict.fromkeys(PAIRS, 2.0), ("euler", "uniform"), "a/student at 4 steps: every plan is the same, 2.00, floor 0.100"),
    ],
)  # fmt: skip
def test_the_title_says_what_was_found(values, own, said):
    assert sampler_map(grid(values, own)).layout.title.text == said


def test_a_better_plan_that_costs_more_says_so():
    rows = [row(value=2.0, own=True), row("heun", value=0.5, nfe=7)]
    assert sampler_map(rows).layout.title.text.endswith("0.500 for 2.00, at 7 evaluations for 4, floor 0.100")


def test_equal_plans_leave_the_mark_with_the_own_one():
    values = {("ddim", "uniform"): 1.0, ("euler", "uniform"): 1.0 + 1e-6, ("heun", "uniform"): 4.0}
    framed, dots = outlined(sampler_map(grid(values, own=("euler", "uniform"))))
    assert framed == dots == {(0, 1)}


def test_a_panel_for_each_count_with_the_same_shades():
    rows = [*grid(PAIRS, ("heun", "karras"), 2), *grid({pair: 4 * v for pair, v in PAIRS.items()}, ("euler", "uniform"), 8)]
    figure = sampler_map(rows)
    one, two = heatmaps(figure)
    assert (one.zmin, one.zmax) == (two.zmin, two.zmax) and one.xaxis == "x" and two.xaxis == "x2"
    told = [note.text for note in figure.layout.annotations]
    assert (
        told == findings(rows) == ["2 steps: its own plan is best, 0.500", "8 steps: heun, karras beats its own, 2.00 for 8.00"]
    )
    assert figure.layout.title.text == "Which sampler for a/student? Best: heun, karras at 2 steps"
    assert len(heatmaps(sampler_map(rows, steps=8))) == 1 and sampler_map(rows, steps=8).layout.title.text.startswith(
        "a/student at 8"
    )
    # a count at which only the own plan ran is no map
    assert len(heatmaps(sampler_map([*rows, row("heun", steps=25, own=True)]))) == 2


def test_panels_do_not_overlap():
    rows = [each for count in (1, 2, 4, 8, 16) for each in grid(PAIRS, steps=count)]
    layout = sampler_map(rows).layout
    boxes = [(layout[f"xaxis{k}"].domain, layout[f"yaxis{k}"].domain) for k in ("", 2, 3, 4, 5)]
    heights = {round(top - bottom, 9) for _, (bottom, top) in boxes}
    assert len(heights) == 1 and all(0 <= bottom < top <= 1 for _, (bottom, top) in boxes)
    for k, ((a, b), (c, d)) in enumerate(boxes):
        assert all(b <= e or f <= a or d <= g or h <= c for (e, f), (g, h) in boxes[k + 1 :])


def test_what_cannot_run_is_hatched_with_its_reason():
    rows = [*grid(PAIRS, ("euler", "uniform"))[:3], row("heun", "karras", value=math.nan, note="take <fewer> steps")]
    figure = sampler_map(rows)
    (cells,) = heatmaps(figure)
    assert cells.z[1][1] is None and "cannot run: take &lt;fewer&gt; steps" in cells.customdata[1][1]
    assert "cannot run (hover for the reason)" in [trace.name for trace in figure.data]
    whole = sampler_map(grid(PAIRS))
    assert "cannot run (hover for the reason)" not in [trace.name for trace in whole.data]
    assert "svg" in sketch.svg(figure) and "nan" not in sketch.svg(figure)
    with pytest.raises(WorkbenchError, match="no plan of a/student could be run: broken"):
        sampler_map([row(value=math.nan, note="broken")])


def test_one_student_of_several():
    rows = [*grid(PAIRS), *grid({pair: 9.0 for pair in PAIRS}, label="b/other")]
    assert sampler_map(rows, "b/other").layout.title.text.startswith("b/other at 4 steps: every plan is the same")
    with pytest.raises(UnknownName, match="did you mean 'b/other'"):
        sampler_map(rows, "b/othr")
    with pytest.raises(UnknownName, match="number of steps"):
        sampler_map(rows, steps=5)


def curve(figure, name):
    (found,) = [trace for trace in figure.data if trace.name == name]
    return list(zip(found.x, found.y, strict=True))


def test_a_line_for_each_sampler_of_one_model():
    rows = [
        each
        for count, scale in ((1, 4.0), (4, 1.0))
        for each in grid({p: scale * v for p, v in PAIRS.items()}, ("euler", "uniform"), count)
    ]
    figure = quality(rows)
    assert curve(figure, "euler") == [(1, 6.0), (4, 1.5)] and curve(figure, "heun") == [(1, 2.0), (4, 0.5)]
    assert curve(figure, "its own plan") == [(1, 8.0), (4, 2.0)]
    assert {y for _, y in curve(figure, "noise floor 0.100")} == {0.1}
    assert figure.layout.xaxis.type == "log" and figure.layout.xaxis.ticktext == ("1", "4")
    assert figure.layout.title.text == "a/student is best at 4 evaluations (heun, karras): 0.500, floor 0.100"


def test_lines_that_are_one_are_drawn_once():
    rows = [row(name, steps=count, value=1 / count) for name in ("euler", "ddim") for count in (1, 2)] + [
        row("heun", steps=1, value=1.0)
    ]
    names = [trace.name for trace in quality(rows).data]
    assert names == ["euler = ddim", "heun", "noise floor 0.100"]


def test_a_line_for_each_model_and_the_best_that_was_tried():
    rows = [
        *[row("heun", steps=count, value=v, own=True, label="a") for count, v in ((1, 4.0), (2, 2.0), (4, 3.0))],
        *[row("euler", steps=count, value=v, label="a") for count, v in ((1, 4.0), (2, 1.0), (4, 1.5))],
        *[row("heun", steps=count, value=v, own=True, label="b") for count, v in ((1, 5.0), (2, 4.5))],
    ]
    figure = quality(rows)
    assert curve(figure, "a, its own plan") == [(1, 4.0), (2, 2.0), (4, 3.0)]
    assert curve(figure, "a, best tried") == [(1, 4.0), (2, 1.0)]  # four evaluations reach nothing that two do not
    assert curve(figure, "b") == [(1, 5.0), (2, 4.5)] and "b, best tried" not in [trace.name for trace in figure.data]
    assert figure.layout.title.text == "a is best of all at 2 evaluations (euler, uniform): 1.00, floor 0.100"


def test_the_floor_ends_the_claim():
    rows = [row(steps=count, value=v) for count, v in ((1, 1.0), (2, 0.09), (4, 0.01))]
    assert (
        quality(rows).layout.title.text
        == "a/student reaches the noise floor at 2 evaluations (euler, uniform): 0.0900, floor 0.100"
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: quality([]), "no figures to draw"),
        (lambda: sampler_map([]), "no rows to draw"),
        (lambda: quality([row(value=math.nan)]), "no figures to draw"),
        (lambda: quality([row(), row(metric="Frechet", label="b")]), "sw2 and Frechet, which have no common axis"),
        (lambda: quality([row()], by="model name"), "unknown grouping"),
    ],
)
def test_what_cannot_be_drawn_is_said(wrong, said):
    with pytest.raises(WorkbenchError, match=said):
        wrong()
