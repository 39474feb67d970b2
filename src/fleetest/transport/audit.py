"""The audit log: who asked for what, from where, and what came of it. Lines are only ever added, never a secret."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Protocol

import msgspec

from fleetest.errors import UserError
from fleetest.transport.identity import Identity

AUDIT_NAME = "audit.jsonl"
FILE_BYTES_MAX = 64 * 1024 * 1024
FILES_KEPT = 5
_TEXT_CHARS_MAX = 500
_log = logging.getLogger("fleetest.audit")


class AuditSink(Protocol):
    def write(
        self, identity: Identity | None, address: str, action: str, target: str, status: int, detail: str = ""
    ) -> None:
        """One line. ``status`` as in HTTP."""


class AuditLog:
    """JSON lines in a file that only its owner can read; a full one is put aside with a number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._size_bytes = 0
        self._open()

    def write(
        self, identity: Identity | None, address: str, action: str, target: str, status: int, detail: str = ""
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
            if self._size_bytes + len(encoded) > FILE_BYTES_MAX:
                self._put_aside()
            self._size_bytes += os.write(self._descriptor, encoded)
        except OSError as error:
            _log.error("cannot write to the audit log %s: %s", self._path, error.strerror)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise UserError(f"cannot write to the audit log {self._path}: {error.strerror}") from error
        self._size_bytes = os.fstat(self._descriptor).st_size

    def _put_aside(self) -> None:
        self.close()
        for number in range(FILES_KEPT - 1, 0, -1):
            older = self._path.with_name(f"{AUDIT_NAME}.{number}")
            if older.exists():
                older.replace(self._path.with_name(f"{AUDIT_NAME}.{number + 1}"))
        self._path.replace(self._path.with_name(f"{AUDIT_NAME}.1"))
        self._open()


def _bounded(text: str) -> str:
    return text[:_TEXT_CHARS_MAX].encode("utf-8", "backslashreplace").decode()
