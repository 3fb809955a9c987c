"""Open, run, save, open again, as napari's menus do it: every label where it was shown, on the file's own voxels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel.orientations as nio
import numpy as np
import pytest
from pydicom import dcmread

from diffatlas.geometry.grid import Grid, reorient
from diffatlas.geometry.volume import Volume
from diffatlas.io import read_label_ids, read_volume, write_volume
from napari_diffatlas.widget import DiffAtlasWidget
from tests.dicom_files import write_series as write_slices
from tests.fakes import FakeBackend
from tests.io.files import write_series

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")

ROOT = Path(__file__).resolve().parents[2]
NAME = "napari-diffatlas"
Open = Callable[[Any, FakeBackend], DiffAtlasWidget]


def turned(volume: Volume, codes: str) -> Volume:
    """The same voxels at the same (oblique) places, the array's axes in another order."""
    turn = nio.ornt_transform(nio.axcodes2ornt(volume.grid.axis_codes), nio.axcodes2ornt(codes))
    return Volume(reorient(volume.data, turn), volume.grid.reoriented(turn), volume.modality, volume.name)


@pytest.mark.parametrize(
    ("codes", "suffix"),
    [("LPS", ".nii.gz"), ("SAL", ".nii.gz"), ("RAS", ".nii"), ("PIR", ".nrrd"), ("ILA", ".mha"), ("DICOM", "")],
)
def test_labels_come_back_where_they_were_shown(
    npe2pm: Any,
    make_napari_viewer: Any,
    qtbot: Any,
    open_widget: Open,
    volume: Volume,
    tmp_path: Path,
    codes: str,
    suffix: str,
) -> None:
    path = tmp_path / f"case{suffix}"
    if codes == "DICOM":
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.grid.affine
        write_series(path, volume.data.astype(np.int16), lps, "1.2.3.4", "MR")
        suffix = ".nii.gz"
    else:
        write_volume(turned(volume, codes), path)
    on_disk = read_volume(path)
    backend = FakeBackend()
    with npe2pm.tmp_plugin(manifest=str(ROOT / "napari.yaml")):
        viewer = make_napari_viewer()
        (image,) = viewer.open(str(path), plugin=NAME)
        widget = open_widget(viewer, backend)
        widget.segment.panel.run_button.click()
        qtbot.waitUntil(lambda: not widget.running, timeout=90_000)
        assert widget.segment.panel.status.text().startswith("Done in ")
        shown = viewer.layers[-1]
        shown.data[2:5, 3:6, 4:9] = 600  # an edit is saved with the rest
        saved = tmp_path / f"case_labels{suffix}"
        names = str(tmp_path / "case_labels.structures.json")
        assert shown.save(str(saved), plugin=NAME) == [str(saved), names]
        (again,) = viewer.open(str(saved), plugin=NAME)
    assert backend.volumes[0] is not None
    assert backend.volumes[0].sha256() == on_disk.sha256()

    assert type(again) is type(shown)
    assert np.array_equal(again.data, shown.data)
    assert again.data.shape == image.data.shape
    for corner in ((0, 0, 0), tuple(n - 1 for n in image.data.shape), (image.data.shape[0] - 1, 0, 0)):
        assert again.data_to_world(corner) == pytest.approx(shown.data_to_world(corner), abs=1e-3)
        assert shown.data_to_world(corner) == pytest.approx(image.data_to_world(corner), abs=1e-3)
    ids, grid = read_label_ids(saved)
    assert ids.shape == on_disk.grid.shape
    assert grid.same_as(on_disk.grid)
    assert set(np.unique(ids)) == set(np.unique(shown.data))
    for voxel in np.argwhere(ids)[::7]:
        point = on_disk.grid.to_world(voxel.astype(float))
        index = tuple(np.rint(shown.world_to_data(point)).astype(int))
        assert shown.data[index] == ids[tuple(voxel)]


def test_the_voxels_of_a_dicom_series_are_those_of_the_slices(
    npe2pm: Any, make_napari_viewer: Any, tmp_path: Path
) -> None:
    grid = Grid((5, 6, 7), np.diag([-1.0, -1.5, 2.0, 1.0]))
    data = np.arange(210, dtype=np.int16).reshape(5, 6, 7)
    write_series(tmp_path / "scan", data, np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine, "1.2.3.4")
    with npe2pm.tmp_plugin(manifest=str(ROOT / "napari.yaml")):
        viewer = make_napari_viewer()
        (folder,) = viewer.open(str(tmp_path / "scan"), plugin=NAME)
        (slice_,) = viewer.open(str(next((tmp_path / "scan").iterdir())), plugin=NAME)
    for layer in (folder, slice_):
        for voxel in ((0, 0, 0), (4, 2, 6), (1, 5, 3)):
            index = tuple(np.rint(layer.world_to_data(grid.to_world(voxel))).astype(int))
            assert layer.data[index] == data[voxel]


@pytest.mark.parametrize(("writer", "modality"), [(None, "SEG"), ("write_seg", "SEG"), ("write_rtstruct", "RTSTRUCT")])
def test_labels_of_a_dicom_series_are_saved_as_dicom(
    npe2pm: Any,
    make_napari_viewer: Any,
    qtbot: Any,
    open_widget: Open,
    tmp_path: Path,
    writer: str | None,
    modality: str,
) -> None:
    """By the name's ending, and by the kinds of files that napari's dialog lists."""
    stored = np.random.default_rng(0).integers(0, 1500, (12, 20, 24)).astype(np.uint16)
    scan = write_slices(tmp_path / "scan", stored, step=(0.0, 0.0, -3.0))
    backend = FakeBackend()
    with npe2pm.tmp_plugin(manifest=str(ROOT / "napari.yaml")):
        viewer = make_napari_viewer()
        viewer.open(str(scan), plugin=NAME)
        widget = open_widget(viewer, backend)
        widget.segment.panel.run_button.click()
        qtbot.waitUntil(lambda: not widget.running, timeout=90_000)
        layer = viewer.layers[-1]
        chosen = {
            w.command.rpartition(".")[2]: w for m in npe2pm.iter_manifests() for w in m.contributions.writers or ()
        }
        saved = str(scan / "labels.dcm")
        if writer is None:
            assert layer.save(saved, plugin=NAME) == [saved]
        else:
            assert viewer.layers.save(saved, selected=True, _writer=chosen[writer]) == [saved]
        (again,) = viewer.open(saved, plugin=NAME)
    series = read_volume(scan).series
    assert series is not None
    written = dcmread(saved)
    assert written.Modality == modality
    assert f"UI: {series.slices[5][0]}" in str(written)
    assert written.PatientID == "p-17"
    assert type(again) is type(layer)
    assert np.array_equal(again.data, layer.data)
    assert list(again.features["structure"]) == list(layer.features["structure"])
