"""The transition tables, the stories, and the page generated from them."""

from pathlib import Path

import pytest

from fleetest.core.lifecycle import (
    TASK_TRANSITIONS,
    WORKER_TRANSITIONS,
    Story,
    TaskState,
    WorkerState,
    change_task,
    change_worker,
    diagrams,
)
from fleetest.errors import InvariantViolation

PAGE = Path(__file__).parents[2] / "docs" / "design" / "lifecycle.md"


class Thing:
    def __init__(self, state):
        self.state = state
        self.story = Story(5)

    def __str__(self):
        return "thing"


@pytest.mark.parametrize("source", TaskState)
@pytest.mark.parametrize("target", TaskState)
def test_a_task_changes_as_the_table_says_and_not_otherwise(source, target):
    thing = Thing(source)
    if target in TASK_TRANSITIONS[source]:
        change_task(thing, target, 1.0, "because")
        assert thing.state is target
        assert thing.story.lines() == (f"1.000 s: {target.value} (because)",)
    else:
        with pytest.raises(InvariantViolation, match=f"thing cannot go from {source.value} to {target.value}"):
            change_task(thing, target, 1.0)
        assert thing.state is source


@pytest.mark.parametrize("source", WorkerState)
@pytest.mark.parametrize("target", WorkerState)
def test_a_worker_changes_as_the_table_says_and_not_otherwise(source, target):
    thing = Thing(source)
    if target in WORKER_TRANSITIONS[source]:
        change_worker(thing, target, 1.0)
        assert thing.state is target
    else:
        with pytest.raises(InvariantViolation):
            change_worker(thing, target, 1.0)


def test_an_illegal_change_tells_the_story():
    thing = Thing(TaskState.PENDING)
    change_task(thing, TaskState.QUEUED, 0.5)
    with pytest.raises(InvariantViolation, match=r"0\.500 s: queued"):
        change_task(thing, TaskState.PENDING, 1.0)


def test_a_story_is_bounded_and_keeps_its_beginning():
    story = Story(4)
    for number in range(10):
        story.add(number, f"entry {number}")
    lines = story.lines()
    assert len(lines) == 5
    assert lines[0] == "0.000 s: entry 0"
    assert lines[1] == "... 6 entries left out ..."
    assert lines[-1] == "9.000 s: entry 9"


def test_the_page_shows_the_tables_as_they_are():
    assert diagrams() in PAGE.read_text(encoding="utf-8"), (
        "docs/design/lifecycle.md is stale: put the output of `python -m fleetest.core.lifecycle` into it"
    )
