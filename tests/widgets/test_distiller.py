"""The widget that trains: the same runs as the app's, a form made from the recipe, and what is wrong as a sentence."""

from __future__ import annotations

import os
import time

import pytest

import workbench as wb
from workbench import training
from workbench.errors import WorkbenchError
from workbench.training import records, worker


@pytest.fixture
def here(home, monkeypatch):
    """Runs are trained in this process, which saves the start of another."""

    def spawn(run):
        records.write_json(run.folder / records.CONTROL, {"want": "run"})
        records.write_json(run.folder / records.PROCESS, {"pid": os.getpid(), "started": time.time()})
        worker.work(run.folder)

    monkeypatch.setattr(training.Run, "_spawn", spawn)
    return home


SMALL = {"steps": 3, "seconds": None, "batch": 16, "warmup": 1}


def test_runs_are_trained_overlaid_and_their_student_is_a_model(here):
    shown = wb.widgets.distill("eight_gaussians", "dmd2", name="mine", start=True, **SMALL)
    assert shown.error is None and shown.wait().name == "done" and shown.student.name == "eight_gaussians/mine"
    assert (
        "mine" in shown.status.value
        and shown.pictures["student"].value[:4] == shown.pictures["teacher"].value[:4] == b"\x89PNG"
    )
    assert shown.pause.disabled and shown.stop.disabled and shown.resume.disabled
    assert shown.losses.content["data"] and shown.metric.value == "sw2"
    shown.health.selected_index = 0
    assert shown.panels["gradients"].content["data"] and shown.panels["weights"].layout.display == "none"
    shown.recipe.value, shown.name.value = "reflow", "other"
    shown.switches["count"].value, shown.switches["chunk"].value = "64", "64"
    shown.start.click()
    assert shown.run.name == "other" and set(shown.overlaid.value) == {"mine", "other"} and shown.error is None
    assert [run.request["options"] for run in training.runs()] == [{"count": 64, "chunk": 64}, {"batch": 16, "warmup": 1}]
    bundle = shown._repr_mimebundle_()
    assert {"image/png", "image/svg+xml"} <= set(bundle) and "Compare offers it" in bundle["text/plain"]
    again = wb.widgets.distill("eight_gaussians", "reflow")  # another notebook finds them
    assert again.chosen.options == shown.chosen.options and again.status.value


def test_what_is_wrong_is_a_sentence_and_starts_nothing(here):
    shown = wb.widgets.distill("eight_gaussians", "f-distill", start=False)
    assert shown.run is None and shown.switches["divergence"].value == "js"
    for name, wrong, said in (
        ("batch", "many", "batch is &#x27;many&#x27;"),
        ("divergence", "klm", "did you mean &#x27;kl&#x27;"),
    ):
        before, shown.switches[name].value = shown.switches[name].value, wrong
        shown.start.click()
        assert said in shown.message.value and 'role="alert"' in shown.message.value
        shown.switches[name].value = before
    with pytest.raises(WorkbenchError, match="klm"):
        shown.wait()
    assert training.runs() == []
    for unknown in (wb.widgets.distill("eight_gausians"), wb.widgets.distill(recipe="reflou"), wb.widgets.distill(turnz=3)):
        assert "did you mean" in str(unknown.error) and "alert" in unknown.message.value


def test_a_failed_run_and_a_warning_are_told(here):
    shown = wb.widgets.distill("eight_gaussians", "dmd2", name="mine", start=True, **{**SMALL, "lr": 1e30})
    assert shown.state.name == "failed" and "diverged" in shown.status.value and not shown.resume.disabled
    told = records.read_json(shown.run.folder / records.STATE)
    records.write_json(shown.run.folder / records.STATE, {**told, "warning": "The student is collapsing."})
    assert shown.run.state().warning == "The student is collapsing."
    shown._look(anew=True)
    assert "The student is collapsing." in shown.status.value
