"""A student that starts from nothing first learns its teacher's estimates, in a share of the run."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.checkpoint import CHECKPOINT
from workbench.distill.measuring import Measure
from workbench.distill.recipes import get
from workbench.distill.start import FOLDER, matching
from workbench.errors import WorkbenchError
from workbench.networks import new_network
from workbench.training.records import losses_of

TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.5]], [0.2, 0.3], labels=[0, 1])
SMALL = {"batch": 32, "network": {"width": 32, "depth": 2}, "warmup": 0}


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """Without the distance to the law, which takes longer than the training here."""
    monkeypatch.setattr(Measure, "_law", lambda self, model: {})


def reports(**options):
    return list(wb.distill(**{"teacher": TEACHER, "recipe": "dmd2", "steps": 10, **SMALL, **options}))


def weights(student):
    return torch.cat([p.flatten() for p in student.net.parameters()])


def error(student):
    """Root mean square distance of a student's estimates to the teacher's, at all times."""
    x0, t = TEACHER.sample(512, seed=5).float(), torch.rand(512, generator=torch.Generator().manual_seed(0)).double()
    x = TEACHER.path.mix(x0, torch.randn(512, 2, generator=torch.Generator().manual_seed(1)), t)
    return float((student(x, t) - TEACHER(x, t)).square().mean().sqrt())


def test_the_start_takes_its_share_of_the_steps_and_counts_as_part_of_the_run(tmp_path):
    seen = reports(matched=0.3, run=tmp_path)
    steps = [progress.step for progress in seen]
    assert steps == sorted(steps) and steps[-1] == 10 and {progress.stage for progress in seen[:-1]} == {"train"}
    assert [progress.student is None for progress in seen] == [True] * (len(seen) - 1) + [False]
    last = [json.loads(line)["step"] for line in (tmp_path / FOLDER / "metrics.jsonl").read_text().splitlines()][-1]
    own = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][-1]
    assert (last, own) == (3, 7)
    assert [row["step"] for row in losses_of(tmp_path)] == [1, 3, 4, 10]
    card = json.loads((tmp_path / "student" / "card.json").read_text())
    assert card["trained"]["steps"] == 10 and card["trained"]["matched"] == 0.3 and card["recipe"] == "dmd2"


def test_student_and_critic_begin_near_the_teacher(tmp_path):
    """With no rate after the start, the student is what the start has made; without one it is what it was built as."""
    still = {"lr": 0.0, "critic_lr": 0.0, "run": tmp_path, "steps": 500}
    student = reports(matched=0.98, **still)[-1].student
    plain = reports(matched=0.0, lr=0.0, critic_lr=0.0, steps=2)[-1].student
    assert error(student) < 0.3 * error(plain)
    from safetensors.torch import load_file

    tensors = load_file(next(tmp_path.glob("checkpoint*.safetensors")))
    critic = {name.split("player.critic.net.")[1]: value for name, value in tensors.items() if "player.critic.net." in name}
    assert critic and all(torch.equal(value, critic[name]) for name, value in student.net.state_dict().items())


def test_a_run_that_was_stopped_in_its_start_goes_on_where_it_was(tmp_path):
    whole = reports(matched=0.5, run=tmp_path / "a")[-1].student
    stopped = wb.distill(TEACHER, "dmd2", steps=10, matched=0.5, run=tmp_path / "b", **SMALL)
    for progress in stopped:
        if progress.step >= 1:
            break
    stopped.close()
    assert not (tmp_path / "b" / "student").exists()
    assert torch.equal(weights(reports(matched=0.5, run=tmp_path / "b")[-1].student), weights(whole))


def test_a_student_of_two_times_starts_with_one_and_gets_the_second(tmp_path):
    student = reports(recipe="tdm", matched=0.5, run=tmp_path)[-1].student
    assert student.two_times and wb.sample(student, 3).shape == (3, 2)


def test_whoever_has_a_network_or_no_data_starts_as_before(tmp_path):
    net = Network(new_network((2,), 2, "flow", "linear", width=32, depth=2), "linear", "flow", (2,), 2)
    list(wb.distill(net, "diff-instruct", steps=2, batch=16, matched=0.5, run=tmp_path / "a"))

    class Exact:
        path, shape, classes = TEACHER.path, (2,), 2
        __call__ = staticmethod(TEACHER)

    list(wb.distill(Exact(), "diff-instruct", steps=2, run=tmp_path / "b", **SMALL))
    reports(matched=0.0, steps=2, run=tmp_path / "c")
    assert not any((tmp_path / name / FOLDER).exists() for name in "abc")
    assert get("dmd2").fitted((2,), True).matched > 0 and get("cd").fitted((2,), True).matched == 0


def test_the_start_has_the_batch_and_the_label_dropout_of_its_recipe():
    made = matching(get("sid").fitted((2,), True).configured(batch=48), (2,))
    assert made.batch == 48 and made.objective.dropout == get("sid").fitted((2,), True).objective.dropout == 0.5


@pytest.mark.parametrize("share", [1.0, -0.1])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(WorkbenchError, match=f"matched is {share}, but is a share of the run, from 0 to below 1"):
        reports(matched=share)


def test_points_of_many_dimensions_have_higher_levels_and_a_longer_start():
    few, many = (get("dmd2").fitted((d,), fresh=True) for d in (2, 64))
    assert many.objective.renoise.mean == pytest.approx(few.objective.renoise.mean + math.log(32**0.5))
    assert (few.matched, many.matched, get("dmd2").fitted((1, 8, 8), fresh=True).matched) == (0.2, 0.5, 0.0)
    assert get("rcm").fitted((64,), fresh=True).matched == 0.0  # which has no start


def test_a_checkpoint_of_an_earlier_version_is_refused_in_a_sentence(tmp_path):
    given = {"data": TEACHER.sample(64, seed=0, labels=True), "run": tmp_path, "steps": 6}
    given |= SMALL | {"fit": 2, "degrade": 3, "matched": 0.0}
    list(wb.distill(TEACHER, "disback", **given))
    file = tmp_path / CHECKPOINT
    with safe_open(file, "pt") as held:
        tensors, facts = {name: held.get_tensor(name) for name in held.keys() if "begin" not in name}, held.metadata()  # noqa: SIM118
    save_file(tensors, file, facts)
    with pytest.raises(WorkbenchError, match=r"does not hold what this recipe has now .*new run folder"):
        list(wb.distill(TEACHER, "disback", **given))
