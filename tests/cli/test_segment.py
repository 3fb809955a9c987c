"""``diffatlas segment``: its files, its words, its exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from diffatlas import io
from diffatlas.geometry.volume import MMWHS
from tests.cli.helpers import Cli, files
from tests.dicom_files import write_series
from tests.fakes import FakeBackend

ROOT = Path(__file__).resolve().parents[2]


def test_segment_writes_ids_on_the_voxels_of_the_source(cli: Cli, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.nii.gz"
    outcome = cli("segment", image, "-o", out)
    assert outcome.code == 0, outcome.err
    source, labels = nib.Nifti1Image.from_filename(image), nib.Nifti1Image.from_filename(out)
    assert labels.shape == source.shape
    assert np.array_equal(labels.affine, source.affine)
    assert (int(labels.header["sform_code"]), int(labels.header["qform_code"])) == (4, 1)
    assert labels.get_data_dtype() == np.uint16
    assert set(np.unique(np.asarray(labels.dataobj))) == {0, 500, 600, 420, 550, 205}
    assert "left ventricle" in outcome.out
    assert str(out) in outcome.out


def test_options_reach_the_request(cli: Cli, backend: FakeBackend, image: Path, tmp_path: Path) -> None:
    outcome = cli(
        "segment", image, "-o", tmp_path / "l.nii.gz", "--model", "heart", "--preset", "watch", "--steps", 3,
        "--guidance", "gradient", "--guidance-noise", 0.25, "--sampler", "dpmpp-2m", "--samples", 2, "--seed", 9,
        "--roi", "1:9,2:20,0:12", "--device", "cpu", "--precision", "fp32", "--force",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    request = backend.requests[0]
    assert (request.model, request.preset, request.steps) == ("heart", "watch", 3)
    assert (request.guidance, request.guidance_noise, request.sampler) == ("gradient", 0.25, "dpmpp-2m")
    assert (request.samples, request.seed, request.device, request.precision) == (2, 9, "cpu", "fp32")
    assert request.roi == ((1, 9), (2, 20), (0, 12))
    assert request.force


def test_everything_that_can_be_asked_for(cli: Cli, image: Path, tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("l.nii.gz", "c.nii.gz", "r.json", "g.gif", "frames")}
    outcome = cli(
        "segment", image, "-o", paths["l.nii.gz"], "--samples", 2, "--confidence", paths["c.nii.gz"], "--report",
        paths["r.json"], "--gif", paths["g.gif"], "--frames", paths["frames"], "--steps", 3, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    printed = json.loads(outcome.out)
    report = json.loads(paths["r.json"].read_text())
    assert printed["provenance"] == report["provenance"]
    assert printed["outputs"]["labels"] == str(paths["l.nii.gz"])
    assert report["provenance"]["source"]["path"] == str(image)
    assert len(report["frames"]) == 3
    assert nib.Nifti1Image.from_filename(paths["c.nii.gz"]).shape == (20, 24, 12)
    assert files(paths["frames"]) == {f"frame-{i:04d}.png" for i in range(3)}
    assert paths["g.gif"].read_bytes()[:4] == b"GIF8"
    assert files(tmp_path) == {"heart.nii.gz", *paths}


def test_json_has_stdout_to_itself(cli: Cli, image: Path, tmp_path: Path) -> None:
    outcome = cli("segment", image, "-o", tmp_path / "l.nii.gz", "--json")
    assert set(json.loads(outcome.out)["volumes_ml"]) == set(MMWHS.names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "no-such-model"], "no-such-model"),
        (["--steps", "0"], "steps"),
        (["--samples", "1025"], "samples"),
        (["--guidance-noise", "1.5"], "--guidance-noise must"),
        (["--seed", "-1"], "seed"),
        (["--roi", "1:2,3:4"], "X0:X1,Y0:Y1,Z0:Z1"),
        (["--roi", "5:2,0:4,0:4"], "beyond its start"),
        (["--gif", "movie.mp4"], ".gif"),
        (["--report", "report.txt"], ".json"),
        (["--preset", "slow"], "slow"),
        (["--no-such-option"], "no-such-option"),
    ],
)
def test_bad_use_ends_with_2_before_anything_is_read(
    cli: Cli, backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    # The input does not even exist: it must not be what the message is about.
    outcome = cli("segment", "absent.nii.gz", "-o", "labels.nii.gz", *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert "absent" not in outcome.err
    assert "Traceback" not in outcome.err
    assert backend.requests == []
    assert files(tmp_path) == set()


def test_bad_input_is_one_line_that_names_the_file(cli: Cli, tmp_path: Path) -> None:
    broken = tmp_path / "notes.nii.gz"
    broken.write_text("this is not a volume")
    outcome = cli("segment", broken, "-o", tmp_path / "labels.nii.gz")
    assert outcome.code == 2
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("diffatlas: notes.nii.gz: ")
    assert outcome.out == ""
    assert files(tmp_path) == {"notes.nii.gz"}


def test_an_output_never_replaces_the_input_or_another_output(cli: Cli, image: Path, tmp_path: Path) -> None:
    before = image.read_bytes()
    outcome = cli("segment", image, "-o", tmp_path / "." / "heart.nii.gz")
    assert (outcome.code, image.read_bytes()) == (2, before)
    assert "the input" in outcome.err
    out = tmp_path / "l.nii.gz"
    outcome = cli("segment", image, "-o", out, "--samples", 2, "--confidence", out)
    assert outcome.code == 2
    assert "labels" in outcome.err


def test_a_fault_of_ours_is_one_line_and_leaves_nothing(
    cli: Cli, backend: FakeBackend, image: Path, tmp_path: Path
) -> None:
    backend.fail_at = 2
    outcome = cli("segment", image, "-o", tmp_path / "l.nii.gz", "--frames", tmp_path / "frames")
    assert outcome.code == 1
    assert outcome.err.startswith("diffatlas: internal error: RuntimeError: expected a tensor")
    assert "DIFFATLAS_DEBUG=1" in outcome.err
    assert "Traceback" not in outcome.err
    assert files(tmp_path) == {"heart.nii.gz"}
    assert backend.open_runs == 0


def test_debug_shows_the_traceback(
    cli: Cli, backend: FakeBackend, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFATLAS_DEBUG", "1")
    backend.fail_at = 0
    with pytest.raises(RuntimeError, match="expected a tensor"):
        cli("segment", image, "-o", tmp_path / "l.nii.gz")


def test_ctrl_c_ends_with_130_and_leaves_nothing(cli: Cli, backend: FakeBackend, image: Path, tmp_path: Path) -> None:
    backend.fail_at, backend.error = 2, KeyboardInterrupt()
    outcome = cli(
        "segment", image, "-o", tmp_path / "l.nii.gz", "--frames", tmp_path / "f", "--gif", tmp_path / "g.gif"
    )
    assert outcome.code == 130
    assert files(tmp_path) == {"heart.nii.gz"}
    assert backend.open_runs == 0


def test_a_failure_while_writing_leaves_nothing_and_keeps_the_old(
    cli: Cli, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, report = tmp_path / "l.nii.gz", tmp_path / "r.json"
    out.write_bytes(b"an earlier result")

    flushed: list[int] = []

    def full(handle: int) -> None:
        """The disk is full when the second file is flushed."""
        flushed.append(handle)
        if len(flushed) > 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    outcome = cli(
        "segment", image, "-o", out, "--report", report, "--samples", 2, "--confidence", tmp_path / "c.nii.gz"
    )
    assert outcome.code == 2
    assert outcome.err.startswith("diffatlas: c.nii.gz: ")
    assert "no space left" in outcome.err
    assert out.read_bytes() == b"an earlier result"
    assert files(tmp_path) == {"heart.nii.gz", "l.nii.gz"}


def test_frames_of_another_run_are_not_mixed(cli: Cli, image: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "frame-0099.png").write_bytes(b"")
    outcome = cli("segment", image, "-o", tmp_path / "l.nii.gz", "--frames", folder)
    assert outcome.code == 2
    assert files(folder) == {"frame-0099.png"}


DRIVER = """
import signal, sys
# A shell that starts the tests in the background makes them, and so this process, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
from diffatlas import session
from diffatlas.cli import main
from tests.fakes import FakeBackend
session.local_backend = lambda: FakeBackend(delay_s=0.2)
sys.argv = ["diffatlas", *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_process_cleanly(image: Path, tmp_path: Path, signum: signal.Signals) -> None:
    command = [sys.executable, "-c", DRIVER, "segment", str(image), "-o", str(tmp_path / "l.nii.gz")]
    command += ["--steps", "500", "--frames", str(tmp_path / "frames")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".diffatlas-*/frame-0000.png")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "no frame was drawn"
            time.sleep(0.1)
        process.send_signal(signum)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "stopped" in err
    assert "Traceback" not in err
    assert files(tmp_path) == {"heart.nii.gz"}


def test_labels_of_a_dicom_series_as_dicom(cli: Cli, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 2000, (9, 20, 24)).astype(np.uint16)
    write_series(tmp_path / "s", stored)
    for arguments, modality in (((), "SEG"), (("--format", "seg"), "SEG"), (("--format", "rtstruct"), "RTSTRUCT")):
        out = tmp_path / f"{len(arguments)}-{modality}.dcm"
        outcome = cli("segment", tmp_path / "s", "-o", out, *arguments)
        assert outcome.code == 0, outcome.err
        written = dcmread(out)
        assert (written.Modality, written.PatientID, written.StudyInstanceUID) == (modality, "p-17", "1.2")
    for name, arguments in (
        ("l.nii.gz", ("--format", "seg")),
        ("l.dcm", ("--format", "nifti")),
        ("l.dcm", ("--format", "x")),
    ):
        assert cli("segment", tmp_path / "s", "-o", tmp_path / name, *arguments).code == 2
        assert not (tmp_path / name).exists()


def test_dicom_labels_of_another_image_say_that_they_refer_to_none(cli: Cli, image: Path, tmp_path: Path) -> None:
    outcome = cli("segment", image, "-o", tmp_path / "l.dcm")
    assert outcome.code == 0, outcome.err
    assert io.UNREFERENCED in outcome.out + outcome.err
    assert dcmread(tmp_path / "l.dcm").PatientID in ("", None)


def test_a_volume_of_several_is_chosen(cli: Cli, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 2000, (9, 20, 24)).astype(np.uint16)
    write_series(tmp_path / "s/a", stored, SeriesInstanceUID="1.7")
    write_series(tmp_path / "s/b", stored[:5], SeriesInstanceUID="1.8")
    outcome = cli("segment", tmp_path / "s", "-o", tmp_path / "l.nii.gz")
    assert outcome.code == 2
    assert "--volume N" in outcome.err
    assert cli("segment", tmp_path / "s", "-o", tmp_path / "l.nii.gz", "--volume", 1).code == 0
    assert nib.Nifti1Image.from_filename(tmp_path / "l.nii.gz").shape == (24, 20, 5)


def test_ignored_voxels_reach_the_request(cli: Cli, backend: FakeBackend, image: Path, tmp_path: Path) -> None:
    source = nib.Nifti1Image.from_filename(image)
    marks = np.zeros(source.shape, dtype=np.uint8)
    marks[3:6] = 2
    mask = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(marks, source.affine), mask)
    outcome = cli("segment", image, "-o", tmp_path / "l.nii.gz", "--ignore", mask)
    assert outcome.code == 0, outcome.err
    ignored = backend.requests[-1].ignore
    assert ignored is not None
    assert np.array_equal(ignored, marks > 0)
    nib.save(nib.Nifti1Image(marks[1:], source.affine), mask)
    outcome = cli("segment", image, "-o", tmp_path / "m.nii.gz", "--ignore", mask)
    assert outcome.code == 2
    assert "grid is not that of the image" in outcome.err
