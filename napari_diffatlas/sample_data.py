"""Sample data, computed when opened: phantom hearts with their true labels, and a pair drawn from the atlas."""

from __future__ import annotations

from diffatlas import session
from diffatlas.engine.request import Request
from napari_diffatlas.viewer.layers import LayerTuple, label_map_to_layer, volume_to_layer


def heart_ct() -> list[LayerTuple]:
    """A phantom heart as a contrast CT."""
    return _example("heart-ct", "phantom CT")


def heart_mr() -> list[LayerTuple]:
    """A phantom heart as an MR image."""
    return _example("heart-mr", "phantom MR")


def atlas_pair(seed: int = 0) -> list[LayerTuple]:
    """An image and its mask as the heart atlas generates them, out of noise alone; takes seconds."""
    request = Request(task="generate", model=session.choose_model(None), preset="watch", guidance="none", seed=seed)
    result = session.segment(None, request)
    image, state, kind = volume_to_layer(result.images[0])
    labels, label_state, label_kind = label_map_to_layer(result.masks[0], "generated labels")
    state |= {"name": "generated heart", "contrast_limits": (-1, 1)}
    return [(image, state, kind), (labels, label_state, label_kind)]


def _example(name: str, title: str) -> list[LayerTuple]:
    volume, truth = session.example(name)
    image, state, kind = volume_to_layer(volume)
    labels, label_state, label_kind = label_map_to_layer(truth, f"{title} truth")
    label_state["visible"] = False  # hidden at first, so that the user can run before looking at the truth
    return [(image, state | {"name": title}, kind), (labels, label_state, label_kind)]
