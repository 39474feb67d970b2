"""The coordinator looks after itself: its disk, its audit log; what it finds is an alert and stops new runs only."""

import asyncio
import errno
import json
import os
import shutil
import threading
from collections import namedtuple

import pytest

from fleetest.coordinator import Coordinator
from fleetest.core import events
from fleetest.core.alerts import Cause
from fleetest.core.cluster_state import ClusterState
from fleetest.core.model import Capabilities, Limits, RunId, WorkerId
from fleetest.errors import LinkClosed, NotReady
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.self_watch import SelfWatch
from fleetest.storage.disk_room import ENOUGH_AGAIN_BYTES, SpaceWatch, space_trouble, write_trouble
from fleetest.storage.slow_disk import DiskQuestion
from fleetest.task_scheduler import TaskScheduler
from fleetest.testing.scripted_cluster import ScriptedCluster, task
from fleetest.transport.audit import AuditLog
from fleetest.transport.memory import memory_link_pair
from fleetest.wire import messages as wire

GIB = 1024**3
Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("total", "free", "needed", "is_enough"),
    [
        (10 * GIB, GIB, None, True),
        (10 * GIB, GIB - 1, None, False),
        (100 * GIB, 5 * GIB, None, True),
        (100 * GIB, 5 * GIB - 2**20, None, False),
        (100 * GIB, 2 * GIB, GIB, True),
        (100 * GIB, GIB - 1, GIB, False),
        (100 * GIB, 0, 0, True),
    ],
)
def test_how_much_must_be_free(tmp_path, monkeypatch, total, free, needed, is_enough):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(total, total - free, free))
    assert (space_trouble(tmp_path, needed) == "") is is_enough


def test_a_disk_at_its_limit_does_not_have_room_and_none_by_turns(tmp_path, monkeypatch):
    free = [GIB, GIB - 1, GIB, GIB + ENOUGH_AGAIN_BYTES - 1, GIB + ENOUGH_AGAIN_BYTES, GIB, GIB - 1]
    looks = iter(free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * GIB, 0, next(looks)))
    watch = SpaceWatch(tmp_path, GIB)
    assert [bool(watch.trouble()) for _ in free] == [False, True, True, True, False, False, True]


def test_a_disk_that_cannot_be_asked_or_written_is_trouble(tmp_path):
    assert "cannot be told: No such file" in space_trouble(tmp_path / "gone")
    assert "No such file" in write_trouble(tmp_path / "gone")
    assert write_trouble(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_each_trouble_is_told_once_and_once_when_it_is_over():
    class Shell:
        takes_no_runs = ""

        def __init__(self):
            self.applied = []

        def apply(self, event):
            self.applied.append((event.cause, event.trouble))

    trouble = {"disk": "", "history": "locked"}
    shell = Shell()
    watch = SelfWatch(shell, {name: lambda name=name: trouble[name] for name in trouble}, no_room="disk")

    async def scenario():
        await watch.look()
        assert shell.applied == [("disk", ""), ("history", "locked")], "what is well too, at first"
        trouble.update(disk="3 MiB free", history="still locked")
        await watch.look()
        await watch.look()
        assert shell.applied[2:] == [("disk", "3 MiB free")]
        trouble["disk"] = "2 MiB free"
        await watch.look()
        assert shell.takes_no_runs == "2 MiB free", "what is told to whoever asks is not old"
        trouble.update(disk="", history="")
        await watch.look()
        assert shell.applied[3:] == [("disk", ""), ("history", "")]
        assert shell.takes_no_runs == ""

    asyncio.run(scenario())


def test_it_goes_on_looking_after_a_mistake_of_its_own(monkeypatch, caplog):
    monkeypatch.setattr("fleetest.self_watch.LOOK_EVERY_S", 0.0)

    async def scenario():
        looked = asyncio.Event()
        loop = asyncio.get_running_loop()
        asked = []

        def ask():
            asked.append(1)
            if len(asked) == 1:
                raise RuntimeError("a mistake")
            loop.call_soon_threadsafe(looked.set)
            return ""

        class Shell:
            takes_no_runs = ""

            def apply(self, event):
                pass

        watch = SelfWatch(Shell(), {"disk": ask}, no_room="disk")
        watch.start()
        await asyncio.wait_for(looked.wait(), 60)
        await watch.close()

    asyncio.run(scenario())
    assert "a mistake" in caplog.text


def test_a_disk_that_hangs_holds_one_thread_and_is_trouble_until_it_answers(monkeypatch):
    """What else it looks after is told meanwhile."""
    gate, is_asked, asked = threading.Event(), threading.Event(), []

    def hangs():
        asked.append(threading.current_thread())
        is_asked.set()
        gate.wait(60)
        return ""

    class Shell:
        takes_no_runs = ""
        applied = ()

        def apply(self, event):
            self.applied += ((event.cause, event.trouble),)

    async def scenario():
        shell = Shell()
        watch = SelfWatch(shell, {"disk": hangs, "history": lambda: "locked"}, no_room="disk")
        ask = DiskQuestion.ask
        patience_s = {hangs: 0.05}
        monkeypatch.setattr(DiskQuestion, "ask", lambda self: ask(self, patience_s.get(self._question, 60.0)))
        for _ in range(3):
            await watch.look()
        trouble = "no answer within 5 s: does the disk of the data directory hang?"
        assert shell.applied == (("disk", trouble), ("history", "locked"))
        assert shell.takes_no_runs == trouble
        assert is_asked.wait(60)
        assert len(asked) == 1
        assert asked[0].daemon, "nor does it keep the process from ending"
        gate.set()
        asked[0].join()
        patience_s.clear()
        await watch.look()
        assert shell.applied[2:] == (("disk", ""),)
        assert shell.takes_no_runs == ""

    asyncio.run(scenario())


def test_a_question_may_fail_and_be_asked_again():
    answers = iter([OSError("no disk"), 7])

    def ask():
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def scenario():
        question = DiskQuestion(ask)
        with pytest.raises(OSError, match="no disk"):
            await question.ask()
        assert await question.ask() == 7

    asyncio.run(scenario())


def test_an_alert_of_the_coordinator_is_nobody_elses():
    cluster = ScriptedCluster(Limits(lost_alert_s=60.0, heartbeat_interval_s=1e6))
    cluster.join("w")
    (raised,) = cluster.apply(events.CoordinatorChecked(Cause.DISK_NEARLY_FULL, "3 MiB free"))
    assert (raised.worker_id, raised.cause, raised.message) == ("", "disk nearly full", "3 MiB free")
    assert cluster.apply(events.CoordinatorChecked(Cause.DISK_NEARLY_FULL, "2 MiB free")) == []
    later = ScriptedCluster(Limits(lost_alert_s=60.0), epoch=2)
    later.apply(events.MemoryRecalled(cluster.state.remember()))
    later.wait(600.0)
    assert [alert.cleared_at for alert in later.state.snapshot().alerts] == [None]
    (cleared,) = later.apply(events.CoordinatorChecked(Cause.DISK_NEARLY_FULL))
    assert cleared.alert_id == raised.alert_id


async def next_of(link, kind):
    while True:
        for message in await asyncio.wait_for(link.receive(), 60):
            if isinstance(message, kind):
                return message


def submission(number):
    commands = wire.CommandSuite(
        commands=(wire.CommandSpec(name="a", argv=("true",), directory="/"),), tasks=(task("a"),)
    )
    return wire.SubmitRun(run_id=RunId(f"{number:032x}"), suites=(commands,))


def test_new_runs_are_refused_while_there_is_no_room_and_those_that_run_go_on():
    async def scenario():
        state = ClusterState(TaskScheduler(), LoadBalancer(), HealthMonitor(), limits=Limits(), epoch=3)
        coordinator = Coordinator(state, history=None)
        serving = []

        async def client():
            far, near = memory_link_pair()
            serving.append(asyncio.ensure_future(coordinator.serve_client(near)))
            far.send(wire.ClientHello(version=wire.PROTOCOL_VERSION))
            await next_of(far, wire.Welcome)
            return far

        first = await client()
        first.send(submission(1))
        await next_of(first, wire.RunAccepted)
        coordinator.takes_no_runs = "3 MiB free: make room"
        second = await client()
        second.send(submission(2))
        refused = await next_of(second, wire.Refused)
        assert refused.reason == "no new runs are taken now: 3 MiB free: make room"
        with pytest.raises(LinkClosed):
            await next_of(second, wire.RunAccepted)
        with pytest.raises(NotReady, match="make room"):
            coordinator.submit(submission(3), submitter="")
        assert list(coordinator.run_facts) == [submission(1).run_id]
        worker, near = memory_link_pair()
        serving.append(asyncio.ensure_future(coordinator.serve_worker(near)))
        worker.send(
            wire.WorkerHello(version=wire.PROTOCOL_VERSION, name="w", session="s", slots=1, capabilities=Capabilities())
        )
        prepare = await next_of(worker, wire.PrepareRun)
        assert prepare.run_id == submission(1).run_id
        coordinator.takes_no_runs = ""
        third = await client()
        third.send(submission(4))
        await next_of(third, wire.RunAccepted)
        assert WorkerId("w") in coordinator.worker_facts
        await coordinator.close()
        await asyncio.gather(*serving)

    asyncio.run(scenario())


# The audit log -------------------------------------------------------------------------------------------------------


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_audit_log_that_cannot_be_written_says_so_once_and_what_is_missing_when_it_can(
    tmp_path, monkeypatch, caplog
):
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path)
    audit.write(None, "here", "one", "", 200)
    write, is_full = os.write, True

    def full(descriptor, content):
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    for action in ("two", "three"):
        audit.write(None, "here", action, "", 200)
    assert audit.trouble == f"cannot write to the audit log {path}: No space left on device"
    is_full = False
    audit.write(None, "here", "four", "", 200)
    assert audit.trouble == ""
    audit.close()
    assert [line["action"] for line in lines(path)] == ["one", "four", "left out"]
    assert lines(path)[2]["detail"] == "2 lines before the one above could not be written"
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_half_a_line_is_no_line(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path)
    audit.write(None, "here", "one", "", 200)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:20]))
    audit.write(None, "here", "two", "", 200)
    assert audit.trouble
    monkeypatch.setattr(os, "write", write)
    audit.write(None, "here", "three", "", 200)
    audit.close()
    assert [line["action"] for line in lines(path)] == ["one", "three", "left out"]


def test_an_audit_log_whose_directory_is_gone_stops_nobody(tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    audit = AuditLog(directory / "audit.jsonl")
    audit.write(None, "here", "one", "", 200)
    shutil.rmtree(directory)
    audit.write(None, "here", "two", "", 200)
    assert "No such file" in audit.trouble
    directory.mkdir()
    audit.write(None, "here", "three", "", 200)
    audit.close()
    assert [line["action"] for line in lines(directory / "audit.jsonl")] == ["three", "left out"]
