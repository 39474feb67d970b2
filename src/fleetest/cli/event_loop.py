"""How the commands that serve something run: on which event loop, and until when."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine
from typing import Any

from fleetest.client.terminal_text import one_line

_LINE_CHARACTERS_MAX = 2000


class _LogLine(logging.Formatter):
    """A line with the time of day (UTC). What peers called themselves and said is shown as text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record), _LINE_CHARACTERS_MAX)


def log_to_stderr() -> None:
    """What this process has to say while it serves."""
    handler = logging.StreamHandler()
    handler.setFormatter(_LogLine())
    logger = logging.getLogger("fleetest")
    logger.addHandler(handler)
    logger.propagate = False


def run_event_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run ``main`` on uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return int(uvloop.run(main))


async def until_stopped(failed: asyncio.Event | None = None) -> None:
    """Until SIGTERM, Ctrl-C, or ``failed``."""
    failed = failed or asyncio.Event()
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    waits = {loop.create_task(stopped.wait()), loop.create_task(failed.wait())}
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
