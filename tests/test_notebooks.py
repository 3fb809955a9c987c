"""The notebooks run from the first cell to the last, in an empty folder, and show their plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLOTS = {"1": 4, "2": 3, "3": 3, "4": 3, "5": 4}


def test_they_are_without_output_and_the_documentation_links_them() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == list(PLOTS)
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert all(
            not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code"
        )
        assert path.name in page


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    nbformat: Any = pytest.importorskip("nbformat", reason="pip install 'napari-diffatlas[dev]'")
    nbclient: Any = pytest.importorskip("nbclient", reason="pip install 'napari-diffatlas[dev]'")
    book = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(book, timeout=250, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PLOTS[path.name[0]]
    text = "".join(output.get("text", "") for output in outputs)
    assert "Traceback" not in text
    assert "Error" not in text
