"""Portable values, frames, verdicts and bounds, without a process."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.reports import TestReport
from hypothesis import given
from hypothesis import strategies as st

from fleetest.processes.frames import FrameBuffer, from_portable
from fleetest.runner import frames
from fleetest.runner.frames import ControlChannel, PeerGone, encode_frame
from fleetest.runner.portable import cut, portable
from fleetest.runner.reports import encode_reported, is_compact, verdict_of

_LIMIT = 10_000
_scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(max_size=100)
_hashable = st.recursive(_scalars, lambda inner: st.tuples(inner, inner), max_leaves=4)
_values = st.recursive(
    _scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(_hashable, inner),
    max_leaves=20,
)


@given(_values)
def test_portable_values_come_back(value: Any) -> None:
    text = json.dumps(portable(value, _LIMIT), allow_nan=False)
    assert from_portable(json.loads(text)) == value


@given(st.lists(_scalars | st.floats() | st.integers() | st.sets(st.integers()), max_size=5))
def test_every_value_has_a_portable_form(value: Any) -> None:
    (body,) = FrameBuffer().feed(encode_frame(portable(value, _LIMIT)))
    json.loads(body.decode("utf-8"))


@given(st.text(alphabet=st.characters(codec=None, categories=("Cs", "Lu", "Po"))))
def test_frames_are_utf8_whatever_the_text(text: str) -> None:
    (body,) = FrameBuffer().feed(encode_frame([text]))
    ((found),) = json.loads(body.decode("utf-8"))
    found.encode("utf-8")
    assert found == text.encode("utf-8", "backslashreplace").decode("utf-8")


@given(st.text(), st.integers(1, 50))
def test_cut_keeps_head_and_tail(text: str, limit: int) -> None:
    found = cut(text, limit)
    if len(text) <= limit:
        assert found == text
    else:
        head, middle, tail = found.split("\n... ")[0], found, found.rsplit(" ...\n", 1)[1]
        assert text.startswith(head)
        assert text.endswith(tail)
        assert f"{len(text) - len(head) - len(tail)} characters left out" in middle


def test_recursion_ends() -> None:
    value: list[Any] = []
    value.append(value)
    assert len(json.dumps(portable(value, _LIMIT))) < 1000


def _report(when: str, outcome: str = "passed", **extra: Any) -> TestReport:
    return TestReport("a.py::t", ("a.py", 0, "t"), {"t": 1}, outcome, None, when, **extra)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reports", "verdict"),
    [
        ([("setup", "passed"), ("call", "passed"), ("teardown", "passed")], "passed"),
        ([("setup", "passed"), ("call", "failed"), ("teardown", "passed")], "failed"),
        ([("setup", "failed"), ("teardown", "passed")], "error"),
        ([("setup", "passed"), ("call", "passed"), ("teardown", "failed")], "error"),
        ([("setup", "passed"), ("call", "failed"), ("teardown", "failed")], "failed"),
        ([("setup", "skipped"), ("teardown", "passed")], "skipped"),
        ([("setup", "passed"), ("call", "skipped"), ("teardown", "failed")], "error"),
        ([("setup", "passed"), ("call", "passed"), ("teardown", "skipped")], "passed"),
        ([("setup", "rerun"), ("setup", "passed"), ("call", "passed"), ("teardown", "passed")], "passed"),
        ([], "skipped"),
    ],
)
def test_verdicts(reports: list[tuple[str, str]], verdict: str) -> None:
    assert verdict_of([_report(when, outcome) for when, outcome in reports]) == verdict


def test_xfail_verdicts() -> None:
    assert verdict_of([_report("setup"), _report("call", "skipped", wasxfail=""), _report("teardown")]) == "xfailed"
    assert verdict_of([_report("setup"), _report("call", wasxfail=""), _report("teardown")]) == "xpassed"
    assert verdict_of([_report("setup", "skipped", wasxfail="no run"), _report("teardown")]) == "xfailed"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"sections": [("Captured stdout call", "x")]}, False),
        ({"user_properties": [("a", 1)]}, False),
        ({"extras": []}, True),
        ({"extras": ["x"]}, False),
        ({"anything": None}, False),
        ({"wasxfail": "x"}, False),
        ({"keywords": {"t": 1, "added": 1}}, False),
        ({"outcome": "skipped"}, False),
        ({"longrepr": "text"}, False),
    ],
)
def test_only_what_says_nothing_is_compact(change: dict[str, Any], expected: bool) -> None:
    reports = [_report("setup"), _report("call"), _report("teardown")]
    vars(reports[1]).update(change)
    assert is_compact(reports, 1) is expected
    assert not is_compact(reports[:2], 1)


def test_control_frames_with_descriptors() -> None:
    near, far = socket.socketpair()
    tasks, results = socket.socketpair()
    channel = ControlChannel(far)
    data = encode_frame({"type": "fork", "slot": 1})
    with near, tasks, results:
        # In two parts: the descriptors come with the first.
        socket.send_fds(near, [data[:3]], [tasks.fileno(), results.fileno()])
        near.sendall(data[3:] + encode_frame({"type": "finish"}) + b"\0")
        assert channel.receive() == {"type": "fork", "slot": 1}
        first, second = channel.take_sockets()
        with first, second:
            first.sendall(b"to results")
            assert results.recv(10) == b"to results"
        assert channel.receive() == {"type": "finish"}
        with pytest.raises(PeerGone, match="without its descriptors"):
            channel.take_sockets()
    with pytest.raises(PeerGone):
        channel.receive()
    channel.close()


def test_rows_that_are_too_long_keep_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    def serialise(config: Any, report: TestReport) -> dict[str, Any]:
        return {"$report_type": "TestReport", **report._to_json()}

    monkeypatch.setattr(frames, "FRAME_BYTES_MAX", 20_000)
    config = SimpleNamespace(hook=SimpleNamespace(pytest_report_to_serializable=serialise))
    reports = [_report("setup", sections=[("Captured stdout setup", "x" * 9000)] * 9), _report("call", "failed")]
    reports[1].longrepr = "\x01" * 50_000
    (body,) = FrameBuffer().feed(encode_reported(["reported", 7], config, reports, 10_000))
    tag, position, (entry,) = json.loads(body)
    data = from_portable(entry["data"])
    assert (tag, position, data["when"], data["outcome"]) == ("reported", 7, "call", "failed")
    assert data["longrepr"] == entry["text"]
    assert "characters left out" in entry["text"]
    assert TestReport._from_json(data).failed
