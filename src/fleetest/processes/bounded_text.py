"""Text of unknown size kept within a limit: the head and the tail, and between them how much is missing."""

from __future__ import annotations

import os
from collections import deque


def _joined(head: bytes, tail: bytes, cut_bytes: int) -> str:
    text = head.decode("utf-8", "replace")
    if cut_bytes:
        text += f"\n... {cut_bytes} bytes cut ...\n"
    return text + tail.decode("utf-8", "replace")


def read_bounded(descriptor: int, limit_bytes: int) -> str:
    """Content of a regular file from its start, without moving its offset, cut to ``limit_bytes``; "" if unreadable."""
    try:
        size = os.fstat(descriptor).st_size
        if size <= limit_bytes:
            return _joined(os.pread(descriptor, size, 0), b"", 0)
        half = limit_bytes // 2
        head = os.pread(descriptor, half, 0)
        tail = os.pread(descriptor, half, size - half)
    except OSError:
        return ""
    return _joined(head, tail, size - len(head) - len(tail))


class BoundedOutput:
    """Collects a stream in memory, never more than about ``limit_bytes`` of it."""

    def __init__(self, limit_bytes: int) -> None:
        self._half = max(1, limit_bytes // 2)
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._seen_bytes = 0

    def write(self, data: bytes) -> None:
        self._seen_bytes += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail.append(data)
            self._tail_bytes += len(data)
            while self._tail_bytes - len(self._tail[0]) >= self._half:
                self._tail_bytes -= len(self._tail.popleft())

    def text(self) -> str:
        """UTF-8 text so far; undecodable bytes are replaced."""
        tail = b"".join(self._tail)[-self._half :]
        return _joined(bytes(self._head), tail, self._seen_bytes - len(self._head) - len(tail))
