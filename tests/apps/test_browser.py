"""What a person sees, in a real Chromium: generate, read the table, open a trajectory."""

from __future__ import annotations

import pytest

from apps import main, session

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser
PATIENCE = 120_000  # milliseconds; a busy machine is not a fault


@pytest.fixture(scope="module")
def url():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    demo = main.build()
    yield demo.launch(server_port=port, prevent_thread_lock=True, **main.settings())[1]
    main.close(demo)


@pytest.fixture(scope="module")
def browser(chromium):
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield opened
        opened.close()


def choose(page, label: str, option: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_generate_read_the_table_and_open_a_trajectory(browser, url):
    page = browser.new_page(viewport={"width": 1440, "height": 1100})
    page.set_default_timeout(PATIENCE)
    hosts, complaints = set(), []
    page.on("request", lambda request: hosts.add(request.url.split("/")[2] if "://" in request.url else "inline"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#generate")
    if next(iter(session.spaces())) != "eight_gaussians":
        choose(page, "Space", "eight_gaussians")
        page.wait_for_function("document.querySelector('#contender-0 .note').innerText.includes('heun')")
    page.click("#generate")
    page.wait_for_selector("[data-done='1']")
    rows = page.locator("#table tbody tr")
    assert rows.count() == 3
    head = page.locator("#table thead th").all_inner_texts()
    steps = [int(rows.nth(k).locator("td").nth(head.index("steps") - 1).inner_text()) for k in range(3)]
    assert steps == [setting.steps for setting in session.defaults("eight_gaussians")]
    page.locator("#picture-1 img").click()
    page.wait_for_selector("#detail h2")
    page.wait_for_function("document.querySelectorAll('#clouds .js-plotly-plot, #curves .js-plotly-plot').length === 5")
    assert "log-SNR" in page.locator("#curves").inner_text()
    assert hosts <= {url.split("/")[2], "inline", ""}, "the page asked another host"
    assert not complaints
    page.close()


def test_a_phone_shows_everything_without_scrolling_sideways(browser, url):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    page.wait_for_selector("#generate")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#contender-2").is_visible()
    page.close()
