"""The transition tables, the stories, and the page generated from them."""

from pathlib import Path

import pytest

from fleetest.core.lifecycle import (
    STORY_LENGTH_MAX,
    TASK_TRANSITIONS,
    WORKER_TRANSITIONS,
    Story,
    TaskState,
    WorkerState,
    change_task,
    change_tasks,
    change_worker,
    diagrams,
)
from fleetest.errors import InvariantViolation

PAGE = Path(__file__).parents[2] / "docs" / "design" / "lifecycle.md"


class Thing:
    def __init__(self, state):
        self.state = state
        self.entries = ()

    @property
    def story(self):
        return Story(self)

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
    thing = Thing(TaskState.PENDING)
    for number in range(100):
        thing.story.add(number, f"entry {number}", "detail")
    lines = thing.story.lines()
    assert len(lines) == STORY_LENGTH_MAX
    assert lines[0] == "0.000 s: entry 0 (detail)"
    left_out = 100 - (STORY_LENGTH_MAX - 1)
    assert lines[1] == f"... {left_out} entries left out ..."
    assert lines[2] == f"{left_out + 1}.000 s: entry {left_out + 1} (detail)"
    assert lines[-1] == "99.000 s: entry 99 (detail)"


def test_tasks_that_change_together_share_their_first_entry():
    one, other = Thing(TaskState.PENDING), Thing(TaskState.PENDING)
    change_tasks([one, other], TaskState.QUEUED, 1.0, "because")
    assert one.entries is other.entries
    change_task(one, TaskState.LEASED, 2.0)
    assert one.story.lines() == ("1.000 s: queued (because)", "2.000 s: leased")
    assert other.story.lines() == ("1.000 s: queued (because)",)


def test_the_page_shows_the_tables_as_they_are():
    assert diagrams() in PAGE.read_text(encoding="utf-8"), (
        "docs/design/lifecycle.md is stale: put the output of `python -m fleetest.core.lifecycle` into it"
    )
