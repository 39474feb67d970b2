"""From spools into the database: one transaction each, every line exactly once."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fleetest.storage.history_schema import END_ABANDONED_RUNS, INSERT_STATEMENTS
from fleetest.storage.spool import FORMAT, SpoolReader, pending_spools

if TYPE_CHECKING:
    import duckdb

_STATEMENT_BYTES = 8 * 1024 * 1024
"""Lines that go into one statement; more only if a single line is longer."""
_REMEMBER_US = 30 * 24 * 3600 * 1_000_000
"""How long it is remembered that a spool was ingested. Its file is removed right after the commit."""


class _RunIds(msgspec.Struct):
    run_id: list[str]


class SpoolRejected(Exception):
    """The database refused what is in the spool, and would refuse it for ever."""


def ingest_spool(
    connection: duckdb.DuckDBPyConnection, reader: SpoolReader, *, end_abandoned_runs: bool = False
) -> int:
    """Insert all lines that are not yet in, in one transaction. Returns how many there were.

    ``end_abandoned_runs``: the writer is gone, runs in this spool without an end get one.
    Raises duckdb.Error for trouble with the database (nothing was inserted, the reader is where it was), and
    SpoolRejected.
    """
    import duckdb

    position = reader.position()
    connection.begin()
    try:
        count = _insert_lines(connection, reader, end_abandoned_runs)
        connection.commit()
    except BaseException as error:
        reader.rewind(position)
        _roll_back(connection)
        if isinstance(
            error, (duckdb.DataError, duckdb.InvalidInputException, duckdb.InternalException, msgspec.MsgspecError)
        ):
            raise SpoolRejected(str(error)) from error
        raise
    return count


def _insert_lines(connection: duckdb.DuckDBPyConnection, reader: SpoolReader, end_abandoned_runs: bool) -> int:
    row = connection.execute(
        "SELECT max(through_line) FROM ingested_spools WHERE spool_id = ?", [reader.spool_id]
    ).fetchone()
    reader.skip_to((row and row[0]) or 0)
    first = reader.line
    batches: dict[str, list[bytes]] = {table: [] for table in INSERT_STATEMENTS}
    sizes = dict.fromkeys(batches, 0)
    run_ids: set[str] = set()
    for table, payload in reader.lines():
        if table not in batches:
            continue
        batches[table].append(payload)
        sizes[table] += len(payload)
        if table == "run_starts":
            run_ids.update(msgspec.json.decode(payload, type=_RunIds).run_id)
        if sizes[table] >= _STATEMENT_BYTES:
            _insert(connection, table, batches[table])
            sizes[table] = 0
    for table, payloads in batches.items():
        _insert(connection, table, payloads)
    now_us = time.time_ns() // 1000
    if end_abandoned_runs and run_ids:
        connection.execute(END_ABANDONED_RUNS, [_last_write_us(reader.path), sorted(run_ids)])
    if reader.line > first:
        # One row per spool, and none for ever.
        connection.execute(
            "DELETE FROM ingested_spools WHERE spool_id = ? OR ingested_at < make_timestamp(?)",
            [reader.spool_id, now_us - _REMEMBER_US],
        )
        connection.execute(
            "INSERT INTO ingested_spools VALUES (?, ?, make_timestamp(?))", [reader.spool_id, reader.line, now_us]
        )
    return reader.line - first


def _insert(connection: duckdb.DuckDBPyConnection, table: str, payloads: list[bytes]) -> None:
    if payloads:
        connection.execute(INSERT_STATEMENTS[table], [(b"[" + b",".join(payloads) + b"]").decode()])
        payloads.clear()


def _last_write_us(path: Path) -> int:
    """When the dead writer was last heard of."""
    return path.stat().st_mtime_ns // 1000


def _roll_back(connection: duckdb.DuckDBPyConnection) -> None:
    import duckdb

    # A fatal error has already ended the transaction, and the connection with it.
    with contextlib.suppress(duckdb.Error):
        connection.rollback()


def ingest_orphans(
    connection: duckdb.DuckDBPyConnection, directory: Path, *, budget_s: float | None = None
) -> list[str]:
    """Ingest and remove every spool whose writer is gone. Returns one line per spool that is no good.

    The caller holds the database file, so nobody else does the same. After ``budget_s`` no further spool is begun.
    Raises duckdb.Error for trouble with the database.
    """
    deadline = None if budget_s is None else time.monotonic() + budget_s
    notices: list[str] = []
    for path in pending_spools(directory):
        if deadline is not None and time.monotonic() >= deadline:
            break
        try:
            reader = SpoolReader(path)
        except OSError:
            continue  # another process has just finished with it, or it is not ours to read
        try:
            if reader.try_lock():
                notices += _ingest_orphan(connection, reader)
        except OSError as error:
            notices.append(f"history: {path}: {error.strerror or error}; it is kept")
        finally:
            reader.close()
    return notices


def _ingest_orphan(connection: duckdb.DuckDBPyConnection, reader: SpoolReader) -> list[str]:
    if reader.header is None:
        aside = reader.path.with_name(reader.path.name + ".unreadable")
        reader.path.rename(aside)
        return [f"history: {reader.path} is damaged: kept as {aside.name}"]
    if reader.header.format > FORMAT:
        return []  # of a newer Fleetest, which will bring it in
    try:
        ingest_spool(connection, reader, end_abandoned_runs=not reader.header.resumable)
    except SpoolRejected as error:
        aside = reader.path.with_name(reader.path.name + ".rejected")
        reader.path.rename(aside)
        return [f"history: records in {aside} were refused: {' '.join(str(error).split())[:200]}"]
    reader.path.unlink(missing_ok=True)
    return damage(reader)


def damage(reader: SpoolReader) -> list[str]:
    """What to tell the user of damaged lines in a spool that was ingested: one line, or none."""
    if not reader.damaged_lines:
        return []
    return [f"history: {reader.damaged_lines} damaged batches of records in {reader.path.name} were left out"]
