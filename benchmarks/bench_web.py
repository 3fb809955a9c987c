"""The web page under load: 20 visitors at once, more than the line takes, and 200 runs in a row.

    python benchmarks/bench_web.py [--runs 200] [--model NAME] [--out benchmarks/results/web.json]

The page is served by a process of its own and called as a service, over HTTP. Every visitor has a volume and a seed of
their own, and every answer is compared, voxel by voxel, with what the engine computes for that volume and seed here:
nothing may be mixed. Without ``--model`` a tiny network with random weights is used (the queue, the files and the page
are what is measured; the network's time is in the other benchmarks). Exits with 1 where anything was mixed or lost.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from common import ROOT, machine
from gradio_client import Client, handle_file

from diffatlas import io, session
from diffatlas.grid import Grid
from diffatlas.request import Request
from diffatlas.volume import Volume

VISITORS = 20
CROWD = 40
SERVE = "from diffatlas_app import main; import sys; main(port=int(sys.argv[1]))"


def tiny_model(folder: Path) -> str:
    """A network with random weights under ``folder``; its name."""
    sys.path.insert(0, str(ROOT))
    from tests.conftest import make_model

    make_model(folder / "tiny")
    return "tiny"


def case(folder: Path, number: int) -> Path:
    """A volume of its own shape and voxels for every visitor."""
    rng = np.random.default_rng(number)
    shape = (18 + number % 5, 20, 16 + number % 3)
    grid = Grid(shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    path = folder / f"case-{number:03d}.nii.gz"
    io.write_volume(Volume(rng.gamma(4, 50, shape).astype(np.float32), grid, "mr"), path)
    return path


class Page:
    """The page in a process of its own."""

    def __init__(self, weights: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVE, str(port)],
            env={**os.environ, "DIFFATLAS_WEIGHTS": str(weights)},
            stdout=subprocess.DEVNULL,
        )
        while not self.health().get("ready"):
            if self.process.poll() is not None:
                raise SystemExit("the page did not start")
            time.sleep(0.5)

    def health(self) -> dict[str, Any]:
        try:
            with urlopen(f"{self.url}/health", timeout=60) as response:
                facts: dict[str, Any] = json.loads(response.read())
                return facts
        except OSError:
            return {}

    def memory_mb(self) -> float:
        """Resident memory of the page's process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no VmRSS")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def call(client: Client, path: Path, model: str, seed: int) -> tuple[dict[str, Any], float]:
    """One run and its seconds."""
    start = time.monotonic()
    answer = client.predict(handle_file(str(path)), model, "fast", seed, 1, -1, api_name="/segment")
    return answer, time.monotonic() - start


def is_right(answer: dict[str, Any], path: Path, model: str, seed: int, folder: Path) -> bool:
    """Whether the labels are those of this volume and seed, computed here."""
    got = folder / f"got-{seed}.nii.gz"
    got.write_bytes(base64.b64decode(answer["labels"]["nii_gz_base64"]))
    volume = io.read_volume(path)
    expected = session.segment(volume, Request(model=model, preset="fast", seed=seed))
    ids, _ = io.read_label_ids(got)
    named = answer["labels"]["name"] == f"{volume.name}_labels.nii.gz"
    same_source = answer["report"]["provenance"]["source"]["sha256"] == volume.sha256()
    return named and same_source and bool(np.array_equal(ids, expected.labels.to_ids()))


def at_once(clients: list[Client], paths: list[Path], model: str, folder: Path) -> dict[str, Any]:
    """Everyone presses at the same moment."""
    start = time.monotonic()
    with ThreadPoolExecutor(len(clients)) as pool:
        seeds = range(len(clients))
        answers = list(pool.map(lambda c, p, s: call(c, p, model, s), clients, paths, seeds))
    wall = time.monotonic() - start
    served = [(a, p, s) for (a, _), p, s in zip(answers, paths, seeds, strict=True) if "error" not in a]
    refused = [a["error"] for a, _ in answers if "error" in a]
    waits = sorted(seconds for a, seconds in answers if "error" not in a)
    return {
        "visitors": len(clients),
        "answered": len(served),
        "told that the line is full": sum("runs are waiting already" in words for words in refused),
        "other errors": sum("runs are waiting already" not in words for words in refused),
        "mixed": sum(not is_right(a, p, model, s, folder) for a, p, s in served),
        "wall_s": round(wall, 1),
        "first_s": round(waits[0], 2),
        "median_s": round(waits[len(waits) // 2], 2),
        "last_s": round(waits[-1], 2),
    }


def in_a_row(page: Page, client: Client, paths: list[Path], model: str, runs: int, folder: Path) -> dict[str, Any]:
    """One after the other; memory every tenth of them."""
    memory = [page.memory_mb()]
    mixed, seconds = 0, []
    for number in range(runs):
        path = paths[number % len(paths)]
        answer, took = call(client, path, model, number)
        seconds.append(took)
        mixed += "error" in answer or not is_right(answer, path, model, number, folder)
        if (number + 1) % max(1, runs // 10) == 0:
            memory.append(page.memory_mb())
    return {
        "runs": runs,
        "mixed or failed": mixed,
        "median_s": round(sorted(seconds)[runs // 2], 3),
        "memory_mb": [round(m, 1) for m in memory],
        "second half, mb": round(memory[-1] - memory[len(memory) // 2], 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--model", help="a model that ships, in place of the tiny one")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "web.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or tiny_model(folder / "weights")
        os.environ["DIFFATLAS_WEIGHTS"] = str(folder / "weights")
        load = [round(v, 2) for v in os.getloadavg()]
        page = Page(folder / "weights")
        try:
            clients = [
                Client(page.url, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 300})
                for _ in range(CROWD)
            ]
            paths = [case(folder, number) for number in range(CROWD)]
            call(clients[0], paths[0], model, 0)
            report: dict[str, Any] = {
                "what": "the web page under load (python benchmarks/bench_web.py)",
                "model": options.model or "tiny: random weights, 16^3 voxels",
                "machine": machine(),
                "cores": os.cpu_count(),
                "load_average_before": load,
                "at once": at_once(clients[:VISITORS], paths[:VISITORS], model, folder),
                "crowd": at_once(clients, paths, model, folder),
                "in a row": in_a_row(page, clients[0], paths, model, options.runs, folder),
                "visitors kept afterwards": page.health()["visitors"],
                "runs kept afterwards": page.health()["runs"],
                "load_average_after": [round(v, 2) for v in os.getloadavg()],
            }
            for client in clients:
                client.close()
        finally:
            page.close()
    print(json.dumps(report, indent=2))
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    bad = (
        report["at once"]["mixed"] + report["at once"]["other errors"] + report["at once"]["told that the line is full"]
    )
    bad += report["crowd"]["mixed"] + report["crowd"]["other errors"] + report["in a row"]["mixed or failed"]
    return 1 if bad or report["runs kept afterwards"] else 0


if __name__ == "__main__":
    sys.exit(main())
