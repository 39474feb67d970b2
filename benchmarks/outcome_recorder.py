"""A pytest plugin that writes every test report which the reporting process sees as one JSON line.

It records only in the process that ``outcomes.py`` started itself (named by ``FLEETEST_OUTCOMES_PARENT``): the
runners of Fleetest and of pytest-xdist load the same plugins, and what they see is not what the user is told.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TextIO

import pytest


class Recorder:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = report.outcome + (" (xfail)" if hasattr(report, "wasxfail") else "")
        self.stream.write(json.dumps([report.nodeid, report.when, outcome]) + "\n")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self.stream.write(json.dumps([report.nodeid, "collect", report.outcome]) + "\n")

    def pytest_unconfigure(self) -> None:
        self.stream.close()


def pytest_configure(config: pytest.Config) -> None:
    target = os.environ.get("FLEETEST_OUTCOMES_FILE")
    if target and os.environ.get("FLEETEST_OUTCOMES_PARENT") == str(os.getppid()):
        # Line by line, so that whoever watches the file knows how far the run is.
        stream = Path(target).open("w", buffering=1)  # noqa: SIM115
        config.pluginmanager.register(Recorder(stream), "outcome-recorder")
