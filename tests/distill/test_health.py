"""Health of a run: calibration that is read right, norms of every player, and a collapse that is said while it happens."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import workbench as wb
from workbench import views
from workbench.distill.health import PEAKS, Watch, spread
from workbench.distill.loop import Optim
from workbench.distill.objectives.judging import reliability
from workbench.distill.recipe import Recipe
from workbench.samplers.sample import Sampling


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_exact_log_ratio_is_calibrated_and_twice_it_is_not(share):
    """x ~ N(1, 1) real, N(-1, 1) generated: log q / p = 2 x, whatever the numbers of samples."""
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(20_000, generator=rng) + 1, torch.randn(int(20_000 * share), generator=rng) - 1
    rows = [
        {f"critic/{key}": float(value) for key, value in reliability(scale * real, scale * fake).items()}
        for scale in (2.0, 6.0)
    ]
    for k in range(10):  # standard errors are below 0.02 in the least held tenth
        assert k / 10 - 0.08 < rows[0][f"critic/calibration/{k}"] < (k + 1) / 10 + 0.08
    assert sum(rows[0][f"critic/share/{k}"] for k in range(10)) == pytest.approx(1)
    good, bad = (views.calibration_error([row]) for row in rows)
    assert good < 0.04 and bad > 0.06


def test_the_spread_is_within_classes_and_coverage_is_of_the_teachers_samples():
    rng = torch.Generator().manual_seed(0)
    cond, x = torch.arange(64) % 4, torch.randn(64, 2, generator=rng)
    centres = 10 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])[cond]
    collapsed = centres + 0.1 * x  # each class to a point: nothing that the variance over all would see
    assert spread(collapsed, centres + x, cond)["variance"] == pytest.approx(0.01, rel=1e-5)
    assert spread(collapsed, centres + x)["variance"] > 0.9
    half = torch.where((cond < 2)[:, None], centres + x, centres[:1] + x)
    assert spread(half, centres + x, cond)["coverage"] <= 0.5


def test_a_fall_is_told_with_its_peak_also_after_a_resumption(tmp_path):
    first = Watch(tmp_path)
    assert first({"variance": 0.05, "coverage": 0.1}, 1, 0.0) == ""  # as a student that starts as its teacher
    assert first({"variance": 1.3, "coverage": 0.96}, 100, 0.2) == ""
    assert json.loads((tmp_path / PEAKS).read_text())["variance"] == [1.0, 100]
    again = Watch(tmp_path)
    said = again({"variance": 1.0, "coverage": 0.5}, 200, 0.4)
    assert said.startswith(
        "The student is collapsing: its samples have a sample near 50% of its teacher's samples (96% at step 100)"
    )
    assert again({"variance": 1.0, "coverage": 0.9}, 300, 0.6) == ""
    earlier = Watch(tmp_path)  # resumed from a checkpoint before the peak, which is still to come
    assert earlier({"variance": 0.3, "coverage": 0.5}, 60, 0.1) == ""
    assert json.loads((tmp_path / PEAKS).read_text())["coverage"] == [0.5, 60]
    assert "has not spread: its samples have 10% of its teacher's variance after 60% of the run" in Watch()(
        {"variance": 0.1, "coverage": 0.9}, 300, 0.6
    )


def test_every_player_reports_its_gradient_and_a_discriminator_its_calibration(tmp_path):
    teacher = wb.load("eight_gaussians")
    small, steps = {"network": {"width": 16, "depth": 1}, "batch": 32, "warmup": 1}, []
    for progress in wb.distill(teacher, "f-distill", steps=3, run=tmp_path, report_seconds=0.0, **small):
        steps.append(progress.step)
    assert steps == [1, 2, 3, 3]
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][-1]
    assert {"student/grad_norm", "critic/grad_norm", "student/gap", "student/ratio_ess"} <= set(progress.losses) & set(logged)
    for part in ("student/gap", "critic/loss", "student/ratio", "critic/calibration", "critic/share"):
        assert any(key.startswith(f"{part}/") for key in logged), part
    assert set(views.health([logged])) == {"gradients", "gap", "critic", "calibration", "weights", "ratio"}
    assert {"variance", "coverage", "sw2"} <= set(progress.metrics)


@dataclass(frozen=True)
class ToZero:
    """An objective that ends in one picture."""

    needs_data: ClassVar[bool] = False
    guidance: ClassVar[None] = None

    def bind(self, teacher, student):
        bound = Shrinking()
        bound.student, bound.players = student, {"student": student.net}
        return bound


class Shrinking:
    product = "student"

    def turn(self, step):
        return ("student",)

    def loss(self, player, batch, rng):
        x = self.student(torch.randn(batch.size, *self.student.shape, generator=rng), 1.0, torch.arange(batch.size) % 10)
        return x.square().mean(), {}


def test_a_collapse_is_said_while_it_happens(monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["workbench.distill.measuring"], "METRIC_SECONDS", 0.0)
    recipe = Recipe(
        "to-zero",
        "none",
        "All pictures become one.",
        ToZero(),
        Sampling("flow_map", 1),
        {"student": Optim(lr=3e-3, warmup=1)},
        batch=20,
        ema=0.5,
    )
    teacher, student = wb.load("digits/teacher"), wb.load("digits/reflow")
    reports = []

    def watched():
        for progress in wb.distill(teacher, recipe, steps=60, init=student):
            reports.append((progress.stage, progress.warning))
            yield progress

    from workbench.cli import training

    training._plain(watched(), "to-zero")
    assert reports[0][1] == "" and any(stage == "train" and "collapsing" in warning for stage, warning in reports)
    assert "Warning, step" in capsys.readouterr().err
