"""Commands: in napari's menu and palette by the manifest, at keys by its action manager."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from napari._app_model import get_app_model
from napari.components import ViewerModel
from napari.settings import get_settings
from napari.utils.action_manager import action_manager
from napari.utils.shortcuts import default_shortcuts
from npe2 import PluginManifest
from qtpy.QtWidgets import QTextBrowser

from diffatlas.geometry.volume import Volume
from napari_diffatlas import commands as _commands
from napari_diffatlas.commands import PAPER
from napari_diffatlas.keys import BOUND, PLUGIN, register
from napari_diffatlas.viewer.layers import volume_to_layer
from napari_diffatlas.widget import DiffAtlasWidget
from tests.fakes import FakeBackend
from tests.gui.conftest import LongBackend

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")

ROOT = Path(__file__).resolve().parents[2]
Open = Callable[[Any, FakeBackend], DiffAtlasWidget]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(_commands, "_say", lines.append)
    return lines


@pytest.fixture
def opened(make_napari_viewer: Any, open_widget: Open, volume: Volume) -> Callable[[FakeBackend], tuple[Any, Any]]:
    def open_(backend: FakeBackend) -> tuple[Any, Any]:
        viewer = make_napari_viewer()
        data, state, _ = volume_to_layer(volume)
        viewer.add_image(data, **state)
        return viewer, open_widget(viewer, backend)

    return open_


def wait_for_end(qtbot: Any, widget: DiffAtlasWidget) -> None:
    qtbot.waitUntil(lambda: not widget.running, timeout=90_000)


def test_a_run_by_commands_alone(opened: Any, qtbot: Any, said: list[str]) -> None:
    backend = LongBackend()
    viewer, widget = opened(backend)
    segment = widget.segment
    widget.tabs.setCurrentWidget(widget.folder)
    _commands.run()
    assert widget.running
    assert widget.tabs.currentWidget() is segment
    qtbot.waitUntil(lambda: segment.panel.progress.value() >= 3, timeout=90_000)
    _commands.pause()
    qtbot.waitUntil(lambda: segment.panel.paused, timeout=90_000)
    _commands.earlier()
    assert segment.scrubber.index == segment.scrubber.slider.value()
    at = segment.scrubber.index
    _commands.earlier()
    assert segment.scrubber.index == at - 1
    _commands.later()
    assert segment.scrubber.index == at
    _commands.pause()
    qtbot.waitUntil(lambda: not segment.panel.paused, timeout=90_000)
    _commands.stop()
    wait_for_end(qtbot, widget)
    assert segment.panel.status.text().startswith("Stopped after ")
    backend.finish.set()
    _commands.run()
    wait_for_end(qtbot, widget)
    layer = viewer.layers[-1]
    before = layer.data.copy()
    layer.data[3:6, 4:7, 5:8] = 600
    _commands.continue_run()
    wait_for_end(qtbot, widget)
    assert len(backend.requests) == 3
    _commands.undo()  # back to the first result, which is edited
    _commands.undo()
    assert (layer.data == before).all()
    assert said == []


def test_commands_that_have_nothing_to_do_say_so(opened: Any, said: list[str]) -> None:
    viewer, widget = opened(FakeBackend())
    viewer.layers.clear()
    for command in (*(getattr(_commands, bound.function) for bound in BOUND), _commands.save_run):
        command()
    assert len(said) == len(BOUND) + 1
    assert not widget.running


def test_keys_press_the_commands_and_can_be_chosen(opened: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer, _ = opened(FakeBackend())
    pressed: list[str] = []
    for bound in BOUND:
        name = f"{PLUGIN}:{bound.name}"
        assert action_manager._actions[name].keymapprovider is ViewerModel  # what Preferences > Shortcuts lists
        assert action_manager._actions[name].description == bound.description
    monkeypatch.setattr(_commands, "_press", lambda path, otherwise: pressed.append(path))
    keymap = {str(key): function for key, function in ViewerModel.class_keymap.items()}
    keymap["Ctrl+Alt+R"](viewer)
    keymap["Ctrl+Alt+Z"](viewer)
    assert pressed == ["run_button", "edit.undo_button"]
    taken = [str(key) for bound in BOUND for key in action_manager._shortcuts[f"{PLUGIN}:{bound.name}"]]
    napari_own = {
        str(k) for name, keys in get_settings().shortcuts.shortcuts.items() if PLUGIN not in name for k in keys
    }
    assert not {key.replace("Control", "Ctrl").replace("-", "+") for key in taken} & napari_own


def test_no_key_of_ours_is_one_of_napari_s(make_napari_viewer: Any) -> None:
    make_napari_viewer()
    menus = {str(entry.keybinding) for entry in get_app_model().keybindings}  # they come before those of any widget
    taken = menus | {str(key) for chosen in default_shortcuts.values() for key in chosen}
    ours = {bound.key.replace("Control", "Ctrl").replace("-", "+") for bound in BOUND}
    assert any(key.endswith("Alt+P") for key in menus)  # plays the slices
    assert ours & taken == set()


def test_keys_from_the_users_settings_come_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{PLUGIN}:run"
    register()
    settings = get_settings().shortcuts
    before = dict(settings.shortcuts)
    # Set while the action is there: a window of an earlier test may still follow the settings.
    settings.shortcuts = {**before, name: ["Ctrl+Alt+J"]}
    action, keys = action_manager._actions.pop(name), action_manager._shortcuts.pop(name)
    try:
        register()
        assert [str(key) for key in action_manager._shortcuts[name]] == ["Ctrl+Alt+J"]
    finally:
        settings.shortcuts = before
        action_manager.unbind_shortcut(name)
        action_manager._actions[name] = action
        for key in keys:
            action_manager.bind_shortcut(name, key)


def test_the_palette_and_the_menu_hold_every_command(npe2pm: Any, make_napari_viewer: Any) -> None:
    manifest = PluginManifest.from_file(ROOT / "napari.yaml")
    with npe2pm.tmp_plugin(manifest=manifest):
        make_napari_viewer()
        menus = get_app_model().menus
        palette = {item.command.id for item in menus.get_menu(menus.COMMAND_PALETTE_ID)}
        contributions: Any = manifest.contributions
        menu = [item.command for item in contributions.menus["napari-diffatlas.commands"]]
        assert set(menu) <= palette
        assert [item.command.id for item in menus.get_menu("napari-diffatlas.commands")] == menu
        submenus = [getattr(item, "submenu", None) for item in menus.get_menu("napari/layers/segment")]
        assert "napari-diffatlas.commands" in submenus


def test_a_command_opens_the_widget(npe2pm: Any, make_napari_viewer: Any, said: list[str]) -> None:
    with npe2pm.tmp_plugin(manifest=str(ROOT / "napari.yaml")):
        viewer = make_napari_viewer()
        get_app_model().commands.execute_command("napari-diffatlas.stop")
        assert any(isinstance(widget, DiffAtlasWidget) for widget in viewer.window.dock_widgets.values())
    assert said == ["no run is on its way"]


def test_the_guide_opens_without_a_network_and_the_paper_in_the_browser(
    make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = make_napari_viewer()
    _commands.show_guide()
    (guide,) = viewer.window._qt_window.findChildren(QTextBrowser, "diffatlas-guide")
    assert "DiffAtlas in napari" in guide.toPlainText()
    assert "images/" not in guide.toHtml()
    guide.close()
    visited: list[str] = []
    monkeypatch.setattr(webbrowser, "open", visited.append)
    _commands.show_paper()
    assert visited == [PAPER]
