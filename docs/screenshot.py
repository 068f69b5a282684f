"""Make the pictures of the app in docs/: start it, go through its tabs, photograph. Needs Chromium and the test extras.

python docs/screenshot.py             docs/screenshot.png and docs/screenshots/*.png
python docs/screenshot.py FOLDER      every tab at 1440, 1024 and 390 pixels, light and dark, for a reviewer
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from apps.main import build, close, settings

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
HERE = Path(__file__).parent
TABS = ("Figures", "One sample", "A over B", "How they move", "Sweep", "Which sampler?", "Take away")
PLANE = "space=eight_gaussians&n=500&c1=eight_gaussians,heun,own,25,1&c2=eight_gaussians,dpmpp_2m,own,6,1&c3=eight_gaussians,euler,own,6,1"
PATIENCE = 180_000


def opened(browser: Browser, url: str, query: str = "", width: int = 1440, height: int = 1150, theme: str = "light") -> Page:
    """A page that has drawn its first pictures."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{url}?{query}&__theme={theme}" if query else f"{url}?__theme={theme}")
    page.wait_for_selector("#message [data-done='1']")
    page.wait_for_function("document.querySelector('#message').innerText.includes('Ready')")
    return page


def turn(page: Page, tab: str) -> None:
    """Open a tab, from the menu of those that a narrow page has no room for if it is there."""
    if page.get_by_role("tab", name=tab, exact=True).count():
        page.get_by_role("tab", name=tab, exact=True).click()
        return
    menu = page.locator(".overflow-menu").filter(has=page.get_by_role("button", name=tab, exact=True, include_hidden=True))
    menu.get_by_label("More tabs").click()
    menu.get_by_role("button", name=tab, exact=True).click()


def show(page: Page, tab: str) -> None:
    """Open a tab of Compare and wait for what it draws."""
    turn(page, tab)
    if tab == "One sample":
        page.locator("#picture-0 canvas").click(position={"x": 150, "y": 40})
        page.wait_for_selector("#curves .js-plotly-plot")
    elif tab == "How they move":
        page.wait_for_function("document.querySelectorAll('#motion-plots .js-plotly-plot').length >= 4")
    elif tab == "Sweep":
        page.click("#run-sweep")
        page.wait_for_selector("#sweep-said [data-done='1']")
    elif tab == "Which sampler?":
        page.click("#run-which")
        page.wait_for_selector("#which-said [data-done='1']")
    page.wait_for_timeout(1500)


def fitted(page: Page) -> None:
    """The tab Schedules, after a plan has learned."""
    turn(page, "Schedules")
    page.wait_for_selector("#plan-said [data-done='1']")
    page.click("#fit")
    page.wait_for_selector("#fit-said [data-done='1']")
    page.wait_for_timeout(1500)


def trained(page: Page, seconds: int) -> None:
    """The tab Distill with its switches open, after a run."""
    turn(page, "Distill")
    page.locator("#switches > button").click()
    page.locator("#train-seconds input").fill(str(seconds))
    page.locator("#train-seconds input").blur()
    page.click("#start-run")
    page.wait_for_selector("#run-status tr:first-child .state[data-state=done]")
    page.wait_for_timeout(1500)


def ranked(page: Page) -> None:
    """The tab Leaderboard, after a click on a row whose samples are not drawn, if it has one."""
    turn(page, "Leaderboard")
    page.wait_for_selector("#board-figure .js-plotly-plot")
    row = page.locator("#board-table [role=gridcell]").get_by_text("mixture64", exact=True)
    if row.count():
        row.first.click()
    page.wait_for_timeout(1500)


def photograph(page: Page, path: Path, whole: bool = False) -> None:
    """A picture of 256 colours: a third of the size, and nothing is lost that matters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path, full_page=whole)
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def for_the_site(browser: Browser, url: str) -> None:
    """What README and documentation show."""
    page = opened(browser, url, height=1180)
    photograph(page, HERE / "screenshot.png")
    show(page, "One sample")
    page.locator("#below").scroll_into_view_if_needed()
    photograph(page, HERE / "screenshots" / "sample.png", whole=True)
    page.close()
    page = opened(browser, url, PLANE, height=1000, theme="dark")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(500)
    photograph(page, HERE / "screenshots" / "plane.png")
    page.close()
    page = opened(browser, url, PLANE, height=1100)
    fitted(page)
    photograph(page, HERE / "screenshots" / "schedules.png", whole=True)
    ranked(page)
    photograph(page, HERE / "screenshots" / "leaderboard.png", whole=True)
    page.close()


def for_a_reviewer(browser: Browser, url: str, folder: Path) -> None:
    """Every tab at every width and in both themes."""
    for width in (1440, 1024, 390):
        for theme in ("light", "dark"):
            page = opened(browser, url, "space=digits", width, theme=theme)
            for tab in TABS:
                show(page, tab)
                photograph(page, folder / f"{width}-{theme}-{tab.split()[0].lower()}.png", whole=True)
            fitted(page)
            photograph(page, folder / f"{width}-{theme}-schedules.png", whole=True)
            trained(page, 10)
            photograph(page, folder / f"{width}-{theme}-distill.png", whole=True)
            ranked(page)
            photograph(page, folder / f"{width}-{theme}-leaderboard.png", whole=True)
            page.close()


def main() -> None:
    """Start the app and photograph it; what it trains goes into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["WORKBENCH_HOME"] = home
        photograph_all()


def photograph_all() -> None:
    """Serve the app, for the site or for a reviewer."""
    demo = build()
    _, url, _ = demo.launch(prevent_thread_lock=True, **settings())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        if len(sys.argv) > 1:
            for_a_reviewer(browser, url, Path(sys.argv[1]))
        else:
            for_the_site(browser, url)
        browser.close()
    close(demo)


if __name__ == "__main__":
    main()
