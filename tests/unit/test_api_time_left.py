"""How long runs are said to go on."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from fleetest.api.context import Context
from fleetest.core.model import Capabilities, Limits, Requirements
from fleetest.testing.scripted_cluster import RUN, ScriptedCluster, task


def left_s(cluster: ScriptedCluster) -> tuple[float | None, float | None]:
    """Of the run, and of all of them."""
    fleet = SimpleNamespace(state=cluster.state, now=lambda: cluster.now)
    nothing = cast(Any, None)
    context = Context(cast(Any, fleet), nothing, nothing, nothing, nothing)
    return context.remaining_s(cluster.state.cluster.runs[RUN]), context.remaining_s()


def test_the_last_test_is_not_divided_between_the_slots():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=float("inf")))
    cluster.join("w", slots=10)
    cluster.submit(*(task(f"short{number}", expected_s=0.1) for number in range(9)), task("long", expected_s=60.0))
    cluster.start(*cluster.leases)
    cluster.finish(*(name for name in list(cluster.leases) if name != "long"))
    cluster.wait(20.0)
    assert left_s(cluster) == pytest.approx((40.0, 40.0))
    cluster.wait(50.0)
    assert left_s(cluster) == pytest.approx((10.0, 10.0)), "late by ten seconds: ten more are expected"


def test_nobody_can_say_when_a_worker_will_come():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=float("inf")))
    cluster.join("w")
    cluster.submit(task("a"), task("b"), task("c", requirements=Requirements(resources=(("gpus", 1.0),))))
    cluster.finish("a", duration_s=1.0)
    assert left_s(cluster) == (None, None)
    cluster.join("with one", capabilities=Capabilities({}, {"gpus": 1.0}))
    assert left_s(cluster) == pytest.approx((1.0, 1.0))


def test_many_tests_are_shared_by_all_slots():
    cluster = ScriptedCluster(Limits(heartbeat_interval_s=float("inf")))
    cluster.join("w", slots=2)
    cluster.submit(*(task(str(number), expected_s=1.0) for number in range(101)))
    assert left_s(cluster) == (None, None), "nothing has ended yet"
    first = next(iter(cluster.leases))
    cluster.start(first)
    cluster.finish(first, duration_s=1.0)
    assert left_s(cluster) == pytest.approx((50.0, 50.0))
