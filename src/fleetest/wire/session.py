"""The handshake of both links, without I/O: who speaks first, and which version."""

from __future__ import annotations

from typing import TypeVar

from fleetest.errors import RemoteProtocolError
from fleetest.wire.codec import VersionMismatch
from fleetest.wire.messages import PROTOCOL_VERSION, ClientHello, WorkerHello

HANDSHAKE_TIMEOUT_S = 10.0
"""From the connection to the first message; a link that says nothing for longer is closed."""
SLOTS_MAX = 4096
NAME_CHARACTERS_MAX = 200

Hello = TypeVar("Hello", WorkerHello, ClientHello)


def check_hello(message: object, expected: type[Hello]) -> Hello:
    """The first message of a peer, checked. Raises RemoteProtocolError, VersionMismatch for another version."""
    if not isinstance(message, expected):
        raise RemoteProtocolError(f"the first message must be {expected.__name__}, not {type(message).__name__}")
    if message.version != PROTOCOL_VERSION:
        raise VersionMismatch(message.version)
    if isinstance(message, WorkerHello):
        if not 1 <= message.slots <= SLOTS_MAX:
            raise RemoteProtocolError(f"a worker with {message.slots} slots: 1 to {SLOTS_MAX} are possible")
        if not (message.name.isprintable() and 1 <= len(message.name) <= NAME_CHARACTERS_MAX):
            raise RemoteProtocolError(f"a worker's name must be 1 to {NAME_CHARACTERS_MAX} printable characters")
        if not 1 <= len(message.session) <= 200:
            raise RemoteProtocolError("a worker's session must be 1 to 200 characters")
        if len(message.process) > 200:
            raise RemoteProtocolError("the identity of a worker's process must be at most 200 characters")
    return message
