"""Regions on a mixture whose unedited coordinates are a point mass: nothing is lost there, and the rest costs its share."""

from __future__ import annotations

import math

import pytest
import torch

import workbench as wb
from workbench.errors import WorkbenchError
from workbench.inference.regions import differs, region_run, straightness
from workbench.inference.resolution import final
from workbench.inference.tokens import PartialDiT
from workbench.networks.dit import DiT

F64 = torch.float64
KNOWN = torch.linspace(-0.8, 0.8, 6, dtype=F64)
CENTRES = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=F64)
SPREAD = torch.diag(torch.tensor([0.04] * 2 + [1e-16] * 6, dtype=F64))
TEACHER = wb.mixture(torch.cat([CENTRES, KNOWN.expand(4, -1)], 1), SPREAD.expand(4, -1, -1))
REFERENCE = torch.cat([torch.tensor([3.0, 3.0], dtype=F64), KNOWN])
NOISE = torch.randn(32, 8, generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "dpmpp_2m"])
def test_a_point_mass_needs_no_evaluation(sampler: str) -> None:
    plan = wb.plan(sampler, TEACHER.path, 20)
    *_, whole = wb.run(plan, TEACHER, NOISE)
    frames = list(region_run(plan, TEACHER, NOISE, REFERENCE, warmup=4, post=1))
    count = plan.evaluations
    assert torch.allclose(frames[-1].x, whole.x, atol=1e-10)
    assert frames[-1].elements == 4 + 1 + (count - 5) * 2 / 8 < count == frames[-1].nfe
    assert frames[2].edited is None and frames[-1].edited.float().mean(0).tolist() == [1.0] * 2 + [0.0] * 6


def test_when_all_is_edited_it_is_the_base_run() -> None:
    for sampler, options in (("ddim", {"eta": 1.0}), ("heun", {})):
        plan = wb.plan(sampler, TEACHER.path, 9, **options)
        *_, whole = wb.run(plan, TEACHER, NOISE, seed=5)
        last = final(region_run(plan, TEACHER, NOISE, REFERENCE, seed=5, warmup=2, threshold=-1.0))
        assert torch.equal(last.x, whole.x) and last.elements == plan.evaluations


def test_when_nothing_is_edited_the_run_jumps() -> None:
    point = wb.mixture(KNOWN[None], [1e-8])
    counted = wb.Counted(point)
    last = final(region_run(wb.plan("ddim", point.path, 10), counted, NOISE[:, :6], KNOWN, warmup=2, post=0))
    assert counted.calls == last.nfe == 2 and last.elements == 2
    assert torch.allclose(last.x, KNOWN.expand(32, 6), atol=1e-7)


def test_refresh_corrects_what_was_frozen_too_early() -> None:
    """Frozen after one evaluation, the wrong coordinates keep a poor estimate; refreshing brings them back."""
    teacher, plan = wb.mixture(CENTRES, [0.2] * 4), wb.plan("ddim", "linear", 24)
    noise = NOISE[:, :2]
    exact, error = final(wb.run(plan, teacher, noise)).x, {}
    for refresh in (0, 8, 2, 1):
        last = final(region_run(plan, teacher, noise, CENTRES[0], warmup=1, post=0, refresh=refresh, threshold=10.0))
        error[refresh] = float((last.x - exact).square().mean().sqrt())
        assert last.elements == 1 + (23 // refresh if refresh else 0)
    assert error[0] > 1.5 * error[8] > 3 * error[2] > 0 and error[1] < 1e-12


def test_settled_times_are_where_each_element_is_known_to() -> None:
    plan = wb.plan("ddim", "linear", 10)
    frames = list(region_run(plan, TEACHER, NOISE, REFERENCE, warmup=2, post=1, refresh=4))
    at = [(frame.settled[0, 0].item(), frame.settled[0, 7].item()) for frame in frames]
    assert at[0] == (1.0, 1.0) and at[1] == pytest.approx((0.9, 0.5)) and at[5] == pytest.approx((0.5, 0.1))
    assert at[8] == pytest.approx((0.2, 0.1)) and at[-1] == (0.0, 0.0)


def test_the_velocity_cache_skips_calls_and_is_exact_on_straight_paths() -> None:
    plan, found = wb.plan("ddim", "linear", 24), {}
    exact = final(wb.run(plan, TEACHER, NOISE)).x
    for cache in (0.0, 0.05, 0.1):
        last = final(region_run(plan, TEACHER, NOISE, REFERENCE, cache=cache))
        found[cache] = last.nfe, float((last.x - exact).square().mean().sqrt())
        assert torch.allclose(last.x[:, 2:], exact[:, 2:], atol=1e-10)
    assert found[0.0][0] == 24 > found[0.05][0] > found[0.1][0] and found[0.0][1] < 1e-12 < found[0.05][1] < found[0.1][1] < 0.1
    straight = final(region_run(plan, wb.mixture(KNOWN[None], [1e-8]), NOISE[:, :6], KNOWN, threshold=-1.0, cache=0.1))
    assert straight.nfe < 15 and torch.allclose(straight.x, KNOWN.expand(32, 6), atol=1e-7)


def test_straightness_predicts_the_split() -> None:
    straight = straightness(wb.plan("ddim", "linear", 12), TEACHER, NOISE)
    assert straight[:2].max() < 0.5 < 0.999 < straight[2:].min()


def test_tokens_of_pictures() -> None:
    picture, reference = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    picture[0, :, 2, 3] = 1.0
    assert differs(picture, reference, patch=2).flatten().tolist() == [0, 0, 0, 0.5]
    assert differs(picture + 1, reference + 1, "cosine", 2).flatten().tolist() == pytest.approx(
        [0, 0, 0, 1 - 10 / math.sqrt(14 * 8)], abs=1e-6
    )

    def model(x: torch.Tensor, t: float, cond: object = None) -> torch.Tensor:
        return picture.expand_as(x)

    model.path = wb.paths.linear
    plan, noise = wb.plan("ddim", "linear", 6), torch.randn(1, 2, 4, 4)
    found = {grow: list(region_run(plan, model, noise, reference, patch=2, grow=grow))[-1] for grow in (0, 1)}
    assert found[0].edited.float().sum() == 8 and found[1].edited.all()


def dit() -> wb.Network:
    torch.manual_seed(0)
    net = DiT(image_size=8, patch=2, width=16, depth=2, heads=2)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return wb.Network(net.eval().requires_grad_(False), "linear", "flow", (1, 8, 8), 10)


def test_a_dit_computes_edited_tokens_alone() -> None:
    model, x, label = dit(), torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 2, -1])
    parts = PartialDiT(model)
    whole = model(x, 0.6, label)
    assert torch.allclose(parts(x, 0.6, label), whole, atol=1e-6)
    edited = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    edited[0, 0, 0:2, 0:3] = edited[1, 0, 7, 7] = True  # two tokens, one, and none
    found = parts.partial(x, 0.6, label, edited)
    assert torch.allclose(found[edited], whole[edited], atol=1e-6)  # nothing is stale yet
    later = x + 0.3 * edited
    fresh, stale = model(later, 0.5, label), parts.partial(later, 0.5, label, edited)
    assert 1e-4 < float((fresh - stale)[edited].abs().max()) < float((fresh - whole)[edited].abs().max())
    alone = PartialDiT(model)
    alone(x[1:2], 0.6, label[1:2])
    one = alone.partial(later[1:2], 0.5, label[1:2], edited[1:2])
    assert torch.allclose(one[edited[1:2]], stale[1:2][edited[1:2]], atol=1e-6)  # company does not matter
    assert torch.allclose(parts.partial(later, 0.5, label, torch.ones_like(edited)), fresh, atol=1e-5)


def test_a_partial_model_runs_in_place_of_the_whole() -> None:
    model, noise = dit(), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    plan, label = wb.plan("euler", "linear", 8), torch.tensor([3, 4])
    *_, whole = wb.run(plan, model, noise, label)
    parts = PartialDiT(model)
    how = {"warmup": 2, "post": 1, "patch": 2, "partial": parts.partial}
    every = final(region_run(plan, parts, noise, whole.x, label, threshold=-1.0, **how))
    assert torch.allclose(every.x, whole.x, atol=1e-4)
    some = final(region_run(plan, parts, noise, whole.x, label, threshold=0.5, **how))
    assert some.elements < 8 and 0 < float((some.x - whole.x).abs().max()) < 1.0


def test_bad_input() -> None:
    plan = wb.plan("ddim", "linear", 6)
    for options, message in [
        ({"reference": torch.zeros(3)}, "does not fit"),
        ({"measure": "cosin"}, "did you mean 'cosine'"),
        ({"warmup": 0}, "warmup is 0"),
        ({"patch": 2}, "patches tile pictures"),
        ({"cache": 1.0}, "cache 1"),
        ({"threshold": float("nan")}, "threshold nan"),
    ]:
        with pytest.raises(WorkbenchError, match=message):
            region_run(plan, TEACHER, NOISE, **{"reference": REFERENCE, **options})
    with pytest.raises(WorkbenchError, match="smooth path"):
        region_run(wb.plan("ddim", "vp", 6), TEACHER.on("vp"), NOISE, REFERENCE, cache=0.1)
    with pytest.raises(WorkbenchError, match="whose net is a workbench DiT"):
        PartialDiT(TEACHER)
