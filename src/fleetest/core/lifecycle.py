"""The transition tables of tasks and workers, literally, and the one function each that changes a state.

``python -m fleetest.core.lifecycle`` prints the tables as two mermaid diagrams.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Protocol, TypeVar

from fleetest.core.model import Instant
from fleetest.errors import InvariantViolation


class TaskState(str, Enum):
    PENDING = "pending"
    QUEUED = "queued"
    LEASED = "leased"
    RUNNING = "running"
    FINISHED = "finished"


class WorkerState(str, Enum):
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    DRAINING = "draining"
    QUARANTINED = "quarantined"
    PROBATION = "probation"
    DISCONNECTED = "disconnected"
    LOST = "lost"
    LEFT = "left"

    @property
    def is_gone(self) -> bool:
        return self in (WorkerState.LOST, WorkerState.LEFT)


TASK_TRANSITIONS: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset({TaskState.QUEUED, TaskState.FINISHED}),
    TaskState.QUEUED: frozenset({TaskState.LEASED, TaskState.FINISHED}),
    # A short test's start is implied by its result; a returned or lost lease queues the task again.
    TaskState.LEASED: frozenset({TaskState.RUNNING, TaskState.QUEUED, TaskState.PENDING, TaskState.FINISHED}),
    # Back to queued: its worker was lost, or a retry follows (pending: after a while). Back to leased: the attempt
    # that ran was lost, and its hedge has not begun.
    TaskState.RUNNING: frozenset({TaskState.QUEUED, TaskState.LEASED, TaskState.PENDING, TaskState.FINISHED}),
    TaskState.FINISHED: frozenset(),
}

_ENDS = frozenset({WorkerState.DISCONNECTED, WorkerState.LOST, WorkerState.LEFT})
# The state of a worker with a link is derived from what is known of it (core.standing): each may follow each.
_LINKED = frozenset(
    {
        WorkerState.HEALTHY,
        WorkerState.SUSPECT,
        WorkerState.DRAINING,
        WorkerState.QUARANTINED,
        WorkerState.PROBATION,
    }
)
WORKER_TRANSITIONS: Mapping[WorkerState, frozenset[WorkerState]] = {
    **{state: _ENDS | (_LINKED - {state}) for state in WorkerState if state in _LINKED},
    # The same session came back: as what it was.
    WorkerState.DISCONNECTED: frozenset(
        {
            WorkerState.HEALTHY,
            WorkerState.DRAINING,
            WorkerState.QUARANTINED,
            WorkerState.PROBATION,
            WorkerState.LOST,
            WorkerState.LEFT,
        }
    ),
    WorkerState.LOST: frozenset(),
    WorkerState.LEFT: frozenset(),
}

State = TypeVar("State", TaskState, WorkerState)


STORY_LENGTH_MAX = 30
"""Entries that are kept of one story."""
_LEFT_OUT = "left out"


class HasStory(Protocol):
    entries: tuple[Any, ...]


class Story:
    """What happened to one task or worker, newest last, bounded; formatted only when somebody reads it.

    The entries lie flat in one tuple of their owner, ``(instant, what, detail, instant, what, ...)``: a queued task
    shares its only entry with all that were queued with it.
    """

    __slots__ = ("_owner",)

    def __init__(self, owner: HasStory) -> None:
        self._owner = owner

    def add(self, now: Instant, what: str, detail: object = "") -> None:
        self._owner.entries = _bounded((*self._owner.entries, now, what, detail))

    def lines(self) -> tuple[str, ...]:
        """One line per entry: ``12.345 s: leased (lease 7 on w1/0)``."""
        entries = iter(self._owner.entries)
        return tuple(
            f"... {detail} entries left out ..."
            if what is _LEFT_OUT
            else f"{now:.3f} s: {what}" + (f" ({detail})" if detail else "")
            for now, what, detail in zip(entries, entries, entries, strict=True)
        )


def _bounded(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(entries) <= 3 * STORY_LENGTH_MAX:
        return entries
    # The first entry stays: where it came from matters more than the middle.
    left_out = entries[5] + 1 if entries[4] is _LEFT_OUT else 2
    return (*entries[:4], _LEFT_OUT, left_out, *entries[9:])


class HasTaskState(HasStory, Protocol):
    state: TaskState

    @property
    def story(self) -> Story: ...


class HasWorkerState(HasStory, Protocol):
    state: WorkerState

    @property
    def story(self) -> Story: ...


def change_task(task: HasTaskState, to: TaskState, now: Instant, detail: object = "") -> None:
    """Move a task to ``to`` and write it into its story. Raises InvariantViolation if the table does not allow it."""
    _change_task(task, to, (now, to._value_, detail))


def change_tasks(tasks: Iterable[HasTaskState], to: TaskState, now: Instant, detail: object = "") -> None:
    """The same for several tasks, which share the entry in their stories."""
    entry: tuple[Any, ...] = (now, to._value_, detail)
    for task in tasks:
        _change_task(task, to, entry)


def _change_task(task: HasTaskState, to: TaskState, entry: tuple[Any, ...]) -> None:
    if to not in TASK_TRANSITIONS[task.state]:
        raise InvariantViolation(f"{task} cannot go from {task.state.value} to {to.value}", task.story.lines())
    task.state = to
    entries = task.entries + entry
    task.entries = entries if len(entries) <= 3 * STORY_LENGTH_MAX else _bounded(entries)


def change_worker(worker: HasWorkerState, to: WorkerState, now: Instant, detail: object = "") -> None:
    """Move a worker to ``to`` and write it into its story. Raises InvariantViolation if the table does not allow it."""
    if to not in WORKER_TRANSITIONS[worker.state]:
        raise InvariantViolation(f"{worker} cannot go from {worker.state.value} to {to.value}", worker.story.lines())
    worker.state = to
    worker.story.add(now, to._value_, detail)


def diagram(transitions: Mapping[State, frozenset[State]], initial: State) -> str:
    """The table as a mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {initial.value}"]
    for source, targets in transitions.items():
        lines += [f"    {source.value} --> {target.value}" for target in type(source) if target in targets]
        if not targets:
            lines.append(f"    {source.value} --> [*]")
    return "\n".join(lines)


def diagrams() -> str:
    """Both diagrams as they stand in docs/design/lifecycle.md."""
    parts = [
        ("Task", diagram(TASK_TRANSITIONS, TaskState.PENDING)),
        ("Worker", diagram(WORKER_TRANSITIONS, WorkerState.HEALTHY)),
    ]
    return "\n".join(f"### {title}\n\n```mermaid\n{text}\n```\n" for title, text in parts)


if __name__ == "__main__":
    print(diagrams(), end="")
