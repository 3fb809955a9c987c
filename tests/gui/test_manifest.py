"""What napari sees of the plugin before anything is opened: the manifest, its commands, samples and reader."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from npe2 import PluginManager, PluginManifest

from diffatlas import session
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import MMWHS, LabelMap, Volume
from diffatlas.io import write_volume

ROOT = Path(__file__).resolve().parents[2]
NAME = "napari-diffatlas"


@pytest.fixture
def manifest() -> PluginManifest:
    return PluginManifest.from_file(ROOT / "napari.yaml")


def phantom(name: str, seed: int = 0) -> tuple[Volume, LabelMap]:
    """Stands in for `session.example`: a cube in an L, P, S volume."""
    grid = Grid((6, 7, 8), np.diag([-2.0, -2.0, 2.0, 1.0]))
    labels = np.zeros(grid.shape, np.uint8)
    labels[0:2, 0:2, 0:2] = 1
    modality: Any = name.removeprefix("heart-")
    return Volume(labels * np.float32(300), grid, modality, name), LabelMap(labels, grid, MMWHS)


def test_the_package_holds_the_manifest_of_the_root() -> None:
    packaged = ROOT / "napari_diffatlas" / "napari.yaml"
    assert packaged.read_bytes() == (ROOT / "napari.yaml").read_bytes()


def test_the_manifest_is_valid_and_named_as_the_distribution(manifest: PluginManifest) -> None:
    assert manifest.name == NAME
    manifest.validate_imports()  # every python_name can be imported


def test_every_contribution_points_to_a_command(manifest: PluginManifest) -> None:
    contributions: Any = manifest.contributions
    commands = {command.id: command for command in contributions.commands}
    groups = (contributions.widgets, contributions.readers, contributions.writers, contributions.sample_data)
    pointed = {
        item.command for group in (*groups, *contributions.menus.values()) for item in group if hasattr(item, "command")
    }
    assert pointed == set(commands)
    assert {item.submenu for menu in contributions.menus.values() for item in menu if hasattr(item, "submenu")} == {
        submenu.id for submenu in contributions.submenus
    }
    for command in commands.values():
        module, name = command.python_name.split(":")
        assert callable(getattr(import_module(module), name))


def test_the_installed_package_is_discovered_with_its_manifest() -> None:
    """As napari finds it, by the entry point of the distribution; an editable install is one, too."""
    try:
        distribution(NAME)
    except PackageNotFoundError:
        pytest.skip("not installed into this environment: pip install -e .")
    manager = PluginManager()
    manager.discover()
    found = manager.get_manifest(NAME)
    assert found.name == NAME
    assert any(widget.display_name == "DiffAtlas" for widget in found.contributions.widgets or ())


def test_npe2s_own_check_passes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", str(ROOT / "napari.yaml")],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_looking_at_the_plugin_loads_neither_torch_nor_qt() -> None:
    code = "import sys, napari_diffatlas; assert not {'torch', 'qtpy', 'napari'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_widget_loads_no_torch() -> None:
    code = (
        "import sys, napari_diffatlas.widget, napari_diffatlas.reader, napari_diffatlas.writer, "
        "napari_diffatlas.sample_data; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(("key", "title"), [("heart-ct", "phantom CT"), ("heart-mr", "phantom MR")])
def test_samples_open(
    npe2pm: Any, make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch, key: str, title: str
) -> None:
    monkeypatch.setattr(session, "example", phantom)
    with npe2pm.tmp_plugin(manifest=str(ROOT / "napari.yaml")):
        viewer = make_napari_viewer()
        image, truth = viewer.open_sample(NAME, key)
    volume, labels = phantom(key)
    assert (image.name, truth.name) == (title, f"{title} truth")
    assert not truth.visible
    for layer, voxels in ((image, volume.data), (truth, labels.to_ids())):
        for voxel in ((0, 0, 0), (1, 0, 1), (5, 6, 7)):
            index = tuple(np.rint(layer.world_to_data(volume.grid.to_world(voxel))).astype(int))
            assert layer.data[index] == voxels[voxel]


def test_napari_opens_and_saves_through_the_plugin(npe2pm: Any, make_napari_viewer: Any, tmp_path: Path) -> None:
    volume, _ = phantom("heart-ct")
    write_volume(volume, tmp_path / "case.nii.gz")
    with npe2pm.tmp_plugin(manifest=str(ROOT / "napari.yaml")):
        viewer = make_napari_viewer()
        (layer,) = viewer.open(str(tmp_path / "case.nii.gz"), plugin=NAME)
        assert layer.name == "case"
        assert layer.save(str(tmp_path / "copy.nii.gz"), plugin=NAME) == [str(tmp_path / "copy.nii.gz")]
    assert (tmp_path / "copy.nii.gz").is_file()


def test_the_widget_opens_from_the_plugins_menu(
    npe2pm: Any, make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "available_models", lambda: ())
    with npe2pm.tmp_plugin(manifest=str(ROOT / "napari.yaml")):
        viewer = make_napari_viewer()
        _, widget = viewer.window.add_plugin_dock_widget(NAME, "DiffAtlas")
        assert type(widget).__name__ == "DiffAtlasWidget"
