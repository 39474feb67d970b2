"""Tests that are long beside all that is left leave their groups and start first, where they end in time."""

import math

import pytest

from fleetest.core import events
from fleetest.core.model import AttemptResult, Limits, Verdict, WorkerId
from fleetest.simulation.what_if import STRATEGIES, Machine, Question, lognormal_tests
from fleetest.testing.scripted_cluster import ScriptedCluster, task


@pytest.fixture
def cluster():
    return ScriptedCluster(Limits(heartbeat_interval_s=math.inf))


def group(name, *seconds, scope="", **options):
    """Its tests take so long, in this order."""
    prefix = f"{name}.py::{scope}::" if scope else f"{name}.py::"
    return [task(f"{prefix}{n}", group=f"{name}.py", expected_s=known, **options) for n, known in enumerate(seconds)]


def running(cluster):
    return [slot.head().task.task_id for slot in cluster.state.cluster.busy]


def finish_all(cluster, set_up_s=0.0):
    cluster.now += 1.0
    for name in running(cluster):
        lease = cluster.leases[name]
        seconds = cluster.state.cluster.leases[lease.lease_id].predicted_s
        result = AttemptResult(lease.lease_id, Verdict.PASSED, duration_s=seconds, setup_s=min(set_up_s, seconds))
        cluster.apply(events.AttemptsFinished(WorkerId(cluster.worker_of(name)), [result]))


def work_off(cluster, **options):
    """What ran at the same time, in turn."""
    turns = []
    while now := running(cluster):
        turns.append(now)
        finish_all(cluster, **options)
        assert len(turns) < 1000, "no end"
    return turns


def recall(cluster, **slowness):
    cluster.apply(events.SlownessRecalled({WorkerId(name): slow for name, slow in slowness.items()}))


def test_the_long_test_of_a_small_group_starts_first(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*group("large", *[1.0] * 20), *group("larger", *[1.0] * 24), *group("small", 0.1, 0.1, 12.0))
    assert "small.py::2" in running(cluster)


def test_none_is_long_while_there_are_more_urgent_ones(cluster):
    """Short urgent tests would queue behind long urgent ones, and less urgent ones overtake them elsewhere."""
    cluster.join("w", slots=2)
    urgent = [task(f"urgent{number}", expected_s=1.0, priority=1) for number in range(2)]
    cluster.submit(*group("large", *[1.0] * 20), *group("larger", *[1.0] * 24), *group("small", 0.1, 12.0), *urgent)
    first, second, *_ = work_off(cluster)
    assert set(first) == {"urgent0", "urgent1"}
    assert "small.py::1" not in second


def test_what_is_long_depends_on_what_is_left(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*group("a", *[1.0] * 20), *group("b", *[1.0] * 20, 7.0), *group("c", *[1.0] * 30))
    assert "b.py::20" not in running(cluster)
    order = [name for turn in work_off(cluster) for name in turn]
    assert order.index("b.py::20") < order.index("b.py::15"), "it left the group that a slot was in"


@pytest.mark.parametrize("count", [2, 4, 20])
def test_of_equal_tests_none_is_long(cluster, count):
    cluster.join("w", slots=2)
    cluster.submit(*(each for name in "abcd" for each in group(name, *[2.0] * count)))
    order = [name for turn in work_off(cluster) for name in turn]
    for name in "abcd":
        assert [each for each in order if each[0] == name] == [f"{name}.py::{n}" for n in range(count)]


def test_it_stays_where_its_fixtures_are_dear(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*group("a", *[2.0] * 10, 5.0), *group("b", *[2.0] * 10))
    finish_all(cluster, set_up_s=1.5)
    order = [name for turn in work_off(cluster) for name in turn]
    assert order.index("a.py::10") > order.index("a.py::9")


def test_a_kept_group_keeps_its_long_test(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*group("a", 1.0, 1.0, 9.0, keep_together=True), *group("b", *[1.0] * 10))
    order = [name for turn in work_off(cluster) for name in turn]
    assert [name for name in order if name[0] == "a"] == ["a.py::0", "a.py::1", "a.py::2"]


def test_a_class_goes_with_its_long_test_or_keeps_it(cluster):
    cluster.join("w", slots=2)
    first, rest = group("a", 0.2, 0.2, 9.0, scope="A"), group("b", 0.2, 0.2, 7.0, scope="B")
    cluster.submit(*group("c", *[1.0] * 12), *group("b", *[0.2] * 3), *first, *rest)
    slots = {}
    while heads := {slot.name: slot.head().task.task_id for slot in cluster.state.cluster.busy}:
        for slot, name in heads.items():
            slots.setdefault(name.rpartition("::")[0], []).append((slot, name))
        finish_all(cluster)
    for scope in ("a.py::A", "b.py::B"):
        assert len({slot for slot, _ in slots[scope]}) == 1
        assert [name for _, name in slots[scope]] == [f"{scope}::{n}" for n in range(3)]


def test_a_slow_worker_leaves_it_to_others_and_takes_it_when_there_is_nothing_else(cluster):
    recall(cluster, slow=3.0, usual=1.0, third=1.0)
    for name in ("slow", "usual", "third"):
        cluster.join(name)
    cluster.submit(*group("a", *[1.0] * 10, 9.0), *group("b", *[1.0] * 10), ready=False)
    cluster.ready("slow")
    assert "a.py::10" not in running(cluster)
    cluster.ready("usual")
    assert cluster.worker_of("a.py::10") == "usual"


def test_what_is_left_over_goes_to_the_slow_worker(cluster):
    recall(cluster, slow=3.0, usual=1.0, third=1.0)
    for name in ("slow", "usual", "third"):
        cluster.join(name)
    cluster.submit(*group("a", 0.1, 9.0), ready=False)
    cluster.ready("slow")
    cluster.finish("a.py::0", duration_s=0.3)
    assert running(cluster) == ["a.py::1"]


def test_it_does_not_wait_behind_another_long_one(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*group("a", *[1.0] * 4, 10.0, 9.5, 9.0), *group("b", *[1.0] * 4))
    assert sorted(running(cluster)) == ["a.py::4", "a.py::5"]
    waiting = [name for queue in cluster.queues.values() for name in queue[1:]]
    assert len(waiting) == 2
    assert "a.py::6" not in waiting, "9.5 + 9 s are more than is left"


def test_it_waits_until_something_is_known_of_unlike_machines(cluster):
    cluster.join("one")
    cluster.join("other")
    cluster.submit(*group("a", *[1.0] * 10, 30.0), *group("b", *[1.0] * 10))
    assert "a.py::10" not in running(cluster)
    turns = work_off(cluster)
    began = next(number for number, turn in enumerate(turns) if "a.py::10" in turn)
    assert began <= 6, "a few seconds for half a minute"


def test_who_is_alone_need_not_be_known(cluster):
    cluster.join("w", slots=2)
    cluster.submit(*group("a", *[1.0] * 10, 30.0), *group("b", *[1.0] * 10))
    assert "a.py::10" in running(cluster)


@pytest.mark.parametrize(
    ("count", "sigma", "machines", "seeds"), [(1_000, 2.0, (4, 4), (1, 5, 7)), (600, 1.0, (4, 5), (0, 1, 2))]
)
@pytest.mark.parametrize("slow", [False, True])
def test_small_fleets_end_hardly_later_than_any_could(count, sigma, machines, seeds, slow):
    """Before, a group with one very long test began late: up to 1.4 times the bound."""
    number, slots = machines
    fleet = [Machine(f"m{n}", slots, 0.5 if slow and not n else 1.0) for n in range(number)]
    for seed in seeds:
        tests, durations_s = lognormal_tests(count, 0.0, sigma, seed=seed)
        slowness = {machine.name: 1.0 / machine.speed for machine in fleet}
        answer = STRATEGIES["adaptive"](Question(fleet, tests, durations_s, slowness=slowness), seed)
        assert answer.ratio < 1.03
