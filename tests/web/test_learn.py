"""The teaching site's files, its one-file edition, and its place under the web page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffatlas import session
from diffatlas.errors import BadInput
from diffatlas_app import learn
from diffatlas_app.runs import brushed
from tools import record_scenes

SCRIPTS = sorted((learn.SITE / "js").rglob("*.js"))
WORDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (learn.SITE / "words").glob("*.json")}
BOOK = json.loads((learn.SITE / "data" / "scenes.json").read_text(encoding="utf-8"))


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a words file with its address."""
    if isinstance(value, str):
        yield at, value
    else:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, f"{at}/{key}")


def test_the_scripts_own_tests_pass_under_node(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        message = "no node on this machine: apt-get install nodejs"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    shutil.copytree(learn.SITE / "js", tmp_path / "js")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    tests = list((Path(__file__).parent / "learn").glob("*.test.mjs"))
    assert len(tests) >= 5
    for path in tests:
        shutil.copy(path, tmp_path)
    done = subprocess.run(
        [node, "--test", "."], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(?:#|ℹ) pass (\d+)", done.stdout)[0]) >= 20


def test_both_languages_say_everything_with_the_same_values() -> None:
    english, german = (dict(leaves(WORDS[name])) for name in ("en", "de"))
    assert english.keys() == german.keys()
    for key, text in english.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", german[key])), key
    same = [key for key in english if english[key] == german[key]]
    assert len(same) < 0.05 * len(english), same


def test_every_word_that_a_scene_says_is_there() -> None:
    scenes = learn.SITE / "js" / "scenes"
    for path, scene in [*((p, p.stem) for p in sorted(scenes.glob("*.js"))), (scenes.parent / "live.js", "fool")]:
        text = path.read_text(encoding="utf-8")
        words = WORDS["en"]["scenes"][scene]
        for key in re.findall(r'\bsay\("([\w-]+)"', text):
            assert key in words, f"{path.name}: {key}"
        for key in re.findall(r'\bui\("([\w-]+)"', text):
            assert key in WORDS["en"]["ui"], f"{path.name}: {key}"
        for key in re.findall(r"^const (?:SCANS|CASES|LOOKS|MASKS|TOOLS) = \[(.*)\];", text, re.MULTILINE):
            assert set(re.findall(r'"([\w-]+)"', key)) <= words.keys(), path.name
    for scene in WORDS["en"]["scenes"].values():
        assert {"title", "lead", "predict", "why", "teacherSay", "teacherAnswer", "sheet"} <= scene.keys()
        assert len(scene["predict"]["options"]) >= 3
    assert all(len(item["options"]) == 3 for item in WORDS["en"]["questions"]["items"])


def test_the_plan_is_a_class_of_45_minutes() -> None:
    text = (learn.SITE / "js" / "teacher.js").read_text(encoding="utf-8")
    plan = re.findall(r'\["(\w+)", (\d+)\]', text.split("PLAN = ")[1].splitlines()[0])
    assert sum(int(minutes) for _, minutes in plan) == 45
    assert [name for name, _ in plan] == ["before", *WORDS["en"]["scenes"], "after"]


def test_every_picture_that_is_named_is_there_and_no_other() -> None:
    named = {text for _, text in leaves(only_text(BOOK))}
    there = {path.stem for path in (learn.SITE / "data").glob("*.webp")}
    assert there <= named
    texts = {text for text in named if re.fullmatch(r"[a-z]+(-[\w-]+)?", text)}
    assert {
        name for name in texts if name.startswith(("guided", "free", "rho", "fool", "look", "seed-", "dream-", "drawn"))
    } <= there
    assert sum(path.stat().st_size for path in (learn.SITE / "data").iterdir()) < 2.5e6


def only_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: only_text(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [only_text(inner) for inner in value]
    return value if isinstance(value, str) else ""


def test_the_recording_is_of_a_shipped_model_and_its_numbers_are_scores() -> None:
    assert BOOK["model"]["name"] == "heart-phantom"
    assert re.fullmatch(r"[0-9a-f]{64}", BOOK["model"]["sha256"])
    names = [s["name"] for s in BOOK["structures"]]
    assert names == list(session.model_card("heart-phantom").scheme.names) == list(WORDS["en"]["structures"])
    assert len(BOOK["back"]["steps"]) == len(BOOK["unguided"]["steps"]) == 40
    assert BOOK["back"]["kept"] == list(record_scenes.KEPT)
    assert [len(scan["runs"]) for scan in BOOK["slider"]["scans"].values()] == [11, 11, 11]
    for run in (BOOK["back"]["steps"], *(scan["runs"] for scan in BOOK["slider"]["scans"].values())):
        assert all(0 <= dice <= 1 for step in run for dice in step["dice"])
    assert sum(c["voxels"] for c in BOOK["seeds"]["curve"]) > 10_000


def test_tiles_and_volume_are_inverse() -> None:
    volume = np.random.default_rng(0).integers(0, 255, (64, 64, 64)).astype(np.uint8)
    assert (brushed.volume_of(record_scenes.atlas_of(volume)) == volume).all()
    tiles = record_scenes.atlas_of(volume)
    assert tiles[1 * 64 + 5, 2 * 64 + 7] == volume[7, 5, 10]


def test_recorded_labels_score_what_the_book_says() -> None:
    """The pictures and the numbers belong together: Dice computed again from the files."""
    truth = decoded("patient-truth")
    for step in (BOOK["back"]["steps"][i] for i in BOOK["back"]["kept"]):
        assert record_scenes.scores(decoded(step["labels"]), truth) == step["dice"]


def test_a_place_that_is_crossed_out_scores_what_the_book_says() -> None:
    truth = decoded("patient-truth")
    crossed = BOOK["crossed"]
    assert crossed["cases"].keys() == {"no-left-ventricle", "no-right-atrium"}
    card = session.model_card(str(record_scenes.TELLABLE))
    assert crossed["model"] == {"name": card.name, "sha256": card.sha256}
    assert card.evidence
    for key, case in crossed["cases"].items():
        where = decoded(BOOK["fool"]["cases"][key]["where"]) > 0
        for run in (case["believed"], case["crossed"]):
            labels = decoded(run["labels"])
            assert record_scenes.scores(labels, truth) == run["dice"]
            assert float((labels == truth)[where].mean()) == pytest.approx(run["right"], abs=1e-4)
        assert (decoded(case["believed"]["labels"]) != decoded(case["crossed"]["labels"])).any()


@pytest.mark.weights
def test_a_scan_as_it_is_shown_is_segmented_as_well_as_the_one_that_was_recorded() -> None:
    """What the live brush hands to the engine is the picture: lossy and eight bits deep."""
    card = session.model_card("heart-phantom")
    volume = brushed.as_volume(brushed.recorded("patient"), card)
    labels = session.segment(volume, model=card.name, preset="fast").labels.data
    dice = record_scenes.scores(labels, brushed.recorded("patient-truth"))
    recorded = BOOK["fool"]["cases"]["as-it-is"]["dice"]
    assert all(now > then - 0.03 for now, then in zip(dice, recorded, strict=True))


def decoded(name: str) -> Any:
    from PIL import Image

    with Image.open(learn.SITE / "data" / f"{name}.webp") as picture:
        return brushed.volume_of(np.asarray(picture)[..., 0])


def test_an_export_holds_the_site_and_is_all_or_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "site"
    size = learn.export(folder)
    written = {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}
    assert written == {*learn.files(), Path("offline.html")}
    assert size == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 8e6
    for path in learn.files():
        assert (folder / path).read_bytes() == (learn.SITE / path).read_bytes()
    with pytest.raises(BadInput, match="already holds something"):
        learn.export(folder)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["site"]


def test_nothing_of_the_site_names_another_host() -> None:
    for path in learn.files():
        if path.suffix != ".webp":
            text = (learn.SITE / path).read_text(encoding="utf-8")
            assert set(re.findall(r"https?://[\w./-]+", text)) <= {"http://www.w3.org/2000/svg"}, path


def test_the_scripts_may_be_put_into_one() -> None:
    """What `one_script` relies on: named imports on one line, no renaming, no top-level name twice."""
    names: list[str] = []
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^import (?!\{)|import \{[^}]*\bas\b|^export (default|\{|\*)", text, re.MULTILINE), path
        assert len(learn.IMPORT.findall(text)) == len(re.findall(r"^import ", text, re.MULTILINE)), path
        declared = re.findall(r"^(?:export )?(?:async )?(?:const|let|function) (\w+|\[[^\]]*\])", text, re.MULTILINE)
        names += declared + re.findall(r"^(?:const|let) \w+ = [^;]*?, (\w+) =", text, re.MULTILINE)
    assert sorted({name for name in names if names.count(name) > 1}) == []
    script = learn.one_script(learn.SITE / "js" / "main.js")
    assert "import " not in re.sub(r"//.*", "", script).replace("important", "")
    assert all(script.count(f"function {name}(") == 1 for name in ("alphaOf", "drawSlice", "readHash"))


def test_live_settings_are_those_of_the_page() -> None:
    """What "Try it live" asks for, scene by scene, is a run that the page offers."""
    from diffatlas_app.runs.settings import Settings

    found = 0
    for path in sorted((learn.SITE / "js" / "scenes").glob("*.js")):
        (wanted,) = re.findall(r"^  live: \{ (.*) \},$", path.read_text(encoding="utf-8"), re.MULTILINE)
        query = {name: value.strip('"') for name, value in re.findall(r'(\w+): ("[^"]*"|[\d.]+)', wanted)}
        settings = Settings.from_link({"run": "1", **query})
        for name, value in query.items():
            assert str(getattr(settings, name)) in (value, f"{value}.0"), path.name
        found += bool(query)
    assert found == 10


def test_the_web_page_serves_the_site_and_links_to_it() -> None:
    from diffatlas_app.page import html
    from diffatlas_app.server import files

    assert 'href="learn/?live"' in html.links()
    for path in (*(p.as_posix() for p in learn.files()), ""):
        served = files.static_file(f"/learn/{path}")
        assert served is not None, path
        assert served.path == learn.SITE / (path or "index.html")
