"""The live layers: what a run generates, drawn while it does.

A viewer takes long to add a layer (controls, visuals, and shaders at the first drawing), so one layer is made per
iteration of the event loop, and the next run uses the same layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.geometry.grid import Grid, reorient
from diffatlas.geometry.volume import LabelMap
from napari_diffatlas.jobs.recording import Picture
from napari_diffatlas.viewer.event_loop import Turns
from napari_diffatlas.viewer.layers import CONFIDENCE_STYLE, Placement, label_style

LIVE_IMAGE = "DiffAtlas image"
LIVE_LABELS = "DiffAtlas labels"
LIVE_CONFIDENCE = "DiffAtlas confidence"


class Live:
    """Image, labels and with several samples confidence of one run at one of its steps.

    They stay, hidden, when the run is over, so that its steps can be shown again in them.
    """

    def __init__(self, viewer: Any, turns: Turns) -> None:
        self._viewer = viewer
        self._turns = turns
        self._layers: dict[str, Any] = {}
        # Layers of the run before, to be used again: software OpenGL crashes on new images after others were removed.
        self._spare: dict[str, Any] = {}
        self._data: dict[str, NDArray[Any]] = {}  # of the step to be shown
        self._visible = True

    def begin(self) -> None:
        """Another run begins: hide the layers of the one before."""
        self.hide()
        self._spare |= self._layers
        self._layers, self._data, self._visible = {}, {}, True

    def draw(self, picture: Picture, placement: Placement, noisy: bool = False) -> bool:
        """Show a step: the first in new layers, then in place; one that the user deletes stays away.

        ``noisy``: the state of the walk, out of noise, instead of the image that the network makes of it. Returns
        whether it was the first.
        """
        orientation = canonical(picture, placement)
        # Copies, because the layers' arrays are overwritten at every step.
        half = picture.noisy_image if noisy else picture.image
        image = reorient(half, orientation).astype(np.float32, copy=True)
        labels = reorient(LabelMap(picture.labels, picture.grid, picture.scheme).to_ids(), orientation)
        first = not self._data
        self._data = {LIVE_IMAGE: image, LIVE_LABELS: labels}
        if picture.confidence is not None:
            self._data[LIVE_CONFIDENCE] = reorient(picture.confidence, orientation).astype(np.float32, copy=True)
        if first:
            self._make_all(picture, placement, picture.grid.reoriented(orientation))
            return True
        for name, data in self._data.items():
            layer = self.layer(name)
            if layer is not None:
                layer.data[...] = data
                layer.refresh(extent=False, thumbnail=False, highlight=False)
        return False

    def layer(self, name: str) -> Any:
        """The live layer of that name; None where there is none, or the user deleted it."""
        layer = self._layers.get(name)
        return layer if layer is not None and layer in self._viewer.layers else None

    def hide(self) -> None:
        """Hide the layers, also those that are still to be made."""
        self._visible = False
        for layer in self._layers.values():
            show(layer, False)

    def reveal(self) -> None:
        """Show image and labels again."""
        self._visible = True
        for name in (LIVE_IMAGE, LIVE_LABELS):
            if name in self._layers:
                show(self._layers[name], True)

    def refresh_thumbnails(self) -> None:
        """Update the thumbnails, which are not drawn during a run."""
        for layer in self._layers.values():
            layer.refresh(extent=False, data_displayed=False)

    def _make_all(self, picture: Picture, placement: Placement, grid: Grid) -> None:
        layers = self._viewer.layers
        own = placement.layer_arguments(grid) | {"metadata": placement.metadata(scheme=picture.scheme, live=True)}
        # The image half lies in -1 to 1; limits from each step's values would make the contrast flicker.
        image = {"name": LIVE_IMAGE, "contrast_limits": (-1, 1), "colormap": "gray"} | own
        labels = {"name": LIVE_LABELS} | label_style(picture.scheme) | own
        self._make(self._viewer.add_image, image)
        self._turns.add(partial(self._make, self._viewer.add_labels, labels))
        if LIVE_CONFIDENCE in self._data:
            map_ = {"name": LIVE_CONFIDENCE} | CONFIDENCE_STYLE | own
            self._turns.add(partial(self._make, self._viewer.add_image, map_))
        elif LIVE_CONFIDENCE in self._spare and self._spare[LIVE_CONFIDENCE] in layers:
            layers.remove(self._spare.pop(LIVE_CONFIDENCE))  # a run without confidence after one with it

    def _make(self, add: Callable[..., Any], state: dict[str, Any]) -> None:
        """Update the layer of this name from the run before and move it to the top; else add a new one."""
        name = state["name"]
        visible = self._visible and name != LIVE_CONFIDENCE
        layer, layers = self._spare.pop(name, None), self._viewer.layers
        if layer is None or layer not in layers:
            self._layers[name] = add(self._data[name], visible=visible, **state)
            return
        self._layers[name] = layer  # it is hidden, so all changes are drawn once, at the end
        layer.data = self._data[name]
        for key, value in state.items():
            setattr(layer, key, value)
        if name == LIVE_LABELS:
            forget_strokes(layer)
        layers.move(layers.index(layer), len(layers))
        show(layer, visible)


def show(layer: Any, visible: bool) -> None:
    """Set the visibility where it changes; napari would redraw also without a change."""
    if layer.visible != visible:
        layer.visible = visible


def overwrite(layer: Any, data: NDArray[Any]) -> None:
    """Other voxels in a labels layer, as one stroke that napari's undo takes back like any other."""
    where = np.nonzero(layer.data != data)
    layer.data_setitem(where, data[where])
    layer.refresh()


def forget_strokes(layer: Any) -> None:
    """Empty the undo history of a labels layer whose voxels are now those of something else.

    napari keeps it when a layer is given other data, and its undo would paint old strokes onto the new labels. A layer
    that cannot be edited has none, by napari's own rule; the brush in hand stays.
    """
    mode = layer.mode
    layer.editable = False
    layer.editable = True
    layer.mode = mode


def canonical(picture: Picture, placement: Placement) -> NDArray[np.float64]:
    """The orientation that puts a step's axes closest to those of the viewer's world."""
    return Grid(picture.grid.shape, placement.world_affine(picture.grid)).to_canonical()
