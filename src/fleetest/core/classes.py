"""Test classes: their tests often build on each other, so a class is divided only where much time is at stake."""

from __future__ import annotations

from fleetest.core.entities import Task

WORTH_DIVIDING_S = 1.0
"""Predicted work that another slot would take over; below it, a class stays where it is."""


def is_same_class(one: Task, other: Task) -> bool:
    """True if both are tests of one class (or of one unittest case); plain functions of a file are not."""
    scope = _class_of(one)
    return scope is not None and one.suite is other.suite and scope == _class_of(other)


def is_in_class(task: Task) -> bool:
    """True if it is a test of some class."""
    return _class_of(task) is not None


def _class_of(task: Task) -> str | None:
    """The node id without the test's own name, if that is more than its file."""
    name, _, _ = task.task_id.partition("[")
    scope, _, _ = name.rpartition("::")
    # A task id begins with the name of its suite, if it has one.
    return None if scope.endswith(task.spec.group) or not scope else scope
