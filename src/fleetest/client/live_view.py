"""pytest plugin of ``fleetest run``: a live area in place of the dots; all else is as pytest writes it."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from typing import Any, cast

import pytest
from _pytest.terminal import TerminalReporter

from fleetest.client.failure_text import headline
from fleetest.client.live_area import LiveArea, failure_line, supports_live_area
from fleetest.client.run_progress import RunProgress
from fleetest.core.model import Verdict
from fleetest.wire.messages import CoordinatorToClient, Outcome, TasksFinished

FAILURE_LINES_MAX = 100
"""Further failures only count: all of them are in the summary."""


class LiveView:
    """Pass it to ``pytest.main(plugins=[...])``. Without a fleet, on a pipe and with ``-q`` it changes nothing."""

    def __init__(self) -> None:
        self._progress = RunProgress(time.monotonic())
        self._area: LiveArea | None = None
        self._reporter: LiveTerminalReporter | None = None
        self._has_fleet = False
        self._failure_lines = 0
        self._file: Any = None
        self._above: Any = None

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        # Another plugin's reporter has its own idea of a live view.
        if type(reporter) is not TerminalReporter or config.option.verbose < 0:
            return
        file = reporter._tw._file
        if not supports_live_area(file, os.environ.get("TERM")):
            return
        # The same object, so that whoever holds it keeps the right one; registered anew, because pluggy has
        # bound the hooks of the former class.
        config.pluginmanager.unregister(reporter)
        reporter.__class__ = LiveTerminalReporter
        config.pluginmanager.register(reporter, "terminalreporter")
        self._reporter = cast("LiveTerminalReporter", reporter)
        self._file = file
        self._area = LiveArea(self._progress, file, colour=reporter._tw.hasmarkup)

    @pytest.hookimpl(optionalhook=True)
    def pytest_fleet_message(self, message: CoordinatorToClient) -> None:
        self._has_fleet = True
        if self._area is None:
            return
        self._area.note(message)
        if isinstance(message, TasksFinished) and self._area.is_started:
            self._show_failures(message.outcomes)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        if not self._has_fleet or self._area is None or self._reporter is None:
            return (yield)
        self._start(self._area, self._reporter)
        try:
            return (yield)
        finally:
            self._stop(self._area, self._reporter)

    def _start(self, area: LiveArea, reporter: LiveTerminalReporter) -> None:
        reporter.hide_progress()
        reporter.flush()
        area.start()
        self._above = area.stream_above(self._file)
        reporter._tw._file = self._above

    def _stop(self, area: LiveArea, reporter: LiveTerminalReporter) -> None:
        self._above.finish()
        reporter._tw._file = self._file
        area.stop()

    def _show_failures(self, outcomes: list[Outcome]) -> None:
        if self._failure_lines >= FAILURE_LINES_MAX or self._area is None:
            return
        lines = []
        for outcome in outcomes:
            if outcome.verdict.is_success or outcome.verdict in (Verdict.CANCELLED, Verdict.NOT_RUN):
                continue
            if outcome.is_final and self._failure_lines < FAILURE_LINES_MAX:
                self._failure_lines += 1
                lines.append(failure_line(outcome.verdict, outcome.task_id, outcome.runner, headline(outcome)))
        if self._failure_lines >= FAILURE_LINES_MAX:
            lines.append(failure_line(Verdict.FAILED, "and more: all are listed at the end", "", ""))
        self._area.print_lines(lines)


class LiveTerminalReporter(TerminalReporter):  # type: ignore[misc]
    """pytest's reporter without letters and lines for single tests; header, failures and summary are untouched."""

    _is_quiet = False

    def hide_progress(self) -> None:
        """From now on single tests are only counted."""
        self._is_quiet = True
        self._show_progress_info = False

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        if not self._is_quiet:
            super().pytest_runtest_logstart(nodeid, location)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self._is_quiet:
            super().pytest_runtest_logreport(report)
            return
        writer, self._tw = self._tw, _SILENT
        try:
            super().pytest_runtest_logreport(report)
        finally:
            self._tw = writer
            self.currentfspath = None

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if not self._is_quiet:
            # Newer pytest has nothing to do here, older pytest writes its percentage.
            finish = getattr(super(), "pytest_runtest_logfinish", None)
            if finish is not None:
                finish(nodeid)

    def write_raw(self, content: str, *, flush: bool = False) -> None:
        # Progress for the title bar of the terminal, once per test: the live area says more.
        if not (self._is_quiet and content.startswith("\x1b]9;4;") and not content.startswith("\x1b]9;4;0")):
            super().write_raw(content, flush=flush)


class _SilentWriter:
    """Stands in for pytest's terminal writer while a single test is reported."""

    fullwidth = 80
    hasmarkup = False
    width_of_current_line = 0

    def write(self, *args: object, **kwargs: object) -> None:
        """Write nothing."""

    write_raw = line = sep = flush = write

    def markup(self, text: str, **kwargs: object) -> str:
        return text


_SILENT: Any = _SilentWriter()
