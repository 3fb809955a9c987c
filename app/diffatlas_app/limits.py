"""What one visitor may use of a machine that many share."""

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
"""Uploads that lie on the disk before they are used, or before they are too old; used ones make room first."""

INBOX_AGE_S = 600.0
"""How long an upload is kept: long enough to be used, and by several calls."""

MAX_JSON_KB = 4096
"""Body of a request that is not an upload; the largest honest one is three slices to be drawn, some 100 KB."""

CHUNK_WAIT_S = 60.0
"""A request whose body pauses for longer is given up."""

LISTEN_WITHIN_S = 10.0
"""Who asks for a run and does not listen for the answer within this time is taken for gone."""

REMEMBER_S = 3600.0
"""How long the end of a connection is remembered."""

QUEUE_SIZE = 60
"""Runs that may wait for their turn; further ones are told that the queue is full."""

PER_ADDRESS = 40
"""Runs and waiting runs of one address: a class behind one router fits, one address cannot fill the line."""

PER_SESSION = 3
"""Runs and waiting runs of one page or client."""

RUNS_AT_ONCE = 1
"""Model runs at a time: one run already uses every core."""

READS_AT_ONCE = 2
"""Volumes read and drawn at a time."""

CALLS_WAITING = 200
"""Calls of all kinds that gradio itself holds back; what waits for the model waits in `Turns` and is not counted."""

THREADS = QUEUE_SIZE + RUNS_AT_ONCE + 3 * READS_AT_ONCE + 16
"""Handlers at a time: whoever waits for the model holds one."""

SESSIONS = 100
"""Visitors whose files are kept; of those whose page is closed and who run nothing, the longest unseen goes first."""

SESSIONS_PER_ADDRESS = 60
"""Visitors of one address; beyond it, those of this address make room for each other."""

YOUNG_S = 60.0
"""A visitor seen within this time stays, unless its own address needs the place."""

SESSION_AGE_S = 3600.0
"""A visitor not seen for this long is forgotten (closing the tab forgets at once)."""

SWEEP_S = 60.0
"""How often visitors are looked over for their age."""

WARM_UP_S = 180.0
"""How long a page that shows a recorded run waits for the example that it was opened for."""

RUN_TIME_S = 1800.0
"""A run longer than this is stopped."""

FRAMES_PER_S = 10.0
"""Pictures sent in a second; steps in between are computed, not shown."""

STEP_TIME_S = 60.0
"""How long a new image waits for the step of the run it replaces."""

MAX_STEPS = 300
MAX_SAMPLES = 8
MAX_PAIRS = 8
"""What the page and the API let one run ask for; the command line takes more."""

FILM_FRAMES = 40
"""Steps of a run that are kept for its film."""


def in_words() -> str:
    """The limits on files, as the upload field states them."""
    return (
        f"up to {MAX_UPLOAD_MB} MB as uploaded, {MAX_BYTES / 1024**3:.0f} GiB unpacked, {MAX_VOXELS / 1e6:.0f} million "
        f"voxels"
    )
