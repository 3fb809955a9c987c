"""The faults of tools/seeded_faults.py fit the tree, and the tool tells a fault that is caught from one that is not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("diffatlas_seeded_faults", ROOT / "tools" / "seeded_faults.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TOOL = loaded()


@pytest.mark.parametrize("fault", TOOL.FAULTS, ids=lambda fault: fault.module)
def test_every_fault_has_its_place_and_its_tests(fault: Any) -> None:
    text = (ROOT / fault.module).read_text(encoding="utf-8")
    assert fault.seeded(text) != text
    assert all((ROOT / "tests" / test).is_file() for test in fault.tests)
    page = (ROOT / "docs" / "tests.md").read_text(encoding="utf-8")
    assert f"| {fault.what} | `{fault.module.removeprefix('core/diffatlas/')}` |" in page


def test_a_failure_counts_where_the_sound_tree_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # pytest starts in a tenth of the time
    (tmp_path / "tests").mkdir()
    (tmp_path / "m.py").write_text("def two():\n    return 1 + 1\n")
    (tmp_path / "tests" / "test_m.py").write_text(
        "from m import two\ndef test_always_fails(): assert False\ndef test_two(): assert two() == 2\n"
    )
    (tmp_path / "tests" / "test_other.py").write_text("def test_nothing(): pass\n")
    fault = TOOL.Fault("one less", "m.py", "1 + 1", "1 + 0", (), "", ())
    assert TOOL.caught_by(tmp_path, "m.py", fault, ("test_m.py",)) == "tests/test_m.py::test_two"
    assert TOOL.caught_by(tmp_path, "m.py", fault, ("test_other.py",)) == ""
    assert (tmp_path / "m.py").read_text() == "def two():\n    return 1 + 1\n"
