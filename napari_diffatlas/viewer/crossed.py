"""Crossed-out voxels in the viewer: a layer over the image in which the user paints the voxels to ignore."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray

from diffatlas.geometry.volume import LabelScheme, Structure
from napari_diffatlas.viewer.layers import KEY, Source, label_style

CROSSED = "DiffAtlas crossed out"
SCHEME = LabelScheme("crossed out", (Structure("crossed out: not believed", 1, (255, 64, 64)),))
BRUSH_MM = 12.0
MAX_BRUSH_VOXELS = 40.0


class Crossed:
    """One layer of 0 and 1 an image. ``on_changed`` is called when the user has painted in it.

    The layers are found by their metadata. A user who deletes one clears what was crossed out.
    """

    def __init__(self, viewer: Any, on_changed: Callable[[], None]) -> None:
        self._viewer, self._on_changed = viewer, on_changed
        self._heard: list[Any] = []

    def disconnect(self) -> None:
        """Stop listening to the layers; a widget may be shut down twice."""
        for layer in self._heard:
            for event in (layer.events.paint, layer.events.set_data):
                with contextlib.suppress(ValueError):
                    event.disconnect(self._heed)
        self._heard = []

    def layer(self, source: Source) -> Labels | None:
        """The layer over ``source``; None where there is none or the image has moved since."""
        for layer in self._viewer.layers:
            ours = layer.metadata.get(KEY, {}).get("crossed")
            if ours == source.name and layer.data.shape == source.grid.shape:
                found: Labels = layer
                return found
        return None

    def open(self, source: Source) -> None:
        """Show the layer over ``source`` and select a round brush that paints in three dimensions."""
        layer = self.layer(source)
        if layer is None:
            place = source.placement.layer_arguments(source.grid)
            state = label_style(SCHEME) | place | {"metadata": source.placement.metadata(crossed=source.name)}
            layer = self._viewer.add_labels(np.zeros(source.grid.shape, np.uint8), name=CROSSED, **state)
            layer.brush_size = max(1.0, min(MAX_BRUSH_VOXELS, BRUSH_MM / min(source.grid.spacing_mm)))
            layer.n_edit_dimensions = 3
        if layer not in self._heard:
            self._heard.append(layer)
            layer.events.paint.connect(self._heed)  # the brush; what undo changes comes as new data
            layer.events.set_data.connect(self._heed)
        layer.visible = True
        layer.selected_label = 1
        layer.mode = "paint"
        self._viewer.layers.selection.active = layer

    def mask(self, source: Source) -> NDArray[np.bool_] | None:
        """The voxels of ``source`` that are crossed out, as displayed; None where there are none."""
        layer = self.layer(source)
        if layer is None:
            return None
        mask = np.asarray(layer.data) > 0
        return mask if mask.any() else None

    def close(self, source: Source) -> None:
        """Clear all crossed-out voxels."""
        layer = self.layer(source)
        if layer is not None:
            self._viewer.layers.remove(layer)

    def hide(self) -> None:
        """Hide the layer, so that a result can be seen; its voxels stay crossed out."""
        for layer in self._viewer.layers:
            if KEY in layer.metadata and "crossed" in layer.metadata[KEY] and layer.visible:
                layer.visible = False

    def _heed(self, _: Any = None) -> None:
        self._on_changed()
