"""Widgets at kernel level: controls move, and what is recorded and drawn is what `compare` and `views` give."""

from __future__ import annotations

import asyncio
import io
import time

import numpy as np
import pytest
import torch
from PIL import Image

import workbench as wb
from workbench import views
from workbench.compare import Column
from workbench.errors import UnknownName, WorkbenchError
from workbench.samplers.run import Trajectory
from workbench.widgets.columns import SIZE
from workbench.widgets.runs import Recorder, aligned

DIGITS = ["digits/teacher", "digits/dmd2"]
LIVE = "application/vnd.jupyter.widget-view+json"


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def same(runs: dict[str, Trajectory], others: dict[str, Trajectory]) -> bool:
    return list(runs) == list(others) and all(
        torch.equal(runs[k].x, others[k].x) and torch.equal(runs[k].target, others[k].target) for k in runs
    )


@pytest.fixture(scope="module")
def shown():
    return wb.widgets.explore(DIGITS, n=4, seed=1, cond=3)


def test_explore_records_what_compare_gives(shown):
    assert shown.error is None and shown.settings["cond"] == 3 and shown.settings["seed"] == 1
    result = wb.compare(DIGITS, 4, cond=3, seed=1)
    assert same(shown.trajectories, result.trajectories)
    assert torch.equal(shown.comparison.reference, result.reference)
    quality = [name for name in result.table if name != "ms/image"]
    assert shown.comparison.table[quality].equals(result.table[quality])


def test_the_step_slider_shows_recorded_frames_and_runs_nothing(shown, monkeypatch):
    monkeypatch.setattr(Recorder, "run", lambda *_: pytest.fail("a model was asked"))
    run = shown.trajectories["digits/teacher"]
    for k in (0, 7, 25):
        shown.controls.step.value = k
        state, target = (shown._views[0].pictures[name].value for name in ("state", "DT target"))
        assert np.array_equal(pixels(state), views.image_grid(run.x[k], size=SIZE))
        assert np.array_equal(pixels(target), views.image_grid(run.target[k], size=SIZE))
        assert f"step {k} of 25" in shown._views[0].status.value
        assert shown.distance.here["x"][0] == k


def test_columns_move_together_by_step_or_by_log_snr():
    many, few = (wb.plan("heun", "linear", k) for k in (8, 2))
    blank = torch.zeros(9, 1)
    runs = {p.steps: Trajectory(torch.tensor(p.times), blank[: p.steps + 1], blank[: p.steps + 1], (), ()) for p in (many, few)}
    paths = {8: many.path, 2: few.path}
    assert [aligned(runs, paths, k)[2] for k in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [aligned(runs, paths, k, "log_snr")[2] for k in range(9)] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    with pytest.raises(UnknownName, match="log_snr"):
        aligned(runs, paths, 1, "logsnr")


def test_controls_run_again_and_recorded_runs_come_back(shown, monkeypatch):
    before = shown.trajectories
    shown.controls.seed.value = 2
    assert same(shown.trajectories, wb.compare(DIGITS, 4, cond=3, seed=2).trajectories)
    shown.controls.guidance.value = 4.0  # the teacher's alone: the student has it baked in
    assert [column["guidance"] for column in shown.settings["columns"]] == [4.0, 1.0]
    asked = [Column("digits/teacher", guidance=4.0), "digits/dmd2"]
    assert same(shown.trajectories, wb.compare(asked, 4, cond=3, seed=2).trajectories)
    shown.controls.label.value = 5
    assert same(shown.trajectories, wb.compare(asked, 4, cond=5, seed=2).trajectories)
    monkeypatch.setattr(Recorder, "run", lambda *_: pytest.fail("this was recorded") if _[2] else iter(()))
    shown.controls.label.value = 3
    shown.controls.guidance.value = 1.5
    shown.controls.seed.value = 1
    assert all(shown.trajectories[label] is run for label, run in before.items())


def test_a_column_changes_how_it_runs():
    shown = wb.widgets.explore(["eight_gaussians"], n=30)
    view = shown._views[0]
    view.steps.value, view.sampler.value, view.schedule.value = 5, "dpmpp_2m", "logsnr"
    result = wb.compare([Column("eight_gaussians", sampler="dpmpp_2m", schedule="logsnr", steps=5)], 30)
    assert same(shown.trajectories, result.trajectories) and shown.controls.step.max == 5
    assert "dpmpp_2m, 5 logsnr steps" in view.head.value
    exact = views.notebook.density(wb.load("eight_gaussians").log_density)
    run = shown.trajectories["eight_gaussians"]
    drawn = views.points_image(run.x[5], run.target[5], exact, view.color, size=SIZE)
    assert np.array_equal(pixels(view.pictures["state and DT target"].value), drawn)


def test_a_click_chooses_a_sample_and_its_strip(shown):
    shown._views[0].pictures["state"]._handle_custom_msg({"kind": "click", "x": SIZE * 0.75, "y": SIZE * 0.75}, [])
    assert shown.controls.sample.value == 3
    assert shown.strips[0].content["layout"]["title"]["text"] == views.film_strip(shown.trajectories, 3).layout.title.text
    assert shown._views[0].pictures["state"].mark[:2] == pytest.approx([0.5, 0.5])
    shown.controls.alone.value = True
    assert "sample 3" in shown.distance.content["layout"]["title"]["text"]


def test_a_run_stops_within_a_step_and_goes_on():
    async def person() -> None:
        shown = wb.widgets.explore(DIGITS, n=4)
        controls = shown.controls
        controls.seed.value = 7
        assert controls.progress.layout.visibility == "visible" and not controls.stop.disabled
        while not (controls.progress.value and shown.trajectories):  # the student is done, the teacher is under way
            await asyncio.sleep(0.001)
        controls.stop.click()
        at = controls.progress.value
        await asyncio.sleep(0.05)
        assert controls.progress.value == at < 25 and "Stopped: 1 of 2" in shown.message.value
        assert list(shown.trajectories) == ["digits/dmd2"] and not controls.run.disabled
        with pytest.raises(WorkbenchError, match="digits/teacher has not run to its end"):
            _ = shown.comparison
        controls.run.click()
        while not controls.stop.disabled:
            await asyncio.sleep(0.01)
        assert same(shown.trajectories, wb.compare(DIGITS, 4, cond=torch.arange(4), seed=7).trajectories)

    asyncio.run(person())


def test_a_moved_slider_runs_the_last_value_only(monkeypatch):
    ran = []
    run = Recorder.run

    def counted(self, asked, only):
        ran.append((asked.seed, tuple(only)))
        return run(self, asked, only)

    async def person() -> None:
        shown = wb.widgets.explore(["digits/teacher"], n=2)
        monkeypatch.setattr(Recorder, "run", counted)
        for seed in (1, 2, 3):
            shown.controls.seed.value = seed
            await asyncio.sleep(0.005)
        while not shown.controls.stop.disabled:
            await asyncio.sleep(0.01)

    asyncio.run(person())
    assert [seed for seed, only in ran if only] == [3]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["digits/techer"], "did you mean 'digits/teacher'"),
        ([], "give at least one model"),
        (["mixture64"], "images and points in the plane"),
        (["digits/teacher", "moons"], "different shapes"),
    ],
)
def test_bad_models_are_told_inside_the_widget(given, sentence):
    shown = wb.widgets.explore(given)
    assert sentence in str(shown.error) and 'role="alert"' in shown.message.value and shown.children
    with pytest.raises(WorkbenchError):
        _ = shown.trajectories
    assert LIVE in shown._repr_mimebundle_()


@pytest.mark.parametrize("given", [{"n": 0}, {"n": 10**9}, {"seed": -1}, {"cond": 99}, {"cond": "<script>"}])
def test_bad_numbers_are_told_inside_the_widget(given):
    shown = wb.widgets.explore(["digits/dmd2"], **given)
    assert isinstance(shown.error, WorkbenchError) and "Traceback" not in shown.message.value
    assert "<script>" not in shown.message.value


def test_an_impossible_plan_is_told_and_mended():
    shown = wb.widgets.explore(["eight_gaussians"], n=5)
    view = shown._views[0]
    view.schedule.value = "trailing"
    assert shown.error is None
    schedule = wb.widgets.schedule("vp")
    controls = schedule.controls["A"]
    controls.options["t_end"].value = 0.9
    controls.options["t_start"].value = 0.5
    assert "0 <= t_end < t_start <= 1" in str(schedule.error) and 'role="alert"' in schedule.message.value
    with pytest.raises(WorkbenchError, match="t_end"):
        _ = schedule.plan
    controls.options["t_start"].value = 1.0
    assert schedule.error is None and schedule.plan.times[-1] == pytest.approx(0.9)


def test_a_plan_follows_its_controls():
    chosen = wb.widgets.schedule("linear")
    controls = chosen.controls["A"]
    controls.sampler.value, controls.schedule.value, controls.steps.value = "ddim", "shift", 5
    assert set(controls.options) == {"eta", "reuse_noise", "t_start", "t_end", "shift"}
    controls.options["eta"].value, controls.options["shift"].value = 0.5, 2.0
    assert chosen.plan == wb.plan("ddim", "linear", 5, "shift", eta=0.5, shift=2.0)
    assert chosen.curves.content["data"][0]["y"] == pytest.approx(list(chosen.plan.times), abs=1e-5)
    chosen.two.value = True
    assert list(chosen.plans) == ["plan A", "plan B"] and len(chosen.curves.content["data"]) == 6
    z = views.plan_table(chosen.plans["plan B"]).data[0].z
    assert np.allclose(chosen.tables[1].content["data"][0]["z"], z)
    assert "unknown path 'circle'" in str(wb.widgets.schedule("circle").error)


def test_every_control_has_a_label(shown):
    chosen = wb.widgets.schedule("linear")
    for widget in (shown, chosen):
        stack = [widget]
        while stack:
            each = stack.pop()
            stack += getattr(each, "children", ())
            if hasattr(each, "value") and hasattr(each, "description") and type(each).__name__ != "HTML":
                assert each.description, each
    assert all(picture.alt for view in shown._views for picture in view.pictures.values())


def test_stored_outputs_read_without_a_kernel(shown):
    made = shown._repr_mimebundle_()
    assert {LIVE, "application/vnd.plotly.v1+json", "image/svg+xml", "image/png", "text/plain"} == set(made)
    assert "digits/teacher" in made["text/plain"] and "When is the result decided?" in made["image/svg+xml"]
    assert pixels(made["image/png"]).shape[1] >= 2 * SIZE
    plan = wb.widgets.schedule("linear")._repr_mimebundle_()
    assert {LIVE, "application/vnd.plotly.v1+json", "image/svg+xml"} <= set(plan) and "plan A" in plan["image/svg+xml"]


def test_the_library_is_sent_when_asked_for():
    import gzip

    from workbench.widgets.parts import Figure

    sent = []
    figure = Figure(views.plan_table(wb.plan("heun", "linear", 2)))
    figure.send = lambda content, buffers: sent.append((content, buffers))
    figure._handle_custom_msg({"kind": "plotly"}, [])
    assert b"plotly.js" in gzip.decompress(sent[0][1][0])[:200]
    assert len(str(figure.get_state())) < 200_000, "the library must not travel with every figure"


def test_in_a_real_kernel_stop_is_heard_between_frames():
    """A notebook as a person runs it; its last cell sends Stop as the page would, while the run goes on in the loop."""
    from nbclient import NotebookClient
    from nbformat import v4

    cells = [
        "import workbench as wb\nshown = wb.widgets.explore(['digits/teacher', 'digits/dmd2'], n=16)\nshown",
        "shown.controls.seed.value = 5\nstop = shown.controls.stop.comm.comm_id\nprint(stop)",
        "print(list(shown.trajectories), shown.controls.stop.disabled, shown.controls.progress.value < 25)",
    ]
    book = v4.new_notebook(cells=[v4.new_code_cell(text) for text in cells])
    client = NotebookClient(book, timeout=120, kernel_name="python3")
    with client.setup_kernel():
        for place, cell in enumerate(book.cells):
            client.execute_cell(cell, place)
            if place == 1:  # the click lies in the kernel's queue before the debounce is over: it comes while the run goes on
                time.sleep(0.2)
                message = {
                    "comm_id": cell.outputs[0]["text"].strip(),
                    "data": {"method": "custom", "content": {"event": "click"}},
                }
                client.kc.shell_channel.send(client.kc.session.msg("comm_msg", message))
    data = book.cells[0].outputs[-1]["data"]
    assert {LIVE, "image/png", "image/svg+xml"} <= set(data)
    assert book.cells[2].outputs[0]["text"].strip() == "['digits/dmd2'] True True"
