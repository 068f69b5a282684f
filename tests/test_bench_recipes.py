"""The recipe benchmark: what a cell measures is right, and a sweep keeps, redoes and refuses cells as it says."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace

import pytest
import torch

import workbench as wb
from workbench import cli, metrics
from workbench.bench import cell
from workbench.bench import recipes as bench
from workbench.distill.recipes import RECIPES, get
from workbench.errors import UnknownName, WorkbenchError
from workbench.networks.mlp import MLP
from workbench.samplers.sample import Sampling
from workbench.student import make_card, save
from workbench.views import leaderboard, leaderboard_table, sketch
from workbench.views.leaderboard import ranked

CHILD = """
import json, sys, time
asked = json.load(open(sys.argv[1]))
if asked["recipe"] == "kd":
    sys.exit("out of memory")
time.sleep(60 if asked["recipe"] == "boot" else 0.05)
figures = {"1": {"sw2": 0.1, "ratio": 2.0, "ratio_error": 0.1, "off_mode": 0.2, "modes": 1.0}, "2": None, "4": None}
row = {"steps": 10, "seconds": 1.0, "preparing": 0.5, "per_second": 10.0, "peak_mb": 400.0, "figures": figures, "curve": [[1.0, 10, {"1": 2.0}]]}
row |= {key: asked[key] for key in ("space", "recipe", "settings", "signature")}
open(asked["out"], "w").write(json.dumps(row))
"""


@pytest.fixture
def child(monkeypatch, tmp_path):
    """A process that answers at once in place of one that trains: `kd` dies, `boot` does not end."""
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setattr(bench, "CHILD", (str(tmp_path / "child.py"),))
    monkeypatch.setattr(bench, "POLL", 0.02)
    return tmp_path / "cells"


def made(recipe="cd", space="eight_gaussians", ratio=2.0, **more):
    """One row as a sweep collects it."""
    figures = {
        "1": {"sw2": 0.04 * ratio, "ratio": ratio, "ratio_error": 0.1, "off_mode": 0.1, "modes": 1.0, "paired": 0.3},
        "2": None,
    }
    row = {"space": space, "recipe": recipe, "steps": 100, "seconds": 60.0, "preparing": 2.0, "per_second": 1.7, "peak_mb": 400.0,
           "figures": figures, "curve": [[30.0, 50, {"1": 2 * ratio}], [60.0, 100, {"1": ratio}]]}  # fmt: skip
    return row | more


# ---- what a cell measures -----------------------------------------------------------------------------------------------


def test_a_student_of_pure_noise_is_measured_in_one_step_alone():
    path = wb.paths.get("linear")
    assert [count for count, plan in cell.plans(get("dmd2"), path).items() if plan] == [1]
    assert [plan.evaluations for plan in cell.plans(get("cd"), path).values()] == [1, 2, 4]
    assert [cell.one_step_only(get(name)) for name in ("kd", "boot", "freeflow", "reflow", "mmd")] == [True] * 3 + [False] * 2
    assert not cell.one_step_only(get("dmd2").configured(inputs=4))
    assert cell.plan_of(Sampling("heun"), path, 4) is None  # the last of Heun's steps takes one evaluation
    assert cell.plan_of(Sampling("heun"), path, 5).steps == 3


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_can_be_measured_in_some_number_of_evaluations(name):
    assert any(cell.plans(get(name).fitted((2,), True), wb.paths.get("linear")).values())


def test_exact_draws_are_at_the_floor_and_at_the_modes():
    for name, most in (("eight_gaussians", 0.002), ("mixture64", 0.002)):
        teacher = wb.load(name)
        law = cell.Law(teacher, 512)
        assert law.modes(torch.cat(law.exact)) == pytest.approx((1.0, 0.0), abs=most)
        draw = lambda n, steps, seed, batch, teacher=teacher: teacher.sample(n, seed=seed)  # noqa: E731
        found = cell.measure(law, draw, {1: wb.plan("ddim", "linear", 1), 2: None}, 8)
        assert found["2"] is None and found["1"]["ratio"] == pytest.approx(1, abs=0.35)


def test_modes_are_those_of_the_metric_and_a_shift_is_seen():
    teacher = wb.load("eight_gaussians")
    law, x = cell.Law(teacher, 512), 1.3 * teacher.sample(2000, seed=5)
    covered = metrics.mode_coverage(x, teacher.means, 0.1)
    assert law.modes(x) == pytest.approx((covered.hit, covered.off)) and covered.off > 0.1
    moved = cell.measure(
        law, lambda n, steps, seed, batch: teacher.sample(n, seed=seed) + 3, {1: wb.plan("ddim", "linear", 1)}, 2
    )
    assert moved["1"]["sw2"] == pytest.approx(3, rel=0.05) and moved["1"]["off_mode"] == 1


def test_the_paired_error_is_to_the_exact_flow_and_leaves_noisy_chains_out(monkeypatch):
    monkeypatch.setattr(cell, "PAIRED", 128)
    student = wb.load("moons")
    student.sampling = Sampling("heun")
    plans = {
        7: wb.plan("heun", "linear", 4),
        99: wb.plan("heun", "linear", 50),
        4: wb.plan("consistency", "linear", 4),
        2: None,
    }
    found = cell.paired(wb.load("moons"), student, plans)
    assert found["4"] is found["2"] is None and found["99"] < 0.01 < found["7"]


def test_a_cell_trains_by_the_processors_clock_and_measures_at_its_marks(tmp_path):
    row = cell.run("moons", "cd", 0.4, 0, tmp_path, n=128, draws=2)
    assert (
        row["seconds"] >= 0.4
        and row["steps"] >= 1
        and row["per_second"] == pytest.approx(row["steps"] / row["seconds"], rel=0.05)
    )
    assert [one and set(one) >= {"ratio", "off_mode", "paired"} for one in row["figures"].values()] == [True] * 3
    assert row["figures"]["1"]["paired"] > 0 and row["figures"]["2"]["paired"] is None
    assert row["curve"][-1][1] == row["steps"] and 0 < row["base_mb"] <= row["peak_mb"]
    json.dumps(row)


def test_a_recipe_that_adapts_a_student_is_given_one_whose_training_counts_as_preparation(tmp_path, monkeypatch):
    given = []
    plain = cell.distill
    monkeypatch.setattr(cell, "distill", lambda *a, **kw: given.append((a[1], kw.get("init"))) or plain(*a, **kw))
    row = cell.run("eight_gaussians", "nct", 0.3, 0, tmp_path, n=128, draws=2)
    assert [name for name, _ in given] == [cell.START[0], "nct"] and given[0][1] is None
    assert given[1][1].role == "student" and given[1][1].card["recipe"] == cell.START[0]
    assert row["preparing"] >= 0.1 and row["seconds"] < 1 and row["figures"]["1"]["ratio"] > 0
    given.clear()
    assert cell.run("eight_gaussians", "ct", 0.1, 0, tmp_path / "ct", n=128, draws=2)["preparing"] == 0.0 and len(given) == 1


def test_the_clock_of_a_run_can_be_chosen(tmp_path):
    ticks = itertools.count()
    *_, last = wb.distill(wb.load("moons"), "cd", run=tmp_path, seconds=5, batch=16, clock=lambda: float(next(ticks)))
    assert (last.step, last.seconds) == (5, 5.0)


def test_memory_of_measuring_does_not_count(monkeypatch):
    marks = iter([100.0, 150.0, 400.0, 400.0, 400.0, 500.0, 500.0])
    monkeypatch.setattr(cell, "resident", lambda: next(marks))
    memory = cell.Memory()  # 100 before training
    for peak in (150.0, 150.0, 500.0):  # training raised it to 150, measuring to 400, training again to 500
        memory.before()
        memory.after()
        assert memory.peak == peak


# ---- a sweep ------------------------------------------------------------------------------------------------------------


def test_a_finished_cell_is_kept_and_a_changed_recipe_is_done_again(child, monkeypatch):
    rows = [now.row for now in bench.sweep(["cd", "ect"], ["moons", "mixture64"], 1, 0, 2, child) if now.row]
    assert {(row["space"], row["recipe"]) for row in rows} == set(itertools.product(("moons", "mixture64"), ("cd", "ect")))
    file = bench.file_of(child, "moons", "cd")
    before = file.stat().st_mtime_ns
    again = list(bench.sweep(["cd", "ect"], ["moons", "mixture64"], 1, 0, 2, child))
    assert len(again) == 4 and all(now.row for now in again) and file.stat().st_mtime_ns == before
    monkeypatch.setitem(RECIPES, "cd", replace(RECIPES["cd"], batch=32))
    told = [now.again for now in bench.sweep(["cd"], ["moons"], 1, 0, 1, child) if now.again]
    assert told == ["cd on moons is done again: the recipe has changed."] and file.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("changed", "told"), [({"seconds": 2}, "seconds = 1.0 and not 2.0"), ({"seed": 1}, "seed = 0 and not 1")]
)
def test_a_folder_of_another_budget_or_seed_is_refused(child, changed, told):
    list(bench.sweep(["cd"], ["moons"], 1, 0, 1, child))
    with pytest.raises(WorkbenchError, match=f"holds cells with {told}"):
        bench.sweep(["cd"], ["moons"], **{"seconds": 1, "seed": 0, **changed}, cells=child)


def test_rows_of_an_earlier_file_stay_and_are_not_done_again(child, tmp_path):
    rows = [now.row for now in bench.sweep(["cd", "ect"], ["moons"], 1, 0, 2, child) if now.row]
    known = bench.collect(rows)
    elsewhere = tmp_path / "elsewhere"
    found = list(bench.sweep(["cd"], ["moons"], 1, 0, 1, elsewhere, known))
    assert [now.row["recipe"] for now in found] == ["cd"] and {file.name for file in elsewhere.iterdir()} == {"settings.json"}
    merged = bench.collect([now.row for now in found], 1, known)
    assert [row["recipe"] for row in merged["rows"]] == ["cd", "ect"] and merged == {**known, "rows": merged["rows"]}
    with pytest.raises(WorkbenchError, match=r"the file of earlier rows holds cells with seconds = 1\.0 and not 2\.0"):
        bench.sweep(["cd"], ["moons"], 2, 0, 1, elsewhere, known)


def test_a_cell_that_dies_is_a_row_and_is_tried_again(child):
    row = next(now.row for now in bench.sweep(["kd"], ["moons"], 1, 0, 1, child) if now.row)
    assert row["failed"] == "its process ended without a row (status 1); its last line: out of memory"
    assert [now.again for now in bench.sweep(["kd"], ["moons"], 1, 0, 1, child) if now.again]


def test_stopping_loses_the_cells_at_work_alone(child):
    doing = bench.sweep(["cd", "boot"], ["moons"], 1, 0, 2, child)
    began = time.monotonic()
    for now in doing:
        if now.done == 1:
            assert [key for key in now.running] == [("moons", "boot")]
            break
    doing.close()
    assert time.monotonic() - began < 20
    assert {file.name for file in child.iterdir()} == {"settings.json", "moons--cd.json"}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"only": ["ddm2"]}, "'dmd2'"), ({"spaces": ["digits"]}, "space 'digits'"), ({"seconds": 0}, "seconds is 0"),
        ({"seconds": float("nan")}, "seconds is nan"), ({"jobs": 0}, "jobs"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_runs(tmp_path, asked, told):
    with pytest.raises(WorkbenchError, match=told):
        bench.sweep(**asked, cells=tmp_path / "cells")
    assert not (tmp_path / "cells").exists()


def test_the_command_prints_a_table_and_writes_the_rows(child, tmp_path, capsys):
    out = tmp_path / "recipes.json"
    words = ["bench", "recipes", "--only", "cd,kd", "--spaces", "moons", "--seconds", "1", "--jobs", "2", "--cells", str(child)]
    assert cli.main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "2/2" in printed.err and "sw2/floor" in printed.out and "out of memory" in printed.out
    content = bench.load(out)
    assert [row["recipe"] for row in content["rows"]] == ["cd", "kd"] and content["versions"]["torch"] in torch.__version__
    assert (
        content["settings"]["seconds"] == 1
        and "CPU cores" in content["hardware"]
        and content["rows"][0]["paper"] == get("cd").paper
    )
    assert len(out.read_text().splitlines()) < 40  # a row is a line
    assert cli.main([*words, "--out", "rows.txt"]) == 2 and "must end in .json" in capsys.readouterr().err
    assert cli.main(["bench", "recipes", "--only", "nonsense"]) == 2


# ---- what is made of it -------------------------------------------------------------------------------------------------


def test_entries_are_one_for_each_number_of_evaluations_that_there_is():
    one, *failed = bench.entries({"rows": [made(), {"space": "moons", "recipe": "ect", "failed": "It diverged."}]})
    assert one[:4] == ("cd", "eight_gaussians", 1, 2.0) and one.cost == 62 and one.curve == ((32.0, 4.0), (62.0, 2.0))
    assert [entry.failed for entry in failed] == ["It diverged."] * 3 and failed[0].quality is None


def test_students_of_the_zoo_are_entries_too(home):
    net = MLP(dim=2, width=16, depth=1, classes=8)
    card = make_card(
        net, name="eight_gaussians/mine", role="student", shape=(2,), sampling=Sampling("consistency", 2), teacher="eight_gaussians",
        recipe="cd", trained={"steps": 50, "seconds": 5.0}, figures={"paired_rms": 0.2, "sw2": 0.12, "sw2_floor": 0.04},
    )  # fmt: skip
    save(net, card, home / "zoo" / "eight_gaussians" / "mine")
    found = {(entry.model, entry.evaluations): entry for entry in bench.own_entries()}
    mine = found["eight_gaussians/mine", 2]
    assert (mine.source, mine.recipe, mine.cost, mine.per_second) == ("your own", "cd", 5.0, 10.0)
    assert mine.quality == pytest.approx(3) and mine.paired == 0.2
    bundled = found["digits/dmd2", 1]
    assert bundled.source == "bundled" and bundled.quality > 1 and 0 < bundled.modes <= 1


def test_without_a_result_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "STORED", tmp_path / "recipes.json")
    with pytest.raises(
        WorkbenchError, match=r"not been measured yet: `workbench bench recipes --out workbench/bench/recipes\.json`"
    ):
        bench.load()
    (tmp_path / "recipes.json").write_text("[]")
    with pytest.raises(WorkbenchError, match="is not a result of"):
        bench.load()


def entries_of(*rows):
    return bench.entries({"rows": list(rows)})


def test_the_figure_draws_every_run_and_its_title_is_true():
    spaces = ("eight_gaussians", "checkerboard")
    rows = [made(name, space, ratio) for space in spaces for name, ratio in (("cd", 1.2), ("ect", 3.0), ("kd", 1.1))]
    rows += [{"space": "checkerboard", "recipe": "boot", "failed": "It diverged."}]
    figure = leaderboard(entries_of(*rows))
    assert figure.layout.title.text == "1 evaluation: kd comes nearest, 1.1 x floor on eight_gaussians (2 of 3 within 1.25)"
    ends = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(ends) == 6 and {trace.x[0] for trace in ends} == {62.0}
    assert sorted(trace.name for trace in figure.data if trace.showlegend) == sorted(
        ["cd", "ect", "kd", "noise floor", "1.25 x floor"]
    )
    assert [note.text for note in figure.layout.annotations] == list(spaces)
    assert sketch.svg(figure).startswith("<svg")
    with pytest.raises(WorkbenchError, match="measured at 4 evaluations"):
        leaderboard(entries_of(*rows), 4)


def test_figures_of_the_same_entries_agree_in_their_colours():
    second = {"1": None, "2": {"sw2": 0.1, "ratio": 1.1, "ratio_error": 0.1, "off_mode": 0.1, "modes": 1.0}}
    rows = [made(f"r{k}", "moons", 1.0 + k) for k in range(10)]
    entries = entries_of(*rows, made("r9", "moons", figures=second, curve=[[60.0, 100, {"1": None, "2": 1.1}]]))
    colours = [
        {trace.name: trace.marker.color for trace in leaderboard(entries, n).data if trace.mode == "markers"} for n in (1, 2)
    ]
    assert colours[0]["r9"] == colours[1]["r9"] != colours[0]["r8"]  # best at two evaluations; r8 is grey
    assert len(set(colours[0].values())) == 9 and leaderboard(entries, 1) == leaderboard(entries, 1)


def test_the_best_come_first_and_a_missing_space_counts_as_the_worst():
    rows = [made("cd", "moons", 1.0), made("ect", "moons", 2.0), made("ect", "spirals", 2.0), made("kd", "spirals", 9.0)]
    assert ranked([one for one in entries_of(*rows) if one.evaluations == 1]) == ["ect", "cd", "kd"]


def test_the_table_holds_what_was_measured_and_escapes_the_rest():
    failed = {"space": "moons", "recipe": "ect", "failed": "<b>NaN</b>"}
    text = leaderboard_table(entries_of(made(), made("kd", ratio=1.5), failed))
    assert text.index(">kd<") < text.index(">cd<") < text.index(">ect<")  # of one space the best first
    assert "<b>1.5</b>" in text and "&lt;b&gt;NaN" in text and text.count("onclick=") == text.count("<th ")
    with pytest.raises(WorkbenchError, match="no entries"):
        leaderboard_table([])


def test_an_unknown_recipe_is_told_with_the_nearest():
    with pytest.raises(UnknownName, match="dmd2"):
        bench.sweep(["dmd3"])


@pytest.mark.slow
def test_a_real_cell_in_its_own_process(tmp_path):
    settings = {"seconds": 0.3, "seed": 0, "n": 128, "draws": 2}
    row = next(now.row for now in bench._sweep([("moons", "ect")], settings, 1, tmp_path) if now.row)
    assert "failed" not in row and row["figures"]["1"]["ratio"] > 0 and row["settings"] == settings


@pytest.mark.browser
def test_a_click_on_a_heading_sorts_the_table(chromium):
    playwright = pytest.importorskip("playwright.sync_api")
    text = leaderboard_table(entries_of(made("cd", ratio=2.0), made("kd", ratio=10.0), made("ect", ratio=1.5)))
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_content(text)
        order = lambda: page.locator("tbody td:first-child").all_inner_texts()  # noqa: E731
        heading = page.locator("th").filter(has_text="distance / floor")
        seen = [order()]
        for _ in range(2):
            heading.click()
            seen.append(order())
        browser.close()
    assert seen == [["ect", "cd", "kd"], ["ect", "cd", "kd"], ["kd", "cd", "ect"]]
