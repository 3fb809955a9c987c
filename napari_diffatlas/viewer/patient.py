"""Shows one patient after the other in the same two layers, because new layers take a third of a second."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap
from napari_diffatlas.viewer.layers import LayerTuple, Source, read_layer
from napari_diffatlas.viewer.scene import Scene

# What follows from one patient to the next is the user's: opacity, colour map, brush size.
IMAGE_STATE = ("affine", "units", "axis_labels", "metadata", "contrast_limits", "name")
LABELS_STATE = ("affine", "units", "axis_labels", "metadata", "colormap", "features", "name")


class Patient:
    """The image and the labels of the patient shown."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._image: Any = None
        self._labels: Any = None
        self._shown: NDArray[Any] | None = None

    def show(self, image: LayerTuple, labels: LayerTuple) -> None:
        """Show these layers in place of those of the patient before."""
        first = self._image is None or not self._scene.holds(self._image)
        before = self._scene.point
        self._image = self._put(self._image, image, IMAGE_STATE)
        self._labels = self._put(self._labels, labels, LABELS_STATE)
        self.saved()
        scheme = self._labels.metadata["diffatlas"]["scheme"]
        self._scene.hide_others((self._image, self._labels))
        self._scene.hold_brush(self._labels, scheme)
        if first:
            self._scene.face_patient()
        self._scene.look_at(str(self._image.name), before)

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
            self._labels.data[...] = self._shown
            self._labels.refresh()

    def saved(self) -> None:
        """The labels shown were saved."""
        self._shown = self.ids().copy()

    def set_labels(self, labels: LabelMap) -> None:
        """Show other labels, given on the file's own voxels."""
        self._labels.data[...] = self.source().origin.display(labels.to_ids())
        self._labels.refresh()

    def set_displayed(self, labels: LabelMap) -> None:
        """Show other labels, given on the displayed voxels."""
        self._labels.data[...] = labels.to_ids()
        self._labels.refresh()

    def _put(self, layer: Any, new: LayerTuple, keys: tuple[str, ...]) -> Any:
        data, state, kind = new
        if layer is None or not self._scene.holds(layer):
            return self._scene.add(data.copy(), state, kind)
        layer.data = data.copy()  # a copy: the data that were read ahead may be shown again
        for key in keys:
            if key in state:
                setattr(layer, key, state[key])
        return layer
