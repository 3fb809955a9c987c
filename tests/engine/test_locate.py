"""The search, with an answer that sees a bright ball and nothing else; the real network once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from diffatlas.engine.locate import LIKELY, SURE, Look, Proposal, confidence, glance, search
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.space import ModelSpace, Window, field_of_view
from diffatlas.geometry.volume import Volume

SPACE = ModelSpace((24, 24, 24), (2.0, 2.0, 2.0), 10.0, {"ct": Window("range", 0.0, 100.0)})
RADIUS_MM = 12.0
BALL_ML = 4 / 3 * np.pi * RADIUS_MM**3 / 1000


def ball(centre_mm: Any, spacing_mm: Any = (2.0, 2.0, 2.0), size_mm: float = 140.0, axes: str = "RAS") -> Volume:
    """A ball of 100 in nothing, about ``centre_mm``, in a cube of ``size_mm`` about the origin."""
    signs = [1.0 if code in "RAS" else -1.0 for code in axes]
    shape = tuple(round(size_mm / s) for s in spacing_mm)
    affine = np.diag([*(s * d for s, d in zip(spacing_mm, signs, strict=True)), 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    at = grid.to_world(np.moveaxis(np.indices(shape, dtype=float), 0, -1))
    near = np.linalg.norm(at - np.asarray(centre_mm), axis=-1) < RADIUS_MM
    return Volume(np.where(near, 100.0, 1.0 + at[..., 0] % 7).astype(np.float32), grid, "ct", "ball")


def honest(image: NDArray[np.float32], known: Any, seed: int) -> NDArray[np.float32]:
    """What is bright is the structure."""
    return -image[None]


def made_up(image: NDArray[np.float32], known: Any, seed: int) -> NDArray[np.float32]:
    """A ball in the middle of the view, wherever it looks."""
    index = np.indices(image.shape) - (np.array(image.shape).reshape(3, 1, 1, 1) - 1) / 2
    return (np.linalg.norm(index * 2.0, axis=0) - RADIUS_MM)[None].astype(np.float32)


def proposal_of(looks: list[Look]) -> Proposal:
    assert all(look.proposal is None for look in looks[:-1])
    assert [look.index for look in looks] == list(range(len(looks)))
    proposal = looks[-1].proposal
    assert proposal is not None
    return proposal


@pytest.mark.parametrize("centre_mm", [(0, 0, 0), (40, -35, 20), (-55, 50, -52), (50, 0, -50)])
def test_the_ball_is_found_wherever_it_is(centre_mm: Any) -> None:
    proposal = proposal_of(list(search(ball(centre_mm), SPACE, honest, [BALL_ML])))
    assert np.linalg.norm(proposal.centre_mm - centre_mm) < 3.0
    assert proposal.confidence > SURE
    assert proposal.words.startswith("found, ")


@pytest.mark.parametrize(
    ("spacing_mm", "axes"), [((1.0, 1.0, 1.0), "LPS"), ((0.5, 0.5, 4.0), "RAS"), ((3, 3, 3), "LAI")]
)
def test_resolution_and_orientation_do_not_matter(spacing_mm: Any, axes: str) -> None:
    centre_mm = np.array([30.0, -20.0, 25.0])
    volume = ball(centre_mm, spacing_mm, 100.0, axes)
    proposal = proposal_of(list(search(volume, SPACE, honest, [BALL_ML])))
    assert np.linalg.norm(proposal.centre_mm - centre_mm) < 3.0
    middle = volume.grid.to_world(np.array([(a + b - 1) / 2 for a, b in proposal.roi]))
    low, high = -50 + 24, 50 - 24  # the field of view is moved into the volume
    assert middle == pytest.approx(np.clip(proposal.centre_mm, low, high), abs=max(spacing_mm))


def test_what_is_made_up_moves_with_the_view_and_is_not_believed() -> None:
    proposal = proposal_of(list(search(ball((0, 0, 0)), SPACE, made_up, [BALL_ML])))
    assert proposal.fit > 0.8  # its volume is right everywhere
    assert proposal.agreement < 0.8
    assert proposal.confidence < LIKELY
    assert proposal.words.startswith("not found")


def test_nothing_found_is_said() -> None:
    looks = list(search(ball((0, 0, 0)), SPACE, lambda image, known, seed: np.ones((2, *image.shape), np.float32)))
    proposal = proposal_of(looks)
    assert (proposal.confidence, proposal.fit) == (0.0, 0.0)
    assert proposal.centre_mm == pytest.approx((0, 0, 0))


def test_a_search_that_is_sure_stops_and_an_empty_volume_costs_no_answer() -> None:
    here = list(search(ball((0, 0, 0)), SPACE, honest, [BALL_ML]))
    corner = list(search(ball((55, 55, 55)), SPACE, honest, [BALL_ML]))
    assert len(here) < 6 < len(corner)
    asked = []

    def counting(image: NDArray[np.float32], known: Any, seed: int) -> NDArray[np.float32]:
        asked.append(seed)
        return honest(image, known, seed)

    flat = Volume(np.full((70, 70, 70), 5.0, np.float32), Grid((70, 70, 70), np.diag([2.0, 2, 2, 1])), "ct")
    assert proposal_of(list(search(flat, SPACE, counting, [BALL_ML]))).confidence == 0.0
    assert asked == []


def test_a_volume_too_large_to_cover_is_said() -> None:
    tiny = ModelSpace((4, 4, 4), (1.0, 1.0, 1.0), 3.0, {})
    volume = Volume(
        np.random.default_rng(0).random((150, 150, 150), dtype=np.float32), Grid((150, 150, 150), np.eye(4))
    )
    looks = search(volume, tiny, lambda image, known, seed: np.ones((1, *image.shape), np.float32))
    seen = list(looks)
    assert len(seen) <= 401
    assert not proposal_of(seen).covered


def test_a_limit_ends_the_search_early_and_is_said() -> None:
    looks = list(search(ball((55, 55, 55)), SPACE, honest, [BALL_ML], limit=3))
    assert len(looks) == 4
    assert not proposal_of(looks).covered
    assert "did not cover" in proposal_of(looks).words


@pytest.mark.parametrize("centre_mm", [(0, 0, 0), (11, -9, 6)])
def test_one_look_centres_what_it_sees_in_a_volume_hardly_larger_than_the_view(centre_mm: Any) -> None:
    found = glance(ball(centre_mm, size_mm=62.0), SPACE, honest, [BALL_ML])
    assert found is not None
    assert np.linalg.norm(found - centre_mm) < 3.0


def test_one_look_is_not_enough_in_a_large_volume_or_where_nothing_fits() -> None:
    def unasked(image: NDArray[np.float32], known: Any, seed: int) -> NDArray[np.float32]:
        raise AssertionError

    assert glance(ball((0, 0, 0), size_mm=70.0), SPACE, unasked, [BALL_ML]) is None
    assert glance(ball((0, 0, 0), size_mm=62.0), SPACE, honest, [10 * BALL_ML]) is None


def test_confidence_grows_with_agreement_and_fit() -> None:
    assert confidence(0.97, 0.8) > SURE > LIKELY > confidence(0.8, 0.8)
    assert confidence(0.9, 0.9) > confidence(0.9, 0.5)


def test_field_of_view_ranges() -> None:
    grid = Grid((100, 60, 20), np.diag([1.0, 1.0, 2.0, 1.0]))
    assert field_of_view(SPACE, grid, np.array([50.0, 30.0, 19.0])) == ((26, 74), (6, 54), (0, 20))
    assert field_of_view(SPACE, grid, np.array([0.0, 59.0, 19.0])) == ((0, 48), (12, 60), (0, 20))
    flipped = Grid((100, 60, 20), np.diag([-1.0, 1.0, 2.0, 1.0]))
    assert field_of_view(SPACE, flipped, np.array([-50.0, 30.0, 19.0])) == ((26, 74), (6, 54), (0, 20))


def test_the_network_finds_a_heart_far_from_the_middle() -> None:
    from diffatlas.engine.request import Request
    from diffatlas.phantom import phantom
    from diffatlas.session import locate

    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    shape = np.array([75, 60, 70])
    affine[:3, 3] = -np.array([55.0, -20.0, 45.0]) - 4.0 * (shape - 1) / 2  # the heart lies at the origin
    volume, truth = phantom(800_002, "ct", Grid((75, 60, 70), affine))
    proposal = proposal_of(list(locate(volume, Request(model="heart-phantom"))))
    found = np.argwhere(truth.data > 0)
    middle = truth.grid.to_world((found.min(axis=0) + found.max(axis=0)) / 2)
    assert np.linalg.norm(proposal.centre_mm - middle) < 20.0
    assert proposal.confidence > SURE
