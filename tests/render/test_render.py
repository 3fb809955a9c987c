"""Pictures and curves: laws of geometry and colour, checked on pixels."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.distance import label_distances_mm
from diffatlas.geometry.grid import Grid, reorient
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelMap, LabelScheme, Structure, Volume
from diffatlas.io import read_label_map, read_volume
from diffatlas.render import curves, frame_picture, montage
from diffatlas.render.planes import PLANES, Canonical, cut, display_window, regions, sample_plane
from diffatlas.render.plots import Plot, spread
from diffatlas.render.theme import THEMES, Color, fit_text, text_width
from diffatlas.session import Frame, FrameMetrics

HIPPOCAMPUS_DATA = Path(__file__).resolve().parents[2] / "../shared/data/hippocampus"
ONE = LabelScheme("one", (Structure("blob", 7, (200, 100, 50)),))

Pixels = NDArray[np.uint8]


def diagonal(*spacing_mm: float) -> NDArray[np.float64]:
    return np.diag([*spacing_mm, 1.0])


def ball(grid: Grid, radius_mm: float, offset_mm: tuple[float, float, float] = (0, 0, 0)) -> NDArray[np.bool_]:
    """Voxels within ``radius_mm`` of a point beside the middle of the grid."""
    world = grid.to_world(np.indices(grid.shape, dtype=np.float64).transpose(1, 2, 3, 0))
    return np.linalg.norm(world - grid.centre_mm - np.array(offset_mm), axis=-1) < radius_mm


def frame_of(labels: LabelMap, *, index: int = 2, total: int = 5, noise: float = 0.3) -> Frame:
    """A step whose image half is a ramp, with reproducible noise."""
    shape = labels.grid.shape
    image = np.linspace(-0.8, 0.8, labels.data.size, dtype=np.float32).reshape(shape)
    noisy = image + noise * np.random.default_rng(index).standard_normal(shape).astype(np.float32)
    metrics = FrameMetrics(0.2 / (index + 1), 0.1, labels.volumes_ml(), float(index))
    t = 1 - (index + 1) / total
    sdf = label_distances_mm(labels, 20.0)
    return Frame(index, total, t, labels.grid, labels.scheme, noisy, image, labels.data, sdf, None, metrics)


def white_box(picture: Pixels) -> tuple[int, int, int, int]:
    """Left, top, right and bottom (exclusive) of the pixels that are pure white: a tile of a constant bright image."""
    rows, columns = np.nonzero((picture == 255).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def orientations() -> Iterator[NDArray[np.float64]]:
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            yield np.array(list(zip(axes, flips, strict=True)), dtype=np.float64)


def test_all_48_orientations_give_one_picture() -> None:
    grid = Grid((9, 12, 7), diagonal(2, 1, 3))
    labels = np.zeros(grid.shape, np.uint8)
    labels[5:8, 2:6, 3:6] = 1
    labels[1:3, 7:11, 1:3] = 2
    data = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    source = Volume(data, grid)
    frame = frame_of(LabelMap(labels, grid, HIPPOCAMPUS))
    still = montage(source, frame.labels, HIPPOCAMPUS, height_px=48)
    step = frame_picture(frame, source, cell_px=32, planes=("axial", "coronal"))
    every = list(orientations())
    assert len(every) == 48
    for i, orientation in enumerate(every):
        stored = grid.reoriented(orientation)
        volume = Volume(reorient(data, orientation), stored)
        turned = LabelMap(reorient(labels, orientation), stored, HIPPOCAMPUS)
        np.testing.assert_array_equal(montage(volume, turned, height_px=48), still)
        if i % 5:
            continue
        other = Frame(
            frame.index, frame.total, frame.t, stored, frame.scheme,
            reorient(frame.noisy_image, orientation), reorient(frame.image, orientation), turned.data,
            np.stack([reorient(f, orientation) for f in frame.sdf]), None, frame.metrics,
        )  # fmt: skip
        np.testing.assert_array_equal(frame_picture(other, volume, cell_px=32, planes=("axial", "coronal")), step)


@pytest.mark.parametrize(
    ("plane", "offset_mm", "left", "up"),
    [
        ("axial", (20, 12, 0), True, True),  # right, anterior
        ("coronal", (-20, 0, -12), False, False),  # left, inferior
        ("sagittal", (0, 20, 12), True, True),  # anterior, superior
    ],
)
def test_display_is_radiological(plane: str, offset_mm: tuple[float, float, float], left: bool, up: bool) -> None:
    grid = Grid((40, 40, 40), np.array([[-2.0, 0, 0, 31], [0, -2, 0, 7], [0, 0, 2, -90], [0, 0, 0, 1]]))
    image = Volume(np.ones(grid.shape, np.float32), grid)
    blob = LabelMap(ball(grid, 6, offset_mm).astype(np.uint8), grid, ONE)
    picture = montage(image, blob, planes=(plane,), window=(0, 1), height_px=200)
    x0, y0, x1, y1 = white_box(picture)
    tile = picture[y0:y1, x0:x1].astype(int)
    rows, columns = np.nonzero(tile[..., 0] - tile[..., 2] > 30)
    assert (columns.mean() < (x1 - x0) / 2) == left
    assert (rows.mean() < (y1 - y0) / 2) == up
    # 20 mm of 80 mm beside the middle is a quarter of the tile.
    assert abs(abs(columns.mean() + 0.5 - (x1 - x0) / 2) - (x1 - x0) / 4) < 2.5


def test_millimetres_keep_their_aspect_and_planes_share_a_scale() -> None:
    grid = Grid((20, 30, 10), diagonal(1, 2, 9))  # 20 x 60 x 90 mm
    image = Volume(np.ones(grid.shape, np.float32), grid)
    boxes = {p: white_box(montage(image, planes=(p,), window=(0, 1), height_px=180)) for p in PLANES}
    sizes = {p: (x1 - x0, y1 - y0) for p, (x0, y0, x1, y1) in boxes.items()}
    assert sizes == {"axial": (60, 180), "coronal": (40, 180), "sagittal": (120, 180)}
    # Together they share 2 pixels a millimetre: along a row that crosses all three, away from the letters.
    together = montage(image, window=(0, 1), height_px=180)
    _, y0, _, y1 = white_box(together)
    row = (together[(y0 + y1) // 2 - 30] == 255).all(axis=1)
    edges = np.flatnonzero(np.diff(np.pad(row, 1).astype(int)))
    assert (edges[1::2] - edges[::2]).tolist() == [40, 40, 120]


def test_flat_and_tiny_grids_stay_pictures() -> None:
    for shape, spacing in (((1, 1, 1), (1, 1, 1)), ((400, 400, 1), (1, 1, 1)), ((4, 4, 40), (0.5, 0.5, 10))):
        grid = Grid(shape, diagonal(*spacing))
        picture = montage(Volume(np.zeros(shape, np.float32), grid), np.ones(shape, np.uint8), ONE, height_px=128)
        assert max(picture.shape) < 1300
        frame = frame_of(LabelMap(np.ones(shape, np.uint8), grid, ONE))
        assert max(frame_picture(frame, cell_px=96).shape) < 1300


def test_colours_lie_where_the_labels_are() -> None:
    grid = Grid((32, 32, 32), diagonal(1, 1, 1))
    labels = np.zeros(grid.shape, np.uint8)
    labels[16:, :, :] = 1  # the patient's right half
    picture = montage(Volume(np.full(grid.shape, 5, np.float32), grid), labels, ONE, planes=("axial",), height_px=256,
                      window=(5, 6), at_mm=np.array([16.0, 16.0, 16.0]))  # fmt: skip
    left = (picture.shape[1] - 256) // 2
    tile = picture[37 : 37 + 256, left : left + 256].astype(float)
    inside = tile[96:160, 32:96].reshape(-1, 3)
    fill = inside / np.array(ONE.structures[0].color)
    np.testing.assert_allclose(fill, fill[0, 0], atol=0.02)
    assert 0.2 < fill[0, 0] < 0.6
    line = tile[96:160, 127]
    np.testing.assert_allclose(line, np.tile(np.array(ONE.structures[0].color) * 0.95, (len(line), 1)), atol=3)
    assert tile[96:160, 129:224].max() == 0


@pytest.mark.parametrize("with_distances", [False, True])
def test_a_voxel_centre_always_shows_its_own_label(with_distances: bool) -> None:
    rng = np.random.default_rng(3)
    labels = (rng.integers(0, 6, (11, 9)) * (rng.random((11, 9)) < 0.5)).astype(np.uint8)
    sdf = None
    if with_distances:
        volume = LabelMap(labels[..., None], Grid((11, 9, 1), np.eye(4)), MMWHS)
        sdf = label_distances_mm(volume, 10.0)[..., 0]
    shown = regions(labels, (9 * 7, 11 * 7), sdf)
    np.testing.assert_array_equal(shown[3::7, 3::7], labels)


def test_distances_of_another_mask_do_not_change_the_picture() -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[2:5, 3:7] = 1
    own = np.where(labels == 1, -1.0, 1.0).astype(np.float32)[None]
    np.testing.assert_array_equal(regions(labels, (64, 64), -own), regions(labels, (64, 64)))


def test_planes_pass_through_the_structures_or_the_given_point() -> None:
    grid = Grid((30, 30, 30), diagonal(1, 1, 1))
    labels = np.zeros(grid.shape, np.uint8)
    labels[3:6, 20:23, 9:12] = 1
    canonical = Canonical.of(grid)
    assert canonical.centre_of(labels) == (4, 21, 10)
    assert canonical.centre_of(np.zeros_like(labels)) == (15, 15, 15)
    assert canonical.voxel_at(np.array([500.0, 2.2, -3.0])) == (29, 2, 0)
    image = Volume(np.zeros(grid.shape, np.float32), grid)
    seen = montage(image, labels, ONE, planes=("axial",))
    missed = montage(image, labels, ONE, planes=("axial",), at_mm=np.array([4.0, 21.0, 25.0]))
    assert (seen[40:280] > 60).any(axis=2).sum() > (missed[40:280] > 60).any(axis=2).sum() + 100
    with pytest.raises(BadInput, match="point"):
        montage(image, labels, ONE, at_mm=np.array([1.0, np.nan, 0.0]))


def test_windows() -> None:
    grid = Grid((10, 10, 10), np.eye(4))
    ramp = np.linspace(0, 1000, 1000, dtype=np.float32).reshape(grid.shape)
    assert display_window(Volume(ramp, grid, "ct")) == (-250, 800)
    assert display_window(Volume(ramp, grid, "mr")) == pytest.approx((5, 995), abs=0.1)
    broken = np.full(grid.shape, np.nan, np.float32)
    assert display_window(Volume(broken, grid)) == (0, 1)
    assert montage(Volume(broken, grid)).dtype == np.uint8


def test_what_does_not_fit_is_refused() -> None:
    grid = Grid((4, 5, 6), np.eye(4))
    image = Volume(np.zeros(grid.shape, np.float32), grid)
    labels = np.zeros(grid.shape, np.uint8)
    with pytest.raises(BadInput, match="different grids"):
        montage(image, LabelMap(labels, Grid(grid.shape, diagonal(1, 1, 2)), ONE))
    with pytest.raises(ValueError, match="scheme"):
        montage(image, labels)
    with pytest.raises(ValueError, match="grid"):
        montage(image.data)
    with pytest.raises(ValueError, match="shape"):
        montage(image, labels[:3], ONE)
    with pytest.raises(BadInput, match="plane must be one of"):
        montage(image, planes=("oblique",))
    with pytest.raises(BadInput, match="at least one plane"):
        montage(image, planes=())
    with pytest.raises(BadInput, match="theme"):
        montage(image, theme="sepia")  # type: ignore[arg-type]


def test_arrays_volumes_and_frames_are_shown_alike() -> None:
    grid = Grid((12, 12, 12), diagonal(2, 2, 2))
    frame = frame_of(LabelMap(ball(grid, 8).astype(np.uint8), grid, ONE))
    by_frame = montage(frame)
    by_array = montage(frame.image, frame.labels, ONE, grid, window=(-1, 1))
    # A frame's distances smooth its outlines; everything else is the same.
    assert by_frame.shape == by_array.shape
    assert (np.abs(by_frame.astype(int) - by_array).max(axis=2) > 8).mean() < 0.03


def test_patient_is_sampled_where_the_plane_lies() -> None:
    angle = np.deg2rad(25)
    affine = np.eye(4)
    affine[:3, :3] = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    affine[:3, 3] = -20, -25, -12
    fine = Grid((60, 60, 30), affine)
    world = fine.to_world(np.indices(fine.shape, dtype=np.float64).transpose(1, 2, 3, 0))
    source = Volume((2 * world[..., 0] + world[..., 1] - 3 * world[..., 2]).astype(np.float32), fine)
    coarse = Grid((8, 6, 4), np.array([[-2.0, 0, 0, 3], [0, 3, 0, -5], [0, 0, 4, -6], [0, 0, 0, 1]]))
    onto = Canonical.of(coarse)
    values = sample_plane(source, onto, PLANES["axial"], (0, 0, 1), (16, 18))
    # The picture's left border is the right-most voxel border, x = 3 + 1 mm; one pixel is 1 mm in both directions.
    x = 4 - (np.arange(16) + 0.5)
    y = -5 + 15 + 1.5 - (np.arange(18) + 0.5)
    np.testing.assert_allclose(values, 2 * x[None] + y[:, None] - 3 * (-6 + 4), atol=1e-3)
    far = Volume(source.data, Grid(fine.shape, fine.affine + np.array([[0, 0, 0, 500.0]] + [[0] * 4] * 3)))
    assert np.isnan(sample_plane(far, onto, PLANES["axial"], (0, 0, 1), (16, 18))).all()


def test_slices_run_from_right_anterior_superior() -> None:
    data = np.arange(24).reshape(2, 3, 4)
    assert cut(data, PLANES["axial"], (0, 0, 1)).tolist() == data[::-1, ::-1, 1].T.tolist()
    assert cut(data, PLANES["sagittal"], (1, 0, 0)).tolist() == data[1, ::-1, ::-1].T.tolist()
    assert cut(data, PLANES["coronal"], (0, 2, 0))[0, 0] == data[1, 2, 3]


def test_every_step_of_a_run_has_one_size_and_one_place() -> None:
    grid = Grid((16, 16, 16), diagonal(3, 3, 3))
    source = Volume(np.zeros(grid.shape, np.float32), grid, "ct")
    pictures = []
    for index in range(5):
        labels = LabelMap(ball(grid, 5.0 * index, (4.0 * index - 8, 0, 0)).astype(np.uint8), grid, ONE)
        pictures.append(frame_picture(frame_of(labels, index=index), source))
    assert len({p.shape for p in pictures}) == 1
    assert all((a != b).any() for a, b in itertools.pairwise(pictures))
    without = frame_picture(frame_of(labels, index=4))
    assert without.shape[1] < pictures[-1].shape[1]
    # The same voxels through another centre of structures: the image half stays where it was.
    first, second = (frame_picture(frame_of(LabelMap(m.astype(np.uint8), grid, ONE)))
                     for m in (ball(grid, 6, (9, 9, 9)), ball(grid, 6, (-9, -9, -9))))  # fmt: skip
    column = slice(16 + 208 + 8, 16 + 2 * 208 + 8)
    np.testing.assert_array_equal(first[80:280, column], second[80:280, column])


def test_empty_labels_leave_the_image_gray() -> None:
    grid = Grid((10, 10, 10), np.eye(4))
    frame = frame_of(LabelMap(np.zeros(grid.shape, np.uint8), grid, MMWHS))
    tile = frame_picture(frame)[90:260, 16 + 2 * 216 : 16 + 2 * 216 + 208]
    assert (tile.max(axis=2) == tile.min(axis=2)).all()


def contrast(a: Color, b: Color) -> float:
    """WCAG 2 contrast ratio of two sRGB colours."""

    def luminance(color: Color) -> float:
        c = np.array(color) / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", list(THEMES))
def test_text_is_legible(name: str) -> None:
    theme = THEMES[name]
    assert contrast(theme.text, theme.background) >= 7
    assert contrast(theme.muted, theme.background) >= 4.5
    assert contrast(theme.accent, theme.background) >= 4.5
    assert text_width(fit_text("inferior vena cava and portal vein", 13, 80), 13) <= 80
    assert fit_text("heart", 13, 80) == "heart"


def metrics_of(n: int) -> list[FrameMetrics]:
    return [
        FrameMetrics(0.5 / (i + 1), 0.4 / (i + 1), dict.fromkeys(MMWHS.names, 50.0 + i), float(i)) for i in range(n)
    ]


def test_curves_show_what_there_is() -> None:
    full = curves(metrics_of(20), 20, MMWHS)
    assert full.shape == (176, 888, 3)
    assert full.dtype == np.uint8
    top = MMWHS.structures[-1].color  # all run alike here, and the last lies on top
    assert (np.abs(full.astype(int) - top).max(axis=2) < 12).sum() > 40
    assert (curves(metrics_of(10), 20, MMWHS) != full).any()
    assert (curves(metrics_of(20), 20, MMWHS, cursor=3) != full).any()
    empty = curves([], 20, MMWHS)
    assert empty.shape == full.shape
    unguided = curves([FrameMetrics(None, None, {}, 0.0)], 1, MMWHS, theme="light")
    assert (unguided != curves([], 1, MMWHS, theme="light")).any()  # says that there is no image


def test_plot_axes() -> None:
    plot = Plot("p", [(np.array([0.0, 3.0]), (1, 2, 3))], (10.0, 20.0, 110.0, 70.0), total=11, highest=5.0)
    assert (plot.x(0), plot.x(5), plot.x(10)) == (10, 60, 110)
    assert (plot.y(0), plot.y(5)) == (70, 20)
    assert plot.ticks() == [(0.0, "0"), (2.0, "2"), (4.0, "4")]
    assert Plot("p", plot.series, plot.box, 1, 0.011).ticks()[1] == (0.005, "0.005")
    nothing = Plot("p", [(np.array([np.nan]), (1, 2, 3))], plot.box, 1, 1.0)
    assert nothing.ticks() == [(0.0, "0")]
    assert nothing.x(0) == 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100), max_size=8))
def test_names_are_pushed_apart_in_order(positions: list[float]) -> None:
    placed = spread(positions, 12.0, 100.0)
    assert all(6 - 1e-9 <= y <= 94 + 1e-9 for y in placed)
    ordered = [y for _, y in sorted(zip(positions, placed, strict=True))]
    assert all(b - a >= 12 - 1e-9 for a, b in itertools.pairwise(ordered))
    roomy = all(b - a >= 12 for a, b in itertools.pairwise([-6.0, *sorted(positions), 106.0]))
    if roomy:
        assert placed == pytest.approx(positions)


@pytest.mark.skipif(not HIPPOCAMPUS_DATA.is_dir(), reason="the hippocampus data are not beside this checkout")
def test_a_real_case_in_colour() -> None:
    image = read_volume(HIPPOCAMPUS_DATA / "images/hippocampus_190.nii.gz")
    labels = read_label_map(HIPPOCAMPUS_DATA / "labels/hippocampus_190.nii.gz", HIPPOCAMPUS)
    picture = montage(image, labels)
    assert picture.shape[0] < 400
    # Both colours fill some percent of the picture: orange is red over blue, sky blue is blue over red.
    warmth = picture[..., 0].astype(int) - picture[..., 2]
    assert (warmth > 40).mean() > 0.02
    assert (warmth < -40).mean() > 0.02


def test_pictures_load_neither_torch_nor_the_mesh_libraries() -> None:
    code = (
        "import sys, diffatlas.render; "
        "print([m for m in ('torch', 'matplotlib', 'trimesh', 'skimage', 'PyQt6', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
