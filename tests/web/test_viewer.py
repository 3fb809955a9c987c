"""The viewer's messages and the drawing for browsers without WebGL, without a browser."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid, reorient
from diffatlas.geometry.volume import MMWHS, LabelMap, Volume
from diffatlas.session import Frame
from diffatlas_app.page import slices, viewer
from diffatlas_app.server import files
from tests.fakes import FakeBackend
from tests.web.conftest import fake_example


@pytest.fixture
def frames() -> list[Frame]:
    return list(FakeBackend().stream(fake_example("heart-ct")[0], Request(steps=40)))


def unpacked(part: dict[str, Any]) -> NDArray[np.uint8]:
    """What the browser makes of a packed volume: [x, y, z], first axis fastest."""
    data = gzip.decompress(base64.b64decode(part["data"]))
    return np.frombuffer(data, np.uint8).reshape(part["shape"], order="F")


def test_labels_arrive_along_the_axes_closest_to_ras_at_their_place() -> None:
    affine = np.array([[0, 0, -2.0, 30], [-1.5, 0, 0, 20], [0, 3.0, 0, -10], [0, 0, 0, 1]])  # axes P, S, L
    grid = Grid((5, 6, 7), affine)
    labels = LabelMap(np.random.default_rng(0).integers(0, 6, grid.shape).astype(np.uint8), grid, MMWHS)
    sent = json.loads(viewer.open_message(None, labels=labels))["labels"]
    assert sent["shape"] == [7, 5, 6]
    got, placed = unpacked(sent), np.array(sent["affine"]).reshape(4, 4)
    assert np.all(np.diag(placed)[:3] > 0)
    for index in ((0, 0, 0), (6, 4, 5), (3, 1, 2)):
        voxel = np.rint(grid.to_voxel(placed[:3, :3] @ index + placed[:3, 3])).astype(int)
        assert got[index] == labels.data[tuple(voxel)]


def test_an_image_opens_with_its_window_and_values() -> None:
    volume = fake_example("heart-ct")[0]
    sent = json.loads(viewer.open_message(volume, MMWHS, name="a<b>.nii"))
    image = sent["image"]
    assert image["window"] == [-250.0, 800.0]
    values = image["inter"] + image["slope"] * unpacked(image).astype(float)
    inside = volume.data > image["inter"]
    np.testing.assert_allclose(values[inside], volume.data[inside], atol=image["slope"])
    assert image["units"] == "HU"
    assert [s["name"] for s in sent["scheme"]] == list(MMWHS.names)


def test_a_name_is_no_markup_and_needs_no_escaping_in_the_page() -> None:
    message = viewer.open_message(None, name="<script>${1+1}")
    assert "<" not in message
    assert json.loads(message)["name"] == "<script>${1+1}"


@pytest.mark.parametrize("fill", [np.nan, np.inf, 7.0])
def test_odd_values_do_not_reach_the_browser(fill: float) -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    data = np.zeros(grid.shape, np.float32)
    data[0] = fill
    image = json.loads(viewer.open_message(Volume(data, grid)))["image"]
    assert image["slope"] > 0
    assert unpacked(image).shape == (4, 4, 4)


def test_a_coarser_grid_keeps_the_mean_and_the_place() -> None:
    grid = Grid((40, 30, 9), np.diag([0.5, 0.5, 4.0, 1.0]))
    x, y, _ = (np.indices(grid.shape) * np.array([0.5, 0.5, 4.0])[:, None, None, None]).astype(np.float32)
    data, coarse = viewer.coarser(x + 2 * y, grid, 1500)
    assert data.size <= 1500
    assert coarse.shape[2] == 9  # the thick slices are the coarsest already
    at = [coarse.to_world((i, j, k)) for i, j, k in np.ndindex(coarse.shape)]
    np.testing.assert_allclose(data.ravel(), [p[0] + 2 * p[1] for p in at], atol=1e-4)


def test_a_small_image_is_sent_as_it_is() -> None:
    volume = fake_example("heart-mr")[0]
    data, grid = viewer.coarser(volume.data, volume.grid, viewer.MAX_SHOWN_VOXELS)
    assert data is volume.data
    assert grid is volume.grid


def test_a_step_carries_mask_image_half_and_the_figures_of_steps_that_may_be_lost(frames: list[Frame]) -> None:
    metrics = [f.metrics for f in frames[:31]]
    frame = frames[30]
    sent = json.loads(viewer.frame_message(frame, metrics, left_s=2.5, run="a"))
    assert (sent["kind"], sent["index"], sent["total"], sent["left"], sent["run"]) == ("step", 30, 40, 2.5, "a")
    np.testing.assert_array_equal(unpacked(sent["labels"]), reorient(frame.labels, frame.grid.to_canonical()))
    figures = dict(enumerate(sent["metrics"]["rows"], sent["metrics"]["from"]))
    assert max(figures) == 30
    assert len(figures) == viewer.METRICS_TAIL
    residual, change, _, *volumes = figures[20]
    expected = frames[20].metrics
    assert residual == pytest.approx(expected.guidance_residual, rel=1e-3)
    assert change == pytest.approx(expected.mask_change, rel=1e-3)
    assert volumes == pytest.approx([expected.volumes_ml[n] for n in frame.scheme.names], rel=1e-3)


def test_the_last_message_holds_the_figures_of_all_steps(frames: list[Frame]) -> None:
    sent = json.loads(viewer.done_message(frames[-1], [f.metrics for f in frames], seconds=3.0))
    assert sent["metrics"]["from"] == 0
    assert len(sent["metrics"]["rows"]) == 40


def test_a_recording_holds_each_step_and_all_figures(frames: list[Frame]) -> None:
    sent = json.loads(viewer.recording_message(frames[::10], [f.metrics for f in frames]))
    assert [s["index"] for s in sent["steps"]] == [0, 10, 20, 30]
    figures: dict[int, Any] = {}
    for step in sent["steps"]:
        figures |= dict(enumerate(step["metrics"]["rows"], step["metrics"]["from"]))
    assert sorted(figures) == list(range(40))


def test_the_image_half_survives_its_jpeg(frames: list[Frame]) -> None:
    half = json.loads(viewer.frame_message(frames[-1]))["half"]
    x, y, z = half["shape"]
    picture = np.asarray(Image.open(BytesIO(base64.b64decode(half["jpeg"]))))
    across = half["across"]
    tiles = picture.reshape(-1, y, across, x).transpose(0, 2, 1, 3).reshape(-1, y, x)[:z]
    back = tiles.transpose(2, 1, 0).astype(float) / 127.5 - 1
    assert np.abs(back - frames[-1].image).mean() < 0.02


def test_disagreement_is_sent_only_where_there_are_samples(frames: list[Frame]) -> None:
    assert json.loads(viewer.frame_message(frames[0]))["confidence"] is None
    confidence = np.linspace(0, 1, frames[0].image.size, dtype=np.float32).reshape(frames[0].image.shape)
    sent = json.loads(viewer.frame_message(replace(frames[0], confidence=confidence)))["confidence"]
    np.testing.assert_allclose(unpacked(sent) / 255, confidence, atol=0.5 / (viewer.CONFIDENCE_LEVELS - 1) + 0.002)


def test_niivue_is_found_without_importing_its_package() -> None:
    assert files.niivue_path().stat().st_size > 1e6


# Slices.


def asked(**changes: Any) -> dict[str, Any]:
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 5:15] = 1
    gray = np.full((20, 30), 100, np.uint8)
    part = {"plane": "axial", "shape": [20, 30], "size": [90, 60], "gray": packed(gray), "labels": packed(labels)}
    whole = {"opacity": 1.0, "colors": [[213, 94, 0]], "slices": [part]}
    part.update({k: v for k, v in changes.items() if k in part})
    return whole | {k: v for k, v in changes.items() if k in whole}


def packed(data: NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(data.tobytes())).decode("ascii")


def drawn(**changes: Any) -> NDArray[np.int64]:
    (url,) = slices.drawn_slices(asked(**changes))["pictures"]
    return np.asarray(Image.open(BytesIO(base64.b64decode(url.split(",")[1])))).astype(np.int64)


def test_slices_show_structures_in_their_colour_and_as_strongly_as_asked() -> None:
    full, half, none = drawn(), drawn(opacity=0.5), drawn(opacity=0.0)
    assert full.shape == (60, 90, 3)
    inside, outside = (30, 30), (50, 70)
    assert full[inside][0] > full[inside][2] + 30
    assert np.ptp(none[inside]) == 0
    np.testing.assert_allclose(half[inside], (full[inside] + none[inside]) / 2, atol=1)
    np.testing.assert_array_equal(full[outside], [100, 100, 100])


BOMB = base64.b64encode(zlib.compress(bytes(50_000_000), 9)).decode("ascii")


@pytest.mark.parametrize(
    "changes",
    [
        {"gray": BOMB},
        {"gray": "????"},
        {"gray": packed(np.zeros((3, 3), np.uint8))},
        {"labels": packed(np.full((20, 30), 2, np.uint8))},
        {"shape": [0, 30]},
        {"size": [9000, 9000]},
        {"size": ["a", 2]},
        {"plane": "oblique"},
        {"opacity": 2},
        {"opacity": float("nan")},
        {"colors": [[1, 2]]},
        {"colors": [[1, 2, 300]]},
        {"slices": []},
        {"slices": [{}] * 4},
        {"slices": "x"},
    ],
)
def test_what_is_no_slice_is_refused_in_one_line(changes: dict[str, Any]) -> None:
    answer = slices.drawn_slices(asked(**changes))
    assert list(answer) == ["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize("whole", [None, [], "x", {}])
def test_anything_may_be_posted(whole: Any) -> None:
    assert list(slices.drawn_slices(whole)) == ["error"]
