"""All queued tasks by class: which of them fit a worker, and how urgent the most urgent one may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fleetest.core.entities import Run, TaskClass, Worker
from fleetest.core.group_queue import ClassLine, Level, RunTotal
from fleetest.core.placement import Placement


class ClassLines:
    """A worker is never compared with a class: lines are listed by kind of capabilities when something is queued."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._lines: dict[TaskClass, ClassLine] = {}
        self._totals: dict[Run, RunTotal] = {}
        self._fitting: dict[int, list[ClassLine]] = {}
        """By kind of capabilities: the lines with queued work that fit, and some that have none (any more)."""
        self._priorities: dict[int, int] = {}
        """Of how many lines some task had this priority."""
        self.top_priority = 0

    @property
    def has_priorities(self) -> bool:
        """True if some tasks of runs that are here are more urgent than others."""
        return len(self._priorities) > 1

    def all(self) -> Iterable[ClassLine]:
        return self._lines.values()

    def waiting(self) -> Sequence[ClassLine]:
        """Those with queued work."""
        return [line for line in self._lines.values() if line.count]

    def get(self, task_class: TaskClass) -> ClassLine | None:
        """The line that tasks of this class, whatever they avoid, are queued in."""
        return self._lines.get(task_class.base)

    def line_of(self, task_class: TaskClass) -> ClassLine:
        """The same, made if it is the first such task."""
        base = task_class.base
        line = self._lines.get(base)
        if line is None:
            total = self._totals.setdefault(base.run, RunTotal())
            line = self._lines[base] = ClassLine(base, total)
        return line

    def level(self, line: ClassLine, priority: int) -> Level:
        """The level of the line with this priority, made if it is the first such task."""
        count = len(line.levels)
        level = line.level(priority)
        if len(line.levels) > count:
            self._priorities[priority] = self._priorities.get(priority, 0) + 1
            self.top_priority = max(self._priorities)
        return level

    def take(self, task_class: TaskClass) -> ClassLine | None:
        """The line of this very class, which is gone from here: nothing of it waits any more."""
        line = self._lines.pop(task_class, None)
        if line is not None:
            line.count = 0
            self._forget_priorities(line)
        return line

    def forget_run(self, run: Run) -> None:
        """All its lines have been taken."""
        self._totals.pop(run, None)

    def _forget_priorities(self, line: ClassLine) -> None:
        for level in line.levels:
            self._priorities[level.priority] -= 1
            if not self._priorities[level.priority]:
                del self._priorities[level.priority]
        self.top_priority = max(self._priorities, default=0)

    # Who fits --------------------------------------------------------------------------------------------------

    def list_again(self, line: ClassLine) -> None:
        """Something is queued in the line that had nothing."""
        for capability_kind, lines in self._fitting.items():
            if capability_kind not in line.listed and self._placement.fits(line.task_class.kind, capability_kind):
                line.listed.add(capability_kind)
                lines.append(line)

    def fitting(self, worker: Worker) -> Sequence[ClassLine]:
        """Lines that fit the worker's capabilities: all with queued work, and some that have none any more."""
        capability_kind = worker.capability_kind
        lines = self._fitting.get(capability_kind)
        if lines is None:
            fits = self._placement.fits
            lines = [
                line for line in self._lines.values() if line.count and fits(line.task_class.kind, capability_kind)
            ]
            self._fitting[capability_kind] = lines
            for line in lines:
                line.listed.add(capability_kind)
        return lines

    def delist_empty(self, worker: Worker) -> None:
        """Those that have no queued work any more are not listed for workers like this one."""
        lines = self._fitting[worker.capability_kind]
        for line in lines:
            if not line.count:
                line.listed.discard(worker.capability_kind)
        self._fitting[worker.capability_kind] = [line for line in lines if line.count]
