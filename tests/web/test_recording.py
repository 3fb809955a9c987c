"""Recorded runs: what was kept comes back, and the ones that ship are readable and small."""

from __future__ import annotations

import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from diffatlas import session
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas_app.runs import recording
from diffatlas_app.visitors.sessions import Visitors
from diffatlas_app.visitors.source import RECORDED
from tests.fakes import FakeBackend
from tests.web.conftest import fake_example


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> recording.Recording:
    monkeypatch.setattr(session, "local_backend", FakeBackend)
    return recording.record("A ball", fake_example("heart-ct")[0], Request(steps=30), steps=5)


def test_a_recording_comes_back_as_far_as_its_bits_go(kept: recording.Recording, tmp_path: Path) -> None:
    path = tmp_path / f"ball{recording.SUFFIX}"
    recording.save(path, kept)
    again = recording.load(path)
    assert again.title == "A ball"
    assert [f.index for f in again.frames] == [0, 7, 14, 22, 29]
    for before, after in zip(kept.frames, again.frames, strict=True):
        np.testing.assert_array_equal(after.labels, before.labels)
        np.testing.assert_allclose(after.image, np.clip(before.image, -1, 1), atol=1 / recording.LEVELS + 1e-6)
        assert after.grid.same_as(before.grid)
        assert after.metrics == before.metrics
        assert (after.t, after.total, after.scheme) == (before.t, before.total, before.scheme)
    ended, first = again.frames[-1].result, kept.frames[-1].result
    assert ended is not None
    assert first is not None
    np.testing.assert_array_equal(ended.labels.data, first.labels.data)
    assert ended.provenance["request"] == first.provenance["request"]
    assert len(ended.metrics) == 30
    assert again.volume is not None
    assert kept.volume is not None
    low, high = np.percentile(kept.volume.data, (0.5, 99.5))
    step = (high - low) / recording.VOLUME_LEVELS
    np.testing.assert_allclose(again.volume.data, np.clip(kept.volume.data, low, high), atol=step)


def test_what_is_not_a_recording_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    path = tmp_path / f"bad{recording.SUFFIX}"
    for content in (b"", b"PK\x03\x04", pickle.dumps({"about": 1})):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"bad.recorded.npz: is not a recorded run"):
            recording.load(path)
    np.savez(path, about=np.array([object()], dtype=object))  # a pickle inside
    with pytest.raises(BadInput, match="is not a recorded run"):
        recording.load(path)


def test_a_damaged_recording_is_refused(kept: recording.Recording, tmp_path: Path) -> None:
    recording.save(tmp_path / f"good{recording.SUFFIX}", kept)
    whole = (tmp_path / f"good{recording.SUFFIX}").read_bytes()
    for at in np.linspace(0, len(whole) - 1, 60).astype(int):
        damaged = whole[:at] + bytes([whole[at] ^ 0xFF]) * 8 + whole[at + 8 :]
        for what, content in (("cut", whole[:at]), ("damaged", damaged)):
            path = tmp_path / f"{what}{at}{recording.SUFFIX}"
            path.write_bytes(content)
            # Some bytes, as a file's date, change nothing; else it is the one line.
            with suppress(BadInput):
                recording.load(path)


def test_a_folder_of_one_s_own_is_offered_too(
    kept: recording.Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording.save(tmp_path / f"ball{recording.SUFFIX}", kept)
    (tmp_path / f"broken{recording.SUFFIX}").write_bytes(b"x")
    monkeypatch.setenv("DIFFATLAS_RECORDED", str(tmp_path))
    titles = {entry.key: entry.title for entry in recording.available()}
    assert titles["ball"] == "A ball"
    assert "broken" not in titles
    visitors = Visitors()
    source = visitors.recorded("ball")
    visitors.close()
    assert source.key == RECORDED + "ball"
    assert source.read().grid.shape == (24, 24, 24)


@pytest.mark.parametrize("key", ["../secret", "no-such", ""])
def test_a_recording_that_is_not_there(key: str) -> None:
    visitors = Visitors()
    with pytest.raises(BadInput, match="no recorded run"):
        visitors.recorded(key)
    visitors.close()


def test_the_recordings_that_ship_end_in_a_result_and_are_small() -> None:
    shipped = [e for e in recording.available() if e.path.parent == recording.FOLDER]
    assert {"heart-ct", "hippocampus-pair"} <= {e.key for e in shipped}
    assert sum(e.path.stat().st_size for e in shipped) < 4e6
    for entry in shipped:
        loaded = recording.load(entry.path)
        last = loaded.frames[-1]
        assert last.t == 0.0
        assert last.result is not None
        assert last.result.labels.data.any()
        assert last.result.provenance["model"]["sha256"]
