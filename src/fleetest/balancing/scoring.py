"""Parts of the score of a worker for a task that do not depend on what was measured."""

from __future__ import annotations

from fleetest.core.entities import Task, Worker
from fleetest.core.placement import Placement


def fit_of(placement: Placement, worker: Worker, task: Task) -> float:
    """1 if the worker can serve no special requirement that this task lacks; less, the more of them there are."""
    idle = placement.specialness(worker.capability_kind) - (not task.requirements.is_plain)
    return 1.0 / (1.0 + max(0, idle))


def free_of(placement: Placement, worker: Worker, task: Task, expected_s: float) -> float:
    """The mean of how soon it would start, against how long it takes, and of the share of slots without work."""
    empty = sum(not slot.leases for slot in worker.slots)
    is_free = empty and placement.can_reserve(worker, task.requirements)
    # Nothing runs there and yet it cannot start: what it waits for is held elsewhere.
    wait_s = 0.0 if is_free else min((slot.queued_s for slot in worker.slots if slot.leases), default=0.0)
    soon = expected_s / (expected_s + wait_s) if wait_s else 1.0
    return (soon + (empty + 1) / (len(worker.slots) + 1)) / 2


def locality_of(worker: Worker, task: Task, expected_s: float) -> float:
    """1 where the task's group is, or if it is nowhere; else less, the more its shared fixtures cost."""
    group = task.group
    if not group.set_up_s or any(live.task.group is group for slot in worker.slots for live in slot.leases.values()):
        return 1.0
    return expected_s / (expected_s + group.set_up_s) if expected_s else 0.5


def preference_of(placement: Placement, worker: Worker, task: Task) -> float:
    """1 where everything holds that the task prefers, 0.5 where nothing of it does."""
    return (1.0 + placement.preference(task.task_class.kind, worker.capability_kind)) / 2
