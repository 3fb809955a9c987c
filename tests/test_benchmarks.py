"""The benchmarks can be imported, and what they patch in the package is what the package uses; mypy checks the rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scripts import each other by their names, as if they lay in one folder on the path."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == BENCHMARKS:
            del sys.modules[name]


@pytest.mark.slow
def test_every_benchmark_can_be_imported() -> None:
    names = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
    assert "bench_speed" in names
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\nfor name in {names}: __import__(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_two_ways_of_a_call_take_different_kernels(
    benchmarks: None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench_speed` compares PyTorch's choice of kernels with oneDNN's by name: only the second calls oneDNN itself."""
    import bench_speed

    asked: list[int] = []
    by_name = torch.mkldnn_convolution

    def counted(*arguments: Any) -> torch.Tensor:
        asked.append(1)
        return by_name(*arguments)

    monkeypatch.setattr(torch, "mkldnn_convolution", counted)
    plain, named = bench_speed.ways_of_a_call(str(tiny_model))
    plain()
    assert not asked
    named()
    assert asked
