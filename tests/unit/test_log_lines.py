"""What the serving commands write to standard error while they serve."""

import json
import logging
import re
import subprocess
import sys

import pytest

from fleetest.cli import fleet_log
from fleetest.cli.fleet_log import FleetLog
from fleetest.cli.log import _JsonLine, _LogLine, log_to_stderr
from fleetest.core import commands, events
from fleetest.core.model import AttemptResult, Capabilities, LeaseId, RunId, TaskId, Verdict, WorkerId
from fleetest.errors import UserError
from fleetest.processes.probe import ProbeResult
from fleetest.worker import Worker, WorkerSettings


def line_of(message, *values):
    return _LogLine().format(logging.LogRecord("fleetest", logging.WARNING, "", 0, message, values, None))


def test_a_line_has_the_time_of_day():
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z alert 3-17: lab-7: lost"
    assert re.fullmatch(pattern, line_of("alert %s: %s: lost", "3-17", "lab-7"))


def test_what_peers_say_cannot_forge_a_line_or_steer_the_terminal():
    line = line_of("alert: %s", "w\n2026-01-01T00:00:00.000Z all is well\x1b[2J\u202e")
    assert line.endswith(r"w 2026-01-01T00:00:00.000Z all is well\x1b[2J\u202e")
    assert "\n" not in line


def test_the_machine_whose_probe_fails_says_so_itself(caplog):
    worker = Worker(WorkerSettings(name="w", slots=1), capabilities=Capabilities())
    worker._probed(ProbeResult(True, "ready"))
    worker._probed(ProbeResult(False, "no disk"))
    worker._probed(ProbeResult(True, "ready"))
    assert [record.getMessage() for record in caplog.records] == [
        "the probe failed: no disk: no new tests until it passes",
        "the probe passes again",
    ]


def test_a_line_for_programs_is_one_object_whatever_peers_say():
    record = logging.LogRecord("fleetest.history", logging.ERROR, "", 0, "lost: %s", ("a\n\x1b[2J\u202e\ud800",), None)
    record.created = 1_700_000_000.25
    text = _JsonLine().format(record)
    assert text.isascii()
    assert "\n" not in text
    line = json.loads(text)
    assert isinstance(line.pop("mono_ms"), int)
    assert line == {
        "ts": "2023-11-14T22:13:20.250Z",
        "level": "error",
        "event": "history",
        "message": "lost: a\n\x1b[2J\u202e\ud800",
    }


def test_fields_of_a_call_and_its_error_are_in_the_object():
    try:
        raise ValueError("a mistake")
    except ValueError:
        error = sys.exc_info()
    record = logging.LogRecord("fleetest.api", logging.ERROR, "", 0, "failed", (), error)
    record.fields = {"event": "alert_raised", "worker": "w"}
    line = json.loads(_JsonLine().format(record))
    assert (line["event"], line["worker"]) == ("alert_raised", "w")
    assert line["traceback"].endswith("ValueError: a mistake")


def test_an_unknown_format_is_refused():
    """From the environment or a file: a flag is checked before."""
    with pytest.raises(UserError, match="must be text or json"):
        log_to_stderr("xml")


EVERYTHING = """
import asyncio, gc, logging, sys, threading, warnings
from fleetest.cli.event_loop import run_event_loop
from fleetest.cli.log import in_every_line, log_to_stderr, say
from fleetest.errors import UserError

log_to_stderr("json")
in_every_line(worker=lambda: "w")

class Bad:
    def __del__(self):
        raise ValueError("while it is freed")

async def main():
    loop = asyncio.get_running_loop()
    loop.create_task(fails())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    warnings.warn("old-fashioned")
    say("a notice")
    for target in (lambda: 1 / 0, sys.exit):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    Bad()
    raise UserError("a mistake of\\nthe user", exit_status=12)

async def fails():
    raise KeyError("in a task")

status = run_event_loop(main())
if len(sys.argv) > 1:
    raise RuntimeError("the end")
sys.exit(status)
"""


@pytest.mark.parametrize(("argument", "status"), [([], 12), (["end"], 1)])
def test_every_line_for_programs_is_an_object_whoever_says_it(argument, status):
    """asyncio, warnings, threads, what is freed, what nobody handles, and the command's own last words."""
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING, *argument], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["worker"] for line in lines} == {"w"}
    told = {line["event"]: line for line in lines}
    assert "in a task" in told["asyncio"]["traceback"]
    assert "old-fashioned" in told["warnings"]["message"]
    assert told["notice"]["message"] == "a notice"
    assert (told["command_failed"]["message"], told["command_failed"]["exit_status"]) == ("a mistake of\nthe user", 12)
    unhandled = [line["message"] for line in lines if line["event"] == "unhandled"]
    assert unhandled == ["ZeroDivisionError", "ValueError", *(["RuntimeError"] if argument else [])]


def fields_of(caplog):
    return [record.fields for record in caplog.records if record.name == "fleetest.fleet"]


def test_runs_and_what_went_wrong_in_them_are_lines_with_their_fields(caplog, monkeypatch):
    monkeypatch.setattr(fleet_log, "ATTEMPTS_MAX", 2)
    run, log = RunId("r"), FleetLog()
    log.observe(events.RunSubmitted(run, owner="ann"), [])
    result = AttemptResult(LeaseId(7), Verdict.CRASHED)
    lost = commands.TaskOutcome(TaskId("t"), 1, Verdict.CRASHED, False, WorkerId("w"), 0, result, "signal 9")
    passed = commands.TaskOutcome(TaskId("p"), 1, Verdict.PASSED, True, WorkerId("w"), 0, result)
    never = commands.TaskOutcome(TaskId("n"), 0, Verdict.NOT_RUN, True, reason="no worker")
    log.observe(events.DeadlineReached(), [commands.PublishOutcomes(run, [passed, lost, never, lost, lost])])
    log.observe(events.DeadlineReached(), [commands.RunFinished(run, {Verdict.PASSED: 1, Verdict.NOT_RUN: 1})])
    attempt = {"event": "attempt_ended", "run": "r", "is_superseded": False}
    assert fields_of(caplog) == [
        {"event": "run_submitted", "run": "r", "owner": "ann"},
        attempt
        | {"test": "t", "attempt": 1, "lease": 7, "worker": "w", "verdict": "crashed", "is_final": False}
        | {"reason": "signal 9"},
        attempt
        | {"test": "n", "attempt": 0, "lease": None, "worker": None, "verdict": "not_run", "is_final": True}
        | {"reason": "no worker"},
        {"event": "attempts_left_out", "run": "r"},
        {"event": "run_finished", "run": "r", "counts": {"passed": 1, "not_run": 1}},
    ]
