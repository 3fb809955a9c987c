"""The authors' released checkpoints: fetched from their hub repository, continued where broken off, checked, kept.

`huggingface_hub` does the transfer (redirects, ranges, proxy and token settings); here are the files' names, the hash
check, and what to do without a network. ``HF_ENDPOINT`` names another server.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffatlas.errors import BadInput
from diffatlas.models.store import cache_folder, file_sha256
from diffatlas.published.convert import Origin

REPOSITORY = "YuheLiuu/DiffAtlas_Pretrained_model"


@dataclass(frozen=True)
class Release:
    """One released checkpoint: the spellings its file may have, and the intensity window it was trained with."""

    files: tuple[str, ...]
    window: str


def _release(name: str, window: str) -> Release:
    # The authors' instructions write one name with a blank before its ending, so both spellings are tried.
    return Release((f"{name}.pt", f"{name} .pt"), window)


RELEASES: dict[str, Release] = {
    "MMWHSCT_full": _release("MMWHSCT_full", "mmwhs-ct"),
    "MMWHSCT_all": _release("MMWHSCT_all", "mmwhs-ct"),
    "MMWHSMRI_full": _release("MMWHSMRI_full", "mmwhs-mr"),
    "MMWHSMRI_all": _release("MMWHSMRI_all", "mmwhs-mr"),
    "TotalSegmentator_for_TotalSegmentatorTest": _release(
        "TotalSegmentator_for_TotalSegmentatorTest", "totalsegmentator-ct"
    ),
    "TotalSegmentator_for_MMWHSMRITest": _release("TotalSegmentator_for_MMWHSMRITest", "totalsegmentator-ct"),
}


def release(name: str) -> tuple[str, Release]:
    """A release by name, in any case and with or without ``.pt``; `BadInput` lists them."""
    wanted = re.sub(r"\s*\.pt$", "", name.strip()).lower()
    for known, value in RELEASES.items():
        if known.lower() == wanted:
            return known, value
    raise BadInput(f"no released checkpoint is named '{name}'; there are: {', '.join(RELEASES)}")


def download(name: str) -> tuple[Path, Origin]:
    """The checkpoint of a release on this machine, fetched if it is not here yet; `BadInput` in one line otherwise."""
    name, wanted = release(name)
    folder = cache_folder()
    for file in wanted.files:
        if (folder / file).is_file():
            return folder / file, _recorded(folder / file)
    if find_spec("huggingface_hub") is None:
        raise BadInput("downloading needs huggingface_hub: pip install 'napari-diffatlas[hub]'")
    return _fetch(wanted, folder)


def _fetch(wanted: Release, folder: Path) -> tuple[Path, Origin]:
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError

    # hf_hub_download starts anew in every process; this is the part of it that asks for a range.
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
            raise ConnectionError("HF_HUB_OFFLINE is set")
        folder.mkdir(parents=True, exist_ok=True)
        for file in wanted.files:
            url = hub.hf_hub_url(REPOSITORY, file, endpoint=endpoint)
            try:
                about = hub.get_hf_file_metadata(url, endpoint=endpoint)
            except EntryNotFoundError:
                continue
            break
        else:
            raise FileNotFoundError("there is no such file")
        # The hash is part of the name: what is continued tomorrow is the file that was begun today.
        etag = (about.etag or "").strip('"')
        path, part = folder / file, folder / f"{file}.{re.sub(r'[^0-9A-Za-z]', '', etag)[:16]}.part"
        with part.open("ab") as handle:
            http_get(
                about.location,
                handle,
                resume_size=handle.tell(),
                headers=build_hf_headers(token=False, library_name="diffatlas"),
                expected_size=about.size,
                displayed_filename=file,
            )
    except Exception as error:  # the transfer's own errors have no common base, and all mean: not from there, not now
        raise BadInput(
            f"{REPOSITORY}: cannot be fetched from {endpoint} ({_reason(error)}); put {wanted.files[0]} in {folder} "
            f"and run this again"
        ) from error
    sha256 = file_sha256(part)
    if re.fullmatch(r"[0-9a-f]{64}", etag) and etag != sha256:
        part.unlink()
        raise BadInput(
            f"{file}: arrived damaged (sha256 {sha256[:12]}..., the hub says {etag[:12]}...); run this again"
        )
    part.replace(path)
    origin = Origin(REPOSITORY, about.commit_hash or "unknown")
    record = {"file": file, "repository": origin.repository, "revision": origin.revision, "sha256": sha256}
    _record_of(path).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path, origin


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _recorded(path: Path) -> Origin:
    """Where a file that is here came from, its hash checked against the record of its download."""
    try:
        record: Any = json.loads(_record_of(path).read_text(encoding="utf-8"))
        origin, sha256 = Origin(str(record["repository"]), str(record["revision"])), str(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return Origin("a file put in place by hand", "unknown")
    if file_sha256(path) != sha256:
        raise BadInput(f"{path}: is not the file that was downloaded (sha256 differs); delete it and run this again")
    return origin


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:120]
