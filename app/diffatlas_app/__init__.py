"""The web demo: one page that streams a segmentation out of noise. `main` serves it.

Neither gradio nor torch is imported before it is called.
"""

from __future__ import annotations

__all__ = ["main"]


def main(host: str = "127.0.0.1", port: int | None = None, share: bool = False, open_browser: bool = False) -> None:
    """Serve the page until interrupted.

    ``host``: address to listen on; 127.0.0.1 is reachable from this machine only. ``port``: None takes the first
    free one from 7860. ``share``: ask gradio for a public link (uploads then pass through its servers).
    """
    from diffatlas_app.serve import serve

    served = serve(host=host, port=port, share=share, open_browser=open_browser)
    print(f"DiffAtlas: {served.url} (Ctrl-C stops it)", flush=True)  # flush: a log or a pipe shows it at once
    try:
        served.page.block_thread()
    finally:
        served.close()
