"""Runs and tasks: planned, executed, retried, cancelled, finished with one verdict each."""

import gc
import math

import pytest

from fleetest.core import commands, events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.entities import Run, Slot, Task
from fleetest.core.group_queue import GroupQueue, Level
from fleetest.core.invariants import check
from fleetest.core.model import AttemptResult, Capabilities, Limits, Requirements, RunId, Verdict, WorkerId
from fleetest.core.policies import Choice
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.task_scheduler import TaskScheduler
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task


@pytest.fixture
def cluster():
    return ScriptedCluster()


def finished(cluster):
    return {command.run_id: command.counts for command in cluster.all(commands.RunFinished)}


def test_the_plain_path(cluster):
    cluster.join("w", slots=2)
    assert cluster.submit(task("a"), task("b"))
    assert cluster.all(commands.PrepareRun) == [commands.PrepareRun("w", RUN, 0, 2)]
    assert cluster.queues == {("w", 0): ["a"], ("w", 1): ["b"]}
    cluster.start("a")
    assert cluster.all(commands.PublishStarted) == [commands.PublishStarted(RUN, [("a", 1, "w", 0)])]
    cluster.finish("a")
    assert not finished(cluster)
    emitted = cluster.finish("b", verdict=Verdict.FAILED)
    assert cluster.verdicts() == {"a": Verdict.PASSED, "b": Verdict.FAILED}
    assert finished(cluster) == {RUN: {Verdict.PASSED: 1, Verdict.FAILED: 1}}
    assert [type(command) for command in emitted[-2:]] == [commands.RunFinished, commands.EndRun]


def test_the_start_of_a_short_test_is_implied(cluster):
    cluster.join("w")
    cluster.submit(task("a"))
    cluster.finish("a")
    assert cluster.verdicts() == {"a": Verdict.PASSED}
    assert [line.split(" s: ")[1].split()[0] for line in cluster.state.story(RUN, "a")] == [
        "queued",
        "leased",
        "finished",
    ]


def test_runners_are_numbered_uniquely_over_machines(cluster):
    cluster.join("w1", slots=2)
    cluster.apply(events.RunSubmitted(RUN))
    cluster.join("w2", slots=3)
    assert [(c.worker_id, c.first_runner, c.runner_count) for c in cluster.all(commands.PrepareRun)] == [
        ("w1", 0, 2),
        ("w2", 2, 5),
    ]


def test_a_second_plan_and_a_second_submission_are_ignored(cluster):
    cluster.join("w")
    cluster.submit(task("a"))
    cluster.plan(task("b"))
    cluster.apply(events.RunSubmitted(RUN))
    cluster.finish("a")
    assert cluster.verdicts() == {"a": Verdict.PASSED}


def test_an_empty_plan_ends_the_run(cluster):
    cluster.submit()
    assert finished(cluster) == {RUN: {}}


def test_a_duplicate_id_in_a_plan_is_one_task(cluster):
    cluster.join("w")
    cluster.submit(task("a"), task("a"))
    cluster.finish("a")
    assert finished(cluster) == {RUN: {Verdict.PASSED: 1}}


def test_a_run_ends_only_when_every_suite_is_planned_or_refused(cluster):
    cluster.join("w")
    cluster.apply(events.RunSubmitted(RUN, ("one", "two")))
    cluster.apply(events.SuitePlanned(RUN, "one", []))
    assert not finished(cluster)
    cluster.apply(events.SuiteRefused(RUN, "two", "usage error"))
    assert finished(cluster) == {RUN: {}}


def test_tasks_beyond_the_limit_are_not_run():
    cluster = ScriptedCluster(Limits(tasks_per_run=1))
    cluster.join("w")
    cluster.submit(task("a"), task("b"))
    assert cluster.verdicts() == {"b": Verdict.NOT_RUN}
    cluster.finish("a")
    assert finished(cluster)


def test_events_about_unknown_things_change_nothing(cluster):
    cluster.join("w")
    for event in (
        events.SuitePlanned(RunId("x"), "", [task("a")]),
        events.SuiteReady(WorkerId("x"), RunId("x"), ""),
        events.SuiteUnavailable(WorkerId("w"), RunId("x"), "", "no"),
        events.RunCancelled(RunId("x"), "no"),
        events.WorkerHeartbeat(WorkerId("x")),
        events.WorkerDraining(WorkerId("x")),
        events.WorkerDisconnected(WorkerId("x"), "no"),
        events.AttemptsStarted(WorkerId("x"), [7]),
        events.LeasesReturned(WorkerId("x"), [7]),
        events.InfrastructureFailed(WorkerId("x"), [7], "no"),
        events.DeadlineReached(),
    ):
        assert cluster.apply(event) == []
    assert cluster.why("a") == "unknown run"
    assert cluster.state.story(RUN, "a") == ()


# Collectability ----------------------------------------------------------------------------------------------------


def test_nothing_is_granted_to_a_worker_that_is_not_ready(cluster):
    cluster.join("w")
    cluster.submit(task("a"), ready=False)
    assert not cluster.leases
    assert cluster.why("a") == "worker w is still collecting its suite"
    cluster.ready("w")
    assert "a" in cluster.leases


def test_a_worker_never_gets_what_it_lacks(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(task("a"), task("b"), ready=False)
    cluster.ready("w1", missing=["a"])
    assert cluster.queues == {("w1", 0): ["b"]}
    cluster.ready("w2", missing=["b"])
    assert cluster.queues == {("w1", 0): ["b"], ("w2", 0): ["a"]}


def test_a_worker_may_be_ready_before_the_plan(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.apply(events.RunSubmitted(RUN))
    cluster.ready("w1", missing=["a"])
    cluster.plan(task("a"), task("b", group="b"))
    assert cluster.queues == {("w1", 0): ["b"]}
    cluster.ready("w2")
    assert cluster.worker_of("a") == "w2"


def test_what_everybody_lacks_is_not_run_once_nobody_prepares(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(task("a"), task("b"), ready=False)
    cluster.ready("w1", missing=["a"])
    assert cluster.verdicts() == {}
    cluster.ready("w2", missing=["a"])
    assert cluster.verdicts() == {"a": Verdict.NOT_RUN}
    assert cluster.outcomes()[0].reason == "not collectable"


def test_a_lease_returned_as_not_collectable_goes_elsewhere_or_ends(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(task("a"))
    first = cluster.worker_of("a")
    cluster.give_back("a", not_collectable=True)
    second = cluster.worker_of("a")
    assert {first, second} == {"w1", "w2"}
    cluster.give_back("a", not_collectable=True)
    assert cluster.verdicts() == {"a": Verdict.NOT_RUN}


def test_the_worker_that_has_it_leaves_and_nobody_else_can_collect_it(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(task("a"), task("b"), ready=False)
    cluster.ready("w1")
    cluster.ready("w2", missing=["a", "b"])
    cluster.disconnect("w1", dead=True)
    assert cluster.verdicts() == {"a": Verdict.NOT_RUN, "b": Verdict.NOT_RUN}


def test_a_suite_that_nobody_can_execute_is_not_run_with_the_reason(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(task("a"), ready=False)
    for worker in ("w1", "w2"):
        assert not cluster.verdicts()
        cluster.apply(events.SuiteUnavailable(WorkerId(worker), RUN, "", "no such directory"))
    assert cluster.outcomes()[0].verdict is Verdict.NOT_RUN
    assert cluster.outcomes()[0].reason == "no such directory"
    assert finished(cluster)


def test_an_unplanned_suite_that_nobody_can_execute_is_refused(cluster):
    cluster.join("w")
    cluster.apply(events.RunSubmitted(RUN))
    cluster.apply(events.SuiteUnavailable(WorkerId("w"), RUN, "", "no such directory"))
    assert finished(cluster) == {RUN: {}}


def test_without_workers_tasks_wait(cluster):
    cluster.submit(task("a"))
    assert cluster.why("a") == "waiting for a worker: none has joined"
    cluster.join("w")
    cluster.ready("w")
    cluster.finish("a")
    assert finished(cluster)


# Dependencies ------------------------------------------------------------------------------------------------------


def test_a_dependant_waits_for_success(cluster):
    cluster.join("w", slots=2)
    cluster.submit(task("b", depends_on=["a"]), task("a"))
    assert set(cluster.leases) == {"a"}
    assert cluster.why("b") == "waiting for dependency a (next on w/0, attempt 1)"
    cluster.finish("a")
    assert "b" in cluster.leases


def test_why_says_of_one_of_several_dependencies_where_it_is(cluster):
    cluster.join("w")
    cluster.submit(task("a"), task("b", depends_on=["c", "a"]), task("c", depends_on=["a"]))
    assert cluster.why("b") == "waiting for dependency a (next on w/0, attempt 1) and 1 other"


def test_a_failed_dependency_ends_the_whole_chain(cluster):
    cluster.join("w")
    cluster.submit(task("a"), task("b", depends_on=["a"]), task("c", depends_on=["b"]), task("d", depends_on=["c"]))
    cluster.finish("a", verdict=Verdict.FAILED)
    assert cluster.verdicts() == {
        "a": Verdict.FAILED,
        "b": Verdict.NOT_RUN,
        "c": Verdict.NOT_RUN,
        "d": Verdict.NOT_RUN,
    }
    assert [outcome.reason for outcome in cluster.outcomes()[1:]] == [
        "dependency a failed",
        "dependency b was not run",
        "dependency c was not run",
    ]
    assert finished(cluster)


def test_an_unknown_dependency_is_never_done(cluster):
    cluster.join("w")
    cluster.submit(task("a", depends_on=["nowhere"]))
    assert cluster.outcomes()[0].reason == "dependency nowhere is unknown"
    assert finished(cluster)


def test_a_dependency_may_be_in_a_suite_that_is_planned_later(cluster):
    cluster.join("w")
    cluster.apply(events.RunSubmitted(RUN, ("one", "two")))
    cluster.apply(events.SuitePlanned(RUN, "one", [task("a", depends_on=["b"])]))
    assert cluster.verdicts() == {}
    cluster.apply(events.SuitePlanned(RUN, "two", [task("b")]))
    for suite in ("one", "two"):
        cluster.apply(events.SuiteReady(WorkerId("w"), RUN, suite))
    cluster.finish("b")
    cluster.finish("a")
    assert finished(cluster) == {RUN: {Verdict.PASSED: 2}}


def test_a_circle_of_dependencies_ends(cluster):
    cluster.join("w")
    cluster.submit(task("a", depends_on=["b"]), task("b", depends_on=["a"]), task("c", depends_on=["b"]), task("d"))
    assert cluster.verdicts() == {"a": Verdict.NOT_RUN, "b": Verdict.NOT_RUN, "c": Verdict.NOT_RUN}
    cluster.finish("d")
    assert finished(cluster)


def test_a_dependency_that_is_not_collectable_ends_its_dependants(cluster):
    cluster.join("w")
    cluster.submit(task("a"), task("b", depends_on=["a"]), ready=False)
    cluster.ready("w", missing=["a"])
    assert cluster.verdicts() == {"a": Verdict.NOT_RUN, "b": Verdict.NOT_RUN}


# Retries -----------------------------------------------------------------------------------------------------------


def test_a_failing_task_is_tried_again_elsewhere_until_its_retries_are_used(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(task("a", retries=2))
    workers = []
    for _ in range(3):
        workers.append(cluster.worker_of("a"))
        cluster.finish("a", verdict=Verdict.FAILED)
    assert workers[0] != workers[1]
    assert [(outcome.attempt, outcome.is_final) for outcome in cluster.outcomes()] == [
        (1, False),
        (2, False),
        (3, True),
    ]
    assert cluster.verdicts() == {"a": Verdict.FAILED}


def test_a_retry_may_use_the_same_worker_if_there_is_no_other(cluster):
    cluster.join("w")
    cluster.submit(task("a", retries=1))
    cluster.finish("a", verdict=Verdict.CRASHED)
    assert cluster.leases["a"].attempt == 2
    cluster.finish("a")
    assert cluster.verdicts() == {"a": Verdict.PASSED}


@pytest.mark.parametrize("verdict", [Verdict.PASSED, Verdict.SKIPPED, Verdict.XFAILED, Verdict.XPASSED])
def test_what_did_not_fail_is_not_tried_again(cluster, verdict):
    cluster.join("w")
    cluster.submit(task("a", retries=3))
    cluster.finish("a", verdict=verdict)
    assert cluster.verdicts() == {"a": verdict}


# Results count once ------------------------------------------------------------------------------------------------


def test_the_same_result_twice_is_nothing(cluster):
    cluster.join("w")
    cluster.submit(task("a"), task("b"))
    lease = cluster.leases["a"]
    cluster.finish("a")
    assert not [c for c in cluster.report(lease, "w") if isinstance(c, commands.PublishOutcomes)]


def test_a_result_of_another_workers_lease_is_nothing(cluster):
    cluster.join("w1")
    cluster.join("w2")
    cluster.submit(task("a"))
    other = {"w1": "w2", "w2": "w1"}[cluster.worker_of("a")]
    lease = cluster.leases["a"]
    assert cluster.report(lease, other) == [commands.ReportStrayResults(WorkerId(other), [lease.lease_id])]
    assert cluster.verdicts() == {}


def test_a_result_under_a_lost_lease_is_evidence_only():
    cluster = ScriptedCluster(Limits(reconnect_grace_s=1.0))
    cluster.join("w1")
    cluster.submit(task("a"), task("b"))
    lease = cluster.leases["a"]
    cluster.start("a")
    cluster.disconnect("w1")
    cluster.wait(2.0)
    cluster.join("w1", held=[lease.lease_id])
    cluster.ready("w1")
    assert any(isinstance(c, commands.KillLeases) and lease.lease_id in c.lease_ids for c in cluster.emitted)
    cluster.report(lease, "w1", Verdict.FAILED)
    late = cluster.outcomes()[-1]
    assert (late.is_superseded, late.is_final, late.verdict) == (True, False, Verdict.FAILED)
    cluster.finish("a", "b")
    assert cluster.verdicts() == {"a": Verdict.PASSED, "b": Verdict.PASSED}


# Cancellation ------------------------------------------------------------------------------------------------------


def test_cancelling_ends_what_waits_and_lets_what_runs_finish(cluster):
    cluster.join("w")
    cluster.submit(task("a"), task("b", depends_on=["a"]), *(task(f"c{i}", expected_s=1) for i in range(5)))
    started = cluster.queues["w", 0][0]
    leased = cluster.queues["w", 0][1:]
    cluster.start(started)
    emitted = cluster.cancel("Ctrl-C")
    (revoke,) = [command for command in emitted if isinstance(command, commands.RevokeLeases)]
    assert set(revoke.lease_ids) == {cluster.leases[name].lease_id for name in leased}
    assert set(cluster.verdicts().values()) == {Verdict.CANCELLED}
    cluster.give_back(*leased)
    assert not finished(cluster)
    cluster.finish(started)
    assert finished(cluster) == {RUN: {Verdict.CANCELLED: 6, Verdict.PASSED: 1}}


def test_a_quiet_cancellation_ends_the_rest_as_not_run(cluster):
    cluster.join("w")
    cluster.submit(task("a"), task("b"))
    cluster.start("a")
    cluster.cancel("stopping after 1 failures", quiet=True)
    cluster.give_back("b")
    cluster.finish("a", verdict=Verdict.FAILED)
    assert cluster.verdicts() == {"b": Verdict.NOT_RUN, "a": Verdict.FAILED}


def test_what_runs_too_long_after_a_cancellation_is_killed():
    cluster = ScriptedCluster(Limits(cancel_grace_s=5.0, kill_answer_s=3.0))
    cluster.join("w")
    cluster.submit(task("a"))
    cluster.start("a")
    cluster.cancel()
    assert not cluster.wait(4.9)
    (kill,) = cluster.wait(0.2)
    assert kill.lease_ids == [cluster.leases["a"].lease_id]
    cluster.finish("a", verdict=Verdict.CRASHED)
    assert cluster.verdicts() == {"a": Verdict.CANCELLED}
    assert finished(cluster)


def test_a_worker_that_does_not_answer_a_kill_does_not_hold_up_the_run():
    cluster = ScriptedCluster(Limits(cancel_grace_s=5.0, kill_answer_s=3.0))
    cluster.join("w")
    cluster.submit(task("a"))
    cluster.start("a")
    cluster.cancel(kill=True)
    assert cluster.all(commands.KillLeases)
    assert not finished(cluster)
    cluster.wait(3.1)
    assert cluster.verdicts() == {"a": Verdict.CANCELLED}
    assert finished(cluster)


def test_a_second_cancellation_may_kill(cluster):
    cluster.join("w")
    cluster.submit(task("a"))
    cluster.start("a")
    cluster.cancel()
    assert not cluster.all(commands.KillLeases)
    cluster.cancel(kill=True)
    assert cluster.all(commands.KillLeases)
    cluster.finish("a", verdict=Verdict.PASSED)
    assert cluster.verdicts() == {"a": Verdict.PASSED}


def test_a_cancelled_run_is_not_retried(cluster):
    cluster.join("w")
    cluster.submit(task("a", retries=5))
    cluster.start("a")
    cluster.cancel()
    cluster.finish("a", verdict=Verdict.FAILED)
    assert cluster.verdicts() == {"a": Verdict.FAILED}


def test_cancelling_before_the_plan_ends_the_run(cluster):
    cluster.join("w")
    cluster.apply(events.RunSubmitted(RUN))
    cluster.cancel()
    assert finished(cluster) == {RUN: {}}
    assert cluster.plan(task("a")) == []


# Timeouts ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_does_not_enforce_a_timeout_loses_the_lease():
    cluster = ScriptedCluster(Limits(lease_overrun_s=10.0, heartbeat_interval_s=float("inf")))
    cluster.join("w")
    cluster.submit(task("a", timeout_s=5.0))
    cluster.start("a")
    assert not cluster.wait(14.9)
    assert cluster.leases["a"].attempt == 1
    emitted = cluster.wait(0.2)
    assert any(isinstance(command, commands.KillLeases) for command in emitted)
    assert cluster.leases["a"].attempt == 2
    for _ in range(2):
        cluster.start("a")
        cluster.wait(15.1)
    assert cluster.verdicts() == {"a": Verdict.QUARANTINED}


def test_a_finished_test_leaves_no_deadline():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=float("inf")))
    cluster.join("w")
    cluster.submit(task("a", timeout_s=5.0))
    cluster.start("a")
    assert cluster.state.next_deadline() == 65.0
    cluster.finish("a")
    assert cluster.state.next_deadline() is None


def test_leases_of_different_epochs_differ():
    first, second = ScriptedCluster(epoch=1), ScriptedCluster(epoch=2)
    for cluster in (first, second):
        cluster.join("w")
        cluster.submit(task("a"))
    assert first.leases["a"].lease_id != second.leases["a"].lease_id


def test_a_snapshot_does_not_change(cluster):
    cluster.join("w", slots=2)
    cluster.submit(task("a"), task("b"), task("c"))
    cluster.start("a")
    before = cluster.state.snapshot()
    (run,) = before.runs
    assert run.states == {"finished": 0, "running": 1, "leased": 2, "waiting": 0}
    (worker,) = before.workers
    assert [(running.task_id, running.is_started) for running in worker.running] == [("a", True), ("c", False)]
    assert worker.queued == 1
    cluster.finish("a", "b", "c")
    assert cluster.state.snapshot().runs == ()
    assert before.runs[0].states["running"] == 1
    assert cluster.why("a") == "finished: passed"


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


OF_ALL_SORTS = [
    task("failing", retries=1),
    *(task(f"{group}{number}", group=group, priority=number % 2) for group in "abcd" for number in range(10)),
    *(task(f"kept{number}", group="kept", keep_together=True) for number in range(5)),
    task("gang", requirements=Requirements(workers=2)),
    task("alone", requirements=Requirements(alone=True)),
    task("locks", requirements=Requirements(locks=("lock",))),
    task("after", depends_on=["locks"]),
    task("never", requirements=Requirements(resources=(("gpus", 1.0),))),
]


def test_nothing_of_a_run_is_kept_long_after_its_end_though_nobody_collects_garbage(no_collector):
    state = ClusterState(TaskScheduler(), LoadBalancer(), HealthMonitor(), Limits(workers_may_join=False))
    workers = [WorkerId("v"), WorkerId("w")]
    for worker in workers:
        state.apply(events.WorkerJoined(worker, "s", 2, Capabilities()), 0.0)
    for number in range(6):
        run_id = RunId(f"forgotten{number}")
        state.apply(events.RunSubmitted(run_id), 0.0)
        state.apply(events.SuitePlanned(run_id, "", OF_ALL_SORTS), 0.0)
        for worker in workers:
            state.apply(events.SuiteReady(worker, run_id, ""), 0.0)
        if number == 3:
            state.apply(events.RunCancelled(run_id, "enough"), 0.0)
        for now in range(200):
            live = next(iter(state.cluster.leases.values()), None)
            if live is None:
                break
            if now == 3:
                state.apply(events.WorkerDisconnected(live.slot.worker.worker_id, "gone", process_is_dead=True), now)
                state.apply(
                    events.WorkerJoined(live.slot.worker.worker_id, f"forgotten{number}", 2, Capabilities()), now
                )
                state.apply(events.SuiteReady(live.slot.worker.worker_id, run_id, ""), now)
                continue
            state.apply(events.AttemptsStarted(live.slot.worker.worker_id, [live.lease_id]), now)
            verdict = Verdict.FAILED if live.task.task_id == "failing" else Verdict.PASSED
            result = AttemptResult(live.lease_id, verdict, duration_s=0.1)
            state.apply(events.AttemptsFinished(live.slot.worker.worker_id, [result]), now)
    del live
    assert not state.cluster.runs

    run_of = {
        Run: lambda run: run,
        Task: lambda planned: planned.run,
        GroupQueue: lambda queue: queue.task_class.run,
        Level: lambda level: level.line.task_class.run,
    }
    things = [(type(thing), run_of[type(thing)](thing).run_id) for thing in gc.get_objects() if type(thing) in run_of]
    of_ours = {(kind, run_id) for kind, run_id in things if run_id.startswith("forgotten")}
    assert {run_id for _, run_id in of_ours} == {"forgotten4", "forgotten5"}
    workers = {thing.worker for thing in gc.get_objects() if type(thing) is Slot}
    assert {worker for worker in workers if worker.session.startswith("forgotten")} <= {*state.cluster.workers.values()}


# What peers and policies may get wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -1.0])
def test_times_that_are_no_times_spoil_nothing(cluster, nonsense):
    cluster.join("w")
    cluster.submit(
        *(task(f"{i}", expected_s=nonsense if i % 2 else None, timeout_s=nonsense) for i in range(10)),
    )
    for _ in range(100):
        names = [live.task.task_id for live in cluster.state.cluster.leases.values()]
        if not names:
            break
        cluster.start(names[0])
        cluster.finish(*names, duration_s=nonsense)
    assert finished(cluster) == {RUN: {Verdict.PASSED: 10}}
    due = cluster.state.next_deadline()
    assert due is None or math.isfinite(due)


class LyingScheduler(TaskScheduler):
    """Proposes everything to everybody, whatever it needs, and again and again."""

    def choose(self, slot, room_s, room_tasks, now):
        tasks = [task for run in self._share for task in run.tasks.values()]
        self.discard_tasks(tasks)
        return Choice(tasks)


def test_the_core_refuses_what_a_policy_must_not_propose():
    state = ClusterState(LyingScheduler(), LoadBalancer(), HealthMonitor())
    gpu = Requirements(resources=(("gpus", 1.0),))
    granted = []
    for event in (
        events.WorkerJoined(WorkerId("w"), "s", 2, Capabilities()),
        events.RunSubmitted(RUN),
        events.SuitePlanned(RUN, "", [task("gpu", requirements=gpu), task("a"), task("b")]),
        events.SuiteReady(WorkerId("w"), RUN, ""),
        events.DeadlineReached(),
    ):
        for command in state.apply(event, 0.0):
            if isinstance(command, commands.GrantLeases):
                granted += [lease.task_id for lease in command.leases]
        check(state)
    assert sorted(granted) == ["a", "b"]


def test_in_a_closed_fleet_what_nobody_can_run_ends_with_the_reason():
    cluster = ScriptedCluster(Limits(workers_may_join=False))
    cluster.join("w", capabilities=Capabilities(resources={"gpus": 1.0}))
    needs = Requirements(resources=(("gpus", 7.0),))
    cluster.submit(task("greedy", requirements=needs), task("after", depends_on=["greedy"]), task("plain"))
    cluster.finish("plain")
    assert cluster.verdicts() == {"greedy": Verdict.NOT_RUN, "after": Verdict.NOT_RUN, "plain": Verdict.PASSED}
    [reason] = [o.reason for c in cluster.all(commands.PublishOutcomes) for o in c.outcomes if o.task_id == "greedy"]
    assert reason == "no worker has gpus 7 (closest: worker w lacks gpus 7 (has 1))"
    assert finished(cluster)


def test_in_an_open_fleet_it_waits_for_a_worker_that_can(cluster):
    cluster.join("w")
    cluster.submit(task("greedy", requirements=Requirements(resources=(("gpus", 7.0),))))
    assert not finished(cluster)
    cluster.join("big", capabilities=Capabilities(resources={"gpus": 8.0}))
    cluster.ready("big")
    cluster.finish("greedy")
    assert finished(cluster) == {RUN: {Verdict.PASSED: 1}}


def test_fail_fast_lets_running_tests_take_their_time():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=math.inf))
    cluster.join("w")
    cluster.submit(task("slow"), task("next"))
    cluster.start("slow")
    cluster.apply(events.RunCancelled(RUN, "stopping after 1 failures", quiet=True))
    cluster.wait(3600)
    assert not cluster.all(commands.KillLeases)
    cluster.finish("slow")
    assert cluster.verdicts()["slow"] is Verdict.PASSED
