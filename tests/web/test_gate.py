"""The server attacked over HTTP: what must not be read, moved, deleted, fetched or answered."""

from __future__ import annotations

import errno
import http.client
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from diffatlas_app import limits
from diffatlas_app.server import files
from diffatlas_app.server.hosts import Hosts
from tests.web.conftest import Site, wait_until
from tests.web.requests_by_hand import ask, call, file_data, listener, multipart, post, scan_bytes, upload

pytestmark = pytest.mark.timeout(400)
PACKAGE = Path(files.__file__).resolve().parents[1]
REFUSED = "no file that was sent to this page"


def inputs_of(site: Site) -> list[tuple[int, str, list[str]]]:
    """Every event of the page: number, name, kinds of its inputs."""
    config = ask(site, "/config").json()
    kinds = {c["id"]: c["type"] for c in config["components"]}
    return [
        (d["id"], d.get("api_name") or "", [kinds.get(i, "?") for i in d["inputs"]]) for d in config["dependencies"]
    ]


@pytest.fixture
def victims(site: Site, tmp_path: Path) -> list[Path]:
    """Files that must survive: of the program, of the machine, and another visitor's."""
    precious = tmp_path / "precious.nii.gz"
    precious.write_bytes(b"precious")
    other = site.served.visitors.get("ben" + secrets.token_hex(4)).folder / "volume.nii.gz"
    other.write_bytes(b"ben's scan")
    return [
        files.niivue_path(),
        files.STATIC / "viewer.css",
        PACKAGE / "serve.py",
        precious,
        other,
        Path("/etc/passwd"),
    ]


def test_no_path_of_the_machine_is_taken_from_any_call(site: Site, victims: list[Path], tmp_path: Path) -> None:
    """Every event of the page with file inputs, named or not, by every way in."""
    before = {path: path.read_bytes() for path in victims}
    session = "attacker" + secrets.token_hex(4)
    with_files = [event for event in inputs_of(site) if "file" in event[2]]
    assert len(with_files) >= 4  # the image, the mask, the reference, the endpoint
    link = tmp_path / "link.nii.gz"
    link.symlink_to(victims[3])
    for path in [*victims, link]:
        forms = {str(path), f"../../../../..{path}", f"file://{path}", path.as_posix().replace("/", "//")}
        for form in sorted(forms):
            for number, name, kinds in with_files:
                data = [file_data(form, url=form, is_stream=False) if k == "file" else None for k in kinds]
                tries = [
                    post(site, "/gradio_api/queue/join", {"data": data, "fn_index": number, "session_hash": session}),
                    post(site, "/gradio_api/queue/join", {"data": [data], "fn_index": number, "session_hash": session}),
                    post(site, f"/gradio_api/run/{name or 'predict'}", {"data": data, "fn_index": number}),
                    post(site, f"/gradio_api/call/{name or 'predict'}", {"data": data}),
                ]
                for answer in tries:
                    assert answer.status in (400, 404, 422), answer.body
                    assert answer.body.count(b"\n") <= 1
                    assert b"root:" not in answer.body
                    assert str(path).encode() not in answer.body
    assert {path: path.read_bytes() for path in victims} == before
    assert link.is_symlink()
    assert site.backend.requests == []


@pytest.mark.parametrize("value", [None, 7, True, ["x"], {}, "", "x" * 5000, "\0", "a/b", ".", "..", "/", "💥/💥"])
def test_a_path_of_another_kind_is_one_line(site: Site, value: Any) -> None:
    answer = post(site, "/gradio_api/call/segment", {"data": [file_data(value)]})
    assert (answer.status, answer.line.split(" (")[0]) == (400, f"this is {REFUSED}")


def test_files_hidden_deep_in_a_call_are_found(site: Site) -> None:
    deep: Any = file_data("/etc/passwd")
    for _ in range(20):
        deep = {"a": [deep]}
    for body in ({"data": [deep]}, {"data": [], "event_data": file_data("/etc/passwd")}, {"path": "/etc/passwd"}):
        assert post(site, "/gradio_api/call/segment", body).status == 400


def test_a_visitor_s_upload_is_known_by_its_random_reference_only(site: Site, tmp_path: Path) -> None:
    data = scan_bytes(tmp_path)
    reference = upload(site, "scan.nii.gz", data)
    token, name = reference.split("/")
    assert re.fullmatch("[0-9a-f]{32}", token)
    assert name == "scan.nii.gz"
    for guess in (name, f"{'0' * 32}/{name}", f"{token}/other.nii.gz", f"{token}/../{token}/{name}", f"{token}/"):
        assert REFUSED in call(site, "segment", [file_data(guess)])
    for way in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/page/", "/results/", "/learn/"):
        assert ask(site, way + reference).status == 404
        assert ask(site, way + quote(str(site.served.visitors.inbox.folder / reference))).status == 404
    assert "volumes_ml" in call(site, "segment", [file_data(reference)])
    assert "volumes_ml" in call(site, "segment", [file_data(reference)])  # and again: nothing took it away


def test_twenty_visitors_with_the_same_file_all_succeed(site: Site, tmp_path: Path) -> None:
    data = scan_bytes(tmp_path)

    def visit(_: int) -> Any:
        return call(site, "segment", [file_data(upload(site, "scan.nii.gz", data))])

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(visit, range(20)))
    assert [a.get("error") for a in answers] == [None] * 20
    assert len({a["labels"]["nii_gz_base64"] for a in answers}) == 1


def test_no_request_ever_leaves(site: Site) -> None:
    with listener() as (url, asked):
        host = url.removeprefix("http://")
        ways = [
            f"/gradio_api/file={url}/a",
            f"/file={url}/a",
            f"/gradio_api/file/{url}/a",
            f"/gradio_api/file/http:/{host}/a",
            f"/file/{url}/a",
            f"/gradio_api/proxy={url}/a",
            f"/proxy={url}/a",
            f"/gradio_api/file={quote(url, safe='')}%2Fa",
            f"/gradio_api/%66ile={url}/a",
            f"/gradio_api/stream/{url}/a",
            f"/gradio_api/upload_progress?upload_id={url}/a",
            f"/gradio_api/custom_component/{url}/client/component/a",
            f"/config?deep_link={url}",
            f"/page/{url}",
            f"/learn/{url}",
        ]
        for way in ways:
            for method in ("GET", "HEAD"):
                assert ask(site, way, method).status in (200, 404, 405)
        for number, name, kinds in inputs_of(site):
            for file in (file_data(f"{url}/scan.nii.gz"), file_data("x", url=f"{url}/scan.nii.gz")):
                data = [file if kind == "file" else None for kind in kinds]
                post(site, "/gradio_api/queue/join", {"data": data, "fn_index": number, "session_hash": "attacker"})
                post(site, f"/gradio_api/run/{name or 'predict'}", {"data": data, "fn_index": number})
        post(site, "/gradio_api/call/segment", {"data": [f"{url}/scan.nii.gz"]})
        time.sleep(0.5)
        assert asked == []


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/monitoring",
        "/monitoring",
        "/login",
        "/gradio_api/dev/reload",
        "/gradio_api/deep_link?session_hash=a",
        "/gradio_api/process_recording",
        "/gradio_api/vibe-edit/",
        "/gradio_api/run-history/buckets",
        "/gradio_api/runs",
        "/gradio_api/stream/a/b/1/playlist.m3u8",
        "/gradio_api/mcp/",
        "/docs",
        "/openapi.json",
        "/assets/../../routes.py",
        "/static/%2e%2e/%2e%2e/routes.py",
        "/svelte/..%2f..%2froutes.py",
        "/learn/../viewer.css",
        "/learn/%2e%2e/%2e%2e/serve.py",
        "/page/000000000000/../../serve.py",
    ],
)
def test_what_the_page_does_not_need_is_not_there(site: Site, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(site, path, method).status in (404, 405)


def test_the_page_prints_no_path_of_this_machine(site: Site) -> None:
    inbox = str(site.served.visitors.inbox.folder)
    for path in ("/", "/config", "/gradio_api/info"):
        text = ask(site, path).body.decode()
        for secret in (str(PACKAGE), str(files.niivue_path().parent), inbox, str(Path.home())):
            assert secret not in text
    assert re.search(rf"src=..?page/{files.version()}/page\.js", ask(site, "/").body.decode())
    for name in files.page_files():
        answer = ask(site, "/" + files.address(name))
        assert answer.status == 200
        assert answer.body == files.page_files()[name].read_bytes()
        assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:7860",
        "",
        "a b",
        "[::1",
        "evil.example@127.0.0.1",
    ],
)
def test_a_name_that_is_not_ours_is_not_answered(site: Site, host: str) -> None:
    """DNS rebinding: the stranger's name in the Host header is what tells."""
    for path in ("/", "/config", "/health", "/gradio_api/info"):
        assert ask(site, path, headers={"Host": host}).status in (400, 421)
    assert ask(site, "/health", headers={"X-Forwarded-Host": "evil.example"}).status == 421


def test_the_names_of_this_machine_are_answered(site: Site) -> None:
    port = urlsplit(site.url).port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", f"[::1]:{port}"):
        assert ask(site, "/health", headers={"Host": host}).status == 200


def test_names_by_address_by_list_and_on_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Hosts("127.0.0.1", ["atlas.example"])
    assert here.knows("atlas.example:80")
    assert not here.knows("192.0.2.5")
    network = Hosts("0.0.0.0")
    assert network.knows("192.0.2.5:7860")
    assert network.knows("[2001:db8::1]:7860")
    assert not network.knows("evil.example")
    monkeypatch.setenv("DIFFATLAS_HOSTS", "one.example, two.example")
    monkeypatch.setenv("SPACE_HOST", "name-diffatlas.hf.space")
    there = Hosts("0.0.0.0")
    assert all(there.knows(h) for h in ("one.example", "two.example:443", "name-diffatlas.hf.space"))
    assert here.same_origin("https://atlas.example", "atlas.example")
    assert here.same_origin("http://127.0.0.1:7860", "127.0.0.1:7860")
    for origin in ("null", "http://127.0.0.1:7861", "http://evil.example", "file://", "http://127.0.0.1:99999"):
        assert not here.same_origin(origin, "127.0.0.1:7860")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://huggingface.co"])
def test_another_site_s_page_gets_no_answer_and_no_permission(site: Site, origin: str) -> None:
    for method, path in (("GET", "/config"), ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/upload")):
        answer = ask(site, path, method, b"{}", {"Origin": origin, "Content-Type": "application/json"})
        assert answer.status == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = ask(site, "/gradio_api/queue/join", "OPTIONS", headers=preflight)
    assert answer.status in (403, 405)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert ask(site, "/gradio_api/heartbeat/victim", headers=image).status == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(site, "/", headers=link).status == 200


def test_our_own_page_is_answered_and_nobody_is_echoed(site: Site) -> None:
    answer = ask(site, "/config", headers={"Origin": site.url})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_has_the_headers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("/", "/config", "/health", "/nothing", "/" + files.address("viewer.js"), "/theme.css"):
        headers = ask(site, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "SAMEORIGIN"
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'self'" in policy
        assert "http" not in policy
    monkeypatch.setenv("SPACE_ID", "name/diffatlas")
    headers = ask(site, "/").headers
    assert "https://huggingface.co" in headers["content-security-policy"]
    assert "x-frame-options" not in headers


def test_bodies_are_bounded(site: Site) -> None:
    large = b'{"data": ["' + b"x" * (limits.MAX_JSON_KB * 1024) + b'"]}'
    kind = {"Content-Type": "application/json"}
    for path in ("/gradio_api/queue/join", "/gradio_api/component_server", "/gradio_api/call/segment"):
        assert ask(site, path, "POST", large, kind).status == 413
        declared = {**kind, "Content-Length": "99999999999"}
        assert ask(site, path, "POST", b"{", declared).status == 413
        deep = b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        assert ask(site, path, "POST", deep, kind).status == 400
        nested = b'{"data": ' + b"[" * 60 + b"]" * 60 + b"}"
        assert "nested" in ask(site, path, "POST", nested, kind).line
        for wrong in (b"", b"no json", b"[1]", b'{"data": NaN}', b"\xff\xfe"):
            assert ask(site, path, "POST", wrong, kind).status == 400
        assert ask(site, path, "POST", b"a=b", {"Content-Type": "text/plain"}).status == 415
        body, form = multipart(("a", b"x"))
        assert ask(site, path, "POST", body, form).status == 415


def emptied(inbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the files that tests before left, which would make room for new ones."""
    with monkeypatch.context() as patch:
        patch.setattr(limits, "INBOX_AGE_S", -1.0)
        inbox.expire()


def test_uploads_are_bounded_in_size_number_and_share(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = site.served.visitors.inbox

    def send(*parts: tuple[str, bytes], **more: str) -> Any:
        body, headers = multipart(*parts)
        return ask(site, "/gradio_api/upload", "POST", body, {**headers, **more})

    emptied(inbox, monkeypatch)
    kept = len(inbox)
    many = send(*((f"{i}.nii", b"x") for i in range(999)))
    assert (many.status, "one at a time" in many.line) == (413, True)
    monkeypatch.setattr(limits, "MAX_UPLOAD_MB", 1)
    large = send(("large.nii", bytes(2 * 1024**2)))
    assert (large.status, large.line) == (413, "the file is larger than 1 MB, the limit")
    assert (
        ask(site, "/gradio_api/upload", "POST", b"x", {**multipart()[1], "Content-Length": "999999999"}).status == 413
    )
    for body, headers in ((b"", multipart()[1]), (b"--xx", multipart()[1]), (b"junk", multipart()[1]), (b"x", {})):
        assert ask(site, "/gradio_api/upload", "POST", body, headers).status == 400
    assert len(inbox) == kept
    monkeypatch.setattr(limits, "INBOX_FILES_PER_ADDRESS", kept + 1)
    assert send(("a.nii", b"x")).status == 200
    assert send(("b.nii", b"x")).status == 429
    monkeypatch.undo()
    monkeypatch.setattr(limits, "INBOX_MB_PER_ADDRESS", 0)
    busy = send(("a.nii", b"x"))
    assert busy.status == 429
    monkeypatch.undo()
    monkeypatch.setattr(limits, "UPLOADS_AT_ONCE", 0)
    assert send(("a.nii", b"x")).status == 503


@pytest.mark.parametrize("where", ["open", "write"])
def test_a_full_disk_is_a_message_and_nothing_stays(site: Site, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    inbox = site.served.visitors.inbox
    before = sorted(inbox.folder.iterdir())
    real = Path.open

    class Full:
        def __init__(self, path: Path) -> None:
            self.opened = real(path, "xb")

        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            self.opened.close()

    def full(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode != "xb":
            return real(path, mode, *args, **options)
        if where == "open":
            raise OSError(errno.ENOSPC, "No space left on device")
        return Full(path)

    monkeypatch.setattr(Path, "open", full)
    body, headers = multipart(("a.nii", b"x" * 5000))
    answer = ask(site, "/gradio_api/upload", "POST", body, headers)
    assert (answer.status, answer.line) == (507, "the disk of this machine is full: try again later")
    monkeypatch.undo()
    assert sorted(inbox.folder.iterdir()) == before


def test_an_upload_cut_off_leaves_nothing(site: Site) -> None:
    inbox = site.served.visitors.inbox
    before = len(inbox)
    parts = urlsplit(site.url)
    body, headers = multipart(("a.nii", b"x" * 100_000))
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
    connection.putrequest("POST", "/gradio_api/upload")
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders(body[:50_000])
    assert wait_until(lambda: len(inbox) == before + 1)
    connection.close()
    assert wait_until(lambda: len(inbox) == before)


def test_used_uploads_make_room_and_old_ones_go(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inbox = site.served.visitors.inbox
    emptied(inbox, monkeypatch)
    used, fresh = (upload(site, "scan.nii.gz", scan_bytes(tmp_path)) for _ in range(2))
    inbox.mark_used(inbox.find(used))
    monkeypatch.setattr(limits, "INBOX_FILES", len(inbox))
    upload(site, "third.nii", b"x")
    assert not (inbox.folder / used).exists()
    assert (inbox.folder / fresh).exists()
    monkeypatch.setattr(limits, "INBOX_AGE_S", -1.0)
    inbox.expire()
    assert len(inbox) == 0
    assert list(inbox.folder.iterdir()) == []
