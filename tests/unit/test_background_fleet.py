"""The thread that keeps the client's link: whatever happens there reaches whoever waits for messages."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest

from fleetest.client.background import BackgroundFleet
from fleetest.core.model import RunId
from fleetest.transport.memory import memory_link_pair
from fleetest.wire import messages as wire

RUN = wire.SubmitRun(run_id=RunId("0" * 32), suites=(wire.CommandSuite(),))
WELCOME = wire.Welcome(version=wire.PROTOCOL_VERSION, epoch=1, heartbeat_interval_s=5.0)


SHORT = wire.SubmitRun(run_id=RunId("1" * 32), suites=())
FINISHED = wire.RunFinished(run_id=SHORT.run_id, counts={})


class Coordinator:
    """Welcomes its client; ``heard`` has what came, in order; a heartbeat is sent back, and the short run is over at once."""

    def __init__(self, link):
        self.link = link
        self.heard = []

    async def serve(self):
        self.link.send(WELCOME)
        while True:
            for message in await self.link.receive():
                self.heard.append(message)
                if isinstance(message, wire.Heartbeat):
                    self.link.send(message)
                elif message == SHORT:
                    self.link.send(FINISHED)


def fleet_with(make_client_end, coordinators, left=None):
    """``left``: set when the fleet has closed its link."""

    @asynccontextmanager
    async def open_link(notices):
        client_end, coordinator_end = memory_link_pair()
        coordinators.append(Coordinator(coordinator_end))
        serving = asyncio.ensure_future(coordinators[-1].serve())
        try:
            yield make_client_end(client_end)
        finally:
            serving.cancel()
            if left is not None:
                left.set()

    fleet = BackgroundFleet(open_link)
    fleet.wait_connected()
    return fleet


def test_a_cancellation_has_been_taken_in_when_it_returns():
    coordinators = []
    fleet = fleet_with(lambda link: link, coordinators)
    try:
        fleet.submit(RUN)
        fleet.cancel("enough")
        heard = list(coordinators[0].heard)
        assert heard[-2:] == [wire.CancelRun(run_id=RUN.run_id, reason="enough"), wire.Heartbeat()]
        assert fleet.receive(timeout_s=0.0) == (), "the echo is nobody's message"
    finally:
        fleet.close()


def test_the_link_is_closed_once_the_run_is_over_while_the_client_still_writes_its_summary():
    coordinators, left = [], threading.Event()
    fleet = fleet_with(lambda link: link, coordinators, left)
    fleet.submit(SHORT)
    assert fleet.receive(timeout_s=60.0) == [FINISHED]
    assert left.wait(60.0), "nobody has called close"
    fleet.cancel("nobody is there to answer, and nobody waits for it")
    assert fleet.close() == []


class BrokenLink:
    """A link with a mistake of ours in it: it breaks after its first batch."""

    def __init__(self, link):
        self._link = link
        self._batches = 0

    def __getattr__(self, name):
        return getattr(self._link, name)

    async def receive(self):
        self._batches += 1
        if self._batches > 1:
            raise NameError("a mistake of ours")
        return await self._link.receive()


def test_a_mistake_of_ours_ends_the_wait_instead_of_hanging_it():
    fleet = fleet_with(BrokenLink, [])
    try:
        with pytest.raises(NameError, match="a mistake of ours"):
            fleet.receive(timeout_s=60.0)
    finally:
        fleet.close()
