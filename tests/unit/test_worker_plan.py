"""From a collection to a plan."""

from __future__ import annotations

import json

import msgspec
import pytest

from fleetest.core.model import TaskId
from fleetest.processes import frames
from fleetest.processes.suite_plan import Collection, task_ids_of
from fleetest.wire.messages import PytestSuite


def item(node_id: str, marks: object = (), group: str | None = None, line: int | None = 4) -> frames.Item:
    path, _, name = node_id.partition("::")
    return msgspec.convert([node_id, path, line, name, 0, [name], group, marks], frames.Item)


def collection(*items: frames.Item, **suite: object) -> Collection:
    return Collection(PytestSuite(**suite), frames.Collected(items=list(items), parents=[["root"]]))


def test_ids_are_unique_and_carry_the_suite() -> None:
    items = [item("a.py::t"), item("a.py::t"), item("b.py::t"), item("a.py::t")]
    assert task_ids_of("", items) == ["a.py::t", "a.py::t#2", "b.py::t", "a.py::t#3"]
    assert task_ids_of("web", items[:1]) == ["web::a.py::t"]


def test_the_fingerprint_is_over_the_ordered_ids() -> None:
    one, two = item("a.py::one"), item("a.py::two")
    assert collection(one, two).fingerprint == collection(one, two).fingerprint
    assert collection(one, two).fingerprint != collection(two, one).fingerprint


def test_defaults_groups_and_marks() -> None:
    planned = collection(
        item("a.py::C::t"),
        item("a.py::u", [[[], {"priority": 9, "timeout": "1m", "group": "g"}], [[], {"priority": 1, "retries": 5}]]),
        item("a.py::v", group="x"),
        timeout_s=3.0,
        priority=2,
        retries=1,
    )
    plain, marked, grouped = planned.tasks()
    assert (plain.group, plain.keep_together, plain.timeout_s, plain.priority, plain.retries) == (
        "a.py",
        False,
        3.0,
        2,
        1,
    )
    assert (marked.group, marked.keep_together, marked.timeout_s, marked.priority, marked.retries) == (
        "g",
        True,
        60.0,
        9,
        5,
    )
    assert (grouped.group, grouped.keep_together) == ("x", True)
    assert planned.positions()[TaskId("a.py::v")] == 2
    assert planned.items()[0].keywords == ("root", "C::t")


@pytest.mark.parametrize("marks", [[[[], {"gpu": 1}]], [[[1], {}]], [[[], {"requires": "cuda>>1"}]]])
def test_a_bad_mark_names_file_and_line(marks: object) -> None:
    bad = collection(item("a.py::t", marks), item("a.py::u"))
    (error,) = bad.errors
    assert error.message.startswith("a.py:5: fleet mark: ")
    report = pytest.CollectReport._from_json(json.loads(error.collect_report()))
    assert (report.nodeid, report.outcome, report.longreprtext.strip()) == ("a.py::t", "failed", error.message)


def test_one_mark_on_many_parameters_is_one_error() -> None:
    marks = [[[], {"gpu": 1}]]
    assert len(collection(item("a.py::t[0]", marks), item("a.py::t[1]", marks)).errors) == 1


def test_a_suite_may_forbid_hedges() -> None:
    assert [task.hedge for task in collection(item("a.py::t"), hedge=False).tasks()] == [False]
    assert [task.hedge for task in collection(item("a.py::t")).tasks()] == [True]
