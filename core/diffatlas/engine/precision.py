"""Whether bf16 is faster than fp32 here: measured once, then remembered.

A processor may have bf16 instructions and still be slower with them: with AVX-512 alone a pass takes 1.6 times as long
as in fp32. So "auto" times the network itself in both, in turns, and takes bf16 where it needs at most `WORTH` of the
time, because it also costs digits. What was found is kept in a small file of the user's cache, by processor,
threads, version of torch, network and work (a run's pass, a training's update).
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffatlas.io import atomic_write_bytes
from diffatlas.models.store import cache_folder

WORTH = 0.9
ROUNDS = 3
# Warming up is nothing to a call that takes so long, and nobody wants to wait for another one.
LONG_S = 2.0
FILE = "precision.json"
# What is kept; the oldest is forgotten.
MAX_KEPT = 200
_MAX_BYTES = 2**20

_known: dict[str, bool] = {}
_lock = threading.Lock()


def bf16_is_faster(
    key: tuple[str, ...], work: Callable[[bool], Any], clock: Callable[[], float] = time.perf_counter
) -> bool:
    """Whether ``work(True)``, the same in bf16, takes at most `WORTH` of the time of ``work(False)``.

    ``key``: what the answer depends on, see `place_key`; an answer to it that is known is given at once. ``work`` is
    called once in each way to warm up, then `ROUNDS` times in turns, and the shortest times are compared; calls of more
    than `LONG_S` are made once. It must not return before it is done. Where bf16 fails it is not faster.
    """
    name = " | ".join(key)
    with _lock:
        if name not in _known:
            kept = _kept().get(name)
            if kept is None:
                kept = _measured(work, clock)
                _keep(name, kept)
            fp32_s, bf16_s = kept["fp32_s"], kept["bf16_s"]
            _known[name] = fp32_s is not None and bf16_s is not None and bf16_s <= WORTH * fp32_s
        return _known[name]


def place_key(processor: str, threads: int, torch_version: str, network: str, work: str) -> tuple[str, ...]:
    """What the answer depends on. ``network``: the hash of its weights, or what it is built of; ``work``: what is done
    with it."""
    return processor, f"{threads} threads", f"torch {torch_version}", network, work


def forget() -> None:
    """Forget what this process knows; the file stays."""
    with _lock:
        _known.clear()


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The model of this machine's processor, as its system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _measured(work: Callable[[bool], Any], clock: Callable[[], float]) -> dict[str, float | None]:
    def seconds(bf16: bool) -> float:
        begin = clock()
        work(bf16)
        return clock() - begin

    fp32_s = seconds(False)
    try:
        bf16_s = seconds(True)
        if max(fp32_s, bf16_s) < LONG_S:
            rounds = [(seconds(False), seconds(True)) for _ in range(ROUNDS)]
            fp32_s, bf16_s = (min(times) for times in zip(*rounds, strict=True))
    except RuntimeError:  # an operator that has no bf16
        return {"fp32_s": fp32_s, "bf16_s": None}
    return {"fp32_s": fp32_s, "bf16_s": bf16_s}


def _kept() -> dict[str, dict[str, float | None]]:
    """What the file knows; nothing where there is none, or where it is damaged."""
    try:
        path = cache_folder() / FILE
        if path.stat().st_size > _MAX_BYTES:
            return {}
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, RuntimeError):  # RuntimeError: there is no home folder
        return {}
    return {k: v for k, v in value.items() if _valid(v)} if isinstance(value, dict) else {}


def _valid(entry: Any) -> bool:
    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e6

    return isinstance(entry, dict) and number(entry.get("fp32_s")) and (
        "bf16_s" in entry and (entry["bf16_s"] is None or number(entry["bf16_s"]))
    )  # fmt: skip


def _keep(name: str, entry: dict[str, float | None]) -> None:
    """Add it to the file, beside what other processes may have added; a cache that cannot be written is none."""
    if not _valid(entry):
        return
    with suppress(OSError, RuntimeError, ValueError):
        folder = cache_folder()
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103  (one call either way)
        lines = {**{k: v for k, v in _kept().items() if k != name}, name: entry}
        newest = dict(list(lines.items())[-MAX_KEPT:])
        atomic_write_bytes(folder / FILE, (json.dumps(newest, indent=1) + "\n").encode())
