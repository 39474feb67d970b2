"""Opening the history file: created whole or not at all, checked, and every trouble told in one line."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fleetest import __version__
from fleetest.errors import ExitStatus, UserError
from fleetest.storage.history_schema import CREATE_STATEMENTS, SCHEMA_VERSION, VERSION_TABLE

if TYPE_CHECKING:
    import duckdb

# For a file of some other known kind DuckDB would try to download an extension. We do not look into the file first:
# closing any descriptor of it would drop the lock that this process may hold on it through another connection.
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
_LOCK_POLL_S = 0.02


class HistoryUnusable(UserError):
    """The file cannot be used until somebody does something about it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitStatus.HISTORY_UNUSABLE)


class HistoryTooSlow(UserError):
    """A question took longer than it may."""


class HistoryLocked(HistoryUnusable):
    """Another process has the file open; later it will not."""


def open_history(path: Path, *, lock_wait_s: float = 0.0, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """Open the history, creating it if it is missing or of zero bytes.

    Waits at most ``lock_wait_s`` for another process to let go of the file. Raises HistoryLocked or HistoryUnusable.
    """
    deadline = time.monotonic() + lock_wait_s
    while True:
        try:
            return _open_once(path, read_only)
        except HistoryLocked:
            if time.monotonic() + _LOCK_POLL_S > deadline:
                raise
            time.sleep(_LOCK_POLL_S)


def _open_once(path: Path, read_only: bool) -> duckdb.DuckDBPyConnection:
    import duckdb

    try:
        if not read_only:
            _create_if_empty(path)
    except OSError as error:
        raise HistoryUnusable(f"history {path}: {error.strerror or error}") from error
    try:
        connection = duckdb.connect(str(path), read_only=read_only, config=_SETTINGS)
    except duckdb.Error as error:
        raise explain(path, error) from error
    try:
        _check_version(path, connection, read_only)
    except duckdb.Error as error:
        connection.close()
        raise explain(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _create_if_empty(path: Path) -> None:
    """Put a complete, empty history in place of a missing or zero-byte file.

    Built aside and renamed under the very lock that DuckDB takes, so that of several processes one creates it, and
    one that is killed meanwhile leaves the file as empty as it was.
    """
    try:
        if path.stat().st_size:
            return
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HistoryLocked(f"history {path} is being created by another process: try again") from error
        if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise HistoryLocked(f"history {path} was just created by another process: try again")
        if os.fstat(file.fileno()).st_size:
            return
        aside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
        try:
            _create(aside)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
            aside.with_name(aside.name + ".wal").unlink(missing_ok=True)


def _create(path: Path) -> None:
    import duckdb

    try:
        with duckdb.connect(str(path)) as connection:
            _create_schema(connection)
    except duckdb.Error as error:
        raise explain(path, error) from error


def _create_schema(connection: duckdb.DuckDBPyConnection) -> None:
    connection.begin()
    for statement in CREATE_STATEMENTS:
        connection.execute(statement)
    connection.execute(
        f"INSERT INTO {VERSION_TABLE} VALUES (?, make_timestamp(?), ?)",
        [SCHEMA_VERSION, time.time_ns() // 1000, __version__],
    )
    connection.commit()


def _check_version(path: Path, connection: duckdb.DuckDBPyConnection, read_only: bool) -> None:
    tables = {
        name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal").fetchall()
    }
    if VERSION_TABLE not in tables:
        if tables or read_only:
            raise HistoryUnusable(
                f"history {path} is a DuckDB file of something else: name another file for the history"
            )
        _create_schema(connection)
        return
    row = connection.execute(f"SELECT max(version), arg_max(created_by, version) FROM {VERSION_TABLE}").fetchone()
    version, created_by = row or (None, None)
    if version is None or version < 1:
        raise HistoryUnusable(f"history {path} has no schema version: move it away, or name another file")
    if version > SCHEMA_VERSION:
        raise HistoryUnusable(
            f"history {path} has schema version {version} (Fleetest {created_by}), this Fleetest reads up to "
            f"{SCHEMA_VERSION}: upgrade Fleetest, or name another file"
        )


def explain(path: Path, error: Exception) -> HistoryUnusable:
    """What DuckDB's error means for the user, in one line."""
    text = " ".join(str(error).split())
    if "Could not set lock" in text or "Conflicting lock" in text:
        holder = re.search(r"\(PID (\d+)\)", text)
        who = f"process {holder[1]}" if holder else "another process"
        return HistoryLocked(
            f"history {path} is held by {who} (a coordinator or a test run): ask that coordinator, "
            "or try again when it has stopped"
        )
    if "version number" in text:
        return HistoryUnusable(
            f"history {path} was written by a newer DuckDB: upgrade the package duckdb, or name another file"
        )
    if "not a valid DuckDB" in text or "xtension" in text:
        return HistoryUnusable(f"history {path} is not a DuckDB file: move it away, or name another file")
    if "Corrupt" in text or "Could not read enough" in text:
        return HistoryUnusable(f"history {path} is corrupt ({_cut(text)}): move it away, or name another file")
    return HistoryUnusable(f"history {path} cannot be used: {_cut(text)}")


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
