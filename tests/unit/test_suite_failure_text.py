"""What is said of a task that did not pass, from whatever its reports and output hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fleetest.client.failure_text import captured_output, explanation, headline
from fleetest.core.model import AttemptResult, LeaseId, TaskId, Verdict
from fleetest.wire.messages import Outcome


def outcome(
    reports: object = None, verdict: Verdict = Verdict.FAILED, *, output: str = "", evidence: str = "", reason: str = ""
) -> Outcome:
    encoded = reports if isinstance(reports, bytes) else None if reports is None else json.dumps(reports).encode()
    result = AttemptResult(LeaseId(1), verdict, reports=encoded, output=output, evidence=evidence)
    return Outcome(task_id=TaskId("t"), attempt=1, verdict=verdict, is_final=True, result=result, reason=reason)


def report(text: str = "", **data: Any) -> dict[str, Any]:
    return {"data": {"$dict": [*map(list, data.items()), ["$report_type", "TestReport"]]}, "text": text}


PASSED_SETUP = report(outcome="passed", longrepr=None, sections=[])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (outcome([PASSED_SETUP, report(outcome="failed", longrepr={"reprcrash": {"message": "a\nb"}})]), "a"),
        (
            outcome([report("def f():\nE   ValueError: x\nE   more\nlast", outcome="failed", longrepr="")]),
            "ValueError: x",
        ),
        (outcome([report("only text\n\n", outcome="failed", longrepr="only text")]), "only text"),
        (
            outcome(
                [report(outcome="skipped", longrepr={"$tuple": ["a.py", 3, "Skipped: not today"]})], Verdict.SKIPPED
            ),
            "not today",
        ),
        (
            outcome(
                [report(outcome="skipped", longrepr={"reprcrash": {"message": "x"}}, wasxfail="known")], Verdict.XFAILED
            ),
            "known",
        ),
        (outcome(evidence="signal 11\nstack"), "signal 11"),
        (outcome(output="first\nlast\n"), "last"),
        (outcome(evidence="evidence", reason="the reason"), "the reason"),
        (outcome(verdict=Verdict.PASSED, output="chatter"), ""),
        (outcome(), ""),
    ],
)
def test_headline(said: Outcome, expected: str) -> None:
    assert headline(said) == expected


def test_explanation_has_tracebacks_of_failed_phases_and_each_section_once() -> None:
    sections = [{"$tuple": ["Captured stdout call", "printed\n"]}]
    said = outcome(
        [
            report("skipped text", outcome="skipped", longrepr=None, sections=[]),
            report("the traceback\n", outcome="failed", longrepr=None, sections=sections),
            report("", outcome="passed", longrepr=None, sections=sections),
        ]
    )

    text = explanation(said)

    assert text.startswith("the traceback\n---")
    assert text.count("printed") == 1
    assert "skipped text" not in text
    assert captured_output(said) == "printed\n"


def test_explanation_of_a_command_has_evidence_and_output() -> None:
    assert explanation(outcome(evidence="exit status 2", output="bad\n")) == "exit status 2\nbad"


@pytest.mark.parametrize(
    "reports",
    [
        b"",
        b"{",
        b"\xff",
        b"3",
        b"[3]",
        b"[{}]",
        b'[{"data": 3, "text": ""}]',
        b'[{"data":{"outcome":"x","sections":[1]},"text":""}]',
    ],
)
def test_reports_that_cannot_be_read_are_left_out(reports: bytes) -> None:
    said = outcome(reports, evidence="what is left")

    assert headline(said) == explanation(said) == "what is left"
