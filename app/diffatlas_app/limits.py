"""What one visitor may use of a machine that many share."""

from __future__ import annotations

MAX_UPLOAD_MB = 300
"""Largest file accepted, as it arrives (compressed)."""

MAX_VOXELS = 512 * 512 * 768
MAX_BYTES = 2 * 1024**3
"""Largest volume read: voxels, and bytes once decompressed."""

QUEUE_SIZE = 20
"""Runs that may wait for their turn; further ones are told that the queue is full."""

RUNS_AT_ONCE = 1
"""Model runs at a time: one run already uses every core."""

READS_AT_ONCE = 2
"""Volumes read and drawn at a time."""

SESSIONS = 100
"""Visitors whose files are kept; the one longest unseen goes first."""

SESSION_AGE_S = 3600.0
"""A visitor not seen for this long is forgotten (closing the tab forgets at once)."""

RUN_TIME_S = 1800.0
"""A run longer than this is stopped."""

FRAMES_PER_S = 10.0
"""Pictures sent in a second; steps in between are computed, not shown."""

STEP_TIME_S = 60.0
"""How long a new image waits for the step of the run it replaces."""
