"""The endpoints, as the examples in docs/web.md and app/README.md call them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from diffatlas import io
from tests.web.conftest import Site, load, oblique_scan
from tests.web.requests_by_hand import post

gradio_client = pytest.importorskip("gradio_client")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:huggingface_hub.*"),
]


@pytest.fixture
def client(site: Site) -> Iterator[Any]:
    # The first answer of a new server takes longer than httpx' 5 s where the machine is busy.
    made = gradio_client.Client(site.url, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 60})
    yield made
    made.close()


def saved(part: dict[str, str], folder: Path) -> Path:
    path = folder / part["name"]
    path.write_bytes(base64.b64decode(part["nii_gz_base64"]))
    return path


def test_modality_and_volume_are_named(site: Site, client: Any, tmp_path: Path) -> None:
    phases = np.random.default_rng(0).normal(100, 20, (12, 14, 10, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(phases, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "phases.nii.gz")
    file = gradio_client.handle_file(str(tmp_path / "phases.nii.gz"))
    assert "0 to 2; choose one" in client.predict(volume=file, api_name="/segment")["error"]
    answer = client.predict(volume=file, volume_index=2, modality="ct", api_name="/segment")
    assert "error" not in answer
    seen = site.backend.volumes[-1]
    assert seen is not None
    assert seen.modality == "ct"
    np.testing.assert_array_equal(seen.data, phases[..., 2])
    assert "no volume 3" in client.predict(volume=file, volume_index=3, api_name="/segment")["error"]


def test_two_endpoints_are_offered_and_described(client: Any) -> None:
    offered = client.view_api(return_format="dict", print_info=False)
    assert set(offered["named_endpoints"]) == {"/segment", "/generate"}
    assert offered["unnamed_endpoints"] == {}
    names = {
        name: [p["parameter_name"] for p in facts["parameters"]] for name, facts in offered["named_endpoints"].items()
    }
    options = ["model", "preset", "seed", "samples", "guidance_noise", "modality", "volume_index"]
    assert names["/segment"] == ["volume", *options]
    assert names["/generate"] == ["model", "count", "seed", "preset"]
    for facts in offered["named_endpoints"].values():
        assert "error" in facts["description"]


def test_segment(site: Site, client: Any, tmp_path: Path) -> None:
    path = oblique_scan(tmp_path / "scan.nii.gz", (12, 14, 10))
    before = len(site.served.visitors)
    answer = client.predict(
        volume=gradio_client.handle_file(str(path)), seed=5, samples=2, guidance_noise=0.25, api_name="/segment"
    )
    grid = io.read_volume(path).grid
    labels = load(saved(answer["labels"], tmp_path))
    np.testing.assert_array_equal(labels.get_fdata(), site.backend.labels_at(grid, 1.0, 5).to_ids())
    assert answer["labels"]["name"] == "scan_labels.nii.gz"
    assert set(answer["volumes_ml"]) == set(site.backend.scheme.names)
    request = site.backend.requests[-1]
    assert (request.preset, request.samples, request.guidance_noise) == ("fast", 2, 0.25)
    assert answer["report"]["provenance"]["request"] == request.to_json()
    assert len(site.served.visitors) == before
    assert len(site.served.visitors.turns) == 0


@pytest.mark.parametrize(
    "path",
    [
        "https://192.0.2.1/scan.nii.gz",
        "file:///etc/passwd",
        "http://127.0.0.1:1/scan.nii.gz",
        "/etc/passwd",
        "../../../../etc/passwd",
        "/proc/self/environ",
    ],
)
@pytest.mark.parametrize("key", ["path", "url"])
def test_addresses_and_paths_of_this_machine_are_refused(site: Site, path: str, key: str) -> None:
    file = {"path": path, "url": path if key == "url" else None, "meta": {"_type": "gradio.FileData"}}
    # By hand: gradio_client would read the path on the caller's own machine.
    answer = post(site, "/gradio_api/call/segment", {"data": [file, "auto", "fast", 0, 1, -1]})
    assert answer.status == 400
    assert "no file that was sent to this page" in answer.line
    assert b"root:" not in answer.body
    assert Path("/etc/passwd").exists()
    assert site.backend.requests == []


def test_what_is_wrong_comes_back_as_one_line(site: Site, client: Any, tmp_path: Path) -> None:
    path = tmp_path / "broken.nii.gz"
    path.write_bytes(b"not a volume")
    answer = client.predict(volume=gradio_client.handle_file(str(path)), api_name="/segment")
    assert list(answer) == ["error"]
    assert answer["error"].startswith("broken.nii.gz")
    assert "/" not in answer["error"].replace(" / ", "")
    path = oblique_scan(tmp_path / "scan.nii.gz", (12, 14, 10))
    for wrong in ({"seed": 1.5}, {"seed": -1}, {"samples": 64}, {"guidance_noise": 7}):
        answer = client.predict(volume=gradio_client.handle_file(str(path)), api_name="/segment", **wrong)
        assert list(answer) == ["error"]
    assert client.predict(api_name="/segment", volume=None)["error"].startswith("give a volume")
    assert site.backend.requests == []


def test_generate(site: Site, client: Any, tmp_path: Path) -> None:
    answer = client.predict(model="heart-phantom", count=2, seed=3, preset="fast", api_name="/generate")
    assert [p["seed"] for p in answer["pairs"]] == [3, 4]
    for pair in answer["pairs"]:
        assert load(saved(pair["image"], tmp_path)).shape == load(saved(pair["mask"], tmp_path)).shape == (16, 16, 16)
        assert set(pair["volumes_ml"]) == set(site.backend.scheme.names)
    too_many = client.predict("heart-phantom", 9, 0, "fast", api_name="/generate")
    assert too_many == {"error": "count must be a whole number, 1 to 8, not 9"}


@pytest.mark.parametrize("page", ["docs/web.md", "app/README.md"])
def test_the_examples_of_the_documentation_run(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    examples = [e for e in examples if "gradio_client" in e]
    assert examples
    monkeypatch.chdir(tmp_path)
    oblique_scan(tmp_path / "scan.nii.gz", (12, 14, 10))
    for example in examples:
        exec(compile(example.replace("http://127.0.0.1:7860", site.url), page, "exec"), {})
    assert load(tmp_path / "scan_labels.nii.gz").shape == (12, 14, 10)
