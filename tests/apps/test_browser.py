"""What a person sees and does, in a real Chromium: pictures, scrubber, keys, links, pins, tabs, three widths."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from apps import links, live, session

pytestmark = pytest.mark.browser
PATIENCE = 120_000  # milliseconds; a busy machine is not a fault
FAST = "space=eight_gaussians&class=none&n=60&seed=0&c1=eight_gaussians,euler,own,12,1&c2=eight_gaussians,heun,own,2,1"


@pytest.fixture
def page(browser, served):
    """A fresh page at 1440 pixels that fails on a script error or a request to another host."""
    page = browser.new_page(viewport={"width": 1440, "height": 1100})
    page.set_default_timeout(PATIENCE)
    hosts, complaints = set(), []
    page.on("request", lambda request: hosts.add(request.url.split("/")[2] if "://" in request.url else "inline"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    assert hosts <= {served[1].split("/")[2], "inline", ""}, "the page asked another host"
    assert not complaints
    page.close()


def visit(page, served, query: str = FAST) -> None:
    page.goto(f"{served[1]}?{query}")
    page.wait_for_selector("#message [data-done='1']")
    page.evaluate(WHOLE)


WHOLE = """async () => { // a density behind points comes as an image, which the browser loads in its own time
  await Promise.all(window.workbench.state.columns.map((column) => column?.density?.decode()));
  for (let k = 0; k < 2; k++) await new Promise(requestAnimationFrame);
}"""


def picture(page, k: int) -> str:
    return page.evaluate(f"document.querySelector('#picture-{k} canvas').toDataURL()")


def where(page, k: int) -> str:
    return page.locator(f"#picture-{k} .where").inner_text()


def told(page) -> str:
    return page.locator("#message").inner_text()


def table(page) -> dict[str, list[str]]:
    rows = page.locator("#table tbody tr")
    return {rows.nth(k).locator("th").inner_text(): rows.nth(k).locator("td").all_inner_texts() for k in range(rows.count())}


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def settle(page, change, selector: str = "#picture-0 canvas") -> None:
    """Do `change` and wait until the picture is another one."""
    before = page.evaluate(f"document.querySelector('{selector}').toDataURL()")
    change()
    page.wait_for_function(f"(before) => document.querySelector('{selector}').toDataURL() !== before", arg=before)


def test_the_page_opens_with_pictures_and_figures_without_a_click(page, served):
    page.goto(served[1])
    page.wait_for_selector("#message [data-done='1']")
    space = next(iter(session.spaces()))
    expected = links.opening(space).columns
    assert len(table(page)) == len(expected) == 3
    for k, setting in enumerate(expected):
        assert "done" in where(page, k)
        words = page.locator(f"#picture-{k} .ran").inner_text()
        for word in (setting.model, setting.sampler, f"{setting.steps} ", "t = "):
            assert word in words
        assert "evaluation" in where(page, k) and "ms a sample" in where(page, k)


def test_the_scrubber_moves_all_columns_by_step_and_by_log_snr(page, served):
    visit(page, served)
    done = [picture(page, k) for k in range(2)]
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('#picture-0 .where').innerText.includes('step 11 of 12')")
    assert "step 2 of 2" in where(page, 1) or "done" in where(page, 1)
    page.get_by_label("Step", exact=True).fill("500")
    page.wait_for_function("document.querySelector('#picture-0 .where').innerText.includes('step 6 of 12')")
    assert "step 1 of 2" in where(page, 1)
    assert all(picture(page, k) != done[k] for k in range(2))
    page.get_by_label("How the columns are aligned").select_option("snr")  # middle: log-SNR 0, t = 0.5 on the linear path
    page.wait_for_function("document.querySelector('#scrubber output').innerText.includes('half log-SNR 0.0')")
    assert "t = 0.50" in where(page, 0) and "t = 0.50" in where(page, 1)
    page.get_by_label("Step", exact=True).fill("1000")
    page.wait_for_function("document.querySelector('#picture-0 .where').innerText.includes('done')")
    assert [picture(page, k) for k in range(2)] == done


def test_the_velocity_field_is_drawn_for_points_only(page, served):
    visit(page, served)
    page.get_by_label("Step", exact=True).fill("500")
    page.wait_for_function("document.querySelector('#picture-1 .where').innerText.includes('step 1 of 2')")
    settle(page, lambda: page.get_by_label("velocity").check(), "#picture-1 canvas")
    visit(page, served, "space=digits&n=4&c1=digits/consistency,consistency,own,1,1")
    assert not page.get_by_label("velocity").is_visible()


def test_state_and_difference_are_other_pictures_and_the_reference_stays(page, served):
    visit(page, served)
    page.get_by_label("Step", exact=True).fill("500")
    page.wait_for_function("document.querySelector('#picture-1 .where').innerText.includes('step 1 of 2')")
    first = picture(page, 1)
    settle(page, lambda: page.get_by_role("button", name="state", exact=True).click(), "#picture-1 canvas")
    settle(page, lambda: page.get_by_role("button", name="difference", exact=True).click(), "#picture-1 canvas")
    assert "minus" in where(page, 1) and "the reference" in where(page, 0)
    settle(page, lambda: page.keyboard.press("d"), "#picture-1 canvas")
    assert picture(page, 1) == first


def test_a_slider_redraws_its_column_and_the_link_follows(page, served):
    visit(page, served)
    box = page.locator("#contender-1 input[type=number]").first
    settle(page, lambda: (box.fill("7"), box.press("Tab")), "#picture-1 canvas")
    page.wait_for_function("document.querySelector('#picture-1 .where').innerText.includes('done')")
    page.wait_for_function("location.search.includes('eight_gaussians,heun,own,7,1')")
    page.wait_for_function("[...document.querySelectorAll('#table tbody tr')].some((row) => row.innerText.includes('heun 7'))")
    again = page.context.browser.new_page()
    again.set_default_timeout(PATIENCE)
    again.goto(page.url)
    again.wait_for_selector("#message [data-done='1']")
    again.wait_for_function("document.querySelector('#picture-1 .where').innerText.includes('done')")
    assert again.locator("#contender-1 input[type=number]").first.input_value() == "7"
    again.evaluate(WHOLE)
    assert picture(again, 1) == picture(page, 1)
    again.close()


def test_keys_generate_take_the_next_seed_and_pin(page, served):
    visit(page, served)
    settle(page, lambda: page.keyboard.press("n"))
    page.wait_for_function("location.search.includes('seed=1')")
    settle(page, lambda: page.keyboard.press("b"))
    page.keyboard.press("p")
    pinned = page.locator("#pins .pin")
    assert pinned.count() == 1 and "seed 0" in pinned.inner_text() and pinned.locator("canvas").count() == 2
    kept = page.evaluate("document.querySelector('#pins canvas').toDataURL()")
    settle(page, lambda: page.keyboard.press("n"))
    assert page.evaluate("document.querySelector('#pins canvas').toDataURL()") == kept, "a pinned sample must stay as it was"
    page.keyboard.press("g")
    page.wait_for_function("document.querySelector('#message').innerText.includes('Done in')")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Remove pinned").click()
    assert pinned.count() == 0


def test_a_click_opens_the_sample_and_the_keyboard_does_too(page, served):
    visit(page, served)
    page.locator("#picture-1 canvas").click()
    page.wait_for_selector("#detail h2")
    page.wait_for_function("document.querySelectorAll('#clouds .js-plotly-plot, #curves .js-plotly-plot').length === 4")
    assert "log-SNR" in page.locator("#curves").inner_text()
    first = page.locator("#detail h2").inner_text()
    page.locator("#picture-0 canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_function("(first) => document.querySelector('#detail h2').innerText !== first", arg=first)


def test_a_over_b_how_they_move_sweep_and_take_away(page, served):
    visit(page, served)
    tab(page, "A over B")
    settle(page, lambda: page.get_by_label("Where the left picture ends").fill("200"), "#over canvas")
    laid = page.evaluate("document.querySelector('#over canvas').toDataURL()")
    page.get_by_role("button", name="difference", exact=True).click()  # of the columns: what lies over one another stays
    page.wait_for_function("document.querySelector('#picture-1 .where').innerText.includes('minus')")
    page.evaluate(WHOLE)
    assert page.evaluate("document.querySelector('#over canvas').toDataURL()") == laid
    page.get_by_role("button", name="DT target", exact=True).click()
    tab(page, "How they move")
    page.wait_for_function("document.querySelectorAll('#motion-plots .js-plotly-plot').length === 5")
    page.wait_for_function("document.querySelectorAll('#plan-plots .js-plotly-plot').length === 2")
    tab(page, "Sweep")
    page.click("#run-sweep")
    page.wait_for_selector("#sweep-said [data-done='1']")
    assert page.locator("#sweep-table img").count() == 20
    tab(page, "Take away")
    page.wait_for_function("document.querySelector('#command textarea').value.includes('workbench compare')")
    page.wait_for_function("document.querySelector('#cite textarea').value.includes('@')")
    page.click("#make-file")
    page.wait_for_selector("#share-said [data-done='1']")
    with page.expect_download() as saved:
        page.locator("#made-file a").first.click()
    assert "eight_gaussians" in Path(saved.value.path()).read_text(encoding="utf-8")


def test_another_space_and_a_preset_draw_themselves(page, served):
    visit(page, served)
    page.get_by_label("Space", exact=True).click()
    page.get_by_role("option", name="moons", exact=True).click()
    page.wait_for_function("document.querySelector('#picture-0 .ran').innerText.includes('moons')")
    page.wait_for_selector("#message [data-done='1']")
    page.get_by_label("Preset", exact=True).click()
    page.get_by_role("option", name="the teacher with 4 samplers, 8 steps").click()
    page.wait_for_function("document.querySelectorAll('#table tbody tr').length === 4")
    assert page.locator("#contender-3").is_visible()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("space=moons&seed=-3", "the seed"),
        ("space=moons&c1=%3Cscript%3Ealert(1)%3C/script%3E,euler,own,1,1", "unknown model"),
        ("space=moons&n=99999999", "number of samples"),
    ],
)
def test_a_bad_link_is_told_in_a_sentence_that_stays_and_the_page_still_opens(page, served, query, told):
    page.goto(f"{served[1]}?{query}")
    page.wait_for_selector("#table tbody tr")
    page.wait_for_function("document.querySelector('#generate').disabled === false")
    page.wait_for_function("(told) => document.querySelector('#message .wrong')?.innerText.includes(told)", arg=told)
    assert "<script>alert" not in page.content()


def test_what_is_unfinished_says_so_after_stop_and_after_a_change(page, served, monkeypatch):
    monkeypatch.setattr(live, "QUICK", 2.0)  # on a busy machine too, the one-step student is quick and the teacher is not
    visit(
        page,
        served,
        "space=digits&n=256&c1=digits/teacher,dpmpp_2m,own,50,1.5&c2=digits/consistency,consistency,own,1,1&class=none",
    )
    page.keyboard.press("g")
    page.wait_for_function("document.querySelector('#picture-0 .where').innerText.match(/step [1-9]/)")
    page.keyboard.press("s")
    page.wait_for_function("document.querySelector('#picture-0 .ran').innerText.includes('Stopped')")
    assert page.locator("#picture-0 canvas.stale").count() == 1
    page.wait_for_timeout(1500)
    assert "Stopped" in told(page) and "Error" not in told(page)
    page.keyboard.press("g")
    page.wait_for_function("!document.querySelector('#picture-0 canvas').classList.contains('stale')")  # it draws again
    page.keyboard.press("n")
    page.wait_for_function("document.querySelector('#picture-0 .ran').innerText.includes('press Generate')")
    page.wait_for_function("document.querySelector('#picture-1 .where').innerText.includes('done')")
    page.wait_for_function("document.querySelector('#message').innerText.includes('press Generate')")
    page.wait_for_timeout(1000)
    assert "press Generate" in told(page) and "seed=1" in page.url
    page.wait_for_function("[...document.querySelectorAll('#table tbody tr')].length === 1")


def test_tabs_say_when_the_settings_have_changed(page, served):
    visit(page, served)
    page.locator("#picture-1 canvas").click()
    page.wait_for_selector("#detail h2")
    page.keyboard.press("n")
    page.wait_for_selector("#detail[data-old]")
    tab(page, "Take away")
    page.wait_for_function("document.querySelector('#command textarea').value.includes('--seed 1')")
    page.keyboard.press("n")
    page.wait_for_function("document.querySelector('#command textarea').value.includes('--seed 2')")


def test_the_reference_of_a_difference_is_a_column_that_is_there(page, served):
    visit(page, served, f"{FAST}&c3=eight_gaussians,ddim,own,4,1")
    page.get_by_role("button", name="difference", exact=True).click()
    page.get_by_label("Reference of the difference").select_option("2")
    page.wait_for_function("document.querySelector('#picture-0 .where').innerText.includes('minus')")
    page.get_by_label("2", exact=True).click()
    page.wait_for_function("document.querySelector('#picture-0 .where').innerText.includes('the reference')")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_layout_holds_at_every_width(page, served, theme):
    from PIL import Image

    visit(page, served, f"{FAST}&__theme={theme}")
    for width in (1440, 1024, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = json.loads(page.evaluate(OVERLAPS))
        assert not boxes["outside"], f"controls stick out at {width}: {boxes['outside']}"
        assert not boxes["cropped"], f"texts are cropped at {width}: {boxes['cropped']}"
        tops = [page.locator(f"#picture-{k} canvas").bounding_box() for k in range(2)]
        assert abs(tops[0]["y"] - tops[1]["y"]) < 3 and abs(tops[0]["width"] - tops[1]["width"]) < 3, (
            "pictures must stand in a row"
        )
        shot = Image.open(io.BytesIO(page.screenshot())).convert("L").resize((64, 64))
        level = float(np.asarray(shot).mean())
        assert level > 190 if theme == "light" else level < 80


OVERLAPS = """() => {
  const seen = (e) => e.offsetParent !== null && getComputedStyle(e).visibility !== "hidden";
  const name = (e) => e.getAttribute("aria-label") || e.id || e.innerText?.slice(0, 30) || e.className;
  const controls = [...document.querySelectorAll("#asked button, #asked input, #asked label, .contender input, .contender button, #scrubber button, #scrubber select")].filter(seen);
  const outside = controls.filter((e) => { const b = e.getBoundingClientRect(); return b.right > innerWidth + 1 || b.left < -1; }).map(name);
  const cropped = [...document.querySelectorAll("#go button, #number label, .segments button, .page-tools button")].filter(seen)
    .filter((e) => { e.scrollIntoView({ block: "center" }); const b = e.getBoundingClientRect();
      const top = document.elementFromPoint(b.right - 3, b.top + b.height / 2); // what is cut off cannot be hit
      return !top || !e.contains(top) || e.scrollWidth > e.clientWidth + 1; }).map(name);
  return JSON.stringify({ outside, cropped });
}"""


UNNAMED = """() => [...document.querySelectorAll('button, input, select, textarea, canvas[tabindex], [role=tab]')]
  .filter((e) => e.offsetParent !== null && !e.closest('.modebar'))
  .filter((e) => !(e.getAttribute('aria-label') || e.labels?.length || e.getAttribute('title') || /\\p{L}{2}|\\d/u.test(e.innerText) || e.getAttribute('aria-labelledby')))
  .map((e) => e.outerHTML.slice(0, 160))"""
UNREACHABLE = """() => [...document.querySelectorAll('button, input, select, textarea, .picture canvas')]
  .filter((e) => e.offsetParent !== null && !e.disabled && e.tabIndex < 0 && !e.closest('[role=tablist], [aria-hidden=true], .visually-hidden'))
  .map((e) => e.outerHTML.slice(0, 160))"""


def test_every_control_has_a_name_and_is_reached_by_the_keyboard(page, served):
    visit(page, served)
    names = [name.strip() for name in page.locator("#below [role=tab]").all_inner_texts()]
    tabs = list(dict.fromkeys(name for name in names if name))
    assert len(tabs) == 7
    for name in tabs:
        tab(page, name)
        page.wait_for_timeout(300)
        assert not page.evaluate(UNNAMED), name
        assert not page.evaluate(UNREACHABLE), name
    for name, ready in {
        "Schedules": "#plan-said [data-done='1']",
        "Distill": "#run-status *",
        "Leaderboard": ".js-plotly-plot",
    }.items():
        tab(page, name)
        page.locator(ready).locator("visible=true").first.wait_for()
        if name == "Distill":
            page.get_by_text("Switches of the recipe").click()
            page.locator("#switches input").locator("visible=true").first.wait_for()
        assert not page.evaluate(UNNAMED), name
        assert not page.evaluate(UNREACHABLE), name
    tab(page, "Compare")
    for name in ("Next seed", "Seed before"):  # drawn as arrows
        assert page.get_by_role("button", name=name).is_visible()
