"""Notice the end of a child process of ours on the event loop, and reap it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from resource import struct_rusage
from typing import TypeAlias

ExitCallback: TypeAlias = Callable[[int, struct_rusage], None]


def on_child_exit(pid: int, callback: ExitCallback) -> None:
    """Call ``callback(status, resource usage)`` on the running loop once the child ended; it is reaped by then.

    ``status`` is as ``os.waitpid`` gives it. Nobody else may wait for this child.
    """
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        # No pidfd on this platform: a thread waits.
        _wait_in_thread(loop, pid, callback)
        return

    def reap() -> None:
        _, status, usage = os.wait4(pid, 0)
        loop.remove_reader(descriptor)
        os.close(descriptor)
        callback(status, usage)

    loop.add_reader(descriptor, reap)


def _wait_in_thread(loop: asyncio.AbstractEventLoop, pid: int, callback: ExitCallback) -> None:
    def wait() -> None:
        _, status, usage = os.wait4(pid, 0)
        if not loop.is_closed():
            loop.call_soon_threadsafe(callback, status, usage)

    threading.Thread(target=wait, name=f"wait-{pid}", daemon=True).start()
