"""Several views of a run side by side in napari's grid: four of one step, or two runs at the same noise level.

A view is two layers, one over the other, and each has layers of its own: napari's grid puts every two layers of the
list into the next cell. Slices, camera and 2-D or 3-D are the viewer's, so the views are linked. Layers that were
visible before are hidden meanwhile and shown again afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffatlas.geometry.grid import reorient
from diffatlas.geometry.volume import LabelMap
from napari_diffatlas.jobs.recording import Picture
from napari_diffatlas.viewer.event_loop import Turns
from napari_diffatlas.viewer.layers import Placement, label_style
from napari_diffatlas.viewer.live_layers import canonical
from napari_diffatlas.viewer.view import camera, fit_camera

Mode = Literal["one", "four", "runs"]
Half = Literal["noisy", "image", "labels", "patient"]
SHAPES: dict[Mode, tuple[int, int]] = {"four": (2, 2), "runs": (1, 2)}
STRIDE = -2  # two layers per cell, counted from the top of the list, so layers below do not shift the views


@dataclass(frozen=True)
class Cell:
    """A view: ``name``, its lower and upper layer, and whether it shows the run before."""

    name: str
    below: Half
    above: Half
    before: bool = False


CELLS: dict[Mode, tuple[Cell, ...]] = {
    "four": (
        Cell("noisy state", "patient", "noisy"),
        Cell("generated image", "patient", "image"),
        Cell("mask on the generated image", "image", "labels"),
        Cell("mask on the patient", "patient", "labels"),
    ),
    "runs": (Cell("this run", "image", "labels"), Cell("the run before", "image", "labels", before=True)),
}


class Views:
    """The grid of one viewer. ``layers`` of `show` are changed in place at every step."""

    def __init__(self, viewer: Any, turns: Turns) -> None:
        self._viewer, self._turns = viewer, turns
        self._made: list[tuple[Half, bool, Any]] = []
        self._hidden: list[Any] = []
        self._before: tuple[int, tuple[float, ...], float] = (2, (0.0, 0.0, 0.0), 1.0)  # dimensions, centre, zoom
        self.mode: Mode = "one"

    @property
    def open(self) -> bool:
        """Whether the grid is there."""
        return self.mode != "one"

    def begin(
        self, mode: Mode, picture: Picture, before: Picture | None, placement: Placement, patient: Any | None
    ) -> None:
        """Show ``picture``, and of two runs ``before``, in the cells of ``mode``. ``patient``: the image's layer, None
        where it is gone."""
        self.close()
        self.mode = mode
        self._hidden = [layer for layer in self._viewer.layers if layer.visible]
        eye = camera(self._viewer)
        self._before = self._viewer.dims.ndisplay, tuple(eye.center), float(eye.zoom)
        active = self._viewer.layers.selection.active
        for layer in self._hidden:
            layer.visible = False
        # The cells are filled from the top of the list of layers, which is its end.
        for cell in reversed(CELLS[mode]):
            of = before if cell.before else picture
            if of is None:
                continue
            for half, name in ((cell.below, f"below: {cell.name}"), (cell.above, cell.name)):
                self._turns.add(partial(self._make, half, cell, name, of, placement, patient))
        self._turns.add(partial(self._start_grid, active))

    def show(self, picture: Picture, before: Picture | None, placement: Placement) -> None:
        """Another step, in the layers that are there."""
        for half, of_before, layer in self._made:
            of = before if of_before else picture
            if half == "patient" or of is None or layer not in self._viewer.layers:
                continue
            data = _data(half, of, placement)
            if layer.data.shape == data.shape:
                layer.data[...] = data
                layer.refresh(extent=False, thumbnail=False, highlight=False)

    def close(self) -> None:
        """Go back to one view, and show the layers that were visible before."""
        if self.mode == "one":
            return
        self._turns.flush()
        self.mode = "one"
        self._grid.enabled = False
        for _, _, layer in self._made:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        for layer in self._hidden:
            if layer in self._viewer.layers:
                layer.visible = True
        self._made, self._hidden = [], []
        ndisplay, center, zoom = self._before
        if self._viewer.dims.ndisplay == ndisplay:  # where the camera stood, unless the view was turned meanwhile
            eye = camera(self._viewer)
            eye.center, eye.zoom = center, zoom

    def _make(
        self, half: Half, cell: Cell, name: str, picture: Picture, placement: Placement, patient: Any | None
    ) -> None:
        if self.mode == "one":
            return
        add, data, state = self._layer(half, picture, placement, patient)
        layer = add(data, name=name, **state)
        self._made.append((half, cell.before, layer))
        if half == cell.above:
            with contextlib.suppress(AttributeError):  # from napari 0.7 on
                layer.name_overlay.visible = True

    def _layer(
        self, half: Half, picture: Picture, placement: Placement, patient: Any | None
    ) -> tuple[Callable[..., Any], Any, dict[str, Any]]:
        grid = picture.grid.reoriented(canonical(picture, placement))
        own: dict[str, Any] = placement.layer_arguments(grid) | {"metadata": placement.metadata(live=True)}
        if half == "patient" and patient is not None:
            place = {key: getattr(patient, key) for key in ("scale", "translate", "rotate", "shear", "units")}
            place |= {"affine": patient.affine.affine_matrix, "axis_labels": patient.axis_labels}
            look = {"contrast_limits": patient.contrast_limits, "colormap": patient.colormap}
            return self._viewer.add_image, patient.data, place | look | {"metadata": own["metadata"]}
        if half == "labels":
            return self._viewer.add_labels, _data(half, picture, placement), label_style(picture.scheme) | own
        look = {"contrast_limits": (-1, 1), "colormap": "gray"}
        return self._viewer.add_image, _data("image" if half == "patient" else half, picture, placement), look | own

    def _start_grid(self, active: Any) -> None:
        if self.mode == "one":
            return
        self._grid.shape = SHAPES[self.mode]
        self._grid.stride = STRIDE
        self._grid.enabled = True
        if active is not None and active in self._viewer.layers:
            self._viewer.layers.selection.active = active
        fit_camera(self._viewer, [layer for half, _, layer in self._made if half != "patient"])

    @property
    def _grid(self) -> Any:
        return getattr(self._viewer, "canvas", self._viewer).grid  # moved in napari 0.9


def _data(half: Half, picture: Picture, placement: Placement) -> NDArray[Any]:
    """An array of a step as the viewer shows it: a copy, which is overwritten at every step."""
    orientation = canonical(picture, placement)
    if half == "labels":
        ids = LabelMap(picture.labels, picture.grid, picture.scheme).to_ids()
        return np.array(reorient(ids, orientation))
    data = picture.noisy_image if half == "noisy" else picture.image
    return reorient(data, orientation).astype(np.float32, copy=True)
