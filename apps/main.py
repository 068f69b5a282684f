"""The program in the browser: build the page, serve it on this machine."""

from __future__ import annotations

import os
import sys
import threading

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a waiting thread sleeps: a spinning one holds a core that others need
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr

from apps import compare_tab, distill_tab, leaderboard_tab, schedules_tab, session, viewer
from apps.theme import CSS, theme
from workbench.errors import WorkbenchError

TITLE = "Diffusion workbench"
INTRO = (
    "One noise, several models: watch a slow teacher and its few-step students turn the same noise into samples, "
    "step by step, and see what was kept and what was lost."
)
SESSIONS, IDLE_SECONDS = 64, 3600


def build() -> gr.Blocks:
    """The page, not yet served; nothing is trained, measured or loaded from disk but the cards."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 1800), fill_width=True) as demo:
        viewer.page_head(TITLE, INTRO)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Compare", id="compare") as tab:
                compare = compare_tab.build(demo, IDLE_SECONDS, tab)
            with gr.Tab("Schedules", id="schedules") as tab:
                schedules_tab.build(tab, IDLE_SECONDS)
            with gr.Tab("Distill", id="distill") as tab:
                distill = distill_tab.build(tab, IDLE_SECONDS)
            with gr.Tab("Leaderboard", id="leaderboard") as tab:
                leaderboard_tab.build(tab, tabs, compare, distill)
    demo.queue(default_concurrency_limit=4, max_size=64, api_open=False)
    return demo


def settings() -> dict:
    """What belongs to `demo.launch`: the look, the limits, no foreign host."""
    return {
        "theme": theme(),
        "css_paths": [CSS],
        "head": viewer.head() + schedules_tab.head(),
        "footer_links": [],
        "run_history": False,  # else Gradio keeps every picture in the browser, and each change costs more than the one before
        "state_session_capacity": SESSIONS,
        "show_error": True,
        "ssr_mode": False,
        "max_file_size": "1mb",
        "quiet": True,
    }


def warm() -> None:
    """Load what the first click will need, while the user reads."""
    try:
        setting = next(iter(session.spaces()))
        for chosen in session.defaults(setting):
            session.load(chosen.model)
    except WorkbenchError as error:
        print(f"A model of the first space cannot be loaded: {error}", file=sys.stderr)


def close(demo: gr.Blocks) -> None:
    """Stop serving, whatever pages are still open."""
    try:
        demo.close(verbose=False)
    except RuntimeError:  # Gradio wakes its open connections from the wrong thread, before it closes the server
        demo.server.close()


def launch(host: str = "127.0.0.1", port: int = 7860, share: bool = False, open_browser: bool = False) -> None:
    """Serve the program until Ctrl-C.

    Args:
        host: 127.0.0.1 serves this machine only. share: make a public address through Gradio's own service.
        open_browser: open the page when it is up.

    Raises:
        WorkbenchError: if the port is taken or impossible.
    """
    if not isinstance(port, int) or not 0 < port < 65536:
        raise WorkbenchError(f"port is {port!r}, but must be a whole number from 1 to 65535.")
    demo = build()
    try:
        demo.launch(
            server_name=host, server_port=port, share=share, inbrowser=open_browser, prevent_thread_lock=True, **settings()
        )
        print(f"The workbench is open at {demo.local_url} (Ctrl-C ends it).", flush=True)
        threading.Thread(target=warm, daemon=True).start()
        threading.Event().wait()
    except OSError as error:
        raise WorkbenchError(
            f"{host}:{port} cannot be used, it may be taken: choose another port, or end what runs there."
        ) from error
    except KeyboardInterrupt:
        print("\nClosed.")
    finally:
        close(demo)


if __name__ == "__main__":
    launch()
