"""Figures along a run: targets, motion, principal components, strips, schedules, and particles that move."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import workbench as wb
from workbench import metrics, paths, views
from workbench.errors import UnknownName, WorkbenchError
from workbench.samplers import Trajectory
from workbench.samplers.field import velocity_fields
from workbench.views import notebook, style

ALLOWED = {"scatter", "scattergl", "heatmap", "contour", "bar", "image"}


def blobs(steps: int = 4, sampler: str = "euler", n: int = 6, path: str = "linear") -> Trajectory:
    model = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2], path=path)
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return wb.record(wb.run(wb.plan(sampler, path, steps), model, noise))


def pictures(steps: int = 3, n: int = 4) -> Trajectory:
    x = torch.rand(steps + 1, n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Trajectory(torch.linspace(1, 0, steps + 1).double(), x, x.flip(0), tuple(range(steps + 1)), (0.1,) * (steps + 1))


def two() -> dict[str, Trajectory]:
    return {"teacher": blobs(8), "dmd2": blobs(1, "consistency")}


PATHS = {"teacher": "linear", "dmd2": paths.linear}
PLANS = {"a": wb.plan("euler", "linear", 4), "b": wb.plan("heun", "vp", 6, "karras")}
FIGURES = {
    "target_distance": lambda: views.target_distance(two(), against="t"),
    "target_distance, one": lambda: views.target_distance(two(), 2, "sample 9", "log_snr", PATHS),
    "target_diversity": lambda: views.target_diversity(two(), reference=0.5),
    "target_diversity, log_snr": lambda: views.target_diversity({"teacher": pictures()}, "log_snr", PATHS),
    "motion": lambda: views.motion(two(), PATHS),
    "principal": lambda: views.principal({"teacher": pictures(5)}),
    "principal, one": lambda: views.principal({"teacher": pictures(5), "dmd2": pictures(1)}, 1, PATHS, fit="samples"),
    "animated": lambda: views.particles_animated(blobs(), "teacher"),
    "schedules": lambda: views.schedules(PLANS),
    "plan_table": lambda: views.plan_table(PLANS["b"]),
    "film_strip": lambda: views.film_strip({"teacher": pictures()}),
    "target_grid_strip": lambda: views.target_grid_strip(pictures(12), "teacher", 3, 5),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_it_shows_can_be_drawn_and_sketched(name):
    figure = FIGURES[name]()
    content = json.loads(figure.to_json())
    layout = content["layout"]
    axes = [key for key in layout if key.startswith(("xaxis", "yaxis"))]
    assert len(layout["title"]["text"]) > 10 and layout["uirevision"] == "keep"
    assert any(layout[key].get("title", {}).get("text") for key in axes if key[0] == "x")
    assert "strip" in name or all(layout[key]["title"]["text"] for key in axes if key[0] == "y")
    assert {trace["type"] for trace in content["data"]} <= ALLOWED and content["data"]
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
    assert "NaN" not in figure.to_json()
    sketched = notebook.svg(figure)
    assert "nan" not in sketched and "[" not in sketched.split("base64")[0].replace("[&quot;", "")


def test_the_distance_is_the_metric_and_a_ring_marks_the_half():
    figure = views.target_distance({"teacher": blobs(8)})
    curve, ring = figure.data
    assert list(curve.y) == pytest.approx(metrics.target_error(blobs(8)).tolist(), rel=1e-3)
    half = metrics.decided(blobs(8))
    assert 0 < half < 8 and list(ring.x) == [half]
    assert curve.name == f"teacher: half decided at step {half} of 8 (t = {1 - half / 8:.2f})"


def test_a_one_step_model_has_decided_at_once():
    figure = views.target_distance({"dmd2": blobs(1, "consistency")})
    assert figure.data[0].name == "dmd2: decided at step 0 of 1 (t = 1.00)"


@pytest.mark.parametrize("against", ["step", "t", "log_snr"])
def test_points_lie_where_the_axis_says(against):
    run = blobs(4, path="cosine")
    x = list(views.target_distance({"a": run}, against=against, paths={"a": "cosine"}).data[0].x)
    exact = [paths.cosine.log_snr(float(t)) for t in run.t]
    expected = {
        "step": [0, 1, 2, 3, 4],
        "t": run.t.tolist(),
        "log_snr": [max(-9.0, min(9.0, value)) for value in exact],
    }
    assert x == pytest.approx(expected[against], abs=1e-4)


def test_time_runs_from_noise_at_the_left_to_data_at_the_right():
    first, last = views.target_distance({"a": blobs()}, against="t").layout.xaxis.range
    assert first > 1 and last < 0


def test_diversity_is_the_metric_and_the_reference_a_line():
    figure = views.target_diversity(two(), reference=0.7, reference_name="teacher's samples")
    for trace, run in zip(figure.data, two().values(), strict=True):
        assert list(trace.y) == pytest.approx(metrics.target_diversity(run).tolist(), rel=1e-3, abs=1e-9)
    assert figure.layout.shapes[0].y0 == 0.7
    assert figure.layout.annotations[0].text == "teacher's samples 0.7"
    assert "6 seeds" in figure.layout.title.text


def test_motion_draws_the_metrics_of_every_step_and_names_straightness():
    run = blobs(8)
    moves, turns = views.motion({"teacher": run}).data
    assert list(moves.x) == list(range(1, 9)) and list(turns.x) == list(range(1, 8))
    assert list(moves.y) == pytest.approx(metrics.displacement(run).tolist(), rel=1e-3)
    assert list(turns.y) == pytest.approx(metrics.curvature(run).tolist(), rel=1e-3)
    straight = metrics.straightness(list(run.x), run.t)
    assert moves.name == f"teacher: straightness {straight:.2g}"
    assert not turns.showlegend and turns.legendgroup == moves.legendgroup


def test_motion_in_flow_coordinates_uses_each_models_path():
    run = blobs(8, path="vp")
    seen = views.motion({"a": run}, {"a": "vp"}).data[0].y
    assert list(seen) == pytest.approx(metrics.displacement(run, paths.vp).tolist(), rel=1e-3)
    assert list(seen) != pytest.approx(metrics.displacement(run).tolist(), rel=1e-2)


def test_the_plane_of_points_in_a_plane_shows_all_and_keeps_distances():
    run = blobs(5, n=10)
    figure = views.principal({"a": run}, fit="states")
    shares = [int(axis.title.text.split("(")[1].split(" %")[0]) for axis in (figure.layout.xaxis, figure.layout.yaxis)]
    assert sum(shares) == pytest.approx(100, abs=1)
    ends = next(trace for trace in figure.data if trace.name == "a" and trace.mode == "markers")
    drawn = torch.tensor([ends.x, ends.y]).double().T
    assert torch.allclose(torch.cdist(drawn, drawn), torch.cdist(run.final, run.final), atol=5e-3)


def test_the_plane_says_what_it_was_fitted_to():
    assert "of the samples" in views.principal({"a": blobs(n=8)}).layout.xaxis.title.text
    assert "of the states" in views.principal({"a": blobs(n=3)}).layout.xaxis.title.text
    assert "of the states" in views.principal({"a": blobs(n=8)}, fit="states").layout.xaxis.title.text


def test_a_chosen_sample_beyond_the_most_is_shown_all_the_same():
    run = blobs(3, n=20)
    figure = views.principal({"a": run}, 15, most=5, fit="states")
    bold = next(trace for trace in figure.data if trace.name == "a: sample 15")
    assert len(bold.x) == 4
    ends = next(trace for trace in figure.data if trace.name == "a" and trace.mode == "markers")
    assert len(ends.x) == 5 and (ends.x[-1], ends.y[-1]) == (bold.x[-1], bold.y[-1])


def test_strips_show_the_targets_at_their_times():
    run = pictures(12)
    figure = views.target_grid_strip(run, "teacher", samples=3, frames=5)
    assert [note.text for note in figure.layout.annotations] == ["1.00", "0.75", "0.50", "0.25", "0.00"]
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    picture = np.asarray(Image.open(BytesIO(b64decode(figure.data[0].source.split(",")[1]))))
    note = figure.layout.annotations[3]  # step 9 of 12, row 2
    row, column = int(note.y) + 8 + 2 * 62, int(note.x) - 28
    expected = round((float(run.target[9, 2, 0, 0, 0]) + 1) * 127.5)
    assert abs(int(picture[row + 2, column + 2, 0]) - expected) <= 1


def test_schedules_show_times_log_snr_and_steps():
    plan = PLANS["b"]
    times, snr, sizes = views.schedules({"b": plan}).data
    assert list(times.y) == pytest.approx(plan.times, abs=1e-6)
    assert list(sizes.y) == pytest.approx([a - b for a, b in zip(plan.times, plan.times[1:], strict=False)], abs=1e-6)
    assert list(sizes.x) == list(range(1, 7)) and max(snr.y) == 9.0
    assert [trace.showlegend for trace in (times, snr, sizes)] == [True, False, False]


def density() -> views.Density:
    return notebook.density(wb.load("eight_gaussians").log_density)


def test_particles_move_frame_by_frame_and_stay_light():
    model = wb.load("eight_gaussians")
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = wb.record(wb.run(wb.plan("heun", model.path, 32), model, noise))
    figure = views.particles_animated(run, "teacher", density(), velocity_fields(model, run.t))
    assert len(figure.to_json()) < 600_000
    assert [frame.name for frame in figure.frames] == [str(k) for k in range(33)]
    steps = figure.layout.sliders[0].steps
    assert [step.args[0][0] for step in steps] == [frame.name for frame in figure.frames]
    for k in (0, 7, 32):
        particles = figure.frames[k].data[1]
        heads = torch.tensor([particles.x[3::5], particles.y[3::5]]).double().T
        assert torch.allclose(heads, run.x[k], atol=0.006)
        assert figure.frames[k].data[2].text[0] == f"step {k} of 32, t = {run.t[k]:.2f}"
    assert {button.label for button in figure.layout.updatemenus[0].buttons} == {"Play", "Pause"}
    assert figure.layout.images[0].layer == "below" and figure.layout.images[0].sizex == pytest.approx(4.2)
    assert [figure.data[place].name for place in figure.frames[0].traces] == ["velocity", "particles", "time"]
    assert list(figure.data[1].x) == list(figure.frames[32].data[1].x)  # the result is seen before the first press


def test_arrows_point_the_way_that_samples_go():
    """To a single blob at the right everything at the left goes right, against dx/dt."""
    model = wb.mixture([[1.5, 0.0]], [0.1])
    run = wb.record(wb.run(wb.plan("euler", "linear", 2), model, torch.zeros(3, 2, dtype=torch.float64)))
    figure = views.particles_animated(run, "teacher", fields=velocity_fields(model, run.t, size=5), shown=1)
    arrows = figure.data[0]
    across = [(a, b - a) for a, b in zip(arrows.x[::3], arrows.x[1::3], strict=True) if a is not None and a < 0.5]
    assert len(across) > 5 and all(length > 0 for _, length in across)
    cell = 0.8 * 2 * 2.1 / 5
    lengths = [
        math.hypot(arrows.x[k + 1] - arrows.x[k], arrows.y[k + 1] - arrows.y[k])
        for k in range(0, len(arrows.x), 3)
        if arrows.x[k] is not None
    ]
    assert max(lengths) == pytest.approx(cell, abs=0.02)
    assert set(figure.frames[-1].data[0].x) == {None}  # no velocity on clean data


@pytest.mark.parametrize("columns", [None, 3])
def test_a_difference_is_laid_out_like_the_grid(columns):
    a, b = torch.zeros(5, 1, 4, 4), torch.zeros(5, 1, 4, 4)
    a[2], b[4] = 0.5, 0.25
    picture = views.difference(a, b, columns)
    assert picture.shape == views.image_grid(a, columns).shape
    for j, color, strength in ((2, style.DIVERGING[2][1], 0.5), (4, style.DIVERGING[0][1], 0.25)):
        rows, cells = np.nonzero(picture[..., 3] == math.ceil(255 * strength))
        assert {views.cell_at(x, y, 5, (1, 4, 4), columns) for y, x in zip(rows[::53], cells[::53], strict=True)} == {j}
        assert tuple(picture[rows[0], cells[0], :3]) == style.rgb(color)
    assert set(np.unique(picture[..., 3])) == {0, 64, 128}  # equal pixels are transparent


def test_a_difference_averages_channels_and_is_cut_at_one():
    a = torch.zeros(1, 3, 2, 2)
    a[:, 0], a[:, 1] = 0.9, -0.9
    assert not views.difference(a, torch.zeros_like(a)).any(axis=(0, 1))[3]
    assert views.difference(torch.full((1, 1, 2, 2), 3.0), -torch.ones(1, 1, 2, 2))[0, 0, 3] == 255


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: views.target_distance({}),
        lambda: views.target_distance({"a": blobs()}, 99),
        lambda: views.target_distance({"a": blobs()}, against="log_snr"),
        lambda: views.target_distance({"a": blobs()}, against="log_snr", paths={"b": "linear"}),
        lambda: views.target_diversity({"a": blobs(n=1)}),
        lambda: views.motion({}),
        lambda: views.principal({"a": blobs()}, 99),
        lambda: views.principal({"a": blobs(), "b": pictures()}),
        lambda: views.principal({"a": blobs()}, fit="noise"),
        lambda: views.particles_animated(pictures(), "a"),
        lambda: views.particles_animated(blobs(), "a", fields=[None]),
        lambda: views.schedules({}),
        lambda: views.target_grid_strip(blobs(), "a"),
        lambda: views.difference(torch.zeros(2, 1, 4, 4), torch.zeros(3, 1, 4, 4)),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_sentence(wrong):
    with pytest.raises(WorkbenchError) as caught:
        wrong()
    assert "\n" not in str(caught.value)


def test_an_unknown_axis_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'log_snr'"):
        views.target_distance({"a": blobs()}, against="logsnr")
