"""The DiT and the MLP: shapes, the null class, the second time, patches, derivatives, and saving."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench.errors import WorkbenchError
from workbench.networks import new_network
from workbench.networks.dit import DiT
from workbench.networks.embedding import TimeEmbedding
from workbench.networks.mlp import MLP

SMALL = {DiT: {"image_size": 8, "patch": 2, "width": 16, "depth": 2, "heads": 2}, MLP: {"dim": 3, "width": 16, "depth": 2}}
SHAPE = {DiT: (1, 8, 8), MLP: (3,)}
BOTH = pytest.mark.parametrize("kind", [DiT, MLP])


def spread(net: nn.Module, keep: str | None = None) -> nn.Module:
    """Random weights everywhere, so that no layer is silent; those whose name starts with `keep` stay as they are."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if keep is None or not name.startswith(keep):
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
    return net.eval()


def make(kind: type, /, **options) -> nn.Module:
    return spread(kind(**SMALL[kind], **{"classes": 4, **options}))


def state(kind: type, n: int = 5, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, *SHAPE[kind], generator=torch.Generator().manual_seed(1), dtype=dtype)


@BOTH
def test_shapes_and_times(kind):
    net, x = make(kind), state(kind)
    out = net(x, 0.3, 2)
    assert out.shape == x.shape
    assert torch.equal(out, net(x, torch.full((5,), 0.3), torch.full((5,), 2)))
    times = torch.linspace(0, 1, 5)
    alone = torch.cat([net(x[j : j + 1], float(times[j]), 2) for j in range(5)])
    assert torch.allclose(net(x, times, 2), alone, atol=1e-5)  # samples do not see one another
    assert not torch.allclose(out, net(x, 0.4, 2)) and not torch.allclose(out, net(x, 0.3, 1))
    assert torch.count_nonzero(kind(**SMALL[kind])(x, 0.3)) == 0  # a new network predicts zero


@BOTH
def test_null_class(kind):
    net, x = make(kind), state(kind)
    null = net(x, 0.5)
    assert torch.equal(null, net(x, 0.5, -1)) and torch.equal(null, net(x, 0.5, torch.full((5,), -1)))
    mixed = net(x, 0.5, torch.tensor([-1, 0, 1, -1, 3]))
    assert torch.allclose(mixed[[0, 3]], null[[0, 3]], atol=1e-6) and not torch.allclose(mixed[1], null[1])


@BOTH
@pytest.mark.parametrize(
    ("cond", "said"), [(4, "class 4 does not exist"), (-2, "class -2 does not exist"), (torch.tensor([0, 1]), r"shape \(2,\)")]
)
def test_impossible_labels(kind, cond, said):
    with pytest.raises(WorkbenchError, match=said):
        make(kind)(state(kind), 0.5, cond)


@BOTH
def test_a_network_without_classes_knows_no_label(kind):
    net, x = make(kind, classes=0), state(kind)
    assert net(x, 0.5, -1).shape == x.shape
    with pytest.raises(WorkbenchError, match="class 0 does not exist"):
        net(x, 0.5, 0)


@BOTH
def test_wrong_shapes_are_refused(kind):
    with pytest.raises(WorkbenchError, match="but this network takes"):
        make(kind)(torch.zeros(2, 7), 0.5)
    with pytest.raises(WorkbenchError, match="but this network takes"):
        make(kind)(state(kind).unsqueeze(0), 0.5)
    with pytest.raises(WorkbenchError, match="must be a multiple of patch 3"):
        DiT(image_size=8, patch=3)


@BOTH
def test_a_second_time_starts_as_if_absent(kind):
    one, x = make(kind), state(kind)
    two = kind(**SMALL[kind], classes=4, two_times=True).eval()
    loaded = two.load_state_dict(one.state_dict(), strict=False)
    assert not loaded.unexpected_keys and loaded.missing_keys
    assert all(name.startswith("second_time.") for name in loaded.missing_keys)
    for s in (0.0, 0.7, torch.rand(5)):
        assert torch.equal(two(x, 0.8, 1, s), one(x, 0.8, 1))
    assert torch.equal(two(x, 0.8, 1), one(x, 0.8, 1))
    spread(two)
    assert not torch.allclose(two(x, 0.8, 1, 0.0), two(x, 0.8, 1, 0.7))
    with pytest.raises(WorkbenchError, match="no second time"):
        one(x, 0.8, 1, 0.5)


@BOTH
def test_saves_and_loads_as_a_diffusers_model(kind, tmp_path):
    net, x = make(kind, two_times=True, kind="v", path="cosine"), state(kind)
    net.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    again = kind.from_pretrained(tmp_path)
    assert torch.equal(again(x, 0.4, 3, 0.1), net(x, 0.4, 3, 0.1))
    assert (again.config.kind, again.config.path, again.config.two_times, again.config.classes) == ("v", "cosine", True, 4)


def test_the_default_dit_is_compact():
    parameters = sum(parameter.numel() for parameter in DiT().parameters())
    assert 1e6 < parameters <= 1.5e6


@pytest.mark.parametrize(("channels", "patch"), [(1, 2), (3, 4)])
def test_patches_go_back_where_they_came_from(channels, patch):
    """Without blocks and norm, with identity projections, the network must return its input, pixel for pixel."""
    width = channels * patch * patch
    net = DiT(image_size=8, channels=channels, patch=patch, width=width, depth=0, heads=1)
    net.norm = nn.Identity()
    with torch.no_grad():
        net.position.zero_()
        net.embed.weight.copy_(torch.eye(width).view(width, channels, patch, patch))
        net.embed.bias.zero_()
        net.head.weight.copy_(torch.eye(width))
    x = torch.randn(2, channels, 8, 8)
    assert torch.allclose(net(x, 0.5), x, atol=1e-6)


def test_moving_patches_moves_the_prediction_only_without_positions():
    net, x = make(DiT), state(DiT)
    rolled = x.roll((2, 4), dims=(2, 3))
    assert not torch.allclose(net(rolled, 0.5), net(x, 0.5).roll((2, 4), dims=(2, 3)), atol=1e-3)
    with torch.no_grad():
        net.position.zero_()
    assert torch.allclose(net(rolled, 0.5), net(x, 0.5).roll((2, 4), dims=(2, 3)), atol=1e-5)


@BOTH
def test_derivative_in_time(kind):
    """Forward-mode differentiation, which continuous consistency and MeanFlow need, against central differences."""
    net, x = make(kind, two_times=True).double(), state(kind, dtype=torch.float64)
    t, s, step = torch.full((5,), 0.4, dtype=torch.float64), torch.full((5,), 0.1, dtype=torch.float64), 1e-6
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        value, slope = torch.func.jvp(lambda time: net(x, time, 1, s), (t,), (torch.ones_like(t),))
        central = (net(x, t + step, 1, s) - net(x, t - step, 1, s)) / (2 * step)
    assert value.dtype == torch.float64 and torch.allclose(value, net(x, t, 1, s))
    assert float((slope - central).abs().max()) < 1e-6 * float(slope.abs().max()) and float(slope.abs().max()) > 0


@BOTH
def test_gradients_reach_every_parameter_and_the_input(kind):
    net = make(kind, two_times=True)
    x = state(kind).requires_grad_()
    net(x, torch.rand(5), torch.tensor([0, 1, 2, 3, -1]), torch.rand(5)).square().mean().backward()
    still = [name for name, parameter in net.named_parameters() if parameter.grad is None or not bool(parameter.grad.any())]
    assert not still and bool(x.grad.any())
    assert all(bool(row.any()) for row in net.class_embedding.weight.grad)


def test_time_embedding_tells_times_apart_and_stays_tame():
    embed = TimeEmbedding(8).double()
    angles = torch.outer(torch.tensor([0.0, 1e-3, 1.0], dtype=torch.float64), embed.frequencies)
    assert float(embed.frequencies.max()) == pytest.approx(256, rel=1e-5) and float(embed.frequencies.min()) == 1
    assert float((angles[1] - angles[0]).abs().max()) > 0.2
    out = embed(torch.tensor([0.2, 0.2, 0.9], dtype=torch.float64))
    assert out.shape == (3, 8) and torch.equal(out[0], out[1]) and not torch.allclose(out[0], out[2])


@pytest.mark.parametrize(("shape", "kind"), [((2,), MLP), ((64,), MLP), ((1, 8, 8), DiT), ((3, 32, 32), DiT)])
def test_a_new_network_fits_the_samples_and_depends_on_its_seed_alone(shape, kind):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = new_network(shape, 3, "v", "vp", seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two, other = new_network(shape, 3, "v", "vp", seed=5), new_network(shape, 3, "v", "vp", seed=6)
    assert isinstance(one, kind) and one(torch.zeros(2, *shape), 0.5, 2).shape == (2, *shape)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embed.weight, other.embed.weight)


@pytest.mark.parametrize("shape", [(1, 8, 9), (1, 7, 7), (3, 4), ()])
def test_shapes_that_no_network_fits(shape):
    with pytest.raises(WorkbenchError, match="no network of ours fits"):
        new_network(shape, 0, "flow", "linear")
