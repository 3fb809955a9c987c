"""Save run and Replay run: what the widget writes, reads and refuses; and the same run behind both doors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtWidgets import QFileDialog
from typer.testing import CliRunner

from diffatlas import session
from diffatlas.cli import app
from diffatlas.engine.request import MaskEdit, Request
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, Volume
from diffatlas.io import read_label_map, read_volume, write_volume
from napari_diffatlas.reader import read
from napari_diffatlas.viewer.layers import AS_IS, Origin, volume_to_layer
from napari_diffatlas.widget import DiffAtlasWidget
from napari_diffatlas.writer import write_labels
from tests.fakes import SHA256, FakeBackend

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")

Open = Callable[[Any, FakeBackend], DiffAtlasWidget]
MODEL = "heart-phantom"


def wait_for_end(qtbot: Any, widget: DiffAtlasWidget, timeout: int = 90_000) -> None:
    qtbot.waitUntil(lambda: not widget.running, timeout=timeout)


def add(viewer: Any, layer_tuple: Any) -> Any:
    data, state, _ = layer_tuple
    return viewer.add_image(data, **state)


@pytest.fixture(autouse=True)
def fake_cards(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("weights") is None:
        monkeypatch.setattr(session, "model_card", lambda name: SimpleNamespace(name=name, sha256=SHA256))


@pytest.fixture
def saved(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Open, volume: Volume, tmp_path: Path
) -> tuple[Any, DiffAtlasWidget, FakeBackend, Path]:
    """Viewer, widget and backend after a run on a file, and the report that was saved of it."""
    viewer = make_napari_viewer_proxy()
    write_volume(volume, tmp_path / "case 7.nii.gz")
    add(viewer, read(str(tmp_path / "case 7.nii.gz"))[0])
    backend = FakeBackend()
    widget = open_widget(viewer, backend)
    assert not widget.segment.run_files.save_button.isEnabled()
    widget.segment.panel.options.advanced.form["seed"].value = 3
    widget.segment.panel.run_button.click()
    wait_for_end(qtbot, widget)
    assert widget.segment.run_files.save_button.isEnabled()
    report = tmp_path / "run.json"
    widget.segment.save_run(report)
    assert widget.segment.panel.status.text().startswith("Saved run.json")
    return viewer, widget, backend, report


def test_the_report_speaks_of_the_file_and_its_own_voxels(saved: Any, volume: Volume, tmp_path: Path) -> None:
    report = json.loads(saved[3].read_text())
    on_disk = read_volume(tmp_path / "case 7.nii.gz")
    source = report["provenance"]["source"]
    assert source["sha256"] == on_disk.sha256() == volume.sha256()
    assert source["path"] == str(tmp_path / "case 7.nii.gz")
    assert report["provenance"]["request"]["seed"] == 3


def test_a_replay_runs_the_same_request_and_leaves_the_same_labels(saved: Any, qtbot: Any) -> None:
    viewer, widget, backend, report = saved
    first = viewer.layers[-1].data.copy()
    widget.segment.panel.options.advanced.form["seed"].value = 0  # what the form says does not matter
    widget.segment.replay_run(report)
    wait_for_end(qtbot, widget)
    assert "Done in " in widget.segment.panel.status.text()
    assert viewer.layers[-1].name == "case 7 labels, seed 3, replayed"
    assert np.array_equal(viewer.layers[-1].data, first)
    requests = [request.to_json() for request in backend.requests]
    assert requests[1] == json.loads(report.read_text())["provenance"]["request"] == requests[0]


def test_a_replay_opens_the_file_where_its_image_is_not_open(saved: Any, qtbot: Any) -> None:
    viewer, widget, backend, report = saved
    viewer.layers.clear()
    widget.segment.replay_run(report)
    wait_for_end(qtbot, widget)
    assert viewer.layers[0].name == "case 7"
    assert backend.volumes[1].sha256() == backend.volumes[0].sha256()


def test_a_replay_on_another_image_is_refused_in_one_line(saved: Any, qtbot: Any, volume: Volume) -> None:
    viewer, widget, backend, report = saved
    viewer.layers.clear()
    other = Volume(volume.data + np.float32(1), volume.grid, "mr", "someone else")
    add(viewer, volume_to_layer(other))
    widget.segment.replay_run(report)
    wait_for_end(qtbot, widget)
    text = widget.segment.panel.status.text()
    assert "'someone else': its voxels are not those of run.json" in text
    assert "\n" not in text
    assert len(backend.requests) == 1
    assert widget.segment.panel.run_button.isEnabled()


def test_the_same_voxels_elsewhere_are_another_image(saved: Any, volume: Volume) -> None:
    run = session.read_run(saved[3])
    assert run.other_image(volume, "it") is None
    place = volume.grid.affine.copy()
    place[0, 3] += 5
    moved = Volume(volume.data, Grid(volume.grid.shape, place), "mr")
    reported = json.loads(saved[3].read_text())
    reported["provenance"]["source"]["affine"] = volume.grid.affine.tolist()  # the fake engine leaves it out
    saved[3].write_text(json.dumps(reported))
    run = session.read_run(saved[3])
    assert run.other_image(volume, "it") is None
    assert "elsewhere" in str(run.other_image(moved, "it"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p["model"].update(sha256="1" * 64), "the weights of heart-phantom are not those of run.json"),
        (lambda p: p["request"].update(steps=-1), "steps must be greater than or equal to 1, not -1"),
        (lambda p: p["source"].update(path="/gone.nii.gz", shape=[1, 2, 3]), "open 'case 7' first"),
        (lambda p: p.update(source=None), "is not the report of a segmentation"),
        (lambda p: p["source"].update(affine=[1, 2]), "cannot be read"),
        (lambda p: p.pop("request"), "is not a report of this program"),
    ],
)
def test_reports_that_cannot_be_replayed_are_refused_at_once(saved: Any, change: Any, words: str) -> None:
    _, widget, backend, report = saved
    record = json.loads(report.read_text())
    change(record["provenance"])
    report.write_text(json.dumps(record))
    widget.segment.replay_run(report)
    assert not widget.running
    assert words in widget.segment.panel.status.text()
    assert "\n" not in widget.segment.panel.status.text()
    assert len(backend.requests) == 1


def test_a_report_that_cannot_be_written_is_told(saved: Any, tmp_path: Path) -> None:
    _, widget, _, _ = saved
    widget.segment.save_run(tmp_path / "no folder" / "run.json")
    assert "does not exist" in widget.segment.panel.status.text()


def test_the_buttons_ask_for_a_file(saved: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, widget, backend, report = saved
    dialog = QFileDialog
    monkeypatch.setattr(dialog, "getSaveFileName", lambda *_: (str(tmp_path / "second"), ""))
    monkeypatch.setattr(dialog, "getOpenFileName", lambda *_: (str(tmp_path / "second.json"), ""))
    widget.segment.run_files.save_button.click()
    assert (tmp_path / "second.json").read_text() == report.read_text()
    widget.segment.run_files.replay_button.click()
    wait_for_end(qtbot, widget)
    assert len(backend.requests) == 2
    monkeypatch.setattr(dialog, "getOpenFileName", lambda *_: ("", ""))  # the dialog was closed
    widget.segment.run_files.replay_button.click()
    assert not widget.running


@pytest.mark.parametrize("codes", ["LPS", "SAR", "IPL", "ASL"])
def test_requests_turn_to_the_file_and_back(codes: str) -> None:
    import nibabel.orientations as nio

    grid = Grid((4, 5, 6), nio.inv_ornt_aff(nio.axcodes2ornt(codes), (4, 5, 6)))
    origin = Origin(grid, grid.to_canonical())
    shape = origin.display_grid.shape
    labels = np.zeros(shape, np.uint8)
    labels[1:3, 0:2, 2:4] = 1
    request = Request(task="segment", roi=((1, 3), (0, 2), (2, 4)), edit=MaskEdit(labels, labels > 0))
    turned = origin.restore_request(request)
    assert turned.edit is not None
    assert turned.roi is not None
    # The box and the labels in it name the same voxels before and after.
    box = np.zeros(grid.shape, np.uint8)
    box[tuple(slice(*r) for r in turned.roi)] = 1
    assert np.array_equal(turned.edit.labels, box)
    assert np.array_equal(origin.restore(labels), box)
    assert turned.edit.pinned is not None
    assert np.array_equal(turned.edit.pinned, box > 0)
    back = origin.display_request(turned)
    assert back.roi == request.roi
    assert back.edit is not None
    assert np.array_equal(back.edit.labels, labels)
    assert np.array_equal(Origin(grid, AS_IS).restore(box), box)


@pytest.mark.weights
@pytest.mark.timeout(600)
def test_napari_and_the_command_line_replay_each_other_to_the_same_labels(
    make_napari_viewer: Any, qtbot: Any, volume: Volume, tmp_path: Path
) -> None:
    """With the real engine and an oblique file in other axes than are displayed."""
    if MODEL not in {card.name for card in session.available_models()}:
        pytest.skip(f"the weights of {MODEL} are not in weights/")
    heart, _ = session.example("heart-mr")
    grid = Grid((40, 36, 30), volume.grid.affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    image = Volume(np.ascontiguousarray(heart.data[:40, :36, :30]), grid, "mr", "heart")
    write_volume(image, tmp_path / "heart.nii.gz")
    viewer = make_napari_viewer()
    add(viewer, read(str(tmp_path / "heart.nii.gz"))[0])
    widget = DiffAtlasWidget(viewer)
    viewer.window.add_dock_widget(widget, name="DiffAtlas")
    panel = widget.segment.panel
    panel.model_combo.setCurrentIndex(panel.model_combo.findData(MODEL))
    panel.options.presets.choose("fast")
    panel.options.advanced.form["seed"].value = 5
    panel.run_button.click()
    wait_for_end(qtbot, widget, 500_000)
    assert "Done in " in panel.status.text(), panel.status.text()  # after a word on what it is not sure of
    layer = [layer for layer in viewer.layers if isinstance(layer, Labels)][-1]
    write_labels(str(tmp_path / "napari.nii.gz"), *layer.as_layer_data_tuple()[:2])
    widget.segment.save_run(tmp_path / "napari.json")

    def cli(*arguments: object) -> None:
        outcome = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="diffatlas")
        assert outcome.exit_code == 0, outcome.stderr

    cli("replay", tmp_path / "napari.json", "-o", tmp_path / "cli.nii.gz")
    made, again = (read_label_map(tmp_path / f"{name}.nii.gz", MMWHS) for name in ("napari", "cli"))
    assert made.data.any()
    assert np.array_equal(made.data, again.data)

    report, labels = tmp_path / "first.json", tmp_path / "first.nii.gz"
    cli("segment", tmp_path / "heart.nii.gz", "-o", labels, "--model", MODEL, "--seed", 6, "--report", report)
    widget.segment.replay_run(report)
    wait_for_end(qtbot, widget, 500_000)
    assert "Done in " in panel.status.text(), panel.status.text()  # after a word on what it is not sure of
    layer = [layer for layer in viewer.layers if isinstance(layer, Labels)][-1]
    write_labels(str(tmp_path / "replayed.nii.gz"), *layer.as_layer_data_tuple()[:2])
    first, replayed = (read_label_map(tmp_path / f"{name}.nii.gz", MMWHS) for name in ("first", "replayed"))
    assert np.array_equal(first.data, replayed.data)
    assert not np.array_equal(first.data, made.data)  # another seed: the comparison above could have failed
