"""`segment` for scripts, a small form for it, and label maps that magicgui shows as layers.

    from napari_diffatlas.function import segment
    layer = viewer.add_layer(napari.layers.Layer.create(*segment(viewer.layers["case"], "heart")))

A user's own function that returns a `diffatlas.geometry.volume.LabelMap` shows a labels layer once this is imported, or
the widget has been opened.
"""

# No postponed annotations here: magicgui does not resolve return types given as strings.
from dataclasses import replace
from typing import Annotated, Any, Literal

import napari.layers
from magicgui import magicgui, register_type
from magicgui.widgets import FunctionGui
from napari.qt.threading import FunctionWorker, thread_worker
from napari.types import LayerDataTuple

from diffatlas import session
from diffatlas.engine.request import PresetName, Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import LabelMap
from napari_diffatlas.viewer.layers import label_map_to_layer, read_layer
from napari_diffatlas.viewer.outcome import Outcome


def segment(
    image: napari.layers.Image,
    model: str = "auto",
    preset: PresetName = "fast",
    seed: int = 0,
    modality: Literal["auto", "ct", "mr"] = "auto",
) -> LayerDataTuple:
    """The labels of an image layer on its own voxels, as napari's layer data. `BadInput` where it cannot be used.

    ``model``: a name from ``diffatlas models``, or "auto", the one that fits the image. ``modality``: what the image
    is; "auto" takes what the user said of the layer, else the file's word, else the looks of the voxels. Waits for the
    result.
    """
    source = read_layer(image)
    if modality != "auto":
        source = replace(source, named=modality)
    request = Request(model=model, preset=preset, seed=seed)
    last = None
    for frame in session.stream(source.file_volume(), source.origin.restore_request(request)):
        last = frame
    if last is None or last.result is None:
        raise BadInput("the engine ended without a result; run again")
    card = session.model_card(str(last.result.provenance["model"]["name"]))
    layer = Outcome.of(last, source, f"labels, seed {seed}", card).layers[0]
    return LayerDataTuple(layer.as_layer_data_tuple())


def model_names(_: Any = None) -> list[str]:
    return ["auto", *(card.name for card in session.available_models())]


def segment_form() -> FunctionGui[..., Any]:
    """`segment` as a form that follows the viewer's layers; it runs in a thread and then adds its layer."""

    @magicgui(call_button="Segment")
    def form(
        image: napari.layers.Image,
        model: Annotated[str, {"choices": model_names}] = "auto",
        preset: PresetName = "fast",
        seed: Annotated[int, {"max": 2**31 - 1}] = 0,
        modality: Literal["auto", "ct", "mr"] = "auto",
    ) -> FunctionWorker[LayerDataTuple]:
        worker: FunctionWorker[LayerDataTuple] = thread_worker(segment)(image, model, preset, seed, modality)
        worker.start()
        return worker

    return form


def register_types() -> None:
    """Have magicgui show a `LabelMap` that a function returns as a labels layer."""
    register_type(LabelMap, return_callback=_show)


def _show(gui: Any, labels: LabelMap, return_type: type) -> None:
    viewer = napari.current_viewer()
    if viewer is None:
        return
    data, state, _ = label_map_to_layer(labels, str(gui.result_name or "labels"))
    if state["name"] in viewer.layers:  # as napari does with layer data: a second call updates the layer of the first
        viewer.layers.remove(state["name"])
    viewer.add_labels(data, **state)


register_types()
