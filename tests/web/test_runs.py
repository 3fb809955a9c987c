"""Runs as streams, without a browser."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from diffatlas import io, session
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas_app import limits
from diffatlas_app.runs import pairs
from diffatlas_app.runs import stream as runs
from diffatlas_app.runs.results import Made
from diffatlas_app.visitors.sessions import Visitor, Visitors
from diffatlas_app.visitors.source import Source
from tests import fakes
from tests.dicom_files import write_series
from tests.fakes import FakeBackend
from tests.web.conftest import fake_example, fake_models


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    made = FakeBackend()
    monkeypatch.setattr(session, "local_backend", lambda: made)
    monkeypatch.setattr(session, "available_models", fake_models)
    return made


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that cost nothing, for tests of pace and order."""
    monkeypatch.setattr("diffatlas.render.frame_picture", lambda frame, source: np.zeros((8, 8, 3), np.uint8))


@pytest.fixture
def visitors() -> Iterator[Visitors]:
    made = Visitors()
    yield made
    made.close()


@pytest.fixture
def volume() -> Volume:
    return fake_example("heart-ct")[0]


@pytest.fixture
def visitor(visitors: Visitors, volume: Volume) -> Visitor:
    made = visitors.get("anna")
    made.source = Source("Phantom heart CT", volume=volume)
    return made


def test_a_run_ends_with_its_files(backend: FakeBackend, visitors: Visitors, visitor: Visitor, volume: Volume) -> None:
    updates = list(runs.run(visitors, visitor, volume, (Request(seed=2, samples=2),)))
    assert [u.saved is not None for u in updates] == [False] * (len(updates) - 1) + [True]
    last = updates[-1]
    result = last.frame.result
    assert result is not None
    assert last.saved is not None
    assert last.saved is visitor.saved
    assert last.saved.stem == "heart-ct"
    assert last.saved.offered() == ("labels.nii.gz", "confidence.nii.gz", "image.nii.gz", "report.json")
    again = io.read_label_map(last.saved.folder / "labels.nii.gz", last.saved.scheme)
    np.testing.assert_array_equal(again.data, result.labels.data)
    report = json.loads((last.saved.folder / "report.json").read_text(encoding="utf-8"))
    assert Request.from_json(report["provenance"]["request"]).seed == 2
    image = io.read_volume(last.saved.folder / "image.nii.gz")
    assert image.sha256() == report["provenance"]["source"]["sha256"]


def test_surface_and_film_are_made_when_asked_for(
    backend: FakeBackend, visitors: Visitors, visitor: Visitor, volume: Volume
) -> None:
    *_, last = runs.run(visitors, visitor, volume, (Request(steps=6),))
    saved = last.saved
    assert saved is not None
    assert saved.make("surface") == saved.make("film") == ""
    assert (saved.folder / "surface.glb").read_bytes()[:4] == b"glTF"
    from PIL import Image

    with Image.open(saved.folder / "run.gif") as film:
        assert getattr(film, "n_frames", 0) == 6
    assert set(saved.offered()) >= {"surface.glb", "run.gif"}


@pytest.mark.parametrize("what", ["seg", "rtstruct"])
def test_labels_as_dicom_are_made_when_asked_for(
    backend: FakeBackend, visitors: Visitors, visitor: Visitor, volume: Volume, tmp_path: Path, what: Made
) -> None:
    scan = io.read_volume(write_series(tmp_path / "scan", np.full((12, 20, 24), 900, np.uint16)))
    for source in (scan, volume):
        *_, last = runs.run(visitors, visitor, source, (Request(),))
        assert last.saved is not None
        note = last.saved.make(what)
        path = last.saved.folder / f"labels-{what}.dcm"
        assert path.name in last.saved.offered()
        assert last.frame.result is not None
        if source.series is None:
            assert "refer to no series" in note
            assert dcmread(path).PatientID == ""
            continue
        assert note == ""
        assert dcmread(path).PatientID == "p-17"
        assert f"UI: {source.series.slices[3][0]}" in str(dcmread(path))
        if what == "seg":
            again = io.read_label_map(path, last.saved.scheme)
            np.testing.assert_array_equal(again.data, last.frame.result.labels.data)


def test_the_second_run_is_saved_in_every_format_of_the_first(
    backend: FakeBackend, visitors: Visitors, visitor: Visitor, volume: Volume, tmp_path: Path
) -> None:
    scan = io.read_volume(write_series(tmp_path / "scan", np.full((12, 20, 24), 900, np.uint16)))
    for source in (scan, volume):
        ends = {u.side: u for u in runs.run(visitors, visitor, source, (Request(), Request(seed=2))) if u.frame.result}
        saved = ends[1].saved or ends[0].saved
        assert saved is not None
        kinds: tuple[Made, ...] = ("nrrd", "seg", "rtstruct", "surface")
        assert [bool(saved.make(kind)) for kind in kinds] == [False, source is volume, source is volume, False]
        for side, prefix in enumerate(("", "second-")):
            result = ends[side].frame.result
            assert result is not None
            for name in ("labels.nii.gz", "labels.nrrd", "labels-seg.dcm"):
                assert f"{prefix}{name}" in saved.offered()
                again = io.read_label_map(saved.folder / f"{prefix}{name}", saved.scheme)
                np.testing.assert_array_equal(again.data, result.labels.data)
            assert dcmread(saved.folder / f"{prefix}labels-rtstruct.dcm").Modality == "RTSTRUCT"
            assert (saved.folder / f"{prefix}surface.glb").read_bytes()[:4] == b"glTF"
        first, second = (ends[side].frame.result for side in (0, 1))
        assert first is not None
        assert second is not None
        assert (first.labels.data != second.labels.data).any()


@pytest.mark.usefixtures("blank")
def test_the_next_run_s_files_replace_the_last_one_s(
    backend: FakeBackend, visitors: Visitors, visitor: Visitor, volume: Volume
) -> None:
    first, second = ([*runs.run(visitors, visitor, volume, (Request(),))][-1].saved for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.run != second.run
    assert visitors.file(first.run, "labels.nii.gz") is None
    assert visitors.file(second.run, "labels.nii.gz") == second.folder / "labels.nii.gz"
    assert list(visitor.folder.iterdir()) == [second.folder]


@pytest.mark.usefixtures("blank")
def test_two_runs_beside_each_other_take_turns(
    backend: FakeBackend, visitors: Visitors, visitor: Visitor, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRAMES_PER_S", 1e6)
    updates = list(runs.run(visitors, visitor, volume, (Request(seed=0, steps=5), Request(seed=1, steps=5))))
    assert [u.side for u in updates] == [0, 1] * 5
    assert [u.frame.index for u in updates] == [i for i in range(5) for _ in range(2)]
    saved = updates[-1].saved
    assert saved is not None
    assert {"labels.nii.gz", "second-labels.nii.gz", "report.json", "second-report.json"} <= set(saved.offered())
    one, two = (io.read_label_map(saved.folder / n, saved.scheme) for n in ("labels.nii.gz", "second-labels.nii.gz"))
    assert (one.data[0, 0, 0], two.data[0, 0, 0]) == (1, 2)  # where the fake's seeds differ


@pytest.mark.usefixtures("blank")
def test_quick_steps_are_coalesced_and_no_figure_is_lost(
    backend: FakeBackend, visitor: Visitor, volume: Volume
) -> None:
    start = time.monotonic()
    updates = list(runs.watch(visitor, volume, (Request(steps=60),)))
    assert len(updates) <= 2 + (time.monotonic() - start) * limits.FRAMES_PER_S
    assert updates[0].frame.index == 0
    assert updates[-1].frame.index == 59
    assert [len(u.metrics) for u in updates] == [u.frame.index + 1 for u in updates]


@pytest.mark.usefixtures("blank")
def test_time_left_follows_the_pace(backend: FakeBackend, visitor: Visitor, volume: Volume) -> None:
    backend.delay_s = 0.12
    updates = list(runs.watch(visitor, volume, (Request(steps=6),)))
    assert updates[0].seconds_left is None
    assert updates[2].seconds_left is not None
    assert 3 * 0.12 <= updates[2].seconds_left <= 3 / 2 * updates[2].seconds  # three steps at the pace of two
    assert updates[-1].seconds_left == 0.0


@pytest.mark.usefixtures("blank")
def test_closing_a_run_closes_the_engine(
    backend: FakeBackend, visitors: Visitors, visitor: Visitor, volume: Volume
) -> None:
    stream = runs.run(visitors, visitor, volume, (Request(steps=50), Request(steps=50, seed=1)))
    next(stream)
    next(stream)
    assert backend.open_runs == 2
    stream.close()  # type: ignore[attr-defined]
    assert backend.open_runs == 0


@pytest.mark.usefixtures("blank")
def test_stop_flag_ends_a_run_without_a_result(
    backend: FakeBackend, visitors: Visitors, visitor: Visitor, volume: Volume
) -> None:
    backend.delay_s = 0.11
    seen = []
    for update in runs.run(visitors, visitor, volume, (Request(steps=50),)):
        seen.append(update)
        visitor.stop.set()
    assert len(seen) == 1
    assert backend.frames_made == 2
    assert backend.open_runs == 0
    assert visitor.saved is None


@pytest.mark.usefixtures("blank")
def test_a_run_beyond_the_time_limit_says_so(
    backend: FakeBackend, visitor: Visitor, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RUN_TIME_S", -1.0)
    with pytest.raises(BadInput, match="faster preset"):
        list(runs.watch(visitor, volume, (Request(),)))
    assert backend.open_runs == 0


@pytest.mark.usefixtures("blank")
def test_a_visitor_who_left_during_the_last_step_leaves_no_files(
    backend: FakeBackend, visitors: Visitors, visitor: Visitor, volume: Volume
) -> None:
    stream = runs.run(visitors, visitor, volume, (Request(steps=1),))
    visitor.gone = True
    with pytest.raises(BadInput, match="closed"):
        list(stream)
    assert list(visitor.folder.iterdir()) == []


def test_pairs_are_drawn_kept_and_opened(backend: FakeBackend, visitor: Visitor) -> None:
    request = pairs.draw_request("heart-phantom", 3, 5)
    *_, last = pairs.draw(visitor, request)
    assert last.volume is None
    assert len(visitor.pairs) == 3
    source = pairs.open_pair(visitor, 2, 5)
    assert source.name == "pair-of-seed-7"
    result = last.frame.result
    assert result is not None
    np.testing.assert_array_equal(source.read().data, result.images[2].data)
    assert source.read().grid.same_as(result.images[2].grid)
    assert source.true_labels is not None
    np.testing.assert_array_equal(source.true_labels.data, result.masks[2].data)
    with pytest.raises(BadInput, match="draw some again"):
        pairs.open_pair(visitor, 3, 5)


@pytest.mark.parametrize(("model", "count"), [("heart-phantom", 0), ("heart-phantom", 9), ("/etc", 1), ("auto", 1)])
def test_pairs_that_cannot_be_drawn(backend: FakeBackend, model: str, count: int) -> None:
    with pytest.raises(BadInput):
        pairs.draw_request(model, count, 0)


def test_an_image_is_painted_onto_the_mask_of_the_last_run(
    backend: FakeBackend, visitors: Visitors, visitor: Visitor, volume: Volume
) -> None:
    with pytest.raises(BadInput, match="no finished run"):
        pairs.last_mask(visitor)
    list(runs.run(visitors, visitor, volume, (Request(),)))
    name, mask = pairs.last_mask(visitor)
    request = pairs.paint_request(mask, 4)
    *_, last = pairs.paint(visitors, visitor, mask, request, name)
    asked = backend.requests[-1]
    assert (asked.task, asked.model, asked.seed) == ("paint", "heart-phantom", 4)
    assert asked.edit is not None
    np.testing.assert_array_equal(asked.edit.labels, mask.data)
    assert asked.roi is not None
    inside = np.zeros(mask.grid.shape, bool)
    inside[tuple(slice(a, b) for a, b in asked.roi)] = True
    assert not mask.data[~inside].any()
    assert last.saved is not None
    assert "painted.nii.gz" in last.saved.offered()


def test_an_empty_mask_is_not_painted_on(backend: FakeBackend, visitor: Visitor) -> None:
    _, labels = fake_example("heart-ct")
    labels.data[:] = 0
    with pytest.raises(BadInput, match="empty"):
        pairs.paint_request(labels, 0)
    assert fakes.DEFAULT_STEPS
