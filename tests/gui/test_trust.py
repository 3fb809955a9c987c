"""What a user must be able to rely on: right figures, right places, no fake image on a patient, no silent nonsense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffatlas import session
from diffatlas.engine.plan import check_modality, window_note
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, LabelMap, Volume
from diffatlas.session import model_card
from napari_diffatlas.forms.parts import in_our_words
from napari_diffatlas.viewer.box import BOX
from napari_diffatlas.viewer.doubt import doubts_of
from napari_diffatlas.viewer.live_layers import LIVE_LABELS
from napari_diffatlas.widget import DiffAtlasWidget
from tests.fakes import FakeBackend
from tests.gui.conftest import CARDS, FIELD, LongBackend
from tests.gui.page import Page

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
OpenPage = Callable[..., Page]
PLUGIN = "napari-diffatlas"


def straight(name: str, at_mm: float = 0.0, size: int = 24) -> Volume:
    """A volume of 2 mm voxels whose middle lies at ``at_mm`` along every axis."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = at_mm - (size - 1)
    data = np.random.default_rng(3).normal(100, 30, (size,) * 3).astype(np.float32)
    return Volume(data, Grid((size,) * 3, affine), "mr", name)


def hearts(shift: int = 0) -> LabelMap:
    """Two blocks, moved by ``shift`` voxels of 1 mm."""
    data = np.zeros((20, 20, 20), np.uint8)
    data[4 + shift : 12 + shift, 4:12, 4:12] = 1
    data[4 + shift : 12 + shift, 4:12, 12:16] = 2
    return LabelMap(data, Grid((20, 20, 20), np.eye(4)), MMWHS)


# -- Compare -----------------------------------------------------------------------------------------------------------
def test_labels_of_an_unnamed_file_are_matched_by_id(open_page: OpenPage, tmp_path: Path) -> None:
    from diffatlas.io import write_label_map

    page = open_page()
    page.add_labels(hearts(), "mine")
    write_label_map(hearts(), tmp_path / "theirs_labels.nii.gz")
    page.open(tmp_path / "theirs_labels.nii.gz")
    page.compare()
    assert [(row[0], row[1]) for row in page.comparison[:-1]] == [
        ("left ventricle", "1.000"),
        ("right ventricle", "1.000"),
    ]


def test_the_live_labels_are_no_reference(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run(seed=0)
    page.run(seed=1)
    assert LIVE_LABELS in page.viewer.layers
    offered = page.widget.compare.form["reference"].choices
    assert [layer.name for layer in offered] == ["case 7 labels, seed 0", "case 7 labels, seed 1"]


# -- the box -----------------------------------------------------------------------------------------------------------
def test_the_box_is_drawn_at_its_own_edges(open_page: OpenPage) -> None:
    """In each slice an outline whose outer border is the box's, without napari's overlay; in 3-D the twelve edges."""
    page = open_page()
    page.add(straight("large", size=48))
    page.viewer.dims.set_point((0, 1, 2), (2.0, -4.0, 6.0))
    page.place_box_at_cursor()
    box = page.viewer.layers[BOX]
    middle = page.point
    half = np.array(FIELD.extent_mm) / 2
    ends = np.array(box.data.shape) - 0.5
    assert np.allclose(box.data_to_world((-0.5,) * 3), middle - half, atol=1.01)  # the box keeps to whole voxels
    assert np.allclose(np.subtract(box.data_to_world(tuple(ends)), box.data_to_world((-0.5,) * 3)), 2 * half)
    assert not box.bounding_box.visible
    inside = box.data[:, :, box.data.shape[2] // 2]
    assert (inside[[0, -1]] == 1).all()
    assert (inside[:, [0, -1]] == 1).all()
    assert (inside[1:-1, 1:-1] < 0.5).all()
    page.viewer.dims.ndisplay = 3
    n = len(box.data)
    assert np.count_nonzero(box.data) == 12 * (n - 2) + 8


def test_another_model_keeps_the_slices_in_sight(open_page: OpenPage) -> None:
    page = open_page()
    page.add(straight("large", size=48))
    page.viewer.dims.set_point((0, 1, 2), (2.0, -4.0, 6.0))
    page.place_box_at_cursor()
    before = page.point
    page.choose_model("Hippocampus (MRI)")
    assert page.point == pytest.approx(before)


# -- what lies over the patient ----------------------------------------------------------------------------------------
def test_a_painted_image_is_out_of_sight_in_the_next_run(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run()
    page.paint_an_image()
    assert "case 7 painted, seed 0" in page.visible
    page.run(seed=1)
    assert page.visible == ["case 7", "case 7 labels, seed 1"]
    assert page.image == "case 7"


def test_confidence_goes_with_its_result(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run(seed=0)
    page.widget.segment.panel.options.advanced.form["samples"].value = 2
    page.run(seed=1)
    name = next(layer.name for layer in page.viewer.layers if "confidence, labels" in layer.name)
    page.viewer.layers[name].visible = True
    page.undo()
    assert page.visible == ["case 7", "case 7 labels, seed 0"]


# -- far from what the model knows -------------------------------------------------------------------------------------
def test_an_image_far_smaller_than_the_field_of_view_is_said_before_the_run(open_page: OpenPage) -> None:
    page = open_page()
    page.add(straight("crop", size=7))  # 14 mm of 32
    assert "Doubtful: the image (14 × 14 × 14 mm) is far smaller" in page.region_words.replace(
        "\N{NO-BREAK SPACE}", " "
    )


class BeyondTheImage(FakeBackend):
    """The model draws its whole heart; the image holds a corner of it."""

    def stream(self, volume: Any, request: Any) -> Any:
        for frame in super().stream(volume, request):
            if frame.result is not None:
                few = np.zeros_like(frame.result.labels.data)
                few[:3, :3, :3] = 1
                result = replace(frame.result, labels=replace(frame.result.labels, data=few))
                frame = replace(frame, result=result)
            yield frame


def test_labels_mostly_outside_the_image_are_called_doubtful(open_page: OpenPage) -> None:
    page = open_page(BeyondTheImage())
    page.add(straight("crop"))
    page.run()
    assert page.status.startswith("Doubtful: of the ")
    assert "lie outside the image" in page.status
    assert page.visible == ["crop", "crop labels, seed 0 (doubtful)"]


def test_volumes_unlike_those_of_the_training_cases_are_doubtful() -> None:
    backend, volume = FakeBackend(), straight("case")
    *_, last = backend.stream(volume, session.Request())
    assert last.result is not None
    found = sum(last.result.volumes_ml.values())
    for factor, doubtful in ((1.0, False), (2.5, False), (3.5, True), (1 / 2.5, False), (1 / 3.5, True)):
        card = replace(CARDS[0], expected_volumes_ml=[factor * found])
        assert bool(doubts_of(last, last.result, card)) == doubtful, factor


# -- axes without labels -----------------------------------------------------------------------------------------------
def test_unlabelled_axes_are_said_can_be_named_and_are_remembered(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    assert page.assumed_axes == ""  # our reader says where they run
    data = np.random.default_rng(0).random((30, 20, 25))
    page.viewer.add_image(data, scale=(3, 2, 1), name="stack")
    assert page.assumed_axes == "RAS"
    page.say_axes("spx")
    assert "names no orientation" in page.status
    page.say_axes("ipl")
    page.run()
    asked = page.backend.volumes[0]
    assert asked is not None
    assert asked.grid.axis_codes == "IPL"
    assert asked.grid.spacing_mm == pytest.approx((3, 2, 1))
    labels = page.viewer.layers["stack labels, seed 0"]
    index = (4, 5, 6)
    assert labels.data_to_world(index) == pytest.approx(page.viewer.layers["stack"].data_to_world(index))
    page.viewer.layers.selection.active = page.viewer.layers["case 7"]
    assert page.assumed_axes == ""
    page.viewer.layers.selection.active = page.viewer.layers["stack"]
    assert page.assumed_axes == "IPL"


# -- the next patient --------------------------------------------------------------------------------------------------
def test_the_next_patient_is_the_one_to_run_on_and_to_look_at(open_page: OpenPage) -> None:
    page = open_page()
    page.add(straight("first"))
    page.run()
    far = straight("second", at_mm=400.0)
    page.add(far)
    assert page.image == "second"
    assert page.point == pytest.approx(far.grid.centre_mm, abs=2.0)
    camera = getattr(page.viewer, "scene", page.viewer).camera
    assert np.allclose(np.asarray(camera.center)[-2:], 400.0, atol=4.0)  # the canvas shows it, not the gap between
    page.viewer.layers.selection.active = page.viewer.layers["first"]
    assert page.image == "first"
    assert page.point == pytest.approx((0, 0, 0), abs=2.0)


def test_after_clearing_the_next_volume_is_axial_again(open_page: OpenPage) -> None:
    page = open_page()
    page.add(straight("first"))
    assert page.viewer.dims.order == (2, 1, 0)
    page.viewer.layers.clear()
    page.add(straight("second"))
    assert page.viewer.dims.order == (2, 1, 0)
    camera = getattr(page.viewer, "scene", page.viewer).camera
    assert tuple(str(side) for side in camera.orientation) == ("away", "up", "left")


# -- one widget --------------------------------------------------------------------------------------------------------
def widgets(viewer: Any) -> list[Any]:
    return [w for w in viewer.window.dock_widgets.values() if isinstance(w, DiffAtlasWidget)]


def test_the_command_and_the_menu_find_one_widget(make_napari_viewer: Any, npe2pm: Any) -> None:
    from napari._app_model import get_app_model

    root = Path(__file__).resolve().parents[2]
    with npe2pm.tmp_plugin(manifest=str(root / "napari.yaml")):
        viewer = make_napari_viewer()
        _, first = viewer.window.add_plugin_dock_widget(PLUGIN, "DiffAtlas")  # what diffatlas napari does
        get_app_model().commands.execute_command(f"{PLUGIN}.widget").result()
        assert widgets(viewer) == [first]
        assert first.segment.panel.isVisibleTo(first)


def test_a_closed_dock_keeps_its_run_and_is_found_again(open_page: OpenPage, volume: Volume) -> None:
    from napari_diffatlas.widget import open_widget

    backend = LongBackend()
    page = open_page(backend)
    page.add(volume)
    page.press_run()
    page.wait_for_steps()
    page.close_dock()
    page.settle()
    assert widgets(page.viewer) == []
    assert page.widget.running
    backend.finish.set()
    page.wait_for_end()
    assert "case 7 labels, seed 0" in page.visible
    assert open_widget() is page.widget


def test_a_refused_run_leaves_the_view_as_it_was(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run()
    before = page.visible
    page.backend.fail_at = 0
    page.run()
    assert "expected a tensor" in page.status
    assert page.visible == before
    assert page.widget.segment.volumes.rows()


# -- what the image is -------------------------------------------------------------------------------------------------
def test_a_modality_is_named_kept_with_its_image_and_told_to_the_engine(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    layer = page.add(replace(volume, modality="unknown"))
    page.add(replace(volume, name="another"))
    assert page.modality == "auto"
    page.viewer.layers.selection.active = layer
    page.name_modality("CT")
    page.run()
    page.viewer.layers.selection.active = page.viewer.layers["another"]
    assert page.modality == "auto"  # it was said of the first image
    page.run(seed=1)
    page.viewer.layers.selection.active = layer
    assert page.modality == "CT"
    page.name_modality("auto")
    page.run(seed=2)
    seen = [(v.modality, v.modality_reason) for v in page.backend.volumes if v is not None]
    assert seen == [("ct", "as you named it"), ("mr", ""), ("unknown", "")]


def test_the_engines_notes_name_what_the_form_has() -> None:
    low, high = 0.0, 255.0
    unknown = Volume(np.zeros((2, 2, 2), np.float32), Grid((2, 2, 2), np.eye(4)))
    assert "choose CT or MR as its Modality" in in_our_words(window_note(unknown, low, high))
    ct = replace(unknown, modality="ct")
    with pytest.raises(BadInput) as caught:
        check_modality(ct, replace(model_card("heart-phantom"), modalities=("mr",)), Request())
    assert "tick 'run on any modality'" in in_our_words(str(caught.value))
