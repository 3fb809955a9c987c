"""OpenVINO and int8 beside PyTorch on the heart model's network: seconds a pass, to begin, what becomes of labels.

    python -m venv --system-site-packages PATH && PATH/bin/pip install openvino==2026.4.1 nncf==3.4.0
    PATH/bin/python benchmarks/bench_openvino.py

The passes are timed in turns. The labels of each are compared with those of PyTorch's fp32 and with the truth, on
digital hearts that no model was trained on. OpenVINO's int8 is calibrated on other hearts; PyTorch's takes the range of
every input as it comes (``Int8``), by operators that are not public.

Importing OpenVINO reports to its makers over the network, unless its package ``openvino_telemetry`` cannot be imported:
that is what this script sees to. ``ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI`` before it: as on a processor without bf16 and
AMX. Writes benchmarks/results/openvino.json, the instructions allowed beside one another.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from common import (
    hearts,
    read_results,
    write_results,
)  # before torch: it imports diffatlas, which says how torch's threads wait
from common_speed import alternating
from tables import openvino_table
from torch import Tensor, nn

from diffatlas.engine import backend
from diffatlas.engine.device import has_bf16
from diffatlas.engine.request import Request
from diffatlas.geometry.resample import image_to_model
from diffatlas.geometry.volume import LabelMap, Volume
from diffatlas.metrics import compare
from diffatlas.models.store import Model, load_model
from diffatlas.session import segment

HEART = "heart"
ROI = ((8, 88), (8, 88), (8, 88))
CALIBRATION, REPORT = 800_000, 800_100  # first seeds


class Compiled(nn.Module):
    """A compiled network with the signature of ours."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.from_numpy(self.request.infer([x.contiguous().float().numpy() for x in inputs])[0].copy())


class Int8(nn.Module):
    """A convolution in int8: weights by output channel, the input by its largest value, both without an offset."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        weight = conv.weight.detach().float()
        self.scales = weight.abs().amax(dim=(1, 2, 3, 4)).clamp_min(1e-12) / 127
        rounded = (weight / self.scales[:, None, None, None, None]).round().to(torch.int8)
        self.shape = [list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups]
        self.weight = torch.ops.onednn.qconv_prepack(rounded, self.scales, 1.0, 128, *self.shape)
        self.bias = None if conv.bias is None else conv.bias.detach().float()
        self.zeros, self.offset = torch.zeros(len(weight), dtype=torch.int32), torch.tensor(128, dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 4, 1)  # as it lies in memory: a copy would take longer than the look
        low, high = torch.aminmax(last if last.is_contiguous() else x)
        scale = torch.maximum(high, -low).clamp_min(1e-12) / 127
        bytes_ = torch.add(128.5, x, alpha=1 / float(scale)).to(torch.uint8)
        bytes_ = bytes_.contiguous(memory_format=torch.channels_last_3d)
        weights = (self.weight, self.scales, self.zeros, self.bias, *self.shape)
        out: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
        answer: Tensor = torch.ops.onednn.qconv_pointwise.tensor(bytes_, scale, self.offset, *weights, *out)
        return answer


def in_int8(network: nn.Module) -> nn.Module:
    """A copy of ``network`` whose convolutions, those that grow the grid excepted, are in int8."""
    network = copy.deepcopy(network)
    for name, part in list(network.named_modules()):
        if isinstance(part, nn.Conv3d):
            above, _, own = name.rpartition(".")
            setattr(network.get_submodule(above), own, Int8(part))
    return network


def calibration(model: Model, count: int, others: list[Tensor]) -> list[list[Any]]:
    """Inputs of a first pass on hearts of either modality; ``others``: all inputs, of which the image is replaced."""
    out = []
    for modality in ("ct", "mr"):
        for _, volume, _ in hearts(modality, count, CALIBRATION):
            grid = model.card.space.place(volume.grid, ROI)
            image = image_to_model(volume, grid, model.card.space.window_for(volume.modality)).image
            x = torch.cat([torch.from_numpy(image)[None, None], others[0][:, 1:]], dim=1)
            out.append([x.numpy(), *(other.numpy() for other in others[1:])])
    return out


def tried(ov: Any, made: Any, precision: str) -> int:
    """The exit code of a process that compiles ``made``: OpenVINO 2026.4.1 ends with a signal on some processors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        ov.save_model(made, path, compress_to_fp16=False)
        hint = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        code = "import sys; sys.modules['openvino_telemetry'] = None; import openvino as ov; "
        code += f"ov.Core().compile_model({str(path)!r}, 'CPU', {hint})"
        return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode


@contextmanager
def network_of(model: Model, network: nn.Module | None) -> Iterator[None]:
    """Runs in the block take ``network`` in place of the model's own, where there is one."""
    used = model if network is None else replace(model, network=network)
    with mock.patch.object(backend, "load_model", return_value=used):
        yield


def dice(a: LabelMap, b: LabelMap) -> float:
    return float(np.nanmean([row.dice for row in compare(a, b).rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--hearts", type=int, default=6, help="hearts a modality")
    parser.add_argument("--calibration", type=int, default=8, help="hearts a modality that int8 is calibrated on")
    arguments = parser.parse_args()
    if importlib.util.find_spec("openvino") is None:
        print("openvino: left out, it is not installed (see the head of this script)")
        return
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    once: dict[str, float] = {}

    def timed(title: str, call: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        value = call()
        once[title] = round(time.perf_counter() - begin, 2)
        return value

    ov = timed("import", lambda: importlib.import_module("openvino"))
    model = load_model(HEART)
    network, shape = model.network, (1, 1 + len(model.card.scheme), *model.card.space.shape)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    inputs = [x, torch.zeros(1), torch.ones(1)]
    if model.card.evidence:
        inputs.append(torch.zeros_like(x[:, :1]))
    graph = timed("convert", lambda: ov.convert_model(network, example_input=tuple(inputs)))
    graph.reshape({k: list(value.shape) for k, value in enumerate(inputs)})
    core = ov.Core()

    def build(made: Any, precision: str) -> Compiled:
        settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        return Compiled(core.compile_model(made, "CPU", settings).create_infer_request())

    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "all")
    bf16 = has_bf16(torch.device("cpu")) and (allowed == "all" or "BF16" in allowed or "AMX" in allowed)
    engines: dict[str, Compiled] = {}
    failed: dict[str, int] = {}

    def add(title: str, made: Any, precision: str) -> None:
        if code := tried(ov, made, precision):
            failed[title] = code
        else:
            engines[title] = timed(f"compile {title}", lambda: build(made, precision))

    add("OpenVINO fp32", graph, "f32")
    if bf16:
        add("OpenVINO bf16", graph, "bf16")
    if importlib.util.find_spec("nncf") is not None:
        nncf = importlib.import_module("nncf")
        seen = calibration(model, arguments.calibration, inputs)
        engine = importlib.import_module("nncf.openvino.engine")
        types = SimpleNamespace(f32=ov.Type.bf16 if "OpenVINO fp32" in failed else ov.Type.f32)
        with mock.patch.object(engine, "Type", types):  # ranges are measured in fp32, where that compiles
            small = timed("quantize (NNCF)", lambda: nncf.quantize(graph, nncf.Dataset(seen), subset_size=len(seen)))
        add("OpenVINO int8, else fp32", small, "f32")
        if bf16:
            add("OpenVINO int8, else bf16", small, "bf16")

    int8 = in_int8(network)

    @torch.no_grad()
    def eager(dtype: torch.dtype) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out: Tensor = network(*inputs)
            return out

    calls: dict[str, Callable[[], Any]] = {"PyTorch fp32": lambda: eager(torch.float32)}
    calls["PyTorch int8"] = torch.no_grad()(lambda: int8(*inputs))
    if bf16:
        calls["PyTorch bf16"] = lambda: eager(torch.bfloat16)
    calls |= {title: partial(engine, *inputs) for title, engine in engines.items()}
    seconds = alternating(calls, arguments.repeats)
    exact = eager(torch.float32)
    differences = {title: float((call() - exact).abs().max()) for title, call in calls.items()}

    cases: list[tuple[Volume, LabelMap, LabelMap]] = []
    for modality in ("ct", "mr"):
        for _, volume, truth in hearts(modality, arguments.hearts, REPORT):
            cases.append((volume, truth, segment(volume, Request(model=HEART, roi=ROI, precision="fp32")).labels))
    agreement: dict[str, dict[str, Any]] = {}
    for title in calls:
        precision: Any = "bf16" if title == "PyTorch bf16" else "fp32"
        request = Request(model=HEART, roi=ROI, precision=precision)
        same, gained = [], []
        for volume, truth, exact_labels in cases:
            with network_of(model, int8 if title == "PyTorch int8" else engines.get(title)):
                labels = segment(volume, request).labels
            same.append(dice(labels, exact_labels))
            gained.append(dice(labels, truth) - dice(exact_labels, truth))
        agreement[title] = {
            "largest_difference": float(f"{differences[title]:.2g}"),
            "dice_with_fp32": round(statistics.mean(same), 5),
            "lowest_dice_with_fp32": round(min(same), 5),
            "dice_gained": round(statistics.mean(gained), 5),
            "lowest_gained": round(min(gained), 5),
            "n": len(cases),
        }
    results = read_results("openvino")
    results[allowed] = {"once": once, "call": seconds, "agreement": agreement, "failed": failed}
    write_results("openvino", results)
    print(openvino_table(results))


if __name__ == "__main__":
    main()
