"""Tests that are long beside all that is left: they leave their groups and start first, where they end in time.

With a long test last, everybody waits for it. What is long depends on how much is left: ten seconds are little at the
beginning of a run and much at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from fleetest.core.dividing import take_out
from fleetest.core.entities import Run, Slot
from fleetest.core.group_queue import ClassLine, GroupQueue, Wanted
from fleetest.core.model import Instant
from fleetest.core.placement import Placement

LONG_SHARE = 0.25
"""A test is long if it takes at least this part of the seconds that are left for each slot."""
LONG_SHARE_LAST = 0.2
"""The same for the last tests of a run, of which the longest start first whatever their groups."""
LONG_FACTOR = 1.25
"""And so many times the mean of what waits: of equal tests none is long, however few are left."""
LATE_FACTOR = 1.5
"""A long test that would end too late here is left to faster slots, if it might take so many times longer than on a
typical worker."""


class LongTests:
    """Cost of one question: a few comparisons, and logarithms for each test that leaves its group."""

    def __init__(self, placement: Placement, next_order: Callable[[], int]) -> None:
        self._placement, self._next_order = placement, next_order
        self._are_wanted = True
        self._now: Instant = 0.0
        self._wait_s = 0.0
        self._slowest = 0.0
        self._run: Run | None = None
        self._run_left_s = 0.0

    def look(self, slot: Slot, now: Instant, *, has_priorities: bool) -> None:
        """The questions that follow are for this slot.

        None is due while some tasks are more urgent than others: short urgent ones would wait behind it.
        """
        self._are_wanted = not has_priorities
        self._now = now
        self._wait_s = max(0.0, slot.queued_s - (now - slot.head_since)) if slot.leases else 0.0
        self._slowest = 0.0
        self._run = None

    def due(self, line: ClassLine, slot: Slot, may: Wanted | None, *, are_last: bool) -> GroupQueue | None:
        """The longest test of the highest priority, with the rest of its class, if it is long and the slot serves it.

        ``may``: which groups of the line the slot's worker may have (None: all of them). ``are_last``: the line's
        tests are the last ones of the run.
        """
        if not self._are_wanted:
            return None
        for level in line.levels:
            if not level.count:
                continue
            long_s = LONG_FACTOR * line.expected_s / line.count
            # A cheap look first.
            if not level.apart and not level.has_longer(long_s):
                return None
            left_s = self._left_s(line)
            long_s = max(long_s, (LONG_SHARE_LAST if are_last else LONG_SHARE) * left_s)
            while (queue := level.with_longest(long_s)) is not None:
                take_out(queue, self._next_order(), self._now)
            queue = level.best_apart(may) if level.apart else None
            return queue if queue is not None and self._serves(queue, slot, left_s) else None
        return None

    def is_due(self, queue: GroupQueue, slot: Slot) -> bool:
        """True if it is a long test that has left its group and the slot serves it."""
        return (
            self._are_wanted
            and queue.is_apart
            and queue.owner is None
            and self._serves(queue, slot, self._left_s(queue.line))
        )

    def _left_s(self, line: ClassLine) -> float:
        """Until all that is left is done, shared evenly; infinite where nothing can be shared, or nobody knows."""
        placement, task_class = self._placement, line.task_class
        accepting = placement.accepting_slots
        # Who still collects the suite will be there soon: as many of those fit as of those who have collected it.
        fitting = accepting * placement.eligible_slots(task_class) / max(1, task_class.suite.ready_total)
        if fitting < 2.0:
            return inf
        if self._run is not task_class.run:
            self._run = task_class.run
            self._run_left_s = self._run.left_s / accepting
        return max(self._run_left_s, line.expected_s / fitting)

    def _serves(self, queue: GroupQueue, slot: Slot, left_s: float) -> bool:
        """True if the slot ends it in time, or hardly later than others would."""
        wait_s, work_s = self._wait_s, queue.expected_s
        # It looks for a better slot no longer than it would wait in this one.
        is_soon = wait_s <= self._now - queue.apart_since
        if not is_soon and wait_s + work_s > left_s:
            return False
        if not self._slowest:
            placement, worker = self._placement, slot.worker
            has_others = placement.accepting_slots > len(worker.slots)
            self._slowest = placement.slowest(worker, queue.task_class) if has_others else 1.0
        return (is_soon and self._slowest <= LATE_FACTOR) or wait_s + self._slowest * work_s <= left_s
