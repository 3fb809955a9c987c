"""Shows one patient after the other in the same two layers, because new layers take a third of a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap
from napari_diffatlas.viewer.layers import LayerTuple, Source, read_layer
from napari_diffatlas.viewer.live_layers import forget_strokes, overwrite, show
from napari_diffatlas.viewer.scene import Scene

# What follows from one patient to the next is the user's: opacity, colour map, brush size.
IMAGE_STATE = ("affine", "units", "axis_labels", "metadata", "contrast_limits", "name")
LABELS_STATE = ("affine", "units", "axis_labels", "metadata", "colormap", "features", "name")

SAME_MM = 1.0  # a patient who lies as the one before does


class Patient:
    """The image and the labels of the patient shown. ``on_painted`` is called at every stroke, and at its undo."""

    def __init__(self, scene: Scene, on_painted: Callable[[], None]) -> None:
        self._scene, self._on_painted = scene, on_painted
        self._image: Any = None
        self._labels: Any = None
        self._heard: Any = None
        self._shown: NDArray[Any] | None = None

    def show(
        self,
        image: LayerTuple,
        labels: LayerTuple,
        painted: LabelMap | None = None,
        middle: NDArray[np.float64] | None = None,
    ) -> None:
        """Show these layers in place of those of the patient before.

        ``painted``: labels on the file's own voxels that were painted and not saved. ``middle``: a point of the world
        to look at where this patient does not lie as the one before does; else slices and camera stay.
        """
        first = self._image is None or not self._scene.holds(self._image)
        box = None if first else self._image.extent.world
        self._image = self._put(self._image, image, IMAGE_STATE)
        self._labels = self._put(self._labels, labels, LABELS_STATE)
        forget_strokes(self._labels)
        if self._labels is not self._heard:
            self._heard = self._labels
            self._labels.events.paint.connect(self._heed)
            self._labels.events.set_data.connect(self._heed)  # napari's undo
        self.saved()
        if painted is not None:
            self.set_labels(painted)
        scheme = self._labels.metadata["diffatlas"]["scheme"]
        if first:
            self._scene.face_patient()
        if box is None or not np.allclose(box, self._image.extent.world, atol=SAME_MM):
            self._scene.fit(self._image, middle)
        self._scene.hide_others((self._image, self._labels))
        self._scene.hold_brush(self._labels, scheme)

    def source(self) -> Source:
        """The image as the engine needs it."""
        if self._image is None:
            raise BadInput("no patient is open")
        return read_layer(self._image)

    def ids(self) -> NDArray[Any]:
        """The labels as they are now."""
        return np.asarray(self._labels.data)

    def touched(self) -> bool:
        """Whether the labels were changed since they were shown or saved."""
        return self._shown is not None and not np.array_equal(self._shown, self.ids())

    def take_back(self) -> None:
        """Go back to the labels that were shown or saved last."""
        if self._shown is not None:
            overwrite(self._labels, self._shown)

    def saved(self) -> None:
        """The labels shown were saved."""
        self._shown = self.ids().copy()

    def set_labels(self, labels: LabelMap) -> None:
        """Show other labels, given on the file's own voxels."""
        overwrite(self._labels, self.source().origin.display(labels.to_ids()))

    def set_displayed(self, labels: LabelMap) -> None:
        """Show other labels, given on the displayed voxels."""
        overwrite(self._labels, labels.to_ids())

    def _heed(self, _: Any = None) -> None:
        self._on_painted()

    def _put(self, layer: Any, new: LayerTuple, keys: tuple[str, ...]) -> Any:
        data, state, kind = new
        if layer is None or not self._scene.holds(layer):
            return self._scene.add(data.copy(), state, kind)
        show(layer, False)  # all changes are sliced and drawn once, at the end
        layer.data = data.copy()  # a copy: the data that were read ahead may be shown again
        for key in keys:
            if key in state:
                setattr(layer, key, state[key])
        return layer
