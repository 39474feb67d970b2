"""Where a group is divided when another slot helps with it: half of its work, not through a test class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fleetest.core.classes import WORTH_DIVIDING_S, is_in_class, is_same_class
from fleetest.core.entities import Task, TaskGroup
from fleetest.core.group_queue import GroupQueue
from fleetest.core.model import Instant

WORTH_SETTING_UP_SHARE = 0.1
"""Shared fixtures are set up again for a single test if that costs no more than this part of it."""


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
    left = queue.count
    moved: list[Task] = []
    while left > 1 and (not moved or moved_s < half_s):
        task = queue.tasks.pop()
        if task.place is not queue:
            continue
        task_s = predict_s(task)
        if moved and moved_s + task_s > half_s + task_s / 2:
            queue.tasks.append(task)
            break
        moved_s += task_s
        # At once: a task that left and came back stands in the queue twice.
        task.place = far
        moved.append(task)
        left -= 1
    moved.reverse()
    far.tasks.extend(moved)
    _count_over(moved, queue, far)
    _heal_class(queue, far)
    far.list_longest(queue.longest_s)
    if queue.count:
        queue.push()
    return far


def take_out(queue: GroupQueue, order: int, now: Instant) -> None:
    """The group's longest test leaves it, with the rest of its class; it stays if that would not pay."""
    task = queue.longest()
    if task is None or not _may_leave(queue, task):
        # What is shorter pays even less.
        queue.longest_s = 0.0
        return
    leaving = [task]
    if is_in_class(task):
        if queue.before is not None and is_same_class(queue.before, task):
            leaving = []
        else:
            leaving = [each for each in queue.tasks if each.place is queue and is_same_class(each, task)]
    if leaving:
        group = TaskGroup(queue.group.name)
        piece = GroupQueue(queue.level, queue.task_class, group, queue.durations, order)
        piece.is_apart, piece.apart_since = True, now
        for each in leaving:
            each.place = piece
        piece.tasks.extend(leaving)
        _count_over(leaving, queue, piece)
        piece.push()
        if queue.count:
            queue.push()
    else:
        queue.keep_longest()
    task = queue.longest()
    queue.list_longest(0.0 if task is None else task.known_s)


def _may_leave(queue: GroupQueue, task: Task) -> bool:
    """True if it is worth setting up once more for this test what those of its group share, as far as it has shown."""
    group = queue.group
    if group.name and not group.set_ups.count:
        return task.known_s >= WORTH_DIVIDING_S
    return group.set_up_s <= WORTH_SETTING_UP_SHARE * task.known_s


def may_fall_apart(queue: GroupQueue) -> bool:
    """True if it has tests of known duration that can run anywhere, as far as it has shown."""
    group = queue.group
    if queue.count < 2 or queue.unknown or group.keep_together or not group.set_ups.count:
        return False
    if group.set_up_s * queue.count > WORTH_SETTING_UP_SHARE * queue.expected_s:
        return False
    first, last = queue.first(), queue.last()
    return first is not None and last is not None and not is_same_class(first, last)


def take_apart(queue: GroupQueue, next_order: Callable[[], int]) -> None:
    """Each test into a queue of its own, each class into one; the rest of a class that was begun stays."""
    pieces: list[GroupQueue] = []
    before = queue.before
    for task in list(queue.tasks):
        if task.place is not queue:
            continue
        if before is None or not is_same_class(before, task):
            group = TaskGroup(queue.group.name)
            pieces.append(GroupQueue(queue.level, queue.task_class, group, queue.durations, next_order()))
        before = task
        if pieces:
            task.place = pieces[-1]
            pieces[-1].tasks.append(task)
            queue.pass_on(pieces[-1], 1, task.spec.expected_s or 0.0, 0)
    for piece in pieces:
        piece.push()


def _heal_class(queue: GroupQueue, far: GroupQueue) -> None:
    """If the cut goes through a class, move it to the nearer end of that class that leaves both sides something."""
    last, first = queue.last(), far.first()
    if last is None or first is None or not is_same_class(last, first):
        return
    in_far = sum(is_same_class(last, task) for task in far.tasks)
    in_queue = sum(is_same_class(first, task) for task in queue.tasks if task.place is queue)
    if in_far < far.count and (in_far <= in_queue or in_queue == queue.count):
        back = [far.tasks.popleft() for _ in range(in_far)]
        for task in back:
            task.place = queue
        queue.tasks.extend(back)
        _count_over(back, far, queue)
    elif in_queue < queue.count:
        on: list[Task] = []
        while len(on) < in_queue:
            last = queue.tasks.pop()
            if last.place is queue:
                last.place = far
                on.append(last)
        far.tasks.extendleft(on)
        on.reverse()
        _count_over(on, queue, far)


def _count_over(tasks: Sequence[Task], source: GroupQueue, target: GroupQueue) -> None:
    """These have gone from one queue to the other of the same line."""
    known_s, unknown = 0.0, 0
    for task in tasks:
        if task.known_s < 0.0:
            unknown += 1
        else:
            known_s += task.known_s
    source.pass_on(target, len(tasks), known_s, unknown)
