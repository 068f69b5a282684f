"""The benchmark of training costs: what belongs to networks, to the update and to the rest, and that nothing stays changed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from workbench.denoiser import Network
from workbench.distill import loop
from workbench.networks import new_network
from workbench.networks.mlp import MLP


@pytest.fixture(scope="module")
def script(benchmark):
    return benchmark("training")


def test_shares_add_up_and_every_instrument_is_taken_off(script, tmp_path):
    before = (MLP.__call__, vars(MLP)["forward"], torch.autograd.backward, torch.optim.AdamW.step, loop._average)
    row = script.measure("cd", "eight_gaussians", 0.15, tmp_path)
    assert row["network"] + row["update"] + row["rest"] == pytest.approx(1, abs=1e-3) and min(row["steps"]) >= script.LEAST
    assert row["network"] > 0 and row["update"] > 0 and row["rest"] > 0 and row["per_second"] > 0
    assert row["over"] == pytest.approx(1 + row["rest"] / row["network"], rel=1e-3) and row["players"] == 1
    assert before == (MLP.__call__, vars(MLP)["forward"], torch.autograd.backward, torch.optim.AdamW.step, loop._average)
    assert "__call__" not in vars(MLP)


def test_forward_and_backward_of_a_network_are_its_own(script, monkeypatch):
    """A slow loss is not the network's, a slow network is, in both directions; the clock goes on where something is slow alone."""
    clock = SimpleNamespace(now=0.0, process_time=lambda: clock.now)
    monkeypatch.setattr(script, "time", clock)

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return burn(x)

        @staticmethod
        def backward(ctx, gradient):
            return burn(gradient)

    def burn(x):
        clock.now += 1.0
        return x.clone()

    class Net(torch.nn.Linear):
        def forward(self, x):
            return Slow.apply(super().forward(x))

    watch = script.Stopwatch(1e9)
    watch.plain, watch.passed = [0.0] * script.LEAST, 0.9e9
    net = Net(2, 2)
    Net.__call__ = watch.network(torch.nn.Module.__call__)
    for slow in (False, True):
        watch.spent = dict.fromkeys(watch.spent, 0.0)
        watch()
        x = torch.zeros(1, 2, requires_grad=True)
        inner = Slow.apply(x) if slow else x  # before the network: its backward comes after
        y = net(inner)
        loss = (Slow.apply(y) if slow else y).sum()
        watch.of("rest", torch.autograd.backward)(loss)
        watch.of("update", burn)(x)
        watch()
        assert watch.spent == {"network": 2.0, "update": 1.0, "rest": 4.0 if slow else 0.0}


def test_a_finished_cell_is_kept_and_a_changed_recipe_is_measured_again(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "measure", lambda name, space, seconds, folder: {"per_second": 1.0})
    asked = type("Asked", (), {"space": "digits", "seconds": 1.0, "threads": 1})
    script.one("kd", tmp_path / "kd.json", asked)
    monkeypatch.setattr(script.subprocess, "run", lambda *words, **more: pytest.fail("it was measured again"))
    assert script.cell("kd", asked, tmp_path)["per_second"] == 1.0
    monkeypatch.setattr(script, "signature", lambda name: "another")
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        script.cell("kd", asked, tmp_path)


def test_every_recipe_is_given_what_it_needs(script):
    from workbench.distill.fit import misfits
    from workbench.distill.recipes import RECIPES, get

    teacher = Network(new_network((1, 8, 8), 3, "flow", "linear", width=16, depth=1), "linear", "flow", (1, 8, 8), 3)
    for name in RECIPES:
        given = script.fitted(name, "eight_gaussians", teacher)
        options = {key: value for key, value in given.items() if key not in ("init", "data")}
        if name != "msd":
            assert not misfits(get(name).configured(**options), teacher, given.get("init")), name
    assert sys.modules["workbench.distill.distill"].train is loop.train
