"""One end of a message link; every implementation passes the conformance suite in ``fleetest.testing``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

Incoming = TypeVar("Incoming", covariant=True)
Outgoing = TypeVar("Outgoing", contravariant=True)


class Link(Protocol, Generic[Incoming, Outgoing]):
    """Messages arrive in the order sent, each once, or the link is closed.

    All methods belong to the event loop's thread. ``send`` never blocks: messages handed in while the loop is busy
    leave together, in one frame where the implementation has frames.
    """

    peer: str
    """Who is at the other end, for people: ``embedded`` or an address."""

    def send(self, message: Outgoing) -> None:
        """Queue one message. After the link closed it is dropped: the receiver side learns of the closing."""

    async def drain(self) -> None:
        """Wait until the peer keeps up again (bounded queue); returns at once if it does or the link is closed."""

    async def receive(self) -> Sequence[Incoming]:
        """Wait for the next messages, at least one, in order.

        Raises LinkClosed when the link is closed and everything received before was handed out, and
        RemoteProtocolError if the peer sent what cannot be decoded (the link is closed then).
        """

    async def close(self, reason: str = "", code: int = 1000) -> None:
        """Send what is queued, then close. The peer's ``receive`` raises LinkClosed with this reason."""
