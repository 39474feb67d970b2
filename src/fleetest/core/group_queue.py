"""Queued tasks by group, and groups by task class: what a scheduling policy keeps."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fleetest.core.entities import Durations, Slot, Task, TaskClass, TaskGroup, Worker
from fleetest.core.model import Instant

UNKNOWN_S = 0.1
"""Weight of a task of unknown duration while nothing of its run has finished."""

_FEW = 256
"""So many tasks are looked through when the longest one is wanted."""

HeapEntry: TypeAlias = "tuple[float, int, GroupQueue]"
Wanted: TypeAlias = "Callable[[GroupQueue], bool]"


@dataclass(slots=True, eq=False, repr=False)
class GroupQueue:
    """Queued tasks of one class, group and priority, in planned order."""

    level: Level
    task_class: TaskClass
    group: TaskGroup
    durations: Durations
    order: int
    tasks: deque[Task] = field(default_factory=deque)
    """May hold tasks that have left; those have another ``place``."""
    count: int = 0
    known_s: float = 0.0
    unknown: int = 0
    owner: Slot | None = None
    before: Task | None = None
    """What was taken last, if everything queued comes after it."""
    cost: float = 0.0
    """Of its valid heap entry: more work costs less."""
    is_apart: bool = False
    """It is a long test that has left its group, with the rest of its class."""
    apart_since: Instant = 0.0
    longest_s: float = 0.0
    """No test in it that might leave it takes longer; 0: none might."""
    by_duration: list[Task] | None = None
    """Those that might, the longest last, and some that have left; made where there are many, or one is to stay."""

    @property
    def line(self) -> ClassLine:
        return self.level.line

    @property
    def priority(self) -> int:
        return self.level.priority

    @property
    def expected_s(self) -> float:
        """Predicted work of everything in it."""
        if not self.unknown:
            return self.known_s
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
        longest_s = self.longest_s
        for task in tasks:
            task.place = self
            self.adjust(task.known_s, 1)
            longest_s = max(longest_s, task.known_s)
        self.by_duration = None
        if not self.group.keep_together:
            self.list_longest(longest_s)

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

    def longest(self) -> Task | None:
        """The longest test that is still queued here and might leave; those without an expected duration never do."""
        if self.by_duration is None:
            if len(self.tasks) <= _FEW:
                return self._find_longest()
            self.by_duration = self._sorted()
        while self.by_duration and self.by_duration[-1].place is not self:
            self.by_duration.pop()
        return self.by_duration[-1] if self.by_duration else None

    def keep_longest(self) -> None:
        """The one that ``longest`` gives stays for good, and is passed over from now on."""
        if self.by_duration is None:
            self.by_duration = self._sorted()
        self.longest()
        if self.by_duration:
            self.by_duration.pop()

    def _find_longest(self) -> Task | None:
        longest_s, longest = 0.0, None
        for task in self.tasks:
            if task.known_s >= longest_s and task.place is self and task.known_s > 0.0:
                longest_s, longest = task.known_s, task
        return longest

    def _sorted(self) -> list[Task]:
        known = [task for task in self.tasks if task.place is self and task.known_s > 0.0]
        return sorted(known, key=_known_s)

    def list_longest(self, longest_s: float) -> None:
        """List it anew by its longest test, which takes no longer than this; earlier entries are void."""
        self.longest_s = longest_s
        if longest_s > 0.0:
            heapq.heappush(self.level.longest, (-longest_s, self.order, self))

    def adjust(self, expected_s: float, by: int) -> None:
        """Count one task in or out; a negative duration is not known."""
        if expected_s < 0.0:
            self.adjust_all(by, 0.0, by)
        else:
            self.adjust_all(by, by * expected_s, 0)

    def adjust_all(self, count: int, known_s: float, unknown: int) -> None:
        """Count tasks in (or out, all three negative): ``unknown`` of them have no expected duration."""
        level = self.level
        line = level.line
        self.count += count
        level.count += count
        line.count += count
        line.run_total.count += count
        if self.task_class is not line.task_class:
            line.count_avoiding(self.task_class, count)
        self.unknown += unknown
        line.unknown += unknown
        # Sums of fractions drift; nothing is nothing.
        self.known_s = self.known_s + known_s if self.count else 0.0
        line.known_s = line.known_s + known_s if line.count else 0.0

    def pass_on(self, other: GroupQueue, count: int, known_s: float, unknown: int) -> None:
        """Count tasks out here and in there, where ``other`` is of the same class and level: those keep their sums."""
        self.count -= count
        self.unknown -= unknown
        self.known_s = self.known_s - known_s if self.count else 0.0
        other.count += count
        other.unknown += unknown
        other.known_s += known_s

    def push(self) -> None:
        """List it anew among the groups of its line; earlier entries are void."""
        self.cost = -self.expected_s
        if self.owner is None:
            heap = self.level.apart if self.is_apart else self.level.fresh
            heapq.heappush(heap, (self.cost, self.order, self))
        elif not self.group.keep_together:
            heapq.heappush(self.level.active, (self.cost, self.order, self))

    def close(self) -> None:
        """Forget everything in it."""
        self.count = 0
        for task in self.tasks:
            if task.place is self:
                task.place = None
        self.tasks.clear()


@dataclass(slots=True, eq=False, repr=False)
class Level:
    """Everything that is queued of one task class with one priority."""

    line: ClassLine
    priority: int
    count: int = 0
    fresh: list[HeapEntry] = field(default_factory=list)
    """Groups that no slot is in."""
    active: list[HeapEntry] = field(default_factory=list)
    """Groups that some slot is in and others may help with."""
    apart: list[HeapEntry] = field(default_factory=list)
    """Long tests that have left their groups."""
    longest: list[HeapEntry] = field(default_factory=list)
    """Groups by their longest test, whoever is in them."""
    served_at: Instant = 0.0
    """When a slot took something of it last, or since when something waits."""
    portions: int = 0
    """How many portions the whole fleet had taken then."""
    claim: Worker | None = None
    """The worker on which everything that its next task reserves is kept for it."""

    def best_fresh(self, may: Wanted | None) -> GroupQueue | None:
        """The first group that no slot is in, of those that are wanted (None: all)."""
        return _top(self.fresh, may, is_owned=False)

    def best_active(self, may: Wanted | None) -> GroupQueue | None:
        """The group with most work left that some slot is in, of those that are wanted."""
        return _top(self.active, may, is_owned=True)

    def best_apart(self, may: Wanted | None) -> GroupQueue | None:
        """The longest test that has left its group, of those that are wanted."""
        return _top(self.apart, may, is_owned=False)

    def has_longer(self, least_s: float) -> bool:
        """False if no test in it that might leave its group takes so long."""
        return bool(self.longest) and -self.longest[0][0] >= least_s

    def with_longest(self, least_s: float) -> GroupQueue | None:
        """The group with the longest test that might leave, if that takes so long."""
        while self.has_longer(least_s):
            cost, _, queue = heapq.heappop(self.longest)
            if not queue.count or queue.longest_s != -cost:
                continue
            task = queue.longest()
            known_s = 0.0 if task is None else task.known_s
            if known_s == queue.longest_s:
                return queue
            # What was the longest has left: where does it stand now?
            queue.list_longest(known_s)
        return None


@dataclass(slots=True, eq=False, repr=False)
class RunTotal:
    """How much is queued of one run."""

    count: int = 0


@dataclass(slots=True, eq=False, repr=False)
class ClassLine:
    """Everything that is queued of one task class and of those that differ from it by what they avoid.

    Every loss of a worker, and every retry, may make a class of its own: their number must cost nothing.
    """

    task_class: TaskClass
    """The one that avoids nothing."""
    run_total: RunTotal
    """Shared by all lines of the run."""
    groups: dict[tuple[int, int, int], GroupQueue] = field(default_factory=dict)
    """By identity of the group, priority and identity of the class: where further tasks of it are put."""
    avoiding: dict[TaskClass, int] = field(default_factory=dict)
    """How much is queued of each class that avoids something."""
    levels: list[Level] = field(default_factory=list)
    """Highest priority first."""
    count: int = 0
    known_s: float = 0.0
    unknown: int = 0
    listed: set[int] = field(default_factory=set)
    """Kinds of capabilities under which the scheduler has listed it as waiting."""
    holders: dict[Worker, None] = field(default_factory=dict)
    """Workers that run empty for a task which needs one alone."""

    @property
    def expected_s(self) -> float:
        """Predicted work of everything in it."""
        if not self.unknown:
            return self.known_s
        return self.known_s + self.unknown * unknown_s(self.task_class.run.durations)

    def level(self, priority: int) -> Level:
        """The level of this priority, made if it is the first task of it."""
        for level in self.levels:
            if level.priority == priority:
                return level
        level = Level(self, priority)
        self.levels.append(level)
        self.levels.sort(key=lambda level: -level.priority)
        return level

    def count_avoiding(self, task_class: TaskClass, count: int) -> None:
        """So many tasks more (or fewer) of a class that avoids something."""
        left = self.avoiding.get(task_class, 0) + count
        if left:
            self.avoiding[task_class] = left
        else:
            self.avoiding.pop(task_class, None)

    def dissolve(self) -> None:
        """It is used no more: its parts let go of each other, so that they are freed without a collector."""
        for level in self.levels:
            level.fresh.clear()
            level.active.clear()
            level.apart.clear()
            level.longest.clear()
        self.levels.clear()
        self.groups.clear()

    def waiting(self, task_class: TaskClass) -> int:
        """How much is queued of just this class."""
        if task_class is not self.task_class:
            return self.avoiding.get(task_class, 0)
        return self.count - sum(self.avoiding.values()) if self.avoiding else self.count

    def best_fresh(self, may: Wanted | None) -> GroupQueue | None:
        """The first group that no slot is in, of those that are wanted (None: all)."""
        for level in self.levels:
            queue = level.best_fresh(may) if level.count else None
            if queue is not None:
                return queue
        return None

    def best_active(self, may: Wanted | None) -> GroupQueue | None:
        """The group of the highest priority with most work left that some slot is in, of those that are wanted."""
        for level in self.levels:
            queue = level.best_active(may) if level.count else None
            if queue is not None:
                return queue
        return None

    def best_apart(self, may: Wanted | None) -> GroupQueue | None:
        """The longest test of the highest priority that has left its group, of those that are wanted."""
        for level in self.levels:
            queue = level.best_apart(may) if level.count and level.apart else None
            if queue is not None:
                return queue
        return None


def _top(heap: list[HeapEntry], may: Wanted | None, *, is_owned: bool) -> GroupQueue | None:
    """The best group of the heap; entries whose group has changed since are dropped or put right here."""
    found = _next_valid(heap, is_owned=is_owned)
    if may is None:
        return found
    passed_over: list[HeapEntry] = []
    while found is not None and not may(found):
        passed_over.append(heapq.heappop(heap))
        found = _next_valid(heap, is_owned=is_owned)
    for entry in passed_over:
        heapq.heappush(heap, entry)
    return found


def _next_valid(heap: list[HeapEntry], *, is_owned: bool) -> GroupQueue | None:
    while heap:
        cost, _, queue = heap[0]
        if not queue.count or (queue.owner is not None) != is_owned or queue.cost != cost:
            heapq.heappop(heap)
            continue
        if is_owned and -cost > 1.25 * queue.expected_s:
            # It has shrunk since: where does it stand now?
            queue.cost = -queue.expected_s
            heapq.heapreplace(heap, (queue.cost, queue.order, queue))
            continue
        return queue
    return None


def unknown_s(*durations: Durations) -> float:
    """Expected duration of a task without history: the first mean that is known."""
    for known in durations:
        if known.count:
            return known.mean_s
    return UNKNOWN_S


def _known_s(task: Task) -> float:
    return task.known_s


def _position(task: Task) -> int:
    return task.position
