"""Runs a suite file on a fleet: one submission, one queue, one report."""

from __future__ import annotations

import math
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from fleetest.client.fleet import Fleet
from fleetest.client.junit import write_junit
from fleetest.client.run_progress import RunProgress
from fleetest.client.suite_file import SuiteFile
from fleetest.client.suite_report import SuiteReport
from fleetest.client.suite_results import SuiteResults, collection_error_text
from fleetest.core.model import RunId
from fleetest.errors import ExitStatus, FleetestError, UserError
from fleetest.wire.messages import CommandSuite, SubmitRun, SuiteFailed

POLL_S = 0.2
"""Ctrl-C is answered this fast: it is only counted when it comes, so that no message is ever half taken in."""
FAIL_FAST_GRACE_S = 5.0
"""After the failure that ends the run others may finish this long: a command has no fixtures to be torn down."""
KILL_WAIT_S = 10.0
"""A fleet that does not end a killed run within this time is left."""
IDLE_NOTICE_S = 5.0
"""When nothing has run for this long although tests wait, the user is told."""
WAITING_NAMES_MAX = 5


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """What the command line says about a suite run."""

    title: str
    """The command line as typed, for the history."""
    max_failures: int | None = None
    junit_file: Path | None = None
    artifact_directory: Path | None = None
    """Of all runs: each has its own directory in it. None: ``.fleetest/artifacts`` beside the suite file."""
    wait_for_workers: float | None = None
    """Seconds that work which no known worker can do waits for one, infinite: for ever; None: as the file says."""
    hedge: bool = True
    """False: no test of the file is hedged, whatever it says itself."""
    weight: float | None = None
    """Part of a shared fleet; None: what the file says."""


def submission(suite: SuiteFile, options: SuiteOptions, run_id: RunId) -> SubmitRun:
    """The whole file as one run: commands as one suite, each pytest target as one."""
    parent = options.artifact_directory or suite.path.absolute().parent / ".fleetest" / "artifacts"
    tasks, targets = suite.tasks, suite.targets
    if not options.hedge:
        tasks = tuple(replace(task, hedge=False) for task in tasks)
        targets = tuple(msgspec.structs.replace(target, hedge=False) for target in targets)
    commands = CommandSuite(commands=suite.commands, tasks=tasks, artifact_directory=str(parent.absolute() / run_id))
    suites = (*((commands,) if suite.commands else ()), *targets)
    weight = suite.weight if options.weight is None else options.weight
    wait_s = suite.wait_for_workers_s if options.wait_for_workers is None else options.wait_for_workers
    return SubmitRun(
        run_id=run_id,
        suites=suites,
        title=options.title,
        weight=weight,
        wait_for_workers_s=None if wait_s == math.inf else wait_s,
    )


class SuiteRun:
    """One run, followed to its end on the main thread. It does not close the fleet: who opened it does."""

    def __init__(
        self,
        suite: SuiteFile,
        options: SuiteOptions,
        fleet: Fleet,
        report: SuiteReport,
        progress: RunProgress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._suite = suite
        self._options = options
        self._fleet = fleet
        self._report = report
        self._run_id = RunId(uuid.uuid4().hex)
        self._progress = progress
        self._clock = clock
        self.results = SuiteResults()
        self._interrupts = 0
        self._answered = 0
        self._is_terminated = False
        self._is_stopping = False
        self._give_up_at: float | None = None
        self._kill_at: float | None = None
        self._last_message_at = clock()
        self._has_said_idle = False
        self.results.plan("", list(suite.tasks))
        self.results.expect_targets(target.name for target in suite.targets)
        progress.plan(suite.tasks)

    def execute(self) -> int:
        """Submit, follow, report, write the JUnit file. Returns the exit status.

        Raises UserError if the fleet is lost or a file cannot be written, after everything known was reported.
        """
        started_at = self._clock()
        self._fleet.submit(submission(self._suite, self._options, self._run_id))
        lost: FleetestError | None = None
        self._report.start()
        try:
            with self._counting_interrupts():
                self._follow()
        except FleetestError as error:
            lost = error
        finally:
            self._report.stop()
        self._report.summarise(self.results)
        self._write_junit(self._clock() - started_at)
        if isinstance(lost, UserError):
            raise lost
        if lost is not None:
            raise UserError(f"lost the fleet: {lost}", ExitStatus.UNREACHABLE)
        return int(self.results.exit_status(was_interrupted=self._interrupts > 0))

    def _write_junit(self, duration_s: float) -> None:
        if self._options.junit_file is None:
            return
        results = self.results
        text = "the run ended before it was collected"
        uncollected = [
            SuiteFailed(run_id=self._run_id, suite=name, kind="not_collected", text=text)
            for name in results.uncollected
        ]
        broken: dict[str, list[str]] = {}
        for name, report in results.errors_beside_tests:
            broken.setdefault(name, []).append(collection_error_text(report))
        beside_tests = [
            SuiteFailed(run_id=self._run_id, suite=name, kind="collection_errors", text="\n\n".join(texts))
            for name, texts in broken.items()
        ]
        failures = [*results.failures, *uncollected, *beside_tests]
        write_junit(self._options.junit_file, self._suite.name, results.tasks(), failures, duration_s)

    def _follow(self) -> None:
        while True:
            messages = self._fleet.receive(POLL_S)
            for message in messages:
                news = self.results.note(message)
                self._report.note(message, news)
            if self.results.is_finished:
                return
            self._notice_idleness(bool(messages))
            if self._interrupts > self._answered:
                self._answer_interrupt()
            self._stop_early()
            if self._kill_at is not None and self._clock() > self._kill_at:
                self._kill_at = None
                self._fleet.cancel("what still ran is ended", kill=True, quiet=True)
            if self._give_up_at is not None and self._clock() > self._give_up_at:
                self._report.say("the fleet did not end the run in time; what it still runs is left to it", "red")
                return

    def _notice_idleness(self, is_news: bool) -> None:
        """A fleet waits for a machine that has what a test needs; somebody should know that it does."""
        now = self._clock()
        if is_news or self._progress.is_anything_running or not self.results.waiting_count:
            self._last_message_at = now
        elif now - self._last_message_at >= IDLE_NOTICE_S and not self._has_said_idle and not self._is_stopping:
            self._has_said_idle = True
            waiting = self.results.waiting
            names = ", ".join(waiting[:WAITING_NAMES_MAX]) + (" ..." if len(waiting) > WAITING_NAMES_MAX else "")
            who = "1 test waits" if len(waiting) == 1 else f"{len(waiting)} tests wait"
            self._report.say(
                f"nothing of this run is running, and {who} for a slot, for what a machine must have, or for a retry:"
                f" {names} (Ctrl-C ends the run)",
                "yellow",
            )

    def _stop_early(self) -> None:
        if self._is_stopping:
            return
        results, most = self.results, self._options.max_failures
        if results.exit_request is not None:
            self._is_stopping = True
            reason = results.exit_request.reason or results.exit_request.kind.replace("_", " ")
            self._report.say(f"a test ended the run: {reason}", "red")
            self._fleet.cancel(reason)
        elif most is not None and results.red_count >= most:
            self._is_stopping = True
            reason = f"stopping after {results.red_count} failure{'s' if results.red_count != 1 else ''}"
            self._report.say(reason, "red")
            self._fleet.cancel(reason, quiet=True)
            self._kill_at = self._clock() + FAIL_FAST_GRACE_S

    def _answer_interrupt(self) -> None:
        self._answered = self._interrupts
        self._is_stopping = True
        if self._interrupts == 1 and not self._is_terminated:
            self._report.say("stopping; what runs may finish within a few seconds (Ctrl-C again kills it)", "red")
            self._fleet.cancel("interrupted")
            return
        self._report.say("killing what still runs", "red")
        self._fleet.cancel("terminated" if self._is_terminated else "interrupted twice", kill=True)
        if self._give_up_at is None:
            self._give_up_at = self._clock() + KILL_WAIT_S

    @contextmanager
    def _counting_interrupts(self) -> Iterator[None]:
        def count(number: int, frame: FrameType | None) -> None:
            self._interrupts += 1
            # Whoever terminates this process or closes its terminal will not ask twice.
            self._is_terminated |= number != signal.SIGINT
            if self._interrupts > 2:
                raise KeyboardInterrupt

        previous: dict[int, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    previous[number] = signal.signal(number, count)
        except ValueError:
            # Not the main thread: then signals are not ours to handle.
            pass
        try:
            yield
        finally:
            for taken, handler in previous.items():
                signal.signal(taken, handler)
