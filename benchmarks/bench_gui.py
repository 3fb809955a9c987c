"""How long does the viewer not answer while a run streams? A heartbeat in napari's event loop, and what was in its way.

    python benchmarks/bench_gui.py [--preset watch] [--repeat 3]

A timer fires every 5 ms in the GUI thread; the gap between two beats, less these 5 ms, is a stall. Measured in an open
window while nothing runs, and while ``heart-phantom`` runs on the phantom heart from Run to the finished labels; the
first run also loads torch and the weights. Beside it the longest time a single update of the run kept the GUI thread.
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

from napari_diffatlas._sample_data import heart_ct
from napari_diffatlas._widget import DiffAtlasWidget

BEAT_S = 0.005
IDLE_S = 5.0
TIMEOUT_S = 600.0


class Heartbeat:
    """Gaps between the beats of a timer in the GUI thread, s."""

    def __init__(self) -> None:
        self.gaps_s: list[float] = []
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.timeout.connect(self._beat)
        self._timer.start(round(1000 * BEAT_S))

    def _beat(self) -> None:
        now = time.perf_counter()
        self.gaps_s.append(now - self._last)
        self._last = now

    def take(self) -> list[float]:
        gaps, self.gaps_s = self.gaps_s, []
        return gaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("fast", "watch", "published"), default="watch")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window.resize(1280, 800)
    widget = DiffAtlasWidget(viewer)
    viewer.window.add_dock_widget(widget, name="DiffAtlas")
    for data, state, kind in heart_ct():
        (viewer.add_image if kind == "image" else viewer.add_labels)(data, **state)
    panel = widget.segment.panel
    panel.model_combo.setCurrentIndex(panel.model_combo.findData("heart-phantom"))
    panel.options.presets.choose(arguments.preset)
    slots = timed_updates(widget)
    heart = Heartbeat()
    wait(lambda: False, 2.0)  # the window takes its size
    heart.take()
    wait(lambda: False, IDLE_S)
    results: dict[str, Any] = {"idle": figures(heart.take()), "runs": []}
    print("idle", results["idle"])
    for number in range(arguments.repeat):
        load = os.getloadavg()[0]
        slots.clear()
        heart.take()
        begin = time.perf_counter()
        panel.run_button.click()
        wait(lambda: not widget.running, TIMEOUT_S)
        seconds = time.perf_counter() - begin
        wait(lambda: False, 0.2)  # the last drawing
        if not panel.status.text().startswith("Done"):
            raise SystemExit(panel.status.text())
        row = {
            "run": number + 1,
            "preset": arguments.preset,
            "seconds": round(seconds, 2),
            "load_average_before": round(load, 2),
            **figures(heart.take()),
            "longest_update_ms": {kind: round(1000 * max(times), 1) for kind, times in sorted(slots.items())},
        }
        results["runs"].append(row)
        print(row)
    viewer.close()
    write_results("gui", results)


def timed_updates(widget: DiffAtlasWidget) -> dict[str, list[float]]:
    """Seconds that each update of a run keeps the GUI thread, by its kind; filled while runs go on."""
    seconds: dict[str, list[float]] = defaultdict(list)
    tab = widget.segment
    handle = tab._on_update

    def timed(update: Any) -> None:
        begin = time.perf_counter()
        try:
            handle(update)
        finally:
            seconds[type(update).__name__].append(time.perf_counter() - begin)

    tab._on_update = timed  # type: ignore[method-assign]
    return seconds


def figures(gaps_s: list[float]) -> dict[str, Any]:
    """Stalls (gap less the beat itself), ms."""
    stalls = 1000 * np.clip(np.array(gaps_s) - BEAT_S, 0, None)
    return {
        "beats": len(stalls),
        "median_ms": round(float(np.median(stalls)), 2),
        "p95_ms": round(float(np.percentile(stalls, 95)), 2),
        "longest_ms": round(float(stalls.max()), 1),
        "over_100_ms": int((stalls > 100).sum()),
    }


def wait(condition: Callable[[], bool], seconds: float) -> None:
    """Let Qt's own loop run until ``condition`` holds or the time is up."""
    loop, look, end = QEventLoop(), QTimer(), time.monotonic() + seconds
    look.timeout.connect(lambda: loop.quit() if condition() or time.monotonic() > end else None)
    look.start(50)
    loop.exec()
    look.stop()


if __name__ == "__main__":
    main()
