"""Cases that are drawn while a run trains: which ones an update sees is a function of its number."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffatlas.data import PreparedCase, prepare_case
from diffatlas.errors import BadInput
from diffatlas.train.config import TrainConfig, load_config
from diffatlas.train.loop import train
from diffatlas.train.prepared import Prepared, load_or_prepare
from diffatlas.train.renewal import Renewal
from tests.training import balls

HEARTS = """
name: tiny
title: Tiny
summary: Digital hearts on a small grid.
licence: CC0
intended_use: Tests.
data_note: drawn
limits: [tiny]
space:
  shape: [16, 16, 16]
  spacing_mm: [10, 10, 10]
  sdf_clip_mm: 15
  windows: {mr: {kind: percentile, low: 0.5, high: 99.5}}
data: {source: phantom, cases: 4, holdout: 1, renew: 0.75, margin: 0, scheme: mmwhs, cache: cases.safetensors}
network: {widths: [8, 8], embedding: 16}
steps: 4
decay: 0
batch: 2
threads: 1
precision: fp32
pictures: false
run_folder: run
export: model
"""


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    (tmp_path / "train.yaml").write_text(HEARTS)
    return load_config(tmp_path / "train.yaml")


def training_cases(config: TrainConfig) -> Prepared:
    return load_or_prepare(config.data, config.space).subset([0, 1, 2])


def test_places_get_new_cases_in_turn_and_no_case_comes_twice(config: TrainConfig) -> None:
    with Renewal(config.data, config.space, training_cases(config), 0, ThreadPoolExecutor(1)) as renewal:
        drawn = [renewal.case(number) for number in range(12)]
    for turn in range(0, 12, 3):
        assert sorted(place for place, _ in drawn[turn : turn + 3]) == [0, 1, 2]
    seeds = [case.image.seed for _, case in drawn]  # type: ignore[union-attr]
    assert len({*seeds, 0, 1, 2}) == 15


def test_an_update_sees_the_same_cases_whether_reached_in_steps_or_at_once(config: TrainConfig) -> None:
    first, walked, jumped = (training_cases(config) for _ in range(3))
    with Renewal(config.data, config.space, walked, 0, ThreadPoolExecutor(1)) as renewal:
        for update in range(8):
            renewal.to(update)
        expected = {renewal.case(number)[0]: renewal.case(number)[1] for number in range(int(7 * 0.75))}
        plan = renewal.plan
    with Renewal(config.data, config.space, jumped, 0, ThreadPoolExecutor(1)) as renewal:
        renewal.to(7)
    assert torch.equal(walked.image, jumped.image)
    assert torch.equal(walked.sdf, jumped.sdf)
    assert not torch.equal(walked.sdf, first.sdf)
    for place, case in expected.items():
        alone = prepare_case(case, plan)
        assert isinstance(alone, PreparedCase)
        assert torch.equal(walked.sdf[place], torch.from_numpy(alone.sdf))


def test_what_was_drawn_ahead_is_left_out_where_the_set_is_renewed_more_than_once(config: TrainConfig) -> None:
    walked, jumped = training_cases(config), training_cases(config)
    for data, stops in ((walked, (1, 20)), (jumped, (20,))):
        with Renewal(config.data, config.space, data, 0, ThreadPoolExecutor(1)) as renewal:
            for update in stops:
                renewal.to(update * 2)
    assert torch.equal(walked.sdf, jumped.sdf)


def test_a_resumed_run_comes_to_the_same_bits(config: TrainConfig) -> None:
    whole = config.model_copy(update={"run_folder": config.run_folder.with_name("whole")})
    train(whole)
    train(config.model_copy(update={"steps": 2}))
    train(config)
    expected, found = (load_file(c.run_folder / "last.safetensors") for c in (whole, config))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_only_what_is_drawn_can_be_renewed(tmp_path: Path) -> None:
    with_files = load_config(balls(tmp_path), ["data.renew=1"])
    with pytest.raises(BadInput, match=r"data\.renew: the source .folder. has no more cases"):
        train(with_files)
