"""The web page: from the click to the first step, 20 visitors with one file, 20 and 40 with their own, 300 runs.

    python benchmarks/bench_web.py [--runs 300] [--clicks 5] [--model NAME] [--out benchmarks/results/web.json]

Clicks: the page as it is shipped, with its models, in headless Chromium without WebGL (a browser that draws with the
processor would take the engine's time), a tab of its own for each press of Run on the first screen's example: seconds
until the page says that it begins, until the noise is on screen, and until the first step is; beside them the same on
the whole example without its region, as an upload, which is searched first.

Load: the page is served by a process of its own and called as a service, over HTTP. Every visitor has a volume and a
seed of their own, and every answer is compared, voxel by voxel, with what the engine computes for that volume and seed
here: nothing may be mixed. Without ``--model`` a tiny network with random weights is used (the queue, the files and the
page are what is measured; the network's time is in the other benchmarks). Exits with 1 where anything was mixed or
lost.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
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
import torch
from common import ROOT, machine
from gradio_client import Client, handle_file
from playwright.sync_api import sync_playwright

from diffatlas import io, session
from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import Volume

VISITORS = 20
CROWD = 40
READY_S = 300
# Threads help no network of 16^3 voxels, and wait for each other for seconds where other programs use the cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
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

    def __init__(self, weights: Path | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVE, str(port)],
            env=os.environ if weights is None else {**os.environ, "DIFFATLAS_WEIGHTS": str(weights), **ONE_THREAD},
            stdout=subprocess.DEVNULL,
        )
        self.ready_s = self.wait_until_ready()

    def health(self) -> dict[str, Any]:
        try:
            with urlopen(f"{self.url}/health", timeout=60) as response:
                facts: dict[str, Any] = json.loads(response.read())
                return facts
        except OSError:
            return {}

    def wait_until_ready(self) -> float:
        """Seconds from now until models are loaded and the first example is offered."""
        start = time.monotonic()
        while not self.health().get("ready"):
            if self.process.poll() is not None or time.monotonic() - start > READY_S:
                self.process.kill()
                raise SystemExit(f"the page did not get ready within {READY_S} s")
            time.sleep(0.2)
        return time.monotonic() - start

    def memory_mb(self) -> float:
        """Resident memory of the page's process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no VmRSS")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


# Notes when the viewer's state and the step it shows change for the first time, seconds after the click on Run.
WATCH = """() => {
  const box = document.querySelector('#view .dv'), seen = (window.seen = {});
  let clicked = null;
  const note = (key) => { if (clicked !== null && !(key in seen)) seen[key] = (performance.now() - clicked) / 1000; };
  new MutationObserver(() => {
    note(box.dataset.state);
    if (box.dataset.shown !== undefined) note(Number(box.dataset.shown) < 0 ? 'noise' : 'step');
  }).observe(box, {attributes: true});
  document.querySelector('#run').addEventListener('click', () => { clicked = performance.now(); }, {capture: true});
}"""


def clicks(folder: Path, times: int) -> dict[str, Any]:
    """From the click to the first step: the example of the first screen, and the same image as an upload."""
    page = Page()
    upload = folder / "chest.nii.gz"
    io.write_volume(session.example("heart-ct")[0], upload)
    try:
        with sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu", "--disable-3d-apis"]
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            example = [click(browser, page.url) for _ in range(times)]
            searched = click(browser, page.url, upload)
            browser.close()
    finally:
        page.close()
    rows = sorted(example, key=lambda row: row["step"])
    return {
        "presses": times,
        "server ready after_s": round(page.ready_s, 1),
        "example": rows[times // 2],
        "example, slowest": rows[-1],
        "upload, searched first": searched,
    }


def click(browser: Any, url: str, upload: Path | None = None) -> dict[str, float]:
    """One tab, one press of Run; seconds to what is seen."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.set_default_timeout(150_000)
    tab.goto(url)
    tab.wait_for_selector('#view .dv[data-state="open"]')
    if upload is not None:
        tab.set_input_files("#upload input[type=file]", str(upload))
        tab.wait_for_selector(f"#source >> text={upload.name}")
    tab.wait_for_timeout(1500)  # the page is at rest
    tab.evaluate(WATCH)
    tab.click("#run")
    tab.wait_for_function("'step' in window.seen", polling=100)
    seen = tab.evaluate("seen")
    tab.click("#stop")
    tab.wait_for_selector('#view .dv[data-state="stopped"]')
    tab.close()
    return {name: round(seen[name], 2) for name in ("waiting", "noise", "step")}


def call(client: Client, path: Path, model: str, seed: int) -> tuple[dict[str, Any], float]:
    """One run and its seconds."""
    start = time.monotonic()
    answer = client.predict(handle_file(str(path)), model, "fast", seed, 1, -1, api_name="/segment")
    return answer, time.monotonic() - start


def is_right(answer: dict[str, Any], path: Path, model: str, seed: int, folder: Path) -> bool:
    """Whether the labels are those of this volume and seed, computed here for the region that the answer names."""
    got = folder / f"got-{seed}.nii.gz"
    got.write_bytes(base64.b64decode(answer["labels"]["nii_gz_base64"]))
    volume = io.read_volume(path)
    request = Request.from_json(answer["report"]["provenance"]["request"])
    if (request.model, request.seed) != (model, seed):
        return False
    expected = session.segment(volume, request)
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
    waits = sorted(seconds for a, seconds in answers if "error" not in a) or [float("nan")]
    for words in sorted(set(refused)):
        print(f"{refused.count(words)} of {len(clients)} were told: {words}", file=sys.stderr)
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


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    same, once, crowd, row = (report[k] for k in ("one file", "at once", "crowd", "in a row"))
    memory, pressed = row["memory_mb"], report["clicks"]
    lines: list[tuple[str, ...]] = []
    if pressed is not None:
        lines += [("seconds from the click to:", "it begins", "noise", "first step")]
        lines += [
            (name, *(f"{pressed[name][k]:.2f}" for k in ("waiting", "noise", "step")))
            for name in ("example", "example, slowest", "upload, searched first")
        ]
    lines += [("visitors:", "answered", "line full", "last, s")]
    lines += [
        (f"{r['visitors']} {how}", str(r["answered"]), str(r["told that the line is full"]), f"{r['last_s']:.1f}")
        for r, how in ((same, "with one file"), (once, "with their own"), (crowd, "with their own"))
    ]
    lines += [("runs in a row:", "median, s", "MB at first", "MB at last")]
    lines += [(f"{row['runs']}", f"{row['median_s']:.2f}", f"{memory[1]:.0f}", f"{memory[-1]:.0f}")]
    mixed = same["mixed"] + once["mixed"] + crowd["mixed"] + row["mixed or failed"]
    ends = f"mixed or failed: {mixed} · load average {report['load_average_before'][0]} · {report['wall_s']} s in all"
    return "\n".join(f"{a:<28}{b:>12}{c:>12}{d:>12}" for a, b, c, d in lines) + "\n" + ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--clicks", type=int, default=5, help="presses of Run in a browser; 0 leaves that part out")
    parser.add_argument("--model", help="a model that ships, in place of the tiny one")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "web.json")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load = [round(v, 2) for v in os.getloadavg()]
        pressed = clicks(folder, options.clicks) if options.clicks else None
        torch.set_num_threads(1)  # as in the page that is compared with
        model = options.model or tiny_model(folder / "weights")
        os.environ["DIFFATLAS_WEIGHTS"] = str(folder / "weights")
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
                "clicks": pressed,
                "one file": at_once(clients[:VISITORS], paths[:1] * VISITORS, model, folder),
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
    report["wall_s"] = round(time.monotonic() - start)
    print(table(report))
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    bad = report["in a row"]["mixed or failed"]
    for part in ("one file", "at once", "crowd"):
        bad += sum(report[part][what] for what in ("mixed", "other errors", "told that the line is full"))
    return 1 if bad or report["runs kept afterwards"] else 0


if __name__ == "__main__":
    sys.exit(main())
