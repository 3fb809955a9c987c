"""A few hundred mutants of every format (tools/fuzz.py makes them; longer runs by command): none is read wrong."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from diffatlas import io
from diffatlas.errors import BadInput

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    return loaded("fuzz")


def loaded(name: str) -> ModuleType:
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(f"diffatlas_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ("NIfTI", 100),
        ("NRRD", 100),
        ("MetaImage", 100),
        ("DICOM", 40),
        ("compressed DICOM", 30),
        ("DICOM labels", 20),
    ],
)
def test_every_mutant_is_a_volume_or_a_refusal(fuzz: ModuleType, only: str, count: int) -> None:
    (counts,) = fuzz.fuzz(count, seed=0, only=only).values()
    assert sum(counts.values()) == count
    # Else the mutations do nothing.
    assert counts["refused"] >= count / (3 if only in ("NIfTI", "NRRD", "MetaImage", "DICOM") else 5)
    assert {kind: counts[kind] for kind in (*fuzz.FORBIDDEN, "crash")} == dict.fromkeys((*fuzz.FORBIDDEN, "crash"), 0)


def test_mutants_depend_on_their_seed_and_number(fuzz: ModuleType, tmp_path: Path) -> None:
    def of(seed: int, count: int) -> list[bytes]:
        return [content for _, _, content, _ in fuzz.mutants(tmp_path, count, seed, "NRRD")]

    assert of(1, 20)[:10] == of(1, 10)
    assert of(1, 10) != of(2, 10)


def test_the_fuzz_sees_what_is_wrong(fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each outcome is recognised: else a count of zero would mean nothing."""
    (sound, *_) = fuzz.seeds(tmp_path)
    path = tmp_path / sound.name
    expected = io.read_volume(path).data
    assert fuzz.outcome(path, expected)[0] == "volume"
    assert fuzz.outcome(path, expected + 1)[0] == "wrong"

    def raising(error: Exception) -> None:
        def read(*args: object, **kwargs: object) -> None:
            raise error

        monkeypatch.setattr(fuzz.io, "read_volume", read)

    for kind, error in {
        "fault": RuntimeError("x"),
        "crash": BadInput("a.nii: the decoder crashed on it"),
        "late": BadInput("a.nii: reading it took longer than 1 s and was stopped"),
        "unreadable": BadInput("two\nlines"),
        "refused": BadInput("a.nii: is damaged"),
    }.items():
        raising(error)
        assert fuzz.outcome(path, None)[0] == kind


def test_every_damaged_request_and_report_is_read_or_refused_in_one_line() -> None:
    counts = loaded("fuzz_json").fuzz(900, seed=0)
    assert len(counts) == 3
    for name, counter in counts.items():
        assert set(counter) <= {"read", "refused"}, (name, counter)
        assert counter["refused"] > 100
