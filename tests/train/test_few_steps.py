"""The benchmark of few steps runs from drawing hearts to the last row: four tiny networks are trained and measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_of_few_steps_runs_through() -> None:
    results = ROOT / "benchmarks" / "results" / "few-steps.json"
    before = results.read_bytes() if results.is_file() else None
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "bench_few_steps.py"), "--quick", "--threads", "1"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = re.findall(r"^(\S+) +(\S+), (\S+), 2 +n = 1  (\d\.\d{4})", done.stdout, re.MULTILINE)
    for name, levels in (("published", 3), ("published-ours", 3), ("ours", 2), ("student", 2)):
        found = [(sampler, rho) for network, sampler, rho, _ in rows if network == name]
        assert len(found) == len(set(found)) == 3 * levels, name
        assert {sampler for sampler, _ in found} == {"ddim", "dpmpp-2m", "ddpm"}
    assert all(0 <= float(dice) <= 1 for *_, dice in rows)
    assert "few-steps-published answered" in done.stdout  # the student learns from the first published network
    assert (results.read_bytes() if results.is_file() else None) == before
