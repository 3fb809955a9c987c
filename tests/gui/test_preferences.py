"""Preferences: the manifest's configurations, kept by napari, heeded by the widget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffatlas import session
from diffatlas.geometry.volume import Volume
from diffatlas.models import store
from napari_diffatlas.preferences import Preferences, models, preferences
from napari_diffatlas.viewer.layers import volume_to_layer
from napari_diffatlas.widget import DiffAtlasWidget
from tests.fakes import FakeBackend

settings_module = pytest.importorskip("napari.settings")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Non-orthogonal slicing"),
    pytest.mark.skipif(
        not hasattr(settings_module, "get_plugin_settings"), reason="this napari has no preferences of plugins"
    ),
]

ROOT = Path(__file__).resolve().parents[2]
Open = Callable[[Any, FakeBackend], DiffAtlasWidget]


@pytest.fixture
def settings(npe2pm: Any, plugin_settings: Any) -> Any:
    """What File > Preferences > DiffAtlas shows, in a folder of the test's own."""
    with npe2pm.tmp_plugin(manifest=str(ROOT / "napari.yaml")):
        yield settings_module.get_plugin_settings("napari-diffatlas")


def test_what_nobody_chose_is_the_default(settings: Any) -> None:
    assert preferences() == Preferences()


def test_what_the_user_chose_is_heeded_and_kept(
    settings: Any, make_napari_viewer: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    settings.runs.device, settings.runs.model, settings.runs.recording_mb = "cpu", "hippocampus-mri", 16
    assert "recording_mb: 16" in settings.config_path.read_text()
    viewer = make_napari_viewer()
    data, state, _ = volume_to_layer(volume)
    viewer.add_image(data, **state)
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    qtbot.waitUntil(lambda: not widget.running, timeout=90_000)
    assert (backend.requests[0].model, backend.requests[0].device) == ("hippocampus-mri", "cpu")
    assert "of 16 MB" in widget.segment.scrubber.kept_text.text()


@pytest.mark.parametrize(("key", "value"), [("device", "abacus"), ("recording_mb", 1)])
def test_values_that_make_no_sense_are_not_taken(settings: Any, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        setattr(settings.runs, key, value)
    assert preferences() == Preferences()


def test_a_folder_of_weights_adds_models(tiny_model: Path) -> None:
    try:
        cards, warning = models(str(tiny_model.parent))
        assert "tiny" in {card.name for card in cards}
        assert warning == ""
        assert session.model_card("tiny").name == "tiny"
    finally:
        session.use_models_folder(None)
    assert "tiny" not in {card.name for card in models("")[0]}


@pytest.mark.parametrize("broken", ["gone", "card"])
def test_a_folder_that_cannot_be_used_is_told_and_the_shipped_models_stay(
    settings: Any, make_napari_viewer: Any, tmp_path: Path, broken: str
) -> None:
    folder = tmp_path / broken
    if broken == "card":
        (folder / "mine").mkdir(parents=True)
        (folder / "mine" / store.CARD_FILE).write_text("nothing")
    settings.runs.weights_folder = str(folder)
    widget = DiffAtlasWidget(make_napari_viewer())
    assert widget.segment.panel.status.text().startswith("Preferences, weights folder: ")
    assert widget.segment.panel.model_combo.count() == len(session.available_models()) > 0
    widget.close()


def test_the_preferences_dialog_has_a_page_for_them(settings: Any, make_napari_viewer: Any, qtbot: Any) -> None:
    from napari._qt.dialogs.preferences_dialog import PreferencesDialog

    viewer = make_napari_viewer()
    dialog = PreferencesDialog(parent=viewer.window._qt_window)
    qtbot.addWidget(dialog)
    tree: Any = dialog._list
    titles = [tree.item(i).text() for i in range(tree.count())] if hasattr(tree, "item") else []
    assert any("DiffAtlas" in title for title in titles), titles
    dialog.close()
