"""Frames of the runner protocol, as the worker cuts, decodes and bounds them."""

from __future__ import annotations

import json
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetest.errors import RemoteProtocolError
from fleetest.processes import frames
from fleetest.processes.bounded_text import BoundedOutput, read_bounded
from fleetest.processes.launch import encode_frame, start_frame


@given(bodies=st.lists(st.binary(max_size=40)), sizes=st.lists(st.integers(1, 50), min_size=1))
def test_frames_come_out_whole_however_the_stream_is_cut(bodies: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
    buffer, out, position, turn = frames.FrameBuffer(), [], 0, 0
    while position < len(stream):
        size = sizes[turn % len(sizes)]
        out += buffer.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert out == bodies


def test_an_oversized_frame_is_refused_before_it_is_there() -> None:
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        frames.FrameBuffer().feed(struct.pack(">I", frames.FRAME_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("row", "decoded"),
    [
        (["ready", 7], frames.Ready(7)),
        (["started", 3, 1.5], frames.Started(3, 1.5)),
        (["passed", 3, 1.5, 0.1, 0.2, 0.3, 0.4, 100], frames.Passed(3, 1.5, 0.1, 0.2, 0.3, 0.4, 100)),
        (["waiting", 3], frames.Waiting(3)),
        (["idle"], frames.Idle()),
        (["exit", "exit", "why", 3], frames.Exit("exit", "why", 3)),
        (["finished"], frames.Finished()),
    ],
)
def test_rows(row: list[object], decoded: frames.Row) -> None:
    assert frames.decode_row(json.dumps(row).encode()) == decoded


def test_reports_are_passed_on_as_they_came() -> None:
    body = b'["reported",3,"failed",1.5,0.1,0.2,0.3,0.4,100,[{"data": {"x":  1}}]]'
    row = frames.decode_row(body)
    assert isinstance(row, frames.Reported)
    assert bytes(row.reports) == b'[{"data": {"x":  1}}]'


@pytest.mark.parametrize(
    "body", [b'["unknown"]', b'["started"]', b"[]", b"{", b'["reported",0,"great",0,0,0,0,0,0,[]]']
)
def test_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        frames.decode_row(body)


def test_a_collection_is_decoded_to_items() -> None:
    frame = {
        "type": "collected",
        "items": [["a.py::t", "a.py", 3, "t", 0, ["t"], None, [[[], {"gpus": 1}]]]],
        "parents": [["a.py"]],
        "deselected": [],
        "report_lines": [],
        "start_method": "fork",
        "reason": None,
        "basetemp": "/tmp/x",
        "duration_s": 0.5,
    }
    collected = frames.decode_control(json.dumps(frame).encode())
    assert isinstance(collected, frames.Collected)
    (item,) = collected.items
    assert (item.node_id, item.line, item.fleet_marks) == ("a.py::t", 3, [([], {"gpus": 1})])


@pytest.mark.parametrize(
    ("portable", "value"),
    [
        ({"$tuple": [1, {"$tuple": []}]}, (1, ())),
        ({"$bytes": "AAE="}, b"\x00\x01"),
        ({"$dict": [[1, "a"], [{"$tuple": [2]}, "b"]]}, {1: "a", (2,): "b"}),
        ({"a": [{"$tuple": [1]}]}, {"a": [(1,)]}),
    ],
)
def test_portable_values(portable: object, value: object) -> None:
    assert frames.from_portable(portable) == value


def test_a_start_frame_is_one_frame_of_json() -> None:
    start = start_frame(args=["-k", "\udcff"], directory="/d", run_uid="0" * 32, runner_count=2, scratch="/s")
    (body,) = frames.FrameBuffer().feed(encode_frame(start))
    assert json.loads(body)["args"] == ["-k", "\udcff"]


@given(chunks=st.lists(st.binary(max_size=30)), limit=st.integers(2, 60))
def test_bounded_output_keeps_head_and_tail(chunks: list[bytes], limit: int) -> None:
    output = BoundedOutput(limit)
    for chunk in chunks:
        output.write(chunk.replace(b"\xff", b"."))
    whole = b"".join(chunks).replace(b"\xff", b".")
    half = limit // 2
    text = output.text()
    if len(whole) <= half * 2:
        assert text == whole[:half].decode("utf-8", "replace") + whole[half:].decode("utf-8", "replace")
    else:
        assert f"... {len(whole) - 2 * half} bytes cut ..." in text
        assert text.startswith(whole[:half].decode("utf-8", "replace"))
        assert text.endswith(whole[-half:].decode("utf-8", "replace"))


def test_a_file_is_read_from_both_ends(tmp_path: object) -> None:
    with open(f"{tmp_path}/file", "w+b") as file:
        file.write(b"a" * 100 + b"b" * 1_000_000 + b"c" * 100)
        file.flush()
        text = read_bounded(file.fileno(), 200)
        assert text == "a" * 100 + "\n... 1000000 bytes cut ...\n" + "c" * 100
        # The offset is the runner's as well: it must not have moved.
        assert file.tell() == 1_000_200
