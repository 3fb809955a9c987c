"""What speed benchmarks share: repeated and alternating timings, and measurements in a process of their own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import ROOT


def figures(seconds: Sequence[float]) -> dict[str, float]:
    """Median and spread."""
    return {
        "median_s": round(statistics.median(seconds), 4),
        "min_s": round(min(seconds), 4),
        "max_s": round(max(seconds), 4),
        "n": len(seconds),
    }


def now() -> tuple[float, float]:
    """The clock, and the processor time of all threads of this process, s."""
    return time.perf_counter(), time.process_time()


def since(begin: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """Seconds, and processor seconds, between two `now`."""
    return end[0] - begin[0], end[1] - begin[1]


def taken(laps: Sequence[tuple[float, float]]) -> dict[str, float]:
    """`figures` of seconds, and the median of processor seconds, of repetitions."""
    return figures([wall for wall, _ in laps]) | {"cpu_s": round(statistics.median(cpu for _, cpu in laps), 4)}


def alternating(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Call every way in turn, ``repeats`` times after one warm-up, so that what disturbs one disturbs all.

    ``cpu_s``: median processor time of all threads, which a busy machine disturbs less.
    """
    walls: dict[str, list[float]] = {name: [] for name in ways}
    cpus: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            if turn:
                walls[name].append(time.perf_counter() - wall)
                cpus[name].append(time.process_time() - cpu)
    return {name: figures(walls[name]) | {"cpu_s": round(statistics.median(cpus[name]), 4)} for name in ways}


def run_process(command: Sequence[str | Path], **environment: str) -> dict[str, Any]:
    """Wall and processor seconds of a process that must succeed; ``out``: its stdout."""
    path = os.pathsep.join([str(ROOT / "core"), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    begin = time.perf_counter()
    process = subprocess.Popen(
        [str(c) for c in command],
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.read(), process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}:\n{err}")
    return {"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "out": out}


def run_child(script: str | Path, what: str, *arguments: Any, **environment: str) -> dict[str, Any]:
    """``script --child WHAT ARGUMENTS`` in a process of its own; the last line that it prints is JSON."""
    done = run_process([sys.executable, script, "--child", what, *map(str, arguments)], **environment)
    return dict(json.loads(done["out"].splitlines()[-1]))


def peak_mb() -> int | None:
    """Peak memory of this process, MB, or None where the system does not say.

    Not getrusage's: Linux hands a process the peak of the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6)
