"""The worker's side of its link: hello, refusal, reconnection, signals. No processes: nothing is executed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fleetest import worker as worker_module
from fleetest.core.model import Capabilities, Lease, LeaseId, RunId, TaskId
from fleetest.errors import ExitStatus, LinkClosed, RemoteProtocolError, UserError
from fleetest.transport.memory import memory_link_pair
from fleetest.wire import messages as wire
from fleetest.worker import Worker, WorkerSettings, run_worker

WELCOME = wire.Welcome(version=wire.PROTOCOL_VERSION, epoch=1, heartbeat_interval_s=3600.0)


def make_worker(**settings: Any) -> Worker:
    fields = {"name": "box", "slots": 2, **settings}
    return Worker(WorkerSettings(**fields), capabilities=Capabilities({"os": ("linux",)}, {"cpus": 2.0}))


def in_loop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module.random, "uniform", lambda low, high: 0.0)


async def next_of(link: Any, kind: type) -> Any:
    while True:
        for message in await link.receive():
            if isinstance(message, kind):
                return message


def test_hello_says_who_it_is() -> None:
    async def scenario() -> None:
        worker = make_worker()
        ours, theirs = memory_link_pair()
        serving = asyncio.ensure_future(worker.serve(theirs))
        hello = await next_of(ours, wire.WorkerHello)
        assert (hello.version, hello.name, hello.slots, hello.held_leases) == (wire.PROTOCOL_VERSION, "box", 2, ())
        assert hello.capabilities.resources == {"cpus": 2.0}
        await worker.close()
        await serving

    in_loop(scenario)


def test_the_session_stays_the_same_over_links() -> None:
    async def scenario() -> None:
        worker = make_worker()
        sessions = set()
        for _ in range(2):
            ours, theirs = memory_link_pair()
            serving = asyncio.ensure_future(worker.serve(theirs))
            sessions.add((await next_of(ours, wire.WorkerHello)).session)
            await ours.close("network")
            with pytest.raises(LinkClosed):
                await serving
        assert len(sessions) == 1
        await worker.close()

    in_loop(scenario)


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (wire.Refused(reason="full"), ExitStatus.UNREACHABLE, "refused this worker: full"),
        (wire.EndRun(run_id=RunId("r")), ExitStatus.UNREACHABLE, "EndRun before its welcome"),
        (wire.Welcome(version=99, epoch=1, heartbeat_interval_s=1.0), ExitStatus.UNREACHABLE, "version 99"),
    ],
)
def test_a_refusal_is_the_users_to_mend(answer: wire.CoordinatorMessage, status: ExitStatus, text: str) -> None:
    async def scenario() -> None:
        async def connect() -> Any:
            ours, theirs = memory_link_pair()
            ours.send(answer)
            return theirs

        with pytest.raises(UserError, match=text) as caught:
            await run_worker(make_worker(), connect, handle_signals=False)
        assert caught.value.exit_status is status

    in_loop(scenario)


def test_a_slot_that_is_not_there_is_the_peers_mistake() -> None:
    async def scenario() -> None:
        worker = make_worker()
        ours, theirs = memory_link_pair()
        ours.send(WELCOME)
        ours.send(wire.GrantLeases(slot=2, leases=()))
        with pytest.raises(RemoteProtocolError, match="no slot 2"):
            await worker.serve(theirs)
        await worker.close()

    in_loop(scenario)


def test_a_run_id_never_becomes_a_path_elsewhere() -> None:
    async def scenario() -> None:
        worker = make_worker()
        ours, theirs = memory_link_pair()
        ours.send(WELCOME)
        ours.send(wire.PrepareRun(run_id=RunId("../x"), suites=(), first_runner=0, runner_count=1))
        with pytest.raises(RemoteProtocolError, match="not the id of a run"):
            await worker.serve(theirs)
        await worker.close()

    in_loop(scenario)


def test_hello_says_for_which_runs_there_are_processes() -> None:
    async def scenario() -> None:
        worker = make_worker()
        ours, theirs = memory_link_pair()
        run_id = RunId("0" * 32)
        ours.send(WELCOME)
        ours.send(wire.PrepareRun(run_id=run_id, suites=(), first_runner=0, runner_count=1))
        await ours.close("network")
        with pytest.raises(LinkClosed):
            await worker.serve(theirs)
        ours, theirs = memory_link_pair()
        serving = asyncio.ensure_future(worker.serve(theirs))
        assert (await next_of(ours, wire.WorkerHello)).runs == (run_id,)
        await worker.close()
        await serving

    in_loop(scenario)


def test_leases_of_an_unknown_run_are_given_back() -> None:
    async def scenario() -> None:
        worker = make_worker()
        ours, theirs = memory_link_pair()
        serving = asyncio.ensure_future(worker.serve(theirs))
        ours.send(WELCOME)
        lease = Lease(LeaseId(7), RunId("r"), TaskId("t"), "", 1)
        ours.send(wire.GrantLeases(slot=0, leases=(lease,)))
        assert (await next_of(ours, wire.LeasesReturned)).lease_ids == (7,)
        await worker.close()
        await serving

    in_loop(scenario)


def test_heartbeats_come_at_the_coordinators_interval() -> None:
    async def scenario() -> None:
        worker = make_worker()
        ours, theirs = memory_link_pair()
        serving = asyncio.ensure_future(worker.serve(theirs))
        ours.send(wire.Welcome(version=wire.PROTOCOL_VERSION, epoch=1, heartbeat_interval_s=0.0))
        heartbeat = await next_of(ours, wire.Heartbeat)
        assert heartbeat.memory_available_bytes > 0
        await worker.close()
        await serving

    in_loop(scenario)


def test_a_broken_link_is_followed_by_another_one() -> None:
    async def scenario() -> None:
        ends: list[Any] = []
        notices: list[str] = []
        worker = make_worker()
        failures = [LinkClosed("connection lost"), OSError("no route"), UserError("gone", ExitStatus.UNREACHABLE)]
        third = asyncio.Event()

        async def connect() -> Any:
            if ends and failures:
                raise failures.pop(0)
            ours, theirs = memory_link_pair()
            ours.send(WELCOME)
            ends.append(ours)
            if len(ends) == 2:
                third.set()
            return theirs

        running = asyncio.ensure_future(run_worker(worker, connect, on_notice=notices.append, handle_signals=False))
        while not ends:
            await asyncio.sleep(0)
        await next_of(ends[0], wire.WorkerHello)
        while not worker.welcomes:
            await asyncio.sleep(0)
        await ends[0].close("network")
        await third.wait()
        await next_of(ends[1], wire.WorkerHello)
        await worker.drain()
        await running
        assert not failures
        # Said once, however many attempts it takes.
        assert len([notice for notice in notices if "connecting again" in notice]) == 1
        assert "network" in notices[1]

    in_loop(scenario)


def test_unreachable_at_first_is_told_at_once() -> None:
    async def scenario() -> None:
        async def connect() -> Any:
            raise UserError("nobody there", ExitStatus.UNREACHABLE)

        with pytest.raises(UserError, match="nobody there"):
            await run_worker(make_worker(), connect, handle_signals=False)

    in_loop(scenario)


def test_sigterm_drains() -> None:
    async def scenario() -> None:
        ours, theirs = memory_link_pair()
        ours.send(WELCOME)

        async def connect() -> Any:
            return theirs

        worker = make_worker()
        running = asyncio.ensure_future(run_worker(worker, connect))
        await next_of(ours, wire.WorkerHello)
        os.kill(os.getpid(), signal.SIGTERM)
        received = list(await ours.receive())
        while not isinstance(received[-1], wire.Goodbye):
            received += await ours.receive()
        assert [type(message) for message in received] == [wire.Draining, wire.Goodbye]
        with pytest.raises(LinkClosed):
            await ours.receive()
        await running
        assert worker.is_over

    in_loop(scenario)
