"""The client's pytest session: it does not collect and does not run, it submits, follows and replays."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import pytest

from fleetest.client.fleet import Fleet
from fleetest.client.pytest_options import FleetOptions
from fleetest.client.replay import Replayer, report_status, with_variant
from fleetest.client.terminal_text import printable
from fleetest.client.variant_matrix import VariantMatrix
from fleetest.core.model import RunId, Verdict, base_id
from fleetest.errors import ExitStatus, FleetestError, NotReady
from fleetest.wire.messages import (
    CollectionReports,
    CoordinatorToClient,
    ExitRequested,
    Outcome,
    PytestSuite,
    RunFinished,
    RunNotice,
    RunOutput,
    RunWarnings,
    SubmitRun,
    SuiteFailed,
    SuitePlan,
    TasksFinished,
)

_POLL_S = 0.2
_KILL_WAIT_S = 5.0


class FleetSession:
    """Registered as a plugin in the client; every hook here stands in for what pytest would do itself."""

    def __init__(self, config: pytest.Config, fleet: Fleet, options: FleetOptions) -> None:
        self._config = config
        self._fleet = fleet
        self._options = options
        self._replayer = Replayer(config, options.run_uid)
        self._matrix = VariantMatrix()
        self._terminal: Any = config.pluginmanager.get_plugin("terminalreporter")
        self._backlog: Iterator[CoordinatorToClient] = iter(())
        self._notices: list[str] = []
        self._restarted: Counter[str] = Counter()
        self._plan: SuitePlan | None = None
        self._failure: SuiteFailed | None = None
        self._exit: ExitRequested | None = None
        self._is_finished = False
        self._announced = 0
        self._interrupts = 0
        self._interrupts_answered = 0
        self._kill_deadline: float | None = None
        self._stop_reason = ""
        self._cancelled: Counter[str] = Counter()
        """Tests that somebody else's cancellation of the run ended, by reason."""

    # pytest's hooks -------------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if self._terminal is not None:
            # Results of several files arrive mixed: no file name may open a line.
            self._terminal.showfspath = False
        self._announce()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        with self._interruptible():
            self._submit()
            while self._plan is None and self._failure is None and not self._is_finished and self._exit is None:
                self._handle(self._next_message(), session)
                if self._interrupts:
                    self._stop_for_interrupt()
        if self._failure is not None:
            self._raise_failure(self._failure)
            self._report_counts(self._failure.collected, ())
            if self._failure.exit_status == pytest.ExitCode.TESTS_FAILED:
                session.shouldfail = printable(self._failure.text)
                raise session.Failed(session.shouldfail)
        if self._plan is not None:
            self._report_collected(self._plan, session)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            errors = session.testsfailed
            raise session.Interrupted(f"{errors} error{'s' if errors != 1 else ''} during collection")
        with self._interruptible():
            self._follow(session)
        if self._interrupts:
            # Not a bare KeyboardInterrupt: pytest would show where in Fleetest it was raised.
            raise session.Interrupted("stopped by Ctrl-C")
        if self._exit is not None:
            self._raise_exit(self._exit, session)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        self._raise_cancelled(session)
        return True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        self._close()

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Generator[None, Any, Any]:
        status = yield
        return with_variant(report, report_status(report) or status)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for name, lines in self._matrix.tables():
            terminalreporter.section(f"each {name}")
            for line in lines:
                terminalreporter.write_line(line)
        self._announce()
        for notice in dict.fromkeys(self._notices):
            terminalreporter.write_line(f"fleetest: {notice}")
        for reason, count in self._restarted.items():
            terminalreporter.write_line(f"fleetest: started again elsewhere: {count} ({reason})")

    def pytest_unconfigure(self) -> None:
        self._close()

    # Following the run ----------------------------------------------------------------------------------------

    def _submit(self) -> None:
        options = self._options
        suite = PytestSuite(
            args=options.args,
            directory=options.directory,
            python=options.python,
            path_entries=options.path_entries,
            start_method=options.start_method,
            timeout_s=options.timeout_s or None,
            retries=options.retries,
            hedge=options.hedge,
            each=options.each,
        )
        title = " ".join(["pytest", *map(str, self._config.invocation_params.args)])
        submission = SubmitRun(
            run_id=RunId(options.run_uid),
            suites=(suite,),
            title=title,
            weight=options.weight,
            wait_for_workers_s=options.wait_for_workers_s,
        )
        self._fleet.submit(submission)

    def _follow(self, session: pytest.Session) -> None:
        while not self._is_finished:
            self._handle(self._next_message(), session)
            if self._interrupts > self._interrupts_answered:
                self._stop_for_interrupt()
            if self._kill_deadline is not None and time.monotonic() > self._kill_deadline:
                return

    def _next_message(self) -> CoordinatorToClient | None:
        message = next(self._backlog, None)
        if message is None:
            try:
                self._backlog = iter(self._fleet.receive(_POLL_S))
            except NotReady as error:
                self._is_finished = True
                pytest.exit(f"fleetest: {error}", returncode=int(error.exit_status))
            except FleetestError as error:
                self._is_finished = True
                pytest.exit(f"fleetest: lost the fleet: {error}", returncode=int(ExitStatus.UNREACHABLE))
            message = next(self._backlog, None)
        return message

    def _handle(self, message: CoordinatorToClient | None, session: pytest.Session) -> None:
        if message is None:
            return
        self._config.hook.pytest_fleet_message(config=self._config, message=message)
        match message:
            case TasksFinished():
                for outcome in message.outcomes:
                    self._replay(outcome, session)
            case SuitePlan():
                self._plan = message
            case CollectionReports():
                for report in message.reports:
                    self._replayer.collect_report(report)
                for warning in message.warnings:
                    self._replayer.warning(warning)
            case RunWarnings():
                for warning in message.warnings:
                    self._replayer.warning(warning)
            case RunOutput():
                self._show_output(message)
            case RunNotice() if message.is_urgent:
                self._say(message.text)
            case RunNotice():
                self._notices.append(message.text)
            case SuiteFailed():
                self._failure = message
            case ExitRequested():
                self._exit = self._exit or message
            case RunFinished():
                self._is_finished = True
            case _:
                # The rest is for live views, which have seen it through pytest_fleet_message.
                return

    def _replay(self, outcome: Outcome, session: pytest.Session) -> None:
        """Replay one outcome unless the run is over for pytest (fail-fast): then exactly ``maxfail`` failures stand.

        As in pytest, whether it is over is looked at after a test: one more follows a collection with that many errors.
        """
        if self._stop_reason and _stop_reason(session):
            return
        if not outcome.is_final and outcome.result is None:
            self._restarted[outcome.reason] += 1
            return
        was_stopped = self._stop_reason or self._exit is not None
        if outcome.verdict is Verdict.CANCELLED:
            self._cancelled[outcome.reason] += outcome.is_final and not was_stopped
            return
        if outcome.verdict is Verdict.NOT_RUN and was_stopped:
            return
        variant = self._matrix.variant_of(outcome.task_id)
        self._replayer.outcome(outcome, variant)
        if outcome.is_final:
            self._matrix.note(outcome.task_id, outcome.verdict)
        reason = _stop_reason(session)
        if reason and not self._stop_reason:
            self._stop_reason = reason
            self._fleet.cancel(reason, quiet=True)

    def _report_collected(self, plan: SuitePlan, session: pytest.Session) -> None:
        """What pytest does at the end of a collection, for one that happened elsewhere."""
        node_ids = [item.node_id for item in plan.items]
        self._matrix.plan(plan.tasks)
        self._replayer.add_items([task.task_id for task in plan.tasks], plan.items)
        # Variants of a test share its node id, by which pytest counts what it has reported.
        session.testscollected = len({base_id(task.task_id, task.variant) for task in plan.tasks})
        if plan.deselected:
            self._config.hook.pytest_deselected(
                items=[_Deselected(node_id, self._config) for node_id in plan.deselected]
            )
        newfirst: Any = self._config.pluginmanager.get_plugin("nfplugin")
        if hasattr(newfirst, "cached_nodeids"):
            newfirst.cached_nodeids.update(node_ids)
        self._report_counts(len(node_ids) + len(plan.deselected), plan.report_lines)

    def _report_counts(self, collected: int, report_lines: Sequence[str]) -> None:
        if self._terminal is None:
            return
        self._terminal._numcollected = collected
        self._terminal.report_collect(True)
        if self._config.option.verbose >= 0:
            for line in report_lines:
                self._terminal.write_line(line)

    def _show_output(self, message: RunOutput) -> None:
        """User output past the capture goes where plain pytest lets it go: to our own standard streams."""
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        with nullcontext() if capture is None else capture.global_and_fixture_disabled():
            if message.stream == "stderr" or self._terminal is None:
                stream = sys.stderr if message.stream == "stderr" else sys.stdout
                stream.write(message.text)
                stream.flush()
            else:
                self._terminal._tw.write(message.text)
                self._terminal.flush()

    # Endings --------------------------------------------------------------------------------------------------

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Count Ctrl-C instead of raising it in the middle of a replayed report."""

        def count(signum: int, frame: FrameType | None) -> None:
            self._interrupts += 1

        try:
            previous = signal.signal(signal.SIGINT, count)
        except ValueError:
            # Not the main thread (pytest inside a tool): then Ctrl-C is not ours to handle either.
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _stop_for_interrupt(self) -> None:
        self._interrupts_answered = self._interrupts
        if self._interrupts == 1:
            self._stop_reason = "interrupted"
            self._fleet.cancel("interrupted", kill=self._plan is None)
            self._say("stopping; running tests may finish (Ctrl-C again kills them)")
        else:
            self._fleet.cancel("interrupted twice", kill=True)
        if self._interrupts > 1 or self._plan is None:
            self._kill_deadline = time.monotonic() + _KILL_WAIT_S
        if self._plan is None:
            raise KeyboardInterrupt

    def _announce(self) -> None:
        """Where the dashboard is, and that it is gone."""
        announcements = self._fleet.announcements
        for text in announcements[self._announced :]:
            if self._terminal is not None:
                self._say(text)
            else:
                sys.stderr.write(f"fleetest: {text}\n")
        self._announced = len(announcements)

    def _say(self, text: str) -> None:
        """One line of ours, now."""
        if self._terminal is not None:
            self._terminal.ensure_newline()
            self._terminal.write_line(f"fleetest: {printable(text)}")
            self._terminal.flush()

    def _raise_failure(self, failure: SuiteFailed) -> None:
        match failure.kind:
            case "exit":
                pytest.exit(failure.text, returncode=failure.exit_status)
            case "interrupted":
                raise KeyboardInterrupt(failure.text)
            case "internal_error":
                self._report_internal_error(failure.text)
            case "collection_errors":
                # The reports have been replayed: pytest's own rule ends the run.
                return
            case "unavailable" if failure.exit_status is not None:
                # Not the suite's mistake but a machine's: pytest has no exit status for that.
                sys.stderr.write(f"fleetest: {failure.text}\n")
                pytest.exit("no machine can run this suite", returncode=failure.exit_status)
            case _:
                raise pytest.UsageError(failure.text)

    def _raise_exit(self, request: ExitRequested, session: pytest.Session) -> None:
        match request.kind:
            case "interrupted":
                raise session.Interrupted(request.reason or "KeyboardInterrupt in a test")
            case "internal_error":
                self._report_internal_error(request.reason)
            case _:
                pytest.exit(request.reason, returncode=request.exit_status)

    def _raise_cancelled(self, session: pytest.Session) -> None:
        """A run that was cancelled from elsewhere is no success, whatever its tests said until then."""
        count = self._cancelled.total()
        if count:
            reason = next(iter(+self._cancelled))
            session.shouldfail = f"{count} test{'s' if count > 1 else ''} cancelled: {printable(reason)}"
        elif self._is_finished and self._plan is None and self._failure is None:
            session.shouldfail = "the run was cancelled before its tests were known"
        else:
            return
        raise session.Failed(session.shouldfail)

    def _report_internal_error(self, text: str) -> None:
        """pytest broke in a runner: show its own traceback, end with its own exit status."""
        if self._terminal is not None:
            self._terminal.ensure_newline()
        excinfo = pytest.ExceptionInfo.from_exc_info((RuntimeError, RuntimeError(text), None))  # type: ignore[arg-type]
        self._config.hook.pytest_internalerror(excrepr=text, excinfo=excinfo)
        pytest.exit("internal error in a runner", returncode=int(ExitStatus.INTERNAL_ERROR))

    def _close(self) -> None:
        self._notices.extend(self._fleet.close())


def _stop_reason(session: pytest.Session) -> str:
    """Why pytest wants no more results (fail-fast, stepwise, a plugin), or nothing."""
    return str(session.shouldfail or session.shouldstop or "")


class _Deselected:
    """Stands for an item that was deselected where it was collected: reporters count it, read its id or its config."""

    def __init__(self, node_id: str, config: pytest.Config) -> None:
        self.nodeid = node_id
        self.config = config
        self.name = node_id.rpartition("::")[2]
