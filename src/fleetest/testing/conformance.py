"""What every link must do. Subclass :class:`LinkConformance` in a test module and give it a ``pair``."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import wraps
from typing import Any, TypeVar

import pytest

from fleetest.core.model import (
    AttemptResult,
    Capabilities,
    Constraint,
    GangPlace,
    Lease,
    LeaseId,
    Operator,
    Requirements,
    RunId,
    TaskId,
    TaskSpec,
    Verdict,
    WorkerId,
)
from fleetest.errors import LinkClosed
from fleetest.transport.link import Link
from fleetest.wire import messages as wire

WorkerEnd = Link[wire.CoordinatorMessage, wire.WorkerMessage]
CoordinatorEnd = Link[wire.WorkerMessage, wire.CoordinatorMessage]
Pair = tuple[WorkerEnd, CoordinatorEnd]
Suite = TypeVar("Suite", bound="LinkConformance")

REQUIREMENTS = Requirements((("gpus", 1.0),), (Constraint("cuda", Operator.GE, "12"),), ("db",), alone=True)
TIMEOUT_S = 60.0
"""Only a bound for a link that hangs; no test waits for it."""


def on_event_loop(
    test: Callable[[Suite, WorkerEnd, CoordinatorEnd], Coroutine[Any, Any, None]],
) -> Callable[[Suite], None]:
    """Run the test on a loop of its own with a fresh pair."""

    @wraps(test)
    def run(self: Suite) -> None:
        async def main() -> None:
            async with self.pair() as (worker, coordinator):
                await asyncio.wait_for(test(self, worker, coordinator), TIMEOUT_S)

        asyncio.run(main())

    del run.__wrapped__  # pytest would ask for the test's own parameters
    return run


async def receive_all(link: Link[Any, Any], count: int) -> list[Any]:
    """The next ``count`` messages, in order."""
    received: list[Any] = []
    while len(received) < count:
        batch = await link.receive()
        assert len(batch) >= 1
        received += batch
    return received


def plan_of(count: int) -> wire.SuitePlan:
    """A plan of ``count`` tasks."""
    ids = [f"tests/test_{number // 10}.py::test_number[{number}]" for number in range(count)]
    return wire.SuitePlan(
        run_id=RunId("a" * 32),
        suite="",
        fingerprint="f",
        tasks=[TaskSpec(TaskId(task_id), group=task_id.partition("::")[0]) for task_id in ids],
        items=[wire.ItemInfo(task_id, task_id.partition("::")[0], 1, "test_number", ("a", "b")) for task_id in ids],
    )


def worker_messages() -> Sequence[wire.WorkerMessage]:
    """One of each kind that needs care on the way."""
    capabilities = Capabilities({"os": ("linux",), "python": ("3.11.7", "3.12.1")}, {"cpus": 2.0})
    result = AttemptResult(
        LeaseId(7),
        Verdict.FAILED,
        1.5,
        0.25,
        reports=b'[{"a": 1}]',
        output="\x1b[31mred\udcff".encode("utf-8", "replace").decode(),
        evidence="why",
        artifacts=("a/b",),
    )
    return (
        wire.WorkerHello(version=1, name="w", session="s", slots=2, capabilities=capabilities),
        plan_of(3),
        wire.AttemptsStarted(leases=((LeaseId(7), 12.5),)),
        wire.AttemptsFinished(results=[result, AttemptResult(LeaseId(8), Verdict.PASSED)]),
        wire.SuiteFailed(run_id=RunId("a" * 32), suite="s", kind="exit", exit_status=None),
        wire.Goodbye(reason="bye"),
    )


def coordinator_messages() -> Sequence[wire.CoordinatorMessage]:
    """One of each kind that needs care on the way."""
    run_id = RunId("a" * 32)
    lease = Lease(LeaseId(2**63 - 1), run_id, TaskId("t.py::test[é\u2028]"), "", 1, timeout_s=None)
    gang = GangPlace("7-1", 1, 2, ("10.0.0.1", "10.0.0.2"), (WorkerId("a"), WorkerId("b")))
    suites = (
        wire.PytestSuite(args=("-k", "a or b"), directory="/suite", environment={"A": "b"}),
        wire.CommandSuite(
            name="c",
            commands=(wire.CommandSpec(name="n", argv=("true",), directory="/"),),
            tasks=(TaskSpec(TaskId("n"), suite="c", requirements=REQUIREMENTS),),
        ),
    )
    return (
        wire.Welcome(version=1, epoch=7, heartbeat_interval_s=5.0),
        wire.PrepareRun(run_id=run_id, suites=suites, first_runner=0, runner_count=2),
        wire.GrantLeases(slot=0, leases=(lease, dataclasses.replace(lease, gang=gang))),
        wire.KillLeases(lease_ids=(lease.lease_id,), reason="why"),
        wire.Refused(reason="no"),
    )


class LinkConformance:
    """Inherit, and give ``pair``: two joined ends, closed when the context ends."""

    def pair(self) -> AbstractAsyncContextManager[Pair]:
        raise NotImplementedError

    @on_event_loop
    async def test_messages_arrive_in_order_each_once(self, worker: WorkerEnd, coordinator: CoordinatorEnd) -> None:
        for number in range(3000):
            worker.send(wire.Goodbye(reason=str(number)))
            coordinator.send(wire.SlotIdle(slot=number))
            if number % 100 == 0:
                await asyncio.sleep(0)
        assert [message.reason for message in await receive_all(coordinator, 3000)] == [str(n) for n in range(3000)]
        assert [message.slot for message in await receive_all(worker, 3000)] == list(range(3000))

    @on_event_loop
    async def test_every_message_arrives_equal(self, worker: WorkerEnd, coordinator: CoordinatorEnd) -> None:
        sent = worker_messages()
        for message in sent:
            worker.send(message)
        assert tuple(await receive_all(coordinator, len(sent))) == tuple(sent)
        answers = coordinator_messages()
        for answer in answers:
            coordinator.send(answer)
        assert tuple(await receive_all(worker, len(answers))) == tuple(answers)

    @on_event_loop
    async def test_a_large_plan_arrives(self, worker: WorkerEnd, coordinator: CoordinatorEnd) -> None:
        plan = plan_of(20_000)
        worker.send(wire.Heartbeat())
        worker.send(plan)
        worker.send(wire.Heartbeat())
        assert await receive_all(coordinator, 3) == [wire.Heartbeat(), plan, wire.Heartbeat()]

    @on_event_loop
    async def test_receive_waits_for_a_message(self, worker: WorkerEnd, coordinator: CoordinatorEnd) -> None:
        receiving = asyncio.ensure_future(coordinator.receive())
        await asyncio.sleep(0)
        assert not receiving.done()
        worker.send(wire.Draining())
        assert list(await receiving) == [wire.Draining()]

    @on_event_loop
    async def test_a_cancelled_receive_loses_nothing(self, worker: WorkerEnd, coordinator: CoordinatorEnd) -> None:
        receiving = asyncio.ensure_future(coordinator.receive())
        await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        worker.send(wire.Draining())
        assert list(await coordinator.receive()) == [wire.Draining()]

    @on_event_loop
    async def test_what_was_sent_before_closing_arrives(self, worker: WorkerEnd, coordinator: CoordinatorEnd) -> None:
        for number in range(500):
            worker.send(wire.Goodbye(reason=str(number)))
        closing = asyncio.ensure_future(worker.close("over and out", 4001))
        received = await receive_all(coordinator, 500)
        assert [message.reason for message in received] == [str(n) for n in range(500)]
        with pytest.raises(LinkClosed) as caught:
            await coordinator.receive()
        assert (caught.value.reason, caught.value.code) == ("over and out", 4001)
        await closing

    @on_event_loop
    async def test_a_closed_link_stays_closed(self, worker: WorkerEnd, coordinator: CoordinatorEnd) -> None:
        closing = asyncio.ensure_future(coordinator.close("first"))
        with pytest.raises(LinkClosed, match="first"):
            await worker.receive()
        with pytest.raises(LinkClosed, match="first"):
            await worker.receive()
        await closing
        await coordinator.close("second")
        await worker.close("third")
        worker.send(wire.Draining())
        coordinator.send(wire.SlotIdle(slot=0))
        with pytest.raises(LinkClosed, match="first"):
            await coordinator.receive()
        await worker.drain()
        await coordinator.drain()

    @on_event_loop
    async def test_closing_wakes_the_own_receiver(self, worker: WorkerEnd, coordinator: CoordinatorEnd) -> None:
        receiving = asyncio.ensure_future(coordinator.receive())
        other = asyncio.ensure_future(worker.receive())
        await asyncio.sleep(0)
        await coordinator.close("enough")
        with pytest.raises(LinkClosed, match="enough"):
            await receiving
        with pytest.raises(LinkClosed, match="enough"):
            await other

    @on_event_loop
    async def test_drain_waits_for_a_slow_reader(self, worker: WorkerEnd, coordinator: CoordinatorEnd) -> None:
        await worker.drain()
        count = 2000
        for number in range(count):
            worker.send(wire.RunOutput(run_id=RunId("a" * 32), stream="stdout", text=str(number) * 4000))
        draining = asyncio.ensure_future(worker.drain())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not draining.done(), "nothing was read yet"
        await receive_all(coordinator, count)
        await draining

    @on_event_loop
    async def test_drain_ends_with_the_link(self, worker: WorkerEnd, coordinator: CoordinatorEnd) -> None:
        for number in range(2000):
            worker.send(wire.RunOutput(run_id=RunId("a" * 32), stream="stdout", text=str(number) * 4000))
        draining = asyncio.ensure_future(worker.drain())
        receiving = asyncio.ensure_future(worker.receive())
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(coordinator.close("no more"))
        await draining
        with pytest.raises(LinkClosed, match="no more"):
            await receiving
        await closing


@asynccontextmanager
async def closing_pair(worker: WorkerEnd, coordinator: CoordinatorEnd) -> AsyncIterator[Pair]:
    """For implementations of ``pair``: both ends are closed whatever the test did."""
    try:
        yield worker, coordinator
    finally:
        await asyncio.gather(worker.close(), coordinator.close())
