"""Frames between the worker, templates and runners: lengths, and the typed content of both channels."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from fleetest.errors import RemoteProtocolError

FRAME_BYTES_MAX = 64 * 1024 * 1024
_LENGTH_BYTES = 4


class FrameBuffer:
    """Cuts a byte stream into frames. Bytes that do not yet make a frame are kept for the next call."""

    __slots__ = ("_needed", "_pending")

    def __init__(self) -> None:
        self._pending = bytearray()
        self._needed = _LENGTH_BYTES

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies completed by ``data``, in order. Raises RemoteProtocolError for an oversized one."""
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return []
            data = bytes(self._pending)
            self._pending.clear()
        bodies: list[bytes] = []
        offset, end = 0, len(data)
        while end - offset >= _LENGTH_BYTES:
            start = offset + _LENGTH_BYTES
            length = int.from_bytes(data[offset:start], "big")
            if length > FRAME_BYTES_MAX:
                raise RemoteProtocolError(f"a frame of {length} bytes is over the limit of {FRAME_BYTES_MAX}")
            if end - start < length:
                self._needed = _LENGTH_BYTES + length
                break
            offset = start + length
            bodies.append(data[start:offset])
        else:
            self._needed = _LENGTH_BYTES
        if offset < end:
            self._pending += data[offset:]
        return bodies


# Control: template -> worker -------------------------------------------------------------------------------------


class _Control(msgspec.Struct, tag_field="type", gc=False):
    pass


class Hello(_Control, tag="hello"):
    pid: int
    python: str
    pytest: str
    implementation: str = ""


class CollectReport(_Control, tag="collect_report"):
    report: msgspec.Raw


class CollectionWarning(_Control, tag="warning"):
    warning: msgspec.Raw


class Item(msgspec.Struct, array_like=True, gc=False):
    """One collected item; ``fleet_marks`` are ``[args, kwargs]``, closest first, as portable values."""

    node_id: str
    path: str
    line: int | None
    domain: str
    parent: int
    own_keywords: list[str]
    mark_group: str | None
    fleet_marks: list[tuple[Any, Any]]


class Collected(_Control, tag="collected"):
    items: list[Item]
    parents: list[list[str]]
    deselected: list[str] = []
    report_lines: list[str] = []
    start_method: str = "fork"
    reason: str | None = None
    basetemp: str | None = None
    duration_s: float = 0.0


class Failed(_Control, tag="failed"):
    kind: str
    text: str = ""
    exit_status: int | None = None
    collected: int = 0


class Forked(_Control, tag="forked"):
    slot: int
    pid: int


class Exited(_Control, tag="exited"):
    slot: int
    pid: int
    status: int


class ForkFailed(_Control, tag="fork_failed"):
    slot: int
    reason: str


ControlFrame: TypeAlias = Hello | CollectReport | CollectionWarning | Collected | Failed | Forked | Exited | ForkFailed

# Results: runner -> worker ---------------------------------------------------------------------------------------


class _Row(msgspec.Struct, array_like=True, gc=False):
    pass


class Ready(_Row, tag="ready"):
    pid: int


class Started(_Row, tag="started"):
    position: int
    started_at: float


class Passed(_Row, tag="passed"):
    position: int
    started_at: float
    setup_s: float
    call_s: float
    teardown_s: float
    cpu_s: float
    peak_memory_kb: int


class Reported(_Row, tag="reported"):
    position: int
    verdict: Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed"]
    started_at: float
    setup_s: float
    call_s: float
    teardown_s: float
    cpu_s: float
    peak_memory_kb: int
    reports: msgspec.Raw


class Waiting(_Row, tag="waiting"):
    position: int


class Idle(_Row, tag="idle"):
    pass


class WarningRow(_Row, tag="warning"):
    warning: msgspec.Raw


class Exit(_Row, tag="exit"):
    kind: str
    reason: str
    exit_status: int | None = None


class Finished(_Row, tag="finished"):
    pass


Row: TypeAlias = Ready | Started | Passed | Reported | Waiting | Idle | WarningRow | Exit | Finished

decode_control = msgspec.json.Decoder(ControlFrame).decode
decode_row = msgspec.json.Decoder(Row).decode


def from_portable(value: Any) -> Any:
    """Undo the portable form of a value (tuples, bytes and dictionaries with unusual keys; see the runner protocol)."""
    if isinstance(value, list):
        return [from_portable(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, content),) = value.items()
        if key == "$tuple":
            return tuple(from_portable(entry) for entry in content)
        if key == "$bytes":
            return msgspec.convert(content, bytes)
        if key == "$dict":
            return {from_portable(name): from_portable(entry) for name, entry in content}
    return {name: from_portable(entry) for name, entry in value.items()}
