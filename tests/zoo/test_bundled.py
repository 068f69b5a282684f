"""What the bundled models promise, measured again on a few samples, and the cards held to what is measured."""

from __future__ import annotations

import functools
import math

import pytest
import torch

import workbench as wb
from workbench.student import load
from workbench.zoo import BUNDLED
from workbench.zoo.build import BUILDS, StudentBuild

STUDENTS = sorted(name for name, made in BUILDS.items() if isinstance(made, StudentBuild))
N = 200


@functools.cache
def bundled(name: str):
    return load(BUNDLED / name)  # not by name: a model in the user's zoo would come first


def figure(name: str, steps: int, what: str) -> float:
    return bundled(name).card["figures"][str(steps)][what]


@functools.cache
def agreement(name: str, steps: int, n: int = N) -> float:
    """Share of n samples, seed 0, balanced over the classes, that the classifier puts where they were asked for."""
    labels = torch.arange(n) % 10
    drawn = wb.sample(bundled(name), n, labels, steps=steps, seed=0)
    return wb.metrics.class_agreement(wb.metrics.image_logits(name.split("/")[0], drawn), labels)


def test_fashion_teacher_draws_what_it_is_asked_for():
    """n = 100, seed 0, 25 steps with its own guidance; the card's figure is that of n = 1000."""
    assert bundled("fashion/teacher").sampling.steps == 25
    assert agreement("fashion/teacher", 25, 100) >= 0.93
    assert figure("fashion/teacher", 25, "agreement") >= 0.95


def test_digits_teacher_draws_what_it_is_asked_for():
    """n = 200, seed 0, at its own number of steps."""
    steps = bundled("digits/teacher").sampling.steps
    assert agreement("digits/teacher", steps) >= 0.93
    assert figure("digits/teacher", steps, "agreement") >= 0.95


@pytest.mark.parametrize("space", ["digits", "fashion"])
def test_one_step_of_dmd2_is_worth_looking_at(space):
    """n = 200, seed 0, one evaluation: intended class at least nine times in ten, Frechet distance within three times the teacher's."""
    student, teacher = bundled(f"{space}/dmd2"), bundled(f"{space}/teacher")
    assert student.plan().evaluations == 1 and student.sampling.guidance == 1
    assert agreement(f"{space}/dmd2", 1) >= 0.90
    assert figure(f"{space}/dmd2", 1, "agreement") >= 0.90
    assert figure(f"{space}/dmd2", 1, "frechet") <= 3 * figure(f"{space}/teacher", teacher.sampling.steps, "frechet")
    same = ("n", "seed", "reference", "frechet_floor")
    assert [student.card["figures"][key] for key in same] == [teacher.card["figures"][key] for key in same]


def test_the_best_fashion_students_come_near_their_teacher():
    """Cards, n = 1000, seed 0: 1.5 times the teacher's Frechet distance in one step, 1.2 times in two."""
    teacher = figure("fashion/teacher", 25, "frechet")
    students = [name for name in STUDENTS if name.startswith("fashion/")]
    assert min(figure(name, 1, "frechet") for name in students) <= 1.5 * teacher
    assert min(figure(name, 2, "frechet") for name in students) <= 1.2 * teacher


def test_one_step_passes_the_teacher_of_twenty_five():
    """Cards, n = 1000, seed 0: Frechet distance of one evaluation below that of the teacher's fifty, recall within its sampling error."""
    teacher = bundled("fashion/teacher").card["figures"]["25"]
    for name in ("fashion/dmd2", "fashion/f-distill"):
        one = bundled(name).card["figures"]["1"]
        assert one["nfe"] == 1 and one["frechet"] < teacher["frechet"]
        assert one["recall"] >= teacher["recall"] - 2 * math.sqrt(0.25 / 1000)


@pytest.mark.parametrize("name", ["slimflow", "scm", "meanflow", "freeflow", "dmd2", "f-distill", "sid"])
def test_cards_hold_the_curve_of_training(name):
    """Frechet distance in one and two steps at four times or more, in order; the last is that of the card but for bfloat16."""
    card = bundled(f"fashion/{name}").card
    steps = [point["step"] for point in card["curve"]]
    assert len(steps) >= 4 and steps == sorted(steps) and steps[-1] == card["trained"]["steps"]
    for count in (1, 2):
        assert card["curve"][-1][str(count)] == pytest.approx(figure(f"fashion/{name}", count, "frechet"), rel=0.1)


@pytest.mark.parametrize("name", STUDENTS)
def test_cards_are_honest(name):
    """One and four steps measured again, n = 200 of the card's own samples: within four standard errors of the card."""
    for steps in (1, 4):
        promised = figure(name, steps, "agreement")
        room = 4 * math.sqrt(max(promised * (1 - promised), 0.01) / N)
        assert agreement(name, steps) == pytest.approx(promised, abs=room)


@pytest.mark.parametrize("name", ["digits/reflow", "digits/consistency", "digits/dmd2"])
def test_four_steps_are_better_than_one(name):
    """Frechet distances of the cards, n = 898, seed 0; they differ by a factor of two and more."""
    assert figure(name, 4, "frechet") < figure(name, 1, "frechet")


@pytest.mark.parametrize("name", ["digits/dmd2", "fashion/dmd2"])
def test_one_step_samples_differ_from_one_another(name):
    """Same class, other noise: pairs of samples keep at least half of the teacher's distance (cards, same n and seed)."""
    teacher = bundled(f"{name.split('/')[0]}/teacher")
    assert figure(name, 1, "diversity") >= 0.5 * figure(teacher.name, teacher.sampling.steps, "diversity")
