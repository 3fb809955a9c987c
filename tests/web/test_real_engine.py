"""The page over the real engine and the weights that ship: what is downloaded is what the engine computes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from diffatlas import session
from diffatlas.engine.request import Request
from tests.web.conftest import Site, Tab, load, serve_site

pytestmark = [pytest.mark.weights, pytest.mark.timeout(600)]


@pytest.fixture
def real_site() -> Iterator[Site]:
    site = serve_site()
    yield site
    site.served.close()


def test_example_in_the_fast_preset_downloads_the_engine_s_labels(
    real_site: Site, open_tab: Callable[[Site], Tab], tmp_path: Path
) -> None:
    tab = open_tab(real_site)
    tab.page.click("#preset >> text=Fast")
    tab.page.fill("#seed input", "7")
    tab.page.click("#run")
    tab.wait_for_status("Done", 240_000)  # two steps, after torch and the weights are loaded on a busy machine
    saved = load(tab.download("Labels", tmp_path))
    volume, truth = session.example("heart-ct")
    expected = session.segment(volume, Request(preset="fast", seed=7, roi=session.EXAMPLE_REGION)).labels
    np.testing.assert_array_equal(saved.get_fdata(), expected.to_ids())
    np.testing.assert_allclose(saved.affine, volume.grid.affine, atol=1e-4)
    assert expected.data.any()
    # The region that comes with the example holds its whole heart.
    inside = tuple(slice(low, high) for low, high in session.EXAMPLE_REGION)
    assert truth.data[inside].astype(bool).sum() == truth.data.astype(bool).sum()
    # The image that is offered beside it and the report are all that the command line needs for the same labels.
    image, report = tab.download("Image", tmp_path), tab.download("Report", tmp_path)
    segment = ["segment", str(image), "-o", str(tmp_path / "segment.nii.gz")]
    region = ",".join(f"{low}:{high}" for low, high in session.EXAMPLE_REGION)
    for command in (
        [*segment, "--preset", "fast", "--seed", "7", "--roi", region],
        ["replay", str(report), "-o", str(tmp_path / "replay.nii.gz"), "--input", str(image)],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "diffatlas", *command], capture_output=True, encoding="utf-8", check=False
        )
        assert done.returncode == 0, done.stderr
        again = load(tmp_path / f"{command[0]}.nii.gz")
        np.testing.assert_array_equal(again.get_fdata(), saved.get_fdata())
        np.testing.assert_array_equal(again.affine, saved.affine)
