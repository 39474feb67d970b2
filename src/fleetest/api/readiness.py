"""Can this coordinator do its work? Tried, not assumed: its directory is written and synced, its history asked."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from pathlib import Path

from fleetest.api.context import Context

HEADROOM_BYTES_MIN = 1024**3
HEADROOM_SHARE_MIN = 0.05
TIMEOUT_S = 5.0
_PROBE_BYTES = 4096


class Readiness:
    """``data_directory`` None: nothing is kept on disk."""

    def __init__(self, context: Context, data_directory: Path | None) -> None:
        self._context = context
        self._data_directory = data_directory
        self._asking: asyncio.Task[dict[str, str]] | None = None

    async def checks(self) -> dict[str, str]:
        """By name: ``ok``, or what is wrong. Questions that come meanwhile share one answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._check())
        return await asyncio.shield(self._asking)

    async def _check(self) -> dict[str, str]:
        context = self._context
        found = {"draining": "this coordinator is about to stop" if context.is_draining else "ok"}
        if context.past.exists:
            found["history"] = context.past.trouble or "ok"
        if self._data_directory is not None:
            try:
                disk = asyncio.to_thread(check_disk, self._data_directory)
                found |= await asyncio.wait_for(disk, TIMEOUT_S)
            except asyncio.TimeoutError:
                found["disk"] = f"writing took more than {TIMEOUT_S:.0f} s"
        return found


def check_disk(directory: Path) -> dict[str, str]:
    """``write``: a file was really written and synced. ``space``: what is left is enough."""
    found = {"write": "ok", "space": "ok"}
    probe = directory / f".probe-{secrets.token_hex(8)}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, bytes(_PROBE_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            os.unlink(probe)
    except OSError as error:
        found["write"] = f"cannot write to the data directory: {error.strerror}"
    try:
        usage = shutil.disk_usage(directory)
        needed = max(HEADROOM_BYTES_MIN, HEADROOM_SHARE_MIN * usage.total)
        if usage.free < needed:
            found["space"] = f"{usage.free // 2**20} MiB free, {needed / 2**20:.0f} MiB are needed: make room"
    except OSError as error:
        found["space"] = f"cannot be told: {error.strerror}"
    return found
