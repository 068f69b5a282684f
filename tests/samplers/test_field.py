"""The velocity field against the closed form of a Gaussian, whose flow only shifts and scales."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench import paths
from workbench.errors import WorkbenchError
from workbench.samplers.field import velocity_field, velocity_fields


@pytest.mark.parametrize("name", ["linear", "cosine", "vp", "trig", "edm"])
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_a_gaussians_flow_follows_its_mean_and_its_spread(name, t):
    """x_t ~ N(alpha mu, s^2), s^2 = alpha^2 c^2 + sigma^2, so dx/dt = alpha' mu + (x - alpha mu) s' / s."""
    path, mu, c = paths.get(name), torch.tensor([0.7, -0.4], dtype=torch.float64), 0.3
    field = velocity_field(wb.mixture([mu.tolist()], [c], path=name), t, size=5)
    alpha, sigma, d_alpha, d_sigma = (function(t) for function in (path.alpha, path.sigma, path.d_alpha, path.d_sigma))
    rate = (alpha * d_alpha * c**2 + sigma * d_sigma) / (alpha**2 * c**2 + sigma**2)
    x, y = torch.meshgrid(field.x, field.y, indexing="xy")
    assert torch.allclose(field.u, d_alpha * mu[0] + (x - alpha * mu[0]) * rate, rtol=1e-8, atol=1e-8)
    assert torch.allclose(field.v, d_alpha * mu[1] + (y - alpha * mu[1]) * rate, rtol=1e-8, atol=1e-8)


def test_a_short_euler_step_follows_the_field():
    model, t, h = wb.load("eight_gaussians"), 0.6, 1e-5
    field = velocity_field(model, t, size=4)
    start = torch.stack(torch.meshgrid(field.x, field.y, indexing="xy"), -1).reshape(-1, 2)
    plan = wb.plan("euler", model.path, schedule=[t, t - h])
    moved = wb.record(wb.run(plan, model, start / model.path.sigma(t))).final - start
    assert torch.allclose(moved / -h, torch.stack([field.u, field.v], -1).reshape(-1, 2), atol=1e-5)


def test_a_network_and_a_label_are_heard():
    net = torch.nn.Linear(2, 2)
    assert velocity_field(wb.Network(lambda x, t, cond: 0 * x + 1, "linear", "flow", (2,)), 0.5, size=2).u.unique() == 1
    assert velocity_field(_Labelled(net), 0.5, cond=3, size=2).v.allclose(torch.full((2, 2), 3.0).double(), atol=1e-6)


class _Labelled(wb.Network):
    def __init__(self, net):
        super().__init__(net, "linear", "flow", (2,), classes=5)

    def predict(self, x, t, cond=None, s=None):
        assert x.dtype == torch.float32
        return torch.zeros_like(x) + cond[:, None]


def test_clean_data_has_no_field():
    model = wb.load("moons")
    with pytest.raises(WorkbenchError, match="only where there is noise"):
        velocity_field(model, 0.0)
    fields = velocity_fields(model, torch.tensor([1.0, 0.5, 0.0]), size=3)
    assert fields[2] is None and fields[1].u.shape == (3, 3)


def test_images_and_labels_that_do_not_exist_are_refused():
    with pytest.raises(WorkbenchError, match="two dimensions"):
        velocity_field(wb.Network(lambda x, t, cond: x, "linear", "flow", (1, 8, 8)), 0.5)
    with pytest.raises(WorkbenchError, match="class 9 does not exist"):
        velocity_field(wb.load("eight_gaussians"), 0.5, cond=9)
