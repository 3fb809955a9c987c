"""Layers to volumes, frames to layers: the only module that touches the viewer.

The engine works in RAS+ millimetres; a viewer has a world of its own, with its own unit and order of axes. A
`Placement` is the matrix between the two, ``ras = to_ras @ world``. A layer that came through our reader is placed by
``layer.affine`` alone, which then *is* its RAS affine; what is needed to save back onto the file's own voxels travels
in the layer's metadata as an `Origin`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from napari.layers import Image
from napari.utils.colormaps import DirectLabelColormap, label_colormap
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.grid import Array, Grid, inverse_orientation, reorient
from diffatlas.io import guess_modality
from diffatlas.session import Frame, Result
from diffatlas.volume import LabelMap, LabelScheme, Modality, NiftiHeader, Structure, Volume

KEY = "diffatlas"
AXES = ("x", "y", "z")
LIVE_IMAGE = "DiffAtlas image"
LIVE_LABELS = "DiffAtlas labels"
AS_IS = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
MAX_FILLED = 0.5

LayerTuple = tuple[Any, dict[str, Any], Literal["image", "labels"]]


@dataclass(frozen=True, eq=False)
class Placement:
    """The viewer's world: ``to_ras`` [4, 4] takes it to RAS+ mm; ``units`` and ``axis_labels`` are its own."""

    to_ras: Array
    units: tuple[Any, ...]
    axis_labels: tuple[str, ...]

    def world_affine(self, grid: Grid) -> Array:
        """Affine [4, 4] from voxel indices of ``grid`` to the viewer's world."""
        return np.asarray(np.linalg.inv(self.to_ras) @ grid.affine)

    def layer_arguments(self, grid: Grid) -> dict[str, Any]:
        """What napari needs to put an array on ``grid`` where it belongs."""
        return {"affine": self.world_affine(grid), "units": self.units, "axis_labels": self.axis_labels}


RAS_MM = Placement(np.eye(4), ("mm",) * 3, AXES)


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a layer's voxels came from: the file's own grid and header, and the reorientation done for display."""

    grid: Grid
    orientation: NDArray[np.float64]
    header: NiftiHeader | None = None

    @property
    def display_grid(self) -> Grid:
        return self.grid.reoriented(self.orientation)

    def restore(self, data: NDArray[Any]) -> NDArray[Any]:
        """A displayed array back in the file's axis order."""
        return reorient(data, inverse_orientation(self.orientation))


@dataclass(frozen=True, eq=False)
class Source:
    """An image layer as the engine needs it. ``data`` may be lazy: call `volume` in the worker."""

    name: str
    data: Any
    grid: Grid
    placement: Placement
    origin: Origin
    modality: Modality | None = None
    notes: tuple[str, ...] = ()

    def volume(self) -> Volume:
        """Compute, convert to float32 and fill what is not finite with the lowest finite value."""
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes Inf, which is then filled
            data = np.array(self.data, dtype=np.float32)
        notes = self.notes
        bad = ~np.isfinite(data)
        share = float(bad.mean())
        if share > MAX_FILLED:
            raise BadInput(f"'{self.name}': {share:.0%} of its voxels are NaN or infinite; choose another image")
        if share:
            data[bad] = data[~bad].min()
            notes = (*notes, f"{share:.2%} of the voxels were NaN or infinite and took the lowest value")
        return Volume(data, self.grid, self.modality or guess_modality(data), self.name, notes)


def read_layer(layer: Image) -> Source:
    """The volume in an image layer; `BadInput` says in one line what kind of layer cannot be used."""
    name = str(layer.name)
    if layer.rgb:
        raise BadInput(f"'{name}' is a colour image; DiffAtlas needs one grey value per voxel")
    if layer.multiscale:
        raise BadInput(f"'{name}' is a multiscale image; add its finest level as a layer of its own")
    if layer.ndim != 3:
        hint = "; add one of its volumes as a layer of its own" if layer.ndim > 3 else ""
        raise BadInput(f"'{name}' is {layer.ndim}-D; DiffAtlas needs a 3-D volume{hint}")
    data = layer.data
    if min(data.shape) < 1:
        raise BadInput(f"'{name}' is empty (shape {tuple(data.shape)}); choose another image")
    if np.dtype(data.dtype).kind not in "biuf":
        raise BadInput(f"'{name}' holds {data.dtype} values; DiffAtlas needs real numbers")
    state = {key: getattr(layer, key) for key in ("scale", "translate", "rotate", "shear", "units", "axis_labels")}
    state["affine"] = layer.affine.affine_matrix
    placement, notes = _placement(name, state)
    grid = _grid(name, tuple(data.shape), placement, _data_to_world(state))
    ours = layer.metadata.get(KEY, {})
    origin = ours.get("origin")
    if origin is not None and origin.display_grid.same_as(grid):
        grid = origin.display_grid
    else:  # another reader's layer, or one the user has moved since: its own place is the truth
        origin = Origin(grid, AS_IS)
    return Source(name, data, grid, placement, origin, ours.get("modality"), notes)


def read_labels(data: Any, state: Mapping[str, Any]) -> tuple[LabelMap, NiftiHeader | None]:
    """A label map in the file's own axis order, and the file's header, from napari's layer data tuple.

    Labels that DiffAtlas made keep their scheme; others get one from the ids that occur.
    """
    ids, grid, header = _restored(data, state)
    if ids.dtype.kind not in "biu":
        raise BadInput(f"'{state.get('name', 'labels')}' does not hold whole numbers; save it as an image")
    scheme = state.get("metadata", {}).get(KEY, {}).get("scheme") or scheme_of(ids)
    return LabelMap.from_ids(ids, grid, scheme), header


def read_image(data: Any, state: Mapping[str, Any]) -> Volume:
    """A volume in the file's own axis order, with the file's header, from napari's layer data tuple."""
    values, grid, header = _restored(data, state)
    if values.dtype.kind not in "biuf":
        raise BadInput(f"'{state.get('name', 'image')}' holds {values.dtype} values; only real numbers can be saved")
    return Volume(values.astype(np.float32), grid, name=str(state.get("name", "image")), header=header)


def volume_to_layer(volume: Volume) -> LayerTuple:
    """napari's layer data tuple of a volume, its axes reordered to the closest of x, y, z (RAS+)."""
    orientation = volume.grid.to_canonical()
    data = reorient(volume.data, orientation)
    origin = Origin(volume.grid, orientation, volume.header)
    low, high = (float(v) for v in np.percentile(data[::2, ::2, ::2], (0.5, 99.8)))
    state = {
        "name": volume.name,
        "metadata": {KEY: {"origin": origin, "modality": volume.modality, "notes": volume.notes}},
        **RAS_MM.layer_arguments(origin.display_grid),
    }
    if low < high:
        state["contrast_limits"] = (low, high)
    return data, state, "image"


def label_map_to_layer(labels: LabelMap, name: str, header: NiftiHeader | None = None) -> LayerTuple:
    """napari's layer data tuple of a label map, placed as `volume_to_layer` places the image it belongs to."""
    origin = Origin(labels.grid, labels.grid.to_canonical(), header)
    data = reorient(labels.to_ids(), origin.orientation)
    state = _label_style(labels.scheme) | RAS_MM.layer_arguments(origin.display_grid) | {"name": name}
    state["metadata"] = {KEY: {"origin": origin, "scheme": labels.scheme}}
    return data, state, "labels"


def scheme_of(ids: NDArray[Any]) -> LabelScheme:
    """A scheme for labels of unknown meaning: a structure "label 7" for each id that occurs."""
    found = [int(i) for i in np.unique(ids) if i != 0]
    if len(found) > 255 or min(found, default=0) < 0:
        raise BadInput("a label map can hold up to 255 different ids, none of them negative")
    colors = label_colormap(49)
    structures = []
    for id_ in found:
        r, g, b = (int(255 * c) for c in colors.map(id_)[:3])
        structures.append(Structure(f"label {id_}", id_, (r, g, b)))
    return LabelScheme("labels", tuple(structures))


class Scene:
    """What DiffAtlas shows in one viewer: two live layers while it runs, a labels layer when it is done."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._live: dict[str, Any] = {}
        self._source: Source | None = None
        self._seed = 0
        self._callbacks: list[Callable[[Any], None]] = []

    # -- what the form needs to know ---------------------------------------------------------------------------------
    def image_names(self) -> list[str]:
        """Names of the image layers a run can start from, bottom to top; our own live image is not one."""
        images = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        return [str(layer.name) for layer in images if not layer.metadata.get(KEY, {}).get("live")]

    def source(self, name: str) -> Source:
        """The image layer of that name, checked."""
        if name not in self._viewer.layers:
            raise BadInput("choose an image; the layer is gone")
        return read_layer(self._viewer.layers[name])

    @property
    def is_dark(self) -> bool:
        """Whether the viewer's theme draws light words on a dark ground."""
        from napari.utils.theme import get_theme

        return sum(get_theme(self._viewer.theme).background.as_rgb_tuple()[:3]) < 3 * 128

    def connect(self, on_layers: Callable[[Any], None], on_theme: Callable[[Any], None]) -> None:
        """Call back when layers come, go or are renamed, and when the theme changes. napari holds methods weakly."""
        events = self._viewer.layers.events
        for event in (events.inserted, events.removed, events.renamed):
            event.connect(on_layers)
        self._viewer.events.theme.connect(on_theme)
        self._callbacks = [on_layers, on_theme]

    def disconnect(self) -> None:
        events = self._viewer.layers.events
        for callback in self._callbacks:
            for event in (events.inserted, events.removed, events.renamed, self._viewer.events.theme):
                with contextlib.suppress(ValueError):  # each callback was connected to some of them
                    event.disconnect(callback)
        self._callbacks = []

    def face_patient(self) -> None:
        """Turn an untouched viewer to axial slices in the radiological convention (anterior up, right on the left).

        Only where every layer is a volume with our x, y, z axes and nobody has turned the viewer before: napari's own
        default would show x, y, z volumes as sagittal slices lying on their side.
        """
        viewer = self._viewer
        ours = [tuple(layer.axis_labels) == AXES for layer in viewer.layers]
        default = ("towards", "down", "right")
        if not ours or not all(ours) or viewer.dims.order != (0, 1, 2) or viewer.dims.ndisplay != 2:
            return
        camera = getattr(viewer, "scene", viewer).camera  # moved in napari 0.9
        if tuple(str(side) for side in camera.orientation) != default:
            return
        viewer.dims.order = (2, 1, 0)
        camera.orientation = ("away", "up", "left")  # keeps x, y, z right-handed in 3-D
        viewer.reset_view()
        self._centre_slices(np.mean(viewer.layers.extent.world, axis=0))

    # -- a run -------------------------------------------------------------------------------------------------------
    def begin(self, source: Source, seed: int) -> None:
        """Clear the live layers of the run before; the labels it left stay."""
        self._remove_live(LIVE_IMAGE, LIVE_LABELS)
        self._source, self._seed = source, seed

    def show(self, frame: Frame) -> None:
        """Draw a step: at first as two new layers, then in place. A live layer the user deletes stays away."""
        if self._source is None:
            return
        placement = self._source.placement
        orientation = Grid(frame.grid.shape, placement.world_affine(frame.grid)).to_canonical()
        image = reorient(frame.image, orientation)
        labels = reorient(LabelMap(frame.labels, frame.grid, frame.scheme).to_ids(), orientation)
        if not self._live:
            self._add_live(image, labels, frame.grid.reoriented(orientation), frame.scheme)
            return
        for name, data in ((LIVE_IMAGE, image), (LIVE_LABELS, labels)):
            layer = self._live[name]
            if layer in self._viewer.layers:
                layer.data[...] = data
                layer.refresh(extent=False, thumbnail=False, highlight=False)

    def finish(self, result: Result) -> str:
        """Leave the labels on the source's own voxels in place of the live ones; returns the new layer's name."""
        if self._source is None:
            raise RuntimeError("finish without begin")
        source = self._source
        state = _label_style(result.labels.scheme) | source.placement.layer_arguments(source.grid)
        state["metadata"] = {
            KEY: {
                "origin": source.origin,
                "scheme": result.labels.scheme,
                "provenance": result.provenance,
                "notes": result.notes,
            }
        }
        self._remove_live(LIVE_LABELS)
        image = self._live.get(LIVE_IMAGE)
        if image is not None:  # out of the way of the patient's image, one click from being seen again
            image.refresh(extent=False, data_displayed=False)  # the thumbnail, left out while it ran
            image.visible = False
        name = f"{source.name} labels, seed {self._seed}"
        layer = self._viewer.add_labels(result.labels.to_ids(), name=name, **state)
        layer.selected_label = result.labels.scheme.ids[0]  # what the brush paints: a structure, not napari's label 1
        return str(layer.name)

    def _add_live(self, image: NDArray[np.float32], labels: NDArray[Any], grid: Grid, scheme: LabelScheme) -> None:
        source = cast(Source, self._source)
        place = source.placement.layer_arguments(grid)
        own = place | {"metadata": {KEY: {"scheme": scheme, "live": True}}}
        # The image half lives in the model's window, -1 to 1: limits of its own would make the contrast flicker.
        picture = {"name": LIVE_IMAGE, "contrast_limits": (-1, 1), "colormap": "gray"} | own
        self._live = {
            LIVE_IMAGE: self._viewer.add_image(image, **picture),
            LIVE_LABELS: self._viewer.add_labels(labels, name=LIVE_LABELS, **(_label_style(scheme) | own)),
        }
        box = self._live[LIVE_IMAGE].extent.world
        point = np.asarray(self._viewer.dims.point)[-3:]
        if np.any((point < box[0]) | (point > box[1])):
            self._centre_slices(box.mean(axis=0))

    def _remove_live(self, *names: str) -> None:
        for name in names:
            layer = self._live.pop(name, None)
            if layer is not None and layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    def _centre_slices(self, world: Sequence[float] | NDArray[np.float64]) -> None:
        axes = range(self._viewer.dims.ndim - len(world), self._viewer.dims.ndim)
        self._viewer.dims.set_point(tuple(axes), tuple(float(w) for w in world))


def _label_style(scheme: LabelScheme) -> dict[str, Any]:
    """Colours by id, and the structure's name in napari's status bar under the pointer."""
    colors: dict[int | None, Any] = {None: (0.0, 0.0, 0.0, 0.0), 0: (0.0, 0.0, 0.0, 0.0)}
    colors |= {s.id: (*(c / 255 for c in s.color), 1.0) for s in scheme.structures}
    features = {"index": [0, *scheme.ids], "structure": ["background", *scheme.names]}
    return {"colormap": DirectLabelColormap(color_dict=colors), "features": features, "opacity": 0.6}


def _data_to_world(state: Mapping[str, Any]) -> Array:
    """Affine [4, 4] from array indices to the world: napari's ``affine * (rotate * shear * scale + translate)``."""
    inner = Affine(
        scale=state["scale"], translate=state["translate"], rotate=state["rotate"], shear=state["shear"], ndim=3
    )
    return np.asarray(state["affine"], dtype=np.float64) @ np.asarray(inner.affine_matrix, dtype=np.float64)


def _placement(name: str, state: Mapping[str, Any]) -> tuple[Placement, tuple[str, ...]]:
    """How the layer's world lies in RAS+ mm, and what had to be assumed."""
    import pint

    units = tuple(state["units"])
    labels = tuple(str(label) for label in state["axis_labels"])
    quantities = [pint.get_application_registry().Quantity(1, unit) for unit in units]
    lengths = [bool(q.check("[length]")) for q in quantities]
    notes: tuple[str, ...] = ()
    if all(lengths):
        factors = [float(q.to("mm").magnitude) for q in quantities]
    elif any(lengths):
        raise BadInput(f"'{name}' mixes units ({', '.join(map(str, units))}); set layer.units to ('mm', 'mm', 'mm')")
    else:
        factors = [1.0, 1.0, 1.0]
        bare = np.array_equal(_data_to_world(state), np.eye(4))
        notes = (f"'{name}' has no {'voxel size: 1 mm' if bare else 'unit: millimetres'} assumed",)
    to_ras = np.zeros((4, 4))
    to_ras[3, 3] = 1.0
    known = sorted(labels) == list(AXES)
    for axis, factor in enumerate(factors):
        to_ras[AXES.index(labels[axis]) if known else axis, axis] = factor
    return Placement(to_ras, units, labels), notes


def _grid(name: str, shape: tuple[int, int, int], placement: Placement, data_to_world: Array) -> Grid:
    try:
        return Grid(shape, placement.to_ras @ data_to_world)
    except ValueError as error:
        raise BadInput(f"'{name}' cannot be placed: {error}; reset the layer's transforms") from error


def _restored(data: Any, state: Mapping[str, Any]) -> tuple[NDArray[Any], Grid, NiftiHeader | None]:
    """Array, grid and header as the file had them; from the layer's own transform where there was no file."""
    name = str(state.get("name", "layer"))
    array = np.asarray(data)
    if array.ndim != 3:
        raise BadInput(f"'{name}' is {array.ndim}-D; only 3-D volumes can be saved here")
    placement, _ = _placement(name, state)
    grid = _grid(name, cast(tuple[int, int, int], array.shape), placement, _data_to_world(state))
    origin = state.get("metadata", {}).get(KEY, {}).get("origin")
    if origin is None or not origin.display_grid.same_as(grid):
        return array, grid, None
    return origin.restore(array), origin.grid, origin.header
