"""What cannot be trained is refused before training, with what would fit; changed settings with all that differs; NaN with a good state kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.denoiser import Network
from workbench.distill.checkpoint import CONFIG, RunFolder, differences
from workbench.distill.fit import check_fit, fitting, misfits
from workbench.distill.loop import Batch, Optim, train
from workbench.distill.objectives.parts import FeatureDistance, PseudoHuber
from workbench.distill.recipes import RECIPES, get
from workbench.errors import Diverged, MissingSource, WorkbenchError
from workbench.files import read_json
from workbench.networks import new_network

POINTS = wb.mixture([[1.0, 0.0], [-1.0, 0.0]], [0.2, 0.2])


@pytest.fixture
def images():
    return Network(new_network((1, 8, 8), 3, "flow", "linear"), "linear", "flow", (1, 8, 8), 3)


def refused(tmp_path, teacher, recipe, **options):
    with pytest.raises(WorkbenchError) as error:
        wb.distill(teacher, recipe, run=tmp_path / "run", steps=2, **options)
    assert not (tmp_path / "run").exists()  # nothing was begun
    return str(error.value)


@pytest.mark.parametrize(
    ("recipe", "options", "said", "first"),
    [
        ("hipa", {}, "needs images (c, h, w), not samples of shape (2,)", "instaflow, kd, reflow"),
        ("guidance", {}, "no classes, so nothing guides it", "ayf, cd"),
        ("agd", {}, "adapters beside a trained network", "tbcm, asd"),
        ("cd", {"metric": FeatureDistance()}, "none knows samples of shape (2,)", "ayf, cd"),
        ("cd", {"lora": 4}, "low-rank updates (lora)", "ayf, cd"),
        ("cd", {"data": torch.zeros(5, 3)}, "the data are of shape (3,), and the teacher's samples of (2,)", "ayf, cd"),
    ],
)
def test_a_recipe_that_does_not_fit_says_why_and_what_would(tmp_path, recipe, options, said, first):
    message = refused(tmp_path, POINTS, recipe, **options)
    assert (
        said in message
        and f"recipe {recipe!r} does not fit" in message
        and message.split("Recipes that fit: ")[1].startswith(first)
    )


def test_every_reason_is_given_at_once(tmp_path):
    message = refused(tmp_path, POINTS, "hipa")
    assert "spatial frequencies" in message and "low-rank updates" in message


def test_missing_data_name_recipes_that_need_none(images):
    with pytest.raises(MissingSource, match=r"pass data=\.\.\.\. Recipes that fit: ") as error:
        check_fit(get("ct"), images)
    assert "kd" in fitting(images) and "ct" not in fitting(images) and "ct" in fitting(images, data=True)
    named = str(error.value).split("Recipes that fit: ")[1].split(" and ")[0].rstrip(".").split(", ")
    assert all(not RECIPES[name].objective.needs_data for name in named)
    check_fit(get("ct"), images, torch.zeros(4, 1, 8, 8))


def test_a_network_that_is_not_ours_cannot_take_a_second_time():
    net = nn.Linear(2, 2)
    net.config = {"width": 2}
    teacher = Network(net, "linear", "flow", (2,))
    assert any("two times" in reason for reason in misfits(get("meanflow"), teacher))
    assert not any("two times" in reason for reason in misfits(get("meanflow"), teacher, size={"width": 8}))
    assert misfits(get("kd"), teacher) == []


def test_what_is_said_to_fit_can_be_bound():
    for name in fitting(POINTS):
        recipe = get(name).fitted(POINTS.shape, True)
        check_fit(recipe, POINTS)


def test_changed_settings_are_refused_with_every_difference(tmp_path):
    options = {"run": tmp_path / "run", "steps": 2, "batch": 16, "count": 32}
    for _ in wb.distill(POINTS, "kd", **options):
        pass
    with pytest.raises(WorkbenchError) as error:
        list(
            wb.distill(
                POINTS, "kd", **{**options, "batch": 8, "steps": 3, "lr": 1e-3, "count": 64, "seed": 4, "metric": PseudoHuber()}
            )
        )
    said = str(error.value)
    for part in (
        "parts.metric = 'L2', not 'PseudoHuber'", "objective.metric.scale is absent, not 0.03", "batch = 16, not 8", "steps = 2, not 3", "seed = 0, not 4", "objective.start.pairs.count = 32, not 64",
        "optim.student.lr = ",
    ):  # fmt: skip
        assert part in said
    assert said.count("; ") == 6 and said.endswith("choose another run folder, or the same options to continue it.")


def test_another_teacher_of_the_same_name_is_refused(tmp_path):
    options = {"run": tmp_path / "run", "steps": 2, "batch": 16}
    list(wb.distill(POINTS, "scm", **options))
    other = wb.mixture([[1.0, 0.0], [-1.0, 0.1]], [0.2, 0.2])
    with pytest.raises(WorkbenchError, match=r"holds a run with teacher_hash = '\w+', not '\w+': choose"):
        list(wb.distill(other, "scm", **options))


def test_differences_name_what_is_only_on_one_side():
    assert differences({"a": {"x": 1}, "b": 2}, {"a": {"y": 1}, "b": 2}) == ["a.y is absent, not 1", "a.x = 1, not absent"]
    assert differences({"a": [1, 2]}, {"a": [1, 2]}) == []


class Failing:
    """Fits a weight to 1; its loss is NaN from step `bad` on."""

    product = "student"

    def __init__(self, bad):
        self.players, self.bad, self.step = {"student": nn.Linear(1, 1)}, bad, 0

    def turn(self, step):
        self.step = step
        return ("student",)

    def loss(self, player, batch, rng):
        loss = (self.players["student"](torch.ones(1, 1)) - 1).square().mean()
        return (loss * float("nan") if self.step >= self.bad else loss), {}


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(tmp_path):
    training = train(
        Failing(30),
        lambda rng: Batch(None, None, 1),
        {},
        run=tmp_path,
        optim={"student": Optim()},
        steps=50,
        checkpoint_seconds=-1.0,
    )
    with pytest.raises(Diverged, match=r"student diverged at step 30: loss nan.*last good state"):
        for _ in training:
            pass
    tensors, state = RunFolder(tmp_path, read_json(tmp_path / CONFIG)).load()
    assert state["step"] == 30 and all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
