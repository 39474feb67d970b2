"""Can this coordinator do its work? Tried, not assumed: its directory is written and synced, its history asked."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from fleetest.api.context import Context
from fleetest.storage.disk_room import space_trouble, write_trouble
from fleetest.storage.slow_disk import ANSWER_WITHIN_S, DiskQuestion


class Readiness:
    """``data_directory`` None: nothing is kept on disk. ``needed_bytes``: see ``space_trouble``."""

    def __init__(self, context: Context, data_directory: Path | None, needed_bytes: int | None = None) -> None:
        self._context = context
        self._needed_bytes = needed_bytes
        self._disk = DiskQuestion(partial(self._check_disk, data_directory)) if data_directory is not None else None
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
        if self._disk is not None:
            try:
                found |= await self._disk.ask()
            except asyncio.TimeoutError:
                found["disk"] = f"writing took more than {ANSWER_WITHIN_S:.0f} s"
        return found

    def _check_disk(self, directory: Path) -> dict[str, str]:
        """``write``: a file was really written and synced. ``space``: what is left is enough."""
        return {
            "write": write_trouble(directory) or "ok",
            "space": space_trouble(directory, self._needed_bytes) or "ok",
        }
