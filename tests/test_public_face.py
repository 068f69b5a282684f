"""The names and signatures that scripts elsewhere are written against, each called with every argument named."""

from __future__ import annotations

import inspect

import pandas
import pytest
import torch

import workbench as wb

FIXED = {
    "load": "name_or_folder",
    "catalog": "",
    "plan": "sampler path steps schedule='uniform'",
    "run": "plan model noise cond=None seed=0",
    "record": "frames",
    "sample": "model n cond=None steps=None sampler=None schedule=None guidance=None seed=0",
    "distill": "teacher recipe data=None run=None steps=None seconds=None seed=0",
    "recipes": "",
    "compare": "models n cond=None seed=0",
    "mixture": "means scales weights=None path='linear'",
}
SAMPLERS = ("euler", "heun", "ddim", "dpmpp_2m", "consistency", "flow_map")
SCHEDULES = ("uniform", "logsnr", "karras", "quadratic", "shift", "trailing")
PATHS = ("linear", "cosine", "vp", "edm", "trig")


@pytest.mark.parametrize("name", FIXED)
def test_arguments_have_these_names_in_this_order(name):
    given = [word.partition("=") for word in FIXED[name].split()]
    found = list(inspect.signature(getattr(wb, name)).parameters.values())
    assert [parameter.name for parameter in found[: len(given)]] == [word for word, _, _ in given]
    for parameter, (_, equals, default) in zip(found, given, strict=False):
        assert not equals or repr(parameter.default) == default
    for parameter in found[len(given) :]:  # what came later stands behind, and may be left out
        assert parameter.default is not parameter.empty or parameter.kind is parameter.VAR_KEYWORD
    takes_options = any(parameter.kind is parameter.VAR_KEYWORD for parameter in found)
    assert takes_options == (name in ("plan", "sample", "distill"))


@pytest.mark.parametrize("path", PATHS)
def test_every_sampler_runs_on_every_schedule_in_the_precision_of_its_noise(path):
    teacher = wb.mixture(means=[[1.0, 0.0], [-1.0, 0.5]], scales=[0.2, 0.3], weights=[1.0, 2.0], path=path)
    noise = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sampler in SAMPLERS:
        for schedule in SCHEDULES:
            plan = wb.plan(sampler=sampler, path=path, steps=3, schedule=schedule)
            frames = list(wb.run(plan=plan, model=teacher, noise=noise, cond=None, seed=0))
            assert torch.allclose(frames[0].x, teacher.path.sigma(frames[0].t) * noise, rtol=1e-12)
            last = frames[-1]
            assert last.i == plan.evaluations == last.nfe and last.t == 0.0 and last.seconds >= 0
            assert all(frame.x.dtype == frame.target.dtype == torch.float64 for frame in frames)
    assert wb.record(frames=iter(frames)).final.shape == (3, 2)


def test_scales_may_be_full_covariances():
    covariance = [[[0.2, 0.1], [0.1, 0.3]], [[0.1, 0.0], [0.0, 0.4]]]
    teacher = wb.mixture(means=[[1.0, 0.0], [-1.0, 0.5]], scales=covariance, weights=None, path="vp")
    assert torch.allclose(
        teacher.sample(50_000, seed=0, cond=None).T.cov()[1, 1], torch.tensor(0.35 + 0.0625).double(), atol=0.02
    )


def test_a_guided_evaluation_counts_as_two_and_any_callable_is_a_model():
    teacher = wb.load(name_or_folder="digits/teacher")
    plan, noise = wb.plan(sampler="euler", path=teacher.path, steps=2), torch.zeros(2, 1, 8, 8)
    for cond in (3, torch.tensor([3, 3])):
        *_, plain = wb.run(plan, teacher, noise, cond=cond)
        *_, guided = wb.run(plan, wb.Guided(teacher, 2.0), noise, cond=cond)
        assert (plain.nfe, guided.nfe) == (2, 4)

    def model(x, t, cond):
        return 0.5 * x

    model.path = wb.paths.linear
    *_, last = wb.run(wb.plan("ddim", "linear", 4), model, noise)
    assert last.nfe == 4


def test_progress_draws_from_the_first_report_on(tmp_path):
    assert all(entry.name for entry in wb.catalog()) and all(entry.name for entry in wb.recipes())
    reports = list(
        wb.distill(teacher=wb.load("moons"), recipe="reflow", data=None, run=tmp_path, steps=2, seconds=None, seed=0, count=64)
    )
    for progress in reports:  # the first ones are about the pairs, made before training
        assert progress.samples().shape == (16, 2) and isinstance(progress.losses, dict) and isinstance(progress.metrics, dict)
    assert [progress.student for progress in reports[:-1]] == [None] * (len(reports) - 1) and reports[-1].step == 2
    student = wb.load(tmp_path / "student")
    x = wb.sample(model=student, n=3, cond=1, steps=None, sampler=None, schedule=None, guidance=None, seed=4)
    assert torch.equal(x, wb.sample(reports[-1].student, 3, 1, seed=4))
    found = wb.compare(models=["moons", student], n=4, cond=None, seed=0)
    assert isinstance(found.table, pandas.DataFrame) and set(found.images) == set(found.trajectories) == set(found.table.index)


def test_paths_and_schedules_are_read_from_a_diffusers_scheduler():
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler()
    scheduler.set_timesteps(5)
    path, times = wb.paths.from_scheduler(scheduler), wb.schedules.from_scheduler(scheduler)
    assert len(times) == 6 and wb.plan("dpmpp_2m", path, 5, schedule=times).evaluations == 5
