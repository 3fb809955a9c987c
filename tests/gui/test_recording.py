"""The record of a run: bounded, evenly thinned; the slider through it and the plot beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diffatlas.engine.request import Request
from diffatlas.geometry.volume import Volume
from diffatlas.session import Frame
from napari_diffatlas.forms.plot import round_up
from napari_diffatlas.forms.scrubber import Scrubber
from napari_diffatlas.jobs.recording import Moment, Recording
from tests.fakes import FakeBackend


def frames(volume: Volume, steps: int) -> list[Frame]:
    return list(FakeBackend().stream(volume, Request(steps=steps)))


def recorded(all_frames: list[Frame], limit_bytes: int = 2**30) -> Recording:
    recording = Recording(limit_bytes)
    for frame in all_frames:
        recording.add(frame)
    return recording


def test_what_is_kept_is_what_was_shown(volume: Volume) -> None:
    made = frames(volume, 5)
    recording = recorded(made)
    assert recording.trace().kept == (0, 1, 2, 3, 4)
    for frame in made:
        moment = recording.at(frame.index)
        assert moment is not None
        assert np.array_equal(moment.labels, frame.labels)
        assert moment.image == pytest.approx(frame.image, abs=1e-3)
    made[2].labels[:] = 0  # the engine may use its arrays again
    moment = recording.at(2)
    assert moment is not None
    assert moment.labels.any()


@pytest.mark.parametrize("steps", [2, 3, 17, 64, 100])
def test_the_bound_holds_and_what_is_left_is_spread_evenly(volume: Volume, steps: int) -> None:
    made = frames(volume, steps)
    size = Moment.of(made[0]).nbytes
    recording = Recording(10 * size)
    for frame in made:
        recording.add(frame)
        trace = recording.trace()
        assert trace.nbytes <= 10 * size
        assert trace.kept[0] == 0
        assert trace.kept[-1] == frame.index  # the newest is always there
    gaps = set(np.diff(trace.kept[:-1]))
    assert len(gaps) <= 1
    assert len(trace.kept) == steps if steps <= 10 else len(trace.kept) >= 5
    assert list(trace.metrics) == list(range(steps))  # small, so kept of all


def test_the_first_and_the_newest_step_are_kept_however_little_memory_there_is(volume: Volume) -> None:
    assert recorded(frames(volume, 9), limit_bytes=0).trace().kept == (0, 8)


def test_pauses_are_left_out_of_the_time(volume: Volume) -> None:
    recording = Recording()
    frame = frames(volume, 1)[0]
    recording.add(replace(frame, metrics=replace(frame.metrics, seconds=30.0)), paused_s=20.0)
    assert recording.trace().metrics[0].seconds == pytest.approx(10.0)


@pytest.fixture
def scrubber(qtbot: Any) -> Scrubber:
    scrubber = Scrubber()
    qtbot.addWidget(scrubber)
    scrubber.resize(300, 320)
    return scrubber


def test_the_slider_walks_the_kept_steps_and_the_plot_all(scrubber: Scrubber, volume: Volume) -> None:
    made = frames(volume, 40)
    trace = recorded(made, 12 * Moment.of(made[0]).nbytes).trace()
    scrubber.show_trace(trace)
    moved: list[Any] = []
    scrubber.moved.connect(moved.append)
    assert scrubber.slider.maximum() == len(trace.kept) - 1
    assert scrubber.slider.value() == scrubber.slider.maximum()
    scrubber.slider.setValue(1)
    assert moved == [trace.kept[1]]
    assert len(scrubber.plot.charts[0].series[0].points) == 40
    scrubber.go_to(trace.kept[2] + 1)  # not kept itself: the nearest that is
    assert moved[-1] == trace.kept[2]
    scrubber.go_to(39)
    assert moved[-1] is None
    assert f"{len(trace.kept)} of 40 steps" in scrubber.kept_text.text()


def test_a_click_at_a_cursors_place_is_its_step(scrubber: Scrubber, volume: Volume) -> None:
    scrubber.show_trace(recorded(frames(volume, 23)).trace())
    plot = scrubber.plot
    assert [plot.index_at(plot.x_of(i)) for i in range(23)] == list(range(23))
    assert plot.index_at(-50.0) == 0
    assert plot.index_at(5000.0) == 22


def test_the_values_at_the_cursor_are_said(scrubber: Scrubber, volume: Volume) -> None:
    made = frames(volume, 4)
    scrubber.show_trace(recorded(made).trace())
    scrubber.go_to(1)
    residual, change, volumes = scrubber.plot.charts
    assert residual.now == f"{made[1].metrics.guidance_residual:.3g}"
    assert change.now == f"{100 * (made[1].metrics.mask_change or 0):.3g} %"
    assert volumes.now.startswith(f"{sum(made[1].metrics.volumes_ml.values()):.3g} ml")
    assert [series.points[1][1] for series in volumes.series] == list(made[1].metrics.volumes_ml.values())


def test_every_curve_stays_below_the_upper_edge(scrubber: Scrubber, volume: Volume) -> None:
    scrubber.show_trace(recorded(frames(volume, 4)).trace())
    for chart in scrubber.plot.charts:
        for series in chart.series:
            assert all(0 <= value <= chart.top for _, value in series.points)
    assert [round_up(v) for v in (0.3, 1.0, 2.1, 26.0, 99.9, 100.0)] == pytest.approx([0.5, 1.0, 2.5, 50, 100, 100])


def test_a_run_without_an_image_has_no_residual_and_is_drawn_all_the_same(scrubber: Scrubber) -> None:
    made = list(FakeBackend().stream(None, Request(task="generate", steps=3)))
    scrubber.show_trace(recorded(made).trace())
    assert scrubber.plot.charts[0].series[0].points == ()
    assert not scrubber.grab().isNull()
