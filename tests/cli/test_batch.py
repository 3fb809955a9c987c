"""``diffatlas batch``: the table, the exit codes, going on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from diffatlas import cohort, io
from diffatlas.cohort import Case
from diffatlas.engine.request import Request
from diffatlas.geometry.volume import MMWHS
from tests.cli.helpers import Cli, files
from tests.dicom_files import write_series
from tests.fakes import FakeBackend


@pytest.fixture
def folder(image: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.nii.gz").write_bytes(image.read_bytes())
    return folder


def test_a_folder_is_segmented_and_the_second_time_left_alone(
    cli: Cli, backend: FakeBackend, folder: Path, tmp_path: Path
) -> None:
    arguments = ("batch", folder, "-o", tmp_path / "out", "--seed", 3, "--workers", 2)
    first = cli(*arguments)
    assert first.code == 0, first.err
    assert "2 of 2 done" in first.out
    assert files(tmp_path / "out") == {".cohort", "one.json", "one_labels.nii.gz", "two.json", "two_labels.nii.gz"}
    assert [request.seed for request in backend.requests] == [3, 3]
    again = cli(*arguments)
    assert again.code == 0
    assert again.out.count("was done already") == 2
    assert len(backend.requests) == 2
    assert cli(*arguments, "--redo").code == 0
    assert len(backend.requests) == 4
    assert cli("replay", tmp_path / "out" / "one.json", "-o", tmp_path / "again.nii.gz").code == 0
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "out" / "one_labels.nii.gz").read_bytes()


def test_a_bad_file_gives_2_and_the_others_their_labels(cli: Cli, folder: Path, tmp_path: Path) -> None:
    (folder / "bad.nii.gz").write_text("x")
    outcome = cli("batch", folder, "-o", tmp_path / "out", "--json")
    assert outcome.code == 2
    states = {case["name"]: case["state"] for case in json.loads(outcome.out)["cases"]}
    assert states == {"bad": "failed", "one": "done", "two": "done"}
    assert "bad.nii.gz" in outcome.err


def test_a_fault_of_the_program_gives_1(cli: Cli, backend: FakeBackend, folder: Path, tmp_path: Path) -> None:
    backend.fail_at = 1
    outcome = cli("batch", folder, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "RuntimeError" in outcome.out


def test_bad_use_gives_2_and_writes_nothing(cli: Cli, folder: Path, tmp_path: Path) -> None:
    for arguments in (
        ("batch", folder, "-o", folder),
        ("batch", tmp_path / "gone", "-o", tmp_path / "out"),
        ("batch", folder, "-o", tmp_path / "out", "--model", "no-such-model"),
        ("batch", folder, "-o", tmp_path / "out", "--workers", 0),
    ):
        assert cli(*arguments).code == 2
    assert not (tmp_path / "out").exists()


def test_ctrl_c_gives_130_and_says_how_to_go_on(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        first = iter((True, False))

        def interrupted(self: cohort.Cohort, *arguments: object) -> object:
            if next(first):
                return one(self, *arguments)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        one = cohort.Cohort._one
        patch.setattr(cohort.Cohort, "_one", interrupted)
        outcome = cli("batch", folder, "-o", tmp_path / "out")
    assert outcome.code == 130
    assert "1 of 2 done, run it again" in outcome.err
    assert cli("batch", folder, "-o", tmp_path / "out").code == 0


def test_a_case_called_cohort_keeps_its_report_and_odd_names_stop_nothing(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    for name in ("cohort", "[red]", "a:x:b"):
        (folder / f"{name}.nii.gz").write_bytes((folder / "one.nii.gz").read_bytes())
    (folder / "gone.nii.gz").symlink_to("nowhere")
    outcome = cli("batch", folder, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert "5 of 6 done" in outcome.out
    assert "leads nowhere" in outcome.err
    assert cli("replay", tmp_path / "out" / "cohort.json", "-o", tmp_path / "again.nii.gz").code == 0


def test_parts_of_a_cohort_are_all_of_it(cli: Cli, backend: FakeBackend, folder: Path, tmp_path: Path) -> None:
    for part, done in (("1/2", {"one"}), ("2/2", {"two"})):
        outcome = cli("batch", folder, "-o", tmp_path / "out", "--part", part, "--json")
        assert outcome.code == 0, outcome.err
        assert {case["name"] for case in json.loads(outcome.out)["cases"]} == done
    assert len(backend.requests) == 2
    assert cli("batch", folder, "-o", tmp_path / "out").out.count("was done already") == 2
    assert cli("batch", folder, "-o", tmp_path / "out", "--part", "3/2").code == 2


def test_a_slurm_script_starts_what_is_not_done(cli: Cli, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("batch", folder, "-o", out, "--seed", 3, "--slurm", "--dry", "--cases-per-task", 1)
    outcome = cli(*arguments)
    assert outcome.code == 0, outcome.err
    script = (out / "batch.slurm").read_text()
    assert "#SBATCH --array=1-2" in script
    assert f"exec diffatlas batch {folder} --seed 3 -o {out} --part" in script
    assert cli("batch", folder, "-o", out, "--seed", 3, "--part", "1/2").code == 0
    assert cli(*arguments).code == 0
    assert "#SBATCH --array=2\n" in (out / "batch.slurm").read_text()
    assert cli("batch", folder, "-o", out, "--seed", 3).code == 0
    assert "all 2 cases are done" in cli(*arguments).out


def test_limits_go_into_the_script_and_one_engine_is_chosen(cli: Cli, folder: Path, tmp_path: Path) -> None:
    arguments = ("batch", folder, "-o", tmp_path / "out")
    assert cli(*arguments, "--slurm", "--dry", "--limit", 90, "--memory", 4000).code == 0
    assert "--limit 90 --memory 4000 " in (tmp_path / "out" / "batch.slurm").read_text()
    both = cli(*arguments, "--slurm", "--scheduler", "tcp://head:8786")
    assert both.code == 2
    assert "do not go together" in both.err
    for option in ("--memory", "--cases-per-task"):
        assert cli(*arguments, option, 0).code == 2


def test_a_scheduler_gets_the_cases_and_how_many_a_task_has(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, object]] = []

    class Scheduled(cohort.Cohort):
        def __init__(
            self, address: str, cases: Sequence[Case], request: Request, per_task: int, **options: Any
        ) -> None:
            seen.append((address, per_task, options["memory_mb"]))
            super().__init__(cases, request, workers=options["workers"])

    monkeypatch.setattr(cohort, "Scheduled", Scheduled)
    more = ("--scheduler", "tcp://head:8786", "--cases-per-task", 7, "--memory", 900)
    outcome = cli("batch", folder, "-o", tmp_path / "out", *more)
    assert outcome.code == 0, outcome.err
    assert "2 of 2 done" in outcome.out
    assert seen == [("tcp://head:8786", 7, 900.0)]


def test_a_script_that_sbatch_takes_is_started(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    arguments = ("batch", folder, "-o", tmp_path / "out", "--slurm")
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert "sbatch is not on this machine's path" in outcome.err
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "Submitted batch job 7"\n')
    program.chmod(0o755)
    assert "Submitted batch job 7" in cli(*arguments).out


def test_a_table_of_cases_and_a_bids_data_set(cli: Cli, backend: FakeBackend, image: Path, tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text(
        f'path,id,roi,modality\n{image.name},one,"1:9,2:20,0:12",mr\n{image.name},two,,\n'
    )
    outcome = cli("batch", tmp_path / "cases.csv", "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert [request.roi for request in backend.requests] == [((1, 9), (2, 20), (0, 12)), None]
    assert backend.volumes[0] is not None
    assert backend.volumes[0].modality == "mr"
    root = tmp_path / "data"
    (root / "sub-01" / "anat").mkdir(parents=True)
    (root / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(image.read_bytes())
    (root / "dataset_description.json").write_text("{}")
    outcome = cli("batch", root, "-o", tmp_path / "derived", "--bids", "--model", "heart")
    assert outcome.code == 0, outcome.err
    assert files(tmp_path / "derived" / "sub-01" / "anat") == {
        ".cohort", "sub-01_desc-T1w_dseg.json", "sub-01_desc-T1w_dseg.nii.gz"
    }  # fmt: skip
    assert files(tmp_path / "derived") == {"dataset_description.json", "dseg.tsv", "sub-01"}
    outcome = cli("collect", tmp_path / "derived", "-o", tmp_path / "t.csv")
    assert outcome.code == 0, outcome.err
    assert "1 cases, 0 failed" in outcome.out
    assert (tmp_path / "t.csv").read_text().splitlines()[1].startswith("sub-01_T1w,done,")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two DICOM series, a folder each."""
    stored = np.random.default_rng(1).integers(0, 1500, (12, 20, 24)).astype(np.uint16)
    for name in ("ann", "ben"):
        write_series(tmp_path / "scans" / name, stored, SeriesInstanceUID=f"1.2.{len(name)}{ord(name[0])}")
    return tmp_path / "scans"


def test_labels_of_a_cohort_as_dicom_refer_to_their_series(
    cli: Cli, backend: FakeBackend, scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("batch", scans, "-o", out, "--format")
    assert cli(*arguments, "seg").code == 0
    assert files(out) == {".cohort", "ann.json", "ann_labels.dcm", "ben.json", "ben_labels.dcm"}
    for name in ("ann", "ben"):
        source = io.read_volume(scans / name)
        assert source.series is not None
        written = dcmread(out / f"{name}_labels.dcm")
        assert written.Modality == "SEG"
        assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == source.series.series
        expected = backend.labels_at(source.grid, 1.0, 0)
        np.testing.assert_array_equal(io.read_label_map(out / f"{name}_labels.dcm", MMWHS).data, expected.data)
    assert cli(*arguments, "seg").out.count("was done already") == 2
    # The file's name is that of a SEG, but what is asked for is another object.
    assert cli(*arguments, "rtstruct").out.count("was done already") == 0
    assert dcmread(out / "ann_labels.dcm").Modality == "RTSTRUCT"
    assert cli("collect", out, "-o", tmp_path / "all.csv").code == 0
    assert "ann_labels.dcm" in (tmp_path / "all.csv").read_text()


def test_a_cohort_that_was_not_dicom_is_noted_in_its_reports(cli: Cli, folder: Path, tmp_path: Path) -> None:
    assert cli("batch", folder, "-o", tmp_path / "out", "--format", "seg").code == 0
    assert io.UNREFERENCED in json.loads((tmp_path / "out/one.json").read_text())["notes"]
    outcome = cli("batch", folder, "-o", tmp_path / "bids", "--format", "seg", "--bids")
    assert outcome.code == 2
    assert cli("batch", folder, "-o", tmp_path / "x", "--format", "png").code == 2


def test_the_modality_of_a_cohort_is_named(cli: Cli, backend: FakeBackend, folder: Path, tmp_path: Path) -> None:
    arguments = ("batch", folder, "-o", tmp_path / "out")
    assert cli(*arguments, "--modality", "mr").code == 0
    assert [volume.modality for volume in backend.volumes if volume is not None] == ["mr", "mr"]
    assert cli(*arguments, "--modality", "mr").out.count("was done already") == 2
    assert cli(*arguments).out.count("was done already") == 0  # another window of intensities
    # A table's own word for a case stands above it.
    (tmp_path / "in" / "t.csv").write_text("path,modality\none.nii.gz,ct\ntwo.nii.gz,\n")
    assert cli("batch", tmp_path / "in" / "t.csv", "-o", tmp_path / "table", "--modality", "mr").code == 0
    assert [volume.modality for volume in backend.volumes[-2:] if volume is not None] == ["ct", "mr"]


def test_an_array_job_keeps_modality_and_format(cli: Cli, folder: Path, tmp_path: Path) -> None:
    options = ("--modality", "ct", "--format", "seg", "--slurm", "--dry")
    assert cli("batch", folder, "-o", tmp_path / "out", *options).code == 0
    assert "--modality ct --format seg" in (tmp_path / "out/batch.slurm").read_text()
