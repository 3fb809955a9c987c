"""`diffatlas.plot`: the docstrings' examples run, plots show the numbers they are given, wrong input is one line."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diffatlas
from diffatlas import plot
from diffatlas.errors import BadInput
from diffatlas.render.planes import to_gray
from tests.fakes import FakeBackend

GRID = diffatlas.Grid((24, 20, 16), np.diag([2.0, 2.0, 3.0, 1.0]))


def head() -> diffatlas.Volume:
    far = ((np.indices(GRID.shape) - np.array([12, 10, 8])[:, None, None, None]) ** 2).sum(axis=0)
    return diffatlas.Volume((300 * np.exp(-far / 40)).astype(np.float32), GRID, "mr", "blob")


@pytest.fixture(scope="module")
def frames() -> list[diffatlas.Frame]:
    return list(FakeBackend().stream(head(), diffatlas.Request(preset="watch", steps=6, samples=2)))


@pytest.mark.weights
def test_the_examples_of_the_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other and with each other's names, the module's own first."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    found = [test for test in doctest.DocTestFinder().find(plot, "plot") if test.examples]
    assert {test.name for test in found} == {"plot", *(f"plot.{name}" for name in plot.__all__ if name != "Plot")}
    for test in sorted(found, key=lambda test: (test.name != "plot", test.lineno or 0)):
        test.globs = names
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
        assert result.failed == 0, test.name
    assert (tmp_path / "run.png").stat().st_size > 10_000


def test_a_notebook_shows_a_plot_and_no_window_opens(frames: list[diffatlas.Frame]) -> None:
    picture = Image.open(BytesIO(plot.run(frames)._repr_png_()))
    assert picture.size == (900, 680)
    assert repr(plot.run(frames, shown=2)).startswith("Plot(6 steps")
    code = "import sys, diffatlas.plot; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_curves_are_the_frames_own_numbers(frames: list[diffatlas.Frame]) -> None:
    result = frames[-1].result
    assert result is not None
    panels: Any = plot.curves(frames).axes
    residual, change, volume = panels
    expected = [np.nan if f.metrics.guidance_residual is None else f.metrics.guidance_residual for f in frames]
    np.testing.assert_allclose(residual.lines[0].get_ydata(), expected)
    assert np.isnan(change.lines[0].get_ydata()[0]), "the first step has nothing to differ from"
    for line, name in zip(volume.lines, frames[-1].scheme.names, strict=True):
        np.testing.assert_allclose(line.get_ydata(), [f.metrics.volumes_ml[name] for f in frames])
    several: Any = plot.curves({"frames": frames, "result": result, "report": json.loads(json.dumps(result.report()))})
    drawn = [line.get_ydata() for line in several.axes[0].lines]
    assert len(drawn) == 3
    np.testing.assert_allclose(drawn[0], drawn[2])
    assert [t.get_text() for t in several.axes[0].get_legend().get_texts()] == ["frames", "result", "report"]


def test_the_bars_are_the_volumes(frames: list[diffatlas.Frame], tmp_path: Path) -> None:
    result = frames[-1].result
    assert result is not None
    from diffatlas.session import write_report

    path = tmp_path / "run.json"
    write_report(result, path, None)
    for source in (result, result.labels, path, str(path), result.report(), result.volumes_ml):
        axes: Any = plot.volumes(source).axes[0]
        heights = [bar.get_height() for bar in axes.patches]
        np.testing.assert_allclose(heights, list(result.volumes_ml.values()))
        assert [t.get_text() for t in axes.get_xticklabels()] == list(result.volumes_ml)
    both: Any = plot.volumes({"a": result, "b": {"left ventricle": 3.0}}, reference={"left ventricle": 7.5}).axes[0]
    assert len(both.patches) == 2 * len(result.volumes_ml)
    assert 7.5 in both.collections[0].get_segments()[0][:, 1]


def test_labels_lie_where_they_are_in_the_picture() -> None:
    """A block in the right, anterior, superior corner shows at the upper left of the axial and coronal planes."""
    data = np.zeros(GRID.shape, np.uint8)
    data[16:24, 14:20, 10:16] = 1
    labels = diffatlas.LabelMap(data, GRID, diffatlas.MMWHS)
    volume = diffatlas.Volume(np.zeros(GRID.shape, np.float32), GRID, "mr")
    for axes in plot.slices(volume, labels).axes[:2]:
        picture = np.asarray(axes.images[0].get_array()).astype(int)
        rows, columns = np.nonzero(np.ptp(picture, axis=2) > 20)
        assert rows.mean() < picture.shape[0] / 2
        assert columns.mean() < picture.shape[1] / 2
    plain = plot.slices(volume).axes[0].images[0].get_array()
    assert np.ptp(np.asarray(plain).astype(int), axis=2).max() == 0


def test_agreement_is_shown_where_samples_differ_most(frames: list[diffatlas.Frame]) -> None:
    result = frames[-1].result
    assert result is not None
    share = np.ones(GRID.shape, np.float32)
    share[5:9, 5:9, 3] = 0.5
    doubtful = diffatlas.Result(result.labels, share, result.metrics, result.provenance)
    volume = diffatlas.Volume(head().data, result.labels.grid, "mr")
    middle = plot.agreement(doubtful, volume).axes[1]
    size = np.asarray(middle.images[0].get_array()).shape
    plane = np.ascontiguousarray(share[::-1, ::-1, 3].T)
    np.testing.assert_array_equal(middle.images[0].get_array(), to_gray(plane, (0, 1), (size[1], size[0])))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda f: plot.run([]), "frames of diffatlas.stream"),
        (lambda f: plot.run(7), "not int"),
        (lambda f: plot.run({"a": 1}), "not a run's report"),
        (lambda f: plot.run(f, shown=0), "shown"),
        (lambda f: plot.run(f, plane="oblique"), "plane must be"),
        (lambda f: plot.run("no-such-report.json"), "no such file"),
        (lambda f: plot.volumes(7), "not of int"),
        (lambda f: plot.curves({"provenance": {}}), "not a run's report"),
        (lambda f: plot.agreement(f), "not of list"),
        (lambda f: plot.agreement(diffatlas.Result(f[-1].result.labels, None, (), {})), "samples=2"),
        (
            lambda f: plot.slices(
                diffatlas.Volume(np.zeros((3, 3, 3), np.float32), diffatlas.Grid((3, 3, 3), np.eye(4)), "mr"),
                f[-1].result.labels,
            ),
            "same grid",
        ),
    ],
)
def test_what_is_wrong_is_one_line(frames: list[diffatlas.Frame], call: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        call(frames)
    assert "\n" not in str(caught.value)
