"""Commands: what napari's menus, its palette (through the manifest) and our keys (`keys`) do with the open widget."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from napari_diffatlas.keys import PLUGIN, WIDGET

PAPER = "https://arxiv.org/abs/2503.06748"
GUIDE = Path(__file__).with_name("guide.md")


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
    """Press Undo, or that of the Review tab where it is shown."""
    widget = _widget()
    if widget.tabs.currentWidget() is widget.review:
        _review("undo_button")
    else:
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


def review_next() -> None:
    """The next case of the review."""
    _review("next_button")


def review_previous() -> None:
    """The case before."""
    _review("previous_button")


def review_accept() -> None:
    """Accept the labels of the case in sight and go on."""
    _review("accept_button")


def review_reject() -> None:
    """Reject the case in sight, with the reason that is written, and go on."""
    _review("reject_button")


def segment_layer() -> None:
    """A small form that segments one layer; scripts call `napari_diffatlas.function.segment`."""
    from napari_diffatlas.function import segment_form

    _viewer().window.add_dock_widget(segment_form(), name="Segment a layer")


def show_guide() -> None:
    """The guide, in a window of its own; it is part of the package and needs no network."""
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QTextBrowser

    guide = QTextBrowser(_viewer().window._qt_window)
    guide.setWindowFlag(Qt.WindowType.Window)
    guide.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    guide.setObjectName("diffatlas-guide")
    guide.setWindowTitle("DiffAtlas: guide")
    guide.setOpenExternalLinks(True)
    text = GUIDE.read_text(encoding="utf-8")
    guide.setMarkdown(re.sub(r"!\[[^]]*\]\([^)]*\)\n?", "", text))  # the pictures are not in the package
    guide.resize(720, 760)
    guide.show()


def show_paper() -> None:
    """The paper, in the browser."""
    import webbrowser

    webbrowser.open(PAPER)


def _viewer() -> Any:
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        raise RuntimeError("no viewer is open")
    return viewer


def _widget() -> Any:
    """The `DiffAtlasWidget` of the current viewer, opened where it is not."""
    viewer = _viewer()
    for widget in viewer.window.dock_widgets.values():
        if getattr(widget, "objectName", str)() == WIDGET:
            return widget
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, "DiffAtlas")
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


def _review(name: str) -> None:
    tab = _widget().review
    button = getattr(tab, name)
    if button.isEnabled():
        button.click()
    elif tab.running:
        _say("the run from your correction is still on its way")
    else:
        _say("there is no such case: open a folder under Review")


def _step(by: int) -> None:
    slider = _widget().segment.scrubber.slider
    if _widget().segment.scrubber.isHidden():
        _say("no steps are recorded")
    else:
        slider.setValue(slider.value() + by)


def _say(text: str) -> None:
    from napari.utils.notifications import show_info

    show_info(f"DiffAtlas: {text}.")
