"""Commands: for napari's menus and palette through the manifest, and for keys through its action manager.

napari does not bind the keys that a manifest names, so the commands are also made viewer actions: they stand in
Preferences > Shortcuts once the widget has been opened, and keys chosen there are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_diffatlas.widget import DiffAtlasWidget

PLUGIN = "napari-diffatlas"
PAPER = "https://arxiv.org/abs/2503.06748"
GUIDE = Path(__file__).with_name("guide.md")


@dataclass(frozen=True)
class Bound:
    """A command that a key can be bound to."""

    name: str
    description: str
    command: Callable[[], None]
    key: str


def run() -> None:
    """Press Run."""
    _press("run_button", "there is nothing to run: open a volume first, or wait for the run that is on its way")


def pause() -> None:
    """Press Pause, or Resume."""
    _press("pause_button", "no run is on its way")


def stop() -> None:
    """End the run that is on its way, whichever tab began it."""
    widget = _widget()
    if widget.running:
        widget.runner.stop()
    else:
        _say("no run is on its way")


def continue_run() -> None:
    """Press Continue from here."""
    _press("edit.continue_button", "there are no labels to go on from: pause a run or let it finish")


def undo() -> None:
    """Press Undo."""
    _press("edit.undo_button", "there is nothing to undo")


def earlier() -> None:
    """One recorded step back."""
    _step(-1)


def later() -> None:
    """One recorded step forward."""
    _step(1)


def save_run() -> None:
    """Press Save run."""
    _press("run_files.save_button", "there is no result in sight to save")


def replay_run() -> None:
    """Press Replay run."""
    _press("run_files.replay_button", "a run is on its way")


def show_guide() -> None:
    """The guide, in a window of its own; it travels with the program and needs no network."""
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QTextBrowser

    guide = QTextBrowser(_viewer().window._qt_window)
    guide.setWindowFlag(Qt.WindowType.Window)
    guide.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    guide.setObjectName("diffatlas-guide")
    guide.setWindowTitle("DiffAtlas: guide")
    guide.setOpenExternalLinks(True)
    text = GUIDE.read_text(encoding="utf-8")
    guide.setMarkdown(re.sub(r"!\[[^]]*\]\([^)]*\)\n?", "", text))  # the pictures stay with the documentation
    guide.resize(720, 760)
    guide.show()


def show_paper() -> None:
    """The paper, in the browser."""
    import webbrowser

    webbrowser.open(PAPER)


BOUND = (
    Bound("run", "DiffAtlas: run", run, "Control-Alt-R"),
    Bound("pause", "DiffAtlas: pause or resume", pause, "Control-Alt-H"),
    Bound("stop", "DiffAtlas: stop", stop, "Control-Alt-X"),
    Bound("continue", "DiffAtlas: continue from the edited labels", continue_run, "Control-Alt-C"),
    Bound("undo", "DiffAtlas: undo an edit or a run", undo, "Control-Alt-Z"),
    Bound("earlier", "DiffAtlas: one recorded step back", earlier, "Alt-Left"),
    Bound("later", "DiffAtlas: one recorded step forward", later, "Alt-Right"),
)


def register() -> None:
    """Make the commands viewer actions, with a key each unless the user's own settings name others. Call it once or
    often."""
    from napari.components import ViewerModel
    from napari.settings import get_settings
    from napari.utils.action_manager import action_manager

    chosen = get_settings().shortcuts.shortcuts
    for bound in BOUND:
        name = f"{PLUGIN}:{bound.name}"
        if name in action_manager._actions:
            continue
        repeatable = bound.command in (earlier, later)
        action_manager.register_action(name, _action(bound), bound.description, ViewerModel, repeatable)
        for key in chosen.get(name, [bound.key]):
            action_manager.bind_shortcut(name, key)


def _action(bound: Bound) -> Callable[[Any], None]:
    def action(viewer: Any) -> None:
        bound.command()

    action.__name__ = f"diffatlas_{bound.name}"  # napari tells active shortcuts by their names
    action.__doc__ = bound.description
    return action


def _viewer() -> Any:
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        raise RuntimeError("no viewer is open")
    return viewer


def _widget() -> DiffAtlasWidget:
    """The widget of the current viewer, opened where it is not."""
    from napari_diffatlas.widget import DiffAtlasWidget

    viewer = _viewer()
    for widget in viewer.window.dock_widgets.values():
        if isinstance(widget, DiffAtlasWidget):
            return widget
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "DiffAtlas")
    assert isinstance(widget, DiffAtlasWidget)
    return widget


def _press(path: str, otherwise: str) -> None:
    """Press a button of the first tab, or say why it cannot be pressed now."""
    widget = _widget()
    part: Any = widget.segment if "." in path else widget.segment.panel
    for name in path.split("."):
        part = getattr(part, name)
    if part.isEnabled():
        widget.tabs.setCurrentWidget(widget.segment)
        part.click()
    else:
        _say(otherwise)


def _step(by: int) -> None:
    slider = _widget().segment.scrubber.slider
    if _widget().segment.scrubber.isHidden():
        _say("no steps are recorded")
    else:
        slider.setValue(slider.value() + by)


def _say(text: str) -> None:
    from napari.utils.notifications import show_info

    show_info(f"DiffAtlas: {text}.")
