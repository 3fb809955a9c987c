"""Everything that DiffAtlas draws in a viewer. Only this package changes the viewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import reorient
from diffatlas.geometry.volume import LabelMap, LabelScheme, Modality, Structure, Volume
from diffatlas.session import Result
from napari_diffatlas.jobs.recording import Picture
from napari_diffatlas.reader import read
from napari_diffatlas.viewer.against import Against, How
from napari_diffatlas.viewer.agreement import DIFFERENT, ONLY_FIRST, ONLY_SECOND
from napari_diffatlas.viewer.box import Box
from napari_diffatlas.viewer.crossed import Crossed
from napari_diffatlas.viewer.event_loop import Turns
from napari_diffatlas.viewer.layers import (
    KEY,
    LabelSource,
    Source,
    label_map_to_layer,
    label_style,
    modality_named,
    nearest,
    read_label_layer,
    read_layer,
    set_modality,
    set_orientation,
    volume_to_layer,
)
from napari_diffatlas.viewer.live_layers import LIVE_IMAGE, LIVE_LABELS, Live, canonical, overwrite, show
from napari_diffatlas.viewer.outcome import Outcome
from napari_diffatlas.viewer.view import View
from napari_diffatlas.viewer.views import Mode, Views

MAX_RESULTS = 10
DISAGREEMENT_COLORS = ((255, 176, 0), (100, 143, 255), (220, 38, 127))  # can be told apart with any colour vision


@dataclass(frozen=True, eq=False)
class Made:
    """A result and its layers: ``layer``, the labels, may have been edited since; ``beside``: layers of
    what was crossed out and of the confidence."""

    name: str
    outcome: Outcome
    model: str
    source: Source
    layer: Any
    beside: tuple[Any, ...] = ()

    @property
    def result(self) -> Result:
        return self.outcome.result

    @property
    def shown(self) -> tuple[Any, ...]:
        """The layers that are shown together with the result."""
        return (self.layer, *(layer for layer in self.beside if layer.metadata.get(KEY, {}).get("atlas")))


@dataclass(frozen=True, eq=False)
class Edited:
    """The labels shown, on the grid of their image, and the voxels that the user changed."""

    labels: LabelMap
    changed: NDArray[np.bool_]
    source: Source
    model: str


class Scene:
    """What DiffAtlas shows in one viewer: live layers while it runs, a labels layer when it is done."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._turns = Turns()
        self._live = Live(viewer, self._turns)
        self._view = View(viewer)
        self._views = Views(viewer, self._turns)
        self._against = Against(viewer)
        self._noisy, self._result_shown = False, True
        self.view_mode: Mode = "one"
        self._painted: list[Any] = []
        self._opened: list[tuple[Any, NDArray[Any]]] = []
        self._picture: Picture | None = None
        self._before: Picture | None = None
        self._source: Source | None = None
        self._model = ""
        self._chosen: int | None = None
        self.results: list[Made] = []
        self._connected: list[tuple[Any, Callable[[Any], None]]] = []

    # -- what the form needs to know ---------------------------------------------------------------------------------
    def image_names(self) -> list[str]:
        """Names of the image layers a run can start from, bottom to top; our own live image is not one."""
        return [str(layer.name) for layer in self._viewer.layers if _can_be_run_on(layer)]

    @property
    def active_image(self) -> str | None:
        """The name of the active layer where it is an image of the user's, else None."""
        layer = self._viewer.layers.selection.active
        patient = _can_be_run_on(layer) and not layer.metadata.get(KEY, {}).get("generated")
        return str(layer.name) if patient else None

    def look_at(self, name: str) -> None:
        """Go to the layer of that name where the displayed slices miss it."""
        self._view.look_at(self._viewer.layers[name])

    def fit(self, layer: Any, point: NDArray[np.float64] | None = None) -> None:
        """Show the slices through a world point, and fit the camera to ``layer``."""
        self._view.fit(layer, point)

    def set_orientation(self, name: str, letters: str) -> None:
        """Set the directions of the axes of the layer of that name; `BadInput` where ``letters`` are no orientation."""
        set_orientation(self._viewer.layers[name], letters)

    def set_modality(self, name: str | None, named: Modality | None) -> None:
        """Set the modality of the layer of that name; None takes it from the file or the voxels."""
        if name not in self._viewer.layers:
            raise BadInput("choose an image first")
        set_modality(self._viewer.layers[name], named)

    def modality_named(self, name: str) -> Modality | None:
        """The modality that the user named for the image layer of that name."""
        return modality_named(self._viewer.layers[name]) if name in self._viewer.layers else None

    def source(self, name: str) -> Source:
        """The image layer of that name, checked."""
        if name not in self._viewer.layers:
            raise BadInput("choose an image; the layer is gone")
        return read_layer(self._viewer.layers[name])

    def add_image(self, data: NDArray[Any], state: dict[str, Any]) -> Source:
        """Add an image layer from napari's layer data and its arguments."""
        return read_layer(self._viewer.add_image(data, **state))

    def holds(self, layer: Any) -> bool:
        """Whether ``layer`` is still in the viewer."""
        return layer in self._viewer.layers

    def add(self, data: NDArray[Any], state: dict[str, Any], kind: str) -> Any:
        """Add a layer from napari's layer data, its arguments and its type."""
        return (self._viewer.add_image if kind == "image" else self._viewer.add_labels)(data, **state)

    def hide_others(self, layers: Sequence[Any]) -> None:
        """Hide all layers but ``layers``."""
        for layer in self._viewer.layers:
            show(layer, layer in layers)

    def hold_brush(self, layer: Any, scheme: LabelScheme) -> None:
        """Make ``layer`` active and let its brush paint the first structure of ``scheme``."""
        if layer.selected_label not in scheme.ids:
            _arm_brush(layer, scheme)
        self._viewer.layers.selection.active = layer

    def open_files(self, paths: Sequence[Path], scheme: LabelScheme | None = None) -> None:
        """Open volumes and label maps as layers, by our own reader, replacing those that were opened here before;
        `BadInput` where one cannot be read.

        Labels take names and colours of ``scheme`` where it knows all their ids.
        """
        tuples = read([str(path) for path in paths])
        for layer, shown in self._opened:  # patients do not pile up; layers that the user painted on stay, hidden
            if layer in self._viewer.layers and np.array_equal(layer.data, shown):
                self._viewer.layers.remove(layer)
        self._opened = []
        for data, state, kind in tuples:
            if kind == "labels" and scheme is not None and set(np.unique(data).tolist()) <= {0, *scheme.ids}:
                state |= label_style(scheme)
                state["metadata"][KEY]["scheme"] = scheme
            layer = self.add(data, state, kind)
            known = state["metadata"][KEY].get("scheme")
            if kind == "labels" and known is not None:
                _arm_brush(layer, known)
            self._opened.append((layer, data if kind == "image" else data.copy()))
        self.hide_others([layer for layer, _ in self._opened])
        self._view.layers_changed()
        self._view.look_at(self._opened[0][0])

    @property
    def is_dark(self) -> bool:
        """Whether the viewer's theme draws light words on a dark ground."""
        from napari.utils.theme import get_theme

        return sum(get_theme(self._viewer.theme).background.as_rgb_tuple()[:3]) < 3 * 128

    def box(self, on_drawn: Callable[[], None]) -> Box:
        """The box in this viewer; ``on_drawn`` is called when the user has drawn one."""
        return Box(self._viewer, on_drawn)

    def crossed(self, on_changed: Callable[[], None]) -> Crossed:
        """What is crossed out in this viewer; ``on_changed`` is called when the user has painted."""
        return Crossed(self._viewer, on_changed)

    def connect(
        self,
        on_layers: Callable[[Any], None],
        on_theme: Callable[[Any], None],
        on_active: Callable[[Any], None],
    ) -> None:
        """Call back when layers come, go or are renamed, when the theme changes, and when another layer becomes active.

        napari holds methods weakly.
        """
        layers = self._viewer.layers
        events = (layers.events.inserted, layers.events.removed, layers.events.renamed)
        self._connected = [(event, on_layers) for event in events]
        self._connected += [(self._viewer.events.theme, on_theme), (layers.selection.events.active, on_active)]
        for event, callback in self._connected:
            event.connect(callback)

    def disconnect(self) -> None:
        for event, callback in self._connected:
            event.disconnect(callback)
        self._connected = []
        self._turns.clear()

    def face_patient(self) -> None:
        """Turn an untouched viewer to axial slices, see `View.layers_changed`."""
        self._view.layers_changed()

    def label_layers(self) -> list[Labels]:
        """The labels layers that hold structures, bottom to top; of ours, the results only."""
        layers = [layer for layer in self._viewer.layers if isinstance(layer, Labels)]
        ours = ("live", "disagreement", "crossed", "atlas")
        return [layer for layer in layers if not any(layer.metadata.get(KEY, {}).get(key) for key in ours)]

    def label_source(self, layer: Labels) -> LabelSource:
        """A labels layer, checked."""
        if layer not in self._viewer.layers:
            raise BadInput("choose two label layers; one is gone")
        return read_label_layer(layer)

    def show_disagreement(self, where: NDArray[np.uint8], first: str, second: LabelSource) -> None:
        """A layer on the voxels of ``second``, in place of the one before; see `agreement` for the numbers."""
        for layer in [it for it in self._viewer.layers if it.metadata.get(KEY, {}).get("disagreement")]:
            self._viewer.layers.remove(layer)
        scheme = disagreement_scheme(first, second.name)
        state = label_style(scheme) | second.placement.layer_arguments(second.grid)
        own = {"metadata": second.placement.metadata(disagreement=True), "opacity": 0.9}
        self._viewer.add_labels(where, name="disagreement", **(state | own))

    def add_pair(self, image: Volume, mask: LabelMap, name: str) -> None:
        """A generated image in the model's range, [-1, 1], and its mask as two layers."""
        data, state, _ = volume_to_layer(image)
        labels, label_state, _ = label_map_to_layer(mask, f"{name} labels")
        place = {"name": name, "contrast_limits": (-1, 1), "colormap": "gray"}
        layer = self._viewer.add_image(data, **(state | place))
        self._viewer.add_labels(labels, **label_state)
        self._view.centre(layer.extent.world.mean(axis=0))

    # -- a run -------------------------------------------------------------------------------------------------------
    def begin(self, source: Source, model: str) -> None:
        """Hide the live layers of the run before, its result and the images it painted."""
        self._turns.flush()
        self._views.close()
        self._against.use(None)
        self._live.begin()
        self._hide_results()
        self._picture, self._chosen = None, None
        self._source, self._model = source, model

    def show(self, picture: Picture, before: Picture | None = None) -> None:
        """Draw a step: at first in new layers, then in place. A live layer the user deletes stays away.

        ``before``: the step of the run before at the same noise level, to be shown beside it.
        """
        if self._source is None:
            return
        self._picture, self._before = picture, before
        if self._live.draw(picture, self._source.placement, self._noisy):
            box = self._live.layer(LIVE_IMAGE).extent.world
            point = np.asarray(self._viewer.dims.point)[-3:]
            if np.any((point < box[0]) | (point > box[1])):
                self._view.centre(box.mean(axis=0))
        if self._views.open:
            self._views.show(picture, before, self._source.placement)
        elif self.view_mode != "one":
            self._turns.add(self._open_views)
        else:
            self._against.show(picture, self._source.placement)

    def set_view(self, mode: Mode) -> None:
        """Show the step in one view, in four, or beside the run before; the next runs as well."""
        if mode == self.view_mode:
            return
        self._turns.flush()
        self._views.close()
        self.view_mode = mode
        if mode == "one":
            self.show_result(self._result_shown)
        elif self._picture is not None:
            self._against.set("off", 0.5)
            self._against.show(self._picture, self._source.placement)  # type: ignore[union-attr]
            self._open_views()

    def compare_with_patient(self, how: How, share: float) -> None:
        """The generated image against the patient's, once `use_patient` has given it."""
        self._against.set(how, share)
        if self._picture is not None and self._source is not None and not self._views.open:
            self._against.show(self._picture, self._source.placement)

    def use_patient(self, patient: NDArray[np.float32]) -> None:
        """The patient's image as the model sees it, on the grid of the steps."""
        self._against.use(patient)

    @property
    def has_patient(self) -> bool:
        """Whether `use_patient` was called for this run."""
        return self._against.ready

    def _open_views(self) -> None:
        source, picture = self._source, self._picture
        if source is None or picture is None or self._views.open or self.view_mode == "one":
            return
        patient = next((layer for layer in self._viewer.layers if layer.name == source.name), None)
        self._views.begin(self.view_mode, picture, self._before, source.placement, patient)

    def show_noisy(self, noisy: bool) -> None:
        """Show the noisy state of the walk, or the image that the network makes of it."""
        self._noisy = noisy
        if self._picture is not None:
            self.show(self._picture, self._before)

    def finish(self, outcome: Outcome) -> None:
        """Add the layers of an outcome, labels or painted images, and hide the live layers."""
        if self._source is None:
            raise RuntimeError("finish without begin")
        self._turns.flush()
        mode = self._close_views()
        self._live.hide()
        first, *others = outcome.layers
        self._viewer.add_layer(first)
        self._turns.add(self._live.refresh_thumbnails)
        if isinstance(first, Labels):
            made = Made(str(first.name), outcome, self._model, self._source, first, tuple(others))
            self.results.append(made)
            del self.results[:-MAX_RESULTS]  # the layers of older ones stay, but Undo does not reach them
            _arm_brush(first, outcome.result.labels.scheme)
            self.choose(len(self.results) - 1)
        else:
            self._painted = list(outcome.layers)
        for layer in others:
            self._turns.add(partial(self._add_beside, layer))
        self.view_mode = mode
        if mode != "one":
            self._turns.add(self._open_views)

    def show_result(self, shown: bool = True) -> None:
        """Show the chosen result and hide the live layers, or (``shown`` False) the other way round."""
        self._result_shown = shown
        if self._chosen is None or self._views.open:
            return
        for layer in self.results[self._chosen].shown:
            show(layer, shown)
        (self._live.hide if shown else self._live.reveal)()

    # -- results and edits -------------------------------------------------------------------------------------------
    @property
    def has_steps(self) -> bool:
        """Whether a step of the run is drawn."""
        return self._picture is not None

    @property
    def chosen(self) -> int | None:
        """The index in `results` of the result shown; None during a run and after one without a result."""
        return self._chosen

    def choose(self, index: int) -> None:
        """Show this result alone, in one view; a layer that the user deleted comes back."""
        self._close_views()
        chosen = self.results[index]
        self._chosen = index
        self._hide_results(but=chosen)
        if chosen.layer not in self._viewer.layers:
            self._viewer.add_layer(chosen.layer)
        for layer in chosen.shown:
            show(layer, True)
        self._live.hide()
        self._viewer.layers.selection.active = self.results[index].layer  # the brush works on the active layer

    def undo(self) -> str:
        """Undo the edit of the result shown, or return to the one before; returns a line on what was done."""
        if not self.results:
            return "There is nothing to undo."
        if self._chosen is None:
            self.choose(len(self.results) - 1)
            return f"Back to {self.results[-1].name}."
        made = self.results[self._chosen]
        ids = made.result.labels.to_ids()
        if not np.array_equal(made.layer.data, ids):
            overwrite(made.layer, ids)
            return "Your edit is undone: the labels are as the engine made them."
        if self._chosen == 0:
            return "There is no earlier result."
        self.choose(self._chosen - 1)
        return f"Back to {self.results[self._chosen].name}."

    def edited(self, live: bool) -> Edited:
        """The labels to continue from: those of the step shown (``live``), else those of the chosen result."""
        if not live and self._chosen is not None:
            made = self.results[self._chosen]
            labels = LabelMap.from_ids(np.asarray(made.layer.data), made.result.labels.grid, made.result.labels.scheme)
            return Edited(labels, labels.data != made.result.labels.data, made.source, made.model)
        self._turns.flush()
        layer, picture, source = self._live.layer(LIVE_LABELS), self._picture, self._source
        if layer is None or picture is None or source is None:
            raise BadInput("there are no labels yet to go on from; run first")
        orientation = canonical(picture, source.placement)
        grid = picture.grid.reoriented(orientation)
        labels = LabelMap.from_ids(np.asarray(layer.data), grid, picture.scheme)
        changed = labels.data != reorient(picture.labels, orientation)
        onto = source.grid
        native = LabelMap(nearest(labels.data, grid, onto), onto, picture.scheme)
        return Edited(native, nearest(changed.astype(np.uint8), grid, onto) > 0, source, self._model)

    def arm_live_brush(self) -> None:
        """Make the live labels the active layer, so that the user can paint while a run is paused."""
        self._turns.flush()
        layer = self._live.layer(LIVE_LABELS)
        if layer is not None and self._picture is not None:
            _arm_brush(layer, self._picture.scheme)
            self._viewer.layers.selection.active = layer

    def _close_views(self) -> Mode:
        """Go back to one view; returns the mode there was."""
        mode, self.view_mode = self.view_mode, "one"
        self._turns.flush()
        self._views.close()
        return mode

    def _add_beside(self, layer: Any) -> None:
        """Add a layer and keep the active one active."""
        active = self._viewer.layers.selection.active
        self._viewer.add_layer(layer)
        self._viewer.layers.selection.active = active

    def _hide_results(self, but: Made | None = None) -> None:
        """Hide every result with its confidence, and the painted images, which are not the patient's."""
        for made in self.results:
            if made is not but:
                for layer in (made.layer, *made.beside):
                    show(layer, False)
        for layer in self._painted:
            show(layer, False)
        self._painted = []


def _can_be_run_on(layer: Any) -> bool:
    return isinstance(layer, Image) and not layer.metadata.get(KEY, {}).get("live")


def _arm_brush(layer: Any, scheme: LabelScheme) -> None:
    layer.selected_label = scheme.ids[0]  # what the brush paints: a structure, not napari's label 1


def disagreement_scheme(first: str, second: str) -> LabelScheme:
    """Names and colours of the kinds of disagreement, numbered as in `agreement`."""
    kinds = (f"only in {first}", f"only in {second}", "another structure")
    colors = zip(kinds, (ONLY_FIRST, ONLY_SECOND, DIFFERENT), DISAGREEMENT_COLORS, strict=True)
    return LabelScheme("disagreement", tuple(Structure(kind, id_, color) for kind, id_, color in colors))
