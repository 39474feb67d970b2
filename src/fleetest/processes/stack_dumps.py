"""Stacks of all threads of a runner, written by its faulthandler into a file of the scratch directory."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

DUMP_SIGNAL = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
_STACKS_BYTES_MAX = 256 * 1024
_POLL_S = 0.01


def stacks_file(scratch: Path, runner_id: str, pid: int) -> Path:
    return scratch / f"{runner_id}-{pid}.stacks"


def read_stacks(file: Path) -> str:
    """What faulthandler wrote so far, bounded; "" if nothing."""
    try:
        with file.open("rb") as stream:
            return stream.read(_STACKS_BYTES_MAX).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


async def dump_stacks(pid: int, file: Path, wait_s: float = 1.0) -> str:
    """Ask the process for its stacks and wait until they are written; "" if it does not answer in time.

    The signal kills a process that has no handler for it, so it is sent only where faulthandler made its file.
    """
    if not file.exists():
        return ""
    before = _size(file)
    try:
        os.kill(pid, DUMP_SIGNAL)
    except ProcessLookupError:
        return ""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    last = before
    while loop.time() < until:
        await asyncio.sleep(_POLL_S)
        size = _size(file)
        # It is complete when it stopped growing: faulthandler writes thread by thread.
        if size > before and size == last:
            break
        last = size
    return read_stacks(file)
