"""Run reports and requests as JSON: those of older versions open, and what cannot be read is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffatlas.engine.request import MaskEdit, Request
from diffatlas.engine.run_record import RecordedImage, read_run
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Volume
from diffatlas.values import plain

VOXELS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
VOLUME = Volume(VOXELS, Grid((2, 3, 4), np.diag([20.0, 20.0, 20.0, 1.0])), "mr", "case 7")
# Written by version 0.1.0 at commit 5298d4b, whose requests had no ``ignore``; what replay does not read is left out.
OLD: dict[str, Any] = {
    "program": {"name": "napari-diffatlas", "version": "0.1.0"},
    "request": {
        "task": "segment",
        "model": "hippocampus-mri",
        "preset": "fast",
        "sampler": "ddim",
        "steps": 2,
        "guidance": "image",
        "guidance_noise": 0.0,
        "samples": 1,
        "seed": 3,
        "roi": [[0, 2], [0, 3], [1, 4]],
        "edit": {"shape": [2, 3, 4], "labels": "eJxjYEADTExgCgAAMgAF", "pinned": "eJxjYEgAAABjAGE=", "t": 0.25},
        "device": "auto",
        "precision": "auto",
        "force": True,
    },
    "model": {"name": "hippocampus-mri", "sha256": "76cf3c1d9749948f2a664d8c3c18fc17167aacb49efd63c9c44da9fc207fcf47"},
    "source": {
        "name": "case 7",
        "shape": [2, 3, 4],
        "affine": [[20.0, 0.0, 0.0, 0.0], [0.0, 20.0, 0.0, 0.0], [0.0, 0.0, 20.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        "modality": "mr",
        "sha256": "45a99655901702d55ab6284a18aed6a5e16677181d16c7a7517b68c2ae2c0c7a",
        "path": "/data/case 7.nii.gz",
    },
}


def report(folder: Path, **changes: Any) -> Path:
    (folder / "run.json").write_text(json.dumps({"provenance": {**OLD, **changes}}))
    return folder / "run.json"


def test_the_report_of_an_older_version_opens(tmp_path: Path) -> None:
    run = read_run(report(tmp_path))
    assert (run.file, run.weights_sha256) == ("run.json", OLD["model"]["sha256"])
    assert (run.source.path, run.source.name) == (Path("/data/case 7.nii.gz"), "case 7")
    assert run.other_image(VOLUME, "it") is None
    moved = replace(VOLUME, grid=Grid((2, 3, 4), VOLUME.grid.affine + np.eye(4, k=3) * 0.01))
    assert "elsewhere in the world" in str(run.other_image(moved, "it"))
    assert run.prepared(replace(VOLUME, modality="ct")).modality == "mr"
    assert run.request.roi == ((0, 2), (0, 3), (1, 4))
    edit = run.request.edit
    assert edit is not None
    assert edit.labels.dtype == np.uint8
    assert np.argwhere(edit.labels).tolist() == [[1, 1, 1], [1, 1, 2]]
    np.testing.assert_array_equal(edit.pinned, edit.labels == 2)
    assert run.request.to_json() == {**OLD["request"], "ignore": None}


def test_the_first_reports_said_less_of_the_image(tmp_path: Path) -> None:
    source = {key: OLD["source"][key] for key in ("name", "sha256")}
    run = read_run(report(tmp_path, source={**source, "shape": None}))
    assert (run.source.shape, run.source.affine, run.source.modality, run.source.path) == (None, None, None, None)
    assert run.other_image(VOLUME, "it") is None
    assert run.prepared(VOLUME) is VOLUME


def test_a_later_version_may_say_more_of_the_image(tmp_path: Path) -> None:
    source = {**OLD["source"], "scanner": "one of tomorrow"}
    assert read_run(report(tmp_path, source=source)).source.shape == (2, 3, 4)


@pytest.mark.parametrize(
    "change", [{"affine": [[1, 0], [0, 1]]}, {"shape": "2"}, {"modality": "x-ray"}, {"affine": [["a"] * 4] * 4}]
)
def test_what_cannot_be_read_of_the_image_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"^run\.json: what it says of the image cannot be read: [^\n]*$"):
        read_run(report(tmp_path, source={**OLD["source"], **change}))


def test_the_record_of_a_volume_is_the_one_that_is_read() -> None:
    assert {**plain(RecordedImage.of(VOLUME)), "path": OLD["source"]["path"]} == OLD["source"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"samples": 1025}, "samples must be less than or equal to 1024, not 1025"),
        ({"preset": "slow"}, "preset must be 'fast', 'watch' or 'published', not 'slow'"),
        ({"roi": ((0, 1), (0, 1))}, "roi must be three ranges: X0:X1,Y0:Y1,Z0:Z1 in voxels"),
        ({"ignore": np.ones((2, 2), bool)}, "ignore must be a mask [X, Y, Z]"),
        ({"colour": 1}, "there is no field 'colour'"),
    ],
)
def test_what_is_wrong_with_a_request_is_one_line(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        Request(**bad)
    assert str(caught.value) == words
    with pytest.raises(BadInput) as again:
        replace(Request(), **bad)
    assert str(again.value) == words


def test_a_field_that_cannot_be_printed_is_one_line() -> None:
    with pytest.raises(BadInput, match=r"^not a request of this program: there is no field 'gu\?e'$"):
        Request.from_json({"gu\ufeffe": 1})


def test_a_request_keeps_the_callers_arrays() -> None:
    labels, ignore = np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 4), bool)
    request = Request(seed=np.int64(3), model=Path("a") / "b", edit=MaskEdit(labels), ignore=ignore)  # type: ignore[arg-type]
    assert request.edit is not None
    assert request.edit.labels is labels
    assert replace(request, steps=2).ignore is ignore
    assert (request.seed, type(request.seed), request.model) == (3, int, str(Path("a/b")))
    assert repr(request) == (
        f"Request(model={request.model!r}, seed=3, edit=MaskEdit(2 x 3 x 4, pinned none, t=0.5), ignore='24 voxels')"
    )


def test_requests_are_equal_by_value() -> None:
    def made(**options: Any) -> Request:
        labels, pinned = np.zeros((2, 3, 4), np.uint8), np.ones((2, 3, 4), bool)
        return Request(seed=3, edit=MaskEdit(labels, pinned), ignore=np.eye(3, dtype=bool)[None], **options)

    assert made() == made()
    assert len({made(), made()}) == 1
    other = made()
    assert other.ignore is not None
    other.ignore[0, 0, 1] = True
    assert made() != other
    assert made() != made(steps=2)
    assert Request() != "Request()"
