"""``fleetest history``: every question in every format, and one clear line for what cannot be answered."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fleetest.cli.history import history
from fleetest.core.model import AttemptResult, LeaseId, Verdict
from fleetest.errors import ExitStatus, UserError
from fleetest.storage.history import HistoryRecorder
from fleetest.storage.history_database import HistoryUnusable, open_history
from fleetest.storage.history_rows import encode_records
from fleetest.storage.records import AttemptRecorded, RunEnded, RunStarted, TasksPlanned
from fleetest.storage.spool import SpoolWriter

HOSTILE = "a.py::t[\x1b[31m[red]\u202e,\n=x]"
SHOWN = "a.py::t[[red]\\u202e,\\n=x]"


def record_runs(path: Path) -> None:
    recorder = HistoryRecorder(path)
    for number, verdict in enumerate([Verdict.PASSED, Verdict.FAILED, Verdict.PASSED]):
        run_id = f"{number}abc{number}" + "0" * 27
        result = AttemptResult(LeaseId(1), verdict, 1_700_000_000.0 + number, 1.5, evidence="E   ValueError: [b]no[/b]")
        recorder.record(
            RunStarted(run_id, 1_700_000_000.0 + number, "pytest -x", "ann", "/project"),
            TasksPlanned(run_id, [(HOSTILE, "", "a.py", 0), ("a.py::steady", "", "a.py", 1)]),
            AttemptRecorded(run_id, "a.py::steady", 1, Verdict.SKIPPED, True, "w1", "gw0", 0, "no GPU", None),
            AttemptRecorded(run_id, HOSTILE, 1, verdict, True, "w1", "gw0", 0, "", result),
            RunEnded(run_id, 1_700_000_002.0 + number, {verdict.value: 1, "skipped": 1}),
        )
    assert recorder.close() == []


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    record_runs(tmp_path / ".fleetest" / "history.duckdb")
    below = tmp_path / "tests" / "unit"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    return tmp_path


def ask(*args: str) -> str:
    result: Result = CliRunner().invoke(history, args, standalone_mode=False, catch_exceptions=False)
    return result.output


@pytest.mark.usefixtures("project")
def test_json_is_a_format_and_an_option_of_its_own():
    answer = ask("slowest", "--format", "json")
    assert json.loads(answer)
    assert ask("slowest", "--json") == ask("--json", "slowest") == answer


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], [["2abc2", "finished", "2", "1", "0", "pytest", "-x"], ["1abc1"], ["0abc0"]]),
        (["runs", "--limit", "1"], [["2abc2"]]),
        (["--limit", "2"], [["2abc2"], ["1abc1"]]),
        (["slowest"], [[SHOWN, "1.500"]]),
        (["flakiest"], [[SHOWN, "1.000"]]),
        (["failures", HOSTILE], [["1abc1", "failed", "w1", SHOWN, "[b]no[/b]"]]),
        (["failures", "a.py"], [["1abc1", SHOWN]]),
    ],
)
def test_tables_on_a_pipe(args: list[str], expected: list[list[str]]) -> None:
    header, *lines = ask(*args).splitlines()
    assert header
    assert len(lines) == len(expected)
    for line, parts in zip(lines, expected, strict=True):
        assert [part for part in parts if part not in line] == []


def test_the_counts_of_a_run_add_up(tmp_path: Path) -> None:
    recorder = HistoryRecorder(tmp_path / "h.duckdb")
    counts = {"passed": 5, "crashed": 2, "not_run": 1, "xfailed": 1}
    recorder.record(RunStarted("a" * 32, 1.0, "pytest", "", "/project"), RunEnded("a" * 32, 2.0, counts))
    assert recorder.close() == []
    header, line = ask("--history", str(tmp_path / "h.duckdb")).splitlines()
    shown = dict(zip(header.split()[4:-1], line.split()[5:-1], strict=True))
    assert shown == {"tests": "9", "passed": "5", "failed": "0", "crashed": "2", "not_run": "1", "xfailed": "1"}


@pytest.mark.usefixtures("project")
def test_one_run_tells_failures_first() -> None:
    told = ask("run", "1abc").splitlines()
    assert told[0] == f"run 1abc1{'0' * 27}: pytest -x"
    assert told[1] == "started 2023-11-14 22:13:21 UTC, 2.0 s, finished, 2 tests"
    assert [line.split()[0] for line in told[4:]] == ["failed", "skipped"]
    assert ask("run").splitlines()[0].startswith("run 2abc2")


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("before", [True, False], ids=["option before", "option after"])
@pytest.mark.parametrize(
    "question", [["runs"], ["run", "latest"], ["slowest"], ["flakiest"], ["failures", HOSTILE]], ids=lambda q: q[0]
)
def test_json_and_csv_have_the_same_rows(question: list[str], before: bool) -> None:
    def told(output_format: str) -> str:
        option = ["--format", output_format]
        return ask(*option, *question) if before else ask(*question, *option)

    objects = json.loads(told("json"))
    rows = list(csv.DictReader(io.StringIO(told("csv"))))
    assert objects
    assert len(rows) == len(objects)
    for row, item in zip(rows, objects, strict=True):
        assert list(row) == list(item)
        for name, value in item.items():
            if not isinstance(value, str):
                assert row[name] == ("" if value is None else str(value))
            elif value != HOSTILE:
                assert row[name] == value
    assert "\x1b" not in told("csv") + told("json")
    assert "\u202e" not in told("csv") + told("json")
    if "task_id" in objects[0]:
        assert HOSTILE in {item["task_id"] for item in objects}


@pytest.mark.parametrize("question", [["runs"], ["run", "latest"], ["slowest"], ["failures", "="]], ids=lambda q: q[0])
def test_no_cell_for_a_spreadsheet_begins_a_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recorder = HistoryRecorder(tmp_path / ".fleetest" / "history.duckdb")
    result = AttemptResult(LeaseId(1), Verdict.FAILED, 1_700_000_000.0, 1.5, evidence="=1+1")
    recorder.record(
        RunStarted("a" * 32, 1_700_000_000.0, "=cmd|' /C calc'!A0", "@owner", "/project"),
        TasksPlanned("a" * 32, [("=1+1", "", "+group", 0)]),
        AttemptRecorded("a" * 32, "=1+1", 1, Verdict.FAILED, True, "-worker", "gw0", 0, "@reason", result),
        AttemptRecorded("a" * 32, "=1+1", 2, Verdict.PASSED, True, "-worker", "gw0", 0, "", result),
        RunEnded("a" * 32, 1_700_000_002.0, {"failed": 1}),
    )
    assert recorder.close() == []
    cells = [text for row in list(csv.reader(io.StringIO(ask("--format", "csv", *question))))[1:] for text in row]
    assert [text for text in cells if text.startswith("'")]
    assert not [text for text in cells if text.startswith(("=", "+", "-", "@"))]


@pytest.mark.usefixtures("project")
def test_times_in_json_are_iso_8601() -> None:
    assert json.loads(ask("--format", "json"))[0]["started_at"] == "2023-11-14T22:13:22Z"


@pytest.mark.parametrize(
    ("args", "said", "status"),
    [
        (["run", "9"], "no run in the history begins with '9'", ExitStatus.USAGE_ERROR),
        (["run", ""], "more than one run begins with ''", ExitStatus.USAGE_ERROR),
        (["failures", "nothing\x1b"], "no test in the history has 'nothing\\\\x1b'", ExitStatus.USAGE_ERROR),
        (["--history", "a", "--data", "b"], "exclude each other", ExitStatus.USAGE_ERROR),
        (["--history", "missing.duckdb"], "no history at missing.duckdb", ExitStatus.HISTORY_UNUSABLE),
        (["--data", "missing"], "no history at missing/history.duckdb", ExitStatus.HISTORY_UNUSABLE),
        (["--history", "."], "history . cannot be used", ExitStatus.HISTORY_UNUSABLE),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_cannot_be_answered_is_one_line(args: list[str], said: str, status: ExitStatus) -> None:
    with pytest.raises(UserError) as refusal:
        ask(*args)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_status == status


def test_empty_history_says_so(tmp_path: Path) -> None:
    path = tmp_path / "history.duckdb"
    path.touch()
    assert ask("--data", str(tmp_path)) == "No runs yet.\n"
    assert ask("flakiest", "--history", str(path)) == "No test has both passed and failed.\n"
    assert json.loads(ask("slowest", "--history", str(path), "--format", "json")) == []


def test_waiting_spools_are_brought_in_first(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "spool", resumable=False)
    for table, payload in encode_records([RunStarted("r1", 1.0, "killed run", "", "")]):
        writer.append(table, payload)
    writer.close(remove=False)
    [run] = json.loads(ask("--data", str(tmp_path), "--format", "json"))
    assert (run["title"], run["outcome"]) == ("killed run", "abandoned")
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_held_file_names_its_holder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetest.cli.history._LOCK_WAIT_S", 0.0)
    path = project / ".fleetest" / "history.duckdb"
    code = f"import duckdb; c = duckdb.connect({str(path)!r}); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(HistoryUnusable, match=rf"held by process {holder.pid} \(a coordinator or a test run\)"):
            ask()
        holder.communicate(b"\n")


def test_a_history_that_may_only_be_read_is_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spools = project / ".fleetest" / "spool"
    SpoolWriter(spools, resumable=False).close(remove=False)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(ask().splitlines()) == 4
    assert len(list(spools.iterdir())) == 1


def test_a_read_only_history_is_not_written(project: Path) -> None:
    connection = open_history(project / ".fleetest" / "history.duckdb", read_only=True)
    try:
        with pytest.raises(Exception, match="read-only"):
            connection.execute("DELETE FROM attempts")
    finally:
        connection.close()


def test_on_a_terminal_names_are_no_markup(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    history(["failures", HOSTILE], standalone_mode=False)
    shown = capsys.readouterr().out
    assert SHOWN in shown
    assert "[b]no[/b]" in shown
    assert "\x1b[31mfailed" in shown
    assert "1abc1000 " in shown
