"""The workers that have a link to the coordinator, what they said of themselves, and the names they go by."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fleetest.core.model import WorkerId
from fleetest.processes.identity import is_alive
from fleetest.transport.link import Link
from fleetest.wire import messages as wire

WorkerLink: TypeAlias = Link[wire.WorkerMessage, wire.CoordinatorMessage]

SESSIONS_KEPT_MAX = 10_000
"""Names of workers that are gone, for the case that they come back; beyond this the oldest are forgotten."""


@dataclass(slots=True, eq=False)
class WorkerPeer:
    worker_id: WorkerId
    link: WorkerLink
    hello: wire.WorkerHello
    joined_at: float
    """Wall time."""
    process: str
    """Its identity (``processes.identity``), if it is of this machine and its end can be seen from here."""
    load_average: float = 0.0
    memory_available_bytes: int = 0

    @property
    def host(self) -> str:
        return self.hello.host

    @property
    def address(self) -> str:
        return self.link.peer


class WorkerPeers:
    """One peer for each name."""

    def __init__(self) -> None:
        self._peers: dict[WorkerId, WorkerPeer] = {}
        self._names: dict[str, WorkerId] = {}
        """By session; those of the latest that are gone too."""

    @property
    def by_id(self) -> Mapping[WorkerId, WorkerPeer]:
        return self._peers

    def get(self, worker_id: WorkerId) -> WorkerPeer | None:
        return self._peers.get(worker_id)

    def is_known(self, session: str) -> bool:
        """True if this session was here before."""
        return session in self._names

    def add(self, link: WorkerLink, hello: wire.WorkerHello) -> tuple[WorkerPeer, WorkerPeer | None]:
        """The new peer, and the one of the same session whose place it takes, if any."""
        worker_id = self._name_of(hello)
        process = hello.process if is_alive(hello.process) else ""
        older = self._peers.get(worker_id)
        peer = self._peers[worker_id] = WorkerPeer(worker_id, link, hello, time.time(), process)
        self._names[hello.session] = worker_id
        return peer, older

    def remove(self, peer: WorkerPeer, *, for_good: bool) -> bool:
        """False if a newer link of the same worker has taken over. ``for_good``: its session will not come back."""
        if self._peers.get(peer.worker_id) is not peer:
            return False
        del self._peers[peer.worker_id]
        if for_good:
            self._names.pop(peer.hello.session, None)
        return True

    def _name_of(self, hello: wire.WorkerHello) -> WorkerId:
        """The name it asks for; numbered if another live worker has it, so that two machines never evict each other."""
        known = self._names.get(hello.session)
        if known is not None:
            return known
        for session, name in list(self._names.items()):
            is_crowded = len(self._names) > SESSIONS_KEPT_MAX
            if name not in self._peers and (is_crowded or name == hello.name):
                del self._names[session]
        name, number = WorkerId(hello.name), 1
        while name in self._peers:
            number += 1
            name = WorkerId(f"{hello.name}-{number}")
        return name
