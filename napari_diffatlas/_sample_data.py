"""Sample data: phantom hearts, made on the spot, with their true labels."""

from __future__ import annotations

from diffatlas import session
from napari_diffatlas._layers import LayerTuple, label_map_to_layer, volume_to_layer


def heart_ct() -> list[LayerTuple]:
    """A phantom heart as a contrast CT."""
    return _example("heart-ct", "phantom CT")


def heart_mr() -> list[LayerTuple]:
    """A phantom heart as an MR image."""
    return _example("heart-mr", "phantom MR")


def _example(name: str, title: str) -> list[LayerTuple]:
    volume, truth = session.example(name)
    image, state, kind = volume_to_layer(volume)
    labels, label_state, label_kind = label_map_to_layer(truth, f"{title} truth")
    label_state["visible"] = False  # first the image, then the run; the truth is one click away
    return [(image, state | {"name": title}, kind), (labels, label_state, label_kind)]
