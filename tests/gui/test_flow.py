"""The way through a working day: saving, opening again, patient after patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.settings import get_settings

from diffatlas import session
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, LabelMap, Volume
from diffatlas.io import write_label_map, write_volume
from napari_diffatlas.forms.parts import short
from napari_diffatlas.reader import prefer_our_reader, read
from napari_diffatlas.viewer.live_layers import LIVE_IMAGE
from tests.fakes import FakeBackend
from tests.gui.conftest import LongBackend
from tests.gui.page import Page

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
OpenPage = Callable[..., Page]
ROOT = Path(__file__).resolve().parents[2]


def test_a_result_saved_under_the_offered_name_opens_with_names_and_colours(
    open_page: OpenPage, volume: Volume, tmp_path: Path, npe2pm: Any
) -> None:
    with npe2pm.tmp_plugin(manifest=str(ROOT / "napari.yaml")):
        page = open_page()
        page.add(volume)
        page.run()
        layer = page.viewer.layers["case 7 labels, seed 0"]
        page.viewer.layers.selection = {layer}
        page.viewer.layers.save(str(tmp_path / layer.name), selected=True, plugin="napari-diffatlas")
    ((data, state, kind),) = read(str(tmp_path / f"{layer.name}.nii.gz"))
    assert kind == "labels"
    assert np.array_equal(data, layer.data)
    ours = state["metadata"]["diffatlas"]
    assert ours["scheme"].structures == MMWHS.structures
    assert ours["image"] == "case 7"
    assert list(state["features"]["structure"]) == ["background", *MMWHS.names]


def test_labels_of_a_batch_are_named_by_their_report_and_others_by_nobody(tmp_path: Path) -> None:
    backend = FakeBackend()
    volume = Volume(np.zeros((16, 16, 16), np.float32), Grid((16, 16, 16), np.eye(4)), "ct", "case")
    *_, last = backend.stream(volume, session.Request(model="heart-phantom"))
    assert last.result is not None
    path = tmp_path / "case_labels.nii.gz"
    write_label_map(last.result.labels, path)
    assert "scheme" not in read(str(path))[0][1]["metadata"]["diffatlas"]
    session.write_report(last.result, tmp_path / "case.json", tmp_path / "case.nii.gz")
    ours = read(str(path))[0][1]["metadata"]["diffatlas"]
    assert ours["scheme"].structures == MMWHS.structures
    assert ours["image"] == "case.nii.gz"
    (tmp_path / "case_labels.structures.json").write_text('{"structures": [{"id": 500}]}', encoding="utf-8")
    assert "scheme" in read(str(path))[0][1]["metadata"]["diffatlas"]  # a broken file of names is as none


def test_napari_does_not_ask_which_reader(npe2pm: Any) -> None:
    plugins = get_settings().plugins
    before = dict(plugins.extension2reader)
    try:
        plugins.extension2reader = {"*.nrrd": "another"}
        builtins = Path(str(import_module("napari_builtins").__file__)).parent / "builtins.yaml"
        with (
            npe2pm.tmp_plugin(manifest=str(ROOT / "napari.yaml")),
            npe2pm.tmp_plugin(manifest=str(builtins)),
        ):
            prefer_our_reader()
        assert plugins.extension2reader["*.nii.gz"] == "napari-diffatlas"
        assert plugins.extension2reader["*.nrrd"] == "another"
    finally:
        plugins.extension2reader = before


def test_patients_opened_from_the_folder_tab_do_not_pile_up(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    scene = page.widget._scene
    for index in range(3):
        affine = np.eye(4)
        affine[:3, 3] = 100 * index
        grid = Grid((16, 16, 16), affine)
        write_volume(
            Volume(np.random.default_rng(index).random(grid.shape).astype(np.float32), grid),
            tmp_path / f"p{index}.nii.gz",
        )
        data = np.zeros(grid.shape, np.uint8)
        data[4:8, 4:8, 4:8] = 1
        write_label_map(LabelMap(data, grid, MMWHS), tmp_path / f"p{index}_labels.nii.gz")
    pairs = [(tmp_path / f"p{i}.nii.gz", tmp_path / f"p{i}_labels.nii.gz") for i in range(3)]
    scene.open_files(pairs[0], MMWHS)
    scene.open_files(pairs[1], MMWHS)
    assert [layer.name for layer in page.viewer.layers] == ["p1", "p1_labels"]
    assert page.image == "p1"
    page.viewer.layers["p1_labels"].data[0, 0, 0] = 500
    scene.open_files(pairs[2], MMWHS)
    assert [layer.name for layer in page.viewer.layers] == [
        "p1_labels",
        "p2",
        "p2_labels",
    ]  # an edit is not thrown away
    assert page.visible == ["p2", "p2_labels"]
    assert page.point == pytest.approx((207.5,) * 3, abs=1.0)


def test_volumes_stand_above_the_plots(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run()
    segment = page.widget.segment
    assert segment.column.indexOf(segment.volumes) < segment.column.indexOf(segment.scrubber)


def test_what_was_said_of_one_patient_is_not_said_of_the_next(open_page: OpenPage, volume: Volume) -> None:
    page = open_page(LongBackend())
    page.add(volume)
    page.press_run()
    page.wait_for_steps()
    page.stop()
    assert page.status.startswith("Stopped")
    page.add(replace(volume, name="case 8"))
    assert (page.image, page.status) == ("case 8", "")


def test_volumes_of_the_run_before_are_out_of_sight_while_another_runs(open_page: OpenPage, volume: Volume) -> None:
    backend = LongBackend()
    backend.finish.set()
    page = open_page(backend)
    page.add(volume)
    page.run()
    table = page.widget.segment.volumes
    assert table.rows()
    backend.finish.clear()
    page.press_run()
    page.wait_for_steps(1)
    assert not table.rows()
    backend.finish.set()
    page.wait_for_end()
    assert table.rows()


def test_long_names_keep_their_ends(open_page: OpenPage) -> None:
    names = [f"patient_0123456789_contrast_enhanced_venous labels, seed {seed}" for seed in (1, 2)]
    assert len({short(name) for name in names}) == 2
    assert all(len(short(name)) == 34 and short(name).endswith(f"labels, seed {i}") for i, name in enumerate(names, 1))
    page = open_page()
    page.widget.segment.edit.set_results(names, 0)
    combo = page.widget.segment.edit.result_combo
    assert combo.itemText(0) != combo.itemText(1)


def test_the_noisy_state_is_a_toggle(open_page: OpenPage, volume: Volume) -> None:
    page = open_page()
    page.add(volume)
    page.run()
    scrubber, recording = page.widget.segment.scrubber, page.widget.segment.view.recording
    scrubber.go_to(0)
    live, first = page.viewer.layers[LIVE_IMAGE], recording.at(0)
    assert first is not None
    assert np.array_equal(live.data, first.image.astype(np.float32))
    scrubber.see.noisy_box.setChecked(True)
    assert np.array_equal(live.data, first.noisy_image.astype(np.float32))
    assert not np.allclose(live.data, first.image.astype(np.float32), atol=0.1)
    scrubber.see.noisy_box.setChecked(False)
    assert np.array_equal(live.data, first.image.astype(np.float32))
