"""What is printed: JSON past every formatter, on any terminal, and never a reason for a finished run to fail."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from diffatlas.cli import app
from tests.cli.helpers import Cli
from tests.fakes import FakeBackend

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(os.name != "posix", reason="file names, pipes and signals of POSIX")


class BrokenPipe(io.BytesIO):
    """The reader has gone after the first bytes, as with ``| head``."""

    def __init__(self, number: int = errno.EPIPE) -> None:
        super().__init__()
        self.number = number

    def write(self, data: Any) -> int:
        raise OSError(self.number, os.strerror(self.number))


def run_on(
    monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: object, raw: io.BytesIO | None = None
) -> tuple[int, bytes]:
    """Exit code and bytes of the command line on a terminal of this encoding."""
    raw = raw or io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        with pytest.raises(SystemExit) as end:
            app([str(a) for a in arguments], prog_name="diffatlas")
    code = end.value.code
    assert isinstance(code, int)
    data = raw.getvalue()
    stream.detach()
    return code, data


ODD_NAMES = ("a:x:b.nii.gz", "[red]x.nii.gz", "[[x]].nii.gz", "Größe ✓ 心.nii.gz")


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "latin-1"])
def test_json_is_json_and_names_the_file_that_exists(
    backend: FakeBackend, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, encoding: str
) -> None:
    odd = image.rename(tmp_path / name)
    out = tmp_path / f"labels-{name}"
    code, data = run_on(monkeypatch, encoding, "segment", odd, "-o", out, "--json")
    assert code == 0
    printed = json.loads(data.decode(encoding))
    assert Path(printed["outputs"]["labels"]) == out
    assert out.is_file()
    assert Path(printed["provenance"]["source"]["path"]) == odd


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_words_on_a_terminal_that_lacks_characters_do_not_fail(
    backend: FakeBackend, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, encoding: str
) -> None:
    odd = image.rename(tmp_path / name)
    folder = tmp_path / "in"
    folder.mkdir()
    odd = odd.rename(folder / name)
    assert run_on(monkeypatch, encoding, "segment", odd, "-o", tmp_path / f"labels-{name}")[0] == 0
    assert run_on(monkeypatch, encoding, "batch", folder, "-o", tmp_path / "out")[0] == 0
    for command in ("models", "--version", "--help"):
        assert run_on(monkeypatch, encoding, command)[0] == 0


def test_emoji_codes_and_brackets_are_printed_as_they_are(cli: Cli, image: Path, tmp_path: Path) -> None:
    outcome = cli("segment", image, "-o", tmp_path / "a:x:[red].nii.gz")
    assert f"labels: {tmp_path / 'a:x:[red].nii.gz'}" in outcome.out


@posix
def test_a_file_name_that_is_no_utf8(cli: Cli, image: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.nii.gz"))
    image.rename(odd)
    out, report = Path(os.fsdecode(os.fsencode(tmp_path) + b"/l\xe9.nii.gz")), tmp_path / "r.json"
    outcome = cli("segment", odd, "-o", out, "--report", report, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["outputs"]["labels"] == str(out)
    assert out.is_file()
    assert cli("replay", report, "-o", tmp_path / "again.nii.gz").code == 0
    assert cli("segment", odd, "-o", out).code == 0
    folder = tmp_path / "in"
    folder.mkdir()
    odd.rename(folder / odd.name)
    assert cli("batch", folder, "-o", tmp_path / "out").code == 0


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_reader_that_has_gone_changes_no_exit_code(
    backend: FakeBackend, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    out = tmp_path / "l.nii.gz"
    assert run_on(monkeypatch, "utf-8", "segment", image, "-o", out, *more, raw=BrokenPipe())[0] == 0
    assert out.is_file()
    out.unlink()
    # Output that is lost on a full disk is not a success, but no fault of the program either.
    assert run_on(monkeypatch, "utf-8", "segment", image, "-o", out, *more, raw=BrokenPipe(errno.ENOSPC))[0] == 2
    assert out.is_file()


@posix
def test_a_real_pipe_that_nobody_reads(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m diffatlas --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "0\n"
    assert done.stderr == ""


@posix
def test_a_working_folder_that_is_gone_is_one_line(tmp_path: Path, image: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    python = f"'{sys.executable}' -m diffatlas"
    for arguments, code in ((f"info '{image}'", 0), ("info scan.nii.gz", 2), ("batch in -o out", 2)):
        command = f"cd '{gone}' && rmdir '{gone}' && {python} {arguments}; code=$?; mkdir '{gone}'; exit $code"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == (1 if code else 0), done.stderr
        assert "Traceback" not in done.stderr


@posix
@pytest.mark.parametrize("delay_s", [0.03, 0.1, 0.2, 0.3, 0.4])
def test_ctrl_c_while_the_program_starts_is_one_line(delay_s: float, tmp_path: Path) -> None:
    """The process says when the entry point, a module of a few lines, is there; importing the commands comes after."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "sys.argv = ['diffatlas', 'phantom', '-o', sys.argv[1], '--count', '500'];"
        "from diffatlas.__main__ import main; print(flush=True); main()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "hearts")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert len(err.splitlines()) == 1, err
    assert "stopped" in err
