"""How long runs take here: measured on every run of this process, read by `diffatlas.engine.plan`."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from diffatlas.engine.request import Request


@dataclass(frozen=True)
class Pace:
    """``step_s``: seconds a step and sample; ``rest_s``: seconds of a run outside its steps."""

    step_s: float
    rest_s: float


_measured: dict[tuple[str, ...], Pace] = {}
_lock = threading.Lock()


def _key(model_sha256: str, request: Request) -> tuple[str, ...]:
    # Gradient guidance differentiates the network, which costs a multiple; the other guidances cost nothing.
    kind = "gradient" if request.task == "segment" and request.guidance == "gradient" else "plain"
    return model_sha256, request.device, request.precision, kind


def record(model_sha256: str, request: Request, pace: Pace) -> None:
    """Keep what a run took; the mean of this and what was known, so that one slow run does not decide."""
    key = _key(model_sha256, request)
    with _lock:
        before = _measured.get(key, pace)
        _measured[key] = Pace((before.step_s + pace.step_s) / 2, (before.rest_s + pace.rest_s) / 2)


def expected(model_sha256: str, request: Request, steps: int) -> float | None:
    """Seconds that a run of so many ``steps`` takes; None where no such run was measured yet."""
    pace = _measured.get(_key(model_sha256, request))
    return None if pace is None else pace.rest_s + pace.step_s * steps * request.samples


def forget() -> None:
    """Forget all measurements (tests)."""
    with _lock:
        _measured.clear()
