"""What is expected to end in time uses the slots that are kept for a gang, and never delays it for long."""

import math

import pytest

from fleetest.core import events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.model import Capabilities, Limits, Requirements, Verdict
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.scheduling import SimpleScheduler
from fleetest.testing.naive_model import check_schedule
from fleetest.testing.scripted_cluster import ScriptedCluster, task

LIMITS = Limits(heartbeat_interval_s=math.inf, prefetch_tasks_max=1, ageing_s=600.0)
GANG = Requirements(workers=2)
GPU = Requirements(resources=(("gpus", 1.0),))
MACHINE = Capabilities({}, {"gpus": 1.0, "cpus": 8.0})


class Fleet(ScriptedCluster):
    """Workers ``a`` and ``b`` with one slot each. ``b`` is empty and kept for gang ``t`` until ``a`` ends ``long``."""

    def __init__(self, limits=LIMITS, *, gang=GANG, slots=1, long_s=60.0):
        super().__init__(limits)
        for name in "ab":
            self.join(name, slots, MACHINE)
        self.submit(task("long", expected_s=long_s), run="first")
        self.start("long")
        self.submit(task("t", requirements=gang), run="gang")
        self.ended = set()

    def apply(self, event):
        emitted = super().apply(event)
        check_schedule(self.state.cluster, emitted)
        return emitted

    def running(self):
        return {live.task.task_id for live in self.state.cluster.leases.values()}


@pytest.fixture
def fleet():
    return Fleet()


def test_a_short_test_uses_the_kept_slot(fleet):
    assert fleet.running() == {"long"}
    fleet.submit(task("short", expected_s=5.0), run="late")
    assert fleet.running() == {"long", "short"}
    fleet.finish("short", duration_s=5.0)
    fleet.finish("long")
    assert fleet.running() == {"t"}


@pytest.mark.parametrize(
    "single",
    [
        task("x"),
        task("x", expected_s=11.0),
        task("x", expected_s=600.0),
        task("x", expected_s=1.0, requirements=Requirements(alone=True)),
        task("x", expected_s=1.0, requirements=Requirements(locks=("db",))),
        task("x", expected_s=1.0, group="g", keep_together=True),
        task("a.py::Class::x", expected_s=1.0, group="a.py"),
    ],
    ids=["unknown", "too little room", "long", "alone", "lock", "kept together", "class"],
)
def test_what_may_delay_the_gang_or_has_its_place_elsewhere_does_not(fleet, single):
    fleet.submit(single, run="late")
    assert fleet.running() == {"long"}


def test_what_it_reserves_must_be_kept_for_the_gang_anyway():
    fleet = Fleet(gang=Requirements(workers=2, resources=(("gpus", 1.0),)))
    fleet.submit(task("cpu", expected_s=1.0, requirements=Requirements(resources=(("cpus", 1.0),))), run="late")
    assert fleet.running() == {"long"}
    fleet.submit(task("gpu", expected_s=1.0, requirements=GPU), run="later")
    assert fleet.running() == {"long", "gpu"}


def test_every_slot_of_a_worker_that_a_gang_wants_alone_is_used():
    fleet = Fleet(gang=Requirements(workers=2, alone=True), slots=3, long_s=20.0)
    fleet.submit(*(task(f"x{n}", expected_s=9.0, group=f"{n}") for n in range(9)), run="late")
    assert len(fleet.running()) == 6
    fleet.wait(9.0)
    fleet.finish(*(fleet.running() - {"long"}), duration_s=9.0)
    # 11 s are left if nothing takes half as long again.
    assert fleet.running() == {"long"}
    fleet.finish("long")
    assert fleet.running() == {"t"}


def test_the_most_urgent_and_of_these_the_longest_goes_first(fleet):
    # None of them is more urgent than the gang: that would be before it.
    singles = [task("low", expected_s=9.0, priority=-2), task("short", expected_s=1.0, priority=-1)]
    fleet.submit(*singles, task("fits", expected_s=5.0, priority=-1), task("long2", expected_s=50.0))
    assert fleet.running() == {"long", "fits"}
    for name in ("fits", "short"):
        fleet.finish(name, duration_s=1.0)
    assert fleet.running() == {"long", "low"}


def test_the_room_is_what_the_worker_needs_for_it(fleet):
    cluster = fleet.state.cluster
    task_class = cluster.runs["first"].tasks["long"].task_class
    for _ in range(40):
        for name, duration_s in (("a", 1.0), ("b", 4.0)):
            cluster.balancing.finished(cluster.workers[name], 1.0, duration_s, True, task_class)
    assert cluster.balancing.slowness(cluster.workers["b"], task_class) > 1.5
    fleet.submit(task("x", expected_s=7.0), run="late")
    assert fleet.running() == {"long"}
    fleet.submit(task("y", expected_s=2.0), run="later")
    assert fleet.running() == {"long", "y"}


def test_slots_that_were_used_make_no_room_themselves(fleet):
    """Else two slots could take turns for ever."""
    fleet.submit(*(task(f"x{n}", expected_s=9.0, group=f"{n}") for n in range(9)), run="late")
    assert fleet.running() == {"long", "x0"}
    fleet.wait(1.0)
    fleet.finish("long")
    assert fleet.running() == {"x0"}
    fleet.finish("x0", duration_s=100.0)
    assert fleet.running() == {"t"}


def test_nothing_is_begun_while_the_rest_is_overdue(fleet):
    fleet.wait(61.0)
    fleet.submit(task("x", expected_s=0.1), run="late")
    assert fleet.running() == {"long"}


def test_a_gang_that_has_waited_long_is_waited_for():
    fleet = Fleet(Limits(heartbeat_interval_s=math.inf, ageing_s=30.0), long_s=1000.0)
    fleet.wait(20.0)
    fleet.submit(task("x", expected_s=8.0), run="late")
    assert fleet.running() == {"long"}
    fleet.submit(task("y", expected_s=6.0), run="later")
    assert fleet.running() == {"long", "y"}
    fleet.wait(10.0)
    fleet.finish("y", duration_s=6.0)
    fleet.submit(task("z", expected_s=0.1), run="latest")
    assert fleet.running() == {"long"}


def test_the_runner_hears_at_once_that_nothing_follows(fleet):
    emitted = fleet.submit(task("short", expected_s=5.0), run="late")
    kinds = [type(command).__name__ for command in emitted]
    assert kinds.index("GrantLeases") < kinds.index("SlotIdle")


def test_a_test_that_is_taken_back_may_go_there_again(fleet):
    fleet.submit(task("short", expected_s=5.0), run="late")
    fleet.give_back("short")
    assert fleet.running() == {"long", "short"}
    fleet.finish("short")
    assert fleet.verdicts("late") == {"short": Verdict.PASSED}


def test_a_long_queue_is_looked_through_in_parts(monkeypatch):
    monkeypatch.setattr("fleetest.core.backfill.TASKS_MAX", 2)
    fleet = ScriptedCluster(LIMITS)
    fleet.join("a")
    fleet.join("b")
    fleet.submit(task("brief", expected_s=1.0), task("long", expected_s=60.0), run="first")
    fleet.start("brief", "long")
    fleet.submit(*(task(f"x{n}", expected_s=1.0, group=f"{n}") for n in range(9)), run="singles")
    fleet.submit(task("t", requirements=GANG), run="gang")
    taken = [name for name in fleet.leases if name.startswith("x")]
    fleet.finish("brief", *(name for name in taken if fleet.worker_of(name) == "a"))
    for n in range(9):
        if f"x{n}" not in taken:
            fleet.finish(f"x{n}", duration_s=1.0)
    assert "t" not in fleet.leases


def test_a_scheduler_of_the_users_has_it_for_nothing():
    class LongestFirst(SimpleScheduler):
        def key(self, task, now):
            return -self.predict_s(task)

    fleet = Fleet.__new__(Fleet)
    ScriptedCluster.__init__(fleet, LIMITS)
    fleet.state = ClusterState(LongestFirst(), LoadBalancer(), HealthMonitor(), LIMITS)
    fleet.join("a")
    fleet.join("b")
    fleet.submit(task("long", expected_s=60.0), run="first")
    fleet.submit(task("t", requirements=GANG), run="gang")
    fleet.submit(task("x", expected_s=100.0), task("y", expected_s=1.0), run="late")
    assert fleet.running() == {"long", "y"}
    fleet.finish("y")
    fleet.finish("long")
    assert fleet.running() == {"t"}


class Watched(dict):
    """Counts how often somebody goes through it."""

    walks = 0

    def values(self):
        self.walks += 1
        return super().values()


def test_a_long_queue_of_unknown_durations_is_not_gone_through_for_every_slot():
    fleet = ScriptedCluster(LIMITS)
    for number in range(9):
        fleet.join(f"w{number}", 1, MACHINE)
    fleet.submit(task("long", expected_s=60.0), run="first")
    fleet.start("long")
    fleet.submit(task("t", requirements=Requirements(workers=9)), run="gang")
    fleet.submit(*(task(f"x{number}") for number in range(100)), run="late")
    state = fleet.state
    run = state.cluster.runs["late"]
    run.tasks = watched = Watched(run.tasks)
    for step in range(40):
        state.apply(events.DeadlineReached(), fleet.now + step / 20)
    assert 1 <= watched.walks <= 3
