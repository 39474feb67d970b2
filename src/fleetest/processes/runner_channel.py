"""The two sockets between the worker and one runner: positions out, results in."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import sys
from collections.abc import Sequence

import msgspec

from fleetest.errors import RemoteProtocolError
from fleetest.processes.bounded_text import read_bounded
from fleetest.processes.frames import FrameBuffer, Row, decode_row

NOTHING = 0xFFFFFFFF
_POSITION_BYTES = 4
_READ_BYTES = 64 * 1024
_TAKE_BACK_BYTES = 64 * 1024
_DESCRIPTORS_MAX = 4


class RunnerChannel:
    """Owns our ends, the duplicate of the runner's end of the tasks socket, and the runner's capture files."""

    def __init__(self) -> None:
        self._tasks, self._tasks_far = socket.socketpair()
        self._results, self._results_far = socket.socketpair()
        self._tasks.setblocking(False)
        self._results.setblocking(False)
        self._buffer = FrameBuffer()
        self._capture: list[int] = []
        self.is_ready = False
        """The runner has spoken."""
        self.is_eof = False
        self.is_closed = False

    @property
    def far_ends(self) -> tuple[socket.socket, socket.socket]:
        """What the runner gets: tasks, results."""
        return self._tasks_far, self._results_far

    @property
    def results_descriptor(self) -> int:
        return self._results.fileno()

    def handed_over(self) -> None:
        """The runner has its ends: ours of the results socket goes, so that its end is seen here."""
        self._results_far.close()

    def write(self, positions: Sequence[int]) -> bool:
        """Queue positions for the runner; False if there is no room for them (none was written then) or no reader."""
        data = _pack(positions)
        try:
            sent = self._tasks.send(data)
        except OSError:
            return False
        # A stream socket takes so little at once or not at all; half a position would be the end of all order.
        assert sent == len(data), (sent, len(data))
        return True

    def take_back(self) -> list[int]:
        """Positions (and NOTHING) that the runner had not yet read; it will not see them."""
        taken = b""
        while True:
            try:
                data = self._tasks_far.recv(_TAKE_BACK_BYTES, socket.MSG_DONTWAIT)
            except OSError:
                break
            if not data:
                break
            taken += data
        return list(struct.unpack(f"<{len(taken) // _POSITION_BYTES}I", taken))

    def read(self) -> list[Row]:
        """Rows that have arrived, in order; sets ``is_eof`` at the end. Raises RemoteProtocolError for nonsense."""
        rows: list[Row] = []
        while not self.is_eof:
            try:
                data = self._recv()
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.is_eof = True
                break
            try:
                rows.extend(map(decode_row, self._buffer.feed(data)))
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise RemoteProtocolError(str(error)) from error
            if len(data) < _READ_BYTES:
                break
        return rows

    def _recv(self) -> bytes:
        if self.is_ready:
            return self._results.recv(_READ_BYTES)
        # The descriptors come with the first byte of the first frame.
        data, descriptors, _, _ = socket.recv_fds(
            self._results, _READ_BYTES, _DESCRIPTORS_MAX, getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        )
        self._capture.extend(descriptors)
        if data:
            self.is_ready = True
        return data

    def read_output(self, limit_bytes: int) -> str:
        """What the running test has printed so far and pytest still holds; bounded."""
        texts = [read_bounded(descriptor, limit_bytes) for descriptor in self._capture[:2]]
        if len(texts) < 2 or not texts[1]:
            return texts[0] if texts else ""
        stderr = f"--- stderr ---\n{texts[1]}"
        return f"--- stdout ---\n{texts[0]}\n{stderr}" if texts[0] else stderr

    def end_tasks(self) -> None:
        """Nothing follows ever: the runner finishes its session."""
        self._tasks.close()

    def close(self) -> None:
        self.is_closed = True
        for end in (self._tasks, self._tasks_far, self._results, self._results_far):
            end.close()
        for descriptor in self._capture:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._capture.clear()


def _pack(positions: Sequence[int]) -> bytes:
    packed = array.array("I", positions)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
