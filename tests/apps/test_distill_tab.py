"""The Distill tab: a form made from the recipe, errors as sentences, and a run that a person starts, reloads and finds done."""

from __future__ import annotations

from types import SimpleNamespace

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


def test_a_warning_stands_in_the_line_of_its_run(home):
    state = training.State("running", "Training: step 9, 1 s.", warning="The student is collapsing: <b>.")
    run = SimpleNamespace(request={"recipe": "dmd2", "teacher": "digits/teacher"})
    told = distill_tab._status({"mine": state}, {"mine": "#2f7fc1"}, {"mine": run})
    assert 'role="alert">The student is collapsing: &lt;b&gt;.' in told


def test_words_are_switches_and_pairs_of_numbers_are_not():
    form = {field["label"]: field["value"] for field in distill_tab._form(SPACE, SPACE, "f-distill")}
    assert form["divergence"] == "js" and "spread" not in form


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
    page.locator("#run-health button").first.click()
    page.wait_for_selector("#health-gradients .js-plotly-plot")
    page.wait_for_selector("#health-critic .js-plotly-plot")
    run = training.runs()[0]
    session.refresh()
    assert run.state().model in [entry.name for entry in session.spaces()[SPACE]]
    page.close()
