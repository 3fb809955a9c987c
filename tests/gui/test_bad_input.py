"""What bad input gets: one line in the widget, and a widget that works again at once. On the real engine, with a tiny
random network; only where an engine must fail on demand is it a fake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask.delayed import delayed

from diffatlas import session
from diffatlas.geometry.volume import Volume
from diffatlas.models.store import WEIGHTS_FILE
from napari_diffatlas.forms.parts import ERROR_COLORS
from napari_diffatlas.viewer.layers import volume_to_layer
from napari_diffatlas.viewer.live_layers import LIVE_LABELS
from napari_diffatlas.widget import DiffAtlasWidget
from tests.conftest import make_model
from tests.fakes import FakeBackend
from tests.gui.conftest import LongBackend

pytestmark = [
    pytest.mark.filterwarnings("ignore:Non-orthogonal slicing"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

Open = Callable[[Any, FakeBackend], DiffAtlasWidget]
SHAPE = (16, 17, 18)  # at 2 mm it fills the tiny model's field of view: no result is doubtful for lying outside
MM: dict[str, Any] = {"units": ("mm",) * 3, "scale": (2, 2, 2)}


def ramp(dtype: Any = np.float32) -> Any:
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 97).astype(dtype)


@pytest.fixture
def tiny(make_napari_viewer: Any, tmp_path: Path) -> Iterator[tuple[Any, DiffAtlasWidget, Path]]:
    """Viewer, widget with the tiny model chosen, and the model's folder."""
    folder = make_model(tmp_path / "models" / "tiny")
    session.use_models_folder(folder.parent)
    viewer = make_napari_viewer()
    widget = DiffAtlasWidget(viewer)
    session.use_models_folder(folder.parent)  # the widget heeds the preferences, which name no folder
    panel = widget.segment.panel
    card = session.model_card("tiny")
    panel._cards["tiny"] = card
    panel.model_combo.addItem(card.title, card.name)
    panel.model_combo.setCurrentIndex(panel.model_combo.findData("tiny"))
    panel.options.presets.choose("fast")
    viewer.window.add_dock_widget(widget, name="DiffAtlas")
    yield viewer, widget, folder
    session.use_models_folder(None)


def run(qtbot: Any, widget: DiffAtlasWidget) -> str:
    """Press Run, wait, and return the widget's line."""
    widget.segment.panel.run_button.click()
    qtbot.waitUntil(lambda: not widget.running, timeout=90_000)
    text: str = widget.segment.panel.status.text()
    return text


def is_refusal(widget: DiffAtlasWidget) -> bool:
    """One line, in red, and Run can be pressed."""
    status = widget.segment.panel.status
    red = any(color in status.styleSheet() for color in ERROR_COLORS.values())
    return red and "\n" not in status.text() and widget.segment.panel.run_button.isEnabled()


def works_again(qtbot: Any, viewer: Any, widget: DiffAtlasWidget) -> bool:
    """Whether a good image is segmented right after."""
    viewer.add_image(ramp(), name="good", **MM)
    combo = widget.segment.panel.image_combo
    combo.setCurrentIndex(combo.findData("good"))
    return run(qtbot, widget).startswith("Done in ") and "good labels, seed 0" in viewer.layers


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "2-D": (lambda: np.zeros((20, 30)), {}, "is 2-D"),
    "4-D": (lambda: np.zeros((2, *SHAPE)), {}, "is 4-D"),
    "RGB": (lambda: np.zeros((*SHAPE[:2], 3), np.uint8), {"rgb": True}, "colour image"),
    "RGB volume": (lambda: np.zeros((*SHAPE, 3), np.uint8), {"rgb": True}, "colour image"),
    "empty": (lambda: np.zeros((0, 4, 5)), {"contrast_limits": (0, 1)}, "is empty"),
    "NaN": (lambda: np.full(SHAPE, np.nan), {"contrast_limits": (0, 1)}, "100% of its voxels are NaN"),
    "huge": (lambda: da.zeros((300_000, 64, 64), np.uint8), {"contrast_limits": (0, 1)}, "the limit is"),
    "CT for an MR model": (lambda: ramp() * 20 - 1000, MM, "looks like ct"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_layer_that_cannot_be_used_gets_one_line(tiny: Any, qtbot: Any, kind: str) -> None:
    viewer, widget, _ = tiny
    make, arguments, words = REFUSED[kind]
    viewer.add_image(make(), name="bad", **arguments)
    text = run(qtbot, widget)
    assert words in text
    assert "bad" in text
    assert is_refusal(widget)
    assert works_again(qtbot, viewer, widget)


def test_what_does_not_fit_runs_where_one_insists(tiny: Any, qtbot: Any) -> None:
    viewer, widget, _ = tiny
    viewer.add_image(REFUSED["CT for an MR model"][0](), name="ct", **MM)
    assert "tick 'run on any modality' under Advanced" in run(qtbot, widget)
    widget.segment.panel.options.advanced.form["force"].value = True
    assert run(qtbot, widget).startswith("Done in ")


@pytest.mark.parametrize("kind", ["int64", "float16", "uint8", "dask", "constant", "some NaN"])
def test_layers_of_any_sort_of_numbers_are_run(tiny: Any, qtbot: Any, kind: str) -> None:
    viewer, widget, _ = tiny
    data: Any = ramp()
    arguments = MM | {"contrast_limits": (0, 97)}
    words = ""
    match kind:
        case "dask":
            data = da.from_delayed(delayed(ramp)(), shape=SHAPE, dtype=np.float32)
        case "constant":
            data, words = np.full(SHAPE, 7.0), "constant"
        case "some NaN":
            data[0], words = np.nan, "took the lowest value"
        case _:
            data = ramp(kind)
    viewer.add_image(data, name="it", **arguments)
    text = run(qtbot, widget)
    assert text.startswith("Done in ")
    assert words in text
    assert viewer.layers["it labels, seed 0"].data.shape == SHAPE


def test_weights_that_are_missing_are_told_without_asking_a_network(
    tiny: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def offline(*_: Any) -> Any:
        raise AssertionError("asked for a connection")

    viewer, widget, folder = tiny
    monkeypatch.setattr(socket.socket, "connect", offline)
    viewer.add_image(ramp(), name="it", **MM)
    (folder / WEIGHTS_FILE).rename(folder / "elsewhere")
    text = run(qtbot, widget)
    assert f"{WEIGHTS_FILE}: missing; it belongs beside card.yaml" in text
    assert is_refusal(widget)
    (folder / "elsewhere").rename(folder / WEIGHTS_FILE)
    assert works_again(qtbot, viewer, widget)


def test_a_model_that_is_gone_altogether_is_told(tiny: Any, qtbot: Any) -> None:
    viewer, widget, folder = tiny
    viewer.add_image(ramp(), name="it", **MM)
    elsewhere = folder.parent.with_name("elsewhere")  # beside the others it would be found by the name on its card
    folder.rename(elsewhere)
    assert "no model named 'tiny'" in run(qtbot, widget)
    assert is_refusal(widget)
    elsewhere.rename(folder)
    assert works_again(qtbot, viewer, widget)


class Odd(Exception):
    """An exception that even refuses to say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


ERRORS = (
    RuntimeError("CUDA out of memory"),
    MemoryError(),
    OSError(5, "I/O error"),
    KeyError("x"),
    StopIteration(),
    ValueError("a\nb"),
    AssertionError(),
    Odd(),
    SystemExit(1),
    KeyboardInterrupt(),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_exception_of_any_type_in_the_engine_gets_one_line(
    make_napari_viewer: Any, qtbot: Any, open_widget: Open, volume: Volume, error: BaseException
) -> None:
    viewer = make_napari_viewer()
    data, state, _ = volume_to_layer(volume)
    viewer.add_image(data, **state)
    backend = FakeBackend(fail_at=1, error=error)
    widget = open_widget(viewer, backend)
    text = run(qtbot, widget)
    assert type(error).__name__ in text
    assert is_refusal(widget)
    assert backend.open_runs == 0
    backend.fail_at = None
    assert run(qtbot, widget).startswith("Done in ")


def test_a_layer_that_changes_during_the_run_changes_nothing(
    make_napari_viewer: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    """The engine has its own copy, and the labels lie where the image was when Run was pressed."""
    viewer = make_napari_viewer()
    data, state, _ = volume_to_layer(volume)
    layer = viewer.add_image(data, **state)
    place, voxels = layer.affine.affine_matrix.copy(), volume.sha256()
    backend = LongBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    qtbot.waitUntil(lambda: LIVE_LABELS in viewer.layers, timeout=90_000)
    layer.data[...] = 0
    layer.translate = (50, 0, 0)
    layer.name = "renamed"
    layer.data = np.zeros((4, 4, 4), np.float32)
    backend.finish.set()
    qtbot.waitUntil(lambda: not widget.running, timeout=90_000)
    assert widget.segment.panel.status.text().startswith("Done in ")
    labels = viewer.layers["case 7 labels, seed 0"]
    assert labels.data.shape == data.shape
    assert np.array_equal(labels.affine.affine_matrix, place)
    assert backend.volumes[0] is not None
    assert backend.volumes[0].sha256() == voxels
    assert "Done in " in run(qtbot, widget)  # on what the layer is now, which is too small to be trusted


def test_every_layer_deleted_during_the_run(
    make_napari_viewer: Any, qtbot: Any, open_widget: Open, volume: Volume
) -> None:
    viewer = make_napari_viewer()
    data, state, _ = volume_to_layer(volume)
    viewer.add_image(data, **state)
    backend = LongBackend()
    widget = open_widget(viewer, backend)
    widget.segment.panel.run_button.click()
    qtbot.waitUntil(lambda: LIVE_LABELS in viewer.layers, timeout=90_000)
    viewer.layers.clear()
    backend.finish.set()
    qtbot.waitUntil(lambda: not widget.running, timeout=90_000)
    assert widget.segment.panel.status.text().startswith("Done in ")
    viewer.add_image(data, **state)
    assert run(qtbot, widget).startswith("Done in ")
