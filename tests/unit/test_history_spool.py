"""Spools: torn, damaged, foreign and living ones; every line once."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from fleetest.storage.history_database import open_history
from fleetest.storage.history_ingest import SpoolRejected, ingest_orphans, ingest_spool
from fleetest.storage.history_rows import encode_records
from fleetest.storage.history_schema import INSERT_STATEMENTS
from fleetest.storage.records import RunEnded, RunStarted, TasksPlanned
from fleetest.storage.spool import SpoolReader, SpoolWriter, pending_spools


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    opened = open_history(tmp_path / "history.duckdb")
    yield opened
    opened.close()


@pytest.fixture
def spools(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def write_spool(spools: Path, *run_ids: str, resumable: bool = False, ended: bool = False) -> Path:
    writer = SpoolWriter(spools, resumable=resumable)
    for run_id in run_ids:
        append(writer, RunStarted(run_id, 100.0, "", "", ""))
        if ended:
            append(writer, RunEnded(run_id, 200.0))
    writer.close(remove=False)
    return writer.path


def append(writer: SpoolWriter, *records: Any) -> None:
    for table, payload in encode_records(records):
        writer.append(table, payload)


def runs(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [run_id for (run_id,) in connection.execute("SELECT run_id FROM run_starts ORDER BY ALL").fetchall()]


@pytest.mark.parametrize("bytes_lost", range(1, 60, 7))
def test_a_torn_last_line_was_never_written(
    connection: duckdb.DuckDBPyConnection, spools: Path, bytes_lost: int
) -> None:
    path = write_spool(spools, "r1", "r2")
    os.truncate(path, path.stat().st_size - bytes_lost)
    assert ingest_orphans(connection, spools) == []
    assert runs(connection) == ["r1"]
    assert pending_spools(spools) == []


def test_a_damaged_line_is_left_out_and_told(connection: duckdb.DuckDBPyConnection, spools: Path) -> None:
    path = write_spool(spools, "r1", "r2", "r3")
    path.write_bytes(path.read_bytes().replace(b"r2", b"rX"))
    [notice] = ingest_orphans(connection, spools)
    assert "1 damaged" in notice
    assert runs(connection) == ["r1", "r3"]


@pytest.mark.parametrize("content", [b"", b"junk\n", b"\x00" * 5000, b'spool 00000000 {"format":1}\n'])
def test_what_is_no_spool_is_put_aside(connection: duckdb.DuckDBPyConnection, spools: Path, content: bytes) -> None:
    spools.mkdir()
    (spools / "1-2-3.spool").write_bytes(content)
    write_spool(spools, "r1")
    [notice] = ingest_orphans(connection, spools)
    assert "1-2-3.spool" in notice
    assert runs(connection) == ["r1"]
    assert [file.name for file in spools.iterdir()] == ["1-2-3.spool.unreadable"]
    assert ingest_orphans(connection, spools) == []


def test_a_spool_of_a_newer_version_is_left_for_it(connection: duckdb.DuckDBPyConnection, spools: Path) -> None:
    spools.mkdir()
    header = b'{"format": 2, "pid": 1, "host": "h", "resumable": false, "new": 1}'
    path = spools / "1-2-3.spool"
    path.write_bytes(b"spool %08x %s\n" % (zlib.crc32(header), header))
    assert ingest_orphans(connection, spools) == []
    assert pending_spools(spools) == [path]


def test_a_spool_of_a_living_writer_is_left_alone(connection: duckdb.DuckDBPyConnection, spools: Path) -> None:
    writer = SpoolWriter(spools, resumable=False)
    append(writer, RunStarted("r1", 100.0, "", "", ""))
    assert ingest_orphans(connection, spools) == []
    assert runs(connection) == []
    writer.close(remove=False)
    assert ingest_orphans(connection, spools) == []
    assert runs(connection) == ["r1"]


def test_a_growing_spool_is_read_on_from_where_it_was(connection: duckdb.DuckDBPyConnection, spools: Path) -> None:
    writer = SpoolWriter(spools, resumable=False)
    reader = SpoolReader(writer.path)
    assert ingest_spool(connection, reader) == 0
    for number in range(3):
        append(writer, RunStarted(f"r{number}", 100.0, "", "", ""))
        assert ingest_spool(connection, reader) == 1
        assert ingest_spool(connection, reader) == 0
    reader.close()
    append(writer, RunStarted("r3", 100.0, "", "", ""))
    writer.close(remove=False)
    # Its writer died after three transactions: only what is new comes in.
    assert ingest_orphans(connection, spools) == []
    assert runs(connection) == ["r0", "r1", "r2", "r3"]


def test_a_spool_that_was_committed_but_not_removed_comes_in_once(
    connection: duckdb.DuckDBPyConnection, spools: Path
) -> None:
    path = write_spool(spools, "r1", "r2")
    content = path.read_bytes()
    assert ingest_orphans(connection, spools) == []
    path.write_bytes(content)
    assert ingest_orphans(connection, spools) == []
    assert runs(connection) == ["r1", "r2"]
    assert pending_spools(spools) == []


def test_a_failed_transaction_leaves_nothing_and_loses_nothing(
    connection: duckdb.DuckDBPyConnection, spools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(spools, resumable=False)
    append(writer, RunStarted("r1", 100.0, "", "", ""), TasksPlanned("r1", [("t", "", "", 0)]))
    reader = SpoolReader(writer.path)
    insert = INSERT_STATEMENTS["planned_tasks"]
    monkeypatch.setitem(INSERT_STATEMENTS, "planned_tasks", insert.replace("planned_tasks", "gone", 1))
    with pytest.raises(duckdb.CatalogException):
        ingest_spool(connection, reader)
    assert runs(connection) == []
    monkeypatch.setitem(INSERT_STATEMENTS, "planned_tasks", insert)
    assert ingest_spool(connection, reader) == 2
    assert runs(connection) == ["r1"]
    assert connection.execute("SELECT task_id FROM planned_tasks").fetchall() == [("t",)]
    reader.close()
    writer.close(remove=True)


def test_records_that_the_database_refuses_are_put_aside(connection: duckdb.DuckDBPyConnection, spools: Path) -> None:
    writer = SpoolWriter(spools, resumable=False)
    writer.append("attempts", b'{"task_id": [unquoted]}')
    reader = SpoolReader(writer.path)
    with pytest.raises(SpoolRejected):
        ingest_spool(connection, reader)
    reader.close()
    writer.close(remove=False)
    write_spool(spools, "r1")
    [notice] = ingest_orphans(connection, spools)
    assert "refused" in notice
    assert runs(connection) == ["r1"]
    assert [file.suffix for file in spools.iterdir()] == [".rejected"]


@pytest.mark.parametrize(
    ("resumable", "ended", "outcome"),
    [
        (False, False, "abandoned"),
        (False, True, "finished"),
        (True, False, "unfinished"),
        (True, True, "finished"),
    ],
)
def test_how_the_runs_of_a_dead_writer_ended(
    connection: duckdb.DuckDBPyConnection, spools: Path, resumable: bool, ended: bool, outcome: str
) -> None:
    write_spool(spools, "r1", resumable=resumable, ended=ended)
    assert ingest_orphans(connection, spools) == []
    assert connection.execute("SELECT outcome FROM runs").fetchall() == [(outcome,)]


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_spool_whole(
    connection: duckdb.DuckDBPyConnection, spools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(spools, resumable=False)
    append(writer, RunStarted("r1", 100.0, "", "", ""))
    write = os.write

    def write_half(descriptor: int, data: memoryview) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_half)
        with pytest.raises(OSError, match="No space left"):
            append(writer, RunStarted("lost", 100.0, "", "", ""))
    append(writer, RunStarted("r2", 100.0, "", "", ""))
    writer.close(remove=False)
    assert ingest_orphans(connection, spools) == []
    assert runs(connection) == ["r1", "r2"]


def test_a_spool_without_budget_waits_for_the_next(connection: duckdb.DuckDBPyConnection, spools: Path) -> None:
    write_spool(spools, "r1")
    assert ingest_orphans(connection, spools, budget_s=0.0) == []
    assert runs(connection) == []
    assert len(pending_spools(spools)) == 1


def test_many_tasks_are_split_over_lines() -> None:
    tasks = [(f"t{i}", "", "g", i) for i in range(12_345)]
    lines = list(encode_records([TasksPlanned("r1", tasks)]))
    assert len(lines) == 3
    batches = [msgspec.json.decode(payload) for _, payload in lines]
    assert [position for batch in batches for position in batch["position"]] == list(range(12_345))
