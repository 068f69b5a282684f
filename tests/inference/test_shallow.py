"""The shallow start: its level in closed form, its first state, its two ends, and what it trades."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench import paths
from workbench.errors import WorkbenchError
from workbench.inference import shallow_level, shallow_noise, shallow_plan, shallow_sample
from workbench.metrics import sliced_wasserstein
from workbench.samplers.run import initial_noise
from workbench.samplers.sample import Sampling

F64 = torch.float64
PAIRS = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.mark.parametrize("path", ["linear", "cosine", "vp", "edm"])
@pytest.mark.parametrize("kappa", [0.1, 2.0])
def test_the_level_is_where_the_mean_divergence_is_kappa(path, kappa):
    law, (x0, prediction) = paths.get(path), PAIRS
    t = shallow_level(path, x0, prediction, kappa)

    def divergence(t):
        truth, cheap = (torch.distributions.Normal(law.alpha(t) * each, law.sigma(t)) for each in (x0, prediction))
        return float(torch.distributions.kl_divergence(truth, cheap).sum(1).mean())

    assert 0 < t < 1 and divergence(t) == pytest.approx(kappa, rel=1e-6)
    assert divergence(0.9 * t) > kappa > divergence(min(1.0, 1.1 * t))  # the least noisy such time


@pytest.mark.parametrize("path", ["linear", "vp"])
def test_the_run_starts_from_the_noised_prediction(path):
    law, prediction = paths.get(path), PAIRS[0]
    noise = shallow_noise(path, prediction, 0.6, seed=5)
    first = next(wb.run(wb.plan("ddim", path, 3, t_start=0.6), wb.mixture([[0.0] * 3], [1.0], path=path), noise))
    eps = initial_noise(40, (3,), 5, F64)
    assert torch.allclose(first.x, law.alpha(0.6) * prediction + law.sigma(0.6) * eps, atol=1e-14)
    part = shallow_noise(path, prediction[10:13], 0.6, seed=5, index=range(10, 13))
    assert torch.equal(part, noise[10:13])  # noise belongs to the sample


def test_from_the_top_it_is_the_full_run():
    moons = wb.load("moons")
    full = wb.sample(moons, 16, cond=1, steps=6, seed=3)
    anything = torch.full((16, 2), 7.0, dtype=F64)
    assert torch.equal(shallow_sample(moons, anything, 1.0, cond=1, steps=6, seed=3), full)


def test_quality_is_bought_with_evaluations():
    """aux = E[x0 | c]: two modes a class, so the prediction lies between them; sw2 falls as the start is noisier. n = 1000."""
    law = wb.mixture([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0], [0.5, 1.0]], [0.15] * 4, labels=[0, 0, 1, 1])
    cond = torch.arange(1000) % 2
    means = torch.stack([law.means[law.labels == c].mean(0) for c in (0, 1)])
    truth, distances, counts = law.sample(1000, 1, cond), [], []
    for t in (0.1, 0.3, 0.5, 0.8, 1.0):
        plan = shallow_plan(law, t, 20)
        x = shallow_sample(law, means[cond], t, cond, 20, seed=2)
        distances.append(sliced_wasserstein(x, truth))
        counts.append(plan.evaluations)
    assert distances == sorted(distances, reverse=True) and counts == [3, 11, 19, 31, 39]
    assert distances[0] > 5 * distances[-1]
    level = shallow_level(law.path, truth, means[cond], kappa=0.1)
    at_level = shallow_sample(law, means[cond], level, cond, 20, seed=2)
    assert level < 1 and sliced_wasserstein(at_level, truth) < 1.5 * distances[-1]


def test_its_plan_keeps_the_models_settings():
    moons = wb.load("moons")
    assert shallow_plan(moons, 0.5, 10).times == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    moons.sampling = Sampling("ddim", 8, options={"eta": 0.3}, times={"8": [1.0, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.0]})
    plan = shallow_plan(moons, 0.5)
    assert (plan.sampler, plan.steps, plan.options["eta"], plan.times[0]) == ("ddim", 4, 0.3, 0.5)
    assert shallow_plan(moons, 1.0).times == moons.sampling.plan("linear").times
    assert shallow_plan(moons, 0.01).steps == 1 and shallow_plan(moons, 0.5, sampler="heun").sampler == "heun"


def test_bad_input():
    x0, prediction = PAIRS
    with pytest.raises(WorkbenchError, match="pairs of the same shape"):
        shallow_level("linear", x0, prediction[:3])
    with pytest.raises(WorkbenchError, match="squared error is 0"):
        shallow_level("linear", x0, x0)
    with pytest.raises(WorkbenchError, match="kappa is -1"):
        shallow_level("linear", x0, prediction, -1)
    with pytest.raises(WorkbenchError, match="t is 0"):
        shallow_noise("linear", x0, 0.0)
