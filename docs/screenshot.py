"""Make docs/screenshot.png: start the app, generate, open a sample, photograph. Needs Chromium and the test extras.

python docs/screenshot.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from apps.main import build, close, settings

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    demo = build()
    _, url, _ = demo.launch(prevent_thread_lock=True, **settings())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 1250})
        page.goto(url)
        page.click("#generate")
        page.wait_for_function("document.querySelector('#message').innerText.includes('Done')", timeout=120_000)
        page.locator(".picture img").first.click(position={"x": 150, "y": 40})
        page.wait_for_selector("#strip img, #strip table", timeout=60_000)
        page.wait_for_timeout(3000)
        page.screenshot(path=Path(__file__).with_name("screenshot.png"))
        browser.close()
    close(demo)


if __name__ == "__main__":
    main()
