"""Protocols carried out for real on cases of two balls: what is trained, what is kept, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from diffatlas.data.schemes import named_scheme
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.evaluate import runs
from diffatlas.evaluate.answers import box_of, calibration, onto
from diffatlas.evaluate.cases import slab, subjects
from diffatlas.evaluate.protocol import Protocol, load_protocol
from diffatlas.evaluate.runs import carry_out, load_weights
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.metrics import compare
from diffatlas.train.config import TrainConfig, load_config
from diffatlas.train.loop import train
from diffatlas.train.prepared import REACH, load_or_prepare
from diffatlas.train.start import starting_weights
from diffatlas.train.task import task_of

ROOT = Path(__file__).resolve().parents[2]
UNET = {"filters": [8, 8, 16]}


def protocol_file(base: Path, **more: Any) -> Path:
    value = {
        "name": "balls",
        "title": "Balls",
        "train": base.name,
        "set": {"data.holdout": 0, "steps": 2},
        "compare_to": "atlas",
        "methods": [
            {"name": "atlas", "runs": [{"name": "fast"}, {"name": "two samples", "request": {"samples": 2}}]},
            {"name": "segmenter", "task": "segmenter", "runs": [{"name": "one pass"}]},
            {"name": "unet", "task": "unet", "set": {"task_options": UNET}, "runs": [{"name": "one pass"}]},
        ],
        "settings": [
            {
                "name": "two cases",
                "kind": "few-shot",
                "train": {"only": ["case0", "case1"]},
                "test": {"only": ["case4", "case5"]},
            }
        ],
        "output": "out",
    }
    path = base.parent / "protocol.yaml"
    path.write_text(yaml.safe_dump(value | more))
    return path


def quiet(text: str) -> None:
    pass


def test_every_method_is_trained_and_scored_and_nothing_is_done_twice(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = load_protocol(protocol_file(base))
    first = carry_out(protocol, say=quiet)
    assert first.lacking == []
    assert [(t.method, t.updates, t.cases) for t in first.trainings] == [
        ("atlas", 2, 2),
        ("segmenter", 2, 2),
        ("unet", 2, 2),
    ]
    asked = {(s.method, s.run, s.case) for s in first.scores}
    assert len(asked) == len(first.scores) == 4 * 2
    assert {s.calibration is None for s in first.scores if s.run == "two samples"} == {False}
    assert all(0 <= (row["dice"] or 0) <= 1 for s in first.scores for row in s.structures.values())

    monkeypatch.setattr(runs, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(runs, "compare", lambda *_, **__: pytest.fail("scored again"))
    assert carry_out(protocol, say=quiet).scores == first.scores


def test_two_workers_find_what_one_finds(base: Path) -> None:
    """A training that two settings share, and one that learns from another, stay in one process."""
    methods = [
        {"name": "segmenter", "task": "segmenter"},
        {"name": "pupil", "task": "segmenter", "taught_by": "segmenter"},
        {"name": "unet", "task": "unet", "set": {"task_options": UNET}},
    ]
    one = {
        "name": "a",
        "kind": "few-shot",
        "train": {"only": ["case0"]},
        "unlabelled": ["case1", "case2"],
        "test": {"only": ["case4"]},
    }
    settings = [one, one | {"name": "b", "test": {"only": ["case5"]}}]
    path = protocol_file(base, methods=methods, settings=settings, compare_to="unet", output="alone")
    alone = carry_out(load_protocol(path), say=quiet)
    side_by_side = load_protocol(protocol_file(base, methods=methods, settings=settings, compare_to="unet"))
    found = carry_out(side_by_side, say=quiet, workers=2)
    assert found.lacking == []
    assert [replace(s, seconds=0) for s in found.scores] == [replace(s, seconds=0) for s in alone.scores]
    assert len(list((side_by_side.output / "trainings").iterdir())) == 3


def test_what_fails_in_a_worker_is_said_by_the_whole(base: Path) -> None:
    methods = [{"name": "segmenter", "task": "segmenter", "set": {"network.widths": [16, 16], "start_from": "model"}}]
    train(load_config(base, ["steps=1"]))
    protocol = load_protocol(protocol_file(base, methods=methods, compare_to="segmenter"))
    with pytest.raises(BadInput, match="another architecture"):
        carry_out(protocol, say=quiet, workers=2)


def test_only_the_methods_that_were_asked_for_are_trained(base: Path) -> None:
    protocol = load_protocol(protocol_file(base))
    found = carry_out(protocol, say=quiet, methods=["unet"])
    assert {t.method for t in found.trainings} == {"unet"}
    assert [line.split(" / ")[1] for line in found.lacking] == ["atlas", "segmenter"]
    with pytest.raises(BadInput, match="no method 'U-Net'; it has: atlas, segmenter, unet"):
        carry_out(protocol, say=quiet, methods=["U-Net"])


def test_scores_outlive_the_weights_they_belong_to(base: Path) -> None:
    protocol = load_protocol(protocol_file(base))
    before = carry_out(protocol, say=quiet)
    for file in (protocol.output / "trainings").rglob("*.safetensors"):
        file.unlink()
    after = carry_out(protocol, say=quiet, only_read=True)
    assert after.lacking == []
    assert after.scores == before.scores
    next((protocol.output / "scores").rglob("segmenter*.jsonl")).unlink()
    with pytest.raises(BadInput, match="weights were deleted before all cases were scored"):
        carry_out(protocol, say=quiet)


def test_a_unet_begins_with_the_weights_of_another(base: Path) -> None:
    """What belongs to a structure goes by its name; the background is the first of the outputs."""
    first = load_protocol(protocol_file(base))
    carry_out(first, say=quiet, methods=["unet"])
    (file,) = first.output.rglob("ema.safetensors")
    held = load_file(file)
    names = ("posterior hippocampus", "a new one", "anterior hippocampus")
    own = {
        "data.scheme": None,
        "data.structures": [{"name": name, "id": i + 1} for i, name in enumerate(names)],
        "task_options": UNET,
        "start_from": str(file),
    }
    methods = [{"name": "unet", "task": "unet", "set": own}]
    protocol = load_protocol(protocol_file(base, methods=methods, compare_to="unet"))
    config = protocol.training(protocol.settings[0], protocol.methods[0], 0)
    begun = starting_weights(config, task_of(config).build(config))
    heads = [key for key in held if held[key].shape[0] == 3 and key.split(".")[-3] == "conv"]
    assert len(heads) == 4  # weight and bias at two resolutions
    for key in heads:
        assert torch.equal(begun[key][[0, 3, 1]], held[key])  # background, anterior, posterior
    assert all(torch.equal(begun[key], held[key]) for key in held.keys() - set(heads))

    other = protocol.training(protocol.settings[0], first.methods[2], 0)
    assert other.run_folder != config.run_folder
    file.write_bytes(b"no weights")
    with pytest.raises(BadInput, match="not a file of weights"):
        starting_weights(config, task_of(config).build(config))
    file.unlink()
    with pytest.raises(BadInput, match="no such file"):
        starting_weights(config, task_of(config).build(config))


def test_a_training_is_another_one_when_the_weights_it_begins_with_change(base: Path) -> None:
    train(load_config(base, ["steps=1"]))
    methods = [{"name": "segmenter", "task": "segmenter", "set": {"start_from": "model"}}]
    path = protocol_file(base, methods=methods, compare_to="segmenter")

    def folder(path: Path) -> str:
        protocol = load_protocol(path)
        return protocol.training(protocol.settings[0], protocol.methods[0], 0).run_folder.parent.name

    before = folder(path)
    elsewhere = base.parent / "elsewhere"
    elsewhere.mkdir()
    (base.parent / "model").rename(elsewhere / "model")
    methods[0]["set"] = {"start_from": "elsewhere/model"}
    path = protocol_file(base, methods=methods, compare_to="segmenter")
    assert folder(path) == before  # where it lies decides nothing
    train(load_config(base, ["steps=2", "run_folder=again", "export=elsewhere/model"]))
    assert folder(path) != before


def test_settings_that_differ_only_in_what_is_tested_share_a_training(base: Path) -> None:
    setting = {"name": "a", "kind": "same-domain", "train": {"only": ["case0"]}, "test": {"only": ["case4"]}}
    other = setting | {"name": "b", "kind": "zero-shot", "test": {"only": ["case5"]}}
    third = setting | {"name": "c", "train": {"only": ["case1"]}}
    path = protocol_file(base, settings=[setting, other, third])
    protocol = load_protocol(path)
    a, b, c = (protocol.training(s, protocol.methods[0], 0).run_folder for s in protocol.settings)
    assert a == b
    assert a != c
    assert protocol.training(protocol.settings[0], protocol.methods[0], 1).run_folder != a


def test_a_torn_line_and_another_request_are_scored_again(base: Path) -> None:
    methods = [{"name": "segmenter", "task": "segmenter", "runs": [{"name": "one pass"}]}]
    protocol = load_protocol(protocol_file(base, methods=methods, compare_to="segmenter"))
    whole = carry_out(protocol, say=quiet)
    (file,) = (protocol.output / "scores").rglob("*.jsonl")
    text = file.read_text()
    file.write_text(text[:-20])
    assert "1 of 2 cases not scored" in carry_out(protocol, say=quiet, only_read=True).lacking[0]
    mended = carry_out(protocol, say=quiet)
    assert [s.structures for s in mended.scores] == [s.structures for s in whole.scores]
    assert len(file.read_text().splitlines()) == 3

    heading = json.loads(text.splitlines()[0])
    assert heading["tolerance_mm"] == 2
    other = protocol.model_copy(update={"tolerance_mm": 1.0})
    assert carry_out(other, say=quiet, only_read=True).scores == []


def test_a_protocol_out_of_time_says_what_is_lacking_and_goes_on(base: Path) -> None:
    protocol = load_protocol(protocol_file(base))
    stopped = carry_out(protocol, minutes=1e-9, say=quiet)
    assert stopped.scores == []
    assert len(stopped.lacking) == 3
    assert carry_out(protocol, say=quiet).lacking == []


def test_a_finished_model_is_scored_as_it_is(base: Path) -> None:
    first = load_protocol(protocol_file(base))
    trained = carry_out(first, say=quiet)
    folder = first.training(first.settings[0], first.methods[0], 0).export
    methods = [{"name": "shipped", "model": str(folder), "runs": [{"name": "fast"}]}]
    again = carry_out(
        load_protocol(protocol_file(base, methods=methods, compare_to="shipped", output="other")), say=quiet
    )
    ours = [s.structures for s in trained.scores if (s.method, s.run) == ("atlas", "fast")]
    assert [s.structures for s in again.scores] == ours
    assert again.trainings[0].updates is None


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"compare_to": "nnunet"}, "compare_to"),
        ({"methods": [{"name": "a"}, {"name": "A"}], "compare_to": "a"}, "same name"),
        ({"methods": [{"name": "atlas", "task": "magic"}]}, "magic"),
        ({"methods": [{"name": "atlas", "runs": [{"name": "r", "request": {"steps": 0}}]}]}, "steps"),
        ({"methods": [{"name": "atlas", "runs": [{"name": "r", "request": {"model": "x"}}]}]}, "model"),
        ({"methods": [{"name": "atlas", "task": "unet", "set": {"task_options": {"depth": 3}}}]}, "depth"),
        ({"set": {"learning_speed": 1}}, "learning_speed"),
        ({"settings": [{"name": "s", "kind": "guess"}]}, "kind"),
        ({"train": "nowhere.yaml"}, "nowhere.yaml"),
        ({"budget_tflop": 0}, "budget_tflop"),
        ({"methods": [{"name": "atlas", "taught_by": "unet"}, {"name": "unet", "task": "unet"}]}, "taught"),
        ({"methods": [{"name": "unet", "task": "unet"}, {"name": "atlas", "taught_by": "unet"}]}, "unlabelled"),
    ],
)
def test_bad_protocols_are_refused_before_anything_is_trained(base: Path, more: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        load_protocol(protocol_file(base, **more))
    assert "\n" not in str(caught.value)
    assert not (base.parent / "out").exists()


def test_a_test_case_that_is_not_there_is_refused(base: Path) -> None:
    setting = {"name": "s", "kind": "few-shot", "test": {"only": ["case9"]}}
    with pytest.raises(BadInput, match="case9"):
        carry_out(load_protocol(protocol_file(base, settings=[setting])), say=quiet)


@pytest.mark.parametrize("evidence", [False, True])
def test_a_method_is_taught_by_the_answers_of_another(
    base: Path, evidence: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = [
        {"name": "segmenter", "task": "segmenter"},
        {"name": "pupil", "task": "segmenter", "taught_by": "segmenter"},
    ]
    setting = {
        "name": "one label",
        "kind": "few-shot",
        "train": {"only": ["case0"]},
        "unlabelled": ["case1", "case2", "case3"],
        "test": {"only": ["case4"]},
    }
    more = {"data.holdout": 0, "steps": 2, "network.evidence": evidence}
    protocol = load_protocol(protocol_file(base, set=more, methods=methods, settings=[setting], compare_to="pupil"))
    assert carry_out(protocol, say=quiet).lacking == []
    (taught,) = (protocol.output / "trainings").rglob("taught.safetensors")
    config = protocol.training(protocol.settings[0], protocol.methods[0], 0)
    before = load_or_prepare(config.data.model_copy(update={"only": None}), config.space)
    after = load_or_prepare(config.data.model_copy(update={"only": None, "cache": taught}), config.space)
    assert after.names == before.names
    same = [torch.equal(a, b) for a, b in zip(after.sdf, before.sdf, strict=True)]
    assert [name for name, kept in zip(after.names, same, strict=True) if not kept] == ["case1", "case2", "case3"]
    network = task_of(config).build(config).eval()
    load_weights(network, config.run_folder.parent / "ema.safetensors")
    image = before.image[1][None].float() / 127.5 - 1
    with torch.no_grad():
        answer = task_of(config).answer(network, torch.cat([image, torch.ones_like(image)][: 1 + evidence], 1))[0]
    assert float((after.sdf[1].float() * (REACH / 127) - answer.clamp(-1, 1)).abs().max()) < 0.01
    assert "6 cases, 0 held out" in capsys.readouterr().out  # the one with a label as often as the three without


def test_only_what_is_labelled_is_scored(base: Path) -> None:
    """A reference of one structure; the model knows two."""
    methods = [{"name": "segmenter", "task": "segmenter"}]
    whole = {"name": "whole", "kind": "same-domain", "train": {"only": ["case0"]}, "test": {"only": ["case4"]}}
    path = protocol_file(base, methods=methods, settings=[whole], compare_to="segmenter")
    protocol = load_protocol(path)
    (name, other) = protocol.testing(protocol.settings[0]).scheme.names
    both = carry_out(protocol, say=quiet).scores[0].structures
    assert list(both) == [name, other]
    own = {"structures": [{"name": other.upper(), "id": 1}], "labels": {name: 1, other: 2}}
    test = {"only": ["case4"], **own}
    path = protocol_file(base, methods=methods, settings=[{**whole, "test": test}], compare_to="segmenter")
    one = carry_out(load_protocol(path), say=quiet).scores[0].structures
    assert list(one.values()) == [both[other]]

    grid = Grid((4, 4, 3), np.eye(4))
    scheme = named_scheme("own", [("a", 1, None), ("b", 2, None)])
    labels = LabelMap(np.full((4, 4, 3), 2, np.uint8), grid, scheme)
    labels.data[0] = 1
    found = onto(labels, named_scheme("own", [("B", 7, None)]))
    assert found.scheme.names == ("B",)
    assert np.array_equal(found.data, labels.data == 2)


def test_slices_without_a_label_are_not_scored_where_the_setting_says_so(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [{"name": "segmenter", "task": "segmenter"}]
    setting = {"name": "all", "kind": "same-domain", "train": {"only": ["case0"]}, "test": {"only": ["case4"]}}
    compared: list[tuple[LabelMap, LabelMap]] = []

    def spy(labels: LabelMap, truth: LabelMap, tolerance_mm: float) -> Any:
        compared.append((labels, truth))
        return compare(labels, truth, tolerance_mm)

    def everywhere(task: Any, network: Any, volume: Volume, config: TrainConfig, roi: Any, ignore: Any) -> LabelMap:
        return LabelMap(np.ones(volume.data.shape, np.uint8), volume.grid, config.scheme)

    monkeypatch.setattr(runs, "compare", spy)
    monkeypatch.setattr(runs, "answer", everywhere)
    settings = [setting, setting | {"name": "labelled", "labelled_slices": True}]
    protocol = load_protocol(protocol_file(base, methods=methods, settings=settings, compare_to="segmenter"))
    carry_out(protocol, say=quiet)
    (plain, truth), (cut, cut_truth) = compared
    there = np.asarray(truth.data.any(axis=(0, 1)))
    assert 0 < there.sum() < len(there)
    assert plain.data.all()
    assert np.array_equal(cut.data.any(axis=(0, 1)), there)
    assert np.array_equal(cut_truth.data, truth.data)


def test_the_view_lies_on_the_reference_where_the_setting_says_so(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [{"name": "segmenter", "task": "segmenter"}]
    setting = {"name": "middle", "kind": "same-domain", "train": {"only": ["case0"]}, "test": {"only": ["case4"]}}
    seen: list[Any] = []

    def noted(task: Any, network: Any, volume: Volume, config: TrainConfig, roi: Any, ignore: Any) -> LabelMap:
        seen.append(roi)
        return LabelMap(np.zeros(volume.data.shape, np.uint8), volume.grid, config.scheme)

    monkeypatch.setattr(runs, "answer", noted)
    on_labels = {**setting, "name": "labels", "test": {"only": ["case4"], "centre": "labels"}}
    protocol = load_protocol(
        protocol_file(base, methods=methods, settings=[setting, on_labels], compare_to="segmenter")
    )
    carry_out(protocol, say=quiet)
    assert seen[0] is None
    (case,) = subjects(protocol.testing(protocol.settings[0]))
    assert seen[1] == box_of(case.read()[1].data)


def test_a_slab_takes_its_share_of_the_labels_along_the_body() -> None:
    labels = np.zeros((6, 6, 12), np.uint8)
    labels[2:4, 2:4, 1:11] = 1
    across = slab(labels, Grid((6, 6, 12), np.eye(4)), 0.5)
    assert across is not None
    assert np.array_equal(np.flatnonzero(across.any(axis=(0, 1))), np.arange(3, 8))
    assert across[:, :, 3:8].all()
    sagittal = Grid((6, 6, 12), np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]))
    across = slab(labels, sagittal, 0.5)
    assert across is not None
    assert np.array_equal(np.flatnonzero(across.any(axis=(1, 2))), [2])
    assert slab(labels, sagittal, 0.2) is None
    assert slab(np.zeros_like(labels), sagittal, 0.5) is None


def test_a_run_with_missing_evidence_crosses_it_out(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [
        {"name": name, "task": name, "runs": [{"name": "whole"}, {"name": "half", "missing": 0.5, "x": 0.5}]}
        for name in ("atlas", "segmenter")
    ]
    setting = {"name": "a", "kind": "same-domain", "train": {"only": ["case0"]}, "test": {"only": ["case4"]}}
    more = {"data.holdout": 0, "steps": 2, "network.evidence": True}
    protocol = load_protocol(protocol_file(base, set=more, methods=methods, settings=[setting]))
    crossed: list[Any] = []
    segment, answer = runs.segment, runs.answer  # type: ignore[attr-defined]

    def by_request(volume: Volume, request: Request) -> Any:
        crossed.append(request.ignore)
        return segment(volume, request)

    def by_hand(*arguments: Any) -> LabelMap:
        crossed.append(arguments[-1])
        return answer(*arguments)

    monkeypatch.setattr(runs, "segment", by_request)
    monkeypatch.setattr(runs, "answer", by_hand)
    carry_out(protocol, say=quiet)
    (case,) = subjects(protocol.testing(protocol.settings[0]))
    half = slab(case.read()[1].data, case.read()[1].grid, 0.5)
    assert half is not None
    assert crossed[0] is crossed[2] is None
    assert np.array_equal(crossed[1], half)
    assert np.array_equal(crossed[3], half)


def test_a_box_holds_all_labels() -> None:
    labels = np.zeros((5, 6, 7), np.uint8)
    assert box_of(labels) is None
    labels[1, 2, 3] = labels[3, 2, 6] = 1
    assert box_of(labels) == ((1, 4), (2, 3), (3, 7))


def test_a_setting_may_have_seeds_of_its_own_and_a_finished_model_has_one(base: Path) -> None:
    two = {"name": "two cases", "kind": "few-shot", "train": {"only": ["case0", "case1"]}, "test": {"only": ["case4"]}}
    methods = [{"name": "atlas"}, {"name": "heart", "model": "heart"}]
    settings = [two, two | {"name": "again", "seeds": [4, 7]}]
    protocol = load_protocol(protocol_file(base, methods=methods, settings=settings, seeds=[1, 2, 3]))
    found = [[protocol.seeds_of(setting, method) for method in protocol.methods] for setting in protocol.settings]
    assert found == [[(1, 2, 3), (1,)], [(4, 7), (4,)]]
    lacking = carry_out(protocol, only_read=True).lacking
    assert [line for line in lacking if "again / atlas" in line] == [
        f"again / atlas / seed {seed}: not trained to the end" for seed in (4, 7)
    ]


def test_a_budget_is_spent_in_updates_of_each_method(base: Path) -> None:
    protocol = load_protocol(protocol_file(base, budget_tflop=0.02))
    trained = {t.method: t for t in carry_out(protocol, say=quiet).trainings}
    for name, training in trained.items():
        assert training.updates is not None
        assert training.updates > 2, name  # not the configuration's
        assert training.tflop == pytest.approx(0.02, rel=0.5), name


# -- baselines -------------------------------------------------------------------------------------------------------


def test_calibration_counts_what_was_given_and_what_was_right() -> None:
    found = np.array([1, 1, 0, 0, 2, 0, 0], dtype=np.uint8).reshape(7, 1, 1)
    truth = np.array([1, 2, 0, 1, 2, 0, 1], dtype=np.uint8).reshape(7, 1, 1)
    confidence = np.array([1.0, 0.5, 1.0, 1.0, 0.55, 0, 0], dtype=np.float32).reshape(7, 1, 1)
    counts = calibration(found, truth, confidence)
    assert counts[5] == [2, 1]
    assert counts[9] == [2, 1]  # the agreed background is not counted
    assert sum(given for given, _ in counts) == 4  # nor what lies outside the field of view


def test_names_of_runs_and_settings_must_differ(base: Path) -> None:
    run = {"name": "fast"}
    with pytest.raises(BadInput, match="runs"):
        load_protocol(protocol_file(base, methods=[{"name": "atlas", "runs": [run, run]}]))
    assert isinstance(load_protocol(protocol_file(base)), Protocol)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "protocols").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_protocols_in_the_box_are_protocols(path: Path) -> None:
    protocol = load_protocol(path)
    assert protocol.name == path.stem
