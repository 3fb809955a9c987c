"""Gradio's components as this page needs them."""

from __future__ import annotations

from pathlib import Path

import gradio as gr


def uploads_only(field: gr.File) -> gr.File:
    """Make a file field refuse an address in place of a file, which gradio would fetch.

    Done on the instance: gradio writes a stub file beside every module that subclasses one of its components.
    """
    move = field.async_move_resource_to_block_cache

    async def move_unless_address(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("give a file, not an address", print_exception=False)
        return await move(path)

    setattr(field, "async_move_resource_to_block_cache", move_unless_address)  # noqa: B010 (a method, to mypy)
    return field
