"""Layers to volumes and back: values only, no viewer.

The engine works in RAS+ millimetres; a viewer has a world of its own, with its own unit and order of axes. A
`Placement` is the matrix between the two, ``ras = to_ras @ world``. A layer from our reader is placed by
``layer.affine`` alone, which is its RAS affine. The layer's metadata hold an `Origin`, which is needed to save onto the
file's voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap, label_colormap
from napari.utils.transforms import Affine
from numpy.typing import NDArray
from scipy import ndimage

from diffatlas.engine.request import MaskEdit, Request
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Array, Grid, inverse_orientation, reorient
from diffatlas.geometry.volume import DicomSeries, LabelMap, LabelScheme, Modality, NiftiHeader, Structure, Volume
from diffatlas.io import Limits, guess_modality
from diffatlas.session import Result

KEY = "diffatlas"
AXES = ("x", "y", "z")
NAMED = "named"  # in a layer's own metadata: the modality that the user says it is
ORIENTATION = "orientation"  # in a layer's own metadata: the three letters that the user gave its axes
ASSUMED = "RAS"
DIRECTIONS = {"R": (0, 1.0), "L": (0, -1.0), "A": (1, 1.0), "P": (1, -1.0), "S": (2, 1.0), "I": (2, -1.0)}
AS_IS = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
MAX_FILLED = 0.5
WHOLE_VOXELS = 2**26  # a lazy array of up to so many voxels is read whole; 256 MiB as float32

# Transparent where the samples agree, so that only doubt is drawn.
CONFIDENCE_STYLE = {"contrast_limits": (0, 1), "colormap": "hot_r", "blending": "additive"}

LayerTuple = tuple[Any, dict[str, Any], Literal["image", "labels"]]


@dataclass(frozen=True, eq=False)
class Placement:
    """The viewer's world: ``to_ras`` [4, 4] takes it to RAS+ mm; ``units`` and ``axis_labels`` are its own.

    ``assumed``: the assumed directions of the axes, three letters (``RAS``, ``SPL``); "" where the labels state them.
    """

    to_ras: Array
    units: tuple[Any, ...]
    axis_labels: tuple[str, ...]
    assumed: str = ""

    def world_affine(self, grid: Grid) -> Array:
        """Affine [4, 4] from voxel indices of ``grid`` to the viewer's world."""
        return np.asarray(np.linalg.inv(self.to_ras) @ grid.affine)

    def layer_arguments(self, grid: Grid) -> dict[str, Any]:
        """napari's arguments that place an array on ``grid``."""
        return {"affine": self.world_affine(grid), "units": self.units, "axis_labels": self.axis_labels}

    def metadata(self, **ours: Any) -> dict[str, Any]:
        """A layer's metadata with ``ours`` in it; a layer in this world is read again with the same letters."""
        return {KEY: ours | ({ORIENTATION: self.assumed} if self.assumed else {})}


RAS_MM = Placement(np.eye(4), ("mm",) * 3, AXES)


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a layer's voxels came from: the file, its own grid and header, and the reorientation done for display.

    ``series``: of a volume that was DICOM, for the references in labels of it.
    """

    grid: Grid
    orientation: NDArray[np.float64]
    header: NiftiHeader | None = None
    path: Path | None = None
    series: DicomSeries | None = None

    @property
    def display_grid(self) -> Grid:
        return self.grid.reoriented(self.orientation)

    def restore(self, data: NDArray[Any]) -> NDArray[Any]:
        """A displayed array back in the file's axis order."""
        return reorient(data, inverse_orientation(self.orientation))

    def display(self, data: NDArray[Any]) -> NDArray[Any]:
        """An array in the file's axis order as it is displayed."""
        return reorient(data, self.orientation)

    def restore_request(self, request: Request) -> Request:
        """The same request for the file's own voxels instead of the displayed ones."""
        return _turned(request, inverse_orientation(self.orientation), self.display_grid.shape)

    def display_request(self, request: Request) -> Request:
        """Inverse of `restore_request`."""
        return _turned(request, self.orientation, self.grid.shape)

    def display_result(self, result: Result) -> Result:
        """A result on the file's voxels as it is displayed; its provenance still describes the file."""
        labels = LabelMap(self.display(result.labels.data), self.display_grid, result.labels.scheme)
        confidence = None if result.confidence is None else self.display(result.confidence)
        return replace(result, labels=labels, confidence=confidence)


@dataclass(frozen=True, eq=False)
class Source:
    """An image layer as the engine needs it. ``data`` may be lazy: call `volume` in the worker.

    ``modality``: as its reader found it; ``named``: as the user named it, which is used first. ``levels``: of a
    multiscale layer, the finest first; ``data`` is that one.
    """

    name: str
    data: Any
    grid: Grid
    placement: Placement
    origin: Origin
    modality: Modality | None = None
    notes: tuple[str, ...] = ()
    named: Modality | None = None
    levels: tuple[Any, ...] = ()

    @property
    def large(self) -> bool:
        """Whether the voxels are not to be read all at once: a lazy array of many, or one of several levels."""
        many = float(np.prod(self.grid.shape, dtype=float)) > WHOLE_VOXELS
        return len(self.levels) > 1 or (many and not isinstance(self.data, np.ndarray))

    def file_volume(self) -> Volume:
        """`volume` as the file holds it: what the engine gets, so that a run has the same hash in every front end."""
        shown = self.volume()
        origin = self.origin
        data = origin.restore(shown.data)
        return replace(shown, data=data, grid=origin.grid, header=origin.header, series=origin.series)

    def placeholder(self) -> Volume:
        """Place, modality and name without the voxels, which may be lazy: enough for the engine to plan a run."""
        nothing = np.broadcast_to(np.float32(0), self.grid.shape)
        return Volume(nothing, self.grid, self.named or self.modality or "unknown", self.name, self.notes)

    def volume(self) -> Volume:
        """The voxels as displayed: computed, converted to float32, filled with the lowest value where not finite."""
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
        volume = Volume(data, self.grid, self.modality or guess_modality(data), self.name, notes)
        return volume if self.named is None else volume.named(self.named)


def read_layer(layer: Image) -> Source:
    """The volume in an image layer; `BadInput` says in one line what kind of layer cannot be used."""
    name = str(layer.name)
    if layer.rgb:
        raise BadInput(f"'{name}' is a colour image; DiffAtlas needs one grey value per voxel")
    if layer.ndim != 3:
        hint = "; add one of its volumes as a layer of its own" if layer.ndim > 3 else ""
        raise BadInput(f"'{name}' is {layer.ndim}-D; DiffAtlas needs a 3-D volume{hint}")
    levels = tuple(layer.data) if layer.multiscale else ()
    data = levels[0] if levels else layer.data
    if min(data.shape) < 1:
        raise BadInput(f"'{name}' is empty (shape {tuple(data.shape)}); choose another image")
    if np.dtype(data.dtype).kind not in "biuf":
        raise BadInput(f"'{name}' holds {data.dtype} values; DiffAtlas needs real numbers")
    state = _state(layer)
    placement, notes = _placement(name, state)
    grid = _grid(name, tuple(data.shape), placement, _data_to_world(state))
    ours = layer.metadata.get(KEY, {})
    origin = ours.get("origin")
    if origin is not None and origin.display_grid.same_as(grid):
        grid = origin.display_grid
    else:  # a layer of another reader, or one that the user has moved: its own position counts
        origin = Origin(grid, AS_IS)
    notes = (*ours.get("notes", ()), *notes)
    source = Source(name, data, grid, placement, origin, ours.get("modality"), notes, ours.get(NAMED), levels)
    if not source.large:
        Limits().check(Path(name.replace("/", "|")), data.shape, np.dtype(np.float32))
    return source


def set_orientation(layer: Image | Labels, letters: str) -> None:
    """Set the directions of the axes of ``layer``, such as ``SPL``; `BadInput` where ``letters`` do not name three
    different axes."""
    letters = letters.strip().upper()
    if len(letters) != 3 or {DIRECTIONS.get(letter, (letter,))[0] for letter in letters} != {0, 1, 2}:
        raise BadInput(
            f"'{letters}' names no orientation: give a letter for each axis, R or L, A or P, S or I, such as SPL"
        )
    layer.metadata[KEY] = {**layer.metadata.get(KEY, {}), ORIENTATION: letters}


def set_modality(layer: Image, named: Modality | None) -> None:
    """Set the modality of ``layer``; None takes it from the file or the voxels."""
    layer.metadata[KEY] = {**layer.metadata.get(KEY, {}), NAMED: named}


def modality_named(layer: Image) -> Modality | None:
    """The modality that the user named for ``layer``."""
    named: Modality | None = layer.metadata.get(KEY, {}).get(NAMED)
    return named


@dataclass(frozen=True, eq=False)
class LabelSource:
    """A labels layer as displayed. ``data`` may be lazy: call `ids` in the worker. ``scheme``: None if unknown."""

    name: str
    data: Any
    grid: Grid
    placement: Placement
    scheme: LabelScheme | None = None

    def ids(self) -> NDArray[Any]:
        """The ids, computed: whole numbers [X, Y, Z]."""
        ids = np.asarray(self.data)
        return ids.astype(np.uint8) if ids.dtype.kind == "b" else ids


def read_label_layer(layer: Labels) -> LabelSource:
    """The label map in a labels layer; `BadInput` says in one line what kind of layer cannot be used."""
    name = str(layer.name)
    if layer.multiscale:
        raise BadInput(f"'{name}' is a multiscale layer; add its finest level as a layer of its own")
    if layer.ndim != 3:
        raise BadInput(f"'{name}' is {layer.ndim}-D; DiffAtlas compares 3-D labels")
    if min(layer.data.shape) < 1:
        raise BadInput(f"'{name}' is empty (shape {tuple(layer.data.shape)}); choose another layer")
    state = _state(layer)
    placement, _ = _placement(name, state)
    grid = _grid(name, tuple(layer.data.shape), placement, _data_to_world(state))
    return LabelSource(name, layer.data, grid, placement, layer.metadata.get(KEY, {}).get("scheme"))


def nearest(data: NDArray[np.uint8], grid: Grid, onto: Grid) -> NDArray[np.uint8]:
    """``data`` on ``grid`` at the voxels of ``onto``, the nearest value; 0 outside."""
    matrix = np.linalg.inv(grid.affine) @ onto.affine
    out = ndimage.affine_transform(
        data, matrix[:3, :3], matrix[:3, 3], onto.shape, order=0, mode="grid-constant", cval=0
    )
    return np.asarray(out, dtype=np.uint8)


def read_labels(data: Any, state: Mapping[str, Any]) -> tuple[LabelMap, Origin | None]:
    """A label map in the file's own axis order, and where its voxels came from, from napari's layer data tuple.

    Labels that DiffAtlas made keep their scheme; others get one from the ids that occur.
    """
    ids, grid, origin = _restored(data, state)
    if ids.dtype.kind not in "biu":
        raise BadInput(f"'{state.get('name', 'labels')}' does not hold whole numbers; save it as an image")
    scheme = state.get("metadata", {}).get(KEY, {}).get("scheme") or scheme_of(ids)
    return LabelMap.from_ids(ids, grid, scheme), origin


def read_image(data: Any, state: Mapping[str, Any]) -> Volume:
    """A volume in the file's own axis order, with the file's header, from napari's layer data tuple."""
    values, grid, origin = _restored(data, state)
    if values.dtype.kind not in "biuf":
        raise BadInput(f"'{state.get('name', 'image')}' holds {values.dtype} values; only real numbers can be saved")
    header = None if origin is None else origin.header
    return Volume(values.astype(np.float32), grid, name=str(state.get("name", "image")), header=header)


def volume_to_layer(volume: Volume, path: Path | None = None) -> LayerTuple:
    """napari's layer data tuple of a volume, its axes reordered to the closest of x, y, z (RAS+).

    ``path``: the file that the volume was read from.
    """
    orientation = volume.grid.to_canonical()
    data = reorient(volume.data, orientation)
    origin = Origin(volume.grid, orientation, volume.header, path, volume.series)
    low, high = (float(v) for v in np.percentile(data[::2, ::2, ::2], (0.5, 99.8)))
    state = {
        "name": volume.name,
        "metadata": {KEY: {"origin": origin, "modality": volume.modality, "notes": volume.notes}},
        **RAS_MM.layer_arguments(origin.display_grid),
    }
    if low < high:
        state["contrast_limits"] = (low, high)
    return data, state, "image"


def label_map_to_layer(
    labels: LabelMap,
    name: str,
    header: NiftiHeader | None = None,
    path: Path | None = None,
    *,
    series: DicomSeries | None = None,
    named: bool = True,
) -> LayerTuple:
    """napari's layer data tuple of a label map, placed as `volume_to_layer` places the image it belongs to.

    ``named``: the scheme's names are those of structures; False where they were invented by `scheme_of`.
    """
    origin = Origin(labels.grid, labels.grid.to_canonical(), header, path, series)
    data = reorient(labels.to_ids(), origin.orientation)
    state = label_style(labels.scheme) | RAS_MM.layer_arguments(origin.display_grid) | {"name": name}
    state["metadata"] = {KEY: {"origin": origin} | ({"scheme": labels.scheme} if named else {})}
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


def label_style(scheme: LabelScheme) -> dict[str, Any]:
    """Colours by id, and the structure's name in napari's status bar under the pointer."""
    features = {"index": [0, *scheme.ids], "structure": ["background", *scheme.names]}
    # A copy, because each layer sets for itself which label is shown alone.
    return {"colormap": _label_colors(scheme).model_copy(), "features": features, "opacity": 0.6}


@lru_cache(maxsize=32)
def _label_colors(scheme: LabelScheme) -> DirectLabelColormap:
    """The colours by id, with napari's table of all 65 536 of them (where ids go beyond 255).

    napari makes that table once a colormap in a tenth of a second, and its copies share it.
    """
    colors: dict[int | None, Any] = {None: (0.0, 0.0, 0.0, 0.0), 0: (0.0, 0.0, 0.0, 0.0)}
    colors |= {s.id: (*(c / 255 for c in s.color), 1.0) for s in scheme.structures}
    colormap = DirectLabelColormap(color_dict=colors)
    colormap.map(np.zeros(1, dtype=scheme.id_dtype))
    return colormap


def _turned(request: Request, orientation: NDArray[np.float64], shape: tuple[int, int, int]) -> Request:
    """A request on voxels of ``shape`` after `reorient` of these voxels with ``orientation``."""
    roi, edit, ignore = request.roi, request.edit, request.ignore
    if roi is not None:
        ranges = [(0, 0)] * 3
        for (low, high), size, (target, flip) in zip(roi, shape, orientation, strict=True):
            ranges[int(target)] = (low, high) if flip > 0 else (size - high, size - low)
        roi = (ranges[0], ranges[1], ranges[2])
    if edit is not None:
        pinned = None if edit.pinned is None else reorient(edit.pinned, orientation)
        edit = MaskEdit(reorient(edit.labels, orientation), pinned, edit.t)
    if ignore is not None:
        ignore = reorient(ignore, orientation)
    return replace(request, roi=roi, edit=edit, ignore=ignore)


def _state(layer: Image | Labels) -> dict[str, Any]:
    """The layer's place in the world, as napari's layer data tuples hold it."""
    state = {key: getattr(layer, key) for key in ("scale", "translate", "rotate", "shear", "units", "axis_labels")}
    return state | {"affine": layer.affine.affine_matrix, "metadata": layer.metadata}


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
    if sorted(labels) == list(AXES):
        assumed, ways = "", [(AXES.index(label), 1.0) for label in labels]
    else:
        assumed = str(state.get("metadata", {}).get(KEY, {}).get(ORIENTATION, ASSUMED))
        ways = [DIRECTIONS[letter] for letter in assumed]
        notes = (*notes, f"'{name}' has no axis labels: its axes were taken to run to {', '.join(assumed)}")
    for axis, (factor, (onto, sign)) in enumerate(zip(factors, ways, strict=True)):
        to_ras[onto, axis] = sign * factor
    return Placement(to_ras, units, labels, assumed), notes


def _grid(name: str, shape: tuple[int, int, int], placement: Placement, data_to_world: Array) -> Grid:
    try:
        return Grid(shape, placement.to_ras @ data_to_world)
    except ValueError as error:
        raise BadInput(f"'{name}' cannot be placed: {error}; reset the layer's transforms") from error


def _restored(data: Any, state: Mapping[str, Any]) -> tuple[NDArray[Any], Grid, Origin | None]:
    """Array and grid as the file had them, and the file; by the layer's own transform where there was no file."""
    name = str(state.get("name", "layer"))
    array = np.asarray(data)
    if array.ndim != 3:
        raise BadInput(f"'{name}' is {array.ndim}-D; only 3-D volumes can be saved here")
    placement, _ = _placement(name, state)
    grid = _grid(name, cast(tuple[int, int, int], array.shape), placement, _data_to_world(state))
    origin = state.get("metadata", {}).get(KEY, {}).get("origin")
    if origin is None or not origin.display_grid.same_as(grid):
        return array, grid, None
    return origin.restore(array), origin.grid, origin
