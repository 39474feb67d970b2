"""What the user reads of a suite run: a live area or one line per task, failures at the end, one line of counts."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol, TextIO

from fleetest.client.failure_text import explanation, headline
from fleetest.client.run_progress import RunProgress
from fleetest.client.suite_results import SuiteResults, TaskResult, collection_error_text, warning_line
from fleetest.client.terminal_text import duration, one_line, printable
from fleetest.core.model import Verdict
from fleetest.wire.messages import CoordinatorToClient, Outcome, RunNotice, RunOutput, SuiteFailed
from fleetest.wire.report_text import shorten

if TYPE_CHECKING:
    from fleetest.client.live_area import LiveArea

EXPLANATION_LIMIT_CHARS = 40_000
"""Of one failed attempt on the terminal; the JUnit file has more."""
_WIDTH = 80
_WARNING_LINES_MAX = 20
_RED = frozenset(verdict for verdict in Verdict if not verdict.is_success)
_NEVER_STARTED = frozenset({Verdict.CANCELLED, Verdict.NOT_RUN})


class Lines(Protocol):
    """Where lines go. ``style`` is a colour name; what has no colours ignores it. Text is printable already."""

    def write(self, text: str, style: str = "") -> None:
        """Write ``text`` and end the line."""


class PlainLines:
    """Lines for a pipe, a file or a dumb terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, style: str = "") -> None:
        try:
            self._stream.write(text + "\n")
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        self._stream.flush()


class LiveLines:
    """Lines for a terminal; they appear above the live area while there is one."""

    def __init__(self, area: LiveArea) -> None:
        self._area = area

    def write(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self._area.print_lines([Text(text, style=style)])


class SuiteReport:
    """Reports one run. ``start`` before the first message, ``stop`` whatever happens, ``summarise`` at the end."""

    def __init__(self, stream: TextIO, progress: RunProgress, *, is_live: bool) -> None:
        self._started_at = time.monotonic()
        self._progress = progress
        self._is_live = is_live
        self._area: LiveArea | None = None
        self._lines: Lines
        if is_live:
            from fleetest.client.live_area import LiveArea

            self._area = LiveArea(progress, stream)
            self._lines = LiveLines(self._area)
        else:
            self._lines = PlainLines(stream)

    @classmethod
    def for_stream(cls, stream: TextIO, progress: RunProgress, *, is_quiet: bool) -> SuiteReport:
        """Live on a terminal that can do it, unless the user wants it quiet."""
        is_terminal = stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
        return cls(stream, progress, is_live=is_terminal and not is_quiet)

    def start(self) -> None:
        if self._area is not None:
            self._area.start()

    def stop(self) -> None:
        if self._area is not None:
            self._area.stop()

    def say(self, text: str, style: str = "") -> None:
        """One line of ours."""
        self._lines.write(f"fleetest: {printable(text)}", style)

    def note(self, message: CoordinatorToClient, news: list[Outcome]) -> None:
        """Show what one message says; ``news`` are the outcomes in it that were not known before."""
        if self._area is not None:
            self._area.note(message)
        else:
            self._progress.note(message, time.monotonic())
        for outcome in news:
            if not self._is_live or not outcome.verdict.is_success:
                self._write_outcome(outcome)
        if isinstance(message, RunOutput):
            for line in printable(message.text).splitlines():
                self._lines.write(line)
        elif isinstance(message, RunNotice):
            self.say(message.text, "yellow" if message.is_urgent else "")
        elif isinstance(message, SuiteFailed):
            self.say(f"{message.suite}: could not be collected ({message.kind.replace('_', ' ')})", "red")

    def _write_outcome(self, outcome: Outcome) -> None:
        word = _word(outcome.verdict) if outcome.is_final else f"{_word(outcome.verdict)} (runs again)"
        parts = [word, one_line(outcome.task_id, 500)]
        if outcome.result is not None:
            parts.append(f"({duration(outcome.result.duration_s)})")
        if outcome.runner:
            parts.append(f"[{one_line(f'{outcome.worker}/{outcome.runner}', 80)}]")
        why = "" if outcome.verdict is Verdict.PASSED else headline(outcome)
        self._lines.write(" ".join(parts) + (f" - {why}" if why else ""), _style(outcome.verdict))

    def summarise(self, results: SuiteResults) -> None:
        """Failures with everything known of them, warnings, then the counts."""
        red = [task for task in results.tasks() if task.verdict in _RED - _NEVER_STARTED]
        if red or results.failures or results.collection_errors:
            self._rule("failures", "=")
        self._write_suite_failures(results)
        for task in red:
            self._write_failure(task)
        self._write_warnings(results)
        for name, lines in results.matrix.tables():
            self._rule(f"each {name}", "=")
            for line in lines:
                self._lines.write(line)
        self._rule("summary", "=")
        for task in red:
            assert task.outcome is not None, "only a verdict makes a task red"
            why = headline(task.outcome)
            self._lines.write(f"{_word(task.verdict)} {one_line(task.task_id, 500)}{f' - {why}' if why else ''}", "red")
        self._write_never_started(results)
        self._write_counts(results)

    def _rule(self, title: str, sign: str, style: str = "") -> None:
        self._lines.write(f"{f' {title} ':{sign}^{_WIDTH}}", style)

    def _write_suite_failures(self, results: SuiteResults) -> None:
        for failure in results.failures:
            self._rule(f"{printable(failure.suite)}: {failure.kind.replace('_', ' ')}", "_", "red")
            if failure.text:
                self._lines.write(printable(failure.text.rstrip()))
        for suite, report in results.collection_errors:
            self._rule(f"{printable(suite)}: error while collecting", "_", "red")
            self._lines.write(printable(collection_error_text(report)))

    def _write_failure(self, task: TaskResult) -> None:
        outcome = task.outcome
        assert outcome is not None, "only a verdict makes a task red"
        self._rule(f"{_word(task.verdict)} {one_line(task.task_id, 500)}", "_", "red")
        for attempt in (*task.earlier, outcome):
            if task.earlier:
                self._lines.write(f"attempt {attempt.attempt}: {_word(attempt.verdict)}")
            self._lines.write(shorten(explanation(attempt), EXPLANATION_LIMIT_CHARS) or "nothing more is known")
            if attempt.result is not None and attempt.result.artifacts:
                self._lines.write("artifacts: " + ", ".join(map(printable, attempt.result.artifacts)))

    def _write_warnings(self, results: SuiteResults) -> None:
        lines = [line for line in dict.fromkeys(map(warning_line, results.warnings)) if line]
        if not lines:
            return
        self._rule("warnings", "=", "yellow")
        for line in lines[:_WARNING_LINES_MAX]:
            self._lines.write(one_line(line, 500))
        if len(lines) > _WARNING_LINES_MAX:
            self._lines.write(f"and {len(lines) - _WARNING_LINES_MAX} more warnings")

    def _write_never_started(self, results: SuiteResults) -> None:
        reasons: dict[tuple[Verdict, str], list[str]] = {}
        for task in results.tasks():
            if task.verdict in _NEVER_STARTED:
                reason = headline(task.outcome) if task.outcome is not None else "the run ended before its verdict"
                reasons.setdefault((task.verdict, reason), []).append(one_line(task.task_id))
        for (verdict, reason), names in reasons.items():
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            self._lines.write(f"{_word(verdict)} {shown} - {reason}", "magenta")
        for target in results.uncollected:
            self._lines.write(f"NOT RUN {printable(target)} - the run ended before it was collected", "magenta")

    def _write_counts(self, results: SuiteResults) -> None:
        counts = results.counts()
        parts = [f"{counts[verdict]} {_word(verdict).lower()}" for verdict in Verdict if counts[verdict]]
        not_collected = len(results.failures) + len(results.uncollected)
        if not_collected:
            parts.append(f"{not_collected} not collected")
        errors = len(results.errors_beside_tests)
        if errors:
            parts.append(f"{errors} error{'s' if errors > 1 else ''} while collecting")
        elapsed = duration(time.monotonic() - self._started_at)
        slots = f" on {results.slots} slot{'s' if results.slots != 1 else ''}" if results.slots else ""
        is_red = bool(not_collected or errors) or any(verdict in _RED for verdict in counts)
        self._lines.write(
            f"{', '.join(parts) or 'no tests'} in {elapsed}{slots}", "bold red" if is_red else "bold green"
        )


def _word(verdict: Verdict) -> str:
    return verdict.value.upper().replace("_", " ")


def _style(verdict: Verdict) -> str:
    if verdict is Verdict.PASSED:
        return "green"
    if verdict in _NEVER_STARTED:
        return "magenta"
    return "yellow" if verdict.is_success else "red"
