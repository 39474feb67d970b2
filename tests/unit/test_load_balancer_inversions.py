"""Urgent work that waits behind a long test is taken to where less urgent work would be next."""

import math

import pytest

from fleetest.balancing import inversions
from fleetest.core import commands
from fleetest.core.model import Capabilities, Limits
from fleetest.core.requirements import parse_options
from fleetest.testing.scripted_cluster import ScriptedCluster, task

URGENT = 5


@pytest.fixture
def cluster():
    return ScriptedCluster(Limits(heartbeat_interval_s=math.inf))


def low(count=20, **options):
    return [task(f"low{number}", expected_s=0.3, **options) for number in range(count)]


def begin(cluster, *, long_s=60.0, known=True, **options):
    """``long`` runs on one worker and ``waits`` is next there; the other one has begun with the low ones."""
    cluster.join("busy")
    cluster.join("other")
    cluster.submit(
        task("long", expected_s=long_s if known else None, priority=2 * URGENT, group=options.get("group", "")),
        task("waits", expected_s=0.3, priority=URGENT, **options),
        *low(),
    )
    cluster.start("long", "low0")
    assert cluster.queues["busy", 0] == ["long", "waits"]


def asked_back(cluster):
    names = {lease.lease_id: name for name, lease in cluster.leases.items()}
    return [names[lease_id] for revoke in cluster.all(commands.RevokeLeases) for lease_id in revoke.lease_ids]


def test_urgent_work_leaves_the_slot_of_a_long_test_for_the_next_one_that_is_free(cluster):
    begin(cluster)
    cluster.wait(1.0)
    assert asked_back(cluster) == ["waits"]
    cluster.give_back("waits")
    assert cluster.queues["busy", 0] == ["long", "waits"], "it would only wait there again"
    cluster.finish("low0", duration_s=0.3)
    cluster.start("low1")
    assert cluster.queues["other", 0][-1] == "waits"
    cluster.finish("low1", "waits")
    assert cluster.worker_of("waits") == "other"
    assert list(cluster.verdicts()).count("waits") == 1


def test_it_does_not_go_from_behind_one_long_test_to_behind_another(cluster):
    cluster.join("busy")
    cluster.join("as busy")
    cluster.submit(task("long", expected_s=60.0), run="long")
    cluster.submit(task("as long", expected_s=60.0), run="as long", ready=False)
    cluster.ready("as busy", run="as long")
    cluster.join("other")
    lows = [task(f"low{number}", expected_s=3.0, group="g", keep_together=True) for number in range(9)]
    cluster.submit(*lows, run="low", ready=False)
    cluster.ready("other", run="low")
    cluster.start("long", "as long", "low0")
    cluster.submit(task("waits", expected_s=0.3), run="urgent", priority=URGENT, ready=False)
    for name in ("busy", "as busy", "other"):
        cluster.ready(name, run="urgent")
    assert cluster.worker_of("waits") in ("busy", "as busy")
    cluster.wait(1.5)
    assert asked_back(cluster) == ["waits"]
    cluster.give_back("waits")
    was_granted_to = [name for name in ("busy", "as busy", "other") if "waits" in cluster.queues[name, 0]]
    assert was_granted_to == ["busy"]
    cluster.finish("low0", duration_s=3.0)
    assert cluster.worker_of("waits") == "other"


def test_the_slot_of_the_long_test_gets_work_again_when_that_has_ended(cluster):
    begin(cluster)
    cluster.wait(1.0)
    cluster.give_back("waits")
    assert commands.SlotIdle("busy", 0) in cluster.emitted, "its runner must not wait for what does not come"
    cluster.finish("long", duration_s=60.0)
    assert cluster.queues["busy", 0][2:]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"long_s": 1.5}, id="it does not wait for long"),
        pytest.param({"group": "g", "keep_together": True}, id="its group is kept together"),
    ],
)
def test_it_stays(cluster, options):
    begin(cluster, **options)
    cluster.wait(1.0)
    assert asked_back(cluster) == []


def test_a_class_stays_together(cluster):
    cluster.join("busy")
    cluster.join("other")
    cluster.submit(
        task("f.py::A::test_long", expected_s=60.0, priority=2 * URGENT, group="f.py"),
        task("f.py::A::test_next", expected_s=0.3, priority=URGENT, group="f.py"),
        *low(),
    )
    cluster.start("f.py::A::test_long", "low0")
    assert "f.py::A::test_next" in cluster.queues["busy", 0]
    cluster.wait(1.0)
    assert asked_back(cluster) == []


def test_what_moved_as_often_as_it_may_stays(cluster):
    begin(cluster)
    waits = cluster.state.cluster.runs["run"].tasks["waits"]
    waits.moves = cluster.state.cluster.limits.moves_max
    cluster.wait(3.0)
    assert asked_back(cluster) == []


def test_what_moved_before_moves_only_for_clearly_more(cluster):
    begin(cluster, long_s=8.0)
    cluster.state.cluster.runs["run"].tasks["waits"].moves = 2
    cluster.wait(1.0)
    assert asked_back(cluster) == [], "nine seconds are wanted"


def test_nothing_moves_to_a_worker_that_cannot_run_it(cluster):
    cluster.join("busy", capabilities=Capabilities({"os": ("linux",)}))
    cluster.join("other")
    on_linux = parse_options({"requires": "os=linux"}).requirements
    cluster.submit(
        task("long", expected_s=60.0, priority=2 * URGENT, requirements=on_linux),
        task("waits", expected_s=0.3, priority=URGENT, requirements=on_linux),
        *low(),
    )
    cluster.start("long", "low0")
    assert cluster.queues["busy", 0] == ["long", "waits"]
    cluster.wait(3.0)
    assert asked_back(cluster) == []


def test_work_of_equal_priority_stays_where_it_is_and_nobody_looks(cluster):
    cluster.join("busy")
    cluster.join("other")
    cluster.submit(task("long", expected_s=60.0), *low())
    cluster.start("long", "low0")
    assert not cluster.state.cluster.has_priorities
    cluster.wait(3.0)
    assert asked_back(cluster) == []


def test_priorities_of_runs_that_have_ended_do_not_count(cluster):
    begin(cluster)
    assert cluster.state.cluster.has_priorities
    cluster.cancel(kill=True)
    cluster.wait(60.0)
    assert cluster.state.cluster.priorities == {}


def test_a_test_of_unknown_duration_turns_out_to_be_long(cluster):
    begin(cluster, known=False)
    cluster.wait(0.8)
    assert asked_back(cluster) == []
    for number in range(10):
        cluster.finish(f"low{number}", duration_s=0.3)
        cluster.start(f"low{number + 1}")
        cluster.wait(0.3)
    assert asked_back(cluster) == ["waits"]


def test_in_a_large_fleet_only_some_slots_are_looked_at(cluster, monkeypatch):
    begin(cluster)
    state = cluster.state.cluster
    assert len(state.balancing.inversions(state.busy, cluster.now)) == 1
    monkeypatch.setattr(inversions, "LOOKED_AT", 0)
    assert state.balancing.inversions(state.busy, cluster.now) == []
