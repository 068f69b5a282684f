"""Recipes are rows: their fields, the options that reach inside them, and a few real steps of each."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.distill import distill
from workbench.distill.objectives.critics import CriticHead
from workbench.distill.objectives.distributional import Guidance
from workbench.distill.objectives.levels import BackSimulation
from workbench.distill.recipes import RECIPES, get
from workbench.errors import MissingSource, UnknownName, WorkbenchError
from workbench.networks import new_network
from workbench.samplers import SAMPLERS

TEACHER = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2], labels=[0, 1])
# recipes that train a part beside a network, whose teacher is therefore one; the spectrum is that of images
NETWORKS = {"agd": (2,), "hipa": (1, 8, 8), "tad-sr": (1, 8, 8)} | dict.fromkeys(("nct", "echo", "pso", "rlcm"), (2,))
START = Network(new_network((2,), 2, "flow", "linear"), "linear", "flow", (2,), 2)  # what is adapted
EVERY = pytest.mark.parametrize("name", sorted(RECIPES))
PAIRS = [name for name, recipe in RECIPES.items() if getattr(getattr(recipe.objective, "start", None), "pairs", None)]
SMALL = (
    {name: {} for name in RECIPES}
    | {name: {"count": 64} for name in PAIRS}
    | {"dmd2": {"warmup": 2, "turns": 2}}
    | {"msd": {"students": 2}, "nitrofusion": {"count": 64}}
)
SMALL |= {
    "nct": {"init": START},
    "sfd": {"forget": 1},
    "echo": {"init": START, "data": torch.randn(8, 2)},
    "tad-sr": {"data": torch.randn(8, 1, 8, 8), "solver_steps": 2},
} | {name: {"init": START, "reward": lambda x, cond: x[:, 0]} for name in ("pso", "rlcm")}
PUBLISHED = [
    "agd",
    "asd",
    "ayf",
    "boot",
    "cd",
    "consistency",
    "ct",
    "ctm",
    "ddgan",
    "decoupled-dmd",
    "di-star",
    "diff-instruct",
    "disback",
    "distillation-dpo",
    "dmd",
    "dmd2",
    "echo",
    "ect",
    "f-distill",
    "flash-dmd",
    "freeflow",
    "guidance",
    "hipa",
    "ict",
    "instaflow",
    "kd",
    "keypoints",
    "lcm",
    "mdt-dist",
    "meanflow",
    "meanflow-dispersive",
    "mmd",
    "msd",
    "nct",
    "nitrofusion",
    "pg-sb",
    "phased-dmd",
    "progressive",
    "pso",
    "rcm",
    "reflow",
    "rfpp",
    "rlcm",
    "sana-sprint",
    "scm",
    "scott",
    "sfd",
    "sid",
    "sid-few-step",
    "sim",
    "slimflow",
    "splitmeanflow",
    "swiftbrush",
    "tad-sr",
    "tbcm",
    "tdm",
    "tscd",
    "twinflow",
    "uni-instruct",
    "vsd",
]


def last(**options):
    return list(distill(**{"teacher": TEACHER, "steps": 6, "batch": 16, **options}))[-1]


@pytest.fixture
def unlabelled():
    """A teacher that is a network of ours, as on an image set, without card or data."""
    return Network(new_network((1, 8, 8), 3, "flow", "linear"), "linear", "flow", (1, 8, 8), 3)


def test_every_recipe_says_what_it_is():
    assert [recipe.name for recipe in wb.recipes()] == PUBLISHED
    for recipe in wb.recipes():
        assert recipe.paper.startswith("arXiv ") and recipe.summary.endswith(".") and len(recipe.summary) > 40
        assert recipe.sampling.sampler in SAMPLERS and recipe.steps >= 100 and 0 < recipe.ema < 1
        assert "student" in recipe.optim and dataclasses.is_dataclass(recipe.objective)
        assert get(recipe.name) is recipe and get(recipe) is recipe
        assert len(set(recipe.options())) == len(recipe.options())


def test_unknown_recipes_offer_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown recipe 'dmd3': did you mean 'dmd'\? Known: agd, a"):
        get("dmd3")


def test_options_replace_fields_of_the_recipe_and_rates():
    dmd2 = get("dmd2")
    changed = dmd2.configured(batch=7, ema=0.5, steps=11, lr=1e-5, critic_lr=2e-5)
    assert (changed.batch, changed.ema, changed.steps) == (7, 0.5, 11)
    assert (changed.optim["student"].lr, changed.optim["critic"].lr) == (1e-5, 2e-5)
    assert changed.optim["critic"].decay == dmd2.optim["critic"].decay and changed.objective == dmd2.objective
    assert dmd2.batch == 64 and dmd2.configured() == dmd2


def test_options_reach_nested_parts():
    assert get("dmd2").configured(turns=3).objective.critic.turns == 3
    assert get("dmd2").configured(floor=0.5).objective.weight.floor == 0.5
    assert get("reflow").configured(count=99).objective.start.pairs.count == 99
    assert get("reflow").configured(share=0.1).objective.times.share == 0.1
    grid = get("consistency").configured(first=2, last=4, scale=0.1, substeps=3).objective
    assert (grid.times.first, grid.times.last, grid.metric.scale, grid.target.substeps) == (2, 4, 0.1, 3)
    for recipe in wb.recipes():  # what is not named stays
        assert recipe.configured(dropout=0.25).objective == dataclasses.replace(recipe.objective, dropout=0.25)


def test_numbers_stand_for_parts():
    dmd2 = get("dmd2")
    assert dmd2.configured(guidance=2).objective.guidance == Guidance(real=2.0, fake=1.0)
    assert dmd2.configured(real=3.0).objective.guidance.real == 3.0
    assert dmd2.configured(gan=3e-3).objective.gan == CriticHead(weight=3e-3)
    assert dmd2.configured(gan=1).objective.gan == CriticHead(weight=1.0)
    assert dmd2.configured(inputs=4).objective.inputs == BackSimulation((1.0, 0.75, 0.5, 0.25))
    assert get("consistency").configured(guidance=2.5).objective.guidance == 2.5
    assert dmd2.objective.needs_data and not dmd2.configured(gan=0).objective.needs_data


def test_unknown_options_offer_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown option of recipe 'dmd2' 'turn': did you mean 'turns'\?"):
        get("dmd2").configured(turn=3)
    with pytest.raises(UnknownName, match=r"option of recipe 'reflow' 'critic_lr'"):
        get("reflow").configured(critic_lr=1e-3)
    with pytest.raises(UnknownName, match=r"did you mean 'guidance'\?"):
        distill(TEACHER, "consistency", guidence=2.0)


def test_defaults_that_depend_on_the_problem():
    dmd2 = get("dmd2")
    points, images = dmd2.fitted((2,), True), dmd2.fitted((1, 8, 8), False)
    assert (points.batch, images.batch) == (256, 64)
    assert points.optim["student"].lr == 4 * images.optim["student"].lr == 4 * dmd2.optim["student"].lr
    assert images == dmd2 and dmd2.objective.dropout < points.objective.dropout
    cd = get("cd")
    assert cd.fitted((2,), True).configured(batch=5, lr=1e-3, dropout=0.2).objective == cd.configured(dropout=0.2).objective


def test_given_options_win_over_the_defaults_for_points(tmp_path):
    progress = last(recipe="consistency", run=tmp_path, first=2, last=2)
    assert progress.student.card["trained"]["objective"]["times"] == {"first": 2, "last": 2, "rule": "doubling", "skip": 1}


@EVERY
def test_each_recipe_makes_a_student_that_runs_its_own_plan(tmp_path, name):
    shape = NETWORKS.get(name, (2,))
    net = new_network(shape, 2, "flow", "linear")
    teacher = Network(net, "linear", "flow", shape, 2) if name in NETWORKS else TEACHER
    progress = last(recipe=name, run=tmp_path, teacher=teacher, **SMALL[name])
    assert (
        progress.stage == "done"
        and progress.step == 6
        and all(map(torch.isfinite, map(torch.tensor, progress.losses.values())))
    )
    student = wb.load(tmp_path / "student")
    card = student.card
    assert (card["recipe"], card["paper"], card["role"], card["teacher"]) == (
        name,
        get(name).paper,
        "student",
        "Network" if name in NETWORKS else "mixture",
    )
    assert (card["trained"]["steps"], card["trained"]["batch"], student.classes, card["seed"]) == (
        6,
        16,
        2 + (name == "echo"),
        0,
    )
    steps = get(name).points.get("keys", get(name).sampling.steps)  # chords between other key points have another plan
    assert student.plan().sampler == get(name).sampling.sampler and student.plan().evaluations == steps
    drawn = wb.sample(student, 5, [0, 1, 0, 1, -1])
    assert drawn.shape == (5, *shape) and torch.equal(drawn, wb.sample(progress.student, 5, [0, 1, 0, 1, -1]))
    assert torch.equal(drawn, progress.samples(5, [0, 1, 0, 1, -1])) and progress.metrics["paired_rms"] > 0
    assert card["figures"] == progress.metrics


def test_a_student_of_four_steps_carries_the_times_it_was_trained_at(tmp_path):
    student = last(recipe="dmd2", run=tmp_path, inputs=4, **SMALL["dmd2"]).student
    assert student.plan().times == (1.0, 0.75, 0.5, 0.25, 0.0) and student.plan().evaluations == 4
    assert wb.load(tmp_path / "student").plan().times == student.plan().times


def test_a_gan_term_trains_on_draws_of_the_law(tmp_path):
    progress = last(recipe="dmd2", run=tmp_path, gan=1e-2, **SMALL["dmd2"])
    assert "student/gan" in progress.losses and "critic/accuracy" in progress.losses


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": -5}, "steps is -5"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"steps": None, "seconds": -1.0}, "seconds is -1.0"),
        ({"steps": None, "seconds": 0}, "seconds is 0"),
        ({"steps": None, "seconds": float("nan")}, "seconds is nan"),
        ({"batch": 0}, "batch is 0"),
        ({"recipe": "nope"}, "unknown recipe 'nope'"),
        ({"teacher": lambda x, t, cond: x}, r"a teacher needs \.path and \.shape"),
        ({"data": torch.full((4, 2), float("nan"))}, "NaN or infinite"),
        ({"data": torch.zeros(0, 2)}, "empty"),
        ({"data": [1, 2]}, "data is a list"),
    ],
)
def test_impossible_requests_are_refused_at_the_call(tmp_path, options, said):
    """At the call, not at the first step: nothing has been written."""
    with pytest.raises(WorkbenchError, match=said):
        distill(**{"teacher": TEACHER, "recipe": "consistency", "run": tmp_path / "run", "steps": 4, **options})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("recipe", "options"), [("consistency", {}), ("dmd2", {"gan": 1e-2})])
def test_a_recipe_that_needs_data_says_so(unlabelled, recipe, options):
    with pytest.raises(MissingSource, match=r"pass data=\.\.\."):
        distill(unlabelled, recipe, **options)


def test_a_start_that_does_not_fit(unlabelled):
    with pytest.raises(WorkbenchError, match="init must have the teacher's shape, classes and path"):
        distill(TEACHER, "consistency", init=unlabelled)


@pytest.mark.parametrize("name", ["cd", "progressive", "freeflow"])
def test_what_a_recipe_keeps_besides_its_student_is_resumed_bit_for_bit(tmp_path, name):
    """The target net, the last stage of halving, the critic: an interrupted run ends where an unbroken one does."""
    whole = last(recipe=name, run=tmp_path / "whole", **SMALL[name]).student
    for _ in distill(TEACHER, name, steps=6, batch=16, run=tmp_path / "broken"):
        break
    broken = last(recipe=name, run=tmp_path / "broken", **SMALL[name]).student
    for one, other in zip(whole.net.parameters(), broken.net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_fresh_student_of_another_size(tmp_path):
    student = last(recipe="slimflow", run=tmp_path, network={"width": 32, "depth": 1}, **SMALL["slimflow"]).student
    assert (student.net.config.width, student.net.config.depth) == (32, 1)
    with pytest.raises(WorkbenchError, match="network="):
        distill(TEACHER, "slimflow", steps=1, network={"heigth": 3})


def test_a_two_time_student_starts_as_its_teacher(unlabelled):
    from workbench.networks import extended

    torch.nn.init.normal_(unlabelled.net.head.weight, std=0.1)
    net, x = extended(unlabelled.net, two_times=True), torch.randn(2, 1, 8, 8)
    assert net.config.two_times and torch.equal(net(x, 0.7, None, 0.1), unlabelled.net(x, 0.7))
    with pytest.raises(WorkbenchError, match="not one of our networks"):
        extended(torch.nn.Linear(2, 2), two_times=True)
