"""The clients that have a link to the coordinator, their runs, and what they are told of the fleet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from fleetest.core.model import RunId
from fleetest.live_run import ClientLink
from fleetest.wire import messages as wire
from fleetest.worker_peers import WorkerPeers


@dataclass(slots=True, eq=False)
class ClientPeer:
    link: ClientLink
    run_ids: set[RunId] = field(default_factory=set)


class ClientPeers:
    """Each is told of the fleet when it comes, and whenever that has changed."""

    def __init__(self, workers: WorkerPeers) -> None:
        self._workers = workers
        self._peers: set[ClientPeer] = set()
        self._fleet_is_news = False

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, peer: ClientPeer) -> None:
        self._peers.add(peer)
        peer.link.send(self._fleet())

    def discard(self, peer: ClientPeer) -> None:
        self._peers.discard(peer)

    def fleet_changed(self) -> None:
        """Said once for all workers that come or go in one turn of the loop: a thousand may be lost at once."""
        if self._peers and not self._fleet_is_news:
            self._fleet_is_news = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._fleet_is_news = False
        fleet = self._fleet()
        for peer in self._peers:
            peer.link.send(fleet)

    def _fleet(self) -> wire.FleetChanged:
        return wire.FleetChanged(
            workers=tuple((str(worker.worker_id), worker.hello.slots) for worker in self._workers.by_id.values())
        )
