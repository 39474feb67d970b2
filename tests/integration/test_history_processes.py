"""The history under real processes: several at once, killed at any point, out of disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from fleetest.storage.history import HistoryRecorder
from fleetest.storage.history_database import open_history

WAIT_S = 60.0

RECORD = """
import json, os, signal, sys
from fleetest.core.model import AttemptResult, LeaseId, Verdict
from fleetest.storage import history, history_ingest
from fleetest.storage.records import AttemptRecorded, RunEnded, RunStarted, TasksPlanned

path, run_id, tasks, keep_open = history.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "open"

def say(word):
    print(word, flush=True)

def obey(word):
    say(word)
    sys.stdin.readline()

def attempt(number):
    result = AttemptResult(LeaseId(number), Verdict.PASSED, 1.7e9, 0.25)
    return AttemptRecorded(run_id, f"t{number}", 1, Verdict.PASSED, True, "w", "gw0", 0, "", result)
"""

RECORD_AND_CLOSE = """
recorder = history.HistoryRecorder(path, keep_open=keep_open)
recorder.record(RunStarted(run_id, 1.7e9, "", "", ""), TasksPlanned(run_id, [(f"t{n}", "", "", n) for n in range(tasks)]))
recorder.record(*map(attempt, range(tasks)))
assert recorder.flush(60)
obey("recorded")
recorder.record(RunEnded(run_id, 1.7e9 + 1, {"passed": tasks}))
say(json.dumps(recorder.close()))
"""

STOP_BEFORE_INSERT = """
insert = history_ingest._insert
def stopping(connection, table, payloads):
    if table == "attempts":
        obey("here")
    insert(connection, table, payloads)
history_ingest._insert = stopping
"""

STOP_BEFORE_COMMIT = """
insert_lines = history_ingest._insert_lines
def stopping(*args):
    count = insert_lines(*args)
    if count:
        obey("here")
    return count
history_ingest._insert_lines = stopping
"""

STOP_AFTER_COMMIT = """
ingest_spool = history.ingest_spool
def stopping(*args):
    count = ingest_spool(*args)
    if count:
        obey("here")
    return count
history.ingest_spool = stopping
"""


class Child:
    """A process that records one run into ``path`` and does what it is told."""

    def __init__(self, script: str, path: Path, run_id: str, tasks: int, keep_open: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RECORD + script, str(path), run_id, str(tasks), "open" if keep_open else "brief"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def children(specs: Sequence[tuple[Any, ...]]) -> Iterator[list[Child]]:
    with ExitStack() as stack:
        started = []
        for spec in specs:
            child = Child(*spec)
            stack.enter_context(child.process)
            stack.callback(child.process.kill)
            started.append(child)
        yield started


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".fleetest" / "history.duckdb"


def bring_in(path: Path) -> None:
    recorder = HistoryRecorder(path)
    recorder.expected_durations("", WAIT_S)
    assert recorder.close() == []


def told(path: Path) -> list[tuple[Any, ...]]:
    connection = open_history(path)
    try:
        return connection.execute(
            "SELECT run_id, outcome, passed, "
            "(SELECT count(*) FROM attempts WHERE attempts.run_id = runs.run_id), "
            "(SELECT count(*) FROM tasks WHERE tasks.run_id = runs.run_id AND verdict = 'passed') "
            "FROM runs ORDER BY run_id"
        ).fetchall()
    finally:
        connection.close()


def test_runs_at_the_same_time_all_end_up_in_the_history(path: Path) -> None:
    with children([(RECORD_AND_CLOSE, path, f"r{n}", 2000) for n in range(4)]) as running:
        assert [child.line() for child in running] == ["recorded"] * 4
        for child in running:
            child.go_on()
        assert [json.loads(child.line()) for child in running] == [[]] * 4
        assert [child.process.wait() for child in running] == [0] * 4
    bring_in(path)
    assert told(path) == [(f"r{n}", "finished", 2000, 2000, 2000) for n in range(4)]
    assert list((path.parent / "spool").iterdir()) == []


MANY_STARTS = """
for number in range(tasks):
    obey("ready")
    recorder = history.HistoryRecorder(path.parent.parent / str(number) / path.parent.name / path.name)
    recorder.record(RunStarted(run_id, 1.7e9, "", "", ""), RunEnded(run_id, 1.7e9 + 1, {"passed": 1}))
    say(json.dumps(recorder.close()))
"""


def test_runs_that_create_the_history_at_the_same_moment(path: Path) -> None:
    rounds = 8
    with children([(MANY_STARTS, path, f"r{n}", rounds) for n in range(4)]) as running:
        for _ in range(rounds):
            assert [child.line() for child in running] == ["ready"] * 4
            for child in running:
                child.go_on()
            assert [json.loads(child.line()) for child in running] == [[]] * 4
    for number in range(rounds):
        created = path.parent.parent / str(number) / path.parent.name / path.name
        bring_in(created)
        assert [row[:3] for row in told(created)] == [(f"r{n}", "finished", 1) for n in range(4)]


def test_a_run_beside_an_open_coordinator_ends_up_in_the_history(path: Path) -> None:
    with children([(RECORD_AND_CLOSE, path, "server", 5, True)]) as [server]:
        assert server.line() == "recorded"
        with children([(RECORD_AND_CLOSE, path, "run", 5)]) as [run]:
            assert run.line() == "recorded"
            run.go_on()
            assert json.loads(run.line()) == []
        server.go_on()
        # On its way out the coordinator takes along what waits.
        assert json.loads(server.line()) == []
    assert told(path) == [("run", "finished", 5, 5, 5), ("server", "finished", 5, 5, 5)]


@pytest.mark.parametrize("keep_open", [False, True], ids=["run", "coordinator"])
def test_what_was_flushed_survives_a_kill(path: Path, keep_open: bool) -> None:
    with children([(RECORD_AND_CLOSE, path, "r1", 500, keep_open)]) as [child]:
        assert child.line() == "recorded"
        child.kill()
    bring_in(path)
    # The run of a coordinator may be resumed by the next one, that of a test run is over.
    assert told(path) == [("r1", "unfinished", 0, 500, 500) if keep_open else ("r1", "abandoned", 500, 500, 500)]


@pytest.mark.parametrize("keep_open", [False, True], ids=["run", "coordinator"])
@pytest.mark.parametrize(
    "stop", [STOP_BEFORE_INSERT, STOP_BEFORE_COMMIT, STOP_AFTER_COMMIT], ids=["insert", "before commit", "after commit"]
)
def test_a_kill_while_ingesting_neither_loses_nor_doubles(path: Path, stop: str, keep_open: bool) -> None:
    with children([(stop + RECORD_AND_CLOSE, path, "r1", 3000, keep_open)]) as [child]:
        if not keep_open:
            assert child.line() == "recorded"
            child.go_on()
        assert child.line() == "here"
        child.kill()
    bring_in(path)
    bring_in(path)
    outcome, passed = ("unfinished", 0) if keep_open else ("finished", 3000)
    assert told(path) == [("r1", outcome, passed, 3000, 3000)]


FULL_DISK = """
import resource
recorder = history.HistoryRecorder(path, keep_open=True)
recorder.record(RunStarted(run_id, 1.7e9, "", "", ""))
assert recorder.flush(60) and not recorder.trouble
limit = os.path.getsize(path) + 300_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
recorded = 0
while recorded < tasks and not recorder.trouble:
    result = AttemptResult(LeaseId(1), Verdict.PASSED, 1.7e9, 0.25, output=os.urandom(500).hex())
    recorder.record(*[AttemptRecorded(run_id, f"t{recorded + n}", 1, Verdict.PASSED, True, "w", "gw0", 0, "", result)
                      for n in range(20)])
    recorded += 20
    assert recorder.flush(60)
say(recorded)
say(recorder.trouble)
say(json.dumps(recorder.close()))
"""


def test_a_disk_that_fills_up_costs_no_flushed_record(path: Path) -> None:
    """The database fails first: the limit is on the size of a file, and the spool starts small."""
    with children([(FULL_DISK, path, "r1", 5000, True)]) as [child]:
        recorded = int(child.line())
        trouble = child.line()
        notices = json.loads(child.line())
        assert child.process.wait() == 0
    assert trouble
    assert notices
    assert [notice for notice in notices if "\n" in notice] == []
    bring_in(path)
    connection = open_history(path)
    try:
        row = connection.execute("SELECT count(*), count(DISTINCT task_id) FROM attempts").fetchone()
    finally:
        connection.close()
    lost = 20 if any("were lost" in notice for notice in notices) else 0
    assert row == (recorded - lost, recorded - lost)
