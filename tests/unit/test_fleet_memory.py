"""What a coordinator knows of its workers outlives it: in the core, in the file, and in the shell that keeps it."""

import asyncio
import dataclasses
import errno
import threading

import pytest

from fleetest.core import commands, events
from fleetest.core.alerts import Cause
from fleetest.core.memory import ClusterMemory, WorkerRecord
from fleetest.core.model import Capabilities, Limits, WorkerId
from fleetest.errors import UserError
from fleetest.fleet_memory import FleetMemory
from fleetest.health_monitor.contradictions import GROUPS_TO_CLEAR, TRIALS_TO_CLEAR
from fleetest.health_monitor.drift import Drift
from fleetest.health_monitor.trust import FORGOTTEN_AFTER_S
from fleetest.storage.memory_file import MemoryFile
from fleetest.testing.scripted_cluster import ScriptedCluster, task

W, V = WorkerId("w"), WorkerId("v")
LIMITS = Limits(
    heartbeat_interval_s=10_000.0,
    infrastructure_failures_max=2,
    quarantine_s=60.0,
    quarantine_max_s=3600.0,
    probation_successes=2,
    flapping_losses=3,
    flapping_window_s=600.0,
    lost_alert_s=3600.0,
    reconnect_grace_s=5.0,
)


@pytest.fixture
def cluster():
    cluster = ScriptedCluster(LIMITS)
    cluster.join("w")
    return cluster


def restarted(old, after_s=0.0):
    """The next coordinator, on a clock that began elsewhere. Nothing is commanded: everybody was told before."""
    memory = old.state.remember()
    new = ScriptedCluster(LIMITS, epoch=2)
    new.now = 7.0
    behind_s = old.now + after_s - new.now
    assert new.apply(events.MemoryRecalled(memory.at_other_times(lambda at: at - behind_s))) == []
    return new


def state(cluster, name=W):
    return next(worker.state for worker in cluster.state.snapshot().workers if worker.worker_id == name)


def lasting(cluster):
    return sorted((alert.worker_id, alert.cause) for alert in cluster.state.snapshot().alerts if not alert.cleared_at)


def fail(cluster, times):
    for _ in range(times):
        cluster.apply(events.InfrastructureFailed(W, [cluster.leases["a"].lease_id], "cannot fork"))


def opened(cluster):
    """A quarantine by the circuit breaker."""
    cluster.submit(task("a"), task("b"))
    fail(cluster, LIMITS.infrastructure_failures_max)
    assert state(cluster) == "quarantined"
    return cluster


# The core ------------------------------------------------------------------------------------------------------------


def test_a_quarantine_by_the_operator_stays_whatever_the_session(cluster):
    cluster.apply(events.WorkerQuarantined(W, "bad memory"))
    new = restarted(restarted(cluster, after_s=86_400.0 * 365))
    emitted = new.join("w", session="new")
    assert not any(isinstance(command, commands.RaiseAlert) for command in emitted), "people were told before"
    assert state(new) == "quarantined"
    assert lasting(new) == [("w", "quarantined")]
    assert [type(command) for command in new.apply(events.WorkerReleased(W))] == [commands.ClearAlert]
    new = restarted(new)
    new.join("w")
    assert state(new) == "healthy"


def test_a_quarantine_of_a_worker_that_never_comes_back_is_lifted_by_its_name(cluster):
    cluster.apply(events.WorkerQuarantined(W, "bad memory"))
    new = restarted(cluster)
    new.wait(10 * LIMITS.lost_alert_s)
    assert lasting(new) == [("w", "quarantined")]
    new.apply(events.WorkerReleased(W))
    assert lasting(new) == []
    assert new.state.remember().held_back == {}


def test_a_drain_stays_for_its_session_and_for_no_other(cluster):
    cluster.apply(events.WorkerDrainRequested(W))
    new = restarted(cluster)
    new.join("w")
    assert state(new) == "draining"
    new = restarted(new)
    new.join("w", session="after a reboot")
    assert state(new) == "healthy"


def test_a_drained_session_may_be_lost_and_come_back(cluster):
    cluster.apply(events.WorkerDrainRequested(W))
    cluster.disconnect("w")
    cluster.wait(LIMITS.reconnect_grace_s)
    cluster.join("w")
    assert state(cluster) == "draining"
    cluster.apply(events.WorkerResumed(W))
    cluster.disconnect("w")
    cluster.wait(LIMITS.reconnect_grace_s)
    cluster.join("w")
    assert state(cluster) == "healthy"


def test_a_lost_worker_that_is_resumed_comes_back_to_work(cluster):
    cluster.apply(events.WorkerDrainRequested(W))
    cluster.disconnect("w")
    cluster.wait(LIMITS.reconnect_grace_s)
    cluster.apply(events.WorkerResumed(W))
    assert cluster.state.remember().drains == {}
    cluster.join("w")
    assert state(cluster) == "healthy"


def test_a_drain_is_not_kept_for_ever(cluster):
    cluster.apply(events.WorkerDrainRequested(W))
    new = restarted(cluster)
    new.wait(LIMITS.lost_alert_s)
    assert new.state.remember().drains == {}


def test_a_drain_is_taken_back_before_its_worker_is_back(cluster):
    """Also under the next coordinator, and the one after it: by the name of the worker, as operators know it."""
    cluster.join("v", session="other")
    for name in (W, V):
        cluster.apply(events.WorkerDrainRequested(name))
    new = restarted(restarted(cluster))
    new.apply(events.WorkerResumed(W))
    assert list(new.state.remember().drains.values()) == [V]
    new.join("w")
    new.join("v", session="other")
    assert (state(new, W), state(new, V)) == ("healthy", "draining")


def test_an_alert_keeps_its_id_its_time_and_who_has_seen_it(cluster):
    cluster.wait(100.0)
    cluster.apply(events.WorkerQuarantined(W, "bad memory"))
    (alert,) = cluster.state.snapshot().alerts
    cluster.wait(10.0)
    cluster.apply(events.AlertAcknowledged(alert.alert_id, "ann"))
    new = restarted(cluster, after_s=50.0)
    (known,) = new.state.snapshot().alerts
    assert (known.alert_id, known.acknowledged_by, known.message) == (alert.alert_id, "ann", alert.message)
    assert (known.raised_at, known.acknowledged_at) == pytest.approx((7.0 - 60.0, 7.0 - 50.0))
    new.join("w")
    new.apply(events.WorkerReleased(W))
    new.apply(events.WorkerQuarantined(W, "again"))
    assert [alert.alert_id for alert in new.state.snapshot().alerts] == ["1-1", "2-1"]


def test_no_more_alerts_that_are_over_are_kept_than_there_may_be():
    limits = dataclasses.replace(LIMITS, alerts_kept_max=2)
    cluster = ScriptedCluster(limits)
    cluster.join("w")
    for _ in range(2):
        cluster.apply(events.WorkerQuarantined(W))
        cluster.apply(events.WorkerReleased(W))
    memory = cluster.state.remember()
    new = ScriptedCluster(dataclasses.replace(LIMITS, alerts_kept_max=1), epoch=2)
    new.apply(events.MemoryRecalled(memory))
    assert [alert.alert_id for alert in new.state.snapshot().alerts] == ["1-2"]


@pytest.mark.parametrize("has_probe", [False, True])
def test_what_was_said_of_a_session_is_over_when_the_facts_say_otherwise(cluster, has_probe):
    cluster.apply(events.WorkerProbed(W, is_ok=False, detail="no disk"))
    cluster.wait(LIMITS.heartbeat_interval_s * 4)
    assert lasting(cluster) == [("w", "probe failed"), ("w", "suspect")]
    new = restarted(cluster)
    new.apply(events.WorkerJoined(W, "s", 1, Capabilities(), has_probe=has_probe))
    assert lasting(new) == ([("w", "probe failed")] if has_probe else [])
    new.apply(events.WorkerProbed(W, is_ok=True))
    assert lasting(new) == []


def test_alerts_of_a_worker_that_does_not_come_back_are_cleared_once(cluster):
    cluster.apply(events.WorkerProbed(W, is_ok=False, detail="no disk"))
    cluster.join("v")
    cluster.disconnect("v")
    cluster.wait(LIMITS.reconnect_grace_s)
    new = restarted(cluster)
    assert lasting(new) == [("v", "lost"), ("w", "probe failed")]
    cleared = new.wait(LIMITS.lost_alert_s)
    assert sorted((command.worker_id, command.cause) for command in cleared) == [
        ("v", Cause.LOST),
        ("w", Cause.PROBE_FAILED),
    ]


def test_an_open_circuit_stays_open_for_what_is_left_of_it_then_it_is_tried_out(cluster):
    opened(cluster)
    cluster.wait(10.0)
    new = restarted(cluster, after_s=20.0)
    new.join("w", session="new")
    assert state(new) == "quarantined"
    assert lasting(new) == [("w", "quarantined")], "the same alert, not another one"
    new.wait(29.0)
    assert state(new) == "quarantined"
    new.wait(1.0)
    assert state(new) == "probation"


def test_a_quarantine_that_ended_while_no_coordinator_was_there_is_a_probation(cluster):
    new = restarted(opened(cluster), after_s=3600.0)
    new.join("w")
    assert state(new) == "probation"
    new = restarted(new)
    new.join("w")
    assert state(new) == "probation", "and stays one"
    new.submit(task("a"), task("b"))
    new.finish("a")
    new.finish("b")
    assert state(new) == "healthy"
    assert lasting(new) == []


def test_the_second_quarantine_is_twice_as_long_over_a_restart(cluster):
    new = restarted(opened(cluster), after_s=LIMITS.quarantine_s)
    new.join("w")
    new.submit(task("a"))
    fail(new, 1)
    assert state(new) == "quarantined"
    new.wait(2 * LIMITS.quarantine_s - 1.0)
    assert state(new) == "quarantined"
    new.wait(1.0)
    assert state(new) == "probation"


def test_failures_in_a_row_are_counted_over_a_restart_and_wiped_out_by_a_result(cluster):
    cluster.submit(task("a"))
    fail(cluster, LIMITS.infrastructure_failures_max - 1)
    new = restarted(cluster)
    new.join("w")
    new.submit(task("a"), task("b"))
    kept = restarted(new)
    kept.join("w")
    kept.submit(task("a"))
    fail(kept, 1)
    assert state(kept) == "quarantined"
    new.finish("a")
    assert new.state.remember().records == ()


def test_a_record_is_forgotten_after_a_long_time_but_not_a_quarantine(cluster):
    cluster.submit(task("a"))
    fail(cluster, 1)
    assert restarted(cluster, after_s=FORGOTTEN_AFTER_S - 1.0).state.remember().records
    assert not restarted(cluster, after_s=FORGOTTEN_AFTER_S).state.remember().records


def lose(cluster, times):
    for _ in range(times):
        cluster.disconnect("w")
        cluster.join("w")
        cluster.wait(10.0)


def test_flapping_goes_on_over_a_restart_and_calms_down(cluster):
    for name in "vxyz":
        cluster.join(name)
    lose(cluster, LIMITS.flapping_losses)
    assert ("w", "flapping") in lasting(cluster)
    new = restarted(cluster)
    new.join("w", session="new")
    assert ("w", "flapping") in lasting(new)
    assert state(new) == "probation"
    new.wait(LIMITS.flapping_window_s)
    assert ("w", "flapping") not in lasting(new)


def test_losses_that_seem_to_be_still_to_come_were_now(cluster):
    """The clock was set back by a year in between."""
    for name in "vxyz":
        cluster.join(name)
    lose(cluster, LIMITS.flapping_losses)
    new = restarted(cluster, after_s=-365 * 86_400.0)
    assert ("w", "flapping") in lasting(new)
    new.wait(LIMITS.flapping_window_s)
    assert ("w", "flapping") not in lasting(new)


def test_a_worker_that_fails_what_others_pass_has_to_show_that_it_is_well(cluster):
    alert = cluster.state.cluster.alerts.add(W, Cause.FAILS_WHAT_OTHERS_PASS, "5 of 5 files failed", 0.0)
    new = restarted(cluster)
    new.join("w")
    count = max(TRIALS_TO_CLEAR, GROUPS_TO_CLEAR)
    new.submit(*(task(str(number), group=f"g{number}") for number in range(count)))
    for number in range(count - 1):
        new.finish(str(number))
    assert lasting(new) == [("w", "fails what others pass")]
    emitted = new.finish(str(count - 1))
    assert commands.ClearAlert(W, Cause.FAILS_WHAT_OTHERS_PASS, alert.alert_id) in emitted


def test_how_fast_a_slow_worker_was_is_kept_while_it_is_slow(cluster):
    cluster.state.cluster.alerts.add(W, Cause.SLOWER_THAN_BEFORE, "2 times", 0.0)
    found = Drift()
    found.recall(W, 0.25)
    cluster.state.cluster.health._drift = found
    new = restarted(cluster)
    assert new.state.remember().records == (WorkerRecord(W, usual_slowness=0.25),)
    assert lasting(new) == [("w", "slower than before")]


def test_a_slow_worker_of_which_nobody_knows_how_it_was_is_slow_no_more(cluster):
    cluster.state.cluster.alerts.add(W, Cause.SLOWER_THAN_BEFORE, "2 times", 0.0)
    memory = cluster.state.remember()
    new = ScriptedCluster(LIMITS, epoch=2)
    assert [type(command) for command in new.apply(events.MemoryRecalled(memory))] == [commands.ClearAlert]


# The file ------------------------------------------------------------------------------------------------------------


def test_the_file_gives_back_what_was_saved(cluster, tmp_path):
    cluster.submit(task("a"))
    fail(cluster, 1)
    cluster.apply(events.WorkerQuarantined(W, "bad \N{SNOWMAN} memory"))
    cluster.apply(events.WorkerDrainRequested(W))
    memory = cluster.state.remember()
    assert memory.records
    file = MemoryFile(tmp_path)
    assert file.load() == ClusterMemory()
    file.save(memory)
    assert MemoryFile(tmp_path).load() == memory
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.json"]
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"format": 1, "memory": {"held_back": {"w": 3}}}', "is damaged"),
        (b'{"format": 1, "memo', "is damaged"),
        (b"", "is damaged"),
        (b'{"format": 1, "memory": {"held_back": {"w": "\xff"}}}', "is damaged"),
        (b'{"format": 2, "memory": 7}', "newer Fleetest"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_and_stays(tmp_path, content, says):
    file = MemoryFile(tmp_path)
    file.path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        file.load()
    assert file.path.read_bytes() == content


# The shell -----------------------------------------------------------------------------------------------------------


class Shell:
    def __init__(self, cluster):
        self.cluster, self.observers = cluster, []

    @property
    def state(self):
        return self.cluster.state

    def now(self):
        return self.cluster.now

    def observe(self, observer):
        self.observers.append(observer)

    def apply(self, event):
        commanded = self.cluster.apply(event)
        for observer in self.observers:
            observer(event, commanded)


class Disk:
    """A store that is full while ``is_full``, and tells of each attempt."""

    def __init__(self):
        self.is_full = False
        self.saved = []
        self.attempts = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.gate = threading.Event()
        self.gate.set()

    def save(self, memory):
        self.gate.wait(60)
        self._loop.call_soon_threadsafe(self.attempts.put_nowait, memory)
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.saved.append(memory)


def kept(scenario, monkeypatch):
    monkeypatch.setattr("fleetest.fleet_memory.LINGER_S", 0.0)
    monkeypatch.setattr("fleetest.fleet_memory.RETRY_MIN_S", 0.001)

    async def main():
        shell, disk = Shell(ScriptedCluster(LIMITS)), Disk()
        memory = FleetMemory(shell, disk, wall=lambda: 1000.0 + shell.now())
        memory.recall(ClusterMemory({V: "old"}))
        shell.apply(events.WorkerJoined(W, "s", 1, Capabilities()))
        await scenario(shell, disk, memory)
        await memory.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_what_is_said_is_on_the_disk_when_it_is_acknowledged(monkeypatch):
    async def scenario(shell, disk, memory):
        shell.cluster.now = 5.0
        shell.apply(events.WorkerQuarantined(W, "bad"))
        assert await memory.keep() == ""
        assert disk.saved[-1].held_back == {V: "old", W: "bad"}
        assert disk.saved[-1].alerts[0].raised_at == 1005.0, "a time of day"
        count = len(disk.saved)
        await memory.keep()
        shell.apply(events.WorkerHeartbeat(W))
        await memory.keep()
        assert len(disk.saved) == count, "nothing changed"

    kept(scenario, monkeypatch)


def test_everything_else_follows_by_itself(monkeypatch):
    async def scenario(shell, disk, memory):
        shell.apply(events.WorkerProbed(W, is_ok=False, detail="no disk"))
        saved = await disk.attempts.get()
        assert [alert.cause for alert in saved.alerts] == ["probe failed"]

    kept(scenario, monkeypatch)


def test_a_full_disk_is_said_once_and_tried_again_until_there_is_room(monkeypatch, caplog):
    async def scenario(shell, disk, memory):
        disk.is_full = True
        shell.apply(events.WorkerQuarantined(W, "bad"))
        assert "No space left on device" in await memory.keep()
        for _ in range(5):
            await disk.attempts.get()
        assert memory.trouble
        disk.is_full = False
        while memory.trouble:
            await asyncio.sleep(0)
        assert disk.saved[-1].held_back[W] == "bad"

    kept(scenario, monkeypatch)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_what_is_taken_back_after_a_failure_is_kept_once_there_is_room(monkeypatch):
    """What then is to be kept equals what was kept last, and whoever says it is not told of the trouble before."""

    async def scenario(shell, disk, memory):
        monkeypatch.setattr("fleetest.fleet_memory.LINGER_S", 600.0)
        memory._retry_s = 600.0
        disk.is_full = True
        shell.apply(events.WorkerDrainRequested(W))
        assert "No space left on device" in await memory.keep()
        shell.apply(events.WorkerResumed(W))
        assert "No space left on device" in await memory.keep(), "nobody knows what is on a disk that failed"
        disk.is_full = False
        assert await memory.keep() == ""
        assert disk.saved[-1].drains == {}

    kept(scenario, monkeypatch)


def test_what_changes_while_it_is_written_is_written_too(monkeypatch):
    async def scenario(shell, disk, memory):
        disk.gate.clear()
        shell.apply(events.WorkerQuarantined(W, "bad"))
        first = asyncio.ensure_future(memory.keep())
        await asyncio.sleep(0)
        shell.apply(events.WorkerReleased(W))
        second = asyncio.ensure_future(memory.keep())
        await asyncio.sleep(0)
        disk.gate.set()
        await first
        await second
        assert [W in saved.held_back for saved in disk.saved] == [True, False]

    kept(scenario, monkeypatch)


def test_the_last_words_are_kept_at_the_end(monkeypatch):
    disks = []

    async def scenario(shell, disk, memory):
        disks.append(disk)
        shell.apply(events.WorkerProbed(W, is_ok=False))

    kept(scenario, monkeypatch)
    assert [alert.cause for alert in disks[0].saved[-1].alerts] == ["probe failed"]
