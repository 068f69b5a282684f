"""Look of the program: system fonts, no other host, the palette of the figures."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

SYSTEM = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
CSS = Path(__file__).with_name("style.css")


def theme() -> gr.themes.Base:
    """A quiet theme: one accent, small radii, dense spacing."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_sm,
        font=SYSTEM,
        font_mono=MONO,
    ).set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#0e1116",
        background_fill_primary_dark="#161b22",
        block_background_fill_dark="#161b22",
        block_border_width="1px",
        block_shadow="none",
        block_label_background_fill="transparent",
        button_primary_background_fill="#2467a6",
        button_primary_background_fill_hover="#1d5689",
        button_primary_background_fill_dark="#2a73b3",
        button_primary_background_fill_hover_dark="#2467a6",
        button_primary_text_color="white",
    )
