"""Which collection becomes the plan."""

import pytest

from fleetest.core.model import TaskId, WorkerId
from fleetest.core.suite_planning import (
    AdoptPlan,
    AskPlan,
    PlanPart,
    Ready,
    Refuse,
    SuitePlanning,
    Unavailable,
    fingerprint_of,
    is_within,
)

A, B, C = WorkerId("a"), WorkerId("b"), WorkerId("c")
IDS = [TaskId("one"), TaskId("two"), TaskId("three")]
SAME = fingerprint_of(IDS)
EVERYTHING = frozenset({""})


def whole(worker):
    return AdoptPlan((PlanPart(worker, EVERYTHING),))


def adopted(planning, steps, task_ids=IDS):
    """What comes of a plan of these tasks, which has been put together."""
    assert [type(step) for step in steps] == [AdoptPlan]
    return planning.adopted(fingerprint_of(task_ids), task_ids)


def test_the_first_worker_is_asked_and_its_collection_becomes_the_plan():
    planning = SuitePlanning()
    assert planning.collected(A, SAME) == [AskPlan(A)]
    assert planning.collected(B, SAME) == []
    assert planning.plan_arrived(A, IDS) == [whole(A)]
    assert planning.adopted(SAME, IDS) == [Ready(A), Ready(B)]
    assert planning.collected(C, SAME) == [Ready(C)]
    assert not planning.is_open


def test_another_collection_is_asked_for_and_what_it_lacks_is_missing():
    planning = SuitePlanning()
    planning.collected(A, SAME)
    planning.collected(B, "other")
    assert adopted(planning, planning.plan_arrived(A, IDS)) == [Ready(A), AskPlan(B)]
    assert planning.was_asked(B)
    assert planning.plan_arrived(B, [IDS[0], TaskId("new")]) == [Ready(B, frozenset(IDS[1:]))]
    assert planning.collected(C, "third") == [AskPlan(C)]


def test_if_the_asked_worker_leaves_the_next_one_is_asked():
    planning = SuitePlanning()
    planning.collected(A, SAME)
    planning.collected(B, "other")
    assert planning.worker_gone(C) == []
    assert planning.worker_gone(A) == [AskPlan(B)]
    assert not planning.was_asked(A)
    assert adopted(planning, planning.plan_arrived(B, IDS)) == [Ready(B)]


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
    assert planning.plan_arrived(C, IDS) == []


def test_a_failure_after_another_worker_was_asked_concerns_that_worker_only():
    planning = SuitePlanning()
    planning.collected(A, SAME)
    assert planning.failed(B, "broken there", only_here=False) == [Unavailable(B, "broken there")]
    assert adopted(planning, planning.plan_arrived(A, IDS)) == [Ready(A)]
    assert planning.failed(C, "broken too", only_here=False) == [Unavailable(C, "broken too")]


def test_the_spokesman_may_turn_out_to_be_unable():
    planning = SuitePlanning()
    planning.collected(A, SAME)
    planning.collected(B, SAME)
    assert planning.failed(A, "gone", only_here=True) == [Unavailable(A, "gone"), AskPlan(B)]


def test_a_new_link_is_asked_once_more_and_only_once():
    planning = SuitePlanning()
    planning.collected(A, SAME)
    assert planning.collected(A, SAME) == [], "its answer is on the way"
    planning.new_link(A)
    assert planning.collected(A, SAME) == [AskPlan(A)]
    assert planning.collected(A, SAME) == []
    assert adopted(planning, planning.plan_arrived(A, IDS)) == [Ready(A)]


# What could not be imported everywhere ---------------------------------------------------------------------------


def expecting(*workers):
    planning = SuitePlanning()
    for worker in workers:
        planning.expect(worker)
    return planning


def test_a_collection_with_import_errors_waits_for_one_without():
    planning = expecting(A, B, C)
    assert planning.collected(A, "a", ["x.py"]) == []
    assert planning.is_waiting
    assert planning.collected(B, SAME) == [AskPlan(B)]
    assert not planning.is_waiting
    assert adopted(planning, planning.plan_arrived(B, IDS)) == [AskPlan(A), Ready(B)]
    assert planning.plan_arrived(A, IDS[:2]) == [Ready(A, frozenset(IDS[2:]))]
    assert planning.collected(C, "c", ["x.py", "y.py"]) == [AskPlan(C)]


def test_what_nobody_could_import_is_waited_for_until_all_have_answered():
    planning = expecting(A, B)
    assert planning.collected(A, SAME, ["x.py"]) == []
    assert planning.collected(B, SAME, ["x.py"]) == [AskPlan(A)]
    assert planning.plan_arrived(A, IDS) == [whole(A)]
    assert planning.adopted(SAME, IDS) == [Ready(A), Ready(B)]


def test_nobody_waits_for_a_worker_that_is_gone_or_failed_or_takes_too_long():
    for ends in (
        lambda planning: planning.worker_gone(B),
        lambda planning: planning.failed(B, "no driver", only_here=True)[1:],
        lambda planning: planning.failed(B, "a plugin is missing", only_here=False)[1:],
        lambda planning: planning.stop_waiting(),
    ):
        planning = expecting(A, B)
        planning.collected(A, SAME, ["x.py"])
        assert ends(planning) == [AskPlan(A)]
        planning.expect(C)
        assert adopted(planning, planning.plan_arrived(A, IDS)) == [Ready(A)]


def test_the_wait_is_not_begun_again():
    planning = expecting(A, B)
    planning.collected(A, SAME, ["x.py"])
    assert planning.stop_waiting() == [AskPlan(A)]
    planning.expect(C)
    assert planning.worker_gone(A) == []
    assert planning.collected(B, SAME, ["x.py"]) == [AskPlan(B)]


def test_a_worker_that_joins_meanwhile_is_waited_for_too():
    planning = expecting(A, B)
    planning.collected(A, "a", ["x.py"])
    planning.expect(C)
    assert planning.worker_gone(B) == []
    assert planning.collected(C, SAME) == [AskPlan(C)]


def test_if_nobody_has_everything_the_plan_is_put_together():
    planning = expecting(A, B, C)
    both = ["x.py", "y.py", "z.py"]
    planning.collected(A, "a", both)
    planning.collected(B, "b", ["x.py", "z.py"])
    assert planning.collected(C, "c", ["y.py", "z.py"]) == [AskPlan(B)], "the first of those with the fewest errors"
    assert planning.plan_arrived(B, IDS[:2]) == [AskPlan(C)]
    steps = planning.plan_arrived(C, IDS[1:])
    assert steps == [AdoptPlan((PlanPart(B, EVERYTHING), PlanPart(C, frozenset({"x.py"}))))]
    assert adopted(planning, steps) == [AskPlan(A), Ready(B, frozenset(IDS[2:])), Ready(C, frozenset(IDS[:1]))]
    assert planning.spokesman == B


def test_what_is_imported_of_a_folder_may_lack_a_module_that_another_worker_has():
    planning = expecting(A, B, C)
    planning.collected(A, "a", ["lab"])
    planning.collected(B, "b", ["lab/x.py", "y.py"])
    planning.collected(C, "c", ["lab/z.py", "y.py", "w.py"])
    assert planning.plan_arrived(A, IDS[:1]) == [AskPlan(B)]
    assert planning.plan_arrived(B, IDS[1:2]) == [AskPlan(C)]
    (adopt,) = planning.plan_arrived(C, IDS[2:])
    assert [part.nodes for part in adopt.parts] == [EVERYTHING, {"lab"}, {"lab/x.py"}]


def test_who_could_import_nothing_at_all_is_completed_by_the_others():
    planning = expecting(A, B)
    planning.collected(A, "a", ["."])
    assert planning.collected(B, "b", ["x.py", "y.py"]) == [AskPlan(A)]
    assert planning.plan_arrived(A, []) == [AskPlan(B)]
    (adopt,) = planning.plan_arrived(B, IDS)
    assert adopt.parts == (PlanPart(A, EVERYTHING), PlanPart(B, frozenset({"."})))


def test_a_plan_that_is_put_together_goes_on_whoever_leaves():
    planning = expecting(A, B)
    planning.collected(A, "a", ["x.py"])
    planning.collected(B, "b", ["y.py"])
    assert planning.plan_arrived(A, IDS[:2]) == [AskPlan(B)]
    assert planning.collected(C, "c", ["y.py"]) == []
    assert planning.worker_gone(A) == [], "its part is here"
    assert planning.worker_gone(B) == [AskPlan(C)]
    steps = planning.failed(C, "sent nonsense", only_here=False)
    assert steps == [Unavailable(C, "sent nonsense"), whole(A)], "that is no reason to end the suite"
    assert adopted(planning, steps[1:]) == []


def test_a_failure_while_others_wait_concerns_that_worker_only():
    planning = expecting(A, B, C)
    planning.collected(A, "a", ["x.py"])
    assert planning.failed(B, "usage", only_here=False) == [Unavailable(B, "usage")]
    assert planning.is_waiting


@pytest.mark.parametrize(
    ("node_id", "nodes"),
    [
        ("lab/x.py", {"lab/x.py"}),
        ("lab/x.py::T::t[a/b::c]", {"y.py", "lab/x.py"}),
        ("lab/deep/x.py", {"lab"}),
        ("lab", {""}),
        ("x.py", {"."}),
        ("", {"."}),
    ],
)
def test_a_node_is_within_itself_and_what_it_is_beneath(node_id, nodes):
    assert is_within(node_id, nodes)


@pytest.mark.parametrize(
    ("node_id", "nodes"),
    [
        ("lab/x.py", {"lab/x.py::t"}),
        ("lab2/x.py", {"lab"}),
        ("lab/x.pyc", {"lab/x.py"}),
        ("", {"lab"}),
        ("x.py", set()),
    ],
)
def test_a_node_is_not_within_its_neighbours_or_children(node_id, nodes):
    assert not is_within(node_id, nodes)


# ---------------------------------------------------------------------------------------------------------------------


def test_planned_with_the_submission():
    planning = SuitePlanning.with_plan(IDS)
    assert not planning.is_open
    assert planning.collected(A, SAME) == [Ready(A)]


@pytest.mark.parametrize("other", [IDS[::-1], IDS[:2], [TaskId("one\ntwo"), IDS[2], TaskId("")]])
def test_the_fingerprint_tells_collections_apart(other):
    assert fingerprint_of(other) != SAME
    assert len(SAME) == 64
