"""The form alone, without a viewer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diffatlas.engine.request import PRESETS, Request
from diffatlas.session import Plan
from napari_diffatlas.forms.panel import Choice, Panel
from napari_diffatlas.forms.parts import size_mm
from tests.gui.conftest import CARDS, FakeCard, fake_plan


@pytest.fixture
def panel(qtbot: Any) -> Panel:
    panel = Panel(CARDS, fake_plan)
    qtbot.addWidget(panel)
    panel.resize(300, 700)
    panel.show()
    qtbot.waitExposed(panel)
    panel.set_images(["a", "b"])
    return panel


def asked(panel: Panel) -> Request:
    choice = panel.choice()
    assert choice is not None
    return choice.request


def test_run_emits_what_was_chosen_and_leaves_the_rest_to_the_preset(panel: Panel, qtbot: Any) -> None:
    panel.image_combo.setCurrentIndex(0)
    panel.options.advanced.form["seed"].value = 5
    with qtbot.waitSignal(panel.run_clicked) as signal:
        panel.run_button.click()
    choice: Choice = signal.args[0]
    assert choice.image == "a"
    assert choice.request == Request(model="heart-phantom", preset="watch", seed=5)


def test_every_advanced_choice_reaches_the_request(panel: Panel) -> None:
    advanced = panel.options.advanced
    panel.options.presets.choose("fast")
    panel.options.device_combo.setCurrentIndex(panel.options.device_combo.findData("cpu"))
    panel.options.precision_combo.setCurrentIndex(panel.options.precision_combo.findData("fp32"))
    advanced.form["guidance_noise"].value = 0.7
    advanced.form["sampler"].value = "ddpm"
    advanced.form["steps"].value = 12
    advanced.form["samples"].value = 3
    advanced.form["force"].value = True
    wanted = Request(
        model="heart-phantom",
        preset="fast",
        guidance_noise=0.7,
        sampler="ddpm",
        steps=12,
        samples=3,
        device="cpu",
        precision="fp32",
        force=True,
    )
    assert asked(panel) == wanted
    advanced.form["guidance"].value = "gradient"
    assert asked(panel).guidance == "gradient"
    assert not advanced.form["guidance_noise"].enabled  # it would change nothing


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("card", CARDS)
def test_a_preset_sets_what_it_decides_and_shows_it(panel: Panel, preset: Any, card: FakeCard) -> None:
    """What the fold shows is what the engine will fill in for the options that are left out."""
    advanced = panel.options.advanced
    advanced.form["steps"].value = 7
    panel.model_combo.setCurrentIndex(panel.model_combo.findData(card.name))
    panel.options.presets.choose("fast")
    panel.options.presets.choose("watch")
    panel.options.presets.choose(preset)
    request = asked(panel)
    assert (request.steps, request.sampler, request.guidance_noise) == (None, None, None)
    filled = request.resolved(PRESETS[request.preset], card.guidance_noise)
    assert advanced.form["steps"].value == filled.steps
    assert advanced.form["sampler"].value == filled.sampler
    assert advanced.form["guidance_noise"].value == pytest.approx(filled.guidance_noise or 0)


def test_the_time_is_the_plans(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    options = panel.options
    options.presets.choose("published")
    assert "announced once" in options.preset_text.text()

    def timed(volume: Any, request: Request) -> Plan:
        plan = fake_plan(volume, request)
        return replace(plan, seconds=0.5 * plan.steps * request.samples)

    monkeypatch.setattr(options, "_plan", timed)
    options.refresh()
    assert "about 2 min here" in options.preset_text.text()  # 300 x 0.5 s
    options.advanced.form["samples"].value = 4
    assert "about 10 min here" in options.preset_text.text()
    options.advanced.form["samples"].value = 1
    monkeypatch.setattr(options, "_plan", lambda *asked: replace(timed(*asked), seconds=0.4))
    options.refresh()
    assert "Time: under 1 s here" in options.preset_text.text()


def test_what_auto_chose_is_said(panel: Panel) -> None:
    options = panel.options
    assert options.device_text.isHidden()
    options.set_chosen("auto", "auto", "cuda:0, bf16")
    assert options.device_text.text() == "auto chose cuda:0, bf16"
    assert not options.device_text.isHidden()
    for combo, value in ((options.device_combo, "cpu"), (options.precision_combo, "fp32")):
        combo.setCurrentIndex(combo.findData(value))
    assert options.device_text.text() == ""


def test_nothing_can_be_changed_or_started_twice_while_running(panel: Panel) -> None:
    panel.set_running(True)
    boxes = (panel.image_combo, panel.model_combo, panel.options, panel.run_button)
    assert not any(box.isEnabled() for box in boxes)
    assert panel.stop_button.isEnabled()
    panel.stop_button.click()
    assert not panel.stop_button.isEnabled()
    assert not panel.pause_button.isEnabled()
    panel.set_running(False)
    assert all(box.isEnabled() for box in boxes)
    assert not panel.pause_button.isEnabled()


def test_pause_becomes_resume_when_the_run_says_that_it_holds(panel: Panel) -> None:
    clicks: list[bool] = []
    panel.pause_clicked.connect(clicks.append)
    panel.set_running(True)
    panel.pause_button.click()
    assert not panel.pause_button.isEnabled()
    panel.set_paused(True)
    assert panel.pause_button.isEnabled()
    assert panel.pause_button.text() == "Resume"
    panel.pause_button.click()
    panel.set_paused(False)
    assert panel.pause_button.text() == "Pause"
    assert clicks == [True, False]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, 40, 0.98, None), "step 1 of 40 · noise 0.98"),
        ((12, 40, 0.7, 4.2), "step 12 of 40 · noise 0.70 · 4 s left"),
        ((39, 40, 0.02, 0.4), "step 39 of 40 · noise 0.02 · under 1 s left"),
        ((2, 300, 0.99, 189.0), "step 2 of 300 · noise 0.99 · 3 min left"),
        ((2, 300, 0.99, 9000.0), "step 2 of 300 · noise 0.99 · 2.5 h left"),
        ((40, 40, 0.0, 0.0), "step 40 of 40 · noise 0.00"),
    ],
)
def test_progress_is_said_in_steps_noise_and_seconds(panel: Panel, arguments: Any, text: str) -> None:
    panel.set_progress(*arguments)
    assert panel.progress_text.text() == text
    assert (panel.progress.value(), panel.progress.maximum()) == arguments[:2]


def test_the_text_of_every_model_has_the_height_it_needs(panel: Panel, qtbot: Any) -> None:
    panel.resize(380, 700)  # five structures take two lines, two take one
    heights = []
    for index in (0, 1, 0):
        panel.model_combo.setCurrentIndex(index)
        qtbot.wait(20)
        label = panel.model_text
        heights.append(label.height())
        assert label.height() == label.heightForWidth(label.width())
        assert label.geometry().bottom() < panel.options.geometry().top()
    assert heights[0] == heights[2] > heights[1]  # five structures take more lines than two, and give them back


def test_a_models_facts_are_shown_until_the_first_run_and_on_a_click(panel: Panel) -> None:
    assert "left&nbsp;ventricle" in panel.model_text.text()
    for fact in ("CT and MR", size_mm((32, 32, 32)), "Apache-2.0", "Trained on phantoms"):
        assert fact in panel.about_text.text()
    assert panel.about_text.isVisible()
    assert "not for clinical use" in panel.about.text()
    panel.set_running(True)
    assert not panel.about_text.isVisible()
    panel.about.toggleButton().click()
    assert panel.about_text.isVisible()


def test_the_form_fits_a_narrow_dock(panel: Panel) -> None:
    panel.options.fold.expand(animate=False)
    assert panel.minimumSizeHint().width() <= 280


def test_words_of_a_card_are_not_read_as_markup(qtbot: Any) -> None:
    card = replace(CARDS[0], limits=("noise < 0.5 & <b>rho</b> > 0",), licence="<i>free</i>")
    panel = Panel((card,))
    qtbot.addWidget(panel)
    assert "Noise &lt; 0.5 &amp; &lt;b&gt;" in panel.about_text.text()
    assert "&lt;i&gt;free" in panel.about_text.text()
