"""The audit log: who asked for what, from where, and what came of it. Lines are only ever added, never a secret."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from fleetest.errors import UserError
from fleetest.transport.identity import Identity

AUDIT_NAME = "audit.jsonl"
FILE_BYTES_MAX = 64 * 1024 * 1024
FILES_KEPT = 5
LIMITED_LINES_MAX = 50
LIMITED_WINDOW_S = 60.0
"""Of what is limited: so many lines within this time; the rest is counted and told in one line."""
SOURCES_MAX = 1000
STRANGERS = "strangers"
"""What all who have shown no token are limited by, together: addresses are cheap."""
_TEXT_CHARS_MAX = 500
_log = logging.getLogger("fleetest.audit")


class AuditSink(Protocol):
    def write(
        self,
        identity: Identity | None,
        address: str,
        action: str,
        target: str,
        status: int,
        detail: str = "",
        *,
        limit_by: str = "",
    ) -> None:
        """One line. ``status`` as in HTTP. ``limit_by``: whose lines of this kind are counted and limited together."""


@dataclass(slots=True)
class _Source:
    since: float
    lines: int = 0
    left_out: int = 0


class AuditLog:
    """JSON lines in a file that only its owner can read; a full one is put aside with a number.

    ``clock`` is monotonic, for what is limited.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._sources: dict[str, _Source] = {}
        """By what they are limited by, the oldest first."""
        self._descriptor = -1
        self._size_bytes = 0
        self._unwritten = 0
        """Lines that could not be written; the first one that can says so."""
        self.trouble = ""
        """Why nothing can be written at the moment, in one line; empty if it can."""
        try:
            self._open()
        except OSError as error:
            raise UserError(f"cannot write to the audit log {path}: {error.strerror}") from error

    def write(
        self,
        identity: Identity | None,
        address: str,
        action: str,
        target: str,
        status: int,
        detail: str = "",
        *,
        limit_by: str = "",
    ) -> None:
        self._end_windows(self._clock())
        if limit_by and not self._may_write(limit_by):
            return
        self._write(identity, address, action, target, status, detail)

    def close(self) -> None:
        """Says what was left out, then ends."""
        if self._descriptor >= 0:
            self._end_windows(float("inf"))
        self._close_file()

    def _may_write(self, limit_by: str) -> bool:
        while len(self._sources) >= SOURCES_MAX and limit_by not in self._sources:
            self._end_window(next(iter(self._sources)))
        source = self._sources.setdefault(limit_by, _Source(self._clock()))
        if source.lines >= LIMITED_LINES_MAX:
            source.left_out += 1
            return False
        source.lines += 1
        return True

    def _end_windows(self, now: float) -> None:
        while self._sources:
            name, source = next(iter(self._sources.items()))
            if source.since + LIMITED_WINDOW_S > now:
                return
            self._end_window(name)

    def _end_window(self, name: str) -> None:
        left_out = self._sources.pop(name).left_out
        if left_out:
            self._write(None, "", "left out", name, 429, f"{left_out} more lines like those before")

    def _write(
        self, identity: Identity | None, address: str, action: str, target: str, status: int, detail: str
    ) -> None:
        line = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "token": identity.name if identity is not None else None,
            "token_id": identity.token_id if identity is not None else None,
            "role": identity.role.value if identity is not None else None,
            "from": address,
            "action": action,
            "target": _bounded(target),
            "status": status,
            "detail": _bounded(detail),
        }
        encoded = msgspec.json.encode(line) + b"\n"
        try:
            self._append(encoded)
        except OSError as error:
            self._unwritten += 1
            if not self.trouble:
                self.trouble = f"cannot write to the audit log {self._path}: {error.strerror}"
                _log.error("%s", self.trouble)
            return
        if self.trouble:
            unwritten, self._unwritten = self._unwritten, 0
            _log.warning("the audit log %s is written again: %d lines are missing", self._path, unwritten)
            self.trouble = ""
            self._write(None, "", "left out", "", 507, f"{unwritten} lines before the one above could not be written")

    def _append(self, encoded: bytes) -> None:
        """The whole line or nothing of it. Raises OSError."""
        if self._descriptor >= 0 and not self._has_its_name():
            self._close_file()  # Somebody moved or removed it: nobody would find what goes there.
        if self._descriptor >= 0 and self._size_bytes + len(encoded) > FILE_BYTES_MAX:
            self._put_aside()
        if self._descriptor < 0:
            self._open()
        written = os.write(self._descriptor, encoded)
        if written < len(encoded):
            os.ftruncate(self._descriptor, self._size_bytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size_bytes += written

    def _has_its_name(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path, follow_symlinks=False), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size_bytes = os.fstat(self._descriptor).st_size

    def _put_aside(self) -> None:
        """The next line begins a new file; if that cannot be opened, a later one tries again."""
        self._close_file()
        self._size_bytes = 0
        for number in range(FILES_KEPT - 1, 0, -1):
            older = self._path.with_name(f"{AUDIT_NAME}.{number}")
            if older.exists():
                older.replace(self._path.with_name(f"{AUDIT_NAME}.{number + 1}"))
        self._path.replace(self._path.with_name(f"{AUDIT_NAME}.1"))


def _bounded(text: str) -> str:
    return text[:_TEXT_CHARS_MAX].encode("utf-8", "backslashreplace").decode()
