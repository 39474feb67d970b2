"""Waiting gangs, and the slots that run dry for them.

A gang gathers a complete set of slots, one each on distinct workers, or nothing at all: whoever gathers waits only for
running tests, never for another gang, so that two gangs cannot stand in each other's way. A worker is gathered for one
gang at a time. Who is before whom: gangs that have waited for ``Limits.ageing_s``, then priority, then who waited
longer.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from fleetest.core.entities import Gathering, Readiness, Slot, Task, TaskClass, Worker
from fleetest.core.model import Instant

if TYPE_CHECKING:
    from fleetest.core.cluster import Cluster

LOOK_S = 0.2
"""While a gang waits and slots are idle, who gathers is thought over at most this often."""
LOOK_AGAIN_S = 1.0
"""And at least this often while a gang leaves its workers to other work, or waits for a test that may take longer."""
STAY_S = 1.0
"""A slot that is gathered is kept unless another one is expected to be free so much sooner."""
SPARE_MAX_S = 15.0
"""Nobody knows for longer what becomes of a kept slot: its gang may take others, and another gang may want it."""
Grant: TypeAlias = Callable[[Task, Sequence[Slot]], None]


class Gangs:
    """Costs nothing while no gang waits; else one pass over the workers whenever somebody comes, goes or is ready."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._waiting: dict[Task, Instant] = {}
        """And since when."""
        self._gathering: dict[Task, Gathering] = {}
        self._is_stale = False
        self._is_due = False
        self._generation = 0
        self._planned_at: Instant = 0.0

    def add(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self._waiting[task] = self._cluster.now
        self._is_stale = True

    def discard(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self._waiting.pop(task, None)
            gathering = self._gathering.pop(task, None)
            if gathering is not None:
                self._release(gathering)
        self._is_stale = True
        if not self._waiting:
            self._claim_locks(set())
            self._cluster.backfill.forget()

    def look_again(self) -> None:
        """Something that a gang may wait for has changed."""
        self._is_stale = True

    def waiting(self, task_class: TaskClass) -> int:
        """How many gangs of the class wait."""
        return sum(task.task_class is task_class for task in self._waiting)

    @property
    def gatherings(self) -> Iterable[Gathering]:
        """Who runs dry for whom."""
        return self._gathering.values()

    def serving(self, task_class: TaskClass) -> list[Worker]:
        """Workers that could be members now or when they are free."""
        workers = self._cluster.workers.values()
        return [worker for worker in workers if self._cluster.placement.serves(task_class, worker)]

    def why(self, task: Task) -> str:
        """Why this gang has not started, for people."""
        size, fitting = task.requirements.workers, self.serving(task.task_class)
        if len(fitting) < size:
            return f"needs {size} workers at once, and {len(fitting)} that {_fit(len(fitting))} work"
        held = [name for name in task.requirements.locks if name in self._cluster.placement.locks]
        if held:
            holder = self._cluster.placement.locks[held[0]].task
            return f"waiting for lock {held[0]!r} (held by {holder.seen_from(task.run)})"
        free = sum(any(not slot.leases for slot in worker.slots) for worker in fitting)
        text = f"needs {size} workers at once, and {free} of {len(fitting)} that fit {_have(free)} a free slot"
        gathering = self._gathering.get(task)
        if gathering is None:
            first = min(self._gathering, key=self._rank, default=None)
            is_behind = first is not None and self._rank(first) < self._rank(task)
            return f"{text}; {first.seen_from(task.run) if first and is_behind else 'other work'} is before it"
        waits_for = [str(slot) for slot in gathering.slots if slot.leases]
        return f"{text}; it gathers {', '.join(str(slot.worker.worker_id) for slot in gathering.slots)}" + (
            f" and waits for {waits_for[0]}" if waits_for else ""
        )

    # Gathering -------------------------------------------------------------------------------------------------------

    def advance(self, grant: Grant) -> None:
        """Before slots are filled: start what is complete, keep slots for the next ones."""
        if not self._waiting:
            return
        placement = self._cluster.placement
        if self._cluster.released_locks or self._generation != placement.generation:
            self._is_stale = True
        touched = dict.fromkeys(slot.worker.gathering for slot in self._cluster.asking)
        self._start([gathering for gathering in touched if gathering is not None], grant)
        while self._is_stale and self._waiting:
            self._plan(after_dispatch=False)
            self._start(list(self._gathering.values()), grant)

    def due(self) -> None:
        """The time to think again has come."""
        self._is_due = True

    def reconsider(self, grant: Grant, *, has_idle: bool) -> bool:
        """After slots were filled; ``has_idle``: and some stayed empty. True if that changed anything."""
        cluster = self._cluster
        is_due, self._is_due = self._is_due, False
        if not self._waiting or not (has_idle or is_due):
            return False
        look_at = self._planned_at + LOOK_S
        if not is_due and cluster.now < look_at:
            due = cluster.deadlines.due(("gangs",))
            if due is None or due > look_at:
                cluster.deadlines.set(("gangs",), look_at)
            return False
        before = {task: tuple(gathering.slots) for task, gathering in self._gathering.items()}
        self._plan(after_dispatch=True)
        self._start(list(self._gathering.values()), grant)
        return before != {task: tuple(gathering.slots) for task, gathering in self._gathering.items()}

    def _start(self, gatherings: Iterable[Gathering], grant: Grant) -> None:
        for gathering in gatherings:
            if self._is_complete(gathering):
                task = gathering.task
                del self._gathering[task], self._waiting[task]
                self._release(gathering)
                self._cluster.placement.claimed_locks.difference_update(task.requirements.locks)
                grant(task, gathering.slots)
                self._is_stale = True
                if not self._waiting:
                    self._cluster.backfill.forget()

    def _is_complete(self, gathering: Gathering) -> bool:
        task, placement = gathering.task, self._cluster.placement
        if any(name in placement.locks for name in task.requirements.locks):
            return False
        return all(self._is_free(slot, task) for slot in gathering.slots)

    def _is_free(self, slot: Slot, task: Task) -> bool:
        worker, placement = slot.worker, self._cluster.placement
        if slot.leases or not placement.serves(task.task_class, worker):
            return False
        if task.requirements.alone and worker.lease_count:
            return False
        if task.is_suspect and worker.has_suspect:
            return False
        return placement.has_free(worker, task.requirements)

    def _plan(self, *, after_dispatch: bool) -> None:
        """Decide anew who gathers which slots. ``after_dispatch``: nobody else wants slots that are empty now."""
        cluster = self._cluster
        placement = cluster.placement
        self._is_stale = False
        self._generation, self._planned_at = placement.generation, cluster.now
        scheduling = cluster.scheduling
        others = [(other, scheduling.top_priority(other)) for other in scheduling.waiting_classes()]
        taken: set[Worker] = set()
        locks: set[str] = set()
        chosen: dict[Task, list[Slot]] = {}
        is_deferred = False
        for task in sorted(self._waiting, key=self._rank):
            wanted = task.requirements.locks
            if not locks.isdisjoint(wanted):
                continue
            fitting = self.serving(task.task_class)
            size = task.requirements.workers
            if len(fitting) < size:
                continue
            free = [
                worker
                for worker in fitting
                if worker not in taken
                and not worker.is_on_probation
                and not self._is_wanted(worker, task, others, after_dispatch)
            ]
            if len(free) < size:
                is_deferred = True
                continue
            locks.update(wanted)
            # Slots are not kept idle for as long as somebody else holds a lock.
            if not any(name in placement.locks for name in wanted):
                chosen[task] = self._choose(task, free)
                taken.update(slot.worker for slot in chosen[task])
        if (is_deferred or chosen) and ("gangs",) not in cluster.deadlines:
            # What is before it may be unable to run, or what it waits for take longer than others: then nothing else
            # would bring us here again.
            cluster.deadlines.set(("gangs",), cluster.now + LOOK_AGAIN_S)
        self._claim_locks(locks)
        for task, gathering in list(self._gathering.items()):
            if gathering.slots != chosen.get(task):
                del self._gathering[task]
                self._release(gathering)
        for task, slots in chosen.items():
            if task not in self._gathering:
                self._hold(task, slots)

    def _rank(self, task: Task) -> tuple[bool, int, Instant, int]:
        since = self._waiting[task]
        is_aged = self._is_aged(task)
        return not is_aged, 0 if is_aged else -task.priority, since, task.position

    def _is_aged(self, task: Task) -> bool:
        return self._cluster.now - self._waiting[task] >= self._cluster.limits.ageing_s

    def _is_wanted(
        self, worker: Worker, task: Task, others: Sequence[tuple[TaskClass, int]], after_dispatch: bool
    ) -> bool:
        """True if other work has the worker first: what is more urgent, or another run's while the worker rests.

        ``others`` are the classes with their highest priority.
        """
        if after_dispatch and any(_is_idle(slot) for slot in worker.slots):
            return False
        if worker.gangs_s >= self._cluster.limits.ageing_s:
            # However urgent gangs are, and however many: single tests get a turn now and then.
            if not any(slot.leases and not _runs_gang(slot) for slot in worker.slots):
                return any(self._cluster.placement.is_eligible(other, worker) for other, _ in others)
            worker.gangs_s = 0.0
        if self._is_aged(task):
            return False
        rests = worker.rests_until > self._cluster.now or any(_runs_gang(slot) for slot in worker.slots)
        return any(
            priority > task.priority or (rests and other.run is not task.run and priority == task.priority)
            for other, priority in others
            if self._cluster.placement.is_eligible(other, worker)
        )

    def _choose(self, task: Task, workers: Sequence[Worker]) -> list[Slot]:
        """The slots that are expected to be free soonest, one on each of so many workers, in order of joining."""
        own = self._gathering.get(task)
        placement, now = self._cluster.placement, self._cluster.now
        untried = [worker for worker in workers if worker.worker_id not in task.avoid]
        startable = [worker for worker in untried if any(self._is_free(slot, task) for slot in worker.slots)]
        if len(startable) >= task.requirements.workers:
            # To start at once is better than to keep what is only expected to be free.
            workers, own = startable, None
        best: list[tuple[tuple[bool, float, int, int], Slot]] = []
        for worker in workers:
            is_own = own is not None and worker.gathering is own
            slot = min(worker.slots, key=lambda slot: _free_in_s(slot, now))
            if is_own and own is not None:
                kept = next((kept for kept in own.slots if kept.worker is worker), slot)
                slot = kept if _free_in_s(kept, now) <= _free_in_s(slot, now) + STAY_S else slot
            wait_s = _free_in_s(slot, now)
            if task.requirements.alone:
                wait_s = max(_free_in_s(other, now) for other in worker.slots)
            rank = (
                worker.worker_id in task.avoid,
                wait_s - STAY_S if is_own else wait_s,
                placement.specialness(worker.capability_kind),
                worker.order,
            )
            best.append((rank, slot))
        slots = [slot for _, slot in heapq.nsmallest(task.requirements.workers, best, key=lambda entry: entry[0])]
        return sorted(slots, key=lambda slot: slot.worker.order)

    def spare(self) -> Iterator[tuple[Slot, float]]:
        """Empty slots that are kept, and for how many seconds their gang cannot start whichever workers it takes.

        A test that uses a spare slot makes nothing else spare, and nothing is for a gang that has waited long: else one
        after the other might keep it waiting.
        """
        now = self._cluster.now
        for task, gathering in list(self._gathering.items()):
            empty = [slot for member in gathering.slots for slot in self._held(gathering, member) if not slot.leases]
            left_s = self._waiting[task] + self._cluster.limits.ageing_s - now
            if empty and left_s > 0.0:
                spare_s = min(left_s, self._cannot_start_s(gathering), SPARE_MAX_S)
                if spare_s > 0.0:
                    yield from ((slot, spare_s) for slot in empty)

    def _cannot_start_s(self, gathering: Gathering) -> float:
        """Until so many workers as it needs are expected to be free, its own or others."""
        task, now = gathering.task, self._cluster.now
        if any(readiness.state is Readiness.PREPARING for readiness in task.suite.workers.values()):
            return 0.0
        first_or_last = max if task.requirements.alone else min
        free_in_s = [
            first_or_last(_busy_s(slot, now) for slot in worker.slots)
            for worker in self.serving(task.task_class)
            if worker.gathering is None or worker.gathering is gathering
        ]
        size = task.requirements.workers
        return heapq.nsmallest(size, free_in_s)[-1] if len(free_in_s) >= size else 0.0

    # Holding ---------------------------------------------------------------------------------------------------------

    def _hold(self, task: Task, slots: list[Slot]) -> None:
        gathering = self._gathering[task] = Gathering(task, slots)
        for slot in slots:
            slot.worker.gathering = gathering
            for held in self._held(gathering, slot):
                held.is_held = True
                # It is told that nothing follows what it runs.
                self._cluster.asking[held] = None

    def _release(self, gathering: Gathering) -> None:
        for slot in gathering.slots:
            if slot.worker.gathering is gathering:
                slot.worker.gathering = None
            for held in self._held(gathering, slot):
                held.is_held = False
            # Others on this worker may have waited for resources that were kept.
            self._cluster.ask(slot.worker.slots)

    def _held(self, gathering: Gathering, slot: Slot) -> Sequence[Slot]:
        return slot.worker.slots if gathering.task.requirements.alone else (slot,)

    def _claim_locks(self, locks: set[str]) -> None:
        placement = self._cluster.placement
        self._cluster.released_locks.update(placement.claimed_locks - locks)
        placement.claimed_locks = locks


def _free_in_s(slot: Slot, now: Instant) -> float:
    """Expected; a test that is overdue is taken to last as long again."""
    if not slot.leases:
        return 0.0
    elapsed_s = now - slot.head_since
    return slot.queued_s - elapsed_s if slot.queued_s > elapsed_s else elapsed_s


def _busy_s(slot: Slot, now: Instant) -> float:
    """At least so long, by expectation; 0 if what runs there is overdue, or itself only uses a spare slot."""
    if not slot.leases or any(live.is_backfill for live in slot.leases.values()):
        return 0.0
    return max(0.0, slot.queued_s - (now - slot.head_since))


def _is_idle(slot: Slot) -> bool:
    """Nobody else wants it: that an empty slot beside a test that runs alone stays empty says nothing."""
    return not slot.leases and not slot.is_held and slot.worker.alone is None


def _runs_gang(slot: Slot) -> bool:
    head = slot.head()
    return head is not None and head.task.gang is not None


def _fit(count: int) -> str:
    return "fits takes" if count == 1 else "fit take"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
