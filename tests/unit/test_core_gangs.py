"""Gangs: several workers execute one task together, all granted at once, one verdict for all of them."""

import math

import pytest

from fleetest.core import commands, events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.lifecycle import TaskState
from fleetest.core.model import AttemptResult, Capabilities, Limits, Requirements, Verdict, WorkerId
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.scheduling import SimpleScheduler
from fleetest.task_scheduler import TaskScheduler
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task

LIMITS = Limits(heartbeat_interval_s=math.inf, cancel_grace_s=5.0, kill_answer_s=5.0)
GANG = Requirements(workers=2)


class Fleet(ScriptedCluster):
    """Workers ``a``, ``b``, ... with one slot each; ``members`` are the latest leases of a gang by worker."""

    def __init__(self, names="ab", slots=1, limits=LIMITS):
        super().__init__(limits)
        for name in names:
            self.join(name, slots=slots)

    def members(self, name="t"):
        found = {}
        for command in self.all(commands.GrantLeases):
            for lease in command.leases:
                if lease.task_id == name:
                    found[command.worker_id] = lease
        newest = max(lease.attempt for lease in found.values())
        return {worker: lease for worker, lease in found.items() if lease.attempt == newest}

    def begin(self, *workers, name="t"):
        members = self.members(name)
        for worker in workers or members:
            self.apply(events.AttemptsStarted(WorkerId(worker), [members[worker].lease_id]))

    def end(self, name="t", **verdicts):
        members = self.members(name)
        for worker, verdict in verdicts.items():
            result = AttemptResult(members[worker].lease_id, verdict, duration_s=0.1, evidence=f"{worker} says so")
            self.apply(events.AttemptsFinished(WorkerId(worker), [result]))

    def task(self, name="t"):
        run = self.state.cluster.runs.get(RUN) or self.state.cluster.finished_runs[RUN]
        return run.tasks[name]

    def kills(self):
        return [(command.worker_id, *command.lease_ids) for command in self.all(commands.KillLeases)]


@pytest.fixture
def fleet():
    made = Fleet()
    made.submit(task("t", requirements=GANG))
    return made


def test_all_members_are_granted_in_one_step_and_know_their_places(fleet):
    members = fleet.members()
    assert set(members) == {"a", "b"}
    places = [members[name].gang for name in "ab"]
    assert [place.rank for place in places] == [0, 1]
    assert {(place.gang_id, place.size, place.workers) for place in places} == {(places[0].gang_id, 2, ("a", "b"))}
    grants = [command for command in fleet.emitted if isinstance(command, commands.GrantLeases)]
    assert len(grants) == 2
    # Nothing follows for either: no runner waits in its teardown.
    assert set(fleet.emitted[-2:]) == {commands.SlotIdle("a", 0), commands.SlotIdle("b", 0)}


def test_addresses_of_one_machine_and_of_several():
    def hosts(*addresses):
        cluster = ScriptedCluster(LIMITS)
        for name, address in zip("ab", addresses, strict=True):
            capabilities = Capabilities({"host": (f"host-{name}",)})
            cluster.apply(events.WorkerJoined(WorkerId(name), "s", 1, capabilities, address=address))
        cluster.submit(task("t", requirements=GANG))
        return cluster.leases["t"].gang.hosts

    assert hosts("127.0.0.1", "127.0.0.1") == ("127.0.0.1", "127.0.0.1")
    assert hosts("10.0.0.1", "10.0.0.2") == ("10.0.0.1", "10.0.0.2")
    # From another machine the loopback address leads nowhere.
    assert hosts("127.0.0.1", "10.0.0.2") == ("host-a", "10.0.0.2")


def test_passed_if_all_passed(fleet):
    fleet.begin()
    fleet.end(a=Verdict.PASSED)
    assert not fleet.verdicts()
    assert fleet.task().state is TaskState.RUNNING
    fleet.end(b=Verdict.PASSED)
    assert fleet.verdicts() == {"t": Verdict.PASSED}
    [outcome] = fleet.outcomes()
    assert [(one.worker_id, one.verdict) for one in outcome.members] == [("a", Verdict.PASSED), ("b", Verdict.PASSED)]
    assert fleet.all(commands.RunFinished)
    assert not fleet.kills()


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (Verdict.PASSED, Verdict.FAILED, Verdict.FAILED),
        (Verdict.FAILED, Verdict.CRASHED, Verdict.CRASHED),
        (Verdict.ERROR, Verdict.FAILED, Verdict.ERROR),
        (Verdict.FAILED, Verdict.TIMEOUT, Verdict.TIMEOUT),
        (Verdict.PASSED, Verdict.SKIPPED, Verdict.SKIPPED),
        (Verdict.FAILED, Verdict.CANCELLED, Verdict.FAILED),
    ],
)
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_else_the_worst_with_the_evidence_of_all(fleet, first, second, verdict, order):
    fleet.begin()
    for name in order:
        fleet.end(**{name: first if name == "a" else second})
    assert fleet.verdicts() == {"t": verdict}
    [outcome] = fleet.outcomes()
    assert outcome.result.verdict is verdict
    lines = outcome.result.evidence.splitlines()
    assert lines[0] in ("a says so", "b says so")
    assert lines[1:] == [f"rank 0 on a: {first.value} after 0.1 s", f"rank 1 on b: {second.value} after 0.1 s"]


def test_when_one_fails_the_others_get_a_grace_and_are_killed(fleet):
    fleet.begin()
    fleet.end(a=Verdict.FAILED)
    fleet.wait(4.9)
    assert not fleet.kills()
    fleet.wait(0.2)
    assert fleet.kills() == [("b", fleet.members()["b"].lease_id)]
    fleet.end(b=Verdict.CANCELLED)
    assert fleet.verdicts() == {"t": Verdict.FAILED}


def test_a_member_that_does_not_answer_is_done_without(fleet):
    fleet.begin()
    fleet.end(a=Verdict.FAILED)
    fleet.wait(20.0)
    assert fleet.verdicts() == {"t": Verdict.FAILED}
    [outcome] = fleet.outcomes()
    assert outcome.members[1].reason == "no result came from it"


def test_a_lost_member_makes_it_a_lost_attempt_of_all(fleet):
    fleet.join("c")
    fleet.ready("c")
    fleet.begin()
    fleet.disconnect("a", dead=True)
    assert not fleet.verdicts()
    fleet.wait(5.0)
    assert fleet.kills() == [("b", fleet.members()["b"].lease_id)]
    fleet.end(b=Verdict.CANCELLED)
    again = fleet.members()
    assert set(again) == {"b", "c"}
    assert {lease.attempt for lease in again.values()} == {2}
    assert (fleet.task().losses, fleet.task().retries_used) == (1, 0)
    fleet.begin()
    fleet.end(b=Verdict.PASSED, c=Verdict.PASSED)
    assert fleet.verdicts() == {"t": Verdict.PASSED}
    assert [(outcome.attempt, outcome.is_final) for outcome in fleet.outcomes()] == [(1, False), (2, True)]


def test_a_loss_before_anything_began_is_no_attempt(fleet):
    fleet.disconnect("a", goodbye=True)
    fleet.wait(0.0)
    assert fleet.kills() == [("b", fleet.members()["b"].lease_id)]
    fleet.end(b=Verdict.CANCELLED)
    fleet.join("c")
    fleet.ready("c")
    assert {lease.attempt for lease in fleet.members().values()} == {2} or fleet.task().losses == 0


def test_the_third_loss_quarantines(fleet):
    for number in range(3):
        fleet.begin()
        fleet.disconnect("a", dead=True)
        fleet.wait(5.0)
        if not fleet.verdicts():
            fleet.end(b=Verdict.CANCELLED)
            fleet.join("a", session=f"{number}")
            fleet.ready("a")
    assert fleet.verdicts() == {"t": Verdict.QUARANTINED}


def test_retries_are_those_of_the_task():
    fleet = Fleet()
    fleet.submit(task("t", requirements=GANG, retries=1))
    fleet.begin()
    fleet.end(a=Verdict.FAILED, b=Verdict.FAILED)
    assert not fleet.verdicts()
    assert {lease.attempt for lease in fleet.members().values()} == {2}
    fleet.begin()
    fleet.end(a=Verdict.PASSED, b=Verdict.PASSED)
    assert fleet.verdicts() == {"t": Verdict.PASSED}


def test_a_member_that_is_given_back_calls_the_attempt_off(fleet):
    fleet.join("c")
    fleet.ready("c")
    lease = fleet.members()["a"]
    fleet.apply(events.LeasesReturned(WorkerId("a"), [lease.lease_id], not_collectable=True))
    assert fleet.kills() == [("b", fleet.members()["b"].lease_id)]
    fleet.end(b=Verdict.CANCELLED)
    assert set(fleet.members()) == {"b", "c"}
    assert fleet.task().losses == 0


def test_members_on_workers_that_come_back_are_adopted(fleet):
    fleet.begin()
    fleet.disconnect("a")
    fleet.disconnect("b")
    for name in "ab":
        fleet.join(name, held=[fleet.members()[name].lease_id])
    assert len(fleet.all(commands.GrantLeases)) == 2
    fleet.end(a=Verdict.PASSED, b=Verdict.PASSED)
    assert fleet.verdicts() == {"t": Verdict.PASSED}


@pytest.mark.parametrize("kill", [True, False])
def test_cancellation_ends_all_members(fleet, kill):
    fleet.begin()
    fleet.cancel(kill=kill)
    fleet.wait(1.0 if kill else 5.0)
    assert sorted(worker for worker, _ in fleet.kills()) == ["a", "b"]
    fleet.end(a=Verdict.CANCELLED, b=Verdict.CANCELLED)
    assert fleet.verdicts() == {"t": Verdict.CANCELLED}
    assert fleet.all(commands.RunFinished)


def test_a_cancelled_gang_that_gathers_lets_its_slots_go():
    fleet = Fleet()
    fleet.submit(task("x"), run="other", owner="x")
    fleet.submit(task("t", requirements=GANG))
    fleet.cancel()
    assert fleet.verdicts() == {"t": Verdict.CANCELLED}
    assert not any(slot.is_held for worker in fleet.state.cluster.workers.values() for slot in worker.slots)


def test_drain_lets_a_running_gang_finish_and_calls_off_one_that_has_not_begun(fleet):
    fleet.apply(events.WorkerDraining(WorkerId("a")))
    [asked] = fleet.all(commands.RevokeLeases)
    assert asked.lease_ids == [fleet.members()["a"].lease_id]
    fleet.apply(events.LeasesReturned(WorkerId("a"), asked.lease_ids))
    assert fleet.kills() == [("b", fleet.members()["b"].lease_id)]
    running = Fleet()
    running.submit(task("t", requirements=GANG))
    running.begin()
    running.apply(events.WorkerDraining(WorkerId("a")))
    running.end(a=Verdict.PASSED, b=Verdict.PASSED)
    assert running.verdicts() == {"t": Verdict.PASSED}


def test_a_gang_waits_for_running_tests_and_nothing_else_gets_its_slots():
    fleet = Fleet()
    fleet.submit(task("x", group="x"), task("y", group="y"), *(task(f"{n}", group="z") for n in range(9)))
    fleet.start("x", "y")
    fleet.submit(task("t", requirements=GANG), run="gang", owner="other")
    busy = {name for names in fleet.queues.values() for name in names}
    assert fleet.why("t", "gang").startswith(
        "needs 2 workers at once, and 0 of 2 that fit have a free slot; it gathers"
    )
    for name in sorted(busy, key=list(fleet.leases).index):
        fleet.finish(name)
    assert set(fleet.members("t")) == {"a", "b"}
    assert {name for names in fleet.queues.values() for name in names} == {*busy, "t"}
    fleet.end(a=Verdict.PASSED, b=Verdict.PASSED)
    # And then the others go on.
    assert len({name for names in fleet.queues.values() for name in names}) > len(busy) + 1


def test_a_gang_starts_at_once_where_it_can_rather_than_on_slots_that_it_keeps():
    fleet = Fleet("ab")
    fleet.submit(task("x"), ready=False)
    fleet.ready("a")
    fleet.start("x")
    fleet.submit(task("t", requirements=GANG), run="gang")
    assert fleet.why("t", "gang").endswith("it gathers a, b and waits for a/0")
    # x is expected to end within a moment, but only expected.
    fleet.join("c")
    fleet.ready("c", run="gang")
    assert set(fleet.members("t")) == {"b", "c"}


def test_who_gathers_is_thought_over_soon_while_slots_are_idle():
    fleet = Fleet("abc")
    lock = Requirements(locks=("db",))
    fleet.submit(task("x", requirements=lock), task("y", requirements=lock), run="urgent", priority=1)
    fleet.submit(task("t", requirements=GANG), run="gang")
    # It leaves two idle workers to y, which cannot use them.
    assert fleet.why("t", "gang").endswith("2 of 3 that fit have a free slot; other work is before it")
    fleet.wait(0.3)
    assert set(fleet.members("t")) == {"b", "c"}


def test_why_names_the_gang_that_is_before_it_and_for_whom_a_free_slot_is_kept():
    fleet = Fleet("ab")
    fleet.submit(task("x", requirements=Requirements(alone=True)))
    fleet.start("x")
    fleet.submit(task("t", requirements=GANG), task("u", requirements=GANG), task("y"), run="gangs")
    assert fleet.why("u", "gangs").endswith("1 of 2 that fit has a free slot; task 't' is before it")
    kept = "waiting for a free slot: b/0 is kept for task 't', which needs several workers"
    assert fleet.why("y", "gangs") == kept


def test_two_gangs_never_wait_for_each_other():
    fleet = Fleet("abc", slots=2)
    fleet.submit(*(task(f"x{n}", group=f"{n}") for n in range(6)))
    fleet.start(*(f"x{n}" for n in range(6)))
    fleet.submit(*(task(f"g{n}", requirements=GANG) for n in range(4)), run="gangs")
    # Three workers: one gang gathers, a second one would lack a member and keeps nothing.
    gatherings = list(fleet.state.cluster.gangs.gatherings)
    assert [len(gathering.slots) for gathering in gatherings] == [2]
    fleet.finish(*(f"x{n}" for n in range(6)))
    for _ in range(4):
        names = [name for name in (f"g{n}" for n in range(4)) if name in fleet.leases]
        for name in names:
            if name not in fleet.verdicts("gangs"):
                fleet.end(name, **dict.fromkeys(fleet.members(name), Verdict.PASSED))
    assert len(fleet.verdicts("gangs")) == 4


def test_a_gang_does_not_hold_slots_while_somebody_holds_its_lock():
    fleet = Fleet("abc")
    fleet.submit(task("x", requirements=Requirements(locks=("db",))))
    fleet.start("x")
    fleet.submit(task("t", requirements=Requirements(workers=2, locks=("db",))), task("y"), run="gang")
    assert not list(fleet.state.cluster.gangs.gatherings)
    assert "y" in fleet.leases
    assert fleet.why("t", "gang") == "waiting for lock 'db' (held by task 'x' of run run)"
    # But nobody else gets the lock before it.
    fleet.submit(task("z", requirements=Requirements(locks=("db",)), priority=0), run="late")
    fleet.finish("x", "y")
    assert "t" in fleet.leases
    assert "z" not in fleet.leases
    fleet.end(**dict.fromkeys(fleet.members(), Verdict.PASSED))
    assert "z" in fleet.leases


def test_who_waits_for_a_lock_that_a_gathering_gang_is_to_have_hears_so():
    fleet = Fleet("ab", slots=2)
    fleet.submit(*[task(name, group=name) for name in ("u", "v", "w")])
    fleet.start("u", "v", "w")
    fleet.submit(task("t", requirements=Requirements(workers=2, locks=("db",), alone=True)), run="gang")
    assert list(fleet.state.cluster.gangs.gatherings)
    fleet.submit(task("z", requirements=Requirements(locks=("db",))), run="late")
    assert "z" not in fleet.leases
    assert fleet.why("z", "late") == "waiting for lock 'db' (kept for a task that needs several workers)"


def test_the_lock_of_a_gang_is_held_until_its_last_member_has_ended():
    fleet = Fleet("abc")
    fleet.submit(task("t", requirements=Requirements(workers=2, locks=("db",))))
    fleet.submit(task("x", requirements=Requirements(locks=("db",))), run="other")
    first, second = fleet.members()
    fleet.end(**{first: Verdict.PASSED})
    assert "x" not in fleet.leases
    fleet.end(**{second: Verdict.PASSED})
    assert "x" in fleet.leases


def test_resources_are_kept_for_a_gang_that_needs_them():
    fleet = ScriptedCluster(LIMITS)
    gpu = Capabilities({}, {"gpus": 1.0})
    for name in "ab":
        fleet.join(name, slots=2, capabilities=gpu)
    needs = Requirements(resources=(("gpus", 1.0),))
    fleet.submit(*(task(f"x{n}", requirements=needs, group=f"{n}") for n in range(2)))
    fleet.start("x0", "x1")
    fleet.submit(task("t", requirements=Requirements(workers=2, resources=(("gpus", 1.0),))), run="gang")
    fleet.submit(*(task(f"y{n}", requirements=needs) for n in range(4)), run="stream")
    fleet.finish("x0")
    assert not any(f"y{n}" in fleet.leases for n in range(4))
    fleet.finish("x1")
    assert "t" in fleet.leases


def test_alone_means_every_member():
    fleet = Fleet("ab", slots=2)
    fleet.submit(task("x", expected_s=1.0))
    fleet.start("x")
    fleet.submit(task("t", requirements=Requirements(workers=2, alone=True)), run="gang")
    fleet.submit(task("y"), run="other")
    assert "t" not in fleet.leases
    fleet.finish("x")
    assert "t" in fleet.leases
    assert "y" not in fleet.leases
    fleet.end(**dict.fromkeys(fleet.members(), Verdict.PASSED))
    assert "y" in fleet.leases


def test_other_runs_have_the_workers_for_as_long_as_a_gang_had_them():
    fleet = Fleet()
    fleet.submit(*(task(f"g{n}", requirements=GANG) for n in range(9)), run="gangs", owner="ann")
    fleet.submit(*(task(f"x{n}", group=f"{n}", expected_s=5.0) for n in range(40)), run="singles", owner="bob")
    fleet.begin(name="g0")
    fleet.wait(10.0)
    fleet.end("g0", a=Verdict.PASSED, b=Verdict.PASSED)
    singles = [name for name in fleet.leases if name.startswith("x")]
    assert len(singles) >= 2
    assert "g1" not in fleet.leases
    done = 0
    while "g1" not in fleet.leases:
        fleet.wait(5.0)
        for name in [name for name in fleet.leases if name.startswith("x") and name not in fleet.verdicts("singles")]:
            fleet.finish(name, duration_s=5.0)
            done += 1
    # Those that waited in the slots, and what 10 s of two workers are worth.
    assert 4 <= done <= 16


def test_work_of_higher_priority_is_before_a_gang_until_that_has_waited_long():
    fleet = Fleet(limits=Limits(heartbeat_interval_s=math.inf, ageing_s=100.0, prefetch_tasks_max=1))
    fleet.submit(*(task(f"x{n}", group=f"{n}", expected_s=30.0) for n in range(20)), run="urgent", priority=1)
    fleet.submit(task("t", requirements=GANG), run="gang")
    started_after = None
    for round_number in range(10):
        fleet.wait(30.0)
        open_names = [name for name in fleet.leases if name.startswith("x") and name not in fleet.verdicts("urgent")]
        fleet.finish(*open_names, duration_s=30.0)
        if "t" in fleet.leases:
            started_after = (round_number + 1) * 30.0
            break
    assert started_after is not None
    assert 100.0 <= started_after <= 200.0


@pytest.mark.parametrize("scheduling", [TaskScheduler, SimpleScheduler])
@pytest.mark.parametrize(("gang", "single"), [((0, 0), (0, 10)), ((0, 5), (3, 3)), ((3, 0), (0, 10))])
def test_the_priority_of_the_single_test_counts_as_that_of_its_run_does(gang, single, scheduling):
    """Each a priority of the run and one of the test."""
    fleet = Fleet("", limits=Limits(heartbeat_interval_s=math.inf, ageing_s=100.0))
    fleet.state = ClusterState(scheduling(), LoadBalancer(), HealthMonitor(), fleet.state.cluster.limits)
    fleet.join("a")
    fleet.join("b")
    fleet.submit(task("x", expected_s=5.0), task("y", group="y", expected_s=5.0))
    fleet.start("x", "y")
    fleet.submit(task("t", requirements=GANG, priority=gang[1]), run="gang", priority=gang[0])
    urgent = [task(name, group=name, priority=single[1], expected_s=5.0) for name in ("u", "v")]
    fleet.submit(*urgent, run="urgent", priority=single[0])
    fleet.finish("x", "y", duration_s=5.0)
    assert {"u", "v"} <= set(fleet.leases)
    assert "t" not in fleet.leases
    fleet.finish("u", "v", duration_s=5.0)
    assert "t" in fleet.leases


def test_a_gang_is_before_a_single_test_of_less_priority_in_a_run_of_more():
    fleet = Fleet()
    fleet.submit(task("x", expected_s=5.0), task("y", group="y", expected_s=5.0))
    fleet.start("x", "y")
    fleet.submit(task("t", requirements=GANG, priority=5), run="gang")
    fleet.submit(task("u", priority=-3), task("v", group="v", priority=-3), run="others", priority=1)
    fleet.finish("x", "y", duration_s=5.0)
    assert "t" in fleet.leases
    assert not {"u", "v"} & set(fleet.leases)


def test_slots_that_stay_empty_beside_a_gang_which_runs_alone_are_wanted_all_the_same():
    fleet = Fleet(slots=2)
    alone = Requirements(workers=2, alone=True)
    fleet.submit(task("t", requirements=alone), run="gang")
    fleet.submit(task("x"), run="urgent", priority=1)
    fleet.submit(task("next", requirements=alone), run="next")
    fleet.begin()
    # Long enough for everybody to think again who is to have these workers.
    fleet.wait(5.0)
    fleet.end(a=Verdict.PASSED, b=Verdict.PASSED)
    assert "x" in fleet.leases
    assert "next" not in fleet.leases


def test_a_gang_of_higher_priority_gathers_first():
    fleet = Fleet()
    fleet.submit(task("x"), task("y", group="y"))
    fleet.start("x", "y")
    fleet.submit(task("low", requirements=GANG), run="low")
    fleet.submit(task("high", requirements=GANG), run="high", priority=1)
    [gathering] = fleet.state.cluster.gangs.gatherings
    assert gathering.task.task_id == "high"
    fleet.finish("x", "y")
    assert "high" in fleet.leases
    assert "low" not in fleet.leases


def test_too_few_workers_are_said():
    fleet = Fleet("a")
    fleet.submit(task("t", requirements=GANG))
    assert fleet.why("t") == "needs 2 workers at once, and 1 that fits takes work"


def test_in_a_fleet_that_stays_as_it_is_a_gang_that_cannot_be_is_not_run():
    fleet = Fleet("a", slots=4, limits=Limits(heartbeat_interval_s=math.inf, workers_may_join=False))
    fleet.submit(task("t", requirements=GANG), task("x"))
    assert fleet.verdicts() == {"t": Verdict.NOT_RUN}
    assert fleet.outcomes()[0].reason == "needs 2 workers at once, and 1 that fits takes work"
    assert "x" in fleet.leases


def test_a_gang_leaves_the_slot_of_its_group():
    fleet = Fleet("ab", slots=2)
    fleet.submit(
        task("t", group="g", keep_together=True, requirements=GANG),
        task("x", group="g", keep_together=True),
    )
    assert "x" in fleet.leases
    assert fleet.leases["x"].gang is None
    assert set(fleet.members()) == {"a", "b"}


def test_the_overrun_of_one_member_is_a_loss():
    limits = Limits(heartbeat_interval_s=math.inf, lease_overrun_s=1.0, attempts_lost_max=1)
    fleet = Fleet(limits=limits)
    fleet.submit(task("t", requirements=GANG, timeout_s=2.0))
    fleet.begin()
    fleet.wait(3.0)
    assert {worker for worker, _ in fleet.kills()} == {"a", "b"}
    assert fleet.verdicts() == {"t": Verdict.QUARANTINED}


def test_a_snapshot_counts_a_gang_once(fleet):
    fleet.begin()
    [run] = fleet.state.snapshot().runs
    assert run.states == {"finished": 0, "running": 1, "leased": 0, "waiting": 0}


def test_why_names_all_members(fleet):
    fleet.begin("b")
    assert fleet.why("t") == "running on a/0, attempt 1, together with b/0"


def test_a_scheduler_of_the_users_has_gangs_for_nothing():
    class ByName(SimpleScheduler):
        def key(self, task, now):
            assert task.requirements.workers == 1
            return task.task_id

    state = ClusterState(ByName(), LoadBalancer(), HealthMonitor(), LIMITS)
    fleet = Fleet("")
    fleet.state = state
    fleet.join("a")
    fleet.join("b")
    fleet.submit(task("x"), task("t", requirements=GANG), task("y", group="y"))
    while len(fleet.verdicts()) < 3:
        for name in [name for name in fleet.leases if name not in fleet.verdicts()]:
            workers = fleet.members(name) if name == "t" else [fleet.worker_of(name)]
            fleet.end(name, **dict.fromkeys(workers, Verdict.PASSED))
    assert set(fleet.verdicts()) == {"x", "t", "y"}


def test_a_gang_does_not_wait_for_a_test_that_hangs_while_others_end():
    fleet = Fleet("abc", limits=Limits(heartbeat_interval_s=math.inf, prefetch_tasks_max=1))
    fleet.submit(task("hangs", expected_s=1.0), task("x", expected_s=5.0), task("y", expected_s=6.0), run="singles")
    fleet.start("hangs", "x", "y")
    fleet.submit(task("t", requirements=GANG), run="gang")
    fleet.submit(*(task(f"z{n}", expected_s=5.0, group=f"{n}") for n in range(9)), run="stream")
    fleet.wait(5.0)
    fleet.finish("x", duration_s=5.0)
    assert "t" not in fleet.leases
    fleet.wait(1.0)
    fleet.finish("y", duration_s=6.0)
    assert "t" in fleet.leases
