"""Which slot is in which groups: the one that it took from last, those it has begun, those that are kept on it."""

from __future__ import annotations

from collections.abc import Iterable

from fleetest.core.entities import Run, Slot, Task, TaskGroup
from fleetest.core.group_queue import GroupQueue


class GroupOwners:
    """A group is left by nobody but its slot, however long it is empty, if it is to be kept together."""

    def __init__(self) -> None:
        self._pins: dict[TaskGroup, Slot] = {}
        self._pinned: dict[Slot, dict[TaskGroup, None]] = {}
        self._owned: dict[Slot, dict[GroupQueue, None]] = {}
        self._current: dict[Slot, GroupQueue] = {}

    def current(self, slot: Slot) -> GroupQueue | None:
        """The group that the slot took from last."""
        return self._current.get(slot)

    def of(self, slot: Slot) -> Iterable[GroupQueue]:
        """The groups that the slot is in."""
        return self._owned.get(slot, ())

    def enter(self, queue: GroupQueue, slot: Slot) -> None:
        """The slot takes from this group now, whoever was in it."""
        self._current[slot] = queue
        if queue.owner is slot:
            return
        if queue.owner is not None:
            self._owned[queue.owner].pop(queue, None)
        queue.owner = slot
        self._owned.setdefault(slot, {})[queue] = None
        if queue.group.keep_together:
            self._pins[queue.group] = slot
            self._pinned.setdefault(slot, {})[queue.group] = None
        else:
            queue.push()

    def take_up(self, queue: GroupQueue, task: Task) -> None:
        """An empty group is filled again: it belongs to nobody, or to the slot that it is kept on."""
        self.unlist(queue)
        queue.owner = None
        queue.tasks.clear()
        pin = self._pins.get(queue.group)
        if pin is not None and pin.worker.worker_id not in task.lacking:
            queue.owner = pin
            self._owned.setdefault(pin, {})[queue] = None

    def emptied(self, queue: GroupQueue) -> None:
        """Something has left the group, maybe the last of it."""
        if not queue.count and not queue.group.keep_together:
            self.unlist(queue)

    def close(self, queue: GroupQueue) -> None:
        """Everything in the group is forgotten."""
        queue.close()
        self.unlist(queue)

    def unlist(self, queue: GroupQueue) -> None:
        if queue.owner is not None:
            self._owned.get(queue.owner, {}).pop(queue, None)

    def forget(self, slot: Slot) -> list[GroupQueue]:
        """The slot gets nothing more. Returns those of its groups with queued work: they are anybody's."""
        self._current.pop(slot, None)
        for group in self._pinned.pop(slot, {}):
            self._pins.pop(group, None)
        queues = self._owned.pop(slot, {})
        for queue in queues:
            queue.owner = None
        return [queue for queue in queues if queue.count]

    def forget_run(self, run: Run) -> None:
        """Close its groups."""
        for queues in list(self._owned.values()):
            for queue in [queue for queue in queues if queue.line.task_class.run is run]:
                self.close(queue)
        for slot in [slot for slot, queue in self._current.items() if queue.line.task_class.run is run]:
            del self._current[slot]
        groups = {task.group for task in run.tasks.values() if task.group.keep_together}
        for group in groups:
            slot_of = self._pins.pop(group, None)
            if slot_of is not None:
                self._pinned[slot_of].pop(group, None)
