"""Runs in processes of their own: they pause, resume to the same weights, survive a kill, and end in the user's zoo."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
import torch

from workbench import training, zoo
from workbench.errors import WorkbenchError
from workbench.training import records, worker

SMALL = {"batch": 16, "count": 64, "chunk": 64}
PATIENCE = 90.0


def until(run, what):
    end = time.monotonic() + PATIENCE
    while not what(state := run.state()):
        assert time.monotonic() < end and state.name != "failed", state
        time.sleep(0.05)
    return state


def test_a_run_is_killed_and_resumed_paused_and_done(home):
    run = training.start("eight_gaussians", "reflow", steps=100_000, name="mine", options=SMALL)
    with pytest.raises(WorkbenchError, match="already"):
        run.resume()
    with pytest.raises(WorkbenchError, match="named 'mine' already"):
        training.start("eight_gaussians", "reflow", steps=2, name="mine")
    until(run, lambda state: state.name == "running")
    os.kill(json.loads((run.folder / records.PROCESS).read_text())["pid"], signal.SIGKILL)
    lost = run.wait(PATIENCE)
    assert lost.name == "failed" and "ended without a word" in lost.sentence and lost.sentence.count(". ") == 1
    (run.folder / records.REQUEST).write_text(json.dumps({**run.request, "steps": 40}))
    (run.folder / "config.json").unlink()
    run.resume()
    done = run.wait(PATIENCE)
    assert done.name == "done" and done.step == 40 and done.model == "eight_gaussians/mine"
    assert done.losses[-1]["step"] == 40 and "sw2" in done.metrics[-1] and [one.name for one in training.runs()] == ["mine"]
    assert "eight_gaussians/mine" in [entry.name for entry in zoo.catalog()]
    student, teacher, step = run.samples()
    assert step == 40 and student.shape == teacher.shape == (worker.POINTS, 2)
    from workbench.samplers.sample import sample

    model = zoo.load("eight_gaussians/mine")
    assert torch.equal(student, sample(model, worker.POINTS, None, seed=worker.NOISE))
    assert torch.allclose(teacher, sample(zoo.load("eight_gaussians"), worker.POINTS, None, seed=worker.NOISE).float())
    with pytest.raises(WorkbenchError, match="done"):
        run.resume()


def asked(home, name, steps):
    """A run's folder with its request, for a worker in this process."""
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    request = {"teacher": "eight_gaussians", "recipe": "reflow", "options": SMALL, "seconds": None, "steps": steps, "seed": 0}
    records.write_json(folder / records.REQUEST, {**request, "space": "eight_gaussians", "name": name, "created": 0.0})
    records.write_json(folder / records.PROCESS, {"pid": os.getpid(), "started": time.time()})
    return training.Run(folder)


def test_a_paused_run_continues_to_the_same_weights(home):
    whole, halved = asked(home, "whole", 30), asked(home, "halved", 30)
    worker.work(whole.folder)
    records.write_json(halved.folder / records.CONTROL, {"want": "pause"})
    for state in ("paused", "paused"):
        worker.work(halved.folder)
        assert halved.state().name == state
    records.write_json(halved.folder / records.CONTROL, {"want": "run"})
    worker.work(halved.folder)
    a, b = (zoo.load(f"eight_gaussians/{name}").net.state_dict() for name in ("whole", "halved"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    steps = [row["step"] for row in halved.state().losses]
    assert {1, 20, 30} <= set(steps) and steps == sorted(set(steps))  # a slow step is reported between


def test_a_failure_is_one_sentence(home):
    run = asked(home, "bad", 5)
    records.write_json(run.folder / records.REQUEST, {**run.request, "teacher": "nothing"})
    worker.work(run.folder)
    state = run.state()
    assert state.name == "failed" and state.sentence.startswith("Unknown model 'nothing'")


def test_reports_stay_within_their_share(home, monkeypatch):
    from workbench.distill.loop import Progress

    clock, drawn = [100.0], []
    monkeypatch.setattr(worker.time, "monotonic", lambda: clock[0])
    reporter = worker.Reporter(home, {})

    def draw(samples, count):
        clock[0] += 0.2  # as costly as a fifth of the second in which it comes
        drawn.append(clock[0])
        return torch.zeros(4, 2)

    for step in range(1, 1001):
        clock[0] += 0.1
        reporter.report(Progress(step, None, {}, {}, 0.1 * step, average=torch.nn.Identity()), draw)
    assert len(drawn) > 5 and reporter.spent <= 0.05 * 100


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"teacher": "eight_gausians"}, "did you mean 'eight_gaussians'"),
        ({"recipe": "reflou"}, "did you mean 'reflow'"),
        ({"options": {"batsh": 3}}, "did you mean 'batch'"),
        ({"seconds": -1}, "seconds is -1"),
        ({"name": "../x"}, "cannot be named"),
    ],
)
def test_bad_input_starts_nothing(home, wrong, told):
    with pytest.raises(WorkbenchError, match=told):
        training.start(**{"teacher": "eight_gaussians", "recipe": "reflow", **wrong})
    assert training.runs() == []


def test_options_are_those_of_the_recipe_with_its_defaults_for_the_teacher():
    """dmd2's levels have a mean for points alone; what is refused here is the number of steps."""
    with pytest.raises(WorkbenchError, match="steps is 0"):
        training.start("eight_gaussians", "dmd2", steps=0, options={"mean": 0.0})
    with pytest.raises(WorkbenchError, match="unknown option"):
        training.start("digits/teacher", "dmd2", steps=0, options={"mean": 0.0})


def test_switches_are_what_the_recipe_takes():
    from workbench.distill.recipes import recipes

    for recipe in recipes():
        found = training.switches(recipe, (2,), fresh=True)
        fitted = recipe.fitted((2,), True)
        assert {"batch", "ema", "lr"} <= set(found)
        assert fitted.configured(**{name: value for name, (_, value) in found.items()}) == fitted


def test_history_is_thinned_and_what_is_written_again_counts(tmp_path):
    file = tmp_path / "metrics.jsonl"
    steps = [*range(1, 50), *range(30, 1000)]
    file.write_text("".join(json.dumps({"step": step}) + "\n" for step in steps) + '{"step": 10')
    rows = [row["step"] for row in records.history_of(file)]
    assert rows == sorted(set(rows)) and len(rows) <= records.MOST_ROWS + 1 and rows[0] == 1


def test_a_slow_step_is_reported_alone_and_fewer_samples_are_drawn_where_they_cost_more(home, monkeypatch):
    from workbench.distill.loop import Progress

    clock, drawn = [100.0], []
    monkeypatch.setattr(worker.time, "monotonic", lambda: clock[0])
    reporter = worker.Reporter(home, {})

    def draw(samples, count):
        n = 16 if count is None else count
        clock[0] += n * 0.002
        drawn.append(n)
        return torch.zeros(n, 1, 2, 2)

    for step in range(1, 101):
        clock[0] += 0.3
        reporter.report(Progress(step, None, {}, {}, 0.3 * step, average=torch.nn.Identity()), draw)
    assert set(drawn[2:]) == {8} and len(drawn) > 25 and reporter.spent <= 0.05 * 30  # once a second
    reporter.report(Progress(101, None, {}, {}, 31.0, stage="done", average=torch.nn.Identity()), draw)
    assert drawn[-1] == 16


def test_a_run_of_several_students_shows_the_losses_of_each(tmp_path):
    for k in range(2):
        (tmp_path / f"student-{k}").mkdir()
        rows = [{"step": step, "seconds": 0.1 * step, "student": 1.0 + k} for step in (1, 20)]
        (tmp_path / f"student-{k}" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    losses = training.Run(tmp_path).state().losses
    assert [row.get("0/student") for row in losses] == [1.0, 1.0, None, None] and losses[-1]["1/student"] == 2.0


@pytest.mark.parametrize("where", [".", "student-1"])
def test_the_start_of_a_student_is_shown_and_what_follows_is_counted_on(tmp_path, where):
    def write(folder, steps):
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{"step": step, "seconds": 0.1 * step, "student": float(step)} for step in steps]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def shown():
        losses, name = training.Run(tmp_path).state().losses, "student" if where == "." else "1/student"
        return [(row["step"], row["seconds"], row[name]) for row in losses]

    write(tmp_path / where / "start", (1, 20))
    assert shown() == [(1, 0.1, 1.0), (20, 2.0, 20.0)]  # while the start is trained
    write(tmp_path / where, (1, 20, 30))
    assert shown() == [(1, 0.1, 1.0), (20, 2.0, 20.0), (21, 2.1, 1.0), (40, 4.0, 20.0), (50, 5.0, 30.0)]
    write(tmp_path / where / "start", range(1, 1000))
    write(tmp_path / where, range(1, 1000))
    assert len(shown()) <= records.MOST_ROWS + 2 and shown()[-1][0] == 1998
