"""The seam on a small random network: what a run yields, leaves, repeats and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from diffatlas.diffusion import denoise
from diffatlas.engine.request import PRESETS, MaskEdit, Request
from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Volume
from diffatlas.session import Frame, Result, load_model, needs_search, segment, start, stream
from tests.geometry.test_grid import ORIENTATIONS, stored
from tests.geometry.test_space import ball_grid


@pytest.fixture
def request_(tiny_model: Path) -> Request:
    return Request(model=str(tiny_model), steps=3, seed=5, precision="fp32")


def volume_on(grid: Grid) -> Volume:
    world = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).astype(float))
    data = 100 * np.exp(-(((world - (4, -3, 2)) / 9) ** 2).sum(-1)) + 20 * np.sin(world[..., 0] / 3)
    return Volume(data.astype(np.float32), grid, "mr", "ball")


VOLUME = volume_on(ball_grid((28, 30, 26), (1.0, 1.2, 1.1)))


def last(frames: list[Frame]) -> Result:
    assert all(f.result is None for f in frames[:-1])
    assert frames[-1].result is not None
    return frames[-1].result


def test_frames_say_what_they_are(request_: Request) -> None:
    frames = list(stream(VOLUME, replace(request_, steps=4)))
    assert [f.index for f in frames] == [0, 1, 2, 3]
    assert [f.t for f in frames] == pytest.approx([0.75, 0.5, 0.25, 0.0])
    for frame in frames:
        assert frame.labels.shape == frame.image.shape == frame.noisy_image.shape == frame.grid.shape == (16, 16, 16)
        assert frame.sdf.shape == (2, 16, 16, 16)
        assert np.abs(frame.sdf).max() <= 6.0
        assert np.abs(frame.image).max() <= 1.0
        counts = [(frame.labels == k).sum() * frame.grid.voxel_volume_ml for k in (1, 2)]
        assert list(frame.metrics.volumes_ml.values()) == pytest.approx(counts)
    assert frames[0].metrics.mask_change is None
    assert all(f.metrics.mask_change is not None for f in frames[1:])
    result = last(frames)
    assert result.labels.grid is VOLUME.grid
    assert len(result.metrics) == 4


@pytest.mark.parametrize("task", ["segment", "generate"])
def test_the_start_is_what_the_network_is_given_first(request_: Request, task: Literal["segment", "generate"]) -> None:
    volume = VOLUME if task == "segment" else None
    request = replace(request_, task=task, guidance="image" if volume else "none")
    begin = start(volume, request)
    given: list[NDArray[np.float32]] = []
    network = load_model(request.model).network
    hook = network.register_forward_pre_hook(lambda _, x: given.append(x[0].numpy().copy()))
    first = next(iter(stream(volume, request)))
    hook.remove()
    np.testing.assert_array_equal(begin.sdf, given[0][0, 1:] * np.float32(6.0))
    if volume is None:  # else the image half is the patient's, at the guidance's noise
        np.testing.assert_array_equal(begin.noisy_image, given[0][0, 0])
    assert begin.grid.same_as(first.grid)
    assert (begin.index, begin.total, begin.t, begin.result) == (-1, first.total, 1.0, None)
    assert begin.scheme == first.scheme
    assert np.unique(begin.labels).tolist() == [0, 1, 2]


def test_what_a_run_would_search(request_: Request) -> None:
    assert not needs_search(VOLUME, request_.model)
    assert needs_search(volume_on(ball_grid((48, 30, 26), (1.0, 1.2, 1.1))), request_.model)


def test_frames_do_not_share_memory(request_: Request) -> None:
    frames = list(stream(VOLUME, request_))
    before = frames[0].image.copy()
    frames[1].image[:] = 7
    np.testing.assert_array_equal(frames[0].image, before)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp-2m"])
@pytest.mark.parametrize("guidance", ["image", "gradient", "none"])
def test_every_sampler_takes_every_guidance(request_: Request, sampler: str, guidance: str) -> None:
    result = segment(VOLUME, replace(request_, sampler=sampler, guidance=guidance))  # type: ignore[arg-type]
    assert result.labels.data.shape == VOLUME.grid.shape
    residuals = [m.guidance_residual for m in result.metrics]
    assert all(r is None for r in residuals) if guidance == "none" else all(r is not None for r in residuals)


def test_seeds_repeat_and_differ(request_: Request) -> None:
    a, b = (segment(VOLUME, request_) for _ in range(2))
    np.testing.assert_array_equal(a.labels.data, b.labels.data)
    one, other = (list(stream(VOLUME, replace(request_, seed=s)))[-1].sdf for s in (5, 6))
    assert not np.array_equal(one, other)


def test_a_batch_is_its_samples(request_: Request) -> None:
    together = list(stream(VOLUME, replace(request_, samples=3)))
    alone = [list(stream(VOLUME, replace(request_, seed=5 + i)))[-1].sdf for i in range(3)]
    np.testing.assert_allclose(together[-1].sdf, np.mean(alone, axis=0), atol=1e-6)
    confidence = together[-1].confidence
    assert confidence is not None
    assert set(np.round(np.unique(confidence) * 3).astype(int)) <= {0, 1, 2, 3}
    whole = last(together).confidence
    assert whole is not None
    assert whole.shape == VOLUME.grid.shape


def test_several_samples_leave_the_mask_of_each(request_: Request) -> None:
    result = segment(VOLUME, replace(request_, samples=3))
    assert len(result.masks) == 3
    for index, mask in enumerate(result.masks):
        *_, alone = stream(VOLUME, replace(request_, seed=request_.seed + index))
        assert np.array_equal(mask.data, alone.labels)
        assert mask.grid.same_as(alone.grid)
    assert segment(VOLUME, request_).masks == ()


@pytest.mark.parametrize(("permutation", "flips"), ORIENTATIONS[::5])
def test_labels_do_not_depend_on_how_the_volume_is_stored(
    request_: Request, permutation: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    expected, _ = stored(segment(VOLUME, request_).labels.data, VOLUME.grid, permutation, flips)
    data, grid = stored(VOLUME.data, VOLUME.grid, permutation, flips)
    labels = segment(Volume(data, grid, "mr"), request_).labels
    assert labels.grid is grid
    assert (labels.data != expected).mean() < 2e-3


def test_oblique_and_anisotropic_sources(request_: Request) -> None:
    for grid in (ball_grid((28, 30, 26), (1.0, 1.2, 1.1), degrees=30), ball_grid((60, 60, 6), (0.5, 0.5, 5.0))):
        assert segment(volume_on(grid), request_).labels.data.shape == grid.shape


def test_a_report_replays_to_the_same_bytes(request_: Request) -> None:
    first = segment(VOLUME, replace(request_, samples=2, guidance_noise=0.3, roi=((4, 24), (5, 25), (3, 23))))
    report = json.loads(json.dumps(first.report()))
    again = segment(VOLUME, Request.from_json(report["provenance"]["request"]))
    assert again.labels.data.tobytes() == first.labels.data.tobytes()
    assert again.provenance["source"] == first.provenance["source"]
    assert len(report["frames"]) == 3
    assert (first.labels.data[:4] == 0).all()


def test_closing_stops_within_a_step(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = denoise.as_denoiser

    def counting(*args: object, **kwargs: object) -> object:
        denoiser = real(*args, **kwargs)  # type: ignore[arg-type]

        def counted(*inputs: object) -> object:
            calls.append(1)
            return denoiser(*inputs)  # type: ignore[arg-type]

        return counted

    monkeypatch.setattr(denoise, "as_denoiser", counting)
    frames = stream(VOLUME, replace(request_, steps=50))
    next(frames)
    before = len(calls)
    frames.close()  # type: ignore[attr-defined]
    assert len(calls) == before == 1
    assert next(frames, None) is None


def test_generate_makes_pairs(request_: Request) -> None:
    result = segment(None, replace(request_, task="generate", samples=3))
    assert len(result.images) == len(result.masks) == 3
    assert result.images[0].grid.spacing_mm == (2.0, 2.0, 2.0)
    one = segment(None, replace(request_, task="generate", seed=6))
    np.testing.assert_array_equal(one.images[0].data, result.images[1].data)


def mask_on(volume: Volume) -> np.ndarray:
    mask = np.zeros(volume.grid.shape, dtype=np.uint8)
    mask[8:18, 9:20, 8:17] = 1
    mask[18:24, 9:20, 8:17] = 2
    return mask


def test_paint_keeps_the_mask(request_: Request) -> None:
    mask = mask_on(VOLUME)
    frames = list(stream(VOLUME, replace(request_, task="paint", edit=MaskEdit(mask))))
    result = last(frames)
    np.testing.assert_array_equal(result.labels.data, mask)
    assert len(result.images) == 1
    inside = (frames[0].labels == 1).sum() * frames[0].grid.voxel_volume_ml
    assert inside == pytest.approx((mask == 1).sum() * VOLUME.grid.voxel_volume_ml, rel=0.15)
    np.testing.assert_array_equal(frames[0].labels, frames[-1].labels)


def test_an_edit_resumes_and_a_pin_holds(request_: Request) -> None:
    mask, pinned = mask_on(VOLUME), np.zeros(VOLUME.grid.shape, dtype=bool)
    pinned[9:17, 10:19, 9:16] = True
    resumed = list(stream(VOLUME, replace(request_, steps=10, edit=MaskEdit(mask, t=0.4))))
    assert len(resumed) == 4
    assert resumed[0].t == pytest.approx(0.3)
    held = segment(VOLUME, replace(request_, steps=10, edit=MaskEdit(mask, pinned, t=0.4)))
    assert (held.labels.data[11:15, 12:17, 11:14] == 1).all()
    free = last(resumed)
    assert not np.array_equal(free.labels.data, held.labels.data)


def test_an_edit_survives_json(request_: Request) -> None:
    mask, pinned = mask_on(VOLUME), mask_on(VOLUME) == 2
    asked = replace(request_, edit=MaskEdit(mask, pinned, 0.25), roi=((0, 5), (1, 6), (2, 7)))
    back = Request.from_json(json.dumps(asked.to_json()))
    assert back.edit is not None
    np.testing.assert_array_equal(back.edit.labels, mask)
    np.testing.assert_array_equal(back.edit.pinned, pinned)
    assert back == asked


def test_presets_and_single_options() -> None:
    def filled(request: Request) -> Request:
        return request.resolved(PRESETS[request.preset], 0.4)

    fast, watch, published = (filled(Request(preset=p)) for p in ("fast", "watch", "published"))
    assert watch.steps is not None
    assert fast.steps is not None
    assert fast.steps < 5 < 30 <= watch.steps <= 50
    assert (published.steps, published.sampler, published.guidance_noise) == (300, "ddpm", 1.0)
    assert watch.guidance_noise == 0.4
    assert filled(Request(preset="published", steps=7)).steps == 7


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"steps": 10**6},
        {"samples": 0},
        {"seed": -1},
        {"guidance_noise": 1.5},
        {"guidance_noise": float("nan")},
        {"sampler": "euler"},
        {"preset": "slow"},
        {"task": "paint"},
        {"roi": ((0, 1), (0, 1))},
    ],
)
def test_requests_that_make_no_sense(bad: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        Request(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["[]", "{", '{"colour": 1}', '{"steps": "many"}', '{"edit": {"shape": [2, 2, 2]}}'])
def test_json_that_is_no_request(text: str) -> None:
    with pytest.raises(BadInput, match=r"not a request|must be"):
        Request.from_json(text)


def test_modality_must_fit_unless_insisted(request_: Request) -> None:
    ct = replace(VOLUME, modality="ct")
    with pytest.raises(BadInput, match="looks like ct"):
        next(stream(ct, request_))
    assert segment(ct, replace(request_, force=True)).labels.data.shape == VOLUME.grid.shape


def test_what_a_run_refuses(request_: Request) -> None:
    with pytest.raises(BadInput, match="no image"):
        next(stream(None, request_))
    with pytest.raises(BadInput, match="roi X"):
        next(stream(VOLUME, replace(request_, roi=((0, 99), (0, 5), (0, 5)))))
    with pytest.raises(BadInput, match="shape"):
        next(stream(VOLUME, replace(request_, edit=MaskEdit(np.zeros((2, 2, 2), np.uint8)))))
    with pytest.raises(BadInput, match="label 9"):
        next(stream(VOLUME, replace(request_, edit=MaskEdit(np.full(VOLUME.grid.shape, 9, np.uint8)))))
    with pytest.raises(BadInput, match="no model named"):
        next(stream(VOLUME, replace(request_, model="nothing")))


def test_odd_volumes_run_and_are_noted(request_: Request) -> None:
    grid = ball_grid((20, 20, 20), (1.0, 1.0, 1.0))
    constant = segment(Volume(np.full(grid.shape, 5, np.float32), grid, "mr"), request_)
    assert any("constant" in note for note in constant.notes)
    one = ball_grid((1, 1, 1), (1.0, 1.0, 1.0))
    assert segment(Volume(np.ones((1, 1, 1), np.float32), one, "mr"), request_).labels.data.shape == (1, 1, 1)
    wide = volume_on(ball_grid((90, 40, 40), (1.0, 1.0, 1.0)))
    assert any("larger than the model's field of view" in note for note in segment(wide, request_).notes)
