"""Fills slots with leases after every event, and tells a slot when nothing follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice

from fleetest.core.attempt_handling import AttemptHandling
from fleetest.core.cluster import Cluster
from fleetest.core.entities import Slot, Task, TaskClass, Worker
from fleetest.core.lifecycle import TaskState

_CHUNK = 64


class Room(Enum):
    """What a slot could take."""

    EMPTY = "empty"
    WANTING = "wanting"
    """Little waits behind its first lease."""
    FULL = "full"
    BLOCKED = "blocked"
    """Nothing may follow what it has, however much waits."""


class Dispatch:
    """Empty slots come first, then successors for running tests; plain work goes to the least special workers first."""

    def __init__(self, cluster: Cluster, attempts: AttemptHandling) -> None:
        self._cluster, self._attempts = cluster, attempts
        self._hungry: dict[tuple[int, Room], dict[Slot, None]] = {}
        """Slots that have room and found nothing, by capability kind."""
        self._listed: dict[Slot, tuple[int, Room]] = {}
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
        cluster.gangs.advance(self._attempts.grant_gang)
        self._fill_all(touched)
        if cluster.gangs.reconsider(self._attempts.grant_gang, has_idle=bool(self.left_empty)):
            self._fill_all(touched)
        if self._put_back:
            # Only now: a policy that insists would be asked for ever.
            cluster.scheduling.add_tasks(
                [task for task in self._put_back if task.state is TaskState.QUEUED], cluster.now
            )
            self._put_back = {}
        for slot in touched:
            if slot.worker.worker_id in cluster.workers:
                self._tell_if_idle(slot)

    def _fill_all(self, touched: dict[Slot, None]) -> None:
        """Until nobody asks any more; ``touched`` gets who did."""
        while True:
            asking, offered = self._collect()
            if not asking and not offered:
                break
            for slot in asking:
                self._list(slot)
            for room in (Room.EMPTY, Room.WANTING):
                for slot in asking:
                    if self._room(slot) is room:
                        self._fill(slot)
                # Who has just got its first lease is asked again in the second round, for a successor.
                asking += self._offer(offered, room)
            touched.update(dict.fromkeys(asking))

    def empty_slots(self) -> list[Slot]:
        """Slots of workers that accept work which have no lease."""
        return [slot for (_, room), slots in self._hungry.items() if room is Room.EMPTY for slot in slots]

    @property
    def has_empty_slots(self) -> bool:
        return any(slots for (_, room), slots in self._hungry.items() if room is Room.EMPTY)

    def forget(self, slots: Iterable[Slot]) -> None:
        """These slots are gone."""
        for slot in slots:
            self._unlist(slot)
            self._cluster.asking.pop(slot, None)

    # ---------------------------------------------------------------------------------------------------------------

    def _collect(self) -> tuple[list[Slot], list[TaskClass]]:
        cluster = self._cluster
        wakes = cluster.scheduling.wakes()
        cluster.ask(wakes.slots)
        for worker in wakes.workers:
            cluster.ask(worker.slots)
        if cluster.released_locks:
            for task_class in cluster.scheduling.waiting_classes():
                if not cluster.released_locks.isdisjoint(task_class.requirements.locks):
                    wakes.classes[task_class] = None
            cluster.released_locks.clear()
        asking = [slot for slot in cluster.asking if not slot.worker.state.is_gone]
        cluster.asking.clear()
        if len(asking) > 1:
            special = cluster.placement.specialness
            order = cluster.balancing.order
            ranks = {worker: (special(worker.capability_kind), order(worker)) for worker in {s.worker for s in asking}}
            asking.sort(key=lambda slot: ranks[slot.worker])
        return asking, list(wakes.classes)

    def _room(self, slot: Slot) -> Room:
        worker = slot.worker
        if not worker.accepts or worker.alone is not None or slot.is_shunned or slot.is_held:
            return Room.BLOCKED
        if worker.is_on_probation and worker.lease_count:
            return Room.BLOCKED
        count = len(slot.leases)
        if count == 0:
            return Room.EMPTY
        if count == 1:
            head = slot.head()
            assert head is not None
            return Room.BLOCKED if head.task.requirements.reserves or head.task.is_suspect else Room.WANTING
        # Filled up only when half of it is gone: many tasks in one grant instead of one by one.
        prefetch_s, tasks_max = self._depth(worker)
        if count < tasks_max / 2 and slot.queued_s < prefetch_s / 2:
            return Room.WANTING
        return Room.FULL

    def _depth(self, worker: Worker) -> tuple[float, float]:
        """What may wait in one of its slots: seconds and tasks. Who needs more seconds needs more tasks too."""
        limits = self._cluster.limits
        prefetch_s = self._cluster.balancing.prefetch_s(worker)
        deeper = prefetch_s / limits.prefetch_s if prefetch_s > limits.prefetch_s > 0.0 else 1.0
        return prefetch_s, limits.prefetch_tasks_max * deeper

    def _list(self, slot: Slot) -> None:
        room = self._room(slot)
        if room not in (Room.EMPTY, Room.WANTING):
            self._unlist(slot)
            return
        key = (slot.worker.capability_kind, room)
        if self._listed.get(slot) != key:
            self._unlist(slot)
            self._listed[slot] = key
            self._hungry.setdefault(key, {})[slot] = None

    def _unlist(self, slot: Slot) -> None:
        key = self._listed.pop(slot, None)
        if key is not None:
            del self._hungry[key][slot]

    def _offer(self, offered: Sequence[TaskClass], room: Room) -> Iterator[Slot]:
        """Let hungry slots that fit take from the offered classes; yields those that took something."""
        placement, waiting = self._cluster.placement, self._cluster.scheduling.waiting
        order = self._cluster.balancing.order
        kinds = sorted({kind for kind, listed in self._hungry if listed is room}, key=placement.specialness)
        for kind in kinds:
            fitting = [task_class for task_class in offered if placement.fits(task_class.kind, kind)]
            slots = self._hungry[kind, room]
            tried = 0
            while any(waiting(task_class) for task_class in fitting):
                chunk = sorted(islice(slots, tried, tried + _CHUNK), key=lambda slot: order(slot.worker))
                if not chunk:
                    break
                for slot in chunk:
                    if self._fill(slot):
                        yield slot
                        if not any(waiting(task_class) for task_class in fitting):
                            break
                    if slot in slots:
                        tried += 1

    def _fill(self, slot: Slot) -> bool:
        """Grant the slot what the policy chooses. True if that was anything."""
        cluster, worker = self._cluster, slot.worker
        if worker.holding is slot:
            worker.holding = None
        prefetch_s, tasks_max = self._depth(worker)
        room_s, room_tasks = prefetch_s - slot.queued_s, int(tasks_max)
        if worker.is_on_probation:
            room_s, room_tasks = 0.0, 1
        choice = cluster.scheduling.choose(slot, room_s, room_tasks - len(slot.leases), cluster.now)
        if choice.hold is not None and not choice.hold.requirements.alone:
            worker.holding = slot
        granted = self._grant(slot, choice.tasks)
        if granted:
            self._refused.discard(slot)
        else:
            self._refused.add(slot)
            if not slot.leases:
                self.left_empty[slot] = None
        # On probation one lease closes the other slots too.
        for changed in worker.slots if granted and worker.is_on_probation else (slot,):
            self._list(changed)
        return granted

    def _grant(self, slot: Slot, tasks: Sequence[Task]) -> bool:
        granted = False
        accepted: TaskClass | None = None
        for task in tasks:
            if task.state is not TaskState.QUEUED:
                continue
            if task.task_class is not accepted or task.is_suspect:
                if not self.may_have(slot, task):
                    self._put_back[task] = None
                    continue
                accepted = None if task.requirements.reserves or task.is_suspect else task.task_class
            self._attempts.grant(slot, task)
            granted = True
        return granted

    def may_have(self, slot: Slot, task: Task) -> bool:
        """The core's own judgement of what a policy proposes."""
        placement, worker = self._cluster.placement, slot.worker
        if not placement.is_eligible(task.task_class, worker) or worker.alone is not None or slot.is_held:
            return False
        if worker.is_on_probation and worker.lease_count:
            return False
        if not self._keeps_suspects_apart(slot, task):
            return False
        if not task.requirements.reserves:
            return True
        is_idle = not worker.lease_count if task.requirements.alone else not slot.leases
        return is_idle and placement.can_reserve(worker, task.requirements)

    def _keeps_suspects_apart(self, slot: Slot, task: Task) -> bool:
        """One suspect at a time on a worker, and nothing else in its slot."""
        head = slot.head()
        if not task.is_suspect:
            return head is None or not head.task.is_suspect
        heads = [other.head() for other in slot.worker.slots]
        return head is None and not any(other is not None and other.task.is_suspect for other in heads)

    def _tell_if_idle(self, slot: Slot) -> None:
        if slot.is_told_idle or not slot.worker.is_linked:
            return
        if (
            slot in self._refused
            or self._room(slot) is Room.BLOCKED
            or not any(
                self._cluster.placement.is_eligible(task_class, slot.worker)
                for task_class in self._cluster.scheduling.waiting_classes()
            )
        ):
            slot.is_told_idle = True
            self._cluster.outbox.idle(slot)
