"""Is there room on a directory's disk, and can it be written? Tried, not assumed."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

HEADROOM_BYTES_MIN = 1024**3
HEADROOM_SHARE_MIN = 0.05
ENOUGH_AGAIN_BYTES = 64 * 1024**2
"""So much more than what is needed must be free before there is room again: a suite that writes and deletes its files
on this disk would stop and start the fleet every few seconds."""
PROBE_NAME = "probe"
_PROBE_BYTES = 4096


def space_trouble(directory: Path, needed_bytes: int | None = None, more_bytes: int = 0) -> str:
    """Why what is free is not enough, in one line; empty if it is ``more_bytes`` more than what is needed.

    ``needed_bytes`` None: the greater of ``HEADROOM_BYTES_MIN`` and ``HEADROOM_SHARE_MIN`` of the disk.
    """
    try:
        usage = shutil.disk_usage(directory)
    except OSError as error:
        return f"the free space of {directory} cannot be told: {error.strerror}"
    needed = max(HEADROOM_BYTES_MIN, HEADROOM_SHARE_MIN * usage.total) if needed_bytes is None else needed_bytes
    needed += more_bytes
    if usage.free >= needed:
        return ""
    return f"{directory} has {usage.free // 2**20} MiB free, {needed / 2**20:.0f} MiB are needed: make room"


class SpaceWatch:
    """``space_trouble`` of the same directory again and again; it is over when ``ENOUGH_AGAIN_BYTES`` more are free."""

    def __init__(self, directory: Path, needed_bytes: int | None = None) -> None:
        self._directory, self._needed_bytes = directory, needed_bytes
        self._more_bytes = 0

    def trouble(self) -> str:
        trouble = space_trouble(self._directory, self._needed_bytes, self._more_bytes)
        self._more_bytes = ENOUGH_AGAIN_BYTES if trouble else 0
        return trouble


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
