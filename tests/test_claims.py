"""Claims: the verdict rule, cells that are kept, what is missing, and one real cell."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from workbench import zoo
from workbench.bench import claim_cell, claims
from workbench.bench.claim_verdict import REFUTED, SUPPORTED, UNDECIDED, decided, judge, verdict
from workbench.bench.claims import Arm, Check, Claim
from workbench.distill.recipes import RECIPES
from workbench.errors import UnknownName, WorkbenchError
from workbench.teachers.mixture import ANALYTIC

CHILD = """
import json, sys
asked = json.load(open(sys.argv[1]))
head = asked["head"]
if head["recipe"] == "kd":
    sys.exit("out of memory")
ratio = {"ict": 2.0, "ct": 3.0}.get(head["recipe"], 1.0) + 0.01 * head["seed"]
row = head | {"figures": {"ratio@1": ratio, "ratio@2": ratio / 2, "paired@1": None}, "noise": 50.0, "sensible": True, "curve": [[1.0, 9, ratio]]}
open(asked["out"], "w").write(json.dumps(row))
"""


@pytest.fixture
def child(monkeypatch, tmp_path):
    """A process that answers at once in place of one that trains: `kd` dies."""
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setattr(claims, "CHILD", (str(tmp_path / "child.py"),))
    return tmp_path / "cells"


@pytest.fixture
def script(benchmark):
    """benchmarks/claims.py as a module."""
    return benchmark("claims")


def of_two(*checks: Check, **arms: Arm) -> Claim:
    return Claim("mine", "ict", "arXiv 1", "It is so.", arms or {"a": Arm("ict"), "b": Arm("ct")}, checks)


def rows(*values: float, **more: object) -> dict[int, dict]:
    return {seed: {"figures": {"ratio@1": value}, "sensible": True, **more} for seed, value in enumerate(values)}


# ---- the rule -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gaps", "strict", "expected"),
    [
        ([1.0, 1.1, 0.9], True, SUPPORTED), ([-1.0, -1.1, -0.9], True, REFUTED), ([1.0, -1.0, 0.5], True, UNDECIDED),
        ([5.0], True, UNDECIDED), ([0.0, 0.0, 0.0], True, REFUTED), ([0.0, 0.0, 0.0], False, SUPPORTED),
        ([1.0, 2.0, 3.0], True, SUPPORTED), ([0.5, 2.0, 3.5], True, UNDECIDED),
    ],
)  # fmt: skip
def test_the_verdict_is_that_of_a_one_sided_t_test(gaps, strict, expected):
    assert judge(gaps, strict) == expected


def test_gaps_are_taken_seed_by_seed():
    noisy = {"a": rows(1.0, 11.0, 21.0), "b": rows(2.0, 12.1, 21.9)}  # the seeds differ by far more than the arms
    found = decided(Check("a", "ratio@1", "b"), noisy)
    assert found["verdict"] == SUPPORTED and found["gap"] == {"mean": 1.0, "sd": 0.1, "n": 3}
    assert decided(Check("a", "ratio@1", "b", want="higher"), noisy)["verdict"] == REFUTED


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (Check("a", "ratio@1", "b", factor=1.1), SUPPORTED), (Check("a", "ratio@1", "b"), REFUTED),
        (Check("a", "ratio@1", limit=1.05), SUPPORTED), (Check("a", "ratio@1", limit=1.0), REFUTED),
        (Check("a", "ratio@1", "b", want="higher", factor=0.95), SUPPORTED), (Check("a", "ratio@1", want="higher", limit=1.05), SUPPORTED),
    ],
)  # fmt: skip
def test_factors_and_limits_allow_equality(check, expected):
    assert decided(check, {"a": rows(1.05, 1.05, 1.05), "b": rows(1.0, 1.0, 1.0)})["verdict"] == expected


def test_a_claim_holds_if_all_its_checks_do():
    held = {"a": rows(1.0, 1.1, 0.9), "b": rows(2.0, 2.1, 1.9)}
    good, bad, open_ = Check("a", "ratio@1", "b"), Check("b", "ratio@1", "a"), Check("a", "ratio@1", limit=1.0)
    for checks, expected in (((good,), SUPPORTED), ((good, bad), REFUTED), ((good, open_), UNDECIDED), ((open_, bad), REFUTED)):
        assert verdict(of_two(*checks), held)["verdict"] == expected
    whole = verdict(of_two(good), held)
    assert whole["arms"]["a"]["figures"]["ratio@1"] == {"mean": 1.0, "sd": 0.1, "seeds": [1.0, 1.1, 0.9]}
    json.dumps(whole)


def test_arms_that_failed_or_are_no_better_than_noise_leave_it_undecided():
    noisy = verdict(of_two(Check("a", "ratio@1", "b")), {"a": rows(1.0, 1.1, 0.9), "b": rows(2.0, 2.1, 1.9, sensible=False)})
    assert noisy["verdict"] == UNDECIDED and noisy["doubts"][0] == "b: seed 0 came no nearer to the law than noise"
    expected = replace(of_two(Check("a", "ratio@1", "b")), breaks=("b",))
    held = {"a": rows(1.0, 1.1, 0.9), "b": rows(2.0, 2.1, 1.9, sensible=False)}
    assert verdict(expected, held)["verdict"] == SUPPORTED and not verdict(expected, held)["doubts"]
    failed = verdict(of_two(Check("a", "ratio@1", "b")), {"a": rows(1.0, 1.1, 0.9), "b": {0: {"failed": "It diverged."}}})
    assert failed["verdict"] == UNDECIDED and failed["doubts"] == ["b: seed 0 failed: It diverged."]


def test_impossible_checks_are_refused():
    with pytest.raises(UnknownName, match="did you mean 'ratio@1'"):
        decided(Check("a", "ratio@11", "b"), {"a": rows(1.0), "b": rows(1.0)})
    with pytest.raises(UnknownName, match="arm of claim 'mine'"):
        of_two(Check("a", "ratio@1", "c"))
    with pytest.raises(WorkbenchError, match="with another arm or with a limit"):
        Check("a", "ratio@1")
    with pytest.raises(UnknownName, match="want"):
        Check("a", "ratio@1", "b", want="smaller")


# ---- the rows -----------------------------------------------------------------------------------------------------------


def test_every_claim_of_a_recipe_that_is_there_can_be_configured():
    seen = set()
    spaces = {*claim_cell.SPACES, *ANALYTIC, *(entry.name for entry in zoo.catalog())}
    assert {arm.teacher for claim in claims.claims() for arm in claim.arms.values()} <= spaces
    for claim in claims.claims():
        assert claim.name not in seen and claim.name.startswith(claim.recipe)
        seen.add(claim.name)
        assert all(check.says() for check in claim.checks)
        for arm in claim.arms.values():
            assert claim.seconds * arm.share <= (180 if "/" in arm.teacher else 60)
            if not claim.missing():
                assert len(claims.signature(arm, claim.seconds)) == 12


def test_the_claims_that_were_asked_for_are_there():
    asked = "rfpp slimflow ict lcm tscd ctm tbcm splitmeanflow meanflow-dispersive freeflow agd dmd2 f-distill phased-dmd decoupled-dmd"
    asked += " tdm sid-few-step disback msd pg-sb twinflow rcm flash-dmd sfd"
    assert set(asked.split()) <= {claim.recipe for claim in claims.claims()}


def test_a_signature_sees_options_rows_and_budget_but_no_new_default(monkeypatch):
    plain = claims.signature(Arm("cd"), 20)
    others = [
        Arm("cd", {"lr": 1e-3}),
        Arm("cd", data="turned"),
        Arm("cd", counts=(1, 2)),
        Arm("cd", network={"width": 8}),
        Arm("ct"),
    ]
    assert len({plain, claims.signature(Arm("cd"), 21), *(claims.signature(arm, 20) for arm in others)}) == 7
    monkeypatch.setitem(RECIPES, "cd", replace(RECIPES["cd"], summary="told otherwise"))
    assert claims.signature(Arm("cd"), 20) == plain
    monkeypatch.setitem(RECIPES, "cd", replace(RECIPES["cd"], batch=32))
    assert claims.signature(Arm("cd"), 20) != plain


# ---- running ------------------------------------------------------------------------------------------------------------


def test_finished_cells_are_kept_and_a_changed_recipe_is_done_again(child, monkeypatch):
    found = claims.run("ict", (0, 1, 2), 1.0, 2, child, lambda line: None)
    assert found["claims"][0]["verdict"] == SUPPORTED and len(list(child.iterdir())) == 6
    assert found["claims"][0]["arms"]["ct"]["figures"]["ratio@1"]["mean"] == pytest.approx(3.01)
    assert found["claims"][0]["arms"]["ict"]["curve"]["2"] == [[1.0, 9, 2.02]]
    stamps = {file: file.stat().st_mtime_ns for file in child.iterdir()}
    assert claims.run("ict", (0, 1, 2), 1.0, 1, child, lambda line: None) == found
    assert {file: file.stat().st_mtime_ns for file in child.iterdir()} == stamps
    monkeypatch.setitem(RECIPES, "ict", replace(RECIPES["ict"], batch=32))
    claims.run("ict", (0,), 1.0, 1, child, lambda line: None)
    assert len(list(child.iterdir())) == 7


def test_a_cell_that_dies_is_a_row_and_is_tried_again(child, monkeypatch):
    claim = of_two(Check("a", "ratio@1", "b"), a=Arm("kd"), b=Arm("ct"))
    monkeypatch.setattr(claims, "claims", lambda: (claim,))
    found = claims.run("ict", (0, 1), 1.0, 1, child, lambda line: None)["claims"][0]
    assert found["verdict"] == UNDECIDED and "(status 1); its last line: out of memory" in found["doubts"][0]
    made = dict((cell.arm.recipe, row) for cell, row in claims.measured(claim, 1.0, (0,), child))
    assert "failed" in made["kd"] and "figures" in made["ct"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"recipe": "icd"}, "did you mean"), ({"recipe": "kd"}, "no claim is written down"), ({"seconds": 0}, "seconds is 0"),
        ({"jobs": 0}, "jobs"), ({"seeds": (-1,)}, "seed"), ({"seeds": ()}, "no seeds"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_runs(tmp_path, asked, told):
    with pytest.raises(WorkbenchError, match=told):
        claims.run(**{"recipe": "ict", **asked}, cells=tmp_path / "cells")
    assert not (tmp_path / "cells").exists()


def test_a_recipe_that_is_not_there_yet_is_listed_and_refused(child, script, monkeypatch, capsys):
    monkeypatch.delitem(RECIPES, "ct")
    assert script.main(["--list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ict "))
    assert "missing: ct" in line
    assert "ict" not in script.cheapest_first() and "tscd" in script.cheapest_first()
    with pytest.raises(WorkbenchError, match="not there yet: ct"):
        claims.run("ict", cells=child)


def test_the_script_prints_and_writes_a_verdict(child, script, tmp_path, capsys):
    words = ["--recipe", "ict", "--seeds", "0", "1", "--seconds", "1", "--cells", str(child), "--out", str(tmp_path / "out")]
    assert script.main(words) == 0
    assert "ict: SUPPORTED" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "ict.json").read_text())
    assert content["seeds"] == [0, 1] and content["claims"][0]["seconds"] == 1 and "Student's t" in content["rule"]
    assert script.main(["--recipe", "nonsense"]) == 2 and "unknown recipe" in capsys.readouterr().err


# ---- a cell -------------------------------------------------------------------------------------------------------------


def test_a_cell_trains_and_measures(tmp_path, monkeypatch):
    for name, value in (("N", 128), ("DRAWS", 2), ("PAIRED", 64)):
        monkeypatch.setattr(claim_cell.cell, name, value)
    monkeypatch.setattr(claim_cell.cell, "data_of", lambda teacher, seed: tuple(one[:500] for one in DRAWN(teacher)))
    arm = Arm("ctm", {"batch": 32}, network={"width": 16}, counts=(1, 4), samplers=("consistency",), steps=24)
    row = claim_cell.run(arm, 30.0, 0, tmp_path)
    figures = row["figures"]
    assert figures["steps"] == 24 and 1 <= len(row["curve"]) <= claim_cell.MARKS and row["noise"] > 1
    assert figures["nfe@4"] == figures["nfe@4/consistency"] == 4 and figures["ratio@4"] != figures["ratio@4/consistency"]
    assert figures["ratio@1"] == pytest.approx(figures["ratio@1/consistency"], rel=1e-3)
    assert figures["paired@4/consistency"] is None and figures["paired@4"] > 0 and 0 <= figures["agreement@4"] <= 1
    json.dumps(row)


def DRAWN(teacher):
    x, y = teacher.sample(500, seed=1, labels=True)
    return x.float(), y


def test_the_exact_teacher_is_at_the_floor_and_a_turned_one_is_not(monkeypatch):
    monkeypatch.setattr(claim_cell.cell, "N", 256)
    monkeypatch.setattr(claim_cell.cell, "DRAWS", 4)
    monkeypatch.setattr(claim_cell.cell, "PAIRED", 64)
    found = {name: claim_cell.run(Arm("", teacher=name, law="eight_gaussians", counts=(49,)), 1.0, 0, Path())["figures"]
             for name in ("eight_gaussians", "turned")}  # fmt: skip
    exact, other = found["eight_gaussians"], found["turned"]
    assert (
        exact["nfe@49"] == 49
        and exact["ratio@49"] < 2 < other["ratio@49"]
        and exact["off_mode@49"] < 0.02
        and exact["agreement@49"] == 1
        and exact["balance@49"] > 0.95
    )
    assert other["off_mode@49"] > 0.03 and 0.7 < exact["vendi@49"] < 1.3


def test_swing_is_of_the_second_half():
    assert claim_cell.swing(list(itertools.repeat(1.0, 8))) == 0 and claim_cell.swing(
        [9, 9, 1.0, 2.0, 1.0, 2.0]
    ) == pytest.approx(0.6)


def test_an_unknown_space_is_told_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'grid25'"):
        claim_cell.space("grid52")


def test_the_page_shows_what_is_stored(script):
    page = Path(__file__).parents[1] / "docs" / "claims.md"
    stored = sorted(file.stem for file in script.OUT.glob("*.json"))
    told = script.table(script.OUT)
    assert stored and all(f"| `{name}` |" in told for name in stored) and told in page.read_text(encoding="utf-8")
    for name in stored:
        for claim in json.loads((script.OUT / f"{name}.json").read_text(encoding="utf-8"))["claims"]:
            assert f"{claim['sentence']} *{claim['verdict']}* |" in told
