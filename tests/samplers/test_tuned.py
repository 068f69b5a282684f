"""Schedules computed from a teacher: against brute force, closed forms of Gaussian data, and what they promise."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import workbench as wb
from workbench import schedules
from workbench.errors import UnknownName, WorkbenchError
from workbench.metrics import trajectory_error
from workbench.samplers import equal_error, fine, gits, klub, plan, run, tuned
from workbench.samplers.adjusted import adjusted
from workbench.samplers.sample import noise_for

GAUSSIAN = wb.mixture([[0.0]], [0.5])
TEACHER = wb.load("eight_gaussians")


def last(frames):
    *_, frame = frames
    return frame


def follow(teacher, times, n=64, seed=0) -> fine.Fine:
    return last(fine.following(teacher, times, n, seed))


# -- the loop with a hand on its state, and the fine trajectory


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "unipc", "dpm_3", "dpmpp_2m_sde", "ghvb"])
def test_adjusting_nothing_is_running(sampler: str) -> None:
    made, noise = plan(sampler, "linear", 5), noise_for(TEACHER, 9, seed=3)
    changed = adjusted(made, TEACHER, noise * made.path.sigma(made.times[0]), lambda i, x: x, seed=4)
    assert torch.equal(changed, last(run(made, TEACHER, noise, seed=4)).x)


@pytest.mark.parametrize("path", ["linear", "vp", "edm", "trig"])
def test_fine_trajectories_are_those_of_the_flow(path: str) -> None:
    """Gaussian data: x_t = x_1 sqrt(V_t / V_1), V = (alpha S)^2 + sigma^2, at nodes and between them."""
    teacher = GAUSSIAN.on(path)
    times = torch.tensor([1.0, 0.83, 0.5, 0.21, 0.0371, 0.0], dtype=torch.float64)
    states = follow(teacher, fine.fine_grid(teacher.path, 200)).at(times)
    scale = ((0.5 * teacher.path.alpha(times)) ** 2 + teacher.path.sigma(times) ** 2).sqrt()
    exact = states[0] * (scale / scale[0])[:, None, None]
    assert float(((states - exact).abs() / scale[:, None, None]).max()) < 2e-3


def test_shortest_is_brute_force() -> None:
    costs = torch.rand(8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.2  # some jumps pay
    for steps, gamma in itertools.product(range(1, 8), (1.0, 1.15)):
        ways = [(0, *middle, 7) for middle in itertools.combinations(range(1, 7), steps - 1)]
        price = {way: sum(gamma**k * costs[i, j] for k, (i, j) in enumerate(itertools.pairwise(way))) for way in ways}
        assert tuple(fine.shortest(costs, steps, gamma)) == min(price, key=price.get)


# -- GITS


def test_jump_costs_of_gaussian_data() -> None:
    """One Euler jump of Gaussian data scales x by a known factor, the flow by another."""
    made, path = follow(GAUSSIAN, schedules.get("karras", "linear", 60)), GAUSSIAN.path
    a, s = path.alpha(made.t), path.sigma(made.t)
    scale, gain = (0.25 * a**2 + s**2).sqrt(), 0.25 * a / (0.25 * a**2 + s**2)
    jump = (s[None] / s[:, None]) * (1 - a[:, None] * gain[:, None]) + a[None] * gain[:, None]
    exact = (jump - scale[None] / scale[:, None]).abs() / a[None] * made.x.abs().mean((1, 2))[:, None]
    costs = gits.jump_costs(made, "l2")
    assert torch.allclose(costs, exact.nan_to_num().triu(1), atol=2e-3)
    assert torch.allclose(costs, gits.jump_costs(made, "l1"), rtol=1e-12)  # in one dimension
    assert gits.jump_costs(made, "dev").abs().max() < 1e-12  # where nothing can stray from a line


def test_a_jump_strays_in_the_plane() -> None:
    made = follow(TEACHER, schedules.get("karras", "linear", 30))
    dev, l2 = gits.jump_costs(made, "dev"), gits.jump_costs(made, "l2")
    assert dev.abs().max() > 0.01 and bool((dev <= l2 * math.sqrt(2) + 1e-12).all())  # no farther than it errs


def test_gits_costs_fall_with_steps_and_beat_other_ways() -> None:
    made = follow(TEACHER, schedules.get("karras", "linear", 40))
    costs = gits.jump_costs(made, "l2")

    def price(nodes):
        return float(sum(costs[i, j] for i, j in itertools.pairwise(nodes)))

    prices = [price(fine.shortest(costs, steps)) for steps in range(1, 21)]
    assert all(after < before for before, after in itertools.pairwise(prices))
    assert prices[7] < 0.8 * price(range(0, 41, 5))
    chosen = gits.gits(TEACHER, 8, n=64, points=40, gamma=1.0)
    assert torch.equal(chosen, made.t[fine.shortest(costs, 8)])


def test_gits_lowers_the_error_of_euler() -> None:
    teacher = wb.load("mixture64")
    noise = noise_for(teacher, 200, seed=9)
    reference = last(run(plan("heun", "linear", 64), teacher, noise)).x
    times = tuned.tuned("gits", teacher, 5)
    ours, equal = (
        last(run(plan("euler", "linear", schedule=t), teacher, noise)).x for t in (times, [1, 0.8, 0.6, 0.4, 0.2, 0])
    )
    assert trajectory_error(ours, reference) < 0.9 * trajectory_error(equal, reference)


# -- Align Your Steps


def gaussian_curve(spread: float, low: float = -4.4, high: float = 4.4) -> klub.Curve:
    at = torch.linspace(low, high, 600, dtype=torch.float64)
    return klub.Curve(at, 1 / (spread**-2 + (2 * at).exp()))


@pytest.mark.parametrize("spread", [0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 30])
def test_klub_of_gaussian_data_is_least_in_equal_ratios(spread: float, steps: int) -> None:
    """sum (v_(i+1) - v_i) / (1/S^2 + v_i) has a fixed product of its ratios, so it is least where they are equal."""
    curve = gaussian_curve(spread)
    found = klub.least(curve, steps, -4.4, 4.4)
    ratios = (spread**-2 + (2 * found).exp()).log().diff()
    assert torch.allclose(ratios, ratios.mean().expand(steps), rtol=0.02)
    ideal = steps * (math.exp(float(ratios.sum()) / steps) - 1) / 2
    assert klub.upper_sum(curve, found) == pytest.approx(ideal, rel=1e-4)
    assert klub.klub(curve, found) == pytest.approx(ideal - float(ratios.sum()) / 2, rel=1e-3)  # the integral, by hand


def test_two_steps_are_brute_force() -> None:
    made = last(klub.measuring(TEACHER, 256, 0, 64, -3.0, 3.5))
    middle = torch.linspace(-2.999, 3.499, 4000, dtype=torch.float64)
    sums = [klub.upper_sum(made, torch.tensor([-3.0, m, 3.5], dtype=torch.float64)) for m in middle.tolist()]
    found = klub.upper_sum(made, klub.least(made, 2, -3.0, 3.5))
    assert found <= min(sums) * (1 + 1e-6)


def test_the_bound_is_a_difference_of_errors() -> None:
    """E|D(x_u) - D(x_v)|^2 = mmse(v) - mmse(u) along the forward process, the identity that the optimiser rests on."""
    n = 40_000
    data, rng = TEACHER.sample(n, 0), torch.Generator().manual_seed(1)
    first, second = (torch.randn(n, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    less, more = 0.4, 1.1  # rho
    y = data + less * first
    noisier = y + math.sqrt(more**2 - less**2) * second
    near, far = (TEACHER(z / (1 + rho), rho / (1 + rho)) for z, rho in ((y, less), (noisier, more)))
    moved = (near - far).square().sum(1)
    gained = (far - data).square().sum(1) - (near - data).square().sum(1)
    gap = moved - gained
    assert moved.mean() > 0.1 and abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(n)


def test_aligned_steps_beat_every_schedule_by_hand() -> None:
    """On fresh data, by the bound."""
    ends = klub.ends(TEACHER.path, 1.0, 0.0)
    curve = last(klub.measuring(TEACHER, 512, 5, 64, *ends))

    def bound(times) -> float:
        at = TEACHER.path.log_snr(times).clamp(*ends)
        at[0], at[-1] = ends
        return klub.klub(curve, at)

    ours = bound(tuned.tuned("ays_tuned", TEACHER, 8))
    for name in schedules.NAMES:
        assert ours < bound(schedules.get(name, "linear", 8)), name


def test_a_networks_samples_are_its_data() -> None:
    class Net:  # the mixture, without what makes it exact
        path, shape, name, sampling = TEACHER.path, TEACHER.shape, "net", None

        def __call__(self, x, t, cond=None):
            return TEACHER(x, t)

    theirs, ours = klub.align_your_steps(Net(), 5), klub.align_your_steps(TEACHER, 5)
    assert torch.allclose(theirs, ours, atol=0.05)


# -- equal errors


@pytest.mark.parametrize(("sampler", "steps"), [("dpmpp_2m", 8), ("euler", 6), ("heun", 5)])
def test_local_errors_are_equal_on_other_noise(sampler: str, steps: int) -> None:
    times = tuned.tuned("equal_error", TEACHER, steps, sampler=sampler)
    other = follow(TEACHER, fine.fine_grid(TEACHER.path, 200), 512, seed=11)
    same = follow(TEACHER, fine.fine_grid(TEACHER.path, 200), 256, seed=0)
    errors = equal_error.errors_on(same, plan(sampler, "linear", schedule=times), TEACHER)
    assert float((errors / errors.mean() - 1).abs().max()) < 0.05
    errors = equal_error.errors_on(other, plan(sampler, "linear", schedule=times), TEACHER)
    assert float((errors / errors.mean() - 1).abs().max()) < 0.25
    uniform = equal_error.errors_on(same, plan(sampler, "linear", steps), TEACHER)
    assert uniform.max() > 2 * uniform.min()


def test_local_errors_of_euler_on_gaussian_data() -> None:
    made, times = follow(GAUSSIAN, fine.fine_grid(GAUSSIAN.path, 400)), torch.linspace(1, 0, 5, dtype=torch.float64)
    errors = equal_error.errors_on(made, plan("euler", "linear", schedule=times), GAUSSIAN)
    a, s = 1 - times, times
    scale, gain = (0.25 * a**2 + s**2).sqrt(), 0.25 * a / (0.25 * a**2 + s**2)
    kept = s[1:] / s[:-1]
    jump = kept + (a[1:] - kept * a[:-1]) * gain[:-1]
    rms = made.at(times)[:-1].square().mean((1, 2)).sqrt()
    assert torch.allclose(errors, (jump - scale[1:] / scale[:-1]).abs() * rms, rtol=0.01)


def test_equal_errors_lower_the_error_of_eight_evaluations() -> None:
    noise = noise_for(TEACHER, 1000, seed=9)
    reference = last(run(plan("heun", "linear", 128), TEACHER, noise)).x
    times = tuned.tuned("equal_error", TEACHER, 8)
    ours, uniform = (last(run(plan("dpmpp_2m", "linear", 8, t), TEACHER, noise)).x for t in (times, "uniform"))
    assert trajectory_error(ours, reference) < 0.7 * trajectory_error(uniform, reference)


@pytest.mark.parametrize("path", ["vp", "edm"])
def test_equal_errors_are_those_of_every_path(path: str) -> None:
    """The same log-SNRs, whatever the path is."""
    ours = tuned.tuned("equal_error", TEACHER.on(path), 6, tolerance=0.02)
    linear = tuned.tuned("equal_error", TEACHER, 6, tolerance=0.02)
    assert torch.allclose(wb.paths.get(path).log_snr(ours[1:-1]), wb.paths.linear.log_snr(linear[1:-1]), atol=0.12)


# -- by name


@pytest.mark.parametrize("name", tuned.TUNED)
def test_every_tuned_schedule_falls_and_repeats(name: str) -> None:
    for steps in (1, 2, 7):
        times = tuned.tuned(name, TEACHER, steps, n=32)
        assert times.dtype == torch.float64 and len(times) == steps + 1
        assert times[0] == 1 and times[-1] == 0 and bool((times.diff() < 0).all())
    within = tuned.tuned(name, TEACHER, 5, n=32, t_start=0.9, t_end=0.1)
    assert (float(within[0]), float(within[-1])) == pytest.approx((0.9, 0.1), abs=1e-9) and bool((within.diff() < 0).all())
    again = tuned.times_of(tuned.TUNED[name](TEACHER, 7, n=32))
    assert torch.equal(again, tuned.tuned(name, TEACHER, 7, n=32))
    assert not torch.equal(again, tuned.tuned(name, TEACHER, 7, n=32, seed=1)) or name == "gits"


def test_kept_by_what_the_teacher_answers() -> None:
    wide, narrow = wb.mixture([[0.0, 1.0]], [0.5]), wb.mixture([[0.0, 1.0]], [0.05])
    first = tuned.tuned("ays_tuned", wide, 4, n=32)
    assert not torch.allclose(first, tuned.tuned("ays_tuned", narrow, 4, n=32))  # both are called "mixture"
    asked = wb.Counted(wb.mixture([[0.0, 1.0]], [0.5]))
    second = tuned.tuned("ays_tuned", asked, 4, n=32)
    assert torch.equal(first, second) and asked.calls == 2
    second[1] = 0.0  # the caller's own
    assert torch.equal(first, tuned.tuned("ays_tuned", wide, 4, n=32))


@pytest.mark.parametrize("name", tuned.TUNED)
def test_sampling_takes_the_name(name: str) -> None:
    x = wb.sample(TEACHER, 6, steps=4, schedule=name, sampler="dpmpp_2m", seed=2)
    times = tuned.tuned(name, TEACHER, 4, **({"sampler": "dpmpp_2m"} if name == "equal_error" else {}))
    assert torch.equal(x, wb.sample(TEACHER, 6, schedule=times, sampler="dpmpp_2m", seed=2))
    column = wb.compare.Column(TEACHER, schedule=name, steps=4, sampler="dpmpp_2m")
    assert column.plan().times == tuple(times.tolist()) and column.plan().schedule == name


def test_options_go_to_the_schedule_and_to_the_sampler() -> None:
    made = tuned.tuned_plan("equal_error", TEACHER, 5, "ddim", points=40, eta=0.0, t_end=0.05)
    assert made.times[-1] == 0.05 and made.sampler == "ddim" and made.options["points"] == 40
    with pytest.raises(WorkbenchError, match="'ddim' adds noise, so its steps have no error of their own"):
        tuned.tuned_plan("equal_error", TEACHER, 5, "ddim", points=40, eta=0.5)


@pytest.mark.parametrize(
    ("name", "steps", "options", "kind", "message"),
    [
        ("gitts", 4, {}, UnknownName, "unknown tuned schedule 'gitts': did you mean 'gits'"),
        ("gits", 4, {"costs": "l2"}, UnknownName, "did you mean 'cost'"),
        ("gits", 4, {"cost": "l3"}, UnknownName, "unknown cost 'l3'"),
        ("gits", 4, {"gamma": 0.0}, WorkbenchError, "gamma is 0.0, but must be positive"),
        ("gits", 70, {}, WorkbenchError, "steps is 70, but must be a whole number from 1 to 60"),
        ("ays_tuned", 101, {}, WorkbenchError, "from 1 to 100"),
        ("ays_tuned", 4, {"rho_min": 100.0}, WorkbenchError, "rho_min = 100 must lie between"),
        ("equal_error", 4, {"tolerance": 0.0}, WorkbenchError, "tolerance is 0, but must lie between 0 and 1"),
        ("equal_error", 4, {"sampler": "dpmp"}, UnknownName, "unknown sampler"),
        ("equal_error", 0, {}, WorkbenchError, "steps is 0"),
    ],
)
def test_impossible_requests(name: str, steps: int, options: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        tuned.tuned(name, TEACHER, steps, **options)


def test_a_flow_map_has_no_trajectory() -> None:
    net = wb.Network(lambda x, t, cond, s: x, "linear", "flow", (2,), two_times=True)
    with pytest.raises(WorkbenchError, match="a flow map has no trajectory to follow"):
        tuned.tuned("gits", net, 4)
