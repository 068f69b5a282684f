"""Patch parallelism: the whole network as a special case, what staleness costs, and two real processes against the emulation."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.inference.patch_group import PatchGroup
from workbench.inference.patches import Bands, bands_of, patch_run, seam
from workbench.inference.resolution import final
from workbench.networks.dit import DiT

NOISE = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 5])


def tiny(two_times: bool = False) -> wb.Network:
    torch.manual_seed(0)
    net = DiT(image_size=8, patch=2, width=16, depth=2, heads=2, two_times=two_times)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return wb.Network(net.eval().requires_grad_(False), "linear", "flow", (1, 8, 8), 10, two_times)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().mean().sqrt())


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_warm_up_to_the_end_is_the_whole_network(ranks: int, sampler: str) -> None:
    model, plan = tiny(), wb.plan(sampler, "linear", 5)
    *_, whole = wb.run(plan, model, NOISE, LABELS)
    assert torch.allclose(final(patch_run(plan, model, NOISE, LABELS, ranks=ranks, warmup=5)).x, whole.x, atol=1e-6)
    stale = final(patch_run(plan, model, NOISE, LABELS, ranks=ranks, warmup=1)).x
    assert (apart(stale, whole.x) < 1e-6) is (ranks == 1)


def test_guidance_and_two_times() -> None:
    plan, model = wb.plan("euler", "linear", 4), tiny()
    *_, whole = wb.run(plan, wb.Guided(model, 2.0), NOISE, LABELS)
    assert torch.allclose(final(patch_run(plan, model, NOISE, LABELS, warmup=4, guidance=2.0)).x, whole.x, atol=1e-5)
    plan, model = wb.plan("flow_map", "linear", 4), tiny(two_times=True)
    *_, whole = wb.run(plan, model, NOISE, LABELS)
    assert torch.allclose(final(patch_run(plan, model, NOISE, LABELS, warmup=4)).x, whole.x, atol=1e-5)


def test_stale_error_falls_with_more_steps_and_rises_with_less_conditioning() -> None:
    model, error = wb.load("digits/teacher"), {}
    for steps, widths in ((6, (None,)), (24, (None, 2, 1, 0))):
        plan = wb.plan("euler", model.path, steps)
        whole = final(wb.run(plan, model, NOISE, LABELS)).x
        for width in widths:
            error[steps, width] = apart(final(patch_run(plan, model, NOISE, LABELS, warmup=2, width=width)).x, whole)
    assert error[24, None] < 0.6 * error[6, None]
    assert error[24, 2] == error[24, None]  # two bands of two rows: a width of two is all there is
    assert 2 * error[24, None] < error[24, 1] < error[24, 0]


def test_bands_see_and_send_what_they_should() -> None:
    bands = Bands((0, 2, 5, 7), 7, 1)
    assert bands.own(1) == (14, 35) and bands.seen(1) == (7, 42) and bands.seen(1, all_rows=True) == (0, 49)
    assert bands.sent(0, 1) == (7, 14) and bands.sent(2, 1) == (35, 42)
    first, last = bands.sent(0, 2)
    assert first == last and bands.sent(0, 2, all_rows=True) == (0, 14)
    fashion = wb.Network(DiT(width=32, depth=1), "linear", "flow", (1, 28, 28), 10)
    assert bands_of(fashion, 3).cuts == (0, 2, 5, 7)


def test_two_processes_draw_the_emulated_samples() -> None:
    """Synchronous and stale steps, partial conditioning, guidance, and a wrong label that ends the group with a sentence."""
    model, plan = tiny(), wb.plan("dpmpp_2m", "linear", 6)
    with PatchGroup(model, ranks=2) as group:
        for options in ({"warmup": 2}, {"warmup": 1, "width": 1, "guidance": 2.0}):
            made = group.sample(plan, NOISE, LABELS, **options)
            assert torch.allclose(made.x, final(patch_run(plan, model, NOISE, LABELS, **options)).x, atol=1e-6)
            rows = sum(2 * 2 if i < options["warmup"] else 2 * options.get("width", 2) for i in range(6))
            batch = 12 if "guidance" in options else 6
            assert made.numbers == rows * 4 * batch * 2 * 16 * 2  # rows of 4 tokens; k and v of width 16 in 2 blocks
        with pytest.raises(WorkbenchError, match="adds noise"):
            group.sample(wb.plan("ddim", "linear", 4, eta=1.0), NOISE, LABELS)
        with pytest.raises(WorkbenchError, match="class 99 does not exist"):
            group.sample(plan, NOISE, LABELS * 0 + 99)
        with pytest.raises(WorkbenchError, match="group is closed"):
            group.sample(plan, NOISE, LABELS)


def test_seam() -> None:
    ramp = torch.arange(8.0).view(1, 1, 8, 1).expand(2, 1, 8, 3)
    step = ramp + 2.0 * (torch.arange(8) >= 4).view(1, 1, 8, 1)
    assert seam(ramp, [4]) == 1.0 and seam(step, [4]) == pytest.approx(3.0) and seam(step, [3]) < 1
    with pytest.raises(WorkbenchError, match="rows between 1 and 7"):
        seam(ramp, [8])


def test_bad_input() -> None:
    model, plan = tiny(), wb.plan("euler", "linear", 4)
    for options, message in [({"ranks": 5}, "ranks is 5"), ({"warmup": 0}, "warmup is 0"), ({"width": -1}, "width is -1")]:
        with pytest.raises(WorkbenchError, match=message):
            patch_run(plan, model, NOISE, **options)
    with pytest.raises(WorkbenchError, match="whose net is a workbench DiT"):
        patch_run(plan, wb.load("moons"), NOISE)
    with pytest.raises(WorkbenchError, match="did you mean 'nccl'"):
        PatchGroup(model, backend="ncl")
    if torch.cuda.device_count() < 2:
        with pytest.raises(WorkbenchError, match="a GPU a process"):
            PatchGroup(model, backend="nccl")
