"""OpenVINO on the heart model's network, tried and not taken: seconds a call, what it takes to begin, agreement.

    python -m venv --system-site-packages PATH && PATH/bin/pip install openvino==2026.4.1 nncf==3.4.0
    PATH/bin/python benchmarks/bench_openvino.py

Importing OpenVINO reports to its makers over the network, unless its package ``openvino_telemetry`` cannot be imported:
that is what this script sees to. Writes benchmarks/results/openvino.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from common import hearts, write_results  # before torch: it imports diffatlas, which says how torch's threads wait
from common_speed import alternating
from tables import openvino_table
from torch import Tensor

from diffatlas.engine import backend as local
from diffatlas.engine.plan import plan
from diffatlas.engine.request import Request
from diffatlas.geometry.resample import image_to_model
from diffatlas.metrics import compare
from diffatlas.models.store import load_model
from diffatlas.session import segment

HEART = "heart-phantom"
ROI = ((8, 88), (8, 88), (8, 88))


class Compiled:
    """A compiled network with the signature of ours."""

    def __init__(self, request: Any) -> None:
        self.request = request

    def __call__(self, x: Tensor, t_image: Tensor, t_mask: Tensor) -> Tensor:
        ways = [x.contiguous().numpy(), t_image.float().numpy(), t_mask.float().numpy()]
        return torch.from_numpy(self.request.infer(ways)[0].copy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--hearts", type=int, default=2, help="hearts a modality")
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
    zero, one = torch.zeros(1), torch.ones(1)
    graph = timed("convert", lambda: ov.convert_model(network, example_input=(x, zero, one)))
    graph.reshape({0: list(shape), 1: [1], 2: [1]})
    core = ov.Core()

    def build(made: Any) -> Compiled:
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        return Compiled(core.compile_model(made, "CPU", settings).create_infer_request())

    engines = {"OpenVINO fp32": timed("compile", lambda: build(graph))}
    if importlib.util.find_spec("nncf") is not None:
        import nncf

        images = []
        for modality in ("ct", "mr"):
            volume = next(hearts(modality, 1, 800_000))[1]
            planned = plan(volume, Request(model=HEART, roi=ROI))
            image = image_to_model(volume, planned.grid, model.card.space.window_for(modality)).image
            images.append(torch.from_numpy(image)[None, None])
        seen = [[torch.cat([i, x[:, 1:]], dim=1).numpy(), zero.numpy(), one.numpy()] for i in images]
        small = timed("quantize (NNCF)", lambda: nncf.quantize(graph, nncf.Dataset(seen), subset_size=len(seen)))
        engines["OpenVINO int8"] = timed("compile int8", lambda: build(small))

    @torch.no_grad()
    def eager() -> Tensor:
        return network(x, zero, one)  # type: ignore[no-any-return]

    calls = alternating(
        {"PyTorch": eager} | {k: (lambda e=e: e(x, zero, one)) for k, e in engines.items()}, arguments.repeats
    )
    agreement: dict[str, dict[str, Any]] = {}
    loaded = local.load_model
    for title, engine in engines.items():
        difference = float((engine(x, zero, one) - eager()).abs().max())
        dice = []
        for modality in ("ct", "mr"):
            for _, volume, _ in hearts(modality, arguments.hearts, 800_100):
                request = Request(model=HEART, roi=ROI, precision="fp32")
                plain = segment(volume, request).labels
                local.load_model = lambda name, e=engine: replace(loaded(name), network=e)  # type: ignore[misc]
                try:
                    fast = segment(volume, request).labels
                finally:
                    local.load_model = loaded  # type: ignore[misc]
                dice.append(float(np.nanmean([row.dice for row in compare(fast, plain).rows])))
        agreement[title] = {"largest_difference": float(f"{difference:.2g}"), "dice_with_fp32": round(min(dice), 4)}
    results = {"once": once, "call": calls, "agreement": agreement}
    write_results("openvino", results)
    print(openvino_table(results))


if __name__ == "__main__":
    main()
