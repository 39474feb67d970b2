"""The live view: its numbers, its lines, and that pytest's own terminal report stays what it is."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.text import Text

from fleetest.client import live_view
from fleetest.client.live_area import LiveArea, failure_line, render, supports_live_area
from fleetest.client.run_progress import RunProgress
from fleetest.client.terminal_text import duration, one_line, printable
from fleetest.core.model import AttemptResult, LeaseId, RunId, TaskId, TaskSpec, Verdict
from fleetest.wire.messages import FleetChanged, Outcome, RunAccepted, SuitePlan, TasksFinished, TasksStarted

RUN = RunId("0" * 32)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def accepted(slots: int = 2) -> RunAccepted:
    return RunAccepted(run_id=RUN, workers=("here",), slots=slots)


def planned(**expected_s: float | None) -> SuitePlan:
    tasks = [TaskSpec(TaskId(name), expected_s=seconds) for name, seconds in expected_s.items()]
    return SuitePlan(run_id=RUN, suite="", fingerprint="", tasks=tasks, items=[])


def started(task: str, runner: str = "gw0", worker: str = "here") -> TasksStarted:
    return TasksStarted(run_id=RUN, tasks=((TaskId(task), 1, worker, runner),))


def outcome(task: str, verdict: Verdict = Verdict.PASSED, seconds: float = 1.0, *, final: bool = True) -> Outcome:
    return Outcome(
        task_id=TaskId(task),
        attempt=1,
        verdict=verdict,
        is_final=final,
        worker="here",
        runner="gw0",
        result=AttemptResult(LeaseId(1), verdict, duration_s=seconds, evidence="because\nof this"),
    )


def finished(*outcomes: Outcome) -> TasksFinished:
    return TasksFinished(run_id=RUN, outcomes=list(outcomes))


def progress_of(*messages: object) -> RunProgress:
    """Each message one second after the one before, the first at 0."""
    progress = RunProgress(0.0)
    for now, message in enumerate(messages):
        progress.note(message, float(now))  # type: ignore[arg-type]
    return progress


# The numbers -----------------------------------------------------------------------------------------------------


def test_each_task_is_counted_once_with_its_final_verdict() -> None:
    progress = progress_of(
        accepted(),
        planned(a=None, b=None, c=None),
        finished(outcome("a", Verdict.FAILED, final=False), outcome("b")),
        finished(outcome("a"), outcome("b", Verdict.FAILED)),
    )

    snapshot = progress.snapshot(4.0)

    assert (snapshot.planned, snapshot.finished, snapshot.retried) == (3, 2, 1)
    assert snapshot.counts == {Verdict.PASSED: 2}


def test_rate_is_that_of_the_last_seconds() -> None:
    progress = RunProgress(0.0)
    progress.note(planned(**{f"t{number}": None for number in range(200)}), 0.0)
    progress.note(started("t0"), 0.0)
    progress.note(finished(*(outcome(f"t{number}") for number in range(100))), 10.0)

    assert progress.snapshot(10.0).tests_per_s == pytest.approx(10.0)
    progress.note(finished(*(outcome(f"t{number}") for number in range(100, 120))), 12.0)
    assert progress.snapshot(16.0).tests_per_s == pytest.approx(20 / 6)
    assert progress.snapshot(100.0).tests_per_s < 1


def test_time_left_is_expected_work_over_slots_before_anything_was_seen() -> None:
    progress = progress_of(accepted(slots=2), planned(a=10.0, b=20.0, c=30.0))

    assert progress.snapshot(1.0).left_s == pytest.approx(30.0)


def test_unknown_tests_take_the_median_of_the_known() -> None:
    progress = progress_of(accepted(slots=1), planned(a=1.0, b=3.0, c=100.0, d=None, e=None))

    assert progress.snapshot(1.0).left_s == pytest.approx(110.0)


def test_time_left_follows_the_speed_that_is_seen() -> None:
    """Two slots do 100 expected seconds in 200 seconds: a fourth of what was expected."""
    tasks = {f"t{number}": 1.0 for number in range(200)}
    progress = RunProgress(0.0)
    progress.note(accepted(slots=2), 0.0)
    progress.note(planned(**tasks), 0.0)
    progress.note(started("t0"), 0.0)
    progress.note(finished(*(outcome(f"t{number}") for number in range(100))), 200.0)

    left_s = progress.snapshot(200.0).left_s

    assert left_s is not None
    assert 170 < left_s <= 200


def test_without_any_history_what_ran_already_is_the_measure() -> None:
    progress = progress_of(accepted(slots=1), planned(**{f"t{number}": None for number in range(10)}))
    assert progress.snapshot(1.0).left_s is None

    progress.note(started("t0"), 2.0)
    progress.note(finished(*(outcome(f"t{number}", seconds=4.0) for number in range(5))), 22.0)

    assert progress.snapshot(22.0).left_s == pytest.approx(20.0, rel=0.05)


def test_the_longest_running_test_bounds_the_time_left() -> None:
    progress = progress_of(accepted(slots=10), planned(a=60.0), started("a"))

    assert progress.snapshot(12.0).left_s == pytest.approx(50.0)


def test_slots_show_what_runs_and_leave_with_their_worker() -> None:
    progress = progress_of(
        accepted(), planned(a=None, b=None), started("a"), started("b", "gw1", "other"), finished(outcome("a"))
    )

    slots = {slot.runner: slot for slot in progress.snapshot(10.0).slots}
    assert slots["gw0"].task_id is None
    assert (slots["gw1"].task_id, slots["gw1"].running_s) == ("b", 7.0)

    progress.note(FleetChanged(workers=(("here", 1),)), 11.0)
    assert [slot.runner for slot in progress.snapshot(11.0).slots] == ["gw0"]


# The lines -------------------------------------------------------------------------------------------------------


def busy(slots: int) -> RunProgress:
    tasks = {f"tests/test_a_long_name_of_a_file.py::TestCase::test_number_{number}": None for number in range(slots)}
    progress = progress_of(accepted(slots), planned(**tasks))
    for number, task in enumerate(tasks):
        progress.note(started(task, f"gw{number}"), float(number))
    return progress


def test_the_area_says_counts_rate_time_and_slots() -> None:
    progress = progress_of(
        accepted(1), planned(a=5.0, b=None), started("a"), finished(outcome("b", Verdict.FAILED, final=True))
    )

    lines = render(progress.snapshot(20.0), 100, 24).plain.splitlines()

    assert lines[0].endswith(" 1/2 50%")
    assert lines[1].startswith("0 passed  1 failed  0 skipped  ")
    assert "tests/s  0:20, about " in lines[1]
    assert lines[2].split() == ["gw0", "a", "18.0", "s"]


@pytest.mark.parametrize("width", [10, 20, 40, 80, 200])
@pytest.mark.parametrize("height", [3, 5, 24])
def test_the_area_never_exceeds_the_terminal(width: int, height: int) -> None:
    lines = render(busy(64).snapshot(100.0), width, height).plain.splitlines()

    # Room for the echo of Ctrl-C, which would break the line and leave a rest of the area behind.
    assert max(map(len, lines)) <= width - len("^C^C")
    assert len(lines) < max(height, 3)


def test_too_many_slots_show_those_that_run_longest() -> None:
    text = render(busy(64).snapshot(100.0), 120, 8).plain

    assert "gw0 " in text
    assert "gw63" not in text
    assert "and 61 more slots" in text


def test_a_terminal_without_unicode_gets_plain_signs() -> None:
    assert render(busy(64).snapshot(100.0), 60, 10, is_unicode=False).plain.isascii()


def test_before_the_plan_it_says_what_it_waits_for() -> None:
    nobody = RunAccepted(run_id=RUN)

    assert render(progress_of(accepted()).snapshot(1.0), 80, 24).plain.startswith("collecting tests\n")
    assert render(progress_of(nobody).snapshot(1.0), 80, 24).plain.startswith("waiting for a worker\n")


def test_a_failure_is_one_line_whatever_its_name_contains() -> None:
    line = failure_line(Verdict.FAILED, "test_[\x1b[2J\nbold]", "gw0", one_line("assert\n 1"))

    assert line.plain == "FAILED test_[\\x1b[2J bold] [gw0] - assert 1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é ☃", "plain é ☃"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("\x1b[2J\x07\x9b\ud800\u202e", "\\x1b[2J\\x07\\x9b\\ud800\\u202e"),
    ],
)
def test_printable(text: str, expected: str) -> None:
    assert printable(text) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0.00 s"), (0.994, "0.99 s"), (0.996, "1.0 s"), (59.94, "59.9 s"), (59.96, "1:00"), (3725, "1:02:05")],
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("is_terminal", "name", "expected"),
    [(True, "xterm", True), (True, "dumb", False), (True, None, False), (False, "xterm", False)],
)
def test_only_a_real_terminal_gets_a_live_area(is_terminal: bool, name: str | None, expected: bool) -> None:
    assert supports_live_area(Terminal() if is_terminal else io.StringIO(), name) is expected


# The area on a terminal ------------------------------------------------------------------------------------------


@contextmanager
def area_on(stream: Terminal) -> Iterator[LiveArea]:
    with LiveArea(busy(2), stream, clock=lambda: 10.0) as area:
        yield area


def test_lines_appear_whole_above_the_area_and_standard_streams_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)

    with area_on(stream) as area:
        print("half", end="")
        assert "half" not in stream.getvalue()
        print(" line [red]")
        area.print_lines([Text("one"), Text("two")])
        print("never ended", end="")

    assert sys.stdout is stream
    text = stream.getvalue()
    assert text.index("half line [red]\n") < text.index("one\ntwo\n") < text.index("never ended\n")
    assert text.endswith("\x1b[2K")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_stopping_twice_is_harmless() -> None:
    stream = Terminal()
    with area_on(stream) as area:
        area.stop()
    size = len(stream.getvalue())
    area.stop()

    assert len(stream.getvalue()) == size


# The plugin ------------------------------------------------------------------------------------------------------

SUITE = """
import pytest
@pytest.mark.parametrize("number", range(30))
def test_good(number): pass
def test_bad(): assert 1 == 2, "the reason"
def test_skipped(): pytest.skip("not today")
"""


class Driver:
    """Plays the fleet: says of every test what a coordinator would say, just before pytest reports it."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for message in (accepted(), planned(**{item.nodeid: None for item in session.items})):
            session.config.hook.pytest_fleet_message(config=session.config, message=message)
        self.config = session.config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            said = outcome(report.nodeid, Verdict(report.outcome))
            self.config.hook.pytest_fleet_message(config=self.config, message=finished(said))


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_view, "supports_live_area", lambda stream, name: True)


def run_with(pytester: pytest.Pytester, capfd: pytest.CaptureFixture[str], *args: str, drive: bool = True) -> str:
    pytester.makepyfile(SUITE)
    plugins = [live_view.LiveView(), *([Driver()] if drive else [])]
    pytester.inline_run("-p", "no:cacheprovider", *args, plugins=plugins)
    return capfd.readouterr().out


@pytest.mark.usefixtures("on_a_terminal")
@pytest.mark.parametrize("option", ["-rs", "-v"])
def test_single_tests_are_hidden_and_the_rest_is_as_ever(
    pytester: pytest.Pytester, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    text = run_with(pytester, capfd, option, "-rfs")

    assert "...." not in text
    assert "PASSED" not in text
    assert "%]" not in text
    assert text.count(" - because") == 1
    assert "= FAILURES =" in text
    assert "AssertionError: the reason" in text
    assert "SKIPPED [1]" in text
    assert "1 failed, 30 passed, 1 skipped" in text
    assert "collected 32 items" in text


@pytest.mark.usefixtures("on_a_terminal")
def test_quiet_is_plain_pytest(pytester: pytest.Pytester, capfd: pytest.CaptureFixture[str]) -> None:
    assert "...." in run_with(pytester, capfd, "-q")


@pytest.mark.usefixtures("on_a_terminal")
def test_without_a_fleet_nothing_is_hidden(pytester: pytest.Pytester, capfd: pytest.CaptureFixture[str]) -> None:
    text = run_with(pytester, capfd, drive=False)

    assert "...." in text
    assert "\x1b[?25l" not in text


def test_on_a_pipe_nothing_is_hidden(pytester: pytest.Pytester, capfd: pytest.CaptureFixture[str]) -> None:
    text = run_with(pytester, capfd)

    assert "...." in text
    assert "\x1b" not in text
