"""A long test that waits behind a long one goes to a slot that ends it sooner, before any slot is idle."""

import math

import pytest

from fleetest.core import commands
from fleetest.core.model import Capabilities, Limits, Verdict
from fleetest.core.requirements import parse_options
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task

FIRST = Capabilities({"first": ("yes",)})
ON_FIRST = parse_options({"requires": "first=yes"}).requirements


@pytest.fixture
def cluster():
    return ScriptedCluster(Limits(heartbeat_interval_s=math.inf))


def begin(cluster, *, head_s=100.0, next_s=80.0, others=60, other_s=1.0, **options):
    """``next`` waits behind ``head`` on the worker that was ready first; the other one executes tests of a second."""
    for name, capabilities in {"first": FIRST, "other": Capabilities()}.items():
        cluster.join(name, capabilities=capabilities)
    # That the next one comes before all others is as if nothing else had been ready.
    cluster.submit(
        task("head", expected_s=head_s, priority=1), task("next", expected_s=next_s, **options), run="long", ready=False
    )
    cluster.ready("first", run="long")
    cluster.start("head")
    assert cluster.queues["first", 0] == ["head", "next"]
    cluster.submit(*(task(f"{number}", expected_s=other_s) for number in range(others)), ready=False)
    for run in (RUN, "long"):
        cluster.ready("other", run=run)
    cluster.start("0")


def asked_back(cluster):
    names = {lease.lease_id: name for name, lease in cluster.leases.items()}
    return [names[lease_id] for revoke in cluster.all(commands.RevokeLeases) for lease_id in revoke.lease_ids]


def test_it_goes_to_the_slot_that_is_free_sooner(cluster):
    begin(cluster)
    cluster.wait(1.0)
    assert asked_back(cluster) == ["next"]
    cluster.give_back("next")
    assert cluster.queues["first", 0] == ["head", "next"], "it would only wait there again"
    (slot,) = cluster.state.cluster.workers["other"].slots
    while "next" not in cluster.queues["other", 0]:
        cluster.finish(slot.head().task.task_id, duration_s=1.0)
    assert len(cluster.verdicts()) < 60
    cluster.finish("head", duration_s=100.0)
    assert cluster.verdicts("long")["head"] is Verdict.PASSED


def test_a_worker_alone_moves_it_between_its_slots(cluster):
    cluster.join("only", slots=2)
    cluster.submit(
        *(task(name, expected_s=100.0, priority=2) for name in ("a", "b")),
        *(task(name, expected_s=80.0, priority=1) for name in ("c", "d")),
        *(task(f"{number}", expected_s=1.0) for number in range(60)),
    )
    cluster.start("a", "b")
    assert set(cluster.leases) == {"a", "b", "c", "d"}
    cluster.finish("b", duration_s=5.0)
    cluster.finish("d", duration_s=5.0)
    cluster.wait(1.5)
    assert asked_back(cluster) == ["c"]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"others": 300}, id="all that is left takes longer anyway"),
        pytest.param({"next_s": 0.9}, id="it is short"),
        pytest.param({"head_s": 1.2, "next_s": 100.0}, id="it hardly waits"),
        pytest.param({"next_s": None}, id="nobody knows how long it takes"),
        pytest.param({"requirements": ON_FIRST}, id="only its worker can run it"),
        pytest.param({"group": "g", "keep_together": True}, id="its group is kept together"),
    ],
)
def test_it_stays(cluster, options):
    begin(cluster, **options)
    cluster.wait(1.0)
    assert asked_back(cluster) == []


@pytest.mark.parametrize(("moves", "is_asked_back"), [(1, ["next"]), (2, [])])
def test_what_moved_before_moves_only_for_clearly_more(cluster, moves, is_asked_back):
    """The end comes 60 s sooner: of 180 s, 5 % are to be gained, three times that for each move before."""
    begin(cluster)
    cluster.state.cluster.runs["long"].tasks["next"].moves = moves
    cluster.wait(1.0)
    assert asked_back(cluster) == is_asked_back
