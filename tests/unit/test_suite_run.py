"""A suite run against a scripted fleet: the submission, what is told, Ctrl-C, fail-fast, exit statuses."""

from __future__ import annotations

import io
import itertools
import json
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fleetest.client.run_progress import RunProgress
from fleetest.client.suite_file import SuiteFile, load_suite
from fleetest.client.suite_report import SuiteReport
from fleetest.client.suite_run import SuiteOptions, SuiteRun, submission
from fleetest.core.model import AttemptResult, LeaseId, RunId, TaskId, TaskSpec, Verdict
from fleetest.errors import ExitStatus, LinkClosed, UserError
from fleetest.wire.messages import (
    CollectionReports,
    CommandSuite,
    CoordinatorToClient,
    ExitRequested,
    FleetChanged,
    ItemInfo,
    Outcome,
    PytestSuite,
    RunAccepted,
    RunFinished,
    RunNotice,
    RunOutput,
    RunWarnings,
    SubmitRun,
    SuiteFailed,
    SuitePlan,
    TasksFinished,
    TasksStarted,
)

RUN = RunId("0" * 32)
Step = CoordinatorToClient | Callable[["ScriptedFleet"], None]


class ScriptedFleet:
    """Hands out its script one step per ``receive``; a function in it is called instead."""

    def __init__(self, *script: Step) -> None:
        self.script = list(script)
        self.submitted: list[SubmitRun] = []
        self.cancelled: list[tuple[str, bool, bool]] = []

    def submit(self, run: SubmitRun) -> None:
        self.submitted.append(run)

    def receive(self, timeout_s: float | None = None) -> Sequence[CoordinatorToClient]:
        assert self.script, "the run was followed beyond its end"
        step = self.script.pop(0)
        if callable(step):
            step(self)
            return ()
        return (step,)

    def cancel(self, reason: str, *, kill: bool = False, quiet: bool = False) -> None:
        self.cancelled.append((reason, kill, quiet))

    def close(self) -> list[str]:
        return []


def ctrl_c(fleet: ScriptedFleet) -> None:
    signal.raise_signal(signal.SIGINT)


def lost(fleet: ScriptedFleet) -> None:
    raise LinkClosed("connection reset")


ACCEPTED = RunAccepted(run_id=RUN, workers=("here",), slots=2)
FINISHED = RunFinished(run_id=RUN, counts={})


def outcome(
    task: str,
    verdict: Verdict,
    *,
    final: bool = True,
    attempt: int = 1,
    output: str = "",
    evidence: str = "",
    reason: str = "",
    reports: object = None,
) -> Outcome:
    if verdict in (Verdict.NOT_RUN, Verdict.CANCELLED):
        return Outcome(task_id=TaskId(task), attempt=attempt, verdict=verdict, is_final=final, reason=reason)
    result = AttemptResult(
        lease_id=LeaseId(1),
        verdict=verdict,
        duration_s=1.25,
        started_at=1_700_000_000.0,
        output=output,
        evidence=evidence,
        reports=None if reports is None else json.dumps(reports).encode(),
    )
    return Outcome(
        task_id=TaskId(task),
        attempt=attempt,
        verdict=verdict,
        is_final=final,
        worker="here",
        runner="gw0",
        result=result,
        reason=reason,
    )


def finished(*outcomes: Outcome) -> TasksFinished:
    return TasksFinished(run_id=RUN, outcomes=list(outcomes))


def plan(suite: str, *node_ids: str) -> SuitePlan:
    return SuitePlan(
        run_id=RUN,
        suite=suite,
        fingerprint="",
        tasks=[TaskSpec(TaskId(f"{suite}::{node_id}"), suite=suite) for node_id in node_ids],
        items=[ItemInfo(node_id, node_id.partition("::")[0], 1, node_id, ()) for node_id in node_ids],
    )


@pytest.fixture
def suite(tmp_path: Path) -> SuiteFile:
    file = tmp_path / "all.toml"
    file.write_text(
        '[[command]]\nname = "build"\nargv = ["make"]\n'
        '[[command]]\nname = "lint"\nargv = ["ruff"]\ndepends_on = ["build"]\n'
        '[[pytest]]\nname = "unit"\nargs = ["tests"]\n'
    )
    return load_suite(file)


def execute(suite: SuiteFile, fleet: ScriptedFleet, **options: object) -> tuple[int, str]:
    stream = io.StringIO()
    status = run_of(suite, fleet, stream, **options).execute()
    return status, stream.getvalue()


def run_of(suite: SuiteFile, fleet: ScriptedFleet, stream: io.StringIO, **options: object) -> SuiteRun:
    progress = RunProgress(0.0)
    report = SuiteReport(stream, progress, is_live=False)
    return SuiteRun(suite, SuiteOptions(title="fleetest run", **options), fleet, report, progress)  # type: ignore[arg-type]


ALL_PASSED = (
    ACCEPTED,
    plan("unit", "tests/test_a.py::test_one"),
    finished(outcome("build", Verdict.PASSED), outcome("unit::tests/test_a.py::test_one", Verdict.PASSED)),
    finished(outcome("lint", Verdict.PASSED)),
    FINISHED,
)


def test_the_whole_file_is_one_submission(suite: SuiteFile, tmp_path: Path) -> None:
    fleet = ScriptedFleet(*ALL_PASSED)

    status, _ = execute(suite, fleet, artifact_directory=tmp_path / "kept")

    (submitted,) = fleet.submitted
    commands, target = submitted.suites
    assert isinstance(commands, CommandSuite)
    assert isinstance(target, PytestSuite)
    assert [task.task_id for task in commands.tasks] == [spec.name for spec in commands.commands] == ["build", "lint"]
    assert commands.artifact_directory == str(tmp_path / "kept" / submitted.run_id)
    assert (target.name, target.args) == ("unit", ("tests",))
    assert len(submitted.run_id) == 32
    assert status == ExitStatus.OK
    assert fleet.cancelled == []


def test_artifacts_lie_beside_the_suite_file_by_default(suite: SuiteFile, tmp_path: Path) -> None:
    fleet = ScriptedFleet(*ALL_PASSED)

    execute(suite, fleet)

    commands = fleet.submitted[0].suites[0]
    assert isinstance(commands, CommandSuite)
    assert commands.artifact_directory == str(tmp_path / ".fleetest" / "artifacts" / fleet.submitted[0].run_id)


def test_one_plain_line_per_finished_task_and_the_counts(suite: SuiteFile) -> None:
    _, text = execute(suite, ScriptedFleet(*ALL_PASSED))

    lines = text.splitlines()
    assert lines[:3] == [
        "PASSED build (1.2 s) [here/gw0]",
        "PASSED unit::tests/test_a.py::test_one (1.2 s) [here/gw0]",
        "PASSED lint (1.2 s) [here/gw0]",
    ]
    assert lines[-1].startswith("3 passed in ")
    assert lines[-1].endswith(" on 2 slots")


def test_failures_are_explained_and_dependants_say_why_they_did_not_run(suite: SuiteFile) -> None:
    reports = [
        {
            "data": {
                "$dict": [
                    ["outcome", "failed"],
                    ["longrepr", {"reprcrash": {"message": "assert 1 == 2"}}],
                    ["sections", [{"$tuple": ["Captured stdout call", "hello from test"]}]],
                    ["$report_type", "TestReport"],
                ]
            },
            "text": "def test_one():\n>   assert 1 == 2\nE   assert 1 == 2",
        }
    ]
    fleet = ScriptedFleet(
        ACCEPTED,
        plan("unit", "tests/test_a.py::test_one"),
        finished(outcome("build", Verdict.FAILED, output="cc: no such file\n", evidence="exit status 2")),
        finished(outcome("unit::tests/test_a.py::test_one", Verdict.FAILED, reports=reports)),
        finished(outcome("lint", Verdict.NOT_RUN, reason="dependency build failed")),
        FINISHED,
    )

    status, text = execute(suite, fleet)

    assert status == ExitStatus.TESTS_FAILED
    assert "FAILED build (1.2 s) [here/gw0] - exit status 2" in text
    assert "cc: no such file" in text
    assert ">   assert 1 == 2" in text
    assert "hello from test" in text
    assert "FAILED unit::tests/test_a.py::test_one - assert 1 == 2" in text
    assert "NOT RUN lint - dependency build failed" in text
    assert "2 failed, 1 not run in " in text


def test_an_earlier_attempt_is_reported_and_does_not_decide(suite: SuiteFile) -> None:
    fleet = ScriptedFleet(
        plan("unit"),
        finished(outcome("build", Verdict.FAILED, final=False, evidence="exit status 7")),
        finished(outcome("build", Verdict.PASSED, attempt=2), outcome("lint", Verdict.PASSED)),
        FINISHED,
    )

    status, text = execute(suite, fleet)

    assert status == ExitStatus.OK
    assert "FAILED (runs again) build (1.2 s) [here/gw0] - exit status 7" in text
    assert "2 passed in " in text


def test_only_the_first_final_outcome_of_a_task_counts(suite: SuiteFile) -> None:
    fleet = ScriptedFleet(
        plan("unit"),
        finished(outcome("build", Verdict.PASSED), outcome("lint", Verdict.PASSED)),
        finished(outcome("build", Verdict.FAILED)),
        FINISHED,
    )

    status, text = execute(suite, fleet)

    assert status == ExitStatus.OK
    assert text.count(" build ") == 1


def test_a_planned_task_without_a_verdict_is_never_success(suite: SuiteFile) -> None:
    status, text = execute(suite, ScriptedFleet(finished(outcome("build", Verdict.PASSED)), FINISHED))

    assert status == ExitStatus.TESTS_FAILED
    assert "NOT RUN lint" in text


def test_a_target_that_cannot_be_collected_fails_the_run_and_nothing_else_is_lost(suite: SuiteFile) -> None:
    broken = {
        "$dict": [
            ["outcome", "failed"],
            ["longrepr", "ImportError: no module named b"],
            ["$report_type", "CollectReport"],
        ]
    }
    fleet = ScriptedFleet(
        CollectionReports(run_id=RUN, suite="unit", reports=(json.dumps(broken).encode(),)),
        SuiteFailed(run_id=RUN, suite="unit", kind="collection_errors", text="1 error"),
        finished(outcome("build", Verdict.PASSED), outcome("lint", Verdict.PASSED)),
        FINISHED,
    )

    status, text = execute(suite, fleet)

    assert status == ExitStatus.TESTS_FAILED
    assert "fleetest: unit: could not be collected (collection errors)" in text
    assert "ImportError: no module named b" in text
    assert "2 passed, 1 not collected in " in text


def test_what_of_a_target_could_not_be_collected_fails_the_run(suite: SuiteFile, tmp_path: Path) -> None:
    reports = [
        {"nodeid": "a.py", "outcome": "failed", "longrepr": "ImportError: no module named b"},
        {"nodeid": "b.py", "outcome": "skipped", "longrepr": ["b.py", 1, "Skipped: not here"]},
        {"nodeid": "c.py", "outcome": "failed", "longrepr": "SyntaxError: invalid syntax"},
    ]
    junit = tmp_path / "out.xml"
    encoded = tuple(json.dumps(report).encode() for report in reports)
    fleet = ScriptedFleet(
        CollectionReports(run_id=RUN, suite="unit", reports=encoded),
        plan("unit"),
        finished(outcome("build", Verdict.PASSED), outcome("lint", Verdict.PASSED)),
        FINISHED,
    )

    status, text = execute(suite, fleet, junit_file=junit)

    assert status == ExitStatus.TESTS_FAILED
    assert "ImportError: no module named b" in text
    assert "2 passed, 2 errors while collecting in " in text
    root = ElementTree.parse(junit).getroot()
    assert (root.get("tests"), root.get("errors"), root.get("skipped")) == ("3", "1", "0")
    (error,) = root.iter("error")
    assert error.text == "ImportError: no module named b\n\nSyntaxError: invalid syntax"


def test_nothing_collected_is_exit_status_5(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[[pytest]]\nname = "unit"\n')

    status, text = execute(load_suite(file), ScriptedFleet(plan("unit"), FINISHED))

    assert status == ExitStatus.NO_TESTS_COLLECTED
    assert "no tests in " in text


def test_ctrl_c_cancels_and_the_verdicts_so_far_are_reported(suite: SuiteFile) -> None:
    fleet = ScriptedFleet(
        finished(outcome("build", Verdict.PASSED)),
        ctrl_c,
        finished(outcome("lint", Verdict.CANCELLED, reason="interrupted")),
        FINISHED,
    )

    status, text = execute(suite, fleet)

    assert status == ExitStatus.INTERRUPTED
    assert fleet.cancelled == [("interrupted", False, False)]
    assert "Ctrl-C again kills it" in text
    assert "1 passed, 1 cancelled, 1 not collected in " in text
    assert "CANCELLED lint - interrupted" in text


def test_the_second_ctrl_c_kills(suite: SuiteFile) -> None:
    fleet = ScriptedFleet(ctrl_c, ctrl_c, FINISHED)

    status, _ = execute(suite, fleet)

    assert status == ExitStatus.INTERRUPTED
    assert [kill for _, kill, _ in fleet.cancelled] == [False, True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_kills_at_once(suite: SuiteFile, number: signal.Signals) -> None:
    fleet = ScriptedFleet(lambda _fleet: signal.raise_signal(number), FINISHED)

    status, _ = execute(suite, fleet)

    assert status == ExitStatus.INTERRUPTED
    assert fleet.cancelled == [("terminated", True, False)]


def test_the_third_ctrl_c_leaves_at_once_and_restores_the_handler(suite: SuiteFile) -> None:
    before = signal.getsignal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        execute(suite, ScriptedFleet(ctrl_c, ctrl_c, ctrl_c))

    assert signal.getsignal(signal.SIGINT) is before


def test_maxfail_cancels_quietly_and_once(suite: SuiteFile) -> None:
    fleet = ScriptedFleet(
        finished(outcome("build", Verdict.TIMEOUT)),
        finished(outcome("lint", Verdict.NOT_RUN, reason="stopping after 1 failure")),
        FINISHED,
    )

    status, text = execute(suite, fleet, max_failures=1)

    assert status == ExitStatus.TESTS_FAILED
    assert fleet.cancelled == [("stopping after 1 failure", False, True)]
    assert "1 timeout, 1 not run, 1 not collected in " in text


def test_a_test_that_nobody_can_run_counts_for_maxfail(suite: SuiteFile) -> None:
    fleet = ScriptedFleet(finished(outcome("build", Verdict.NOT_RUN, reason="no worker with cuda>=12")), FINISHED)

    execute(suite, fleet, max_failures=1)

    assert fleet.cancelled == [("stopping after 1 failure", False, True)]


def test_tests_that_were_not_run_because_of_another_one_do_not_count_for_maxfail(suite: SuiteFile) -> None:
    fleet = ScriptedFleet(
        finished(outcome("build", Verdict.FAILED)),
        finished(outcome("lint", Verdict.NOT_RUN, reason="dependency build failed")),
        FINISHED,
    )

    execute(suite, fleet, max_failures=2)

    assert fleet.cancelled == []


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (ExitRequested(run_id=RUN, kind="exit", reason="enough", exit_status=7), 7),
        (ExitRequested(run_id=RUN, kind="exit", reason="enough"), ExitStatus.INTERRUPTED),
        (ExitRequested(run_id=RUN, kind="interrupted", reason=""), ExitStatus.INTERRUPTED),
        (ExitRequested(run_id=RUN, kind="internal_error", reason="boom"), ExitStatus.INTERNAL_ERROR),
    ],
)
def test_a_test_that_ends_the_session_ends_the_run(suite: SuiteFile, request_: ExitRequested, expected: int) -> None:
    fleet = ScriptedFleet(request_, FINISHED)

    status, text = execute(suite, fleet)

    assert status == expected
    assert len(fleet.cancelled) == 1
    assert "a test ended the run" in text


def test_a_lost_fleet_is_reported_after_the_verdicts_and_the_junit_file(suite: SuiteFile, tmp_path: Path) -> None:
    fleet = ScriptedFleet(finished(outcome("build", Verdict.PASSED)), lost)
    stream = io.StringIO()
    junit = tmp_path / "new" / "junit.xml"

    with pytest.raises(UserError, match="lost the fleet: connection reset") as caught:
        run_of(suite, fleet, stream, junit_file=junit).execute()

    assert caught.value.exit_status is ExitStatus.UNREACHABLE
    assert "1 passed, 1 not run, 1 not collected in " in stream.getvalue()
    root = ElementTree.parse(junit).getroot()
    assert (root.get("tests"), root.get("errors")) == ("3", "2")


def test_a_target_that_nobody_collected_before_the_end_is_told_and_no_success(suite: SuiteFile) -> None:
    fleet = ScriptedFleet(finished(outcome("build", Verdict.PASSED), outcome("lint", Verdict.PASSED)), FINISHED)

    status, text = execute(suite, fleet)

    assert status == ExitStatus.TESTS_FAILED
    assert "NOT RUN unit - the run ended before it was collected" in text
    assert "2 passed, 1 not collected in " in text


def test_a_fleet_without_workers_says_so_and_counts_those_that_join(suite: SuiteFile) -> None:
    empty = RunAccepted(run_id=RUN)
    joined = FleetChanged(workers=(("one", 2), ("two", 3)))

    notice = RunNotice(run_id=RUN, text="the run waits for a worker: none has joined", is_urgent=True)

    _, text = execute(suite, ScriptedFleet(empty, notice, joined, *ALL_PASSED[1:]))

    assert text.startswith("fleetest: the run waits for a worker: none has joined\n")
    assert text.endswith(" on 5 slots\n")


def nothing(fleet: ScriptedFleet) -> None:
    """The time of one poll passes without a message."""


@pytest.mark.parametrize(
    ("before", "is_told"),
    [
        ((plan("unit"), finished(outcome("build", Verdict.PASSED))), True),
        ((finished(outcome("build", Verdict.PASSED)),), True),
        ((plan("unit"), finished(outcome("build", Verdict.PASSED), outcome("lint", Verdict.PASSED))), False),
        ((plan("unit"), TasksStarted(run_id=RUN, tasks=((TaskId("build"), 1, "here", "gw0"),))), False),
    ],
)
def test_a_fleet_that_waits_with_nothing_running_says_so_once(
    suite: SuiteFile, before: tuple[Step, ...], is_told: bool
) -> None:
    stream = io.StringIO()
    progress = RunProgress(0.0)
    fleet = ScriptedFleet(*before, nothing, nothing, nothing, nothing, FINISHED)
    report = SuiteReport(stream, progress, is_live=False)
    seconds = itertools.count(step=4.0)

    SuiteRun(suite, SuiteOptions(title=""), fleet, report, progress, clock=lambda: next(seconds)).execute()

    assert stream.getvalue().count("nothing of this run is running, and 1 test waits for a slot") == (
        1 if is_told else 0
    )


def test_hostile_text_cannot_reach_the_terminal(suite: SuiteFile) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202egnp"
    fleet = ScriptedFleet(
        plan("unit", f"test_[{evil}]"),
        finished(outcome(f"unit::test_[{evil}]", Verdict.FAILED, output=evil, evidence=evil)),
        RunOutput(run_id=RUN, stream="stdout", text=f"{evil}\n"),
        RunNotice(run_id=RUN, text=evil),
        SuiteFailed(run_id=RUN, suite=f"unit{evil}", kind="usage_error", text=evil),
        RunWarnings(run_id=RUN, warnings=(json.dumps({"message": evil}).encode(),)),
        FINISHED,
    )

    _, text = execute(suite, fleet)

    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "\\x1b]0;owned\\x07" in text


def test_a_flood_of_output_is_cut_in_the_middle(suite: SuiteFile) -> None:
    flood = "head\n" + "x" * 1_000_000 + "\ntail\n"
    fleet = ScriptedFleet(finished(outcome("build", Verdict.FAILED, output=flood)), FINISHED)

    _, text = execute(suite, fleet)

    assert len(text) < 50_000
    assert "head\n" in text
    assert "characters left out" in text
    assert "\ntail\n" in text


def test_warnings_are_listed_once(suite: SuiteFile) -> None:
    warning = {"filename": "a.py", "lineno": 3, "category": "DeprecationWarning", "message": "old"}
    fleet = ScriptedFleet(RunWarnings(run_id=RUN, warnings=(json.dumps(warning).encode(),) * 2), FINISHED)

    _, text = execute(suite, fleet)

    assert text.count("a.py:3: DeprecationWarning: old") == 1


def test_a_file_may_forbid_hedges_and_so_may_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "suite.toml"
    file.write_text(
        """
        [[command]]
        name = "may"
        command = "true"
        [[command]]
        name = "may not"
        command = "true"
        hedge = false
        [[pytest]]
        name = "unit"
        """
    )
    suite = load_suite(file)

    def hedges(options: SuiteOptions) -> list[bool]:
        commands, target = submission(suite, options, RUN).suites
        assert isinstance(commands, CommandSuite)
        assert isinstance(target, PytestSuite)
        return [*(task.hedge for task in commands.tasks), target.hedge]

    assert hedges(SuiteOptions("title")) == [True, False, True]
    assert hedges(SuiteOptions("title", hedge=False)) == [False, False, False]
