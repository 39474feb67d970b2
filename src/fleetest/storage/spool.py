"""Spool files: records on their way into the history, safe from the death of their writer.

One file per writer, held with ``flock`` while the writer lives, so anybody can tell an orphan. One line per batch:
``table checksum json``. A torn last line (the writer was killed in the middle) is as if it had never been written.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

SUFFIX = ".spool"
FORMAT = 1
_HEADER = "spool"


class SpoolHeader(msgspec.Struct, frozen=True):
    """First line. ``resumable``: its runs may go on in another process, so an orphan does not mean that they ended."""

    format: int
    pid: int
    host: str
    resumable: bool


class SpoolWriter:
    """Appends lines; every method belongs to one thread. Raises OSError for trouble with the disk."""

    def __init__(self, directory: Path, *, resumable: bool) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{time.time_ns()}-{os.getpid()}-{secrets.token_hex(8)}{SUFFIX}"
        # Locked before it gets its name, so that nobody can take it for an orphan in between.
        nameless = self.path.with_suffix(".new")
        self._descriptor = os.open(nameless, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self.size_bytes = 0
        self.is_empty = True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            header = SpoolHeader(FORMAT, os.getpid(), socket.gethostname(), resumable)
            self._append_line(_HEADER, msgspec.json.encode(header))
            nameless.rename(self.path)
        except BaseException:
            os.close(self._descriptor)
            nameless.unlink(missing_ok=True)
            raise

    @property
    def spool_id(self) -> str:
        return self.path.stem

    def append(self, table: str, payload: bytes) -> None:
        """Add one line. If it does not fit on the disk the file is as before, and OSError is raised."""
        self._append_line(table, payload)
        self.is_empty = False

    def _append_line(self, table: str, payload: bytes) -> None:
        line = b"%s %08x %s\n" % (table.encode(), zlib.crc32(payload), payload)
        remaining = memoryview(line)
        try:
            while remaining:
                remaining = remaining[os.write(self._descriptor, remaining) :]
        except OSError:
            os.ftruncate(self._descriptor, self.size_bytes)
            raise
        self.size_bytes += len(line)

    def close(self, *, remove: bool) -> None:
        """Let go of the file; without ``remove`` it is an orphan from now on, for the next one to ingest."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


class SpoolReader:
    """Reads the whole lines of one spool, from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 0
        """Lines read so far, the header not counted."""
        self.damaged_lines = 0
        self._file: BinaryIO = path.open("rb")
        self.header = self._read_header()

    @property
    def spool_id(self) -> str:
        return self.path.stem

    def _read_header(self) -> SpoolHeader | None:
        """None if this is not the beginning of a spool."""
        entry = _parse(self._file.readline())
        if entry is None or entry[0] != _HEADER:
            return None
        try:
            return msgspec.json.decode(entry[1], type=SpoolHeader)
        except msgspec.MsgspecError:
            return None

    def lines(self) -> Iterator[tuple[str, bytes]]:
        """Yield (table, JSON) up to the end or a torn last line. A damaged line is left out and counted."""
        while True:
            start = self._file.tell()
            raw = self._file.readline()
            if not raw.endswith(b"\n"):
                self._file.seek(start)
                return
            self.line += 1
            entry = _parse(raw)
            if entry is None:
                self.damaged_lines += 1
            else:
                yield entry

    def skip_to(self, line: int) -> None:
        while self.line < line and self._file.readline().endswith(b"\n"):
            self.line += 1

    def position(self) -> tuple[int, int, int]:
        """For ``rewind``, if what was read could not be stored."""
        return self.line, self.damaged_lines, self._file.tell()

    def rewind(self, position: tuple[int, int, int]) -> None:
        self.line, self.damaged_lines, offset = position
        self._file.seek(offset)

    def try_lock(self) -> bool:
        """True if the writer is gone and nobody else has taken the file."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._file.close()


def _parse(raw: bytes) -> tuple[str, bytes] | None:
    parts = raw.rstrip(b"\n").split(b" ", 2)
    if len(parts) != 3:
        return None
    table, checksum, payload = parts
    try:
        if int(checksum, 16) != zlib.crc32(payload):
            return None
        return table.decode("ascii"), payload
    except ValueError:
        return None


def spool_directory(history_file: Path) -> Path:
    """Where recorders of this file put their spools: never shared with another file in the same directory."""
    history_file = history_file.absolute()
    if history_file.name == "history.duckdb":
        return history_file.with_name("spool")
    return history_file.with_name(f"{history_file.name}.spool")


def pending_spools(directory: Path) -> list[Path]:
    """Oldest first; those of living writers are among them."""
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)
    except OSError:
        return []
