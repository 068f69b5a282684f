"""Several students: each learns its classes, failures are kept apart, and the whole is one model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import torch

import workbench as wb
from workbench.distill.checkpoint import CHECKPOINT
from workbench.distill.distill import distill
from workbench.distill.measuring import Measure, trained_labels
from workbench.distill.recipes import get
from workbench.errors import UnknownName, WorkbenchError
from workbench.networks import new_network
from workbench.routed import Router, own_labels, parts_of
from workbench.samplers.sample import Sampling

LAW = Measure._law
TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [0.2] * 4, labels=[0, 1, 2, 3])
SMALL = {"steps": 4, "batch": 16, "host": "consistency", "students": 2, "network": {"width": 16, "depth": 1}}


def last(**options):
    return list(distill(TEACHER, "msd", **{**SMALL, **options}))[-1]


def weights(model):
    return torch.cat([p.flatten() for p in model.net.parameters()])


@pytest.fixture(scope="module", autouse=True)
def unmeasured():
    """Without the distance to the law, which takes longer than the training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Measure, "_law", lambda self, model: {})
        yield


@pytest.fixture(scope="module")
def made(unmeasured, tmp_path_factory):
    folder = tmp_path_factory.mktemp("msd")
    return folder, last(run=folder)


def test_every_class_has_one_student():
    for classes, count in ((8, 4), (10, 4), (3, 3), (5, 1)):
        assert sorted(label for part in parts_of(classes, count) for label in part) == list(range(classes))


def test_each_row_is_answered_by_the_student_of_its_label():
    nets = [new_network((2,), 4, "flow", "linear", seed, width=16, depth=1) for seed in (1, 2)]
    for net in nets:
        torch.nn.init.normal_(net.head.weight)
    router, x, t = Router(nets, [[0, 1], [2, 3]]), torch.randn(4, 2), torch.full((4,), 0.7)
    cond = torch.tensor([3, 0, 1, 2])
    found, answers = router(x, t, cond), [net(x, t, cond) for net in nets]
    for row, k in enumerate((1, 0, 0, 1)):
        assert torch.allclose(found[row], answers[k][row], atol=1e-6)
    assert torch.equal(router(x, t), router(x, t, own_labels(4, 4)))


def test_the_model_is_saved_loaded_and_compared_as_one(made):
    folder, progress = made
    model = wb.load(folder / "student")
    cond = [0, 1, 2, 3, -1]
    assert progress.stage == "done" and model.card["recipe"] == "msd" and model.classes_of == [[0, 1], [2, 3]]
    assert torch.equal(wb.sample(model, 5, cond), wb.sample(progress.student, 5, cond))
    assert wb.sample(model, 3).shape == (3, 2) and model.card["figures"]["paired_rms"] > 0
    table = wb.compare([TEACHER, model], n=8).table
    assert len(table) == 2


def test_one_student_is_its_host(tmp_path):
    options = {"steps": 3, "batch": 16, "network": {"width": 16, "depth": 1}}
    one = list(distill(TEACHER, "msd", students=1, host="consistency", matched=0.0, run=tmp_path / "a", **options))[-1]
    host = list(distill(TEACHER, "consistency", run=tmp_path / "b", **options))[-1]
    assert torch.equal(weights(one.student), weights(host.student))
    assert torch.equal(wb.sample(one.student, 4), wb.sample(host.student, 4))


def test_processes_of_a_launcher_train_the_same_students(made, tmp_path, monkeypatch):
    """Two ranks one after the other: the second finds what the first has left."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")

    class Waits(Exception):
        """Rank 1 is done with its own student, and waits for the other."""

    def waits(seconds):
        raise Waits

    with monkeypatch.context() as patch, pytest.raises(Waits):
        patch.setattr("workbench.distill.several.time.sleep", waits)
        list(distill(TEACHER, "msd", run=tmp_path, **SMALL))
    assert not (tmp_path / "student-0").exists()
    monkeypatch.setenv("RANK", "0")
    both = list(distill(TEACHER, "msd", run=tmp_path, **SMALL))[-1].student
    assert not (made[0] / "student-0" / "failed.json").exists() and torch.equal(weights(both), weights(made[1].student))
    with pytest.raises(WorkbenchError, match="give run="):
        distill(TEACHER, "msd", **SMALL)


def test_options_are_those_of_the_host_with_its_defaults_for_points():
    """dmd2's levels have a mean for points alone; what is refused here is the number of steps."""
    with pytest.raises(WorkbenchError, match="steps is 0"):
        distill(TEACHER, "msd", mean=0.0, steps=0)
    with pytest.raises(UnknownName, match="maen"):
        distill(TEACHER, "msd", maen=0.0, steps=0)


def test_a_student_that_fails_does_not_lose_the_others(made, tmp_path):
    (tmp_path / "student-0").mkdir()
    (tmp_path / "student-0" / "config.json").write_text(json.dumps({"recipe": "another"}))
    with pytest.raises(WorkbenchError, match=r"1 of 2 students failed \(student 0 of classes 0 to 1: .*others are kept"):
        last(run=tmp_path)
    assert (tmp_path / "student-1" / "student" / "card.json").exists() and not (tmp_path / "student").exists()
    (tmp_path / "student-0" / "config.json").unlink()
    assert torch.equal(weights(last(run=tmp_path).student), weights(made[1].student))


def test_students_in_processes_are_those_of_one_and_tell_how_far_they_are(made, tmp_path):
    reports = list(distill(TEACHER, "msd", run=tmp_path, jobs=2, **SMALL))
    assert torch.equal(weights(reports[-1].student), weights(made[1].student))
    told = [report for report in reports if report.stage == "students 2/2"]
    assert told and told[-1].step == 4 and {"0/student", "1/student"} <= set(told[-1].losses)


def test_students_in_processes_that_are_left_keep_what_they_have_done(tmp_path):
    run = distill(TEACHER, "msd", run=tmp_path, jobs=2, **SMALL | {"steps": 10**6})
    assert next(report for report in run if {"0/student", "1/student"} <= set(report.losses)).stage == "students 0/2"
    run.close()
    assert all(list((tmp_path / f"student-{k}").rglob(CHECKPOINT)) for k in (0, 1))  # of its start


def test_a_process_that_is_killed_is_named_and_the_other_student_kept(tmp_path, monkeypatch):
    started, popen = [], subprocess.Popen

    def watched(*args, **more):
        started.append(popen(*args, **more))
        if len(started) == 1:
            started[0].send_signal(signal.SIGKILL)
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", watched)
    with pytest.raises(WorkbenchError, match=r"1 of 2 students failed \(student 0 .*process ended with -9"):
        list(distill(TEACHER, "msd", run=tmp_path, jobs=2, **SMALL))
    assert (tmp_path / "student-1" / "student" / "card.json").exists()


RANK = f"""
import torch, workbench as wb
teacher = wb.mixture([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [0.2] * 4, labels=[0, 1, 2, 3])
for run in ("first", "second"):
    print(list(wb.distill(teacher, "msd", run=run, **{SMALL}))[-1].stage)
"""


@pytest.mark.parametrize("launcher", ["torchrun", "environment"])
def test_ranks_wait_for_each_other_before_they_read_what_an_earlier_launch_left(tmp_path, launcher):
    """Rank 1 failed yesterday; today rank 0 is first and must not take that for news. Both train two sets, one after the other."""
    (tmp_path / "first" / "student-1").mkdir(parents=True)
    (tmp_path / "first" / "student-1" / "failed.json").write_text(json.dumps({"reason": "yesterday"}))
    (tmp_path / "rank.py").write_text(RANK)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = os.environ | {"OMP_NUM_THREADS": "1"}
    if launcher == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}", "rank.py"]
        made = [subprocess.Popen(words, cwd=tmp_path, env=shared, stdout=subprocess.PIPE, text=True)]
    else:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        words = [sys.executable, "rank.py"]
        made = [
            subprocess.Popen(words, cwd=tmp_path, env=shared | {"RANK": str(k)}, stdout=subprocess.PIPE, text=True)
            for k in (0, 1)
        ]
    said = "".join(one.communicate(timeout=180)[0] for one in made)
    assert [one.returncode for one in made] == [0] * len(made) and said.split() == ["done"] * 4


@pytest.mark.parametrize(
    ("recipe", "options", "data", "labels"),
    [
        ("cd", {}, (torch.zeros(3, 2), torch.tensor([0, 1, 2])), None),  # asked with and without
        ("cd", {"dropout": 0.0}, (torch.zeros(3, 2), torch.tensor([0.0, 1.0, 2.0])), [0, 1, 2]),
        ("cd", {}, (torch.zeros(2, 2), torch.tensor([2, 1])), [1, 2]),
        ("cd", {"dropout": 0.0}, torch.zeros(3, 2), None),  # never with a label
        ("dmd2", {"dropout": 0.0}, torch.zeros(3, 2), [0, 1, 2]),  # which draws labels
        ("dmd2", {"dropout": 0.0}, None, [0, 1, 2]),
    ],
)
def test_the_labels_that_a_student_is_trained_for(recipe, options, data, labels):
    assert trained_labels(get(recipe).configured(**options).objective, data, 3) == labels


def test_a_student_is_measured_on_the_classes_that_it_is_trained_for():
    """It knows the teacher's answers for the labels 0 and 1 alone, and has collapsed for any other, or without a label."""

    class Half:
        path, shape, classes, sampling = TEACHER.path, TEACHER.shape, TEACHER.classes, Sampling("ddim", 20)

        def __call__(self, x, t, cond=None, **more):
            known = torch.full((len(x),), -1) if cond is None else torch.as_tensor(cond).expand(len(x))
            mine = ((known == 0) | (known == 1))[:, None]
            return torch.where(mine, TEACHER(x, t, known.clamp(0, 1)), torch.zeros(2, dtype=x.dtype))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Measure, "_law", LAW)
        whole, half = (Measure(TEACHER, Half.sampling, 0, 1.0, labels=labels) for labels in (None, [0, 1]))
        figures = {name: one(Half(), always=True) for name, one in (("whole", whole), ("half", half))}
    assert figures["whole"]["coverage"] < 0.1 and figures["whole"]["variance"] < 0.1
    assert figures["half"]["coverage"] > 0.9 and 0.5 < figures["half"]["variance"] < 1.2
    assert figures["half"]["sw2"] < 3 * figures["half"]["sw2_floor"] < figures["whole"]["sw2"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": "vp"}, "differ in path"),
        ({"path": None, "name": None}, "differ in path"),
        ({"classes": 10**9}, "each class to one student"),
        ({"students": 5}, "is damaged"),
        ({"students": [{"folder": "part-0"}]}, "is damaged"),
        ({"class_names": 5}, "is damaged"),
    ],
)
def test_a_damaged_card_of_several_is_named(made, tmp_path, changes, said):
    shutil.copytree(made[0] / "student", tmp_path / "student")
    card = json.loads((tmp_path / "student" / "card.json").read_text())
    (tmp_path / "student" / "card.json").write_text(json.dumps(card | changes))
    with pytest.raises(WorkbenchError, match=said):
        wb.load(tmp_path / "student")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"students": 5}, "this teacher has 4: set students to fewer"),
        ({"students": 0}, "students is 0"),
        ({"host": "msd"}, "cannot be its own host"),
        ({"data": torch.zeros(8, 2)}, "have no labels"),
        ({"data": (torch.zeros(8, 2), torch.zeros(8).long())}, r"none of the classes \[2, 3\]"),
        ({"matched": 1.0}, "matched is 1.0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_impossible_requests_are_refused_at_the_call(options, said):
    with pytest.raises(WorkbenchError, match=said):
        distill(TEACHER, "msd", **{**SMALL, **options})


def test_other_options_are_the_hosts():
    with pytest.raises(UnknownName, match="option of recipe 'consistency'"):
        distill(TEACHER, "msd", **SMALL, wrong=1)
    assert get("msd").configured(students=2).objective.students == 2
