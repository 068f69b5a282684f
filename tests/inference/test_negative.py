"""Negative guidance inside the attention: what it must leave alone, what it must lower, and what it costs."""

from __future__ import annotations

import copy

import pytest
import torch

import workbench as wb
from workbench.denoiser import evaluate
from workbench.errors import UnknownName, WorkbenchError
from workbench.inference import negative_guidance, relative_cost
from workbench.metrics import image_logits

STUDENT = wb.load("digits/consistency")
X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_scale_zero_is_the_model_bit_for_bit():
    for form in ("extrapolate", "subtract"):
        assert torch.equal(negative_guidance(STUDENT, 3, 0, form)(X, 1.0, 8), STUDENT(X, 1.0, 8))


def test_extrapolating_away_from_ones_own_class_changes_nothing():
    steered = negative_guidance(STUDENT, 3, 4.0)
    assert torch.allclose(steered(X, 0.8, 3), STUDENT(X, 0.8, 3), atol=1e-5)
    assert not torch.allclose(steered(X, 0.8, 8), STUDENT(X, 0.8, 8), atol=1e-2)


def test_subtracting_ones_own_class_shrinks_the_attention():
    """Z - 0.3 Z is what projections of 0.7 times the weight make of Z."""
    shrunk = copy.deepcopy(STUDENT)
    for block in shrunk.net.blocks:
        block.project.weight.mul_(0.7)
    assert torch.allclose(negative_guidance(STUDENT, 3, 0.3, "subtract")(X, 0.8, 3), shrunk(X, 0.8, 3), atol=1e-5)


def test_it_is_one_evaluation_and_a_sixth_more_work():
    steered = negative_guidance(STUDENT, 3, 2.0)
    assert evaluate(steered, X, 1.0, 8)[1] == 1
    # keys and values, 2 of the 12 width^2 products of a token in a block, and the second attention
    assert 1.1 < relative_cost(STUDENT, steered) < 1.2


def test_the_negated_class_is_drawn_less_at_one_evaluation():
    """No class asked for, n = 400, seed 0: class 3 falls from 12 % with the scale, class 8 only in the default form."""

    def share(negated, model):
        return float((image_logits("digits", wb.sample(model, 400)).argmax(1) == negated).double().mean())

    before = share(3, STUDENT)
    steered = [share(3, negative_guidance(STUDENT, 3, scale)) for scale in (0.5, 1.0, 2.0)]
    assert before > 0.11 and steered == sorted(steered, reverse=True)
    assert steered[0] < 0.75 * before and steered[1] < 0.5 * before and steered[2] < 0.2 * before
    assert (
        share(8, negative_guidance(STUDENT, 8, 1.0))
        < share(8, STUDENT)
        < share(8, negative_guidance(STUDENT, 8, 0.5, "subtract"))
    )


def test_the_model_itself_is_untouched_and_its_settings_travel():
    before = STUDENT(X, 1.0, 1)
    steered = negative_guidance(STUDENT, 3, 2.0)
    assert steered.sampling == STUDENT.sampling and steered.name == STUDENT.name
    wb.sample(steered, 2, cond=1)
    assert torch.equal(STUDENT(X, 1.0, 1), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negative": 10}, "negative is 10, but must be a whole number from 0 to 9"),
        ({"negative": -1}, "negative is -1"),
        ({"negative": 3, "scale": -1.0}, "scale is -1.0"),
        ({"negative": 3, "scale": float("nan")}, "scale is nan"),
        ({"negative": 3, "scale": "much"}, "scale is 'much'"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(WorkbenchError, match=message):
        negative_guidance(STUDENT, **options)


def test_models_and_forms_that_do_not_exist():
    with pytest.raises(WorkbenchError, match="not on moons"):
        negative_guidance(wb.load("moons"), 1)
    with pytest.raises(UnknownName, match="did you mean 'subtract'"):
        negative_guidance(STUDENT, 1, form="substract")
