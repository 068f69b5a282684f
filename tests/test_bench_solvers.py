"""The solver benchmark: what is stored is whole, what is measured comes out again, and the command tells it."""

from __future__ import annotations

import pytest

from workbench import cli, schedules, zoo
from workbench.bench import solvers as bench
from workbench.errors import UnknownName, WorkbenchError
from workbench.samplers import SAMPLERS, plan
from workbench.samplers.tuned import TUNED, tuned


def noisy(name: str) -> bool:
    return any(row.noise for stage in plan(name, "linear", 12).stages for row in (stage.x, stage.base) if row)


def test_every_solver_is_measured_one_way_or_the_other() -> None:
    assert set(bench.solvers()) | set(bench.STOCHASTIC) == set(SAMPLERS)
    assert {name for name in SAMPLERS if noisy(name)} == set(bench.STOCHASTIC) - {"flow_map"}  # ddim, without a flow map


def test_what_is_stored_holds_every_solver_on_every_schedule() -> None:
    entries, notes = bench.load()
    assert {note["teacher"] for note in notes} == set(bench.SPACES)
    pairs = {(sampler, schedule) for sampler in bench.solvers() for schedule in schedules.NAMES}
    for teacher in bench.SPACES:
        assert {(e.sampler, e.schedule) for e in entries if e.teacher == teacher} == pairs, teacher


@pytest.mark.parametrize(
    ("place", "names", "lists"),
    [(bench.STORED_TUNED, bench.solvers(), list(TUNED)), (bench.STORED_LAW, [n for n in bench.STOCHASTIC if n != "flow_map"], list(schedules.NAMES))],
    ids=["tuned", "law"],
)  # fmt: skip
def test_so_do_the_tuned_schedules_and_the_solvers_with_noise(place, names: list, lists: list) -> None:
    entries, notes = bench.load(place)
    assert {note["teacher"] for note in notes} >= {"eight_gaussians", "mixture64"} and all(note["floor"] > 0 for note in notes)
    for note in notes:
        found = {(e.sampler, e.schedule) for e in entries if e.teacher == note["teacher"]}
        assert found == {(name, schedule) for name in names for schedule in lists}


def test_an_error_is_relative_to_the_fine_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the stored figures come out again is checked by notebook 05."""
    monkeypatch.setitem(bench.SPACES, "eight_gaussians", (64, 64, 96))
    plain, better, note = bench.measure(["eight_gaussians"], ["ddim", "deis"], ["quadratic"], [8])
    assert (plain.sampler, plain.steps, plain.nfe) == ("ddim", 8, 8) and better.error < 0.6 * plain.error
    assert note["n"] == 64 and note["floor"] < 0.1 * better.error


def test_times_from_the_teacher_are_those_of_tuned() -> None:
    model = zoo.load("eight_gaussians")
    made = bench.plan_on("heun", model, 7, "gits")
    assert made.evaluations == 7 and made.times == tuple(tuned("gits", model, 4).tolist())
    assert bench.plan_on("heun", model, 8, "gits") == made  # four steps and a half: the longest plan within eight
    assert bench.plan_with("dpm_3", model.path, 12, "uniform").evaluations == 11


def test_a_law_comes_nearer_with_more_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.LAW, "eight_gaussians", 256)
    monkeypatch.setitem(bench.SPACES, "eight_gaussians", (64, 64, 96))
    few, many, note = bench.measure_law(["eight_gaussians"], ["dpmpp_2m_sde"], ["karras"], [5, 32])
    assert few.error > 2 * many.error and many.error < 3 * note["floor"] and note["n"] == 256


def test_the_command_tells_all_three(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "solvers", "--nfe", "8", "--best", "2"]) == 0
    told = capsys.readouterr().out
    for word in (
        "eight_gaussians at 8 evaluations",
        "fashion/teacher at 8",
        "computed from the teacher",
        "sliced W2 to the law",
        "pairs cannot be told from it",
    ):
        assert word in told
    with pytest.raises(WorkbenchError, match=r"was measured at 4, 5, 6, 8, .*not at 7"):
        bench.text(*bench.load(), 7)
    with pytest.raises(UnknownName, match="did you mean 'ddim'"):
        next(bench.measure(["eight_gaussians"], ["ddimm"]))
