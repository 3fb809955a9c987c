"""Films and meshes, checked on the files read back: every frame and its time, every structure and its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel.orientations as nio
import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from PIL import Image

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid, reorient
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelMap, LabelScheme, Structure
from diffatlas.io import read_label_map
from diffatlas.render import meshes, png_bytes, write_gif, write_glb, write_png
from diffatlas.render.animation import MAX_FRAMES, thinned
from diffatlas.render.meshes import TO_GLTF

HIPPOCAMPUS_DATA = Path(__file__).resolve().parents[2] / "../shared/data/hippocampus"
ONE = LabelScheme("one", (Structure("blob", 7, (200, 100, 50)),))

Pixels = NDArray[np.uint8]


def diagonal(*spacing_mm: float) -> NDArray[np.float64]:
    return np.diag([*spacing_mm, 1.0])


def ball(grid: Grid, radius_mm: float, offset_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Voxels within ``radius_mm`` of a point beside the middle of the grid."""
    world = grid.to_world(np.indices(grid.shape, dtype=np.float64).transpose(1, 2, 3, 0))
    return np.linalg.norm(world - grid.centre_mm - np.array(offset_mm), axis=-1) < radius_mm


def noise_film(count: int, seed: int = 0) -> list[Pixels]:
    """Gray noise with a thin line in one of the scheme's colours."""
    rng = np.random.default_rng(seed)
    film = []
    for i in range(count):
        picture = np.repeat(rng.integers(0, 256, (60, 80, 1), dtype=np.uint8), 3, axis=2)
        picture[10 + i % 40, 5:75] = MMWHS.structures[1].color
        film.append(picture)
    return film


def frames_and_ms(path: Path) -> tuple[list[Pixels], list[int]]:
    """The frames of a GIF as RGB and how long each is shown."""
    pictures, durations = [], []
    with Image.open(path) as gif:
        for i in range(getattr(gif, "n_frames", 1)):
            gif.seek(i)
            durations.append(int(gif.info["duration"]))
            pictures.append(np.asarray(gif.convert("RGB")))
        assert gif.info["loop"] == 0
    return pictures, durations


def test_gif_has_every_frame_its_time_and_its_colours(tmp_path: Path) -> None:
    path = tmp_path / "run.gif"
    film = noise_film(6)
    write_gif(iter(film), path, fps=10, hold_last_s=1.5)
    pictures, durations = frames_and_ms(path)
    assert durations == [100] * 5 + [1600]
    for i, (shown, original) in enumerate(zip(pictures, film, strict=True)):
        assert shown.shape == original.shape
        assert np.abs(shown[10 + i, 5:75].astype(int) - MMWHS.structures[1].color).max() <= 8
        assert np.abs(shown.astype(int) - original).mean() < 4
    assert list(tmp_path.iterdir()) == [path]


def test_equal_neighbours_keep_their_time(tmp_path: Path) -> None:
    path = tmp_path / "still.gif"
    still = noise_film(1)[0]
    write_gif([still, still, still, 255 - still], path, fps=20, hold_last_s=0)
    assert frames_and_ms(path)[1] == [150, 50]


@pytest.mark.parametrize("n", [1, 2, MAX_FRAMES, MAX_FRAMES + 1, 300, 1000])
def test_a_long_film_is_thinned_evenly(n: int) -> None:
    kept = thinned(iter(range(n)), MAX_FRAMES)
    assert len(kept) == len(set(kept)) == min(n, len(kept)) <= MAX_FRAMES
    assert (kept[0], kept[-1]) == (0, n - 1)
    if n <= MAX_FRAMES:
        assert kept == list(range(n))
    else:
        assert len(kept) > MAX_FRAMES // 2
        assert np.diff(kept).max() <= 2 * np.ceil(n / MAX_FRAMES)


def test_a_gif_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run.gif"
    path.write_bytes(b"the last good file")

    def breaks() -> Iterator[Pixels]:
        yield noise_film(1)[0]
        raise RuntimeError("the model stopped")

    with pytest.raises(RuntimeError, match="the model stopped"):
        write_gif(breaks(), path)
    with pytest.raises(ValueError, match="one size"):
        write_gif([noise_film(1)[0], noise_film(1)[0][:30]], path)
    with pytest.raises(BadInput, match="no pictures"):
        write_gif([], path)
    for fps in (0, 51, float("nan")):
        with pytest.raises(BadInput, match="frames per second"):
            write_gif(noise_film(2), path, fps=fps)
    with pytest.raises(BadInput, match="held"):
        write_gif(noise_film(2), path, hold_last_s=-1)
    assert path.read_bytes() == b"the last good file"
    assert list(tmp_path.iterdir()) == [path]


def test_png_round_trip(tmp_path: Path) -> None:
    picture = noise_film(1)[0]
    write_png(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    assert (tmp_path / "a.png").read_bytes() == png_bytes(picture)


@pytest.fixture
def two_balls() -> LabelMap:
    """Structures 1 and 3 of five on an LPS, anisotropic, oblique grid far from the origin."""
    angle = np.deg2rad(20)
    affine = np.eye(4)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ np.diag([-1.0, -1.25, 2.0])
    affine[:3, 3] = 120, -30, 400
    grid = Grid((70, 60, 40), affine)
    labels = np.zeros(grid.shape, np.uint8)
    labels[ball(grid, 12, (14, 5, 3))] = 1
    labels[ball(grid, 9, (-15, -4, 8))] = 3
    return LabelMap(labels, grid, MMWHS)


def test_glb_holds_the_structures_where_they_are(two_balls: LabelMap, tmp_path: Path) -> None:
    path = tmp_path / "heart.glb"
    write_glb(two_balls, path)
    scene = trimesh.load(path)
    assert isinstance(scene, trimesh.Scene)
    assert set(scene.geometry) == {"left ventricle", "left atrium"}
    centre = two_balls.grid.centre_mm
    for name, radius, offset in (("left ventricle", 12, (14, 5, 3)), ("left atrium", 9, (-15, -4, 8))):
        mesh = scene.geometry[name].copy()
        # Metres, +Y up, facing +Z, the patient's left on the viewer's right (+X).
        r, a, s = (centre + offset) / 1000
        assert mesh.center_mass == pytest.approx([-r, s, a], abs=3e-4)
        mesh.apply_transform(np.linalg.inv(TO_GLTF))
        np.testing.assert_allclose(mesh.bounds, [centre + offset - radius, centre + offset + radius], atol=1.0)
        assert mesh.is_watertight
        assert mesh.volume / 1000 == pytest.approx(two_balls.volumes_ml()[name], rel=0.04)
        outwards = np.einsum("ij,ij->i", mesh.vertex_normals, mesh.vertices - (centre + offset))
        assert (outwards > 0).all()
    material = scene.geometry["left atrium"].visual.material
    assert material.name == "left atrium"
    # (230, 159, 0) in sRGB is (0.791, 0.347, 0) in the linear values of glTF.
    np.testing.assert_allclose(np.asarray(material.baseColorFactor)[:3] / 255, [0.791, 0.347, 0], atol=0.004)


def test_meshes_do_not_depend_on_storage(two_balls: LabelMap) -> None:
    orientation = nio.axcodes2ornt(("S", "R", "P"))
    stored = LabelMap(reorient(two_balls.data, orientation), two_balls.grid.reoriented(orientation), two_balls.scheme)
    for name, mesh in meshes(two_balls).items():
        other = meshes(stored)[name]
        np.testing.assert_allclose(other.bounds, mesh.bounds, atol=1e-3)
        # Marching cubes cuts ambiguous cells along the axes' order: the surfaces agree, not every triangle.
        assert other.volume == pytest.approx(mesh.volume, rel=1e-4)
        assert mesh.volume > 0


def test_given_distances_are_used_as_they_are() -> None:
    grid = Grid((40, 40, 40), diagonal(1, 1, 1))
    world = grid.to_world(np.indices(grid.shape, dtype=np.float64).transpose(1, 2, 3, 0))
    sdf = (np.linalg.norm(world - grid.centre_mm, axis=-1) - 12).astype(np.float32)[None]
    mesh = meshes(LabelMap((sdf[0] < 0).astype(np.uint8), grid, ONE), sdf)["blob"]
    distance = np.linalg.norm(mesh.vertices - grid.centre_mm, axis=1)
    np.testing.assert_allclose(distance, 12, atol=0.02)
    with pytest.raises(ValueError, match="sdf must be of shape"):
        meshes(LabelMap(np.zeros(grid.shape, np.uint8), grid, MMWHS), sdf)


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((6, 6, 6), np.s_[2:3, 3:4, 1:2]),  # one voxel
        ((12, 12, 12), np.s_[4:5, 1:11, 1:11]),  # one voxel thick
        ((6, 6, 6), np.s_[:, :, :]),  # fills the grid
        ((300, 6, 6), np.s_[2:298, 1:5, 1:5]),  # sampled more coarsely
    ],
)
def test_thin_and_cut_structures_keep_a_closed_surface(
    shape: tuple[int, int, int], box: tuple[slice, slice, slice]
) -> None:
    labels = np.zeros(shape, np.uint8)
    labels[box] = 1
    mesh = meshes(LabelMap(labels, Grid(shape, diagonal(1, 1, 1)), ONE))["blob"]
    assert mesh.is_watertight
    assert mesh.volume > 0
    start, stop, _ = zip(*(s.indices(n) for s, n in zip(box, shape, strict=True)), strict=True)
    np.testing.assert_allclose(mesh.bounds, [np.array(start) - 0.5, np.array(stop) - 0.5], atol=1.1)


def test_an_empty_label_map_makes_no_glb(tmp_path: Path) -> None:
    path = tmp_path / "empty.glb"
    grid = Grid((4, 4, 4), np.eye(4))
    with pytest.raises(BadInput, match=r"empty\.glb: there is no structure"):
        write_glb(LabelMap(np.zeros(grid.shape, np.uint8), grid, MMWHS), path)
    assert not path.exists()


@pytest.mark.skipif(not HIPPOCAMPUS_DATA.is_dir(), reason="the hippocampus data are not beside this checkout")
def test_meshes_of_a_real_case_have_its_volumes() -> None:
    labels = read_label_map(HIPPOCAMPUS_DATA / "labels/hippocampus_190.nii.gz", HIPPOCAMPUS)
    found = meshes(labels)
    assert set(found) == set(HIPPOCAMPUS.names)
    for name, mesh in found.items():
        assert mesh.is_watertight
        assert mesh.volume / 1000 == pytest.approx(labels.volumes_ml()[name], rel=0.04)
