"""Cohorts of thousands of cases, by several processes that are killed at random.

    python benchmarks/bench_cohort.py                 10,000 cases of a stub engine, 4 processes, killed 6 times
    python benchmarks/bench_cohort.py --growth        time and memory against the number of cases, to 100,000
    python benchmarks/bench_cohort.py --overhead 300  processor time a case beside reading, engine and writing
    python benchmarks/bench_cohort.py --real 200      digital hearts with the shipped model, 4 processes, killed 6 times

The stub engine answers at once with one byte a voxel of a tiny volume: what is measured is what a cohort costs beside
the engine. Every answer appends a line with the case and the process to a file of its own; the lines say what was done,
how often, and by whom. Writes benchmarks/results/cohort.json; with TMPDIR=/dev/shm results lie in memory, and the disk
has no part in the figures.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, read_results, write_results
from common_speed import peak_mb

SHA256 = "0" * 64
SHAPE = (8, 8, 8)


class Stub:
    """A backend that answers at once, and notes every answer in ``log``."""

    def __init__(self, log: Path | None) -> None:
        self.log = log

    def stream(self, volume: Any, request: Any) -> Iterator[Any]:
        from diffatlas.engine.frame import Frame, FrameMetrics, Result
        from diffatlas.geometry.volume import MMWHS, LabelMap

        labels = LabelMap((volume.data > 100).astype(np.uint8), volume.grid, MMWHS)
        metrics = FrameMetrics(None, None, labels.volumes_ml(), 0.0)
        provenance = {
            "request": request.to_json(),
            "model": {"name": "heart-phantom", "sha256": SHA256},
            "source": {"sha256": volume.sha256(), "name": volume.name},
            "seconds": 0.0,
        }
        result = Result(labels, None, (metrics,), provenance)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{volume.name}\n")
        empty = np.zeros(SHAPE, np.float32)
        yield Frame(
            0, 1, 0.0, volume.grid, MMWHS, empty, empty, labels.data, empty[None], None, metrics, result
        )  # fmt: skip


def make_cases(folder: Path, count: int) -> None:
    """``count`` tiny NIfTI files that differ."""
    import nibabel as nib

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    template = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4))
    header = template.header.copy()
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    head = header.binaryblock + bytes(4)
    data = rng.integers(0, 200, (count, *SHAPE)).astype(np.int16)
    for i in range(count):
        (folder / f"case-{i:06d}.nii").write_bytes(head + data[i].tobytes())


def worker(folder: Path, output: Path, log: Path) -> None:
    """What one process does."""
    from types import SimpleNamespace

    from diffatlas import session
    from diffatlas.cohort import Cohort, find_cases
    from diffatlas.engine.request import Request

    session.model_card = lambda name: SimpleNamespace(name=name, sha256=SHA256)  # type: ignore[assignment,return-value]
    begin, cpu = time.perf_counter(), time.process_time()
    cases, _ = find_cases([folder], output)
    listed = time.perf_counter() - begin
    cohort = Cohort(cases, Request(model="heart-phantom", steps=1), backend=lambda: Stub(log))  # type: ignore[arg-type,return-value]
    for _ in cohort.run():
        pass
    states = Counter(status.state for status in cohort.statuses.values())
    took = {"all_s": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu, "memory_mb": peak_mb()}
    print(json.dumps({"states": states, "listed_s": listed, **took}))


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def check(output: Path, count: int, logs: list[Path]) -> dict[str, int]:
    """Lost: no report. Twice: finished more often than once. Answers that a kill threw away are counted apart."""
    reports = {path.stem for path in output.glob("*.json")}
    labels = {path.name.removesuffix("_labels.nii.gz") for path in output.glob("*_labels.nii.gz")}
    ends: Counter[str] = Counter()
    attempts = 0
    for path in (output / ".cohort").glob("*.jsonl"):
        attempts += 1
        last = path.read_text().splitlines()[-1:]
        if last and '"state": "done"' in last[0] and "was done already" not in last[0]:
            ends[path.name.rpartition(".jsonl")[0].rpartition(".")[0]] += 1
    answers = sum(len(log.read_text().splitlines()) for log in logs if log.exists())
    return {
        "cases": count,
        "lost": count - len(reports & labels),
        "twice": sum(n > 1 for n in ends.values()),
        "attempts": attempts,
        "answers": answers,
        "leftovers": sum(1 for _ in output.glob(".diffatlas-*")),
    }


def kills(count: int, processes: int, times: int) -> dict[str, Any]:
    """Processes on one folder; ``times`` times one of them is killed (SIGKILL) amid its work and another one started.

    A kill falls on a random moment within the share of the cases that comes to it, on a random process.
    """
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        folder, output = Path(place) / "in", Path(place) / "out"
        make_cases(folder, count)
        logs: list[Path] = []

        def another() -> subprocess.Popen[str]:
            logs.append(Path(place) / f"log-{len(logs)}")
            return start([sys.executable, __file__, "--worker", str(folder), str(output), str(logs[-1])])

        def answers() -> int:
            return sum(log.stat().st_size for log in logs if log.exists()) // len("case-000000.nii\n")

        begin = time.perf_counter()
        alive, killed = [another() for _ in range(processes)], 0
        for share in range(times):
            moment = count * (share + rng.random()) / (times + 1)
            while answers() < moment and any(process.poll() is None for process in alive):
                time.sleep(0.05)
            running = [process for process in alive if process.poll() is None]
            if not running:
                break
            victim = rng.choice(running)
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
            killed += 1
            alive = [process for process in alive if process is not victim] + [another()]
        ends = [json.loads(process.communicate()[0]) for process in alive]
        seconds = time.perf_counter() - begin
        found = check(output, count, logs)
        again = json.loads(another().communicate()[0])
        return {
            **found,
            "processes": processes,
            "killed": killed,
            "seconds": round(seconds, 1),
            "cpu_ms_a_case": round(1000 * sum(end["cpu_s"] for end in ends) / count, 2),
            "ended_with": [end["states"] for end in ends],
            "again": again["states"],
            "again_s": round(again["all_s"], 2),
            "answers_again": len(logs[-1].read_text().splitlines()) if logs[-1].exists() else 0,
        }


def growth(counts: list[int]) -> list[dict[str, Any]]:
    """One process: the first run, and a second one that finds everything done."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as place:
            folder, output = Path(place) / "in", Path(place) / "out"
            make_cases(folder, count)
            command = [sys.executable, __file__, "--worker", str(folder), str(output), str(Path(place) / "log")]
            first, second = (json.loads(start(command).communicate()[0]) for _ in range(2))
            rows.append(
                {
                    "cases": count,
                    "listed_s": round(first["listed_s"], 2),
                    "first_ms_a_case": round(1000 * first["all_s"] / count, 2),
                    "first_cpu_ms_a_case": round(1000 * first["cpu_s"] / count, 2),
                    "again_ms_a_case": round(1000 * second["all_s"] / count, 3),
                    "again_cpu_ms_a_case": round(1000 * second["cpu_s"] / count, 3),
                    "memory_mb": first["memory_mb"],
                    "again_memory_mb": second["memory_mb"],
                    "states": [first["states"], second["states"]],
                }
            )
            print(rows[-1], flush=True)
    return rows


def overhead(count: int) -> dict[str, float]:
    """Milliseconds a case beside reading, the engine and writing: attempts, turns, looking whether it is done."""
    from types import SimpleNamespace

    from diffatlas import session
    from diffatlas.cohort import Cohort, find_cases
    from diffatlas.cohort.case import Case
    from diffatlas.cohort.done import Results
    from diffatlas.engine.request import Request
    from diffatlas.engine.run_record import write_report
    from diffatlas.io import read_volume, write_label_map

    session.model_card = lambda name: SimpleNamespace(name=name, sha256=SHA256)  # type: ignore[assignment,return-value]
    request = Request(model="heart-phantom", steps=1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "in"
        make_cases(folder, count)
        cases, _ = find_cases([folder], Path(place) / "out")
        begin, cpu = time.perf_counter(), time.process_time()
        for _ in Cohort(cases, request, backend=lambda: Stub(None)).run():  # type: ignore[arg-type,return-value]
            pass
        cohort_s, cohort_cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        plain = Path(place) / "plain"
        plain.mkdir()
        begin, cpu = time.perf_counter(), time.process_time()
        for case in cases:  # the same work by hand: read, ask, write labels and report
            volume = read_volume(case.path)
            *_, frame = Stub(None).stream(volume, request)
            write_label_map(frame.result.labels, plain / case.labels.name, header=volume.header)
            write_report(frame.result, plain / case.report.name, case.path)
        plain_s, plain_cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        assert Results().are_there(Case(cases[0].name, cases[0].path, cases[0].output), request)
    return {
        "cases": count,
        "cohort_ms": round(1000 * cohort_s / count, 2),
        "by_hand_ms": round(1000 * plain_s / count, 2),
        "overhead_ms": round(1000 * (cohort_s - plain_s) / count, 2),
        "cohort_cpu_ms": round(1000 * cohort_cpu_s / count, 2),
        "by_hand_cpu_ms": round(1000 * plain_cpu_s / count, 2),
        "overhead_cpu_ms": round(1000 * (cohort_cpu_s - plain_cpu_s) / count, 2),
    }


def real(count: int, processes: int, times: int) -> dict[str, Any]:
    """Digital hearts with the shipped model by processes of the command line; ``times`` times one is killed amid its
    work and another one started."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        folder, output = Path(place) / "in", Path(place) / "out"
        program = [sys.executable, "-m", "diffatlas"]
        subprocess.run([*program, "phantom", "-o", str(folder), "--count", str(count), "--modality", "mr"], check=True)
        command = [*program, "batch", str(folder), "-o", str(output), "--model", "heart-phantom", "--json"]
        begin = time.perf_counter()

        def another() -> subprocess.Popen[str]:
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True, cwd=ROOT)

        alive, codes, killed = [another() for _ in range(processes)], [], 0
        for share in range(times):
            moment = count * (share + rng.random()) / (times + 1)
            while len(list(output.glob("*.json"))) < moment and any(process.poll() is None for process in alive):
                time.sleep(0.2)
            running = [process for process in alive if process.poll() is None]
            if not running:
                break
            victim = rng.choice(running)
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            killed += 1
            alive = [process for process in alive if process is not victim] + [another()]
        codes = [process.wait() for process in alive]
        seconds = time.perf_counter() - begin
        found = check(output, count, [])
        del found["answers"]  # the engine keeps no count
        return {**found, "processes": processes, "killed": killed, "codes": codes, "seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--growth", nargs="*", type=int, default=None, metavar="CASES")
    parser.add_argument("--overhead", type=int, default=None, metavar="CASES")
    parser.add_argument("--real", type=int, default=None, metavar="CASES")
    parser.add_argument("--worker", nargs=3, type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(*options.worker)
        return
    row: Any
    if options.growth is not None:
        what, row = "growth", growth(options.growth or [100, 1_000, 10_000, 100_000])
    elif options.overhead is not None:
        what, row = "overhead", overhead(options.overhead)
    elif options.real is not None:
        what, row = "real", real(options.real, options.processes, options.kills)
    else:
        what, row = "kills", kills(options.cases, options.processes, options.kills)
    print(json.dumps(row, indent=1))
    found = read_results("cohort")  # read last: another of these may have run meanwhile
    if what == "growth":
        row = sorted([*(r for r in found.get(what, []) if r["cases"] not in [n["cases"] for n in row]), *row],
                     key=lambda r: r["cases"])  # fmt: skip
    print("written:", write_results("cohort", found | {what: row}).name)


if __name__ == "__main__":
    main()
