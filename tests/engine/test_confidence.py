"""What a calibrated card adds to a run: a confidence with one sample, intervals of volumes, a doubt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from diffatlas.cli import app
from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import HIPPOCAMPUS, Volume
from diffatlas.io import write_volume
from diffatlas.models.calibration import Border, Calibration
from diffatlas.models.store import read_card, write_card
from diffatlas.remote import wire
from diffatlas.session import segment, stream
from tests.conftest import make_model

BORDERS = tuple(
    Border(name=n, offset_mm=0.1, inside_mm=3.0, outside_mm=2.0, volume_ratio=(0.9, 1.2)) for n in HIPPOCAMPUS.names
)
SURE = Calibration(borders=BORDERS, floor=0.01, cases=16, fitted_on="cases of a test")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = make_model(tmp_path_factory.mktemp("sure"))
    write_card(replace(read_card(folder), calibration=SURE), folder)
    return str(folder)


@pytest.fixture(scope="module")
def volume() -> Volume:
    data = np.random.default_rng(1).normal(100, 20, (20, 22, 18)).astype(np.float32)
    return Volume(data, Grid((20, 22, 18), np.diag([1.0, 1.0, 1.0, 1.0])), "mr", "noise")


def given(likely: Any, labels: Any) -> Any:
    """The probabilities [1 + K, ...] of the ``labels`` [...]."""
    return np.take_along_axis(likely, labels[None].astype(np.intp), axis=0)[0]


def test_several_samples_are_averaged_as_distances_and_as_probabilities(calibrated: str, volume: Volume) -> None:
    request = Request(model=calibrated, steps=2)
    alone = [list(stream(volume, replace(request, seed=seed))) for seed in (0, 1, 2)]
    together = list(stream(volume, replace(request, samples=3)))
    for step, frame in enumerate(together):
        parts = [run[step].sdf for run in alone]
        np.testing.assert_array_equal(frame.sdf, np.mean(parts, axis=0, dtype=np.float32))
        likely = np.mean([SURE.probabilities(sdf) for sdf in parts], axis=0)
        assert frame.confidence is not None
        np.testing.assert_allclose(frame.confidence, given(likely, frame.labels), atol=1e-6)
    result = together[-1].result
    assert result is not None
    assert [m.data.tolist() for m in result.masks] == [run[-1].labels.tolist() for run in alone]


def test_a_structure_that_the_image_cuts_off_is_said_and_has_no_interval(calibrated: str, volume: Volume) -> None:
    found = segment(volume, Request(model=calibrated))  # the model draws noise all over its view, which is larger
    assert found.cut_off == found.outside
    assert set(found.cut_off) == set(HIPPOCAMPUS.names)
    (note,) = [note for note in found.notes if "cut off" in note]
    assert all(f"{name} ({share:.0%} lies beyond it)" in note for name, share in found.cut_off.items())
    first, second = HIPPOCAMPUS.names
    cut = replace(found, outside={first: 0.04, second: 0.62})
    assert set(cut.volume_intervals_ml) == {first}
    assert cut.report()["cut_off"] == {second: 0.62}
    whole = replace(found, outside={})
    assert set(whole.volume_intervals_ml) == {first, second}
    assert "cut_off" not in whole.report()


def test_one_sample_has_a_confidence_at_its_end(calibrated: str, volume: Volume) -> None:
    frames = list(stream(volume, Request(model=calibrated, steps=3)))
    assert [frame.confidence is None for frame in frames] == [True, True, False]
    last = frames[-1]
    assert last.confidence is not None
    assert last.result is not None
    np.testing.assert_allclose(last.confidence, given(SURE.probabilities(last.sdf), last.labels), atol=1e-6)
    confidence = last.result.confidence
    assert confidence is not None
    assert confidence.shape == volume.grid.shape
    assert 0 <= confidence.min() <= confidence.max() <= 1


def test_samples_are_as_sure_as_their_mean_probability(calibrated: str, volume: Volume) -> None:
    result = segment(volume, Request(model=calibrated, samples=3))
    assert result.confidence is not None
    assert len(np.unique(result.confidence)) > 10, "agreement of three samples would have a few values only"


def test_a_report_says_intervals_and_doubt(calibrated: str, volume: Volume) -> None:
    result = replace(segment(volume, Request(model=calibrated)), outside={})
    report = result.report()
    for name, ml in result.volumes_ml.items():
        if ml:
            assert report["volumes_interval_ml"][name] == pytest.approx([0.9 * ml, 1.2 * ml], abs=1e-4)
    assert report["doubt"] == pytest.approx(result.doubt, abs=1e-4)
    assert json.dumps(report)


def test_a_calibration_travels_to_another_machine(calibrated: str, volume: Volume) -> None:
    result = segment(volume, Request(model=calibrated))
    sent = wire.pack({"result": result})
    parts = [sent]

    def receive(count: int) -> bytes:
        piece, parts[0] = parts[0][:count], parts[0][count:]
        return piece

    back = wire.read(receive, len(sent))["result"]
    assert back.calibration == SURE
    assert back.volume_intervals_ml == result.volume_intervals_ml
    assert back.outside == result.outside


def test_without_calibration_one_sample_is_not_sure_of_anything(tiny_model: Path, volume: Volume) -> None:
    result = segment(volume, Request(model=str(tiny_model)))
    assert result.confidence is None
    assert result.doubt is None
    assert "doubt" not in result.report()
    assert result.volume_intervals_ml == {}


def test_the_command_line_writes_the_confidence_of_one_sample(
    calibrated: str, tiny_model: Path, volume: Volume, tmp_path: Path
) -> None:
    image, labels, sure = tmp_path / "a.nii.gz", tmp_path / "l.nii.gz", tmp_path / "sure.nii.gz"
    write_volume(volume, image)
    arguments = ["segment", str(image), "-o", str(labels), "--confidence", str(sure), "--model"]
    refused = CliRunner().invoke(app, [*arguments, str(tiny_model)])
    assert refused.exit_code == 2
    assert "more than one sample" in refused.output
    assert not labels.exists()
    done = CliRunner().invoke(app, [*arguments, calibrated])
    assert done.exit_code == 0, done.output
    assert done.output.count("lies beyond the image)") == len(HIPPOCAMPUS.names)  # in the table, a row each
    data = np.asarray(nib.load(sure).dataobj)  # type: ignore[attr-defined]
    assert data.shape == volume.grid.shape
    assert 0 < data.max() <= 1
