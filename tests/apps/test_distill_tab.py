"""The Distill tab: a form made from the recipe, errors as sentences, and a run that a person starts, reloads and finds done."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio_client")
from apps import distill_tab, session
from workbench import training
from workbench.distill.recipes import recipes
from workbench.errors import WorkbenchError

SPACE = "eight_gaussians"


def values(recipe):
    return [field["value"] for field in distill_tab._form(SPACE, SPACE, recipe)]


@pytest.mark.parametrize("recipe", [recipe.name for recipe in recipes()])
def test_an_untouched_form_changes_nothing(recipe):
    assert distill_tab.wanted(SPACE, SPACE, recipe, values(recipe)) == {}


def test_a_changed_switch_is_passed_on_and_a_bad_one_is_told():
    form = distill_tab._form(SPACE, SPACE, "reflow")
    place = next(k for k, field in enumerate(form) if field["label"] == "batch")
    given = values("reflow")
    given[place] = 32
    assert distill_tab.wanted(SPACE, SPACE, "reflow", given) == {"batch": 32}
    given[place] = "many"
    with pytest.raises(WorkbenchError, match="batch is 'many'"):
        distill_tab.wanted(SPACE, SPACE, "reflow", given)


@pytest.mark.browser
def test_a_run_survives_a_reload_and_is_offered_to_compare(browser, served, home):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(120_000)  # milliseconds; a busy machine is not a fault
    for visit in range(2):
        page.goto(served[1])
        page.get_by_role("tab", name="Distill", exact=True).click()
        if not visit:
            page.locator("#train-seconds input").fill("1")
            page.locator("#start-run").click()
            page.wait_for_selector("td[data-state]")
    page.wait_for_selector("td[data-state=done]")
    page.wait_for_selector("#run-samples figure:nth-child(2) img")
    page.wait_for_selector("#run-losses .js-plotly-plot")
    run = training.runs()[0]
    session.refresh()
    assert run.state().model in [entry.name for entry in session.spaces()[SPACE]]
    page.close()
