"""The widgets as a person meets them: in a real JupyterLab, in Chromium."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("jupyterlab")
pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90_000  # milliseconds; a busy machine is not a fault
CELLS = {
    "explore.ipynb": 'import workbench as wb\nshown = wb.widgets.explore(["eight_gaussians", wb.compare.Column("eight_gaussians", label="2 steps", steps=2)], n=60)\nshown',
    "schedule.ipynb": 'import workbench as wb\nchosen = wb.widgets.schedule("linear")\nchosen',
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on a free port with nothing of this machine's settings; killed whatever happens."""
    home = tmp_path_factory.mktemp("lab")
    for name, code in CELLS.items():
        cell = {"cell_type": "code", "id": "one", "metadata": {}, "source": code, "outputs": [], "execution_count": None}
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        (home / name).write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "HOME": "home",
        "IPYTHONDIR": "ipython",
    }
    settings = {**os.environ, **{key: str(home / name) for key, name in folders.items()}, "PYTHONPATH": str(ROOT)}
    settings |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    for name in folders.values():
        (home / name).mkdir()
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    command = [sys.executable, "-m", "jupyterlab", f"--port={port}", "--ip=127.0.0.1", "--no-browser", "--allow-root"]
    command += [
        f"--ServerApp.root_dir={home}",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        "--ServerApp.port_retries=0",
    ]
    command += [
        "--ServerApp.terminals_enabled=False",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    log = (home / "log.txt").open("w")
    server = subprocess.Popen(command, cwd=home, env=settings, stdout=log, stderr=log, start_new_session=True)
    try:
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/api", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"JupyterLab does not answer: {(home / 'log.txt').read_text()[-2000:]}")
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # its kernels belong to its session
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
        log.close()


@pytest.fixture(scope="module")
def browser(chromium):
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield opened
        opened.close()


def run_cell(page) -> None:
    """Run the first cell, pressing again while the page has not taken it: it does so only once its kernel is connected."""
    page.get_by_text("| Idle").first.wait_for()
    for _ in range(20):
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(500)
        if page.locator(".jp-CodeCell .jp-InputPrompt").first.inner_text().strip() not in ("[ ]:", ""):
            return
        page.wait_for_timeout(1000)


@pytest.fixture
def notebook(browser, lab):
    """A function that opens a notebook, runs its cell, and returns the page and what its console complained of."""
    pages = []

    def opened(name: str):
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.goto(f"{lab}/doc/tree/{name}?reset")
        page.wait_for_selector(".jp-CodeCell .cm-content")
        run_cell(page)
        page.wait_for_selector(".wb-widget")
        return page, complaints

    yield opened
    for page in pages:
        page.close()


PICTURES = "[...document.querySelectorAll('.wb-picture img')]"
DRAWN = f"{PICTURES}.length && {PICTURES}.every((img) => img.complete && img.naturalWidth > 100)"


def ours(complaints: list[str]) -> list[str]:
    """Complaints that come from a widget, not from the server that has no such setting or icon yet."""
    return [text for text in complaints if "Failed to load resource" not in text]


def test_explore_draws_and_follows_the_keyboard(notebook):
    page, complaints = notebook("explore.ipynb")
    page.wait_for_function(DRAWN)
    page.wait_for_function("document.querySelectorAll('.wb-figure.js-plotly-plot').length === 4")
    source = page.evaluate(f"{PICTURES}[0].src")
    status = page.locator(".wb-column .wb-quiet", has_text="NFE").first
    assert "step 25 of 25" in status.inner_text()
    page.locator(".widget-slider", has_text="Step").first.locator("[role=slider]").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"{PICTURES}[0].src !== {json.dumps(source)}")
    page.wait_for_function(
        "[...document.querySelectorAll('.wb-column .wb-quiet')].some((el) => el.innerText.includes('step 24 of 25'))"
    )
    assert page.evaluate(f"{PICTURES}.every((img) => img.alt.length > 20)")
    page.locator(".wb-picture img").first.click()
    page.wait_for_selector(".wb-mark:not([hidden])")
    assert not ours(complaints), complaints


def test_schedule_follows_its_controls(notebook):
    page, complaints = notebook("schedule.ipynb")
    page.wait_for_function("document.querySelectorAll('.wb-figure.js-plotly-plot').length >= 2")
    assert "heun, 8 uniform steps on linear, 15 evaluations" in page.locator(".wb-widget").inner_text()
    page.locator(".widget-slider", has_text="Steps").first.locator("[role=slider]").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('.wb-widget').innerText.includes('7 uniform steps')")
    assert not ours(complaints), complaints
