"""Is there room on a directory's disk, and can it be written? Tried, not assumed."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

HEADROOM_BYTES_MIN = 1024**3
HEADROOM_SHARE_MIN = 0.05
PROBE_NAME = "probe"
_PROBE_BYTES = 4096


def space_trouble(directory: Path, needed_bytes: int | None = None) -> str:
    """Why what is free is not enough, in one line; empty if it is.

    ``needed_bytes`` None: the greater of ``HEADROOM_BYTES_MIN`` and ``HEADROOM_SHARE_MIN`` of the disk.
    """
    try:
        usage = shutil.disk_usage(directory)
    except OSError as error:
        return f"the free space of {directory} cannot be told: {error.strerror}"
    needed = max(HEADROOM_BYTES_MIN, HEADROOM_SHARE_MIN * usage.total) if needed_bytes is None else needed_bytes
    if usage.free >= needed:
        return ""
    return f"{directory} has {usage.free // 2**20} MiB free, {needed / 2**20:.0f} MiB are needed: make room"


def write_trouble(directory: Path) -> str:
    """Why a file cannot be written and synced there, in one line; empty if one was."""
    probe = directory / f".{PROBE_NAME}-{secrets.token_hex(8)}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, bytes(_PROBE_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            os.unlink(probe)
    except OSError as error:
        return f"cannot write to the data directory: {error.strerror}"
    return ""
