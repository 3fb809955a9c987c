"""Files decoded in another process: the same answer as here, and whatever happens to that process stays there.

The decoders of these tests are the real ones, but for the function that reads the file.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from diffatlas import io
from diffatlas.errors import BadInput
from diffatlas.io import contained

CONTAINED = io.Limits(contained=True, max_seconds=100)
Decoder = Callable[[str], None]


@pytest.fixture
def volume_file(tmp_path: Path) -> Path:
    affine = np.array([[0.0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 9], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), affine)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz"


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    """Replace the function that reads a file in the decoders that start from now on."""

    def replace(body: str) -> None:
        lines = "\n    ".join(body.splitlines())
        code = (
            "import ctypes, os, sys, time\nimport numpy as np\nfrom diffatlas.io import decode\n"
            "real = decode.read_source\n"
            f"def fake(path, *args, **kwargs):\n    {lines}\n    return real(path, *args, **kwargs)\n"
            "decode.read_source = fake\ndecode.main()\n"
        )
        contained._pool.close()
        monkeypatch.setattr(contained, "COMMAND", [sys.executable, "-P", "-c", code])

    yield replace
    contained._pool.close()


def test_the_answer_is_that_of_this_process(volume_file: Path) -> None:
    here, there = io.read_volume(volume_file), io.read_volume(volume_file, limits=CONTAINED)
    np.testing.assert_array_equal(there.data, here.data)
    np.testing.assert_array_equal(there.grid.affine, here.grid.affine)
    assert (there.header, there.modality, there.name, there.notes) == (
        here.header,
        here.modality,
        here.name,
        here.notes,
    )
    assert io.describe(volume_file, limits=CONTAINED) == io.describe(volume_file)


def test_a_refusal_is_that_of_this_process(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"nothing of the kind")
    with pytest.raises(BadInput) as here:
        io.read_volume(tmp_path / "a.nii")
    with pytest.raises(BadInput) as there:
        io.read_volume(tmp_path / "a.nii", limits=CONTAINED)
    assert str(there.value) == str(here.value)


def test_a_series_names_its_volumes_there_too(tmp_path: Path) -> None:
    data = np.arange(48, dtype=np.int16).reshape(2, 3, 4, 2)
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(BadInput, match="2 volumes"):
        io.read_volume(tmp_path / "a.nii.gz", limits=CONTAINED)
    volume = io.read_volume(tmp_path / "a.nii.gz", volume_index=1, limits=CONTAINED)
    np.testing.assert_array_equal(volume.data, data[..., 1])


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    for k in range(12):
        nib.save(nib.Nifti1Image(np.full((3, 3, 3), k, np.int16), np.eye(4)), tmp_path / f"{k}.nii")

    def value(k: int) -> float:
        return float(io.read_volume(tmp_path / f"{k}.nii", limits=CONTAINED).data[0, 0, 0])

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(value, range(12))) == list(range(12))
    assert len(contained._pool._idle) <= contained.IDLE_DECODERS


@pytest.mark.parametrize(
    "body",
    ["ctypes.string_at(0)", "os.kill(os.getpid(), 9)", "os._exit(3)"],
    ids=["segfault", "killed", "exit"],
)
def test_a_crash_is_a_refusal_and_the_next_file_is_read(decoder: Decoder, volume_file: Path, body: str) -> None:
    decoder(f"if 'bad' in path.name: {body}")
    bad = volume_file.with_name("bad.nii.gz")
    bad.write_bytes(volume_file.read_bytes())
    with pytest.raises(BadInput, match=r"^bad\.nii\.gz: the decoder crashed"):
        io.read_volume(bad, limits=CONTAINED)
    assert io.read_volume(volume_file, limits=CONTAINED).grid.shape == (2, 3, 4)


def test_a_hang_ends_at_the_time_limit(decoder: Decoder, volume_file: Path) -> None:
    decoder("while True: pass")
    started = time.monotonic()
    with pytest.raises(BadInput, match="longer than 2 s"):
        io.read_volume(volume_file, limits=io.Limits(contained=True, max_seconds=2))
    assert time.monotonic() - started < 60


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_memory_is_limited(decoder: Decoder, volume_file: Path) -> None:
    decoder("np.ones(1 << 30, dtype=np.uint8)")
    limits = io.Limits(max_voxels=1000, max_bytes=8000, contained=True)
    with pytest.raises(BadInput, match=r"a\.nii\.gz.*memory"):
        io.read_volume(volume_file, limits=limits)


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_a_decoder_writes_no_file(decoder: Decoder, volume_file: Path) -> None:
    decoder(f"open({str(volume_file.with_name('x'))!r}, 'wb').write(b'x' * 100000)")
    with pytest.raises(RuntimeError, match="File too large"):
        io.read_volume(volume_file, limits=CONTAINED)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        '{"shape": [1, 2]}',
        '{"shape": [2, 2, 2], "dtype": "O", "affine": []}',
        '{"shape": [2, 2, 2], "dtype": "i2", "affine": [1]}',
        '{"shape": [100000, 100000, 100000], "dtype": "i2", "affine": [1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1]}',
        '{"shape": [2, 2, 2], "dtype": "i2", "affine": [NaN,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1]}',
        '{"shape": [2, 2, 2], "dtype": "i2", "affine": [1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1], "code": "x"}',
        '{"shape": [2, 2, 2], "dtype": "i2", "affine": [1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1]}',  # and too few voxels
        "x" * 100_000,
    ],
)
def test_an_answer_that_lies_is_a_refusal(decoder: Decoder, volume_file: Path, line: str) -> None:
    """As a file that has taken over its decoder might answer."""
    decoder(f"os.write(3, {line!r}.encode() + bytes([10, 1, 2]))\nos._exit(1)")
    # The decoder's own pipe is the first that is opened: 3.
    with pytest.raises(BadInput, match=r"^a\.nii\.gz"):
        io.read_volume(volume_file, limits=CONTAINED)


def test_a_refusal_is_shown_as_plain_text(decoder: Decoder, volume_file: Path) -> None:
    decoder("from diffatlas.errors import BadInput\nraise BadInput('a\\x1b[31m\\nb')")
    with pytest.raises(BadInput) as caught:
        io.read_volume(volume_file, limits=CONTAINED)
    assert str(caught.value) == "a?[31m?b"


def test_the_environment_holds_no_secrets(decoder: Decoder, volume_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    decoder("raise ValueError(' '.join(os.environ))")
    with pytest.raises(RuntimeError) as caught:
        io.read_volume(volume_file, limits=CONTAINED)
    assert "PATH" in str(caught.value)
    assert "HF_TOKEN" not in str(caught.value)


def test_a_decoder_waits_for_the_next_file_and_no_thread_stays(volume_file: Path) -> None:
    contained._pool.close()
    before = threading.active_count()
    io.read_volume(volume_file, limits=CONTAINED)
    time.sleep(0.05)
    assert threading.active_count() <= before
    (decoder,) = contained._pool._idle
    io.read_volume(volume_file, limits=CONTAINED)
    assert contained._pool._idle == [decoder]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where decoders fork")
def test_no_file_meets_the_memory_of_another(decoder: Decoder, tmp_path: Path, volume_file: Path) -> None:
    """Each file is read in a process of its own, which no other file has been in."""
    decoder("raise ValueError(f'process {os.getpid()}')")
    seen = set()
    for _ in range(3):
        with pytest.raises(RuntimeError) as caught:
            io.read_volume(volume_file, limits=CONTAINED)
        seen.add(str(caught.value))
    assert len(seen) == 3
