"""What the serving commands write to standard error while they serve."""

import json
import logging
import re
import sys

import pytest

from fleetest.cli.event_loop import _JsonLine, _LogLine, log_to_stderr
from fleetest.core.model import Capabilities
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
