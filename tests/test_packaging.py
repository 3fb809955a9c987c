"""What an installed copy holds: built once as a wheel, and looked into."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "app",
    "core",
    "docs",
    "napari_diffatlas",
    "weights",
    "napari.yaml",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a folder of links to the checkout: setuptools leaves its traces beside the source."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    copy.mkdir()
    for name in (*SOURCES, "tests"):
        # With the tests: they must be kept out by pyproject.toml, not by luck.
        (copy / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_nothing_but_the_three_packages_reaches_site_packages(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "diffatlas",
        "diffatlas_app",
        "napari_diffatlas",
    }


def test_every_source_file_travels(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for folder, package in (("core", "diffatlas"), ("app", "diffatlas_app"), (".", "napari_diffatlas")):
        for path in (ROOT / folder / package).rglob("*.py"):
            assert path.relative_to(ROOT / folder).as_posix() in names
    assert "diffatlas/py.typed" in names


def test_the_weights_travel_but_those_of_digital_hearts_alone(wheel: zipfile.ZipFile) -> None:
    """All three would be more than 30 MB; `heart` took the place of heart-phantom."""
    models = [card.parent for card in (ROOT / "weights").glob("*/card.yaml") if card.parent.name != "heart-phantom"]
    assert {model.name for model in models} == {"heart", "hippocampus-mri"}
    assert not any("heart-phantom" in name for name in wheel.namelist())
    for model in models:
        for name in ("model.safetensors", "card.yaml", "train.yaml", "README.md"):
            inside = wheel.read(f"diffatlas/weights/{model.name}/{name}")
            assert inside == (model / name).read_bytes()


def test_the_scripts_and_the_teaching_site_travel(wheel: zipfile.ZipFile) -> None:
    folder = ROOT / "app" / "diffatlas_app" / "static"
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert {"viewer.js", "index.html", "destroy.js", "de.json", "scenes.json"} <= {path.name for path in paths}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        assert wheel.read(f"diffatlas_app/static/{name}") == path.read_bytes()


def test_the_wheel_is_small(wheel: zipfile.ZipFile) -> None:
    """The whole is under 30 MB, of which the weights are nine tenths."""
    sizes = {entry.filename: entry.compress_size for entry in wheel.infolist()}
    assert sum(size for name, size in sizes.items() if "/static/learn/" in name) < 2.5e6
    assert sum(sizes.values()) + sum(map(len, sizes)) < 30e6


def test_the_recorded_runs_travel(wheel: zipfile.ZipFile) -> None:
    folder = ROOT / "app" / "diffatlas_app" / "recorded"
    paths = list(folder.iterdir())
    assert paths
    for path in paths:
        assert wheel.read(f"diffatlas_app/recorded/{path.name}") == path.read_bytes()


def test_the_manifest_travels_and_is_the_one_at_the_root(wheel: zipfile.ZipFile) -> None:
    root = (ROOT / "napari.yaml").read_bytes()
    assert (ROOT / "napari_diffatlas" / "napari.yaml").read_bytes() == root
    assert wheel.read("napari_diffatlas/napari.yaml") == root


def test_the_manifest_in_the_wheel_is_valid_by_itself(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Checked on the unpacked wheel: every command can be imported from it alone, and the guide is beside it."""
    wheel.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import napari_diffatlas; assert napari_diffatlas.__file__.startswith(sys.argv[1])\n"
        "from npe2 import PluginManifest\n"
        "PluginManifest.from_file(sys.argv[1] + '/napari_diffatlas/napari.yaml').validate_imports()\n"
    )
    pytest.importorskip("napari")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert wheel.read("napari_diffatlas/guide.md") == (ROOT / "docs" / "napari.md").read_bytes()


def test_entry_points(wheel: zipfile.ZipFile) -> None:
    (name,) = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    text = wheel.read(name).decode()
    assert "diffatlas = diffatlas.__main__:main" in text
    assert "napari-diffatlas = napari_diffatlas:napari.yaml" in text


def test_the_installed_script_answers() -> None:
    script = Path(sys.executable).with_name("diffatlas")
    if not script.exists():
        pytest.skip("not installed into this environment: pip install -e .")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("diffatlas 0.")
    module = subprocess.run(
        [sys.executable, "-m", "diffatlas", "--version"], capture_output=True, text=True, check=False
    )
    assert module.stdout == done.stdout


def test_constraints_fit_the_project() -> None:
    """Every dependency is pinned, at a version its own range allows."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(n): v for n, v in (line.split("==") for line in lines if line and line[0] != "#")}
    extras = [text for name, extra in project["optional-dependencies"].items() if name != "all" for text in extra]
    for text in (*project["dependencies"], *extras):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text


# Where conda-forge has another name for a distribution.
CONDA = {"isal": "python-isal", "matplotlib": "matplotlib-base", "python-gdcm": "gdcm", "torch": "pytorch"}


def test_the_conda_recipe_asks_for_what_pyproject_asks_for() -> None:
    recipe = yaml.safe_load((ROOT / "conda" / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    wanted = {f"python {project['requires-python']}"}
    for requirement in project["dependencies"]:
        name, bound = re.fullmatch(r"([A-Za-z0-9_.-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
        wanted.add(f"{CONDA.get(name, name)} {bound}")
    assert set(recipe["requirements"]["run"]) == wanted
    (setuptools,) = pyproject["build-system"]["requires"]
    assert setuptools.replace(">=", " >=") in recipe["requirements"]["host"]
    assert recipe["context"]["version"] == project["version"]
    assert recipe["package"]["name"] == project["name"]
    assert recipe["build"]["python"]["entry_points"] == [f"{k} = {v}" for k, v in project["scripts"].items()]
    assert recipe["about"]["summary"] == project["description"]
    assert recipe["about"]["license"] == project["license"]
