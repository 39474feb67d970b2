"""Workers: silence, disconnection, adoption, loss, draining, quarantine."""

import math

import pytest

from fleetest.core import commands, events
from fleetest.core.cluster_state import GIVEN_UP_AT_ONCE
from fleetest.core.model import Limits, Verdict, WorkerId
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task

LIMITS = Limits(heartbeat_interval_s=5.0, reconnect_grace_s=15.0)


@pytest.fixture
def cluster():
    return ScriptedCluster(LIMITS)


def beat(cluster, name):
    return cluster.apply(events.WorkerHeartbeat(WorkerId(name)))


def leased(cluster):
    return [live.task.task_id for live in cluster.state.cluster.leases.values()]


def worker(cluster, name):
    return cluster.state.cluster.workers[WorkerId(name)]


def state_of(cluster, name):
    return next((worker.state for worker in cluster.state.snapshot().workers if worker.worker_id == name), None)


def test_a_dead_worker_costs_running_tests_an_attempt_and_the_rest_nothing(cluster):
    cluster.join("w1")
    cluster.submit(task("a"), task("b"))
    cluster.start("a")
    cluster.disconnect("w1", dead=True)
    (lost,) = cluster.outcomes()
    assert (lost.task_id, lost.attempt, lost.verdict, lost.is_final) == ("a", 1, Verdict.CANCELLED, False)
    assert lost.reason == "worker w1 lost: gone"
    cluster.join("w2")
    cluster.ready("w2")
    assert cluster.leases["a"].attempt == 2
    assert cluster.leases["b"].attempt == 1
    cluster.finish("a", "b")
    assert cluster.verdicts() == {"a": Verdict.PASSED, "b": Verdict.PASSED}


def test_a_task_that_loses_its_worker_three_times_is_quarantined(cluster):
    cluster.join("w0")
    cluster.submit(task("bad"), task("good"), ready=False)
    for number in range(3):
        cluster.ready(f"w{number}")
        while "bad" not in leased(cluster):
            cluster.finish(*leased(cluster))
        cluster.start("bad")
        cluster.join(f"w{number + 1}")
        cluster.disconnect(f"w{number}", dead=True)
    assert cluster.verdicts()["bad"] is Verdict.QUARANTINED
    assert cluster.outcomes()[-1].reason.startswith("lost 3 times")
    if cluster.state.cluster.runs:
        cluster.ready("w3")
        cluster.finish("good")
    assert cluster.verdicts() == {"bad": Verdict.QUARANTINED, "good": Verdict.PASSED}
    assert cluster.all(commands.RunFinished)


def test_a_task_that_kills_its_worker_before_anybody_can_say_so_is_quarantined_too(cluster):
    cluster.join("w", session="0")
    cluster.submit(task("bad"), ready=False)
    for number in range(3):
        assert not cluster.verdicts()
        cluster.ready("w")
        cluster.disconnect("w", dead=True)
        cluster.join("w", session=str(number + 1))
    assert cluster.verdicts() == {"bad": Verdict.QUARANTINED}


def before_bad(cluster, name):
    """The tasks in the same slot that are done before it."""
    queues = [[live.task.task_id for live in slot.leases.values()] for slot in worker(cluster, name).slots]
    queue = next(queue for queue in queues if "bad" in queue)
    return queue[: queue.index("bad")]


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("unseen", [1, 2, 3])
def test_a_task_that_kills_three_workers_unseen_behind_innocents_is_quarantined(cluster, slots, unseen):
    """The results of those before it die with the worker as often as can be; each of them counts as next, once."""
    cluster.join("w0", slots)
    cluster.submit(*(task(f"good{number}", expected_s=0.001) for number in range(8 * slots)), task("bad"), ready=False)
    for number in range(3):
        cluster.ready(f"w{number}")
        while "bad" not in leased(cluster):
            cluster.finish(leased(cluster)[0])
        if number >= unseen:
            for name in before_bad(cluster, f"w{number}"):
                cluster.finish(name)
        cluster.join(f"w{number + 1}", slots)
        cluster.disconnect(f"w{number}", dead=True)
    assert cluster.verdicts()["bad"] is Verdict.QUARANTINED
    cluster.ready("w3")
    while cluster.state.cluster.runs:
        cluster.finish(leased(cluster)[0])
    assert {name for name, verdict in cluster.verdicts().items() if verdict is not Verdict.PASSED} == {"bad"}


def test_who_only_waited_on_lost_workers_is_never_quarantined_for_that():
    cluster = ScriptedCluster(Limits(attempts_lost_max=2))
    cluster.join("w0")
    cluster.submit(*(task(f"t{number}", expected_s=0.001) for number in range(20)), ready=False)
    for number in range(2):
        cluster.ready(f"w{number}")
        if len(leased(cluster)) == 1:
            # The one that was next on the first worker.
            cluster.finish(*leased(cluster))
        assert len(leased(cluster)) > 2
        cluster.join(f"w{number + 1}")
        cluster.disconnect(f"w{number}", dead=True)
    only_waited = [task.task_id for task in cluster.state.cluster.runs[RUN].tasks.values() if task.doubts == 2]
    assert only_waited
    cluster.ready("w2")
    while cluster.state.cluster.runs:
        cluster.finish(leased(cluster)[0])
    assert {cluster.verdicts()[name] for name in only_waited} == {Verdict.PASSED}


def test_suspects_are_tried_one_at_a_time_with_nothing_else_in_their_slot(cluster):
    """Of four that were next on a worker that died, one is the cause: the other three are soon cleared."""
    names = ["bad", "b", "c", "d"]
    cluster.join("w0", slots=4)
    cluster.submit(*(task(name) for name in [*names, "e", "f"]))
    heads = {queue[0] for queue in cluster.queues.values()}
    cluster.disconnect("w0", dead=True)
    cluster.join("w1", slots=4)
    cluster.ready("w1")
    while cluster.state.cluster.runs:
        queues = [[live.task.task_id for live in slot.leases.values()] for slot in worker(cluster, "w1").slots]
        suspects = [queue for queue in queues if heads & set(queue)]
        assert len(suspects) <= 1
        assert all(len(queue) == 1 for queue in suspects)
        cluster.finish(next(queue[0] for queue in queues if queue))
    assert set(cluster.verdicts().values()) == {Verdict.PASSED}
    assert len(cluster.verdicts()) == 6


def test_a_lease_that_was_lost_on_its_way_blames_nobody(cluster):
    cluster.join("w")
    cluster.submit(task("a"))
    for _ in range(5):
        cluster.disconnect("w")
        cluster.join("w")
    cluster.finish("a")
    assert cluster.verdicts() == {"a": Verdict.PASSED}


def test_a_test_that_breaks_its_surroundings_three_times_is_quarantined_and_not_the_worker(cluster):
    cluster.join("w")
    cluster.submit(task("a"), task("b"))
    for _ in range(6):
        lease_id = next(iter(cluster.state.cluster.leases))
        cluster.apply(events.InfrastructureFailed(WorkerId("w"), [lease_id], "template died", has_started=True))
    assert cluster.verdicts() == dict.fromkeys("ab", Verdict.QUARANTINED)
    assert state_of(cluster, "w") == "healthy"


def test_a_broken_link_is_no_loss_while_the_worker_may_come_back(cluster):
    cluster.join("w1")
    cluster.submit(task("a"), task("b"))
    cluster.start("a")
    held = [cluster.leases[name].lease_id for name in ("a", "b")]
    cluster.disconnect("w1")
    cluster.wait(14.0)
    assert state_of(cluster, "w1") == "disconnected"
    assert cluster.outcomes() == []
    emitted = cluster.join("w1", held=held)
    assert not any(isinstance(command, commands.GrantLeases | commands.KillLeases) for command in emitted)
    cluster.finish("a", "b")
    assert [(outcome.task_id, outcome.attempt) for outcome in cluster.outcomes()] == [("a", 1), ("b", 1)]


def test_a_worker_that_comes_back_without_a_lease_gets_it_queued_again(cluster):
    cluster.join("w1")
    cluster.submit(task("a"), task("b"))
    held = [cluster.leases["a"].lease_id]
    first_b = cluster.leases["b"].lease_id
    cluster.disconnect("w1")
    cluster.join("w1", held=[*held, 12345])
    assert cluster.leases["b"].lease_id != first_b
    assert cluster.leases["b"].attempt == 1
    (kill,) = cluster.all(commands.KillLeases)
    assert list(kill.lease_ids) == [12345]


def test_a_worker_that_comes_back_is_told_again_that_nothing_follows(cluster):
    cluster.join("w1")
    cluster.submit(task("a"))
    assert commands.SlotIdle("w1", 0) in cluster.emitted
    cluster.disconnect("w1")
    emitted = cluster.join("w1", held=[cluster.leases["a"].lease_id])
    assert commands.SlotIdle("w1", 0) in emitted
    assert [type(command) for command in emitted].count(commands.PrepareRun) == 1


def test_a_cancellation_reaches_a_worker_that_was_away(cluster):
    cluster.join("w1")
    cluster.submit(task("a"), task("b"))
    cluster.start("a")
    held = [cluster.leases[name].lease_id for name in ("a", "b")]
    cluster.disconnect("w1")
    assert not [c for c in cluster.cancel(kill=True) if isinstance(c, commands.KillLeases | commands.RevokeLeases)]
    emitted = cluster.join("w1", held=held)
    killed = {lease_id for c in emitted if isinstance(c, commands.KillLeases) for lease_id in c.lease_ids}
    assert killed == set(held)


def test_a_worker_that_stays_away_is_lost(cluster):
    cluster.join("w1")
    cluster.submit(task("a"))
    cluster.disconnect("w1")
    emitted = cluster.wait(15.1)
    assert commands.RaiseAlert("w1", "lost", "did not come back (1 not begun: 1 queued again)") in emitted
    assert state_of(cluster, "w1") is None
    assert cluster.why("a") == "waiting for a worker: none has joined"
    assert commands.ClearAlert("w1", "lost") in cluster.join("w1", session="new")


def test_many_workers_that_stay_away_are_given_up_in_portions(cluster):
    for number in range(2 * GIVEN_UP_AT_ONCE + 1):
        cluster.join(f"w{number}")
    for name in list(cluster.state.cluster.workers):
        cluster.disconnect(name)
    cluster.now += LIMITS.reconnect_grace_s
    left = []
    while cluster.state.next_deadline() <= cluster.now:
        cluster.apply(events.DeadlineReached())
        left.append(len(cluster.state.cluster.workers))
    assert left == [GIVEN_UP_AT_ONCE + 1, 1, 0]


def test_a_lost_session_that_comes_back_is_as_ready_as_it_was(cluster):
    cluster.join("w1")
    cluster.submit(task("a"))
    cluster.disconnect("w1")
    cluster.wait(16.0)
    cluster.join("w1")
    cluster.finish("a")
    assert cluster.verdicts() == {"a": Verdict.PASSED}
    assert len({command.first_runner for command in cluster.all(commands.PrepareRun)}) == 1


def test_a_new_session_replaces_the_old_one_at_once(cluster):
    cluster.join("w1", session="old")
    cluster.submit(task("a"))
    cluster.start("a")
    emitted = cluster.join("w1", session="new")
    assert emitted[0] == commands.DisconnectWorker("w1", "replaced by a new session")
    cluster.ready("w1")
    assert cluster.leases["a"].attempt == 2
    assert [command.first_runner for command in cluster.all(commands.PrepareRun)] == [0, 1]


def test_a_worker_that_said_goodbye_is_not_waited_for(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(task("a"))
    left = cluster.worker_of("a")
    cluster.disconnect(left, goodbye=True)
    assert cluster.worker_of("a") != left
    assert not cluster.all(commands.RaiseAlert)


def test_silence_makes_suspect_then_lost(cluster):
    cluster.join("w1")
    cluster.submit(task("a"), ready=False)
    assert cluster.wait(14.9) == []
    assert commands.RaiseAlert("w1", "suspect", "silent for 15.0 s") in cluster.wait(0.2)
    assert state_of(cluster, "w1") == "suspect"
    assert not any(isinstance(c, commands.RaiseAlert) for c in cluster.wait(10.0)), "once per worker and cause"
    emitted = cluster.wait(5.0)
    assert commands.DisconnectWorker("w1", "silent for 30.0 s") in emitted
    assert commands.ClearAlert("w1", "suspect") in emitted
    assert state_of(cluster, "w1") is None


def test_a_suspect_gets_nothing_new_until_it_is_heard_again(cluster):
    cluster.join("w1")
    cluster.wait(16.0)
    cluster.submit(task("a"), ready=False)
    assert state_of(cluster, "w1") == "suspect"
    assert not cluster.leases
    emitted = cluster.ready("w1")
    assert commands.ClearAlert("w1", "suspect") in emitted
    assert cluster.leases


def test_beats_keep_a_worker_healthy(cluster):
    cluster.join("w1")
    for _ in range(20):
        cluster.wait(5.0)
        beat(cluster, "w1")
    assert state_of(cluster, "w1") == "healthy"
    assert not cluster.all(commands.RaiseAlert)


def test_without_an_interval_nobody_is_judged():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=math.inf))
    cluster.join("w1")
    assert cluster.state.next_deadline() is None


def test_a_draining_worker_gives_back_what_has_not_started(cluster):
    cluster.join("w1")
    cluster.submit(*(task(name, expected_s=1.0) for name in "abcd"))
    cluster.start("a")
    emitted = cluster.apply(events.WorkerDraining(WorkerId("w1")))
    assert commands.RevokeLeases("w1", [cluster.leases["b"].lease_id]) in emitted
    assert commands.SlotIdle("w1", 0) in emitted
    cluster.give_back("b")
    assert cluster.why("b") == "no worker that fits takes new work: w1 is draining"
    cluster.finish("a")
    cluster.disconnect("w1", goodbye=True)
    cluster.join("w2")
    cluster.ready("w2")
    cluster.finish("b", "c", "d")
    assert cluster.verdicts() == dict.fromkeys("abcd", Verdict.PASSED)


def test_infrastructure_failures_quarantine_the_worker_not_the_task():
    cluster = ScriptedCluster(Limits(infrastructure_failures_max=3, heartbeat_interval_s=math.inf))
    cluster.join("w1")
    cluster.submit(*(task(f"t{number}", expected_s=1.0) for number in range(6)))
    for _ in range(3):
        name = cluster.queues["w1", 0][-1]
        cluster.apply(events.InfrastructureFailed(WorkerId("w1"), [cluster.leases[name].lease_id], "cannot fork"))
    (alert,) = cluster.all(commands.RaiseAlert)
    assert (alert.cause, alert.message) == (
        "quarantined",
        "3 infrastructure failures in a row: cannot fork (tried again in 60 s)",
    )
    assert state_of(cluster, "w1") == "quarantined"
    asked_back = {i for command in cluster.all(commands.RevokeLeases) for i in command.lease_ids}
    assert asked_back == set(cluster.state.cluster.leases), "nothing has started: all of it is asked back"
    granted = len(cluster.all(commands.GrantLeases))
    cluster.apply(events.DeadlineReached())
    assert len(cluster.all(commands.GrantLeases)) == granted


def test_a_result_ends_a_series_of_infrastructure_failures():
    cluster = ScriptedCluster(Limits(infrastructure_failures_max=2))
    cluster.join("w1")
    cluster.submit(task("a", expected_s=1.0), task("b", expected_s=1.0), task("c", expected_s=1.0))
    names = cluster.queues["w1", 0]
    cluster.apply(events.InfrastructureFailed(WorkerId("w1"), [cluster.leases[names[1]].lease_id], "no disk"))
    cluster.finish(names[0])
    running = cluster.queues["w1", 0][-1]
    cluster.apply(events.InfrastructureFailed(WorkerId("w1"), [cluster.leases[running].lease_id], "no disk"))
    assert state_of(cluster, "w1") == "healthy"


def test_a_task_that_nobody_can_start_ends_not_run():
    cluster = ScriptedCluster(Limits(infrastructure_failures_max=2))
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(task("a"))
    for _ in range(2):
        lease = cluster.leases["a"].lease_id
        cluster.apply(events.InfrastructureFailed(cluster.worker_of("a"), [lease], "no such file"))
    assert cluster.outcomes()[-1].reason == "could not be executed: no such file"
    assert cluster.all(commands.RunFinished)


def test_a_worker_that_joins_late_gets_the_run_and_a_share(cluster):
    cluster.join("w1")
    cluster.submit(*(task(f"t{number}", expected_s=10.0) for number in range(8)))
    cluster.join("w2")
    assert [command.run_id for command in cluster.all(commands.PrepareRun)] == [RUN, RUN]
    cluster.ready("w2")
    assert len(cluster.queues["w2", 0]) >= 1
