"""The generated image against the patient's, both as the model sees them: blended, swiped over, or their difference."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffatlas.geometry.grid import Grid, reorient
from diffatlas.geometry.resample import image_to_model
from diffatlas.geometry.space import ModelSpace
from diffatlas.geometry.volume import Volume
from napari_diffatlas.jobs.recording import Picture
from napari_diffatlas.viewer.layers import Placement
from napari_diffatlas.viewer.live_layers import canonical

How = Literal["off", "blend", "swipe", "difference"]
AGAINST = "DiffAtlas against the patient"


def seen_patient(volume: Volume, grid: Grid, space: ModelSpace) -> NDArray[np.float32]:
    """The patient's image as the model sees it: float32 [X, Y, Z] in [-1, 1] on ``grid``. Takes seconds on a large
    image: call it in a worker."""
    return image_to_model(volume, grid, space.window_for(volume.modality), space.fill).image


def compared(
    generated: NDArray[np.float32], patient: NDArray[np.float32], how: How, share: float, axis: int
) -> NDArray[np.float32]:
    """Two images [X, Y, Z] in [-1, 1] as one.

    "blend": ``share`` of the generated one. "swipe": the generated one in the first ``share`` along ``axis``, the
    patient's in the rest. "difference": generated less patient's, half as large, so that it stays in [-1, 1].
    """
    if how == "blend":
        return np.asarray(share * generated + (1 - share) * patient, dtype=np.float32)
    if how == "difference":
        return np.asarray((generated - patient) / 2, dtype=np.float32)
    border = round(share * generated.shape[axis])
    at = np.arange(generated.shape[axis]).reshape([-1 if a == axis else 1 for a in range(3)])
    return np.where(at < border, generated, patient).astype(np.float32)


class Against:
    """One layer on the model's grid. ``patient``: as `seen_patient` gives it, on the grid of the pictures shown."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._layer: Any = None
        self._patient: NDArray[np.float32] | None = None
        self._how: How = "off"
        self._share = 0.5

    @property
    def ready(self) -> bool:
        """Whether the patient's image is there."""
        return self._patient is not None

    def use(self, patient: NDArray[np.float32] | None) -> None:
        """Compare with this image from now on; None removes it and the layer."""
        self._patient = patient
        if patient is None:
            self._remove()

    def set(self, how: How, share: float) -> None:
        """How to compare; ``share`` in [0, 1]."""
        if how != self._how:
            self._remove()
        self._how, self._share = how, share

    def show(self, picture: Picture, placement: Placement) -> None:
        """Show the comparison of this step, if it is on."""
        if self._how == "off" or self._patient is None or self._patient.shape != picture.image.shape:
            self._remove()
            return
        orientation = canonical(picture, placement)
        generated = reorient(picture.image, orientation).astype(np.float32)
        patient = reorient(self._patient, orientation)
        data = compared(generated, patient, self._how, self._share, self._horizontal())
        if self._layer is not None and self._layer in self._viewer.layers and self._layer.data.shape == data.shape:
            self._layer.data[...] = data
            self._layer.refresh(extent=False, thumbnail=False, highlight=False)
            return
        active = self._viewer.layers.selection.active
        place = placement.layer_arguments(picture.grid.reoriented(orientation))
        look = {"contrast_limits": (-1, 1), "colormap": "PiYG" if self._how == "difference" else "gray"}
        own = {"name": AGAINST, "metadata": placement.metadata(live=True)}
        self._layer = self._viewer.add_image(data, **look, **own, **place)
        self._viewer.layers.selection.active = active if active in self._viewer.layers else None

    def _horizontal(self) -> int:
        """The array's axis that runs across the screen."""
        return int(self._viewer.dims.order[-1]) - (self._viewer.dims.ndim - 3)

    def _remove(self) -> None:
        layer, self._layer = self._layer, None
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)
