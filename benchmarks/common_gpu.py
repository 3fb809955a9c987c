"""What `bench_gpu.py` measures with: parts that end in time, seconds of work on a device, and a network's roofline."""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from common import machine
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

# Seconds that a call which cannot be interrupted may take beyond the end of all.
GRACE_S = 6


class Late(Exception):
    """A part has had its time."""


class Record:
    """Results by part, written after every figure; parts that end in time.

    ``output`` None: nothing is written. ``limit_s``: of all parts together, from ``begin`` (`time.monotonic`).
    """

    def __init__(self, output: Path | None, head: dict[str, Any], limit_s: float, begin: float) -> None:
        self.output, self.head, self.begin, self.end = output, head, begin, begin + limit_s
        self.results: dict[str, Any] = {}
        self.failed = False
        # A call inside a library cannot be interrupted; what has been measured stands in the file by then.
        watch = threading.Timer(limit_s + GRACE_S - (time.monotonic() - begin), os._exit, (3,))
        watch.daemon = True
        watch.start()

    @contextmanager
    def part(self, name: str, limit_s: float) -> Iterator[dict[str, Any]]:
        """The figures of a part, which are kept if it is cut off after ``limit_s`` or fails; it then says so."""
        figures: dict[str, Any] = self.results.setdefault(name, {})
        begin = time.monotonic()
        allowed = min(limit_s, self.end - begin)

        def late(number: int, frame: FrameType | None) -> None:
            raise Late(f"cut off after {allowed:.0f} s")

        signal.signal(signal.SIGALRM, late)
        try:
            if allowed <= 0:
                raise Late("not begun, because the time was up")
            signal.setitimer(signal.ITIMER_REAL, allowed)
            yield figures
        except Late as stop:
            figures["stopped"] = str(stop)
        except Exception as error:
            self.failed = True
            figures["stopped"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
            traceback.print_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            figures["part_s"] = round(time.monotonic() - begin, 1)
            self.save()
            print(f"{name}: {json.dumps(figures)}", flush=True)

    def save(self) -> None:
        if self.output is None:
            return
        text = json.dumps({"machine": self.head, "results": self.results}, indent=1) + "\n"
        part = self.output.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(self.output)


def head(device: torch.device, commit: str) -> dict[str, Any]:
    """The machine, and the card."""
    about = machine()
    about["commit"] = commit or about["commit"]
    about["card"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "none, a processor"
    about["cuda"] = torch.version.cuda
    about["command"] = " ".join(["python", "benchmarks/bench_gpu.py", *sys.argv[1:]])
    return about


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device, repeats: int, warm: int = 1) -> dict[str, Any]:
    """Seconds of ``work`` by the clock, the device waited for: median, least, most."""
    for _ in range(warm):
        work()
    wait(device)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - begin)
    return spread(seconds)


def spread(seconds: list[float]) -> dict[str, Any]:
    """Six digits, because a pass takes milliseconds here."""
    middle, least, most = (float(f"{f(seconds):.4g}") for f in (statistics.median, min, max))
    return {"median_s": middle, "min_s": least, "max_s": most, "n": len(seconds)}


def ceilings(device: torch.device, quick: bool) -> Iterator[tuple[str, float]]:
    """What this device reaches: TFLOP/s of a matrix product by arithmetic, GB/s of a copy (read and written)."""
    n = 512 if quick else 8192
    for name, dtype, tf32 in (
        ("fp32_tflops", torch.float32, False),
        ("tf32_tflops", torch.float32, True),
        ("bf16_tflops", torch.bfloat16, False),
    ):
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            seconds = timed(lambda a=a, b=b: a @ b, device, 5, warm=2)["min_s"]  # type: ignore[misc]
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False
        yield name, round(2 * n**3 / seconds / 1e12, 2)
    x = torch.empty(2**20 if quick else 2**30, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    yield "copy_gb_s", round(2 * x.numel() / timed(lambda: y.copy_(x), device, 5, warm=2)["min_s"] / 1e9)


class Roofline(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is called inside: the shortest time that the ceilings allow for it.

    ``fused_s``: of convolutions and products alone, each the longer of its arithmetic and of moving its inputs and
    outputs, as if all else were done on the way. ``eager_s``: and all other operators, as they are called, moving
    theirs. ``flop``: two a multiplication.
    """

    # float32 convolutions run in TF32 unless that is switched off, products do not.
    CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten.mkldnn_convolution)

    def __init__(self, rates: dict[str, float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rates, self.flop, self.fused_s, self.eager_s = rates, 0, 0.0, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        held = {x.untyped_storage()._cdata for x in given}
        fresh = [x for x in made if x.untyped_storage()._cdata not in held]
        if not fresh and not func._schema.is_mutable:  # a view
            return out
        moved = sum(x.numel() * x.element_size() for x in [*given, *made]) / (self.rates["copy_gb_s"] * 1e9)
        if packet is torch.ops.aten.mkldnn_convolution:
            flop = conv_flop_count(list(args[0].shape), list(args[1].shape), list(out.shape))
        else:
            flop = flop_registry[packet](*args, **kwargs, out_val=out) if packet in flop_registry else 0
        if not flop:
            self.eager_s += moved
            return out
        self.flop += flop
        seconds = max(moved, flop / (self.rates[self._arithmetic(packet, given[0].dtype)] * 1e12))
        self.fused_s += seconds
        self.eager_s += seconds
        return out

    def _arithmetic(self, packet: Any, dtype: torch.dtype) -> str:
        if dtype == torch.bfloat16:
            return "bf16_tflops"
        return "tf32_tflops" if packet in self.CONVOLUTIONS and torch.backends.cudnn.allow_tf32 else "fp32_tflops"


def against_roofline(work: Callable[[], Any], measured_s: float, rates: dict[str, float]) -> dict[str, Any]:
    """FLOP of ``work``, what the ceilings allow, and how many times that it takes."""
    if "copy_gb_s" not in rates:
        return {}
    with Roofline(rates) as found:
        work()
    return {
        "gflop": round(found.flop / 1e9, 1),
        "fused_s": float(f"{found.fused_s:.4g}"),
        "eager_s": float(f"{found.eager_s:.4g}"),
        "times_fused": round(measured_s / found.fused_s, 2),
        "times_eager": round(measured_s / found.eager_s, 2),
    }
