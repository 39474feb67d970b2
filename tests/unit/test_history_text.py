"""Traceback, output and reason, as taken from pytest's reports and from evidence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetest.core.model import AttemptResult, LeaseId, Verdict
from fleetest.storage.report_text import TEXT_LIMIT_CHARS, AttemptText, attempt_text
from fleetest.wire.report_text import shorten


def text_of(verdict: Verdict, reports: Any = None, said: str = "", **result: Any) -> AttemptText:
    encoded = None if reports is None else json.dumps(reports).encode()
    return attempt_text(AttemptResult(LeaseId(1), verdict, reports=encoded, **result), verdict, said)


def report(outcome: str, text: str = "", **data: Any) -> dict[str, Any]:
    """As the runner sends it: ``$report_type`` makes the dictionary travel as pairs."""
    fields = {"outcome": outcome, **data, "$report_type": "TestReport"}
    return {"data": {"$dict": [[key, value] for key, value in fields.items()]}, "text": text}


def test_texts_of_all_failing_phases() -> None:
    text = text_of(
        Verdict.ERROR,
        [
            report("passed", "not this"),
            report("failed", "x\nE   KeyError: 'a'"),
            report("failed", "y\nE       ValueError"),
        ],
    )
    assert text.traceback == "x\nE   KeyError: 'a'\n\ny\nE       ValueError"
    assert text.reason == "KeyError: 'a'"


def test_sections_of_the_fullest_report_once() -> None:
    setup = ["Captured stdout setup", "one"]
    call = {"$tuple": ["Captured log call", "two"]}
    text = text_of(Verdict.PASSED, [report("passed", sections=[setup]), report("passed", sections=[setup, call])])
    assert text == AttemptText("--- Captured stdout setup ---\none\n--- Captured log call ---\ntwo", None, None)


def test_output_of_the_attempt_comes_first() -> None:
    text = text_of(Verdict.TIMEOUT, [report("passed", sections=[["a", "b"]])], output="raw", evidence="stacks")
    assert text == AttemptText("raw\n--- a ---\nb", "stacks", "stacks")


@pytest.mark.parametrize(
    ("longrepr", "reason"),
    [
        ({"$tuple": ["a.py", 3, "Skipped: no GPU"]}, "no GPU"),
        (["a.py", 3, "Skipped: no GPU"], "no GPU"),
        ("text", None),
        (None, None),
        ({"$tuple": ["a.py", 3, 4]}, None),
    ],
)
def test_reason_of_a_skip(longrepr: Any, reason: str | None) -> None:
    assert text_of(Verdict.SKIPPED, [report("skipped", longrepr=longrepr)]).reason == reason


def test_reason_of_an_expected_failure() -> None:
    text = text_of(Verdict.XFAILED, [report("skipped", "E   assert 0", wasxfail="bug 1")])
    assert text == AttemptText(None, None, "bug 1")


def test_a_report_may_be_a_plain_object() -> None:
    text = text_of(Verdict.SKIPPED, [{"data": {"outcome": "skipped", "longrepr": ["a.py", 3, "Skipped: x"]}}])
    assert text == AttemptText(None, None, "x")


def test_what_the_coordinator_says_wins() -> None:
    assert text_of(Verdict.FAILED, [report("failed", "E   assert 0")], said="lost worker").reason == "lost worker"


@pytest.mark.parametrize(
    "reports",
    [
        b"",
        b"junk",
        b"[1]",
        b'[{"text": 1, "data": {}}]',
        b"[" * 100_000,
        b'[{"data": {"longrepr": ' + b"[" * 5000 + b"]" * 5000 + b"}}]",
        b'[{"data": {"outcome": "skipped", "sections": 7, "longrepr": 1e999}}]',
        b'[{"data": {"outcome": {}, "sections": [[1, 2], ["a"], "b"]}}]',
        b'[{"data": {"$dict": 7}}]',
        b'[{"data": {"$dict": [[{"$tuple": [1]}, 2], ["outcome", {}], ["sections", 1]]}}]',
        b'\xff\xfe[{"data": {}}]',
    ],
)
def test_unreadable_reports_are_left_out(reports: bytes) -> None:
    result = AttemptResult(LeaseId(1), Verdict.SKIPPED, reports=reports, evidence="seen")
    assert attempt_text(result, Verdict.SKIPPED, "") == AttemptText(None, "seen", "seen")


@given(st.text(), st.integers(2, 50))
def test_shortened_text_keeps_head_and_tail(text: str, limit_chars: int) -> None:
    short = shorten(text, limit_chars)
    if len(text) <= limit_chars:
        assert short == text
    else:
        half = limit_chars // 2
        assert short.startswith(text[:half])
        assert short.endswith(text[-half:])
        assert f"{len(text) - 2 * half} characters" in short


def test_output_and_traceback_are_bounded() -> None:
    text = text_of(Verdict.FAILED, output="x" * 10_000_000, evidence="y" * 10_000_000)
    assert len(text.output or "") < TEXT_LIMIT_CHARS + 100
    assert len(text.traceback or "") < TEXT_LIMIT_CHARS + 100
    assert len(text.reason or "") < 600
