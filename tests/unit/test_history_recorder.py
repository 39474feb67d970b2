"""What is recorded is in the history, once, whatever state the files were in."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from fleetest.core.model import AttemptResult, Capabilities, LeaseId, Verdict
from fleetest.storage.history import HistoryRecorder
from fleetest.storage.history_database import HistoryUnusable, open_history
from fleetest.storage.history_ingest import ingest_orphans, ingest_spool
from fleetest.storage.records import AttemptRecorded, Record, RunEnded, RunStarted, TasksPlanned, WorkerSeen
from fleetest.storage.spool import SpoolWriter

WAIT_S = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".fleetest" / "history.duckdb"


@contextmanager
def history(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = open_history(path)
    try:
        yield connection
    finally:
        connection.close()


def rows(path: Path, question: str) -> list[tuple[Any, ...]]:
    with history(path) as connection:
        return connection.execute(question).fetchall()


def finished(
    run_id: str, task_id: str, verdict: Verdict = Verdict.PASSED, attempt: int = 1, worker: str = "w1", **result: Any
) -> AttemptRecorded:
    result = {"started_at": 1_700_000_000.0 + attempt, "duration_s": 0.5, **result}
    return AttemptRecorded(
        run_id, task_id, attempt, verdict, True, worker, "gw0", 0, "", AttemptResult(LeaseId(1), verdict, **result)
    )


def whole_run(run_id: str, tasks: int = 3) -> list[Record]:
    ids = [f"test_a.py::test_{i}" for i in range(tasks)]
    return [
        RunStarted(run_id, 1_700_000_000.0, "pytest tests", "ann", "/project"),
        TasksPlanned(run_id, [(task_id, "", "test_a.py", i) for i, task_id in enumerate(ids)]),
        *[finished(run_id, task_id) for task_id in ids],
        RunEnded(run_id, 1_700_000_010.0, {"passed": tasks}),
    ]


def test_every_column_arrives(path: Path) -> None:
    recorder = HistoryRecorder(path)
    recorder.record(
        RunStarted("r1", 1_700_000_000.25, "pytest -k x", "ann", "/project"),
        WorkerSeen(
            "w1",
            "host1",
            4,
            Capabilities({"os": ("linux",), "python": ("3.11", "3.12")}, {"cpus": 16.0}),
            1_700_000_000.0,
        ),
        TasksPlanned("r1", [("a::t", "", "a", 0), ("a::u", "s", "b", 1)]),
        AttemptRecorded(
            "r1",
            "a::t",
            2,
            Verdict.CRASHED,
            False,
            "w1",
            "gw3",
            1,
            "",
            AttemptResult(
                LeaseId(7), Verdict.CRASHED, 1_700_000_001.5, 4.0, 1.0, 2.0, 0.5, 3.5, 12345, None,
                "said this", "killed by SIGSEGV\nstack", ("/tmp/a.png", "/tmp/b.log"),
            ),
        ),
        AttemptRecorded("r1", "a::u", 0, Verdict.NOT_RUN, True, "", "", None, "not collectable", None),
        RunEnded("r1", 1_700_000_009.0, {"not_run": 1}, "cancelled"),
    )  # fmt: skip
    assert recorder.close() == []

    with history(path) as connection:
        ask = connection.execute
        assert ask("SELECT * EXCLUDE (started_at) FROM attempts ORDER BY task_id").fetchall() == [
            (
                "r1", "a::t", 2, "crashed", False, "w1", "gw3", 1, 4.0, 1.0, 2.0, 0.5, 3.5, 12345,
                "said this", "killed by SIGSEGV\nstack", "killed by SIGSEGV", ["/tmp/a.png", "/tmp/b.log"],
            ),
            ("r1", "a::u", 0, "not_run", True, *([None] * 11), "not collectable", None),
        ]  # fmt: skip
        assert ask("SELECT epoch(started_at) FROM attempts WHERE task_id = 'a::t'").fetchall() == [(1_700_000_001.5,)]
        assert ask("SELECT task_id, suite, group_name, position, verdict, attempts FROM tasks").fetchall() == [
            ("a::t", "", "a", 0, None, 1),
            ("a::u", "s", "b", 1, "not_run", 0),
        ]
        run = ask(
            "SELECT epoch(started_at), epoch(ended_at), duration_s, title, owner, directory, outcome, tests, not_run, "
            "passed FROM runs"
        ).fetchall()
        assert run == [
            (1_700_000_000.25, 1_700_000_009.0, 8.75, "pytest -k x", "ann", "/project", "cancelled", 1, 1, 0)
        ]
        worker = ask("SELECT worker, host, slots, attributes['python'], resources['cpus'] FROM workers").fetchall()
        assert worker == [("w1", "host1", 4, ["3.11", "3.12"], 16.0)]


def test_nothing_is_left_over_after_a_clean_run(path: Path) -> None:
    recorder = HistoryRecorder(path)
    recorder.record(*whole_run("r1"))
    assert recorder.close() == []
    assert recorder.close() == []
    assert sorted(file.name for file in path.parent.iterdir()) == [".gitignore", "history.duckdb", "spool"]
    assert list((path.parent / "spool").iterdir()) == []
    assert (path.parent / ".gitignore").read_text() == "*\n"


def test_a_recorder_that_records_nothing_leaves_nothing(path: Path) -> None:
    assert HistoryRecorder(path).close() == []
    assert not path.parent.exists()


@pytest.mark.parametrize("keep_open", [False, True])
def test_ten_thousand_attempts(path: Path, keep_open: bool) -> None:
    recorder = HistoryRecorder(path, keep_open=keep_open)
    recorder.record(*whole_run("r1", tasks=10_000)[:2])
    for start in range(0, 10_000, 30):
        recorder.record(*[finished("r1", f"test_a.py::test_{i}") for i in range(start, min(start + 30, 10_000))])
    recorder.record(RunEnded("r1", 1_700_000_010.0, {"passed": 10_000}))
    assert recorder.close() == []
    assert rows(path, "SELECT count(*), count(DISTINCT task_id) FROM attempts") == [(10_000, 10_000)]
    assert rows(path, "SELECT count(*) FROM tasks WHERE verdict = 'passed' AND attempts = 1") == [(10_000,)]


def test_open_recorder_answers_questions_and_learns(path: Path) -> None:
    recorder = HistoryRecorder(path, keep_open=True)
    try:
        assert recorder.expected_durations("", WAIT_S) == {}
        for n in range(3):
            recorder.record(*whole_run(f"r{n}", tasks=2))
            assert recorder.flush(WAIT_S)
            assert len(recorder.query(lambda queries: queries.runs(10)).rows) == n + 1
        assert recorder.expected_durations("", 0.0) == {"test_a.py::test_0": 0.5, "test_a.py::test_1": 0.5}
        assert recorder.trouble == ""
    finally:
        assert recorder.close() == []
    with pytest.raises(HistoryUnusable):
        recorder.query(lambda queries: queries.runs(1))
    assert not recorder.flush(WAIT_S)


def test_expected_durations_are_those_of_a_typical_machine_whichever_ran_the_test(path: Path) -> None:
    recorder = HistoryRecorder(path, keep_open=True)
    try:
        assert recorder.expected_durations("", WAIT_S) == {}
        for run in range(4):
            records = [RunStarted(f"r{run}", 1.0 + run, "", "", "")]
            for number in range(100):
                is_slow = (number + run) % 2 == 0 if number else True
                worker, duration_s = ("slow", 4.0) if is_slow else ("fast", 1.0)
                records.append(finished(f"r{run}", f"t{number}", worker=worker, duration_s=duration_s))
            recorder.record(*records, RunEnded(f"r{run}", 2.0 + run))
        assert recorder.flush(WAIT_S)
        expected_s = recorder.expected_durations("", 0.0)
        # The first one has run on the slow machine alone.
        assert expected_s == {f"t{number}": pytest.approx(2.0, rel=0.05) for number in range(100)}
        assert recorder.slowness() == {"slow": pytest.approx(2.0, rel=0.05), "fast": pytest.approx(0.5, rel=0.05)}
        assert recorder.query(lambda queries: queries.slowness()) == recorder.slowness()
        assert recorder.query(lambda queries: queries.expected_durations(["t0"])) == {"t0": expected_s["t0"]}
    finally:
        assert recorder.close() == []


def test_expected_durations_are_medians_of_the_last_passed_five(path: Path) -> None:
    for n, duration_s in enumerate([100.0, 1.0, 2.0, 3.0, 4.0, 5.0]):
        recorder = HistoryRecorder(path)
        recorder.record(
            RunStarted(f"r{n}", 1.0 + n, "", "", ""),
            finished(f"r{n}", "t", duration_s=duration_s),
            finished(f"r{n}", "broken", Verdict.FAILED, duration_s=9.0),
            RunEnded(f"r{n}", 2.0 + n),
        )
        assert recorder.close() == []
    recorder = HistoryRecorder(path)
    assert recorder.expected_durations("", WAIT_S) == {"t": 3.0}
    assert recorder.close() == []


def test_a_held_file_is_no_trouble_for_a_run(path: Path) -> None:
    """The holder is another process; this one leaves a spool, and whoever opens the history next brings it in."""
    path.parent.mkdir()
    with history(path):
        pass
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import duckdb; c = duckdb.connect({str(path)!r}); print('open', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        for run_id in ("r1", "r2"):
            recorder = HistoryRecorder(path)
            recorder.record(*whole_run(run_id))
            assert recorder.close() == []
        server = HistoryRecorder(path, keep_open=True)
        server.record(*whole_run("r3"))
        assert server.flush(WAIT_S)
        assert f"held by process {holder.pid}" in server.trouble
        holder.communicate(b"\n")
    assert server.close() == []
    assert rows(path, "SELECT run_id, outcome, passed FROM runs ORDER BY run_id") == [
        ("r1", "finished", 3),
        ("r2", "finished", 3),
        ("r3", "finished", 3),
    ]
    assert list((path.parent / "spool").iterdir()) == []


def write_junk(path: Path) -> None:
    path.write_bytes(b"\x01\x02\x03junk" * 3000)


def write_sqlite(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\x00" + bytes(4080))


def write_corrupt(path: Path) -> None:
    with history(path):
        pass
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xaa" * 8192  # both copies of the header that says where everything is
    path.write_bytes(content)


def write_truncated(path: Path) -> None:
    with history(path):
        pass
    path.write_bytes(path.read_bytes()[:20_000])


def write_foreign(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE accounts (name VARCHAR)")


def write_newer(path: Path) -> None:
    with history(path) as connection:
        connection.execute("INSERT INTO fleetest_schema VALUES (99, NULL, '7.0')")


def make_directory(path: Path) -> None:
    path.mkdir()


UNUSABLE = [
    (write_junk, "is not a DuckDB file"),
    (write_sqlite, "is not a DuckDB file"),
    (write_corrupt, "is corrupt"),
    (write_truncated, "is corrupt"),
    (write_foreign, "is a DuckDB file of something else"),
    (write_newer, "has schema version 99 (Fleetest 7.0)"),
    (make_directory, "cannot be used"),
]


@pytest.mark.parametrize(("spoil", "expected"), UNUSABLE, ids=lambda value: getattr(value, "__name__", ""))
def test_an_unusable_file_costs_a_line_and_no_record(path: Path, spoil: Any, expected: str) -> None:
    path.parent.mkdir()
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(HistoryUnusable, match=r"^history \S+ [^\n]+$") as refusal:
        open_history(path)
    assert expected in str(refusal.value)
    assert refusal.value.exit_status == 13

    for run_id, keep_open in (("r1", False), ("r2", True)):
        recorder = HistoryRecorder(path, keep_open=keep_open)
        recorder.record(*whole_run(run_id))
        notices = recorder.close()
        assert len(notices) == 1
        assert expected in notices[0]
        assert "\n" not in notices[0]
    if before is not None:
        assert path.read_bytes() == before

    path.rename(path.with_name("away"))
    recorder = HistoryRecorder(path)
    recorder.record(*whole_run("r3"))
    assert recorder.close() == []
    assert rows(path, "SELECT run_id, passed FROM runs ORDER BY run_id") == [("r1", 3), ("r2", 3), ("r3", 3)]


@pytest.mark.parametrize("prepare", ["zero bytes", "no tables"])
def test_an_empty_file_is_taken_as_new(path: Path, prepare: str) -> None:
    path.parent.mkdir()
    if prepare == "zero bytes":
        path.touch()
    else:
        duckdb.connect(str(path)).close()
    recorder = HistoryRecorder(path)
    recorder.record(*whole_run("r1"))
    assert recorder.close() == []
    assert rows(path, "SELECT run_id FROM runs") == [("r1",)]
    assert [file.name for file in path.parent.iterdir() if file.name.endswith(".new")] == []


def test_a_spool_that_cannot_be_written_costs_the_history_and_one_line(path: Path) -> None:
    path.parent.mkdir()
    (path.parent / "spool").write_text("in the way")
    recorder = HistoryRecorder(path)
    recorder.record(*whole_run("r1"))
    notices = recorder.close()
    assert len(notices) == 1
    assert "6 records were lost: cannot write to" in notices[0]


def test_trouble_of_a_server_is_logged_when_it_begins_and_over_when_it_is(path: Path, caplog: Any) -> None:
    path.parent.mkdir()
    in_the_way = path.parent / "spool"
    in_the_way.write_text("in the way")
    recorder = HistoryRecorder(path, keep_open=True)
    for run_id in ("r1", "r2"):
        recorder.record(*whole_run(run_id))
        assert recorder.flush(10.0)
    assert recorder.trouble == f"cannot write to {in_the_way}: File exists"
    assert [record.getMessage() for record in caplog.records] == [
        f"history: {recorder.trouble}: records wait in memory until this is mended"
    ]
    in_the_way.unlink()
    recorder.record(*whole_run("r3"))
    assert recorder.flush(10.0)
    assert recorder.trouble == ""
    assert recorder.close() == []
    assert rows(path, "SELECT run_id, passed FROM runs ORDER BY run_id") == [("r1", 3), ("r2", 3), ("r3", 3)]


def test_what_a_server_could_never_write_is_counted_at_its_end(path: Path) -> None:
    path.parent.mkdir()
    (path.parent / "spool").write_text("in the way")
    recorder = HistoryRecorder(path, keep_open=True)
    for run_id in ("r1", "r2"):
        recorder.record(*whole_run(run_id))
        assert recorder.flush(10.0)
    [notice] = recorder.close()
    assert "12 records were lost: cannot write to" in notice


def test_a_line_that_only_just_did_not_fit_is_written_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some lines of a batch were written before the disk was full."""
    append = SpoolWriter.append
    appended = []

    def filling(spool: SpoolWriter, table: str, payload: bytes) -> None:
        appended.append(table)
        if 2 <= len(appended) <= 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(spool, table, payload)

    monkeypatch.setattr(SpoolWriter, "append", filling)
    recorder = HistoryRecorder(path, keep_open=True)
    recorder.record(*whole_run("r1"))
    while recorder.flush(WAIT_S) and recorder.trouble:
        pass
    assert len(appended) > 4
    assert recorder.close() == []
    assert rows(path, "SELECT run_id, passed FROM runs") == [("r1", 3)]


def test_a_server_goes_on_with_its_history_when_what_was_wrong_is_mended(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A full disk: the database fails in the middle of a batch, twice, and is opened afresh."""
    monkeypatch.setattr("fleetest.storage.history._BACKOFF_MIN_S", 0.001)
    monkeypatch.setattr("fleetest.storage.history._BACKOFF_MAX_S", 0.001)
    is_full = threading.Event()
    failed = threading.Semaphore(0)

    def ingest(connection: Any, reader: Any, **options: Any) -> int:
        if is_full.is_set():
            failed.release()
            raise duckdb.IOException("Could not write file: No space left on device")
        return ingest_spool(connection, reader, **options)

    monkeypatch.setattr("fleetest.storage.history.ingest_spool", ingest)
    recorder = HistoryRecorder(path, keep_open=True)
    recorder.record(*whole_run("r1"))
    assert recorder.flush(WAIT_S)
    is_full.set()
    recorder.record(*whole_run("r2"))
    for _ in range(3):
        assert failed.acquire(timeout=WAIT_S), "tried again and again"
    recorder.record(*whole_run("r3"))
    assert "No space left on device" in recorder.trouble
    assert recorder.trouble.endswith("until that is mended")
    is_full.clear()
    while recorder.trouble:
        assert recorder.flush(WAIT_S)
    assert sorted(recorder.query(lambda ask: ask.run_ids("", 9))) == ["r1", "r2", "r3"]
    recorder.record(*whole_run("r4"))
    assert recorder.close() == [], "nothing to tell: it is mended"
    assert rows(path, "SELECT run_id, passed FROM runs ORDER BY run_id") == [(f"r{n}", 3) for n in range(1, 5)]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_records_that_the_database_refuses_do_not_stop_a_server(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetest.storage.history._BACKOFF_MIN_S", 0.001)
    recorder = HistoryRecorder(path, keep_open=True)
    with monkeypatch.context() as patch:
        patch.setattr("fleetest.storage.history.encode_records", lambda records: [("attempts", b'{"task_id": [x]}')])
        recorder.record(*whole_run("r1"))
        assert recorder.flush(WAIT_S)
    recorder.record(*whole_run("r2"))
    while recorder.flush(WAIT_S) and recorder.trouble:
        pass
    [notice] = recorder.close()
    assert "were refused" in notice
    assert rows(path, "SELECT run_id, passed FROM runs") == [("r2", 3)]
    assert [file.suffix for file in (path.parent / "spool").iterdir()] == [".rejected"]


@pytest.mark.parametrize(
    "text", ["nul \0 nul", "lone \ud800 surrogate", "\x1b[31m [red] \u202e", "\\u0000", '"quoted"']
)
def test_hostile_text_is_kept(path: Path, text: str) -> None:
    recorder = HistoryRecorder(path)
    recorder.record(RunStarted("r1", 1.0, text, text, text), finished("r1", text, output=text), RunEnded("r1", 2.0))
    assert recorder.close() == []
    kept = text.replace("\ud800", "\\ud800")
    assert rows(path, "SELECT title FROM runs UNION ALL SELECT task_id FROM attempts") == [(kept,), (kept,)]
    assert rows(path, "SELECT output FROM attempts") == [(kept,)]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0, 1e300, 1e15])
def test_impossible_numbers_of_a_worker_do_not_cost_the_batch(path: Path, number: float) -> None:
    recorder = HistoryRecorder(path)
    recorder.record(
        RunStarted("r1", 1.0, "", "", ""),
        finished("r1", "t", started_at=number, duration_s=number, cpu_s=number, peak_memory_bytes=10**30),
        finished("r1", "u"),
        RunEnded("r1", 2.0),
    )
    assert recorder.close() == []
    assert rows(path, "SELECT task_id, started_at IS NULL, peak_memory_bytes IS NULL FROM attempts") == [
        ("t", True, True),
        ("u", False, False),
    ]


def test_nothing_heavy_is_imported_by_the_recorders_module() -> None:
    code = "import sys, fleetest.storage.history; print('duckdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_reports_become_text(path: Path) -> None:
    reports = [
        {"data": {"outcome": "passed", "when": "setup", "sections": []}, "text": ""},
        {
            "data": {
                "outcome": "failed",
                "when": "call",
                "sections": [{"$tuple": ["Captured stdout call", "hello\n"]}],
                "longrepr": {"reprcrash": {"message": "assert 0"}},
            },
            "text": "def test():\n>   assert 0\nE   assert 0\n\ntest_a.py:2: AssertionError",
        },
    ]
    recorder = HistoryRecorder(path)
    recorder.record(
        RunStarted("r1", 1.0, "", "", ""),
        finished("r1", "t", Verdict.FAILED, reports=json.dumps(reports).encode()),
        RunEnded("r1", 2.0),
    )
    assert recorder.close() == []
    [(output, traceback, reason)] = rows(path, "SELECT output, traceback, reason FROM attempts")
    assert output == "--- Captured stdout call ---\nhello\n"
    assert traceback == reports[1]["text"]
    assert reason == "assert 0"


def test_orphans_are_brought_in_by_a_recorder_that_starts(path: Path) -> None:
    path.parent.mkdir()
    write_junk(path)
    recorder = HistoryRecorder(path)
    recorder.record(*whole_run("r1"))
    assert len(recorder.close()) == 1
    path.unlink()
    assert HistoryRecorder(path).close() == []
    with history(path) as connection:
        assert ingest_orphans(connection, path.parent / "spool") == []
        assert connection.execute("SELECT run_id, passed FROM runs").fetchall() == [("r1", 3)]


def test_a_long_living_spool_is_replaced_by_new_ones(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetest.storage.history._ROTATE_BYTES", 1000)
    recorder = HistoryRecorder(path, keep_open=True)
    for n in range(5):
        recorder.record(*whole_run(f"r{n}", tasks=20))
        assert recorder.flush(WAIT_S)
        assert list(path.parent.glob("spool/*.spool")) == []
    assert recorder.close() == []
    assert rows(path, "SELECT run_id, passed FROM runs ORDER BY run_id") == [(f"r{n}", 20) for n in range(5)]
    assert rows(path, "SELECT count(*) FROM attempts") == [(100,)]
    assert rows(path, "SELECT count(DISTINCT spool_id) FROM ingested_spools") == [(5,)]


def test_a_full_queue_loses_records_and_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetest.storage.history.QUEUED_RECORDS_MAX", 0)
    recorder = HistoryRecorder(path)
    recorder.record(*whole_run("r1"))
    assert recorder.close() == ["history: 6 records were lost: queue full"]


def test_our_own_mistake_is_told_and_fails_no_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(records: list[Record]) -> None:
        raise IndexError

    monkeypatch.setattr("fleetest.storage.history.encode_records", fail)
    recorder = HistoryRecorder(path)
    recorder.record(*whole_run("r1"))
    [notice] = recorder.close()
    assert "internal error" in notice
    assert "IndexError" in notice


def test_a_server_whose_history_has_died_of_our_own_mistake_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def fail(records: list[Record]) -> None:
        raise IndexError

    monkeypatch.setattr("fleetest.storage.history.encode_records", fail)
    recorder = HistoryRecorder(path, keep_open=True)
    recorder.record(*whole_run("r1"))
    recorder._thread.join(WAIT_S)
    assert "IndexError" in recorder.trouble
    assert [record.getMessage() for record in caplog.records] == [f"history: {recorder.trouble}"]
    assert recorder.close() == [f"history: {recorder.trouble}"]


def test_damage_in_the_own_spool_is_told_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = SpoolWriter.append
    monkeypatch.setattr(SpoolWriter, "append", lambda spool, table, payload: append(spool, table, payload + b"\n"))
    recorder = HistoryRecorder(path, keep_open=True)
    recorder.record(RunStarted("r2", 1.0, "", "", ""))
    assert recorder.flush(WAIT_S)
    assert recorder.flush(WAIT_S)
    [notice] = recorder.close()
    assert "damaged batches" in notice


def test_records_that_the_database_refuses_cost_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetest.storage.history.encode_records", lambda records: [("attempts", b'{"task_id": [x]}')])
    recorder = HistoryRecorder(path)
    recorder.record(*whole_run("r1"))
    [notice] = recorder.close()
    assert "\n" not in notice
    assert f"kept in {path.parent / 'spool'}" in notice


def test_histories_in_one_directory_do_not_take_each_others_runs(tmp_path: Path) -> None:
    one, other = tmp_path / "one.duckdb", tmp_path / "other.duckdb"
    write_junk(one)
    recorder = HistoryRecorder(one)
    recorder.record(*whole_run("r1"))
    assert len(recorder.close()) == 1
    recorder = HistoryRecorder(other)
    recorder.record(*whole_run("r2"))
    assert recorder.close() == []
    assert rows(other, "SELECT run_id FROM runs") == [("r2",)]
