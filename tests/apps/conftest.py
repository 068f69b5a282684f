"""One app and one browser for every test of the app."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="package")
def served():
    """The app, served: (demo, url); closed after the app's tests, since its threads would slow every small step of the others."""
    from apps import main

    demo = main.build()
    _, url, _ = demo.launch(server_port=free_port(), prevent_thread_lock=True, **main.settings())
    yield demo, url
    main.close(demo)


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], Any]], None]:
    """Wait for what another thread does; a machine that never comes so far fails here and does not hang."""

    def wait(condition: Callable[[], Any], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"not within {seconds:g} s")
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="module")
def browser(chromium):
    """A Chromium that Playwright drives; not for the session, since its event loop would be in the way of other tests."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield opened
        opened.close()
