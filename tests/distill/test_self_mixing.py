"""MeanFlow's guided velocity with the student's own conditional answer in it (MeanFlow, eq. 20; MP1)."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.denoiser import Guided, Network
from workbench.distill.loop import step_rng
from workbench.distill.objectives.targets import Eulerian, Point, SelfMixed
from workbench.errors import WorkbenchError
from workbench.paths import linear

F64 = torch.float64
LAW = wb.mixture([[1.0], [-1.0]], [0.3, 0.3], labels=[0, 1])


def bent(x, t, cond=None, s=None):
    shift = 0.0 if cond is None else 0.3 * cond[:, None].to(x)
    return torch.sin(x + shift) * (1 + t[:, None])


STUDENT = Network(bent, "linear", "flow", (1,), 2, two_times=True)


def point(n=64, end=None, labelled=True):
    rng = step_rng(0, 1)
    x0, cond = LAW.sample(n, seed=3, labels=True)
    eps = torch.randn(n, 1, generator=rng, dtype=F64)
    t = 0.2 + 0.7 * torch.rand(n, generator=rng, dtype=F64)
    s = t * torch.rand(n, generator=rng, dtype=F64) if end is None else t
    return Point(linear.mix(x0, eps, t), t, s, cond if labelled else None, x0, None, eps, 1.0)


def test_without_guidance_nothing_is_mixed_in():
    p = point()
    for teacher in (LAW, Guided(LAW, 1.0)):
        assert torch.allclose(SelfMixed()(teacher, STUDENT, p), Eulerian("data")(LAW, STUDENT, p), atol=1e-12)


def test_no_share_of_the_conditional_answer_is_plain_guidance():
    p = point()
    for guided in (Guided(LAW, 2.0), Guided(LAW, torch.linspace(1, 3, 64))):
        assert torch.allclose(SelfMixed(kappa=0.0)(guided, STUDENT, p), Eulerian("data")(guided, STUDENT, p), atol=1e-12)
    dropped = p._replace(cond=torch.full_like(p.cond, -1))
    assert torch.allclose(
        SelfMixed(kappa=0.5)(Guided(LAW, 2.0), STUDENT, dropped), Eulerian("data")(LAW, STUDENT, dropped), atol=1e-12
    )


def test_the_mix_is_of_the_datas_velocity():
    with pytest.raises(WorkbenchError, match="source is 'teacher', but the mix is of the data's velocity"):
        SelfMixed("teacher")


@pytest.mark.parametrize("labelled", [True, False])
def test_the_policys_mix_has_the_same_fixed_point_twice_as_stiff(labelled):
    """At s = t the target is u + w (V - u): no guidance moves the mean, only the pull towards it is w times as strong."""
    p = point(end="t", labelled=labelled)
    asked = {w: SelfMixed()(Guided(LAW, w), STUDENT, p) for w in (1.0, 2.0)}
    own = STUDENT(p.x, p.t, p.cond, p.t)
    assert torch.allclose(asked[2.0] - own, 2 * (asked[1.0] - own), atol=1e-9)
