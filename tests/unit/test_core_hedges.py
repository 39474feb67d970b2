"""Two attempts of one task at the same time: the first verdict counts, and neither is ever needed."""

import math

import pytest

from fleetest.core import commands, events
from fleetest.core.lifecycle import TaskState
from fleetest.core.model import Capabilities, Limits, Requirements, Verdict, WorkerId
from fleetest.core.policies import Hedge
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task


class Hedged(ScriptedCluster):
    """Task ``t`` runs on ``a``, attempt 1; ``hedge`` starts attempt 2 on ``b``."""

    def __init__(self, *more, limits=None, **options):
        super().__init__(limits or Limits(heartbeat_interval_s=math.inf))
        self.join("a")
        self.submit(task("t", expected_s=0.1, **options), *more)
        self.first = self.leases["t"]
        self.start("t")
        self.join("b")
        self.ready("b")

    def hedge(self):
        [idle] = self.state.cluster.workers["b"].slots

        def propose(idle_slots, busy, now):
            planned = self.task("t")
            return [Hedge(planned.lease, idle)] if planned.lease is not None else []

        self.state.cluster.balancing.propose = propose
        self.wait(2.0)
        self.second = self.leases["t"]
        return self.second is not self.first

    def task(self, name):
        run = self.state.cluster.runs.get(RUN) or self.state.cluster.finished_runs[RUN]
        return run.tasks[name]

    def kills(self):
        return [(command.worker_id, *command.lease_ids) for command in self.all(commands.KillLeases)]


@pytest.fixture
def cluster():
    made = Hedged(task("after", depends_on=["t"]), retries=1)
    assert made.hedge()
    return made


def test_a_hedge_is_an_attempt_of_its_own_on_another_worker(cluster):
    assert (cluster.second.attempt, cluster.worker_of("t")) == (2, "b")
    assert cluster.task("t").lease.lease_id == cluster.first.lease_id
    # Nothing follows there: its runner is not to wait in the teardown.
    assert commands.SlotIdle("b", 0) in cluster.emitted[-3:]
    cluster.wait(20.0)
    assert len(cluster.state.cluster.leases) == 2


@pytest.mark.parametrize("verdict", [Verdict.PASSED, Verdict.SKIPPED])
@pytest.mark.parametrize("winner", ["a", "b"])
def test_the_first_verdict_counts_and_the_other_attempt_is_killed(cluster, winner, verdict):
    won, lost, loser = (cluster.first, cluster.second, "b") if winner == "a" else (cluster.second, cluster.first, "a")
    cluster.start("t")
    cluster.report(won, winner, verdict)
    assert cluster.verdicts() == {"t": verdict}
    assert cluster.kills() == [(loser, lost.lease_id)]
    # What the loser still says is evidence: once, never a verdict.
    for _ in range(2):
        cluster.report(lost, loser, Verdict.FAILED)
    assert cluster.verdicts() == {"t": verdict}
    evidence = [outcome for outcome in cluster.outcomes() if outcome.is_superseded]
    assert [(one.attempt, one.verdict, one.worker_id) for one in evidence] == [(lost.attempt, Verdict.FAILED, loser)]
    cluster.finish("after")
    assert cluster.all(commands.RunFinished)


def test_a_run_that_ends_with_a_hedge_has_both_attempts_on_record():
    cluster = Hedged()
    assert cluster.hedge()
    cluster.start("t")
    emitted = cluster.finish("t")
    assert [type(command) for command in emitted[-3:]] == [
        commands.RunFinished,
        commands.EndRun,
        commands.EndRun,
    ]
    won, lost = sorted(cluster.outcomes(), key=lambda outcome: outcome.is_superseded)
    assert (won.attempt, won.verdict, won.is_final) == (2, Verdict.PASSED, True)
    assert (lost.attempt, lost.worker_id, lost.is_final, lost.is_superseded) == (1, "a", False, True)
    assert lost.reason == "attempt 2 on b was first"
    assert not cluster.state.cluster.voided


def test_a_failing_verdict_counts_too_and_its_retry_is_one(cluster):
    cluster.start("t")
    cluster.report(cluster.second, "b", Verdict.FAILED)
    assert not cluster.verdicts()
    assert cluster.kills() == [("a", cluster.first.lease_id)]
    assert cluster.task("t").retries_used == 1
    # Attempt numbers are never given twice, and the retry avoids the machine where it failed.
    assert (cluster.leases["t"].attempt, cluster.worker_of("t")) == (3, "a")
    cluster.finish("t", verdict=Verdict.FAILED)
    assert cluster.verdicts()["t"] is Verdict.FAILED


@pytest.mark.parametrize("lost", ["a", "b"])
@pytest.mark.parametrize("is_started", [True, False])
def test_the_loss_of_one_leaves_the_other(cluster, lost, is_started):
    if is_started:
        cluster.start("t")
    cluster.disconnect(lost, dead=True)
    planned = cluster.task("t")
    kept, name = (cluster.second, "b") if lost == "a" else (cluster.first, "a")
    assert [live.lease_id for live in planned.live_leases] == [kept.lease_id]
    assert planned.state is (TaskState.LEASED if lost == "a" and not is_started else TaskState.RUNNING)
    assert cluster.leases["t"] is cluster.second
    assert planned.losses == (lost == "a" or is_started)
    cluster.report(kept, name)
    assert cluster.verdicts()["t"] is Verdict.PASSED
    assert cluster.task("t").retries_used == 0


def test_the_loss_of_both_is_another_attempt(cluster):
    cluster.start("t")
    cluster.disconnect("a", dead=True)
    cluster.disconnect("b", dead=True)
    assert cluster.task("t").state is TaskState.QUEUED
    cluster.join("c")
    cluster.ready("c")
    assert cluster.leases["t"].attempt == 3


def test_the_third_loss_quarantines_and_ends_the_attempt_that_goes_on():
    cluster = Hedged(limits=Limits(heartbeat_interval_s=math.inf, attempts_lost_max=1))
    assert cluster.hedge()
    cluster.disconnect("a", dead=True)
    assert cluster.verdicts() == {"t": Verdict.QUARANTINED}
    assert cluster.kills() == [("b", cluster.second.lease_id)]


def test_an_attempt_that_was_killed_by_others_says_nothing_while_the_other_goes_on(cluster):
    cluster.report(cluster.first, "a", Verdict.CANCELLED)
    assert not cluster.verdicts()
    cluster.report(cluster.second, "b")
    assert cluster.verdicts()["t"] is Verdict.PASSED


@pytest.mark.parametrize("event", ["returned", "not collectable", "infrastructure"])
def test_a_hedge_that_comes_to_nothing_changes_nothing(cluster, event):
    if event == "infrastructure":
        cluster.apply(events.InfrastructureFailed(WorkerId("b"), [cluster.second.lease_id], "cannot fork"))
    else:
        cluster.give_back("t", not_collectable=event == "not collectable")
    assert [live.lease_id for live in cluster.task("t").live_leases] == [cluster.first.lease_id]
    assert cluster.task("t").state is TaskState.RUNNING
    cluster.report(cluster.first, "a")
    assert cluster.verdicts()["t"] is Verdict.PASSED


@pytest.mark.parametrize("kill", [True, False])
def test_cancellation_ends_both(cluster, kill):
    cluster.start("t")
    cluster.cancel(kill=kill)
    cluster.wait(1.0 if kill else 5.0)
    assert sorted(cluster.kills()) == [("a", cluster.first.lease_id), ("b", cluster.second.lease_id)]
    cluster.report(cluster.first, "a", Verdict.CANCELLED)
    assert "t" not in cluster.verdicts()
    cluster.report(cluster.second, "b", Verdict.CANCELLED)
    assert cluster.verdicts()["t"] is Verdict.CANCELLED
    assert cluster.all(commands.RunFinished)


def test_a_cancelled_run_does_not_wait_for_workers_that_do_not_answer(cluster):
    cluster.start("t")
    cluster.cancel(kill=True)
    cluster.wait(10.0)
    assert cluster.verdicts()["t"] is Verdict.CANCELLED
    assert cluster.all(commands.RunFinished)


@pytest.mark.replaces_core
def test_both_are_charged_to_their_run():
    cluster = Hedged(expected := task("more", expected_s=1.0))
    charged = []
    scheduling = cluster.state.cluster.scheduling
    charge = scheduling.charge

    def note(run, seconds):
        charged.append(seconds)
        charge(run, seconds)

    scheduling.charge = note
    cluster.finish(expected.task_id)
    charged.clear()
    assert cluster.hedge()
    cluster.start("t")
    cluster.wait(3.0)
    cluster.report(cluster.second, "b", duration_s=3.0)
    # Attempt 1 was charged 0.1 s when it was granted: with that it is 3 s for the one and 5 s for the other.
    assert sum(charged) + 0.1 == pytest.approx(3.0 + 5.0)


@pytest.mark.parametrize(
    "options",
    [
        {"hedge": False},
        {"requirements": Requirements(locks=("db",))},
        {"requirements": Requirements(alone=True)},
        {"keep_together": True, "group": "kept"},
    ],
)
def test_what_must_not_run_twice_is_not_hedged(options):
    assert not Hedged(**options).hedge()


def test_no_hedge_beyond_the_rules():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=math.inf))
    cluster.state.cluster.balancing.propose = lambda idle, busy, now: ()
    cluster.join("a", slots=2)
    cluster.submit(task("t", group="g"), task("next", group="g"), task("other"))
    cluster.start("t")
    cluster.finish("other")
    running, waiting = cluster.state.cluster.workers["a"].slots[0].leases.values()
    own = cluster.state.cluster.workers["a"].slots[1]
    cluster.join("b", slots=2)
    cluster.ready("b")
    [one, two] = cluster.state.cluster.workers["b"].slots

    def leases_when_proposed(*proposals):
        cluster.state.cluster.balancing.propose = lambda idle, busy, now: proposals
        cluster.wait(1.0)
        return len(cluster.state.cluster.leases)

    assert leases_when_proposed(Hedge(waiting, one)) == 2, "it has not been asked back"
    assert leases_when_proposed(Hedge(running, own)) == 2, "two attempts on one worker"
    assert leases_when_proposed(Hedge(running, one), Hedge(running, two)) == 3, "one hedge at most"
    cluster.finish("next")
    assert leases_when_proposed(Hedge(waiting, two)) == 2, "it is over"


def test_a_task_that_was_lost_is_not_tried_on_two_workers_at_once():
    cluster = Hedged()
    cluster.disconnect("a", dead=True)
    cluster.start("t")
    cluster.join("c")
    cluster.ready("c")
    live = cluster.task("t").lease
    [idle] = cluster.state.cluster.workers["c"].slots
    cluster.state.cluster.balancing.propose = lambda *arguments: [Hedge(live, idle)]
    cluster.wait(3.0)
    assert len(cluster.state.cluster.leases) == 1


def test_a_hedge_reserves_what_the_task_needs_on_its_own_worker():
    gpu = Capabilities({}, {"gpus": 1.0})
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=math.inf))
    cluster.join("a", capabilities=gpu)
    cluster.submit(task("t", requirements=Requirements(resources=(("gpus", 1.0),))))
    cluster.start("t")
    cluster.join("b", slots=2, capabilities=gpu)
    cluster.ready("b")
    live = cluster.state.cluster.runs[RUN].tasks["t"].lease
    slot = cluster.state.cluster.workers["b"].slots[1]
    cluster.state.cluster.balancing.propose = lambda *arguments: [Hedge(live, slot)]
    cluster.wait(3.0)
    assert cluster.state.cluster.workers["b"].free == {"gpus": 0.0}
    cluster.report(live, "a")
    assert cluster.state.cluster.workers["b"].free == {"gpus": 1.0}


def test_why_names_both(cluster):
    assert cluster.why("t") == "running on a/0, attempt 1; hedged by attempt 2 on b/0"


def test_a_snapshot_counts_a_hedged_task_once(cluster):
    cluster.start("t")
    [run] = cluster.state.snapshot().runs
    assert run.states == {"finished": 0, "running": 1, "leased": 0, "waiting": 1}


def test_the_loser_on_a_worker_without_a_link_is_killed_when_it_comes_back(cluster):
    cluster.start("t")
    cluster.disconnect("a")
    cluster.report(cluster.second, "b")
    assert not cluster.kills()
    cluster.join("a", held=[cluster.first.lease_id])
    assert cluster.kills() == [("a", cluster.first.lease_id)]


def test_what_a_hanging_worker_does_not_give_back_is_hedged():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=math.inf))
    cluster.join("a")
    cluster.submit(task("long", expected_s=0.1, hedge=False), task("next", expected_s=0.1), task("not", expected_s=0.1))
    cluster.start("long")
    cluster.join("b")
    cluster.ready("b")
    cluster.finish("not")
    cluster.wait(1.0)
    [asked] = cluster.all(commands.RevokeLeases)
    first = cluster.leases["next"]
    assert asked.lease_ids == [first.lease_id]
    cluster.wait(3.0)
    assert (cluster.worker_of("next"), cluster.leases["next"].attempt) == ("b", 2)
    cluster.finish("next")
    assert cluster.verdicts()["next"] is Verdict.PASSED
    # What it says when it wakes up changes nothing.
    cluster.apply(events.LeasesReturned(WorkerId("a"), [first.lease_id]))
    cluster.report(cluster.leases["long"], "a")
    assert cluster.all(commands.RunFinished)
