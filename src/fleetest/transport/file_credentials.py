"""The tokens of the data directory, as a running coordinator uses them: changes take effect within a second or two."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from fleetest.errors import UserError
from fleetest.transport.identity import Identity, hash_secret
from fleetest.transport.token_store import USED_NAME, TokenEntry, TokenStore

USED_WRITTEN_EVERY_S = 60.0
_log = logging.getLogger("fleetest.transport")


class FileCredentials:
    """Reads the store again when its file has changed. Belongs to one event loop."""

    def __init__(self, data_directory: Path, wall: Callable[[], float] = time.time) -> None:
        """Raises UserError, see ``TokenStore``."""
        self._store = TokenStore(data_directory, wall)
        self._wall = wall
        self._used_path = data_directory / USED_NAME
        self._used: dict[str, float] = read_used(data_directory)
        self._used_changed = False
        self._used_written_at = wall()
        self._stamp = _stamp(self._store.path)
        self._entries: list[TokenEntry] = self._store.entries()
        self._by_id = {entry.token_id: entry for entry in self._entries}

    def identify(self, secret: str) -> Identity | None:
        given = hash_secret(secret)
        found: TokenEntry | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.hash, given):
                found = entry
        now = self._wall()
        if found is None or not found.is_good(now):
            return None
        self._used[found.token_id] = now
        self._used_changed = True
        return Identity(found.token_id, found.name, found.role)

    def is_valid(self, identity: Identity) -> bool:
        entry = self._by_id.get(identity.token_id)
        return entry is not None and entry.is_good(self._wall())

    def refresh(self) -> None:
        stamp = _stamp(self._store.path)
        if stamp != self._stamp:
            try:
                self._entries = self._store.entries()
            except UserError as error:
                # Nobody is let in by a file that cannot be trusted.
                _log.error("%s: no token is good until it is mended", error)
                self._entries = []
            self._by_id = {entry.token_id: entry for entry in self._entries}
            self._stamp = stamp
        if self._used_changed and self._wall() - self._used_written_at >= USED_WRITTEN_EVERY_S:
            self.write_used()

    def write_used(self) -> None:
        """Keep when each token was used last."""
        self._used_changed, self._used_written_at = False, self._wall()
        draft = self._used_path.with_name(f".{USED_NAME}-{secrets.token_hex(8)}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode({key: at for key, at in self._used.items() if key in self._by_id}))
            draft.replace(self._used_path)
        except OSError as error:
            _log.warning("cannot write %s: %s", self._used_path, error.strerror)
            with suppress(OSError):
                draft.unlink(missing_ok=True)


def read_used(data_directory: Path) -> dict[str, float]:
    """Seconds since the epoch by token id; empty if nothing is known."""
    try:
        return msgspec.json.decode((data_directory / USED_NAME).read_bytes(), type=dict[str, float])
    except (OSError, msgspec.MsgspecError):
        return {}


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        facts = path.stat()
    except OSError:
        return (0, 0, 0)
    # Not the time of its content alone: what was wrong with it may have been its mode or owner.
    return (facts.st_ino, facts.st_ctime_ns, facts.st_size)
