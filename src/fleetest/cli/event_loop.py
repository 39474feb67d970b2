"""How the commands that serve something run: on which event loop, and until when."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Coroutine
from datetime import datetime, timezone
from typing import Any

import click

from fleetest.client.terminal_text import one_line
from fleetest.errors import UserError

_LINE_CHARACTERS_MAX = 2000
_notices = logging.getLogger("fleetest.notice")
_notices.disabled = True


class _LogLine(logging.Formatter):
    """A line with the time of day (UTC). What peers called themselves and said is shown as text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record), _LINE_CHARACTERS_MAX)


class _JsonLine(logging.Formatter):
    """One JSON object. ``event`` is a stable name: that of the call, else of the part of Fleetest that speaks."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, object] = {
            "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "mono_ms": time.monotonic_ns() // 1_000_000,
            "level": record.levelname.lower(),
            "event": record.name.rpartition(".")[2],
            "message": record.getMessage()[:_LINE_CHARACTERS_MAX],
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # Escaped beyond ASCII: what peers called themselves steers no terminal and is valid whatever it is.
        return json.dumps(line, ensure_ascii=True)


def log_to_stderr(log_format: str = "text") -> None:
    """What this process has to say while it serves. Raises UserError for a format that there is not."""
    formatters = {"text": _LogLine, "json": _JsonLine}
    if log_format not in formatters:
        raise UserError(f"--log-format {log_format}: it must be text or json")
    handler = logging.StreamHandler()
    handler.setFormatter(formatters[log_format]())
    logger = logging.getLogger("fleetest")
    logger.addHandler(handler)
    logger.propagate = False
    _notices.disabled = log_format != "json"


def say(text: str) -> None:
    """A line for whoever sits at this terminal; where the log is JSON, one of the log."""
    if _notices.disabled:
        click.echo(f"fleetest: {text}", err=True)
    else:
        _notices.warning("%s", text)


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
