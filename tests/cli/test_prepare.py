"""`diffatlas prepare`: what it writes, what it says, and that one bad case does not stop the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from diffatlas.geometry.space import ModelSpace
from diffatlas.train.config import DataConfig
from diffatlas.train.prepared import load_or_prepare
from diffatlas.values import load
from tests import datasets as make
from tests.cli.helpers import Cli, files

SPACE = ("--shape", "24,24,24", "--spacing", "2,2,2", "--clip", "8", "--margin", "1", "--workers", "1")
NAMES = ("--labels", "head=1,tail=2")


def test_a_folder_becomes_a_file_that_training_reads(cli: Cli, tmp_path: Path) -> None:
    root = make.pairs(tmp_path / "data", ("a", "b", "c"))
    (root / "labels" / "b.nii.gz").write_bytes(b"not a volume")
    cache = tmp_path / "cache.safetensors"
    done = cli("prepare", root, "-o", cache, *SPACE, *NAMES, "--modality", "mr", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["layout"] == "folder"
    assert [case["id"] for case in report["cases"]] == ["a", "c"]
    assert [case["id"] for case in report["refused"]] == ["b"]
    assert report["cases"][0]["spacing_mm"] == [2, 2, 2]
    assert report["structures"] == [{"name": "head", "id": 1}, {"name": "tail", "id": 2}]
    tensors = load_file(cache)
    assert tensors["image"].shape == (2, 1, 26, 26, 26)
    assert tensors["image"].dtype == np.uint8
    assert tensors["sdf"].shape == (2, 2, 26, 26, 26)
    assert tensors["sdf"].dtype == np.int8
    config = DataConfig.model_validate(
        {
            "source": "folder",
            "path": tmp_path / "gone",  # the file is enough
            "structures": [{"name": "Head", "id": 1}, {"name": "tail", "id": 2}],
            "margin": 1,
            "cache": cache,
        }
    )
    data = load_or_prepare(config, load(ModelSpace, report["space"], "space"))
    assert data.names == ("a", "c")
    np.testing.assert_array_equal(data.sdf.numpy(), tensors["sdf"])


def test_what_was_found_is_said_in_words(cli: Cli, tmp_path: Path) -> None:
    labels = make.heart(without=(550,))
    labels[5, 12, 4] = 421
    root = make.mmwhs(tmp_path / "data", {"ct_train_1001": labels, "mr_train_1002": make.heart()})
    (root / "ct_train" / "ct_train_1001_image.nii.gz").rename(root / "ct_train_1001_image.nii.gz")
    (root / "ct_train" / "ct_train_1001_label.nii.gz").rename(root / "ct_train_1001_label.nii.gz")
    make.save(root / "ct_train_1003_image.nii.gz", make.picture(labels))
    done = cli("prepare", root, "-o", tmp_path / "c.safetensors", *SPACE)
    assert done.code == 0, done.err
    assert "mmwhs, 2 cases, 1 left out" in done.out
    rows = {line.split("  ")[0].strip(): line for line in done.out.splitlines()}
    assert "1 of 2" in rows["right atrium"]
    assert "ct_train_1001" in rows["right atrium"]
    assert "2 of 2" in rows["left ventricle"]
    assert rows["ct"].split()[1] == "1"
    assert "left out ct_train_1003:" in done.out
    assert "1 voxels of id 421 read as 420, a known slip (ct_train_1001)" in " ".join(done.err.split())


def test_space_and_structures_of_a_model(cli: Cli, tmp_path: Path) -> None:
    root = make.mmwhs(tmp_path / "data", {"ct_train_1001": make.heart()})
    cache = tmp_path / "c.safetensors"
    done = cli("prepare", root, "-o", cache, "--like", "heart", "--workers", "1", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["space"]["shape"] == [16, 16, 16]
    assert report["space"]["windows"]["ct"]["high"] == 800
    assert len(report["structures"]) == 5
    assert load_file(cache)["image"].shape == (1, 1, 24, 24, 24)


def test_a_training_configuration_is_enough(cli: Cli, tmp_path: Path) -> None:
    make.decathlon(tmp_path / "Task04", ("hippocampus_001",))
    config = tmp_path / "train.yaml"
    config.write_text(
        """
        {name: own, title: t, summary: s, licence: l, intended_use: u, data_note: d, limits: [x],
         network: {widths: [16, 32]},
         space: {shape: [20, 20, 20], spacing_mm: [2, 2, 2], sdf_clip_mm: 6, windows: {mr: {kind: percentile, low: 0,
                 high: 100}}},
         data: {source: decathlon, path: Task04, scheme: hippocampus, margin: 0, holdout: 0, cache: out.safetensors},
         run_folder: run, export: model}
        """
    )
    done = cli("prepare", "--config", config, "--workers", "1", "--json")
    assert done.code == 0, done.err
    assert [s["name"] for s in json.loads(done.out)["structures"]] == ["anterior hippocampus", "posterior hippocampus"]
    assert load_file(tmp_path / "out.safetensors")["sdf"].shape == (1, 2, 20, 20, 20)


def test_digital_hearts(cli: Cli, tmp_path: Path) -> None:
    cache = tmp_path / "c.safetensors"
    space = ("--shape", "24", "--spacing", "7", "--margin", "0", "--workers", "1")
    done = cli("prepare", "phantom", "-o", cache, *space, "--cases", 1, "--modality", "ct", "--modality", "mr")
    assert done.code == 0, done.err
    assert load_file(cache)["image"].shape == (1, 2, 24, 24, 24)


def test_nothing_usable_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    root = make.pairs(tmp_path / "data", ("a", "b"))
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    done = cli("prepare", root, "-o", tmp_path / "c.safetensors", *SPACE, *NAMES)
    assert done.code == 2
    assert "none of 2 cases can be used" in done.err
    assert "left out a:" in done.out
    assert files(tmp_path) == {"data"}


def test_a_file_that_cannot_be_written_is_one_line(cli: Cli, tmp_path: Path) -> None:
    """The system refuses the bytes beyond a limit, as a full disk does."""
    resource = pytest.importorskip("resource")  # not on Windows
    root, folder = make.pairs(tmp_path / "data", ("a",)), tmp_path / "deep" / "cache"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        done = cli("prepare", root, "-o", folder / "c.safetensors", *SPACE, *NAMES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.code == 2, done.err
    assert "c.safetensors: could not be written (file too large); what was there before is unchanged" in done.err
    assert files(folder) == set()
    assert cli("prepare", root, "-o", folder / "c.safetensors", *SPACE, *NAMES).code == 0  # the folder is made


def test_shapes_that_training_would_refuse_are_refused_first(cli: Cli, tmp_path: Path) -> None:
    root, cache = make.pairs(tmp_path / "data", ("a",)), tmp_path / "c.safetensors"
    config = tmp_path / "train.yaml"
    for shape, network, code in (("20", "{widths: [16, 32]}", 0), ("20", "{}", 2), ("22", "{widths: [16, 32]}", 2)):
        config.write_text(
            f"""
            {{name: own, title: t, summary: s, licence: l, intended_use: u, data_note: d, limits: [x],
             network: {network}, space: {{shape: [{shape}, {shape}, {shape}], spacing_mm: [2, 2, 2], sdf_clip_mm: 6,
             windows: {{mr: {{kind: percentile, low: 0, high: 100}}}}}},
             data: {{source: folder, path: data, structures: [{{name: head, id: 1}}, {{name: tail, id: 2}}], holdout: 0,
             cache: c.safetensors}}, run_folder: run, export: model}}
            """
        )
        done = cli("prepare", "--config", config, "--workers", "1")
        assert done.code == code, done.err
        trained = cli("train", config, "--set", "steps=1", "--set", "validate_every=0")
        assert trained.code == code, trained.err
        if code:
            assert "must be a multiple of" in done.err
        cache.unlink(missing_ok=True)
        for path in (tmp_path / "run").glob("*.safetensors"):
            path.unlink()
    done = cli("prepare", root, "-o", cache, "--shape", "20", "--spacing", "2", *NAMES)
    assert done.code == 2
    assert "--config" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a SOURCE"),
        (("gone", "-o", "c.safetensors", *SPACE), "no such file or folder"),
        (("DATA", *SPACE, *NAMES), "-o CACHE.safetensors"),
        (("DATA", "-o", "c.npz", *SPACE, *NAMES), "ending in .safetensors"),
        (("DATA", "-o", "c.safetensors", *NAMES), "name the space"),
        (("DATA", "-o", "c.safetensors", *SPACE), "name every structure with its id"),
        (("DATA", "-o", "c.safetensors", *SPACE, "--layout", "mmwhs"), "nothing of the layout 'mmwhs'"),
        (("DATA", "-o", "c.safetensors", *SPACE, "--layout", "magic"), "--layout magic: there are"),
        (("DATA", "-o", "c.safetensors", *SPACE, "--labels", "head:1"), "--labels must look like"),
        (("DATA", "-o", "c.safetensors", *SPACE, *NAMES, "--structures", "head=x"), "--structures must look like"),
        (("DATA", "-o", "c.safetensors", *SPACE, *NAMES, "--structures", "toe"), "toe not annotated in this source"),
        (("DATA", "-o", "c.safetensors", *SPACE, *NAMES, "--scheme", "toes"), "scheme must be 'mmwhs' or"),
        (("DATA", "-o", "c.safetensors", *SPACE, *NAMES, "--window", "ct=1"), "--window must look like"),
        (("DATA", "-o", "c.safetensors", *SPACE, *NAMES, "--window", "mr=9:1"), "must rise"),
        (("DATA", "-o", "c.safetensors", *SPACE, *NAMES, "--split", "val"), "there are: train (1)"),
        (("DATA", "-o", "c.safetensors", *SPACE, *NAMES, "--centre", "left"), "centre must be 'auto', 'volume'"),
        (("DATA", "-o", "c.safetensors", *SPACE, *NAMES, "--modality", "random"), "only digital hearts"),
        (("DATA", "-o", "c.safetensors", *SPACE[:-1], "0", *NAMES), "--workers must be 1 or more"),
        (("DATA", "-o", "c.safetensors", "--shape", "1,2", "--spacing", "1"), "--shape must be three numbers"),
        (("DATA", "-o", "c.safetensors", "--like", "nothing"), "no model named 'nothing'"),
        (("phantom", "-o", "c.safetensors", *SPACE), "--cases N"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    root = make.pairs(tmp_path / "data", ("a",))
    monkeypatch.chdir(tmp_path)
    done = cli("prepare", *(str(root) if a == "DATA" else a for a in arguments))
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert files(tmp_path) == {"data"}
