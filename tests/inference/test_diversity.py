"""Diversity distillation: who runs which stage, the two ends bit for bit, and a collapsed student that a teacher opens again."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.inference import diversity_against_k, diversity_plan
from workbench.metrics.vendi import vendi_score
from workbench.samplers.sample import Sampling

TEACHER = wb.load("eight_gaussians")
NOISE = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def collapsed(steps: int = 8) -> wb.mixture:
    student = wb.mixture(TEACHER.means, TEACHER.spectrum[:, 0].sqrt(), weights=[0.93] + [0.01] * 7)
    student.sampling = Sampling("ddim", steps)
    return student


def final(plan, models):
    *_, last = wb.run(plan, models, NOISE)
    return last


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m", "consistency"])
def test_a_student_that_is_the_teacher_changes_nothing(sampler):
    base = final(wb.plan(sampler, "linear", 5), TEACHER)
    for k in range(6):
        plan = diversity_plan(TEACHER, TEACHER, k, 5, sampler=sampler)
        mixed = final(plan, [TEACHER, TEACHER])
        assert torch.equal(mixed.x, base.x) and mixed.nfe == base.nfe
        # helper points belong to the step that made them
        assert {stage.model for stage in plan.stages if stage.t > plan.times[k]} <= {0}
        assert all(a.model == b.model for a, b in zip(plan.stages, plan.stages[1:], strict=False) if b.inner)
        assert sum(stage.model == 0 and not stage.inner for stage in plan.stages) == k


def test_the_ends_are_the_models_alone():
    student = collapsed()
    plan = wb.plan("ddim", "linear", 8)
    ends = [final(diversity_plan(TEACHER, student, k), [TEACHER, student]).x for k in (0, 8)]
    assert torch.equal(ends[0], final(plan, student).x) and torch.equal(ends[1], final(plan, TEACHER).x)


def test_a_finer_teacher_walks_its_own_grid():
    student = collapsed(4)
    plan = diversity_plan(TEACHER, student, 2, finer=3)
    assert plan.times == pytest.approx([1, 11 / 12, 10 / 12, 9 / 12, 8 / 12, 7 / 12, 6 / 12, 0.25, 0])
    assert [stage.model for stage in plan.stages] == [0] * 12 + [1] * 2  # Heun, the teacher's own, then ddim
    whole = final(diversity_plan(TEACHER, student, 4, finer=3), [TEACHER, student])
    assert torch.allclose(whole.x, final(wb.plan("heun", "linear", 12), TEACHER).x, rtol=0, atol=1e-12)
    assert final(diversity_plan(TEACHER, student, 0, finer=3), [TEACHER, student]).nfe == 4


def test_diversity_of_a_collapsed_student_grows_with_k():
    n = 256
    curve = diversity_against_k(TEACHER, collapsed(), TEACHER.sample(n, 1), TEACHER.sample(n, 2), ks=(0, 2, 4, 6, 8))
    for name in ("coverage", "vendi", "diversity"):
        values = [getattr(point, name) for point in curve.points]
        assert values == sorted(values), name
    distances = [point.distance for point in curve.points]
    assert distances == sorted(distances, reverse=True)
    first, last = curve.points[0], curve.points[-1]
    assert first.coverage < 0.5 * curve.floor.coverage and last.coverage > 0.85 * curve.floor.coverage
    assert {point.nfe for point in curve.points} == {8} and curve.n == n


def test_guidance_of_the_teacher_is_counted():
    student = wb.mixture(TEACHER.means, [0.1] * 8, labels=range(8))
    student.sampling = Sampling("ddim", 4)
    data = TEACHER.sample(32, 1, cond=3), TEACHER.sample(32, 2, cond=3)
    curve = diversity_against_k(TEACHER, student, *data, ks=(0, 1, 3), cond=3, guidance=2.0)
    assert [point.nfe for point in curve.points] == [4, 5, 7]


def test_vendi_score_counts_clusters():
    far = torch.tensor([[0.0], [100.0], [200.0]]).repeat_interleave(5, 0)
    assert vendi_score(far, width=1.0) == pytest.approx(3) and vendi_score(torch.ones(7, 3)) == pytest.approx(1)
    assert vendi_score(torch.arange(6.0)[:, None] * 1e3, width=1.0) == pytest.approx(6)
    with pytest.raises(WorkbenchError, match="width is 0"):
        vendi_score(far, width=0.0)


@pytest.mark.parametrize("k", [-1, 9, 1.5])
def test_impossible_k(k):
    with pytest.raises(WorkbenchError, match=r"teacher's steps.* from 0 to 8"):
        diversity_plan(TEACHER, collapsed(), k)


def test_a_finer_teacher_of_no_steps():
    with pytest.raises(WorkbenchError, match="finer is 0"):
        diversity_plan(TEACHER, collapsed(), 2, finer=0)


def test_no_k_at_all():
    with pytest.raises(WorkbenchError, match="ks is empty"):
        diversity_against_k(TEACHER, collapsed(), TEACHER.sample(8), TEACHER.sample(8), ks=())
