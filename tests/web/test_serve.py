"""What the server gives to whom, asked by hand."""

from __future__ import annotations

import http.client
import json
import logging
import secrets
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import gradio
import numpy as np
import pytest

from diffatlas.errors import BadInput
from diffatlas_app.visitors import error_line
from diffatlas_app.visitors.sessions import Visitor
from tests.web.conftest import Site

pytestmark = pytest.mark.timeout(400)


def ask(site: Site, path: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    """One request with ``path`` exactly as given: urllib would tidy it."""
    parts = urlsplit(site.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
    connection.putrequest(method, path, skip_host=False, skip_accept_encoding=True)
    connection.endheaders()
    response = connection.getresponse()
    answer = response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
    connection.close()
    return answer


@pytest.fixture
def two(site: Site) -> tuple[Visitor, Visitor]:
    """Two visitors, each with a finished run and an upload."""
    made = []
    for name in ("anna", "ben"):
        visitor = site.served.visitors.get(name + secrets.token_hex(8))
        run = site.served.visitors.new_run(visitor)
        (visitor.folder / run / "labels.nii.gz").write_bytes(name.encode())
        (visitor.folder / run / "film.npz").write_bytes(b"not offered")
        (visitor.folder / "volume.nii.gz").write_bytes(b"an upload")
        made.append(visitor)
    return made[0], made[1]


def test_a_result_is_given_by_its_random_name(site: Site, two: tuple[Visitor, Visitor]) -> None:
    for visitor, content in zip(two, (b"anna", b"ben"), strict=True):
        status, body, headers = ask(site, f"/results/{visitor.last}/labels.nii.gz")
        assert (status, body) == (200, content)
        assert headers["content-disposition"] == "attachment"
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/results/{anna}/film.npz",
        "/results/{anna}/volume.nii.gz",
        "/results/{anna}/../volume.nii.gz",
        "/results/{anna}/..%2fvolume.nii.gz",
        "/results/{anna}/%2e%2e/volume.nii.gz",
        "/results/{anna}/..%5cvolume.nii.gz",
        "/results/{anna}//etc/passwd",
        "/results/{anna}/%2fetc%2fpasswd",
        "/results/{anna}/file:///etc/passwd",
        "/results/{anna}/labels.nii.gz%00.txt",
        "/results/{anna}/",
        "/results/{anna}",
        "/results/",
        "/results/../results/{anna}/film.npz",
        "/results/{folder}/labels.nii.gz",
        "/results/run-" + "a" * 32 + "/labels.nii.gz",
        "/results/run-%C3%A9" + "a" * 31 + "/labels.nii.gz",
    ],
)
def test_nothing_else_is_given(site: Site, two: tuple[Visitor, Visitor], path: str) -> None:
    anna, _ = two
    asked = path.format(anna=anna.last, folder=anna.folder.name)
    assert ask(site, asked)[0] == 404


def test_a_result_is_gone_with_its_visitor(site: Site, two: tuple[Visitor, Visitor]) -> None:
    anna, ben = two
    key = next(k for k, v in site.served.visitors._visitors.items() if v is anna)
    site.served.visitors.leave(key)
    assert ask(site, f"/results/{anna.last}/labels.nii.gz")[0] == 404
    assert ask(site, f"/results/{ben.last}/labels.nii.gz")[0] == 200
    assert not anna.folder.exists()


def test_results_are_read_only(site: Site, two: tuple[Visitor, Visitor]) -> None:
    for method in ("PUT", "DELETE", "POST"):
        assert ask(site, f"/results/{two[0].last}/labels.nii.gz", method)[0] == 405


@pytest.mark.parametrize("of", ["labels.nii.gz", "../volume.nii.gz"])
def test_gradio_s_file_route_reaches_no_visitor_s_folder(site: Site, two: tuple[Visitor, Visitor], of: str) -> None:
    assert two[0].last is not None
    path = two[0].folder / two[0].last / of
    for route in ("/gradio_api/file=", "/file="):
        for address in (str(path), quote(str(path)), str(path.resolve()), "/etc/passwd", "../../../../etc/passwd"):
            assert ask(site, route + address)[0] in (403, 404)


@pytest.mark.parametrize(
    "address", ["http://192.0.2.1/scan.nii.gz", "https://example.org/a", "file:///etc/passwd", "ftp://x/y"]
)
def test_addresses_are_not_fetched(site: Site, address: str) -> None:
    for route in ("/gradio_api/file=", "/gradio_api/proxy="):
        assert ask(site, route + address)[0] in (403, 404)


def test_the_probe_says_how_busy_the_page_is_and_nothing_of_anyone(site: Site, two: tuple[Visitor, Visitor]) -> None:
    status, body, _ = ask(site, "/health")
    facts = json.loads(body)
    assert status == 200
    assert facts["status"] == "ok"
    assert set(facts) == {"status", "ready", "visitors", "runs"}
    assert facts["visitors"] >= 2
    with pytest.raises(HTTPError, match="405"):
        urlopen(f"{site.url}/health", data=b"x")


def test_history_monitoring_and_statistics_are_off(site: Site) -> None:
    with urlopen(f"{site.url}/config", timeout=20) as response:
        config = json.loads(response.read())
    assert config.get("analytics_enabled") is False
    assert not config.get("run_history")
    assert ask(site, "/gradio_api/monitoring")[0] in (401, 403, 404, 405)
    assert site.served.page.max_file_size == 300 * 1024**2
    assert site.served.page.api_open is False
    for dependency in config["dependencies"]:
        assert dependency["api_visibility"] == "private" or dependency["api_name"] in ("segment", "generate", "brush")


def test_the_page_keeps_no_state_of_its_own(site: Site) -> None:
    """What belongs to a visitor is in the visitor's folder and goes with it, not in gradio's sessions."""
    assert [block for block in site.served.page.blocks.values() if isinstance(block, gradio.State)] == []


def test_the_log_says_where_and_not_what(caplog: pytest.LogCaptureFixture) -> None:
    secret = np.arange(5.0)
    try:
        raise ValueError(f"patient {secret}")
    except ValueError as error:
        with caplog.at_level(logging.DEBUG):
            said = error_line.told(error)
    assert said.startswith("This is our fault, not yours: ValueError")
    assert "test_serve.py" in caplog.text
    assert "ValueError" in caplog.text
    assert "patient" not in caplog.text.replace('raise ValueError(f"patient {secret}")', "")
    assert "[0. 1." not in caplog.text
    assert error_line.told(BadInput("x.nii: bad")) == "x.nii: bad"


def test_a_taken_port_is_one_line(site: Site) -> None:
    from diffatlas_app.serve import serve

    with pytest.raises(BadInput, match="give another --port"):
        serve(port=int(site.url.rsplit(":", 1)[1]), warm=False)
