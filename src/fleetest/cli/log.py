"""What the commands that serve something write to standard error while they serve, as text or for programs."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from fleetest.client.terminal_text import one_line
from fleetest.errors import UserError

if TYPE_CHECKING:
    from types import TracebackType

_LINE_CHARACTERS_MAX = 2000
_notices = logging.getLogger("fleetest.notice")
_unhandled = logging.getLogger("fleetest.unhandled")
_is_json = False
_common: dict[str, Callable[[], object]] = {}
"""Fields of every line for programs."""


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
        line |= {name: value() for name, value in _common.items()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # Escaped beyond ASCII: what peers called themselves steers no terminal and is valid whatever it is.
        return json.dumps(line, ensure_ascii=True)


def log_to_stderr(log_format: str = "text") -> None:
    """What this process has to say while it serves, be it ours or Python's. Raises UserError for an unknown format."""
    global _is_json
    formatters = {"text": _LogLine, "json": _JsonLine}
    if log_format not in formatters:
        raise UserError(f"--log-format {log_format}: it must be text or json")
    handler = logging.StreamHandler()
    handler.setFormatter(formatters[log_format]())
    logging.getLogger().addHandler(handler)
    _is_json = log_format == "json"
    if _is_json:
        logging.captureWarnings(True)
        sys.excepthook = _tell_end
        threading.excepthook = _tell_end_of_thread
        sys.unraisablehook = lambda told: _tell_unhandled(told.exc_type, told.exc_value, told.exc_traceback)


def in_every_line(**fields: Callable[[], object]) -> None:
    """Of the log for programs, from now on."""
    _common.update(fields)


def say(text: str) -> None:
    """A line for whoever sits at this terminal; where the log is JSON, one of the log."""
    if _is_json:
        _notices.warning("%s", text)
    else:
        click.echo(f"fleetest: {text}", err=True)


def tell_user_error(error: UserError) -> int:
    """The exit status, where the log is JSON: then its line is one of the log. Else it is raised."""
    if not _is_json:
        raise error
    status = int(error.exit_status)
    _notices.error("%s", error, extra={"fields": {"event": "command_failed", "exit_status": status}})
    return status


def _tell_end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        _tell_unhandled(kind, error, traceback)


def _tell_end_of_thread(told: threading.ExceptHookArgs) -> None:
    # Python too says nothing of a thread that ends itself.
    if told.exc_type is not SystemExit:
        _tell_unhandled(told.exc_type, told.exc_value, told.exc_traceback)


def _tell_unhandled(kind: type[BaseException], error: BaseException | None, traceback: Any) -> None:
    _unhandled.error("%s", kind.__name__, exc_info=(kind, error or kind(), traceback))
