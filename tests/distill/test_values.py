"""A value that an option cannot hold is refused at the call, in one sentence, whatever the recipe."""

from __future__ import annotations

import math

import pytest
import torch

import workbench as wb
from workbench.distill.loop import Optim
from workbench.distill.recipes import RECIPES, get
from workbench.distill.values import put
from workbench.errors import WorkbenchError

TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2], labels=[0, 1])


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_no_option_of_any_recipe_takes_a_word_for_a_number_or_a_part(name):
    recipe = get(name)
    for option in recipe.options():
        for value in ("abc", math.nan):
            try:
                changed = recipe.configured(**{option: value})
            except WorkbenchError as error:
                assert "\n" not in str(error) and str(error).endswith(".")
            else:  # a word where a word belongs: the part that reads it says which it knows
                assert value == "abc" and changed != recipe, (option, value)
                held = [getattr(part, option, None) for part in (recipe, recipe.objective)]
                assert not any(type(one) in (int, float) for one in held), option


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("consistency", {"lr": "abc"}, "lr is 'abc', but must be a number."),
        ("consistency", {"lr": -1.0}, "must be a number of at least 0"),
        ("consistency", {"lr": math.inf}, "must be a number of at least 0"),
        ("dmd2", {"critic_lr": None}, "lr is None, but must be a number."),
        ("consistency", {"first": 2.5}, "first is 2.5"),
        ("dmd2", {"same": 1}, "same is 1, but must be True or False."),
        ("sid", {"core": 3}, "core is 3, but must be ScoreIdentity."),
        ("dmd2", {"guidance": math.nan}, "guidance is nan, but must be Guidance or what stands for one."),
        ("dmd2", {"weight": 2.0}, "weight is 2.0, but must be Even."),
        ("dmd2", {"spread": 3}, "spread is 3, but must be 2 numbers or None:"),
        ("dmd2", {"inputs": "four"}, "inputs is 'four', but must be BackSimulation or AnyCount or what stands for one."),
        ("consistency", {"guidance": "strong"}, "guidance is 'strong', but must be a number or 2 numbers or None."),
        ("ayf", {"extras": "more"}, "extras is 'more', but must be a list of parts."),
        ("dmd2", {"momentum": "none"}, "momentum is 'none', but must be a number from 0 to below 1, such as 0.9"),
        ("dmd2", {"momentum": 1}, "momentum is 1, but must be a number from 0 to below 1"),
        ("msd", {"matched": "half"}, "matched is 'half', but must be a number."),
    ],
)
def test_the_sentence_says_what_belongs_there(tmp_path, recipe, options, said):
    with pytest.raises(WorkbenchError) as raised:
        wb.distill(TEACHER, recipe, run=tmp_path / "run", steps=1, **options)
    assert said in str(raised.value) and not (tmp_path / "run").exists()


def test_an_impossible_average_leaves_no_folder(tmp_path):
    with pytest.raises(WorkbenchError, match="ema is 7"):
        list(wb.distill(TEACHER, "consistency", torch.zeros(8, 2), run=tmp_path / "run", steps=1, ema=7))
    assert not (tmp_path / "run").exists()


def test_what_fits_is_put():
    assert put(Optim(), "lr", 1).lr == 1 and put(Optim(), "betas", [0.5, 0.9]).betas == [0.5, 0.9]
    assert get("consistency").configured(guidance=(1, 4)).objective.guidance == (1, 4)
    assert get("dmd2").configured(gan=None).objective.gan is None


def test_momentum_is_the_first_beta_of_every_player_and_the_form_shows_it():
    from workbench.training.records import switches

    plain, still = get("dmd2"), get("dmd2").configured(momentum=0.0, critic_lr=1e-3)
    assert {rates.betas for rates in plain.optim.values()} == {(0.9, 0.999)}
    assert {rates.betas for rates in still.optim.values()} == {(0.0, 0.999)} and still.optim["critic"].lr == 1e-3
    assert switches("dmd2")["momentum"] == (float, 0.9) and switches("dmd2", (2,))["momentum"] == (float, 0.0)
    assert switches("dmd2", (2,))["matched"] == (float, 0.2) and switches("cd", (2,))["matched"] == (float, 0.0)
