"""What a matching recipe's parts cannot hold is refused: as soon as it is set, or, where two options have to agree, at the call."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.distill import distill
from workbench.distill.fit import misfits
from workbench.distill.objectives.consistency_matching import ConsistencyMatching, RandomSimulation, Shifted
from workbench.distill.objectives.cores import HuberGap, ImplicitMatching, PerSampleL1, ScoreIdentity
from workbench.distill.objectives.critics import CriticHead, ShiftedTeacher
from workbench.distill.objectives.distributional import Distributional, Guidance, Regression
from workbench.distill.objectives.flash import Flash
from workbench.distill.objectives.forgetting import ScoreForgetting
from workbench.distill.objectives.levels import Annealed, KarrasLevels, LogNormalLevels
from workbench.distill.objectives.marginal_transport import LogitNormal, VelocityDistillation
from workbench.distill.objectives.pairs import KeyPoints, Pairs
from workbench.distill.objectives.policy import PolicyGradient
from workbench.distill.objectives.preference import PairwiseOptimisation, PreferenceDistillation
from workbench.distill.objectives.rewards import Reward
from workbench.distill.objectives.super_resolution import SuperResolution
from workbench.distill.objectives.twinflow import Recursive, Twin
from workbench.distill.recipes import RECIPES, get
from workbench.errors import WorkbenchError
from workbench.networks import new_network

LABELLED = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2], labels=[0, 1])
REVERSED = [(0.9, 0.1), (0, 5), (-1, 0.5), (0.5, 0.5), (0.1, 0.5, 0.9), 0.5, "half", None, (math.nan, 1.0)]


@pytest.mark.parametrize("bounds", REVERSED)
@pytest.mark.parametrize(
    ("part", "name"),
    [
        (Distributional, "renoise"),
        (ScoreForgetting, "renoise"),
        (PreferenceDistillation, "renoise"),
        (SuperResolution, "levels"),
    ],
)
def test_levels_rise_within_0_and_1(part, name, bounds):
    with pytest.raises(
        WorkbenchError, match=rf"^{name} is .*, but must be two noise levels \(low, high\), 0 <= low < high <= 1, such as"
    ):
        part(**{name: bounds})
    for fine in ((0.0, 1.0), [0.1, 0.9]):
        assert getattr(part(**{name: fine}), name) == fine


def test_a_part_stands_for_levels_and_its_class_does_not():
    assert Distributional(renoise=LogNormalLevels()).renoise == LogNormalLevels()
    with pytest.raises(WorkbenchError, match="or a part such as LogNormalLevels"):
        Distributional(renoise=LogNormalLevels)


@pytest.mark.parametrize(
    ("part", "name", "wrong"),
    [
        (Guidance, "spread", [(4, 0.5), (0.5, math.inf), (1.0,), 3, "wide"]),
        (Guidance, "real", [math.nan, math.inf]),
        (Guidance, "fake", [math.nan, -math.inf]),
        (Guidance, "matching", [math.inf]),
        (Distributional, "guidance", [math.inf]),
        (Distributional, "dropout", [-0.1, 1.1, math.nan]),
        (Distributional, "gan", [-1e-3, math.inf]),
        (CriticHead, "critic_weight", [-1.0, math.nan]),
        (ShiftedTeacher, "low", [-0.1, 1.0]),
        (PerSampleL1, "floor", [-1e-3, math.inf]),
        (ScoreIdentity, "alpha", [math.nan, math.inf]),
        (HuberGap, "c", [-1e-3, 0.0, math.nan]),
        (ImplicitMatching, "c", [-0.1, 0.0, math.inf]),
        (LogNormalLevels, "mean", [math.inf]),
        (LogNormalLevels, "std", [0.0, -1.0, math.inf]),
        (KarrasLevels, "share", [0.0, 1.5]),
        (KarrasLevels, "low", [0.0, -1.0]),
        (KarrasLevels, "high", [math.inf]),
        (KarrasLevels, "power", [0.0]),
        (Annealed, "low", [(-0.1, 0.1), (0.1, 2.0)]),
        (Annealed, "high", [(0.5, 1.5)]),
        (Annealed, "until", [0.0, 2.0]),
        (Regression, "pairs", [None, 8192, KeyPoints()]),
        (Regression, "weight", [-1.0, math.nan]),
        (Flash, "adversary", [-1e-2, math.inf]),
        (Flash, "beta", [0.0, -1.0]),
        (Flash, "begins", [1.5]),
        (Flash, "dropout", [2.0]),
        (PolicyGradient, "clip", [0.0, -1.0]),
        (PolicyGradient, "most", [0.0]),
        (PolicyGradient, "eta", [0.0, math.inf]),
        (PolicyGradient, "dropout", [2]),
        (PairwiseOptimisation, "dropout", [-1]),
        (PreferenceDistillation, "dropout", [1.5]),
        (Shifted, "shift", [0.0, -5.0, math.inf]),
        (RandomSimulation, "shift", [0.0]),
        (ConsistencyMatching, "dropout", [1.01]),
        (LogitNormal, "std", [0.0, -1.0]),
        (LogitNormal, "mean", [math.inf]),
        (VelocityDistillation, "std", [0.0]),
        (Twin, "rectify", [-0.5, math.nan]),
        (Twin, "weight", [-1.0]),
        (Twin, "clip", [0.0, -1.0]),
        (Recursive, "clip", [-1.0]),
        (ScoreForgetting, "override", [-2, 0.5]),
        (ScoreForgetting, "dropout", [3]),
        (SuperResolution, "free", [-0.1, 1.1]),
    ],
)
def test_a_value_out_of_range_is_named(part, name, wrong):
    for value in wrong:
        with pytest.raises(WorkbenchError) as raised:
            part(**{name: value})
        said = str(raised.value)
        assert name in said and "\n" not in said and said.endswith("."), said


def test_the_ends_of_what_is_accepted():
    assert Guidance(spread=(3.0, 3.0)).spread == (3.0, 3.0) and ImplicitMatching(None).c is None
    assert Twin(clip=None, rectify=0.0).rectify == 0 and Distributional(dropout=1).dropout == 1 and PerSampleL1(0.0).floor == 0
    assert Annealed((0.0, 0.0), (1.0, 1.0), 1.0).crossed() == [] and Distributional(gan=0).gan is None
    assert ConsistencyMatching(guidance=2.0, dropout=0.3).matching_part.guidance == Guidance(2.0)


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_reward_s_weight_is_finite(weight):
    for part, name in ((Distributional, "reward"), (Flash, "preference")):
        with pytest.raises(WorkbenchError, match="the weight of the reward is"):
            part(**{name: Reward(weight=weight)})
        with pytest.raises(WorkbenchError, match="the reward is 7, but must be a function"):
            part(**{name: 7})


def test_pairs_of_the_data_are_no_answers_of_the_teacher():
    with pytest.raises(WorkbenchError, match=r"inverted is 0\.2"):
        Regression(Pairs(inverted=0.2))
    with pytest.raises(WorkbenchError, match="pairs is None, but must be Pairs"):
        get("dmd").configured(pairs=None)


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("vsd", {"low": (0.9, 0.9)}, "from 0.9 up to 0.5 at the run's end"),
        ("vsd", {"low": (0.99, 0.2)}, "from 0.99 up to 0.98 at the run's start"),
        ("sid", {"renoise": KarrasLevels(low=100.0)}, "from 100 up to 80: set low below high"),
        ("sid-few-step", {"fake": -1.0, "conditional": False}, "conditional=False trains it without: set conditional=True"),
        ("sid-few-step", {"fake": 1.0, "conditional": False}, "conditional=False trains it without: set conditional=True"),
        ("sid-few-step", {"same": True, "conditional": False}, "at a guidance scale of 1, and conditional=False"),
        ("sid-few-step", {"fake": 0.0, "dropout": 0}, "dropout=0 trains it with labels alone: set dropout above 0"),
        ("pg-sb", {"dropout": 0.0}, "at a guidance scale of 0.5 to 4, and dropout=0"),
        ("swiftbrush", {"dropout": 0.0, "guidance": 2}, "at a guidance scale of 2, and dropout=0"),
        ("rcm", {"dropout": 0.0, "guidance": 2, "same": True}, "at a guidance scale of 2, and dropout=0"),
        ("sfd", {"forget": 1, "override": 2}, "override is 2, but must be a class of the teacher that is kept, from 0 to 1"),
    ],
)
def test_options_that_do_not_agree_are_refused_at_the_call(tmp_path, recipe, options, said):
    with pytest.raises(WorkbenchError) as raised:
        distill(LABELLED, recipe, run=tmp_path / "run", **options)
    assert said in str(raised.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("vsd", {"low": (0.9, 0.9), "high": (0.98, 0.95)}),  # one after the other: between the two they do not agree
        ("sid", {"low": 100.0, "high": 200.0}),
        ("sid-few-step", {"fake": -1.0, "conditional": True}),
        ("sid-few-step", {"conditional": False, "fake": 0.0, "dropout": 0.0}),
        ("sid-few-step", {"real": 2.0, "same": True, "conditional": True}),
        ("sid-few-step", {"same": True, "real": 0.0}),
        ("swiftbrush", {"dropout": 0.0}),
        ("swiftbrush", {"dropout": 0.0, "same": False, "guidance": 2}),
        ("asd", {"dropout": 0.0, "guidance": 2}),
    ],
)
def test_options_that_agree_are_not(recipe, options):
    assert misfits(get(recipe).configured(**options), LABELLED) == []


def test_a_teacher_that_takes_the_scale_is_not_guided_again():
    net = new_network((2,), 2, "flow", "linear", width=16, depth=2, guidance_input=(1.0, 5.0))
    teacher = Network(net, "linear", "flow", (2,), 2)
    teacher.guidance_input = (1.0, 5.0)
    assert misfits(get("swiftbrush").configured(dropout=0.0, guidance=2, lora=0), teacher) == []


def test_every_row_suits_a_teacher_with_classes_as_it_is_and_with_its_defaults_for_points():
    net = Network(new_network((2,), 2, "flow", "linear", width=16, depth=2), "linear", "flow", (2,), 2)
    for name, recipe in RECIPES.items():
        if isinstance(recipe.objective, (Distributional, ConsistencyMatching)):
            for chosen in (recipe, recipe.fitted((2,), True)):
                for teacher in (LABELLED, net):
                    wrong = [said for said in misfits(chosen, teacher) if "pass reward=" not in said]
                    assert not wrong, (name, wrong)


def test_without_classes_there_is_no_label_to_ask_the_critic_by():
    assert misfits(get("sid-few-step").configured(dropout=0.0), wb.mixture([[1.0, 0.0]], [0.2])) == []


def test_a_recipe_of_one_s_own_may_guide_where_nothing_is_guided():
    assert misfits(replace(get("swiftbrush"), name="mine"), wb.mixture([[1.0, 0.0]], [0.2])) == []
