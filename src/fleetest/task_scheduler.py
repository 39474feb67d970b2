"""Which task a slot gets next.

Order: what was passed over for too long; priority; then, on a worker that can do what others cannot, the work that
only it can do; then fair share between owners and their runs; then the slot's own group; then what prefers such a
worker; then the group with most expected work; then submission.
See docs/design/scheduling.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fleetest.core.ageing import Ageing
from fleetest.core.class_lines import ClassLines
from fleetest.core.compilation import mypyc_attr
from fleetest.core.dividing import is_worth_dividing, may_fall_apart, split, take_apart
from fleetest.core.entities import Run, Slot, Task, TaskClass, Worker
from fleetest.core.fair_share import BONUS_S, FairShare
from fleetest.core.group_owners import GroupOwners
from fleetest.core.group_queue import ClassLine, GroupQueue, Wanted
from fleetest.core.long_tests import LongTests
from fleetest.core.model import Instant, Limits
from fleetest.core.placement import Placement
from fleetest.core.policies import NOTHING_CHOSEN, NOTHING_WOKEN, Choice, Wakes

LAST_TASKS_PER_SLOT = 10
LAST_TASKS_SHARE = 0.2
"""When no more tasks than this per slot, and no more than this part of the run, are left, the longest goes first,
whatever its group: with short ones last all slots end together."""


@mypyc_attr(allow_interpreted_subclasses=True)
class TaskScheduler:
    """The scheduling policy.

    Costs of one choice: little while the slot may stay in its group; else the number of task classes with queued work
    that fit its worker, those counted as one that differ only by what they avoid, and logarithms.
    """

    def __init__(self) -> None:
        self._owners = GroupOwners()
        self._share = FairShare()
        self._wakes = Wakes()
        self._count = 0

    def bind(self, placement: Placement, predict_s: Callable[[Task], float], limits: Limits) -> None:
        self._placement = placement
        self._predict_s = predict_s
        self._limits = limits
        self._lines = ClassLines(placement)
        self._ageing = Ageing(placement, limits.ageing_s, self._wakes)
        self._long = LongTests(placement, self._next)

    # What is queued --------------------------------------------------------------------------------------------

    def add_run(self, run: Run) -> None:
        self._share.add(run)

    def drop_run(self, run: Run) -> None:
        for task_class in run.classes.values():
            line = self._lines.take(task_class)
            if line is not None:
                self._ageing.drop(line)
                for worker in line.holders:
                    self._wakes.workers[worker] = None
                for queue in line.groups.values():
                    self._owners.close(queue)
                line.dissolve()
        self._owners.forget_run(run)
        self._lines.forget_run(run)
        self._share.drop(run)

    def add_tasks(self, tasks: Sequence[Task], now: Instant) -> None:
        changed: dict[GroupQueue, list[Task]] = {}
        for task in tasks:
            queue = self._queue_for(task)
            changed.setdefault(queue, []).append(task)
        for queue, added in changed.items():
            if not queue.line.count:
                self._lines.list_again(queue.line)
            if not queue.level.count:
                self._ageing.begin(queue.level, now)
            queue.put(added)
            queue.push()
            if queue.owner is not None:
                self._wakes.slots[queue.owner] = None
            if not queue.group.keep_together or queue.owner is None:
                self._wakes.classes[queue.task_class] = None

    def discard_tasks(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            queue = task.place
            if isinstance(queue, GroupQueue):
                self._left(queue, task)
                self._release_holders(queue.line)
                if queue.level.claim is not None and not queue.level.count:
                    self._ageing.unclaim(queue.level)

    def forget_slots(self, slots: Iterable[Slot]) -> None:
        slots = list(slots)
        for slot in slots:
            for queue in self._owners.forget(slot):
                queue.push()
                self._wakes.classes[queue.task_class] = None
        for worker in {slot.worker: None for slot in slots}:
            for line in self._lines.all():
                line.holders.pop(worker, None)
            self._ageing.forget(worker)

    def charge(self, run: Run, seconds: float) -> None:
        self._share.charge(run, seconds)

    def wakes(self) -> Wakes:
        wakes = self._wakes
        if not (wakes.classes or wakes.slots or wakes.workers):
            return NOTHING_WOKEN
        self._wakes = self._ageing.wakes = Wakes()
        return wakes

    def waiting(self, task_class: TaskClass) -> int:
        line = self._lines.get(task_class)
        return line.waiting(task_class) if line is not None else 0

    def waiting_classes(self) -> Iterable[TaskClass]:
        lines = self._lines.waiting()
        own = [line.task_class for line in lines if line.waiting(line.task_class)]
        return own + [task_class for line in lines for task_class in line.avoiding]

    def top_priority(self, task_class: TaskClass) -> int:
        line = self._lines.get(task_class)
        levels = line.levels if line is not None else ()
        return next((level.priority for level in levels if level.count), task_class.run.priority)

    def waiting_at(self, task_class: TaskClass, priority: int) -> int:
        line = self._lines.get(task_class)
        levels = line.levels if line is not None else ()
        # A level also has the tasks of the line that avoid some workers.
        return min(self.waiting(task_class), sum(level.count for level in levels if level.priority == priority))

    def has_work(self, worker: Worker) -> bool:
        is_eligible = self._placement.is_eligible
        return any(
            line.count
            and is_eligible(line.task_class, worker)
            and (
                not line.avoiding
                or line.waiting(line.task_class)
                or any(is_eligible(task_class, worker) for task_class in line.avoiding)
            )
            for line in self._lines.fitting(worker)
        )

    def why(self, task: Task) -> str:
        queue = task.place
        if isinstance(queue, GroupQueue) and queue.owner is not None and queue.group.keep_together:
            return f"waiting for slot {queue.owner}, to which its group {queue.group.name!r} is kept"
        return ""

    # Choosing --------------------------------------------------------------------------------------------------

    def choose(self, slot: Slot, room_s: float, room_tasks: int, now: Instant) -> Choice:
        tasks: list[Task] = []
        is_empty = not slot.leases
        taken_s = 0.0
        self._ageing.look(self._lines.all(), now)
        self._long.look(slot, now, has_priorities=self._lines.has_priorities)
        while room_tasks > len(tasks):
            queue = self._stays_in(slot, is_empty=is_empty and not tasks)
            if queue is None:
                queue, hold = self._best(slot, is_empty=is_empty and not tasks)
                if hold is not None:
                    if tasks:
                        break
                    return Choice(hold=hold)
                if queue is None:
                    break
            line = queue.line
            if self._are_last(line) and may_fall_apart(queue):
                take_apart(queue, self._next)
                self._owners.emptied(queue)
                continue
            limit_s = min(room_s, taken_s + self._fair_part_s(line))
            if tasks and taken_s >= limit_s:
                break
            queue = self._enter(queue, slot)
            if line.task_class.reserves:
                self._take(queue, tasks, 1, 0.0, 0.0)
                line.holders.pop(slot.worker, None)
                self._release_holders(line)
                self._ageing.served(queue.level, now)
                break
            taken_s = self._take(queue, tasks, room_tasks, limit_s, taken_s)
            self._ageing.served(queue.level, now)
            if taken_s >= limit_s:
                break
        return Choice(tasks) if tasks else NOTHING_CHOSEN

    def _fair_part_s(self, line: ClassLine) -> float:
        """Guided self-scheduling: large portions first, single tasks at the end, so that all slots end together."""
        slots = self._placement.eligible_slots(line.task_class)
        return line.expected_s / (2 * max(1, slots))

    def _are_last(self, line: ClassLine) -> bool:
        """True if where the tasks of this line run next decides when the last slot ends."""
        # Of many lines each is a small part of the run from its beginning.
        if line.run_total.count > LAST_TASKS_SHARE * len(line.task_class.run.tasks):
            return False
        slots = self._placement.eligible_slots(line.task_class)
        return slots >= 2 and line.count <= LAST_TASKS_PER_SLOT * slots

    def _take(self, queue: GroupQueue, tasks: list[Task], room_tasks: int, limit_s: float, taken_s: float) -> float:
        """Move tasks from the queue's front to ``tasks``: at least one, then while below the limits."""
        waiting = queue.tasks
        before, known_s, unknown = len(tasks), 0.0, 0
        while waiting and len(tasks) < room_tasks and (len(tasks) == before or taken_s < limit_s):
            task = waiting.popleft()
            if task.place is not queue:
                continue
            task.place = None
            tasks.append(task)
            if task.known_s < 0.0:
                unknown += 1
                taken_s += self._predict_s(task)
            else:
                known_s += task.known_s
                taken_s += task.known_s
        if len(tasks) > before:
            queue.before = tasks[-1]
            queue.adjust_all(before - len(tasks), -known_s, -unknown)
            self._owners.emptied(queue)
        return taken_s

    def _stays_in(self, slot: Slot, *, is_empty: bool) -> GroupQueue | None:
        """The slot's own group, or a long test of its line, if it is clear that nothing else goes before it."""
        queue = self._owners.current(slot)
        if queue is None or not queue.count or queue.owner is not slot or self._ageing.has_any:
            return None
        level = queue.level
        line = level.line
        task_class, placement, worker = line.task_class, self._placement, slot.worker
        if level.priority != self._lines.top_priority or level is not line.levels[0]:
            return None
        if task_class.reserves and not (
            is_empty and not task_class.kind.alone and placement.can_reserve(worker, task_class.requirements)
        ):
            return None
        if not placement.is_eligible(queue.task_class, worker) or not self._share.may_stay(
            task_class.run, _bonus_s(queue)
        ):
            return None
        if not placement.is_scarce(task_class) and any(
            line.count and placement.is_scarce(line.task_class) for line in self._lines.fitting(worker)
        ):
            return None
        due = self._long.due(line, slot, self._may(line, worker), are_last=self._are_last(line))
        return queue if due is None else due

    def _best(self, slot: Slot, *, is_empty: bool) -> tuple[GroupQueue | None, TaskClass | None]:
        """The group to take from next, or the class for which the slot (or its whole worker) should run dry."""
        if self._ageing.has_any:
            queue, hold = self._aged(slot, is_empty=is_empty)
            if queue is not None or hold is not None:
                return queue, hold
        worker = slot.worker
        found: list[tuple[GroupQueue, bool]] = []
        has_empty = False
        for line in self._lines.fitting(worker):
            if not line.count:
                has_empty = True
                continue
            if not self._placement.is_eligible(line.task_class, worker):
                continue
            holds = False
            if line.task_class.reserves:
                if not self._placement.can_reserve(worker, line.task_class.requirements) or (
                    self._ageing.has_claims and self._ageing.is_kept_from(line, worker)
                ):
                    continue
                holds = self._needs_dry(line, slot, is_empty=is_empty)
                if holds and not self._may_hold(line, slot):
                    continue
            queue = self._best_group(line, slot)
            if queue is not None:
                found.append((queue, holds))
        if has_empty:
            self._lines.delist_empty(worker)
        if not found:
            return None, None
        best, holds = found[0] if len(found) == 1 else self._first(found, slot)
        return (None, self._hold(best.line, slot)) if holds else (best, None)

    def _aged(self, slot: Slot, *, is_empty: bool) -> tuple[GroupQueue | None, TaskClass | None]:
        """The same for work that was passed over too long, whatever its rank."""
        worker = slot.worker
        for level in self._ageing.levels():
            line = level.line
            if not self._placement.is_eligible(line.task_class, worker):
                continue
            may = self._may(line, worker)
            own = (queue for queue in self._owners.of(slot) if queue.level is level and queue.count)
            queue = next((queue for queue in own if may is None or may(queue)), None)
            queue = queue or level.best_fresh(may) or level.best_active(may) or level.best_apart(may)
            if queue is None:
                continue
            if line.task_class.reserves:
                requirements = line.task_class.requirements
                if self._ageing.has_claims and self._ageing.is_kept_from(line, worker):
                    continue
                if not self._placement.can_reserve(worker, requirements):
                    # Smaller ones would take what becomes free, one after the other, for ever.
                    self._ageing.claim(level, worker)
                    continue
                if self._needs_dry(line, slot, is_empty=is_empty):
                    if self._may_hold(line, slot):
                        return None, self._hold(line, slot)
                    continue
            return queue, None
        return None, None

    def _may(self, line: ClassLine, worker: Worker) -> Wanted | None:
        """Which groups of a line that fits the worker it may have; None: all of them."""
        if not line.avoiding:
            return None
        is_eligible = self._placement.is_eligible
        return lambda queue: is_eligible(queue.task_class, worker)

    def _needs_dry(self, line: ClassLine, slot: Slot, *, is_empty: bool) -> bool:
        """True if this reserving line has to wait until the slot, or its whole worker, has nothing else."""
        return not is_empty or (line.task_class.kind.alone and slot.worker.lease_count > 0)

    def _hold(self, line: ClassLine, slot: Slot) -> TaskClass:
        if line.task_class.kind.alone:
            line.holders[slot.worker] = None
        return line.task_class

    def _first(self, found: list[tuple[GroupQueue, bool]], slot: Slot) -> tuple[GroupQueue, bool]:
        """Of the best groups of several classes the one whose turn it is."""
        placement, current = self._placement, self._owners.current(slot)
        level: list[tuple[GroupQueue, bool]] = []
        top, is_top_scarce = 0, False
        for candidate in found:
            queue = candidate[0]
            priority, is_scarce = queue.level.priority, placement.is_scarce(queue.level.line.task_class)
            if not level or priority > top or (priority == top and is_scarce and not is_top_scarce):
                level, top, is_top_scarce = [candidate], priority, is_scarce
            elif priority == top and is_scarce is is_top_scarce:
                level.append(candidate)
        level = self._whose_turn(level, current)
        best = level[0]
        for candidate in level:
            if candidate is not best and self._goes_before(candidate[0], best[0], current, slot):
                best = candidate
        return best

    def _whose_turn(
        self, level: list[tuple[GroupQueue, bool]], current: GroupQueue | None
    ) -> list[tuple[GroupQueue, bool]]:
        """Those of the run that has used up least; those of several runs if they are level."""
        runs: dict[Run, None] = {queue.level.line.task_class.run: None for queue, _ in level}
        if len(runs) == 1:
            return level
        stays = current is not None and _bonus_s(current) and any(queue is current for queue, _ in level)
        turns = self._share.turns(runs, current.line.task_class.run if stays and current is not None else None)
        least = min(turns.values())
        return [candidate for candidate in level if turns[candidate[0].line.task_class.run] == least]

    def _goes_before(self, one: GroupQueue, other: GroupQueue, current: GroupQueue | None, slot: Slot) -> bool:
        """True if of two groups that are level in all else the slot takes from the first one."""
        kind, other_kind = one.level.line.task_class.kind, other.level.line.task_class.kind
        if kind.alone is not other_kind.alone:
            return other_kind.alone
        is_due, is_other_due = self._long.is_due(one, slot), self._long.is_due(other, slot)
        if is_due is not is_other_due:
            return is_due
        if one is current or other is current:
            return one is current
        if kind.has_preferences or other_kind.has_preferences:
            preference, capability_kind = self._placement.preference, slot.worker.capability_kind
            satisfied, others = preference(kind, capability_kind), preference(other_kind, capability_kind)
            if satisfied != others:
                return satisfied > others
            if kind.has_preferences is not other_kind.has_preferences:
                return kind.has_preferences
        work_s, other_s = one.expected_s, other.expected_s
        return work_s > other_s or (work_s == other_s and one.order < other.order)

    def _may_hold(self, line: ClassLine, slot: Slot) -> bool:
        """One slot of a worker runs dry at a time, and no more workers than there are tasks that want one alone."""
        worker = slot.worker
        if line.task_class.kind.alone:
            return worker in line.holders or len(line.holders) < line.count
        return worker.holding in (None, slot)

    def _best_group(self, line: ClassLine, slot: Slot) -> GroupQueue | None:
        own, current, may = None, self._owners.current(slot), self._may(line, slot.worker)
        due = self._long.due(line, slot, may, are_last=self._are_last(line))
        if due is not None:
            return due
        for queue in self._owners.of(slot):
            if queue.line is line and queue.count and (may is None or may(queue)):
                rank = (queue.priority, queue is current)
                if own is None or rank > (own.priority, own is current):
                    own = queue
        fresh = line.best_fresh(may)
        best = own if own is not None and (fresh is None or own.priority >= fresh.priority) else fresh
        if best is own and own is not None and len(line.levels) == 1:
            return own
        # Other slots would be better places for it, but there is nothing else of its priority.
        apart = line.best_apart(may)
        # More urgent work comes first, even if it is in a group that another slot is in.
        active = line.best_active(may)
        if active is not None and (best is None or active.priority > best.priority) and is_worth_dividing(active):
            best = active
        return apart if best is None or (apart is not None and apart.priority > best.priority) else best

    # Queues ----------------------------------------------------------------------------------------------------

    def _enter(self, queue: GroupQueue, slot: Slot) -> GroupQueue:
        """The part of the group that the slot now works on: all of it, or the far half of another slot's group."""
        if queue.owner is not None and queue.owner is not slot and queue.count > 1:
            queue = split(queue, self._next(), self._predict_s)
        # After a single long test the slot goes on where it was.
        if not queue.is_apart or queue.count > 1:
            self._owners.enter(queue, slot)
        return queue

    def _queue_for(self, task: Task) -> GroupQueue:
        task_class, group = task.task_class, task.group
        line = self._lines.line_of(task_class)
        key = (id(group), task.priority, id(task_class))
        queue = line.groups.get(key)
        if queue is None:
            level = self._lines.level(line, task.priority)
            queue = line.groups[key] = GroupQueue(level, task_class, group, group.durations, self._next())
        if not queue.count:
            self._owners.take_up(queue, task)
        return queue

    def _left(self, queue: GroupQueue, task: Task) -> None:
        """The task is no longer queued here."""
        task.place = None
        queue.adjust(task.known_s, -1)
        self._owners.emptied(queue)

    def _release_holders(self, line: ClassLine) -> None:
        while len(line.holders) > line.count:
            self._wakes.workers[line.holders.popitem()[0]] = None

    def _next(self) -> int:
        self._count += 1
        return self._count


def _bonus_s(queue: GroupQueue) -> float:
    """How far ahead the run may be whose group a slot stays in; what is in no group shares nothing to stay for."""
    return BONUS_S if queue.group.name else 0.0
