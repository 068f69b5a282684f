"""The sweep: each combination a row, from the same noise, measured as it should be, none left out."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import pytest
import torch

import workbench as wb
from workbench import cli, metrics, zoo
from workbench.compare import Column, distance_to_law
from workbench.denoiser import Network
from workbench.errors import UnknownName, WorkbenchError
from workbench.metrics import trajectory_error
from workbench.networks.mlp import MLP
from workbench.samplers import SAMPLERS
from workbench.samplers.sample import Sampling, noise_for, sample
from workbench.schedules import NAMES
from workbench.student import make_card, save
from workbench.sweep import ERROR, STEPS, USUAL_SAMPLERS, USUAL_SCHEDULES, SweepRow, collect, sweep
from workbench.views import curves


def made(folder, name="eight_gaussians/s", teacher="eight_gaussians", seed=0, two_times=False, **sampling):
    """An untrained student of points."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = MLP(dim=2, width=16, depth=1, classes=8, two_times=two_times)
    card = make_card(net, name=name, role="student", shape=(2,), sampling=Sampling(**sampling), teacher=teacher, recipe="none")
    return save(net, card, folder)


def by_plan(rows):
    return {(row.sampler, row.schedule, row.steps): row for row in rows}


def test_every_combination_is_a_row_in_the_order_asked():
    rows = list(sweep("moons", ["heun", "euler"], ["karras", "uniform"], [3, 2], n=20))
    wanted = [(s, name, count) for count in (3, 2) for s in ("heun", "euler") for name in ("karras", "uniform")]
    assert [(row.sampler, row.schedule, row.steps) for row in rows] == wanted
    assert [row.nfe for row in rows] == [5, 5, 3, 3, 3, 3, 2, 2]
    assert all(row.n == 20 and row.seed == 0 and row.label == "moons" and row.metric == "sw2" for row in rows)
    assert all(row.ms_per_image >= 0 and 0 < row.floor < 1 and row.value > 0 for row in rows)


def test_the_default_is_every_usual_sampler_and_schedule_and_the_own_plan():
    rows = list(sweep("moons", n=10))
    assert len(rows) == len(STEPS) * len(USUAL_SAMPLERS) * len(USUAL_SCHEDULES) + 1
    assert set(by_plan(rows)) >= set(itertools.product(USUAL_SAMPLERS, USUAL_SCHEDULES, STEPS))
    assert set(USUAL_SAMPLERS) < set(SAMPLERS) and set(USUAL_SCHEDULES) <= set(NAMES)
    every = list(sweep("moons", "all", "uniform", 4, n=10))
    assert {row.sampler for row in every} == set(SAMPLERS) and all(row.value > 0 for row in every)
    own = [row for row in rows if row.own]
    assert [(r.sampler, r.schedule, r.steps) for r in own] == [("heun", "uniform", count) for count in (*STEPS, 25)]


def test_it_yields_as_it_goes_and_stops_when_left(monkeypatch):
    import workbench.sweep as module

    calls = []
    monkeypatch.setattr(module, "_draw", lambda *args, _draw=module._draw: calls.append(1) or _draw(*args))
    rows = sweep("moons", "euler", "uniform", range(1, 50), n=5)
    assert [next(rows).steps, next(rows).steps] == [1, 2]
    rows.close()
    assert len(calls) == 2


def test_orders_of_accuracy_on_one_gaussian():
    """The flow of one isotropic Gaussian is known: Euler's error falls with order 1, DPM-Solver++(2M)'s and Heun's with order 2."""
    teacher = wb.mixture([[0.5, -1.0]], [0.3])
    exact = teacher.means + 0.3 * noise_for(teacher, 60)
    for sampler, low, high in (("euler", -1.3, -0.8), ("dpmpp_2m", -2.6, -1.6), ("heun", -2.6, -1.7)):
        errors = []
        for row in sweep(teacher, sampler, "logsnr", [16, 32, 64], n=60):
            drawn = sample(teacher, 60, steps=row.steps, sampler=sampler, schedule="logsnr")
            assert row.value == pytest.approx(distance_to_law(teacher, 60).of(drawn))
            errors.append((row.steps, trajectory_error(drawn, exact)))
        assert low < curves.slope(errors) < high, (sampler, errors)


def test_figures_come_down_to_the_floor_in_the_order_of_the_solvers():
    rows = by_plan(sweep("eight_gaussians", ["euler", "dpmpp_2m"], "logsnr", [2, 8, 64], n=1000))
    euler, second = ([rows[name, "logsnr", count] for count in (2, 8, 64)] for name in ("euler", "dpmpp_2m"))
    assert [row.value for row in euler] == sorted((row.value for row in euler), reverse=True)
    assert second[1].value < 0.6 * euler[1].value and euler[0].value > 3 * euler[0].floor
    assert all(row.value < 1.5 * row.floor for row in (euler[2], second[2]))


def test_the_same_noise_and_the_same_figure_as_a_comparison(tmp_path):
    student = made(tmp_path, sampler="consistency", steps=2)
    labels = torch.arange(40) % 8
    rows = by_plan(sweep(student, ["consistency", "euler"], "uniform", [2], n=40, seed=3))
    columns = [Column(student, "consistency"), Column(student, "euler", "euler", "uniform", 2)]
    table = wb.compare(columns, 40, labels, seed=3).table
    for sampler in ("consistency", "euler"):
        assert rows[sampler, "uniform", 2].value == pytest.approx(table.loc[sampler, "sw2"], abs=6e-5)
    assert rows["euler", "uniform", 2].value != rows["consistency", "uniform", 2].value
    other = next(sweep(student, "consistency", "uniform", 2, n=40, seed=4))
    assert other.value != rows["consistency", "uniform", 2].value and other.seed == 4


def test_batches_do_not_change_a_figure(monkeypatch):
    import workbench.sweep as module

    whole = next(sweep("eight_gaussians", "consistency", "uniform", 3, n=30))
    monkeypatch.setattr(module, "BATCH", 7)
    assert next(sweep("eight_gaussians", "consistency", "uniform", 3, n=30)).value == pytest.approx(whole.value, rel=1e-9)


def test_classes_in_turn_none_or_one():
    every, none, one = (next(sweep("eight_gaussians", "euler", "uniform", 8, n=64, cond=cond)) for cond in ("all", None, 2))
    assert len({every.value, none.value, one.value}) == 3
    assert one.floor < 0.5 * none.floor  # one mode is a smaller law
    given = next(sweep("eight_gaussians", "euler", "uniform", 8, n=64, cond=[k % 8 for k in range(64)]))
    assert given[:9] == every[:9]


def test_equal_plans_run_once_and_say_so(monkeypatch):
    import workbench.sweep as module

    calls = []
    monkeypatch.setattr(module, "_draw", lambda *args, _draw=module._draw: calls.append(args[0].sampler) or _draw(*args))
    rows = list(sweep("moons", None, ["uniform", "trailing"], [1, 4], n=10))
    one = [row for row in rows if row.steps == 1]
    assert len({row.value for row in one}) == 1 and one[0].note == "" and all("euler, uniform" in row.note for row in one[1:])
    four = by_plan(row for row in rows if row.steps == 4)
    # on a straight path Euler in t is DDIM, and so is a flow map of a network with one time
    assert (
        four["ddim", "uniform", 4].note
        == four["flow_map", "trailing", 4].note
        == "the same updates as euler, uniform: not run again"
    )
    assert four["ddim", "uniform", 4].value == four["euler", "uniform", 4].value == four["euler", "trailing", 4].value
    assert sorted(calls) == sorted(["euler", "euler", "heun", "dpmpp_2m", "consistency"])
    drawn = [sample(zoo.load("moons"), 10, steps=4, sampler=name) for name in ("euler", "ddim")]
    assert torch.allclose(*drawn, atol=1e-9)


def test_a_network_with_two_times_tells_jumps_from_steps(tmp_path):
    student = made(tmp_path, two_times=True, sampler="flow_map", steps=2)
    rows = by_plan(sweep(student, ["ddim", "flow_map", "consistency"], "uniform", 2, n=20))
    assert rows["flow_map", "uniform", 2].note.startswith("the same updates as ddim")  # asked for the same jumps
    assert rows["consistency", "uniform", 2].note == "" != rows["flow_map", "uniform", 2].note
    assert rows["consistency", "uniform", 2].value != rows["ddim", "uniform", 2].value == rows["flow_map", "uniform", 2].value
    assert [row.sampler for row in rows.values() if row.own] == ["flow_map"]


def test_the_own_plan_keeps_options_and_tuned_times(tmp_path):
    student = made(tmp_path / "a", sampler="ddim", steps=2, options={"eta": 1.0})
    rows = by_plan(sweep(student, ["ddim", "euler"], "uniform", 2, n=30))
    assert rows["ddim", "uniform", 2].own and rows["ddim", "uniform", 2].value != rows["euler", "uniform", 2].value
    tuned = made(tmp_path / "b", sampler="consistency", steps=2, times={"2": [1.0, 0.7, 0.0]})
    rows = list(sweep(tuned, ["consistency"], None, [2, 4], n=30))
    own = [(row.schedule, row.steps) for row in rows if row.own]
    assert own == [("given", 2), ("uniform", 4)] and len(rows) == 2 * len(USUAL_SCHEDULES) + 1
    column = Column(student, "mine", "euler", "shift")
    assert [row.sampler for row in sweep(column, None, "shift", 2, n=10) if row.own] == ["euler"]


def test_what_cannot_run_is_a_row_with_the_reason():
    coarse = wb.mixture([[0.0, 0.0]], [0.5], path=wb.paths.from_table(1 - (torch.arange(4) + 1) / 5))
    rows = list(sweep(coarse, "ddim", ["uniform", "trailing"], 8, n=10))
    good, bad = rows
    assert math.isfinite(good.value) and good.note == ""
    assert math.isnan(bad.value) and bad.nfe is None and "take fewer steps" in bad.note and bad.schedule == "trailing"
    assert str(bad).endswith(bad.note) and "floor" in str(good)

    class Broken(type(coarse)):
        def __call__(self, x, t, cond=None):
            return super().__call__(x, t, cond) * (math.nan if t < 0.3 else 1.0)

    broken = Broken.__new__(Broken)
    broken.__dict__ = dict(coarse.__dict__)
    diverged, fine = sweep(broken, "ddim", "uniform", [4, 1], n=10)
    assert math.isnan(diverged.value) and "not finite" in diverged.note and math.isfinite(fine.value)


def test_without_a_law_the_teachers_solution_is_the_measure(tmp_path):
    net = MLP(dim=2, width=8, depth=1, classes=0)
    teacher = Network(net.eval(), "linear", "flow", (2,))
    rows = list(sweep(teacher, "dpmpp_2m", "uniform", [2, 64], n=20))
    assert rows[0].metric == ERROR and rows[0].value > rows[0].floor >= 0 and rows[1].value == pytest.approx(0, abs=1e-5)
    orphan = made(tmp_path, teacher="gone/teacher", sampler="euler", steps=1)
    with pytest.raises(WorkbenchError, match="nothing to measure eight_gaussians/s against"):
        next(sweep(orphan, "euler", "uniform", 1, n=20))


def test_images_are_measured_by_bundled_features():
    model, labels = zoo.load("digits/dmd2"), torch.arange(200) % 10
    row = next(sweep(model, "consistency", "uniform", 1, n=200))
    real, other = (metrics.reference("digits")[0][part] for part in (slice(200), slice(200, 400)))
    drawn = metrics.image_features("digits", sample(model, 200, labels))
    assert row.metric == "Frechet" and row.own and row.value == pytest.approx(metrics.frechet_distance(drawn, real), rel=1e-6)
    assert row.floor == pytest.approx(metrics.frechet_distance(other, real))
    with pytest.raises(WorkbenchError, match="n is 50, but the Frechet distance of digits/dmd2 needs at least 200"):
        next(sweep("digits/dmd2", n=50))


def test_guidance_counts_twice():
    plain, guided = (next(sweep("eight_gaussians", "euler", "uniform", 4, n=16, guidance=g)) for g in (None, 3.0))
    assert (plain.nfe, guided.nfe, plain.guidance, guided.guidance) == (4, 8, 1.0, 3.0) and plain.value != guided.value


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samplers": ["eulr"]}, "did you mean 'euler'"),
        ({"schedules": "karas"}, "did you mean 'karras'"),
        ({"steps": [0]}, "steps is 0"),
        ({"steps": "four"}, "steps is 'four'"),
        ({"steps": []}, "no number of steps"),
        ({"samplers": []}, "no sampler to try"),
        ({"n": 1}, "n is 1"),
        ({"cond": 9}, "class 9 does not exist"),
        ({"guidance": math.nan}, "guidance is nan"),
    ],
)
def test_what_is_wrong_is_said_at_once(options, said):
    with pytest.raises(WorkbenchError, match=said):
        sweep("eight_gaussians", **{"n": 10, **options})  # before the first row is asked for


def test_an_unknown_model_is_said_at_once():
    with pytest.raises(UnknownName, match="did you mean 'moons'"):
        sweep("moon")


def test_collect_makes_a_table():
    rows = [
        *sweep("moons", "euler", "uniform", [1, 2], n=10),
        SweepRow("a", "x", "y", 3, None, 1.0, "sw2", math.nan, 0.1, math.nan, 10, 0, note="no"),
    ]
    table = collect(rows)
    assert (
        list(table.columns) == list(SweepRow._fields)
        and table["nfe"].tolist()[:2] == [1, 2]
        and table["nfe"].isna().tolist()[2]
    )
    assert str(table["nfe"].dtype) == "Int64" and table["note"].tolist() == ["", "", "no"]
    assert list(collect([]).columns) == list(SweepRow._fields)


def call(capsys, *argv):
    try:
        status = cli.main(argv)
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_prints_a_table_and_the_finding(capsys, tmp_path):
    out = tmp_path / "table.csv"
    words = (
        "sweep",
        "moons",
        "--steps",
        "1,4",
        "--samplers",
        "euler,heun",
        "--schedules",
        "uniform",
        "-n",
        "60",
        "--out",
        str(out),
    )
    status, text, error = call(capsys, *words)
    assert status == 0 and "4 rows -> " in error
    assert len([line for line in text.splitlines() if line.startswith("moons  ")]) == 4
    assert "n = 60, seed 0, same noise for all" in text and "moons, 1 step: every plan is the same" in text
    table = pd.read_csv(out)
    expected = collect(sweep("moons", ["euler", "heun"], "uniform", [1, 4], n=60))
    assert (
        table["value"].tolist() == pytest.approx(expected["value"].tolist())
        and table["own"].tolist() == expected["own"].tolist()
    )


def test_the_command_writes_a_page(capsys, tmp_path):
    out = tmp_path / "map.html"
    status, _, _ = call(
        capsys,
        "sweep",
        "eight_gaussians",
        "--steps",
        "2",
        "--samplers",
        "ddim,heun",
        "--cond",
        "3",
        "-n",
        "20",
        "--out",
        str(out),
    )
    page = out.read_text(encoding="utf-8")
    assert status == 0 and len(page) < 5_000_000 and page.count('class="plot"') == 2
    assert "song2021ddim" in page and "karras2022elucidating" in page and "bonneel2015sliced" in page and "song2023" not in page
    assert "workbench sweep eight_gaussians --samplers ddim,heun --steps 2 --cond 3" in page
    assert " src=" not in page.split("<main>")[1].split("</main>")[0], "the page asks another host"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["moons", "--out", "x.txt"], "must end in .csv"),
        (["moons", "--samplers", "eular"], "did you mean 'euler'"),
        (["moons", "--steps", "a"], "--steps is 'a'"),
        (["digits/dmd2", "--cond", "10", "-n", "200"], "class 10 does not exist"),
        (["digits/dmd2", "-n", "20"], "needs at least 200"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_sentence(capsys, words, said):
    status, _, error = call(capsys, "sweep", *words)
    assert status == 2 and said in error and "Traceback" not in error and len(error.strip().splitlines()) == 1
