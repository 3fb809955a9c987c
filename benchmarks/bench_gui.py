"""How long does the viewer not answer while a run streams? A heartbeat in napari's event loop, and what was in its way.

    python benchmarks/bench_gui.py [--preset watch] [--repeat 2]

A timer fires every 5 ms in the GUI thread; the gap between two beats, less these 5 ms, is a stall. Beside each stall
stands the processor time that the GUI thread itself took in it: what the program is to blame for, whatever else the
machine does; and how often that was over 100 ms. ``x napari``: the longest of these as a multiple of what napari alone
took, in the same session, for labels layers that were not its first. Measured in an open window while nothing runs;
while napari alone takes in an image layer and labels layers, which every first step and every result has to do as well;
and while ``heart`` runs on a part of the phantom heart, from Run to the finished labels. The first run also
loads torch and the weights. Ends in 4 minutes, with fewer runs if need be.
Needs a screen; without one: ``xvfb-run -s "-screen 0 1280x800x24" python ...``. Writes benchmarks/results/gui.json.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import napari
import numpy as np
from common import write_results
from qtpy.QtCore import QEventLoop, QTimer

from diffatlas.geometry.grid import Grid
from napari_diffatlas.sample_data import heart_ct
from napari_diffatlas.viewer.layers import RAS_MM
from napari_diffatlas.widget import DiffAtlasWidget

BEAT_S = 0.005
IDLE_S = 5.0
MIDDLE = Grid((64, 64, 64), np.diag([2.5, 2.5, 2.5, 1.0]))
TIMEOUT_S = 200.0
LABELS_ALONE = "napari takes in one labels layer"
COLUMNS = {
    "beats": "beats",
    "median_ms": "median",
    "p95_ms": "p95",
    "over_100_ms": "> 100 ms",
    "longest_ms": "longest",
    "longest_gui_ms": "GUI's own",
    "over_100_gui": "own > 100",
    "times_napari": "x napari",
    "seconds": "s",
    "load_average_before": "load",
}


class Heartbeat:
    """Beats of a timer in the GUI thread: the gaps between them, s, and the thread's processor time in each, s."""

    def __init__(self) -> None:
        self.gaps: list[tuple[float, float]] = []
        self._last = time.perf_counter(), time.thread_time()
        self._timer = QTimer()
        self._timer.timeout.connect(self._beat)
        self._timer.start(round(1000 * BEAT_S))

    def _beat(self) -> None:
        now = time.perf_counter(), time.thread_time()
        self.gaps.append((now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now

    def take(self) -> list[tuple[float, float]]:
        gaps, self.gaps = self.gaps, []
        return gaps


def main() -> None:
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("fast", "watch", "published"), default="watch")
    parser.add_argument("--repeat", type=int, default=2)
    arguments = parser.parse_args()
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window.resize(1280, 800)
    heart = Heartbeat()
    wait(lambda: False, 2.0)  # the window takes its size
    rows = [take_in(viewer, heart, kind, "napari takes in one") for kind in ("image", "first labels", *3 * ["labels"])]
    widget = DiffAtlasWidget(viewer)
    viewer.window.add_dock_widget(widget, name="DiffAtlas")
    for data, state, kind in heart_ct():
        (viewer.add_image if kind == "image" else viewer.add_labels)(data, **state)
    panel = widget.segment.panel
    panel.model_combo.setCurrentIndex(panel.model_combo.findData("heart"))
    panel.options.presets.choose(arguments.preset)
    widget.segment.region.cursor_button.click()  # the heart is in the middle: no search before the run
    slots = timed_updates(widget)
    wait(lambda: False, 2.0)
    heart.take()
    wait(lambda: False, IDLE_S)
    rows.append({"what": "idle, with the widget"} | figures(heart.take()))
    rows += [take_in(viewer, heart, "labels", "with the widget, one") for _ in range(3)]
    for number in range(arguments.repeat):
        load = os.getloadavg()[0]
        slots.clear()
        wait(lambda: False, 1.0)
        heart.take()
        start = time.monotonic()
        panel.run_button.click()
        left = TIMEOUT_S - (start - begin)
        wait(lambda: not widget.running, left)
        if widget.running:
            panel.stop_button.click()
            wait(lambda: not widget.running, 20)
            print(f"run {number + 1} was not over in time: stopped, measured until then")
        seconds = time.monotonic() - start
        wait(lambda: False, 0.2)  # the last drawing
        if not panel.status.text().startswith(("Done", "Stopped")):
            raise SystemExit(panel.status.text())
        rows.append(
            {
                "what": f"run {number + 1}, {arguments.preset}, {panel.options.advanced.form['steps'].value} steps"
                + ("" if panel.status.text().startswith("Done") else ", stopped"),
                "seconds": round(seconds, 1),
                "load_average_before": round(load, 1),
                **figures(heart.take()),
                "longest_update_ms": {kind: round(1000 * max(times), 1) for kind, times in sorted(slots.items())},
            }
        )
        if time.monotonic() - begin > TIMEOUT_S / 2:
            break
    viewer.close()
    alone = float(np.mean([row["longest_gui_ms"] for row in rows if row["what"] == LABELS_ALONE]))
    for row in rows:
        row["times_napari"] = round(row["longest_gui_ms"] / alone, 2)
    print_table(rows)
    print(write_results("gui", rows))


def take_in(viewer: Any, heart: Heartbeat, kind: str, what: str) -> dict[str, Any]:
    """The stalls while a viewer takes in a layer of 64 voxels a side."""
    shape, place = MIDDLE.shape, RAS_MM.layer_arguments(MIDDLE)
    heart.take()
    if kind == "image":
        reference = viewer.add_image(np.zeros(shape, np.float32), name="reference", **place)
    else:
        reference = viewer.add_labels(np.zeros(shape, np.uint8), name="reference", **place)
    wait(lambda: False, 1.0)
    reference.visible = False
    return {"what": f"{what} {kind} layer"} | figures(heart.take())


def print_table(rows: list[dict[str, Any]]) -> None:
    width = max(len(row["what"]) for row in rows)
    print("stalls of the event loop, ms".ljust(width), *(title.rjust(9) for title in COLUMNS.values()))
    for row in rows:
        print(row["what"].ljust(width), *(str(row.get(key, "")).rjust(9) for key in COLUMNS))


def timed_updates(widget: DiffAtlasWidget) -> dict[str, list[float]]:
    """Seconds that each update of a run keeps the GUI thread, by its kind; filled while runs go on."""
    seconds: dict[str, list[float]] = defaultdict(list)
    view = widget.segment.view
    handle = view.on_update

    def timed(update: Any) -> None:
        begin = time.perf_counter()
        try:
            handle(update)
        finally:
            seconds[type(update).__name__].append(time.perf_counter() - begin)

    view.on_update = timed  # type: ignore[method-assign]
    return seconds


def figures(gaps: list[tuple[float, float]]) -> dict[str, Any]:
    """Stalls (gap less the beat itself), ms; ``longest_gui_ms``: the most that the GUI thread itself took in one."""
    stalls = 1000 * np.clip(np.array([gap for gap, _ in gaps]) - BEAT_S, 0, None)
    return {
        "beats": len(stalls),
        "median_ms": round(float(np.median(stalls)), 1),
        "p95_ms": round(float(np.percentile(stalls, 95)), 1),
        "over_100_ms": int((stalls > 100).sum()),
        "longest_ms": round(float(stalls.max()), 1),
        "longest_gui_ms": round(1000 * max(own for _, own in gaps), 1),
        "over_100_gui": sum(own > 0.1 for _, own in gaps),
    }


def wait(condition: Callable[[], bool], seconds: float, look_ms: int = 50) -> None:
    """Let Qt's own loop run until ``condition`` holds, looked at every ``look_ms``, or the time is up."""
    loop, look, end = QEventLoop(), QTimer(), time.monotonic() + seconds
    look.timeout.connect(lambda: loop.quit() if condition() or time.monotonic() > end else None)
    look.start(look_ms)
    loop.exec()
    look.stop()


if __name__ == "__main__":
    main()
