"""Queued tasks by group, and groups by task class: what a scheduling policy keeps."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fleetest.core.entities import Durations, Slot, Task, TaskClass, TaskGroup, Worker

UNKNOWN_S = 0.1
"""Weight of a task of unknown duration while nothing of its run has finished."""

HeapEntry: TypeAlias = "tuple[int, float, int, GroupQueue]"


@dataclass(slots=True, eq=False, repr=False)
class GroupQueue:
    """Queued tasks of one class, group and priority, in planned order."""

    line: ClassLine
    group: TaskGroup
    durations: Durations
    priority: int
    order: int
    tasks: deque[Task] = field(default_factory=deque)
    """May hold tasks that have left; those have another ``place``."""
    count: int = 0
    known_s: float = 0.0
    unknown: int = 0
    owner: Slot | None = None
    before: Task | None = None
    """What was taken last, if everything queued comes after it."""
    key: tuple[int, float, int] = (0, 0.0, 0)
    """Of its valid heap entry."""

    @property
    def expected_s(self) -> float:
        """Predicted work of everything in it."""
        return self.known_s + self.unknown * unknown_s(self.durations, self.line.task_class.run.durations)

    def put(self, tasks: Sequence[Task]) -> None:
        """Add tasks, themselves in planned order, where they belong."""
        if self.before is not None and tasks[0].position < self.before.position:
            self.before = None
        if self.tasks and tasks[0].position < self.tasks[-1].position:
            stay = [task for task in self.tasks if task.place is self]
            self.tasks = deque(sorted([*stay, *tasks], key=_position))
        else:
            self.tasks.extend(tasks)
        for task in tasks:
            task.place = self
            self.adjust(task.spec.expected_s, 1)

    def first(self) -> Task | None:
        """The first task that is still queued here."""
        while self.tasks and self.tasks[0].place is not self:
            self.tasks.popleft()
        return self.tasks[0] if self.tasks else None

    def last(self) -> Task | None:
        """The last task that is still queued here."""
        while self.tasks and self.tasks[-1].place is not self:
            self.tasks.pop()
        return self.tasks[-1] if self.tasks else None

    def adjust(self, expected_s: float | None, by: int) -> None:
        """Count one task in or out."""
        line = self.line
        self.count += by
        line.count += by
        if expected_s is None:
            self.unknown += by
            line.unknown += by
        else:
            self.known_s += by * expected_s
            line.known_s += by * expected_s
        # Sums of fractions drift; nothing is nothing.
        if not self.count:
            self.known_s = 0.0
        if not line.count:
            line.known_s = 0.0

    def push(self) -> None:
        """List it anew among the groups of its line; earlier entries are void."""
        self.key = (-self.priority, -self.expected_s, self.order)
        if self.owner is None:
            heapq.heappush(self.line.fresh, (*self.key, self))
        elif not self.group.keep_together:
            heapq.heappush(self.line.active, (*self.key, self))

    def close(self) -> None:
        """Forget everything in it."""
        self.count = 0
        for task in self.tasks:
            if task.place is self:
                task.place = None
        self.tasks.clear()


@dataclass(slots=True, eq=False, repr=False)
class ClassLine:
    """Everything that is queued of one task class."""

    task_class: TaskClass
    groups: dict[tuple[int, int], GroupQueue] = field(default_factory=dict)
    """By identity of the group, and priority: where further tasks of it are put."""
    fresh: list[HeapEntry] = field(default_factory=list)
    """Groups that no slot is in."""
    active: list[HeapEntry] = field(default_factory=list)
    """Groups that some slot is in and others may help with."""
    count: int = 0
    known_s: float = 0.0
    unknown: int = 0
    holders: dict[Worker, None] = field(default_factory=dict)
    """Workers that run empty for a task which needs one alone."""

    @property
    def expected_s(self) -> float:
        """Predicted work of everything in it."""
        return self.known_s + self.unknown * unknown_s(self.task_class.run.durations)

    def best_fresh(self) -> GroupQueue | None:
        """The first group that no slot is in."""
        return self._top(self.fresh, is_owned=False)

    def best_active(self) -> GroupQueue | None:
        """The group with most work left that some slot is in."""
        return self._top(self.active, is_owned=True)

    def _top(self, heap: list[HeapEntry], *, is_owned: bool) -> GroupQueue | None:
        """The best group of the heap; entries whose group has changed since are dropped or put right here."""
        while heap:
            priority, cost, order, queue = heap[0]
            if not queue.count or (queue.owner is not None) != is_owned or queue.key != (priority, cost, order):
                heapq.heappop(heap)
                continue
            if is_owned and -cost > 1.05 * queue.expected_s:
                heapq.heappop(heap)
                queue.push()
                continue
            return queue
        return None


def unknown_s(*durations: Durations) -> float:
    """Expected duration of a task without history: the first mean that is known."""
    for known in durations:
        if known.count:
            return known.mean_s
    return UNKNOWN_S


def _position(task: Task) -> int:
    return task.position
