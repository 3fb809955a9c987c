"""The form alone, without a viewer."""

from __future__ import annotations

from typing import Any

import pytest

from napari_diffatlas._panel import Choice, Panel
from tests.gui.conftest import CARDS, FakeCard


@pytest.fixture
def panel(qtbot: Any) -> Panel:
    panel = Panel(CARDS)
    qtbot.addWidget(panel)
    panel.resize(260, 600)
    panel.show()
    qtbot.waitExposed(panel)
    return panel


def test_run_emits_what_was_chosen(panel: Panel, qtbot: Any) -> None:
    panel.set_images(["a", "b"])
    panel.image_combo.setCurrentIndex(0)
    panel.seed_box.setValue(5)
    with qtbot.waitSignal(panel.run_clicked) as signal:
        panel.run_button.click()
    assert signal.args == [Choice("a", "heart-phantom", "watch", 5)]


def test_nothing_can_be_changed_or_started_twice_while_running(panel: Panel) -> None:
    panel.set_images(["a"])
    panel.set_running(True)
    boxes = (panel.image_combo, panel.model_combo, panel.preset_combo, panel.seed_box, panel.run_button)
    assert not any(box.isEnabled() for box in boxes)
    assert panel.stop_button.isEnabled()
    panel.stop_button.click()
    assert not panel.stop_button.isEnabled()
    panel.set_running(False)
    assert all(box.isEnabled() for box in boxes)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, 40, 0.98, None), "step 1 of 40 · noise 0.98"),
        ((12, 40, 0.7, 4.2), "step 12 of 40 · noise 0.70 · 4 s left"),
        ((39, 40, 0.02, 0.4), "step 39 of 40 · noise 0.02 · under 1 s left"),
        ((2, 300, 0.99, 189.0), "step 2 of 300 · noise 0.99 · 3 min left"),
        ((40, 40, 0.0, 0.0), "step 40 of 40 · noise 0.00"),
    ],
)
def test_progress_is_said_in_steps_noise_and_seconds(panel: Panel, arguments: Any, text: str) -> None:
    panel.set_progress(*arguments)
    assert panel.progress_text.text() == text
    assert (panel.progress.value(), panel.progress.maximum()) == arguments[:2]


def test_the_text_of_every_model_has_the_height_it_needs(panel: Panel, qtbot: Any) -> None:
    heights = []
    for index in (0, 1, 0):
        panel.model_combo.setCurrentIndex(index)
        qtbot.wait(20)
        label = panel.model_text
        heights.append(label.height())
        assert label.height() == label.heightForWidth(label.width())
        assert label.geometry().bottom() < panel.preset_combo.geometry().top()
    assert heights[0] == heights[2] > heights[1]  # five structures take more lines than two, and give them back


def test_words_of_a_card_are_not_read_as_markup(qtbot: Any) -> None:
    card = FakeCard("m", "M", CARDS[0].scheme, ("noise < 0.5 & <b>rho</b> > 0",))
    panel = Panel((card,))
    qtbot.addWidget(panel)
    assert "Noise &lt; 0.5 &amp; &lt;b&gt;" in panel.model_text.text()
