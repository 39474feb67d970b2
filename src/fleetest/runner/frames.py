"""Frames: a 4-byte big-endian length and UTF-8 JSON, with file descriptors as ancillary data."""

from __future__ import annotations

import array
import json
import re
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence, Tuple

FRAME_BYTES_MAX = 64 * 1024 * 1024

_LENGTH = struct.Struct(">I")
_READ_BYTES = 65536
_DESCRIPTORS_MAX = 16
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_SURROGATE = re.compile("[\ud800-\udfff]")
# Bound now: a suite may replace what json and socket offer.
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class PeerGone(Exception):
    """The other end of a socket is closed."""


def utf8(text: str) -> bytes:
    r"""Encode JSON text; a lone surrogate, which UTF-8 cannot carry, becomes the six characters ``\udcxx``."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return _SURROGATE.sub(lambda match: "\\\\u%04x" % ord(match.group()), text).encode("utf-8")


def encode_frame(value: Any) -> bytes:
    """Frame a JSON value. Raises ValueError if it is too long, TypeError if it is no JSON value."""
    return frame_of_text(_encode(value))


def frame_of_text(text: str) -> bytes:
    """Frame what is JSON already."""
    body = utf8(text)
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError("a frame of %d bytes is over the limit of %d" % (len(body), FRAME_BYTES_MAX))
    return _LENGTH.pack(len(body)) + body


def send_with_descriptors(stream: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    """Send all of ``data``; the descriptors travel with its first byte. Raises OSError."""
    sent = 0
    if descriptors:
        rights = array.array("i", descriptors)
        sent = stream.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _NO_SIGNAL)
    if sent < len(data):
        stream.sendall(data[sent:], _NO_SIGNAL)


class ControlChannel:
    """The control socket of a template or a spawned runner: blocking frames both ways.

    Received descriptors are queued in the order in which they came; ``take_descriptors`` hands out those of the frame
    that was received last, because every frame says by its type how many it brings.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._pending = bytearray()
        self._descriptors: List[int] = []

    def fileno(self) -> int:
        return self._stream.fileno()

    def send(self, frame: Dict[str, Any]) -> None:
        """Raises PeerGone if nobody listens any more."""
        try:
            self._stream.sendall(encode_frame(frame), _NO_SIGNAL)
        except OSError as error:
            raise PeerGone from error

    def receive(self) -> Dict[str, Any]:
        """Wait for one frame. Raises PeerGone at the end of the stream."""
        while True:
            frames = self.cut_frames(1)
            if frames:
                return frames[0]
            self.read_once()

    def read_once(self) -> None:
        """Read what is there (wait if nothing is). Raises PeerGone at the end of the stream."""
        space = socket.CMSG_SPACE(_DESCRIPTORS_MAX * 4)
        try:
            data, ancillary, _, _ = self._stream.recvmsg(_READ_BYTES, space, _CLOSE_ON_EXEC)
        except OSError as error:
            raise PeerGone from error
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                self._descriptors.extend(received)
        if not data:
            raise PeerGone
        self._pending += data

    def cut_frames(self, limit: int) -> List[Dict[str, Any]]:
        """At most ``limit`` frames that have been read completely."""
        frames: List[Dict[str, Any]] = []
        while len(frames) < limit and len(self._pending) >= 4:
            (length,) = _LENGTH.unpack_from(self._pending)
            if length > FRAME_BYTES_MAX:
                raise PeerGone("a frame of %d bytes" % length)
            if len(self._pending) < 4 + length:
                break
            frames.append(_decode(self._pending[4 : 4 + length].decode("utf-8", "surrogatepass")))
            del self._pending[: 4 + length]
        return frames

    def take_sockets(self) -> Tuple[socket.socket, socket.socket]:
        """The tasks and the results socket that came with the frame received last. Raises PeerGone if they did not."""
        if len(self._descriptors) < 2:
            raise PeerGone("a frame came without its descriptors")
        tasks, results = self._descriptors[:2]
        del self._descriptors[:2]
        return adopt_socket(tasks), adopt_socket(results)

    def close(self) -> None:
        self._stream.close()


_new_socket = socket.socket


def adopt_socket(descriptor: int) -> socket.socket:
    """A blocking, not inheritable socket object that owns ``descriptor``."""
    stream = _new_socket(fileno=descriptor)
    stream.setblocking(True)
    stream.set_inheritable(False)
    return stream
