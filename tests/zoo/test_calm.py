"""A slow clock: the same answers, a small derivative in time."""

from __future__ import annotations

import torch

import workbench as wb
from workbench.zoo.calm import calmed


def slope(model) -> float:
    """Root mean square derivative of the time embedding, by differences of 1e-3."""
    with torch.no_grad():
        e = model.net.time(torch.linspace(0, 1, 1001))
    return float((e.diff(dim=0) * 1000).square().mean().sqrt())


def test_a_calmed_network_keeps_its_answers_and_loses_its_frequencies():
    teacher = wb.load("digits/teacher")
    made = calmed(teacher, 16.0, steps=300)
    rng = torch.Generator().manual_seed(0)
    x, t, cond = torch.randn(64, 1, 8, 8, generator=rng), torch.rand(64, generator=rng), torch.arange(64) % 10
    with torch.no_grad():
        was, now = teacher.net(x, t, cond), made.net(x, t, cond)
    assert (now - was).square().mean() < 0.01 * was.square().mean()
    assert slope(made) < 0.6 * slope(teacher)
    assert made.net.config.frequency == 16.0 and float(made.net.time.frequencies.max()) < 16.1
    assert teacher.net.config.frequency == 256.0 and made.net is not teacher.net


def test_a_calmed_network_depends_on_its_seed_alone():
    teacher = wb.load("digits/teacher")
    torch.manual_seed(1)
    first = calmed(teacher, steps=2)
    torch.manual_seed(2)
    second = calmed(teacher, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(first.net.parameters(), second.net.parameters(), strict=True))
