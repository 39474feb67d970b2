"""Which collection becomes the plan."""

import pytest

from fleetest.core.model import TaskId, WorkerId
from fleetest.core.suite_planning import (
    AdoptPlan,
    AskPlan,
    Ready,
    Refuse,
    SuitePlanning,
    Unavailable,
    fingerprint_of,
)

A, B, C = WorkerId("a"), WorkerId("b"), WorkerId("c")
IDS = [TaskId("one"), TaskId("two"), TaskId("three")]
SAME = fingerprint_of(IDS)


def test_the_first_worker_is_asked_and_its_collection_becomes_the_plan():
    planning = SuitePlanning()
    assert planning.collected(A, SAME) == [AskPlan(A)]
    assert planning.collected(B, SAME) == []
    assert planning.plan_arrived(A, SAME, IDS) == [AdoptPlan(A), Ready(A), Ready(B)]
    assert planning.collected(C, SAME) == [Ready(C)]
    assert not planning.is_open


def test_another_collection_is_asked_for_and_what_it_lacks_is_missing():
    planning = SuitePlanning()
    planning.collected(A, SAME)
    planning.collected(B, "other")
    assert planning.plan_arrived(A, SAME, IDS) == [AdoptPlan(A), Ready(A), AskPlan(B)]
    assert planning.was_asked(B)
    assert planning.plan_arrived(B, "other", [IDS[0], TaskId("new")]) == [Ready(B, frozenset(IDS[1:]))]
    assert planning.collected(C, "third") == [AskPlan(C)]


def test_if_the_asked_worker_leaves_the_next_one_is_asked():
    planning = SuitePlanning()
    planning.collected(A, SAME)
    planning.collected(B, "other")
    assert planning.worker_gone(C) == []
    assert planning.worker_gone(A) == [AskPlan(B)]
    assert not planning.was_asked(A)
    assert planning.plan_arrived(B, "other", IDS) == [AdoptPlan(B), Ready(B)]


def test_if_nobody_is_left_the_next_to_come_is_asked():
    planning = SuitePlanning()
    planning.collected(A, SAME)
    assert planning.worker_gone(A) == []
    assert planning.collected(B, SAME) == [AskPlan(B)]


def test_the_first_failure_refuses_the_suite_and_only_once():
    planning = SuitePlanning()
    assert planning.failed(A, "usage", only_here=False) == [Refuse(A, "usage")]
    assert planning.failed(B, "usage", only_here=False) == []
    assert planning.collected(C, SAME) == []
    assert planning.plan_arrived(C, SAME, IDS) == []


def test_a_failure_after_another_worker_was_asked_concerns_that_worker_only():
    planning = SuitePlanning()
    planning.collected(A, SAME)
    assert planning.failed(B, "broken there", only_here=False) == [Unavailable(B, "broken there")]
    assert planning.plan_arrived(A, SAME, IDS) == [AdoptPlan(A), Ready(A)]
    assert planning.failed(C, "broken too", only_here=False) == [Unavailable(C, "broken too")]


def test_the_spokesman_may_turn_out_to_be_unable():
    planning = SuitePlanning()
    planning.collected(A, SAME)
    planning.collected(B, SAME)
    assert planning.failed(A, "gone", only_here=True) == [Unavailable(A, "gone"), AskPlan(B)]


def test_planned_with_the_submission():
    planning = SuitePlanning.with_plan(IDS)
    assert not planning.is_open
    assert planning.collected(A, SAME) == [Ready(A)]


@pytest.mark.parametrize("other", [IDS[::-1], IDS[:2], [TaskId("one\ntwo"), IDS[2], TaskId("")]])
def test_the_fingerprint_tells_collections_apart(other):
    assert fingerprint_of(other) != SAME
    assert len(SAME) == 64
