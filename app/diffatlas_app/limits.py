"""Limits for one visitor of a server that many share."""

from __future__ import annotations

MAX_UPLOAD_MB = 300
"""Largest file accepted, as it arrives (compressed)."""

MAX_VOXELS = 512 * 512 * 768
MAX_BYTES = 2 * 1024**3
"""Largest volume read: voxels, and bytes once decompressed."""

MAX_ZIP_ENTRIES = 4000
"""Files in a zipped DICOM series; the longest real ones have some two thousand slices."""

FILES_PER_POST = 4
"""Files in one upload request; the page sends one at a time."""

UPLOADS_AT_ONCE = 32
"""Files that may be arriving at one moment."""

INBOX_MB_PER_ADDRESS = 2048
INBOX_MB = 6144
INBOX_FILES_PER_ADDRESS = 200
INBOX_FILES = 800
"""Uploads that are kept on disk. Where there is no room, those that were used are deleted first."""

INBOX_AGE_S = 600.0
"""How long an upload is kept: long enough to be used, and by several calls."""

MAX_JSON_KB = 4096
"""Body of a request that is not an upload; the largest of the page are three slices to draw, some 100 KB."""

CHUNK_WAIT_S = 60.0
"""A request is ended where its body pauses for longer."""

LISTEN_WITHIN_S = 10.0
"""A caller who starts a run and does not listen for its answer within this time counts as gone."""

REMEMBER_S = 3600.0
"""How long the end of a connection is remembered."""

QUEUE_SIZE = 60
"""Runs that may wait in the queue; further ones are refused."""

PER_ADDRESS = 40
"""Runs and waiting runs of one address: enough for a class behind one router, too few to fill the queue."""

PER_SESSION = 3
"""Runs and waiting runs of one page or client."""

RUNS_AT_ONCE = 1
"""Model runs at a time: one run already uses every core."""

READS_AT_ONCE = 2
"""Volumes read and drawn at a time."""

CALLS_WAITING = 200
"""Calls that wait in gradio's own queue; runs wait in `Turns` and are not counted."""

THREADS = QUEUE_SIZE + RUNS_AT_ONCE + 3 * READS_AT_ONCE + 16
"""Handlers at a time; each waiting run holds one."""

SESSIONS = 100
"""Visitors whose files are kept. Beyond it, the one not seen for longest goes, if its page is closed and idle."""

SESSIONS_PER_ADDRESS = 60
"""Visitors of one address; beyond it, an earlier visitor of the same address is forgotten."""

YOUNG_S = 60.0
"""A visitor seen within this time is forgotten only for another visitor of the same address."""

SESSION_AGE_S = 3600.0
"""A visitor not seen for this long is forgotten (closing the tab forgets at once)."""

SWEEP_S = 60.0
"""How often old visitors are removed."""

WARM_UP_S = 180.0
"""How long a page that shows a recorded run waits for its example."""

RUN_TIME_S = 1800.0
"""A run longer than this is stopped."""

FRAMES_PER_S = 10.0
"""Pictures sent per second; further steps are computed and not shown."""

STEP_TIME_S = 60.0
"""How long a new image waits for the step of the run it replaces."""

MAX_STEPS = 300
MAX_SAMPLES = 8
MAX_PAIRS = 8
"""The most that one run of the page or the API may ask for; the command line takes more."""

FILM_FRAMES = 40
"""Steps of a run that are kept for its film."""


def in_words() -> str:
    """The limits on files, as the upload field states them."""
    return (
        f"up to {MAX_UPLOAD_MB} MB as uploaded, {MAX_BYTES / 1024**3:.0f} GiB unpacked, {MAX_VOXELS / 1e6:.0f} million "
        f"voxels"
    )
