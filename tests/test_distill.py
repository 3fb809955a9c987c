"""Distillation: a teacher's answers become pairs, a student learns them, and its card says whose they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from diffatlas import distill as distilling
from diffatlas.cli import app
from diffatlas.engine.request import Request
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.io import write_volume
from diffatlas.models.store import load_model, read_card
from diffatlas.published.convert import Options, convert
from diffatlas.session import segment
from diffatlas.train.prepared import REACH, load_or_prepare
from tests import published_files
from tests.geometry.test_space import ball_grid, two_balls

QUICK = {"network": {"widths": [16, 16], "embedding": 16}, "steps": 4, "batch": 2, "warmup": 1, "precision": "fp32"}


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="diffatlas")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images, no labels."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    grid = ball_grid((36, 32, 32), (1.0, 1.0, 1.0))
    for i in range(5):
        image = np.array([20.0, 120.0, 200.0])[two_balls(grid).data] + rng.normal(size=grid.shape) * 10
        write_volume(Volume(image.astype(np.float32), grid, "mr"), folder / f"case{i}.nii.gz")
    return folder


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    path = tmp_path / "student.yaml"
    path.write_text(yaml.safe_dump(QUICK))
    return path


def test_a_student_of_images_without_labels(tmp_path: Path, tiny_model: Path, images: Path, quick: Path) -> None:
    student = tmp_path / "student"
    outcome = cli("distill", tiny_model, images, "-o", student, "--config", quick)
    assert outcome.exit_code == 0, outcome.stderr
    teacher, card = read_card(tiny_model), load_model(student).card
    assert card.training["distilled_from"] == f"tiny, sha256 {teacher.sha256}"
    assert card.training["answers"].startswith("5 images; preset fast")
    assert card.scheme.ids == teacher.scheme.ids
    assert card.space.to_json() == teacher.space.to_json()
    assert card.architecture["widths"] == [16, 16]
    assert "mistakes" in card.limits[0]
    found = card.metrics[distilling.AGREEMENT]
    assert found["n"] == 1
    assert f"{found['dice']:.3f}" in outcome.stdout
    assert "repeats that model's mistakes" in (student / "README.md").read_text()
    segment_by_student = segment(distilling.images_in([images], student)[0][0].read(), Request(model=str(student)))
    assert segment_by_student.labels.data.shape == (36, 32, 32)


def test_what_is_learnt_is_what_the_teacher_answers(
    tmp_path: Path, tiny_model: Path, images: Path, quick: Path
) -> None:
    teacher, request = read_card(tiny_model), Request(samples=2, steps=3)
    found, _ = distilling.images_in([images], tmp_path / "s")
    config = distilling.settings(teacher, len(found), tmp_path / "s", request, quick, [])
    distilling.distill(str(tiny_model), found, config, request)
    data = load_or_prepare(config.data, config.space)
    assert data.names == tuple(f"case{i}" for i in range(5))
    from diffatlas.session import stream

    *_, last = stream(found[2].read(), Request(model=str(tiny_model), samples=2, steps=3))
    sdf = data.sdf[2].numpy() * (REACH * teacher.space.sdf_clip_mm / 127)
    np.testing.assert_allclose(sdf, last.sdf, atol=REACH * teacher.space.sdf_clip_mm / 127)


def test_a_teacher_is_asked_once(
    tmp_path: Path, tiny_model: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, request = read_card(tiny_model), Request(model=str(tiny_model))
    found, _ = distilling.images_in([images], tmp_path / "s")

    def ask(request: Request) -> int:
        list(distilling.answers(teacher, found, request, tmp_path / "answers"))
        return capsys.readouterr().out.count("answered")

    assert ask(request) == 5
    (tmp_path / "answers" / "case3.npz").unlink()  # as if it had been stopped there
    assert ask(request) == 1
    assert ask(Request(model=str(tiny_model), steps=3)) == 5  # another question


def test_a_published_network_can_teach(tmp_path: Path, images: Path, quick: Path) -> None:
    file = published_files.write(tmp_path / "theirs.pt", model=published_files.state())
    options = Options("model", "anterior=1,posterior=2", "0:250", None, (2.0, 2.0, 2.0), 16, None)
    teacher = convert(file, tmp_path / "theirs", options)
    request = Request(steps=2, force=True, guidance_noise=1.0)
    found, _ = distilling.images_in([images], tmp_path / "s")
    config = distilling.settings(teacher, len(found), tmp_path / "s", request, quick, [])
    student = distilling.distill(str(tmp_path / "theirs"), found, config, request)
    assert student.schedule == "cosine"
    assert student.space.fill == teacher.space.fill


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((), "--phantom N"),
        (("{images}", "--phantom", "4"), "--phantom N"),
        (("--phantom", "1"), "at least 2"),
        (("{images}", "--minutes", "0"), "--minutes 0"),
        (("{images}", "--set", "data.holdout=5"), "keeps 5 of them"),
        (("{images}/case0.nii.gz",), "keeps 1 of them"),
        (("{images}", "--config", "{bad}"), "space follows from the teacher"),
    ],
)
def test_refuses_in_one_line(
    tmp_path: Path, tiny_model: Path, images: Path, arguments: tuple[str, ...], match: str
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("space: {shape: [8, 8, 8]}")
    told = (a.replace("{images}", str(images)).replace("{bad}", str(bad)) for a in arguments)
    outcome = cli("distill", tiny_model, *told, "-o", tmp_path / "student")
    assert outcome.exit_code == 2
    assert match in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "student").exists()


def test_an_image_without_an_answer_is_left_out(
    tmp_path: Path, tiny_model: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "case1.nii.gz").write_bytes(b"not an image")
    found, _ = distilling.images_in([images], tmp_path / "s")
    cases = list(distilling.answers(read_card(tiny_model), found, Request(model=str(tiny_model)), tmp_path / "answers"))
    assert [case is None for case in cases] == [False, True, False, False, False]
    assert "left out case1" in capsys.readouterr().out


def test_hearts_come_in_the_looks_the_teacher_knows() -> None:
    assert [image.id.rsplit("-", 1)[1] for image in distilling.hearts(3, ("ct", "mr"))] == ["ct", "mr", "random"]
    assert {image.id.rsplit("-", 1)[1] for image in distilling.hearts(3, ("ct",))} == {"ct"}
    with pytest.raises(BadInput):
        distilling.images_in([], Path("out"))
