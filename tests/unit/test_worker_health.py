"""What a worker says of itself over a link in memory: its process, its probe, its heartbeats."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fleetest import worker as worker_module
from fleetest.core.model import Capabilities
from fleetest.errors import LinkClosed
from fleetest.processes.identity import own_identity
from fleetest.processes.probe import Probe, ProbeResult, ProbeSettings, last_line
from fleetest.transport.memory import memory_link_pair
from fleetest.wire import messages as wire
from fleetest.worker import Worker, WorkerSettings

HOUR_S = 3600.0


def welcome(interval_s: float = HOUR_S, epoch: int = 1) -> wire.Welcome:
    return wire.Welcome(version=wire.PROTOCOL_VERSION, epoch=epoch, heartbeat_interval_s=interval_s)


def make_worker(**settings: Any) -> Worker:
    return Worker(WorkerSettings(name="box", slots=1, **settings), capabilities=Capabilities())


async def next_of(link: Any, kind: type) -> Any:
    while True:
        for message in await asyncio.wait_for(link.receive(), 60):
            if isinstance(message, kind):
                return message


class ScriptedProbe(Probe):
    """Its results are given by the test."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    def show(self, result: ProbeResult) -> None:
        self.result = result
        self._on_change(result)


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "Probe", ScriptedProbe)


def test_it_says_which_process_it_is_and_whether_it_has_a_probe() -> None:
    async def scenario() -> None:
        for probe in (None, ProbeSettings("true")):
            worker = make_worker(probe=probe)
            ours, theirs = memory_link_pair()
            serving = asyncio.ensure_future(worker.serve(theirs))
            hello = await next_of(ours, wire.WorkerHello)
            assert hello.process == own_identity()
            assert hello.has_probe == (probe is not None)
            await worker.close()
            await serving

    asyncio.run(scenario())


def test_what_its_probe_says_is_told_at_once_and_again_on_every_new_link() -> None:
    async def scenario() -> None:
        worker = make_worker(probe=ProbeSettings("true"))
        ours, theirs = memory_link_pair()
        serving = asyncio.ensure_future(worker.serve(theirs))
        ours.send(welcome())
        await next_of(ours, wire.WorkerHello)
        while not worker.welcomes:
            await asyncio.sleep(0)
        probe = worker._probe
        assert isinstance(probe, ScriptedProbe)
        probe.show(ProbeResult(False, "no disk"))
        assert await next_of(ours, wire.Probed) == wire.Probed(is_ok=False, detail="no disk")
        await ours.close("network")
        with pytest.raises(LinkClosed):
            await serving
        probe.show(ProbeResult(True, "all well"))  # Nobody is there to be told.
        ours, theirs = memory_link_pair()
        serving = asyncio.ensure_future(worker.serve(theirs))
        ours.send(welcome(epoch=2))
        assert await next_of(ours, wire.Probed) == wire.Probed(is_ok=True, detail="all well")
        await worker.close()
        await serving

    asyncio.run(scenario())


def test_another_interval_holds_at_once() -> None:
    """The first heartbeat is an hour away until the coordinator says otherwise."""

    async def scenario() -> None:
        worker = make_worker()
        ours, theirs = memory_link_pair()
        serving = asyncio.ensure_future(worker.serve(theirs))
        ours.send(welcome(HOUR_S))
        ours.send(wire.SetHeartbeat(interval_s=0.001))
        for _ in range(3):
            await next_of(ours, wire.Heartbeat)
        await worker.close()
        await serving

    asyncio.run(scenario())


def test_heartbeats_come_with_jitter_and_never_late(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []

    async def wait_for(awaitable: Any, timeout: float | None) -> Any:
        if timeout is not None and timeout > 60:
            pauses.append(timeout)
            timeout = 0.0
        return await real(awaitable, timeout)

    real = asyncio.wait_for
    monkeypatch.setattr(worker_module.asyncio, "wait_for", wait_for)

    async def scenario() -> None:
        worker = make_worker()
        ours, theirs = memory_link_pair()
        serving = asyncio.ensure_future(worker.serve(theirs))
        ours.send(welcome(HOUR_S))
        for _ in range(30):
            await next_of(ours, wire.Heartbeat)
        await worker.close()
        await serving

    asyncio.run(scenario())
    assert all(0.9 * HOUR_S <= pause <= HOUR_S for pause in pauses)
    assert len(set(pauses)) > 10


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", ""),
        ("\n \n", ""),
        ("one\ntwo\n\n", "two"),
        ("\x1b[31mred\x1b[0m\r\n", "[31mred[0m"),
        ("x" * 1000, "x" * 300),
        ("\u202eevil\n", "evil"),
    ],
)
def test_the_last_line_of_a_probe_is_hostile_text(output: str, line: str) -> None:
    assert last_line(output) == line
