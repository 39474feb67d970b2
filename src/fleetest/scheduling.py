"""The base for schedulers of your own: it keeps all the books, you say what goes first.

See docs/how-to/write-a-scheduler.md. ``TaskScheduler``, which is used where nothing else is asked for, does more
(fair share, locality, longest first, ageing); this is for those who want another order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fleetest.core.entities import Run, Slot, Task, TaskClass, TaskGroup, Worker
from fleetest.core.model import Instant, Limits
from fleetest.core.placement import Placement
from fleetest.core.policies import NOTHING_CHOSEN, NOTHING_WOKEN, Choice, Wakes


class SimpleScheduler:
    """A scheduling policy that takes the waiting task with the smallest ``key``, or what ``pick`` returns.

    It sees to it that a worker gets only what it can run now, that what reserves something gets an empty slot, that
    groups which must stay together do, and that slots are filled by portions. One choice costs the number of distinct
    requirements that wait, and a logarithm.
    """

    predict_s: Callable[[Task], float]
    """Expected seconds of a task: from history, else from what ran so far."""

    def __init__(self) -> None:
        self._waiting: dict[TaskClass, dict[Slot | None, _Waiting]] = {}
        """By class, and by the slot on which their group is kept."""
        self._slot_of: dict[TaskGroup, Slot] = {}
        self._held: dict[Worker, TaskClass] = {}
        """Workers that run empty for a task of this class, which wants one alone."""
        self._wakes = Wakes()
        self._count = 0

    # What to override ------------------------------------------------------------------------------------------

    def key(self, task: Task, now: Instant) -> Any:
        """What decides the order, smaller first; asked once, when the task is queued. Equal ones keep their order.

        By default the priority.
        """
        return -task.priority

    def pick(self, worker: Worker, waiting: Sequence[Task], now: Instant) -> Task | None:
        """Which of these the worker gets; None: nothing at the moment.

        ``waiting`` has the first task, by ``key``, of each class (tasks of one suite with equal requirements) that
        could run on this worker; the smallest key comes first. It is never empty.
        """
        return waiting[0]

    # The policy ------------------------------------------------------------------------------------------------

    def bind(self, placement: Placement, predict_s: Callable[[Task], float], limits: Limits) -> None:
        self.placement, self.limits = placement, limits
        self.predict_s = predict_s

    def add_run(self, run: Run) -> None:
        """Nothing is known of it yet but its owner, priority and weight."""

    def drop_run(self, run: Run) -> None:
        for task_class in [task_class for task_class in self._waiting if task_class.run is run]:
            del self._waiting[task_class]
            self._let_go(task_class)
        for task in run.tasks.values():
            self._slot_of.pop(task.group, None)

    def add_tasks(self, tasks: Sequence[Task], now: Instant) -> None:
        for task in tasks:
            slot = self._slot_of.get(task.group)
            if slot is not None and not self.placement.is_eligible(task.task_class, slot.worker):
                slot = None
            self._put(task, slot, self.key(task, now))

    def discard_tasks(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            waiting = task.place
            if isinstance(waiting, _Waiting):
                waiting.remove(task)
                self._let_go(task.task_class)

    def forget_slots(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            self._held.pop(slot.worker, None)
            for group in [group for group, kept_on in self._slot_of.items() if kept_on is slot]:
                del self._slot_of[group]
            for by_slot in self._waiting.values():
                kept = by_slot.pop(slot, None)
                for key, _, task in kept.entries() if kept is not None else ():
                    self._put(task, None, key)

    def charge(self, run: Run, seconds: float) -> None:
        """``seconds`` of work were granted to the run (negative: given back); of no interest here."""

    def wakes(self) -> Wakes:
        wakes = self._wakes
        if not (wakes.classes or wakes.slots or wakes.workers):
            return NOTHING_WOKEN
        self._wakes = Wakes()
        return wakes

    def waiting(self, task_class: TaskClass) -> int:
        return sum(len(waiting) for waiting in self._waiting.get(task_class, {}).values())

    def waiting_classes(self) -> Iterable[TaskClass]:
        return [task_class for task_class in self._waiting if self.waiting(task_class)]

    def top_priority(self, task_class: TaskClass) -> int:
        queues = self._waiting.get(task_class, {}).values()
        return max((priority for queue in queues for priority in queue.priorities), default=task_class.run.priority)

    def waiting_at(self, task_class: TaskClass, priority: int) -> int:
        queues = self._waiting.get(task_class, {}).values()
        return sum(queue.priorities.get(priority, 0) for queue in queues)

    def has_work(self, worker: Worker) -> bool:
        return any(
            len(waiting) and (slot is None or slot.worker is worker)
            for task_class, by_slot in self._waiting.items()
            if self.placement.is_eligible(task_class, worker)
            for slot, waiting in by_slot.items()
        )

    def why(self, task: Task) -> str:
        return ""

    def choose(self, slot: Slot, room_s: float, room_tasks: int, now: Instant) -> Choice:
        chosen: list[Task] = []
        chosen_s = 0.0
        while len(chosen) < room_tasks:
            heads = sorted(self._heads(slot))
            if not heads:
                break
            task = self.pick(slot.worker, [task for _, _, task in heads], now)
            if task is None:
                break
            task_class = task.task_class
            if task_class.reserves:
                if chosen:
                    break
                if self._needs_dry(task_class, slot):
                    return Choice(hold=self._hold(task_class, slot))
            # Small portions at the end, so that all slots end together.
            part_s = self._left_s(task_class) / (2 * max(1, self.placement.eligible_slots(task_class)))
            if chosen and chosen_s >= min(room_s, part_s):
                break
            self._take(task, slot)
            chosen.append(task)
            chosen_s += self.predict_s(task)
            if task_class.reserves:
                break
        return Choice(chosen) if chosen else NOTHING_CHOSEN

    # Books -----------------------------------------------------------------------------------------------------

    def _put(self, task: Task, slot: Slot | None, key: Any) -> None:
        by_slot = self._waiting.setdefault(task.task_class, {})
        waiting = by_slot.get(slot)
        if waiting is None:
            waiting = by_slot[slot] = _Waiting()
        self._count += 1
        waiting.add(task, key, self._count, self.predict_s(task))
        if slot is None:
            self._wakes.classes[task.task_class] = None
        else:
            self._wakes.slots[slot] = None

    def _heads(self, slot: Slot) -> Iterator[tuple[Any, int, Task]]:
        """The first task of each class that could run here once the slot, or its worker, has nothing else."""
        worker, placement = slot.worker, self.placement
        for task_class, by_slot in list(self._waiting.items()):
            if not placement.is_eligible(task_class, worker):
                continue
            if task_class.reserves and not (
                placement.can_reserve(worker, task_class.requirements) and self._may_hold(task_class, slot)
            ):
                continue
            heads = [head for head in (self._head(by_slot, kept_on) for kept_on in (slot, None)) if head is not None]
            if heads:
                yield min(heads)

    def _head(self, by_slot: dict[Slot | None, _Waiting], slot: Slot | None) -> tuple[Any, int, Task] | None:
        waiting = by_slot.get(slot)
        while waiting is not None:
            head = waiting.first()
            if head is None:
                return None
            kept_on = self._slot_of.get(head[2].group)
            if kept_on is slot or kept_on is None or not self.placement.is_eligible(head[2].task_class, kept_on.worker):
                return head
            # Its group began elsewhere meanwhile.
            waiting.remove(head[2])
            self._put(head[2], kept_on, head[0])
        return None

    def _take(self, task: Task, slot: Slot) -> None:
        waiting = task.place
        assert isinstance(waiting, _Waiting)
        waiting.remove(task)
        if task.group.keep_together:
            self._slot_of[task.group] = slot
        self._let_go(task.task_class)

    def _left_s(self, task_class: TaskClass) -> float:
        return sum(waiting.expected_s for waiting in self._waiting[task_class].values())

    def _needs_dry(self, task_class: TaskClass, slot: Slot) -> bool:
        return bool(slot.leases) or (task_class.requirements.alone and slot.worker.lease_count > 0)

    def _may_hold(self, task_class: TaskClass, slot: Slot) -> bool:
        """One slot of a worker runs dry at a time, and no more workers than there are tasks that want one alone."""
        if not self._needs_dry(task_class, slot):
            return True
        if not task_class.requirements.alone:
            return slot.worker.holding in (None, slot)
        holders = [worker for worker, held_for in self._held.items() if held_for is task_class]
        return slot.worker in holders or len(holders) < self.waiting(task_class)

    def _hold(self, task_class: TaskClass, slot: Slot) -> TaskClass:
        if task_class.requirements.alone:
            self._held[slot.worker] = task_class
        return task_class

    def _let_go(self, task_class: TaskClass) -> None:
        """Workers that run empty for a task of this class may go on: who is still wanted is asked again."""
        for worker in [worker for worker, held_for in self._held.items() if held_for is task_class]:
            del self._held[worker]
            self._wakes.workers[worker] = None


class _Waiting:
    """Tasks of one class, in order of their keys."""

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int, Task]] = []
        self._numbers: dict[Task, tuple[int, float]] = {}
        self.expected_s = 0.0
        self.priorities: dict[int, int] = {}
        """How many tasks have which."""

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, task: Task, key: Any, number: int, expected_s: float) -> None:
        task.place = self
        self._numbers[task] = (number, expected_s)
        self.expected_s += expected_s
        self.priorities[task.priority] = self.priorities.get(task.priority, 0) + 1
        heapq.heappush(self._heap, (key, number, task))

    def remove(self, task: Task) -> None:
        task.place = None
        self.expected_s -= self._numbers.pop(task)[1]
        self.priorities[task.priority] -= 1
        if not self.priorities[task.priority]:
            del self.priorities[task.priority]

    def first(self) -> tuple[Any, int, Task] | None:
        while self._heap:
            _, number, task = self._heap[0]
            if self._numbers.get(task, (0, 0.0))[0] == number:
                return self._heap[0]
            heapq.heappop(self._heap)
        return None

    def entries(self) -> list[tuple[Any, int, Task]]:
        """All of them, in order."""
        return sorted(entry for entry in self._heap if self._numbers.get(entry[2], (0, 0.0))[0] == entry[1])
