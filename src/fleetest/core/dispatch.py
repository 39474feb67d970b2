"""Fills slots with leases after every event, and tells a slot when nothing follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from fleetest.core.attempt_handling import AttemptHandling
from fleetest.core.cluster import Cluster
from fleetest.core.entities import Room, Slot, Task, TaskClass, Worker
from fleetest.core.hungry_slots import HungrySlots
from fleetest.core.lifecycle import TaskState, WorkerState
from fleetest.core.policies import NOTHING_WOKEN


class Dispatch:
    """Empty slots come first, then successors for running tests; plain work goes to the least special workers first."""

    def __init__(self, cluster: Cluster, attempts: AttemptHandling) -> None:
        self._cluster, self._attempts = cluster, attempts
        self._hungry = HungrySlots(cluster.balancing.order)
        self._refused: set[Slot] = set()
        self._put_back: dict[Task, None] = {}
        """Proposals that the core did not accept."""
        self.left_empty: dict[Slot, None] = {}
        """Slots without leases that asked during this event and got nothing."""

    def run(self) -> None:
        cluster = self._cluster
        touched: dict[Slot, None] = {}
        self._refused.clear()
        self.left_empty.clear()
        may_grant = not cluster.grants_nothing_because
        if may_grant:
            cluster.gangs.advance(self._attempts.grant_gang)
        self._fill_all(touched)
        if may_grant and cluster.gangs.reconsider(self._attempts.grant_gang, has_idle=bool(self.left_empty)):
            self._fill_all(touched)
        if self._put_back:
            # Only now: a policy that insists would be asked for ever.
            cluster.scheduling.add_tasks(
                [task for task in self._put_back if task.state is TaskState.QUEUED], cluster.now
            )
            self._put_back = {}
        if may_grant:
            self._backfill(touched)
        for slot in touched:
            if slot.worker.worker_id in cluster.workers:
                self._tell_if_idle(slot)

    def _fill_all(self, touched: dict[Slot, None]) -> None:
        """Until nobody asks any more; ``touched`` gets who did."""
        while True:
            asking, offered = self._collect()
            if not asking and not offered:
                break
            for room in (Room.EMPTY, Room.WANTING):
                for slot in asking:
                    if bool(slot.leases) is (room is Room.WANTING) and self._room(slot) is room:
                        self._fill(slot)
                # Who has just got its first lease is asked again in the second round, for a successor.
                if offered:
                    asking += self._offer(offered, room)
            for slot in asking:
                touched[slot] = None
                self._hungry.put(slot, self._room(slot))

    def _backfill(self, touched: dict[Slot, None]) -> None:
        """Let short tests use the slots that are kept for a gang while it waits for others."""
        cluster = self._cluster
        for slot, spare_s in cluster.gangs.spare():
            task = cluster.backfill.find(slot, spare_s)
            if task is not None:
                cluster.scheduling.discard_tasks([task])
                self._attempts.grant(slot, task).is_backfill = True
                touched[slot] = None

    def empty_slots(self) -> list[Slot]:
        """Slots of workers that accept work which have no lease, and for which nothing waits."""
        return [slot for slot in self._hungry.empty() if slot.dry_for is None]

    @property
    def has_empty_slots(self) -> bool:
        return self._hungry.has_empty

    def forget(self, slots: Iterable[Slot]) -> None:
        """These slots are gone."""
        for slot in slots:
            self._hungry.remove(slot)
            self._cluster.asking.pop(slot, None)

    # ---------------------------------------------------------------------------------------------------------------

    def _collect(self) -> tuple[list[Slot], list[TaskClass]]:
        """Slots that may have room, those of the least special and then the best workers first; and what is offered."""
        cluster = self._cluster
        wakes = cluster.scheduling.wakes()
        if wakes is NOTHING_WOKEN and not cluster.asking and not cluster.released_locks:
            return [], []
        offered = list(wakes.classes)
        cluster.ask(wakes.slots)
        for worker in wakes.workers:
            cluster.ask(worker.slots)
        cluster.released_locks.update(wakes.locks)
        if cluster.released_locks:
            offered += [
                task_class
                for task_class in cluster.scheduling.waiting_classes()
                if not cluster.released_locks.isdisjoint(task_class.requirements.locks)
                and task_class not in wakes.classes
            ]
            cluster.released_locks.clear()
        asking = [slot for slot in cluster.asking if not slot.worker.state.is_gone]
        cluster.asking.clear()
        if len(asking) > 1 and any(slot.worker is not asking[0].worker for slot in asking):
            workers = dict.fromkeys(slot.worker for slot in asking)
            special, order = cluster.placement.specialness, cluster.balancing.order
            ranks = {worker: (special(worker.capability_kind), order(worker)) for worker in workers}
            asking.sort(key=lambda slot: ranks[slot.worker])
        return asking, offered

    def _room(self, slot: Slot) -> Room:
        worker = slot.worker
        if (
            worker.alone is not None
            or slot.closed_by is not None
            or slot.is_held
            or self._cluster.grants_nothing_because
        ):
            return Room.BLOCKED
        if worker.state is not WorkerState.HEALTHY and (not worker.accepts or worker.lease_count):
            # On probation it gets one task at a time.
            return Room.BLOCKED
        head = slot.head()
        if head is None:
            return Room.EMPTY
        if head.task.task_class.reserves or head.task.is_suspect:
            return Room.BLOCKED
        count = len(slot.leases)
        if count == 1:
            return Room.WANTING
        # Filled up only when half of it is gone: many tasks in one grant instead of one by one.
        prefetch_s, tasks_max = self._depth(worker)
        if count < tasks_max / 2 and slot.queued_s < prefetch_s / 2:
            return Room.WANTING
        return Room.FULL

    def _depth(self, worker: Worker) -> tuple[float, float]:
        """What may wait in one of its slots: seconds and tasks. Who needs more seconds needs more tasks too."""
        limits = self._cluster.limits
        prefetch_s = self._cluster.balancing.prefetch_s(worker)
        if prefetch_s > limits.prefetch_s > 0.0:
            return prefetch_s, limits.prefetch_tasks_max * (prefetch_s / limits.prefetch_s)
        return prefetch_s, float(limits.prefetch_tasks_max)

    def _offer(self, offered: Sequence[TaskClass], room: Room) -> Iterator[Slot]:
        """Let hungry slots that fit take from the offered classes; yields those that took something."""
        placement, scheduling = self._cluster.placement, self._cluster.scheduling
        offered = [task_class for task_class in offered if placement.eligible_slots(task_class)]
        if room is Room.EMPTY:
            yield from self._offer_to_preferred(offered)
        if not offered:
            return
        for kind in sorted(self._hungry.kinds(room), key=placement.specialness):
            fitting = [task_class for task_class in offered if placement.fits(task_class.kind, kind)]
            for slot in self._hungry.best_first(room, kind):
                fitting = [task_class for task_class in fitting if scheduling.waiting(task_class)]
                if not fitting:
                    break
                if self._could_take(slot, room, fitting) and self._fill(slot):
                    yield slot

    def _offer_to_preferred(self, offered: Sequence[TaskClass]) -> Iterator[Slot]:
        """Empty slots first whose workers satisfy most of what the tasks of a class prefer."""
        placement, waiting = self._cluster.placement, self._cluster.scheduling.waiting
        for task_class in offered:
            if not task_class.requirements.prefers:
                continue
            kinds = [kind for kind in self._hungry.kinds(Room.EMPTY) if placement.fits(task_class.kind, kind)]
            kinds.sort(key=placement.specialness)
            kinds.sort(key=partial(placement.preference, task_class.kind), reverse=True)
            for kind in kinds:
                for slot in self._hungry.best_first(Room.EMPTY, kind):
                    if not waiting(task_class):
                        break
                    if self._could_take(slot, Room.EMPTY, [task_class]) and self._fill(slot):
                        yield slot

    def _could_take(self, slot: Slot, room: Room, offered: Iterable[TaskClass]) -> bool:
        """A cheap look before the policy is asked: where much is hungry, most of it is so for a reason."""
        placement, worker = self._cluster.placement, slot.worker
        return self._room(slot) is room and any(
            placement.is_eligible(task_class, worker)
            and (not task_class.reserves or placement.can_reserve(worker, task_class.requirements))
            for task_class in offered
        )

    def _fill(self, slot: Slot) -> bool:
        """Grant the slot what the policy chooses. True if that was anything."""
        cluster, worker = self._cluster, slot.worker
        if worker.holding is slot:
            worker.holding = None
        prefetch_s, tasks_max = self._depth(worker)
        room_s, room_tasks = prefetch_s - slot.queued_s, int(tasks_max)
        if worker.is_on_probation:
            room_s, room_tasks = 0.0, 1
        while True:
            refused = len(self._put_back)
            choice = cluster.scheduling.choose(slot, room_s, room_tasks - len(slot.leases), cluster.now)
            slot.dry_for = choice.hold
            if choice.hold is not None and not choice.hold.requirements.alone:
                worker.holding = slot
            granted = self._grant(slot, choice.tasks)
            # What was refused is out of the queues for now: behind it may be what the slot can have.
            if granted or len(self._put_back) == refused:
                break
        if granted:
            self._refused.discard(slot)
        else:
            self._refused.add(slot)
            if not slot.leases:
                self.left_empty[slot] = None
        if granted and worker.is_on_probation:
            # One lease closes its other slots too.
            for other in worker.slots:
                self._hungry.put(other, self._room(other))
        return granted

    def _grant(self, slot: Slot, tasks: Sequence[Task]) -> bool:
        granted = False
        accepted: TaskClass | None = None
        for position, task in enumerate(tasks, 1):
            if task.state is not TaskState.QUEUED:
                continue
            is_suspect = task.is_suspect
            if task.task_class is not accepted or is_suspect:
                if not self.may_have(slot, task):
                    self._put_back[task] = None
                    continue
                accepted = None if task.task_class.reserves or is_suspect else task.task_class
            self._attempts.grant(slot, task)
            granted = True
            if is_suspect:
                # Nothing may follow it in its slot: others may have the rest at once.
                rest = [other for other in tasks[position:] if other.state is TaskState.QUEUED]
                self._cluster.scheduling.add_tasks(rest, self._cluster.now)
                break
        return granted

    def may_follow(self, slot: Slot) -> bool:
        """True if something may be put behind what the slot has: it is kept for nobody."""
        return slot.dry_for is None and self._room(slot) is not Room.BLOCKED

    def may_have(self, slot: Slot, task: Task) -> bool:
        """The core's own judgement of what a policy proposes."""
        placement, worker = self._cluster.placement, slot.worker
        if not placement.is_eligible(task.task_class, worker) or worker.alone is not None or slot.is_held:
            return False
        if worker.is_on_probation and worker.lease_count:
            return False
        if not self._keeps_suspects_apart(slot, task):
            return False
        if not task.task_class.reserves:
            return True
        is_idle = not worker.lease_count if task.requirements.alone else not slot.leases
        return is_idle and placement.can_reserve(worker, task.requirements)

    def _keeps_suspects_apart(self, slot: Slot, task: Task) -> bool:
        """One suspect at a time on a worker, and nothing else in its slot."""
        head = slot.head()
        if not task.is_suspect:
            return head is None or not head.task.is_suspect
        return head is None and not slot.worker.has_suspect

    def _tell_if_idle(self, slot: Slot) -> None:
        if slot.is_told_idle or not slot.worker.is_linked:
            return
        if (
            slot in self._refused
            or self._room(slot) is Room.BLOCKED
            or not self._cluster.scheduling.has_work(slot.worker)
        ):
            slot.is_told_idle = True
            self._cluster.outbox.idle(slot)
