"""The page in a real browser, over a backend without a network."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from diffatlas import io
from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid
from tests import fakes
from tests.fakes import FakeBackend
from tests.web.conftest import (
    EXAMPLE_REGION,
    WAIT_MS,
    Open,
    Site,
    load,
    oblique_scan,
    sync_api,
    wait_until,
)
from tests.web.steps import FakeSearch, choose

pytestmark = pytest.mark.timeout(400)


def test_steps_stream_one_by_one_and_end_in_a_table(
    site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "DEFAULT_STEPS", 8)
    site.backend = FakeBackend(delay_s=0.3)
    tab = open_tab(site)
    assert tab.page.is_visible("text=Not for clinical use")
    tab.page.click("#run")
    seen: list[str] = []
    while "Done" not in tab.status():
        words = tab.status().split(" · ")[0]
        if words not in seen:
            seen.append(words)
    steps = [int(s.split()[1]) for s in seen if s.startswith("Step")]
    assert steps == sorted(steps)
    assert len(steps) >= 4
    tab.page.locator(".da-volumes tbody tr").first.wait_for()
    rows = tab.page.locator(".da-volumes tbody tr").all_inner_texts()
    assert [r.split("\t")[0].strip() for r in rows] == [*site.backend.scheme.names, "mean"]
    heads = tab.page.locator(".da-volumes thead th").all_inner_texts()
    assert heads == ["ml", "Dice", "surface Dice, 2 mm", "HD95, mm"]  # an example's true labels are known
    request = site.backend.requests[-1]
    assert (request.task, request.model, request.preset, request.seed) == ("segment", "auto", "watch", 0)
    assert (request.guidance, request.guidance_noise, request.steps) == ("image", None, None)
    assert request.roi == EXAMPLE_REGION  # it comes with the example: nothing is searched first


def test_the_noise_is_shown_before_the_first_step_and_stays_in_the_scrubber(
    site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    site.backend = FakeBackend(before=held.wait)
    tab = open_tab(site)
    try:
        tab.page.click("#run")
        tab.wait_for_viewer("shown", "-1")
        assert tab.status().startswith("Noise, where the model looks")
        assert site.backend.frames_made == 0
    finally:
        held.set()
    tab.wait_for_status("Done: 4 steps")
    tab.page.locator("#view [data-control=step]").focus()
    tab.page.keyboard.press("Home")
    tab.wait_for_viewer("shown", "-1")
    assert tab.page.inner_text("#view .dv-count") == "0 / 4"


def test_a_run_stopped_in_its_noise_leaves_the_image_alone(site: Site, open_tab: Open) -> None:
    held = threading.Event()
    site.backend = FakeBackend(before=held.wait)
    tab = open_tab(site)
    try:
        tab.page.click("#run")
        tab.wait_for_viewer("shown", "-1")
        tab.page.click("#stop")
        sync_api.expect(tab.page.locator("#stop")).to_be_disabled(timeout=WAIT_MS)
    finally:
        held.set()
    tab.wait_for_status("Stopped before the first step")
    assert tab.viewer("shown") == ""
    assert not tab.page.locator("#view .dv-transport").is_visible()


def test_a_large_volume_is_searched_in_sight_and_the_find_reaches_the_request(
    site: Site, open_tab: Open, tmp_path: Path
) -> None:
    search = site.backend = FakeSearch(looks=3)
    tab = open_tab(site)
    tab.upload(oblique_scan(tmp_path / "body.nii.gz", (12, 14, 10)))
    tab.page.locator("#source >> text=12×14×10").wait_for()
    tab.page.click("#run")
    tab.wait_for_status("Larger than what the model sees (32 × 32 × 32 mm): searching")
    assert tab.page.is_enabled("#stop")
    for number in (1, 2):
        search.go_on()
        tab.wait_for_status(f"look {number} of about 3")
        assert tab.page.inner_text("#view .dv-legend") == "what the model sees"
    search.go_on()
    tab.wait_for_status("Done")
    assert site.backend.requests[-1].roi == search.roi
    tab.page.locator("#result >> text=A search chose voxels x 2:6 · y 3:7 · z 1:5").wait_for()
    report = json.loads(tab.download("Report", tmp_path).read_text(encoding="utf-8"))
    assert Request.from_json(report["provenance"]["request"]).roi == search.roi  # so that a replay need not search


def test_a_search_stops_within_a_look(site: Site, open_tab: Open, tmp_path: Path) -> None:
    search = site.backend = FakeSearch(looks=50)
    tab = open_tab(site)
    tab.upload(oblique_scan(tmp_path / "body.nii.gz", (12, 14, 10)))
    tab.page.locator("#source >> text=12×14×10").wait_for()
    tab.page.click("#run")
    search.go_on()
    tab.wait_for_status("look 1 of about")
    tab.page.click("#stop")
    sync_api.expect(tab.page.locator("#stop")).to_be_disabled(timeout=WAIT_MS)
    search.go_on()
    tab.wait_for_status("Stopped before the first step")
    assert wait_until(lambda: search.closed, 60)
    assert search.made <= 2
    assert site.backend.requests == []
    assert wait_until(lambda: len(site.served.visitors.turns) == 0, 60)


def test_controls_reach_the_request(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    choose(tab, "#examples", "Phantom heart MR")
    tab.page.locator("#source >> text=Phantom heart MR").wait_for()
    choose(tab, "#model", "Phantom heart")
    card = tab.page.locator(".da-card")
    card.locator("text=left ventricle").wait_for()
    card.locator("summary").click()
    assert "It is <fake>." in card.inner_text()
    tab.page.click("#preset >> text=As published")
    tab.page.click("#more >> text=More settings")
    tab.page.click("#guidance >> text=Its gradient")
    choose(tab, "#sampler", "DPM++ 2M")
    tab.page.fill("#steps input", "6")
    tab.page.fill("#samples input[type=number]", "3")
    tab.page.fill("#noise input[type=number]", "0.35")
    tab.page.focus("#model input")  # looked at and left: one's own noise stays
    tab.page.locator("#model input").blur()
    tab.page.fill("#seed input", "3")
    tab.page.locator("#seed input").blur()
    tab.page.click("#run")
    tab.wait_for_status("Done")
    request, volume = site.backend.requests[-1], site.backend.volumes[-1]
    assert (request.model, request.preset, request.seed) == ("heart-phantom", "published", 3)
    assert (request.guidance, request.sampler, request.steps, request.samples) == ("gradient", "dpmpp-2m", 6, 3)
    assert request.guidance_noise == pytest.approx(0.35)
    assert volume is not None
    assert volume.modality == "mr"
    tab.page.get_by_role("link", name="Confidence").wait_for()
    # The link restores all of it, in a page of its own.
    link = tab.page.locator("a[data-copy]").get_attribute("href")
    tab = open_tab(site, link)
    tab.wait_for_status("Press Run")
    tab.page.click("#run")
    tab.wait_for_status("Done")
    assert site.backend.requests[-1] == request


def test_a_new_seed_is_chosen(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    before = tab.page.input_value("#seed input")
    tab.page.click("#new-seed")
    assert wait_until(lambda: tab.page.input_value("#seed input") != before)
    tab.page.click("#run")
    tab.wait_for_status("Done")
    assert site.backend.requests[-1].seed == int(tab.page.input_value("#seed input"))


def test_a_link_that_asks_for_what_cannot_be_says_so(site: Site, open_tab: Open) -> None:
    tab = open_tab(site, "?run=1&model=/etc&steps=4", "error")
    tab.wait_for_status("no model '/etc'")
    tab.page.click("#run")
    tab.wait_for_status("Done")
    assert site.backend.requests[-1].model == "auto"


def test_two_runs_beside_each_other(site: Site, open_tab: Open, tmp_path: Path) -> None:
    tab = open_tab(site)
    tab.page.click("#more >> text=More settings")
    choose(tab, "#beside", "Without guidance")
    tab.page.locator("#second .dv").wait_for()
    tab.page.click("#run")
    tab.wait_for_viewer("state", "done")
    tab.wait_for_viewer("state", "done", "#second")
    first, second = site.backend.requests[-2:]
    assert (first.guidance, second.guidance) == ("image", "none")
    assert tab.page.locator(".da-volumes thead th").first.inner_text() == "ml"
    assert tab.page.locator(".da-volumes thead th").nth(1).inner_text() == "ml, second"
    assert load(tab.download("Labels of the second run (NIfTI)", tmp_path)).shape == (24, 24, 24)
    tab.page.focus("#beside input")  # looked at and left: gradio tells of that as of a choice
    tab.page.locator("#beside input").blur()
    tab.page.click("#make-nrrd")
    for title, prefix in (("Labels (NRRD)", ""), ("Labels of the second run (NRRD)", "_second")):
        path = tab.download(title, tmp_path)
        assert path.name.endswith(f"{prefix}_labels.nrrd")
        assert path.read_bytes()[:4] == b"NRRD"
    tab.wait_for_viewer("state", "done", "#second")


def test_the_region_is_shown_and_reaches_the_request(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    choose(tab, "#model", "Phantom heart")
    tab.page.click("#more >> text=More settings")
    tab.page.click("#roi >> text=Choose the region")
    tab.page.locator("#region >> text=Voxels X 6:18 · Y 6:18 · Z 6:18").wait_for()
    tab.page.click("#run")
    tab.wait_for_status("Done")
    assert site.backend.requests[-1].roi == ((6, 18), (6, 18), (6, 18))
    # While a run is on show, another region changes the words only: the run's noise is still there.
    begin = threading.Event()
    site.backend.before = lambda: begin.wait(60)
    tab.page.click("#run")
    tab.wait_for_status("Noise, where")
    tab.page.click("#roi >> text=Choose the region")
    tab.page.locator("#region >> text=Voxels").wait_for(state="detached")
    begin.set()
    tab.wait_for_status("Done")
    steps = "[...document.querySelectorAll('#view *')].find((e) => e.viewer).viewer.steps.map((s) => s.index)"
    kept = tab.page.evaluate(steps)
    assert (kept[0], kept[-1]) == (-1, 3)


def test_pairs_are_drawn_and_one_is_opened_and_segmented(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    tab.page.get_by_role("tab", name="Atlas").click()
    tab.page.locator("#run >> text=Draw pairs").wait_for()
    tab.page.fill("#atlas-count input[type=number]", "3")
    tab.page.fill("#seed input", "5")
    tab.page.locator("#seed input").blur()
    tab.page.click("#run")
    tab.wait_for_status("Done")
    request = site.backend.requests[-1]
    assert (request.task, request.model, request.samples, request.seed) == ("generate", "heart-phantom", 3, 5)
    pairs = tab.page.locator("#gallery button")
    pairs.nth(2).wait_for()
    assert pairs.all_inner_texts() == ["Seed 5", "Seed 6", "Seed 7"]
    pairs.nth(1).focus()
    tab.page.keyboard.press("Enter")
    tab.wait_for_status("Drawn from the atlas")
    tab.page.get_by_role("tab", name="Segment").click()
    tab.page.locator("#source >> text=pair-of-seed-6").wait_for()
    tab.page.locator("#run >> text=Run").wait_for()
    tab.page.click("#run")
    tab.wait_for_status("Done")
    volume = site.backend.volumes[-1]
    assert volume is not None
    assert volume.name == "pair-of-seed-6"
    # Other pairs take the viewer; a run of the image that is still chosen brings it back.
    patient = "[...document.querySelectorAll('#view *')].find((e) => e.viewer).viewer.patient !== null"
    tab.page.get_by_role("tab", name="Atlas").click()
    tab.page.locator("#run >> text=Draw pairs").wait_for()
    tab.page.click("#run")
    tab.page.wait_for_function(f"!({patient})", timeout=WAIT_MS)  # "Done" may be that of the run before
    tab.wait_for_status("Done")
    tab.page.get_by_role("tab", name="Segment").click()
    tab.page.locator("#run >> text=Run").wait_for()
    tab.page.click("#run")
    tab.page.wait_for_function(patient, timeout=WAIT_MS)
    tab.wait_for_status("Done")


def test_an_image_is_painted_onto_a_mask(site: Site, open_tab: Open, tmp_path: Path) -> None:
    tab = open_tab(site)
    tab.page.get_by_role("tab", name="Mask to image").click()
    tab.page.locator("#run >> text=Paint an image").wait_for()
    tab.page.click("#run")
    tab.wait_for_status("no finished run yet")
    tab.page.click("#mask-from >> text=A label map of mine")
    ids = np.zeros((12, 12, 12), np.uint16)
    ids[3:9, 4:8, 5:7] = 500
    io.write_array(ids, Grid((12, 12, 12), np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "mask.nii.gz")
    tab.page.set_input_files("#mask-upload input[type=file]", str(tmp_path / "mask.nii.gz"))
    tab.wait_for_status("Press Paint an image")
    tab.page.click("#run")
    tab.wait_for_status("Done")
    request = site.backend.requests[-1]
    assert (request.task, request.roi) == ("paint", ((3, 9), (4, 8), (5, 7)))
    assert request.edit is not None
    np.testing.assert_array_equal(request.edit.labels == 1, ids == 500)
    saved = load(tab.download("Painted image", tmp_path))
    assert saved.shape == (12, 12, 12)  # on the voxels of the mask
    labels = load(tab.download("Labels", tmp_path))
    np.testing.assert_array_equal(labels.get_fdata(), ids)  # the mask that was given, voxel for voxel
    np.testing.assert_allclose(labels.affine, saved.affine)


def test_a_reference_is_compared(site: Site, open_tab: Open, tmp_path: Path) -> None:
    tab = open_tab(site)
    scan = oblique_scan(tmp_path / "scan.nii.gz", (12, 14, 10))
    tab.upload(scan)
    tab.page.locator("#source >> text=12×14×10").wait_for()
    tab.page.click("#run")
    tab.wait_for_status("Done")
    labels = tab.download("Labels", tmp_path)
    heads = tab.page.locator(".da-volumes thead th")
    heads.first.wait_for()
    assert heads.all_inner_texts() == ["ml"]
    assert tab.page.inner_text(".da-volumes caption") == "Volumes"  # there is no truth to agree with
    tab.page.click("#reference-panel >> text=Compare with")
    tab.page.set_input_files("#reference input[type=file]", str(labels))
    tab.page.locator("#result >> text=agreement with scan_labels.nii.gz").wait_for()
    cells = tab.page.locator(".da-volumes tbody tr").last.inner_text().split("\t")
    assert [c.strip() for c in cells] == ["mean", "", "1.000", "1.000", "0.0"]
    other = tmp_path / "other.nii.gz"
    io.write_array(np.ones((5, 5, 5), np.uint8), Grid((5, 5, 5), np.eye(4)), other)
    tab.page.set_input_files("#reference input[type=file]", str(other))
    tab.page.locator("#result [role=alert] >> text=other.nii.gz").wait_for()
    assert tab.page.locator(".da-volumes tbody tr").count() == len(site.backend.scheme.names)  # the table stays


def test_surface_and_film_are_made_and_downloaded(site: Site, open_tab: Open, tmp_path: Path) -> None:
    tab = open_tab(site)
    tab.page.click("#run")
    tab.wait_for_status("Done")
    tab.page.click("#make-surface")
    tab.page.get_by_role("link", name="Surface").wait_for()
    tab.page.click("#make-film")
    tab.page.get_by_role("link", name="Film").wait_for()
    assert tab.download("Surface", tmp_path).read_bytes()[:4] == b"glTF"
    assert tab.download("Film", tmp_path).read_bytes()[:6] == b"GIF89a"
    assert tab.page.get_by_role("link", name="Copy a link").count() == 1


def test_a_recorded_run_is_played_without_the_engine(site: Site, open_tab: Open) -> None:
    tab = open_tab(site)
    choose(tab, "#examples", "Recorded: phantom heart CT")
    tab.wait_for_status("A recorded run")
    tab.page.click("#run")
    tab.wait_for_status("Recorded run")
    tab.page.locator("#result >> text=it was not computed now").wait_for()
    assert tab.page.is_enabled("#run")
    assert site.backend.requests == []


def test_while_the_example_is_made_a_recorded_run_is_shown(
    site: Site, open_tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.served.visitors, "has_example", lambda name: False)
    tab = open_tab(site)
    assert "recorded run" in tab.status()
    assert tab.page.input_value("#examples input") == "Recorded: phantom heart CT"


def test_a_fault_in_the_engine_is_one_red_line_and_the_page_lives_on(
    site: Site, open_tab: Open, caplog: pytest.LogCaptureFixture
) -> None:
    site.backend = FakeBackend(fail_at=1)
    tab = open_tab(site)
    tab.page.click("#run")
    tab.wait_for_viewer("state", "error")
    assert "RuntimeError: expected a tensor of another shape" in tab.status()
    assert "Traceback" not in tab.status()
    assert "a run failed" in caplog.text
    site.backend = FakeBackend()
    tab.page.click("#run")
    tab.wait_for_status("Done")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("mine.nii.gz", b"not a volume", "mine.nii.gz"),
        ("picture.png", b"\x89PNG\r\n\x1a\n", "picture.png: not a file this page reads"),
        ("${1+1}{{value}}<b>.nii", b"", ".nii"),
        ("x" * 240 + ".nii.gz", gzip.compress(b"short", mtime=0), "xxxx"),
    ],
)
def test_a_bad_file_is_named_and_the_image_before_stays(
    site: Site, open_tab: Open, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    tab = open_tab(site)
    path = tmp_path / name
    path.write_bytes(content)
    tab.upload(path)
    tab.wait_for_viewer("state", "error")
    assert words in tab.status()
    assert "diffatlas-visitors" not in tab.status()
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
