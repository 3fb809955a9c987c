"""The widget on the real engine with the weights that ship: what a user gets on pressing Run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffatlas import session
from diffatlas.engine.request import Request
from napari_diffatlas.sample_data import heart_ct
from napari_diffatlas.viewer.layers import read_layer
from napari_diffatlas.viewer.live_layers import LIVE_CONFIDENCE, LIVE_IMAGE, LIVE_LABELS
from napari_diffatlas.widget import DiffAtlasWidget

MODEL = "heart-phantom"


def dice(a: Any, b: Any) -> float:
    return float(2 * np.sum(a & b) / (np.sum(a) + np.sum(b)))


@pytest.mark.weights
@pytest.mark.timeout(600)  # seconds on an idle machine, minutes on a busy one
def test_a_phantom_heart_is_segmented_live(make_napari_viewer: Any, qtbot: Any) -> None:
    if MODEL not in {card.name for card in session.available_models()}:
        pytest.skip(f"the weights of {MODEL} are not in weights/")
    viewer = make_napari_viewer()
    (data, state, _), (truth, _, _) = heart_ct()
    image = viewer.add_image(data, **state)
    seen: list[str] = []
    viewer.layers.events.inserted.connect(lambda event: seen.append(event.value.name))
    widget = DiffAtlasWidget(viewer)  # on its own backend: the engine of this machine
    viewer.window.add_dock_widget(widget, name="DiffAtlas")
    panel = widget.segment.panel
    panel.model_combo.setCurrentIndex(panel.model_combo.findData(MODEL))
    panel.options.presets.choose("fast")
    panel.options.advanced.form["seed"].value = 3
    panel.run_button.click()
    qtbot.waitUntil(lambda: not widget.running, timeout=500_000)
    assert panel.status.text().startswith("Done in "), panel.status.text()
    # The model is calibrated: one sample has a confidence, out of sight until it is asked for.
    confidence = "phantom CT confidence, labels, seed 3"
    assert seen[:3] == [LIVE_IMAGE, LIVE_LABELS, "phantom CT labels, seed 3"]
    assert set(seen[3:]) <= {LIVE_CONFIDENCE, confidence}
    assert not viewer.layers[confidence].visible

    # The labels are the engine's own, voxel for voxel, and lie on the heart. (How well they fit is measured elsewhere.)
    labels = viewer.layers["phantom CT labels, seed 3"].data
    source = read_layer(image)
    again = session.segment(source.file_volume(), Request(model=MODEL, preset="fast", seed=3))
    assert np.array_equal(source.origin.restore(labels), again.labels.to_ids())
    scores = [dice(labels == id_, truth == id_) for id_ in again.labels.scheme.ids]
    assert np.mean(scores) > 0.5, scores
