"""Links inside one event loop: the same message objects, no encoding, no copies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from fleetest.errors import LinkClosed
from fleetest.transport.link import Link

Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")

HIGH_WATER_MESSAGES = 1000


class MemoryLink(Generic[Incoming, Outgoing]):
    """One end of a pair; made by :func:`memory_link_pair`."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self._other: MemoryLink[Outgoing, Incoming]
        self._inbox: list[Incoming] = []
        self._closed: LinkClosed | None = None
        self._reader: asyncio.Future[None] | None = None
        self._drainers: list[asyncio.Future[None]] = []
        """Senders at the other end that wait until this inbox was emptied."""

    def send(self, message: Outgoing) -> None:
        if self._closed is None:
            other = self._other
            other._inbox.append(message)
            if other._reader is not None:
                other._wake_reader()

    async def drain(self) -> None:
        other = self._other
        if self._closed is None and len(other._inbox) > HIGH_WATER_MESSAGES:
            waiter = asyncio.get_running_loop().create_future()
            other._drainers.append(waiter)
            await waiter

    async def receive(self) -> Sequence[Incoming]:
        while not self._inbox:
            if self._closed is not None:
                raise LinkClosed(self._closed.reason, self._closed.code)
            assert self._reader is None, "two tasks receive from one link"
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        messages, self._inbox = self._inbox, []
        self._wake_drainers()
        return messages

    async def close(self, reason: str = "", code: int = 1000) -> None:
        self._shut(reason, code)
        self._other._shut(reason, code)

    def _shut(self, reason: str, code: int) -> None:
        if self._closed is None:
            self._closed = LinkClosed(reason, code)
            self._wake_reader()
            self._wake_drainers()
            self._other._wake_drainers()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_drainers(self) -> None:
        if self._drainers:
            waiters, self._drainers = self._drainers, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


def memory_link_pair(
    first_peer: str = "embedded", second_peer: str = "embedded"
) -> tuple[Link[Any, Any], Link[Any, Any]]:
    """Two ends joined to each other, both used on one event loop. ``*_peer`` is what each end calls the other."""
    first: MemoryLink[Any, Any] = MemoryLink(first_peer)
    second: MemoryLink[Any, Any] = MemoryLink(second_peer)
    first._other, second._other = second, first
    return first, second
