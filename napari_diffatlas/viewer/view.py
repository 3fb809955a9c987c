"""Slices and camera of the viewer: axial slices at first, and moving to a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_diffatlas.viewer.layers import AXES

DEFAULT_CAMERA = ("towards", "down", "right")
RADIOLOGICAL = ("away", "up", "left")  # anterior up, right on the left; keeps x, y, z right-handed in 3-D


class View:
    """Slices and camera of one viewer."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._turned = False

    def layers_changed(self) -> None:
        """Turn an untouched viewer to axial slices in the radiological convention, and back once it is empty.

        Only where every layer is a volume with our x, y, z axes and nobody has turned the viewer before: napari's own
        default would show x, y, z volumes as sagittal slices lying on their side.
        """
        viewer = self._viewer
        if not len(viewer.layers) and self._turned:
            # napari resets the order of the axes, not the direction of the camera.
            self._turned, self._camera.orientation = False, DEFAULT_CAMERA
            return
        ours = [tuple(layer.axis_labels) == AXES for layer in viewer.layers]
        if not ours or not all(ours) or viewer.dims.order != (0, 1, 2) or viewer.dims.ndisplay != 2:
            return
        if tuple(str(side) for side in self._camera.orientation) != DEFAULT_CAMERA:
            return
        viewer.dims.order = (2, 1, 0)
        self._camera.orientation = RADIOLOGICAL
        self._turned = True
        viewer.reset_view()
        self.centre(np.mean(viewer.layers.extent.world, axis=0))

    def look_at(self, layer: Any) -> None:
        """Go to the centre of ``layer`` and fit the camera to it, where the displayed slices miss it."""
        box = layer.extent.world
        point = np.asarray(self._viewer.dims.point, dtype=np.float64)[-box.shape[1] :]
        if len(point) == box.shape[1] and not np.any((point < box[0]) | (point > box[1])):
            return
        self.fit(layer)

    def fit(self, layer: Any, point: NDArray[np.float64] | None = None) -> None:
        """The slices through ``point`` (None: the middle of ``layer``), and the camera on ``layer`` alone."""
        self.centre(layer.extent.world.mean(axis=0) if point is None else point)
        fit_camera(self._viewer, [layer])

    def centre(self, world: Sequence[float] | NDArray[np.float64]) -> None:
        """Show the slices through a world point."""
        axes = range(self._viewer.dims.ndim - len(world), self._viewer.dims.ndim)
        self._viewer.dims.set_point(tuple(axes), tuple(float(w) for w in world))

    @property
    def _camera(self) -> Any:
        return camera(self._viewer)


def camera(viewer: Any) -> Any:
    """The viewer's camera."""
    return getattr(viewer, "scene", viewer).camera  # moved in napari 0.9


def fit_camera(viewer: Any, layers: Sequence[Any]) -> None:
    """The camera on ``layers`` alone; on all layers before napari 0.8."""
    fit = getattr(viewer, "fit_to_view", None)
    if fit is None or not layers:
        viewer.reset_view()
    else:
        fit(layers=layers)
