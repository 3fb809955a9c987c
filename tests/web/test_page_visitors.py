"""Visitors beside each other on one page: their turns, their files, and what stopping or leaving ends."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from diffatlas import io
from diffatlas_app import limits
from tests import fakes
from tests.dicom_files import write_series
from tests.fakes import FakeBackend
from tests.web.conftest import (
    Open,
    Site,
    load,
    oblique_scan,
    wait_until,
)

pytestmark = pytest.mark.timeout(400)


def test_stop_ends_the_run_within_a_step_and_frees_the_worker(
    site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 400)
    site.backend = FakeBackend(delay_s=0.2)
    tab = open_tab(site)
    tab.page.click("#run")
    tab.wait_for_status(" of 400")
    tab.page.click("#stop")
    tab.wait_for_status("Stopped")
    made = site.backend.frames_made
    assert wait_until(lambda: site.backend.open_runs == 0)
    assert site.backend.frames_made <= made + 1
    assert tab.page.is_enabled("#run")
    assert tab.page.is_disabled("#stop")
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 2)
    tab.page.click("#run")
    tab.wait_for_status("Done")


def test_closing_the_tab_stops_the_run_and_removes_the_files(
    site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 400)
    site.backend = FakeBackend(delay_s=0.2)
    tab = open_tab(site)
    known = set(site.served.visitors._visitors)
    tab.upload(oblique_scan(tmp_path / "scan.nii.gz", (12, 14, 10)))
    tab.page.locator("#source >> text=12×14×10").wait_for()
    folders = [v.folder for key, v in site.served.visitors._visitors.items() if key in known and v.source.path]
    assert len(folders) == 1
    assert list(folders[0].iterdir())
    tab.page.click("#run")
    tab.wait_for_status(" of 400")
    tab.page.close()
    assert wait_until(lambda: site.backend.open_runs == 0, 60)
    assert wait_until(lambda: not folders[0].exists(), 60)


def test_two_visitors_get_their_own_labels(site: Site, open_tab: Open, tmp_path: Path) -> None:
    site.backend = FakeBackend(delay_s=0.05)
    shapes = {"anna.nii.gz": (12, 14, 10), "ben.nii.gz": (9, 16, 11)}
    tabs = {}
    uploaded: list[str] = []
    for name, shape in shapes.items():
        tab = tabs[name] = open_tab(site)
        with tab.page.expect_response(re.compile(r"/gradio_api/upload(\?|$)")) as caught:
            tab.upload(oblique_scan(tmp_path / name, shape))
        uploaded += caught.value.json()
        tab.page.locator(f"#source >> text={name}").wait_for()
    for path in uploaded:  # nor can anyone fetch what another has uploaded
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"{site.url}/gradio_api/file={quote(path)}")
    for seed, tab in enumerate(tabs.values()):
        tab.page.fill("#seed input", str(seed))
        tab.page.click("#run")
    for tab in tabs.values():
        tab.wait_for_status("Done")
    for seed, (name, shape) in enumerate(shapes.items()):
        saved = tabs[name].download("Labels", tmp_path)
        assert saved.name == name.replace(".nii.gz", "_labels.nii.gz")
        source, labels = load(tmp_path / name), load(saved)
        grid = io.read_volume(tmp_path / name).grid
        np.testing.assert_array_equal(labels.get_fdata(), site.backend.labels_at(grid, 1.0, seed).to_ids())
        assert labels.shape == shape
        assert labels.get_data_dtype() == np.uint16
        np.testing.assert_array_equal(labels.affine, source.affine)
        assert (int(labels.header["sform_code"]), int(labels.header["qform_code"])) == (2, 1)
        report = json.loads(tabs[name].download("Report", tmp_path).read_text(encoding="utf-8"))
        assert report["provenance"]["request"]["seed"] == seed
        assert report["provenance"]["source"]["name"] == name.removesuffix(".nii.gz")
        assert len(report["frames"]) == fakes.DEFAULT_STEPS


@pytest.mark.parametrize("address", ["http://192.0.2.1/scan.nii.gz", "https://example.org/a", "file:///etc/passwd"])
def test_addresses_are_not_fetched(site: Site, address: str) -> None:
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{site.url}/gradio_api/file={address}", timeout=5)


def test_who_waits_is_told_the_place_and_a_full_line_refuses(
    site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 400)
    monkeypatch.setattr(site.served.visitors.turns, "waiting", 2)
    site.backend = FakeBackend(delay_s=0.2)
    running, first, second, refused = (open_tab(site) for _ in range(4))
    running.page.click("#run")
    running.wait_for_status(" of 400")
    first.page.click("#run")
    first.wait_for_status("Waiting: 1 run before yours")
    second.page.click("#run")
    second.wait_for_status("Waiting: 2 runs before yours")
    refused.page.click("#run")
    refused.wait_for_status("2 runs are waiting already")
    assert refused.viewer("state") == "error"
    assert refused.page.is_enabled("#run")
    first.page.click("#stop")  # who leaves the line lets the next move up
    first.wait_for_status("Stopped")
    second.wait_for_status("Waiting: 1 run before yours")
    running.page.close()  # and so does who closes the tab
    second.wait_for_status(" of 400")
    second.page.click("#stop")
    second.wait_for_status("Stopped")
    assert wait_until(lambda: site.backend.open_runs == 0)
    assert wait_until(lambda: len(site.served.visitors.turns) == 0)
    assert len(site.backend.requests) == 2


def test_closing_a_tab_that_waits_leaves_the_line(site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 400)
    site.backend = FakeBackend(delay_s=0.2)
    running, waiting = open_tab(site), open_tab(site)
    running.page.click("#run")
    running.wait_for_status(" of 400")
    waiting.page.click("#run")
    waiting.wait_for_status("Waiting: 1 run")
    assert len(site.served.visitors.turns) == 2
    waiting.page.close()
    assert wait_until(lambda: len(site.served.visitors.turns) == 1, 60)
    running.page.click("#stop")
    running.wait_for_status("Stopped")
    assert len(site.backend.requests) == 1


def test_another_image_during_a_run_ends_it_first(
    site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 400)
    site.backend = FakeBackend(delay_s=0.3)
    tab = open_tab(site)
    tab.page.click("#run")
    tab.wait_for_status(" of 400")
    tab.upload(oblique_scan(tmp_path / "scan.nii.gz", (12, 14, 10)))
    tab.wait_for_viewer("state", "open")
    assert site.backend.open_runs == 0
    time.sleep(1.0)  # three steps of the run that was on
    assert tab.viewer("state") == "open"
    assert tab.page.is_enabled("#run")


def test_a_file_beyond_the_upload_limit_is_refused_with_the_limit(
    site: Site, open_tab: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_UPLOAD_MB", 1)
    tab = open_tab(site)
    path = tmp_path / "large.nii"
    path.write_bytes(bytes(2 * 1024**2))
    tab.upload(path)
    tab.page.get_by_text("larger than 1 MB, the limit").first.wait_for()
    assert "up to 300 MB as uploaded" in tab.page.inner_text("#limits")
    (said,) = tab.errors  # the browser itself reports the refused upload
    assert "413" in said
    tab.errors.clear()


def test_one_of_several_volumes_in_a_file_is_chosen(site: Site, open_tab: Open, tmp_path: Path) -> None:
    phases = np.stack([np.full((12, 14, 10), 100.0 * k, np.float32) for k in (1, 2, 3)], axis=-1)
    phases[3:6] += 50
    nib.save(nib.Nifti1Image(phases, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "phases.nii.gz")
    tab = open_tab(site)
    tab.upload(tmp_path / "phases.nii.gz")
    tab.wait_for_status("holds 3 volumes: choose one")
    tab.page.click("#run")  # nobody guesses
    tab.wait_for_status("0 to 2; choose one")
    # gradio tells of a choice in a dropdown twice. The second is held back until the run goes on: it must not end it.
    told: list[Any] = []

    def hold_the_second(route: Any) -> None:
        told.append(route)
        if len(told) != 2:
            route.continue_()

    tab.page.route("**/queue/join*", hold_the_second)
    tab.page.click("#which-volume input")
    tab.page.get_by_role("option", name="1: volume 1").click()
    tab.page.locator("#source >> text=12×14×10").wait_for()
    while len(told) < 2:
        tab.page.wait_for_timeout(50)
    begin = threading.Event()
    site.backend.before, site.backend.delay_s = lambda: begin.wait(60), 0.5
    tab.page.click("#run")
    tab.wait_for_status("Noise, where")
    with tab.page.expect_response("**/queue/join*"):
        told[1].continue_()
    begin.set()
    tab.wait_for_status("Done")
    volume = site.backend.volumes[-1]
    assert volume is not None
    np.testing.assert_array_equal(volume.data, phases[..., 1])
    tab.upload(oblique_scan(tmp_path / "scan.nii.gz", (12, 14, 9)))
    tab.page.locator("#source >> text=12×14×9").wait_for()
    assert not tab.page.is_visible("#which-volume")


def test_a_zipped_series_gives_a_seg_that_names_its_slices(site: Site, open_tab: Open, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 1500, (10, 14, 12)).astype(np.uint16)
    write_series(tmp_path / "scan", stored)
    tab = open_tab(site)
    tab.upload(shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "scan"))
    tab.page.locator("#source >> text=12×14×10").wait_for()
    tab.page.get_by_text("More settings").click()
    tab.page.click("#modality input")
    tab.page.get_by_role("option", name="MR").click()
    tab.page.click("#run")
    tab.wait_for_status("Done")
    seen = site.backend.volumes[-1]
    assert seen is not None
    assert (seen.modality, seen.modality_reason) == ("mr", "as you named it")
    tab.page.click("#make-seg")
    seg = dcmread(tab.download("Labels (DICOM SEG)", tmp_path))
    sources = {dcmread(path).SOPInstanceUID for path in (tmp_path / "scan").iterdir()}
    named = {item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named
    assert named <= sources
    assert seg.PatientID == "p-17"
    tab.page.click("#make-rtstruct")
    assert dcmread(tab.download("Labels (RTSTRUCT)", tmp_path)).Modality == "RTSTRUCT"
    assert not tab.page.is_visible("text=refer to no series")
