"""Short tasks in slots that are kept for a gang, while it waits for the last of its members.

As batch systems do: only what is expected, by its history and with room to spare, to end before the rest of the gang
can be there. The core itself looks for it, so that it is the same under every scheduler.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from fleetest.core.classes import is_in_class
from fleetest.core.entities import Slot, Task, TaskClass
from fleetest.core.lifecycle import TaskState
from fleetest.core.model import Instant, Requirements

if TYPE_CHECKING:
    from fleetest.core.cluster import Cluster

HEADROOM = 1.5
"""So many times longer than expected it may take without delaying anybody."""
LOOK_S = 0.2
"""Nothing was found for a slot: it is not looked for again sooner."""
TASKS_MAX = 10_000
"""So many of a long queue are looked at, so that the first gang stops nobody."""
LOOK_THROUGH_S = 1.0
"""There was nothing for any slot among them: they are not looked through again sooner, however many slots are kept."""
_Entry: TypeAlias = tuple[float, int, Task]


class Backfill:
    """Queued tasks by expected duration; kept only while gangs gather, so that it costs nothing otherwise."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lines: dict[tuple[TaskClass, int], list[_Entry]] | None = None
        """By class and priority, the shortest first; may hold tasks that are no longer queued."""
        self._added: list[Task] = []
        self._nothing_at: Instant = -LOOK_THROUGH_S
        self._in_vain: dict[Slot, Instant] = {}
        self._generation = 0

    def add(self, tasks: Iterable[Task]) -> None:
        """These are queued now."""
        if self._lines is not None:
            self._added += tasks
            self._in_vain.clear()

    def forget(self) -> None:
        """No gang waits."""
        self._lines = None
        self._added.clear()
        self._in_vain.clear()
        self._nothing_at = -LOOK_THROUGH_S

    def find(self, slot: Slot, limit_s: float) -> Task | None:
        """The most urgent, and of these the longest, that will have ended in this kept slot within the time."""
        cluster, worker = self._cluster, slot.worker
        if worker.alone is not None:
            return None
        if self._generation != cluster.placement.generation:
            self._generation = cluster.placement.generation
            self._in_vain.clear()
        if self._in_vain.get(slot, -LOOK_S) + LOOK_S > cluster.now:
            return None
        found: tuple[int, float, list[_Entry], int] | None = None
        for (task_class, priority), line in self._sorted().items():
            if self._may_use(slot, task_class):
                slowness = cluster.balancing.slowness(worker, task_class)
                index = _longest(line, task_class, limit_s / HEADROOM / slowness)
                if index >= 0 and (found is None or (priority, line[index][0]) > found[:2]):
                    found = (priority, line[index][0], line, index)
        if found is None:
            self._in_vain[slot] = cluster.now
            return None
        _, _, line, index = found
        return line.pop(index)[2]

    def _sorted(self) -> dict[tuple[TaskClass, int], list[_Entry]]:
        lines = {key: line for key, line in (self._lines or {}).items() if line}
        is_looked_through = not lines and self._cluster.now >= self._nothing_at + LOOK_THROUGH_S
        if is_looked_through:
            tasks = (task for run in self._cluster.runs.values() for task in run.tasks.values())
            self._added = list(islice((task for task in tasks if task.state is TaskState.QUEUED), TASKS_MAX))
        changed = {}
        for task in self._added:
            expected_s = task.spec.expected_s
            # Whoever is in a class goes on with it: its tests may build on each other.
            if expected_s is None or task.is_suspect or task.group.keep_together or is_in_class(task):
                continue
            if task.requirements.workers == 1 and not task.requirements.alone and not task.requirements.locks:
                key = (task.task_class, task.priority)
                changed[key] = lines.setdefault(key, [])
                changed[key].append((expected_s, task.position, task))
        self._added.clear()
        for line in changed.values():
            line.sort(key=_rank)
        if is_looked_through and not lines:
            self._nothing_at = self._cluster.now
        self._lines = lines
        return lines

    def _may_use(self, slot: Slot, task_class: TaskClass) -> bool:
        """It reserves nothing that others than the gang may wait for."""
        placement, gathering = self._cluster.placement, slot.worker.gathering
        if gathering is None or not placement.is_eligible(task_class, slot.worker):
            return False
        if not task_class.reserves:
            return True
        kept = gathering.task.requirements
        is_kept = kept.alone or _names(task_class.requirements) <= _names(kept)
        return is_kept and placement.has_free(slot.worker, task_class.requirements)


def _longest(line: list[_Entry], task_class: TaskClass, limit_s: float) -> int:
    """Where in the line the longest is that fits; -1 if nothing does."""
    end = bisect_right(line, limit_s, key=_expected)
    while end:
        end -= 1
        task = line[end][2]
        if task.state is TaskState.QUEUED and task.task_class is task_class:
            return end
        del line[end]
    return -1


def _expected(entry: _Entry) -> float:
    return entry[0]


def _rank(entry: _Entry) -> tuple[float, int]:
    """Of equally long ones that which was planned first is last, where the search begins."""
    return entry[0], -entry[1]


def _names(requirements: Requirements) -> set[str]:
    return {name for name, _ in requirements.resources}
