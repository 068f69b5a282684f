"""A helper process that must not outlive the one that started it."""

from __future__ import annotations

import os
import threading
import time

POLL = 0.2  # seconds


def end_with_parent() -> None:
    """End this process, at once and without a word, soon after its parent has ended: one that was killed cannot say so.

    Whoever is started in its place then finds the files of a run as the last checkpoint left them, and no other writer.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(1)
