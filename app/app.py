"""Entry point of the hosted demo (a Hugging Face Space runs this file)."""

from __future__ import annotations

import os

from diffatlas_app import main

# A Space is reached from outside its container; everywhere else the page stays on this machine.
DEFAULT_HOST = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"

if __name__ == "__main__":
    main(host=os.environ.get("GRADIO_SERVER_NAME", DEFAULT_HOST))
