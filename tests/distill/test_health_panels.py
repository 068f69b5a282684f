"""What the health view shows of every recipe: a panel for each part that it trains, from the rows of a short run."""

from __future__ import annotations

import pytest
import torch

from workbench import views
from workbench.denoiser import Network
from workbench.distill.distill import distill
from workbench.distill.measuring import Measure
from workbench.distill.recipes import RECIPES
from workbench.networks import new_network

IMAGES = {"hipa": (1, 8, 8), "tad-sr": (1, 8, 8)}  # the spectrum and the resolution are those of images
START = Network(new_network((2,), 2, "flow", "linear"), "linear", "flow", (2,), 2)  # what is adapted
MATCHING = {  # a score gap and a critic
    "decoupled-dmd", "di-star", "diff-instruct", "disback", "dmd", "dmd2", "f-distill", "flash-dmd", "freeflow", "msd", "pg-sb", "phased-dmd",
    "rcm", "sfd", "sid", "sid-few-step", "sim", "swiftbrush", "tdm", "uni-instruct", "vsd",
}  # fmt: skip
GAP = MATCHING | {"asd", "distillation-dpo", "mdt-dist", "tad-sr", "twinflow"}
CRITIC = MATCHING | {"distillation-dpo", "echo"}  # echo's teacher learns as a critic does
DISCRIMINATOR = {"ddgan", "echo", "flash-dmd", "nitrofusion", "sana-sprint", "tad-sr"}  # a player of its own
HEAD = {"f-distill", "sid-few-step", "uni-instruct"}  # one on the critic
RATIO = {"f-distill", "uni-instruct"}
HINGE = {"sana-sprint"}  # whose logits are no log-ratios, so there is no calibration
OTHERS = {"distillation-dpo": {"winner", "loser"}, "echo": {"teacher"}}
PAIRS = [name for name, recipe in RECIPES.items() if getattr(getattr(recipe.objective, "start", None), "pairs", None)]
SEVERAL = {"decoupled-dmd", "phased-dmd", "sid-few-step"}  # a critic for each step, and each has no gap before it has moved
SOON = {"turns": 1, "warmup": 0}  # the student moves at once
REWARD = {"reward": lambda x, cond: x[:, 0]}
OPTIONS = {name: {"count": 64} for name in (*PAIRS, "nitrofusion")} | {
    name: SOON for name in MATCHING if name == "msd" or {"turns", "warmup"} <= set(RECIPES[name].options())
}
OPTIONS |= {
    "di-star": {**SOON, **REWARD},
    "disback": {"turns": 1, "targets": 1, "degrade": 1},
    "distillation-dpo": REWARD,
    "dmd": {**SOON, "count": 64},
    "echo": {"init": START},
    "msd": {**SOON, "students": 2},
    "nct": {"init": START},
    "pso": {"init": START, **REWARD},
    "rlcm": {"init": START, **REWARD},
    "sfd": {"forget": 1},
    "tad-sr": {"solver_steps": 2},
}


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """Without the distance to the teacher's samples, which takes longer than the training here."""
    monkeypatch.setattr(Measure, "__call__", lambda self, model, always=False: {})


def run(name, folder):
    """The last report of a few steps, with a network as the teacher, which critics then start as."""
    shape, rng = IMAGES.get(name, (2,)), torch.Generator().manual_seed(0)
    net = new_network(shape, 2, "flow", "linear")
    for weight in net.parameters():  # a new network answers 0, and so would the gap of any two
        weight.data += 0.05 * torch.randn(weight.shape, generator=rng)
    options = OPTIONS.get(name, {})
    if RECIPES[name].objective.needs_data:
        options = {"data": (torch.randn(32, *shape, generator=rng), torch.arange(32) % 2), **options}
    teacher = Network(net, "linear", "flow", shape, 2)
    return list(distill(teacher, name, run=folder, steps=16 if name in SEVERAL else 6, batch=16, **options))[-1]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_view_shows_a_panel_for_each_part_that_a_recipe_trains(tmp_path, name):
    drawn = views.health([{"step": 6, "seconds": 0.1, **run(name, tmp_path).losses}])
    wanted = {
        "gradients": True, "gap": name in GAP, "critic": name in CRITIC, "weights": name in RATIO, "ratio": name in RATIO,
        "calibration": name in (DISCRIMINATOR | HEAD) - HINGE,
    }  # fmt: skip
    assert set(drawn) == {panel for panel, shown in wanted.items() if shown}
    players = {"student"} | OTHERS.get(name, set())
    players |= ({"critic"} if name in MATCHING else set()) | ({"discriminator"} if name in DISCRIMINATOR else set())
    assert {trace.name.split("/")[-1] for trace in drawn["gradients"].data} == players
