"""The loop: resuming gives the same result, also after SIGKILL; a run folder belongs to one run; divergence stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import workbench as wb
from workbench.distill.checkpoint import CHECKPOINT, CONFIG, HISTORY
from workbench.distill.loop import Optim, sound
from workbench.errors import Diverged, WorkbenchError

TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2])


def finish(run: Path, recipe: str = "reflow", **options):
    options = {"steps": 24, "batch": 16, **({"count": 64} if recipe == "reflow" else {}), **options}
    *_, last = wb.distill(TEACHER, recipe, run=run, **options)
    return last


def weights(model) -> list[torch.Tensor]:
    return list(model.net.state_dict().values())


@pytest.mark.parametrize("recipe", ["reflow", "consistency", "dmd2"])
def test_an_interrupted_run_ends_where_an_unbroken_one_does(tmp_path, recipe):
    own = {"reflow": {"count": 64}, "dmd2": {"warmup": 4, "matched": 0.0}}  # a run of two folders: see test_start
    options = {"steps": 50, "batch": 16, **own.get(recipe, {})}
    whole = finish(tmp_path / "whole", recipe, **options).student
    run = tmp_path / "broken"
    for progress in wb.distill(TEACHER, recipe, run=run, **options):
        if progress.step >= 20:
            break  # what is done is kept
    again = finish(run, recipe, **options)
    assert again.step == 50
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again.student), strict=True))
    steps = [json.loads(line)["step"] for line in (run / HISTORY).read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 50


def test_kill_and_resume(tmp_path):
    """A real SIGKILL, at whatever moment it hits, changes nothing in the result."""
    whole = finish(tmp_path / "whole", steps=400).student
    run = tmp_path / "killed"
    code = (
        "import sys, workbench as wb\n"
        "from workbench.distill import loop\n"
        "loop.train.__kwdefaults__['checkpoint_seconds'] = 0.05\n"
        "teacher = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2])\n"
        "for progress in wb.distill(teacher, 'reflow', run=sys.argv[1], steps=400, count=64, batch=16): pass\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(run)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (run / CHECKPOINT).exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    time.sleep(0.15)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (run / CHECKPOINT).exists()
    again = finish(run, steps=400)
    assert all(torch.allclose(a, b, rtol=0, atol=0) for a, b in zip(weights(whole), weights(again.student), strict=True))


def test_a_run_killed_before_its_first_checkpoint_writes_its_history_anew(tmp_path):
    finish(tmp_path / "whole", "consistency")
    run = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", run, ignore=shutil.ignore_patterns(CHECKPOINT, "student"))
    finish(run, "consistency")
    steps = [json.loads(line)["step"] for line in (run / HISTORY).read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 24


def test_a_run_folder_holds_everything(tmp_path):
    progress = finish(tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {CONFIG, HISTORY, CHECKPOINT, "student", "pairs"} <= names
    assert wb.load(tmp_path / "run" / "student").card["recipe"] == "reflow"
    assert progress.samples(5).shape == (5, 2) and progress.metrics["sw2_floor"] > 0
    before = (tmp_path / "run" / HISTORY).read_text()
    assert finish(tmp_path / "run").step == 24 and (tmp_path / "run" / HISTORY).read_text() == before  # nothing left to do


def test_another_runs_folder_is_refused(tmp_path):
    finish(tmp_path / "run")
    with pytest.raises(WorkbenchError, match=r"holds a run with recipe = 'reflow', not 'consistency'"):
        list(wb.distill(TEACHER, "consistency", run=tmp_path / "run", steps=24))


def test_divergence_at_the_first_step_says_that_nothing_was_learned(tmp_path):
    bad = torch.full((64, 2), 1e30)
    with pytest.raises(Diverged, match=r"diverged at step 0.*Nothing was learned before it"):
        list(wb.distill(TEACHER, "consistency", data=bad, run=tmp_path / "run", steps=50))
    assert (tmp_path / "run" / CONFIG).exists() and not (tmp_path / "run" / "student").exists()


def test_divergence_before_the_first_checkpoint_keeps_the_last_finite_weights(tmp_path, monkeypatch):
    calls = []

    def mad(self, x, t, cond=None):
        calls.append(t)
        return x * (float("nan") if len(calls) > 12 else 0.5)

    teacher = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2])
    monkeypatch.setattr(type(teacher), "__call__", mad)
    monkeypatch.setattr(sys.modules["workbench.distill.measuring"].Measure, "__call__", lambda *_, **__: {})
    with pytest.raises(Diverged, match=r"diverged at step [1-9].*is the last good state"):
        list(wb.distill(teacher, "consistency", torch.zeros(8, 2), run=tmp_path / "run", steps=50, batch=8))
    tensors = load_file(tmp_path / "run" / CHECKPOINT)
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())


def test_a_damaged_checkpoint_is_named(tmp_path):
    finish(tmp_path / "run")
    (tmp_path / "run" / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(WorkbenchError, match="is damaged"):
        finish(tmp_path / "run")


def test_time_limits_the_run(tmp_path):
    progress = finish(tmp_path / "run", steps=None, seconds=0.5)
    steps = [json.loads(line)["seconds"] for line in (tmp_path / "run" / HISTORY).read_text().splitlines()]
    assert progress.seconds >= 0.5 and progress.student is not None and all(one < 0.5 for one in steps[:-1])


def test_rates():
    optim = Optim(lr=1.0, warmup=10, decay=0.5)
    assert optim.rate(0, 0.0) == pytest.approx(0.1) and optim.rate(20, 0.4) == pytest.approx(1.0)
    assert optim.rate(90, 0.75) == pytest.approx(0.5) and optim.rate(100, 1.0) == pytest.approx(0.0)


def test_one_step_reflow_learns_the_gaussian_flow_map(tmp_path):
    """One mode: the flow is the straight map x0 = mean + scale eps, which one step must reproduce (n = 512, seed 0)."""
    teacher = wb.mixture([[0.5, -0.3]], [0.4])
    *_, progress = wb.distill(teacher, "reflow", run=tmp_path, steps=400, count=2048)
    noise = torch.randn(512, 2, generator=torch.Generator().manual_seed(1))
    (final,) = [frame.x for frame in wb.run(progress.student.plan(), progress.student, noise) if frame.t == 0]
    exact = torch.tensor([0.5, -0.3]) + 0.4 * noise
    assert float((final - exact).square().mean().sqrt()) < 0.05


def test_a_run_that_is_left_in_a_diverged_state_writes_no_checkpoint_of_it(tmp_path, monkeypatch):
    for whole in (True, False):
        monkeypatch.setattr("workbench.distill.loop.sound", lambda players, whole=whole: whole)
        training = wb.distill(TEACHER, "consistency", run=tmp_path / str(whole), steps=40, batch=16)
        next(training)
        training.close()
        assert (tmp_path / str(whole) / CHECKPOINT).exists() is whole


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e9])
def test_a_weight_that_no_training_means_is_not_sound(value):
    net = torch.nn.Linear(2, 2)
    assert sound([net])
    torch.nn.init.constant_(net.bias, value)
    assert not sound([net])
