"""What a script gives the package: paths, nibabel images, volumes, arrays; and what it is told where that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import diffatlas
from diffatlas.errors import BadInput

MMWHS = diffatlas.MMWHS
AFFINE = np.array([[0, -1.2, 0, 12], [1.1, 0, 0, -9], [0, 0, 1.5, -20], [0, 0, 0, 1]])
DATA = (100 * np.exp(-((np.indices((20, 22, 18)) - 9.5) ** 2).sum(0) / 60)).astype(np.float32)


@pytest.fixture
def options(tiny_model: Path) -> dict[str, Any]:
    return {"model": str(tiny_model), "steps": 2, "precision": "fp32", "seed": 4}


def test_an_image_in_any_form_gives_the_same_labels(options: dict[str, Any], tmp_path: Path) -> None:
    image = nib.Nifti1Image(DATA, AFFINE)
    nib.save(image, tmp_path / "image.nii")
    volume = diffatlas.Volume.from_array(DATA, AFFINE, modality="mr")
    expected = diffatlas.segment(volume, diffatlas.Request(**options)).labels
    assert expected.data.any()
    forms: list[tuple[Any, dict[str, Any]]] = [
        (volume, {}),
        (tmp_path / "image.nii", {}),
        (str(tmp_path / "image.nii"), {"modality": "mr"}),
        (image, {}),
        (DATA, {"affine": AFFINE}),
        (DATA.astype(np.float64), {"affine": AFFINE.tolist(), "modality": "mr"}),
    ]
    for given, how in forms:
        labels = diffatlas.segment(given, **how, **options).labels
        np.testing.assert_array_equal(labels.data, expected.data)
        assert labels.grid.same_as(expected.grid)


def test_options_go_before_the_request(options: dict[str, Any]) -> None:
    volume = diffatlas.Volume.from_array(DATA, AFFINE, modality="mr")
    request = diffatlas.Request(**options)
    planned = diffatlas.session.plan(volume, request, seed=9, preset="watch")
    assert (planned.request.seed, planned.request.preset, planned.request.steps) == (9, "watch", 2)
    assert request.seed == 4
    frames = list(diffatlas.stream(volume, request, steps=3))
    assert len(frames) == 3


def test_volumes_go_to_nibabel_and_back() -> None:
    volume = diffatlas.Volume.from_array(DATA, AFFINE)
    back = diffatlas.Volume.from_nibabel(volume.to_nibabel())
    np.testing.assert_array_equal(back.data, DATA)
    assert back.grid.same_as(volume.grid)
    metres = nib.Nifti1Image(DATA, np.diag([0.001, 0.001, 0.002, 1]))
    metres.header.set_xyzt_units("meter")
    assert diffatlas.Volume.from_nibabel(metres).grid.spacing_mm == pytest.approx((1, 1, 2), rel=1e-6)
    labels = diffatlas.LabelMap(np.eye(3, dtype=np.uint8)[None].repeat(2, 0), diffatlas.Grid((2, 3, 3), AFFINE), MMWHS)
    ids = np.asarray(labels.to_nibabel().dataobj)
    assert set(np.unique(ids)) == {0, 500}
    np.testing.assert_array_equal(diffatlas.LabelMap.from_nibabel(labels.to_nibabel(), MMWHS).data, labels.data)
    assert diffatlas.LabelMap.from_nibabel(labels.to_nibabel()).scheme.names == ("label 500",)


def test_compare_takes_files_images_and_label_maps(tmp_path: Path) -> None:
    data = np.zeros((8, 8, 8), np.uint8)
    data[2:6, 2:6, 2:6] = 1
    moved = np.roll(data, 1, axis=0)
    grid = diffatlas.Grid((8, 8, 8), np.eye(4))
    one, two = (diffatlas.LabelMap(d, grid, MMWHS) for d in (data, moved))
    path = tmp_path / "two.nii.gz"
    diffatlas.write_label_map(two, path)
    for a, b in ((one, two), (one, path), (str(path), one), (one.to_nibabel(), two.to_nibabel())):
        row = next(r for r in diffatlas.compare(a, b).rows if r.name in ("left ventricle", "label 500"))
        assert row.dice == pytest.approx(0.75)
    assert diffatlas.compare(path, path).rows[0].name == "label 500"  # a file alone does not say what its ids mean


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: diffatlas.segment(DATA), BadInput, "give affine="),
    (lambda: diffatlas.segment(DATA[0], affine=AFFINE), BadInput, "has 2 axes"),
    (lambda: diffatlas.segment(DATA, affine=np.eye(3)), BadInput, "4 x 4"),
    (lambda: diffatlas.segment(DATA * np.nan, affine=AFFINE), BadInput, "not finite"),
    (lambda: diffatlas.segment(DATA.astype(str), affine=AFFINE), BadInput, "real numbers"),
    (lambda: diffatlas.segment(DATA + 1j, affine=AFFINE), BadInput, "real numbers"),
    (lambda: diffatlas.segment([1, 2, 3]), BadInput, "not list"),
    (lambda: diffatlas.segment(7), BadInput, "not int"),
    (lambda: diffatlas.segment("no-such-file.nii"), BadInput, "no-such-file.nii"),
    (lambda: diffatlas.segment(nib.Nifti1Image(DATA, AFFINE), affine=AFFINE), BadInput, "belongs to an array"),
    (lambda: diffatlas.segment(nib.Nifti1Image(np.zeros((4, 4, 4, 3)), AFFINE)), BadInput, "4 axes"),
    (lambda: diffatlas.segment(DATA, affine=AFFINE, presett="fast"), TypeError, "presett"),
    (lambda: diffatlas.segment(DATA, "heart-phantom", affine=AFFINE), TypeError, "must be a diffatlas.Request"),  # type: ignore[arg-type]
    (lambda: diffatlas.segment(DATA, affine=AFFINE, steps=0), BadInput, "steps"),
    (lambda: diffatlas.compare(DATA, DATA), BadInput, "labels are a path"),
    (
        lambda: diffatlas.segment(DATA, affine=AFFINE, modality="ct", model="hippocampus-mri"),
        BadInput,
        "insist with force=True",
    ),
]


@pytest.mark.parametrize(("call", "error", "match"), WRONG)
def test_what_is_wrong_is_said_in_one_line(call: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert "--" not in text
    assert len(text) < 300


def test_every_value_shows_itself_in_one_line(options: dict[str, Any]) -> None:
    volume = diffatlas.Volume.from_array(DATA, AFFINE, modality="mr", name="knee")
    assert repr(volume) == "Volume('knee', 20 x 22 x 18 voxels of 1.1 x 1.2 x 1.5 mm, ALS, mr)"
    edit = diffatlas.MaskEdit(np.zeros(DATA.shape, np.uint8))
    request = diffatlas.Request(**options, edit=edit)
    assert repr(diffatlas.Request(steps=3)) == "Request(steps=3)"
    *_, frame = diffatlas.stream(volume, request)
    card = diffatlas.load_model(options["model"]).card
    shown = (volume, request, frame, frame.result, frame.result and frame.result.labels, card, volume.grid)
    for value in (*shown, diffatlas.session.plan(volume, request), diffatlas.load_model(options["model"])):
        assert "\n" not in repr(value)
        assert len(repr(value)) < 250


def test_it_runs_from_a_folder_without_being_installed(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_installed(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("diffatlas.values.version", not_installed)
    assert diffatlas.__version__ == "0"
    result = diffatlas.segment(DATA, affine=AFFINE, modality="mr", **options)
    assert result.provenance["program"] == {"name": "napari-diffatlas", "version": "0"}
