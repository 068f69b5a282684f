"""The Leaderboard tab: rows of the benchmark and of the zoo, filters, and where a click on a row leads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("gradio_client")
from apps import leaderboard_tab, session
from workbench.bench import images
from workbench.bench import recipes as bench
from workbench.errors import UnknownName


def row(recipe, space, ratio):
    figures = {
        "1": {"sw2": 0.04 * ratio, "ratio": ratio, "ratio_error": 0.1, "off_mode": 0.1, "modes": 1.0},
        "2": None,
        "4": None,
    }
    return {"space": space, "recipe": recipe, "steps": 100, "seconds": 60.0, "preparing": 0.0, "per_second": 1.7,
            "peak_mb": 400.0, "figures": figures, "curve": [[30.0, 50, {"1": 2 * ratio}], [60.0, 100, {"1": ratio}]]}  # fmt: skip


@pytest.fixture
def stored(tmp_path, monkeypatch, home):
    """A small result in place of the committed one."""
    rows = [row("ect", "eight_gaussians", 1.2), row("boot", "eight_gaussians", 3.0), row("ect", "mixture64", 2.0)]
    rows.append({"space": "eight_gaussians", "recipe": "kd", "failed": "It diverged."})
    monkeypatch.setattr(bench, "STORED", tmp_path / "recipes.json")
    monkeypatch.setattr(images, "STORED", tmp_path)
    bench.STORED.write_text(bench.to_json({"settings": {}, "rows": rows}))


def clicked(recipe, space, **more):
    given = {"recipe": recipe, "space": space, "NFE": 1, "from": "benchmark", "note": "", **more}
    return leaderboard_tab._picked(None, SimpleNamespace(row_value=[given.get(name) for name in leaderboard_tab.HEADINGS]))


def test_the_table_holds_benchmark_and_zoo_the_best_first(stored):
    spaces, table, figure, said, _ = leaderboard_tab._shown("all", "1", "all", "")
    assert {"all", "eight_gaussians", "mixture64", "digits", "fashion"} <= set(spaces["choices"])
    assert [one[0] for one in table][:1] == ["ect"] and {"benchmark", "bundled"} == {one[-2] for one in table}
    assert [one[0] for one in table if one[-1] == "It diverged."] == ["kd"]
    assert figure["visible"] and "three dots" in said and len(table[0]) == len(leaderboard_tab.WIDTHS)


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (("mixture64", "1", "all", ""), 1),
        (("all", "all", "benchmark", "BOO"), 1),
        (("eight_gaussians", "1", "benchmark", ""), 3),
    ],
)
def test_filters_leave_what_they_say(stored, asked, count):
    assert len(leaderboard_tab._shown(*asked)[1]) == count


@pytest.mark.parametrize("asked", [("mars", "1", "all", ""), ("all", "3", "all", ""), ("all", "1", None, "")])
def test_what_is_not_offered_is_told(stored, asked):
    assert 'role="alert"' in leaderboard_tab._shown(*asked)[3]
    with pytest.raises(UnknownName):
        leaderboard_tab.chosen(leaderboard_tab.entries()[0], *asked)


def test_without_a_benchmark_the_students_stay_and_a_sentence_says_why(tmp_path, monkeypatch, home):
    monkeypatch.setattr(bench, "STORED", tmp_path / "none.json")
    monkeypatch.setattr(images, "STORED", tmp_path)
    _, table, _, said, _ = leaderboard_tab._shown("all", "1", "all", "")
    assert {one[-2] for one in table} == {"bundled"} and "not been measured yet" in said


def test_images_are_rows_too_and_a_damaged_file_is_told(stored, tmp_path):
    (tmp_path / "images_digits.json").write_text((images.Path(images.__file__).parent / "images_digits.json").read_text())
    found = {
        (one.recipe, one.evaluations): one
        for one in leaderboard_tab.entries()[0]
        if one.space == "digits" and one.source == "benchmark"
    }
    assert found["ct", 1].quality > 0 and found["ct", 1].modes > 0 and found["agd", 2].cost == 60.0 and ("agd", 1) not in found
    (tmp_path / "images_digits.json").write_text("{}")
    assert "images_digits.json is not a result" in leaderboard_tab.entries()[1]


def test_a_row_leads_to_its_student_to_distill_or_to_a_command(stored):
    said, offer, _, train, wanted = clicked("dmd2", "digits", **{"from": "bundled", "note": "digits/dmd2"})
    assert wanted == ("digits/dmd2", 1, 0) and train is None and not offer["visible"] and "Opening" in said
    said, offer, label, train, _ = clicked("boot", "eight_gaussians")
    assert (
        train == ("eight_gaussians", "boot")
        and offer["visible"]
        and label["value"] == "Train boot on eight_gaussians in Distill"
    )
    said, offer, _, train, _ = clicked("ect", "mixture64")
    assert train is None and not offer["visible"] and "workbench distill mixture64 ect" in said


def test_every_row_says_what_a_click_does(stored):
    _, table, _, said, _ = leaderboard_tab._shown("all", "1", "all", "")
    told = {(one[0], one[1]): one[leaderboard_tab.HEADINGS.index("a click")] for one in table}
    assert told["ect", "mixture64"] == "not drawn" and told["boot", "eight_gaussians"] == "opens Distill"
    assert told["dmd2", "digits"] == "opens Compare" and all(told.values())
    assert "Samples of mixture64 cannot be drawn" in said
    assert "cannot be drawn" not in leaderboard_tab._shown("eight_gaussians", "1", "all", "")[3]


def test_a_student_is_set_beside_its_teacher(home):
    setup = leaderboard_tab.setup_of("digits/dmd2", 2)
    assert [column.model for column in setup.columns] == ["digits/teacher", "digits/dmd2"] and setup.columns[1].steps == 2


@pytest.mark.browser
def test_a_click_opens_the_student_or_the_form_that_trains_one(browser, served, stored):
    session.refresh()
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(120_000)  # milliseconds; a busy machine is not a fault
    page.goto(f"{served[1]}?space=eight_gaussians&n=40&c1=eight_gaussians,euler,own,4,1")
    page.wait_for_selector("#message [data-done='1']")
    page.get_by_role("tab", name="Leaderboard", exact=True).click()
    page.wait_for_selector("#board-figure .js-plotly-plot")
    cell = page.locator("#board-table [role=gridcell]")
    cell.get_by_text("boot", exact=True).click()
    page.locator("#board-train").click()
    page.wait_for_function("document.querySelector('#recipe input')?.value === 'boot'")
    page.get_by_role("tab", name="Leaderboard", exact=True).click()
    cell.get_by_text("digits/dmd2", exact=True).first.click()
    page.wait_for_function("document.querySelector('#contender-1 input')?.value === 'digits/dmd2'")
    page.wait_for_selector("#message [data-done='1']")
    page.close()
