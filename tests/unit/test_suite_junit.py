"""The JUnit file: one testcase per task, whatever the task's text contains."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetest.client.junit import check_junit_path, junit_document, write_junit
from fleetest.client.suite_results import TaskResult
from fleetest.core.model import AttemptResult, LeaseId, RunId, TaskId, Verdict
from fleetest.errors import UserError
from fleetest.wire.messages import ItemInfo, Outcome, SuiteFailed


def result(
    task: str, verdict: Verdict, suite: str = "", node_id: str | None = None, output: str = "", reason: str = ""
) -> TaskResult:
    attempt = AttemptResult(
        lease_id=LeaseId(1),
        verdict=verdict,
        started_at=0.5,
        duration_s=1.5,
        output=output,
        evidence="" if verdict.is_success else "why",
    )
    is_run = verdict not in (Verdict.NOT_RUN, Verdict.CANCELLED)
    outcome = Outcome(
        task_id=TaskId(task),
        attempt=1,
        verdict=verdict,
        is_final=True,
        worker="here" if is_run else "",
        runner="gw0" if is_run else "",
        result=attempt if is_run else None,
        reason=reason,
    )
    item = None if node_id is None else ItemInfo(node_id, node_id.partition("::")[0], 0, node_id, ())
    return TaskResult(TaskId(task), suite, item, outcome)


def case_of(task: TaskResult) -> ElementTree.Element:
    (case,) = junit_document("all", [task], [], 1.0).iter("testcase")
    return case


def test_commands_and_targets_are_suites_with_their_own_counts() -> None:
    tasks = [
        result("lint", Verdict.FAILED, output="bad"),
        result("u::a.py::t", Verdict.PASSED, "u", "a.py::t"),
        result("build", Verdict.PASSED),
        result("u::a.py::s", Verdict.SKIPPED, "u", "a.py::s"),
        result("u::a.py::x", Verdict.CRASHED, "u", "a.py::x"),
    ]

    root = junit_document("all", tasks, [], 2.5)

    commands, target = root.findall("testsuite")
    counts = ("name", "tests", "failures", "errors", "skipped")
    assert [commands.get(key) for key in counts] == ["all", "2", "1", "0", "0"]
    assert [target.get(key) for key in counts] == ["u", "3", "0", "1", "1"]
    assert [root.get(key) for key in counts] == ["all", "5", "1", "1", "1"]
    assert (root.get("time"), commands.get("time")) == ("2.500", "3.000")
    assert commands.get("timestamp") == "1970-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("verdict", "tag"),
    [
        (Verdict.PASSED, None),
        (Verdict.XPASSED, None),
        (Verdict.FAILED, "failure"),
        (Verdict.ERROR, "error"),
        (Verdict.TIMEOUT, "error"),
        (Verdict.CRASHED, "error"),
        (Verdict.OOM, "error"),
        (Verdict.QUARANTINED, "error"),
        (Verdict.SKIPPED, "skipped"),
        (Verdict.XFAILED, "skipped"),
        (Verdict.CANCELLED, "skipped"),
        (Verdict.NOT_RUN, "skipped"),
    ],
)
def test_every_verdict_has_its_element(verdict: Verdict, tag: str | None) -> None:
    found = [child.tag for child in case_of(result("t", verdict)) if child.tag != "properties"]

    assert found == ([] if tag is None else [tag])


def test_a_test_that_nobody_could_collect_is_an_error() -> None:
    assert case_of(result("t", Verdict.NOT_RUN, reason="not collectable")).find("error") is not None


@pytest.mark.parametrize(
    ("node_id", "classname", "name"),
    [
        ("tests/unit/test_a.py::test_x", "tests.unit.test_a", "test_x"),
        ("test_a.py::TestB::test_x[a::b/c.py]", "test_a.TestB", "test_x[a::b/c.py]"),
        ("README.md", "README.md", "README.md"),
    ],
)
def test_names_are_those_of_pytest(node_id: str, classname: str, name: str) -> None:
    case = case_of(result(f"u::{node_id}", Verdict.PASSED, "u", node_id))

    assert (case.get("classname"), case.get("name")) == (classname, name)


def test_a_command_is_a_test_of_its_suite_and_keeps_its_output() -> None:
    case = case_of(result("lint", Verdict.PASSED, output="all fine\n"))

    assert (case.get("classname"), case.get("name"), case.get("time")) == ("all", "lint", "1.500")
    assert case.findtext("system-out") == "all fine\n"
    properties = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
    assert properties == {"worker": "here", "runner": "gw0", "attempt": "1"}


def test_output_is_written_once_and_not_into_the_failure() -> None:
    case = case_of(result("lint", Verdict.FAILED, output="the output"))

    assert (case.findtext("failure"), case.findtext("system-out")) == ("why", "the output")


def test_a_target_that_could_not_be_collected_has_a_testcase_with_an_error() -> None:
    failure = SuiteFailed(run_id=RunId("r"), suite="u", kind="collection_errors", text="first\nsecond")

    root = junit_document("all", [], [failure], 0.0)

    error = root.find("testsuite/testcase/error")
    assert error is not None
    assert (error.get("type"), error.get("message"), error.text) == ("collection_errors", "first", "first\nsecond")
    assert root.get("errors") == "1"


def test_a_task_without_verdict_is_an_error() -> None:
    assert case_of(TaskResult(TaskId("t"), "", None, None)).find("error") is not None


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_any_text_gives_a_document_that_can_be_read_again(texts: list[str]) -> None:
    tasks = [
        result(f"u::{text}", verdict, "u", f"a.py::{text}", output=text, reason=text)
        for text in texts
        for verdict in (Verdict.PASSED, Verdict.FAILED, Verdict.NOT_RUN)
    ]

    document = ElementTree.tostring(junit_document(texts[0], tasks, [], 1.0), encoding="utf-8")

    assert len(list(ElementTree.fromstring(document).iter("testcase"))) == len(tasks)


def test_invalid_characters_are_spelled_out() -> None:
    assert case_of(result("a\x1b\x00\ud800", Verdict.PASSED)).get("name") == "a#x1B#x00#xD800"


def test_the_file_is_written_whole_or_the_old_one_stays(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    file.write_text("old")

    write_junit(file, "all", [result("t", Verdict.PASSED)], [], 1.0)

    assert file.read_bytes().startswith(b"<?xml")
    assert [path.name for path in tmp_path.iterdir()] == ["junit.xml"]
    with pytest.raises(UserError, match="the JUnit file cannot be written"):
        write_junit(file / "below", "all", [], [], 1.0)


def test_a_path_that_cannot_be_written_is_known_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    check_junit_path(tmp_path / "new" / "junit.xml")
    for path in (tmp_path, tmp_path / "file" / "junit.xml"):
        with pytest.raises(UserError, match="the JUnit file cannot be written"):
            check_junit_path(path)
