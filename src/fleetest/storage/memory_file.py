"""What a coordinator knows beyond its own life, in one file of its data directory: replaced whole, or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from fleetest.core.memory import ClusterMemory
from fleetest.errors import UserError

MEMORY_NAME = "fleet.json"
FORMAT = 1


class _Format(msgspec.Struct):
    format: int


class _Content(msgspec.Struct):
    """Instants are times of day, seconds since 1970."""

    format: int
    memory: ClusterMemory


class MemoryFile:
    """Its methods do file work: call them on a thread. Instants are times of day here."""

    def __init__(self, data_directory: Path) -> None:
        self.path = data_directory / MEMORY_NAME

    def load(self) -> ClusterMemory:
        """An empty one if there is none yet. Raises UserError for a file that cannot be read or is damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return ClusterMemory()
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error
        try:
            newest = msgspec.json.decode(content, type=_Format).format
            if newest > FORMAT:
                message = (
                    f"{self.path} was written by a newer Fleetest (format {newest}): upgrade, or use another --data"
                )
                raise UserError(message)
            return msgspec.json.decode(content, type=_Content).memory
        except (msgspec.MsgspecError, UnicodeError) as error:
            # To go on without it would give work to machines that an operator has quarantined.
            message = (
                f"{self.path} is damaged ({error}): mend it, or remove it and quarantine anew what must get no work"
            )
            raise UserError(message) from error

    def save(self, memory: ClusterMemory) -> None:
        """It is on the disk when this returns. Raises OSError, and then the file is as it was, or this is in it."""
        content = msgspec.json.encode(_Content(FORMAT, memory))
        draft = self.path.with_name(f".{self.path.name}-{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
