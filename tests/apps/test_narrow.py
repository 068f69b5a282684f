"""What fits: every tab on a phone without scrolling sideways, and switches that are empty where nothing is set."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio_client")
from apps import distill_tab
from workbench.errors import WorkbenchError

SPACE = "eight_gaussians"
READY = {"Schedules": "#plan-said [data-done='1']", "Distill": "#run-status", "Leaderboard": "#board-figure .js-plotly-plot"}


@pytest.mark.browser
def test_a_phone_shows_every_tab_and_never_scrolls_sideways(browser, served, home):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(120_000)  # milliseconds; a busy machine is not a fault
    page.goto(f"{served[1]}?space={SPACE}&n=40&c1={SPACE},euler,own,4,1")
    page.wait_for_selector("#message [data-done='1']")
    wide = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    assert page.evaluate(wide) == [390, 390]
    for tab, ready in READY.items():
        page.get_by_role("tab", name=tab, exact=True).click()
        page.wait_for_selector(ready)
        assert page.evaluate(wide) == [390, 390], tab
    page.close()


def field(recipe: str, label: str) -> tuple[int, dict]:
    return next((k, one) for k, one in enumerate(distill_tab._form(SPACE, SPACE, recipe)) if one["label"] == label)


def test_an_open_switch_is_empty_and_a_zero_in_it_counts():
    form = distill_tab._form(SPACE, SPACE, "dmd2")
    place, real = field("dmd2", "real")
    assert real["value"] == "" and real["placeholder"] == "open"
    values = [one["value"] for one in form]
    values[place] = "0"
    assert distill_tab.wanted(SPACE, SPACE, "dmd2", values) == {"real": 0.0}


def test_an_emptied_switch_is_its_default_and_words_are_told():
    place, batch = field("dmd2", "batch")
    values = [one["value"] for one in distill_tab._form(SPACE, SPACE, "dmd2")]
    assert batch["placeholder"] == batch["value"] != ""
    values[place] = " "
    assert distill_tab.wanted(SPACE, SPACE, "dmd2", values) == {}
    for wrong, told in (("1e", "batch is '1e', but must be a number"), ("2.5", "batch"), ("inf", "must be a number")):
        values[place] = wrong
        with pytest.raises(WorkbenchError, match=told):
            distill_tab.wanted(SPACE, SPACE, "dmd2", values)


def test_a_recipe_that_does_not_fit_says_so_before_it_is_started():
    assert "does not fit" not in distill_tab._formed(SPACE, SPACE, distill_tab.FIRST)[0]
    assert "It does not fit this teacher" in distill_tab._formed(SPACE, SPACE, "agd")[0]
