"""Where a group is divided when another slot helps with it: half of its work, not through a test class."""

from __future__ import annotations

from collections.abc import Callable

from fleetest.core.classes import WORTH_DIVIDING_S, is_same_class
from fleetest.core.entities import Task
from fleetest.core.group_queue import GroupQueue


def is_worth_dividing(queue: GroupQueue) -> bool:
    """False for the rest of a class with little work: whoever is in it finishes it."""
    first, last = queue.first(), queue.last()
    if last is None:
        return True
    is_begun = queue.before is not None and is_same_class(queue.before, last)
    if not is_begun and (first is None or first is last or not is_same_class(first, last)):
        return True
    return queue.expected_s >= 2 * WORTH_DIVIDING_S


def split(queue: GroupQueue, order: int, predict_s: Callable[[Task], float]) -> GroupQueue:
    """Take the far half of the queue's work, at least one task; ``order`` is that of the new queue."""
    far = GroupQueue(queue.level, queue.task_class, queue.group, queue.durations, order)
    half_s = queue.expected_s / 2
    moved_s = 0.0
    while queue.count > 1 and (not far.count or moved_s < half_s):
        task = queue.tasks.pop()
        if task.place is not queue:
            continue
        task_s = predict_s(task)
        if far.count and moved_s + task_s > half_s + task_s / 2:
            queue.tasks.append(task)
            break
        moved_s += task_s
        _move(task, queue, far)
        far.tasks.appendleft(task)
    _heal_class(queue, far)
    if queue.count:
        queue.push()
    return far


def _heal_class(queue: GroupQueue, far: GroupQueue) -> None:
    """If the cut goes through a class, move it to the nearer end of that class that leaves both sides something."""
    last, first = queue.last(), far.first()
    if last is None or first is None or not is_same_class(last, first):
        return
    in_far = sum(is_same_class(last, task) for task in far.tasks)
    in_queue = sum(is_same_class(first, task) for task in queue.tasks if task.place is queue)
    if in_far < far.count and (in_far <= in_queue or in_queue == queue.count):
        for _ in range(in_far):
            first = far.tasks.popleft()
            _move(first, far, queue)
            queue.tasks.append(first)
    elif in_queue < queue.count:
        for _ in range(in_queue):
            last = queue.last()
            assert last is not None
            queue.tasks.pop()
            _move(last, queue, far)
            far.tasks.appendleft(last)


def _move(task: Task, source: GroupQueue, target: GroupQueue) -> None:
    source.adjust(task.spec.expected_s, -1)
    task.place = target
    target.adjust(task.spec.expected_s, 1)
