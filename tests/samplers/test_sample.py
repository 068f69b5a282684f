"""`wb.sample`: what a person asks for in one call, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.samplers.run import initial_noise
from workbench.samplers.sample import Sampling, default_sampling, prepare
from workbench.teachers.mixture import ANALYTIC

TEACHER = ANALYTIC["eight_gaussians"]()


def test_defaults() -> None:
    x = wb.sample(TEACHER, 16)
    assert x.shape == (16, 2) and x.dtype == torch.float64 and torch.isfinite(x).all()
    plan = wb.plan("heun", "linear", 25)
    *_, last = wb.run(plan, TEACHER, initial_noise(16, (2,), 0, torch.float64))
    assert torch.equal(x, last.x) and default_sampling(TEACHER) == Sampling()
    assert torch.equal(x, wb.sample(TEACHER, 16)) and not torch.equal(x, wb.sample(TEACHER, 16, seed=1))


def test_samples_look_like_the_data() -> None:
    x = wb.sample(TEACHER, 256)
    assert float((x.norm(dim=1) - 1).abs().max()) < 0.6
    assert float(TEACHER.log_density(x).mean()) == pytest.approx(
        float(TEACHER.log_density(TEACHER.sample(256)).mean()), abs=0.35
    )


def test_a_label_and_labels() -> None:
    one = wb.sample(TEACHER, 12, cond=3, steps=8)
    assert (one - TEACHER.means[3]).norm(dim=1).max() < 0.6
    assert torch.equal(one, wb.sample(TEACHER, 12, cond=[3] * 12, steps=8))
    mixed = torch.arange(12) % 8
    each = wb.sample(TEACHER, 12, cond=mixed, steps=8)
    assert (each - TEACHER.means[mixed]).norm(dim=1).max() < 0.6
    assert torch.equal(each[3], one[3])
    assert torch.equal(wb.sample(TEACHER, 4, cond=-1, steps=8), wb.sample(TEACHER, 4, steps=8))


@pytest.mark.parametrize(("sampler", "options"), [("heun", {}), ("consistency", {}), ("ddim", {"eta": 1.0})])
def test_batch_size_and_count_do_not_matter(sampler: str, options: dict) -> None:
    labels = torch.arange(21) % 8
    whole = wb.sample(TEACHER, 21, cond=labels, steps=4, sampler=sampler, seed=5, **options)
    for batch in (1, 4, 8, 20):
        parts = wb.sample(TEACHER, 21, cond=labels, steps=4, sampler=sampler, seed=5, batch=batch, **options)
        assert torch.allclose(parts, whole, rtol=0, atol=1e-14)
    assert torch.allclose(
        wb.sample(TEACHER, 5, cond=labels[:5], steps=4, sampler=sampler, seed=5, **options), whole[:5], atol=1e-14
    )


def test_guidance() -> None:
    student = Student()
    wb.sample(student, 4, cond=1, steps=5, sampler="ddim", guidance=3.0)
    assert [rows for _, rows in student.seen] == [8] * 5  # both branches in one call
    assert torch.equal(wb.sample(TEACHER, 4, cond=1, steps=5, guidance=1.0), wb.sample(TEACHER, 4, cond=1, steps=5))
    assert not torch.equal(wb.sample(TEACHER, 4, cond=1, steps=5, guidance=3.0), wb.sample(TEACHER, 4, cond=1, steps=5))
    assert torch.equal(wb.sample(TEACHER, 4, cond=1, steps=5, guidance=0.0), wb.sample(TEACHER, 4, steps=5))


class Student:
    """A model that carries its own instructions."""

    path, shape, classes, dtype = wb.paths.linear, (2,), 8, torch.float32
    sampling = Sampling("consistency", 2, guidance=2.0, times={"2": [1.0, 0.4, 0.0]})

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    def __call__(self, x: Tensor, t: float, cond: Tensor | None = None) -> Tensor:
        self.seen.append((t, len(x)))
        return TEACHER(x, t, cond)


def test_a_students_own_plan_is_the_default() -> None:
    student = Student()
    assert wb.sample(student, 3, cond=0).dtype == torch.float32
    assert student.seen == [(1.0, 6), (0.4, 6)]  # its times, its guidance
    student.seen.clear()
    wb.sample(student, 3, cond=0, steps=4, guidance=1)
    assert student.seen == [(1.0, 3), (0.75, 3), (0.5, 3), (0.25, 3)]
    student.seen.clear()
    wb.sample(student, 3, sampler="ddim", schedule=[1.0, 0.7, 0.0])
    assert student.seen == [(1.0, 3), (0.7, 3)]


def test_thresholding() -> None:
    with pytest.raises(
        WorkbenchError, match=r"thresholding acts on the model's estimate.*workbench\.Thresholded\(model, 'dynamic'\)"
    ):
        wb.plan("dpmpp_2m", "linear", 4, thresholding="dynamic")
    plan = wb.plan("dpmpp_2m", "linear", 5)
    *_, last = wb.run(plan, wb.Thresholded(TEACHER, "dynamic"), initial_noise(8, (2,), 0, torch.float64))
    assert torch.equal(last.x, wb.sample(TEACHER, 8, steps=5, sampler="dpmpp_2m", thresholding="dynamic"))
    assert wb.sample(TEACHER, 8, steps=5, thresholding="clip").abs().max() <= 1
    assert prepare(TEACHER, thresholding="dynamic").mode == "dynamic"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"n": 2.5}, "n is 2.5"),
        ({"n": 10**9}, "n is 1000000000"),
        ({"batch": 0}, "batch is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"cond": 8}, "class 8 does not exist: this model knows 0 to 7"),
        ({"cond": -2}, "class -2 does not exist"),
        ({"cond": [0, 1]}, "3 samples need one label or 3 labels"),
        ({"cond": torch.zeros(3, 2, dtype=torch.long)}, "3 samples need one label"),
        ({"cond": 0.5}, "labels are whole numbers"),
        ({"cond": "cat"}, "must be a label"),
        ({"sampler": "eular"}, "did you mean 'euler'"),
        ({"schedule": "karas"}, "did you mean 'karras'"),
        ({"guidance": "much"}, "guidance is 'much'"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": 1e6}, "from -50 to 50"),
        ({"thresholding": "clipp"}, "did you mean 'clip'"),
        ({"etta": 1.0, "sampler": "ddim"}, "did you mean 'eta'"),
    ],
)
def test_bad_input(options: dict, message: str) -> None:
    with pytest.raises(WorkbenchError, match=message):
        wb.sample(TEACHER, **{"n": 3, **options})


def test_models_that_cannot_be_sampled() -> None:
    with pytest.raises(WorkbenchError, match="no classes: leave cond out"):
        wb.sample(wb.mixture([[0.0, 1.0]], [0.1]), 3, cond=0)
    with pytest.raises(WorkbenchError, match=r"no \.path"):
        wb.sample(lambda x, t, cond: x, 3)

    def shapeless(x: Tensor, t: float, cond: object = None) -> Tensor:
        return x

    shapeless.path = wb.paths.linear
    with pytest.raises(WorkbenchError, match=r"no \.shape"):
        wb.sample(shapeless, 3)


def test_a_card_can_rule_samplers_out() -> None:
    sampling = Sampling("consistency", 1, only=["consistency", "lcm"])
    assert sampling.plan("linear", 2).sampler == "consistency" and sampling.plan("linear", 2, "lcm").sampler == "lcm"
    with pytest.raises(WorkbenchError, match="allows the samplers consistency, lcm only, not heun"):
        sampling.plan("linear", 2, "heun")
