"""The box in the viewer that shows the model's region, and the shapes that a user draws to set it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pint
from napari.layers import Shapes
from napari.utils.colormaps import Colormap
from numpy.typing import NDArray

from diffatlas.engine.request import Roi
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Array, Grid
from napari_diffatlas.viewer.layers import Placement, Source

BOX, SKETCH = "DiffAtlas box", "DiffAtlas region: draw here"
BOX_COLOR, SKETCH_COLOR = "#ffb000", "#ffffff"
BOX_COLORS = Colormap(["#000000", BOX_COLOR], name="DiffAtlas box")
VOXELS = 96  # along each side of the box's layer; its lines are one voxel wide
TINT = 0.12  # shows in a slice whether it crosses the box


class Box:
    """Draws and reads boxes in one viewer. ``on_drawn`` is called when a shape of the user's is finished."""

    def __init__(self, viewer: Any, on_drawn: Callable[[], None]) -> None:
        self._viewer = viewer
        self._on_drawn = on_drawn
        self._clicked: NDArray[np.float64] | None = None
        self._box: Any = None
        self._changing = False
        self._sketch: Any = None
        self._ours = True
        viewer.mouse_drag_callbacks.append(self._on_click)
        viewer.dims.events.ndisplay.connect(self._on_ndisplay)

    def disconnect(self) -> None:
        with contextlib.suppress(ValueError):  # a widget may be shut down twice
            self._viewer.dims.events.ndisplay.disconnect(self._on_ndisplay)
            self._viewer.mouse_drag_callbacks.remove(self._on_click)

    @property
    def shown(self) -> bool:
        """Whether the box is in the viewer; the user may have deleted it."""
        return self._changing or (self._box is not None and self._box in self._viewer.layers)

    @property
    def drawing(self) -> bool:
        """Whether there is a layer to draw in, ours or one of the user's."""
        return self._sketch is not None and self._sketch in self._viewer.layers

    def cursor_mm(self, placement: Placement) -> Array:
        """The place last clicked, RAS mm [3]; along axes that are not in sight, the slice that is."""
        dims = self._viewer.dims
        point = np.array(dims.point, dtype=np.float64)
        if self._clicked is not None and len(self._clicked) == len(point) and dims.ndisplay == 2:
            displayed = list(dims.displayed)
            point[displayed] = self._clicked[displayed]
        return np.asarray((placement.to_ras @ [*point[-3:], 1.0])[:3])

    def show(self, centre_mm: Array, extent_mm: tuple[float, float, float], placement: Placement) -> None:
        """A box of ``extent_mm`` along RAS about ``centre_mm``: its outline in every slice that it crosses, with a tint
        inside, and its twelve edges in 3-D. The outermost voxels of the layer are the outline."""
        spacing = np.array(extent_mm) / VOXELS
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = centre_mm - np.array(extent_mm) / 2 + spacing / 2
        place = placement.layer_arguments(Grid((VOXELS,) * 3, affine))
        if self._box is not None and self._box in self._viewer.layers:
            for key, value in place.items():
                setattr(self._box, key, value)
            return
        active, point = self._viewer.layers.selection.active, self._viewer.dims.point
        self._changing = True  # listeners for new layers: the box is not complete yet
        self._box = self._viewer.add_image(
            outline(self._viewer.dims.ndisplay),
            name=BOX,
            contrast_limits=(0, 1),
            colormap=BOX_COLORS,
            blending="additive",
            interpolation2d="nearest",
            metadata=placement.metadata(live=True),
            **place,
        )
        self._changing = False
        self._viewer.layers.selection.active = active if active in self._viewer.layers else None
        if len(point) == self._viewer.dims.ndim:
            self._viewer.dims.point = point

    def hide(self) -> None:
        """Take the box out of the viewer."""
        box, self._box = self._box, None
        if box is not None and box in self._viewer.layers:
            self._viewer.layers.remove(box)

    def _on_ndisplay(self, _: Any = None) -> None:
        if self._box is not None and self._box in self._viewer.layers:
            self._box.data[...] = outline(self._viewer.dims.ndisplay)
            self._box.refresh(extent=False, thumbnail=False, highlight=False)

    def draw(self, source: Source) -> bool:
        """Open a layer to draw rectangles in, in the displayed plane; returns whether it already holds a shape.

        A selected Shapes layer of the user is taken with all its shapes. A second rectangle in the same plane replaces
        the first, one in another plane makes it a box.
        """
        self.end_drawing()
        active = self._viewer.layers.selection.active
        self._ours = not isinstance(active, Shapes)
        self._sketch = self._new_sketch(source) if self._ours else active
        if not len(self._sketch.data):
            self._viewer.dims.ndisplay = 2  # rectangles are drawn in a plane
            self._sketch.mode = "add_rectangle"
        self._viewer.layers.selection.active = self._sketch
        self._sketch.events.data.connect(self._on_data)
        return len(self._sketch.data) > 0

    def _new_sketch(self, source: Source) -> Any:
        return self._viewer.add_shapes(
            ndim=3,
            name=SKETCH,
            edge_color=SKETCH_COLOR,
            edge_width=max(source.grid.spacing_mm) / abs(np.linalg.det(source.placement.to_ras)) ** (1 / 3),
            face_color="transparent",
            units=source.placement.units,
            axis_labels=source.placement.axis_labels,
        )

    def end_drawing(self) -> None:
        """Remove our layer to draw in from the viewer; one of the user's stays, but its changes are ignored."""
        sketch, self._sketch = self._sketch, None
        if sketch is None:
            return
        sketch.events.data.disconnect(self._on_data)
        if self._ours and sketch in self._viewer.layers:
            self._viewer.layers.remove(sketch)

    def drawn(self, source: Source, extent_mm: tuple[float, float, float]) -> tuple[Array, Roi]:
        """The centre (RAS mm [3]) and the voxel ranges of the shapes drawn over ``source``.

        Along an axis in which no shape has a size the box is as long as the model's field of view.
        """
        if not self.drawing or not len(self._sketch.data):
            raise BadInput("draw a rectangle first")
        newest: dict[tuple[bool, ...], Array] = {}  # plane -> corners of the last shape in it
        for shape in self._sketch.data:
            corners = (np.c_[self._world(shape, source.placement), np.ones(len(shape))] @ source.placement.to_ras.T)[
                :, :3
            ]
            plane = tuple(bool(size > 1e-3 * e) for size, e in zip(np.ptp(corners, axis=0), extent_mm, strict=True))
            newest[plane] = corners
        centre, half = np.empty(3), np.empty(3)
        for axis in range(3):
            sized = [corners[:, axis] for plane, corners in newest.items() if plane[axis]]
            along = np.concatenate(sized or [corners[:, axis] for corners in newest.values()])
            centre[axis] = (along.min() + along.max()) / 2
            half[axis] = (np.ptp(along) if sized else extent_mm[axis]) / 2
        return centre, _ranges(source.grid, centre, half)

    def _world(self, shape: Array, placement: Placement) -> Array:
        """The corners [n, 3] of a shape where the viewer shows them, in the units of ``placement``.

        Axes that a 2-D layer does not have are those of the slice in sight.
        """
        own = np.array([self._sketch.data_to_world(corner) for corner in shape])[:, -3:]
        missing = 3 - own.shape[1]
        own *= [_factor(a, b) for a, b in zip(self._sketch.units[-3:], placement.units[missing:], strict=True)]
        slices = np.array(self._viewer.dims.point[-3:][:missing])
        return np.c_[np.tile(slices, (len(own), 1)), own]

    def _on_data(self, event: Any) -> None:
        if str(getattr(event, "action", "")).endswith(("added", "changed")):
            self._on_drawn()

    def _on_click(self, _viewer: Any, event: Any) -> None:
        self._clicked = np.array(event.position, dtype=np.float64)


def outline(ndisplay: int) -> NDArray[np.float32]:
    """Opacity of the box's layer, float32 [VOXELS, VOXELS, VOXELS]: faces and a tint for slices, edges alone in 3-D.

    A voxel on one face of the box is part of its outline in the slices across that face; on two, it is on an edge.
    """
    ends = np.zeros(VOXELS, dtype=np.uint8)
    ends[[0, -1]] = 1
    faces = ends[:, None, None] + ends[None, :, None] + ends[None, None, :]
    if ndisplay == 3:
        return (faces >= 2).astype(np.float32)
    return np.where(faces >= 1, np.float32(1), np.float32(TINT)).astype(np.float32)


def _factor(unit: Any, onto: Any) -> float:
    """``unit`` in ``onto``; 1 where one of them is not a length, as in napari."""
    quantity = pint.get_application_registry().Quantity(1, unit)
    return float(quantity.to(onto).magnitude) if quantity.is_compatible_with(onto) else 1.0


def _ranges(grid: Grid, middle_mm: Array, half_mm: Array) -> Roi:
    """The voxels of ``grid`` in a box along RAS; `BadInput` where it lies outside."""
    signs = np.array([[(corner >> axis & 1) * 2 - 1 for axis in range(3)] for corner in range(8)])
    at = grid.to_voxel(middle_mm + signs * half_mm) + 0.5  # borders of voxels
    ranges = []
    for low, high, size in zip(at.min(axis=0), at.max(axis=0), grid.shape, strict=True):
        start, stop = max(0, round(low)), min(size, round(high))
        if stop <= start:
            raise BadInput("the box lies outside the image; draw it on the image")
        ranges.append((start, stop))
    return ranges[0], ranges[1], ranges[2]
