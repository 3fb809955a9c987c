"""Placement, walk and result, each without the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffatlas.engine.backend import hash_beside
from diffatlas.engine.device import Compute
from diffatlas.engine.placement import EditedMask, Placement, edited_mask, place
from diffatlas.engine.plan import Plan, plan
from diffatlas.engine.request import MaskEdit, Request
from diffatlas.engine.result import Frames, agreement, outside
from diffatlas.engine.run_record import RecordedImage
from diffatlas.engine.walk import Walk, WalkStep, batch_noise, denoiser_of
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import HIPPOCAMPUS, Volume
from diffatlas.models.store import load_model
from tests.geometry.test_space import ball_grid

CPU = Compute(torch.device("cpu"))


def unasked(*_: Any) -> Any:
    raise AssertionError("the network was asked")


def volume(shape: tuple[int, int, int] = (24, 26, 22), spacing_mm: float = 1.0) -> Volume:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return Volume(values, ball_grid(shape, (spacing_mm,) * 3), "mr", "noise")


@pytest.fixture
def request_(tiny_model: Path) -> Request:
    return Request(model=str(tiny_model), steps=3, seed=5, precision="fp32")


# -- placement -----------------------------------------------------------------------------------------------------


def test_what_the_volume_does_not_cover_is_not_known(request_: Request) -> None:
    small = volume((10, 32, 32))  # the field of view is 32 mm long: it covers 10 of them along x
    placed = place(plan(small, request_), small, unasked)
    assert placed.image is not None
    assert placed.known is not None
    # A model voxel of 2 mm counts where it overlaps the 10 mm at all, 6 at most.
    columns = placed.known.any(axis=(1, 2))
    assert 5 <= columns.sum() <= 6
    assert (placed.image[~placed.known] == -1).all()
    assert placed.known[7:9].all()


def test_a_large_volume_is_searched_and_nothing_else_is(request_: Request) -> None:
    large = volume((60, 30, 30))
    asked = []

    def nothing_there(image: Any, known: Any, seed: int) -> Any:
        asked.append(seed)
        return np.ones((2, *image.shape), np.float32)

    placed = place(plan(large, request_), large, nothing_there)
    assert asked
    assert "a search placed it 0 mm from the volume's centre: not found" in placed.notes[0]
    boxed = replace(request_, roi=((0, 30), (0, 30), (0, 30)))
    assert not any("search" in note for note in place(plan(large, boxed), large, unasked).notes)


def test_pins_arrive_on_the_model_grid(request_: Request) -> None:
    source = volume((32, 32, 32))
    labels = np.zeros(source.grid.shape, np.uint8)
    labels[8:24, 8:24, 8:24] = 1
    pinned = np.zeros(source.grid.shape, bool)
    pinned[:16] = True
    planned = plan(source, replace(request_, edit=MaskEdit(labels, pinned)))
    edited = edited_mask(planned, place(planned, source, unasked))
    assert edited is not None
    assert edited.pinned is not None
    np.testing.assert_array_equal(edited.pinned, np.arange(16)[:, None, None] < np.full((16, 16, 16), 8))
    assert edited.channels.shape == (2, 16, 16, 16)
    assert (edited.channels[0, 5:11, 5:11, 5:11] < 0).all()
    np.testing.assert_array_equal(edited.channels[1], 1)  # an absent structure is at the clip distance everywhere
    assert edited_mask(plan(source, request_), place(planned, source, unasked)) is None


# -- walk ----------------------------------------------------------------------------------------------------------


def walked(request: Request, batch: int | None = None) -> list[tuple[Any, Any, Any]]:
    """Of each step: what was seen [X, Y, Z], images [S, X, Y, Z] and distances [S, K, X, Y, Z]."""
    source = None if request.task == "generate" else volume()
    planned = plan(source, request)
    placement = place(planned, source, unasked)
    denoiser = denoiser_of(load_model(request.model), planned, CPU)
    walk = Walk(planned, placement, edited_mask(planned, placement), denoiser, CPU, batch)
    out = []
    for step in walk:
        images, distances = zip(*step.pairs, strict=True)
        out.append((step.seen, np.stack(images), np.stack(distances)))
    return out


LABELS = np.ones((24, 26, 22), np.uint8)
HALF = np.indices(LABELS.shape)[0] < 12
VARIANTS: dict[str, dict[str, Any]] = {
    "image": {"guidance_noise": 0.5},
    "fresh noise": {"sampler": "ddpm", "guidance_noise": 1.0},
    "gradient": {"guidance": "gradient", "sampler": "dpmpp-2m"},
    "pinned": {"edit": MaskEdit(LABELS, HALF, 0.6)},
    "paint": {"task": "paint", "edit": MaskEdit(LABELS)},
    "generate": {"task": "generate", "guidance": "none"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_gives_each_sample_what_it_gets_alone(request_: Request, variant: str) -> None:
    request = replace(request_, samples=3, **VARIANTS[variant])
    alone, together = walked(request, batch=1), walked(request, batch=2)  # a full batch and the rest
    assert len(alone) == len(together)
    for one, all_ in zip(alone, together, strict=True):
        for here, there in zip(all_, one, strict=True):
            np.testing.assert_allclose(here, there, atol=2e-4)
    _, images, distances = alone[0]
    pairs = [np.concatenate([images[i][None], distances[i]]) for i in range(2)]
    assert not np.allclose(pairs[0], pairs[1], atol=1e-3)


def test_noise_of_a_sample_does_not_depend_on_the_others() -> None:
    together = batch_noise((3, 4, 5), 1)((3, 2, 4))
    torch.testing.assert_close(together[1:2], batch_noise((4,), 1)((1, 2, 4)), rtol=0, atol=0)


def test_the_loaded_network_never_moves(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    elsewhere = model.on(torch.device("meta"))
    assert {p.device.type for p in elsewhere.parameters()} == {"meta"}
    assert {p.device.type for p in model.network.parameters()} == {"cpu"}
    assert model.on(torch.device("meta")) is elsewhere
    assert model.on(torch.device("cpu")) is model.network


# -- result --------------------------------------------------------------------------------------------------------


class Steps:
    """Stands in for a `Walk`: two samples that agree on the left half of a block and not on the right one."""

    guided, seconds = False, 0.5

    def __iter__(self) -> Any:
        distances = np.ones((2, 2, 16, 16, 16), np.float32)
        distances[:, 0, 4:8, 4:12, 4:12] = -0.9
        distances[0, 0, 8:12, 4:12, 4:12] = -0.9
        distances[1, 0, 8:12, 4:12, 4:12] = 0.5
        images = np.zeros((2, 16, 16, 16), np.float32)
        for index in range(2):
            yield WalkStep(index, 2, 0.5 - index / 2, images[0], zip(images, distances, strict=True))


def framed(request: Request) -> tuple[Plan, list[Any]]:
    planned = plan(None, request)
    placement = Placement(planned.card.space.grid_at(np.zeros(3)), notes=("seen",))
    frames = Frames(planned, None, placement, None, {"device": "none"}, 0.0)
    return planned, list(frames.of(Steps()))  # type: ignore[arg-type]


def test_frames_of_steps_that_no_network_made(request_: Request) -> None:
    planned, (first, last) = framed(replace(request_, samples=2, guidance="none"))
    assert first.result is None
    block = np.zeros((16, 16, 16), np.uint8)
    block[4:12, 4:12, 4:12] = 1  # the mean of -0.9 and 0.5 is inside
    np.testing.assert_array_equal(last.labels, block)
    assert last.sdf[0, 9, 9, 9] == pytest.approx(-0.2 * planned.card.space.sdf_clip_mm)
    assert (last.confidence[4:8, 4:12, 4:12] == 1).all()
    assert (last.confidence[8:12, 4:12, 4:12] == 0.5).all()
    assert last.metrics.volumes_ml["anterior hippocampus"] == pytest.approx(8**3 * 8 / 1000)
    assert (first.metrics.mask_change, last.metrics.mask_change) == (None, 0.0)
    result = last.result
    assert [int((m.data > 0).sum()) for m in result.masks] == [8**3, 8**3 // 2]
    assert result.notes == ("seen",)
    assert result.provenance["device"] == "none"
    assert len(result.metrics) == 2


def test_agreement_is_a_share_of_samples() -> None:
    masks = [np.array([[[1, int(sample > 0)]]], np.uint8) for sample in range(4)]
    np.testing.assert_allclose(agreement(masks, np.array([[[1, 1]]], np.uint8)), [[[1.0, 0.75]]])


def test_what_lies_beyond_the_image_is_a_share_of_each_structure() -> None:
    grid = Grid((10, 8, 8), np.diag([2.0, 2.0, 2.0, 1.0]))
    labels = np.zeros(grid.shape, np.uint8)
    labels[2:6, 2:6, 2:6] = 1
    labels[6:8, 2:6, 2:6] = 2
    turned = np.array([[0, 1.0, 0, 0], [-1.0, 0, 0, 20], [0, 0, 1.0, 0], [0, 0, 0, 1]])  # x of the world is its y
    image = Grid((21, 10, 16), turned)  # x from 0 to 9 mm: of the voxels 2 to 5 at 4, 6, 8, 10 mm one is beyond
    assert outside(labels, grid, image, HIPPOCAMPUS) == {HIPPOCAMPUS.names[0]: 0.25, HIPPOCAMPUS.names[1]: 1.0}
    assert outside(labels, grid, grid, HIPPOCAMPUS) == {}
    assert outside(np.zeros_like(labels), grid, image, HIPPOCAMPUS) == {}


def test_closing_the_frames_closes_the_walk(request_: Request) -> None:
    calls: list[int] = []
    planned = plan(volume(), replace(request_, steps=50))
    placement = place(planned, volume(), unasked)

    def counting(x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
        calls.append(1)
        return torch.zeros_like(x)

    walk = Walk(planned, placement, None, counting, CPU)
    frames: Any = Frames(planned, volume(), placement, None, {}, 0.0).of(walk)
    next(frames)
    frames.close()
    assert len(calls) == 1
    assert next(iter(walk), None) is None


def test_an_edit_is_an_edit(request_: Request) -> None:
    source = volume()
    planned = plan(source, replace(request_, task="paint", edit=MaskEdit(LABELS)))
    edited = edited_mask(planned, place(planned, source, unasked))
    assert isinstance(edited, EditedMask)
    np.testing.assert_array_equal(edited.labels.data, LABELS)


def test_the_hash_beside_a_run_is_the_volumes_own() -> None:
    hashed = hash_beside(volume())
    assert RecordedImage.of(volume(), hashed).sha256 == volume().sha256()
    assert RecordedImage.of(volume(), lambda: "known").sha256 == "known"
