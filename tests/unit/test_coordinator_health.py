"""The coordinator's shell and the health of workers, over links in memory."""

import asyncio

import pytest

from fleetest.coordinator import Coordinator
from fleetest.core import commands, events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.model import Capabilities, Limits, WorkerId
from fleetest.errors import LinkClosed
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.processes.identity import own_identity
from fleetest.task_scheduler import TaskScheduler
from fleetest.transport.memory import memory_link_pair
from fleetest.transport.webhooks import Webhooks, notice_of
from fleetest.wire import messages as wire

W = WorkerId("w")


def hello(**changes):
    fields = {
        "version": wire.PROTOCOL_VERSION,
        "name": "w",
        "session": "s",
        "slots": 1,
        "capabilities": Capabilities(),
    }
    return wire.WorkerHello(**(fields | changes))


def in_fleet(scenario, **limits):
    """Run ``scenario(coordinator, join)``; ``join(**hello)`` gives the far end of a welcomed worker's link."""

    async def main():
        state = ClusterState(TaskScheduler(), LoadBalancer(), HealthMonitor(), limits=Limits(**limits), epoch=3)
        coordinator = Coordinator(state, history=None)
        serving = []

        async def join(**changes):
            far, near = memory_link_pair()
            serving.append(asyncio.ensure_future(coordinator.serve_worker(near)))
            far.send(hello(**changes))
            return far, await next_of(far, wire.Welcome)

        await scenario(coordinator, join)
        await coordinator.close()
        await asyncio.gather(*serving)

    asyncio.run(main())


async def next_of(link, kind):
    while True:
        for message in await asyncio.wait_for(link.receive(), 60):
            if isinstance(message, kind):
                return message


def snapshot_of(coordinator):
    return coordinator._state.snapshot()


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def test_a_probed_worker_is_held_back_until_it_says_that_its_probe_passed():
    async def scenario(coordinator, join):
        link, _ = await join(has_probe=True)
        assert snapshot_of(coordinator).workers[0].state == "quarantined"
        link.send(wire.Probed(is_ok=False, detail="x" * 10_000))
        await until(lambda: snapshot_of(coordinator).alerts)
        assert snapshot_of(coordinator).alerts[0].message == "x" * 500, "a bound for what a worker says"
        link.send(wire.Probed(is_ok=True))
        await until(lambda: snapshot_of(coordinator).workers[0].state == "healthy")

    in_fleet(scenario)


def test_drain_and_resume_reach_the_state_through_the_shell():
    async def scenario(coordinator, join):
        await join()
        coordinator.apply(events.WorkerDrainRequested(W))
        assert snapshot_of(coordinator).workers[0].state == "draining"
        coordinator.apply(events.WorkerResumed(W))
        assert snapshot_of(coordinator).workers[0].state == "healthy"

    in_fleet(scenario)


def test_who_joins_is_told_the_interval_of_a_fleet_of_this_size():
    async def scenario(coordinator, join):
        _, first = await join()
        assert first.heartbeat_interval_s == 0.1
        for number in range(10):
            coordinator.apply(events.WorkerJoined(WorkerId(f"other{number}"), "s", 1, Capabilities()))
        link, second = await join(name="last", session="last")
        assert second.heartbeat_interval_s == 11 / 50
        for number in range(10):
            coordinator.apply(events.WorkerDisconnected(WorkerId(f"other{number}"), "left", said_goodbye=True))
        link.send(wire.Heartbeat())
        assert (await next_of(link, wire.SetHeartbeat)).interval_s == 0.1

    in_fleet(scenario, heartbeat_interval_s=0.1)


def test_a_link_that_breaks_is_waited_for_while_its_process_lives():
    """The process is this one, which certainly lives."""

    async def scenario(coordinator, join):
        link, _ = await join(process=own_identity())
        await link.close("network")
        await until(lambda: snapshot_of(coordinator).workers[0].state == "disconnected")
        await join(process=own_identity())
        assert snapshot_of(coordinator).workers[0].state == "healthy"
        assert not snapshot_of(coordinator).alerts

    in_fleet(scenario)


def test_a_death_that_is_noticed_late_is_not_that_of_a_newer_session(monkeypatch):
    noticed = []

    async def wait_dead(process, timeout_s):
        noticed.append(asyncio.get_running_loop().create_future())
        return await noticed[-1]

    monkeypatch.setattr("fleetest.coordinator.wait_dead", wait_dead)

    async def scenario(coordinator, join):
        for number, session in enumerate(("first", "second")):
            link, _ = await join(session=session, process=own_identity())
            await link.close("network")
            await until(lambda wanted=number: len(noticed) > wanted)
        noticed[0].set_result(True)
        await until(lambda: len(coordinator._background) == 1)
        assert snapshot_of(coordinator).workers[0].state == "disconnected", "the second may still come back"
        noticed[1].set_result(True)
        await until(lambda: not snapshot_of(coordinator).workers)

    in_fleet(scenario)


def test_a_process_that_was_never_seen_alive_is_not_taken_for_dead():
    async def scenario(coordinator, join):
        pid_that_is_none = own_identity().rsplit(":", 2)[0] + ":4999999:1"
        link, _ = await join(process=pid_that_is_none)
        await link.close("network")
        await until(lambda: snapshot_of(coordinator).workers[0].state == "disconnected")
        assert not coordinator._background

    in_fleet(scenario)


def test_an_identity_of_any_length_is_refused():
    async def scenario(coordinator, join):
        with pytest.raises(LinkClosed, match="identity"):
            await join(process="x" * 201)

    in_fleet(scenario)


def test_every_alert_of_an_event_becomes_a_notice_and_nothing_else_does(monkeypatch):
    sent = []
    hooks = Webhooks([])
    monkeypatch.setattr(hooks, "send", sent.append)

    async def scenario(coordinator, join):
        coordinator.observe(hooks.observe)
        await join()
        coordinator.apply(events.WorkerQuarantined(W, "bad disk"))
        coordinator.apply(events.WorkerReleased(W))

    in_fleet(scenario)
    assert [(notice["event"], notice["alert"], notice["message"]) for notice in sent] == [
        ("raised", "3-1", "by the operator: bad disk"),
        ("cleared", "3-1", ""),
    ]


def test_a_notice_has_no_secrets_and_all_that_is_documented():
    notice = notice_of(commands.RaiseAlert(W, "lost", "silent", "1-1"))
    assert set(notice) == {"version", "event", "alert", "worker", "cause", "message", "at"}
