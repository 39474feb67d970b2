"""How the commands that serve something run: on which event loop, and until when."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from fleetest.cli.log import tell_user_error
from fleetest.errors import UserError


def run_event_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run ``main`` on uvloop if it is installed. A user's mistake ends it with its exit status."""
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    try:
        return int(run(main))
    except UserError as error:
        return tell_user_error(error)


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
