"""The settings in File > Preferences > DiffAtlas; napari makes that page from the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffatlas import session
from diffatlas.errors import BadInput
from diffatlas.session import ModelCard

PLUGIN = "napari-diffatlas"


@dataclass(frozen=True)
class Preferences:
    """``model``: name of the one that is chosen at first, "" for the first in the list. ``weights_folder``: holds
    folders of models besides the shipped ones, "" for none. ``recording_mb``: limit of a run's recorded steps, MiB.
    """

    device: str = "auto"
    model: str = ""
    weights_folder: str = ""
    recording_mb: int = 256


def preferences() -> Preferences:
    """The user's settings, or the manifest's defaults where napari has no preferences of plugins (before 0.9)."""
    settings = _settings()
    if settings is None:
        return Preferences()
    runs = settings.runs
    return Preferences(runs.device, runs.model.strip(), runs.weights_folder.strip(), runs.recording_mb)


def _settings() -> Any:
    try:
        from napari.settings import get_plugin_settings

        return get_plugin_settings(PLUGIN)
    except (ImportError, KeyError):
        return None


def models(folder: str) -> tuple[tuple[ModelCard, ...], str]:
    """All models, with those in ``folder``, and one line where that folder cannot be used."""
    try:
        session.use_models_folder(Path(folder).expanduser() if folder else None)
        return session.available_models(), ""
    except BadInput as error:
        session.use_models_folder(None)
        return session.available_models(), f"Preferences, weights folder: {error}"
