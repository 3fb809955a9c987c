"""Keys for the commands, through napari's action manager.

napari does not bind the keys that a manifest names, so the commands are also made viewer actions: they are listed in
Preferences > Shortcuts once the widget has been opened, and keys chosen there are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

PLUGIN = "napari-diffatlas"
WIDGET = "diffatlas-widget"  # Qt's name of the widget; commands find it by this name


@dataclass(frozen=True)
class Bound:
    """A function of `napari_diffatlas.commands` that a key can be bound to."""

    name: str
    description: str
    function: str
    key: str


BOUND = (
    Bound("run", "DiffAtlas: run", "run", "Control-Alt-R"),
    Bound("pause", "DiffAtlas: pause or resume", "pause", "Control-Alt-H"),
    Bound("stop", "DiffAtlas: stop", "stop", "Control-Alt-X"),
    Bound("continue", "DiffAtlas: continue from the edited labels", "continue_run", "Control-Alt-C"),
    Bound("undo", "DiffAtlas: undo an edit or a run", "undo", "Control-Alt-Z"),
    Bound("earlier", "DiffAtlas: one recorded step back", "earlier", "Alt-Left"),
    Bound("later", "DiffAtlas: one recorded step forward", "later", "Alt-Right"),
    Bound("next", "DiffAtlas review: the next case", "review_next", "Control-Alt-N"),
    Bound("previous", "DiffAtlas review: the case before", "review_previous", "Control-Alt-B"),
    Bound("accept", "DiffAtlas review: accept the labels and go on", "review_accept", "Control-Alt-A"),
    Bound("reject", "DiffAtlas review: reject the labels, with the reason written", "review_reject", "Control-Alt-J"),
)
REPEATABLE = ("earlier", "later", "next", "previous")


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
        action_manager.register_action(name, _action(bound), bound.description, ViewerModel, bound.name in REPEATABLE)
        for key in chosen.get(name, [bound.key]):
            action_manager.bind_shortcut(name, key)


def _action(bound: Bound) -> Callable[[Any], None]:
    def action(viewer: Any) -> None:
        getattr(import_module("napari_diffatlas.commands"), bound.function)()

    action.__name__ = f"diffatlas_{bound.name}"  # napari tells active shortcuts by their names
    action.__doc__ = bound.description
    return action
