"""Replaying outcomes: what pytest's reporters are given for results that are compact, full, or made by nobody."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from fleetest.client.replay import Replayer, report_status, with_variant
from fleetest.core.model import AttemptResult, LeaseId, TaskId, Verdict
from fleetest.wire.messages import ItemInfo, Outcome

pytest_plugins = ["pytester"]

ITEM = ItemInfo("test_it.py::test_a", "test_it.py", 3, "test_a", ("test_a", "test_it.py", "slow"))


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self.calls.append(("start", (nodeid, location)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.calls.append(("report", report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.calls.append(("finish", nodeid))

    @property
    def reports(self) -> list[pytest.TestReport]:
        return [value for kind, value in self.calls if kind == "report"]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def replayer(pytester: pytest.Pytester, recorder: Recorder) -> Replayer:
    config = pytester.parseconfig("-p", "no:terminal")
    config.pluginmanager.register(recorder)
    replayer = Replayer(config, "f" * 32)
    replayer.add_items(["test_it.py::test_a"], [ITEM])
    return replayer


def outcome(verdict: Verdict, *, is_final: bool = True, reason: str = "", **result: Any) -> Outcome:
    attempt = AttemptResult(LeaseId(1), verdict, **result) if result else None
    return Outcome(
        task_id=TaskId("test_it.py::test_a"),
        attempt=1,
        verdict=verdict,
        is_final=is_final,
        worker="here",
        runner="gw1",
        result=attempt,
        reason=reason,
    )


def test_a_compact_pass_becomes_three_reports(replayer: Replayer, recorder: Recorder) -> None:
    replayer.outcome(outcome(Verdict.PASSED, started_at=100.0, setup_s=1.0, call_s=2.0, teardown_s=3.0))
    assert [kind for kind, _ in recorder.calls] == ["start", "report", "report", "report", "finish"]
    assert [(r.when, r.outcome, r.duration) for r in recorder.reports] == [
        ("setup", "passed", 1.0),
        ("call", "passed", 2.0),
        ("teardown", "passed", 3.0),
    ]
    report: Any = recorder.reports[1]
    assert (report.nodeid, report.location) == ("test_it.py::test_a", ("test_it.py", 3, "test_a"))
    assert set(report.keywords) == {"test_a", "test_it.py", "slow"}
    assert (report.node.gateway.id, report.worker_id, report.item_index) == ("gw1", "gw1", 0)


def test_serialised_reports_come_back_with_tuples(replayer: Replayer, recorder: Recorder) -> None:
    data = {
        "$report_type": "TestReport",
        "nodeid": "test_it.py::test_a",
        "location": {"$tuple": ["test_it.py", 3, "test_a"]},
        "keywords": {},
        "outcome": "skipped",
        "longrepr": {"$tuple": ["test_it.py", 4, "Skipped: no"]},
        "when": "setup",
        "user_properties": [],
        "sections": [{"$tuple": ["Captured stdout setup", "words"]}],
        "duration": 0.5,
    }
    replayer.outcome(outcome(Verdict.SKIPPED, reports=json.dumps([{"data": data, "text": ""}]).encode()))
    [report] = recorder.reports
    assert report.longrepr == ("test_it.py", 4, "Skipped: no")
    assert report.sections == [("Captured stdout setup", "words")]


@pytest.mark.parametrize(
    ("verdict", "was_run", "status"),
    [
        (Verdict.TIMEOUT, True, ("failed", "T", "TIMEOUT")),
        (Verdict.CRASHED, True, ("failed", "C", "CRASHED")),
        (Verdict.OOM, True, ("failed", "O", "OOM")),
        (Verdict.QUARANTINED, False, ("error", "Q", "QUARANTINED")),
        (Verdict.NOT_RUN, False, ("error", "N", "NOT RUN")),
    ],
)
def test_what_no_runner_reported_is_reported_as_a_failure_with_its_evidence(
    replayer: Replayer, recorder: Recorder, verdict: Verdict, was_run: bool, status: tuple[str, str, str]
) -> None:
    result: dict[str, Any] = {"evidence": "Thread 0x1", "output": "last words"} if was_run else {}
    replayer.outcome(outcome(verdict, reason="because", **result))
    [report] = recorder.reports
    assert report.failed
    assert "because" in report.longreprtext
    assert report_status(report) == status
    if was_run:
        assert "Thread 0x1" in report.longreprtext
        assert report.sections == [("Captured output", "last words")]


def test_an_attempt_that_is_followed_by_another_is_a_rerun(replayer: Replayer, recorder: Recorder) -> None:
    replayer.outcome(outcome(Verdict.CRASHED, is_final=False, evidence="signal 11"))
    [report] = recorder.reports
    assert report_status(report) == ("rerun", "R", "RERUN")
    assert not report.failed


def test_a_warning_category_that_is_unknown_here_is_shown_but_never_imported(replayer: Replayer) -> None:
    seen: list[Any] = []

    class Listener:
        def pytest_warning_recorded(self, warning_message: Any, when: str, nodeid: str) -> None:
            seen.append((warning_message.category.__name__, str(warning_message.message), when, nodeid))

    replayer._config.pluginmanager.register(Listener())
    record = {
        "message": "old",
        "module": "a.module.that.is.not.here",
        "category": "OddWarning",
        "filename": "x.py",
        "lineno": 1,
        "when": "runtest",
        "nodeid": "test_it.py::test_a",
        "location": None,
    }
    replayer.warning(json.dumps(record).encode())
    assert seen == [("OddWarning", "old", "runtest", "test_it.py::test_a")]


def test_a_variant_is_reported_under_its_node_id_and_named_in_heading_word_and_junit_file(
    pytester: pytest.Pytester, recorder: Recorder
) -> None:
    config = pytester.parseconfig("--junitxml=out.xml", "-p", "no:terminal")
    config._do_configure()
    junit: Any = next(plugin for plugin in config.pluginmanager.get_plugins() if type(plugin).__name__ == "LogXML")
    junit.pytest_sessionstart()
    config.pluginmanager.register(recorder)
    replayer = Replayer(config, "f" * 32)
    names = [f"test_it.py::test_a[1] @ python={version}" for version in ("3.9", "3.12")]
    replayer.add_items(names, [ItemInfo("test_it.py::test_a[1]", "test_it.py", 3, "test_a[1]", ())] * 2)
    for name in names:
        made = outcome(Verdict.CRASHED, evidence="signal 11")
        made = Outcome(
            task_id=TaskId(name), attempt=1, verdict=made.verdict, is_final=True, runner="gw1", result=made.result
        )
        replayer.outcome(made, name.rpartition(" @ ")[2])
    junit.pytest_sessionfinish()

    assert [report.nodeid for report in recorder.reports] == ["test_it.py::test_a[1]"] * 2
    assert [report.head_line for report in recorder.reports] == ["test_a[1] @ python=3.9", "test_a[1] @ python=3.12"]
    words = [with_variant(report, report_status(report)) for report in recorder.reports]
    assert words == [("failed", "C", "CRASHED python=3.9"), ("failed", "C", "CRASHED python=3.12")]
    document = (pytester.path / "out.xml").read_text()
    assert document.count("<testcase") == 2
    assert 'name="test_a @ python=3.9[1]"' in document
    assert 'name="test_a @ python=3.12[1]"' in document


def test_what_the_members_of_a_gang_said_goes_with_the_failure(replayer: Replayer, recorder: Recorder) -> None:
    members = (
        outcome(Verdict.PASSED, is_final=False, output="printed by rank 0"),
        outcome(Verdict.CRASHED, is_final=False, evidence="killed by signal 11"),
    )
    replayer.outcome(msgspec.structs.replace(outcome(Verdict.CRASHED, evidence="killed"), members=members))
    [report] = recorder.reports
    assert report.sections == [
        ("rank 0 on here: passed", "printed by rank 0"),
        ("rank 1 on here: crashed", "killed by signal 11"),
    ]
