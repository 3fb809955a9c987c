"""The plugin as a function: for scripts, for a form of magicgui's, and label maps as layers."""

# No postponed annotations here: magicgui finds the type that a function returns by its value only.
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from magicgui import magicgui

from diffatlas import session
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, LabelMap, Volume
from napari_diffatlas.function import segment, segment_form
from napari_diffatlas.viewer.layers import volume_to_layer
from tests.fakes import FakeBackend

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    backend = FakeBackend()

    def stream(volume: Volume | None, request: session.Request) -> Iterator[session.Frame]:
        return backend.stream(volume, request)

    monkeypatch.setattr(session, "stream", stream)
    return backend


def test_a_script_and_the_form_give_the_labels_of_a_layer(
    make_napari_viewer: Any, qtbot: Any, backend: FakeBackend, volume: Volume
) -> None:
    viewer = make_napari_viewer()
    data, state, _ = volume_to_layer(volume)
    image = viewer.add_image(data, **state)
    labels, label_state, kind = segment(image, "heart-phantom", "watch", 3)
    assert kind == "labels"
    # The fake's heart is a twentieth of one.
    assert label_state["name"] == "case 7 labels, seed 3 (doubtful)"
    assert labels.shape == data.shape
    asked = backend.volumes[0]
    assert asked is not None
    assert asked.sha256() == volume.sha256()
    assert (backend.requests[0].preset, backend.requests[0].seed) == ("watch", 3)
    segment(image, modality="ct")
    assert [asked.modality for asked in backend.volumes if asked is not None] == ["mr", "ct"]
    form = segment_form()
    viewer.window.add_dock_widget(form, name="Segment a layer")
    assert form.image.value is image
    assert "heart-phantom" in form.model.choices
    viewer.add_image(np.zeros((4, 4, 4)), name="another")
    assert [choice.name for choice in form.image.choices] == ["case 7", "another"]  # it follows the viewer
    form()
    qtbot.waitUntil(lambda: "case 7 labels, seed 0 (doubtful)" in viewer.layers, timeout=90_000)


def test_a_function_that_returns_a_label_map_shows_a_layer(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()

    @magicgui(result_widget=False)
    def mine() -> LabelMap:
        data = np.ones((4, 5, 6), np.uint8)
        return LabelMap(data, Grid(data.shape, np.diag([-1.0, 1, 2, 1])), MMWHS)

    viewer.window.add_dock_widget(mine, name="mine")
    mine()
    mine()
    (layer,) = viewer.layers
    assert (layer.data == MMWHS.ids[0]).all()
    assert layer.metadata["diffatlas"]["scheme"] is MMWHS
