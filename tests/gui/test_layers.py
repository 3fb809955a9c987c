"""Layers to volumes and back: places in the world, units, axes, refusals, and saving onto the file's own voxels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import nibabel as nib
import numpy as np
import pytest
from dask.delayed import delayed
from napari.layers import Image, Labels

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid, reorient
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelMap, Volume
from diffatlas.io import read_label_map, read_volume, write_label_map, write_volume
from napari_diffatlas.reader import get_reader, read
from napari_diffatlas.viewer.layers import label_map_to_layer, read_layer, scheme_of, volume_to_layer
from napari_diffatlas.writer import write_image, write_labels

SHAPE = (4, 5, 6)


def image(data: Any = None, **kwargs: Any) -> Image:
    return Image(np.arange(120, dtype=np.float32).reshape(SHAPE) if data is None else data, name="it", **kwargs)


def layer_of(layer_tuple: Any) -> Any:
    data, state, kind = layer_tuple
    return {"image": Image, "labels": Labels}[kind](data, **state)


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_every_transform_of_a_layer_counts() -> None:
    layer = image(
        scale=(2, 3, 4),
        translate=(10, -20, 30),
        rotate=(10, 20, 30),
        shear=(0.1, 0.2, 0.05),
        units=("mm",) * 3,
        axis_labels=("x", "y", "z"),
    )
    layer.affine = np.array([[0, 1, 0, 5], [-1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
    source = read_layer(layer)
    for voxel in ((0, 0, 0), (3, 0, 0), (0, 4, 0), (0, 0, 5), (3, 4, 5)):
        assert source.grid.to_world(voxel) == pytest.approx(np.array(layer.data_to_world(voxel)))
    assert source.notes == ()
    assert source.placement.world_affine(source.grid) == pytest.approx(source.grid.affine)


def test_units_and_axis_order_of_the_layer_are_understood() -> None:
    layer = image(scale=(5, 2, 1), translate=(100, 20, 3), units=("um",) * 3, axis_labels=("z", "y", "x"))
    source = read_layer(layer)
    # voxel (1, 2, 3) lies at z = 100 + 5, y = 20 + 4, x = 3 + 3 micrometres
    assert source.grid.to_world((1, 2, 3)) == pytest.approx((0.006, 0.024, 0.105))
    assert source.grid.axis_codes == "SAR"


@pytest.mark.parametrize(("scale", "words"), [((1, 1, 1), "no voxel size: 1 mm"), ((2, 1, 1), "no unit: millimetres")])
def test_pixels_are_taken_as_millimetres_and_that_is_said(scale: Any, words: str) -> None:
    source = read_layer(image(scale=scale))
    assert source.grid.spacing_mm == scale
    assert words in source.notes[0]
    assert source.volume().notes == source.notes


UNUSABLE: list[tuple[Any, dict[str, Any], str]] = [
    (np.zeros((8, 9)), {}, "is 2-D"),
    (np.zeros((2, 4, 5, 6)), {}, "is 4-D.*one of its volumes"),
    (np.zeros((8, 9, 3), np.uint8), {"rgb": True}, "colour image"),
    (np.zeros((0, 4, 5)), {"contrast_limits": (0, 1)}, "is empty"),
    (np.zeros(SHAPE), {"units": ("mm", "mm", "s")}, "mixes units"),
    (np.zeros(SHAPE), {"affine": np.diag([1.0, 1.0, 1e-13, 1.0])}, "cannot be placed"),
]


@pytest.mark.parametrize(("data", "arguments", "words"), UNUSABLE)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_layers_that_cannot_be_used_are_refused_in_one_line(data: Any, arguments: dict[str, Any], words: str) -> None:
    layer = image(data, **arguments)
    with pytest.raises(BadInput, match=words) as refusal:
        read_layer(layer)
    assert "'it'" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_complex_values_are_refused() -> None:
    data = np.zeros(SHAPE, complex)  # not every napari makes such a layer
    layer: Any = SimpleNamespace(name="it", rgb=False, multiscale=False, ndim=3, data=data)
    with pytest.raises(BadInput, match="'it' holds complex128"):
        read_layer(layer)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.float64, np.float16, ">i2"])
def test_number_types_are_converted(dtype: Any) -> None:
    values = (np.arange(120).reshape(SHAPE) % 2).astype(dtype)
    volume = read_layer(image(values, contrast_limits=(0, 1))).volume()
    assert volume.data.dtype == np.float32
    assert np.array_equal(volume.data, values.astype(np.float32))


def test_the_users_array_is_never_written_to() -> None:
    data = np.full(SHAPE, np.nan, np.float32)
    data[:3] = 5
    before = data.copy()
    volume = read_layer(image(data, contrast_limits=(0, 1))).volume()
    volume.data[:] = -1
    assert np.array_equal(data, before, equal_nan=True)


def test_lazy_arrays_are_computed_by_volume_and_not_before() -> None:
    computed = []

    def block() -> Any:
        computed.append(1)
        return np.ones(SHAPE)

    lazy = da.from_delayed(delayed(block)(), shape=SHAPE, dtype=float)
    layer = image(lazy, contrast_limits=(0, 1), cache=False)
    computed.clear()
    source = read_layer(layer)
    assert computed == []
    assert source.volume().data.sum() == 120


def test_voxels_without_a_value_take_the_lowest() -> None:
    data = np.full(SHAPE, 7.0)
    data[0, 0, 0], data[0, 0, 1], data[0, 0, 2], data[0, 0, 3] = -3, np.nan, np.inf, 1e300
    layer = image(data, contrast_limits=(0, 1), units=("mm",) * 3, axis_labels=("x", "y", "z"))
    volume = read_layer(layer).volume()
    assert volume.data[0, 0, 1:4].tolist() == [-3, -3, -3]
    assert volume.data.max() == 7
    (note,) = volume.notes
    assert "2.50%" in note  # 3 of 120


def test_a_volume_mostly_without_values_is_refused() -> None:
    data = np.full(SHAPE, np.nan)
    data[0] = 1
    with pytest.raises(BadInput, match="75%"):
        read_layer(image(data, contrast_limits=(0, 1))).volume()


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_a_read_volume_shows_right_anterior_superior_and_keeps_its_place(volume: Volume) -> None:
    layer = layer_of(volume_to_layer(volume))
    source = read_layer(layer)
    assert source.grid.axis_codes == "RAS"
    assert source.modality == "mr"
    for voxel in ((0, 0, 0), (23, 0, 3), (5, 19, 17)):
        world = volume.grid.to_world(voxel)
        index = tuple(np.rint(layer.world_to_data(world)).astype(int))
        assert layer.data[index] == volume.data[voxel]


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_labels_are_saved_on_the_voxels_of_the_file(tmp_path: Path, volume: Volume, suffix: str) -> None:
    write_volume(volume, tmp_path / f"case{suffix}")
    on_disk = read_volume(tmp_path / f"case{suffix}")
    reader = get_reader(str(tmp_path / f"case{suffix}"))
    assert reader is not None
    (layer_tuple,) = reader(str(tmp_path / f"case{suffix}"))
    source = read_layer(layer_of(layer_tuple))

    truth = np.zeros(volume.data.shape, np.uint8)
    truth[3, 4, 5], truth[20, 1, 2] = 1, 2
    shown = LabelMap(reorient(truth, source.origin.orientation), source.grid, HIPPOCAMPUS)
    state = layer_tuple[1] | {"metadata": {"diffatlas": {"origin": source.origin, "scheme": HIPPOCAMPUS}}}
    layer = Labels(shown.to_ids(), **{k: state[k] for k in ("affine", "units", "axis_labels", "metadata")})
    out = str(tmp_path / f"out{suffix}")
    names = str(tmp_path / "out.structures.json")
    assert write_labels(out, *layer.as_layer_data_tuple()[:2]) == [out, names]
    assert Path(names).is_file()

    saved = read_label_map(out, HIPPOCAMPUS)
    assert np.array_equal(saved.data, truth)
    assert np.array_equal(saved.grid.affine, on_disk.grid.affine)


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_an_image_comes_back_as_it_was(tmp_path: Path, volume: Volume) -> None:
    write_volume(volume, tmp_path / "case.nii.gz")
    layer = layer_of(read(str(tmp_path / "case.nii.gz"))[0])
    write_image(str(tmp_path / "copy.nii.gz"), *layer.as_layer_data_tuple()[:2])
    first, second = read_volume(tmp_path / "case.nii.gz"), read_volume(tmp_path / "copy.nii.gz")
    assert np.array_equal(first.data, second.data)
    assert np.array_equal(first.grid.affine, second.grid.affine)
    assert first.header == second.header


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_a_layer_the_user_moved_is_saved_where_it_is_now(tmp_path: Path, volume: Volume) -> None:
    layer = layer_of(volume_to_layer(volume))
    layer.translate = (10, 0, 0)  # along the layer's own first axis, before the affine
    write_image(str(tmp_path / "moved.nii.gz"), *layer.as_layer_data_tuple()[:2])
    moved = read_volume(tmp_path / "moved.nii.gz")
    assert moved.grid.to_world((0, 0, 0)) == pytest.approx(np.array(layer.data_to_world((0, 0, 0))), abs=1e-4)
    assert read_layer(layer).origin.grid.axis_codes == "RAS"


def test_foreign_labels_are_saved_with_their_own_ids(tmp_path: Path) -> None:
    ids = np.zeros(SHAPE, np.int32)
    ids[1, 2, 3], ids[0, 0, 0] = 1000, 3
    layer = Labels(ids, scale=(3, 2, 1), axis_labels=("z", "y", "x"), units=("mm",) * 3)
    write_labels(str(tmp_path / "own.nii.gz"), *layer.as_layer_data_tuple()[:2])
    saved = read_label_map(tmp_path / "own.nii.gz", scheme_of(ids))
    assert np.array_equal(saved.to_ids(), ids)
    assert saved.grid.to_world((1, 2, 3)) == pytest.approx((3, 4, 3))


@pytest.mark.parametrize(
    ("ids", "words"), [(np.arange(400).reshape(4, 10, 10), "255"), (np.full(SHAPE, -1), "negative")]
)
def test_label_maps_beyond_what_can_be_saved_are_refused(tmp_path: Path, ids: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        write_labels(str(tmp_path / "out.nii.gz"), *Labels(ids).as_layer_data_tuple()[:2])
    assert list(tmp_path.iterdir()) == []


def test_files_named_labels_open_as_labels(tmp_path: Path) -> None:
    data = np.zeros(SHAPE, np.uint8)
    data[1:3, 1:3, 1:3] = 1
    labels = LabelMap(data, Grid(SHAPE, np.diag([-1.0, 1.0, 1.0, 1.0])), MMWHS)
    for name, kind in (("case-000_label.nii.gz", "labels"), ("case_seg.nii.gz", "labels"), ("heart.nii.gz", "image")):
        write_label_map(labels, tmp_path / name)
        assert read(str(tmp_path / name))[0][2] == kind
    layer = layer_of(read(str(tmp_path / "case-000_label.nii.gz"))[0])
    assert sorted(np.unique(layer.data).tolist()) == [0, 500]


def test_an_image_named_mask_with_fractions_stays_an_image(tmp_path: Path) -> None:
    half = Volume(np.full(SHAPE, 0.5, np.float32), Grid(SHAPE, np.eye(4)))
    write_volume(half, tmp_path / "mask.nii.gz")
    assert read(str(tmp_path / "mask.nii.gz"))[0][2] == "image"


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
@pytest.mark.parametrize("name", ["example_mr_sm.nii.gz", "example_ct_sm.nii.gz"])
def test_real_files_lie_where_nibabel_puts_them(name: str) -> None:
    path = Path(__file__).resolve().parents[2] / "../shared/data/ct_mr" / name
    if not path.is_file():
        pytest.skip(f"{name} is not in ../shared/data/ct_mr")
    file: Any = nib.load(path)
    values = file.get_fdata()
    layer = layer_of(read(str(path))[0])
    for voxel in ((0, 0, 0), tuple(n // 3 for n in values.shape), tuple(n - 1 for n in values.shape)):
        world = (file.affine @ (*voxel, 1))[:3]
        index = tuple(np.rint(layer.world_to_data(world)).astype(int))
        assert layer.data[index] == pytest.approx(values[voxel], rel=1e-6)
    assert read_layer(layer).grid.axis_codes == "RAS"


@pytest.mark.parametrize("path", ["photo.png", "x.nii.txt", "", [], ["a.nii", "b.tif"], "gone.zarr"])
def test_foreign_paths_are_declined_without_a_look(path: Any) -> None:
    assert get_reader(path) is None


def test_a_broken_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_text("not a volume")
    with pytest.raises(BadInput, match=r"bad\.nii\.gz"):
        read(str(tmp_path / "bad.nii.gz"))


def test_structures_carry_their_colour_and_name() -> None:
    data = np.zeros(SHAPE, np.uint8)
    data[0, 0, 0] = 5
    layer = layer_of(label_map_to_layer(LabelMap(data, Grid(SHAPE, np.eye(4)), MMWHS), "truth"))
    assert layer.data[0, 0, 0] == 205
    assert layer.get_color(205)[:3] == pytest.approx(np.array(MMWHS.structures[4].color) / 255, abs=1e-6)
    assert dict(zip(layer.features["index"], layer.features["structure"], strict=True))[205] == "myocardium"
