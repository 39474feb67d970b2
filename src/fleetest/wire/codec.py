"""Messages to frames and back: one frame is a msgpack array of messages.

Everything a peer sends passes here once; what is not exactly a message of its direction is refused.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from fleetest.core.model import AttemptResult
from fleetest.errors import ExitStatus, FleetestError, RemoteProtocolError, UserError
from fleetest.wire.messages import (
    PROTOCOL_VERSION,
    AttemptsFinished,
    ClientMessage,
    CoordinatorMessage,
    CoordinatorToClient,
    SuiteFailed,
    SuitePlan,
    TasksFinished,
    WorkerMessage,
)

Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")

FRAME_BYTES_MAX = 64 * 1024 * 1024
"""The largest frame that is read. A whole collection travels in one message (about 400 bytes per test), so this is
room for some 150,000 tests; only peers that showed the token ever get to send a frame."""
FRAME_BYTES_TARGET = 1024 * 1024
"""Messages queued together share frames of about this size, so that no frame grows with the backlog."""

_HEADER_BYTES = 5


class VersionMismatch(RemoteProtocolError, UserError):
    """The peer speaks another version of the protocol; whoever dialled can mend that."""

    def __init__(self, theirs: object) -> None:
        self.exit_status = ExitStatus.UNREACHABLE
        FleetestError.__init__(
            self,
            f"the peer speaks version {theirs} of the protocol, this side version {PROTOCOL_VERSION}:"
            " install the same Fleetest on both",
        )


class Codec(Generic[Incoming, Outgoing]):
    """Encoder of one direction and decoder of the other. Not for use by two threads at once."""

    def __init__(self, incoming: Any, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(list[incoming])
        self._frame_bytes_max = frame_bytes_max

    def encode(self, messages: Sequence[Outgoing]) -> list[bytes]:
        """Frames for ``messages``, in order; none is larger than the peer reads."""
        frames: list[bytes] = []
        pending: list[bytes] = []
        pending_bytes = 0
        for message in messages:
            for encoded in self._encode_one(message):
                if pending and pending_bytes + len(encoded) > FRAME_BYTES_TARGET:
                    frames.append(_frame(pending))
                    pending, pending_bytes = [], 0
                pending.append(encoded)
                pending_bytes += len(encoded)
        if pending:
            frames.append(_frame(pending))
        return frames

    def decode(self, frame: bytes) -> list[Incoming]:
        """The messages of one frame, at least one.

        Raises RemoteProtocolError for anything else, VersionMismatch if it is the first word of another version.
        """
        if len(frame) > self._frame_bytes_max:
            raise RemoteProtocolError(f"a frame of {len(frame)} bytes, at most {self._frame_bytes_max} are read")
        try:
            messages = cast("list[Incoming]", self._decoder.decode(frame))
        except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError) as error:
            theirs = _announced_version(frame)
            if theirs is not None and theirs != PROTOCOL_VERSION:
                raise VersionMismatch(theirs) from None
            raise RemoteProtocolError(f"a frame that is not understood: {error}") from None
        if not messages:
            raise RemoteProtocolError("an empty frame")
        return messages

    def _encode_one(self, message: object) -> list[bytes]:
        try:
            encoded = self._encoder.encode(message)
        except UnicodeEncodeError:
            encoded = self._encoder.encode(_printable(msgspec.to_builtins(message, builtin_types=(bytes,))))
        if len(encoded) <= FRAME_BYTES_TARGET:
            return [encoded]
        halves = _halves(message)
        if halves:
            return [part for half in halves for part in self._encode_one(half)]
        if len(encoded) + _HEADER_BYTES <= self._frame_bytes_max:
            return [encoded]
        return self._encode_one(_in_place_of(message, len(encoded), self._frame_bytes_max))


def worker_codec() -> Codec[CoordinatorMessage, WorkerMessage]:
    """The worker's side of a worker link."""
    return Codec(CoordinatorMessage)


def coordinator_worker_codec() -> Codec[WorkerMessage, CoordinatorMessage]:
    """The coordinator's side of a worker link."""
    return Codec(WorkerMessage)


def client_codec() -> Codec[CoordinatorToClient, ClientMessage]:
    """The client's side of a client link."""
    return Codec(CoordinatorToClient)


def coordinator_client_codec() -> Codec[ClientMessage, CoordinatorToClient]:
    """The coordinator's side of a client link."""
    return Codec(ClientMessage)


def _frame(encoded: list[bytes]) -> bytes:
    count = len(encoded)
    if count < 16:
        header = bytes((0x90 | count,))
    elif count < 65536:
        header = struct.pack(">BH", 0xDC, count)
    else:
        header = struct.pack(">BI", 0xDD, count)
    return b"".join((header, *encoded))


def _printable(value: Any) -> Any:
    """The same plain value with lone surrogates, which tests may print and no frame can hold, written out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (list, tuple)):
        return [_printable(each) for each in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(each) for key, each in value.items()}
    return value


def _halves(message: object) -> tuple[object, ...]:
    """The same message in two parts, for those whose parts mean the same as the whole; else nothing."""
    if isinstance(message, AttemptsFinished) and len(message.results) > 1:
        middle = len(message.results) // 2
        return AttemptsFinished(results=message.results[:middle]), AttemptsFinished(results=message.results[middle:])
    if isinstance(message, TasksFinished) and len(message.outcomes) > 1:
        middle = len(message.outcomes) // 2
        return (
            TasksFinished(run_id=message.run_id, outcomes=message.outcomes[:middle]),
            TasksFinished(run_id=message.run_id, outcomes=message.outcomes[middle:]),
        )
    return ()


def _in_place_of(message: object, size_bytes: int, limit_bytes: int) -> object:
    """What is said instead of a message that no frame can hold: the truth about it, in one line."""
    size = f"{size_bytes / 2**20:.0f} MiB, over the limit of {limit_bytes / 2**20:.0f} MiB"
    if isinstance(message, SuitePlan):
        text = f"the collection of {len(message.tasks)} tests takes {size} of one message: split the run"
        return SuiteFailed(run_id=message.run_id, suite=message.suite, kind="usage_error", text=text)
    if isinstance(message, AttemptsFinished):
        return AttemptsFinished(results=[_without_reports(message.results[0], size)])
    if isinstance(message, TasksFinished) and message.outcomes[0].result is not None:
        result = _without_reports(message.outcomes[0].result, size)
        outcome = msgspec.structs.replace(message.outcomes[0], result=result)
        return TasksFinished(run_id=message.run_id, outcomes=[outcome])
    raise RemoteProtocolError(f"a {type(message).__name__} of {size}")


def _without_reports(result: AttemptResult, size: str) -> AttemptResult:
    if result.reports is None and not result.output:
        raise RemoteProtocolError(f"a result of {size} without reports")
    evidence = f"{result.evidence[:10_000]}\nreports and output were dropped: {size}".lstrip()
    return dataclasses.replace(result, reports=None, output="", evidence=evidence)


def _announced_version(frame: bytes) -> object:
    """The version in a hello or welcome that this version cannot decode; None if it is not one."""
    try:
        messages = msgspec.msgpack.decode(frame)
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
        return None
    first = messages[0] if isinstance(messages, list) and messages else None
    if isinstance(first, dict) and first.get("type") in {"WorkerHello", "ClientHello", "Welcome"}:
        version: object = first.get("version")
        return version
    return None
