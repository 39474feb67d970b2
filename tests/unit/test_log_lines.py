"""What the serving commands write to standard error while they serve."""

import logging
import re

from fleetest.cli.event_loop import _LogLine
from fleetest.core.model import Capabilities
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
