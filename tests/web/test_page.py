"""The page in a real browser, over a backend without a network."""

from __future__ import annotations

import base64
import gzip
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import urlopen

import nibabel as nib
import numpy as np
import pytest

from diffatlas import io
from tests import fakes
from tests.fakes import FakeBackend
from tests.web.conftest import GRADIO_WARNINGS, Site, Tab, load

pytestmark = [*GRADIO_WARNINGS, pytest.mark.timeout(180)]
Open = Callable[[Site], Tab]


def oblique_scan(path: Path, shape: tuple[int, int, int]) -> Path:
    """An LPS, anisotropic, oblique scan with odd codes: what must come back exactly."""
    turn = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, -1.25, 3.0])
    affine[:3, 3] = 40.5, -7.25, 12.0
    image = nib.Nifti1Image(np.random.default_rng(0).normal(100, 20, shape).astype(np.float32), affine)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    nib.save(image, path)
    return path


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def test_pictures_stream_step_by_step(site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 8)
    site.backend = FakeBackend(delay_s=0.3)
    tab = open_tab(site)
    tab.wait_for_viewer("state", "open")
    assert tab.page.is_visible("text=Not for clinical use")
    tab.page.click("#run")
    seen: list[str] = []
    while "Done" not in tab.status():
        seen.append(tab.status().split(" · ")[0])
    steps = [int(s.split()[1]) for s in dict.fromkeys(seen) if s.startswith("Step")]
    assert steps == sorted(steps)
    assert len(steps) >= 4
    tab.wait_for_viewer("state", "done")
    tab.wait_for_viewer("shown", "7")
    assert tab.page.get_attribute(".da-bar", "aria-valuenow") == "8"
    rows = tab.page.locator(".da-volumes tr").all_inner_texts()
    assert [r.split("\t")[0].strip() for r in rows] == list(site.backend.scheme.names)
    request = site.backend.requests[-1]
    assert (request.task, request.model, request.preset, request.seed) == ("segment", "auto", "watch", 0)


def test_controls_reach_the_request(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    tab.page.click("#examples >> text=MR")
    tab.wait_for_status("Ready")
    tab.page.click("#model input")
    tab.page.get_by_role("option", name="Phantom heart").click()
    card = tab.page.locator(".da-card")
    card.locator("text=left ventricle").wait_for()
    card.locator("summary").click()
    assert "It is <fake>." in card.inner_text()
    tab.page.click("#preset >> text=As published")
    tab.page.fill("#seed input", "3")
    tab.page.click("#run")
    tab.wait_for_status("Done")
    request, volume = site.backend.requests[-1], site.backend.volumes[-1]
    assert (request.model, request.preset, request.seed) == ("heart-phantom", "published", 3)
    assert volume is not None
    assert volume.modality == "mr"


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
    assert wait_until(lambda: site.backend.open_runs == 0, 20)
    assert wait_until(lambda: not folders[0].exists(), 20)


def test_a_fault_in_the_engine_is_one_red_line_and_the_page_lives_on(
    site: Site, open_tab: Open, caplog: pytest.LogCaptureFixture
) -> None:
    site.backend = FakeBackend(fail_at=1)
    tab = open_tab(site)
    tab.page.click("#run")
    alert = tab.page.locator("#status [role=alert]")
    alert.wait_for()
    assert "RuntimeError: expected a tensor of another shape" in alert.inner_text()
    assert "Traceback" not in alert.inner_text()
    red, green, blue = (int(v) for v in alert.locator("p").evaluate("e => getComputedStyle(e).color")[4:-1].split(","))
    assert red > 2 * max(green, blue)
    assert "a run failed" in caplog.text
    site.backend = FakeBackend()
    tab.page.click("#run")
    tab.wait_for_status("Done")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mine.nii.gz", b"not a volume", "mine.nii.gz"),
        ("picture.png", b"\x89PNG\r\n\x1a\n", "picture.png: not a volume this page reads"),
        ("${1+1}{{value}}<b>.nii", b"", ".nii"),
        ("x" * 240 + ".nii.gz", gzip.compress(b"short"), "xxxx"),
    ],
)
def test_a_bad_file_is_named_and_the_image_before_stays(
    site: Site, open_tab: Open, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    tab = open_tab(site)
    path = tmp_path / name
    path.write_bytes(content)
    tab.upload(path)
    alert = tab.page.locator("#status [role=alert]")
    alert.wait_for()
    assert words in alert.inner_text()
    assert "diffatlas-visitors" not in alert.inner_text()
    tab.page.click("#run")
    tab.wait_for_status("Done")
    volume = site.backend.volumes[-1]
    assert volume is not None
    assert volume.name == "heart-ct"


def test_a_seed_that_is_none_is_refused(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    tab.page.fill("#seed input", "")
    tab.page.click("#run")
    tab.wait_for_status("seed must be a whole number")
    assert site.backend.requests == []


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
        with pytest.raises(HTTPError, match="403"):
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
    with pytest.raises(HTTPError, match="403"):
        urlopen(f"{site.url}/gradio_api/file={address}", timeout=5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:huggingface_hub.*")
def test_named_endpoint_segments_a_file_and_refuses_an_address(site: Site, tmp_path: Path) -> None:
    client_module = pytest.importorskip("gradio_client")
    client: Any = client_module.Client(site.url, verbose=False, analytics_enabled=False)
    path = oblique_scan(tmp_path / "scan.nii.gz", (12, 14, 10))
    answer = client.predict(client_module.handle_file(str(path)), "auto", "fast", 5, api_name="/segment")
    saved = tmp_path / answer["labels"]["name"]
    saved.write_bytes(base64.b64decode(answer["labels"]["nii_gz_base64"]))
    grid = io.read_volume(path).grid
    np.testing.assert_array_equal(load(saved).get_fdata(), site.backend.labels_at(grid, 1.0, 5).to_ids())
    assert answer["report"]["provenance"]["request"]["preset"] == "fast"
    runs = len(site.backend.requests)
    with pytest.raises(client_module.exceptions.AppError, match="give a file, not an address"):
        client.predict(
            {"path": "https://192.0.2.1/scan.nii.gz", "meta": {"_type": "gradio.FileData"}}, "auto", "fast", 0,
            api_name="/segment",
        )  # fmt: skip
    assert len(site.backend.requests) == runs
    client.close()


def test_a_full_queue_says_so_and_lets_the_visitor_try_again(
    site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 400)
    monkeypatch.setattr(site.served.page._queue, "max_size", 1)
    site.backend = FakeBackend(delay_s=0.2)
    running, waiting, refused = (open_tab(site) for _ in range(3))
    running.page.click("#run")
    running.wait_for_status(" of 400")
    waiting.page.click("#run")
    waiting.wait_for_status("Waiting")
    assert wait_until(lambda: len(site.served.page._queue) == 1)
    refused.page.click("#run")
    refused.wait_for_status("too many people are waiting")
    assert len(refused.errors) == 1  # the browser's own note of the refusal
    assert "503" in refused.errors.pop()
    assert refused.page.is_enabled("#run")
    for tab in (waiting, running):
        tab.page.click("#stop")
        tab.wait_for_status("Stopped")
    assert wait_until(lambda: site.backend.open_runs == 0)
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
    tab.wait_for_status("Ready")
    assert site.backend.open_runs == 0
    tab.wait_for_viewer("state", "open")
    time.sleep(1.0)  # three steps of the run that was on
    assert tab.viewer("state") == "open"
    assert tab.page.inner_text("#view .dv-words") == "scan.nii.gz"
    assert tab.page.is_enabled("#run")
